//! The node's side of the audit log: what happens by itself is noted, the log's end is signed, and what was signed
//! is held against the file.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_api::{Problem, unlock::Parts, upkeep::AuditAnswer};
use keymoot_quorum::judge::{Purpose, judge};
use keymoot_types::{
    ErrorCode, HolderName, KeyName, KeyVersion, NodeState, VersionState,
    audit::{Entry, Phase, SignedHead},
    manifest::{ManifestDocument, VersionRecord},
};
use serde_json::{Map, Value as Json, json};
use tokio::time::{MissedTickBehavior, timeout};

use super::{Core, Node, bad_request, internal};
use crate::{
    audit::{Comparison, read_head},
    serving::Serving,
};

const ROUND: Duration = Duration::from_millis(500);
/// Every so many rounds what was signed is compared.
const COMPARE_EVERY: u64 = 10;
const STORE_WAIT: Duration = Duration::from_secs(2);
/// The log may go on between reading its end and writing what was signed of it.
const TRIES: usize = 5;

/// What was last seen, to note what changed.
#[derive(Default)]
pub(super) struct Seen {
    loaded: Vec<KeyVersion>,
    versions: Option<BTreeMap<KeyVersion, Version>>,
    canaries_failed: Vec<(KeyVersion, KeyName)>,
    diverged: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Version {
    state: VersionState,
    set: u32,
    hold_ended: bool,
}

impl Version {
    fn of(record: &VersionRecord) -> Self {
        Self {
            state: record.state,
            set: record.share_set.set,
            hold_ended: record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_some()),
        }
    }
}

fn note(event: &str) -> Entry {
    Entry::new(event, Phase::Note)
}

impl Node {
    /// Where the newest signed head of this node's log is kept.
    fn audit_key(&self) -> String {
        format!("audit/{}", self.name)
    }

    /// Opens the log and settles what an earlier boot left open, by what is true now.
    pub(super) async fn begin_audit(&self) {
        let remembered = self.stored_head().await.ok().flatten();
        let mut standing = Map::new();
        if let Some(document) = &self.core.lock().await.adopted {
            let manifest = document.manifest();
            standing.insert("revision".into(), json!(manifest.revision));
            let versions = manifest.versions.iter();
            let versions: Vec<_> =
                versions.map(|record| json!({"version": record.version, "state": record.state})).collect();
            standing.insert("versions".into(), json!(versions));
        }
        self.audit.begin(remembered, standing).await;
    }

    /// The newest signed head in the store; an error where the store does not answer, none where it has none that
    /// is this node's. It is not told before there is a manifest to tell it by.
    async fn stored_head(&self) -> Result<Option<SignedHead>, ()> {
        let stored = timeout(STORE_WAIT, self.metadata.get(&self.audit_key())).await;
        let Some(record) = stored.map_err(drop)?.map_err(drop)? else { return Ok(None) };
        let core = self.core.lock().await;
        let Some(document) = &core.adopted else { return Ok(None) };
        let read = read_head(&record.value, &self.name, document.manifest());
        Ok(read.map_err(|reason| self.audit.distrust(reason)).ok())
    }

    /// Keeps the log: spilled records, checkpoints, comparisons. Ends with [`Node::stop`].
    pub(crate) fn start_audit(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut interval = tokio::time::interval(ROUND);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut rounds: u64 = 0;
            loop {
                let wanted = tokio::select! {
                    () = node.stop.cancelled() => break,
                    () = node.audit.checkpoint_wanted() => true,
                    _ = interval.tick() => false,
                };
                if !wanted {
                    rounds += 1;
                    node.audit.keep(&*node.metadata).await;
                    if rounds.is_multiple_of(COMPARE_EVERY) {
                        node.compare_audit().await;
                    }
                }
                if node.audit.checkpoint_due(wanted) {
                    // A new head takes the place of what the store remembers: not before that was compared.
                    let compared = node.compare_audit().await;
                    node.write_checkpoint(compared).await;
                }
            }
        });
    }

    /// Signs the end of the log, writes that into the log and, if `keep` says so, keeps it in the store. A sealed node
    /// has no key to.
    pub(super) async fn write_checkpoint(&self, keep: bool) {
        for _ in 0..TRIES {
            let Some(signed) = self.signed_head().await else { return };
            if self.audit.checkpoint(signed.clone()).await {
                if keep {
                    self.keep_head(&signed).await;
                }
                return;
            }
        }
    }

    async fn signed_head(&self) -> Option<SignedHead> {
        let core = self.core.lock().await;
        let by = core.primary().ok()?;
        let head = self.audit.head(core.manifest().ok()?.manifest().keyring_id)?;
        let signature = by.sign(&head.canonical().ok()?);
        Some(SignedHead { head, version: by.version(), public_key: by.public_key(), signature })
    }

    async fn keep_head(&self, signed: &SignedHead) {
        let Ok(bytes) = serde_json::to_vec(signed) else { return };
        // Tried again when it is next compared.
        if !matches!(timeout(STORE_WAIT, self.metadata.put(&self.audit_key(), &bytes)).await, Ok(Ok(_))) {
            tracing::debug!("the audit log's signed head could not be kept in the store; tried again later");
        }
    }

    /// Holds what the store remembers against the files: a log that was cut or rebuilt is found by it. Whether it could.
    pub(super) async fn compare_audit(&self) -> bool {
        if self.audit.cause().is_some() {
            return false;
        }
        let Ok(stored) = self.stored_head().await else { return false };
        let own = self.audit.signed();
        for signed in [&stored, &own].into_iter().flatten() {
            let (audit, head) = (self.audit.clone(), signed.head.clone());
            match tokio::task::spawn_blocking(move || audit.compare(&head)).await {
                Ok(Comparison::Differs(reason)) => {
                    tracing::error!(reason, "the audit log is not what was signed");
                    self.audit.declare_lost(signed.clone(), reason).await;
                    self.audit.checkpoint_soon();
                }
                Ok(Comparison::Unknown(reason)) => self.audit.declare_unknown(signed, reason),
                Ok(Comparison::Holds) | Err(_) => {}
            }
        }
        match own {
            Some(own) if stored.as_ref() != Some(&own) => self.keep_head(&own).await,
            Some(_) => {}
            None => self.audit.remember(stored),
        }
        true
    }

    /// Notes what changed by itself or by a call, whichever it was: keys in memory, states, canaries, divergence.
    pub(super) fn observe(&self, core: &mut Core) {
        let seen = std::mem::take(&mut core.seen);
        let revision = core.adopted.as_ref().map_or(0, |document| document.manifest().revision);
        let now = Seen {
            loaded: core.loaded.keys().copied().collect(),
            versions: core.adopted.as_ref().map(|document| {
                document.manifest().versions.iter().map(|record| (record.version, Version::of(record))).collect()
            }),
            canaries_failed: core.canaries_failed.clone(),
            diverged: core.diverged.as_ref().map(ToString::to_string),
        };
        if now.loaded != seen.loaded {
            self.note_loaded(core, seen.loaded.is_empty());
        }
        for (version, record) in now.versions.iter().flatten() {
            let before = seen.versions.as_ref().map(|versions| versions.get(version));
            self.note_version(*version, before, record, revision);
        }
        for (version, key) in now.canaries_failed.iter().filter(|failed| !seen.canaries_failed.contains(failed)) {
            self.audit.note(note("canary-failed").fact("version", version.get()).fact("key", key.to_string()));
        }
        match (&seen.diverged, &now.diverged) {
            (before, Some(reason)) if before.as_ref() != Some(reason) => {
                self.audit.note(note("divergence-began").fact("reason", reason.as_str()));
            }
            (Some(_), None) => self.audit.note(note("divergence-ended").fact("revision", revision)),
            _ => {}
        }
        core.seen = now;
    }

    fn note_loaded(&self, core: &Core, first: bool) {
        let held: Vec<Json> =
            core.loaded.values().map(|key| json!({"version": key.version(), "key_id": key.key_id()})).collect();
        let event = match (held.is_empty(), first) {
            (true, _) => "sealed",
            (false, true) => "unlocked",
            (false, false) => "keyring-changed",
        };
        let degraded = core.state() == NodeState::Degraded;
        self.audit.note(note(event).fact("versions", held).fact("degraded", degraded));
        if first {
            self.audit.checkpoint_soon();
        }
    }

    /// `before`: nothing while no manifest was known, so that not everything is news at a start.
    fn note_version(&self, version: KeyVersion, before: Option<Option<&Version>>, now: &Version, revision: u64) {
        let Some(before) = before else { return };
        if before.is_none_or(|before| before.state != now.state) {
            let mut entry =
                note("version-state").fact("version", version.get()).fact("state", now.state.to_string());
            if let Some(before) = before {
                entry = entry.fact("before", before.state.to_string());
            }
            self.audit.note(entry.fact("revision", revision));
        }
        if before.is_some_and(|before| before.set != now.set) {
            self.audit.note(note("share-set-valid").fact("version", version.get()).fact("set", now.set));
        }
        if now.hold_ended && before.is_some_and(|before| !before.hold_ended) {
            self.audit.note(note("hold-ended").fact("version", version.get()));
        }
    }

    /// A part that nobody followed up in time.
    pub(super) fn note_expired(&self, version: KeyVersion, holder: &HolderName) {
        self.audit.note(note("part-expired").fact("version", version.get()).fact("holder", holder.to_string()));
    }

    /// The last line of this boot: the process ends.
    pub(super) async fn end_audit(&self) {
        self.audit.offer(note("stopped")).await;
    }

    /// Whether activating this version is the way back.
    pub(crate) fn is_way_back(&self, version: &str) -> bool {
        version.parse().is_ok_and(|version| leads_back(&self.serving.load(), version))
    }

    /// The holders whose right shares a consent brings: none where the request is not open, so that nothing can
    /// become of it. An import's shares may be known by nothing but the manifest that is its witness.
    pub(crate) async fn consenting(&self, id: &str, parts: &Parts) -> Vec<HolderName> {
        let Ok(request) = self.request(id, false).await else { return vec![] };
        if request.state != "open" {
            return vec![];
        }
        let witness = request.witness.and_then(|text| ManifestDocument::parse(text.trim().as_bytes()).ok());
        let core = self.core.lock().await;
        let manifests =
            [core.adopted.as_ref(), witness.as_ref()].into_iter().flatten().map(ManifestDocument::manifest);
        let holder = |name: &str, text: &str| {
            let known = |manifest| judge(manifest, Purpose::Prove, name, text).ok();
            manifests.clone().find_map(known).map(|part| part.holder)
        };
        parts.0.iter().filter_map(|(name, text)| holder(name, text)).collect()
    }

    /// `GET audit`.
    pub(crate) async fn audit_page(&self, query: &str) -> Result<AuditAnswer, Problem> {
        let after = match query.split_once('=') {
            None if query.is_empty() => Ok(0),
            Some(("after", seq)) => seq.parse().map_err(|_| bad_request("`after` is the number of a line")),
            _ => Err(bad_request("the only parameter here is `after`")),
        }?;
        let audit = self.audit.clone();
        let read = tokio::task::spawn_blocking(move || audit.page(after)).await;
        let (entries, next) = read.map_err(|_| internal("the audit log could not be read"))?.map_err(|error| {
            Problem::new(ErrorCode::AuditUnavailable, format!("the audit log can't be read: {error}"))
        })?;
        Ok(AuditAnswer { entries, next, head: self.audit.signed() })
    }
}

/// Activating a version that is older than the primary and decrypts already leads back; one that was never in service
/// does not.
fn leads_back(serving: &Serving, version: KeyVersion) -> bool {
    let known = serving.versions.iter().find(|known| known.version == version);
    serving.primary.is_some_and(|primary| version < primary)
        && known.is_some_and(|known| known.state == VersionState::DecryptOnly)
}

#[cfg(test)]
mod tests {
    use keymoot_types::KeyId;

    use super::*;
    use crate::serving::{LastUse, VersionFacts};

    #[test]
    fn only_an_older_version_that_decrypts_already_is_the_way_back() {
        let version = |number: u32| number.to_string().parse::<KeyVersion>().unwrap();
        let states = [
            (7, VersionState::Retired),
            (8, VersionState::Staged),
            (9, VersionState::DecryptOnly),
            (10, VersionState::Primary),
            (11, VersionState::DecryptOnly),
        ];
        let versions = states.map(|(number, state)| VersionFacts {
            version: version(number),
            key_id: KeyId::new([0; 16]),
            state,
            retirement: None,
        });
        let mut serving = Serving {
            primary: Some(version(10)),
            versions: versions.into(),
            ..Serving::empty(Arc::new(LastUse::default()))
        };
        for number in 7..=12 {
            assert_eq!(leads_back(&serving, version(number)), number == 9, "v{number}");
        }
        serving.primary = None;
        assert!(!leads_back(&serving, version(9)));
    }
}
