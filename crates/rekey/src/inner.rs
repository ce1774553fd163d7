//! What all jobs of a node share: the way to their stored records, and which are worked on here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keymoot_storage::metadata::{Metadata, MetadataError};
use keymoot_types::{Digest, SourceName, lifecycle::JobState};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    checkpoint::{Durable, JOBS, job_key, sources_prefix},
    clock,
    drive::drive,
    job::{JobId, JobRecord, SourceRecord, TimedPause},
    jobs::{JobsError, Setup},
    keys::Service,
    live::Live,
    looked::Looked,
    manners::{Manners, Strain},
    window::Window,
};

/// How often a record is read again that somebody else changed.
const CHANGED_MAX: u32 = 5;

pub(crate) struct Inner {
    pub(crate) setup: Setup,
    pub(crate) looked: Looked,
    live: Mutex<BTreeMap<JobId, Arc<Live>>>,
    /// One start at a time, so that two can't both find a source free.
    starting: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    tasks: TaskTracker,
}

impl JobRecord {
    pub(crate) fn running(&mut self) {
        self.state = JobState::Running;
        self.pause = None;
        self.reason = None;
        self.ended_at = None;
    }

    pub(crate) fn end(&mut self, state: JobState, reason: Option<String>) {
        self.state = state;
        self.reason = reason;
        self.pause = None;
        self.ended_at = Some(clock::now());
    }
}

impl Inner {
    /// How a source is declared now; `None`: not at all.
    pub(crate) fn declared(&self, name: &SourceName) -> Option<Digest> {
        Some(self.setup.sources.source(name)?.spec().digest())
    }

    pub(crate) fn new(setup: Setup) -> Self {
        let (changes, _) = watch::channel(0);
        let (live, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { setup, looked: Looked::default(), live, starting, changes, tasks: TaskTracker::new() }
    }

    pub(crate) fn metadata(&self) -> &dyn Metadata {
        self.setup.metadata.as_ref()
    }

    /// The keys for the next batch, or why this node does not work now.
    pub(crate) async fn able(&self) -> Result<Service, String> {
        let foreground = || self.foreground().map(|strain| strain.reason());
        match self.forbidden().await.or_else(foreground) {
            Some(reason) => Err(reason),
            None => Service::look(self.setup.keys.as_ref()).map_err(str::to_owned),
        }
    }

    /// Why nothing is to be done on this node now, not even to ask: the kill switch, the window, the seal.
    pub(crate) async fn forbidden(&self) -> Option<String> {
        let path = &self.setup.kill_switch;
        match tokio::fs::symlink_metadata(path).await {
            Ok(_) => return Some(format!("kill switch {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Whether it is there is not known, so it may be.
            Err(error) => return Some(format!("kill switch {} can't be looked at: {error}", path.display())),
        }
        let opens =
            |window: &Window| Some(format!("the window {window} opens at {}", window.opens(clock::now())?));
        let closed = self.manners().window.as_ref().and_then(opens);
        closed.or_else(|| Service::look(self.setup.keys.as_ref()).err().map(str::to_owned))
    }

    pub(crate) fn manners(&self) -> Arc<Manners> {
        self.setup.brake.as_ref().map_or_else(Arc::default, |brake| brake.manners())
    }

    /// What the node's own services suffer.
    pub(crate) fn foreground(&self) -> Option<Strain> {
        let latency = self.setup.brake.as_ref()?.decrypt_latency()?;
        self.manners().foreground(latency)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn tell(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn lives(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self, id: JobId) -> Option<Arc<Live>> {
        self.lives().get(&id).cloned()
    }

    pub(crate) fn forget(&self, id: JobId) {
        self.lives().remove(&id);
        self.tell();
    }

    /// Forgets a job that has ended; `false`: it was set running again meanwhile, so its runners stay.
    pub(crate) async fn forget_ended(&self, id: JobId, live: &Live) -> bool {
        let record = live.record.lock().await;
        let ended = record.value().state.ended();
        if ended {
            self.forget(id);
        }
        ended
    }

    pub(crate) async fn lock_starts(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.starting.lock().await
    }

    pub(crate) fn wanted_sources(&self, wanted: Option<Vec<SourceName>>) -> Result<Vec<SourceName>, JobsError> {
        let declared = self.setup.sources.names();
        let mut sources: Vec<SourceName> = Vec::new();
        for source in wanted.unwrap_or_else(|| declared.clone()) {
            if !declared.contains(&source) {
                return Err(JobsError::UnknownSource(source));
            }
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        if sources.is_empty() { Err(JobsError::NoSource) } else { Ok(sources) }
    }

    /// Ascending by id, so by age.
    pub(crate) async fn stored_jobs(&self) -> Result<Vec<JobRecord>, JobsError> {
        let records = self.metadata().list(JOBS).await?;
        Ok(records
            .into_iter()
            .filter_map(|record| match Durable::<JobRecord>::read(record) {
                Ok(job) => Some(job.value().clone()),
                Err(error) => {
                    tracing::error!(%error, "a rekey job can't be read and is left out");
                    None
                }
            })
            .collect())
    }

    pub(crate) async fn stored_sources(&self, id: JobId) -> Result<Vec<Durable<SourceRecord>>, JobsError> {
        let records = self.metadata().list(&sources_prefix(id)).await?;
        Ok(records.into_iter().map(Durable::read).collect::<Result<_, _>>()?)
    }

    /// Works on a stored job in this process; `false`: that is being done already.
    pub(crate) async fn adopt(self: &Arc<Self>, id: JobId) -> Result<bool, JobsError> {
        if self.live(id).is_some() {
            return Ok(false);
        }
        let job = Durable::load(self.metadata(), &job_key(id)).await?.ok_or(JobsError::NotFound(id))?;
        let sources = self.stored_sources(id).await?;
        let live = Arc::new(Live::new(job, &sources, self.setup.holder.clone()));
        {
            let mut lives = self.lives();
            if lives.contains_key(&id) || self.setup.shutdown.is_cancelled() {
                return Ok(false);
            }
            lives.insert(id, live.clone());
        }
        self.tasks.spawn_on(drive(self.clone(), live, id), &self.setup.runtime);
        Ok(true)
    }

    /// Takes up what was made of a job's record elsewhere. While the store is away nothing is.
    pub(crate) async fn refresh(&self, live: &Live) {
        let mut held = live.record.lock().await;
        match held.reload(self.metadata()).await {
            Ok(Some(stored)) => {
                if stored.value() != held.value() {
                    live.show(stored.value().clone());
                    self.tell();
                }
                *held = stored;
            }
            // An emptied store, or an older one put back: of such a job nobody could pause or cancel anything.
            Ok(None) if !held.value().state.ended() => {
                let mut job = held.value().clone();
                let reason = "its record is gone from the metadata store: start another one".to_owned();
                tracing::error!(job = %job.id, %reason, "rekey job ended");
                job.end(JobState::Cancelled, Some(reason));
                *held = Durable::new(job_key(job.id), job.clone());
                live.show(job);
                self.tell();
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a rekey job can't be looked at"),
        }
    }

    /// Changes a job's record durably, then shows it to its runners.
    pub(crate) async fn change(
        &self,
        id: JobId,
        change: impl Fn(&mut JobRecord) -> Result<(), JobsError> + Send + Sync,
    ) -> Result<JobRecord, JobsError> {
        let live = self.live(id);
        let mut held = match &live {
            Some(live) => Some(live.record.lock().await),
            None => None,
        };
        let mut last = JobsError::NotFound(id);
        for attempt in 0..CHANGED_MAX {
            let mut stored = match &held {
                Some(record) if attempt == 0 => (*record).clone(),
                _ => Durable::load(self.metadata(), &job_key(id)).await?.ok_or(JobsError::NotFound(id))?,
            };
            let mut job = stored.value().clone();
            change(&mut job)?;
            match stored.save(self.metadata(), job.clone()).await {
                Ok(()) => {
                    if let (Some(live), Some(record)) = (&live, &mut held) {
                        **record = stored;
                        live.show(job.clone());
                    }
                    self.tell();
                    return Ok(job);
                }
                Err(error @ MetadataError::Changed { .. }) => last = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    /// The end of a pause has come, unless it was moved meanwhile.
    pub(crate) async fn end_pause(&self, id: JobId, pause: TimedPause) -> Result<(), JobsError> {
        self.change(id, |job| {
            if job.state == JobState::Paused && job.pause == Some(pause) {
                job.running();
            }
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Pauses a running job by itself.
    pub(crate) async fn pause_because(&self, id: JobId, reason: String) -> Result<(), JobsError> {
        tracing::error!(job = %id, %reason, "rekey job paused");
        self.change(id, |job| {
            if job.state == JobState::Running {
                job.state = JobState::Paused;
                job.pause = None;
                job.reason = Some(reason.clone());
            }
            Ok(())
        })
        .await
        .map(drop)
    }
}
