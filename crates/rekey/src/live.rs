//! A job that is being worked on in this process: what its runners share and what is shown of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keymoot_types::SourceName;
use tokio::{sync::watch, time::Instant};

use crate::{
    checkpoint::Durable,
    job::{JobRecord, SourceRecord},
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
}

struct SourceLive {
    record: SourceRecord,
    rate: Rate,
    throttled: Option<String>,
}

impl Live {
    pub(crate) fn new(record: Durable<JobRecord>, sources: &[Durable<SourceRecord>]) -> Self {
        let (shown, _) = watch::channel(record.value().clone());
        let sources = sources
            .iter()
            .map(|source| {
                let record = source.value().clone();
                let rate = Rate { at: Instant::now(), scanned: record.counters.scanned, per_second: None };
                (record.name.clone(), SourceLive { record, rate, throttled: None })
            })
            .collect();
        Self {
            record: tokio::sync::Mutex::new(record),
            shown,
            sources: Mutex::new(sources),
            pacer: Pacer::default(),
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

    /// A checkpoint was stored, here or by another node: whatever held the source back is over.
    pub(crate) fn checkpoint(&self, record: &SourceRecord) {
        if let Some(source) = self.sources().get_mut(&record.name) {
            source.rate.reached(record.counters.scanned);
            source.record = record.clone();
            source.throttled = None;
        }
    }

    pub(crate) fn throttled(&self, source: &SourceName, reason: Option<String>) {
        if let Some(source) = self.sources().get_mut(source) {
            source.throttled = reason;
        }
    }

    pub(crate) fn is_throttled(&self, source: &SourceName) -> bool {
        self.sources().get(source).is_some_and(|source| source.throttled.is_some())
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
            .map(|source| SourceView::of(&source.record, job.state, source.rate.now()))
            .collect();
        let mut reasons: Vec<_> = sources.values().filter_map(|source| source.throttled.clone()).collect();
        reasons.dedup();
        JobView::of(&job, reasons, views)
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
