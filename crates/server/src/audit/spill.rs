//! What can't be recorded and must not wait: it goes to the system's log and to the metadata store, marked, and
//! into the audit log once that works again.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use keymoot_storage::metadata::{Metadata, Record};
use keymoot_types::audit::{Entry, Phase};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Audit, Refusal};
use crate::node::wall_clock;

/// Records that wait in memory, and in the store. Beyond that they stand in the system's log alone.
const MEMORY_MAX: usize = 256;
const STORE_MAX: usize = 1000;
/// A store that does not answer is asked again at the next round.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// Records that are not in the log yet.
pub(super) struct Spills {
    waiting: Mutex<Waiting>,
    /// Whether the store may hold some.
    in_store: AtomicBool,
    stored: AtomicUsize,
}

impl Default for Spills {
    fn default() -> Self {
        // An earlier boot may have left some.
        Self { waiting: Mutex::default(), in_store: AtomicBool::new(true), stored: AtomicUsize::new(0) }
    }
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Spilled>,
    /// What was spilled, or will be, and stands in the log after all: its copy goes nowhere.
    written: BTreeSet<Uuid>,
}

/// A record as it is kept meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Spilled {
    id: Uuid,
    at: Timestamp,
    cause: String,
    event: String,
    phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    facts: Map<String, Json>,
}

impl Spilled {
    fn new(entry: &Entry, id: Uuid, cause: &str) -> Result<Self, serde_json::Error> {
        let mut record = serde_json::to_value(entry)?;
        if let Json::Object(fields) = &mut record {
            fields.insert("id".into(), json!(id));
            fields.insert("at".into(), json!(wall_clock()));
            fields.insert("cause".into(), json!(cause));
        }
        serde_json::from_value(record)
    }

    /// The line that it becomes: its facts, and that it comes late.
    fn entry(self) -> Entry {
        let mut entry = Entry::new(self.event, self.phase);
        if let Some(who) = self.who {
            entry = entry.who(who);
        }
        if let Some(from) = self.from {
            entry = entry.from(from);
        }
        if let Some(request) = self.request {
            entry = entry.request(request);
        }
        for (name, value) in self.facts {
            entry = entry.fact(name, value);
        }
        entry.fact("spilled", json!({"id": self.id, "at": self.at, "cause": self.cause}))
    }
}

impl Spills {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record that took too long is in the log.
    pub(super) fn written_after_all(&self, id: Uuid) {
        let mut waiting = self.waiting();
        let before = waiting.records.len();
        waiting.records.retain(|spilled| spilled.id != id);
        // It is in the store, or on its way here or from here.
        if waiting.records.len() == before {
            waiting.written.insert(id);
            if waiting.written.len() > MEMORY_MAX + STORE_MAX {
                waiting.written.pop_first();
            }
        }
    }

    /// Whether this record is in the log already. Asked once of each.
    pub(super) fn is_written(&self, id: Uuid) -> bool {
        self.waiting().written.remove(&id)
    }

    /// Says it in the system's log at once; the rest is done in [`keep`].
    pub(super) fn spill(&self, entry: &Entry, id: Uuid, cause: &str) {
        if self.is_written(id) {
            return;
        }
        let Ok(spilled) = Spilled::new(entry, id, cause) else { return };
        let record = serde_json::to_string(&spilled).unwrap_or_default();
        tracing::warn!(audit_spill = true, record, "a record could not be written to the audit log");
        let mut waiting = self.waiting();
        if waiting.records.len() < MEMORY_MAX {
            waiting.records.push_back(spilled);
        }
    }
}

fn prefix(audit: &Audit) -> String {
    format!("audit-spill/{}/", audit.node)
}

/// One round: while the log fails, what waits goes to the store; when it works, everything goes into the log.
pub(super) async fn keep(audit: &Audit, metadata: &dyn Metadata) {
    if audit.cause().is_some() {
        return store(audit, metadata).await;
    }
    let spills = &audit.shared.spills;
    while let Some(spilled) = next(spills) {
        if !written(audit, spilled.clone()).await {
            spills.waiting().records.push_front(spilled);
            return;
        }
    }
    if spills.in_store.load(Ordering::Relaxed)
        && let Ok(Ok(records)) = timeout(STORE_WAIT, metadata.list(&prefix(audit))).await
    {
        for record in records {
            if !take_in(audit, metadata, &record).await {
                return;
            }
        }
        spills.in_store.store(false, Ordering::Relaxed);
        spills.stored.store(0, Ordering::Relaxed);
    }
}

/// Whether nothing is left to be done with a record. What can be no line stands in the system's log alone; what is
/// only not written now waits for the next round.
async fn written(audit: &Audit, spilled: Spilled) -> bool {
    let id = spilled.id;
    matches!(audit.record(spilled.entry(), Some(id)).await, Ok(_) | Err(Refusal::Never(_)))
}

fn next(spills: &Spills) -> Option<Spilled> {
    spills.waiting().records.pop_front()
}

async fn store(audit: &Audit, metadata: &dyn Metadata) {
    let spills = &audit.shared.spills;
    while spills.stored.load(Ordering::Relaxed) < STORE_MAX
        && let Some(spilled) = next(spills)
    {
        let key = format!("{}{}", prefix(audit), spilled.id);
        let stored = match serde_json::to_vec(&spilled) {
            Ok(bytes) => timeout(STORE_WAIT, metadata.put(&key, &bytes)).await,
            Err(_) => continue,
        };
        // It may have got there for all we know.
        spills.in_store.store(true, Ordering::Relaxed);
        if !matches!(stored, Ok(Ok(_))) {
            spills.waiting().records.push_front(spilled);
            return;
        }
        spills.stored.fetch_add(1, Ordering::Relaxed);
    }
}

/// Moves one record from the store into the log. Killed in between, it is there twice, under one id.
async fn take_in(audit: &Audit, metadata: &dyn Metadata, record: &Record) -> bool {
    let Ok(spilled) = serde_json::from_slice::<Spilled>(&record.value) else {
        tracing::warn!(key = record.key, "a record that was kept for the audit log can't be read; it stays there");
        return true;
    };
    written(audit, spilled).await
        && matches!(timeout(STORE_WAIT, metadata.remove(&record.key, record.stamp)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use keymoot_storage::open_metadata;

    use super::*;
    use crate::audit::{FULL, QUEUE_MAX};

    #[tokio::test]
    async fn a_record_that_is_only_not_written_now_is_kept_and_one_that_can_be_no_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_metadata(&format!("sqlite://{}", dir.path().join("meta.db").display())).unwrap();
        let audit = Audit::new(dir.path().into(), "local".parse().unwrap(), 1 << 20);
        let (spills, entry) = (&audit.shared.spills, |event: &str| Entry::new(event, Phase::Done));
        // While it fails, into the store.
        spills.spill(&entry("seal"), Uuid::now_v7(), "it fails");
        keep(&audit, &*store).await;
        let stored = async || store.list(&prefix(&audit)).await.unwrap().len();
        assert_eq!(stored().await, 1);
        assert_eq!(spills.waiting().records.len(), 0);
        // It works, and its queue is full: nothing says why it would fail.
        audit.shared.works();
        spills.spill(&entry("activate"), Uuid::now_v7(), "it fails");
        spills.spill(&entry("not a word"), Uuid::now_v7(), "it fails");
        (0..QUEUE_MAX).for_each(|_| audit.note(entry("noted")));
        assert_eq!((audit.cause(), audit.require(entry("one-more")).await), (None, Err(FULL.into())));
        keep(&audit, &*store).await;
        assert_eq!(stored().await, 1, "nothing is thrown away");
        assert_eq!(spills.waiting().records.len(), 2, "nothing is thrown away");
        // It is written again.
        audit.begin(None, Map::new()).await;
        while spills.in_store.load(Ordering::Relaxed) {
            keep(&audit, &*store).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(stored().await, 0);
        assert_eq!(spills.waiting().records.len(), 0);
        let log = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        let spilled: Vec<Json> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Json| line["facts"]["spilled"].is_object())
            .map(|line| line["event"].clone())
            .collect();
        assert_eq!(spilled, ["activate", "seal"]);
    }
}
