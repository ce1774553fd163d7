//! A column of plaintext is taken over: encrypted once, bound to its rows, and nothing that looks like a value is.

use std::collections::BTreeMap;

use keymoot_rekey::{JobState, JobView, Jobs, Reason, Start, census::census};
use keymoot_storage::source::{Cell, IdPart, Row, RowId};
use keymoot_types::{KeyVersion, Value, associated_data::ColumnValue, value::Form};

use crate::support::*;

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

fn number(row: &Row) -> i64 {
    match row.id {
        RowId(ref parts) if let [IdPart::Integer(n)] = parts[..] => n,
        _ => panic!("{row:?}"),
    }
}

/// Rows 1 to 9 of plaintext, of values, and of nothing.
fn world() -> World {
    let world = World::adopting();
    let table = &world.table().table;
    for n in 1..=4 {
        table.write(row(n, text(&format!("text {n}"))));
    }
    world.put(5, 9);
    world.put(6, 10);
    table.write(row(7, Cell::Null));
    table.write(row(8, text("")));
    table.write(row(9, Cell::Bytes(b"text 9\0\xff".to_vec())));
    world
}

/// What begins as a value does or holds one, and what can hold none.
fn look_alikes(world: &World) -> BTreeMap<i64, (Cell, Reason)> {
    let token = String::from_utf8(world.keys.value(9, 1, "x")).unwrap();
    let unknown = String::from_utf8(world.keys.value(11, 15, "x")).unwrap();
    [
        (10, text("km:vintage"), Reason::MalformedCiphertext),
        (11, text("km:v9:"), Reason::MalformedCiphertext),
        (12, text(&format!("{token} ")), Reason::MalformedCiphertext),
        (13, text(&token), Reason::AuthenticationFailed),
        (14, Cell::Bytes(b"KM\x01".to_vec()), Reason::MalformedCiphertext),
        (15, text(&unknown), Reason::UnknownKeyVersion),
        (16, text(&format!("{{\"t\":\"{token}\"}}")), Reason::EmbeddedValue),
        (17, text(&format!(" {token}")), Reason::EmbeddedValue),
        (18, Cell::Other("real"), Reason::NotTextOrBytes),
    ]
    .into_iter()
    .map(|(n, cell, reason)| (n, (cell, reason)))
    .collect()
}

async fn run(jobs: &Jobs, dry_run: bool) -> JobView {
    let job = jobs.start(Start { dry_run, ..Start::default() }).await.unwrap();
    ended(jobs, job.id).await
}

#[tokio::test(start_paused = true)]
async fn a_column_of_plaintext_is_encrypted_as_it_is_and_bound_to_its_rows() {
    let world = world();
    let (jobs, _) = world.process();
    let rehearsed = run(&jobs, true).await;
    adds_up(&rehearsed);
    let s = &rehearsed.sources[0];
    assert_eq!((s.scanned, s.rekeyed, s.adopted, s.current, s.null, s.empty, s.foreign), (9, 6, 5, 1, 1, 1, 0));
    assert_eq!(world.table().table.rows()[0].cell, text("text 1"), "a dry run writes nothing");

    let view = run(&jobs, false).await;
    completed(&view);
    adds_up(&view);
    let s = &view.sources[0];
    assert_eq!((s.scanned, s.rekeyed, s.adopted, s.current, s.null, s.empty, s.foreign), (9, 6, 5, 1, 1, 1, 0));
    for row in world.table().table.rows() {
        match number(&row) {
            n @ 1..=6 => assert_eq!(world.keys.read(&row), (10, format!("text {n}"))),
            7 => assert_eq!(row.cell, Cell::Null),
            8 => assert_eq!(row.cell, text("")),
            _ => {
                let Cell::Bytes(bytes) = &row.cell else { panic!("bytes stay bytes: {row:?}") };
                let (value, form) = Value::parse_bytes(bytes).unwrap();
                let ring = world.keys.ring(&[10], 10);
                let opened = ring.decrypt(&key(), &value, b"customers/9").unwrap();
                assert_eq!((form, opened.as_slice()), (Form::Binary, &b"text 9\0\xff"[..]));
                assert!(ring.decrypt(&key(), &value, b"customers/8").is_err());
            }
        }
    }
    let again = run(&jobs, false).await;
    let s = &again.sources[0];
    assert_eq!((s.rekeyed, s.adopted, s.current), (0, 0, 7), "nothing is encrypted twice");
}

#[tokio::test(start_paused = true)]
async fn fault_22_a_look_alike_in_a_column_of_plaintext_is_listed_and_never_encrypted() {
    let world = world();
    let look_alikes = look_alikes(&world);
    for (n, (cell, _)) in &look_alikes {
        world.table().table.write(row(*n, cell.clone()));
    }
    world.table().table.write(Row { columns: vec![("id".into(), ColumnValue::Null)], ..row(19, text("unbound")) });
    let (jobs, _) = world.process();
    let view = run(&jobs, false).await;
    assert_eq!(view.state, JobState::CompletedWithQuarantine);
    adds_up(&view);
    for row in world.table().table.rows() {
        if let Some((cell, _)) = look_alikes.get(&number(&row)) {
            assert_eq!(row.cell, *cell);
        }
    }
    let listed = jobs.quarantine(view.id, None, 100).await.unwrap().rows;
    let listed: Vec<_> = listed.iter().map(|row| (row.id.as_i64().unwrap(), row.reason)).collect();
    let mut wanted: Vec<_> = look_alikes.iter().map(|(n, (_, reason))| (*n, *reason)).collect();
    wanted.push((19, Reason::AssociatedDataNull));
    assert_eq!(listed, wanted);

    let known = |version: KeyVersion| [v(8), v(9), v(10)].contains(&version);
    let counted = census(&world.table().table, known, "2026-01-01T00:00:00Z".parse().unwrap()).await;
    assert_eq!((counted.unreadable, counted.embedded, counted.foreign), (5, 2, 4), "{counted:?}");
    assert!(!counted.conclusive);
}

#[tokio::test(start_paused = true)]
async fn plaintext_that_is_written_behind_the_cursor_is_found_by_the_next_pass() {
    let world = world();
    let table = world.table();
    let writing = table.clone();
    *table.before_swap.lock().unwrap() = Some(Box::new(move |number, _| {
        if number == 1 {
            writing.table.write(row(0, text("text 0")));
            writing.table.write(row(2, text("text 2 anew")));
        }
    }));
    let (jobs, _) = world.process();
    let view = run(&jobs, false).await;
    completed(&view);
    adds_up(&view);
    let rows = table.table.rows();
    assert_eq!(world.keys.read(&rows[0]), (10, "text 0".into()));
    assert_eq!(world.keys.read(&rows[2]), (10, "text 2 anew".into()));
    let counted = census(&table.table, |_| true, "2026-01-01T00:00:00Z".parse().unwrap()).await;
    assert_eq!(counted.foreign, 0);
}
