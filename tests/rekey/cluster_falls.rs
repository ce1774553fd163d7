//! A Galera cluster that falls apart, or dies as a whole, in the midst of a job.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    application::{Known, facts},
    database::{Client, Database},
    faults::{all_of_v10, at_v10, census, conclusive_census, filled, of_v9, start_slowly, until_under_way},
    harness::{World, galera::Galera, oracle},
    unlocked,
};

const ROWS: i64 = 12_000;

/// Longer than a job that was shut out takes to its end; only a hang gets near it.
const LONG: Duration = Duration::from_secs(180);

fn cluster(database: &mut Database) -> &mut Galera {
    let Database::Galera(cluster) = database else { unreachable!() };
    cluster.as_mut().unwrap()
}

fn is_cut_off(status: &str) -> bool {
    status.contains("non-Primary")
}

/// Rows of a version, as a plain client counts them on a node.
fn plain_count(client: &mut Client, version: u32) -> u64 {
    client.number(&format!("SELECT COUNT(*) FROM tokens WHERE BINARY token LIKE 'km:v{version}:%'")).unsigned_abs()
}

fn rekeyed(world: &World) -> u64 {
    world.get("/v1/rekey")["sources"][0]["rekeyed"].as_u64().unwrap()
}

/// By way of a node that is cut off nothing is concluded, nothing retires and nothing is counted as written.
fn nothing_is_done_by(world: &World) {
    let counted = rekeyed(world);
    let source = census(world, || ());
    assert_eq!(source["conclusive"], false, "{source}");
    assert!(!source["why_not"].as_str().unwrap().is_empty(), "{source}");
    world.post("/v1/versions/9/retire", json!({})).expect(409);
    assert_eq!(rekeyed(world), counted, "a node that is cut off wrote");
    assert_eq!(world.state_of(9), "decrypt-only");
}

/// Old values that come while the worker can't see it.
fn write_old(client: &mut Client, known: &mut Known, values: &[(&str, String)], first: i64) {
    for ((text, value), id) in values.iter().zip(first..) {
        assert!(client.write(&format!("UPDATE tokens SET token = '{value}' WHERE id = {id}")));
        known.insert(id, (*text).to_owned());
    }
}

#[test]
fn fault_47_a_job_on_a_minority_writes_and_concludes_nothing_and_all_is_found_behind_it() {
    let mut database = Database::galera_apart();
    let (world, mut known, old) = with_old(&database);
    let id = start_slowly(&world);
    until_under_way(&world);
    // The worker's own node loses the others, who go on with the application.
    cluster(&mut database).isolate(0);
    cluster(&mut database).until(0, is_cut_off);
    nothing_is_done_by(&world);
    let mut majority = database.connect();
    assert!(plain_count(&mut majority, 10) >= rekeyed(&world), "what was counted is on the others");
    write_old(&mut majority, &mut known, &old, 1);
    cluster(&mut database).rejoin();
    until_over(&world, &id);
    all_of_v10(&world, &database, &id, &known);
    assert_eq!(world.state_of(9), "decrypt-only");
}

#[test]
fn fault_45_a_partition_and_a_kill_in_the_midst_of_a_job_lose_nothing_and_what_is_left_refuses() {
    let mut database = Database::galera_apart();
    let (world, mut known, old) = with_old(&database);
    let id = start_slowly(&world);
    until_under_way(&world);
    cluster(&mut database).isolate(0);
    cluster(&mut database).until(0, is_cut_off);
    let mut rest = database.connect();
    write_old(&mut rest, &mut known, &old, 1);
    // Of the two that were left one is killed, and the last is no majority either.
    cluster(&mut database).kill(2);
    cluster(&mut database).until(1, is_cut_off);
    drop(rest);
    for node in [0, 1] {
        let write = "UPDATE tokens SET token = NULL WHERE id = 1";
        assert!(cluster(&mut database).refuses(node, write), "a minority took a write");
    }
    nothing_is_done_by(&world);
    cluster(&mut database).bootstrap(1);
    cluster(&mut database).rejoin();
    until_over(&world, &id);
    all_of_v10(&world, &database, &id, &known);
    assert_eq!(of_v9(&conclusive_census(&world)), 0);
    assert_eq!(world.state_of(9), "decrypt-only");
}

/// A job that could reach nothing for a while looks again ever more rarely.
fn until_over(world: &World, id: &str) {
    let end = Instant::now() + LONG;
    loop {
        let job = world.get(&format!("/v1/rekey/{id}"));
        if job["state"] != "running" {
            return;
        }
        assert!(Instant::now() < end, "{job}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A world at v10 whose table is of v9, and more values of v9 that nobody has stored yet.
fn with_old(database: &Database) -> (World, Known, Vec<(&'static str, String)>) {
    let texts = ["late one", "late two", "late three"];
    let mut world = unlocked(database);
    let values = world.encrypt_all(&texts.map(str::to_owned));
    let known = filled(database, &mut world, ROWS);
    (world, known, texts.into_iter().zip(values).collect())
}

#[test]
fn fault_45_rows_that_fell_back_to_v9_when_all_nodes_died_are_counted_and_rekeyed_again() {
    // A log may reach its file early all the same.
    const ROUNDS: usize = 8;
    let mut database = Database::galera();
    let (world, known) = at_v10(&database, 600);
    let first = database.rows();
    let switch = world.data_dir().join("pause-rekey");
    for round in 1..=ROUNDS {
        // Logs reach their files once a second; then no more, so that a crash takes the job's writes however late it comes.
        thread::sleep(Duration::from_secs(2));
        for node in 0..3 {
            cluster(&mut database).sql(node, "SET GLOBAL innodb_flush_log_at_timeout = 600");
        }
        let job = world.post("/v1/rekey", json!({})).expect(202);
        let id = job["id"].as_str().unwrap();
        world.until("the whole table is written", || {
            let job = world.get(&format!("/v1/rekey/{id}"));
            (job["sources"][0]["rekeyed"] == 600).then_some(())
        });
        cluster(&mut database).kill_all();
        std::fs::write(&switch, "").unwrap();
        cluster(&mut database).recover();

        let lost = plain_count(&mut database.connect(), 9);
        assert_eq!(of_v9(&conclusive_census(&world)), lost);
        assert_eq!(world.state_of(9), "decrypt-only");
        std::fs::remove_file(&switch).unwrap();
        assert_eq!(world.job_end(id)["state"], "completed");
        if lost > 0 {
            println!("{lost} rows fell back in round {round}");
            // A job that had come to its end before does not begin anew by itself.
            assert_eq!(world.rekey()["state"], "completed");
            assert_eq!(of_v9(&conclusive_census(&world)), 0);
            let checked = oracle::check_rows(&world, &[9, 10], &database.rows(), facts(&known));
            assert_eq!(checked["versions"], json!([[10, known.len()]]));
            return;
        }
        assert!(round < ROUNDS, "no crash took anything back");
        let mut client = database.connect();
        client.run("DELETE FROM tokens");
        let rows = first.as_array().unwrap().iter();
        let rows: Vec<(i64, &str)> =
            rows.map(|row| (row[0].as_i64().unwrap(), row[1].as_str().unwrap())).collect();
        client.insert("tokens", &rows);
    }
}
