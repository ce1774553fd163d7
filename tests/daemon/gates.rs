//! The gates: what is missing is listed by its code, nothing is changed, and the ways out are open.

use std::{collections::BTreeSet, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::{
    harness::{SOURCE, World, make_table},
    oracle,
};

fn at_v10(more: &str) -> World {
    let mut world = World::new(more);
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world.rotate(9);
    world
}

/// Asks once, and what is missing.
fn missing(world: &World) -> BTreeSet<String> {
    let refused = world.post("/v1/versions/9/retire", json!({})).expect(409);
    assert_eq!(refused["code"], "gate_refused");
    assert_eq!(world.state_of(9), "decrypt-only", "nothing was changed");
    let missing = refused["missing"].as_array().unwrap();
    assert!(missing.iter().all(|lack| lack["detail"].as_str().unwrap().len() > 10));
    missing.iter().map(|lack| lack["code"].as_str().unwrap().to_owned()).collect()
}

/// Asks until all of `wanted` and none of `not` is missing: asking starts the censuses that are lacking.
#[track_caller]
fn missing_at_last(world: &World, wanted: &[&str], not: &[&str]) {
    world.until(&format!("{wanted:?} and not {not:?} are missing"), || {
        let codes = missing(world);
        (wanted.iter().all(|code| codes.contains(*code)) && !not.iter().any(|code| codes.contains(*code)))
            .then_some(())
    });
}

#[test]
fn every_piece_of_evidence_is_asked_for_by_its_code_and_then_signed() {
    let retire =
        |quiet: &str| format!("{SOURCE}[retire]\nquiet = \"{quiet}\"\nmax_write_delay = \"2s\"\nhold = \"1h\"\n");
    // Longer than everything before it takes on any machine; then it is made short.
    let mut world = World::new(&retire("1h"));
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let old = world.encrypt(b"old");
    let mut values = world.encrypt_all(&["a".to_owned(), "b".to_owned()]);
    values.push("km:v9:not-in-canonical-form!".into());
    values.push(format!("see {old}"));
    let table = make_table(&world.path("app.db"), &values);
    let primary = world.post("/v1/versions/9/retire", json!({}));
    assert_eq!((primary.status, primary.code()), (409, "conflict"), "the primary is not retired");
    world.rotate(9);
    assert!(missing(&world).is_superset(&["census_stale", "quiet_period"].map(String::from).into()));
    let rehearsed = world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200);
    assert!(rehearsed["missing"].to_string().contains("quiet_period"), "{rehearsed}");
    missing_at_last(&world, &["values_left", "unreadable_left", "census_inconclusive", "census_running"], &[]);

    table.execute("DELETE FROM tokens WHERE id = 4", ()).unwrap();
    assert_eq!(world.rekey()["state"], "completed_with_quarantine");
    missing_at_last(&world, &["quarantine_left", "unreadable_left"], &["values_left", "census_inconclusive"]);
    let job = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
    let rows = world.get(&format!("/v1/rekey/{job}/quarantine"));
    assert_eq!(rows["rows"].as_array().unwrap().len(), 1);
    assert_eq!((&rows["rows"][0]["id"], &rows["rows"][0]["version"]), (&json!(3), &json!(9)));

    table.execute("UPDATE tokens SET token = ?1 WHERE id = 3", [world.encrypt(b"repaired")]).unwrap();
    world.post(&format!("/v1/rekey/{job}/quarantine/retry"), Json::Null).expect(200);
    assert_eq!(world.job_end(&job)["state"], "completed");
    world.open(&old);
    missing_at_last(&world, &["quiet_period"], &["quarantine_left", "unreadable_left", "values_left"]);
    world.write_config(&retire("4s"));
    world.post("/v1/reload", Json::Null).expect(200);
    let retired = world.retire(9);
    assert_eq!((&retired["state"], &retired["primary"]), (&json!("retired"), &json!(10)));
    assert_eq!(
        world.post("/v1/versions/9/retire", json!({})).expect(200)["state"],
        "retired",
        "asking again is safe"
    );

    // Signed by v10, whose public key was pinned before; an altered one does not verify.
    let signed = retired["certificate"].clone();
    assert_eq!(world.get("/v1/certificates")["certificates"], json!([signed]));
    let manifest: Json =
        serde_json::from_slice(&fs::read(world.data_dir().join("manifest.json")).unwrap()).unwrap();
    let pinned = |version: u32| {
        let of = manifest["versions"].as_array().unwrap().iter().find(|v| v["version"] == version);
        of.unwrap()["public_key"].clone()
    };
    assert_eq!(signed["signed_by"]["version"], 10);
    let public_key = hex::encode(STANDARD.decode(signed["signed_by"]["public_key"].as_str().unwrap()).unwrap());
    assert_eq!(pinned(10), public_key);
    let verifies = |certificate: &Json, key: &Json| {
        let request = json!({"certificate": certificate, "signature": signed["signature"], "public_key": key});
        oracle::answer("certificate", &request) == true
    };
    let certificate = &signed["certificate"];
    assert!(verifies(certificate, &pinned(10)));
    assert!(!verifies(certificate, &pinned(9)));
    let mut altered = certificate.clone();
    altered["version"] = json!(8);
    assert!(!verifies(&altered, &pinned(10)));
    assert_eq!((&certificate["version"], &certificate["by"]), (&json!(9), &json!(10)));
    assert_eq!(certificate["censuses"].as_array().unwrap().len(), 2);
    assert!(certificate["not_looked_at"].to_string().contains("backups"));
    assert_eq!((&certificate["asked_by"], &certificate["node"]), (&json!("ops"), &json!("local")));
    shown_offline(&world, &signed, &public_key);
    let sql = certificate["count_again"][0]["sql"].as_str().unwrap();
    assert!(sql.contains("tokens"), "{sql}");
}

/// Verified and printed by the program alone, without a daemon.
fn shown_offline(world: &World, signed: &Json, public_key: &str) {
    let file = world.path("v9.json");
    fs::write(&file, signed.to_string()).unwrap();
    let run = |command: &str, key: &str| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_keymoot"));
        program.args(["certificate", command]).arg(&file).args(["--key", key]).output().unwrap()
    };
    assert!(run("verify", public_key).status.success());
    let page = run("print", public_key);
    let html = String::from_utf8(page.stdout).unwrap();
    assert!(
        page.status.success() && html.contains("Retirement of v9 of prod") && html.contains(public_key),
        "{html}"
    );
    for command in ["verify", "print"] {
        let refused = run(command, &"00".repeat(32));
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    }
}

#[test]
fn fault_44_a_retirement_on_an_old_a_partial_or_another_census_is_refused_with_the_reason() {
    let mut world = World::new(SOURCE);
    let table = make_table(&world.path("app.db"), &[]);
    table.execute_batch("CREATE TABLE others (id INTEGER PRIMARY KEY, token TEXT)").unwrap();
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let count = |world: &World, body: Json| {
        world.until("a census is taken", || (world.get("/v1/census")["running"] == false).then_some(()));
        world.post("/v1/census", body).expect(202);
        world.until("a census is taken", || (world.get("/v1/census")["running"] == false).then_some(()));
    };
    let stale = |world: &World| {
        let rehearsed = world.post("/v1/versions/9/retire", json!({"dry_run": true})).expect(200);
        let missing = rehearsed["missing"].as_array().cloned().unwrap_or_default();
        let found = missing.into_iter().find(|lack| lack["code"] == "census_stale" && lack["who"].is_null());
        found.map(|lack| lack["detail"].as_str().unwrap().to_owned())
    };
    count(&world, json!({}));
    count(&world, json!({}));
    world.rotate(9);
    let old = stale(&world).unwrap();
    assert!(old.contains("2 of the newest two began before that"), "{old}");

    // Of some sources only, however often.
    world.until("the write delay is over", || (!stale(&world)?.contains("can begin in")).then_some(()));
    for _ in 0..2 {
        count(&world, json!({"sources": ["tokens.token"]}));
    }
    let partial = stale(&world).unwrap();
    assert!(partial.contains("one does not count: it counted some sources only"), "{partial}");
    count(&world, json!({}));
    count(&world, json!({}));
    assert_eq!(stale(&world), None);

    // The table is another: what was counted says nothing of it.
    world.write_config(&SOURCE.replace("table = \"tokens\"", "table = \"others\""));
    world.post("/v1/reload", Json::Null).expect(200);
    let other = stale(&world).unwrap();
    assert!(other.contains("one does not count: tokens.token was declared otherwise"), "{other}");
    assert_eq!(world.state_of(9), "decrypt-only");
    world.retire(9);
}

#[test]
fn a_source_that_is_no_longer_declared_is_asked_for_until_it_is_declared_gone() {
    let mut world = World::new(SOURCE);
    make_table(&world.path("app.db"), &[]);
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world.rotate(9);
    let gone = json!({"gone": ["tokens.token"]});
    assert_eq!(world.post("/v1/versions/9/retire", gone.clone()).code(), "bad_request", "it is still there");
    assert_eq!(world.post("/v1/versions/9/retire", json!({"gone": ["never.was"]})).code(), "bad_request");
    world.write_config("");
    world.post("/v1/reload", Json::Null).expect(200);
    missing_at_last(&world, &["source_missing"], &[]);
    let retired = world.until("it is retired", || {
        let answer = world.post("/v1/versions/9/retire", gone.clone());
        (answer.status == 200).then_some(answer.json)
    });
    assert_eq!(retired["certificate"]["certificate"]["gone"], json!(["tokens.token"]));
}

#[test]
fn a_key_whose_values_may_live_elsewhere_blocks_until_its_time_is_over() {
    let key = "[[key]]\nname = \"pii\"\n";
    let world = at_v10(key);
    missing_at_last(&world, &["key_undeclared"], &["max_age"]);
    world.write_config(&format!("{key}max_age = \"1h\"\n"));
    world.post("/v1/reload", Json::Null).expect(200);
    missing_at_last(&world, &["max_age"], &["key_undeclared"]);
    // What it said while v9 encrypted does not shrink when the key leaves the configuration.
    world.write_config("");
    world.post("/v1/reload", Json::Null).expect(200);
    missing_at_last(&world, &["key_undeclared"], &["max_age"]);
}

#[test]
fn a_member_that_is_not_there_blocks_activation_until_excluded_and_retirement_still() {
    let mut world = World::new("[cluster]\nnode = \"db1\"\nmembers = [\"db1\", \"db2\"]\n");
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world.stage(9);
    world.prove(10);
    world.unlock(&[(10, 1)]).expect(200);
    world.unlock(&[(10, 2)]).expect(200);
    let refused = world.post("/v1/versions/10/activate", json!({})).expect(409);
    let lacks = refused["missing"].as_array().unwrap();
    assert!(lacks.iter().any(|lack| lack["code"] == "member_missing" && lack["who"] == "db2"), "{refused}");
    assert_eq!(world.state_of(10), "staged");
    world.post("/v1/versions/10/activate", json!({"exclude": [{"node": "db2", "for": "1h"}]})).expect(200);
    assert!(missing(&world).contains("not_settled"));
    let leave_out = json!({"exclude": [{"node": "db2", "for": "1h"}]});
    let refused = world.post("/v1/versions/9/retire", leave_out).expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("members destroyed"), "{refused}");
}

#[test]
fn what_is_to_be_counted_while_a_census_runs_is_counted_after_it() {
    let others =
        SOURCE.replace("tokens.token", "others.token").replace("table = \"tokens\"", "table = \"others\"");
    let mut world = World::new(&format!("{SOURCE}{others}"));
    let table = make_table(&world.path("app.db"), &[]);
    table.execute_batch("CREATE TABLE others (id INTEGER PRIMARY KEY, token TEXT)").unwrap();
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let first = world.post("/v1/census", json!({"sources": ["tokens.token"]})).expect(202);
    world.post("/v1/census", json!({"sources": ["others.token"]})).expect(202);
    assert_eq!(first["running"], true);
    world.until("both are counted", || (world.get("/v1/census")["running"] == false).then_some(()));
    assert_eq!(world.get("/v1/census")["sources"].as_array().unwrap().len(), 2);
}

#[test]
fn a_certificate_is_shown_for_its_own_retirement_only() {
    let world = at_v10("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"1h\"\n");
    let shown = |world: &World| world.get("/v1/certificates")["certificates"].as_array().unwrap().len();
    world.retire(9);
    assert_eq!(shown(&world), 1);
    world.post("/v1/versions/9/restore", json!({})).expect(200);
    assert_eq!(shown(&world), 0);
    world.unlock_by(9, &[3, 4]);
    let request = world.ask(json!({"operation": "retire-override", "version": 9, "reason": "lost"}));
    world.consent(&request, &[(10, 1)]).expect(200);
    world.consent(&request, &[(10, 2)]).expect(200);
    assert_eq!((world.state_of(9).as_str(), shown(&world)), ("retired", 0), "without evidence");
}

/// Of a database the copy from before the rekey is put back, under the running daemon.
#[test]
fn fault_34_a_table_from_before_the_rekey_is_found_and_its_version_asked_back_before_anything_is_destroyed() {
    let config =
        |hold: &str| format!("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"{hold}\"\n{SOURCE}");
    let mut world = World::new(&config("1h"));
    let table = make_table(&world.path("app.db"), &[]);
    world.start();
    world.init(5, 9);
    crate::unlock(&world, &[9]);
    let old = world.encrypt(b"old");
    table.execute("INSERT INTO tokens VALUES (1, ?1)", [&old]).unwrap();
    world.rotate(9);
    world.rekey();
    world.retire(9);
    table.execute("UPDATE tokens SET token = ?1", [&old]).unwrap();
    // It ends behind the copy's return, however slow this machine is.
    world.write_config(&config("3s"));
    world.post("/v1/reload", Json::Null).expect(200);
    world.until("its values are noticed", || {
        world.get("/v1/status")["needs"].to_string().contains("values of v9 are there again").then_some(())
    });
    world.decrypt(&old).expect_problem(503, "key_version_unavailable", "undetermined");
    world.post("/v1/versions/9/restore", json!({})).expect(200);
    crate::unlock(&world, &[9]);
    assert_eq!(world.open(&old), b"old");
    world.rekey();
    let rekeyed: String = table.query_row("SELECT token FROM tokens", [], |row| row.get(0)).unwrap();
    assert_eq!((rekeyed.starts_with("km:v10:"), world.open(&rekeyed)), (true, b"old".to_vec()));
}

#[test]
fn fault_18_within_the_hold_a_version_comes_back_by_its_shares_and_after_it_never() {
    let retire = |hold: &str| format!("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"{hold}\"\n");
    // Within the hold, however slow this machine is; then it is made short.
    let mut world = at_v10(&retire("1h"));
    // Of v9, made by the holders' shares themselves; the daemon no longer encrypts with it.
    let request = json!({
        "shares": oracle::shares(&world, &[9]), "version": 9, "key": "auth-token", "plaintexts": [hex::encode("old")],
    });
    let old = oracle::answer("make", &request)[0]["text"].as_str().unwrap().to_owned();
    assert_eq!(world.open(&old), b"old");
    world.retire(9);
    world.decrypt(&old).expect_problem(503, "key_version_unavailable", "undetermined");
    assert_eq!(world.post("/v1/versions/9/restore", json!({"dry_run": true})).expect(200)["state"], "retired");
    assert_eq!(world.post("/v1/versions/9/restore", json!({})).expect(200)["state"], "decrypt-only");
    // The log is written to the file by another thread.
    let log = world.until("it is logged", || Some(world.log()).filter(|log| log.contains("version restored")));
    let restored: Vec<_> = log.lines().filter(|line| line.contains("version restored")).collect();
    assert!(restored.len() == 1 && restored[0].contains("\"version\":9"), "one step, and said so: {restored:?}");
    world.decrypt(&old).expect_problem(503, "key_version_unavailable", "undetermined");
    world.unlock(&[(9, 3)]).expect(200);
    world.unlock(&[(9, 4)]).expect(200);
    assert_eq!(world.open(&old), b"old");
    assert!(world.encrypt(b"x").starts_with("km:v10:"));

    world.write_config(&retire("2s"));
    world.post("/v1/reload", Json::Null).expect(200);
    world.retire(9);
    let gone = world.until("the hold is over", || {
        let answer = world.decrypt(&old);
        (answer.status == 410).then_some(answer)
    });
    let gone = gone.expect_problem(410, "key_version_retired", "invalid");
    assert_eq!(gone["version"], 9);
    let destroyed = world.post("/v1/versions/9/restore", json!({})).expect(409);
    assert_eq!(destroyed["code"], "conflict");
    let why = destroyed["detail"].as_str().unwrap();
    assert!(why.contains("the hold of v9 ended at") && why.contains("destroyed"), "{why}");
    let refused = world.unlock(&[(9, 1)]).expect(422);
    assert_eq!(refused["rejected"][0]["code"], "version_retired");
    world.kill();
    world.start();
    world.unlock(&[(10, 1)]).expect(200);
    assert_eq!(world.unlock(&[(10, 2)]).expect(200)["state"], "unlocked", "v9 is asked for no longer");
    world.decrypt(&old).expect_problem(410, "key_version_retired", "invalid");
}
