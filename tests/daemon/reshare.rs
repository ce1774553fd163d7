//! New shares of a key that stays the same: another set of holders, one who lost a laptop, another threshold.

use serde_json::{Value as Json, json};

use crate::{
    harness::{OPERATOR, World},
    unlocked,
};

fn holders(names: &[usize]) -> Json {
    names.iter().map(|n| json!({"name": format!("h{n}")})).collect()
}

/// Asked for, consented to by h1 and h2, packages taken. What comes back are the shares of the set before.
fn reshared(world: &mut World, request: Json) -> Vec<(u32, String, String)> {
    let request = world.ask(request);
    assert_eq!(world.consent(&request, &[(9, 1)]).expect(200)["have"], 1);
    let done = world.consent(&request, &[(9, 2)]).expect(200);
    assert_eq!((&done["have"], &done["version"]), (&json!(2), &json!(9)));
    assert_eq!(world.get(&format!("/v1/requests/{}", request["id"].as_str().unwrap()))["state"], "done");
    world.take_packages(9)
}

fn submit(world: &World, path: &str, share: &str) -> Json {
    let body = json!({"parts": {"prod-keyPart-v9": share}});
    world.control("POST", path, None, body).json
}

fn code(answer: &Json) -> &str {
    answer["rejected"][0]["code"].as_str().unwrap_or("accepted")
}

fn restart(world: &mut World) {
    world.stop();
    world.start();
}

fn exposed(world: &World) -> Json {
    world.get("/v1/status")["exposed"][0].clone()
}

fn asks_for(world: &World, words: &str) -> bool {
    let status = world.get("/v1/status");
    status["needs"].as_array().unwrap().iter().any(|need| need.as_str().unwrap().contains(words))
}

#[test]
fn new_shares_count_once_enough_are_proved_and_the_old_ones_are_refused_by_name() {
    let mut world = unlocked(5);
    let value = world.encrypt(b"kept");
    let before = world.get("/v1/versions")["versions"][0].clone();
    let old =
        reshared(&mut world, json!({"operation": "reshare", "version": 9, "holders": holders(&[1, 2, 3, 6])}));
    assert!(asks_for(&world, "v9 has new shares: 0 of 3 holders"));

    // Until three have proved, the set before unlocks, and no share of the new one does.
    for (at, holder) in [(1, 1), (2, 3)] {
        restart(&mut world);
        assert_eq!(code(&submit(&world, "/v1/unlock/parts", &world.share(9, 6))), "share_mismatch");
        assert_eq!(code(&submit(&world, "/v1/unlock/parts", &old[3].2)), "accepted");
        assert_eq!(submit(&world, "/v1/unlock/parts", &old[4].2)["state"], "unlocked");
        assert_eq!(code(&submit(&world, "/v1/prove/parts", &world.share(9, holder))), "accepted");
        assert!(asks_for(&world, &format!("v9 has new shares: {at} of 3 holders")));
    }
    // The same holder again is no further one.
    assert_eq!(code(&submit(&world, "/v1/prove/parts", &world.share(9, 1))), "accepted");
    assert!(asks_for(&world, "v9 has new shares: 2 of 3 holders"));
    assert_eq!(code(&submit(&world, "/v1/prove/parts", &world.share(9, 6))), "accepted");

    for (_, _, share) in &old {
        for path in ["/v1/prove/parts", "/v1/unlock/parts"] {
            assert_eq!(code(&submit(&world, path, share)), "share_replaced", "{path}");
        }
    }
    restart(&mut world);
    assert_eq!(code(&submit(&world, "/v1/unlock/parts", &old[0].2)), "share_replaced");
    world.unlock(&[(9, 2)]).expect(200);
    world.unlock(&[(9, 6)]).expect(200);
    assert_eq!(world.open(&value), b"kept");
    let after = world.get("/v1/versions")["versions"][0].clone();
    assert_eq!((&after["key_id"], &after["state"]), (&before["key_id"], &json!("primary")));
    let names: Vec<_> = after["holders"].as_array().unwrap().iter().map(|holder| holder["name"].clone()).collect();
    assert_eq!(names, ["h1", "h2", "h3", "h6"]);
}

#[test]
fn what_was_exposed_stays_exposed_and_a_rotation_is_asked_for() {
    let mut world = unlocked(5);
    // Plain packages: all of them may be in other hands.
    let first = exposed(&world);
    assert_eq!((&first["plain"], &first["rotate"]), (&json!(5), &json!(true)));
    assert!(asks_for(&world, "rotate, with `keymoot rotate stage`"));
    let wanted = json!({"operation": "replace", "version": 9, "holders": holders(&[1, 2, 3, 6])});
    reshared(&mut world, wanted);
    assert_eq!(exposed(&world)["lost"], 2, "at once: the laptops are lost whatever becomes of the new shares");
    world.prove(9);
    let after = exposed(&world);
    assert_eq!(
        (&after["lost"], &after["left"], &after["replaced"], &after["plain"]),
        (&json!(2), &json!(0), &json!(5), &json!(9))
    );
    let v10 = world.rotate(9);
    let status = world.get("/v1/status");
    assert_eq!((&status["exposed"][1]["version"], &status["exposed"][1]["lost"]), (&json!(v10), &json!(0)));
    assert!(asks_for(&world, "v9 may be rebuilt by others"));
}

#[test]
fn a_second_reshare_gives_the_first_up_and_another_threshold_holds() {
    let mut world = unlocked(4);
    let first = json!({"operation": "reshare", "version": 9, "holders": holders(&[1, 2, 3, 4])});
    let old = reshared(&mut world, first);
    let given_up = world.shares.clone();
    world.shares = old.clone();
    let second = json!({"operation": "reshare", "version": 9, "threshold": 3, "holders": holders(&[1, 2, 3, 4])});
    reshared(&mut world, second);
    assert_eq!(code(&submit(&world, "/v1/prove/parts", &given_up[0].2)), "share_replaced");
    world.prove(9);
    restart(&mut world);
    for (holder, state) in [(1, "unlocking"), (2, "unlocking"), (4, "unlocked")] {
        assert_eq!(world.unlock_by(9, &[holder])["state"], state);
    }
    // Consent takes three now, too.
    let request = world.ask(json!({"operation": "stage"}));
    assert_eq!(request["needed"], 3);
}

#[test]
fn a_version_that_only_decrypts_gets_new_shares_by_the_primarys_holders() {
    let mut world = unlocked(4);
    let value = world.encrypt(b"old");
    let v10 = world.rotate(9);
    let request = world.ask(json!({"operation": "reshare", "version": 9, "holders": holders(&[1, 2, 3])}));
    let of_v9 = world.consent(&request, &[(9, 1)]).expect(422);
    assert_eq!(code(&of_v9), "name_mismatch");
    world.consent(&request, &[(v10, 1)]).expect(200);
    assert_eq!(world.consent(&request, &[(v10, 2)]).expect(200)["version"], 9);
    let old = world.take_packages(9);
    world.prove(9);
    restart(&mut world);
    world.unlock_by(v10, &[3, 4]);
    assert_eq!(code(&submit(&world, "/v1/unlock/parts", &old[0].2)), "share_replaced");
    world.unlock_by(9, &[2, 3]);
    assert_eq!(world.open(&value), b"old");
}

#[test]
fn what_can_not_be_reshared_is_refused_before_anybody_is_asked() {
    let mut world = unlocked(4);
    let ask = |world: &World, body: Json| {
        let answer = world.post("/v1/requests", body);
        (answer.status, answer.code().to_owned())
    };
    let reshare = |version: u32, names: &[usize]| json!({"operation": "reshare", "version": version, "holders": holders(names)});
    assert_eq!(ask(&world, reshare(10, &[1, 2])), (409, "conflict".into()), "unknown");
    assert_eq!(ask(&world, reshare(9, &[1])), (400, "bad_request".into()), "fewer than the threshold");
    assert_eq!(ask(&world, reshare(9, &[1, 1])), (400, "bad_request".into()), "twice");
    world.stage(9);
    assert_eq!(ask(&world, reshare(10, &[1, 2, 3])), (409, "conflict".into()), "staged");
    assert_eq!(
        ask(&world, json!({"operation": "retire-override", "version": 9, "reason": "because"})),
        (409, "conflict".into()),
        "the primary"
    );
}

#[test]
fn an_override_needs_the_holders_and_leaves_its_values_undetermined_for_ever() {
    let mut world = unlocked(4);
    let value = world.encrypt(b"given up");
    let v10 = world.rotate(9);
    let ask = |reason: &str| json!({"operation": "retire-override", "version": 9, "reason": reason});
    assert_eq!(world.post("/v1/requests", ask("  ")).expect(400)["code"], "bad_request");
    let request = world.ask(ask("the archive was deleted by mistake"));
    let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
    let shown = world.control("GET", &path, None, Json::Null).expect(200);
    assert_eq!((&shown["reason"], &shown["version"]), (&json!("the archive was deleted by mistake"), &json!(9)));
    world.consent(&request, &[(v10, 3)]).expect(200);
    assert_eq!((world.state_of(9).as_str(), world.open(&value).as_slice()), ("decrypt-only", &b"given up"[..]));
    world.consent(&request, &[(v10, 4)]).expect(200);
    assert_eq!(world.state_of(9), "retired");
    world.decrypt(&value).expect_problem(503, "key_version_unavailable", "undetermined");
    assert!(world.get("/v1/certificates")["certificates"].as_array().unwrap().is_empty());
    restart(&mut world);
    world.unlock_by(v10, &[1, 2]);
    world.decrypt(&value).expect_problem(503, "key_version_unavailable", "undetermined");
}

#[test]
fn a_request_shows_all_that_its_digest_is_over() {
    use sha2::{Digest as _, Sha256};
    let world = unlocked(3);
    let request = world.ask(json!({"operation": "reshare", "version": 9, "holders": holders(&[1, 2, 3])}));
    let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
    let shown = world.control("GET", &path, None, Json::Null).expect(200);
    let canonical = serde_json_canonicalizer::to_vec(&shown["asked"]).unwrap();
    assert_eq!(json!(hex::encode(Sha256::digest(&canonical))), request["digest"]);
    assert_eq!(shown["asked"]["holders"], shown["holders"]);
    assert_eq!((&shown["asked"]["operation"], &shown["asked"]["id"]), (&json!("reshare"), &request["id"]));
    assert_eq!(world.control("DELETE", &path, Some(OPERATOR), Json::Null).status, 204);
}
