//! What the preflight refuses before the first write, with a remedy in the message.

use serde_json::json;

use crate::{database::Database, harness::World, unlocked};

/// A table made so gets no job; why.
#[track_caller]
fn refused(database: &Database, world: &World, table: &str, value: &str) -> String {
    let mut client = database.connect();
    client.run("DROP TABLE IF EXISTS tokens");
    client.run(table);
    client.run(&format!("INSERT INTO tokens (id, token) VALUES (1, '{value}')"));
    let rows = database.rows();
    let refused = world.post("/v1/rekey", json!({})).expect(409);
    assert_eq!(
        (&refused["code"], &refused["verdict"]),
        (&json!("gate_refused"), &json!("undetermined")),
        "{refused}"
    );
    let lack = &refused["missing"][0];
    assert_eq!((&lack["code"], &lack["who"]), (&json!("source_blocked"), &json!("tokens.token")), "{refused}");
    assert_eq!(world.get("/v1/rekey")["jobs"], json!([]), "a job was made");
    assert_eq!(database.rows(), rows, "something was written");
    lack["detail"].as_str().unwrap_or_else(|| panic!("{refused}")).to_owned()
}

#[test]
fn fault_32_a_column_that_is_too_narrow_for_v10_is_refused_and_one_that_just_fits_is_not() {
    for database in [Database::postgres(), Database::mariadb()] {
        let mut world = unlocked(&database);
        let value = world.encrypt(b"one");
        world.rotate(9);
        let table = |width: usize| format!("CREATE TABLE tokens (id INT PRIMARY KEY, token VARCHAR({width}))");
        let text = refused(&database, &world, &table(value.len()), &value);
        assert!(text.to_lowercase().contains("alter table") || text.contains("wide"), "{text}");
        // v10 has one digit more.
        let mut client = database.connect();
        client.run("DROP TABLE tokens");
        client.run(&table(value.len() + 1));
        client.run(&format!("INSERT INTO tokens (id, token) VALUES (1, '{value}')"));
        let job = world.rekey();
        assert_eq!((&job["state"], &job["sources"][0]["rekeyed"]), (&json!("completed"), &json!(1)), "{job}");
    }
}

#[test]
fn fault_42_a_history_trigger_is_refused_until_it_is_accepted_by_name() {
    let database = Database::postgres();
    let mut world = unlocked(&database);
    let text = refused(
        &database,
        &world,
        "CREATE TABLE IF NOT EXISTS history (id INT, token TEXT);
         CREATE TABLE tokens (id INT PRIMARY KEY, token TEXT);
         CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO history VALUES (OLD.id, OLD.token); RETURN NEW; END $$;
         CREATE TRIGGER keep_old BEFORE UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION keep()",
        &world.encrypt(b"one"),
    );
    assert!(text.contains("keep_old") && text.contains("accept_triggers"), "{text}");
    world.add_config("accept_triggers = [\"keep_old\"]\n");
    world.post("/v1/reload", json!({})).expect(200);
    assert_eq!(world.rekey()["state"], "completed");
}

#[test]
fn fault_42_a_history_trigger_of_mariadb_is_refused_by_name() {
    let database = Database::mariadb();
    let world = unlocked(&database);
    let text = refused(
        &database,
        &world,
        "CREATE TABLE history (id INT, token TEXT); CREATE TABLE tokens (id INT PRIMARY KEY, token TEXT);
         CREATE TRIGGER keep_old BEFORE UPDATE ON tokens FOR EACH ROW INSERT INTO history VALUES (OLD.id, OLD.token)",
        &world.encrypt(b"one"),
    );
    assert!(text.contains("keep_old") && text.contains("accept_triggers"), "{text}");
}

#[test]
fn fault_42_a_timestamp_that_follows_updates_stays_as_it_is_in_mariadb() {
    let database = Database::mariadb();
    let mut world = unlocked(&database);
    let mut client = database.connect();
    client.run(
        "CREATE TABLE tokens (id INT PRIMARY KEY, token VARCHAR(400),
         changed TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP)",
    );
    let value = world.encrypt(b"one");
    client.run(&format!("INSERT INTO tokens VALUES (1, '{value}', '2001-02-03 04:05:06')"));
    world.rotate(9);
    let job = world.rekey();
    assert_eq!((&job["state"], &job["sources"][0]["rekeyed"]), (&json!("completed"), &json!(1)), "{job}");
    assert_eq!(client.run("SELECT changed FROM tokens"), "2001-02-03 04:05:06");
}
