//! Fault 35 of `docs/track-record.md`: `kill -9` at enumerated crash points of the worker, with the application writing all the
//! while.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, params, types::Value as Sql};
use serde_json::{Value as Json, json};

use crate::{
    harness::{PATIENCE, SOURCE, World, make_table},
    oracle,
    trap::{Trap, is_dead},
};

const ROWS: i64 = 6_000;
/// Values that the application has ready, as one has that encrypted before the daemon went away.
const POOL: usize = 6_000;
const KILLS_MIN: usize = 25;

/// Rows that are no readable value, by id, with what the quarantine is to say of them.
fn odd_rows(good: &str) -> Vec<(i64, Sql, Option<&'static str>)> {
    let mut damaged = good.to_owned().into_bytes();
    let last = damaged.len() - 10;
    damaged[last] = if damaged[last] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    let text = |text: &str| Sql::Text(text.into());
    vec![
        (1, Sql::Null, None),
        (700, text(""), None),
        (701, text("plain text, never encrypted"), None),
        (702, Sql::Blob(vec![0xff, 0, 1]), None),
        (1400, text("see km:v9: in the middle"), None),
        (1401, text(&good.replace("km:v9:", "km:v77:")), Some("unknown_key_version")),
        (2100, text(&damaged), Some("authentication_failed")),
        (2101, text("km:v9:short"), Some("malformed_ciphertext")),
        (2800, text(&good.replace("km:v9:", "km:v09:")), Some("malformed_ciphertext")),
        (2801, text("km:v9:_____w"), Some("unsupported_format")),
        (ROWS, text(&damaged), Some("authentication_failed")),
    ]
}

/// What the application has acknowledged: the plaintext of every row that it knows.
type Known = BTreeMap<i64, String>;

/// The application: it writes by its own compare-and-swap and remembers what was committed.
struct Application {
    stop: Arc<AtomicBool>,
    /// Whether values of v9 are still written by a writer that lags behind.
    lagging: Arc<AtomicBool>,
    writes: Arc<AtomicU32>,
    thread: JoinHandle<Known>,
}

impl Application {
    fn start(path: &Path, mut known: Known, old: Vec<(String, String)>, new: Vec<(String, String)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lagging = Arc::new(AtomicBool::new(true));
        let writes = Arc::new(AtomicU32::new(0));
        let (path, stop_in, lagging_in, writes_in) =
            (path.to_owned(), stop.clone(), lagging.clone(), writes.clone());
        let thread = std::thread::spawn(move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(PATIENCE).unwrap();
            let (mut old, mut new) = (old.into_iter().cycle(), new.into_iter().cycle());
            let mut next_id = 1_000_000;
            let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
            while !stop_in.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let dice = random >> 33;
                let lags = dice.is_multiple_of(8) && lagging_in.load(Ordering::Relaxed);
                let (plaintext, value) = if lags { old.next() } else { new.next() }.unwrap();
                let ids: Vec<i64> = known.keys().copied().collect();
                let id = ids[usize::try_from(dice).unwrap() / 16 % ids.len()];
                match dice % 16 {
                    1 => {
                        connection.execute("INSERT INTO tokens VALUES (?1, ?2)", params![next_id, value]).unwrap();
                        known.insert(next_id, plaintext);
                        next_id += 1;
                    }
                    2 => {
                        connection.execute("DELETE FROM tokens WHERE id = ?1", [id]).unwrap();
                        known.remove(&id);
                    }
                    _ => {
                        let read: Option<Sql> = connection
                            .query_row("SELECT token FROM tokens WHERE id = ?1", [id], |row| row.get(0))
                            .optional()
                            .unwrap();
                        let read = read.expect("a row that nobody deleted is gone");
                        let sql = "UPDATE tokens SET token = ?1 WHERE id = ?2 AND token = ?3";
                        // Where the worker was faster, this write is lost, and said to be.
                        if connection.execute(sql, params![value, id, read]).unwrap() == 1 {
                            known.insert(id, plaintext);
                        }
                    }
                }
                writes_in.fetch_add(1, Ordering::Relaxed);
                // A steady writer, not one that owns the file.
                std::thread::sleep(Duration::from_millis(2));
            }
            known
        });
        Self { stop, lagging, writes, thread }
    }

    fn end(self) -> Known {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn unlock_all(world: &World, versions: &[u32]) {
    for version in versions {
        world.unlock(&[(*version, 1)]).expect(200);
        world.unlock(&[(*version, 2)]).expect(200);
    }
}

fn pool(world: &World, name: &str) -> Vec<(String, String)> {
    let plaintexts: Vec<String> = (0..POOL).map(|n| format!("{name} {n}")).collect();
    let values = world.encrypt_all(&plaintexts);
    plaintexts.into_iter().zip(values).collect()
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

#[test]
fn fault_35_a_worker_killed_anywhere_loses_nothing_while_the_application_writes() {
    let mut world = World::new(SOURCE);
    world.start();
    world.init(5, 9);
    unlock_all(&world, &[9]);
    let old = pool(&world, "old");
    let plaintexts: Vec<String> = (1..=ROWS).map(|id| format!("first {id}")).collect();
    let table = make_table(&world.path("app.db"), &world.encrypt_all(&plaintexts));
    let mut known: Known = (1..).zip(plaintexts).collect();
    let odd = odd_rows(&old[0].1);
    for (id, stored, _) in &odd {
        table.execute("UPDATE tokens SET token = ?1 WHERE id = ?2", params![stored, id]).unwrap();
        known.remove(id);
    }
    let mut versions = vec![9, world.rotate(9)];
    let new = pool(&world, "new");
    let application = Application::start(&world.path("app.db"), known, old, new);
    world.post("/v1/rekey", json!({})).expect(202);
    world.kill();

    // Large and small numbers in turn: a job that ends its node again and again at once would wait for a person.
    let pwrites = [60, 1, 90, 2, 120, 4, 25, 7, 40, 11, 17, 75, 33, 5, 150, 21, 13, 3, 52];
    let syncs = [3, 1, 4, 2, 5, 1, 3, 2, 4, 6, 2];
    let points: Vec<(&str, usize)> =
        pwrites.map(|nth| ("pwrite64", nth)).into_iter().chain(syncs.map(|nth| ("fsync", nth))).collect();
    let mut killed: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut kills = 0;
    for (call, nth) in points {
        let last = *versions.last().unwrap();
        world.start();
        if !wake(&world, &versions) {
            // The job has been through all rows before it was hit: there is another version, and another job.
            if running(&world) == Some(true) {
                let id = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
                world.post(&format!("/v1/rekey/{id}/cancel"), Json::Null).expect(200);
            }
            versions.push(world.rotate(last));
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
    unlock_all(&world, &versions);
    application.lagging.store(false, Ordering::Relaxed);
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
    assert!(application.writes.load(Ordering::Relaxed) > before, "the application wrote all the while");
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
        (&json!(1), &json!(1), &json!(3)),
        "{source}"
    );

    // Every row opens to what the application last acknowledged; odd rows are as they were; none is missing or doubled.
    let mut facts: Vec<Json> = known.iter().map(|(id, text)| json!([id, {"plaintext": text}])).collect();
    for (id, stored, _) in &odd {
        facts.push(match stored {
            Sql::Null => json!([id, {"as_is": null}]),
            Sql::Text(text) => json!([id, {"as_is": text}]),
            Sql::Blob(bytes) => json!([id, {"as_is": hex::encode(bytes), "blob": true}]),
            _ => unreachable!(),
        });
    }
    let checked = oracle::check_table(&world, &versions, facts);
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
            table.execute("DELETE FROM tokens WHERE id = ?1", [id]).unwrap();
        }
    }
    world.post(&format!("/v1/rekey/{id}/quarantine/retry"), Json::Null).expect(200);
    assert_eq!(world.job_end(&id)["state"], "completed");
    assert_eq!(world.retire(9)["state"], "retired");
    let text: String = table
        .query_row("SELECT token FROM tokens WHERE id = ?1", [known.keys().next()], |row| row.get(0))
        .unwrap();
    world.open(&text);
    world.post("/v1/versions/9/restore", json!({})).expect(200);
    unlock_all(&world, &[9]);
    assert_eq!(world.state_of(9), "decrypt-only");
}

/// Unlocks with the kill switch of jobs in place, so that nothing is done before the trap is set. Says whether a
/// job goes on by itself.
fn wake(world: &World, versions: &[u32]) -> bool {
    let switch = world.data_dir().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    unlock_all(world, versions);
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
