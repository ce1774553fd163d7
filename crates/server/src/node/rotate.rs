//! `activate` (and the rollback), `abort`, `restore`: moving versions through their states.

use std::time::Duration;

use keymoot_api::{
    Missing, Problem,
    rotate::{ActivateRequest, StepAnswer, StepRequest},
};
use keymoot_quorum::{
    adopt,
    exclude::Exclusions,
    gate::{self, ActivationFacts, MemberFacts},
    revise,
};
use keymoot_types::{KeyVersion, Manifest, NodeName, VersionState, manifest::VersionRecord};

use super::{Core, Node, conflict, lock::Guard, wall_clock};

pub(super) fn missing(missing: Vec<gate::Missing>) -> Vec<Missing> {
    missing
        .into_iter()
        .map(|entry| Missing { code: entry.code.into(), who: entry.who, detail: entry.detail })
        .collect()
}

/// How long members have to adopt an activating version.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(30);
const ADOPTION_LOOK: Duration = Duration::from_millis(200);

impl Node {
    /// Makes a version primary, in two swaps; of an older version it is the rollback. Repeating is safe.
    pub(crate) async fn activate(
        &self,
        version: KeyVersion,
        request: ActivateRequest,
    ) -> Result<StepAnswer, Problem> {
        // Sources are read before the lock is taken: a slow database must not hold up a ceremony.
        // Of a rollback they are no condition, and it waits for nothing that it need not.
        let rollback = self.core.lock().await.primary().is_ok_and(|primary| version < primary.version());
        let samples_failed = if rollback { Vec::new() } else { self.sample_sources().await };
        let lost = self.core.lock().await.lost();
        let held = self.still_held(&lost).await?;
        let mut core = self.core.lock().await;
        self.follow(&mut core).await;
        self.load_proofs(&mut core).await;
        if !is_degraded(&core) {
            core.primary()?;
        }
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
        let exclusions = self.exclude(&mut core, &request.exclude, request.dry_run).await?;
        let facts = ActivationFacts {
            version,
            members: self.member_facts(&mut core, &manifest, &record, &exclusions),
            proofs: &core.proved(),
            excused: &request.excuse,
            samples_failed,
        };
        let mut lacks = gate::activation(&manifest, &record, &facts);
        if is_degraded(&core) {
            degraded_rollback(&core, &record, &request, &held, &mut lacks);
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
        if record.state != VersionState::DecryptOnly {
            core = self.activating(core, version, &request).await?;
            match core.record(version)?.state {
                VersionState::Activating => {}
                // Somebody else asked for the same and was faster.
                VersionState::Primary => return Ok(step_answer(&core, version, false)),
                // Or for something else: an abort, a rollback. It came later, and counts.
                state => {
                    return Err(conflict(format!(
                        "v{version} became {state} while its activation waited for the members: it is not made \
                         primary; look at `status`"
                    )));
                }
            }
        }
        let before = core.manifest()?.manifest().primary;
        let believed = self.believed_records(&core).await?;
        if let Err(problem) = self.swap_state(&mut core, version, VersionState::Primary).await {
            // Of two that asked for the same one writes it; the other one's answer is the same.
            return match core.record(version)?.state {
                VersionState::Primary => Ok(step_answer(&core, version, false)),
                _ => Err(problem),
            };
        }
        self.vouch_anew(&core, believed).await;
        self.catch_up(&mut core).await;
        tracing::info!(
            version = version.get(),
            before = before.get(),
            "new values are encrypted with this version"
        );
        Ok(step_answer(&core, version, false))
    }

    /// The first of the two swaps, and the wait until every member has adopted it: from then on none unlocks without
    /// the version. What is missing by then takes it back to staged.
    async fn activating<'a>(
        &'a self,
        mut core: Guard<'a>,
        version: KeyVersion,
        request: &ActivateRequest,
    ) -> Result<Guard<'a>, Problem> {
        if core.record(version)?.state == VersionState::Staged
            && let Err(problem) = self.swap_state(&mut core, version, VersionState::Activating).await
            && !matches!(core.record(version)?.state, VersionState::Activating | VersionState::Primary)
        {
            return Err(problem);
        }
        let started = self.now();
        loop {
            let manifest = core.manifest()?.manifest().clone();
            let record = core.record(version)?.clone();
            if record.state != VersionState::Activating {
                return Ok(core);
            }
            // An exclusion may end meanwhile.
            let now = core.service_time(self.now());
            let exclusions = core.exclusions.clone().unwrap_or_default();
            let waited_for = manifest.members.iter().filter(|node| !exclusions.excludes(node, now));
            let waited_for: Vec<_> = waited_for.cloned().collect();
            // The present revision: it may have been staged again, and activated again, since this began to wait.
            let late = self.not_adopted(&waited_for, adopt::identity(core.manifest()?));
            if late.is_empty() {
                let facts = ActivationFacts {
                    version,
                    members: self.member_facts(&mut core, &manifest, &record, &exclusions),
                    proofs: &core.proved(),
                    excused: &request.excuse,
                    samples_failed: vec![],
                };
                let lacks = gate::activation(&manifest, &record, &facts);
                if lacks.is_empty() {
                    return Ok(core);
                }
                return Err(self.back_to_staged(&mut core, version, lacks).await);
            }
            if self.now().saturating_sub(started) >= ADOPTION_TIMEOUT {
                let missing = late
                    .into_iter()
                    .map(|(node, why)| gate::Missing::new("member_missing", Some(node.to_string()), why));
                let missing = missing.collect();
                return Err(self.back_to_staged(&mut core, version, missing).await);
            }
            // The pulse follows the store and hears the members meanwhile.
            drop(core);
            tokio::time::sleep(ADOPTION_LOOK).await;
            core = self.core.lock().await;
            // It may have been sealed meanwhile. The version stays activating: another node goes on with it.
            core.primary()?;
        }
    }

    async fn back_to_staged(&self, core: &mut Core, version: KeyVersion, lacks: Vec<gate::Missing>) -> Problem {
        let detail = match self.swap_state(core, version, VersionState::Staged).await {
            Ok(()) => format!("v{version} is staged again: not every member has adopted it"),
            Err(problem) => format!("v{version} is still activating, as it could not be taken back: {problem}"),
        };
        Problem::gate_refused(detail, missing(lacks))
    }

    async fn swap_state(&self, core: &mut Core, version: KeyVersion, to: VersionState) -> Result<(), Problem> {
        let mut manifest = revise::next(core.manifest()?);
        revise::step(&mut manifest, version, to).map_err(|error| conflict(error.to_string()))?;
        self.publish(core, manifest, &[]).await
    }

    fn member_facts(
        &self,
        core: &mut Core,
        manifest: &Manifest,
        record: &VersionRecord,
        exclusions: &Exclusions,
    ) -> Vec<MemberFacts> {
        let now = core.service_time(self.now());
        let asked = manifest.members.iter().filter(|node| !exclusions.excludes(node, now));
        asked.map(|node| self.facts_of(core, manifest, node, record)).collect()
    }

    /// A rollback on a node that started without a lost version.
    async fn roll_back_degraded(
        &self,
        core: &mut Core,
        version: KeyVersion,
        reason: String,
    ) -> Result<StepAnswer, Problem> {
        let mut manifest = revise::next(core.manifest()?);
        if manifest.primary != version {
            revise::step(&mut manifest, version, VersionState::Primary)
                .map_err(|error| conflict(error.to_string()))?;
        }
        for lost in &core.missing {
            if let Some(record) = manifest.version_mut(*lost) {
                record.given_up = Some(reason.clone());
            }
        }
        self.publish(core, manifest, &[]).await?;
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
    held: &[(NodeName, KeyVersion)],
    lacks: &mut Vec<gate::Missing>,
) {
    for (node, version) in held {
        let detail = format!("v{version} is not lost: {node} holds it. Submit its shares here, or seal {node}");
        lacks.push(gate::Missing::new("way_back", Some(node.to_string()), detail));
    }
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
