//! Sources and replication: a server that is no primary is refused and proves nothing, and how far replicas are behind.

use std::time::{Duration, Instant};

use keymoot_storage::{
    conformance, open_source,
    source::{Selection, Source, SourceError, SourceSpec},
};

use crate::{
    PATIENCE,
    databases::MariaDb,
    mariadb,
    postgres_source::{all, spec, swap},
    servers::Postgres,
};

/// Above the limit that a job has where nothing is set.
const TOO_FAR: Duration = Duration::from_millis(1500);

#[track_caller]
fn holds(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

/// Looks once a second, as jobs do, until the lag is as wanted; writes before each look.
async fn until_lag(source: &dyn Source, write: impl Fn(), wanted: impl Fn(Duration) -> bool) -> Duration {
    let end = Instant::now() + PATIENCE;
    loop {
        write();
        let load = source.load().await;
        match &load {
            Ok(load) if wanted(load.replica_lag.unwrap()) => return load.replica_lag.unwrap(),
            // Replicas have less than a second to answer, and a busy machine may take longer.
            Ok(_) | Err(SourceError::Unreachable { .. }) => {}
            Err(error) => unreachable!("{error}"),
        }
        assert!(Instant::now() < end, "it stays at {load:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn refuses(source: &dyn Source) {
    let blockers = source.preflight().await.unwrap().blockers.concat();
    holds(&blockers, "name the primary in the source's url");
    let SourceError::Unreachable { reason, .. } = source.load().await.unwrap_err() else { unreachable!() };
    holds(&reason, "name the primary in the source's url");
    let census = source.census(&mut |_| ()).await.unwrap();
    holds(&census.not_conclusive.unwrap(), "name the primary in the source's url");
    assert_eq!((census.visited, census.counted), (1, 1));
}

/// A standby, and its primary with one row that both have.
fn postgres() -> (Postgres, Postgres) {
    let primary = Postgres::start();
    primary.sql("CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t VALUES (1, 'km:v9:a')");
    let standby = primary.standby();
    (primary, standby)
}

fn in_postgres(server: &Postgres) -> SourceSpec {
    spec(&server.url(), "t", &["id"], "c", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_postgresql_is_refused_by_preflight_and_load_and_no_census_of_it_is_conclusive() {
    let (primary, mut standby) = postgres();
    let source = open_source(in_postgres(&standby)).unwrap();
    refuses(&*source).await;
    let rows = all(&*source, 10, &Selection::Every).await;
    let batch = [swap(&rows[0], "km:v10:a")];
    assert!(matches!(source.swap(&batch).await, Err(SourceError::Unreachable { .. })));
    drop(primary);
    // The same server, as soon as it took over.
    standby.sql("SELECT pg_promote()");
    standby.restart();
    let source = open_source(in_postgres(&standby)).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    assert!(source.load().await.is_ok());
    assert_eq!(source.census(&mut |_| ()).await.unwrap().not_conclusive, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_postgresql_is_behind_whether_it_replays_slowly_or_says_nothing_any_more() {
    let (primary, standby) = postgres();
    let source = open_source(in_postgres(&primary)).unwrap();
    let write = || drop(primary.sql("UPDATE t SET c = c WHERE id = 1"));
    let caught_up = |lag: Duration| lag < TOO_FAR;
    until_lag(&*source, write, caught_up).await;
    for process in ["startup", "walreceiver"] {
        standby.signal_processes(process, "-STOP");
        let lag = until_lag(&*source, write, |lag| lag > TOO_FAR).await;
        assert!(lag < PATIENCE * 2, "{process}: {lag:?}");
        // It goes on growing while nobody writes.
        until_lag(&*source, || (), |later| later > lag + TOO_FAR).await;
        standby.signal_processes(process, "-CONT");
        until_lag(&*source, || (), caught_up).await;
    }
    // Nobody is behind a primary at rest.
    tokio::time::sleep(TOO_FAR * 2).await;
    until_lag(&*source, || (), caught_up).await;
    drop(standby);
}

/// A replica, and its primary with one row that both have.
fn mariadb_pair() -> (MariaDb, MariaDb) {
    let primary = MariaDb::primary();
    let replica = primary.replica();
    primary.sql("CREATE TABLE people (id BIGINT PRIMARY KEY, tenant INT, token VARCHAR(100)); INSERT INTO people VALUES (1, 1, 'km:v9:a')");
    let end = Instant::now() + PATIENCE;
    while replica.sql("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'people'") == "0"
        || replica.sql("SELECT COUNT(*) FROM people") == "0"
    {
        assert!(Instant::now() < end, "{}", replica.sql("SHOW ALL SLAVES STATUS"));
        std::thread::sleep(Duration::from_millis(50));
    }
    (primary, replica)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_mariadb_is_refused_while_it_is_read_only_and_no_census_of_it_is_conclusive() {
    let (primary, replica) = mariadb_pair();
    let source = open_source(conformance::spec(&replica.url())).unwrap();
    refuses(&*source).await;
    // Of an account that may write there all the same.
    let rows = source.read(None, 10, &Selection::Every).await.unwrap();
    let refused = source.swap(&[mariadb::swap(&rows[0])]).await.unwrap_err();
    holds(&refused.to_string(), "name the primary in the source's url");
    assert_eq!(replica.sql("SELECT token FROM people"), "km:v9:a");
    // One that may be written still gets what its primary committed later.
    replica.sql("SET GLOBAL read_only = 0");
    let found = source.preflight().await.unwrap();
    assert_eq!(found.blockers, Vec::<String>::new());
    holds(&found.warnings.concat(), "replicates from another");
    holds(&source.census(&mut |_| ()).await.unwrap().not_conclusive.unwrap(), "replicates from another");
    let source = open_source(conformance::spec(&primary.url())).unwrap();
    assert_eq!(source.census(&mut |_| ()).await.unwrap().not_conclusive, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_mariadb_that_the_address_names_is_behind_while_it_applies_or_hears_nothing() {
    let (primary, mut replica) = mariadb_pair();
    let unnamed = open_source(conformance::spec(&primary.url())).unwrap();
    assert_eq!(unnamed.load().await.unwrap().replica_lag, None, "a primary does not know");
    let url = format!("{}?replica={}", primary.url(), replica.address());
    let source = open_source(conformance::spec(&url)).unwrap();
    let write = || drop(primary.sql("UPDATE people SET tenant = tenant + 1"));
    let caught_up = |lag: Duration| lag < TOO_FAR;
    until_lag(&*source, write, caught_up).await;
    for thread in ["SQL_THREAD", "IO_THREAD"] {
        replica.sql(&format!("STOP SLAVE {thread}"));
        let lag = until_lag(&*source, write, |lag| lag > TOO_FAR).await;
        until_lag(&*source, || (), |later| later > lag + TOO_FAR).await;
        replica.sql(&format!("START SLAVE {thread}"));
        until_lag(&*source, || (), caught_up).await;
    }
    let address = replica.address().to_string();
    replica.kill();
    let error = source.load().await.unwrap_err().to_string();
    holds(&error, &format!("replica {address}"));
}
