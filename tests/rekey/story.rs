//! The whole of it: planned, rekeyed under live writers, counted twice, retired, and every row opened by the oracle.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::{
    application::{Application, Known, facts, pool},
    database::Database,
    harness::oracle,
    unlocked,
};

const ROWS: i64 = 5_000;

#[test]
fn a_column_in_postgresql_is_rekeyed_under_live_writers_and_v9_retires() {
    told(Database::postgres());
}

#[test]
fn a_column_in_mariadb_is_rekeyed_under_live_writers_and_v9_retires() {
    told(Database::mariadb());
}

#[test]
fn a_column_in_galera_is_rekeyed_under_writers_on_another_node_and_v9_retires() {
    told(Database::galera());
}

fn told(database: Database) {
    let mut world = unlocked(&database);
    let old = pool(&world, "old");
    let plaintexts: Vec<String> = (1..=ROWS).map(|id| format!("first {id}")).collect();
    database.make_table(&world.encrypt_all(&plaintexts));
    let known: Known = (1..).zip(plaintexts).collect();
    assert_eq!(world.rotate(9), 10);
    let application = Application::start(database.connect(), known, old, pool(&world, "new"));

    let dry = world.post("/v1/rekey", json!({"dry_run": true})).expect(202);
    let dry = world.job_end(dry["id"].as_str().unwrap());
    assert_eq!(dry["state"], "completed", "{dry}");
    // A write takes the old value from one row at most; one may be done and not counted yet.
    let written = u64::from(application.writes.load(Ordering::Relaxed)) + 1;
    assert!(dry["sources"][0]["rekeyed"].as_u64().unwrap() + written >= ROWS.unsigned_abs(), "{written}: {dry}");

    let job = world.post("/v1/rekey", json!({})).expect(202);
    world.until("some rows are rekeyed while writers lag", || {
        let job = world.get("/v1/rekey");
        (job["sources"][0]["rekeyed"].as_u64().unwrap() > 1_000).then_some(())
    });
    application.catch_up(&world);
    let job = world.job_end(job["id"].as_str().unwrap());
    assert_eq!(job["state"], "completed", "{job}");
    let writes = application.writes.load(Ordering::Relaxed);
    let retired = world.retire(9);
    assert_eq!(retired["state"], "retired", "{retired}");
    application.until_it_writes(&world);
    let known = application.end();

    let checked = oracle::check_rows(&world, &[10], &database.rows(), facts(&known));
    assert_eq!(checked["versions"], json!([[10, known.len()]]));
    println!("{} rows opened by the oracle, all of v10; {writes} writes of the application", known.len());

    let certificates = world.get("/v1/certificates");
    let text = certificates.to_string();
    assert!(text.contains("tokens.token"), "{text}");
}
