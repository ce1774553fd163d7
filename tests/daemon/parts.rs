//! Every code of a refused part, at the edge: 422, the exact code, and nothing counted.

use serde_json::{Value as Json, json};

use crate::{
    harness::{OPERATOR, World},
    oracle,
};

/// Sealed, with v9 and v10 required.
fn sealed() -> World {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world.rotate(9);
    world.kill();
    world.start();
    world
}

/// Gives one part and expects one refusal.
#[track_caller]
fn refused(world: &World, path: &str, name: &str, share: &str, code: &str) -> Json {
    let answer = world.control("POST", path, None, json!({"parts": {name: share}})).expect(422);
    assert_eq!(answer["accepted"], json!([]), "{answer}");
    let rejected = answer["rejected"][0].clone();
    assert_eq!((&rejected["code"], &rejected["name"]), (&json!(code), &json!(name)), "{answer}");
    assert!(share.len() < 20 || !answer.to_string().contains(share), "{answer}");
    rejected
}

fn edited(share: &str, at: usize) -> String {
    let other = if &share[at..=at] == "q" { "p" } else { "q" };
    format!("{}{other}{}", &share[..at], &share[at + 1..])
}

#[test]
fn every_refusal_has_its_code_at_the_edge_and_counts_nothing() {
    let world = sealed();
    let unlock = "/v1/unlock/parts";
    let v9 = world.share(9, 1);
    let id = world.get("/v1/status")["keyring_id"].clone();
    let y = "07".repeat(32);
    let crafted = oracle::crafted(&json!([
        {"keyring_id": "0011223344556677", "version": 9, "x": 1, "y": y},
        {"keyring_id": id, "version": 9, "x": 0, "y": y},
        {"keyring_id": id, "version": 0, "x": 1, "y": y},
        {"keyring_id": id, "version": 9, "x": 1, "y": y, "kind": 2},
        {"keyring_id": id, "version": 77, "x": 1, "y": y},
        {"keyring_id": id, "version": 9, "x": 200, "y": y},
        {"keyring_id": id, "version": 9, "x": 1, "y": y},
    ]));
    let [foreign, x_zero, version_zero, wrong_kind, unknown, no_holder, mismatch] = &crafted[..] else { panic!() };

    let name = "prod-keyPart-v9";
    for malformed in [
        "",
        "kmshare1",
        "kmshare1qqq",
        &v9[1..],
        &v9[..87],
        &format!("{v9}q"),
        &v9.replace("kmshare", "kmshara"),
        &format!("{}B{}", &v9[..20], &v9[21..]),
        &format!("{}b{}", &v9[..20], &v9[21..]),
        &format!(" {v9}"),
        &v9.replacen('1', "１", 1),
        x_zero,
        version_zero,
        wrong_kind,
    ] {
        refused(&world, unlock, name, malformed, "malformed_share");
    }
    refused(&world, unlock, name, &edited(&v9, 40), "checksum_failed");
    refused(&world, unlock, name, &edited(&v9, 87), "checksum_failed");
    refused(&world, unlock, name, foreign, "wrong_keyring");
    for other in [
        "prod-keyPart-v10",
        "prod-keyPart-v09",
        "prod-keyPart-v-9",
        "prod-keyPart-v+9",
        "prod-keyPart-v 9",
        "prod-keyPart-v９",
        "prod-keyPart-v4294967296",
        "prod-keyPart-v4294967305",
        "prod-keypart-v9",
        "prod-keyPart-9",
        "test-keyPart-v9",
        "v9",
        "",
        " prod-keyPart-v9",
    ] {
        refused(&world, unlock, other, &v9, "name_mismatch");
    }
    refused(&world, unlock, "prod-keyPart-v77", unknown, "unknown_version");
    refused(&world, unlock, name, no_holder, "unknown_holder");
    refused(&world, unlock, name, mismatch, "share_mismatch");
    assert_eq!(world.state(), "sealed", "a refused part starts nothing");

    // Refusals beside good parts spoil nothing; the good ones count.
    let body = json!({"parts": {
        "prod-keyPart-v9": v9, "prod-keyPart-v10": edited(&world.share(10, 1), 50), "prod-keyPart-v77": unknown,
    }});
    let mixed = world.control("POST", unlock, None, body).expect(422);
    assert_eq!(mixed["accepted"], json!([{"version": 9, "holder": "h1"}]));
    assert_eq!(mixed["rejected"].as_array().unwrap().len(), 2);
    assert_eq!(mixed["state"], "unlocking");
    assert_eq!(refused(&world, unlock, name, &v9, "duplicate_share")["holder"], "h1");
    // Upper case is a form of its own, and the same share.
    refused(&world, unlock, name, &v9.to_uppercase(), "duplicate_share");
    world.unlock(&[(9, 2)]).expect(200);
    world.unlock(&[(10, 2)]).expect(200);
    assert_eq!(world.unlock(&[(10, 4)]).expect(200)["state"], "unlocked");
    assert_eq!(refused(&world, unlock, name, &world.share(9, 3), "already_loaded")["holder"], "h3");

    // On `prove` the same codes, but what is loaded may be proved and proved again.
    let prove = "/v1/prove/parts";
    refused(&world, prove, name, x_zero, "malformed_share");
    refused(&world, prove, name, mismatch, "share_mismatch");
    refused(&world, prove, "prod-keyPart-v10", &v9, "name_mismatch");
    world.submit(prove, &[(9, 3), (10, 3)]).expect(200);
    world.submit(prove, &[(9, 3), (10, 3)]).expect(200);
}

#[test]
fn a_share_of_an_aborted_or_retired_version_is_refused_by_name() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world.stage(9);
    world.post("/v1/versions/10/abort", Json::Null).expect(200);
    refused(&world, "/v1/unlock/parts", "prod-keyPart-v10", &world.share(10, 1), "version_aborted");
    refused(&world, "/v1/prove/parts", "prod-keyPart-v10", &world.share(10, 1), "version_aborted");
    assert_eq!(world.rotate(9), 11, "a number is never used again");
    world.retire(9);
    refused(&world, "/v1/unlock/parts", "prod-keyPart-v9", &world.share(9, 1), "version_retired");
    let old = world.get("/v1/versions");
    let states: Vec<_> = old["versions"].as_array().unwrap().iter().map(|v| v["state"].clone()).collect();
    assert_eq!(states, ["retired", "aborted", "primary"]);
}

#[test]
fn holders_are_named_to_whoever_gave_their_share_and_to_those_with_a_token() {
    let world = sealed();
    world.unlock(&[(9, 1)]).expect(200);
    let id = world.get("/v1/status")["keyring_id"].clone();
    let wrong = &oracle::crafted(&json!([{"keyring_id": id, "version": 9, "x": 2, "y": "07".repeat(32)}]))[0];
    let body = json!({"parts": {"prod-keyPart-v9": wrong}});
    let stranger = world.control("POST", "/v1/unlock/parts", None, body.clone()).expect(422);
    assert!(!stranger.to_string().contains("\"h1\"") && !stranger.to_string().contains("\"h2\""), "{stranger}");
    let operator = world.control("POST", "/v1/unlock/parts", Some(OPERATOR), body).expect(422);
    assert_eq!(operator["rejected"][0]["holder"], "h2");
    assert!(operator["versions"].to_string().contains("\"h1\""), "{operator}");
    let wrong_token = world.control("GET", "/v1/status", Some("km_nobody"), Json::Null);
    assert_eq!((wrong_token.status, wrong_token.code()), (401, "unauthenticated"));
}

#[test]
fn one_wrong_share_in_a_record_is_named_as_the_records_fault() {
    // The manifest's own key check is wrong: all shares were right.
    let mut world = World::new("");
    world.start();
    world.init(3, 9);
    world.kill();
    let store = rusqlite::Connection::open(world.data_dir().join("meta.db")).unwrap();
    let path = world.data_dir().join("manifest.json");
    let mut manifest: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["versions"][0]["share_set"]["key_check"] = json!("00".repeat(32));
    let bytes = serde_json_canonicalizer::to_vec(&manifest).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(store.execute("UPDATE records SET value = ?1 WHERE key LIKE 'manifest/%'", [bytes]).unwrap(), 1);
    drop(store);
    world.start();
    world.unlock(&[(9, 1)]).expect(200);
    let answer = world.unlock(&[(9, 2)]).expect(422);
    assert_eq!(answer["rejected"][0]["code"], "key_check_failed");
    assert_ne!(answer["state"], "unlocked");
    assert_eq!(answer["versions"][0]["validated"], false);
}
