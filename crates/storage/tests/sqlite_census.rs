//! A census of a user's SQLite file: every row is counted once, or it says why it proves nothing.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its assertions do")]

mod common;

use common::{File, PEOPLE};
use keymoot_storage::{conformance, open_source, source::Source as _};

#[tokio::test]
async fn fault_38_a_census_is_not_conclusive_while_a_write_is_under_way() {
    let file = File::new(&format!("{PEOPLE}; INSERT INTO people VALUES (1, 'a', 'km:v10:x')"));
    let source = open_source(conformance::spec(&file.url())).unwrap();
    let application = file.connect();
    application.execute_batch("BEGIN IMMEDIATE; INSERT INTO people VALUES (2, 'a', 'km:v9:x')").unwrap();
    let census = source.census(&mut |_| ()).await.unwrap();
    assert_eq!(census.visited, 1);
    let reason = census.not_conclusive.unwrap();
    assert!(reason.contains("under way") && reason.contains("5 s"), "{reason}");
    application.execute_batch("COMMIT").unwrap();
    let census = source.census(&mut |_| ()).await.unwrap();
    assert_eq!((census.visited, census.not_conclusive), (2, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_census_is_one_snapshot_and_does_not_stop_the_application() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 'km:v9:x' FROM n;",
    );
    let source = file.source("t", &["id"], "c", "");
    let application = std::sync::Mutex::new(file.connect());
    let mut written = false;
    let (mut old, mut rows) = (0, 0);
    let census = source
        .census(&mut |cell| {
            if !written {
                written = true;
                application
                    .lock()
                    .unwrap()
                    .execute_batch("UPDATE t SET c = 'km:v10:x'; DELETE FROM t WHERE id % 2")
                    .unwrap();
            }
            rows += 1;
            old += u64::from(cell.bytes() == Some(b"km:v9:x"));
        })
        .await
        .unwrap();
    assert_eq!((census.visited, census.counted, rows, old), (20_000, 20_000, 20_000, 20_000));
    assert_eq!(source.total().await.unwrap().rows, 10_000);
}

#[tokio::test]
async fn the_sql_to_count_by_hand_counts_every_row_in_one_class() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c);
         INSERT INTO t (c) VALUES ('km:v9:a'), ('km:v9:b'), ('km:v10:a'), (CAST('km:v9:c' AS BLOB)), ('km:v4294967295:a'), (NULL), (''), (x''),
         ('km:vintage: secret'), ('km:v09:a'), ('km:v'), (x'4b4d0100000009ff'), (x'4b4d01'), ('plain'), ('KM:v9:a'), (5), (' km:v9:a')",
    );
    let source = file.source("t", &["id"], "c", "");
    let census = source.census(&mut |_| ()).await.unwrap();
    let connection = file.connect();
    let mut statement = connection.prepare(census.sql.trim_end_matches(';')).unwrap();
    let counted: Vec<(String, i64)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let expected = [
        ("null", 1),
        ("empty", 2),
        ("km:v9:", 3),
        ("foreign", 4),
        ("km:v10:", 1),
        ("unreadable", 4),
        ("KM 0x00000009", 1),
        ("km:v4294967295:", 1),
    ];
    assert_eq!(counted, expected.map(|(class, rows)| (class.to_owned(), rows)));
    assert_eq!(counted.iter().map(|(_, rows)| rows).sum::<i64>().unsigned_abs(), census.counted);
}

#[tokio::test]
async fn fault_38_a_census_of_a_view_proves_nothing() {
    let file = File::new("CREATE TABLE real (id INTEGER PRIMARY KEY, c); INSERT INTO real VALUES (1, 'km:v9:a')");
    file.connect().execute_batch("CREATE VIEW t AS SELECT * FROM real WHERE id > 1").unwrap();
    let census = file.source("t", &["id"], "c", "").census(&mut |_| ()).await.unwrap();
    let why = census.not_conclusive.unwrap();
    assert!(why.contains("t is a view; declare the real table"), "{why}");
    assert_eq!(file.source("real", &["id"], "c", "").census(&mut |_| ()).await.unwrap().not_conclusive, None);
}

/// A page of the table whose header says that it has fewer rows: neither a scan nor `COUNT(*)` finds the others.
#[tokio::test]
async fn fault_29_a_flipped_bit_in_any_page_of_a_users_table_never_hides_a_value_from_a_census() {
    let values: Vec<String> = (1..=400).map(|n| format!("({n}, 'km:v9:{n:060}')")).collect();
    let made = "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT)";
    let file = File::raw(&format!("{made}; INSERT INTO t VALUES {}", values.join(", ")));
    let whole = std::fs::read(&file.path).unwrap();
    let (mut doubted, mut counted) = (0, 0);
    for page in 1..whole.len() / 4096 {
        for (offset, bit) in (0..8).flat_map(|offset| (0..8).map(move |bit| (offset, bit))) {
            let mut bytes = whole.clone();
            bytes[page * 4096 + offset] ^= 1 << bit;
            std::fs::write(&file.path, &bytes).unwrap();
            let mut old = 0;
            let source = file.source("t", &["id"], "c", "");
            match source
                .census(&mut |cell| {
                    old += u32::from(cell.bytes().is_some_and(|bytes| bytes.starts_with(b"km:v9:")))
                })
                .await
            {
                Ok(found) if found.not_conclusive.is_none() => {
                    assert_eq!((old, found.visited), (400, 400), "page {page}, byte {offset}, bit {bit}");
                    counted += 1;
                }
                _ => doubted += 1,
            }
        }
    }
    assert!(doubted > counted, "{doubted} doubted, {counted} counted whole");
}

#[tokio::test]
async fn a_row_that_breaks_a_rule_and_functions_that_only_the_application_knows_keep_no_census_from_concluding() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT NOT NULL CHECK (length(c) < 9), mail TEXT);
         PRAGMA ignore_check_constraints = 1; INSERT INTO t VALUES (1, 'km:v9:too-long', 'a'), (2, 'km:v9:a', 'b')",
    );
    let census = async || {
        let mut cells = 0;
        let found = file.source("t", &["id"], "c", "").census(&mut |_| cells += 1).await.unwrap();
        assert_eq!((found.not_conclusive, found.counted, cells), (None, 2, 2));
    };
    census().await;
    // As it stands in the file of an application that registers a function of its own.
    let connection = file.connect();
    connection.pragma_update(None, "writable_schema", true).unwrap();
    let renamed = connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'length(c)', 'weight(c)')", []);
    assert_eq!(renamed, Ok(1));
    connection.pragma_update(None, "schema_version", 1000).unwrap();
    census().await;
}
