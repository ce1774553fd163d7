//! The one thread that writes: takes what is asked for in groups, and watches the file in between.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use keymoot_types::{
    NodeName,
    audit::{Chain, Entry, EntryError, Made, Phase, SignedHead, Tip},
};
use serde_json::{Map, Value as Json, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Refusal, Shared,
    file::LogFile,
    read::{self, Comparison},
    recover::{self, Found},
};
use crate::node::wall_clock;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Every so many looks its last line is read back.
const READ_BACK_EVERY: u32 = 10;
/// Lines of one write.
const GROUP_MAX: usize = 128;
pub(super) const GROUP_BYTES_MAX: usize = 512 * 1024;

/// What the writer is asked for.
pub(super) enum Ask {
    /// A line, and under which id it is spilled where that takes too long.
    Append { entry: Entry, spilled_as: Option<Uuid> },
    /// A line that says what was signed, if that is still the end of the log.
    Checkpoint(SignedHead),
    /// What was signed is no longer there.
    Lost(SignedHead, String),
    /// A new file, if the old one was moved away.
    Reopen,
}

pub(super) struct Job {
    pub(super) ask: Ask,
    /// Who waits; nobody for what the daemon notes by itself.
    pub(super) ack: Option<oneshot::Sender<Result<Tip, Refusal>>>,
}

impl Job {
    pub(super) fn note(entry: Entry) -> Self {
        Self { ask: Ask::Append { entry, spilled_as: None }, ack: None }
    }

    fn spilled_as(&self) -> Option<Uuid> {
        match self.ask {
            Ask::Append { spilled_as, .. } => spilled_as,
            _ => None,
        }
    }
}

/// What was known when the node started.
pub(super) struct Start {
    pub(super) dir: PathBuf,
    pub(super) node: NodeName,
    pub(super) boot: String,
    /// The newest signed head in the metadata store.
    pub(super) remembered: Option<SignedHead>,
    /// What is true now: by it intents without an outcome are settled.
    pub(super) standing: Map<String, Json>,
}

/// The log as it was found, and where its chain stands.
struct Live {
    chain: Chain,
    log: LogFile,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    start: Start,
    live: Option<Live>,
    /// Bytes that were cut off at the start and are yet to be told of.
    torn: u64,
    failing: Option<(String, Instant)>,
    looks: u32,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, start: Start) -> Self {
        Self { shared, start, live: None, torn: 0, failing: None, looks: 0 }
    }

    /// Until the queue's other end is gone.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        self.recover();
        let mut looked = Instant::now();
        loop {
            match queue.recv_timeout(LOOK.saturating_sub(looked.elapsed())) {
                Ok(first) => {
                    let mut jobs = vec![first];
                    while jobs.len() < GROUP_MAX
                        && let Ok(next) = queue.try_recv()
                    {
                        jobs.push(next);
                    }
                    self.take(jobs);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if looked.elapsed() >= LOOK {
                self.look();
                looked = Instant::now();
            }
        }
    }

    fn take(&mut self, jobs: Vec<Job>) {
        let (reopen, lines): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| matches!(job.ask, Ask::Reopen));
        self.write(lines);
        for job in reopen {
            let outcome = self.reopen();
            answer(job, outcome);
        }
    }

    /// Writes all lines by one write and one sync.
    fn write(&mut self, jobs: Vec<Job>) {
        let mut rest = jobs.into_iter().peekable();
        while rest.peek().is_some() {
            let Some(live) = self.live.as_mut().filter(|_| self.failing.is_none()) else {
                let cause = self.shared.cause().unwrap_or_default();
                rest.for_each(|job| self.shared.refuse(job, Refusal::NotNow(cause.clone())));
                return;
            };
            let mut chain = live.chain.clone();
            let (mut bytes, mut made) = (Vec::new(), Vec::new());
            while bytes.len() < GROUP_BYTES_MAX
                && let Some(job) = rest.next()
            {
                // Nobody waits for it any more: it was refused, or spilled.
                if job.ack.as_ref().is_some_and(oneshot::Sender::is_closed) {
                    continue;
                }
                // The copy of one that took too long and was written after all.
                if job.spilled_as().is_some_and(|id| self.shared.spills.is_written(id)) {
                    answer(job, Ok(chain.tip()));
                    continue;
                }
                match line(&mut chain, &job.ask) {
                    Ok(line) => {
                        bytes.extend_from_slice(&line.bytes);
                        made.push((job, line.tip));
                    }
                    Err(refusal) => self.shared.refuse(job, refusal),
                }
            }
            let Some((_, first)) = made.first() else { continue };
            let max = self.shared.max_bytes();
            let outcome = self.shared.watched(|| live.append(&bytes, first.seq, max));
            match outcome {
                Ok(()) => {
                    live.chain = chain;
                    self.written(made);
                }
                Err(cause) => {
                    self.fail(&cause);
                    made.into_iter().for_each(|(job, _)| self.shared.refuse(job, Refusal::NotNow(cause.clone())));
                }
            }
        }
    }

    fn written(&mut self, made: Vec<(Job, Tip)>) {
        if let Some((_, tip)) = made.last() {
            self.shared.written(*tip, made.len());
        }
        let mut abandoned = Vec::new();
        for (job, tip) in made {
            let intent = matches!(&job.ask, Ask::Append { entry, .. } if entry.phase() == Phase::Intent);
            let spilled_as = job.spilled_as();
            let gone = job.ack.is_some_and(|ack| ack.send(Ok(tip)).is_err());
            if let Some(id) = spilled_as.filter(|_| gone) {
                self.shared.spills.written_after_all(id);
            } else if gone && intent {
                let entry = Entry::new("not-done", Phase::Refused)
                    .fact("intent", tip.seq)
                    .fact("reason", "its record took too long, so nothing was done");
                abandoned.push(Job::note(entry));
            }
        }
        if !abandoned.is_empty() {
            self.write(abandoned);
        }
    }

    /// Looks at the file; where it failed, tries whether it works again.
    fn look(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        if self.live.is_none() {
            return self.recover();
        }
        if self.failing.is_some() {
            return self.resume();
        }
        let Some(live) = &self.live else { return };
        let read_back = self.looks.is_multiple_of(READ_BACK_EVERY);
        let found = self.shared.watched(|| {
            live.log.check()?;
            if read_back { live.ends_at_tip() } else { Ok(()) }
        });
        if let Err(cause) = found {
            self.fail(&cause);
        }
    }

    fn fail(&mut self, cause: &str) {
        if self.failing.as_ref().is_none_or(|(known, _)| known != cause) {
            tracing::error!(
                cause,
                "the audit log can't be written: what makes, moves or destroys keys is refused"
            );
        }
        let since = self.failing.take().map_or_else(Instant::now, |(_, since)| since);
        self.failing = Some((cause.to_owned(), since));
        self.shared.failed(cause);
    }

    /// The first look of this boot: finds the chain's end, and says what was found.
    fn recover(&mut self) {
        let shared = self.shared.clone();
        if let Err(cause) = shared.watched(|| self.begin()) {
            self.fail(&cause);
        }
    }

    fn begin(&mut self) -> Result<(), String> {
        let Found { log, tip, torn, flaw, unsettled } = recover::recover(&self.start.dir)?;
        self.torn += torn;
        let mut chain = Chain::new(self.start.node.clone(), &self.start.boot, tip);
        let mut entries = Vec::new();
        let mut lost = flaw.clone().map(|flaw| (flaw, None));
        if let Some(signed) = &self.start.remembered {
            match read::compare(&self.start.dir, tip, &signed.head) {
                Comparison::Differs(reason) => {
                    chain.declare_lost(signed.head.seq);
                    entries.push(lost_entry(signed, &reason, tip));
                    lost = Some((reason, Some(signed)));
                }
                Comparison::Unknown(reason) => {
                    tracing::warn!(reason, "the audit log could not be compared with its signed head");
                    entries.push(unknown_entry(signed, &reason));
                    self.shared.unknown(reason);
                }
                Comparison::Holds => {}
            }
            self.shared.compared(&signed.head);
        }
        if let Some(flaw) = flaw {
            entries.push(Entry::log_lost(None, flaw).map_err(|error| error.to_string())?);
        }
        if self.torn > 0 {
            entries.push(Entry::new("torn-line-cut", Phase::Note).fact("bytes", self.torn));
        }
        for (seq, event) in unsettled {
            let mut entry = Entry::new("settled", Phase::Note).fact("intent", seq).fact("of", event);
            for (name, value) in &self.start.standing {
                entry = entry.fact(name, value.clone());
            }
            entries.push(entry);
        }
        entries.push(Entry::new("boot", Phase::Note).fact("program", env!("CARGO_PKG_VERSION")));
        let mut live = Live { chain, log };
        let count = entries.len();
        live.append_all(&entries, self.shared.max_bytes())?;
        self.torn = 0;
        if let Some((reason, of)) = lost {
            tracing::error!(reason, "lines of the audit log were lost");
            self.shared.lost(reason, of);
        }
        self.shared.written(live.chain.tip(), count);
        self.live = Some(live);
        self.works();
        Ok(())
    }

    fn works(&mut self) {
        if let Some((cause, _)) = self.failing.take() {
            tracing::info!(cause, "the audit log is written again");
        }
        self.shared.works();
    }

    /// Whether the file is back, or the disk has space again: a line is written to find out.
    fn resume(&mut self) {
        let shared = self.shared.clone();
        let outcome: Result<(), String> = shared.watched(|| {
            let Some(live) = &mut self.live else { return Ok(()) };
            live.find_again(&self.start.dir)?;
            let (cause, since) = self.failing.clone().unwrap_or_else(|| (String::new(), Instant::now()));
            let entry = Entry::new("log-resumed", Phase::Note)
                .fact("cause", cause)
                .fact("failed_s", since.elapsed().as_secs());
            live.append_all(&[entry], shared.max_bytes())?;
            shared.written(live.chain.tip(), 1);
            Ok(())
        });
        match outcome {
            Ok(()) => self.works(),
            Err(cause) => self.fail(&cause),
        }
    }

    /// An operator moved the file away, or wants it so: a new one is begun, and the chain goes on in it.
    fn reopen(&mut self) -> Result<Tip, Refusal> {
        let shared = self.shared.clone();
        let Some(live) = &mut self.live else {
            return Err(Refusal::NotNow(shared.cause().unwrap_or_default()));
        };
        let outcome: Result<bool, String> = shared.watched(|| {
            if live.log.path().exists() {
                return Ok(false);
            }
            let log = LogFile::begin(&self.start.dir)?;
            let mut anew = Live { chain: live.chain.clone(), log };
            let mut entry = Entry::new("new-file", Phase::Note);
            if let Some((cause, _)) = &self.failing {
                entry = entry.fact("cause", cause.as_str());
            }
            anew.append_all(&[entry], shared.max_bytes())?;
            shared.written(anew.chain.tip(), 1);
            *live = anew;
            Ok(true)
        });
        let tip = live.chain.tip();
        match outcome {
            Ok(true) => self.works(),
            Ok(false) => {}
            Err(cause) => {
                self.fail(&cause);
                return Err(Refusal::NotNow(cause));
            }
        }
        Ok(tip)
    }
}

impl Live {
    fn append(&mut self, bytes: &[u8], seq: u64, max_bytes: u64) -> Result<(), String> {
        if self.log.len() > 0 && self.log.len() + bytes.len() as u64 > max_bytes {
            self.log.check()?;
            self.log.rotate()?;
        }
        self.log.append(bytes, seq)
    }

    fn append_all(&mut self, entries: &[Entry], max_bytes: u64) -> Result<(), String> {
        let mut chain = self.chain.clone();
        let mut bytes = Vec::new();
        let first = chain.tip().seq + 1;
        for entry in entries {
            let made = chain.next(wall_clock(), entry).map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&made.bytes);
            chain.advance(&made);
        }
        self.append(&bytes, first, max_bytes)?;
        self.chain = chain;
        Ok(())
    }

    /// Whether the file that lies there ends where the chain does.
    fn ends_at_tip(&self) -> Result<(), String> {
        let path = self.log.path().display();
        let tail = read::tail(self.log.path()).map_err(|error| format!("{path}: {error}"))?;
        let tip = self.chain.tip();
        if self.log.len() == 0 || tail.lines.last().map(Tip::after) == Some(tip) {
            return Ok(());
        }
        Err(format!("{path} was altered: it does not end with seq {}, which was the last to be written", tip.seq))
    }

    /// Takes the file up again: the same one, or one that ends where the chain does.
    fn find_again(&mut self, dir: &std::path::Path) -> Result<(), String> {
        self.log.tidy()?;
        let Err(cause) = self.log.check() else { return self.ends_at_tip() };
        let tip = self.chain.tip();
        let found = recover::newest(dir)?.ok_or(cause.clone())?;
        if !found.current {
            // A rotation was cut short between its two steps.
            if found.tip() != tip {
                return Err(cause);
            }
            self.log = LogFile::begin(dir)?;
            return Ok(());
        }
        if found.tip() != tip || found.tail.torn > 0 {
            return Err(cause);
        }
        self.log = LogFile::open(dir, found.tail.len, found.tail.first_seq)?;
        Ok(())
    }
}

/// The next line of the chain, which goes on to it; what can be no line leaves it where it is.
fn line(chain: &mut Chain, ask: &Ask) -> Result<Made, Refusal> {
    let mut next = chain.clone();
    let tip = next.tip();
    let entry = match ask {
        Ask::Append { entry, .. } => entry.clone(),
        Ask::Checkpoint(signed) => {
            if (signed.head.seq, signed.head.hash) != (tip.seq, tip.hash) {
                return Err(Refusal::NotNow("the log went on meanwhile".into()));
            }
            Entry::checkpoint(signed).map_err(never)?
        }
        Ask::Lost(signed, reason) => {
            next.declare_lost(signed.head.seq);
            lost_entry(signed, reason, tip)
        }
        Ask::Reopen => return Err(Refusal::Never("it is none".into())),
    };
    let made = next.next(wall_clock(), &entry).map_err(never)?;
    next.advance(&made);
    *chain = next;
    Ok(made)
}

fn never(error: EntryError) -> Refusal {
    Refusal::Never(error.to_string())
}

pub(super) fn unknown_entry(signed: &SignedHead, reason: &str) -> Entry {
    let entry = Entry::new("head-not-found", Phase::Note).fact("reason", reason);
    match serde_json::to_value(signed) {
        Ok(signed) => entry.fact("remembered", signed),
        Err(_) => entry,
    }
}

fn lost_entry(signed: &SignedHead, reason: &str, found: Tip) -> Entry {
    let entry = Entry::log_lost(Some(signed), reason)
        .unwrap_or_else(|_| Entry::new(keymoot_types::audit::LOG_LOST, Phase::Note).fact("reason", reason));
    entry.fact("found", json!({"seq": found.seq, "hash": found.hash}))
}

fn answer(job: Job, outcome: Result<Tip, Refusal>) {
    if let Some(ack) = job.ack {
        // Whoever asked may be gone.
        drop(ack.send(outcome));
    }
}

#[cfg(test)]
mod tests {
    use keymoot_types::{Digest, KeyVersion, KeyringId, audit::Head};

    use super::*;

    #[test]
    fn what_can_be_no_line_leaves_the_chain_where_it_is() {
        let node: NodeName = "local".parse().unwrap();
        let mut chain = Chain::new(node.clone(), "boot", Tip::START);
        let append = |entry| Ask::Append { entry, spilled_as: None };
        let fine = || append(Entry::new("seal", Phase::Done));
        line(&mut chain, &fine()).unwrap();
        let tip = chain.tip();
        let lost = |seq: u64| {
            let head =
                Head { keyring_id: KeyringId::new([1; 8]), node: node.clone(), seq, hash: Digest::new([2; 32]) };
            let version = KeyVersion::new(9).unwrap();
            Ask::Lost(SignedHead { head, version, public_key: [3; 32], signature: [4; 64] }, "it was cut".into())
        };
        for bad in [lost(1 << 53), lost(u64::MAX), append(Entry::new("not a word", Phase::Done))] {
            assert!(matches!(line(&mut chain, &bad), Err(Refusal::Never(_))));
            assert_eq!(chain.tip(), tip);
        }
        assert_eq!(line(&mut chain, &lost(100)).unwrap().tip.seq, 101);
        assert_eq!(line(&mut chain, &fine()).unwrap().tip.seq, 102);
    }
}
