//! `kill -9` between the steps of ceremonies: nothing is half done, and asking again is safe.

use serde_json::{Value as Json, json};

use crate::harness::{OPERATOR, SOURCE, World, make_table};

fn initialised() -> World {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world
}

#[test]
fn a_share_given_before_a_kill_does_not_count_after_it() {
    let mut world = initialised();
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocking");
    world.kill();
    world.start();
    assert_eq!(world.state(), "sealed");
    // The second alone does not do; the first is no duplicate.
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["versions"][0]["have"], 1);
    assert_eq!(world.unlock(&[(9, 1)]).expect(200)["state"], "unlocked");
    // A cancelled ceremony forgets as well, and only an operator cancels.
    world.kill();
    world.start();
    world.unlock(&[(9, 1)]).expect(200);
    assert_eq!(world.control("DELETE", "/v1/unlock", None, Json::Null).status, 401);
    assert_eq!(world.state(), "unlocking");
    assert_eq!(world.control("DELETE", "/v1/unlock", Some(OPERATOR), Json::Null).status, 204);
    assert_eq!(world.state(), "sealed");
}

#[test]
fn an_init_whose_answer_was_lost_is_done_again_until_the_first_unlock() {
    let mut world = initialised();
    let first = (world.get("/v1/status")["keyring_id"].clone(), world.share(9, 1));
    world.kill();
    world.start();
    world.init(4, 9);
    let second = world.get("/v1/status")["keyring_id"].clone();
    assert_ne!(first.0, second);
    let foreign = world.control("POST", "/v1/unlock/parts", None, json!({"parts": {"prod-keyPart-v9": first.1}}));
    assert_eq!(foreign.expect(422)["rejected"][0]["code"], "wrong_keyring");
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 4)]).expect(200);
    let value = world.encrypt(b"from now on it stays");
    for _ in 0..2 {
        let again = json!({"keyring": "prod", "threshold": 2, "holders": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(world.post("/v1/init", again).code(), "conflict");
        assert_eq!(world.get("/v1/status")["keyring_id"], second);
        world.kill();
        world.start();
    }
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    assert_eq!(world.open(&value), b"from now on it stays");
}

#[test]
fn a_rotation_goes_on_after_a_kill_behind_every_step() {
    let mut world = initialised();
    let unlock = |world: &World, versions: &[u32]| {
        for version in versions {
            world.unlock(&[(*version, 1)]).expect(200);
            world.unlock(&[(*version, 2)]).expect(200);
        }
        assert_eq!(world.state(), "unlocked");
    };
    unlock(&world, &[9]);
    let old = world.encrypt(b"old");

    // One consent before the kill is no consent after it: the request is gone, and no number was taken.
    let request = world.post("/v1/requests", json!({"operation": "stage"})).expect(202);
    let (id, digest) = (request["id"].as_str().unwrap(), request["digest"].clone());
    let body = json!({"digest": digest, "parts": {"prod-keyPart-v9": world.share(9, 1)}});
    world.control("POST", &format!("/v1/requests/{id}/consent"), None, body).expect(200);
    world.kill();
    world.start();
    unlock(&world, &[9]);
    assert_eq!(world.control("GET", &format!("/v1/requests/{id}"), None, Json::Null).status, 404);

    assert_eq!(world.stage(9), 10);
    world.kill();
    world.start();
    // v9 alone is enough, v10 is staged still; its packages were in memory only, but the holders have them.
    unlock(&world, &[9]);
    assert_eq!(world.state_of(10), "staged");
    assert_eq!(world.control("GET", "/v1/versions/10/packages", Some(OPERATOR), Json::Null).status, 404);

    world.submit("/v1/prove/parts", &[(10, 1)]).expect(200);
    world.submit("/v1/prove/parts", &[(10, 2)]).expect(200);
    world.kill();
    world.start();
    unlock(&world, &[9]);
    let proofs = world.get("/v1/status")["last_proofs"].clone();
    let proved = |proof: &&Json| proof["version"] == 10 && !proof["proved_at"].is_null();
    assert_eq!(proofs.as_array().unwrap().iter().filter(proved).count(), 2, "proofs are durable: {proofs}");
    world.prove(10);
    unlock(&world, &[10]);
    world.post("/v1/versions/10/activate", json!({})).expect(200);
    world.kill();
    world.start();
    unlock(&world, &[10, 9]);
    assert_eq!((world.state_of(9), world.state_of(10)), ("decrypt-only".into(), "primary".into()));
    world.post("/v1/versions/10/activate", json!({})).expect(200);
    assert_eq!(world.open(&old), b"old");
    assert!(world.encrypt(b"x").starts_with("km:v10:"));
}

#[test]
fn a_census_that_was_interrupted_is_no_evidence() {
    let mut world = World::new(SOURCE);
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    make_table(&world.path("app.db"), &[world.encrypt(b"one")]);
    world.rotate(9);
    world.post("/v1/census", json!({})).expect(202);
    world.kill();
    world.start();
    for version in [9, 10] {
        world.unlock(&[(version, 1)]).expect(200);
        world.unlock(&[(version, 2)]).expect(200);
    }
    let census = world.get("/v1/census");
    assert_ne!(census["running"], true);
    let refused = world.post("/v1/versions/9/retire", json!({})).expect(409);
    assert!(refused.to_string().contains("census_stale"), "{refused}");
    world.rekey();
    assert_eq!(world.retire(9)["state"], "retired");
}
