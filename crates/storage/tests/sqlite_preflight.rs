//! What the preflight refuses, each with its remedy, before a row is touched.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its assertions do")]

mod common;

use common::File;
use keymoot_storage::{
    source::{Preflight, Source, SourceError, SourceSpec},
    sqlite::SqliteSource,
};

async fn preflight(spec: SourceSpec) -> Preflight {
    SqliteSource::open(spec).unwrap().preflight().await.unwrap()
}

/// The one blocker that there is.
async fn blocker(spec: SourceSpec) -> String {
    let blockers = preflight(spec).await.blockers;
    assert_eq!(blockers.len(), 1, "{blockers:?}");
    blockers.concat()
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_clean_table_has_no_blocker_and_no_warning() {
    let file = File::new("CREATE TABLE t (id INTEGER PRIMARY KEY, tenant TEXT, c TEXT)");
    let found = preflight(file.spec("t", &["ID"], "C", "{tenant}/{id}")).await;
    assert_eq!((found.blockers, found.warnings, found.side_effects), (Vec::new(), Vec::new(), Vec::new()));
    assert_eq!(found.index.as_deref(), Some("INTEGER PRIMARY KEY"));
    holds(&found.server, &["SQLite 3."]);
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_is_there() {
    let file = File::new("CREATE TABLE people (id INTEGER PRIMARY KEY, token TEXT); CREATE TABLE other (x)");
    holds(
        &blocker(file.spec("persons", &["id"], "token", "")).await,
        &["no table persons", "other, people", "Correct"],
    );
    holds(&blocker(file.spec("temp.people", &["id"], "token", "")).await, &["no table temp.people"]);
    holds(&blocker(file.spec("people", &["id"], "tokn", "")).await, &["column tokn is missing", "id, token"]);
    holds(&blocker(file.spec("people", &["uid"], "token", "")).await, &["id column uid is missing", "id, token"]);
    holds(
        &blocker(file.spec("people", &["id"], "token", "{org}")).await,
        &["associated_data column org is missing"],
    );
    let all = preflight(file.spec("people", &["uid"], "tokn", "{org}")).await.blockers;
    assert_eq!(all.len(), 3, "{all:?}");
}

#[tokio::test]
async fn a_missing_file_can_not_be_looked_at() {
    let file = File::new("CREATE TABLE t (id INTEGER PRIMARY KEY, c)");
    let mut spec = file.spec("t", &["id"], "c", "");
    spec.url = "sqlite:///no/such/file.db".into();
    let error = SqliteSource::open(spec).unwrap().preflight().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    let mut spec = file.spec("t", &[], "c", "");
    holds(&SqliteSource::open(spec.clone()).err().unwrap().to_string(), &["no id"]);
    spec.url = "mysql://u:password@h/d".into();
    let error = SqliteSource::open(spec).err().unwrap().to_string();
    holds(&error, &["mysql", "sqlite:///absolute/path"]);
    assert!(!error.contains("password"));
}

#[tokio::test]
async fn values_within_other_text_are_counted_and_named() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c);
         INSERT INTO t (c) VALUES ('km:v9:AAAA'), ('{\"token\": \"km:v9:AAAA\"}'), (x'2e6b6d3a76393a41'), (NULL), (7)",
    );
    let found = preflight(file.spec("t", &["id"], "c", "")).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    holds(&found.warnings.concat(), &["2 rows hold km:v<version>:", "a column of their own"]);
}

#[tokio::test]
async fn an_administrators_query_is_asked_for_a_number_and_can_write_nothing() {
    let file = File::new("CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT); INSERT INTO t (c) VALUES ('a'), ('b')");
    let ask = async |query: &str| {
        let spec = SourceSpec { throttle_query: Some(query.into()), ..file.spec("t", &["id"], "c", "") };
        SqliteSource::open(spec).unwrap().load().await.map(|load| load.throttle_query)
    };
    assert_eq!(ask("SELECT count(*) FROM t;").await, Ok(Some(2.0)));
    for wrong in [
        "SELECT count(*) FROM missing",
        "SELECT NULL",
        "DELETE FROM t RETURNING 1",
        "SELECT 1); DELETE FROM t; --",
    ] {
        assert!(ask(wrong).await.is_err(), "{wrong}");
    }
    assert_eq!(ask("SELECT count(*) FROM t").await, Ok(Some(2.0)));
}

#[tokio::test]
async fn views_virtual_tables_and_generated_columns_are_refused() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT, g TEXT AS (upper(c)), s TEXT AS (lower(c)) STORED);
         CREATE VIEW v AS SELECT * FROM t; CREATE VIRTUAL TABLE f USING fts5(c)",
    );
    holds(&blocker(file.spec("v", &["id"], "c", "")).await, &["v is a view", "real table"]);
    holds(&blocker(file.spec("f", &["id"], "c", "")).await, &["f is a virtual table", "real table"]);
    holds(&blocker(file.spec("f_content", &["id"], "c0", "")).await, &["real table"]);
    for column in ["g", "s"] {
        holds(&blocker(file.spec("t", &["id"], column, "")).await, &["is generated", "declare the column"]);
    }
    holds(&blocker(file.spec("t", &["c"], "c", "")).await, &["its own id"]);
    holds(&blocker(file.spec("t", &["id"], "c", "{C}")).await, &["its own id or associated data"]);
    holds(&blocker(file.spec("t", &["id", "ID"], "c", "")).await, &["twice"]);
}

#[tokio::test]
async fn an_id_must_tell_every_row_apart() {
    let file = File::new(
        "CREATE TABLE t (a INTEGER, b TEXT COLLATE NOCASE NOT NULL, d INTEGER UNIQUE, e INTEGER NOT NULL, c TEXT);
         CREATE UNIQUE INDEX binary_b ON t (b COLLATE BINARY);
         CREATE UNIQUE INDEX some_e ON t (e) WHERE e > 0;
         CREATE TABLE pk (a INTEGER, b INTEGER, c TEXT, PRIMARY KEY (a, b)); INSERT INTO pk VALUES (1, NULL, 'x'), (1.5, 2, 'x');",
    );
    holds(&blocker(file.spec("t", &["a"], "c", "")).await, &["neither the primary key", "CREATE UNIQUE INDEX"]);
    holds(&blocker(file.spec("t", &["rowid"], "c", "")).await, &["id column rowid is missing"]);
    holds(&blocker(file.spec("t", &["b"], "c", "")).await, &["NOCASE", "BINARY", "binary_b"]);
    holds(&blocker(file.spec("t", &["d"], "c", "")).await, &["d may be NULL", "NOT NULL"]);
    holds(&blocker(file.spec("t", &["e"], "c", "")).await, &["neither the primary key"]);
    holds(&preflight(file.spec("pk", &["a"], "c", "")).await.blockers.join("|"), &["neither the primary key"]);
    let found = preflight(file.spec("pk", &["a", "b"], "c", "")).await.blockers.join("|");
    holds(&found, &["NULL in id column b", "REAL in id column a"]);
}

#[tokio::test]
async fn associated_data_of_a_type_that_makes_none_is_refused() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, c TEXT); INSERT INTO t VALUES (1, 1, 'x'), (2, NULL, 'x')",
    );
    assert_eq!(preflight(file.spec("t", &["id"], "c", "{a}/{id}")).await.blockers, Vec::<String>::new());
    file.connect().execute_batch("INSERT INTO t VALUES (3, 0.5, 'x')").unwrap();
    holds(&blocker(file.spec("t", &["id"], "c", "{a}/{id}")).await, &["REAL in associated_data column a"]);
}

#[tokio::test]
async fn update_triggers_must_be_accepted_by_name() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT, d TEXT); CREATE TABLE history (c TEXT, n); CREATE TABLE far (n);
         CREATE TRIGGER \"keep old\" AFTER UPDATE ON t BEGIN INSERT INTO history VALUES (old.c, 1); END;
         CREATE /* UPDATE OF d */ TRIGGER of_c BEFORE UPDATE OF d, c ON t WHEN new.c > '' BEGIN UPDATE history SET n = 2; END;
         CREATE TRIGGER further AFTER UPDATE ON history BEGIN INSERT INTO far VALUES (1); END;
         CREATE TRIGGER of_d AFTER UPDATE OF d ON t BEGIN SELECT 1; END;
         CREATE TRIGGER inserts AFTER INSERT ON t BEGIN SELECT 1; END;",
    );
    let mut spec = file.spec("t", &["id"], "c", "");
    let mut blockers = preflight(spec.clone()).await.blockers;
    blockers.sort();
    assert_eq!(blockers.len(), 3, "{blockers:?}");
    for (text, name) in blockers.iter().zip(["trigger further ", "trigger keep old ", "trigger of_c "]) {
        holds(text, &[name, "accept_triggers", "must be a source too"]);
    }
    spec.accept_triggers = ["KEEP OLD", "of_c", "further", "inserts"].map(String::from).into();
    let found = preflight(spec).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    assert_eq!(found.side_effects.len(), 3, "{:?}", found.side_effects);
    holds(&found.warnings.concat(), &["inserts, which no update of this column fires"]);
}

#[tokio::test]
async fn what_would_fail_at_the_first_row_is_found_before() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT);
         CREATE TRIGGER broken AFTER UPDATE ON t BEGIN INSERT INTO nowhere VALUES (old.c); END;",
    );
    holds(&blocker(file.spec("t", &["id"], "c", "")).await, &["nowhere", "repair the schema"]);
}

#[tokio::test]
async fn a_column_of_a_foreign_key_is_refused() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT UNIQUE); CREATE TABLE child (id INTEGER PRIMARY KEY, r TEXT REFERENCES t (c))",
    );
    holds(&blocker(file.spec("t", &["id"], "c", "")).await, &["foreign key of table child"]);
    holds(&blocker(file.spec("child", &["id"], "r", "")).await, &["foreign key of table child", "drop"]);
}

#[tokio::test]
async fn an_encoding_other_than_utf8_is_refused() {
    let file = File::raw("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT)");
    holds(&blocker(file.spec("t", &["id"], "c", "")).await, &["UTF-16", "dump it"]);
}

#[tokio::test]
async fn an_index_on_the_column_and_a_rollback_journal_are_warnings() {
    let file = File::raw(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT NOT NULL, b TEXT NOT NULL, c TEXT, UNIQUE (a, b)); CREATE INDEX on_c ON t (a, c)",
    );
    let found = preflight(file.spec("t", &["id"], "c", "")).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    holds(&found.warnings.join("|"), &["index on_c", "journal_mode is delete"]);
    let found = preflight(file.spec("t", &["b", "a"], "c", "")).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    holds(&found.warnings.join("|"), &["every chunk sorts the table"]);
}
