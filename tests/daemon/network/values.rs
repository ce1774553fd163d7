//! What services ask for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::sweep::{Said, request, sweep};
use crate::harness::{KEY, SERVICE, World, proxy::FINE};

fn ask(operation: &str, body: &serde_json::Value) -> Vec<u8> {
    request("POST", &format!("/v1/keys/{KEY}/{operation}"), Some(SERVICE), &body.to_string())
}

/// Whatever came whole is right, and the same again is answered.
fn every_cut_of(world: &World, operation: &str, body: &serde_json::Value, right: impl Fn(&Said) -> bool) {
    let met = sweep(
        world,
        world.data_url(),
        FINE,
        || ask(operation, body),
        |said| {
            assert!(said.is_none_or(&right), "{operation}: {}", said.unwrap().json);
            let again = world.data(operation, body.clone());
            assert!(
                right(&Said { status: again.status, json: again.json.clone() }),
                "{operation}: {}",
                again.json
            );
            false
        },
    );
    assert!(met.answered > 0, "{met:?}");
}

#[test]
fn fault_60_encrypting_and_decrypting_whose_exchange_is_cut_anywhere_is_answered_right_or_not_at_all() {
    let world = crate::unlocked(5);
    let plaintext = json!({"plaintext": STANDARD.encode("hello")});
    every_cut_of(&world, "encrypt", &plaintext, |said| {
        said.status == 200 && world.open(said.json["ciphertext"].as_str().unwrap()) == b"hello"
    });
    let ciphertext = json!({"ciphertext": world.encrypt(b"hello")});
    every_cut_of(&world, "decrypt", &ciphertext, |said| {
        (said.status, said.json["verdict"].as_str(), said.json["plaintext"].as_str())
            == (200, Some("valid"), plaintext["plaintext"].as_str())
    });
    assert_eq!(world.get("/v1/status")["state"], "unlocked");
}
