//! What a census of a table in MariaDB may conclude.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keymoot_storage::{
    open_source,
    source::{Cell, Selection, Source},
};

use crate::{
    PATIENCE,
    mariadb::{App, done, swap},
    servers::PASSWORD,
};

const TOKEN: &str = "VARCHAR(100)";

/// Why the census proves nothing (`None`: it does), and how many values of v9 it saw.
async fn census(source: &dyn Source) -> (Option<String>, usize) {
    let mut old = 0;
    let mut visit = |cell: &Cell| old += usize::from(cell.bytes().is_some_and(|cell| cell.starts_with(b"km:v9:")));
    let census = source.census(&mut visit).await.unwrap();
    (census.not_conclusive, old)
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_transaction_that_is_prepared_while_it_is_waited_for_is_no_less_open() {
    // Of its own: transactions of others would be older ones.
    let app = App::with(&[]);
    let source = app.people(TOKEN, "INT");
    let mut writer = app.connect();
    writer.run("XA START 'late'; INSERT INTO people VALUES (1, 1, 'km:v9:hidden'); XA END 'late'");
    let preparing = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(800));
        // Its thread goes away with the connection.
        writer.run("XA PREPARE 'late'");
    });
    let (why, old) = census(&*source).await;
    preparing.await.unwrap();
    let why = why.expect("the row is still to come");
    assert!(old == 0 && why.contains(&format!("prepared XA transaction 0x{}", hex::encode("late"))), "{why}");
    app.sql("XA COMMIT 'late'");
    assert_eq!(census(&*source).await, (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_transactions_that_a_busy_observer_keeps_out_of_the_servers_list_are_never_called_ended() {
    let app = App::with(&[]);
    let source = app.people(TOKEN, "INT");
    let observing = Arc::new(AtomicBool::new(true));
    let observer = std::thread::spawn({
        let (mut connection, observing) = (app.connect(), Arc::clone(&observing));
        move || {
            while observing.load(Ordering::SeqCst) {
                connection.run("SELECT COUNT(*) FROM information_schema.INNODB_TRX");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    // So it is in no list that the observer has seen.
    std::thread::sleep(Duration::from_millis(300));
    let mut writer = app.connect();
    writer.run("START TRANSACTION; INSERT INTO people VALUES (1, 1, 'km:v9:hidden')");
    let (why, old) = census(&*source).await;
    let why = why.expect("the row is still to come");
    assert!(old == 0 && why.contains("others read information_schema.INNODB_TRX"), "{why}");

    observing.store(false, Ordering::SeqCst);
    observer.join().unwrap();
    let why = census(&*source).await.0.expect("the row is still to come");
    assert!(why.contains("transactions that are older than the census"), "{why}");
    writer.run("COMMIT");
    assert_eq!(census(&*source).await, (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_write_that_waits_for_a_table_and_has_no_transaction_yet_is_waited_for() {
    let app = App::with(&[]);
    let source = app.people(TOKEN, "INT");
    app.sql("INSERT INTO people VALUES (1, 1, 'km:v10:a'), (2, 2, 'km:v10:b')");
    let update = "UPDATE people SET token = 'km:v9:late' WHERE id = 1";
    for write in [
        format!("{update}; DO SLEEP(1)"),
        // Not at once: then it is its transaction that is waited for.
        format!("BEGIN; {update}; DO SLEEP(1); COMMIT"),
        format!("ANALYZE {update}"),
        format!("/**/ {update} /* SELECT */"),
    ] {
        let mut backup = app.connect();
        backup.run("LOCK TABLES people READ");
        let mut writer = app.connect();
        let writing = tokio::task::spawn_blocking(move || {
            writer.run(&write);
            (write, Instant::now())
        });
        let end = Instant::now() + PATIENCE;
        while app.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting%lock'") == "0"
        {
            assert!(Instant::now() < end, "the write does not wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (why, old) = census(&*source).await;
        let why = why.expect("the value is still to come");
        assert!(old == 0 && why.contains("a statement of thread "), "{why}");
        let unlocking = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(700));
            backup.run("UNLOCK TABLES");
        });
        let began = Instant::now();
        let mut counted = census(&*source).await;
        unlocking.await.unwrap();
        let (write, ended) = writing.await.unwrap();
        // It waits for five seconds, and the machine stood still for longer.
        if ended.saturating_duration_since(began) > Duration::from_secs(4) {
            counted = census(&*source).await;
        }
        assert_eq!(counted, (None, 1));
        assert_eq!(app.sql("SELECT token FROM people WHERE id = 1"), "km:v9:late", "{write}");
        app.sql("UPDATE people SET token = 'km:v10:a' WHERE id = 1");
    }
    // One that only reads is not waited for, whatever stands before it.
    let mut reader = app.connect();
    let reading = tokio::task::spawn_blocking(move || reader.run("/* report */ (SELECT SLEEP(8))"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(census(&*source).await, (None, 0));
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_and_a_swap_go_by_their_own_settings_whatever_the_servers_are() {
    for completion in ["RELEASE", "CHAIN"] {
        let app = App::with(&[&format!("--completion-type={completion}"), "--max-join-size=1000"]);
        let source = app.people(TOKEN, "INT");
        app.sql(
            "SET sql_big_selects = 1; INSERT INTO people SELECT seq, 1, CONCAT('km:v9:', seq) FROM seq_1_to_2000",
        );
        assert_eq!(census(&*source).await, (None, 2000), "{completion}");
        let rows = source.read(None, 10, &Selection::Every).await.unwrap();
        let batch: Vec<_> = rows.iter().map(swap).collect();
        assert_eq!(done(&source.swap(&batch).await.unwrap()), 10, "{completion}");
        assert_eq!(census(&*source).await, (None, 1990), "{completion}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_census_of_what_is_no_table_or_by_way_of_a_replica_proves_nothing() {
    let app = App::with(&["--log-bin=binlog", "--server-id=1"]);
    let source = app.people(TOKEN, "VARCHAR(20)");
    app.fill(3);
    assert_eq!(census(&*source).await.0, None);
    let doubt = async || census(&*open_source(app.spec()).unwrap()).await.0.unwrap();

    app.sql("RENAME TABLE people TO persons; CREATE VIEW people AS SELECT * FROM persons WHERE id > 1");
    assert!(doubt().await.contains("people is a view; declare the real table"));
    app.sql("DROP VIEW people; RENAME TABLE persons TO people; ALTER TABLE people ADD SYSTEM VERSIONING");
    assert!(doubt().await.contains("people is system-versioned"));
    app.sql("ALTER TABLE people DROP SYSTEM VERSIONING; ALTER TABLE people ENGINE=Aria");
    assert!(doubt().await.contains("has no transactions; ALTER TABLE people ENGINE=InnoDB"));
    app.sql("ALTER TABLE people ENGINE=InnoDB; SET GLOBAL read_only = 1");
    assert!(
        doubt().await.contains("the server is read-only, as replicas are, and may be behind; name the primary")
    );
    app.sql("SET GLOBAL read_only = 0");
    assert_eq!(census(&*source).await.0, None);

    let replica = App::with(&["--server-id=2"]);
    let there = replica.people(TOKEN, "INT");
    assert_eq!(census(&*there).await.0, None);
    let port = app.server.address().port();
    replica.sql(&format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='keymoot', \
         MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos; START SLAVE"
    ));
    let least = format!("least{}", replica.database);
    replica.sql(&format!(
        "SET sql_log_bin = 0; CREATE USER {least} IDENTIFIED BY 'least'; GRANT PROCESS ON *.* TO {least}; \
         GRANT SELECT ON {}.* TO {least}",
        replica.database
    ));
    let mut spec = replica.spec();
    spec.url = format!("mysql://{least}:least@{}/{}", replica.server.address(), replica.database);
    let blind = open_source(spec).unwrap();
    let end = Instant::now() + PATIENCE;
    // Without the right to see it it is told by what runs.
    while census(&*blind).await.0.is_none_or(|why| !why.contains("replicates from another")) {
        assert!(Instant::now() < end, "{}", replica.sql("SHOW ALL SLAVES STATUS"));
    }
    replica.sql("STOP SLAVE");
    let why = census(&*there).await.0.unwrap();
    assert!(why.contains("replicates from another") && why.contains("name the primary"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_goes_by_the_table_itself_and_its_versions_stand_in_order() {
    let app = App::new();
    app.sql(
        "CREATE TABLE people (id INT NOT NULL UNIQUE, tenant INT, token VARCHAR(30), KEY (token), UNIQUE (id, token)); \
         INSERT INTO people SELECT seq, 1, CONCAT('km:v', 8 + seq MOD 3, ':', seq) FROM seq_1_to_3000; \
         INSERT INTO people VALUES (4000, 1, NULL)",
    );
    let census = open_source(app.spec()).unwrap().census(&mut |_| ()).await.unwrap();
    assert_eq!(app.sql(&census.sql), "null\t1\nkm:v8:\t1000\nkm:v9:\t1000\nkm:v10:\t1000");
    let plan = app.sql(&format!("EXPLAIN {}", census.sql));
    let of_table: Vec<&str> = plan.lines().filter(|line| line.contains("\tt\t")).collect();
    assert!(of_table.len() == 1 && of_table[0].contains("\tALL\tNULL\tNULL\t"), "{plan}");
}
