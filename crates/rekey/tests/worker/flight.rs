//! Several chunks in flight: what counts and in which order, and what stops them.

use std::{sync::atomic::Ordering, time::Duration};

use keymoot_rekey::{JobState, Start, limits::LimitsPatch};
use keymoot_storage::{
    faulty::FaultyMetadata,
    metadata::Metadata,
    source::{Cell, Row},
};
use serde_json::Value as Json;

use crate::support::*;

const ROWS: i64 = 24;
const CHUNK: i64 = 3;
const WORKERS: u8 = 4;

/// Chunks of three rows, one a second, four in flight.
fn four_at_once() -> Start {
    let limits = LimitsPatch {
        max_rows_per_second: Some(Some(CHUNK as u32)),
        concurrency: Some(Some(WORKERS)),
        ..LimitsPatch::default()
    };
    Start { limits, ..Start::default() }
}

/// Chunks that are settled in another order than they were read in; one row can't be read.
fn out_of_order() -> World {
    let world = World::with_rows(ROWS);
    world.table().table.write(row(11, Cell::Text(b"km:v9:junk".to_vec())));
    *world.table().delays_s.lock().unwrap() = vec![6, 1, 3, 0, 2];
    world
}

fn all_but_the_junk_are_new(world: &World) {
    for row in world.table().table.rows().iter().filter(|row| row.id != id(11)) {
        assert_eq!(world.keys.read(row).0, 10);
    }
}

/// The stored checkpoint of the only source: the cursor's row, and rows counted.
async fn checkpoint(world: &World) -> (i64, i64) {
    let records = world.metadata.list("rekey/source/").await.unwrap();
    let record: Json = serde_json::from_slice(&records[0].value).unwrap();
    (record["cursor"][0]["integer"].as_i64().unwrap_or(0), record["counters"]["scanned"].as_i64().unwrap())
}

#[tokio::test(start_paused = true)]
async fn fault_35_a_death_at_any_call_with_chunks_in_flight_loses_nothing_and_counts_nothing_twice() {
    let (mut deaths, mut done_twice) = (0, 0);
    for late in [false, true] {
        for at in 1.. {
            let world = out_of_order();
            let death = Death::at(at, late);
            let (jobs, _) = world.mortal_process(death.clone());
            let first = async {
                let id = jobs.start(four_at_once()).await.unwrap().id;
                ended(&jobs, id).await
            };
            let survived = tokio::time::timeout(Duration::from_secs(300), first).await.is_ok();
            assert!(survived || death.dead());
            deaths += u64::from(!survived);
            let (next, _) = world.process();
            next.resume_all().await.unwrap();
            let Some(job) = next.list().await.unwrap().first().cloned() else { continue };
            let view = ended(&next, job.id).await;
            adds_up(&view);
            let source = &view.sources[0];
            assert_eq!((source.scanned, source.quarantined), (24, 1), "death at {at}, late {late}: {view:#?}");
            assert_eq!(source.rekeyed + source.current, 23, "death at {at}, late {late}: {view:#?}");
            assert!(source.current <= 12, "more was done twice than was in flight: {view:#?}");
            done_twice = done_twice.max(source.current);
            assert_eq!(next.quarantine(job.id, None, 10).await.unwrap().rows.len(), 1);
            all_but_the_junk_are_new(&world);
            if survived {
                break;
            }
        }
    }
    assert!(deaths > 60, "only {deaths} deaths were tried");
    assert!(done_twice > 3, "no death met several chunks in flight");
}

#[tokio::test(start_paused = true)]
async fn in_whatever_order_chunks_are_settled_the_checkpoint_stands_behind_the_settled_prefix() {
    for delays in [[6, 4, 2, 0, 1], [0, 6, 0, 3, 3], [2, 0, 5, 0, 1], [3, 2, 1, 0, 7], [1, 5, 2, 4, 0]] {
        let world = World::with_rows(ROWS);
        *world.table().delays_s.lock().unwrap() = delays.to_vec();
        let (jobs, _) = world.process();
        let job = jobs.start(four_at_once()).await.unwrap().id;
        // Between two seconds: what was settled in the last one has its checkpoint by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut overtaken = 0;
        while !jobs.view(job).await.unwrap().state.ended() {
            let rows = world.table().table.rows();
            let new = |row: &Row| world.keys.read(row).0 == 10;
            let prefix = i64::try_from(rows.iter().take_while(|row| new(row)).count()).unwrap();
            overtaken += i64::from(rows.iter().filter(|row| new(row)).count() as i64 > prefix);
            let (cursor, scanned) = checkpoint(&world).await;
            assert_eq!(scanned, prefix, "{delays:?}");
            // A later pass goes through the rows once more.
            assert!(cursor == prefix || prefix == ROWS, "{delays:?}: {cursor}, {prefix}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(overtaken > 0, "no chunk was settled before an earlier one");
        let view = ended(&jobs, job).await;
        completed(&view);
        assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (24, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_chunk_is_not_overtaken_and_bounds_what_is_in_memory() {
    let world = World::with_rows(ROWS);
    *world.table().delays_s.lock().unwrap() = vec![100, 0, 0, 0, 0, 0, 0, 0];
    let (jobs, _) = world.process();
    let job = jobs.start(four_at_once()).await.unwrap().id;
    tokio::time::sleep(Duration::from_secs(50)).await;
    let table = world.table();
    let new = table.table.rows().iter().filter(|row| world.keys.read(row).0 == 10).count();
    assert_eq!(new, 9, "three chunks behind the slow one are written");
    assert_eq!(checkpoint(&world).await, (0, 0), "and none of them counts yet");
    let reads = table.reads.load(Ordering::SeqCst);
    assert_eq!(
        reads,
        1 + 4 + 3,
        "one row at the start, then four chunks, the three that come next, and no eighth"
    );
    // Fewer workers from now on: the ones in flight go on, no other is begun.
    let one = LimitsPatch { concurrency: Some(Some(1)), ..LimitsPatch::default() };
    jobs.set(job, one).await.unwrap();
    let view = ended(&jobs, job).await;
    completed(&view);
    assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (24, 0));
}

/// In the hook of the first write somebody else writes row 1, so that it has to be written once more.
fn loses_row_1(world: &World) {
    let (table, keys) = (world.table(), world.keys.clone());
    *world.table().before_swap.lock().unwrap() = Some(Box::new(move |number, _| {
        if number == 1 {
            table.table.write(row(1, Cell::Text(keys.value(9, 1, "text 1"))));
        }
    }));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_the_keys_are_gone() {
    let world = World::with_rows(ROWS);
    loses_row_1(&world);
    *world.table().delays_s.lock().unwrap() = vec![10];
    let (jobs, _) = world.process();
    let job = jobs.start(four_at_once()).await.unwrap().id;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    world.keys.seal();
    let begun = world.table().swaps.load(Ordering::SeqCst);
    assert_eq!(begun, 3, "three chunks were in flight");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), begun);
    assert_eq!(jobs.view(job).await.unwrap().throttled.as_deref(), Some("the node is sealed"));
    world.keys.serve(&[9, 10], 10);
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_begins_no_further_write_and_counts_what_was_written() {
    let world = World::with_rows(ROWS);
    *world.table().delays_s.lock().unwrap() = vec![10];
    let (jobs, _) = world.process();
    let job = jobs.start(four_at_once()).await.unwrap().id;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    jobs.cancel(job).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), 3);
    let (next, _) = world.process();
    let view = next.view(job).await.unwrap();
    assert_eq!((view.state, view.sources[0].rekeyed), (JobState::Cancelled, 9));
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_settles_what_is_in_flight_and_begins_no_more() {
    let world = World::with_rows(ROWS);
    *world.table().delays_s.lock().unwrap() = vec![10];
    let (jobs, _) = world.process();
    let job = jobs.start(four_at_once()).await.unwrap().id;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    jobs.pause(job, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(checkpoint(&world).await, (9, 9));
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), 3);
    jobs.resume(job).await.unwrap();
    let view = ended(&jobs, job).await;
    assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (24, 0));
}

#[tokio::test(start_paused = true)]
async fn fault_39_a_holder_that_was_relieved_stops_all_that_it_has_in_flight() {
    let mut relieved = 0;
    for at in (1..60).step_by(3) {
        let world = out_of_order();
        let stop = Death::at(at, false);
        let (first, second) = (world.node("db1", stop.clone()), world.node("db2", Death::never()));
        let starting = tokio::spawn({
            let first = first.clone();
            async move { first.start(four_at_once()).await.unwrap().id }
        });
        let follow = tokio::spawn({
            let second = second.clone();
            async move { second.follow().await }
        });
        tokio::time::sleep(Duration::from_secs(120)).await;
        let through = second.list().await.unwrap().first().is_some_and(|job| job.state.ended());
        let swaps = world.table().swaps.load(Ordering::SeqCst);
        stop.wake();
        let job = starting.await.unwrap();
        let view = ended(&first, job).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        if through {
            relieved += 1;
            assert_eq!(world.table().swaps.load(Ordering::SeqCst), swaps, "stopped at {at}: it wrote on");
        }
        adds_up(&view);
        let source = &view.sources[0];
        assert_eq!((source.scanned, source.quarantined), (24, 1), "stopped at {at}: {view:#?}");
        assert_eq!(source.rekeyed + source.current, 23, "stopped at {at}: {view:#?}");
        all_but_the_junk_are_new(&world);
        follow.abort();
    }
    assert!(relieved > 12, "only {relieved} holders were relieved");
}

#[tokio::test(start_paused = true)]
async fn batches_that_follow_each_other_closely_share_a_checkpoint() {
    // Batches of 500, 1000, 2000 and the rest, of no duration.
    let world = World::with_rows(3700);
    let store = std::sync::Arc::new(FaultyMetadata::new(world.metadata.clone()));
    let (jobs, _) = world.process_on(store.clone(), Death::never());
    let job = jobs.start(Start::default()).await.unwrap().id;
    let before = store.calls();
    completed(&ended(&jobs, job).await);
    let swaps = world.table().swaps.load(Ordering::SeqCst);
    assert!(swaps >= 4, "{swaps} batches");
    // The start, its first batch, the end of either pass; the job's own; looks at them.
    let calls = store.calls() - before;
    assert!(calls < 16, "{calls} calls for {swaps} batches");
    world.all_are(10);
}
