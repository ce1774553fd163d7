//! A job that is being worked on in this process: what its runners share and what is shown of it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keymoot_types::SourceName;
use tokio::{sync::watch, time::Instant};

use crate::{
    checkpoint::Durable,
    clock,
    job::{JobRecord, SourceRecord, Throttle},
    lease::Holder,
    limits::Pacer,
    view::{JobView, SourceView},
};

/// How far back the rate that is shown looks.
const RATE_WINDOW_S: f64 = 10.0;

/// One job at work.
pub(crate) struct Live {
    /// The stored record; held while it is changed.
    pub(crate) record: tokio::sync::Mutex<Durable<JobRecord>>,
    shown: watch::Sender<JobRecord>,
    sources: Mutex<BTreeMap<SourceName, SourceLive>>,
    pub(crate) pacer: Pacer,
    /// This node.
    holder: Holder,
    /// Sources of it that runners of this node work on.
    sources_at_work: AtomicUsize,
}

struct SourceLive {
    record: SourceRecord,
    rate: Rate,
    throttled: Option<Throttle>,
    /// It waits for its own server, which is as busy for every other node: nobody else need have a try.
    strained: bool,
}

impl Live {
    pub(crate) fn new(record: Durable<JobRecord>, sources: &[Durable<SourceRecord>], holder: Holder) -> Self {
        let (shown, _) = watch::channel(record.value().clone());
        let sources = sources
            .iter()
            .map(|source| {
                let record = source.value().clone();
                let rate = Rate { at: Instant::now(), scanned: record.counters.scanned, per_second: None };
                (record.name.clone(), SourceLive { record, rate, throttled: None, strained: false })
            })
            .collect();
        Self {
            record: tokio::sync::Mutex::new(record),
            shown,
            sources: Mutex::new(sources),
            pacer: Pacer::default(),
            holder,
            sources_at_work: AtomicUsize::new(0),
        }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<SourceName, SourceLive>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<JobRecord> {
        self.shown.subscribe()
    }

    /// The job's record was stored.
    pub(crate) fn show(&self, record: JobRecord) {
        self.shown.send_replace(record);
    }

    pub(crate) fn job(&self) -> JobRecord {
        self.shown.borrow().clone()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shown.borrow().state.ended()
    }

    /// A checkpoint was stored, here or by another node: whatever held the source back is over. While it waits for its
    /// server that may be no more than the lease's renewal.
    pub(crate) fn checkpoint(&self, record: &SourceRecord) {
        if let Some(source) = self.sources().get_mut(&record.name) {
            source.rate.reached(record.counters.scanned);
            source.record = record.clone();
            if !source.strained {
                source.throttled = None;
            }
        }
    }

    /// It waits for something of this node.
    pub(crate) fn throttled(&self, source: &SourceName, reason: Option<String>) {
        if let Some(source) = self.sources().get_mut(source) {
            source.waits(reason, &self.holder);
            source.strained = false;
        }
    }

    /// It waits for its own server.
    pub(crate) fn strained(&self, source: &SourceName, reason: String) {
        if let Some(source) = self.sources().get_mut(source) {
            source.waits(Some(reason), &self.holder);
            source.strained = true;
        }
    }

    /// Its server is at ease again, or nobody here waits for it any more.
    pub(crate) fn relieved(&self, source: &SourceName) {
        if let Some(source) = self.sources().get_mut(source).filter(|source| source.strained) {
            source.throttled = None;
            source.strained = false;
        }
    }

    pub(crate) fn is_throttled(&self, source: &SourceName) -> bool {
        self.throttle(source).is_some()
    }

    /// What it waits for on this node.
    pub(crate) fn throttle(&self, source: &SourceName) -> Option<Throttle> {
        self.sources().get(source)?.throttled.clone()
    }

    /// Whether it waits for its own server.
    pub(crate) fn is_strained(&self, source: &SourceName) -> bool {
        self.sources().get(source).is_some_and(|source| source.strained)
    }

    /// Whether another source may be begun beside these. As long as one of them gets on, it has the workers: two
    /// sources may be columns of one table, whose rows they would lock for each other.
    pub(crate) fn has_room<'a>(&self, mut at_work: impl ExactSizeIterator<Item = &'a SourceName>) -> bool {
        at_work.len() < self.shown.borrow().limits.workers() && at_work.all(|source| self.is_throttled(source))
    }

    pub(crate) fn works_on(&self, sources: usize) {
        self.sources_at_work.store(sources, Ordering::Relaxed);
    }

    /// The share of one source in the job's workers.
    pub(crate) fn chunks_at_a_time(&self) -> usize {
        let sources = self.sources_at_work.load(Ordering::Relaxed).max(1);
        (self.shown.borrow().limits.workers() / sources).max(1)
    }

    pub(crate) fn source_record(&self, source: &SourceName) -> Option<SourceRecord> {
        self.sources().get(source).map(|source| source.record.clone())
    }

    pub(crate) fn view(&self) -> JobView {
        let job = self.job();
        let sources = self.sources();
        let views = job
            .sources
            .iter()
            .filter_map(|name| sources.get(name))
            .map(|source| {
                // What this node has stored of its own wait may be over already.
                let stored =
                    || source.record.throttled.as_ref().filter(|_| !source.record.lease.is_held_by(&self.holder));
                let throttled = source.throttled.as_ref().or_else(stored);
                SourceView::of(&source.record, job.state, source.rate.now(), throttled)
            })
            .collect();
        JobView::of(&job, views)
    }
}

impl SourceLive {
    fn waits(&mut self, reason: Option<String>, holder: &Holder) {
        let since = self.throttled.take().map(|before| before.since);
        self.throttled = reason.map(|reason| Throttle {
            reason,
            node: holder.node.clone(),
            since: since.unwrap_or_else(clock::now),
        });
    }
}

struct Rate {
    at: Instant,
    scanned: u64,
    per_second: Option<f64>,
}

impl Rate {
    #[allow(clippy::cast_precision_loss, reason = "a rate that people look at")]
    fn reached(&mut self, scanned: u64) {
        let now = Instant::now();
        let took = now.duration_since(self.at).as_secs_f64();
        if took <= 0.0 {
            return;
        }
        let rate = scanned.saturating_sub(self.scanned) as f64 / took;
        let weight = 1.0 - (-took / RATE_WINDOW_S).exp();
        self.per_second = Some(self.per_second.map_or(rate, |old| old + weight * (rate - old)));
        self.at = now;
        self.scanned = scanned;
    }

    /// Falls by itself where nothing is reached any more.
    fn now(&self) -> f64 {
        let idle = self.at.elapsed().saturating_sub(Duration::from_secs(1)).as_secs_f64();
        self.per_second.unwrap_or(0.0) * (-idle / RATE_WINDOW_S).exp()
    }
}
