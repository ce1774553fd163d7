//! What stands before every batch: pause, cancel, kill switch, seal, limits; and every wait of a runner.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    inner::Inner,
    job::{JobRecord, JobState},
    keys::Service,
    limits::Limits,
    live::Live,
};
use keymoot_types::SourceName;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// How often something that gives no signal is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A pause is looked at again so rarely, in case a signal was missed.
const PAUSED: Duration = Duration::from_secs(60);

/// Why a runner ends without having finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The node shuts down; the job goes on after the next start.
    Shutdown,
    /// The job was cancelled.
    Cancelled,
    /// Another node holds this source's lease.
    Fenced,
}

/// Growing waits with jitter, without an end.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(RETRY_FIRST)
        .with_max_delay(RETRY_LONGEST)
        .without_max_times()
        .build()
}

/// The gate of one source's runner.
pub(crate) struct Gate {
    inner: Arc<Inner>,
    live: Arc<Live>,
    source: SourceName,
    job: watch::Receiver<JobRecord>,
    shutdown: CancellationToken,
}

impl Gate {
    pub(crate) fn new(inner: Arc<Inner>, live: Arc<Live>, source: SourceName) -> Self {
        let (job, shutdown) = (live.watch(), inner.setup.shutdown.clone());
        Self { inner, live, source, job, shutdown }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) fn limits(&self) -> Limits {
        self.job.borrow().limits
    }

    pub(crate) fn retries(&self) -> u32 {
        self.job.borrow().retries
    }

    /// Waits until the next batch may begin, and looks at the keys for it.
    pub(crate) async fn pass(&mut self) -> Result<Service, Stop> {
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Stop::Shutdown);
            }
            let record = self.job.borrow_and_update().clone();
            match record.state {
                JobState::Running => {}
                JobState::Paused => {
                    self.sleep(PAUSED).await;
                    continue;
                }
                _ => return Err(Stop::Cancelled),
            }
            if let Some(wait) = self.live.pacer.wait(&record.limits) {
                self.sleep(wait).await;
                continue;
            }
            match self.inner.able().await {
                Ok(service) => return Ok(service),
                Err(reason) => {
                    self.throttled(Some(reason));
                    self.sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// Shows why this source waits; `None`: it does not.
    pub(crate) fn throttled(&self, reason: Option<String>) {
        self.live.throttled(&self.source, reason);
        self.inner.tell();
    }

    /// Shows the reason and waits for the next of the waits, for something outside to come back.
    pub(crate) async fn hibernate(
        &mut self,
        reason: String,
        waits: &mut (impl Iterator<Item = Duration> + Send),
    ) -> Result<(), Stop> {
        tracing::warn!(source = %self.source, %reason, "the rekey job waits");
        self.throttled(Some(reason));
        self.sleep(waits.next().unwrap_or(RETRY_LONGEST)).await;
        if self.shutdown.is_cancelled() { Err(Stop::Shutdown) } else { Ok(()) }
    }

    /// `true` when it slept the whole time; a change of the job or a shutdown wakes it.
    pub(crate) async fn sleep(&mut self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => false,
            changed = self.job.changed() => {
                if changed.is_err() {
                    // The job is no longer watched: it ended. Never spin on that.
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                false
            }
            () = tokio::time::sleep(time) => true,
        }
    }
}
