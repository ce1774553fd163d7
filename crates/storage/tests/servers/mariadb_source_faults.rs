//! Columns of MariaDB as sources: what goes wrong between a server and us.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use keymoot_storage::{
    conformance::{self, Cells, Holds, Tenants},
    open_source,
    source::{Cell, IdPart, Row, RowId, Selection, Source, SourceError, Swap, Swapped},
};

use crate::{
    PATIENCE,
    mariadb::{App, done, swap},
    proxy::{Proxy, Rule},
};

const TOKEN: &str = "VARCHAR(400) CHARACTER SET utf8mb4";
const TENANT: &str = "VARCHAR(20)";

async fn rows(source: &dyn Source) -> Vec<Row> {
    source.read(None, 100_000, &Selection::Every).await.unwrap()
}

async fn until_it_answers(source: &dyn Source) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = source.total().await {
        assert!(Instant::now() < end, "{error}");
    }
}

/// Whether a call ended before it was polled so often and dropped.
async fn polled<T>(polls: usize, call: impl Future<Output = T>) -> bool {
    let mut call = std::pin::pin!(call);
    for _ in 0..=polls {
        let polled = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
        if polled {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_30_a_call_that_is_dropped_at_any_moment_ends_whole_and_poisons_no_connection() {
    let app = App::new();
    let source = app.people(TOKEN, TENANT);
    app.fill(50);
    let read = rows(&*source).await;
    let batches: Vec<Vec<Swap>> = read.chunks(5).map(|rows| rows.iter().map(swap).collect()).collect();
    let mut dropped = 0;
    for n in 0..1000 {
        let (batch, polls) = (&batches[n % batches.len()], n / 4 % 50);
        let mut seen = 0;
        let mut visit = |_: &Cell| seen += 1;
        let ended = match n % 4 {
            0 => polled(polls, source.swap(batch)).await,
            1 => polled(polls, source.read(None, 10, &Selection::Every)).await,
            2 => polled(polls, source.read_again(std::slice::from_ref(&read[0].id))).await,
            _ => polled(polls, source.census(&mut visit)).await,
        };
        dropped += usize::from(!ended);
        if n % 50 == 49 {
            // Else the calls that nobody waits for would be many.
            until_it_answers(&*source).await;
        }
    }
    assert!(dropped > 500, "only {dropped} were dropped");
    // No transaction stays behind.
    let end = Instant::now() + PATIENCE;
    let open = "SELECT COUNT(*) FROM information_schema.INNODB_TRX AS t JOIN information_schema.PROCESSLIST AS p \
                ON p.ID = t.trx_mysql_thread_id WHERE p.DB = DATABASE()";
    while app.sql(open) != "0" {
        assert!(Instant::now() < end, "a transaction stays open");
        // Asked more often, the server would show the same list for ever.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    until_it_answers(&*source).await;
    for batch in &batches {
        let ids: Vec<RowId> = batch.iter().map(|swap| swap.id.clone()).collect();
        let now = source.read_again(&ids).await.unwrap();
        let written = now.iter().zip(batch).filter(|(row, swap)| row.as_ref().unwrap().cell == swap.new).count();
        assert!(written == 0 || written == batch.len(), "{written} of {}", batch.len());
        let outcomes = source.swap(batch).await.unwrap();
        assert_eq!(done(&outcomes), batch.len() - written);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_31_a_commit_whose_answer_was_lost_is_an_error_and_never_called_done_or_lost() {
    let app = App::new();
    app.people(TOKEN, TENANT);
    app.fill(20);
    let proxy = Proxy::new(app.server.address());
    let mut spec = app.spec();
    spec.url = format!("{}?ssl-mode=DISABLED", app.at(app.server.url_at(proxy.address())));
    let source = open_source(spec).unwrap();
    let read = rows(&*source).await;
    let batch: Vec<Swap> = read.iter().map(swap).collect();
    proxy.set(Rule::LoseAnswerTo(b"COMMIT".to_vec(), 1));
    let error = source.swap(&batch).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unreachable { .. }), "{error}");
    assert_eq!(proxy.lost(), 1);
    // It was committed, as reading again shows.
    let ids: Vec<RowId> = batch.iter().map(|swap| swap.id.clone()).collect();
    let now = source.read_again(&ids).await.unwrap();
    assert!(now.iter().zip(&batch).all(|(row, swap)| row.as_ref().unwrap().cell == swap.new));
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Lost; 20]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_32_no_value_is_ever_shortened_whatever_the_servers_sql_mode() {
    let app = App::with(&["--sql-mode="]);
    let spec = app.spec();
    for (width, fits) in [(8, false), (9, true), (10, true)] {
        app.sql(&format!(
            "DROP TABLE IF EXISTS people; \
             CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token VARCHAR({width})); \
             INSERT INTO people VALUES (1, 1, 'km:v9:a'), (2, 2, 'km:v9:ab')"
        ));
        let source = open_source(spec.clone()).unwrap();
        let blockers = source.preflight().await.unwrap().blockers;
        assert_eq!(blockers.is_empty(), fits, "{width}: {blockers:?}");
        assert!(fits || blockers[0].contains("MODIFY `token` VARCHAR(17)"), "{blockers:?}");
        let batch: Vec<Swap> = rows(&*source).await.iter().map(swap).collect();
        match source.swap(&batch).await {
            Ok(outcomes) => assert!(fits && done(&outcomes) == 2),
            Err(error) => assert!(!fits && matches!(error, SourceError::Mistaken { .. }), "{error}"),
        }
        let held = app.sql("SELECT GROUP_CONCAT(token ORDER BY id) FROM people");
        assert_eq!(held, if fits { "km:v10:a,km:v10:ab" } else { "km:v9:a,km:v9:ab" });
    }
}

/// Carries one connection after the other, and takes the client's wish for `CLIENT_FOUND_ROWS` out of its greeting.
fn without_found_rows(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(target) else { return };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || carry(from, to, true));
            thread::spawn(move || carry(server, client, false));
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, greets: bool) {
    let (mut buffer, mut first) = ([0; 16 * 1024], greets);
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if std::mem::take(&mut first) {
            // Behind the packet's header of four bytes come the capabilities; this is the second.
            buffer[4] &= !2;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_33_a_swap_is_byte_exact_in_every_collation_however_rows_are_counted() {
    for (token, cells) in [
        ("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", Cells::Utf8),
        ("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci", Cells::Utf8),
        ("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", Cells::Utf8),
        ("VARCHAR(100) CHARACTER SET latin1 COLLATE latin1_swedish_ci", Cells::Text),
    ] {
        let app = App::new();
        app.people(token, "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
        let mut spec = app.spec();
        let url = app.at(app.server.url_at(without_found_rows(app.server.address())));
        spec.url = format!("{url}?ssl-mode=DISABLED");
        let source = open_source(spec).unwrap();
        conformance::source(&*source, &app, Holds { cells, tenants: Tenants::Text }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_36_a_connection_that_is_killed_in_mid_scan_is_an_error_and_no_end() {
    // Of its own: so long a write would make the censuses of other tests inconclusive.
    let app = App::with(&[]);
    let source = app.people(TOKEN, TENANT);
    app.fill(60_000);
    app.sql("UPDATE people SET token = RPAD(token, 390, 'a')");
    let mut killed = false;
    let mut seen = 0;
    let census = source
        .census(&mut |_| {
            seen += 1;
            if !killed {
                killed = true;
                let ids = app.sql(
                    "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND COMMAND = 'Execute'",
                );
                app.sql(&format!("KILL {ids}"));
            }
        })
        .await;
    assert!(matches!(census, Err(SourceError::Unreachable { .. })), "{census:?}");
    assert!(seen < 60_000);
    let census = source.census(&mut |_| ()).await.unwrap();
    assert_eq!((census.visited, census.counted), (60_000, 60_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_37_what_the_application_writes_between_read_and_write_stands() {
    // Of its own: its long transaction would make the censuses of other tests inconclusive.
    let app = App::with(&[]);
    let source = app.people(TOKEN, TENANT);
    app.fill(6);
    let batch: Vec<Swap> = rows(&*source).await.iter().map(swap).collect();
    app.sql("UPDATE people SET token = 'km:v9:2 ' WHERE id = 2; DELETE FROM people WHERE id = 3");
    app.sql("UPDATE people SET id = 400 WHERE id = 4");
    // One writes while the swap already waits for it.
    let mut writer = app.connect();
    writer.run("START TRANSACTION; UPDATE people SET token = 'km:v9:newer' WHERE id = 1");
    let swapping = tokio::spawn({
        let (source, batch) = (Arc::clone(&source), batch.clone());
        async move { source.swap(&batch).await }
    });
    let end = Instant::now() + PATIENCE;
    let waits = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
    while app.sql(waits) == "0" && !swapping.is_finished() {
        assert!(Instant::now() < end, "the swap does not wait");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    writer.run("COMMIT");
    match swapping.await.unwrap() {
        Ok(outcomes) => {
            use Swapped::{Done, Lost};
            assert_eq!(outcomes, [Lost, Lost, Lost, Lost, Done, Done]);
        }
        // The wait for the lock may have ended first, where the machine is slow.
        Err(error) => assert!(matches!(error, SourceError::Unreachable { .. }), "{error}"),
    }
    let held = app.sql("SELECT GROUP_CONCAT(id, '=', token ORDER BY id) FROM people WHERE id NOT IN (5, 6)");
    assert_eq!(held, "1=km:v9:newer,2=km:v9:2 ,400=km:v9:4");

    writer.run("START TRANSACTION; UPDATE people SET token = 'km:v9:held' WHERE id = 6");
    let now = source.read_again(&[RowId(vec![IdPart::Integer(5)])]).await.unwrap();
    let five = now[0].clone().unwrap();
    let both = [
        Swap { old: five.cell.clone(), new: Cell::Text(b"km:v11:5".to_vec()), ..batch[4].clone() },
        batch[5].clone(),
    ];
    let error = source.swap(&both).await.unwrap_err();
    assert!(error.to_string().contains("another transaction was in the way"), "{error}");
    writer.run("ROLLBACK");
    let now = source.read_again(std::slice::from_ref(&five.id)).await.unwrap();
    assert_eq!(now, [Some(five)], "a part of a batch was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_census_is_not_conclusive_while_an_older_transaction_can_still_write() {
    // Of its own: transactions of others, too, would be older ones.
    let app = App::with(&[]);
    let source = app.people(TOKEN, TENANT);
    app.fill(3);
    let census = async || {
        let mut old = 0;
        let mut visit = |cell: &Cell| old += usize::from(cell.bytes().unwrap().starts_with(b"km:v9:"));
        let census = source.census(&mut visit).await.unwrap();
        (old, census.not_conclusive)
    };
    assert_eq!(census().await, (3, None));

    let mut writer = app.connect();
    writer.run("START TRANSACTION; INSERT INTO people VALUES (4, 'a', 'km:v9:hidden')");
    let thread = writer.run("SELECT CONNECTION_ID()");
    let (old, why) = census().await;
    assert_eq!(old, 3);
    let why = why.unwrap();
    assert!(why.contains(&format!("thread {thread} (")) && !why.contains("hidden"), "{why}");
    writer.run("COMMIT");
    assert_eq!(census().await, (4, None));

    writer.run(
        "XA START 'later'; INSERT INTO people VALUES (5, 'a', 'km:v9:hidden'); XA END 'later'; XA PREPARE 'later'",
    );
    drop(writer);
    let (old, why) = census().await;
    assert_eq!(old, 4);
    let xid = hex::encode("later");
    assert!(why.unwrap().contains(&format!("prepared XA transaction 0x{xid}")));
    app.sql("XA COMMIT 'later'");
    assert_eq!(census().await, (5, None));

    // One that ends meanwhile is waited for, and its rows are seen.
    let mut writer = app.connect();
    writer.run("START TRANSACTION; INSERT INTO people VALUES (6, 'a', 'km:v9:hidden')");
    let ending = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        writer.run("COMMIT");
        Instant::now()
    });
    let began = Instant::now();
    let mut counted = census().await;
    // It waits for five seconds, and the machine stood still for longer.
    if ending.join().unwrap().saturating_duration_since(began) > Duration::from_secs(4) {
        counted = census().await;
    }
    assert_eq!(counted, (6, None));

    app.sql(&format!("CREATE USER blind IDENTIFIED BY 'b'; GRANT SELECT ON {}.* TO blind", app.database));
    let mut spec = app.spec();
    spec.url = format!("mysql://blind:b@{}/{}", app.server.address(), app.database);
    let why = open_source(spec).unwrap().census(&mut |_| ()).await.unwrap().not_conclusive.unwrap();
    assert!(why.contains("GRANT PROCESS ON *.*"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_a_column_that_moves_with_updates_is_left_where_it_is() {
    let app = App::new();
    app.sql(
        "CREATE TABLE people (id BINARY(4) PRIMARY KEY, tenant INT UNSIGNED, token BLOB, \
         `moved at` TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, \
         again DATETIME(6) ON UPDATE CURRENT_TIMESTAMP(6)); SET time_zone = '+00:00'; SET sql_mode = ''; \
         INSERT INTO people VALUES (x'00', 4000000000, 'km:v9:a', '2001-02-03 04:05:06', NULL), \
         (x'ff00', 1, 'km:v9:b', 0, '0000-00-00 00:00:00')",
    );
    let source = open_source(app.spec()).unwrap();
    let found = source.preflight().await.unwrap();
    assert_eq!(found.blockers, Vec::<String>::new());
    assert!(found.warnings.iter().any(|warning| warning.contains("column moved at has ON UPDATE")), "{found:?}");
    let held = "SET time_zone = '+00:00'; SELECT HEX(id), `moved at`, again FROM people ORDER BY id";
    let before = app.sql(held);
    let batch: Vec<Swap> = rows(&*source).await.iter().map(swap).collect();
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 2]));
    assert_eq!(app.sql(held), before);
    assert_eq!(app.sql("SELECT GROUP_CONCAT(token ORDER BY id) FROM people"), "km:v10:a,km:v10:b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_during_the_job_is_written_as_it_is_then() {
    let app = App::new();
    let source = app.people(TOKEN, TENANT);
    app.fill(3);
    let batch: Vec<Swap> = rows(&*source).await.iter().map(swap).collect();
    app.sql(
        "ALTER TABLE people ADD moved TIMESTAMP NOT NULL DEFAULT '2001-02-03 04:05:06' ON UPDATE CURRENT_TIMESTAMP",
    );
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 3]));
    assert_eq!(app.sql("SELECT COUNT(*) FROM people WHERE moved = '2001-02-03 04:05:06'"), "3");
    app.sql("ALTER TABLE people DROP PRIMARY KEY, ADD UNIQUE other (id)");
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Lost; 3]));
    // A read goes by an index that was there a moment ago, and is done again.
    app.sql("ALTER TABLE people DROP INDEX other, ADD PRIMARY KEY (id)");
    for _ in 0..2 {
        match source.read(None, 9, &Selection::Every).await {
            Ok(rows) => assert_eq!(rows.len(), 3),
            Err(error) => assert!(matches!(error, SourceError::Unreachable { .. }), "{error}"),
        }
    }
    assert_eq!(rows(&*source).await.len(), 3);
    app.sql("ALTER TABLE people DROP COLUMN tenant");
    let error = source.read_again(&[batch[0].id.clone()]).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("no column tenant")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_skipped_once_the_ids_have_another_order() {
    let app = App::new();
    app.sql(
        "CREATE TABLE people (id VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, tenant INT, \
         token VARCHAR(50)); INSERT INTO people VALUES ('a', 1, 'km:v9:1'), ('B', 1, 'km:v9:2'), ('c', 1, 'km:v9:3')",
    );
    let source = open_source(app.spec()).unwrap();
    let ids = async |after: Option<&str>| {
        let after = after.map(|id| RowId(vec![IdPart::Text(id.into())]));
        let rows = source.read(after.as_ref(), 9, &Selection::Every).await.unwrap();
        rows.into_iter().map(|row| format!("{:?}", row.id.0[0])).collect::<String>()
    };
    assert_eq!(ids(None).await, r#"Text("B")Text("a")Text("c")"#);
    app.sql("ALTER TABLE people MODIFY id VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ids(Some("a")).await, r#"Text("B")Text("c")"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_beside_one_who_alters_the_table_is_written_or_tried_again_and_moves_nothing() {
    let app = App::new();
    let source = app.people(TOKEN, TENANT);
    app.fill(3);
    let mut batch: Vec<Swap> = rows(&*source).await.iter().map(swap).collect();
    let mut writer = app.connect();
    let altering = thread::spawn(move || {
        let mut moved = String::new();
        for _ in 0..30 {
            writer.run("ALTER TABLE people ADD moved TIMESTAMP NOT NULL DEFAULT '2001-02-03' ON UPDATE NOW()");
            thread::sleep(Duration::from_millis(10));
            moved += &writer.run("SELECT id FROM people WHERE moved <> '2001-02-03'");
            writer.run("ALTER TABLE people DROP COLUMN moved");
        }
        moved
    });
    let mut written = 0;
    while !altering.is_finished() {
        match source.swap(&batch).await {
            Ok(outcomes) => {
                assert_eq!(done(&outcomes), 3);
                written += 1;
                batch.iter_mut().for_each(|swap| std::mem::swap(&mut swap.old, &mut swap.new));
            }
            Err(error) => assert!(matches!(error, SourceError::Unreachable { .. }), "{error}"),
        }
    }
    assert_eq!(altering.join().unwrap(), "");
    assert!(written > 3, "{written}");
}
