//! A source's server that is no primary, or is none any more, and one whose replicas fall behind.

use std::{cell::RefCell, thread::sleep, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    database::Database,
    faults::{all_of_v10, at_v10, at_v10_on, limit, start_at, until_under_way},
    harness::{World, databases::MariaDb, servers::Postgres},
    unlocked, unlocked_on,
};

const ROWS: i64 = 8_000;
/// So slow that the table lasts for longer than anything that happens to its server.
const ROWS_PER_SECOND: u32 = 200;

/// Waits until the job waits for this reason, and tells all reasons that were seen before.
#[track_caller]
pub fn until_throttled(world: &World, reason: &str) -> Vec<String> {
    let seen = RefCell::new(Vec::new());
    world.until(&format!("it waits as {reason:?}"), || {
        let job = world.get("/v1/rekey");
        assert_eq!(job["state"], "running", "{job}");
        let throttled = job["throttled"].as_str()?.to_owned();
        let found = throttled.contains(reason);
        seen.borrow_mut().push(throttled);
        found.then_some(())
    });
    seen.into_inner()
}

fn postgres(database: &mut Database) -> &mut Postgres {
    match database {
        Database::Postgres(server) => server,
        _ => unreachable!(),
    }
}

#[test]
fn a_source_on_a_standby_or_a_replica_is_refused_and_told_to_name_the_primary() {
    let primary = Postgres::start();
    primary.sql("CREATE TABLE tokens (id BIGINT PRIMARY KEY, token TEXT)");
    let standby = Database::Postgres(primary.standby());
    let replica = Database::MariaDb(MariaDb::start_with(&["--read-only=1"]));
    replica.make_table(&[]);
    for database in [standby, replica] {
        let world = unlocked(&database);
        let refused = world.post("/v1/rekey", json!({})).expect(409);
        assert_eq!(refused["missing"][0]["code"], "source_blocked", "{refused}");
        assert!(refused.to_string().contains("name the primary in the source's url"), "{refused}");
        let plan = world.post("/v1/rekey/plan", json!({})).expect(200);
        assert!(plan.to_string().contains("name the primary in the source's url"), "{plan}");
    }
}

#[test]
fn a_postgresql_that_is_demoted_in_mid_job_is_waited_for_and_nothing_is_lost() {
    let mut database = Database::postgres();
    let (world, known) = at_v10(&database, ROWS);
    let id = start_at(&world, ROWS_PER_SECOND);
    until_under_way(&world);
    postgres(&mut database).demote();
    until_throttled(&world, "name the primary");
    stands_still(&world, &database);
    postgres(&mut database).sql("SELECT pg_promote()");
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn a_mariadb_that_is_demoted_in_mid_job_is_waited_for_and_nothing_is_lost() {
    let database = Database::mariadb();
    let (world, known) = at_v10(&database, ROWS);
    let id = start_at(&world, ROWS_PER_SECOND);
    until_under_way(&world);
    // The worker's account may write there all the same.
    database.connect().run("SET GLOBAL read_only = 1");
    until_throttled(&world, "name the primary");
    stands_still(&world, &database);
    database.connect().run("SET GLOBAL read_only = 0");
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

#[track_caller]
fn stands_still(world: &World, database: &Database) {
    // A batch that was under way comes to its end first; each second would have another one.
    world.until("nothing more is written", || {
        let rows = database.rows();
        sleep(Duration::from_secs(2));
        (database.rows() == rows).then_some(())
    });
    assert_eq!(world.get("/v1/rekey")["state"], "running");
}

#[test]
fn fault_43_a_standby_that_falls_behind_holds_the_job_back_and_above_the_hard_limit_it_hibernates() {
    let database = Database::postgres();
    let Database::Postgres(server) = &database else { unreachable!() };
    let standby = server.standby();
    // The limits lie so far apart that a pause of the test or of the node does not step over the first.
    let (world, known) = at_v10_on(&database, &format!("[rekey]\nhard_factor = 20\n{}", database.source()), ROWS);
    let id = start_at(&world, ROWS_PER_SECOND);
    until_under_way(&world);
    standby.signal_processes("startup", "-STOP");
    let seen = until_throttled(&world, " s > 1.5 s");
    let reason = seen.last().unwrap();
    assert!(reason.starts_with("replica lag ") && reason.ends_with(" s > 1.5 s"), "{seen:?}");
    until_throttled(&world, " s > 30 s, the hard limit");
    standby.signal_processes("startup", "-CONT");
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn fault_43_a_replica_of_mariadb_that_falls_behind_holds_the_job_back_until_it_caught_up() {
    let primary = MariaDb::primary();
    let replica = primary.replica();
    let database = Database::MariaDb(primary);
    let source = database.source().replace("/app\"", &format!("/app?replica={}\"", replica.address()));
    let (world, known) = at_v10_on(&database, &format!("[rekey]\nhard_factor = 1000\n{source}"), ROWS);
    let id = start_at(&world, ROWS_PER_SECOND);
    until_under_way(&world);
    replica.sql("STOP SLAVE SQL_THREAD");
    until_throttled(&world, "s > 1.5 s");
    stands_still(&world, &database);
    replica.sql("START SLAVE SQL_THREAD");
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn a_source_whose_server_can_not_be_verified_is_waited_for_and_its_reason_says_what_to_do() {
    let database = Database::postgres();
    let source = database.source().replace("/postgres\"", "/postgres?sslmode=verify-full\"");
    let world = unlocked_on(&source);
    world.post("/v1/rekey", json!({})).expect(202);
    until_throttled(&world, "it speaks no TLS; give it a certificate and switch TLS on");
}
