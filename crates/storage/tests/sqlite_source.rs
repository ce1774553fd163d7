//! A user's SQLite file as a source: every row once, no update lost, no row written that changed.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its assertions do")]

mod common;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{File, PEOPLE, all, id, swap};
use keymoot_storage::{
    conformance::{self, Dialect, Holds, IdKind},
    open_source,
    source::{Cell, IdPart, RowId, Selection, Source, SourceError, SourceSpec, Swapped},
    sqlite::SqliteSource,
};
use rusqlite::params;

#[tokio::test]
async fn the_source_in_sqlite_keeps_the_promises() {
    for file in [
        File::new(PEOPLE),
        File::raw(PEOPLE),
        File::new("CREATE TABLE people (id INTEGER NOT NULL PRIMARY KEY, tenant, token) WITHOUT ROWID"),
    ] {
        let source = open_source(conformance::spec(&file.url())).unwrap();
        conformance::source(&*source, &file, Holds::ANYTHING).await;
    }
}

/// Every row once, for chunks of several sizes, in the order that the table itself has.
async fn every_row_once(file: &File, table: &str, ids: &[&str], rows: usize) {
    let source = file.source(table, ids, "c", "");
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    for rows_max in [1, 2, 3, 100_000] {
        let read = all(&source, rows_max, &Selection::Every).await;
        let mut ids: Vec<&RowId> = read.iter().map(|row| &row.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((read.len(), ids.len()), (rows, rows), "{table}, {rows_max} a chunk");
        let again: Vec<RowId> = read.iter().map(|row| row.id.clone()).collect();
        let again = source.read_again(&again).await.unwrap();
        assert_eq!(again.into_iter().flatten().collect::<Vec<_>>(), read);
    }
    let read = all(&source, 2, &Selection::Every).await;
    let batch: Vec<_> = read.iter().map(|row| swap(row, "km:v10:new")).collect();
    assert_eq!(source.swap(&batch).await.unwrap(), vec![Swapped::Done; rows]);
    assert_eq!(source.total().await.unwrap().rows, rows as u64);
}

#[tokio::test]
async fn fault_42_rows_are_visited_once_whatever_their_ids_are() {
    let file = File::new(
        "CREATE TABLE text (a TEXT PRIMARY KEY NOT NULL, c TEXT);
         INSERT INTO text VALUES ('', 'x'), ('a', 'x'), ('A', 'x'), ('é', 'x'), ('z''\"', 'x'), ('10', 'x'), ('9', 'x'), ('a' || char(0) || 'b', 'x');
         CREATE TABLE nocase (a TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, c TEXT) WITHOUT ROWID;
         INSERT INTO nocase VALUES ('b', 'x'), ('A', 'x'), ('_', 'x'), ('C', 'x'), ('É', 'x'), ('é', 'x');
         CREATE TABLE blob (a BLOB PRIMARY KEY NOT NULL, c TEXT);
         INSERT INTO blob VALUES (x'', 'x'), (x'00', 'x'), (x'ff', 'x'), (x'ff00', 'x');
         CREATE TABLE mixed (a PRIMARY KEY NOT NULL, c TEXT);
         INSERT INTO mixed VALUES (1, 'x'), ('1', 'x'), (x'31', 'x'), (-1, 'x');
         CREATE TABLE composite (a TEXT COLLATE NOCASE, b INTEGER, d BLOB, c TEXT, PRIMARY KEY (b, a, d));
         INSERT INTO composite VALUES ('a', 1, x'00', 'x'), ('a', 1, x'01', 'x'), ('B', 1, x'00', 'x'), ('a', -1, x'ff', 'x'), ('b', 2, x'', 'x');
         CREATE TABLE descending (a INTEGER PRIMARY KEY DESC NOT NULL, c TEXT);
         INSERT INTO descending VALUES (1, 'x'), (-5, 'x'), (700, 'x');
         CREATE TABLE by_index (n INTEGER PRIMARY KEY, a TEXT NOT NULL, c TEXT);
         CREATE UNIQUE INDEX by_a ON by_index (a);
         INSERT INTO by_index VALUES (1, 'z', 'x'), (2, 'a', 'x');
         CREATE TABLE strict (a INTEGER PRIMARY KEY, c TEXT) STRICT;
         INSERT INTO strict VALUES (-9223372036854775808, 'x'), (0, 'x'), (9223372036854775807, 'x');
         CREATE TABLE one (a INTEGER PRIMARY KEY, c TEXT); INSERT INTO one VALUES (-3, 'x');
         CREATE TABLE none (a INTEGER PRIMARY KEY, c TEXT);",
    );
    for (table, ids, rows) in [
        ("text", &["a"][..], 8),
        ("nocase", &["a"], 6),
        ("blob", &["a"], 4),
        ("mixed", &["a"], 4),
        ("composite", &["b", "a", "d"], 5),
        ("composite", &["a", "b", "d"], 5),
        ("descending", &["a"], 3),
        ("by_index", &["a"], 2),
        ("by_index", &["n"], 2),
        ("strict", &["a"], 3),
        ("main.one", &["a"], 1),
        ("none", &["a"], 0),
    ] {
        every_row_once(&file, table, ids, rows).await;
    }
}

const DIALECT: Dialect = Dialect {
    quote: '"',
    schema: "main",
    id: |kind| match kind {
        IdKind::SmallInt | IdKind::Int | IdKind::BigInt => "INTEGER",
        IdKind::Text | IdKind::Uuid => "TEXT",
        IdKind::CaseBlind => "TEXT COLLATE NOCASE",
        IdKind::Bytes => "BLOB",
    },
    text: "TEXT",
    bytes: ("x'", "'"),
};

#[tokio::test]
async fn fault_42_every_row_of_every_table_of_the_matrix_in_sqlite_is_visited_once() {
    let file = File::new("");
    for table in conformance::tables() {
        file.connect().execute_batch(&table.sql(&DIALECT).join(";")).unwrap();
        let source = open_source(table.spec(&file.url(), DIALECT.schema)).unwrap();
        conformance::every_row_once(&*source, &table).await;
    }
}

#[tokio::test]
async fn quoted_names_are_names_and_never_strings() {
    let file = File::new(
        r#"CREATE TABLE "or""der; by" ("i d" INTEGER PRIMARY KEY, "select" TEXT, "x'y" TEXT);
           INSERT INTO "or""der; by" VALUES (1, 'km:v9:a', 't');
           CREATE TABLE "main.dotted" (id INTEGER PRIMARY KEY, c TEXT);"#,
    );
    let source = file.source("or\"der; by", &["i d"], "select", "{x'y}/{i d}");
    let preflight = source.preflight().await.unwrap();
    assert_eq!((preflight.blockers, preflight.index.as_deref()), (Vec::new(), Some("INTEGER PRIMARY KEY")));
    let rows = all(&source, 10, &Selection::Prefixes(vec![b"km:v9:".to_vec()])).await;
    assert_eq!(rows[0].cell, Cell::Text(b"km:v9:a".to_vec()));
    assert_eq!(source.swap(&[swap(&rows[0], "km:v10:b")]).await, Ok(vec![Swapped::Done]));
    source.census(&mut |_| ()).await.unwrap();
    // A column that is missing is an error, not a text of its own name.
    let missing = file.source("or\"der; by", &["i d"], "selekt", "");
    assert!(matches!(missing.read(None, 1, &Selection::Every).await, Err(SourceError::Mistaken { .. })));
    assert!(matches!(missing.census(&mut |_| ()).await, Err(SourceError::Mistaken { .. })));
}

#[tokio::test]
async fn text_that_is_not_utf8_and_numbers_are_read_as_they_are() {
    let file = File::new("CREATE TABLE t (id INTEGER PRIMARY KEY, c, a);
        INSERT INTO t VALUES (1, CAST(x'6b6dff00fe' AS TEXT), CAST(x'ff' AS TEXT)), (2, 5, 1.5), (3, 1.5, x'ab'), (4, NULL, NULL)");
    let source = file.source("t", &["id"], "c", "{a}");
    let rows = all(&source, 10, &Selection::Every).await;
    let cells: Vec<&Cell> = rows.iter().map(|row| &row.cell).collect();
    assert_eq!(
        cells,
        [&Cell::Text(b"km\xff\0\xfe".to_vec()), &Cell::Other("integer"), &Cell::Other("real"), &Cell::Null]
    );
    // What makes no associated data is left out, so that the row is put aside.
    assert_eq!(rows.iter().map(|row| row.columns.len()).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(matches!(source.swap(&[swap(&rows[1], "x")]).await, Err(SourceError::Mistaken { .. })));
    assert_eq!(source.swap(&[swap(&rows[0], "km:v10:")]).await, Ok(vec![Swapped::Done]));
    assert_eq!(file.count("SELECT COUNT(*) FROM t WHERE id = 1 AND typeof(c) = 'text'"), 1);
}

#[tokio::test]
async fn a_later_pass_over_many_rows_of_sqlite_goes_in_bounded_steps() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
         INSERT INTO t SELECT i, iif(i IN (77777, 77778, 199999), 'km:v9:', 'km:v10:') || i FROM n;",
    );
    let source = file.source("t", &["id"], "c", "");
    conformance::few_old_rows_among_many(&source, 200_000, &[77_777, 77_778, 199_999]).await;
}

#[tokio::test]
async fn fifty_thousand_rows_are_all_seen_and_all_swapped() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
         INSERT INTO t SELECT i * 7 - 100000, 'km:v' || (9 + i % 2) || ':' || i FROM n;",
    );
    let source = file.source("t", &["id"], "c", "t/{id}");
    let old = Selection::Prefixes(vec![b"km:v9:".to_vec()]);
    let (mut done, mut after) = (0, None);
    loop {
        let rows = source.read(after.as_ref(), 5000, &old).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = Some(last.id.clone());
        let batch: Vec<_> = rows.iter().map(|row| swap(row, "km:v10:new")).collect();
        done += source.swap(&batch).await.unwrap().iter().filter(|outcome| **outcome == Swapped::Done).count();
    }
    assert_eq!(done, 25_000);
    let mut classes = BTreeMap::new();
    let census = source
        .census(&mut |cell| *classes.entry(cell.bytes().unwrap()[..6].to_vec()).or_insert(0) += 1)
        .await
        .unwrap();
    assert_eq!((census.visited, census.counted, census.not_conclusive), (50_000, 50_000, None));
    assert_eq!(classes, BTreeMap::from([(b"km:v10".to_vec(), 50_000)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_37_no_update_of_a_second_writer_is_ever_lost() {
    for file in [File::new(PEOPLE), File::raw(PEOPLE)] {
        let mut connection = file.connect();
        let fill = connection.transaction().unwrap();
        for n in 0..50 {
            fill.execute("INSERT INTO people VALUES (?1, 'acme', 'km:v9:0')", [n]).unwrap();
        }
        fill.commit().unwrap();
        let source = open_source(conformance::spec(&file.url())).unwrap();
        static STOP: AtomicBool = AtomicBool::new(false);
        STOP.store(false, Ordering::SeqCst);
        // The application counts up: what it acknowledged last must be what each row ends with, in either version.
        let application = tokio::task::spawn_blocking(move || {
            let mut last = BTreeMap::new();
            // It ends by itself too, so that a failed assertion below does not wait for it.
            for n in 1..20_000 {
                if STOP.load(Ordering::SeqCst) && n > 300 {
                    break;
                }
                // A gap between its writes, as SQLite's lock is not a fair one.
                std::thread::park_timeout(Duration::from_micros(500));
                let id = n * 31 % 50;
                let changed = connection
                    .execute("UPDATE people SET token = 'km:v9:' || ?1 WHERE id = ?2", params![n, id])
                    .unwrap();
                assert_eq!(changed, 1);
                last.insert(id, n);
            }
            last
        });
        let (mut done, mut lost) = (0, 0);
        let end = Instant::now() + Duration::from_secs(60);
        for round in 0.. {
            // More of them where the application is slow to begin.
            if round >= 60 && ((done > 0 && lost > 0) || Instant::now() > end) {
                break;
            }
            let rows = source.read(None, 100, &Selection::Prefixes(vec![b"km:v9:".to_vec()])).await.unwrap();
            // Room for the application, between the read and the swap.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let batch: Vec<_> = rows
                .iter()
                .map(|row| {
                    let text = String::from_utf8(row.cell.bytes().unwrap().to_vec()).unwrap();
                    swap(row, &text.replace("km:v9:", "km:v10:"))
                })
                .collect();
            for outcome in source.swap(&batch).await.unwrap() {
                if outcome == Swapped::Done { done += 1 } else { lost += 1 }
            }
        }
        STOP.store(true, Ordering::SeqCst);
        let last = application.await.unwrap();
        assert_eq!(last.len(), 50);
        println!("{done} swapped, {lost} lost to the application");
        assert!(done > 0 && lost > 0, "the race did not happen");
        for row in all(&*source, 100, &Selection::Every).await {
            let [IdPart::Integer(id)] = row.id.0[..] else { unreachable!() };
            let text = String::from_utf8(row.cell.bytes().unwrap().to_vec()).unwrap();
            assert_eq!(text.rsplit(':').next().unwrap(), last[&id].to_string(), "row {id}");
        }
    }
}

#[tokio::test]
async fn an_id_that_can_not_be_told_apart_stops_the_pass() {
    let file = File::new(
        "CREATE TABLE t (a TEXT PRIMARY KEY, c TEXT);
         INSERT INTO t VALUES ('a', 'x'), (CAST(x'ff' AS TEXT), 'x');
         CREATE TABLE n (a TEXT PRIMARY KEY, c TEXT); INSERT INTO n VALUES (NULL, 'x');
         CREATE TABLE twice (a INTEGER, c TEXT); INSERT INTO twice VALUES (1, 'x'), (1, 'x')",
    );
    for (table, text) in [("t", "not UTF-8"), ("n", "is NULL")] {
        let error = file.source(table, &["a"], "c", "").read(None, 10, &Selection::Every).await.unwrap_err();
        assert!(matches!(error, SourceError::Mistaken { .. }) && error.to_string().contains(text), "{error}");
    }
    let twice = file.source("twice", &["a"], "c", "");
    let rows = twice.read(None, 1, &Selection::Every).await.unwrap();
    let error = twice.swap(&[swap(&rows[0], "y")]).await.unwrap_err();
    assert!(error.to_string().contains("nothing was written"), "{error}");
    assert_eq!(file.count("SELECT COUNT(*) FROM twice WHERE c = 'x'"), 2);
}

#[tokio::test]
async fn a_constraint_or_trigger_that_refuses_is_told_without_content() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT CONSTRAINT short CHECK (length(c) < 9));
         CREATE TABLE u (id INTEGER PRIMARY KEY, c TEXT);
         CREATE TRIGGER guard BEFORE UPDATE ON u BEGIN SELECT RAISE(ABORT, 'content'); END;
         INSERT INTO t VALUES (1, 'km:v9:x'); INSERT INTO u VALUES (1, 'km:v9:x')",
    );
    for (table, text) in [("t", "short"), ("u", "a trigger refuses")] {
        let spec = SourceSpec { accept_triggers: vec!["guard".into()], ..file.spec(table, &["id"], "c", "") };
        let source = SqliteSource::open(spec).unwrap();
        let rows = source.read(None, 1, &Selection::Every).await.unwrap();
        let error = source.swap(&[swap(&rows[0], "km:v10:x-secret")]).await.unwrap_err();
        let printed = error.to_string();
        assert!(matches!(error, SourceError::Mistaken { .. }), "{printed}");
        assert!(
            printed.contains(text) && !printed.contains("secret") && !printed.contains("content"),
            "{printed}"
        );
    }
}

#[tokio::test]
async fn a_source_comes_back_when_its_file_does_and_is_never_made() {
    let file = File::new(&format!("{PEOPLE}; INSERT INTO people VALUES (1, 'a', 'km:v9:x')"));
    let source = open_source(conformance::spec(&file.url())).unwrap();
    assert_eq!(source.total().await.unwrap().rows, 1);
    let away = file.directory.path().join("away");
    std::fs::rename(&file.path, &away).unwrap();
    let error = source.read(None, 1, &Selection::Every).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Unreachable { reason, .. } if reason.contains("there is no file")),
        "{error}"
    );
    assert!(source.census(&mut |_| ()).await.is_err());
    assert!(!file.path.exists());
    std::fs::write(&file.path, "not a database, but text ".repeat(100)).unwrap();
    assert!(matches!(source.total().await, Err(SourceError::Mistaken { .. })));
    std::fs::remove_file(&file.path).unwrap();
    std::fs::rename(&away, &file.path).unwrap();
    assert_eq!(source.read_again(&[id(1)]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_journal_mode_of_the_user_stays() {
    for (file, mode) in [(File::new(PEOPLE), "wal"), (File::raw(PEOPLE), "delete")] {
        let source = open_source(conformance::spec(&file.url())).unwrap();
        conformance::source(&*source, &file, Holds::ANYTHING).await;
        source.preflight().await.unwrap();
        let now: String = file.connect().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(now, mode);
    }
}

#[tokio::test]
async fn fault_42_what_a_trigger_of_sqlite_alters_is_never_called_done_and_nothing_of_the_batch_is_written() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, tenant TEXT, c TEXT);
         INSERT INTO t VALUES (1, 'acme', 'km:v9:A'), (2, 'acme', 'km:v9:B'), (3, 'acme', 'km:v9:C')",
    );
    let spec =
        SourceSpec { accept_triggers: vec!["Meddles".into()], ..file.spec("t", &["id"], "c", "{tenant}/{id}") };
    let source = SqliteSource::open(spec).unwrap();
    let batch: Vec<_> =
        all(&source, 10, &Selection::Every).await.iter().map(|row| swap(row, "km:v10:D")).collect();
    for alters in ["c = lower(c) WHERE id = 2", "tenant = 'other' WHERE id = 2", "c = 'km:v9:A' WHERE id = 1"] {
        let when = "AFTER UPDATE OF c ON t WHEN new.id > 1 AND new.c = 'km:v10:D'";
        file.connect()
            .execute_batch(&format!("CREATE TRIGGER meddles {when} BEGIN UPDATE t SET {alters}; END"))
            .unwrap();
        let error = source.swap(&batch).await.unwrap_err().to_string();
        for part in ["t did not hold what was written", "nothing was committed", "meddles"] {
            assert!(error.contains(part), "{alters}: {error}");
        }
        assert_eq!(file.count("SELECT count(*) FROM t WHERE c LIKE 'km:v9:%' AND tenant = 'acme'"), 3, "{alters}");
        file.connect().execute_batch("DROP TRIGGER meddles").unwrap();
    }
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 3]));
}

#[tokio::test]
async fn fault_42_a_trigger_of_sqlite_that_came_since_the_preflight_is_refused_by_name() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT); INSERT INTO t VALUES (1, 'km:v9:A'); CREATE TABLE history (c TEXT)",
    );
    let source = file.source("t", &["id"], "c", "");
    let batch = [swap(&all(&source, 10, &Selection::Every).await[0], "km:v10:A")];
    let keep = "BEGIN INSERT INTO history VALUES (old.c); END";
    file.connect().execute_batch(&format!("CREATE TRIGGER keeps AFTER UPDATE OF c ON t {keep}")).unwrap();
    let error = source.swap(&batch).await.unwrap_err().to_string();
    assert!(error.contains("trigger keeps came since the preflight"), "{error}");
    assert_eq!(file.count("SELECT count(*) FROM history"), 0);
    file.connect().execute_batch("DROP TRIGGER keeps").unwrap();
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done]));
}
