//! What stands before every batch: pause, cancel, kill switch, seal, limits; and every wait of a runner.

use std::{path::PathBuf, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
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
/// A pause without an end is looked at again so rarely, in case a signal was missed.
const PAUSED: Duration = Duration::from_secs(60);

/// Why a runner ends without having finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The node shuts down; the job goes on after the next start.
    Shutdown,
    /// The job was cancelled.
    Cancelled,
    /// Somebody else writes this source's checkpoint.
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
    kill_switch: PathBuf,
}

impl Gate {
    pub(crate) fn new(inner: Arc<Inner>, live: Arc<Live>, source: SourceName) -> Self {
        let (job, shutdown) = (live.watch(), inner.setup.shutdown.clone());
        let kill_switch = inner.setup.kill_switch.clone();
        Self { inner, live, source, job, shutdown, kill_switch }
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
                    self.paused(&record).await;
                    continue;
                }
                _ => return Err(Stop::Cancelled),
            }
            if let Some(reason) = self.obstacle().await {
                self.throttled(Some(reason));
                self.sleep(LOOK_AGAIN).await;
                continue;
            }
            if let Some(wait) = self.live.pacer.wait(&record.limits) {
                self.sleep(wait).await;
                continue;
            }
            match Service::look(self.inner.setup.keys.as_ref()) {
                Ok(service) => return Ok(service),
                Err(reason) => {
                    self.throttled(Some(reason.into()));
                    self.sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn paused(&mut self, record: &JobRecord) {
        let Some(until) = record.paused_until else {
            self.sleep(PAUSED).await;
            return;
        };
        let left = Duration::try_from(until.duration_since(clock::now())).unwrap_or_default();
        if self.sleep(left).await {
            // Slept the whole time: the wall clock is not asked again.
            if let Err(error) = self.inner.end_pause(record.id, until).await {
                self.throttled(Some(error.to_string()));
                self.sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn obstacle(&self) -> Option<String> {
        let path = &self.kill_switch;
        match tokio::fs::symlink_metadata(path).await {
            Ok(_) => Some(format!("kill switch {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.inner.setup.brake.as_ref().and_then(|brake| brake.reason())
            }
            // Whether it is there is not known, so it may be.
            Err(error) => Some(format!("kill switch {} can't be looked at: {error}", path.display())),
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
