//! The application writes while the worker works: its values stand.

use std::time::Duration;

use keymoot_rekey::{JobState, Start};
use keymoot_storage::source::{Cell, IdPart, Row, RowId};

use crate::support::*;

fn number(id: &RowId) -> i64 {
    let RowId(parts) = id;
    let IdPart::Integer(n) = parts[0] else { panic!("{parts:?}") };
    n
}

#[tokio::test(start_paused = true)]
async fn fault_37_what_the_application_wrote_in_between_stands() {
    let world = World::with_rows(6);
    let (table, keys) = (world.table(), world.keys.clone());
    *world.table().before_swap.lock().unwrap() = Some(Box::new(move |number, _| {
        if number == 1 {
            table.table.write(row(1, Cell::Text(keys.value(10, 1, "new by the application"))));
            table.table.write(row(2, Cell::Text(keys.value(9, 2, "old by a laggard"))));
            table.table.write(row(3, Cell::Null));
            table.table.delete(&id(4));
            table.table.write(row(5, Cell::Text(b"plain".to_vec())));
        }
    }));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    let s = &view.sources[0];
    assert_eq!((s.rekeyed, s.current, s.null, s.foreign, s.gone, s.conflicts), (2, 1, 1, 1, 1, 5));
    let rows = world.table().table.rows();
    assert_eq!(rows.len(), 5, "a deleted row stays deleted");
    assert_eq!(world.keys.read(&rows[0]), (10, "new by the application".into()));
    assert_eq!(world.keys.read(&rows[1]), (10, "old by a laggard".into()));
    assert_eq!(rows[2].cell, Cell::Null);
    assert_eq!(rows[3].cell, Cell::Text(b"plain".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_a_writer_wins_every_time_is_left_to_a_later_pass() {
    let world = World::with_rows(3);
    let (table, keys) = (world.table(), world.keys.clone());
    *world.table().before_swap.lock().unwrap() = Some(Box::new(move |number, batch| {
        if number <= 7 && batch.iter().any(|swap| swap.id == id(2)) {
            table.table.write(row(2, Cell::Text(keys.value(9, 2, "text 2"))));
        }
    }));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    assert_eq!((view.sources[0].scanned, view.sources[0].conflicts), (3, 7));
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn rows_that_somebody_holds_keep_no_other_row_back_and_are_waited_for_at_last() {
    let world = World::with_rows(2_500);
    let held = [id(1), id(700), id(2_500)];
    *world.table().held.lock().unwrap() = held.to_vec();
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let old = || {
        let rows = world.table().table.rows();
        rows.into_iter().filter(|row| world.keys.read(row).0 == 9).map(|row| row.id).collect::<Vec<_>>()
    };
    until(&jobs, job, |view| view.sources[0].rekeyed == 2_497).await;
    assert_eq!(old(), held);
    // However long that takes, it is no end of the job.
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    let view = jobs.view(job).await.unwrap();
    assert_eq!(view.state, JobState::Running, "{view:#?}");
    assert!(view.throttled.unwrap().contains("another transaction was in the way"));
    world.table().held.lock().unwrap().clear();
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    assert_eq!(view.sources[0].rekeyed, 2_500);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn fault_38_old_rows_behind_the_cursor_are_found_by_a_later_pass() {
    let world = World::with_rows(5);
    let (table, keys) = (world.table(), world.keys.clone());
    *world.table().before_swap.lock().unwrap() = Some(Box::new(move |number, batch| {
        // Behind the cursor of the batch that is being written, three times over.
        if number <= 3 {
            let behind = batch.iter().map(|swap| crate::writers::number(&swap.id)).min().unwrap() - 1;
            table.table.write(row(behind, Cell::Text(keys.value(9, behind, &format!("text {behind}")))));
        }
    }));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    assert_eq!(world.table().table.rows().len(), 8);
    world.all_are(10);
}

#[tokio::test(start_paused = true)]
async fn fault_41_a_new_primary_in_the_middle_takes_all_rows_with_it() {
    let world = World::with_rows(40);
    let keys = world.keys.clone();
    *world.table().before_swap.lock().unwrap() = Some(Box::new(move |number, _| {
        if number == 2 {
            keys.serve(&[9, 10, 11], 11);
        }
    }));
    let (jobs, _) = world.process();
    let limits = serde_json::from_str(r#"{"max_rows_per_second": 10}"#).unwrap();
    let job = jobs.start(Start { limits, ..Start::default() }).await.unwrap().id;
    let view = ended(&jobs, job).await;
    completed(&view);
    adds_up(&view);
    assert_eq!(view.sources[0].scanned, 40);
    world.all_are(11);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_done_goes_on_when_the_primary_changes_beside_it() {
    let world = World::new(&["a.x", "b.x"]);
    for table in world.tables.values() {
        for n in 1..=3 {
            table.table.write(row(n, Cell::Text(world.keys.value(9, n, &format!("text {n}")))));
        }
    }
    let keys = world.keys.clone();
    let last = world.tables.values().last().unwrap();
    *last.before_swap.lock().unwrap() = Some(Box::new(move |_, _| keys.serve(&[9, 10, 11], 11)));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    completed(&ended(&jobs, job).await);
    let rows: Vec<Row> = world.tables.values().flat_map(|table| table.table.rows()).collect();
    assert!(rows.iter().all(|row| world.keys.read(row).0 == 11));
}

#[tokio::test(start_paused = true)]
async fn binary_and_text_values_keep_their_spelling() {
    let world = World::with_rows(1);
    let text = world.keys.value(9, 2, "text 2");
    let (value, _) = keymoot_types::Value::parse_bytes(&text).unwrap();
    world.table().table.write(row(2, Cell::Bytes(value.to_binary())));
    let (jobs, _) = world.process();
    let job = jobs.start(Start::default()).await.unwrap().id;
    completed(&ended(&jobs, job).await);
    let rows = world.table().table.rows();
    assert!(matches!(&rows[0].cell, Cell::Text(text) if text.starts_with(b"km:v10:")));
    assert!(matches!(&rows[1].cell, Cell::Bytes(bytes) if bytes.starts_with(b"KM\x01\0\0\0\x0a")));
    world.all_are(10);
}
