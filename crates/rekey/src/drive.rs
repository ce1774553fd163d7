//! Drives one job: its sources, one after the other and as far as their leases are to be had, and then its end.

use std::{sync::Arc, time::Duration};

use keymoot_storage::metadata::MetadataError;
use keymoot_types::{SourceName, lifecycle::JobState};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    checkpoint::{Durable, source_key},
    clock,
    gate::{Gate, Stop, backoff},
    held::Held,
    inner::Inner,
    job::{JobId, JobRecord, SourceRecord, TimedPause},
    jobs::JobsError,
    keys::Service,
    lease::{BEAT, Watch},
    live::Live,
    runner::{End, Runner},
};

/// A source that no runner of this node works on.
struct Contender {
    name: SourceName,
    watch: Watch,
}

/// Until the job has ended, was cancelled, or the node shuts down.
pub(crate) async fn drive(inner: Arc<Inner>, live: Arc<Live>, id: JobId) {
    while !inner.setup.shutdown.is_cancelled() {
        // Where another primary came while the last source was worked on: the earlier ones once more.
        if all_finished(&inner, &live, id).await && aimed_at_the_primary(&inner, &live) {
            end(&inner, &live, id).await;
        }
        if inner.forget_ended(id, &live).await {
            return;
        }
    }
    inner.forget(id);
}

/// `false`: the job has ended, or the node shuts down.
async fn all_finished(inner: &Arc<Inner>, live: &Arc<Live>, id: JobId) -> bool {
    let mut waiting: Vec<Contender> =
        live.job().sources.into_iter().map(|name| Contender { name, watch: Watch::default() }).collect();
    let mut running = JoinSet::new();
    let mut at_work: Vec<(Id, SourceName)> = Vec::new();
    let mut defective = false;
    let mut job = live.watch();
    let (mut pause, mut looked) = (None, false);
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat = 0;
    loop {
        let record = job.borrow_and_update().clone();
        let stopping = record.state.ended() || inner.setup.shutdown.is_cancelled();
        if stopping {
            waiting.clear();
        } else if record.state == JobState::Paused {
            waiting.iter_mut().for_each(|contender| contender.watch.interrupted());
        } else {
            let mut left = Vec::new();
            for mut contender in waiting {
                match look(
                    inner,
                    live,
                    &record,
                    &mut contender,
                    beat,
                    live.has_room(at_work.iter().map(|(_, name)| name)),
                )
                .await
                {
                    Look::Finished => {}
                    Look::Later => left.push(contender),
                    Look::Taken(held) => {
                        let (inner, live) = (inner.clone(), live.clone());
                        let name = contender.name.clone();
                        let task = running.spawn(async move {
                            let end = run(inner, live, id, contender.name.clone(), *held).await;
                            (contender, end)
                        });
                        at_work.push((task.id(), name));
                    }
                }
            }
            waiting = left;
        }
        live.works_on(at_work.len());
        if running.is_empty() && (stopping || (waiting.is_empty() && !defective)) {
            return !stopping;
        }
        pause = PauseEnd::of(&record, pause, looked);
        looked = true;
        tokio::select! {
            Some(ended) = running.join_next_with_id() => {
                let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
                at_work.retain(|(other, _)| *other != task);
                match ended {
                    Ok((_, (contender, End::Stopped(Stop::Fenced)))) => waiting.push(contender),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(job = %id, %error, "a runner ended by a defect; the job goes on after a restart");
                        defective = true;
                    }
                }
            }
            // Perhaps more workers are allowed now.
            changed = job.changed() => if changed.is_err() { return false },
            () = PauseEnd::come(pause.as_ref()) => end_pause(inner, id, &mut pause).await,
            _ = beats.tick() => {
                beat += 1;
                inner.refresh(live).await;
            }
            () = inner.setup.shutdown.cancelled(), if !stopping => {}
        }
    }
}

/// When a pause ends. A node that saw it begin measures its length, whatever its clock says. One that starts within it goes
/// by the wall clock, once, and waits no longer than the whole.
struct PauseEnd {
    pause: TimedPause,
    at: Instant,
}

impl PauseEnd {
    fn of(job: &JobRecord, before: Option<Self>, saw_it_begin: bool) -> Option<Self> {
        let pause = job.pause.filter(|_| job.state == JobState::Paused)?;
        before.filter(|before| before.pause == pause).or_else(|| {
            let whole = Duration::from_millis(pause.length_ms);
            let by_clock = || pause.until.duration_since(clock::now()).try_into().unwrap_or_default();
            let left = if saw_it_begin { whole } else { whole.min(by_clock()) };
            Some(Self { pause, at: Instant::now() + left })
        })
    }

    async fn come(pause: Option<&Self>) {
        match pause {
            Some(pause) => sleep_until(pause.at).await,
            None => std::future::pending().await,
        }
    }
}

async fn end_pause(inner: &Inner, id: JobId, pause: &mut Option<PauseEnd>) {
    let Some(pause) = pause else { return };
    if let Err(error) = inner.end_pause(id, pause.pause).await {
        tracing::warn!(job = %id, %error, "the end of a pause can't be stored yet");
        pause.at = Instant::now() + BEAT;
    }
}

/// No failure of the job: another node may have it, and a reload may bring it.
const UNDECLARED: &str = "the source is not declared on this node, or could not be opened, as its log says; it is left to a \
     node that has it. Cancel the job if the source is gone for good";

/// What becomes of a source that nobody works on here.
enum Look {
    /// It is finished, whoever did it.
    Finished,
    /// Its lease was taken.
    Taken(Box<Held>),
    /// It is another node's, or this one can't or needn't work on it now.
    Later,
}

async fn look(
    inner: &Arc<Inner>,
    live: &Arc<Live>,
    job: &JobRecord,
    contender: &mut Contender,
    beat: u64,
    room: bool,
) -> Look {
    let later = |reason: String| {
        live.throttled(&contender.name, Some(reason));
        inner.tell();
        Look::Later
    };
    let stored = match load(inner, job.id, &contender.name).await {
        Ok(stored) => stored,
        Err(error) => {
            contender.watch.interrupted();
            return later(error.to_string());
        }
    };
    let record = stored.value();
    let free = contender.watch.finds_free(&inner.setup.holder, &record.lease, beat);
    let able = inner.able().await;
    let finished = record.failed.is_some()
        || able
            .as_ref()
            .is_ok_and(|service| record.is_done(job.retries, service, inner.declared(&contender.name)));
    if finished || !free {
        live.checkpoint(record);
        inner.tell();
        return if finished { Look::Finished } else { Look::Later };
    }
    if inner.setup.sources.source(&contender.name).is_none() {
        return later(UNDECLARED.into());
    }
    match able {
        Err(reason) => later(reason),
        Ok(service) if record.revision > service.revision && !record.aims_at(service.aim(&record.name)) => {
            later(format!("this node has not adopted revision {} of the manifest", record.revision))
        }
        Ok(_) if !room => Look::Later,
        Ok(_) => match Held::take(inner.clone(), live.clone(), stored).await {
            Ok(held) => Look::Taken(Box::new(held)),
            // Another one was faster.
            Err(MetadataError::Changed { .. }) => Look::Later,
            Err(error) => later(error.to_string()),
        },
    }
}

async fn run(inner: Arc<Inner>, live: Arc<Live>, id: JobId, name: SourceName, held: Held) -> End {
    let lease = held.record().lease.fence();
    tracing::info!(job = %id, source = %name, fence = lease, "this node works on the source");
    let gate = Gate::new(inner.clone(), live.clone(), name.clone());
    let dry_run = live.job().dry_run;
    match inner.setup.sources.source(&name) {
        Some(source) => Runner::new(id, source, gate, dry_run, held).run().await,
        // A reload took it away just now: others may have it at once, and here it is looked at again.
        None => {
            held.give_back(false).await;
            End::Stopped(Stop::Fenced)
        }
    }
}

async fn load(inner: &Inner, id: JobId, name: &SourceName) -> Result<Durable<SourceRecord>, JobsError> {
    let key = source_key(id, name);
    match Durable::load(inner.metadata(), &key).await? {
        Some(stored) => Ok(stored),
        // Its record was lost: from the first row again, which harms nothing.
        None => Ok(Durable::new(key, SourceRecord::new(name.clone()))),
    }
}

fn aimed_at_the_primary(inner: &Inner, live: &Live) -> bool {
    let Ok(service) = Service::look(inner.setup.keys.as_ref()) else {
        // What was done was done for the primary of that time; a sealed node can't say more.
        return true;
    };
    let as_declared = |record: &SourceRecord| {
        inner.declared(&record.name).is_none_or(|declared| !record.is_of_another(declared))
    };
    let done = |record: &SourceRecord| record.aims_at(service.aim(&record.name)) && as_declared(record);
    records(live).iter().all(|record| record.failed.is_some() || done(record))
}

fn records(live: &Live) -> Vec<SourceRecord> {
    live.job().sources.iter().filter_map(|source| live.source_record(source)).collect()
}

/// The state that the sources' records make, with the reason of a failure.
fn outcome(records: &[SourceRecord]) -> (JobState, Option<String>) {
    let failures: Vec<String> = records
        .iter()
        .filter_map(|record| record.failed.as_ref().map(|reason| format!("{}: {reason}", record.name)))
        .collect();
    if !failures.is_empty() {
        (JobState::Failed, Some(failures.join("; ")))
    } else if records.iter().any(|record| record.quarantined > 0) {
        (JobState::CompletedWithQuarantine, None)
    } else {
        (JobState::Completed, None)
    }
}

async fn end(inner: &Inner, live: &Live, id: JobId) {
    let (state, reason) = outcome(&records(live));
    let mut waits = backoff();
    let retried = records(live).iter().filter(|record| record.failed.is_none()).map(|record| record.retried).min();
    let finish = |job: &mut JobRecord| {
        // A cancel that came with the last row stands, and a retry that came then is still to be done.
        let retry = retried.is_some_and(|retried| retried < job.retries);
        if !job.state.ended() && !retry {
            job.end(state, reason.clone());
        }
        Ok(())
    };
    while let Err(error) = inner.change(id, finish).await {
        if matches!(error, JobsError::NotFound(_)) {
            tracing::error!(job = %id, "the record of a rekey job is gone from the metadata store");
            return;
        }
        tracing::warn!(job = %id, %error, "the end of a rekey job can't be stored yet");
        tokio::select! {
            () = inner.setup.shutdown.cancelled() => return,
            () = tokio::time::sleep(waits.next().unwrap_or_default()) => {}
        }
    }
    tracing::info!(job = %id, %state, "rekey job ended");
}
