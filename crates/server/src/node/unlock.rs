//! `unlock`: parts come in, versions become validated, the node goes into service; and `seal`.

use keymoot_api::{
    Problem,
    unlock::{AcceptedPart, PartsAnswer, PartsRequest, RejectedPart, VersionProgress},
};
use keymoot_quorum::{
    PartRefusal,
    adopt::{self, Divergence},
};
use keymoot_types::{KeyVersion, NodeState, manifest::ManifestDocument};

use super::{Core, Node, bad_request, conflict, init, may_be_loaded};

impl Node {
    /// Judges every part alone: a bad one spoils no other.
    pub(crate) async fn unlock_parts(&self, request: PartsRequest, named: bool) -> Result<PartsAnswer, Problem> {
        bounded(&request)?;
        let mut core = self.core.lock().await;
        if core.state() == NodeState::Uninitialised {
            return Err(conflict("there is no keyring yet; `keymoot init` makes one"));
        }
        let now = self.now();
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        let mut any_right = false;
        for (name, text) in &request.parts.0 {
            let Some(manifest) = core.target().map(|document| document.manifest().clone()) else { break };
            let Core { unlock, loaded, .. } = &mut *core;
            match unlock.give(&manifest, |version| loaded.contains_key(&version), name, text, now) {
                Ok(part) => {
                    any_right = true;
                    tracing::info!(version = part.version.get(), holder = %part.holder, "part accepted");
                    core.proofs.note(&manifest, part.version, &part.holder, part.set);
                    accepted.push(AcceptedPart { version: part.version, holder: part.holder });
                    if part.validated {
                        tracing::info!(version = part.version.get(), "root key rebuilt and its key check equal");
                    }
                }
                Err(refusal) => {
                    any_right |= refusal.share_was_right();
                    rejected.push(rejection(refusal, named));
                }
            }
        }
        // A share that is here already may be what was waited for: what is required may have changed.
        if any_right {
            self.enter_service(&mut core).await;
        }
        Ok(self.parts_answer(&core, accepted, rejected, named))
    }

    pub(super) fn parts_answer(
        &self,
        core: &Core,
        accepted: Vec<AcceptedPart>,
        rejected: Vec<RejectedPart>,
        named: bool,
    ) -> PartsAnswer {
        PartsAnswer {
            accepted,
            rejected,
            versions: progress(core, named),
            node: self.name.clone(),
            state: core.state(),
        }
    }

    /// Moves what is validated into service, once it is enough.
    pub(super) async fn enter_service(&self, core: &mut Core) {
        if core.loaded.is_empty() {
            self.unlock_if_complete(core).await;
        } else {
            self.load_more(core).await;
        }
    }

    /// A sealed node: nothing unlocks until every required version is validated.
    async fn unlock_if_complete(&self, core: &mut Core) {
        let Some(target) = core.target().cloned() else { return };
        let lacks: Vec<_> = missing(core, &target);
        if !lacks.is_empty() || core.unlock.validated().next().is_none() {
            return;
        }
        let validated: super::Loaded = core.unlock.validated().map(|key| (key.version(), key.clone())).collect();
        let loaded = |version: KeyVersion| validated.get(&version).map(AsRef::as_ref);
        let verified = match &core.adopted {
            Some(adopted) => adopt::stands(adopted, loaded),
            None => adopt::stands(&target, loaded).and_then(|()| {
                if core.confirmed == Some(adopt::identity(&target)) {
                    Ok(())
                } else {
                    Err(Divergence::Forked { revision: target.manifest().revision })
                }
            }),
        };
        if let Err(divergence) = verified {
            if core.adopted.is_some() {
                tracing::error!(%divergence, "the last good manifest does not stand under the keys that were rebuilt");
                core.diverged = Some(divergence);
            }
            // Without a manifest of its own the node waits for `confirm`; `status` says so.
            return;
        }
        core.loaded = validated;
        let ahead = core.ahead.clone();
        if core.adopted.is_none() {
            core.ahead.clear();
            self.keep(core, target.clone());
        } else {
            self.adopt_ahead(core);
        }
        if let Some(adopted) = core.adopted.clone()
            && !still_required(core, &adopted).is_empty()
        {
            // What was adopted asks for more than what was collected by. `status` says whose key is lacking, and shares
            // go on being judged by what follows.
            core.loaded.clear();
            core.ahead = ahead;
            core.ahead.retain(|next| next.manifest().revision > adopted.manifest().revision);
            return;
        }
        drop(core.unlock.take_validated());
        if core.missing.iter().all(|version| core.loaded.contains_key(version)) {
            core.missing.clear();
        }
        self.remember_unlocked(core).await;
        self.resume_clock(core).await;
        self.load_proofs(core).await;
        self.drop_retired(core);
        self.rebuild(core);
        self.catch_up(core).await;
        self.sample_in_background();
    }

    /// An unlocked node: further versions are loaded while it serves.
    async fn load_more(&self, core: &mut Core) {
        let newly = core.unlock.take_validated();
        if newly.is_empty() {
            return;
        }
        for key in newly {
            core.loaded.insert(key.version(), key);
        }
        let Core { missing, loaded, .. } = core;
        missing.retain(|version| !loaded.contains_key(version));
        self.adopt_ahead(core);
        self.load_proofs(core).await;
        self.drop_retired(core);
        self.rebuild(core);
        self.catch_up(core).await;
        self.sample_in_background();
    }

    /// `unlock/degraded`: an operator names versions as lost, for this boot.
    pub(crate) async fn unlock_degraded(&self, lost: Vec<KeyVersion>) -> Result<(), Problem> {
        let mut core = self.core.lock().await;
        let Some(target) = core.target().cloned() else {
            return Err(conflict("there is no keyring yet; `keymoot init` makes one"));
        };
        if !core.loaded.is_empty() {
            return Err(conflict("the node is unlocked; a degraded start is for a sealed one"));
        }
        if lost.is_empty() {
            return Err(bad_request("name the versions that are lost: {\"missing\": [10]}"));
        }
        for version in &lost {
            let required = target.manifest().version(*version).is_some_and(|record| record.state.required());
            if !required {
                return Err(bad_request(format!("v{version} is not required, so it can't be missed")));
            }
            if core.unlock.validated().any(|key| key.version() == *version) {
                return Err(conflict(format!("v{version} is validated here; it is not lost")));
            }
        }
        if target.manifest().required().all(|record| lost.contains(&record.version)) {
            return Err(bad_request("without any version there is nothing to unlock with"));
        }
        tracing::warn!(?lost, "an operator declared versions lost for this boot");
        core.missing = lost;
        core.missing.sort();
        core.missing.dedup();
        self.enter_service(&mut core).await;
        Ok(())
    }

    /// `DELETE unlock`: wipes what was collected.
    pub(crate) async fn unlock_reset(&self) {
        let mut core = self.core.lock().await;
        core.unlock = Default::default();
        if core.loaded.is_empty() {
            core.missing.clear();
        }
        core.proofs.forget_unwritten();
        self.rebuild(&mut core);
        tracing::info!("what was collected was wiped");
    }

    /// Whether there are keys to work with, or why not.
    pub(crate) async fn unlocked(&self) -> Result<(), Problem> {
        self.core.lock().await.primary().map(drop)
    }

    /// `seal`: wipes every key.
    pub(crate) async fn seal(&self) {
        let mut core = self.core.lock().await;
        // Sealed with the key, and written once the key is gone: wiping waits for no store.
        let clock = self.sealed_clock(&mut core, true);
        core.loaded.clear();
        core.unlock = Default::default();
        core.missing.clear();
        core.packages.clear();
        core.request = None;
        core.clock_resumed = false;
        core.exclusions = None;
        core.window.sealed = true;
        core.canaries_failed.clear();
        self.forget_members();
        self.rebuild(&mut core);
        tracing::info!("sealed: every key was wiped");
        drop(core);
        if let Some(bytes) = clock {
            self.put_clock(&bytes).await;
        }
    }
}

pub(super) fn bounded(request: &PartsRequest) -> Result<(), Problem> {
    if request.parts.0.is_empty() { Err(bad_request("no part was given")) } else { Ok(()) }
}

/// Required by `target` and neither validated nor named as lost.
fn missing(core: &Core, target: &ManifestDocument) -> Vec<KeyVersion> {
    let mut missing = core.unlock.missing(target.manifest());
    missing.retain(|version| !core.missing.contains(version));
    missing
}

fn still_required(core: &Core, adopted: &ManifestDocument) -> Vec<KeyVersion> {
    adopted
        .manifest()
        .required()
        .filter(|record| core.loaded.get(&record.version).is_none_or(|key| key.key_id() != record.key_id))
        .map(|record| record.version)
        .filter(|version| !core.missing.contains(version))
        .collect()
}

/// A holder is named to whoever gave their share; other names need a token.
pub(super) fn rejection(refusal: PartRefusal, named: bool) -> RejectedPart {
    let holder = if named || refusal.share_was_right() { refusal.holder } else { None };
    RejectedPart {
        name: shown_name(&refusal.name),
        code: refusal.code,
        detail: refusal.detail,
        version: refusal.version,
        holder,
    }
}

/// A part's name as it may be repeated: a share may have been given as the name.
fn shown_name(name: &str) -> String {
    if name.to_ascii_lowercase().contains("kmshare1") {
        "(a share)".into()
    } else {
        name.chars().take(80).collect()
    }
}

/// Where every version that can be loaded stands, ascending.
pub(super) fn progress(core: &Core, named: bool) -> Vec<VersionProgress> {
    let Some(target) = core.target() else { return vec![] };
    target
        .manifest()
        .versions
        .iter()
        .map(|record| {
            let loaded = core.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id);
            let progress = core.unlock.progress(record);
            VersionProgress {
                version: record.version,
                state: record.state,
                key_id: record.key_id,
                required: record.state.required(),
                threshold: progress.threshold,
                have: if loaded { progress.threshold } else { progress.have },
                validated: (loaded || progress.validated) && may_be_loaded(record.state),
                holders: named.then_some(progress.holders),
            }
        })
        .collect()
}

/// Writes what the configuration declares and the manifest lacks, when that can be done.
impl Node {
    pub(super) async fn catch_up(&self, core: &mut Core) {
        let config = self.config.load_full();
        let Ok(current) = core.manifest().cloned() else { return };
        let Ok(primary) = core.primary() else { return };
        // What a degraded node publishes would lack the lost version's mac, and no other node could follow it.
        if core.diverged.is_some() || core.store_away.is_some() || !core.missing.is_empty() {
            return;
        }
        let mut manifest = keymoot_quorum::revise::next(&current);
        let mut changed = init::declare(&mut manifest, &config);
        changed |= init::canaries(&mut manifest, core.loaded.values(), &config);
        for record in &mut manifest.versions {
            if core.loaded.contains_key(&record.version) && record.given_up.take().is_some() {
                // A member that is away may still serve without it.
                record.brought_back = true;
                changed = true;
            }
        }
        // A version that was missing at a rollback has no mac yet: the next revision adds it.
        let vouched: Vec<_> = current.manifest().macs.iter().map(|mac| mac.version).collect();
        changed |= manifest
            .required()
            .any(|record| core.loaded.contains_key(&record.version) && !vouched.contains(&record.version));
        if !changed {
            return;
        }
        tracing::debug!(by = primary.version().get(), "the manifest takes up what the configuration declares");
        if let Err(problem) = self.publish(core, manifest, &[]).await {
            tracing::warn!(%problem, "the manifest could not take up what the configuration declares; tried again later");
        }
    }
}
