//! `retire`: only with evidence. The version is wiped, a certificate says what was found and what was not looked
//! at, and the hold begins.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use keymoot_api::{
    Missing, Problem,
    rotate::{RetireRequest, StepAnswer},
    upkeep::CertificatesAnswer,
};
use keymoot_keyring::Validated;
use keymoot_quorum::{
    adopt,
    gate::{self, KeyLife, Quarantined, RetirementFacts},
    revise,
};
use keymoot_rekey::{Sources as _, retry::Left};
use keymoot_types::{
    KeyVersion, Manifest, NodeName, SourceName, VersionState,
    audit::{Entry, Phase},
    certificate::{Certificate, CertifiedCensus, MaxAge, NOT_LOOKED_AT},
    heartbeat::Declared,
};
use serde_json::Value as Json;

use super::{
    Core, Node, bad_request,
    census::{Spawned, Taken},
    conflict, init, internal,
    moment::Moment,
    restored::{self, FoundAgain},
    rotate, store_problem, wall_clock,
};

/// Then the version, and an id of each attempt: the one that counts is the manifest's.
const CERTIFICATES: &str = "certificate/";

/// How long members have to follow a retirement, before the answer says that they have not.
const WIPE_TIMEOUT: Duration = Duration::from_secs(10);
const WIPE_LOOK: Duration = Duration::from_millis(200);

/// Everything that the gate looks at, read before it decides.
struct Looked {
    stopped: Option<Duration>,
    now: Duration,
    last_use: Option<Duration>,
    censuses: Vec<Taken>,
    sources: Vec<SourceName>,
    configured: Vec<SourceName>,
    declared: Vec<Declared>,
    quarantined: Vec<Quarantined>,
    keys: Vec<KeyLife>,
    gone: Vec<SourceName>,
    found_again: FoundAgain,
}

impl Node {
    /// Throws a version away, or says what is missing and starts the censuses that are.
    pub(crate) async fn retire(
        &self,
        version: KeyVersion,
        request: RetireRequest,
        by: &str,
    ) -> Result<StepAnswer, Problem> {
        if !request.exclude.is_empty() || !request.excuse.is_empty() {
            let detail =
                "a retirement leaves nobody out: a member that is gone is declared with `members destroyed`";
            return Err(bad_request(detail));
        }
        // Before the lock: the lists may be long, and their store silent.
        let quarantined = self.jobs.quarantine_left().await.map_err(|error| conflict(error.to_string()))?;
        let mut core = self.core.lock().await;
        core.primary()?;
        self.follow(&mut core).await;
        Self::gates_open(&core)?;
        match core.record(version)?.state {
            VersionState::Retired => return Ok(rotate::step_answer(&core, version, request.dry_run)),
            VersionState::DecryptOnly => {}
            state => {
                return Err(conflict(format!("v{version} is {state}; only a decrypt-only version is retired")));
            }
        }
        let manifest = core.manifest()?.manifest().clone();
        let unknown =
            request.gone.iter().find(|name| !manifest.declared.sources.iter().any(|source| source.name == **name));
        if let Some(name) = unknown {
            return Err(bad_request(format!("source {name} was never declared, so it can't be gone")));
        }
        let declared = self.sources.names();
        if let Some(name) = request.gone.iter().find(|name| declared.contains(name)) {
            return Err(bad_request(format!("source {name} is in the configuration, so it is not gone")));
        }
        let looked = self.look(&mut core, &manifest, version, &request.gone, quarantined).await?;
        let mut lacks = self.lacks(&core, &manifest, version, &looked);
        if request.dry_run {
            return Ok(StepAnswer { missing: lacks, ..rotate::step_answer(&core, version, true) });
        }
        if !lacks.is_empty() {
            self.start_lacking_censuses(&mut lacks, &looked);
            let detail = format!("v{version} is not retired: evidence is missing");
            return Err(Problem::gate_refused(detail, lacks));
        }
        let answer = self.throw_away(&mut core, version, looked, by).await?;
        drop(core);
        Ok(StepAnswer { effects: self.wiped_on(version).await, ..answer })
    }

    /// Waits for a while until every member says that it holds the version no longer, and tells where it is gone.
    async fn wiped_on(&self, version: KeyVersion) -> Vec<String> {
        let started = self.now();
        loop {
            let core = self.core.lock().await;
            let members = core.manifest().map(|document| document.manifest().members.clone()).unwrap_or_default();
            drop(core);
            let holding = self.not_wiped(&members, version);
            let late = self.now().saturating_sub(started) >= WIPE_TIMEOUT;
            if holding.is_empty() || late {
                let wiped = members.iter().filter(|node| !holding.iter().any(|(name, _)| name == *node));
                let wiped: Vec<_> = wiped.map(NodeName::as_str).collect();
                let mut effects = vec![format!("v{version} is wiped on {}", listed(&wiped))];
                let unsure =
                    holding.into_iter().map(|(node, why)| format!("v{version} may be held by {node} yet: {why}"));
                effects.extend(unsure);
                return effects;
            }
            tokio::time::sleep(WIPE_LOOK).await;
        }
    }

    async fn look(
        &self,
        core: &mut Core,
        manifest: &Manifest,
        version: KeyVersion,
        gone: &[SourceName],
        quarantined: BTreeMap<SourceName, Left>,
    ) -> Result<Looked, Problem> {
        self.follow_restored(core).await;
        let stopped = self.moment(core, Moment::Stopped, version).await;
        let now = core.service_time(self.now());
        let last_uses = self.last_uses(core, now);
        let sources_declared = self.declarations();
        let censuses = self.evidence(core, &sources_declared).await?;
        let declared = &manifest.declared;
        let gone: Vec<_> = declared
            .sources
            .iter()
            .filter(|source| source.gone.is_some() || gone.contains(&source.name))
            .map(|source| source.name.clone())
            .collect();
        let sources: Vec<_> = declared
            .sources
            .iter()
            .map(|source| source.name.clone())
            .filter(|name| !gone.contains(name))
            .collect();
        let config = self.config.load();
        let keys = declared
            .keys
            .iter()
            .map(|key| {
                let declared = config.keys.iter().find(|now| now.name == key.name).and_then(init::lifetime);
                let recorded = key
                    .lifetimes
                    .iter()
                    .find(|life| life.version == version)
                    .map(|life| Duration::from_secs(life.max_age_s));
                // A key that left the configuration keeps what it declared while the version encrypted.
                let max_age = match (declared, recorded) {
                    (Some(declared), Some(recorded)) => Some(declared.max(recorded)),
                    (declared, recorded) => declared.or(recorded),
                };
                KeyLife { key: key.name.clone(), max_age }
            })
            .collect();
        Ok(Looked {
            stopped,
            now,
            last_use: last_uses
                .into_iter()
                .find(|(used, _)| *used == version)
                .map(|(_, at)| at)
                .max(self.last_use_elsewhere(core, now, version)),
            censuses,
            sources,
            // What could not be opened can't be counted: a census that is asked for would be waited for in vain.
            configured: self.sources.all().iter().map(|(name, _)| name.clone()).collect(),
            declared: sources_declared,
            quarantined: quarantined.into_iter().map(in_quarantine).collect(),
            keys,
            gone,
            found_again: core.found_again.clone(),
        })
    }

    fn lacks(&self, core: &Core, manifest: &Manifest, version: KeyVersion, looked: &Looked) -> Vec<Missing> {
        let retire = self.config.load().retire;
        let censuses: Vec<_> =
            looked.censuses.iter().map(|taken| taken.facts(&self.name, &looked.declared)).collect();
        let unsettled = core
            .manifest()
            .map(|document| self.not_adopted(&manifest.members, adopt::identity(document)))
            .unwrap_or_default();
        let facts = RetirementFacts {
            version,
            unsettled,
            stopped: looked.stopped,
            now: looked.now,
            max_write_delay: retire.max_write_delay,
            quiet: retire.quiet,
            last_use: looked.last_use,
            censuses: &censuses,
            census_running: self.census_running(),
            sources: &looked.sources,
            configured: &looked.configured,
            quarantined: &looked.quarantined,
            keys: &looked.keys,
            proofs: &core.proved(),
        };
        let mut missing = rotate::missing(gate::retirement(manifest, &facts));
        missing.extend(restored::lacks(&looked.found_again, version));
        missing
    }

    /// Two more censuses, where the newest two are not clean and fresh and a new one could be.
    fn start_lacking_censuses(&self, lacks: &mut Vec<Missing>, looked: &Looked) {
        const OF_A_CENSUS: [&str; 5] =
            ["census_stale", "census_inconclusive", "values_left", "unreadable_left", "quarantine_left"];
        let delay = self.config.load().retire.max_write_delay;
        let from = gate::census_from(looked.stopped.unwrap_or(looked.now), delay);
        // Those that only grew old are of no use again before the long waits are over.
        let only_old = lacks.iter().any(|lack| lack.code == "max_age")
            && looked.censuses.iter().filter(|taken| taken.began() >= from).count() >= 2;
        let wanted = |lack: &Missing| {
            OF_A_CENSUS.contains(&lack.code.as_str()) && !(only_old && lack.code == "census_stale")
        };
        if lacks.iter().any(wanted)
            && looked.now >= from
            && self.spawn_censuses(2, None) != Spawned::Ending
            && !lacks.iter().any(|lack| lack.code == "census_running")
        {
            lacks.push(Missing::new("census_running", "two censuses were started; ask again when they are done"));
        }
    }

    async fn throw_away(
        &self,
        core: &mut Core,
        version: KeyVersion,
        looked: Looked,
        by: &str,
    ) -> Result<StepAnswer, Problem> {
        let at = wall_clock();
        let mut next = revise::next(core.manifest()?);
        revise::retire(&mut next, version, None, at).map_err(|error| conflict(error.to_string()))?;
        for source in next.declared.sources.iter_mut().filter(|source| looked.gone.contains(&source.name)) {
            source.gone.get_or_insert(at);
        }
        let body = self.certified(core, &next, version, looked, at, by)?;
        let primary = core.primary()?;
        let certificate = signed(&primary, &body)?;
        // Of two nodes that are asked at once one will publish; the other one's must not stand in its place.
        let key = format!("{CERTIFICATES}{:010}/{}", version.get(), uuid::Uuid::now_v7());
        let bytes =
            serde_json::to_vec(&certificate).map_err(|_| internal("a certificate could not be written"))?;
        // Before the retirement: one without a certificate must not exist. It counts only once the manifest agrees.
        self.metadata.put(&key, &bytes).await.map_err(|error| store_problem(&error))?;
        self.publish_retirement(core, next, version).await?;
        Ok(StepAnswer { certificate: Some(certificate), ..rotate::step_answer(core, version, false) })
    }

    async fn publish_retirement(
        &self,
        core: &mut Core,
        next: Manifest,
        version: KeyVersion,
    ) -> Result<(), Problem> {
        self.publish(core, next, &[]).await?;
        self.note_moment(core, Moment::Retired, version).await;
        core.loaded.remove(&version);
        self.rebuild(core);
        let held: Vec<_> = core.loaded.keys().collect();
        tracing::info!(version = version.get(), still_loaded = ?held, "version retired and wiped");
        Ok(())
    }

    /// Without evidence: the holders have consented to the loss that the operator named. There is no certificate, and
    /// a value of the version is undetermined for ever after.
    pub(super) async fn retire_by_override(
        &self,
        core: &mut Core,
        version: KeyVersion,
        reason: &str,
    ) -> Result<KeyVersion, Problem> {
        let mut next = revise::next(core.manifest()?);
        revise::retire(&mut next, version, Some(reason.into()), wall_clock())
            .map_err(|error| conflict(error.to_string()))?;
        self.publish_retirement(core, next, version).await?;
        tracing::warn!(version = version.get(), reason, "retired without evidence, by the holders' consent");
        Ok(version)
    }

    fn certified(
        &self,
        core: &Core,
        next: &Manifest,
        version: KeyVersion,
        looked: Looked,
        at: Timestamp,
        by: &str,
    ) -> Result<Certificate, Problem> {
        let quiet_since = looked.last_use.or(looked.stopped).unwrap_or(looked.now);
        let seconds = |life: KeyLife| life.max_age.map(|age| age.as_secs()).filter(|seconds| *seconds > 0);
        let in_a_row =
            looked.censuses.into_iter().filter(|taken| taken.set_aside(&self.name, &looked.declared).is_none());
        let mut censuses: Vec<_> = in_a_row
            .rev()
            .take(2)
            .map(|taken| CertifiedCensus { begun_at: taken.begun_at, sources: taken.sources })
            .collect();
        censuses.reverse();
        Ok(Certificate {
            keyring: next.keyring.clone(),
            keyring_id: next.keyring_id,
            version,
            key_id: core.record(version)?.key_id,
            retired_at: at,
            asked_by: by.into(),
            node: self.name.clone(),
            by: next.primary,
            revision: next.revision,
            sources: Certificate::counted(&censuses),
            gone: looked.gone,
            released: super::released(next).into_iter().map(|released| released.source).collect(),
            count_again: Certificate::count_again(&censuses),
            censuses,
            max_ages: looked
                .keys
                .into_iter()
                .map(|life| MaxAge { key: life.key.clone(), max_age_s: seconds(life) })
                .collect(),
            quiet_s: looked.now.saturating_sub(quiet_since).as_secs(),
            not_looked_at: NOT_LOOKED_AT.map(String::from).to_vec(),
        })
    }

    /// Ends a hold that is over, once one more conclusive census shows no value of the version.
    pub(super) async fn end_hold(&self, core: &mut Core, version: KeyVersion, over: Duration) {
        let Ok(censuses) = self.censuses(core).await else { return };
        let Ok(document) = core.manifest().cloned() else { return };
        let sources: Vec<_> =
            document.manifest().declared.sources.iter().filter(|source| source.gone.is_none()).collect();
        let declared = self.declarations();
        let now = core.service_time(self.now());
        // One that is dated after now is of a time that was lost, and may be from before the hold was over.
        let own = || {
            let own = censuses.iter().filter(|taken| taken.node == self.name);
            own.filter(|taken| taken.began() >= over && taken.latest() <= now)
        };
        let newest = own().rfind(|taken| taken.set_aside(&self.name, &declared).is_none());
        let clean = newest.is_some_and(|taken| {
            sources.iter().all(|declared| {
                taken.sources.iter().any(|found| found.name == declared.name && found.clean_of(version))
            })
        });
        // Whoever found it: since the newest, or, where there is none, since the hold was over.
        let again = match newest {
            Some(newest) => censuses.iter().any(|taken| taken.begun_at >= newest.begun_at && taken.found(version)),
            None => own().any(|taken| taken.found(version)),
        };
        let Ok(restored) = self.restored().await else { return };
        if again || !clean || restored.iter().any(|found| found.version == version) {
            let due = own().map(Taken::again_from).max().unwrap_or(over);
            if now >= due {
                self.spawn_censuses(1, None);
            }
            return;
        }
        if let Err(problem) = self.may_publish(core) {
            return tracing::debug!(%problem, "a hold does not end now; tried again later");
        }
        // It destroys for ever: not without a line in the audit log before it.
        let entry = |phase| Entry::new("hold-ends", phase).fact("version", version.get());
        let intent = match self.audit.require(entry(Phase::Intent)).await {
            Ok(intent) => intent,
            Err(cause) => return tracing::warn!(cause, "a hold does not end while that can't be recorded"),
        };
        let mut next = revise::next(&document);
        if let Some(retirement) = next.version_mut(version).and_then(|record| record.retirement.as_mut()) {
            retirement.hold_ended = Some(wall_clock());
        }
        let outcome = self.publish(core, next, &[]).await;
        let phase = if outcome.is_ok() { Phase::Done } else { Phase::Failed };
        self.audit.note(entry(phase).fact("intent", intent));
        match outcome {
            Ok(()) => tracing::info!(version = version.get(), "the hold is over: the version is destroyed"),
            Err(problem) => {
                tracing::warn!(%problem, "the end of a hold could not be published; tried again later")
            }
        }
    }

    /// `GET certificates`: of versions that are retired.
    pub(crate) async fn certificates(&self) -> Result<CertificatesAnswer, Problem> {
        let stored = self.metadata.list(CERTIFICATES).await.map_err(|error| store_problem(&error))?;
        let core = self.core.lock().await;
        let certificates = stored
            .iter()
            .filter_map(|stored| serde_json::from_slice::<Json>(&stored.value).ok())
            .filter(|certificate| {
                let version = certificate.pointer("/certificate/version").cloned();
                let at = certificate.pointer("/certificate/retired_at").cloned();
                let at = at.and_then(|at| serde_json::from_value::<Timestamp>(at).ok());
                let record = version
                    .and_then(|version| serde_json::from_value::<KeyVersion>(version).ok())
                    .and_then(|version| core.record(version).ok());
                // Of this very retirement: the version may have come back since, and gone again without evidence.
                record
                    .and_then(|record| record.retirement.as_ref())
                    .is_some_and(|retirement| retirement.override_reason.is_none() && Some(retirement.at) == at)
            })
            .collect();
        Ok(CertificatesAnswer { certificates })
    }
}

fn in_quarantine((source, left): (SourceName, Left)) -> Quarantined {
    Quarantined { source, rows: left.rows, first: left.first.iter().map(Json::to_string).collect() }
}

/// Over the canonical form of the body, by the primary.
fn signed(primary: &Validated, body: &Certificate) -> Result<Json, Problem> {
    let body = serde_json::to_value(body).map_err(|_| internal("a certificate could not be written"))?;
    let canonical =
        serde_json_canonicalizer::to_vec(&body).map_err(|_| internal("a certificate has no canonical form"))?;
    Ok(serde_json::json!({
        "certificate": body,
        "signed_by": {"version": primary.version(), "public_key": STANDARD.encode(primary.public_key())},
        "signature": STANDARD.encode(primary.sign(&canonical)),
    }))
}

/// `db1, db2 and db3`
fn listed(names: &[&str]) -> String {
    match names {
        [] => "no node".into(),
        [one] => (*one).into(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}
