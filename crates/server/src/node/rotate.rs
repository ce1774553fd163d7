//! `activate` (and the rollback), `abort`, `restore`: moving versions through their states.

use keymoot_api::{
    Missing, Problem,
    rotate::{ActivateRequest, StepAnswer, StepRequest},
};
use keymoot_quorum::{
    gate::{self, ActivationFacts, MemberFacts},
    revise,
};
use keymoot_types::{
    KeyVersion, Manifest, VersionState,
    manifest::{Canary, VersionRecord},
};

use super::{Core, Node, conflict, moment::Moment, wall_clock};

pub(super) fn missing(missing: Vec<gate::Missing>) -> Vec<Missing> {
    missing
        .into_iter()
        .map(|entry| Missing { code: entry.code.into(), who: entry.who, detail: entry.detail })
        .collect()
}

impl Node {
    /// Makes a version primary, in two swaps; of an older version it is the rollback. Repeating is safe.
    pub(crate) async fn activate(
        &self,
        version: KeyVersion,
        request: ActivateRequest,
    ) -> Result<StepAnswer, Problem> {
        // Sources are read before the lock is taken: a slow database must not hold up a ceremony.
        let samples_failed = self.sample_sources().await;
        let mut core = self.core.lock().await;
        self.look_ahead(&mut core).await;
        let record = core.record(version)?.clone();
        let manifest = core.manifest()?.manifest().clone();
        match record.state {
            VersionState::Primary if !is_degraded(&core) => {
                return Ok(step_answer(&core, version, request.dry_run));
            }
            VersionState::Retired | VersionState::Aborted => {
                return Err(conflict(format!("v{version} is {} and can't become primary", record.state)));
            }
            _ => {}
        }
        let facts = ActivationFacts {
            version,
            members: self.member_facts(&core, &manifest, &record, &request),
            proofs: &core.proved(),
            excused: &request.excuse,
            samples_failed,
        };
        let mut lacks = gate::activation(&manifest, &record, &facts);
        if is_degraded(&core) {
            degraded_rollback(&core, &record, &request, &mut lacks);
        }
        if request.dry_run {
            let effects = effects(&core, &manifest, version);
            return Ok(StepAnswer { missing: missing(lacks), effects, ..step_answer(&core, version, true) });
        }
        if !lacks.is_empty() {
            let detail = format!("v{version} is not activated: evidence is missing");
            return Err(Problem::gate_refused(detail, missing(lacks)));
        }
        if is_degraded(&core) {
            return self.roll_back_degraded(&mut core, version, request.override_reason.unwrap_or_default()).await;
        }
        if record.state == VersionState::Staged {
            self.swap_state(&mut core, version, VersionState::Activating).await?;
        }
        let before = manifest.primary;
        self.forget_moment(Moment::Stopped, version).await?;
        self.swap_state(&mut core, version, VersionState::Primary).await?;
        self.note_moment(&mut core, Moment::Stopped, before).await;
        self.catch_up(&mut core).await;
        tracing::info!(
            version = version.get(),
            before = before.get(),
            "new values are encrypted with this version"
        );
        Ok(step_answer(&core, version, false))
    }

    async fn swap_state(&self, core: &mut Core, version: KeyVersion, to: VersionState) -> Result<(), Problem> {
        let mut manifest = revise::next(core.manifest()?);
        revise::step(&mut manifest, version, to).map_err(|error| conflict(error.to_string()))?;
        self.publish(core, manifest, &[]).await
    }

    fn member_facts(
        &self,
        core: &Core,
        manifest: &Manifest,
        record: &VersionRecord,
        request: &ActivateRequest,
    ) -> Vec<MemberFacts> {
        manifest
            .members
            .iter()
            .filter(|node| !request.exclude.iter().any(|exclusion| exclusion.node == **node))
            .map(|node| {
                let here = *node == self.name;
                let mut canaries_failed: Vec<_> = core
                    .canaries_failed
                    .iter()
                    .filter(|(version, _)| *version == record.version)
                    .map(|(_, key)| key.clone())
                    .collect();
                // For this gate a canary that was never made has not decrypted.
                canaries_failed.extend(self.config.load().key_names().into_iter().filter(|key| {
                    let of_key = |canary: &Canary| canary.version == record.version && canary.key == *key;
                    !manifest.canaries.iter().any(of_key)
                }));
                MemberFacts {
                    node: node.clone(),
                    present: here,
                    loaded: here
                        && core.loaded.get(&record.version).is_some_and(|key| key.key_id() == record.key_id),
                    canaries_failed,
                    same_config: here,
                    diverged: core.diverged.as_ref().map(ToString::to_string),
                }
            })
            .collect()
    }

    /// A rollback on a node that started without a lost version.
    async fn roll_back_degraded(
        &self,
        core: &mut Core,
        version: KeyVersion,
        reason: String,
    ) -> Result<StepAnswer, Problem> {
        let mut manifest = revise::next(core.manifest()?);
        let before = manifest.primary;
        if manifest.primary != version {
            self.forget_moment(Moment::Stopped, version).await?;
            revise::step(&mut manifest, version, VersionState::Primary)
                .map_err(|error| conflict(error.to_string()))?;
        }
        for lost in &core.missing {
            if let Some(record) = manifest.version_mut(*lost) {
                record.given_up = Some(reason.clone());
            }
        }
        self.publish(core, manifest, &[]).await?;
        if before != version {
            self.note_moment(core, Moment::Stopped, before).await;
        }
        tracing::warn!(version = version.get(), lost = ?core.missing, reason, "rolled back without the lost versions");
        Ok(step_answer(core, version, false))
    }

    /// Gives a staged version up for ever; an activating one goes back to staged.
    pub(crate) async fn abort(&self, version: KeyVersion, request: StepRequest) -> Result<StepAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.primary()?;
        let to = match core.record(version)?.state {
            VersionState::Aborted => return Ok(step_answer(&core, version, request.dry_run)),
            VersionState::Staged => VersionState::Aborted,
            VersionState::Activating => VersionState::Staged,
            state => return Err(conflict(format!("v{version} is {state}; only a staged version is aborted"))),
        };
        if request.dry_run {
            return Ok(step_answer(&core, version, true));
        }
        self.swap_state(&mut core, version, to).await?;
        if to == VersionState::Aborted {
            core.loaded.remove(&version);
            core.packages.remove(&version);
            self.rebuild(&mut core);
        }
        tracing::info!(version = version.get(), state = %to, "version aborted");
        Ok(step_answer(&core, version, false))
    }

    /// Makes a retired version decrypt-only again, within its hold; its shares come in by unlock.
    pub(crate) async fn restore(&self, version: KeyVersion, request: StepRequest) -> Result<StepAnswer, Problem> {
        let mut core = self.core.lock().await;
        core.primary()?;
        let record = core.record(version)?;
        if record.state == VersionState::DecryptOnly {
            return Ok(step_answer(&core, version, request.dry_run));
        }
        let Some(retirement) = record.retirement.as_ref().filter(|_| record.state == VersionState::Retired) else {
            return Err(conflict(format!("v{version} is {}, not retired", record.state)));
        };
        if let Some(ended) = retirement.hold_ended {
            return Err(conflict(format!("the hold of v{version} ended at {ended}; it is destroyed")));
        }
        if request.dry_run {
            return Ok(step_answer(&core, version, true));
        }
        let mut manifest = revise::next(core.manifest()?);
        revise::restore(&mut manifest, version).map_err(|error| conflict(error.to_string()))?;
        self.publish(&mut core, manifest, &[]).await?;
        tracing::warn!(version = version.get(), at = %wall_clock(), "version restored: submit its shares with unlock");
        Ok(step_answer(&core, version, false))
    }
}

fn is_degraded(core: &Core) -> bool {
    !core.missing.is_empty()
}

/// What a degraded node's rollback asks for beside the rest.
fn degraded_rollback(
    core: &Core,
    record: &VersionRecord,
    request: &ActivateRequest,
    lacks: &mut Vec<gate::Missing>,
) {
    if core.missing.contains(&record.version) {
        let detail = "it is named as lost on this node";
        lacks.push(gate::Missing::new("not_loaded", Some(core_name(record)), detail));
    }
    if request.override_reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        let lost: Vec<_> = core.missing.iter().map(|version| format!("v{version}")).collect();
        let detail =
            format!("this node runs without {}: name why it is given up with `override`", lost.join(", "));
        lacks.push(gate::Missing::new("way_back", Some(core_name(record)), detail));
    }
}

fn core_name(record: &VersionRecord) -> String {
    format!("v{}", record.version)
}

/// What would answer what, for a dry run.
fn effects(core: &Core, manifest: &Manifest, version: KeyVersion) -> Vec<String> {
    let mut effects = vec![format!("new values would be encrypted with v{version}")];
    for record in manifest.versions.iter().filter(|record| record.state.decrypts() || record.version == version) {
        let answer = if core.loaded.contains_key(&record.version) {
            "would be decrypted as now"
        } else {
            "would be 503 key_version_unavailable: it is not loaded here"
        };
        effects.push(format!("values of v{} {answer}", record.version));
    }
    effects
}

pub(super) fn step_answer(core: &Core, version: KeyVersion, dry_run: bool) -> StepAnswer {
    let manifest = core.adopted.as_ref().map(|document| document.manifest());
    StepAnswer {
        version,
        state: manifest
            .and_then(|manifest| manifest.version(version))
            .map_or(VersionState::Staged, |record| record.state),
        primary: manifest.map_or(version, |manifest| manifest.primary),
        revision: manifest.map_or(0, |manifest| manifest.revision),
        dry_run,
        missing: vec![],
        effects: vec![],
        certificate: None,
    }
}
