//! What a census of a table in PostgreSQL may conclude.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use keymoot_storage::{
    open_source,
    source::{Cell, Source, SourceError},
};

use super::{
    PATIENCE,
    postgres_source::{spec, tokens},
    servers::Postgres,
};

/// A census waits for four seconds: what should have ended by now took longer on a machine that stood still.
const STOOD_STILL: Duration = Duration::from_secs(3);

/// Why the census proves nothing, and how many hidden values it saw.
async fn hidden(source: &dyn Source) -> (Option<String>, usize) {
    let mut hidden = 0;
    let mut visit = |cell: &Cell| hidden += usize::from(cell.bytes() == Some(b"km:v9:hidden"));
    let census = source.census(&mut visit).await.unwrap();
    (census.not_conclusive, hidden)
}

/// Why the census proves nothing; `None`: it does.
async fn doubt(source: &dyn Source) -> Option<String> {
    source.census(&mut |_| ()).await.unwrap().not_conclusive
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_an_older_transaction_of_a_session_that_shows_nothing_of_itself_is_waited_for() {
    let server = Postgres::start();
    let source = tokens(&server, 3);
    for writes in ["INSERT INTO tokens VALUES (100, 'km:v9:hidden')", "SELECT 1"] {
        let mut writer = server.connect();
        writer.run(&format!("SET track_activities = off; BEGIN; {writes}"));
        let why = doubt(&*source).await.expect(writes);
        assert!(why.contains("process ") && why.contains("user keymoot"), "{why}");
        writer.run("COMMIT");
        // It stays, and shows nothing of itself, but nothing is open.
        assert_eq!(doubt(&*source).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_an_older_transaction_is_waited_for_though_the_servers_clock_stepped_back_since() {
    let mut server = Postgres::start();
    let clock = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(clock.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(clock.path(), "+0").unwrap();
    server.set_clock_by(clock.path());
    server.restart();
    let source = tokens(&server, 3);
    let mut writer = server.connect();
    writer.run("BEGIN; INSERT INTO tokens VALUES (100, 'km:v9:hidden')");
    std::fs::write(clock.path(), "-3600").unwrap();
    let began = writer.run("SELECT now() > clock_timestamp() + interval '30 minutes'");
    assert_eq!(began, "t", "the clock did not step back");
    let why = doubt(&*source).await.expect("the row is still to come");
    assert!(why.contains("process ") && why.contains("open for 0 s"), "{why}");
    writer.run("COMMIT");
    assert_eq!(doubt(&*source).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_census_is_conclusive_beside_transactions_that_are_all_younger_than_it() {
    let server = Postgres::start();
    let source = tokens(&server, 3);
    let mut old = server.connect();
    old.run("BEGIN; INSERT INTO tokens VALUES (100, 'km:v9:hidden')");
    // While there is an older one, younger ones come: each stays open until behind the next.
    let (mut one, mut other) = (server.connect(), server.connect());
    let application = tokio::task::spawn_blocking(move || {
        let mut ended = Instant::now();
        for n in 0..20 {
            let (next, last) = if n % 2 == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
            next.run(&format!("BEGIN; INSERT INTO tokens VALUES ({}, 'km:v10:x')", 1000 + n));
            std::thread::sleep(std::time::Duration::from_millis(60));
            last.run("COMMIT");
            if n == 8 {
                old.run("COMMIT");
                ended = Instant::now();
            }
        }
        (one, other, ended)
    });
    let began = Instant::now();
    let mut counted = hidden(&*source).await;
    let (_one, _other, ended) = application.await.unwrap();
    if ended.saturating_duration_since(began) > STOOD_STILL {
        counted = hidden(&*source).await;
    }
    assert_eq!(counted, (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_table_that_is_changed_while_a_census_waits_for_it_is_counted_as_it_is_then() {
    let server = Postgres::start();
    for (n, change) in [
        "ALTER TABLE tokens ALTER id TYPE numeric(20)",
        "CREATE TABLE kept AS SELECT * FROM tokens; TRUNCATE tokens; INSERT INTO tokens SELECT * FROM kept; DROP TABLE kept",
        "ALTER TABLE tokens RENAME TO gone; CREATE TABLE tokens AS SELECT * FROM gone; DROP TABLE gone",
    ]
    .into_iter()
    .enumerate()
    {
        server.sql("DROP TABLE IF EXISTS tokens");
        let source = tokens(&server, 3);
        // Somebody reads when the change comes, so that it waits, and so does the census behind it.
        let (mut reader, mut changer) = (server.connect(), server.connect());
        reader.run("BEGIN; SELECT count(*) FROM tokens");
        let reading = tokio::task::spawn_blocking(move || {
            std::thread::sleep(std::time::Duration::from_millis(1500));
            reader.run("COMMIT");
        });
        let changing = tokio::task::spawn_blocking(move || {
            std::thread::sleep(std::time::Duration::from_millis(500));
            changer.run(&format!("BEGIN; {change}; SELECT pg_sleep(1); COMMIT"));
        });
        let mut seen = 0;
        let census = source.census(&mut |_| seen += 1).await;
        reading.await.unwrap();
        changing.await.unwrap();
        match census {
            Ok(census) => assert_eq!((census.visited, census.counted, seen), (3, 3, 3), "{n}: {census:?}"),
            Err(error) => assert!(matches!(error, SourceError::Unreachable { .. }), "{n}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_census_goes_by_the_table_and_by_no_index() {
    let server = Postgres::start();
    let source = tokens(&server, 3000);
    // An index on the column is much smaller than the table.
    server.sql("ALTER TABLE tokens ADD more text");
    server.sql("UPDATE tokens SET more = repeat('x', 1000); CREATE INDEX of_c ON tokens (c)");
    // As a concurrent build left some in 14.0 to 14.3.
    server.sql(
        "UPDATE pg_index SET indisready = false WHERE indexrelid IN ('of_c'::regclass, 'tokens_pkey'::regclass);
         INSERT INTO tokens VALUES (5000, 'km:v9:hidden');
         UPDATE pg_index SET indisready = true WHERE indexrelid IN ('of_c'::regclass, 'tokens_pkey'::regclass)",
    );
    server.sql("VACUUM ANALYZE tokens");
    let mut hidden = 0;
    let mut visit = |cell: &Cell| hidden += usize::from(cell.bytes() == Some(b"km:v9:hidden"));
    let census = source.census(&mut visit).await.unwrap();
    assert_eq!((census.visited, census.counted, hidden), (3001, 3001, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_table_that_follows_another_server_proves_nothing_and_is_not_written() {
    let server = Postgres::start();
    let source = tokens(&server, 3);
    server.sql("CREATE SUBSCRIPTION s CONNECTION 'dbname=elsewhere' PUBLICATION p WITH (connect = false)");
    assert_eq!(doubt(&*source).await, None);
    // As `REFRESH PUBLICATION` does it.
    server.sql(
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) \
         SELECT oid, 'tokens'::regclass, 'r' FROM pg_subscription",
    );
    let why = doubt(&*source).await.unwrap();
    assert!(why.contains("tokens is written by a subscription") && why.contains("name the publisher"), "{why}");
    let blockers = source.preflight().await.unwrap().blockers;
    assert!(blockers.iter().any(|why| why.contains("tokens is written by a subscription")), "{blockers:?}");

    // A part of a table that a subscription writes is written with it.
    server.sql(
        "CREATE TABLE whole (id int PRIMARY KEY, c text) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF whole FOR VALUES FROM (1) TO (9);
         UPDATE pg_subscription_rel SET srrelid = 'whole'::regclass",
    );
    let part = open_source(spec(&server.url(), "part", &["id"], "c", "")).unwrap();
    let why = doubt(&*part).await.unwrap();
    assert!(why.contains("whole is written by a subscription"), "{why}");
    let blockers = part.preflight().await.unwrap().blockers.concat();
    assert!(blockers.contains("whole is written by a subscription"), "{blockers}");
    assert_eq!(doubt(&*source).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_procedure_that_commits_and_goes_on_is_waited_for() {
    let server = Postgres::start();
    let source = tokens(&server, 3);
    server.sql(
        "CREATE PROCEDURE moves() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..20 LOOP \
         INSERT INTO tokens VALUES (100 + n, 'km:v9:hidden'); COMMIT; PERFORM pg_sleep(0.05); END LOOP; END $$",
    );
    let mut writer = server.connect();
    let moving = tokio::task::spawn_blocking(move || {
        writer.run("CALL moves()");
        Instant::now()
    });
    let end = Instant::now() + PATIENCE;
    while server.sql("SELECT count(*) > 3 FROM tokens") != "t" {
        assert!(Instant::now() < end, "the procedure does not run");
    }
    let began = Instant::now();
    let mut counted = hidden(&*source).await;
    if moving.await.unwrap().saturating_duration_since(began) > STOOD_STILL {
        counted = hidden(&*source).await;
    }
    assert_eq!(counted, (None, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_census_on_a_standby_or_of_what_is_elsewhere_proves_nothing() {
    let mut server = Postgres::start();
    let source = tokens(&server, 3);
    assert_eq!(doubt(&*source).await, None);
    server.sql(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw;
         CREATE TABLE parts (id int, c text) PARTITION BY LIST (id);
         CREATE TABLE here PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 'km:v10:a');
         CREATE FOREIGN TABLE there PARTITION OF parts FOR VALUES IN (2) SERVER away;
         CREATE USER MAPPING FOR keymoot SERVER away",
    );
    let url = server.url();
    let away = server.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
    server.sql(&format!(
        "CREATE TABLE target (id int, c text); ALTER SERVER away OPTIONS (host '127.0.0.1', port '{away}', \
         dbname 'postgres'); ALTER USER MAPPING FOR keymoot SERVER away OPTIONS (user 'keymoot', password '{}'); \
         ALTER FOREIGN TABLE there OPTIONS (table_name 'target')",
        super::servers::PASSWORD
    ));
    let parts = open_source(spec(&url, "parts", &["id"], "c", "")).unwrap();
    let why = doubt(&*parts).await.unwrap();
    assert!(why.contains("rows of parts are on another server (there)"), "{why}");

    // A view that takes the place of a table under a source that knows it.
    server.sql("ALTER TABLE tokens RENAME TO real; CREATE VIEW tokens AS SELECT * FROM real WHERE id > 1");
    let error = source.census(&mut |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("is no table; declare the real table"), "{error}");
    server.sql("DROP VIEW tokens; ALTER TABLE real RENAME TO tokens");
    assert_eq!(doubt(&*source).await, None);

    // The same by a transaction that the census waits for.
    let mut other = server.connect();
    other.run("BEGIN; ALTER TABLE tokens RENAME TO real; CREATE VIEW tokens AS SELECT * FROM real WHERE id > 1");
    let ends = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        other.run("COMMIT");
    });
    let error = source.census(&mut |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("is no table; declare the real table"), "{error}");
    ends.join().unwrap();
    server.sql("DROP VIEW tokens; ALTER TABLE real RENAME TO tokens");

    let data = server.sql("SHOW data_directory");
    server.sql(&format!("COPY (SELECT 1 WHERE false) TO '{data}/standby.signal'"));
    server.restart();
    let why = doubt(&*source).await.unwrap();
    assert!(why.contains("is a standby") && why.contains("name the primary"), "{why}");
    assert!(source.preflight().await.unwrap().blockers.contains(&why));
}
