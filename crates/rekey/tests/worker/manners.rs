//! Jobs step aside: for a source's server, for the node's own services, outside of the window.

use std::{sync::atomic::Ordering, time::Duration};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use keymoot_rekey::{JobId, JobState, Jobs, Start, limits::LimitsPatch};
use keymoot_storage::{
    metadata::{Metadata as _, Stamp},
    source::{Load, SourceError},
};
use tokio::time::sleep;

use crate::support::*;

/// A hundred rows a second.
fn steady() -> Start {
    Start {
        limits: LimitsPatch { max_rows_per_second: Some(Some(100)), ..LimitsPatch::default() },
        ..Start::default()
    }
}

fn lag(ms: u64) -> Load {
    Load { replica_lag: Some(Duration::from_millis(ms)), ..Load::default() }
}

fn says(world: &World, load: Load) {
    *world.table().load.lock().unwrap() = Ok(load);
}

async fn scanned(jobs: &Jobs, job: JobId) -> u64 {
    jobs.view(job).await.unwrap().sources[0].scanned
}

/// Rows of the next `seconds`.
async fn rows_in(jobs: &Jobs, job: JobId, seconds: u64) -> u64 {
    let before = scanned(jobs, job).await;
    sleep(Duration::from_secs(seconds)).await;
    scanned(jobs, job).await - before
}

async fn throttled(jobs: &Jobs, job: JobId) -> Option<String> {
    jobs.view(job).await.unwrap().throttled
}

#[tokio::test(start_paused = true)]
async fn fault_43_a_busy_server_is_left_in_peace_within_two_seconds_and_the_job_comes_back_gently() {
    let world = World::with_rows(12_000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    sleep(Duration::from_secs(5)).await;
    let full = rows_in(&jobs, job, 10).await;
    assert!((900..=1100).contains(&full), "{full} rows in ten seconds");
    assert_eq!(throttled(&jobs, job).await, None);

    for (load, reason) in [
        (lag(3200), "replica lag 3.2 s > 1.5 s"),
        (Load { lock_waits: Some(9), ..Load::default() }, "9 lock waits > 5"),
        (Load { active: Some(100), ..Load::default() }, "100 active statements > 25"),
    ] {
        says(&world, load);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(throttled(&jobs, job).await.as_deref(), Some(reason));
        assert_eq!(rows_in(&jobs, job, 60).await, 0, "it works above the limit");
        assert_eq!(throttled(&jobs, job).await.as_deref(), Some(reason), "a renewed lease is no relief");

        says(&world, lag(1000));
        sleep(Duration::from_secs(2)).await;
        let half = rows_in(&jobs, job, 4).await;
        assert!((1..=full / 5).contains(&half), "{half} rows in four seconds, {full} in ten before");
        assert_eq!(throttled(&jobs, job).await, None);
        sleep(Duration::from_secs(30)).await;
        assert!(rows_in(&jobs, job, 10).await >= full * 9 / 10, "its speed did not come back");
    }
    assert_eq!(jobs.view(job).await.unwrap().state, JobState::Running);
    completed(&ended(&jobs, job).await);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn above_a_hard_limit_a_job_hibernates_asks_nothing_and_comes_back() {
    let world = World::with_rows(2000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    sleep(Duration::from_secs(3)).await;
    says(&world, lag(60_000));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(throttled(&jobs, job).await.unwrap(), "replica lag 60 s > 6 s, the hard limit");
    let asked = world.table().loads.load(Ordering::SeqCst);
    assert_eq!(rows_in(&jobs, job, 20).await, 0);
    assert_eq!(world.table().loads.load(Ordering::SeqCst), asked);
    says(&world, Load::default());
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_is_asked_once_a_second_however_many_batches_there_are() {
    let world = World::with_rows(6000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    sleep(Duration::from_secs(50)).await;
    let asked = world.table().loads.load(Ordering::SeqCst);
    assert!((30..=51).contains(&asked), "asked {asked} times in fifty seconds");
    jobs.pause(job, None).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let asked = world.table().loads.load(Ordering::SeqCst);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.table().loads.load(Ordering::SeqCst), asked, "asked for a job that is paused");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_fails_or_hangs_is_a_reason_to_wait() {
    let world = World::with_rows(2000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    let wrong = SourceError::Mistaken { name: "c.ssn".parse().unwrap(), reason: "no such function".into() };
    *world.table().load.lock().unwrap() = Err(wrong);
    let view = until(&jobs, job, |view| view.throttled.is_some()).await;
    let reason = view.throttled.unwrap();
    assert!(reason.contains("failed: ") && reason.contains("no such function"), "{reason}");
    assert_eq!(view.state, JobState::Running);
    world.table().hang_load.store(true, Ordering::SeqCst);
    let view = until(&jobs, job, |view| view.throttled.as_ref().is_some_and(|r| r.contains("no answer"))).await;
    assert_eq!(view.state, JobState::Running);
    assert_eq!(rows_in(&jobs, job, 20).await, 0);
    world.table().hang_load.store(false, Ordering::SeqCst);
    says(&world, Load { throttle_query: Some(4.0), ..Load::default() });
    until(&jobs, job, |view| view.throttled.as_deref() == Some("throttle query 4 > 0")).await;
    says(&world, Load { throttle_query: Some(0.0), ..Load::default() });
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn whom_the_preflight_refuses_is_refused_and_not_waited_for_though_it_can_not_be_asked() {
    let world = World::with_rows(5);
    let switch = world.dir.path().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let standby = SourceError::Unreachable { name: "c.ssn".parse().unwrap(), reason: "a standby".into() };
    *world.table().load.lock().unwrap() = Err(standby);
    *world.table().blockers.lock().unwrap() = vec!["name the primary".into()];
    sleep(Duration::from_secs(2)).await;
    std::fs::remove_file(switch).unwrap();
    let view = ended(&jobs, job).await;
    assert_eq!((view.state, view.sources[0].failed.as_deref()), (JobState::Failed, Some("name the primary")));
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_services_suffer_lets_them_go_first() {
    let world = World::with_rows(1000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    sleep(Duration::from_secs(2)).await;
    *world.brake.latency.lock().unwrap() = Some(Duration::from_millis(120));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(throttled(&jobs, job).await.unwrap(), "decrypt latency 120 ms > 100 ms");
    assert_eq!(rows_in(&jobs, job, 60).await, 0);
    // A limit that is changed while it runs counts from the next look on.
    world.brake.manners.lock().unwrap().max_decrypt_latency = Duration::from_millis(150);
    completed(&ended(&jobs, job).await);
}

/// Another one after every write of the source's checkpoint.
async fn stamp(world: &World, job: JobId) -> Stamp {
    world.metadata.get(&format!("rekey/source/{job}/c.ssn")).await.unwrap().unwrap().stamp
}

#[tokio::test(start_paused = true)]
async fn every_node_shows_which_one_waits_for_what_and_it_is_written_when_it_changes() {
    let world = World::with_rows(3000);
    let [db1, db2] = ["db1", "db2"].map(|name| world.node(name, Death::never()));
    let job = db1.start(steady()).await.unwrap().id;
    until(&db1, job, |view| view.sources[0].scanned > 0).await;
    // Seen by one that works on no job too, as a sealed node does.
    for jobs in [&db1, &db2] {
        assert_eq!(throttled(jobs, job).await, None);
    }
    db2.resume_all().await.unwrap();
    says(&world, lag(3200));
    let mut since = None;
    for reason in ["replica lag 3.2 s > 1.5 s", "replica lag 4 s > 1.5 s"] {
        for jobs in [&db1, &db2] {
            let view = until(jobs, job, |view| view.throttled.as_deref() == Some(reason)).await;
            let throttle = view.sources[0].throttled.clone().unwrap();
            assert_eq!((throttle.node.as_str(), throttle.reason.as_str()), ("db1", reason));
            assert_eq!(*since.get_or_insert(throttle.since), throttle.since);
        }
        says(&world, lag(4000));
    }
    let (mut writes, mut last) = (0, stamp(&world, job).await);
    for _ in 0..2000 {
        sleep(Duration::from_millis(50)).await;
        let now = stamp(&world, job).await;
        writes += u32::from(now != last);
        last = now;
    }
    assert!(writes <= 101, "{writes} writes in a hundred seconds, of which each second's lease needs one");
    says(&world, Load::default());
    for jobs in [&db1, &db2] {
        until(jobs, job, |view| view.throttled.is_none()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_lets_others_have_a_try_is_written_once_and_renews_no_lease() {
    let world = World::with_rows(3000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    until(&jobs, job, |view| view.sources[0].scanned > 0).await;
    world.keys.seal();
    let other = world.node("db2", Death::never());
    let view = until(&other, job, |view| view.throttled.is_some()).await;
    let throttle = view.sources[0].throttled.clone().unwrap();
    assert_eq!((throttle.node.as_str(), throttle.reason.as_str()), ("db1", "the node is sealed"));
    let before = stamp(&world, job).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(stamp(&world, job).await, before);
}

#[tokio::test(start_paused = true)]
async fn outside_of_the_window_jobs_wait_and_say_until_when() {
    let world = World::with_rows(50);
    #[allow(clippy::disallowed_methods, reason = "a window is a matter of the wall clock")]
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let hour = |hours: i64| now.checked_add(hours.hours()).unwrap().strftime("%H:00").to_string();
    let window = format!("{}-{}", hour(3), hour(5));
    world.brake.manners.lock().unwrap().window = Some(window.parse().unwrap());
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = until(&jobs, job, |view| view.throttled.is_some()).await;
    let reason = view.throttled.unwrap();
    assert!(reason.starts_with(&format!("the window {window} UTC opens at ")), "{reason}");
    assert!(reason.ends_with(&format!("T{}:00Z", hour(3))), "{reason}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!((scanned(&jobs, job).await, world.table().loads.load(Ordering::SeqCst)), (0, 0));
    world.brake.manners.lock().unwrap().window = None;
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_pauses_a_job_within_a_batch_and_nothing_is_asked_meanwhile() {
    let world = World::with_rows(2000);
    let (jobs, _) = world.process();
    let job = jobs.start(steady()).await.unwrap().id;
    sleep(Duration::from_secs(5)).await;
    let file = world.dir.path().join("pause-rekey");
    std::fs::write(&file, "").unwrap();
    let before = scanned(&jobs, job).await;
    let view = until(&jobs, job, |view| view.throttled.is_some()).await;
    assert_eq!(view.throttled, Some(format!("kill switch {}", file.display())));
    assert!(view.sources[0].scanned <= before + 100, "more than the batch that was under way");
    let asked = world.table().loads.load(Ordering::SeqCst);
    assert_eq!(rows_in(&jobs, job, 60).await, 0);
    assert_eq!(world.table().loads.load(Ordering::SeqCst), asked);
    std::fs::remove_file(file).unwrap();
    completed(&ended(&jobs, job).await);
}

#[tokio::test(start_paused = true)]
async fn a_plan_names_blockers_and_a_source_that_is_away() {
    let world = World::with_rows(5);
    let (jobs, _) = world.process();
    let plan = jobs.plan(None).await.unwrap().remove(0);
    assert_eq!((plan.rows, plan.blockers.len(), plan.not_reached), (Some(5), 0, None));
    *world.table().blockers.lock().unwrap() = vec!["the column is char(60)".into()];
    let plan = jobs.plan(None).await.unwrap().remove(0);
    assert_eq!(plan.blockers, ["the column is char(60)"]);
    world.table().blockers.lock().unwrap().clear();
    let away = SourceError::Unreachable { name: "c.ssn".parse().unwrap(), reason: "connection refused".into() };
    *world.table().fault.lock().unwrap() = Some(away);
    let plan = jobs.plan(None).await.unwrap().remove(0);
    assert!(plan.blockers.is_empty() && plan.not_reached.unwrap().contains("connection refused"));
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), 0);
}
