//! A process that dies at call n, for every n: the next one goes on, and nothing is lost or counted twice.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keymoot_rekey::{JobState, Start, limits::LimitsPatch};
use keymoot_storage::{
    faulty::{FaultyMetadata, When},
    metadata::MetadataError,
    source::Cell,
};

use crate::support::*;

const ROWS: i64 = 12;

/// Four batches of three rows, one row unreadable.
fn slow() -> Start {
    let limits = LimitsPatch { max_rows_per_second: Some(Some(3)), ..LimitsPatch::default() };
    Start { limits, ..Start::default() }
}

fn world() -> World {
    let world = World::with_rows(ROWS);
    world.table().table.write(row(5, Cell::Text(b"km:v9:junk".to_vec())));
    world
}

/// Calls of a whole job, and then of the job cut at each of them.
#[tokio::test(start_paused = true)]
async fn fault_35_a_death_at_any_call_loses_nothing_and_counts_nothing_twice() {
    let mut deaths = 0;
    for late in [false, true] {
        for at in 1.. {
            let world = world();
            let death = Death::at(at, late);
            let (jobs, _) = world.mortal_process(death.clone());
            let first = async {
                let id = jobs.start(slow()).await.unwrap().id;
                ended(&jobs, id).await
            };
            let survived = tokio::time::timeout(Duration::from_secs(300), first).await.is_ok();
            assert!(survived || death.dead());
            deaths += u64::from(!survived);

            let (next, _) = world.process();
            next.resume_all().await.unwrap();
            let Some(job) = next.list().await.unwrap().first().cloned() else {
                // Died before the job was durable: nobody was told of one, and nothing was touched.
                assert!(
                    world.table().table.rows().iter().filter(|row| row.id != id(5)).all(|row| world
                        .keys
                        .read(row)
                        .0
                        == 9)
                );
                continue;
            };
            let view = ended(&next, job.id).await;
            adds_up(&view);
            let source = &view.sources[0];
            assert_eq!((source.scanned, source.quarantined), (12, 1), "death at {at}, late {late}: {view:#?}");
            assert_eq!(source.rekeyed + source.current, 11);
            assert_eq!(next.quarantine(job.id, None, 10).await.unwrap().rows.len(), 1);
            for row in world.table().table.rows().iter().filter(|row| row.id != id(5)) {
                assert_eq!(world.keys.read(row).0, 10);
            }
            if survived {
                break;
            }
        }
    }
    assert!(deaths > 40, "only {deaths} deaths were tried");
}

#[tokio::test(start_paused = true)]
async fn ten_starts_without_a_checkpoint_pause_the_job() {
    let world = world();
    let table = world.table();
    let writes = || table.swaps.load(Ordering::SeqCst);
    // Each process hangs in its first write and is killed there.
    table.hang.store(true, Ordering::SeqCst);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |_| writes() > 0).await;
    let mut starts = 1;
    let view = loop {
        let (jobs, shutdown) = world.process();
        jobs.resume_all().await.unwrap();
        let before = writes();
        let view = until(&jobs, job, |view| view.state == JobState::Paused || writes() > before).await;
        if view.state == JobState::Paused {
            shutdown.cancel();
            jobs.stopped().await;
            break view;
        }
        starts += 1;
        assert!(starts <= 10, "never paused");
    };
    assert_eq!(starts, 10);
    assert!(view.reason.unwrap().contains("10 starts"));
    // A person has repaired it, and says so.
    table.hang.store(false, Ordering::SeqCst);
    let (jobs, _) = world.process();
    jobs.resume_all().await.unwrap();
    jobs.resume(job).await.unwrap();
    let view = ended(&jobs, job).await;
    assert_eq!(view.sources[0].rekeyed, 11);
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_is_no_failed_attempt_and_leaves_a_checkpoint() {
    let world = world();
    let mut id = None;
    for _ in 0..15 {
        let (jobs, shutdown) = world.process();
        match id {
            None => id = Some(jobs.start(slow()).await.unwrap().id),
            Some(_) => drop(jobs.resume_all().await.unwrap()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        shutdown.cancel();
        jobs.stopped().await;
    }
    let (jobs, _) = world.process();
    jobs.resume_all().await.unwrap();
    let view = ended(&jobs, id.unwrap()).await;
    assert_eq!((view.sources[0].scanned, view.sources[0].rekeyed), (12, 11));
}

#[tokio::test(start_paused = true)]
async fn fault_31_a_lost_answer_is_found_out_by_reading_and_counted_once() {
    for at in 1..=4 {
        let world = World::with_rows(ROWS);
        *world.table().lose_answer.lock().unwrap() = Some(at);
        let (jobs, _) = world.process();
        let job = jobs.start(slow()).await.unwrap().id;
        let view = ended(&jobs, job).await;
        completed(&view);
        assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (12, 0));
        world.all_are(10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_metadata_store_that_fails_at_any_call_costs_no_row_and_no_count() {
    for when in [When::Before, When::After] {
        for call in 1..60 {
            let world = world();
            let store = Arc::new(FaultyMetadata::new(world.metadata.clone()));
            let (jobs, _) = world.process_on(store.clone(), Death::never());
            let job = jobs.start(slow()).await.unwrap().id;
            store.fail_at(store.calls() + call, when, MetadataError::Unavailable("disk full".into()));
            // A look at the job may meet the fault too: only the end matters here.
            tokio::time::sleep(Duration::from_secs(60)).await;
            store.heal();
            let view = ended(&jobs, job).await;
            adds_up(&view);
            let source = &view.sources[0];
            assert_eq!(
                (source.scanned, source.rekeyed, source.quarantined),
                (12, 11, 1),
                "call {call}: {view:#?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_metadata_store_is_away_no_further_batch_is_written() {
    let world = World::with_rows(60);
    let store = Arc::new(FaultyMetadata::new(world.metadata.clone()));
    let (jobs, _) = world.process_on(store.clone(), Death::never());
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned >= 9).await;
    store.fail_from(store.calls() + 1, When::Before, MetadataError::Unavailable("disk full".into()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let written = world.table().swaps.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), written);
    // Shown without the store.
    let view = jobs.view(job).await.unwrap();
    assert_eq!(view.state, JobState::Running);
    assert!(view.throttled.unwrap().contains("disk full"));
    store.heal();
    completed(&ended(&jobs, job).await);
    world.all_are(10);
}
