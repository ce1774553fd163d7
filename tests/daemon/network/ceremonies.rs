//! What holders do.

use serde_json::{Value as Json, json};

use super::sweep::{again, request, sweep};
use crate::harness::{OPERATOR, World, proxy::FINE};

/// As many as a keyring usually has.
const HOLDERS: usize = 24;

#[test]
fn fault_60_a_share_whose_exchange_is_cut_anywhere_either_way_is_counted_once() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let have = || world.get("/v1/status")["versions"][0]["have"].as_u64().unwrap();
    let met = sweep(
        &world,
        world.control_url(),
        FINE,
        || {
            world.control("DELETE", "/v1/unlock", Some(OPERATOR), Json::Null);
            request("POST", "/v1/unlock/parts", None, &world.parts(&[(9, 1)]))
        },
        |said| {
            let before = have();
            assert!(before <= 1 && (said.is_none() || before == 1), "{before} shares");
            // Whoever got no answer gives it again.
            let again = world.unlock(&[(9, 1)]);
            assert!([200, 422].contains(&again.status), "{}", again.json);
            assert_eq!((have(), world.state().as_str()), (1, "unlocking"));
            before == 1
        },
    );
    assert!(met.done > 0, "of an answer that is lost the share is here: {met:?}");
    world.unlock(&[(9, 2)]).expect(200);
    assert_eq!(world.state(), "unlocked");
}

#[test]
fn fault_60_a_consent_that_is_cut_behind_any_byte_counts_once_at_most_and_does_nothing_alone() {
    // Whoever gives a share over and over within a minute is asked to wait: many take turns.
    let world = crate::unlocked(HOLDERS);
    let asked = std::cell::RefCell::new(world.ask(json!({"operation": "stage"})));
    let path = |rest: &str| format!("/v1/requests/{}{rest}", asked.borrow()["id"].as_str().unwrap());
    let have = || world.get(&path(""))["have"].as_u64().unwrap();
    let turn = std::cell::Cell::new(0);
    let holder = || turn.get() % HOLDERS + 1;
    let met = sweep(
        &world,
        world.control_url(),
        FINE,
        || {
            world.control("DELETE", &path(""), Some(OPERATOR), Json::Null);
            asked.replace(world.ask(json!({"operation": "stage"})));
            turn.set(turn.get() + 1);
            let parts: Json = serde_json::from_str(&world.parts(&[(9, holder())])).unwrap();
            let body = json!({"digest": asked.borrow()["digest"], "parts": parts["parts"]}).to_string();
            request("POST", &path("/consent"), None, &body)
        },
        |said| {
            let before = have();
            assert!(before <= 1 && (said.is_none() || before == 1), "{before} consents");
            let again = again(&world, || world.consent(&asked.borrow(), &[(9, holder())]));
            assert!([200, 422].contains(&again.status), "{}", again.json);
            assert_eq!(have(), 1);
            before == 1
        },
    );
    assert!(met.done > 0, "{met:?}");
    assert_eq!(
        world.get("/v1/versions")["versions"].as_array().unwrap().len(),
        1,
        "nothing was made by one holder"
    );
    let other = holder() % HOLDERS + 1;
    let done = world.consent(&asked.borrow(), &[(9, other)]).expect(200);
    assert_eq!(done["version"], 10);
}

#[test]
fn fault_60_a_proof_that_is_cut_behind_any_byte_is_recorded_or_not_and_can_be_given_again() {
    let world = crate::unlocked(5);
    let proved = || {
        let holders = world.get("/v1/versions")["versions"][0]["holders"].as_array().unwrap().clone();
        holders.into_iter().map(|holder| holder["proved_at"].clone()).collect::<Vec<_>>()
    };
    // Two of them unlocked it, which proves too.
    let others = || proved().into_iter().filter(|at| !at.is_null()).count();
    let before = std::cell::RefCell::new(proved());
    assert_eq!(others(), 2);
    sweep(
        &world,
        world.control_url(),
        FINE,
        || {
            before.replace(proved());
            request("POST", "/v1/prove/parts", None, &world.parts(&[(9, 3)]))
        },
        |said| {
            let recorded = proved()[2] != before.borrow()[2];
            assert!(said.is_none() || !proved()[2].is_null());
            again(&world, || world.submit("/v1/prove/parts", &[(9, 3)])).expect(200);
            assert_eq!(others(), 3);
            recorded
        },
    );
}
