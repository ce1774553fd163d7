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
    let mut world =
        World::new(&format!("{SOURCE}[retire]\nquiet = \"4s\"\nmax_write_delay = \"2s\"\nhold = \"1h\"\n"));
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
    let sql = certificate["count_again"][0]["sql"].as_str().unwrap();
    assert!(sql.contains("tokens"), "{sql}");
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
}

#[test]
fn fault_18_within_the_hold_a_version_comes_back_by_its_shares_and_after_it_never() {
    let mut world = at_v10("[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"2s\"\n");
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
    let log = world.log();
    let restored: Vec<_> = log.lines().filter(|line| line.contains("version restored")).collect();
    assert!(restored.len() == 1 && restored[0].contains("\"version\":9"), "one step, and said so: {restored:?}");
    world.decrypt(&old).expect_problem(503, "key_version_unavailable", "undetermined");
    world.unlock(&[(9, 3)]).expect(200);
    world.unlock(&[(9, 4)]).expect(200);
    assert_eq!(world.open(&old), b"old");
    assert!(world.encrypt(b"x").starts_with("km:v10:"));

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
