//! A user's table in PostgreSQL that does more than it is told: triggers, and what they say; many chunks at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keymoot_storage::{
    open_source,
    source::{RowId, Selection, Source, SourceError, SourceSpec, Swap, Swapped},
};

use super::{
    PATIENCE,
    postgres_source::{all, spec, swap, tokens},
    servers::Postgres,
};

/// From `km:v9:A1` to `km:v10:A1`, and so on.
async fn renewed(source: &dyn Source) -> Vec<Swap> {
    let rows = all(source, 100, &Selection::Every).await;
    let new = |cell: &[u8]| String::from_utf8(cell.to_vec()).unwrap().replace("km:v9:", "km:v10:");
    rows.iter().map(|row| swap(row, &new(row.cell.bytes().unwrap()))).collect()
}

fn mistaken(answer: Result<Vec<Swapped>, SourceError>) -> String {
    match answer {
        Err(SourceError::Mistaken { reason, .. }) => reason,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn fault_42_what_a_trigger_of_postgresql_alters_is_never_called_done_and_nothing_of_the_batch_is_written() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, tenant text, c text, updates int DEFAULT 0);
         INSERT INTO t SELECT n, 'acme', 'km:v9:A' || n FROM generate_series(1, 3) AS n;
         CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF new.id = 2 THEN new.c = lower(new.c); END IF; RETURN new; END';
         CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF new.id = 2 THEN new.tenant = ''other''; END IF; RETURN new; END';
         CREATE FUNCTION behind() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE t SET c = lower(c) WHERE id = 2 AND c <> lower(c); RETURN NULL; END';
         CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN new.updates = old.updates + 1; RETURN new; END'",
    );
    let spec = SourceSpec {
        accept_triggers: vec!["meddles".into(), "counts".into()],
        ..spec(&server.url(), "t", &["id"], "c", "{tenant}/{id}")
    };
    let source = open_source(spec).unwrap();
    let batch = renewed(&*source).await;
    for (trigger, of) in [
        ("TRIGGER meddles BEFORE UPDATE", "lowered"),
        ("TRIGGER meddles BEFORE UPDATE OF c", "moved"),
        ("TRIGGER meddles AFTER UPDATE", "behind"),
        ("CONSTRAINT TRIGGER meddles AFTER UPDATE", "behind"),
    ] {
        let late = if trigger.contains("CONSTRAINT") { "DEFERRABLE INITIALLY DEFERRED" } else { "" };
        server.sql(&format!("CREATE {trigger} ON t {late} FOR EACH ROW EXECUTE FUNCTION {of}()"));
        let reason = mistaken(source.swap(&batch).await);
        for part in ["t\" did not hold what was written", "nothing was committed", "meddles"] {
            assert!(reason.contains(part), "{trigger} {of}: {reason}");
        }
        let held = server.sql("SELECT string_agg(tenant || c, ' ' ORDER BY id) FROM t");
        assert_eq!(held, "acmekm:v9:A1 acmekm:v9:A2 acmekm:v9:A3", "{trigger} {of}");
        server.sql("DROP TRIGGER meddles ON t");
    }
    server.sql("CREATE TRIGGER counts BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION counted()");
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 3]));
    // One row twice in a batch: what counts is what it holds in the end.
    let rows = all(&*source, 1, &Selection::Every).await;
    let first = swap(&rows[0], "km:v11:A1");
    let second = Swap { old: first.new.clone(), new: first.new.with_bytes(b"km:v12:A1".into()), ..first.clone() };
    assert_eq!(source.swap(&[first, second]).await, Ok(vec![Swapped::Done; 2]));
    assert_eq!(server.sql("SELECT c FROM t WHERE id = 1"), "km:v12:A1");
}

#[tokio::test]
async fn fault_42_a_trigger_of_postgresql_that_came_since_the_preflight_is_refused_by_name() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE history (c text); CREATE TABLE t (id int PRIMARY KEY, c text, \
         mark text GENERATED ALWAYS AS (md5(c)) STORED); INSERT INTO t VALUES (1, 'km:v9:A'), (2, 'km:v9:B');
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO history VALUES (old.c); RETURN NULL; END'",
    );
    let source = open_source(spec(&server.url(), "t", &["id"], "c", "")).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    let batch = renewed(&*source).await;
    // Those of a column that is generated from this one fire too.
    for of in ["", " OF c", " OF mark"] {
        server.sql(&format!("CREATE TRIGGER keeps AFTER UPDATE{of} ON t FOR EACH ROW EXECUTE FUNCTION keep()"));
        let reason = mistaken(source.swap(&batch).await);
        assert!(reason.contains("trigger keeps came since the preflight"), "{of}: {reason}");
        let blockers = source.preflight().await.unwrap().blockers.join("; ");
        assert!(blockers.contains("trigger keeps fires"), "{of}: {blockers}");
        server.sql("DROP TRIGGER keeps ON t");
    }
    assert_eq!(server.sql("SELECT count(*) FROM history"), "0");
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 2]));
}

#[tokio::test]
async fn fault_57_what_postgresql_refuses_is_named_without_a_word_of_a_cell() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, c text CONSTRAINT short CHECK (c NOT LIKE 'km:v10:%'));
         INSERT INTO t VALUES (1, 'km:v9:secret'), (2, 'km:v9:other'), (3, 'km:v10;')",
    );
    let source = open_source(spec(&server.url(), "t", &["id"], "c", "")).unwrap();
    let batch = renewed(&*source).await;
    let refused = async || {
        let error = source.swap(&batch).await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        error
    };
    let error = refused().await;
    assert!(error.contains("constraint short") && error.contains("table t"), "{error}");
    server.sql("ALTER TABLE t DROP CONSTRAINT short; CREATE UNIQUE INDEX lone ON t (left(c, 7))");
    assert!(refused().await.contains("constraint lone"));
}

#[tokio::test]
async fn fault_57_what_a_trigger_of_postgresql_raises_under_any_code_is_in_no_error() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t VALUES (1, 'km:v9:secret')");
    let spec = SourceSpec { accept_triggers: vec!["tells".into()], ..spec(&server.url(), "t", &["id"], "c", "") };
    let source = open_source(spec).unwrap();
    let batch = renewed(&*source).await;
    for code in ["check_violation", "42501", "22001", "55000", "42P01", "XX001", "ZZ123", "P0001", "53100"] {
        server.sql(&format!(
            "CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''it was %'', old.c USING ERRCODE = ''{code}'', CONSTRAINT = old.c, \
             TABLE = old.c; END'; \
             CREATE OR REPLACE TRIGGER tells BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tell()"
        ));
        let error = source.swap(&batch).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{code}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_chunks_at_once_wait_for_the_connections_there_are() {
    let server = Postgres::start();
    let spec = SourceSpec { accept_triggers: vec!["slow".into()], ..tokens(&server, 16).spec().clone() };
    let source: Arc<dyn Source> = open_source(spec).unwrap();
    // Longer than the metadata store's callers wait for a connection.
    server.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3); RETURN new; END';
         CREATE TRIGGER slow BEFORE UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let chunks = renewed(&*source).await.into_iter().map(|swap| {
        let source = Arc::clone(&source);
        tokio::spawn(async move { source.swap(&[swap]).await })
    });
    for chunk in chunks.collect::<Vec<_>>() {
        assert_eq!(chunk.await.unwrap(), Ok(vec![Swapped::Done]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_table_that_takes_too_long_to_count_are_estimated() {
    let server = Arc::new(Postgres::start());
    server.sql("CREATE TABLE tokens (id bigint PRIMARY KEY, c text) WITH (autovacuum_enabled = false)");
    server.sql("INSERT INTO tokens SELECT n, 'km:v9:' || n FROM generate_series(1, 5000) AS n");
    let source = open_source(spec(&server.url(), "tokens", &["id"], "c", "")).unwrap();
    assert_eq!(source.read_again(&[] as &[RowId]).await, Ok(Vec::new()));
    let mut holder = server.connect();
    holder.run("BEGIN; LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE");
    let counting = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.total().await }
    });
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT count(*) FROM %tokens%'";
    let end = Instant::now() + PATIENCE;
    while server.sql(cancel) == "0" {
        assert!(Instant::now() < end && !counting.is_finished(), "nothing was cancelled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.run("ROLLBACK");
    let total = counting.await.unwrap().unwrap();
    assert!(!total.exact && (1000..50_000).contains(&total.rows), "{total:?}");
    let total = source.total().await.unwrap();
    assert_eq!((total.rows, total.exact), (5000, true));
}
