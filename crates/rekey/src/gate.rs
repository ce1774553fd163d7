//! What stands before every batch: pause, cancel, limits, kill switch, window, seal, the load of the node and of the
//! source's server; and every wait of a runner.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    inner::Inner,
    job::JobRecord,
    keys::Service,
    limits::Pace,
    live::Live,
    manners::Strain,
    probe::{Ease, Probe},
};
use keymoot_types::{SourceName, lifecycle::JobState};

const RETRY_FIRST: Duration = Duration::from_millis(200);
/// With jitter up to twice as long.
const RETRY_LONGEST: Duration = Duration::from_secs(15);
/// How often something that gives no signal is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Above a hard limit nothing is asked of a server for so long.
const HIBERNATE: Duration = Duration::from_secs(30);
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
#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
    live: Arc<Live>,
    source: SourceName,
    job: watch::Receiver<JobRecord>,
    shutdown: CancellationToken,
    careful: Arc<Careful>,
}

/// What all chunks of a source share, so that its server is asked for all of them at once.
struct Careful {
    live: Arc<Live>,
    source: SourceName,
    probe: tokio::sync::Mutex<Probe>,
    ease: Mutex<Ease>,
    /// Its preflight found nothing.
    looked_at: AtomicBool,
}

impl Drop for Careful {
    fn drop(&mut self) {
        self.live.relieved(&self.source);
    }
}

impl Gate {
    pub(crate) fn new(inner: Arc<Inner>, live: Arc<Live>, source: SourceName) -> Self {
        let (job, shutdown) = (live.watch(), inner.setup.shutdown.clone());
        let (probe, ease) = (tokio::sync::Mutex::default(), Mutex::default());
        let looked_at = AtomicBool::new(false);
        let careful = Arc::new(Careful { live: live.clone(), source: source.clone(), probe, ease, looked_at });
        Self { inner, live, source, job, shutdown, careful }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The limits of the next batch.
    pub(crate) fn limits(&self) -> Pace {
        let halvings = self.ease().halvings();
        self.job.borrow().limits.at_pace(halvings)
    }

    fn ease(&self) -> MutexGuard<'_, Ease> {
        self.careful.ease.lock().unwrap_or_else(PoisonError::into_inner)
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
            if let Some(wait) = self.live.pacer.wait(&self.limits()) {
                self.sleep(wait).await;
                continue;
            }
            if let Some(reason) = self.inner.forbidden().await {
                self.throttled(Some(reason));
                self.sleep(LOOK_AGAIN).await;
                continue;
            }
            if let Some(strain) = self.strain().await {
                let hard = matches!(strain, Strain::Hard(_));
                self.sleep(if hard { HIBERNATE } else { LOOK_AGAIN }).await;
                continue;
            }
            // Asked last, so that no key is held in any wait.
            if let Ok(service) = Service::look(self.inner.setup.keys.as_ref()) {
                return Ok(service);
            }
        }
    }

    /// The keys, for what needs no wait: the job goes on, and this node has them.
    pub(crate) fn is_open(&self) -> Option<Service> {
        let running = self.job.borrow().state == JobState::Running && !self.shutdown.is_cancelled();
        running.then(|| Service::look(self.inner.setup.keys.as_ref()).ok()).flatten()
    }

    /// What the source's server suffers, or this node's services, shown as the reason to wait.
    async fn strain(&mut self) -> Option<Strain> {
        let server = self.server().await;
        let node = self.inner.foreground();
        self.ease().feel(server.is_some() || node.is_some());
        match (&server, &node) {
            (Some(strain), _) => self.live.strained(&self.source, strain.reason()),
            (None, Some(strain)) => self.live.throttled(&self.source, Some(strain.reason())),
            (None, None) => {
                self.live.relieved(&self.source);
                return None;
            }
        }
        self.inner.tell();
        server.or(node)
    }

    async fn server(&mut self) -> Option<Strain> {
        // One that is declared no longer can't be asked; its runner goes on with what it has open.
        let source = self.inner.setup.sources.source(&self.source)?;
        match self.careful.probe.lock().await.look(source).await {
            Ok(load) => self.inner.manners().strain(&load),
            // Nothing is written yet, and whoever can't be asked may be refused for good.
            Err(_) if !self.careful.looked_at.load(Ordering::Relaxed) => None,
            Err(reason) => Some(Strain::Soft(reason)),
        }
    }

    /// From now on a server that can't be asked is waited for.
    pub(crate) fn looked_at(&self) {
        self.careful.looked_at.store(true, Ordering::Relaxed);
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
