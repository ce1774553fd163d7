//! Pause, resume, cancel, limits, the kill switch, a sealed node, a source that is away or not as declared.

use std::{sync::atomic::Ordering, time::Duration};

use keymoot_rekey::{JobState, Start, jobs::JobsError, limits::LimitsPatch};
use keymoot_storage::{metadata::Metadata as _, source::SourceError};
use tokio::time::Instant;

use crate::support::*;

fn rows_per_second(rows: u32) -> LimitsPatch {
    LimitsPatch { max_rows_per_second: Some(Some(rows)), ..LimitsPatch::default() }
}

fn slow() -> Start {
    Start { limits: rows_per_second(10), ..Start::default() }
}

async fn quiet(world: &World) -> bool {
    let reads = || world.table().reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = reads();
    tokio::time::sleep(Duration::from_secs(30)).await;
    before == reads()
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_does_nothing_and_a_resumed_one_ends() {
    let world = World::with_rows(100);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned > 0).await;
    assert_eq!(jobs.pause(job, None).await.unwrap().state, JobState::Paused);
    assert!(quiet(&world).await);
    // Durable: the next process finds it paused.
    let (next, _) = world.process();
    assert_eq!(next.view(job).await.unwrap().state, JobState::Paused);
    jobs.resume(job).await.unwrap();
    completed(&ended(&jobs, job).await);
    assert_eq!(jobs.pause(job, None).await, Err(JobsError::State(JobState::Completed)));
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn a_pause_with_an_end_ends_by_itself() {
    let world = World::with_rows(100);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    let (began, really) = (Instant::now(), std::time::Instant::now());
    jobs.pause(job, Some(Duration::from_secs(120))).await.unwrap();
    completed(&ended(&jobs, job).await);
    // Its end is a time of the wall clock, which is not paused: what passes there is not waited for here.
    assert!(began.elapsed() + really.elapsed() >= Duration::from_secs(119));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_stops_and_stays_cancelled() {
    let world = World::with_rows(100);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned > 0).await;
    assert_eq!(jobs.cancel(job).await.unwrap().state, JobState::Cancelled);
    assert!(quiet(&world).await);
    let (next, _) = world.process();
    assert!(next.resume_all().await.unwrap().is_empty());
    // Nothing stands in the way of another one.
    completed(&ended(&next, next.start(Start::default()).await.unwrap().id).await);
}

#[tokio::test(start_paused = true)]
async fn limits_are_kept_from_the_next_batch_on_and_survive_a_restart() {
    let world = World::with_rows(100);
    let (jobs, shutdown) = world.process();
    let began = Instant::now();
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned >= 50).await;
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    shutdown.cancel();
    jobs.stopped().await;
    let (jobs, _) = world.process();
    assert_eq!(jobs.resume_all().await.unwrap(), [job]);
    assert_eq!(jobs.view(job).await.unwrap().limits.max_rows_per_second, Some(10));
    let lift: LimitsPatch = serde_json::from_str(r#"{"max_rows_per_second": null}"#).unwrap();
    let began = Instant::now();
    jobs.set(job, lift).await.unwrap();
    completed(&ended(&jobs, job).await);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(matches!(jobs.set(job, rows_per_second(0)).await, Err(JobsError::State(_))));
}

#[tokio::test(start_paused = true)]
async fn the_kill_switch_needs_no_token_and_no_store() {
    let world = World::with_rows(20);
    let file = world.dir.path().join("pause-rekey");
    std::fs::write(&file, "").unwrap();
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    let view = until(&jobs, job, |view| view.throttled.is_some()).await;
    assert_eq!(view.throttled, Some(format!("kill switch {}", file.display())));
    assert!(quiet(&world).await);
    std::fs::remove_file(file).unwrap();
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn a_sealed_node_waits_and_does_not_fail() {
    let world = World::with_rows(20);
    world.keys.seal();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = until(&jobs, job, |view| view.throttled.is_some()).await;
    assert_eq!((view.state, view.throttled.as_deref()), (JobState::Running, Some("the node is sealed")));
    world.keys.serve(&[9, 10], 10);
    let view = ended(&jobs, job).await;
    completed(&view);
    assert_eq!(view.throttled, None);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_record_is_gone_is_ended_and_another_one_does_its_work() {
    let world = World::with_rows(400);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned > 0).await;
    for record in world.metadata.list("").await.unwrap() {
        world.metadata.remove(&record.key, record.stamp).await.unwrap();
    }
    // Nobody could pause or cancel it any more.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(jobs.view(job).await, Err(JobsError::NotFound(job)));
    let reads = || world.table().reads.load(Ordering::SeqCst);
    let before = reads();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(reads(), before);
    let job = jobs.start(Start::default()).await.unwrap().id;
    completed(&ended(&jobs, job).await);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn fault_36_a_source_that_is_away_is_waited_for_and_never_finished() {
    let world = World::with_rows(20);
    let away = SourceError::Unreachable { name: "c.ssn".parse().unwrap(), reason: "connection refused".into() };
    *world.table().fault.lock().unwrap() = Some(away);
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let view = jobs.view(job).await.unwrap();
    assert_eq!(view.state, JobState::Running);
    assert!(view.throttled.unwrap().contains("connection refused"));
    assert!(world.table().reads.load(Ordering::SeqCst) < 300, "it hammers the database");
    *world.table().fault.lock().unwrap() = None;
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn a_mistaken_source_fails_with_its_reason_and_the_others_go_on() {
    let mut world = World::new(&["a.x", "b.x"]);
    for table in world.tables.values() {
        table.table.write(row(1, keymoot_storage::source::Cell::Text(world.keys.value(9, 1, "text 1"))));
    }
    let name = "a.x".parse().unwrap();
    let mistaken = SourceError::Mistaken { name, reason: "there is no column x".into() };
    *world.table().fault.lock().unwrap() = Some(mistaken);
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    assert_eq!(view.state, JobState::Failed);
    assert!(view.reason.unwrap().contains("a.x: there is no column x"));
    assert_eq!(view.sources[1].rekeyed, 1);
    world.tables.retain(|name, _| name.as_str() == "b.x");
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn a_source_belongs_to_one_job_at_a_time() {
    let world = World::with_rows(100);
    let (jobs, _) = world.process();
    let job = jobs.start(slow()).await.unwrap().id;
    let again = jobs.start(Start::default()).await.unwrap_err();
    assert!(matches!(again, JobsError::Busy { job: busy, .. } if busy == job));
    let unknown = Start { sources: Some(vec!["x.y".parse().unwrap()]), ..Start::default() };
    assert!(matches!(jobs.start(unknown).await, Err(JobsError::UnknownSource(_))));
    assert_eq!(jobs.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_the_preflight_refuses_gets_no_job() {
    let world = World::with_rows(5);
    *world.table().blockers.lock().unwrap() = vec!["the column is char(60)".into(), "id may be NULL".into()];
    let (jobs, _) = world.process();
    let Err(JobsError::Blocked(blockers)) = jobs.start(Start::default()).await else { panic!("it was started") };
    let blockers: Vec<_> =
        blockers.iter().map(|blocker| (blocker.source_name.as_str(), blocker.reason.as_str())).collect();
    assert_eq!(blockers, [("c.ssn", "the column is char(60)"), ("c.ssn", "id may be NULL")]);
    assert!(jobs.list().await.unwrap().is_empty());
    // What writes nothing needs no permission.
    let dry = jobs.start(Start { dry_run: true, ..Start::default() }).await.unwrap().id;
    completed(&ended(&jobs, dry).await);
    world.all_are(9);
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_stand_in_the_way_between_start_and_first_row_is_found_by_the_node_that_works() {
    let world = World::with_rows(5);
    let switch = world.dir.path().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    *world.table().blockers.lock().unwrap() = vec!["the column is char(60)".into()];
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::remove_file(switch).unwrap();
    let view = ended(&jobs, job).await;
    assert_eq!(view.state, JobState::Failed);
    assert!(view.reason.unwrap().contains("char(60)"));
    world.all_are(9);
}

#[tokio::test(start_paused = true)]
async fn a_table_is_looked_through_once_where_its_job_begins_at_once() {
    let world = World::with_rows(60);
    let (jobs, _) = world.process();
    for looks in 1..=2 {
        let job = jobs.start(Start::default()).await.unwrap().id;
        completed(&ended(&jobs, job).await);
        assert_eq!(world.table().preflights.load(Ordering::SeqCst), looks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_on_the_same_job_harms_nothing() {
    let world = World::with_rows(60);
    let (first, _) = world.process();
    let job = first.start(slow()).await.unwrap().id;
    until(&first, job, |view| view.sources[0].scanned > 0).await;
    let (second, _) = world.process();
    second.resume_all().await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    // Whichever was fenced off has stopped; the job is resumed where nobody works on it.
    let (third, _) = world.process();
    third.resume_all().await.unwrap();
    let view = ended(&third, job).await;
    adds_up(&view);
    assert_eq!(view.sources[0].scanned, 60);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn a_later_pass_that_finds_nothing_goes_in_steps_between_which_limits_and_pauses_act() {
    let world = World::with_rows(1);
    (2..=3000).for_each(|n| world.put(n, 10));
    let (jobs, _) = world.process();
    let job = jobs.start(Start { limits: rows_per_second(100), ..Start::default() }).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned == 3000).await;
    let reads = || world.table().reads.load(Ordering::SeqCst);
    let before = reads();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let steps = reads() - before;
    assert!((5..=15).contains(&steps), "{steps} statements in ten seconds, at a hundred rows a second");
    jobs.pause(job, None).await.unwrap();
    assert!(quiet(&world).await);
    jobs.resume(job).await.unwrap();
    completed(&ended(&jobs, job).await);
    world.all_are(10);
}
