//! The audit log: who did what, as hash-chained lines in a file.
//!
//! # Layout
//!
//! [`Audit`] is what the node holds. One thread, `writer`, owns the file (`file`): it finds the chain's end
//! (`recover`), appends in groups, watches the file and heals. `policy` is the table of what is recorded and what is
//! refused when it can't be; `call` holds a control call to it, `facts` picks what may be written of one. What can't
//! be recorded and must not wait is kept by `spill`; `quota` bounds what callers can make us write; `read` serves
//! pages and finds lines; `head` tells a signed head of ours from one that somebody made up.

mod call;
mod facts;
mod file;
mod head;
mod policy;
mod quota;
mod read;
mod recover;
mod spill;
mod writer;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use keymoot_storage::metadata::Metadata;
use keymoot_types::{
    HolderName, KeyringId, NodeName,
    audit::{Entry, Head, NO_LINE, Phase, SignedHead, Tip},
};
use metrics::{counter, gauge};
use serde_json::{Map, Value as Json};
use tokio::{
    sync::{Notify, futures::Notified, oneshot},
    time::timeout,
};
use uuid::Uuid;

pub(crate) use self::{
    call::{Caller, Recorded, guarded},
    head::read_head,
    read::Comparison,
};
use self::{
    quota::Quota,
    spill::Spills,
    writer::{Ask, Job, Start, Writer},
};

/// Why a record is not in the log.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It may be later.
    #[error("{0}")]
    NotNow(String),
    /// It can be no line, whenever it is tried.
    #[error("it can be no line: {0}")]
    Never(String),
}

/// The longest that anybody waits for a record. What is still on its way then has failed.
const WAIT: Duration = Duration::from_millis(900);
/// The longest that lines stand unsigned while there is a key.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// Records that wait to be written.
const QUEUE_MAX: usize = 1024;

/// The audit log of this node.
pub(crate) struct Audit {
    dir: PathBuf,
    node: NodeName,
    queue: SyncSender<Job>,
    /// The queue's other end, until the log is begun.
    ready: Mutex<Option<Receiver<Job>>>,
    shared: Arc<Shared>,
    quota: Mutex<Quota>,
    checkpoint: Notify,
}

/// What the writer's thread and everybody else look at.
struct Shared {
    state: Mutex<State>,
    max_bytes: AtomicU64,
    spills: Spills,
}

struct State {
    failed: Option<String>,
    /// Since when the writer is inside of a call of the file's.
    busy: Option<Instant>,
    /// Lines are gone, and why that is known; said until the next start, like the two behind it.
    lost: Option<String>,
    /// A signed line is in no file that is here.
    unknown: Option<String>,
    /// What the store had as our signed head was not.
    distrusted: Option<String>,
    /// Up to these lines it is said already that some are lost, and known what became of what was signed.
    lost_to: u64,
    compared_to: u64,
    tip: Tip,
    /// The newest that was signed, and when.
    signed: Option<SignedHead>,
    signed_at: Instant,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under this lock leaves whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be recorded now.
    fn cause(&self) -> Option<String> {
        let state = self.state();
        let hangs = state.busy.filter(|since| since.elapsed() > WAIT);
        let hangs = hangs.map(|since| format!("a write has not come back for {} s", since.elapsed().as_secs()));
        hangs.or_else(|| state.failed.clone())
    }

    /// Does something with the file that may hang, in sight of everybody.
    fn watched<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state().busy = Some(Instant::now());
        let done = work();
        self.state().busy = None;
        done
    }

    fn failed(&self, cause: &str) {
        self.state().failed = Some(cause.into());
    }

    fn works(&self) {
        self.state().failed = None;
    }

    fn lost(&self, reason: String, of: Option<&SignedHead>) {
        let mut state = self.state();
        state.lost = Some(reason);
        state.lost_to = state.lost_to.max(of.map_or(0, |signed| signed.head.seq));
    }

    fn unknown(&self, reason: String) {
        self.state().unknown.get_or_insert(reason);
    }

    fn compared(&self, signed: &Head) {
        let mut state = self.state();
        state.compared_to = state.compared_to.max(signed.seq);
    }

    fn written(&self, tip: Tip, lines: usize) {
        self.state().tip = tip;
        counter!("keymoot_audit_records_total").increment(lines as u64);
    }

    /// A job that is not done. Who waits for it decides what becomes of it; a note spills.
    fn refuse(&self, job: Job, refusal: Refusal) {
        counter!("keymoot_audit_failures_total").increment(1);
        match (job.ack, job.ask) {
            // Whoever asked may have gone and spilled it.
            (Some(ack), _) => drop(ack.send(Err(refusal))),
            (None, Ask::Append { entry, .. }) => self.spills.spill(&entry, Uuid::now_v7(), &refusal.to_string()),
            (None, _) => {}
        }
    }

    fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }
}

impl Audit {
    /// Not yet begun: what is noted waits.
    pub(crate) fn new(dir: PathBuf, node: NodeName, max_bytes: u64) -> Self {
        let (queue, ready) = sync_channel(QUEUE_MAX);
        let state = State {
            failed: Some("the log is still being opened".into()),
            busy: None,
            lost: None,
            unknown: None,
            distrusted: None,
            lost_to: 0,
            compared_to: 0,
            tip: Tip::START,
            signed: None,
            signed_at: Instant::now(),
        };
        // They are there from the start, at 0.
        counter!("keymoot_audit_records_total").increment(0);
        counter!("keymoot_audit_failures_total").increment(0);
        Self {
            dir,
            node,
            queue,
            ready: Mutex::new(Some(ready)),
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                max_bytes: AtomicU64::new(max_bytes),
                spills: Spills::default(),
            }),
            quota: Mutex::default(),
            checkpoint: Notify::new(),
        }
    }

    /// Opens the log. `standing` is what is true now: it settles what was intended before.
    pub(crate) async fn begin(&self, remembered: Option<SignedHead>, standing: Map<String, Json>) {
        let Some(queue) = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.remember(remembered.clone());
        let start = Start {
            dir: self.dir.clone(),
            node: self.node.clone(),
            boot: Uuid::new_v4().to_string(),
            remembered,
            standing,
        };
        let writer = Writer::new(self.shared.clone(), start);
        let spawned = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&queue));
        if let Err(error) = spawned {
            self.shared.failed(&format!("its thread did not start: {error}"));
        }
        // The start goes on without it, if it takes long.
        drop(self.ask(Ask::Reopen).await);
    }

    /// Records, durably, before it returns: its number, or why not.
    pub(crate) async fn require(&self, entry: Entry) -> Result<u64, String> {
        self.record(entry, None).await.map_err(|refusal| refusal.to_string())
    }

    async fn record(&self, entry: Entry, spilled_as: Option<Uuid>) -> Result<u64, Refusal> {
        match self.shared.cause() {
            Some(cause) => {
                counter!("keymoot_audit_failures_total").increment(1);
                Err(Refusal::NotNow(cause))
            }
            None => self.ask(Ask::Append { entry, spilled_as }).await.map(|tip| tip.seq),
        }
    }

    /// Records, or spills.
    pub(crate) async fn offer(&self, entry: Entry) -> Option<u64> {
        let id = Uuid::now_v7();
        let recorded = self.record(entry.clone(), Some(id)).await;
        recorded.map_err(|cause| self.shared.spills.spill(&entry, id, &cause.to_string())).ok()
    }

    /// Records, or spills, behind the caller's back.
    pub(crate) fn note(&self, entry: Entry) {
        let job = Job::note(entry);
        let refused = match self.shared.cause().filter(|_| self.begun()) {
            Some(cause) => Some((job, cause)),
            None => self.queue.try_send(job).err().map(|error| (not_sent(error), FULL.to_owned())),
        };
        if let Some((job, cause)) = refused {
            self.shared.refuse(job, Refusal::NotNow(cause));
        }
    }

    fn begun(&self) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// A new file, where the old one was moved away.
    pub(crate) async fn reopen(&self) {
        if let Err(cause) = self.ask(Ask::Reopen).await {
            tracing::error!(%cause, "no new file of the audit log was begun");
        }
    }

    /// Writes down what was signed, if it is still the end of the log.
    pub(crate) async fn checkpoint(&self, signed: SignedHead) -> bool {
        let written = self.ask(Ask::Checkpoint(signed.clone())).await.is_ok();
        if written {
            self.shared.compared(&signed.head);
            let mut state = self.shared.state();
            state.signed = Some(signed);
            state.signed_at = Instant::now();
        }
        written
    }

    /// Whether there is something new to sign, and it is time; `wanted`: somebody asked.
    pub(crate) fn checkpoint_due(&self, wanted: bool) -> bool {
        let state = self.shared.state();
        // The line behind the one that was signed says so itself.
        let news = state.signed.as_ref().is_none_or(|signed| state.tip.seq > signed.head.seq.saturating_add(1));
        news && state.failed.is_none() && (wanted || state.signed_at.elapsed() >= CHECKPOINT_EVERY)
    }

    /// The newest head that was signed.
    pub(crate) fn signed(&self) -> Option<SignedHead> {
        self.shared.state().signed.clone()
    }

    /// What an earlier boot signed.
    pub(crate) fn remember(&self, signed: Option<SignedHead>) {
        let mut state = self.shared.state();
        state.signed = state.signed.take().or(signed);
    }

    /// What was signed before is not what lies here.
    pub(crate) async fn declare_lost(&self, signed: SignedHead, reason: String) {
        self.shared.lost(reason.clone(), Some(&signed));
        drop(self.ask(Ask::Lost(signed, reason)).await);
    }

    /// Nobody can tell whether what was signed before is what lay here. The line keeps what was signed, as a newer
    /// one takes its place in the store.
    pub(crate) fn declare_unknown(&self, signed: &SignedHead, reason: String) {
        self.note(writer::unknown_entry(signed, &reason));
        self.shared.unknown(reason);
    }

    /// The store has something as our signed head that is none. It says nothing about the log; somebody put it there.
    pub(crate) fn distrust(&self, reason: String) {
        let known = self.shared.state().distrusted.replace(reason.clone()).is_some();
        if !known {
            tracing::warn!(reason, "the store's signed head of the audit log is not believed");
            self.note(Entry::new("head-distrusted", Phase::Note).fact("reason", reason));
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Tip, Refusal> {
        let (ack, mut told) = oneshot::channel();
        self.queue.try_send(Job { ask, ack: Some(ack) }).map_err(|_| Refusal::NotNow(FULL.into()))?;
        let answer = match timeout(WAIT, &mut told).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                // From here on the writer knows that nobody waits; what it said before counts.
                told.close();
                told.try_recv().ok()
            }
        };
        answer.unwrap_or_else(|| {
            Err(Refusal::NotNow(self.shared.cause().unwrap_or_else(|| "its record took too long".into())))
        })
    }

    /// Why nothing can be recorded now.
    pub(crate) fn cause(&self) -> Option<String> {
        self.shared.cause()
    }

    /// The end of the log, as a checkpoint would sign it.
    pub(crate) fn head(&self, keyring_id: KeyringId) -> Option<Head> {
        let Tip { seq, hash, .. } = self.shared.state().tip;
        (hash != NO_LINE).then(|| Head { keyring_id, node: self.node.clone(), seq, hash })
    }

    /// Whether the files still hold what was signed, but for what is known of it already: a loss that is said, and
    /// a file that was taken away after it was looked into. Reads; not for a runtime's thread.
    pub(crate) fn compare(&self, signed: &Head) -> Comparison {
        let (tip, lost_to, compared_to) = {
            let state = self.shared.state();
            (state.tip, state.lost_to, state.compared_to)
        };
        if signed.seq <= lost_to {
            return Comparison::Holds;
        }
        self.shared.compared(signed);
        match read::compare(&self.dir, tip, signed) {
            Comparison::Unknown(_) if signed.seq <= compared_to => Comparison::Holds,
            found => found,
        }
    }

    /// The lines behind `after`, and where to go on. Reads; not for a runtime's thread.
    pub(crate) fn page(&self, after: u64) -> std::io::Result<(Vec<Json>, Option<u64>)> {
        let page = read::page(&self.dir, after)?;
        let more = !page.entries.is_empty() && page.last < self.shared.state().tip.seq;
        Ok((page.entries, more.then_some(page.last)))
    }

    /// Asks for a checkpoint now.
    pub(crate) fn checkpoint_soon(&self) {
        self.checkpoint.notify_one();
    }

    /// Ready when somebody asked for one.
    pub(crate) fn checkpoint_wanted(&self) -> Notified<'_> {
        self.checkpoint.notified()
    }

    /// From this size on a new file is begun.
    pub(crate) fn set_max_bytes(&self, bytes: u64) {
        self.shared.max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether one more refusal of this address may be written in full.
    pub(crate) fn admits(&self, from: Option<IpAddr>) -> bool {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner).admits(from, Instant::now())
    }

    /// Whether one more call with right shares of these holders may be written in full.
    fn admits_holders(&self, holders: &[HolderName]) -> bool {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner).admits_holders(holders, Instant::now())
    }

    /// What comes round: what was only counted is summed up, what was spilled is moved on.
    pub(crate) async fn keep(&self, metadata: &dyn Metadata) {
        let summary = self.quota.lock().unwrap_or_else(PoisonError::into_inner).summary(Instant::now());
        if let Some(summary) = summary {
            self.note(summary);
        }
        spill::keep(self, metadata).await;
    }

    /// What needs a person.
    pub(crate) fn needs(&self) -> Vec<String> {
        let cause = self.cause().map(|cause| {
            format!(
                "the audit log can't be written ({cause}): what makes, moves or destroys keys is refused until it \
                 can; put the file back, or move away what lies in its place and reload"
            )
        });
        let state = self.shared.state();
        let lost = state.lost.as_ref().map(|reason| {
            format!(
                "lines of the audit log were lost or altered ({reason}): look into it with `keymoot audit verify`"
            )
        });
        let unknown = state.unknown.as_ref().map(|reason| {
            format!("the audit log could not be compared with its signed head ({reason}): verify it with the files that were taken away")
        });
        let distrusted = state.distrusted.as_ref().map(|reason| {
            format!(
                "the metadata store had a signed head of the audit log that this node did not sign ({reason}): look \
                 into who can write to the store, and compare the log with a head that you kept"
            )
        });
        [cause, lost, unknown, distrusted].into_iter().flatten().collect()
    }

    /// Gauges that are read when somebody looks.
    pub(crate) fn measure(&self) {
        let ok = self.cause().is_none() && self.shared.state().lost.is_none();
        gauge!("keymoot_audit_ok").set(f64::from(u8::from(ok)));
    }
}

const FULL: &str = "more records wait to be written than there is room for";

fn not_sent(error: std::sync::mpsc::TrySendError<Job>) -> Job {
    match error {
        std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => job,
    }
}
