//! A user's table in PostgreSQL while things go wrong: connections, other writers, open transactions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keymoot_storage::{
    open_source,
    source::{Cell, IdPart, Row, RowId, Selection, Source, SourceError, Swap, Swapped},
};
use sqlx::{Connection as _, PgConnection};

use super::{
    PATIENCE,
    postgres_source::{all, spec, swap, tokens},
    proxy::{Proxy, Rule},
    servers::Postgres,
};

const OLD: &[u8] = b"km:v9:";

fn old() -> Selection {
    Selection::Prefixes(vec![OLD.to_vec()])
}

fn proxied(server: &Postgres) -> (Proxy, Arc<dyn Source>) {
    let proxy = Proxy::new(server.address());
    let url = server.url_at(proxy.address());
    let source = open_source(spec(&url, "tokens", &["id"], "c", "")).unwrap();
    (proxy, source)
}

/// The batch that writes `km:v10:…` over these rows.
fn renewed(rows: &[Row]) -> Vec<Swap> {
    let text = |row: &Row| String::from_utf8(row.cell.bytes().unwrap().to_vec()).unwrap();
    rows.iter().map(|row| swap(row, &text(row).replace("km:v9:", "km:v10:"))).collect()
}

fn is_unreachable<T>(answer: &Result<T, SourceError>) -> bool {
    matches!(answer, Err(SourceError::Unreachable { .. }))
}

async fn until_reached<T>(ask: impl AsyncFn() -> Result<T, SourceError>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(matches!(error, SourceError::Unreachable { .. }) && Instant::now() < end, "{error}")
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until no connection of ours is in the middle of anything.
async fn until_idle(watch: &mut PgConnection) {
    let busy = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = 'keymoot' AND pid <> pg_backend_pid() AND state <> 'idle'";
    let end = Instant::now() + PATIENCE / 2;
    while sqlx::query_as::<_, (i64,)>(busy).fetch_one(&mut *watch).await.unwrap().0 > 0 {
        assert!(Instant::now() < end, "a connection was left in the middle of a transaction");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_30_a_thousand_dropped_calls_to_a_source_poison_no_connection_and_write_whole_batches() {
    let server = Postgres::start();
    tokens(&server, 3000);
    let (proxy, source) = proxied(&server);
    proxy.set(Rule::Delay(Duration::from_micros(100)));
    let mut watch = PgConnection::connect(&server.url()).await.unwrap();
    let (mut dropped, mut answered) = (0, 0);
    // For each kind of call: it follows what that takes on this machine now, so that half of them come to their end.
    let mut half = [Duration::from_millis(15); 3];
    for n in 0..1000_u64 {
        let half = &mut half[(n % 3) as usize];
        // From the first instant to behind the commit; each batch is of three rows that no other one has.
        let limit = *half * (n as u32 * 83 % 1000) / 500;
        let ended = match n % 3 {
            0 => tokio::time::timeout(limit, source.read(None, 10, &Selection::Every))
                .await
                .map(|rows| rows.is_ok()),
            1 => tokio::time::timeout(limit, source.census(&mut |_| ())).await.map(|census| census.is_ok()),
            _ => {
                let ids: Vec<RowId> =
                    (n * 3..n * 3 + 3).map(|id| RowId(vec![IdPart::Integer(id as i64)])).collect();
                let batch: Vec<Swap> = ids
                    .into_iter()
                    .map(|id| Swap {
                        old: Cell::Text(format!("km:v9:{}", number(&id)).into()),
                        new: Cell::Text(format!("km:v10:{}", number(&id)).into()),
                        columns: Vec::new(),
                        id,
                    })
                    .collect();
                let ended = tokio::time::timeout(limit, source.swap(&batch)).await;
                if let Ok(answer) = &ended {
                    let written: i64 = server_count(&mut watch, n).await;
                    let done = answer.as_ref().is_ok_and(|all| all.iter().all(|one| *one == Swapped::Done));
                    assert_eq!(written, if done { 3 } else { 0 }, "{answer:?}");
                }
                ended.map(|answer| answer.is_ok())
            }
        };
        match ended {
            Ok(_) => (answered, *half) = (answered + 1, *half * 9 / 10),
            Err(_) => (dropped, *half) = (dropped + 1, *half * 10 / 9),
        }
        if n % 10 == 0 {
            until_idle(&mut watch).await;
            let rows = source.read(None, 1, &Selection::Every).await.unwrap();
            assert_eq!(rows.len(), 1);
        }
    }
    until_idle(&mut watch).await;
    let halves = "SELECT count(*) FROM (SELECT id / 3 FROM tokens WHERE id % 9 >= 6 GROUP BY id / 3 \
                  HAVING count(DISTINCT left(c, 6)) > 1) AS half";
    assert_eq!(server.sql(halves), "0");
    println!("{dropped} dropped, {answered} answered");
    assert!(dropped > 50 && answered > 50, "{dropped} dropped, {answered} answered");
}

fn number(id: &RowId) -> i64 {
    let [IdPart::Integer(number)] = id.0[..] else { unreachable!() };
    number
}

async fn server_count(watch: &mut PgConnection, n: u64) -> i64 {
    let sql = "SELECT count(*) FROM tokens WHERE id / 3 = $1 AND c LIKE 'km:v10:%'";
    sqlx::query_as::<_, (i64,)>(sql).bind(n as i64).fetch_one(watch).await.unwrap().0
}

#[tokio::test]
async fn fault_31_a_batch_whose_commit_was_not_answered_is_found_out_and_counted_once() {
    let server = Postgres::start();
    tokens(&server, 50);
    let (proxy, source) = proxied(&server);
    for n in 0..5 {
        let rows = source.read(None, 10, &old()).await.unwrap();
        proxy.set(Rule::LoseAnswerTo(b"COMMIT\0".to_vec(), 1));
        assert_eq!(source.swap(&renewed(&rows)).await, Ok(vec![Swapped::Done; 10]));
        assert_eq!(server.sql("SELECT count(*) FROM tokens WHERE c LIKE 'km:v10:%'"), ((n + 1) * 10).to_string());
    }
    assert_eq!(proxy.lost(), 5);
}

#[tokio::test]
async fn fault_31_an_exchange_of_a_source_cut_at_any_byte_is_done_or_not_as_reported() {
    let server = Postgres::start();
    let direct = tokens(&server, 60);
    let (proxy, source) = proxied(&server);
    let rows = source.read(None, 1, &old()).await.unwrap();
    let before = proxy.passed();
    assert_eq!(source.swap(&renewed(&rows)).await, Ok(vec![Swapped::Done]));
    let [request, reply] = [0, 1].map(|way| proxy.passed()[way] - before[way]);

    let (mut done, mut failed) = (0, 0);
    for n in 0..=50 {
        let (proxy, source) = proxied(&server);
        let rows = source.read(None, 1, &old()).await.unwrap();
        let rule = if n % 2 == 0 { Rule::CutRequest(request * n / 50) } else { Rule::CutReply(reply * n / 50) };
        proxy.set(rule);
        let batch = renewed(&rows);
        let (swapped, ()) = tokio::join!(source.swap(&batch), async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.set(Rule::Pass);
        });
        let now = direct.read_again(&[rows[0].id.clone()]).await.unwrap();
        let written = now[0].as_ref().unwrap().cell == batch[0].new;
        match swapped {
            Ok(answers) => (done, _) = (done + 1, assert_eq!((answers, written), (vec![Swapped::Done], true))),
            Err(SourceError::Unreachable { .. }) => (failed, _) = (failed + 1, assert!(!written)),
            Err(error) => unreachable!("{error}"),
        }
    }
    assert!(done > 0 && failed > 0, "{done} done, {failed} failed");
    println!("{done} done, {failed} failed, of {request} bytes and {reply} back");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_36_a_scan_whose_connection_dies_is_an_error_and_never_an_end() {
    let server = Arc::new(Postgres::start());
    tokens(&server, 200_000);
    // More than all buffers on the way hold: what was sent before the death must not be the whole.
    server.sql("UPDATE tokens SET c = rpad(c, 200, 'A')");
    let (proxy, source) = proxied(&server);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'keymoot'";
    for by_proxy in [false, true] {
        let mut seen = 0;
        let mut visit = |_: &Cell| {
            seen += 1;
            if seen == 1000 {
                if by_proxy { proxy.cut_all() } else { drop(server.sql(kill)) }
            }
        };
        let census = source.census(&mut visit).await;
        assert!(is_unreachable(&census) && seen < 200_000, "{census:?} behind {seen} rows");
    }
    // Between two chunks, and in the middle of one that takes long.
    let mut rows: Vec<Row> = Vec::new();
    let (mut errors, mut kills) = (0, 0);
    loop {
        if rows.len() >= kills * 50_000 {
            kills += 1;
            let killer = Arc::clone(&server);
            tokio::task::spawn_blocking(move || killer.sql(kill));
        }
        let after = rows.last().map(|row| row.id.clone());
        match source.read(after.as_ref(), 10_000, &Selection::Every).await {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => rows.extend(chunk),
            Err(error) => {
                (errors, _) = (errors + 1, assert!(is_unreachable::<()>(&Err(error))));
                // One that was killed while it connected is an outage for a moment, in which every call fails at once.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(errors < 1000);
    }
    assert_eq!(rows.len(), 200_000);
}

#[tokio::test]
async fn fault_37_what_the_application_did_between_read_and_swap_stands() {
    let server = Postgres::start();
    let source = tokens(&server, 6);
    let rows = all(&*source, 10, &Selection::Every).await;
    server.sql(
        "UPDATE tokens SET c = 'km:v9:other' WHERE id = 1; DELETE FROM tokens WHERE id = 2;
         UPDATE tokens SET id = 30 WHERE id = 3; UPDATE tokens SET c = NULL WHERE id = 4;
         UPDATE tokens SET c = upper(c) WHERE id = 5",
    );
    let outcomes = source.swap(&renewed(&rows)).await.unwrap();
    let mut expected = vec![Swapped::Lost; 6];
    expected[5] = Swapped::Done;
    assert_eq!(outcomes, expected);
    let now = server.sql("SELECT id, coalesce(c, 'NULL') FROM tokens ORDER BY id");
    assert_eq!(now, "1|km:v9:other\n4|NULL\n5|KM:V9:5\n6|km:v10:6\n30|km:v9:3");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_37_a_row_that_an_open_transaction_holds_is_waited_for_and_judged_by_how_that_ends() {
    let server = Postgres::start();
    let source = tokens(&server, 5);
    let mut writer = PgConnection::connect(&server.url()).await.unwrap();
    for (change, end, outcome, becomes) in [
        ("UPDATE tokens SET c = 'km:v9:theirs' WHERE id = 1", "COMMIT", Some(Swapped::Lost), "km:v9:theirs"),
        ("UPDATE tokens SET c = 'km:v9:theirs' WHERE id = 2", "ROLLBACK", Some(Swapped::Done), "km:v10:2"),
        ("DELETE FROM tokens WHERE id = 3", "COMMIT", Some(Swapped::Lost), ""),
        ("UPDATE tokens SET id = 40 WHERE id = 4", "COMMIT", Some(Swapped::Lost), ""),
        // Longer than we wait for locks: nothing is known, and nothing written.
        ("UPDATE tokens SET c = 'km:v9:theirs' WHERE id = 5", "", None, "km:v9:5"),
    ] {
        let id = change.rsplit(' ').next().unwrap().to_owned();
        let ids = [RowId(vec![IdPart::Integer(id.parse().unwrap())])];
        let rows: Vec<Row> = source.read_again(&ids).await.unwrap().into_iter().flatten().collect();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; {change}"))).execute(&mut writer).await.unwrap();
        let batch = renewed(&rows);
        let (swapped, ()) = tokio::join!(source.swap(&batch), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !end.is_empty() {
                sqlx::raw_sql(sqlx::AssertSqlSafe(end.to_owned())).execute(&mut writer).await.unwrap();
            }
        });
        // It waits for locks for two seconds: where the machine stood still for longer, it is asked once more.
        let swapped =
            if outcome.is_some() && is_unreachable(&swapped) { source.swap(&batch).await } else { swapped };
        match outcome {
            Some(outcome) => assert_eq!(swapped, Ok(vec![outcome]), "{change}"),
            None => assert!(is_unreachable(&swapped) && swapped.unwrap_err().to_string().contains("55P03")),
        }
        assert_eq!(server.sql(&format!("SELECT c FROM tokens WHERE id = {id}")), becomes, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_37_a_batch_that_deadlocks_with_the_application_writes_nothing_and_can_be_done_again() {
    let server = Postgres::start();
    let source = tokens(&server, 2);
    server.sql("ALTER SYSTEM SET deadlock_timeout = '100ms'");
    server.sql("SELECT pg_reload_conf()");
    let rows = all(&*source, 10, &Selection::Every).await;
    let mut writer = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE tokens SET c = 'km:v9:b' WHERE id = 2").execute(&mut writer).await.unwrap();
    let swapping = tokio::spawn({
        let (source, batch) = (Arc::clone(&source), renewed(&rows));
        async move { source.swap(&batch).await }
    });
    // It has the first row, and waits for the second.
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keymoot' AND wait_event_type = 'Lock'";
    while server.sql(waits) == "0" && !swapping.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let theirs = sqlx::raw_sql("UPDATE tokens SET c = 'km:v9:a' WHERE id = 1; COMMIT").execute(&mut writer).await;
    let swapped = swapping.await.unwrap();
    assert!(swapped.is_err() || theirs.is_err(), "they never met");
    if is_unreachable(&swapped) {
        assert_eq!(server.sql("SELECT string_agg(c, ' ' ORDER BY id) FROM tokens"), "km:v9:a km:v9:b");
    }
    drop(writer);
    let rows = source.read(None, 10, &old()).await.unwrap();
    assert_eq!(source.swap(&renewed(&rows)).await, Ok(vec![Swapped::Done; rows.len()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_38_a_row_of_a_transaction_that_is_open_at_the_census_is_found_or_nothing_is_concluded() {
    let mut server = Postgres::start();
    server.sql("ALTER SYSTEM SET max_prepared_transactions = 5");
    server.restart();
    let source = tokens(&server, 10);
    let mut writer = PgConnection::connect(&server.url()).await.unwrap();
    let mut id = 100;
    for (ends, tail) in [
        ("COMMIT", ""),
        ("ROLLBACK", ""),
        ("", ""),
        ("PREPARE TRANSACTION 'late'", ""),
        ("", "PREPARE TRANSACTION 'left''over'"),
    ] {
        id += 1;
        let insert = format!("BEGIN; INSERT INTO tokens VALUES ({id}, 'km:v9:hidden'); {tail}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut writer).await.unwrap();
        let mut hidden = 0;
        let mut visit = |cell: &Cell| hidden += usize::from(cell.bytes() == Some(b"km:v9:hidden"));
        let (census, ()) = tokio::join!(source.census(&mut visit), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if !ends.is_empty() {
                sqlx::raw_sql(sqlx::AssertSqlSafe(ends.to_owned())).execute(&mut writer).await.unwrap();
            }
        });
        let census = census.unwrap();
        match (ends, tail, census.not_conclusive) {
            ("COMMIT", _, None) => assert_eq!(hidden, 1),
            ("ROLLBACK", _, None) => assert_eq!(hidden, 1, "the row of before"),
            ("", "", Some(why)) => {
                assert!(
                    why.contains("process ") && why.contains("user keymoot") && !why.contains("INSERT"),
                    "{why}"
                );
                sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.unwrap();
            }
            (prepare, "", Some(why)) if prepare.starts_with("PREPARE") => {
                assert!(why.contains("prepared transaction 'late'"), "{why}");
                server.sql("ROLLBACK PREPARED 'late'");
            }
            ("", _, Some(why)) => assert!(why.contains("prepared transaction 'left''over'"), "{why}"),
            (_, _, why) => unreachable!("{ends} {tail}: {why:?}"),
        }
    }
    server.sql("ROLLBACK PREPARED 'left''over'");
    // One that has written nothing yet, and one in another database.
    sqlx::raw_sql("BEGIN; SELECT 1").execute(&mut writer).await.unwrap();
    assert!(source.census(&mut |_| ()).await.unwrap().not_conclusive.is_some());
    drop(writer);
    server.sql("CREATE DATABASE elsewhere");
    let url = server.url().replace("/postgres", "/elsewhere");
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; CREATE TABLE t (id int)").execute(&mut other).await.unwrap();
    assert_eq!(source.census(&mut |_| ()).await.unwrap().not_conclusive, None);
}

#[tokio::test]
async fn fault_22_look_alikes_are_not_taken_for_old_values() {
    let server = Postgres::start();
    let source = tokens(&server, 1);
    server.sql(
        "INSERT INTO tokens VALUES (2, 'km:v90:a'), (3, 'KM:v9:a'), (4, ' km:v9:a'), (5, 'km:v9'), (6, 'km:v09:a'), (7, 'km:v9;')",
    );
    let rows = source.read(None, 10, &old()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(source.swap(&renewed(&rows)).await, Ok(vec![Swapped::Done]));
    assert_eq!(server.sql("SELECT count(*) FROM tokens WHERE c LIKE 'km:v10:%'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_away_is_unreachable_and_is_used_again_when_it_is_back() {
    let mut server = Postgres::start();
    let source = tokens(&server, 10);
    server.kill();
    let answer = source.read(None, 1, &Selection::Every).await;
    assert!(is_unreachable(&answer), "{answer:?}");
    assert!(is_unreachable(&source.census(&mut |_| ()).await));
    server.restart();
    let rows = until_reached(async || source.read(None, 100, &Selection::Every).await).await;
    assert_eq!(rows.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_rows_in_postgresql_are_swapped_by_two_workers_at_once() {
    let server = Postgres::start();
    let source = tokens(&server, 50_000);
    let began = Instant::now();
    let half = |from: i64| {
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let mut after = Some(RowId(vec![IdPart::Integer(from)]));
            let mut done = 0;
            while done < 25_000 {
                let rows = source.read(after.as_ref(), 1000, &Selection::Every).await.unwrap();
                after = rows.last().map(|row| row.id.clone());
                let outcomes = source.swap(&renewed(&rows)).await.unwrap();
                assert_eq!(outcomes, vec![Swapped::Done; 1000]);
                done += rows.len();
            }
        })
    };
    let (one, two) = tokio::join!(half(0), half(25_000));
    one.unwrap();
    two.unwrap();
    println!("{:.0} rows/s", 50_000.0 / began.elapsed().as_secs_f64());
    assert_eq!(server.sql("SELECT count(*) FROM tokens WHERE c LIKE 'km:v10:%'"), "50000");
}

#[tokio::test]
async fn the_load_of_postgresql_tells_waits_statements_and_the_number_of_a_users_own_query() {
    let server = Postgres::start();
    tokens(&server, 1);
    let mut declared = spec(&server.url(), "tokens", &["id"], "c", "");
    declared.throttle_query = Some("SELECT 0.5;".into());
    let load = open_source(declared.clone()).unwrap().load().await.unwrap();
    assert_eq!((load.throttle_query, load.lock_waits, load.replica_lag), (Some(0.5), Some(0), None));
    assert_eq!(load.active, Some(0));
    declared.throttle_query = Some("DELETE FROM tokens RETURNING 1".into());
    assert!(open_source(declared.clone()).unwrap().load().await.is_err());
    declared.throttle_query = Some("SELECT pg_sleep(30)::text::int".into());
    assert!(is_unreachable(&open_source(declared).unwrap().load().await));
    assert_eq!(server.sql("SELECT count(*) FROM tokens"), "1");
}
