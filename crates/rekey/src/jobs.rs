//! The jobs of a node: asked for, stored, driven, shown.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use keymoot_storage::metadata::{Metadata, MetadataError};
use keymoot_types::{SourceName, lifecycle::JobState};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{Durable, job_key, source_key},
    clock,
    gate::backoff,
    inner::Inner,
    job::{JobId, JobRecord, SourceRecord, TimedPause},
    keys::{Brake, Keys, Sources},
    lease::Holder,
    limits::{LimitError, Limits, LimitsPatch},
    plan::Blocker,
    view::{JobView, SourceView},
};

/// The longest pause with an end; without one it lasts until it is resumed.
const PAUSE_LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// How often jobs are looked for that were asked for on another node.
const LOOK_FOR_JOBS: Duration = Duration::from_secs(5);

/// What jobs work with.
pub struct Setup {
    /// Where jobs and checkpoints are kept.
    pub metadata: Arc<dyn Metadata>,
    /// The keys in service.
    pub keys: Arc<dyn Keys>,
    /// In whose name leases are taken.
    pub holder: Holder,
    /// The declared sources.
    pub sources: Arc<dyn Sources>,
    /// The file whose presence pauses every job of this node.
    pub kill_switch: PathBuf,
    /// What jobs are careful of; none: the usual limits, and nothing is known of the node's own latency.
    pub brake: Option<Arc<dyn Brake>>,
    /// Cancelled when the node shuts down: runners stop behind the present batch.
    pub shutdown: CancellationToken,
    /// Where jobs run: their threads give way to those that answer services.
    pub runtime: Handle,
}

/// A wish for a job.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Which sources; `None`: all that are declared.
    pub sources: Option<Vec<SourceName>>,
    /// Decrypt and check everything, write nothing to a source.
    pub dry_run: bool,
    /// Limits to begin with.
    pub limits: LimitsPatch,
}

/// Why something was not done to a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobsError {
    /// There is no such job.
    #[error("there is no rekey job {0}")]
    NotFound(JobId),
    /// There is no such source, or none at all.
    #[error("source {0} is not declared")]
    UnknownSource(SourceName),
    /// A job without a source does nothing.
    #[error("no source is declared, so there is nothing to rekey")]
    NoSource,
    /// A running or paused job has the source already.
    #[error("job {job} is not done with source {source_name} yet: let it end or cancel it first")]
    Busy {
        /// The job.
        job: JobId,
        /// The source.
        source_name: SourceName,
    },
    /// Nothing would be written to these sources: nothing was begun.
    #[error("the preflight refuses, and no job was started: {}", list(.0))]
    Blocked(Vec<Blocker>),
    /// The job's state does not allow it.
    #[error("the job is {0}")]
    State(JobState),
    /// A limit out of range.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// A page mark that no page ended with.
    #[error("`after` is not what a page ended with")]
    PageMark,
    /// The metadata store.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

fn list(blockers: &[Blocker]) -> String {
    let all = blockers.iter().map(|blocker| format!("{}: {}", blocker.source_name, blocker.reason));
    all.collect::<Vec<_>>().join("; ")
}

/// The jobs of a node. Clones are the same jobs.
#[derive(Clone)]
pub struct Jobs {
    pub(crate) inner: Arc<Inner>,
}

impl Jobs {
    /// No job runs yet: see [`Jobs::resume_all`].
    pub fn new(setup: Setup) -> Self {
        Self { inner: Arc::new(Inner::new(setup)) }
    }

    /// Starts a job, unless the preflight of one of its sources has a blocker; a dry run, which writes nothing, is
    /// begun all the same. It is durable when this returns. After an error of the metadata store the job may exist all
    /// the same: list the jobs.
    pub async fn start(&self, wish: Start) -> Result<JobView, JobsError> {
        let inner = &self.inner;
        let limits = Limits::default().patched(wish.limits)?;
        let sources = inner.wanted_sources(wish.sources)?;
        self.refuse_busy(&sources, None).await?;
        if !wish.dry_run {
            self.refuse_blocked(&sources).await?;
        }
        let _one_at_a_time = inner.lock_starts().await;
        self.refuse_busy(&sources, None).await?;
        let id = JobId::generate();
        let job = JobRecord {
            id,
            state: JobState::Running,
            dry_run: wish.dry_run,
            started_at: clock::now(),
            ended_at: None,
            reason: None,
            pause: None,
            limits,
            retries: 0,
            sources,
        };
        // The job's own record last: a job is there with all of its sources or not at all.
        for source in &job.sources {
            let record = SourceRecord::new(source.clone());
            Durable::new(source_key(id, source), record.clone()).save(inner.metadata(), record).await?;
        }
        Durable::new(job_key(id), job.clone()).save(inner.metadata(), job).await?;
        tracing::info!(job = %id, dry_run = wish.dry_run, "rekey job started");
        inner.adopt(id).await?;
        self.view(id).await
    }

    /// Goes on with every job that was running or paused. Waits for the metadata store; call it once, after the
    /// node's start. A job whose record is damaged is logged and left.
    pub async fn resume_all(&self) -> Result<Vec<JobId>, JobsError> {
        let mut waits = backoff();
        loop {
            match self.adopt_all().await {
                Err(JobsError::Metadata(MetadataError::Unavailable(reason))) => {
                    tracing::warn!(%reason, "rekey jobs can't be resumed yet");
                    tokio::select! {
                        () = self.inner.setup.shutdown.cancelled() => return Ok(Vec::new()),
                        () = tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(30))) => {}
                    }
                }
                done => return done,
            }
        }
    }

    /// Takes part in the jobs that were asked for on other nodes, until the shutdown.
    pub async fn follow(&self) {
        loop {
            tokio::select! {
                () = self.inner.setup.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_FOR_JOBS) => {}
            }
            if let Err(error) = self.adopt_all().await {
                tracing::debug!(%error, "jobs of other nodes can't be looked up");
            }
        }
    }

    async fn adopt_all(&self) -> Result<Vec<JobId>, JobsError> {
        let mut resumed = Vec::new();
        for job in self.inner.stored_jobs().await? {
            if !job.state.ended() && self.inner.adopt(job.id).await? {
                tracing::info!(job = %job.id, state = %job.state, "rekey job resumed");
                resumed.push(job.id);
            }
        }
        Ok(resumed)
    }

    /// Refuses while a job is not done with the source.
    pub async fn not_busy_with(&self, source: &SourceName) -> Result<(), JobsError> {
        self.refuse_busy(std::slice::from_ref(source), None).await
    }

    pub(crate) async fn refuse_busy(&self, sources: &[SourceName], but: Option<JobId>) -> Result<(), JobsError> {
        for job in self.inner.stored_jobs().await? {
            let busy = sources.iter().find(|source| job.sources.contains(source));
            if let (Some(source), false, false) = (busy, job.state.ended(), Some(job.id) == but) {
                // A job that a lost answer hid is found here and worked on.
                self.inner.adopt(job.id).await?;
                return Err(JobsError::Busy { job: job.id, source_name: source.clone() });
            }
        }
        Ok(())
    }

    /// Every job, the newest first.
    pub async fn list(&self) -> Result<Vec<JobView>, JobsError> {
        let mut views = Vec::new();
        for job in self.inner.stored_jobs().await?.into_iter().rev() {
            views.push(self.view(job.id).await?);
        }
        Ok(views)
    }

    /// One job. One that runs here is shown without asking the metadata store.
    pub async fn view(&self, id: JobId) -> Result<JobView, JobsError> {
        if let Some(live) = self.inner.live(id) {
            return Ok(live.view());
        }
        let metadata = self.inner.metadata();
        let job = Durable::<JobRecord>::load(metadata, &job_key(id)).await?.ok_or(JobsError::NotFound(id))?;
        let job = job.value();
        let views = self.inner.stored_sources(id).await?;
        let view = |source: &SourceRecord| SourceView::of(source, job.state, 0.0, source.throttled.as_ref());
        Ok(JobView::of(job, views.iter().map(|source| view(source.value())).collect()))
    }

    /// Changes whenever something is to be shown anew: a checkpoint, a state, a reason to wait.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    /// Pauses behind the present batch, for a time or until it is resumed.
    pub async fn pause(&self, id: JobId, time: Option<Duration>) -> Result<JobView, JobsError> {
        let pause = time.map(|time| time.min(PAUSE_LONGEST)).map(timed);
        self.change(id, |job| {
            job.state = JobState::Paused;
            job.pause = pause;
            job.reason = None;
            Ok(())
        })
        .await
    }

    /// Goes on.
    pub async fn resume(&self, id: JobId) -> Result<JobView, JobsError> {
        self.change(id, |job| {
            job.running();
            Ok(())
        })
        .await
    }

    /// Gives the job up behind the present batch.
    pub async fn cancel(&self, id: JobId) -> Result<JobView, JobsError> {
        self.change(id, |job| {
            job.end(JobState::Cancelled, None);
            Ok(())
        })
        .await
    }

    /// Changes limits, from the next batch on and durably.
    pub async fn set(&self, id: JobId, patch: LimitsPatch) -> Result<JobView, JobsError> {
        self.change(id, |job| {
            job.limits = job.limits.patched(patch)?;
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        id: JobId,
        change: impl Fn(&mut JobRecord) -> Result<(), JobsError> + Send + Sync,
    ) -> Result<JobView, JobsError> {
        self.inner
            .change(id, |job| if job.state.ended() { Err(JobsError::State(job.state)) } else { change(job) })
            .await?;
        self.view(id).await
    }

    /// Waits until every runner has stopped, after the shutdown token was cancelled.
    pub async fn stopped(&self) {
        self.inner.stopped().await;
    }
}

fn timed(time: Duration) -> TimedPause {
    let length_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    TimedPause { until: clock::now().saturating_add(time).unwrap_or(Timestamp::MAX), length_ms }
}
