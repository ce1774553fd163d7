//! An operator alone can neither make nor reach a version: only holders' shares do that.

use serde_json::{Value as Json, json};

use crate::{
    harness::{OPERATOR, World},
    unlocked,
};

fn versions(world: &World) -> Vec<(u64, String)> {
    let answer = world.get("/v1/versions");
    let versions = answer["versions"].as_array().unwrap();
    versions.iter().map(|v| (v["version"].as_u64().unwrap(), v["state"].as_str().unwrap().to_owned())).collect()
}

/// Every control call with an operator's token and without a share, in whatever order.
fn tries(request: &Json) -> Vec<(&'static str, String, Json)> {
    let id = request["id"].as_str().unwrap_or("0");
    let digest = &request["digest"];
    let holders = json!([{"name": "mallory"}, {"name": "mallory2"}]);
    vec![
        ("POST", "/v1/init".into(), json!({"keyring": "prod", "threshold": 2, "holders": holders})),
        ("POST", "/v1/requests".into(), json!({"operation": "stage"})),
        ("POST", "/v1/requests".into(), json!({"operation": "stage", "threshold": 2, "holders": holders})),
        ("POST", "/v1/requests".into(), json!({"operation": "reshare", "version": 9, "holders": holders})),
        ("POST", "/v1/requests".into(), json!({"operation": "replace", "version": 9, "holders": holders})),
        ("POST", "/v1/requests".into(), json!({"operation": "import", "version": 10, "witness": "km:v10:AQ"})),
        (
            "POST",
            "/v1/requests".into(),
            json!({"operation": "retire-override", "version": 9, "reason": "because"}),
        ),
        ("POST", format!("/v1/requests/{id}/consent"), json!({"digest": digest, "parts": {}})),
        (
            "POST",
            format!("/v1/requests/{id}/consent"),
            json!({"digest": digest, "parts": {"prod-keyPart-v9": ""}}),
        ),
        ("POST", format!("/v1/requests/{id}/consent"), json!({"digest": digest})),
        ("POST", format!("/v1/requests/{id}"), json!({"operation": "stage", "holders": holders})),
        ("PATCH", format!("/v1/requests/{id}"), json!({"holders": holders})),
        ("PUT", format!("/v1/requests/{id}"), json!({"holders": holders})),
        ("POST", "/v1/prove/parts".into(), json!({"parts": {"prod-keyPart-v10": "kmshare1"}})),
        ("GET", "/v1/versions/9/packages".into(), Json::Null),
        ("GET", "/v1/versions/10/packages".into(), Json::Null),
        ("POST", "/v1/versions/10/activate".into(), json!({})),
        (
            "POST",
            "/v1/versions/10/activate".into(),
            json!({"override": "because", "excuse": ["h1", "h2", "h3", "h4", "h5"]}),
        ),
        ("POST", "/v1/versions/10/restore".into(), json!({})),
        ("POST", "/v1/versions/9/retire".into(), json!({})),
        ("POST", "/v1/versions/9/abort".into(), json!({})),
        ("POST", "/v1/versions/9/restore".into(), json!({})),
        ("POST", "/v1/manifest/republish".into(), json!({})),
        ("POST", "/v1/manifest/confirm".into(), json!({"revision": 99, "digest": "00".repeat(32)})),
        ("POST", "/v1/unlock/degraded".into(), json!({"missing": [9]})),
        ("GET", format!("/v1/requests/{id}"), Json::Null),
        ("GET", "/v1/certificates".into(), Json::Null),
        ("DELETE", "/v1/unlock".into(), Json::Null),
    ]
}

#[test]
fn no_sequence_of_an_operators_calls_makes_or_reaches_a_version() {
    let world = unlocked(5);
    let value = world.encrypt(b"x");
    let mut request = Json::Null;
    // Each call after each other one: with no request, with one open, and after it was cancelled.
    for round in 0..3 {
        for first in tries(&request) {
            for (method, path, body) in
                [first.clone()].into_iter().chain(tries(&request).into_iter().skip(round * 9).take(9))
            {
                let answer = world.control(method, &path, Some(OPERATOR), body);
                let text = answer.json.to_string();
                assert!(!text.contains("kmshare1") && !text.contains("AGE ENCRYPTED"), "{method} {path}: {text}");
                assert!(answer.json["packages"].is_null(), "{method} {path}: {text}");
            }
            assert_eq!(versions(&world), [(9, "primary".to_owned())], "{} {}", first.0, first.1);
        }
        if request.is_null() {
            // One of the calls above opened it; a second one is refused while it is open.
            let busy = world.post("/v1/requests", json!({"operation": "stage"}));
            assert_eq!((busy.status, busy.code()), (409, "conflict"), "{}", busy.json);
            let id = busy.json["detail"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned();
            request = world.get(&format!("/v1/requests/{id}"));
        } else {
            let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
            let gone = world.control("DELETE", &path, Some(OPERATOR), Json::Null);
            assert!([204, 404].contains(&gone.status), "{}", gone.json);
        }
    }
    assert_eq!(world.state(), "unlocked");
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn what_was_consented_to_can_not_be_changed_and_consents_never_move_to_another_request() {
    let mut world = unlocked(5);
    let opened = world.post("/v1/requests", json!({"operation": "stage"})).expect(202);
    let (id, digest) = (opened["id"].as_str().unwrap().to_owned(), opened["digest"].clone());
    assert_eq!((&opened["needed"], &opened["have"]), (&json!(2), &json!(0)));
    let path = format!("/v1/requests/{id}");
    let consent = |id: &str, digest: &Json, holder: usize| {
        let body = json!({"digest": digest, "parts": {"prod-keyPart-v9": world.share(9, holder)}});
        world.control("POST", &format!("/v1/requests/{id}/consent"), None, body)
    };
    assert_eq!(consent(&id, &digest, 1).expect(200)["have"], 1);
    let seen = world.get(&path);
    assert_eq!(seen["digest"], digest);
    for (method, body) in
        [("PATCH", json!({"threshold": 2})), ("PUT", json!({})), ("POST", json!({"operation": "stage"}))]
    {
        assert_eq!(world.control(method, &path, Some(OPERATOR), body).status, 405, "{method}");
    }
    let mallory = json!({"operation": "stage", "holders": [{"name": "mallory"}, {"name": "mallory2"}]});
    assert_eq!(world.post("/v1/requests", mallory.clone()).status, 409);
    let still = world.get(&path);
    assert_eq!(
        (&still["digest"], &still["holders"], &still["have"]),
        (&seen["digest"], &seen["holders"], &json!(1))
    );

    // Wrong digest, the same holder again, a request that is not there.
    assert_eq!(consent(&id, &json!("00".repeat(32)), 2).code(), "conflict");
    let again = consent(&id, &digest, 1).expect(422);
    assert_eq!((&again["rejected"][0]["code"], &again["have"]), (&json!("duplicate_share"), &json!(1)));
    assert_eq!(consent("00000000-0000-7000-8000-000000000000", &digest, 2).status, 404);

    // Cancelled and asked anew for other holders: the first consent is worth nothing there.
    assert_eq!(world.control("DELETE", &path, Some(OPERATOR), Json::Null).status, 204);
    assert_eq!(consent(&id, &digest, 2).status, 404);
    let other = world.post("/v1/requests", mallory).expect(202);
    assert_eq!((&other["have"], other["digest"] == digest), (&json!(0), false));
    let other_id = other["id"].as_str().unwrap();
    assert_eq!(consent(other_id, &digest, 2).code(), "conflict");
    assert_eq!(consent(other_id, &other["digest"], 2).expect(200)["have"], 1);
    assert_eq!(versions(&world), [(9, "primary".to_owned())]);
    world.control("DELETE", &format!("/v1/requests/{other_id}"), Some(OPERATOR), Json::Null);

    // Two holders do it; done is done.
    assert_eq!(world.stage(9), 10);
    assert_eq!(versions(&world), [(9, "primary".to_owned()), (10, "staged".to_owned())]);
    let unproved = world.post("/v1/versions/10/activate", json!({})).expect(409);
    let codes: Vec<_> =
        unproved["missing"].as_array().unwrap().iter().map(|m| m["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"not_loaded") && codes.contains(&"not_proved"), "{unproved}");
    let override_alone = json!({"override": "because", "excuse": ["h1", "h2", "h3", "h4", "h5"]});
    assert_eq!(world.post("/v1/versions/10/activate", override_alone).expect(409)["code"], "gate_refused");
}

#[test]
fn an_older_manifest_is_not_confirmed_back_to_bring_replaced_shares_into_force() {
    use sha2::{Digest as _, Sha256};
    let mut world = unlocked(5);
    let before = std::fs::read(world.data_dir().join("manifest.json")).unwrap();
    let revision = serde_json::from_slice::<Json>(&before).unwrap()["revision"].clone();
    let holders: Json = (1..=3).map(|n| json!({"name": format!("h{n}")})).collect();
    let request = world.ask(json!({"operation": "replace", "version": 9, "holders": holders}));
    world.consent(&request, &[(9, 1)]).expect(200);
    world.consent(&request, &[(9, 2)]).expect(200);
    let stolen = world.take_packages(9);
    world.prove(9);
    let confirm = json!({"revision": revision, "digest": hex::encode(Sha256::digest(&before))});
    for sealed in [false, true] {
        if sealed {
            world.post("/v1/seal", Json::Null);
        }
        let refused = world.post("/v1/manifest/confirm", confirm.clone());
        assert_eq!((refused.status, refused.code()), (409, "conflict"), "{}", refused.json);
        let body = json!({"parts": {"prod-keyPart-v9": stolen[3].2}});
        let part = world.control("POST", "/v1/unlock/parts", None, body).expect(422);
        assert_eq!(part["rejected"][0]["code"], "share_replaced");
    }
}
