use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keymoot_storage::{
    conformance,
    metadata::{Existing, Metadata, MetadataError},
    open_existing_metadata, open_metadata,
};

use sqlx::{Connection as _, PgConnection};

use super::{
    Certificate, PATIENCE, assert_away, is_unavailable, no_update_is_lost,
    proxy::{Proxy, Rule},
    servers::{PASSWORD, Postgres},
    stamp, until_away_for, until_back,
};

fn damaged<T: std::fmt::Debug>(answer: Result<T, MetadataError>) -> String {
    match answer {
        Err(MetadataError::Damaged(reason)) => reason,
        other => unreachable!("{other:?}"),
    }
}

fn proxied(server: &Postgres) -> (Proxy, Arc<dyn Metadata>) {
    let proxy = Proxy::new(server.address());
    let store = open_metadata(&server.url_at(proxy.address())).unwrap();
    (proxy, store)
}

#[tokio::test]
async fn the_metadata_store_in_postgresql_keeps_the_promises() {
    let server = Postgres::start();
    conformance::metadata(&*open_metadata(&server.url()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_of_one_record_in_postgresql_lose_no_update() {
    let server = Postgres::start();
    no_update_is_lost(|| open_metadata(&server.url()).unwrap()).await;
}

#[tokio::test]
async fn a_postgresql_that_is_killed_paused_or_silent_is_known_to_be_away_and_is_used_again_when_it_is_back() {
    let mut server = Postgres::start();
    server.kill();
    let (proxy, store) = proxied(&server);
    // It starts with the store down.
    assert_away(&*store).await;
    server.restart();
    until_back(&*store).await;
    let kept = store.put("a", b"1").await.unwrap();
    for _ in 0..3 {
        server.kill();
        assert_away(&*store).await;
        server.restart();
        until_back(&*store).await;
        assert_eq!(stamp(&*store, "a").await, Some(kept));
    }
    // A restart that nobody saw fails no call.
    server.restart();
    assert_eq!(stamp(&*store, "a").await, Some(kept));

    server.pause();
    assert_away(&*store).await;
    server.go_on();
    until_back(&*store).await;
    proxy.set(Rule::BlackHole);
    assert_away(&*store).await;
    proxy.set(Rule::Pass);
    until_back(&*store).await;
    assert_eq!(stamp(&*store, "a").await, Some(kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_52_many_callers_do_not_storm_a_postgresql_that_is_away() {
    let server = Postgres::start();
    let (proxy, store) = proxied(&server);
    store.put("a", b"1").await.unwrap();
    proxy.set(Rule::Refuse);
    let before = proxy.accepted();
    let callers = (0..50).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..100 {
                assert!(is_unavailable(&store.get("a").await));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let tries = proxy.accepted() - before;
    assert!((1..=30).contains(&tries), "{tries} connections for 5,000 calls");
    proxy.set(Rule::Pass);
    until_back(&*store).await;
}

/// Waits until no connection of ours is in the middle of anything.
async fn until_idle(watch: &mut PgConnection) {
    let busy = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = 'keymoot' AND pid <> pg_backend_pid() AND state <> 'idle'";
    let end = Instant::now() + PATIENCE / 4;
    while sqlx::query_as::<_, (i64,)>(busy).fetch_one(&mut *watch).await.unwrap().0 > 0 {
        assert!(Instant::now() < end, "a connection was left in the middle of a transaction");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_30_a_call_to_postgresql_that_is_dropped_at_any_moment_ends_whole_and_poisons_no_connection() {
    let server = Postgres::start();
    let (proxy, store) = proxied(&server);
    let mut watch = PgConnection::connect(&server.url()).await.unwrap();
    let mut last = store.put("a", &[0]).await.unwrap();
    proxy.set(Rule::Delay(Duration::from_micros(300)));
    let (mut done, mut dropped) = (0, Vec::new());
    // It follows what a call takes on this machine now, so that half of them come to their end.
    let mut half = Duration::from_millis(6);
    for n in 1..=200_u8 {
        // From the first instant to well behind the commit.
        let limit = half * (u32::from(n) * 83 % 120) / 60;
        let swapped = tokio::time::timeout(limit, store.swap("a", Some(last), &[n])).await;
        half = if swapped.is_ok() { half * 9 / 10 } else { half * 10 / 9 };
        until_idle(&mut watch).await;
        let read = store.get("a").await.unwrap().unwrap();
        match swapped {
            Ok(Ok(stamp)) => (done, _) = (done + 1, assert_eq!((read.stamp, &*read.value), (stamp, &[n][..]))),
            // A call that was dropped before it had a connection goes on meanwhile.
            Ok(Err(error)) => assert!(matches!(error, MetadataError::Changed { .. }), "{error}"),
            Err(_) => dropped.push(n),
        }
        let whole = read.stamp == last || read.value == [n] || dropped.iter().any(|n| read.value == [*n]);
        assert!(whole, "{:?} is nobody's", read.value);
        last = read.stamp;
    }
    assert!(done > 10 && dropped.len() > 10, "{done} done, {} dropped", dropped.len());
}

#[tokio::test]
async fn fault_31_a_commit_whose_answer_was_lost_is_found_out_and_never_reported_as_failed() {
    let server = Postgres::start();
    let (proxy, store) = proxied(&server);
    let direct = open_metadata(&server.url()).unwrap();
    let mut last = store.put("a", b"0").await.unwrap();
    let lose = || proxy.set(Rule::LoseAnswerTo(b"COMMIT\0".to_vec(), 1));
    for n in 1..=5_u8 {
        lose();
        last = store.swap("a", Some(last), &[n]).await.unwrap();
        assert_eq!(stamp(&*direct, "a").await, Some(last));
    }
    lose();
    let new = store.swap("b", None, b"1").await.unwrap();
    lose();
    store.remove("b", new).await.unwrap();
    assert_eq!(stamp(&*direct, "b").await, None);
    lose();
    store.fill(vec![("c".into(), b"1".to_vec())], Existing::Replace).await.unwrap();
    assert_eq!(direct.list("").await.unwrap().len(), 1);
    assert_eq!(proxy.lost(), 8);
    // Not sent at all: reported as failed, and not done.
    proxy.set(Rule::LoseAnswerTo(b"BEGIN".to_vec(), 1));
    assert!(is_unavailable(&store.swap("d", None, b"1").await));
    until_back(&*store).await;
    assert_eq!(stamp(&*direct, "d").await, None);
}

#[tokio::test]
async fn fault_31_an_exchange_with_postgresql_cut_at_any_byte_is_done_or_not_as_reported() {
    let server = Postgres::start();
    let direct = open_metadata(&server.url()).unwrap();
    direct.put("a", b"0").await.unwrap();
    let (mut done, mut failed) = (0, 0);
    for n in 0..60 {
        let (proxy, store) = proxied(&server);
        store.get("a").await.unwrap();
        let before = stamp(&*direct, "a").await;
        proxy.set(if n % 2 == 0 { Rule::CutRequest(n * 8) } else { Rule::CutReply(n * 6) });
        let value = n.to_le_bytes();
        let swapped = tokio::join!(store.swap("a", before, &value), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.set(Rule::Pass);
        });
        let after = stamp(&*direct, "a").await;
        match swapped.0 {
            Ok(new) => (done, _) = (done + 1, assert_eq!(after, Some(new))),
            Err(MetadataError::Unavailable(_)) => (failed, _) = (failed + 1, assert_eq!(after, before)),
            Err(error) => unreachable!("{error}"),
        }
    }
    assert!(done > 0 && failed > 0, "{done} done, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_26_what_postgresql_acknowledged_before_it_was_killed_is_there_and_the_rest_whole_or_absent() {
    let mut server = Postgres::start();
    for round in 0..3 {
        let store = open_metadata(&server.url()).unwrap();
        until_back(&*store).await;
        let (killed, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let writer = tokio::spawn({
            let (killed, written) = (Arc::clone(&killed), Arc::clone(&written));
            async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let key = format!("{round}/{n:06}");
                    // Where nothing was under way at the kill, no call fails.
                    if killed.load(Ordering::SeqCst) || store.swap(&key, None, &[7; 5000]).await.is_err() {
                        break;
                    }
                    acknowledged.push(key);
                    written.fetch_add(1, Ordering::SeqCst);
                }
                acknowledged
            }
        });
        // In the midst of its writes, however long the first ones take.
        while written.load(Ordering::SeqCst) < 20 && !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        killed.store(true, Ordering::SeqCst);
        server.restart();
        let acknowledged = writer.await.unwrap();
        let store = open_metadata(&server.url()).unwrap();
        let stored = store.list(&format!("{round}/")).await.unwrap();
        let keys: Vec<_> = stored.iter().map(|record| record.key.clone()).collect();
        assert!(keys.starts_with(&acknowledged) && keys.len() <= acknowledged.len() + 1);
        assert!(!acknowledged.is_empty() && stored.iter().all(|record| record.value == [7; 5000]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_that_start_at_once_make_the_tables_once() {
    let server = Postgres::start();
    let starts: Vec<_> = (0..8)
        .map(|n| {
            let store = open_metadata(&server.url()).unwrap();
            tokio::spawn(async move { store.put(&n.to_string(), b"1").await.unwrap() })
        })
        .collect();
    for start in starts {
        start.await.unwrap();
    }
    assert_eq!(server.sql("SELECT count(*) FROM keymoot_records"), "8");
}

#[tokio::test]
async fn a_newer_format_of_the_tables_is_refused_unread_unless_it_only_adds() {
    let server = Postgres::start();
    let store = open_existing_metadata(&server.url()).unwrap();
    assert!(is_unavailable(&store.get("a").await));
    assert_eq!(server.sql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'keymoot%'"), "0");
    let store = open_metadata(&server.url()).unwrap();
    let kept = store.put("a", b"1").await.unwrap();
    // A newer build that only added.
    server.sql("ALTER TABLE keymoot_records ADD more text; UPDATE keymoot_format SET format = 2");
    let older = open_metadata(&server.url()).unwrap();
    assert_eq!(stamp(&*older, "a").await, Some(kept));
    older.put("b", b"1").await.unwrap();
    server.sql("UPDATE keymoot_format SET format = 3, oldest_build = 3");
    let reason = damaged(open_metadata(&server.url()).unwrap().get("a").await);
    assert!(reason.contains("format 3") && reason.contains("newer build"), "{reason}");
}

#[tokio::test]
async fn tables_that_are_removed_under_the_store_are_never_made_again() {
    let server = Postgres::start();
    let store = open_metadata(&server.url()).unwrap();
    store.put("a", b"1").await.unwrap();
    server.sql("DROP TABLE keymoot_records, keymoot_format");
    assert!(store.put("a", b"1").await.is_err());
    let reason = damaged(store.get("a").await);
    assert!(reason.contains("removed while they were in use"), "{reason}");
    assert_eq!(server.sql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'keymoot%'"), "0");
}

#[tokio::test]
async fn a_postgresql_that_refuses_us_is_unavailable_and_no_password_is_shown() {
    let server = Postgres::start();
    let wrong = server.url().replace(PASSWORD, "hunter2hunter2");
    let reason = until_away_for(&*open_metadata(&wrong).unwrap(), "password").await;
    assert!(!reason.contains("hunter2"), "{reason}");
    // A standby, and a disk that is full, are told by their codes.
    let store = open_metadata(&server.url()).unwrap();
    let kept = store.put("a", b"1").await.unwrap();
    server.sql("ALTER TABLE keymoot_records ADD CHECK (length(value) < 3)");
    assert!(is_unavailable(&store.swap("a", Some(kept), b"long").await));
    assert_eq!(stamp(&*store, "a").await, Some(kept));
}

#[tokio::test]
async fn a_lock_that_others_hold_is_waited_for_and_then_unavailable_and_writes_nothing() {
    let server = Postgres::start();
    let store = open_metadata(&server.url()).unwrap();
    let kept = store.put("a", b"1").await.unwrap();
    let mut holder = server.connect();
    holder.run("BEGIN; LOCK TABLE keymoot_records");
    let refused = store.swap("a", Some(kept), b"2").await.unwrap_err().to_string();
    assert!(refused.contains("55P03"), "{refused}");
    holder.run("ROLLBACK");
    assert_eq!(stamp(&*store, "a").await, Some(kept));
}

#[tokio::test]
async fn over_tls_only_a_postgresql_that_the_ca_vouches_for_is_spoken_to() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let server = Postgres::start_with(certificate.pair());
    let at = |ca: &Certificate| format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), ca.path());
    let store = open_metadata(&at(&certificate)).unwrap();
    store.put("a", b"1").await.unwrap();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'keymoot'";
    assert_eq!(server.sql(encrypted), "t");
    until_away_for(&*open_metadata(&at(&other)).unwrap(), "certificate").await;
    let plain = Postgres::start();
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", plain.url(), certificate.path());
    assert_away(&*open_metadata(&url).unwrap()).await;
}
