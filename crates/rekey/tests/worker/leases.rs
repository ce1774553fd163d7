//! Several nodes on one job: who works on which source, and what a holder that comes late can still do.

use std::{sync::atomic::Ordering, time::Duration};

use keymoot_rekey::{JobState, JobView, Start, limits::LimitsPatch};
use keymoot_storage::{metadata::Metadata as _, source::Cell};

use crate::support::*;

fn rows_per_second(rows: u32) -> Start {
    let limits = LimitsPatch { max_rows_per_second: Some(Some(rows)), ..LimitsPatch::default() };
    Start { limits, ..Start::default() }
}

/// Four batches of three rows; unreadable ones in the second and in the fourth.
fn twelve_rows() -> World {
    let world = World::with_rows(12);
    for n in [5, 11] {
        world.table().table.write(row(n, Cell::Text(b"km:v9:junk".to_vec())));
    }
    world
}

#[tokio::test(start_paused = true)]
async fn fault_39_a_holder_stopped_at_any_call_is_relieved_and_harms_nothing_when_it_goes_on() {
    let (mut relieved, mut done_twice) = (0, 0);
    for late in [false, true] {
        for at in 1.. {
            let world = twelve_rows();
            let stop = Death::at(at, late);
            let first = world.node("db1", stop.clone());
            let second = world.node("db2", Death::never());
            let starting = tokio::spawn({
                let first = first.clone();
                async move { first.start(rows_per_second(3)).await.unwrap().id }
            });
            let follow = tokio::spawn({
                let second = second.clone();
                async move { second.follow().await }
            });
            tokio::time::sleep(Duration::from_secs(60)).await;
            let stopped = stop.dead();
            // What became durable before the stop was brought to its end by the other node meanwhile.
            let durable = second.list().await.unwrap().first().map(|job| (job.id, job.state));
            if let Some((_, state)) = durable {
                assert_eq!(state, JobState::CompletedWithQuarantine, "stopped at {at}, late {late}");
                relieved += u64::from(stopped);
            }
            stop.wake();
            let job = starting.await.unwrap();
            let view = ended(&first, job).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(first.view(job).await.unwrap().state, JobState::CompletedWithQuarantine);
            assert_eq!(second.view(job).await.unwrap().sources[0].rekeyed, view.sources[0].rekeyed);
            adds_up(&view);
            let source = &view.sources[0];
            assert_eq!((source.scanned, source.quarantined), (12, 2), "stopped at {at}, late {late}: {view:#?}");
            assert_eq!(source.rekeyed + source.current, 10, "stopped at {at}, late {late}: {view:#?}");
            assert!(source.current <= 3, "more than one batch was done twice: {view:#?}");
            done_twice += source.current;
            assert_eq!(
                second.quarantine(job, None, 10).await.unwrap().rows.len(),
                2,
                "stopped at {at}, late {late}"
            );
            for row in world.table().table.rows().iter().filter(|row| row.id != id(5) && row.id != id(11)) {
                assert_eq!(world.keys.read(row).0, 10);
            }
            follow.abort();
            if !stopped {
                break;
            }
        }
    }
    assert!(relieved > 30, "only {relieved} stops of a holder were tried");
    assert!(done_twice > 0, "no stop came between a write and its checkpoint");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_slow_and_alive_is_left_alone() {
    let world = World::with_rows(60);
    let (first, second) = (world.node("db1", Death::never()), world.node("db2", Death::never()));
    let job = first.start(rows_per_second(10)).await.unwrap().id;
    second.resume_all().await.unwrap();
    until(&first, job, |view| view.sources[0].scanned > 0).await;
    let table = world.table();
    table.hang.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let swaps = table.swaps.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(table.swaps.load(Ordering::SeqCst), swaps, "the other node began to write");
    table.hang.store(false, Ordering::SeqCst);
    // The other one follows what it does not do.
    let view = ended(&second, job).await;
    completed(&view);
    assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (60, 0));
    assert_eq!(table.swaps.load(Ordering::SeqCst), 6, "no batch was done twice");
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_work_hangs_without_an_end_is_relieved() {
    let world = World::with_rows(20);
    let (first, second) = (world.node("db1", Death::never()), world.node("db2", Death::never()));
    let table = world.table();
    table.hang.store(true, Ordering::SeqCst);
    let mut start = rows_per_second(10);
    start.limits.concurrency = Some(Some(1));
    let job = first.start(start).await.unwrap().id;
    second.resume_all().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(table.swaps.load(Ordering::SeqCst), 1);
    for _ in 0..3600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if table.swaps.load(Ordering::SeqCst) > 1 {
            break;
        }
    }
    assert_eq!(table.swaps.load(Ordering::SeqCst), 2, "nobody else had a try within the hour");
    table.hang.store(false, Ordering::SeqCst);
    let view = ended(&first, job).await;
    completed(&view);
    adds_up(&view);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn nodes_share_the_sources_of_a_job() {
    let world = World::new(&["a.x", "b.x"]);
    for table in world.tables.values() {
        for n in 1..=60 {
            table.table.write(row(n, Cell::Text(world.keys.value(9, n, "text"))));
        }
    }
    let (first, second) = (world.node("db1", Death::never()), world.node("db2", Death::never()));
    let job = first.start(rows_per_second(10)).await.unwrap().id;
    second.resume_all().await.unwrap();
    let both = until(&first, job, |view| view.sources.iter().all(|source| source.scanned > 0)).await;
    assert!(both.sources.iter().all(|source| !source.done), "one after the other: {both:#?}");
    for node in [&first, &second] {
        let view = ended(node, job).await;
        completed(&view);
        assert!(view.sources.iter().all(|source| (source.rekeyed, source.current) == (60, 0)), "{view:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_one_node_is_done_by_all() {
    let world = World::with_rows(200);
    let (first, second) = (world.node("db1", Death::never()), world.node("db2", Death::never()));
    let job = first.start(rows_per_second(10)).await.unwrap().id;
    second.resume_all().await.unwrap();
    until(&first, job, |view| view.sources[0].scanned > 0).await;
    second.pause(job, None).await.unwrap();
    until(&first, job, |view| view.state == JobState::Paused).await;
    let reads = || world.table().reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = reads();
    // Longer than any lease: nobody takes what nobody has to renew.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(reads(), before);
    second.resume(job).await.unwrap();
    until(&first, job, |view| view.sources[0].scanned > 50).await;
    let limits = LimitsPatch { max_rows_per_second: Some(Some(3)), ..LimitsPatch::default() };
    second.set(job, limits).await.unwrap();
    until(&first, job, |view| view.limits.max_rows_per_second == Some(3)).await;
    second.cancel(job).await.unwrap();
    until(&first, job, |view| view.state == JobState::Cancelled).await;
    let view = first.view(job).await.unwrap();
    assert_eq!(view.sources[0].current, 0, "the pause made nobody do anything twice");
}

#[tokio::test(start_paused = true)]
async fn a_pause_lasts_as_long_as_was_asked_for_whatever_the_clock_of_a_node_says() {
    let world = World::with_rows(400);
    let (first, _) = world.process();
    let second = world.node("db2", Death::never());
    let job = first.start(rows_per_second(5)).await.unwrap().id;
    second.resume_all().await.unwrap();
    until(&second, job, |view| view.sources[0].scanned > 0).await;
    first.pause(job, Some(Duration::from_secs(7200))).await.unwrap();
    // As it looks to nodes whose clocks are ahead of the one that was asked.
    for record in world.metadata.list("").await.unwrap() {
        let Ok(mut stored) = serde_json::from_slice::<serde_json::Value>(&record.value) else { continue };
        if stored["pause"].is_object() {
            stored["pause"]["until"] = "2020-01-01T00:00:00Z".into();
            world.metadata.put(&record.key, &serde_json::to_vec(&stored).unwrap()).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(7000)).await;
    let view = second.view(job).await.unwrap();
    assert_eq!(view.state, JobState::Paused);
    assert!(view.paused_until.unwrap().to_string().starts_with("2020"), "both go by the changed record");
    until(&second, job, |view| view.state == JobState::Running).await;
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_gives_its_leases_back_at_once() {
    let world = World::with_rows(60);
    let (first, shutdown) = world.process();
    let second = world.node("db2", Death::never());
    let job = first.start(rows_per_second(10)).await.unwrap().id;
    second.resume_all().await.unwrap();
    until(&first, job, |view| view.sources[0].scanned > 0).await;
    shutdown.cancel();
    first.stopped().await;
    let scanned = second.view(job).await.unwrap().sources[0].scanned;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(second.view(job).await.unwrap().sources[0].scanned > scanned + 10);
    let view = ended(&second, job).await;
    completed(&view);
    assert_eq!((view.sources[0].rekeyed, view.sources[0].current), (60, 0));
}

/// An excluded member comes back with a manifest of yesterday: it must not turn the values back.
#[tokio::test(start_paused = true)]
async fn a_node_of_an_older_manifest_takes_no_source_that_was_aimed_by_a_later_one() {
    // Many more than the first node gets through before it dies.
    let mut world = World::with_rows(400);
    let behind = world.keys.clone();
    behind.serve(&[9, 10], 9);
    let second = world.node("db2", Death::never());
    world.keys = behind.followed_by(&[9, 10], 10);
    let stop = Death::at(u64::MAX / 2, false);
    let first = world.node("db1", stop.clone());
    let job = first.start(rows_per_second(5)).await.unwrap().id;
    second.resume_all().await.unwrap();
    // By then the record says which manifest the source was aimed by.
    until(&second, job, |view| view.sources[0].scanned > 0).await;
    stop.come();
    let says =
        |view: &JobView| view.throttled.as_ref().is_some_and(|why| why.contains("has not adopted revision"));
    until(&second, job, says).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(second.view(job).await.unwrap().state, JobState::Running);
    behind.serve(&[9, 10], 9);
    behind.serve(&[9, 10], 10);
    completed(&ended(&second, job).await);
    world.all_are(10);
}
