//! Drives one job: its sources, some at a time, and then its end.

use std::{collections::VecDeque, sync::Arc};

use keymoot_types::SourceName;
use tokio::task::JoinSet;

use crate::{
    checkpoint::{Durable, source_key},
    gate::{Gate, backoff},
    inner::Inner,
    job::{JobId, JobRecord, JobState, SourceRecord},
    jobs::JobsError,
    keys::Service,
    live::Live,
    runner::{End, Runner},
};

/// Until the job has ended, was cancelled, or the node shuts down.
pub(crate) async fn drive(inner: Arc<Inner>, live: Arc<Live>, id: JobId) {
    loop {
        if !all_finished(&inner, &live, id).await {
            return inner.forget(id);
        }
        // Where another primary came while the last source was worked on: the earlier ones once more.
        if aimed_at_the_primary(&inner, &live) {
            end(&inner, &live, id).await;
            if inner.setup.shutdown.is_cancelled() {
                return inner.forget(id);
            }
            if inner.forget_ended(id, &live).await {
                return;
            }
        }
    }
}

async fn all_finished(inner: &Arc<Inner>, live: &Arc<Live>, id: JobId) -> bool {
    let mut waiting: VecDeque<SourceName> = live.job().sources.into();
    let mut running = JoinSet::new();
    let mut job = live.watch();
    let mut finished = true;
    loop {
        while running.len() < live.job().limits.sources_at_a_time()
            && let Some(source) = waiting.pop_front()
        {
            running.spawn(run(inner.clone(), live.clone(), id, source));
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                None => return finished,
                Some(Ok(end)) => finished &= end == End::Finished,
                Some(Err(error)) => {
                    tracing::error!(job = %id, %error, "a runner ended by a defect; the job goes on after a restart");
                    finished = false;
                }
            },
            // Perhaps more sources at a time are allowed now.
            changed = job.changed() => if changed.is_err() { return false },
        }
    }
}

async fn run(inner: Arc<Inner>, live: Arc<Live>, id: JobId, name: SourceName) -> End {
    let mut gate = Gate::new(inner.clone(), live.clone(), name.clone());
    let mut waits = backoff();
    let mut stored = loop {
        match load(&inner, id, &name).await {
            Ok(stored) => break stored,
            Err(error) => {
                if let Err(stop) = gate.hibernate(error.to_string(), &mut waits).await {
                    return End::Stopped(stop);
                }
            }
        }
    };
    if stored.value().failed.is_some() {
        return End::Finished;
    }
    let dry_run = live.job().dry_run;
    if let Some(source) = inner.setup.sources.source(&name) {
        return Runner::new(id, source, gate, dry_run, stored).run().await;
    }
    let mut record = stored.value().clone();
    record.failed = Some("it is no longer declared".into());
    while let Err(error) = stored.save(inner.metadata(), record.clone()).await {
        if let Err(stop) = gate.hibernate(error.to_string(), &mut waits).await {
            return End::Stopped(stop);
        }
    }
    live.checkpoint(&record);
    End::Finished
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
    records(live).iter().all(|record| record.failed.is_some() || record.target == Some(service.primary))
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
    let finish = |job: &mut JobRecord| {
        // A cancel that came with the last row stands.
        if !job.state.ended() {
            job.end(state, reason.clone());
        }
        Ok(())
    };
    while let Err(error) = inner.change(id, finish).await {
        tracing::warn!(job = %id, %error, "the end of a rekey job can't be stored yet");
        tokio::select! {
            () = inner.setup.shutdown.cancelled() => return,
            () = tokio::time::sleep(waits.next().unwrap_or_default()) => {}
        }
    }
    tracing::info!(job = %id, %state, "rekey job ended");
}
