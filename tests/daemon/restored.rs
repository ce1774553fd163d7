//! A table of users that is put back from a backup, under the running daemon.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value as Json, json};

use crate::harness::{SOURCE, World, make_table};

const TEXTS: u32 = 2_000;

/// v9 is primary, the table holds values of it, and a backup of the table is beside it.
fn with_backup(retire: &str) -> (World, Connection) {
    let mut world = World::new(&format!("{retire}{SOURCE}"));
    world.start();
    world.init(5, 9);
    crate::unlock(&world, &[9]);
    let texts: Vec<_> = (0..TEXTS).map(|n| format!("token {n}")).collect();
    let table = make_table(&world.path("app.db"), &world.encrypt_all(&texts));
    table.execute_batch("CREATE TABLE backup AS SELECT * FROM tokens").unwrap();
    world.rotate(9);
    assert_eq!(world.rekey()["state"], "completed");
    (world, table)
}

fn put_back(table: &Connection) {
    table.execute_batch("BEGIN; DELETE FROM tokens; INSERT INTO tokens SELECT * FROM backup; COMMIT").unwrap();
}

/// Within a minute.
#[track_caller]
fn until_noticed(world: &World) {
    let began = Instant::now();
    world.until("the old values are noticed", || {
        let needs = world.get("/v1/status")["needs"].to_string();
        needs.contains("values of v9 are there again in tokens.token (restored from a backup?)").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(60), "noticed after {:?}", began.elapsed());
    // The log is written to the file by another thread.
    let words = "was this source restored";
    let log = world.until("it is logged", || Some(world.log()).filter(|log| log.contains(words)));
    let said: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
    assert!(said.len() == 1 && said[0].contains("\"source\":\"tokens.token\""), "{said:?}");
    let for_anyone = world.control("GET", "/v1/status", None, Json::Null).expect(200)["needs"].to_string();
    assert!(
        for_anyone.contains("there again in 1 sources") && !for_anyone.contains("tokens.token"),
        "{for_anyone}"
    );
}

fn old_values(table: &Connection) -> u32 {
    table.query_row("SELECT COUNT(*) FROM tokens WHERE token NOT LIKE 'km:v10:%'", [], |row| row.get(0)).unwrap()
}

#[test]
fn fault_34_a_restored_table_is_noticed_within_a_minute_of_a_hold_that_lasts_for_months() {
    let (mut world, table) = with_backup("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"90d\"\n");
    world.retire(9);
    put_back(&table);
    until_noticed(&world);
    // What was found outlives a restart.
    world.kill();
    world.start();
    crate::unlock(&world, &[10]);
    world.until("it is known again", || {
        world.get("/v1/status")["needs"].to_string().contains("`keymoot rotate restore v9`").then_some(())
    });
    world.post("/v1/versions/9/restore", json!({})).expect(200);
    crate::unlock(&world, &[9]);
    let value: String = table.query_row("SELECT token FROM tokens WHERE id = 1", [], |row| row.get(0)).unwrap();
    assert_eq!(world.open(&value), b"token 0");
    assert_eq!((world.rekey()["state"].as_str(), old_values(&table)), (Some("completed"), 0));
    world.retire(9);
    let needs = world.get("/v1/status")["needs"].to_string();
    assert!(!needs.contains("there again"), "{needs}");
}

#[test]
fn fault_34_a_restored_table_shuts_the_gate_of_a_retirement_whose_censuses_were_clean() {
    // The quiet period keeps the gate shut until then; it is what is shown to be no longer all that is missing.
    let (world, table) = with_backup("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"1h\"\n");
    let missing = || {
        let rehearsed = world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200);
        rehearsed["missing"].as_array().cloned().unwrap_or_default()
    };
    world.until("nothing is missing", || {
        if missing().is_empty() {
            return Some(());
        }
        if world.get("/v1/census")["running"] == false {
            world.post("/v1/census", json!({})).expect(202);
        }
        None
    });
    put_back(&table);
    until_noticed(&world);
    let found = missing();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0]["code"].as_str(), found[0]["who"].as_str()), (Some("values_left"), Some("tokens.token")));
    assert!(found[0]["detail"].as_str().unwrap().contains("restored from a backup"), "{found:?}");
    // Counting alone settles nothing: the values are there.
    world.post("/v1/versions/9/retire", json!({})).expect(409);
    world.until("the censuses are taken", || (world.get("/v1/census")["running"] == false).then_some(()));
    assert!(world.get("/v1/status")["needs"].to_string().contains("there again"));
    assert_eq!(world.post("/v1/versions/9/retire", json!({})).expect(409)["code"], "gate_refused");
    assert_eq!((world.rekey()["state"].as_str(), old_values(&table)), (Some("completed"), 0));
    world.retire(9);
}

#[test]
fn who_stops_all_work_on_the_databases_stops_the_looks_at_them_too() {
    let (world, table) = with_backup("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"1h\"\n");
    world.retire(9);
    let switch = world.data_dir().join("pause-rekey");
    std::fs::write(&switch, "").unwrap();
    put_back(&table);
    std::thread::sleep(std::time::Duration::from_secs(20));
    assert!(!world.get("/v1/status")["needs"].to_string().contains("there again"));
    std::fs::remove_file(&switch).unwrap();
    until_noticed(&world);
}
