//! What a database does in the midst of a job.

use serde_json::{Value as Json, json};

use crate::{
    application::{Known, facts},
    database::{Client, Database},
    harness::{World, oracle},
    unlocked, unlocked_on,
};

const ROWS: i64 = 8_000;

/// A world at v10 whose table is of v9, and what is in it.
pub fn at_v10(database: &Database, rows: i64) -> (World, Known) {
    at_v10_on(database, &database.source(), rows)
}

/// The same with this declaration of the source.
pub fn at_v10_on(database: &Database, source: &str, rows: i64) -> (World, Known) {
    let mut world = unlocked_on(source);
    let known = filled(database, &mut world, rows);
    (world, known)
}

/// The same for a world at v9.
pub fn filled(database: &Database, world: &mut World, rows: i64) -> Known {
    let plaintexts: Vec<String> = (1..=rows).map(|id| format!("first {id}")).collect();
    database.make_table(&world.encrypt_all(&plaintexts));
    world.rotate(9);
    (1..).zip(plaintexts).collect()
}

pub fn start_slowly(world: &World) -> String {
    // A table lasts for a quarter of a minute: longer than this test or a server may stand still.
    start_at(world, 500)
}

/// Starts a job of so many rows a second.
pub fn start_at(world: &World, rows_per_second: u32) -> String {
    // A job that goes at full speed until its limit is set may be through the table by then.
    let switch = world.data_dir().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    let job = world.post("/v1/rekey", json!({})).expect(202);
    let id = job["id"].as_str().unwrap().to_owned();
    limit(world, &id, json!(rows_per_second));
    std::fs::remove_file(switch).unwrap();
    id
}

pub fn limit(world: &World, id: &str, max_rows_per_second: Json) {
    let limit = json!({"max_rows_per_second": max_rows_per_second});
    world.control("PATCH", &format!("/v1/rekey/{id}"), Some(crate::harness::OPERATOR), limit).expect(200);
}

pub fn until_under_way(world: &World) {
    world.until("the job is under way", || {
        let job = world.get("/v1/rekey");
        (job["sources"][0]["scanned"].as_u64().unwrap() > 500).then_some(())
    });
}

#[test]
fn fault_36_a_session_killed_in_the_midst_is_never_the_end_of_a_table_in_postgresql() {
    let database = Database::postgres();
    let (world, known) = at_v10(&database, ROWS);
    let id = start_slowly(&world);
    until_under_way(&world);
    let mut other = database.connect();
    for _ in 0..5 {
        other.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'keymoot%'");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn fault_36_a_session_killed_in_the_midst_is_never_the_end_of_a_table_in_mariadb() {
    let database = Database::mariadb();
    let (world, known) = at_v10(&database, ROWS);
    let id = start_slowly(&world);
    until_under_way(&world);
    let mut other = database.connect();
    for _ in 0..5 {
        let others = other.run("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()");
        for thread in others.lines() {
            other.run(&format!("KILL {thread}"));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn fault_36_a_postgresql_killed_in_the_midst_comes_back_and_nothing_is_lost() {
    killed_and_back(Database::postgres());
}

#[test]
fn fault_36_a_mariadb_killed_in_the_midst_comes_back_and_nothing_is_lost() {
    killed_and_back(Database::mariadb());
}

#[test]
fn fault_45_a_galera_node_killed_in_the_midst_comes_back_and_nothing_is_lost() {
    killed_and_back(Database::galera());
}

fn killed_and_back(mut database: Database) {
    let (world, known) = at_v10(&database, ROWS);
    let id = start_slowly(&world);
    until_under_way(&world);
    database.restart();
    all_of_v10(&world, &database, &id, &known);
}

#[track_caller]
pub fn all_of_v10(world: &World, database: &Database, id: &str, known: &Known) {
    let job = world.job_end(id);
    assert_eq!(job["state"], "completed", "{job}");
    let checked = oracle::check_rows(world, &[9, 10], &database.rows(), facts(known));
    assert_eq!(checked["versions"], json!([[10, known.len()]]));
}

/// Takes a census, does something meanwhile, and shows its only source.
pub(crate) fn census(world: &World, meanwhile: impl FnOnce()) -> Json {
    let before = world.get("/v1/census")["sources"][0]["taken_at"].clone();
    world.post("/v1/census", json!({})).expect(202);
    meanwhile();
    world.until("a census is taken", || {
        let answer = world.get("/v1/census");
        // While one is running no other begins.
        if answer["running"] == true {
            return None;
        }
        let source = answer["sources"][0].clone();
        (source["taken_at"].is_string() && source["taken_at"] != before).then_some(source)
    })
}

/// The first that concludes: a server that is slow, or was away a moment ago, leaves a census in doubt.
pub(crate) fn conclusive_census(world: &World) -> Json {
    world.until("a census is conclusive", || {
        let source = census(world, || ());
        (source["conclusive"] == true).then_some(source)
    })
}

pub(crate) fn of_v9(source: &Json) -> u64 {
    let versions = source["versions"].as_array().unwrap();
    versions.iter().find(|entry| entry["version"] == 9).map_or(0, |entry| entry["count"].as_u64().unwrap())
}

/// A value of v9 in a transaction that is open while the census is taken: it is found, or the census says that it does
/// not know.
fn hidden(database: &Database, begin: &str, prepare: &str, commit: &str) {
    let mut world = unlocked(database);
    let values = world.encrypt_all(&["one".into(), "hidden".into()]);
    database.make_table(&values[..1]);
    world.rotate(9);
    assert_eq!(world.rekey()["state"], "completed");
    assert_eq!(of_v9(&conclusive_census(&world)), 0);

    let mut open: Client = database.connect();
    open.run(begin);
    open.run(&format!("INSERT INTO tokens (id, token) VALUES (77, '{}')", values[1]));
    open.run(prepare);
    let source = census(&world, || ());
    assert_eq!(source["conclusive"], false, "{source}");
    assert!(!source["why_not"].as_str().unwrap().is_empty(), "{source}");
    open.run(commit);
    world.until("the value that was hidden is counted", || {
        let source = census(&world, || ());
        (source["conclusive"] == true).then(|| assert_eq!(of_v9(&source), 1, "{source}"))
    });
}

#[test]
fn fault_38_an_open_transaction_of_postgresql_leaves_the_census_inconclusive() {
    hidden(&Database::postgres(), "BEGIN", "SELECT 1", "COMMIT");
}

#[test]
fn fault_38_a_prepared_transaction_of_postgresql_leaves_the_census_inconclusive() {
    hidden(&Database::prepared_postgres(), "BEGIN", "PREPARE TRANSACTION 'hidden'", "COMMIT PREPARED 'hidden'");
}

#[test]
fn fault_38_an_open_transaction_of_mariadb_leaves_the_census_inconclusive() {
    hidden(&Database::mariadb(), "BEGIN", "SELECT 1", "COMMIT");
}

#[test]
fn fault_38_an_xa_transaction_of_mariadb_leaves_the_census_inconclusive() {
    hidden(
        &Database::mariadb(),
        "XA START 'hidden'",
        "XA END 'hidden'; XA PREPARE 'hidden'",
        "XA COMMIT 'hidden'",
    );
}
