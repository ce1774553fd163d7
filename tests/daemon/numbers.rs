//! No number is given twice: what a restore makes the daemon ask, and what nobody can make it do.

use std::num::NonZeroU8;

use keymoot_types::{KeyVersion, KeyringId, Share};
use serde_json::{Value as Json, json};

use crate::harness::{SOURCE, World, make_table};

fn at_v9(more: &str) -> World {
    let mut world = World::new(more);
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    world
}

/// The newest manifest, as `status` of a node without one shows it.
fn confirm(world: &World, status: u16) {
    let needs = world.get("/v1/status")["needs"].to_string();
    let mut words = needs.split_once("manifest confirm ").unwrap().1.split(['`', ' ']);
    let revision: u64 = words.next().unwrap().parse().unwrap();
    let body = json!({"revision": revision, "digest": words.next().unwrap()});
    world.post("/v1/manifest/confirm", body).expect(status);
}

/// A node that has lost its manifest, and whose operator named the stored one.
fn confirmed() -> World {
    let mut world = at_v9("");
    world.kill();
    std::fs::remove_file(world.data_dir().join("manifest.json")).unwrap();
    world.start();
    confirm(&world, 200);
    world.unlock_by(9, &[1, 2]);
    world
}

/// A value of a version, as anybody can make one up.
fn made_up(version: u32) -> String {
    format!("km:v{version}:AQ{}", "A".repeat(64))
}

fn ask_for(world: &World, version: u32, times: u32) {
    for _ in 0..times {
        world.decrypt(&made_up(version)).expect_problem(503, "unknown_key_version", "undetermined");
    }
}

/// A share of a version, as whoever knows the keyring's id can make one up.
fn give_made_up_share(world: &World, version: u32) {
    let id: KeyringId = world.get("/v1/status")["keyring_id"].as_str().unwrap().parse().unwrap();
    let share = Share::new(id, KeyVersion::new(version).unwrap(), NonZeroU8::MIN, Box::new([7; 32]));
    let body = json!({"parts": {format!("prod-keyPart-v{version}"): share.to_text().as_str()}});
    let refused = world.control("POST", "/v1/unlock/parts", None, body).expect(422);
    assert_eq!(refused["rejected"][0]["code"], "unknown_version");
}

fn stage(highest: Json) -> Json {
    if highest.is_null() {
        json!({"operation": "stage"})
    } else {
        json!({"operation": "stage", "highest": highest})
    }
}

/// Staging is refused until the highest number is named.
fn must_be_named(world: &World) -> String {
    let refused = world.post("/v1/requests", stage(Json::Null));
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "{}", refused.json);
    refused.json["detail"].as_str().unwrap().to_owned()
}

#[test]
fn after_a_confirmed_manifest_no_version_is_made_before_the_highest_number_is_named() {
    let mut world = confirmed();
    assert!(must_be_named(&world).contains("at least v9"));
    assert!(world.get("/v1/status")["needs"].to_string().contains("--highest"));
    // It outlives the node.
    world.kill();
    world.start();
    world.unlock_by(9, &[1, 2]);
    must_be_named(&world);
    // What can't be is not believed: a typing error must not use up the numbers.
    for wrong in [8, 9 + 1_001, u32::MAX] {
        assert_eq!(world.post("/v1/requests", stage(json!(wrong))).code(), "bad_request", "{wrong}");
    }
    // Naming alone changes nothing: a request that is withdrawn was never made.
    let request = world.ask(stage(json!(12)));
    let withdrawn = format!("/v1/requests/{}", request["id"].as_str().unwrap());
    assert_eq!(world.get(&withdrawn)["asked"]["highest"], 12, "the holders see what was named");
    assert_eq!(world.control("DELETE", &withdrawn, Some(crate::harness::OPERATOR), Json::Null).status, 204);
    must_be_named(&world);
    assert_eq!(world.stage_as(9, stage(json!(12))), 13);
    // From now on the manifest knows the highest by itself.
    world.post("/v1/versions/13/abort", json!({})).expect(200);
    assert_eq!(world.stage(9), 14);
}

#[test]
fn the_next_number_exceeds_what_was_named_and_what_was_seen_in_shares_values_and_censuses() {
    let mut world = confirmed();
    ask_for(&world, 11, 1);
    assert!(must_be_named(&world).contains("at least v11"));
    assert_eq!(world.stage_as(9, stage(json!(10))), 12, "a value of v11 was seen");
    let mut world = confirmed();
    give_made_up_share(&world, 12);
    assert!(must_be_named(&world).contains("at least v12"));
    assert_eq!(world.stage_as(9, stage(json!(10))), 13, "a share of v12 was seen");

    // A declared source is believed without a restore, from the first row on.
    let mut world = at_v9(SOURCE);
    let table = make_table(&world.path("app.db"), &[world.encrypt(b"x"), made_up(15), made_up(u32::MAX)]);
    world.post("/v1/census", json!({})).expect(202);
    world.until("it is counted", || {
        let census = world.get("/v1/census");
        (census["sources"][0]["unreadable"] == 2 && census["running"] == false).then_some(())
    });
    assert!(must_be_named(&world).contains("at least v15"));
    assert_eq!(world.stage_as(9, stage(json!(9))), 16);
    drop(table);
}

#[test]
fn what_anybody_can_make_up_neither_uses_up_numbers_nor_keeps_a_version_from_being_made() {
    let mut world = at_v9("");
    // Far away: junk, however often.
    ask_for(&world, u32::MAX, 40);
    give_made_up_share(&world, u32::MAX);
    // Near, and seldom: junk too.
    ask_for(&world, 12, 5);
    give_made_up_share(&world, 11);
    assert_eq!(world.stage(9), 10);
    world.post("/v1/versions/10/abort", json!({})).expect(200);
    // Near and often, as after a restore that nobody told us of: an operator must look, and one word is enough.
    ask_for(&world, 12, 20);
    assert!(must_be_named(&world).contains("at least v12"));
    world.kill();
    world.start();
    world.unlock_by(9, &[1, 2]);
    assert!(must_be_named(&world).contains("at least v12"), "what was seen is durable");
    ask_for(&world, u32::MAX, 40);
    assert_eq!(world.stage_as(9, stage(json!(10))), 13);
}
