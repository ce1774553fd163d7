//! Faults of a user's database: each has its reason, and the others' work goes on.

use rusqlite::Connection;
use serde_json::{Value as Json, json};

use crate::{
    harness::{PATIENCE, SOURCE, World, make_table},
    oracle,
};

fn source(name: &str, table: &str, id: &str, column: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nurl = \"sqlite://{{dir}}/app.db\"\ntable = \"{table}\"\nid = \"{id}\"\n\
         column = \"{column}\"\nkey = \"auth-token\"\n"
    )
}

fn rotated(more: &str, rows: usize) -> (World, Connection) {
    let mut world = World::new(more);
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let plaintexts: Vec<String> = (1..=rows).map(|n| format!("row {n}")).collect();
    let table = make_table(&world.path("app.db"), &world.encrypt_all(&plaintexts));
    world.rotate(9);
    (world, table)
}

fn facts(rows: std::ops::RangeInclusive<usize>) -> Vec<Json> {
    rows.map(|n| json!([n, {"plaintext": format!("row {n}")}])).collect()
}

#[test]
fn a_source_that_is_declared_wrongly_gets_no_job_and_the_others_are_done() {
    let more = [
        source("a.table", "nowhere", "id", "token"),
        source("b.column", "tokens", "id", "nothing"),
        source("c.id", "others", "nobody", "token"),
        source("d.not-unique", "loose", "id", "token"),
    ];
    let (world, table) = rotated(&format!("{}{SOURCE}", more.concat()), 300);
    table.execute_batch("CREATE TABLE loose (id INTEGER, token TEXT); CREATE TABLE others (id INTEGER PRIMARY KEY, token TEXT)").unwrap();
    let refused = world.post("/v1/rekey", json!({})).expect(409);
    let missing = refused["missing"].as_array().unwrap();
    for (who, said) in [
        ("a.table", "there is no table nowhere"),
        ("b.column", "column nothing is missing"),
        ("c.id", "id column nobody is missing"),
        ("d.not-unique", ""),
    ] {
        let named = |lack: &&Json| lack["who"] == who && lack["detail"].as_str().unwrap().contains(said);
        assert!(missing.iter().any(|lack| named(&lack)), "{who}: {refused}");
    }
    assert!(missing.iter().all(|lack| lack["who"] != "tokens.token"), "{refused}");
    assert_eq!(world.get("/v1/rekey")["jobs"], json!([]));
    let one = world.post("/v1/rekey", json!({"sources": ["tokens.token"]})).expect(202);
    let job = world.job_end(one["id"].as_str().unwrap());
    assert_eq!((&job["state"], &job["sources"][0]["rekeyed"]), (&json!("completed"), &json!(300)), "{job}");
    oracle::check_table(&world, &[10], facts(1..=300));

    // A census of them concludes nothing, and v9 stays.
    world.until("they are said to be uncounted", || {
        let refused = world.post("/v1/versions/9/retire", json!({})).expect(409);
        let lacks = refused["missing"].as_array().unwrap();
        lacks.iter().any(|lack| lack["code"] == "census_inconclusive" && lack["who"] == "a.table").then_some(())
    });

    // The declaration is repaired, and a new job does the rest.
    table.execute_batch("CREATE TABLE nowhere (id INTEGER PRIMARY KEY, token TEXT)").unwrap();
    let one = world.post("/v1/rekey", json!({"sources": ["a.table"]})).expect(202);
    assert_eq!(world.job_end(one["id"].as_str().unwrap())["state"], "completed");
}

#[test]
fn a_locked_database_is_waited_for_and_what_changed_meanwhile_stands() {
    let (world, table) = rotated(SOURCE, 400);
    let newer = world.encrypt(b"the application's");
    // The application is in the middle of a write: the worker reads the old rows and can't write.
    table.execute_batch("BEGIN IMMEDIATE").unwrap();
    table.execute("UPDATE tokens SET token = ?1 WHERE id = 5", [&newer]).unwrap();
    table.execute("DELETE FROM tokens WHERE id = 6", ()).unwrap();
    table.execute("UPDATE tokens SET token = NULL WHERE id = 7", ()).unwrap();
    let job = world.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    let throttled = world.until("the lock is waited for", || {
        let job = world.get(&format!("/v1/rekey/{job}"));
        assert_eq!(job["state"], "running");
        job["throttled"].as_str().map(str::to_owned)
    });
    assert!(throttled.contains("lock"), "{throttled}");
    assert_eq!(world.open(&newer), b"the application's", "services notice nothing");
    table.execute_batch("COMMIT").unwrap();
    let job = world.job_end(&job);
    assert_eq!(job["state"], "completed", "{job}");
    let source = &job["sources"][0];
    assert!(source["conflicts"].as_u64().unwrap() >= 3, "{source}");
    let mut expected = facts(1..=4);
    expected.push(json!([5, {"plaintext": "the application's"}]));
    expected.push(json!([7, {"as_is": null}]));
    expected.extend(facts(8..=400));
    oracle::check_table(&world, &[9, 10], expected);
    let stored: String = table.query_row("SELECT token FROM tokens WHERE id = 5", (), |row| row.get(0)).unwrap();
    assert_eq!(stored, newer, "it was current already and was not written");
}

#[test]
fn a_database_that_is_away_is_waited_for_and_its_job_can_be_paused_and_cancelled() {
    let (world, table) = rotated(SOURCE, 50);
    drop(table);
    let (here, away) = (world.path("app.db"), world.path("away.db"));
    std::fs::rename(&here, &away).unwrap();
    let job = world.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/rekey/{job}");
    let busy = world.post("/v1/rekey", json!({}));
    assert_eq!((busy.status, busy.code()), (409, "conflict"));
    let throttled = world.until("it is missed", || world.get(&path)["throttled"].as_str().map(str::to_owned));
    assert!(throttled.contains("app.db"), "{throttled}");
    assert_eq!(world.post(&format!("{path}/pause"), json!({})).expect(200)["state"], "paused");
    std::fs::rename(&away, &here).unwrap();
    assert_eq!(world.get(&path)["state"], "paused");
    assert_eq!(world.post(&format!("{path}/resume"), json!({})).expect(200)["state"], "running");
    assert_eq!(world.job_end(&job)["state"], "completed");
    oracle::check_table(&world, &[10], facts(1..=50));
    for step in ["pause", "resume", "cancel"] {
        assert_eq!(world.post(&format!("{path}/{step}"), json!({})).code(), "conflict", "{step}: it has ended");
    }

    // A dry run writes nothing; the kill switch needs neither token nor store; a cancelled job stays cancelled.
    std::fs::write(world.data_dir().join("pause-rekey"), "").unwrap();
    let job = world.post("/v1/rekey", json!({"dry_run": true})).expect(202)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/rekey/{job}");
    let throttled =
        world.until("the switch is seen", || world.get(&path)["throttled"].as_str().map(str::to_owned));
    assert!(throttled.contains("kill switch"), "{throttled}");
    assert_eq!(world.post(&format!("{path}/cancel"), json!({})).expect(200)["state"], "cancelled");
    std::fs::remove_file(world.data_dir().join("pause-rekey")).unwrap();
    assert_eq!(world.get(&path)["state"], "cancelled");
}

#[test]
fn a_census_that_the_store_does_not_take_is_recorded_once_it_does() {
    let (world, _table) = rotated(SOURCE, 50);
    let store = Connection::open(world.data_dir().join("meta.db")).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The censuses that it would show may have to wait for the store, too.
    let asked = world.post("/v1/census", json!({}));
    assert!(asked.status == 202 || asked.code() == "store_unavailable", "{}", asked.json);
    world.until("it was counted and can't be recorded", || {
        world.log().contains("a census waits for the metadata store").then_some(())
    });
    store.execute_batch("ROLLBACK").unwrap();
    let census = world.until("it is recorded", || {
        let census = world.get("/v1/census");
        (census["running"] == false).then_some(census)
    });
    assert_eq!(census["sources"][0]["rows"], 50, "{census}");
    assert_eq!(world.log().matches("census taken").count(), 1, "nothing was counted twice");
}
