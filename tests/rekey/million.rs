//! A million rows, of which no database counts each before the job begins.

use std::thread;

use serde_json::json;

use crate::{database::Database, faults::conclusive_census, unlocked};

const ROWS: u64 = 1_000_000;

#[test]
fn fault_42_a_million_rows_are_each_visited_once() {
    let databases = [Database::sqlite as fn() -> Database, Database::postgres, Database::mariadb];
    databases
        .map(|database| thread::spawn(move || all(&database())))
        .into_iter()
        .for_each(|one| one.join().unwrap());
}

fn all(database: &Database) {
    let mut world = unlocked(database);
    let old = world.encrypt(b"one of a million");
    let mut table = database.connect();
    table.run(&format!("CREATE TABLE tokens (id BIGINT PRIMARY KEY, token {})", database.text()));
    table.run(&database.fill(ROWS, &old));
    world.rotate(9);
    let job = world.rekey();
    let source = &job["sources"][0];
    assert_eq!(
        (&job["state"], &source["scanned"], &source["rekeyed"]),
        (&json!("completed"), &json!(ROWS), &json!(ROWS))
    );
    let census = conclusive_census(&world);
    assert_eq!((&census["rows"], &census["versions"]), (&json!(ROWS), &json!([{"version": 10, "count": ROWS}])));
    assert_eq!(
        table.number("SELECT COUNT(DISTINCT token) FROM tokens"),
        ROWS.cast_signed(),
        "each has a nonce of its own"
    );
}
