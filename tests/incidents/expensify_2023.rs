//! Expensify, 2023: key parts came in a map that was sorted as text, so v10 came before v9. The second key was
//! dropped in silence, a missing key looked like a bad token, and everyone was logged out.
//!
//! Six years of single digits, then v9 and v10.

use serde_json::{Value as Json, json};

use crate::harness::World;

/// A keyring at v9 with a token of it; v10 staged, proved by all, and not loaded.
fn at_the_tenth_rotation() -> (World, String) {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let old = world.encrypt(b"six years of single digits");
    assert!(old.starts_with("km:v9:"));
    assert_eq!(world.stage(9), 10);
    world.prove(10);
    (world, old)
}

/// The same with v10 primary, and a token of each.
fn after_the_tenth_rotation() -> (World, String, String) {
    let (world, old) = at_the_tenth_rotation();
    world.unlock(&[(10, 1)]).expect(200);
    world.unlock(&[(10, 2)]).expect(200);
    world.post("/v1/versions/10/activate", Json::Null).expect(200);
    let new = world.encrypt(b"ten");
    assert!(new.starts_with("km:v10:"));
    (world, old, new)
}

#[track_caller]
fn both_are_served(world: &World, old: &str, new: &str) {
    assert_eq!(world.state(), "unlocked");
    assert_eq!(world.open(old), b"six years of single digits");
    assert_eq!(world.open(new), b"ten");
}

#[test]
fn names_ordered_as_text_would_have_failed_and_numbers_do_not() {
    let mut as_text = ["prod-keyPart-v9", "prod-keyPart-v10"];
    as_text.sort_unstable();
    assert_eq!(as_text, ["prod-keyPart-v10", "prod-keyPart-v9"], "this is what went wrong");
    let (world, _, _) = after_the_tenth_rotation();
    let versions = world.get("/v1/versions");
    let numbers: Vec<_> = versions["versions"].as_array().unwrap().iter().map(|v| v["version"].clone()).collect();
    assert_eq!(numbers, [9, 10]);
}

#[test]
fn every_order_and_split_of_the_parts_unlocks_both() {
    let (mut world, old, new) = after_the_tenth_rotation();
    let submissions: [&[&[(u32, usize)]]; 7] = [
        // As JSON maps with v10 first, and with v9 first, by two people.
        &[&[(10, 1), (9, 1)], &[(10, 2), (9, 2)]],
        &[&[(9, 1), (10, 1)], &[(9, 2), (10, 2)]],
        &[&[(10, 3), (9, 3)], &[(9, 4), (10, 4)]],
        // In pieces.
        &[&[(10, 1)], &[(9, 2)], &[(10, 2)], &[(9, 1)]],
        &[&[(10, 1)], &[(10, 2)], &[(9, 1)], &[(9, 2)]],
        &[&[(9, 1)], &[(9, 2)], &[(10, 1)], &[(10, 2)]],
        // By four people, no one of them twice.
        &[&[(10, 1)], &[(9, 2)], &[(10, 3)], &[(9, 4)]],
    ];
    for pieces in submissions {
        world.kill();
        world.start();
        for (at, piece) in pieces.iter().enumerate() {
            let answer = world.unlock(piece).expect(200);
            let last = at + 1 == pieces.len();
            assert_eq!(answer["state"], if last { "unlocked" } else { "unlocking" }, "{pieces:?}");
            if !last {
                world.decrypt(&old).expect_problem(503, "sealed", "undetermined");
            }
        }
        both_are_served(&world, &old, &new);
    }
}

#[test]
fn parts_given_twice_count_once_and_are_named() {
    let (mut world, old, new) = after_the_tenth_rotation();
    world.kill();
    world.start();
    world.unlock(&[(10, 1), (9, 1)]).expect(200);
    let again = world.unlock(&[(10, 1), (9, 1)]).expect(422);
    for (refused, version) in again["rejected"].as_array().unwrap().iter().zip([10, 9]) {
        assert_eq!(
            (&refused["code"], &refused["version"], &refused["holder"]),
            (&json!("duplicate_share"), &json!(version), &json!("h1"))
        );
    }
    assert_eq!(again["state"], "unlocking");
    world.unlock(&[(10, 2), (9, 2)]).expect(200);
    both_are_served(&world, &old, &new);
    let late = world.unlock(&[(9, 3)]).expect(422);
    assert_eq!(late["rejected"][0]["code"], "already_loaded");
}

#[test]
fn one_name_twice_in_a_map_is_an_error_and_drops_nothing_in_silence() {
    let (mut world, _, _) = after_the_tenth_rotation();
    world.kill();
    world.start();
    let (one, two) = (world.share(9, 1), world.share(9, 2));
    let body = format!("{{\"parts\":{{\"prod-keyPart-v9\":\"{one}\",\"prod-keyPart-v9\":\"{two}\"}}}}");
    let url = format!("{}/v1/unlock/parts", world.control_url());
    let answer = world.raw(url, "POST", None, body.into_bytes());
    assert_eq!((answer.status, answer.code()), (400, "bad_request"));
    assert_eq!(world.state(), "sealed");
}

#[test]
fn v9_alone_is_enough_while_v10_is_only_staged() {
    let (mut world, old) = at_the_tenth_rotation();
    world.kill();
    world.start();
    world.unlock(&[(9, 3)]).expect(200);
    assert_eq!(world.unlock(&[(9, 4)]).expect(200)["state"], "unlocked");
    assert_eq!(world.open(&old), b"six years of single digits");
    assert!(world.encrypt(b"x").starts_with("km:v9:"));
}

#[test]
fn v10_alone_is_not_enough() {
    let (mut world, old, new) = after_the_tenth_rotation();
    world.kill();
    world.start();
    world.unlock(&[(10, 1)]).expect(200);
    let answer = world.unlock(&[(10, 2)]).expect(200);
    assert_eq!(answer["state"], "unlocking");
    let of =
        |version: u32| answer["versions"].as_array().unwrap().iter().find(|v| v["version"] == version).unwrap();
    assert_eq!((&of(10)["validated"], &of(9)["validated"]), (&json!(true), &json!(false)));
    for value in [&old, &new] {
        world.decrypt(value).expect_problem(503, "sealed", "undetermined");
    }
    let needs = world.get("/v1/status")["needs"].to_string();
    assert!(needs.contains("v9 is required and not loaded: 0 of 2 shares"), "{needs}");
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocking");
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["state"], "unlocked");
    both_are_served(&world, &old, &new);
}

#[test]
fn without_v10_a_degraded_node_says_undetermined_and_can_roll_back() {
    let (mut world, old, new) = after_the_tenth_rotation();
    world.kill();
    world.start();
    world.post("/v1/unlock/degraded", json!({"missing": [10]})).expect(200);
    world.unlock(&[(9, 1)]).expect(200);
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["state"], "degraded");
    assert_eq!(world.open(&old), b"six years of single digits");
    let missing = world.decrypt(&new).expect_problem(503, "key_version_unavailable", "undetermined");
    assert_eq!(missing["version"], 10);
    let refused = world.data("encrypt", json!({"plaintext": ""}));
    assert_eq!(refused.expect_problem(503, "key_version_unavailable", "undetermined")["version"], 10);

    let without_reason = world.post("/v1/versions/9/activate", json!({})).expect(409);
    assert_eq!(without_reason["code"], "gate_refused");
    world.post("/v1/versions/9/activate", json!({"override": "v10 was lost"})).expect(200);
    assert!(world.encrypt(b"back").starts_with("km:v9:"));
    world.decrypt(&new).expect_problem(503, "key_version_unavailable", "undetermined");

    // v10 was not lost after all.
    world.unlock(&[(10, 4)]).expect(200);
    assert_eq!(world.unlock(&[(10, 5)]).expect(200)["state"], "unlocked");
    both_are_served(&world, &old, &new);
}

#[test]
fn the_way_back_is_open_at_once() {
    let (world, old, new) = after_the_tenth_rotation();
    let rehearsed = world.post("/v1/versions/9/activate", json!({"dry_run": true})).expect(200);
    assert!(rehearsed["effects"].as_array().unwrap().len() > 1);
    assert_eq!(world.state_of(9), "decrypt-only");
    world.post("/v1/versions/9/activate", json!({})).expect(200);
    assert_eq!((world.state_of(9), world.state_of(10)), ("primary".into(), "decrypt-only".into()));
    assert!(world.encrypt(b"x").starts_with("km:v9:"));
    both_are_served(&world, &old, &new);
}

#[test]
fn a_version_that_nobody_has_heard_of_is_undetermined() {
    let (world, old, _) = after_the_tenth_rotation();
    for version in ["11", "99", "4294967295"] {
        let value = old.replacen("v9", &format!("v{version}"), 1);
        world.decrypt(&value).expect_problem(503, "unknown_key_version", "undetermined");
    }
}

#[test]
fn the_log_says_what_is_in_use_after_it_was_built() {
    let (world, _, _) = after_the_tenth_rotation();
    let log = world.log();
    let in_service: Vec<Json> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|line| line["message"] == "keyring in service")
        .collect();
    let last = in_service.last().unwrap();
    assert_eq!(last["encrypts_with"], 10);
    let versions = last["versions"].as_str().unwrap();
    assert!(versions.find("v9 ").unwrap() < versions.find("v10 ").unwrap(), "{versions}");
}
