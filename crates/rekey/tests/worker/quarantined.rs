//! Rows that can't be read: untouched, listed, counted once, and let go when they are gone or readable.

use std::time::Duration;

use keymoot_rekey::{JobState, Reason, Start, jobs::JobsError, limits::LimitsPatch};
use keymoot_storage::source::{Cell, Row};
use keymoot_types::associated_data::ColumnValue;

use crate::support::*;

/// Rows 1 to 8: first and last unreadable, one of each reason, and what is no value.
fn world() -> World {
    let world = World::with_rows(8);
    let table = &world.table().table;
    let moved = world.keys.value(9, 7, "moved");
    table.write(row(1, Cell::Text(moved)));
    table.write(row(2, Cell::Text(b"km:v9:!".to_vec())));
    table.write(row(3, Cell::Text(world.keys.value(11, 3, "x"))));
    table.write(row(4, Cell::Text(world.keys.value(8, 4, "x"))));
    let no_column =
        Row { columns: vec![("id".into(), ColumnValue::Null)], ..row(5, Cell::Text(world.keys.value(9, 5, "x"))) };
    table.write(no_column);
    let mut body = vec![b'K', b'M', 1, 0, 0, 0, 9, 0x7f];
    body.extend([0; 90]);
    table.write(row(8, Cell::Bytes(body)));
    table.write(row(9, Cell::Null));
    table.write(row(10, Cell::Text(vec![])));
    table.write(row(11, Cell::Text(b"hello".to_vec())));
    table.write(row(12, Cell::Other("real")));
    world
}

#[tokio::test(start_paused = true)]
async fn fault_40_unreadable_rows_are_untouched_listed_and_no_end() {
    let world = world();
    let before = world.table().table.rows();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    assert_eq!(view.state, JobState::CompletedWithQuarantine);
    adds_up(&view);
    let s = &view.sources[0];
    assert_eq!((s.scanned, s.rekeyed, s.null, s.empty, s.foreign, s.quarantined), (12, 2, 1, 1, 2, 6));
    for (old, new) in before.iter().zip(world.table().table.rows()) {
        assert_eq!(*old == new, ![id(6), id(7)].contains(&old.id));
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = jobs.quarantine(job, after.as_deref(), 4).await.unwrap();
        listed.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let listed: Vec<_> = listed.iter().map(|row| (row.id.as_i64().unwrap(), row.version, row.reason)).collect();
    assert_eq!(
        listed,
        [
            (1, Some(v(9)), Reason::AuthenticationFailed),
            (2, Some(v(9)), Reason::MalformedCiphertext),
            (3, Some(v(11)), Reason::UnknownKeyVersion),
            (4, Some(v(8)), Reason::KeyVersionUnavailable),
            (5, Some(v(9)), Reason::AssociatedDataNull),
            (8, Some(v(9)), Reason::UnsupportedFormat),
        ]
    );
    let left = &jobs.quarantine_left().await.unwrap()["c.ssn"];
    assert_eq!((left.rows, &left.first[..2]), (6, &[1.into(), 2.into()][..]));
    assert_eq!(jobs.quarantine(job, Some("junk"), 4).await, Err(JobsError::PageMark));
}

#[tokio::test(start_paused = true)]
async fn a_retry_lets_go_of_what_is_gone_or_readable_and_rewrites_it() {
    let world = world();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    ended(&jobs, job).await;
    for n in [1, 2, 3, 5] {
        world.put(n, 9);
    }
    world.table().table.delete(&id(4));
    jobs.retry(job).await.unwrap();
    let view = until(&jobs, job, |view| view.state.ended()).await;
    assert_eq!((view.state, view.sources[0].quarantined), (JobState::CompletedWithQuarantine, 1));
    adds_up(&view);
    world.table().table.delete(&id(8));
    jobs.retry(job).await.unwrap();
    completed(&ended(&jobs, job).await);
    assert_eq!(jobs.quarantine_left().await.unwrap()["c.ssn"].rows, 0);
    for row in world.table().table.rows().iter().take(6) {
        assert_eq!(world.keys.read(row).0, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_to_the_limits_and_waits_where_the_job_does() {
    let world = World::with_rows(0);
    for n in 1..=1500 {
        world.table().table.write(row(n, Cell::Text(b"km:v9:junk".to_vec())));
    }
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    ended(&jobs, job).await;
    (1..=1500).for_each(|n| world.put(n, 9));
    let limits = LimitsPatch { max_rows_per_second: Some(Some(100)), ..LimitsPatch::default() };
    jobs.set(job, limits).await.unwrap_err();
    let left = || async { jobs.view(job).await.unwrap().sources[0].quarantined };
    jobs.retry(job).await.unwrap();
    jobs.set(job, limits).await.unwrap();
    until(&jobs, job, |view| view.sources[0].quarantined < 1500).await;
    jobs.pause(job, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let paused = left().await;
    assert!(paused >= 500, "{paused}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(left().await, paused, "a job that is paused retried rows");
    jobs.resume(job).await.unwrap();
    completed(&ended(&jobs, job).await);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_loaded_later_frees_its_rows() {
    let world = world();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    ended(&jobs, job).await;
    world.keys.serve(&[8, 9, 10], 10);
    jobs.retry(job).await.unwrap();
    let view = ended(&jobs, job).await;
    assert_eq!(view.sources[0].quarantined, 5);
    assert_eq!(world.keys.read(&world.table().table.rows()[3]), (10, "x".into()));
}

#[tokio::test(start_paused = true)]
async fn a_column_full_of_junk_is_counted_exactly() {
    let world = World::with_rows(3);
    for n in 10..710 {
        world.table().table.write(row(n, Cell::Text(b"km:v9:junk".to_vec())));
    }
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    adds_up(&view);
    assert_eq!((view.sources[0].scanned, view.sources[0].quarantined), (703, 700));
    let (next, _) = world.process();
    assert_eq!(next.view(job).await.unwrap().sources[0].quarantined, 700);
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_repaired_or_are_gone_leave_the_list_when_they_are_looked_at_again() {
    let world = world();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    ended(&jobs, job).await;
    let name = "c.ssn".parse().unwrap();
    assert_eq!(jobs.let_go(&name).await.unwrap(), 0, "nothing was repaired yet");
    world.put(1, 9);
    world.table().table.write(row(2, Cell::Null));
    world.table().table.delete(&id(3));
    let before = world.table().table.rows();
    assert_eq!(jobs.let_go(&name).await.unwrap(), 3);
    assert_eq!(world.table().table.rows(), before, "looking writes nothing");
    assert_eq!(jobs.quarantine_left().await.unwrap()["c.ssn"].rows, 3);
    let view = jobs.view(job).await.unwrap();
    assert_eq!((view.state, view.sources[0].quarantined), (JobState::CompletedWithQuarantine, 3));
    for n in [4, 5, 8] {
        world.put(n, 10);
    }
    assert_eq!(jobs.let_go(&name).await.unwrap(), 3);
    let view = jobs.view(job).await.unwrap();
    assert_eq!((view.state, view.sources[0].quarantined), (JobState::Completed, 0));
    world.keys.seal();
    assert_eq!(jobs.let_go(&name).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn fault_40_a_row_that_can_not_be_read_on_every_page_first_and_last_keeps_no_other_back() {
    const ROWS: i64 = 2500;
    let world = World::with_rows(ROWS);
    let broken: Vec<i64> = (1..=ROWS).filter(|n| *n == 1 || *n == ROWS || n % 10 == 5).collect();
    for n in &broken {
        world.table().table.write(row(*n, Cell::Text(world.keys.value(9, n + 1, "moved"))));
    }
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    assert_eq!(view.state, JobState::CompletedWithQuarantine);
    adds_up(&view);
    let bad = u64::try_from(broken.len()).unwrap();
    assert_eq!((view.sources[0].rekeyed, view.sources[0].quarantined), (2500 - bad, bad));
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = jobs.quarantine(job, after.as_deref(), 100).await.unwrap();
        listed.extend(page.rows.into_iter().map(|row| row.id.as_i64().unwrap()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, broken);
    let left = &jobs.quarantine_left().await.unwrap()["c.ssn"];
    assert_eq!((left.rows, left.first.len(), &left.first[0]), (bad, 10, &1.into()));
}
