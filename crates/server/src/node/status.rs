//! How things stand: what needs a person, and the way back that is open now.

use jiff::{SignedDuration, Timestamp};
use keymoot_api::{
    Problem,
    rotate::{VersionDetail, VersionHolder, VersionsAnswer},
    status::{ExposedVersion, LastProof, ManifestOrigin, ReadyAnswer, ReleasedSource, StatusAnswer},
};
use keymoot_quorum::{
    adopt::{self, Divergence},
    judge::enough,
    reshare,
};
use keymoot_types::{KeyVersion, Manifest, NodeState, SourceName, VersionState, manifest::DeclaredSource};

use super::{Core, Node, restored, unlock, wall_clock, window};

/// How often a holder is asked to show that their share is still there.
const DRILL_EVERY: SignedDuration = SignedDuration::from_hours(365 * 24);

impl Node {
    /// `GET status`. Names only for those who showed a token.
    pub(crate) async fn status(&self, named: bool) -> StatusAnswer {
        let core = self.core.lock().await;
        let manifest = core.target().map(|document| document.manifest());
        StatusAnswer {
            node: self.name.clone(),
            state: core.state(),
            keyring: self.config.load().keyring.clone(),
            keyring_id: manifest.map(|manifest| manifest.keyring_id),
            revision: manifest.map_or(0, |manifest| manifest.revision),
            manifest: if core.store_away.is_some() || core.diverged.is_some() {
                ManifestOrigin::LastGood
            } else {
                ManifestOrigin::Store
            },
            versions: unlock::progress(&core, named),
            needs: [
                self.audit.needs(),
                needs(&core),
                manifest.map(|manifest| restored::needs(&core, manifest, named)).unwrap_or_default(),
                self.needs_of_sources(manifest),
                self.needs_of_members(&core, named),
            ]
            .concat(),
            way_back: way_back(&core),
            peers: named.then(|| manifest.map(|manifest| self.peers(manifest)).unwrap_or_default()),
            sources: None,
            window: window::status(&core, named),
            released: named.then(|| manifest.map(released).unwrap_or_default()),
            samples: named.then(|| core.samples.clone()),
            exposed: manifest.map(exposed).unwrap_or_default(),
            last_proofs: named.then(|| manifest.map(|manifest| last_proofs(&core, manifest)).unwrap_or_default()),
        }
    }

    /// A declaration that says otherwise than the holders did.
    fn needs_of_sources(&self, manifest: Option<&Manifest>) -> Vec<String> {
        let config = self.config.load();
        let adopt = |name: &SourceName| config.source_specs().iter().any(|spec| spec.name == *name && spec.adopt);
        let released = manifest.map(released).unwrap_or_default();
        let both = released.into_iter().filter(|released| adopt(&released.source)).count();
        if both == 0 {
            return Vec::new();
        }
        vec![format!(
            "{both} sources were released and their declaration still says `adopt`, which does nothing: remove it, or \
             declare the column under another name to adopt it again"
        )]
    }

    /// `GET /readyz`: from what is in service here, never from a store or a peer, and without the core's lock.
    pub(crate) fn ready(&self) -> ReadyAnswer {
        let serving = self.serving.load();
        let mut why_not = Vec::new();
        match &serving.keyring {
            None => why_not.push(format!("the node is {}", serving.state)),
            Some(keyring) => {
                for version in &serving.lacking {
                    why_not.push(format!("v{version} is required and not loaded here: submit its shares"));
                }
                for (version, _) in keyring.versions().filter(|(version, _)| !serving.proved.contains(version)) {
                    why_not.push(format!("a canary of v{version} does not decrypt"));
                }
            }
        }
        ReadyAnswer { ready: why_not.is_empty(), state: serving.state, why_not }
    }

    /// `GET versions`.
    pub(crate) async fn versions(&self) -> Result<VersionsAnswer, Problem> {
        let mut core = self.core.lock().await;
        let now = core.service_time(self.now());
        let last_uses = self.last_uses(&core, now);
        let Some(target) = core.target() else { return Ok(VersionsAnswer { versions: vec![] }) };
        let detail = |record: &keymoot_types::manifest::VersionRecord| VersionDetail {
            version: record.version,
            key_id: record.key_id,
            state: record.state,
            created: record.created,
            required: record.state.required(),
            validated: core.loaded.contains_key(&record.version),
            threshold: record.share_set.threshold,
            holders: record
                .share_set
                .holders
                .iter()
                .map(|holder| VersionHolder {
                    name: holder.name.clone(),
                    x: holder.x.get(),
                    recipient: holder.recipient.clone(),
                    proved_at: core
                        .proofs
                        .of(record.version, &record.share_set, &holder.name)
                        .map(|proof| proof.at),
                })
                .collect(),
            last_used: last_uses.iter().find(|(version, _)| *version == record.version).and_then(|(_, at)| {
                wall_clock().checked_sub(jiff::SignedDuration::try_from(now.saturating_sub(*at)).ok()?).ok()
            }),
            retired_at: record.retirement.as_ref().map(|retirement| retirement.at),
        };
        Ok(VersionsAnswer { versions: target.manifest().versions.iter().map(detail).collect() })
    }
}

fn list(versions: impl IntoIterator<Item = KeyVersion>) -> String {
    versions.into_iter().map(|version| format!("v{version}")).collect::<Vec<_>>().join(", ")
}

/// What needs a person, the most urgent first.
fn needs(core: &Core) -> Vec<String> {
    let mut needs = Vec::new();
    if let Some(divergence) = &core.diverged {
        needs.push(format!(
            "the metadata store and this node disagree: {divergence}; gates are shut. {}",
            ways_out(core, divergence)
        ));
    }
    if let Some(why) = &core.last_good_damaged {
        needs.push(format!("the last good manifest: {why}"));
    }
    if let Some(why) = &core.store_away {
        needs.push(format!("the metadata store does not answer ({why}); decryption goes on, ceremonies wait"));
    }
    let Some(target) = core.target() else {
        needs.push("there is no keyring yet: `keymoot init` makes one".into());
        return needs;
    };
    if core.adopted.is_none() {
        let (revision, digest) = adopt::identity(target);
        if core.confirmed != Some((revision, digest)) {
            needs.push(format!(
                "this node has no manifest of its own: an operator compares and confirms it with `keymoot manifest confirm {revision} {digest}`"
            ));
        }
    }
    if let Some(doubt) = target.manifest().highest().and_then(|known| core.numbers.doubt(known)) {
        needs.push(format!(
            "{doubt}: the next `rotate stage` must name the highest number that ever was (`--highest`)"
        ));
    }
    needs.extend(needs_of_versions(core, target.manifest()));
    needs
}

/// How a node comes to follow the store again.
fn ways_out(core: &Core, divergence: &Divergence) -> String {
    let (Divergence::KeyGone { version, .. }, Some(target)) = (divergence, core.target()) else {
        return "From an unlocked node `keymoot manifest republish`, or confirm the stored revision with `keymoot \
                manifest confirm`"
            .into();
    };
    let confirm = if core.loaded.is_empty() {
        let (revision, digest) = adopt::identity(target);
        format!(
            "an operator compares the newest revision with an unlocked node's and confirms it here with `keymoot \
             manifest confirm {revision} {digest}`"
        )
    } else {
        "confirm the stored revision with `keymoot manifest confirm`".into()
    };
    let Some(record) = target.manifest().version(*version) else { return format!("The way out: {confirm}") };
    let destroyed = record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_some());
    match record.state {
        state if super::may_be_loaded(state) => format!("Submit the shares of v{version}, or {confirm}"),
        VersionState::Retired if !destroyed => {
            format!("`keymoot rotate restore v{version}` on an unlocked node, then its shares here; or {confirm}")
        }
        state => format!("v{version} is {state} and comes back no more: {confirm}"),
    }
}

fn needs_of_versions(core: &Core, manifest: &Manifest) -> Vec<String> {
    let mut needs = Vec::new();
    for record in manifest.required() {
        if core.loaded.contains_key(&record.version) || core.missing.contains(&record.version) {
            continue;
        }
        let progress = core.unlock.progress(record);
        if !progress.validated {
            let (version, have, threshold) = (record.version, progress.have, progress.threshold);
            needs.push(format!("v{version} is required and not loaded: {have} of {threshold} shares are here"));
        }
    }
    if !core.missing.is_empty() {
        needs.push(format!("this node runs without {}: bring it back, or roll back", list(core.missing.clone())));
    }
    for (version, key) in &core.canaries_failed {
        needs
            .push(format!("the canary of v{version} for {key} does not decrypt: values of it prove nothing here"));
    }
    let proved = core.proved();
    for record in &manifest.versions {
        let version = record.version;
        match record.state {
            VersionState::Staged => {
                let none = Default::default();
                let proved = proved.get(&version).unwrap_or(&none);
                let lack = record.share_set.holders.iter().filter(|holder| !proved.contains(&holder.name)).count();
                needs.push(if lack > 0 {
                    format!("v{version} is staged: {lack} holders have not proved their share")
                } else {
                    format!("v{version} is staged and proved: load it with `unlock`, then activate it")
                });
            }
            VersionState::Activating => {
                needs.push(format!("v{version} is activating: activate it again, or abort it"));
            }
            VersionState::DecryptOnly => {
                needs.push(format!("v{version} still decrypts: rekey its values, then retire it"));
            }
            _ => {}
        }
        if let Some(pending) = &record.share_set.pending {
            let proved = core.proofs.of_set(version, pending).len();
            needs.push(format!(
                "v{version} has new shares: {proved} of {} holders have proved theirs; until then the old shares count",
                enough(pending)
            ));
        }
    }
    needs.extend(needs_of_holders(core, manifest));
    needs
}

/// What the people who hold shares should do, and what was done with their shares.
fn needs_of_holders(core: &Core, manifest: &Manifest) -> Vec<String> {
    let mut needs = Vec::new();
    for exposed in exposed(manifest) {
        let ExposedVersion { version, lost, left, replaced, plain, rotate } = exposed;
        let counts = [
            (lost, "lost"),
            (left, "of people who left"),
            (plain, "handed out unencrypted"),
            (replaced, "replaced and to be destroyed"),
        ];
        let counts: Vec<_> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if counts.is_empty() {
            continue;
        }
        let counts = counts.join(", ");
        needs.push(if !rotate {
            format!("shares of v{version} that new shares do not take back: {counts}")
        } else if version == manifest.primary {
            format!("v{version} may be rebuilt by others ({counts}): rotate, with `keymoot rotate stage`")
        } else {
            format!("v{version} may be rebuilt by others ({counts}): rekey its values and retire it")
        });
    }
    let due = last_proofs(core, manifest).iter().filter(|proof| proof.drill_due).count();
    if due > 0 {
        let shares = if due == 1 { "1 share was" } else { &format!("{due} shares were") };
        needs.push(format!("the yearly drill: {shares} not proved for a year (`keymoot holder prove`)"));
    }
    for record in manifest.required() {
        let known = record.share_set.holders.len();
        if usize::from(record.share_set.threshold) == known {
            let version = record.version;
            needs.push(format!("all {known} known shares of v{version} are needed to unlock it: reshare it"));
        }
    }
    needs
}

fn released(manifest: &Manifest) -> Vec<ReleasedSource> {
    let of = |declared: &DeclaredSource| {
        let at = declared.released.as_ref()?.at;
        Some(ReleasedSource { source: declared.name.clone(), at })
    };
    manifest.declared.sources.iter().filter_map(of).collect()
}

/// What may be in other hands, of every version that decrypts.
fn exposed(manifest: &Manifest) -> Vec<ExposedVersion> {
    manifest
        .required()
        .map(|record| {
            let exposure = reshare::exposure(record);
            ExposedVersion {
                version: exposure.version,
                lost: exposure.lost,
                left: exposure.left,
                replaced: exposure.replaced,
                plain: exposure.plain,
                rotate: exposure.rebuilds.is_some(),
            }
        })
        .collect()
}

/// Every place in the versions that can be loaded, and when it was last proved.
fn last_proofs(core: &Core, manifest: &Manifest) -> Vec<LastProof> {
    let now = wall_clock();
    let year_ago = now.saturating_sub(DRILL_EVERY).unwrap_or(Timestamp::MIN);
    let records = manifest.versions.iter().filter(|record| super::may_be_loaded(record.state));
    records
        .flat_map(|record| record.share_set.holders.iter().map(move |holder| (record, holder)))
        .map(|(record, holder)| {
            let proved_at = core.proofs.of(record.version, &record.share_set, &holder.name).map(|proof| proof.at);
            LastProof {
                version: record.version,
                holder: holder.name.clone(),
                proved_at,
                drill_due: record.state.required() && proved_at.unwrap_or(record.created) < year_ago,
            }
        })
        .collect()
}

/// The way back that is open now, in a sentence.
fn way_back(core: &Core) -> String {
    let Some(target) = core.target() else {
        return "nothing was made yet, so there is nothing to go back from".into();
    };
    let manifest = target.manifest();
    let of_state = |state: VersionState| {
        manifest.versions.iter().filter(move |record| record.state == state).map(|record| record.version)
    };
    if core.state() == NodeState::Degraded {
        let others: Vec<_> =
            of_state(VersionState::DecryptOnly).filter(|version| core.loaded.contains_key(version)).collect();
        if core.missing.contains(&manifest.primary)
            && let Some(back) = others.last()
        {
            return format!(
                "`keymoot rotate rollback v{back}` with an override makes v{back} primary; or submit the missing shares"
            );
        }
        return format!("submit the shares of {}", list(core.missing.clone()));
    }
    if let Some(version) = of_state(VersionState::Activating).next() {
        return format!("`keymoot rotate abort v{version}` makes v{version} staged again");
    }
    if let Some(version) = of_state(VersionState::Staged).next() {
        return format!(
            "`keymoot rotate abort v{version}` gives v{version} up; a restart needs v{} alone",
            manifest.primary
        );
    }
    if let Some(version) = of_state(VersionState::DecryptOnly).next_back() {
        return format!("`keymoot rotate rollback v{version}` makes v{version} primary again");
    }
    let held = manifest
        .versions
        .iter()
        .rev()
        .find(|record| record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_none()));
    match held {
        Some(record) => {
            let version = record.version;
            format!("`keymoot rotate restore v{version}` and its shares bring v{version} back, within its hold")
        }
        None => format!("v{} is the only version: there is no other to go back to", manifest.primary),
    }
}
