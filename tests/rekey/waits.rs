//! What a person is told at the command line: why no job is started, and what one waits for.

use std::process::Command;

use serde_json::{Value as Json, json};

use crate::{
    database::Database,
    harness::{OPERATOR, World},
    unlocked,
};

/// The exit code and all that was said.
fn keymoot(world: &World, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
    command
        .env_clear()
        .env("HOME", world.path(""))
        .env("KEYMOOT_CONTROL_ADDR", world.control_url())
        .env("KEYMOOT_CA", world.data_dir().join("tls-cert.pem"))
        .env("KEYMOOT_TOKEN", OPERATOR);
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said)
}

fn source(world: &World) -> Json {
    world.get("/v1/rekey")["sources"][0].clone()
}

#[test]
fn a_start_that_the_preflight_refuses_ends_with_code_4_and_makes_no_job_and_a_source_that_is_away_gets_one() {
    let database = Database::postgres();
    let world = unlocked(&database);
    let mut client = database.connect();
    client.run("CREATE TABLE tokens (id INT PRIMARY KEY, token CHAR(400))");
    let (code, plan) = keymoot(&world, &["rekey", "plan"]);
    assert_eq!(code, 4, "{plan}");
    let (code, said) = keymoot(&world, &["rekey", "start"]);
    assert_eq!(code, 4, "{said}");
    for told in ["source_blocked", "tokens.token", "char"] {
        assert!(said.contains(told), "{told} is not in {said}");
    }
    assert_eq!(world.get("/v1/rekey")["jobs"], json!([]));

    let Database::Postgres(server) = database else { unreachable!() };
    drop((client, server));
    let (code, said) = keymoot(&world, &["rekey", "start"]);
    assert_eq!(code, 0, "{said}");
    world.until("the job waits for its source", || source(&world)["throttled"].as_str().map(drop));
    assert_eq!(world.get("/v1/rekey")["state"], "running");
}

#[test]
fn a_wait_is_shown_with_its_node_and_its_beginning() {
    let database = Database::postgres();
    let mut client = database.connect();
    client.run("CREATE TABLE brake (n INT); INSERT INTO brake VALUES (4)");
    let mut world = unlocked(&database);
    database.make_table(&world.encrypt_all(&["one".to_owned()]));
    world.add_config("throttle_query = \"SELECT n FROM brake\"\n");
    world.post("/v1/reload", json!({})).expect(200);
    world.rotate(9);
    world.post("/v1/rekey", json!({})).expect(202);
    let waits = world.until("the brake is felt", || {
        // A server that takes its time is waited for with another reason.
        let source = source(&world);
        (source["throttled"] == "throttle query 4 > 0").then_some(source)
    });
    assert_eq!(waits["throttled_by"], "local");
    let said = world.until("the brake is shown", || {
        let (code, said) = keymoot(&world, &["rekey", "status"]);
        assert_eq!(code, 0, "{said}");
        said.contains("throttle query 4 > 0").then_some(said)
    });
    assert!(said.contains("tokens.token waits on local since 20"), "{said}");

    client.run("UPDATE brake SET n = 0");
    let job = world.job_end(world.get("/v1/rekey")["id"].as_str().unwrap());
    assert_eq!((&job["state"], &job["sources"][0]["throttled"]), (&json!("completed"), &Json::Null), "{job}");
}
