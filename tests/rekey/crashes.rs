//! Fault 35 of `docs/track-record.md`: `kill -9` at enumerated crash points of the worker, with the application writing all the
//! while, on every database that can be a source.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
    sync::atomic::Ordering,
};

use serde_json::{Value as Json, json};

use crate::{
    application::{Application, Known, facts, pool},
    database::Database,
    harness::{World, oracle},
    trap::{Trap, is_dead, last_that_ended},
    unlock, unlocked,
};

const ROWS: i64 = 4_000;
const KILLS_MIN: usize = 25;

/// Rows that are no readable value, by id, with what the quarantine is to say of them.
fn odd_rows(good: &str) -> Vec<(i64, Option<String>, Option<&'static str>)> {
    let mut damaged = good.to_owned().into_bytes();
    let last = damaged.len() - 10;
    damaged[last] = if damaged[last] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    let text = |text: &str| Some(text.to_owned());
    vec![
        (1, None, None),
        (700, text(""), None),
        (701, text("plain text, never encrypted"), None),
        (1400, text("see km:v9: in the middle"), None),
        (1401, text(&good.replace("km:v9:", "km:v77:")), Some("unknown_key_version")),
        (2100, text(&damaged), Some("authentication_failed")),
        (2101, text("km:v9:short"), Some("malformed_ciphertext")),
        (2800, text(&good.replace("km:v9:", "km:v09:")), Some("malformed_ciphertext")),
        (2801, text("km:v9:_____w"), Some("unsupported_format")),
        (ROWS, text(&damaged), Some("authentication_failed")),
    ]
}

/// Whether a job runs; nothing of a daemon that is gone.
fn running(world: &World) -> Option<bool> {
    Some(world.try_get("/v1/rekey")?["state"] == "running")
}

/// Whether the newest job is still in its first pass, where there is much to write.
fn busy(world: &World) -> Option<bool> {
    let job = world.try_get("/v1/rekey")?;
    let rows = |name: &str| job["sources"][0][name].as_u64().unwrap();
    Some(job["state"] == "running" && (rows("scanned") == 0 || rows("scanned") < rows("total")))
}

/// Large and small numbers in turn: a job that ends its node again and again at once would wait for a person.
fn points(calls: &[(&'static str, &[usize])]) -> Vec<(&'static str, usize)> {
    calls.iter().flat_map(|(call, numbers)| numbers.iter().map(|nth| (*call, *nth))).collect()
}

#[test]
fn fault_35_a_worker_killed_anywhere_loses_nothing_in_sqlite() {
    let pwrites = [60, 1, 90, 2, 120, 4, 25, 7, 40, 11, 17, 75, 33, 5, 150, 21, 13, 3, 52];
    killed_anywhere(
        Database::sqlite(),
        &points(&[("pwrite64", &pwrites), ("fsync", &[3, 1, 4, 2, 5, 1, 3, 2, 4, 6, 2])]),
    );
}

/// What is sent to a server and what is written to the node's own store.
fn of_a_server() -> Vec<(&'static str, usize)> {
    let sends = [9, 1, 14, 2, 20, 3, 11, 4, 17, 5, 12, 6, 22, 7, 10, 8, 25, 13, 16, 19];
    let pwrites = [6, 1, 11, 2, 16, 3, 8, 4, 13, 5];
    points(&[
        ("sendto", &sends),
        ("pwrite64", &pwrites),
        ("fsync", &[2, 1, 3, 1, 2]),
        ("recvfrom", &[7, 2, 12, 4, 18, 9, 1]),
    ])
}

#[test]
fn fault_35_a_worker_killed_anywhere_loses_nothing_in_postgresql() {
    killed_anywhere(Database::postgres(), &of_a_server());
}

#[test]
fn fault_35_a_worker_killed_anywhere_loses_nothing_in_mariadb() {
    killed_anywhere(Database::mariadb(), &of_a_server());
}

#[test]
fn fault_35_a_worker_killed_anywhere_loses_nothing_in_galera() {
    killed_anywhere(Database::galera(), &of_a_server());
}

fn killed_anywhere(database: Database, points: &[(&'static str, usize)]) {
    let mut world = unlocked(&database);
    let old = pool(&world, "old");
    let plaintexts: Vec<String> = (1..=ROWS).map(|id| format!("first {id}")).collect();
    database.make_table(&world.encrypt_all(&plaintexts));
    let mut known: Known = (1..).zip(plaintexts).collect();
    let odd = odd_rows(&old[0].1);
    let mut table = database.connect();
    for (id, stored, _) in &odd {
        let stored = stored.as_ref().map_or("NULL".to_owned(), |text| format!("'{text}'"));
        assert!(table.write(&format!("UPDATE tokens SET token = {stored} WHERE id = {id}")));
        known.remove(id);
    }
    let mut versions = vec![9, world.rotate(9)];
    let new = pool(&world, "new");
    let application = Application::start(database.connect(), known, old, new);
    world.post("/v1/rekey", json!({})).expect(202);
    world.kill();

    let mut killed: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut kills = 0;
    for &(call, nth) in points {
        let last = *versions.last().unwrap();
        world.start();
        if !wake(&world, &versions) {
            // The job has been through all rows before it was hit: there is another version, and another job.
            if running(&world) == Some(true) {
                let id = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
                world.post(&format!("/v1/rekey/{id}/cancel"), Json::Null).expect(200);
            }
            versions.push(world.rotate(last));
            // Held back, so that it is not through the table before it is killed.
            std::fs::write(world.data_dir().join("pause-rekey"), "").unwrap();
            world.post("/v1/rekey", json!({})).expect(202);
            world.kill();
            world.start();
            assert!(wake(&world, &versions), "a job goes on by itself after a restart");
        }
        let trap = Trap::set(&world, call, nth);
        // It may die before it answers.
        std::fs::remove_file(world.data_dir().join("pause-rekey")).unwrap();
        match until_killed_or_done(&world) {
            true => {
                let line = trap.last_call(&world);
                let status = world.until_ended();
                assert_eq!(status.signal(), Some(9), "it died by the injected signal");
                assert!(line.contains(call), "{call} {nth}: {line}");
                killed.entry(call).or_default().insert(nth);
                kills += 1;
            }
            false => {
                drop(trap);
                world.kill();
            }
        }
    }
    println!("{kills} kills at these calls of a thread: {killed:?}; versions {versions:?}");
    assert!(kills >= KILLS_MIN, "only {kills} kills: {killed:?}");

    // The lagging writer is switched at last; the job then comes to its end while the application goes on.
    world.start();
    unlock(&world, &versions);
    application.catch_up(&world);
    let primary = *versions.last().unwrap();
    let target = versions[1];
    if primary != target {
        // The application's pool is of the second version: make that the primary again and settle there.
        world.post(&format!("/v1/versions/{target}/activate"), json!({})).expect(200);
    }
    if running(&world) != Some(true) {
        world.post("/v1/rekey", json!({})).expect(202);
    }
    let before = application.writes.load(Ordering::Relaxed);
    let id = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
    let job = world.job_end(&id);
    application.until_it_writes(&world);
    let known = application.end();
    assert_eq!(job["state"], "completed_with_quarantine", "{job}");

    // Reported: exactly the rows that can't be read, each with its reason.
    let quarantine = world.get(&format!("/v1/rekey/{id}/quarantine"));
    let listed: BTreeSet<(i64, String)> = quarantine["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_i64().unwrap(), row["reason"].as_str().unwrap().to_owned()))
        .collect();
    let expected: BTreeSet<(i64, String)> =
        odd.iter().filter_map(|(id, _, reason)| reason.map(|reason| (*id, reason.to_owned()))).collect();
    assert_eq!(listed, expected);
    let source = &job["sources"][0];
    assert_eq!(
        (&source["null"], &source["empty"], &source["foreign"]),
        (&json!(1), &json!(1), &json!(2)),
        "{source}"
    );

    // Every row opens to what the application last acknowledged; odd rows are as they were; none is missing or doubled.
    let mut expected = facts(&known);
    expected.extend(odd.iter().map(|(id, stored, _)| json!([id, {"as_is": stored}])));
    let checked = oracle::check_rows(&world, &versions, &database.rows(), expected);
    assert_eq!(checked["versions"], json!([[target, known.len()]]));
    println!("{} rows opened by the oracle, all of v{target}; {before} writes of the application", known.len());

    // What can't be read blocks the retirement until it was dealt with; then v9 goes, and can come back.
    world.until("everything that can't be read is listed", || {
        let refused = world.post("/v1/versions/9/retire", json!({})).expect(409);
        let lacks = refused["missing"].as_array().unwrap();
        // The last: a value inside other text.
        let wanted = ["unreadable_left", "quarantine_left", "census_inconclusive"];
        wanted.iter().all(|code| lacks.iter().any(|lack| lack["code"] == *code)).then_some(())
    });
    for (id, _, reason) in &odd {
        if reason.is_some() || *id == 1400 {
            assert!(table.write(&format!("DELETE FROM tokens WHERE id = {id}")));
        }
    }
    world.post(&format!("/v1/rekey/{id}/quarantine/retry"), Json::Null).expect(200);
    assert_eq!(world.job_end(&id)["state"], "completed");
    assert_eq!(world.retire(9)["state"], "retired");
    let rows = database.rows();
    let text =
        rows.as_array().unwrap().iter().find(|row| row[0] == *known.keys().next().unwrap()).unwrap()[1].clone();
    world.open(text.as_str().unwrap());
    world.post("/v1/versions/9/restore", json!({})).expect(200);
    unlock(&world, &[9]);
    assert_eq!(world.state_of(9), "decrypt-only");
}

/// Unlocks with the kill switch of jobs in place, so that nothing is done before the trap is set. Says whether a
/// job goes on by itself.
fn wake(world: &World, versions: &[u32]) -> bool {
    let switch = world.data_dir().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    unlock(world, versions);
    let alive = busy(world).unwrap();
    if !alive {
        std::fs::remove_file(&switch).unwrap();
    }
    alive
}

fn until_killed_or_done(world: &World) -> bool {
    world.until("the daemon is killed, or little is left to write", || {
        if is_dead(world.pid()) {
            return Some(true);
        }
        (busy(world) == Some(false)).then(|| is_dead(world.pid()))
    })
}

#[test]
fn a_thread_that_died_between_two_calls_is_not_taken_for_the_one_that_was_hit() {
    let lines = [
        "5288 recvfrom(21, \"\", 8192, 0, NULL, NULL) = 5",
        "5289 recvfrom(22,  <unfinished ...>",
        "5289 <... recvfrom resumed>)            = ?",
        "5290 <... ??? resumed>)                 = ?",
        "5290 +++ killed by SIGKILL +++",
    ];
    assert_eq!(last_that_ended(lines.map(str::to_owned).into_iter()), lines[2]);
}
