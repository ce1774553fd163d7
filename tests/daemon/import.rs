//! `import`: a version that a restored store has forgotten.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::{audit, harness::World};

/// Files of the data directory and the store, as they are now.
fn copied(world: &World) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = fs::read_dir(world.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// A keyring that was rotated to v10, and whose store and node are back from before; a value of each version, and the
/// manifest that was lost.
fn forgotten() -> (World, [String; 2], String) {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    let old = world.encrypt(b"of v9");
    world.stop();
    let before = copied(&world);
    world.start();
    world.unlock_by(9, &[1, 2]);
    world.rotate(9);
    let new = world.encrypt(b"of v10");
    world.stop();
    let lost = fs::read_to_string(world.data_dir().join("manifest.json")).unwrap();
    for entry in fs::read_dir(world.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, bytes) in before {
        fs::write(path, bytes).unwrap();
    }
    world.start();
    world.unlock_by(9, &[3, 4]);
    assert_eq!(world.open(&old), b"of v9");
    world.decrypt(&new).expect_problem(503, "unknown_key_version", "undetermined");
    (world, [old, new], lost)
}

fn codes(answer: &Json) -> Vec<&str> {
    answer["rejected"].as_array().unwrap().iter().map(|part| part["code"].as_str().unwrap()).collect()
}

fn is_back(world: &World, values: &[String; 2]) {
    assert_eq!(world.open(&values[1]), b"of v10");
    assert_eq!(world.open(&values[0]), b"of v9");
    assert_eq!(world.state_of(10), "decrypt-only");
    let new = world.encrypt(b"new");
    assert!(new.starts_with("km:v9:"), "the primary stays");
}

#[test]
fn a_forgotten_version_comes_back_by_a_value_and_two_holders_of_both_versions() {
    let (mut world, values, _) = forgotten();
    let request = world.ask(json!({"operation": "import", "version": 10, "witness": values[1]}));
    assert_eq!((&request["needed"], &request["version"]), (&json!(2), &json!(10)));
    // A share of v10 alone: nothing here can tell whose it is.
    assert_eq!(codes(&world.consent(&request, &[(10, 1)]).expect(422)), ["unknown_version"]);
    // A share of v9 alone is the holder's, and no consent to an import.
    assert_eq!(world.consent(&request, &[(9, 1)]).expect(200)["have"], 0);
    let one = world.consent(&request, &[(10, 1), (9, 1)]).expect(200);
    assert_eq!((&one["have"], one["accepted"].as_array().unwrap().len()), (&json!(1), 2));
    assert_eq!(codes(&world.consent(&request, &[(9, 1), (10, 1)]).expect(422)), ["duplicate_share"]);
    let done = world.consent(&request, &[(9, 2), (10, 2)]).expect(200);
    assert_eq!((&done["have"], &done["needed"], &done["version"]), (&json!(2), &json!(2), &json!(10)));
    is_back(&world, &values);
    // It is required from now on, and who gave can unlock it.
    world.stop();
    world.start();
    world.unlock_by(9, &[4, 5]);
    assert_eq!(world.state(), "unlocking");
    world.unlock_by(10, &[1, 2]);
    is_back(&world, &values);
    assert_eq!(world.unlock(&[(10, 3)]).expect(422)["rejected"][0]["code"], "unknown_holder");
    // New shares bring the others in again.
    let names: Json = (1..=5).map(|n| json!({"name": format!("h{n}")})).collect();
    let request = world.ask(json!({"operation": "reshare", "version": 10, "holders": names}));
    world.consent(&request, &[(9, 1)]).expect(200);
    world.consent(&request, &[(9, 2)]).expect(200);
    world.take_packages(10);
    world.prove(10);
    world.stop();
    world.start();
    world.unlock_by(9, &[4, 5]);
    world.unlock_by(10, &[4, 5]);
    is_back(&world, &values);
}

#[test]
fn a_forgotten_version_comes_back_by_the_manifest_that_was_lost_and_its_own_shares() {
    let (world, values, lost) = forgotten();
    let request = world.ask(json!({"operation": "import", "version": 10, "witness": lost}));
    assert_eq!(codes(&world.consent(&request, &[(9, 1)]).expect(422)), ["name_mismatch"]);
    world.consent(&request, &[(10, 1)]).expect(200);
    let done = world.consent(&request, &[(10, 5)]).expect(200);
    assert_eq!((&done["have"], &done["needed"]), (&json!(2), &json!(2)));
    is_back(&world, &values);
    let names = world.get("/v1/versions")["versions"][1]["holders"].clone();
    assert_eq!(names.as_array().unwrap().len(), 5, "a manifest knows all of its holders");
    let consent = audit::last(&audit::whole(&world), "consent", "done").clone();
    assert!(consent["facts"]["intent"].is_u64(), "its intent came before it: {consent}");
}

#[test]
fn a_version_that_somebody_made_up_is_not_imported() {
    let (world, values, lost) = forgotten();
    // Another keyring's v10 with the same name, and everything that goes with it.
    let mut other = World::new("");
    other.start();
    other.init(5, 10);
    other.unlock_by(10, &[1, 2]);
    let made_up = other.encrypt(b"forged");
    // Its manifest carries no mac of the primary here.
    other.stop();
    let manifest = fs::read_to_string(other.data_dir().join("manifest.json")).unwrap();
    let refused = world.post("/v1/requests", json!({"operation": "import", "version": 10, "witness": manifest}));
    assert_eq!(refused.status, 400, "{}", refused.json);
    // Nor does the lost one once a letter of it was changed.
    let changed = lost.replacen("h5", "h7", 1);
    assert_eq!(
        world.post("/v1/requests", json!({"operation": "import", "version": 10, "witness": changed})).status,
        400
    );
    let request = world.ask(json!({"operation": "import", "version": 10, "witness": made_up}));
    let path = format!("/v1/requests/{}/consent", request["id"].as_str().unwrap());
    let give = |mine: &str, vouching: Option<&str>| {
        let mut parts = json!({"prod-keyPart-v10": mine});
        if let Some(vouching) = vouching {
            parts["prod-keyPart-v9"] = json!(vouching);
        }
        world.control("POST", &path, None, json!({"digest": request["digest"], "parts": parts}))
    };
    assert_eq!(codes(&give(&other.share(10, 1), None).expect(422)), ["wrong_keyring"]);
    assert_eq!(codes(&give(&other.share(10, 1), Some(&world.share(9, 1))).expect(422)), ["wrong_keyring"]);
    // Real shares do not open a value that was made up, however many come.
    for holder in 1..=5 {
        let answer = world.consent(&request, &[(9, holder), (10, holder)]).expect(200);
        assert!(answer["needed"].as_u64() > answer["have"].as_u64(), "{answer}");
    }
    world.decrypt(&made_up).expect_problem(503, "unknown_key_version", "undetermined");
    world.decrypt(&values[1]).expect_problem(503, "unknown_key_version", "undetermined");
    let versions = world.get("/v1/versions");
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn an_import_that_can_show_nothing_is_refused_before_anybody_is_asked() {
    let (world, values, _) = forgotten();
    let ask = |version: u32, witness: &str, more: Json| {
        let mut body = json!({"operation": "import", "version": version, "witness": witness});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = world.post("/v1/requests", body);
        (answer.status, answer.code().to_owned())
    };
    assert_eq!(ask(9, &values[0], json!({})), (409, "conflict".into()), "known");
    assert_eq!(ask(10, &values[0], json!({})), (400, "bad_request".into()), "of another version");
    assert_eq!(ask(10, "plaintext", json!({})), (400, "bad_request".into()));
    assert_eq!(ask(10, "{}", json!({})), (400, "bad_request".into()));
    assert_eq!(ask(10, &values[1], json!({"key": "unheard-of"})), (404, "unknown_key".into()));
    // Bound to associated data: the witness opens with it alone.
    let bound = json!({"key": "auth-token", "associated_data": STANDARD.encode("row/1")});
    assert_eq!(ask(10, &values[1], bound).0, 202);
}
