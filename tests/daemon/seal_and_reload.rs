//! `seal`, and a configuration that is read again.

use std::fs;

use serde_json::{Value as Json, json};

use crate::{
    harness::{KEY, OPERATOR, SERVICE, World},
    unlocked,
};

const PII: &str = "[[key]]\nname = \"pii\"\nmax_age = \"30d\"\n[[token]]\nname = \"forms\"\nrole = \"service\"\n\
                   keys = [\"pii\"]\noperations = [\"encrypt\", \"decrypt\"]\nsha256 = \"{sha}\"\n";
const FORMS: &str = "km_fffffffffffffffffffffffffffffffffffffffffff";

fn with_pii() -> String {
    use sha2::{Digest as _, Sha256};
    PII.replace("{sha}", &hex::encode(Sha256::digest(FORMS)))
}

#[test]
fn a_sealed_node_answers_sealed_to_everything_about_values() {
    let world = unlocked(3);
    let value = world.encrypt(b"x");
    let wrapped = world.data("datakey", json!({})).expect(200)["ciphertext"].clone();
    assert_eq!(world.control("GET", "/readyz", None, Json::Null).status, 200);
    let sealed = world.post("/v1/seal", Json::Null);
    assert_eq!((sealed.status, sealed.json), (204, Json::Null));
    assert_eq!(world.state(), "sealed");
    for (operation, body) in [
        ("decrypt", json!({"ciphertext": value})),
        ("decrypt", json!({"ciphertext": "junk"})),
        ("decrypt", json!({"ciphertext": value.replacen("v9", "v77", 1)})),
        ("decrypt", json!({"items": [{"ciphertext": value}]})),
        ("decrypt", json!({"nonsense": 1})),
        ("encrypt", json!({"plaintext": ""})),
        ("rewrap", json!({"ciphertext": value})),
        ("datakey", json!({})),
        ("datakey/decrypt", json!({"ciphertext": wrapped})),
    ] {
        world.data(operation, body).expect_problem(503, "sealed", "undetermined");
    }
    let ready = world.control("GET", "/readyz", None, Json::Null);
    assert_eq!((ready.status, &ready.json["ready"]), (503, &json!(false)));
    assert!(ready.json["why_not"].to_string().contains("sealed"));
    assert_eq!(world.control("GET", "/livez", None, Json::Null).status, 200);
    for path in ["/v1/rekey", "/v1/census", "/v1/requests", "/v1/versions/9/retire", "/v1/manifest/republish"] {
        let body = if path == "/v1/requests" { json!({"operation": "stage"}) } else { json!({}) };
        let answer = world.post(path, body);
        assert_eq!((answer.status, answer.code()), (503, "sealed"), "{path}: {}", answer.json);
    }
    assert_eq!(world.post("/v1/seal", Json::Null).status, 204, "sealing again is safe");
    world.unlock(&[(9, 3)]).expect(200);
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocked");
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn a_bad_configuration_is_not_taken_and_says_why() {
    let world = unlocked(3);
    let good = fs::read_to_string(world.config_file()).unwrap();
    let value = world.encrypt(b"x");
    let reported = || world.log().matches("the configuration was not reloaded").count();
    for (n, bad) in [
        "",
        "keyring =",
        "keyring = \"prod\"",
        "\u{feff}",
        &good.replace("[listen]", "[lisen]"),
        &good.replace("keyring = \"prod\"", "keyring = \"test\""),
        &format!("{good}\n[[key]]\nname = \"{KEY}\"\nonly_in_sources = true\n"),
        &good.replace("quiet = \"1s\"", "quiet = \"soon\""),
        &good.replace("role = \"service\"", "role = \"admin\""),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(world.config_file(), bad).unwrap();
        let answer = world.post("/v1/reload", Json::Null);
        assert_eq!((answer.status, answer.code()), (400, "bad_request"), "{bad}: {}", answer.json);
        world.signal("-HUP");
        world.until("the bad file is reported", || (reported() > n).then_some(()));
        assert_eq!(world.open(&value), b"x", "the old one goes on");
    }
    fs::write(world.config_file(), b"keyring = \"\xff\"").unwrap();
    assert_eq!(world.post("/v1/reload", Json::Null).code(), "bad_request");
    fs::remove_file(world.config_file()).unwrap();
    assert_eq!(world.post("/v1/reload", Json::Null).code(), "bad_request");
    assert_eq!(world.state(), "unlocked");
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn a_key_and_a_token_that_a_reload_brings_work_at_once_and_after_a_restart() {
    let mut world = unlocked(3);
    let url = |world: &World| format!("{}/v1/keys/pii/encrypt", world.data_url());
    let body = b"{\"plaintext\":\"eA==\"}".to_vec();
    world.raw(url(&world), "POST", Some(SERVICE), body.clone()).expect_problem(404, "unknown_key", "undetermined");
    world.write_config(&with_pii());
    world.raw(url(&world), "POST", Some(FORMS), body.clone()).expect_problem(
        401,
        "unauthenticated",
        "undetermined",
    );
    assert_eq!(world.post("/v1/reload", Json::Null).expect(200)["reloaded"], true);
    let made = world.raw(url(&world), "POST", Some(FORMS), body.clone()).expect(200);
    assert!(made["ciphertext"].as_str().unwrap().starts_with("km:v9:"));
    assert_eq!(world.control("GET", "/readyz", None, Json::Null).status, 200);
    let manifest: Json =
        serde_json::from_slice(&fs::read(world.data_dir().join("manifest.json")).unwrap()).unwrap();
    let canaries: Vec<_> = manifest["canaries"].as_array().unwrap().iter().map(|c| c["key"].clone()).collect();
    assert_eq!(canaries, [KEY, "pii"], "the new key has its canary");
    world.kill();
    world.start();
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let opened = world.raw(
        format!("{}/v1/keys/pii/decrypt", world.data_url()),
        "POST",
        Some(FORMS),
        json!({"ciphertext": made["ciphertext"]}).to_string().into_bytes(),
    );
    assert_eq!(opened.expect(200)["plaintext"], "eA==");

    // By SIGHUP it goes away again, and its values are not called invalid.
    world.write_config("");
    world.signal("-HUP");
    world.until("the key is gone", || {
        (world.raw(url(&world), "POST", Some(SERVICE), body.clone()).code() == "unknown_key").then_some(())
    });
    assert_eq!(world.control("GET", "/v1/versions", Some(OPERATOR), Json::Null).status, 200);
}
