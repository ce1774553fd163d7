//! Others are busy on a source's server: the job steps aside with the reason and the number, and comes back.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::{
    database::{Client, Database},
    faults::{all_of_v10, at_v10, at_v10_on, limit, start_at, until_under_way},
    harness::World,
    primaries::until_throttled,
};

const ROWS: i64 = 20_000;
const DECRYPTIONS: usize = 500;
/// Held for long enough that others wait for it at every look.
const LOCK: &str = "BEGIN; UPDATE busy SET n = n + 1 WHERE id = 1; SELECT pg_sleep(0.2); END;";
/// One statement for all the time: between short ones a client that gets no processor is idle.
const WORK: &str = "SELECT pg_sleep(300);";

#[test]
fn fault_43_lock_waits_and_busy_clients_on_postgresql_hold_the_job_back_until_they_end() {
    let database = Database::postgres();
    let (world, known) = at_v10(&database, ROWS);
    let Database::Postgres(server) = &database else { unreachable!() };
    server.sql("CREATE TABLE busy (id INT PRIMARY KEY, n INT); INSERT INTO busy VALUES (1, 0)");
    let id = under_way(&world, "PostgreSQL");
    for (clients, script, reason) in [(12, LOCK, "lock waits > 5"), (40, WORK, "active statements > 25")] {
        let load = server.bench(clients, script);
        stands_still(&world, reason);
        drop(load);
        // The server does not look whether a client that it works for is still there.
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'");
        goes_on(&world);
    }
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

#[test]
fn fault_43_lock_waits_and_busy_clients_on_mariadb_hold_the_job_back_until_they_end() {
    let database = Database::mariadb();
    let mut application = database.connect();
    // Statements of the worker's own account are not those of others.
    application.run("CREATE USER worker IDENTIFIED BY 'not-for-print'");
    application.run("GRANT ALL ON *.* TO worker");
    application.run("CREATE TABLE busy (id INT PRIMARY KEY, n INT)");
    application.run("INSERT INTO busy VALUES (1, 0)");
    let source = database.source().replace("keymoot:", "worker:");
    let (world, known) = at_v10_on(&database, &source, ROWS);
    let id = under_way(&world, "MariaDB");

    application.run("BEGIN");
    application.run("UPDATE busy SET n = 1 WHERE id = 1");
    let waiting = clients(&database, 10, "UPDATE busy SET n = n + 1 WHERE id = 1");
    stands_still(&world, "lock waits > 5");
    application.run("COMMIT");
    drop(waiting);
    goes_on(&world);

    let busy = clients(&database, 35, "SELECT SLEEP(300)");
    stands_still(&world, "active statements > 25");
    drop(busy);
    let asleep = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
    for thread in application.run(asleep).lines() {
        application.run(&format!("KILL {thread}"));
    }
    goes_on(&world);
    limit(&world, &id, Json::Null);
    all_of_v10(&world, &database, &id, &known);
}

/// So many of the application's connections, each with these statements to do.
fn clients(database: &Database, count: usize, statements: &str) -> Vec<Client> {
    let client = |_| {
        let mut client = database.connect();
        let Client::Session { connection, .. } = &mut client else { unreachable!() };
        connection.send(statements);
        client
    };
    (0..count).map(client).collect()
}

/// Starts a job, and prints what its services notice of it.
fn under_way(world: &World, server: &str) -> String {
    let value = world.encrypt(b"of a service");
    let quiet = p99(world, &value);
    // So slow that it is still in its first pass when the last load comes, on a busy machine too.
    let id = start_at(world, 400);
    until_under_way(world);
    let beside = p99(world, &value);
    println!("{server}: p99 of {DECRYPTIONS} decryptions {quiet:?}, beside the rekey {beside:?}");
    id
}

/// What 99 of 100 decryptions take at most, asked one after the other.
fn p99(world: &World, value: &str) -> Duration {
    let mut took: Vec<Duration> = (0..DECRYPTIONS)
        .map(|_| {
            let asked = Instant::now();
            world.open(value);
            asked.elapsed()
        })
        .collect();
    took.sort();
    took[DECRYPTIONS * 99 / 100]
}

fn scanned(world: &World) -> u64 {
    world.get("/v1/rekey")["sources"][0]["scanned"].as_u64().unwrap()
}

/// Waits until the job waits for this reason, and looks whether it does.
#[track_caller]
fn stands_still(world: &World, reason: &str) {
    let seen = until_throttled(world, reason);
    let number = seen.last().unwrap().split(' ').next().unwrap();
    assert!(number.parse::<u32>().is_ok(), "{seen:?}");
    // What was under way comes to its end first; at its speed a job that goes on is seen to within a second.
    world.until("it stands still above the limit", || {
        let before = scanned(world);
        sleep(Duration::from_secs(2));
        (scanned(world) == before).then_some(())
    });
    assert_eq!(world.get("/v1/rekey")["state"], "running", "it worked above the limit");
}

#[track_caller]
fn goes_on(world: &World) {
    let before = scanned(world);
    world.until("the job goes on", || {
        let job = world.get("/v1/rekey");
        (job["throttled"].is_null() && scanned(world) > before).then_some(())
    });
}
