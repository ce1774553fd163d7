//! Faults of the manifest and of the metadata store: clear answers, decryption goes on, and there is a way out.

use std::{fs, io::Write as _, path::Path, process::Command};

use serde_json::{Value as Json, json};

use crate::{harness::World, unlock, unlocked};

fn needs(world: &World) -> String {
    world.get("/v1/status")["needs"].to_string()
}

fn digest(world: &World) -> (u64, String) {
    use sha2::{Digest as _, Sha256};
    let bytes = fs::read(world.data_dir().join("manifest.json")).unwrap();
    let manifest: Json = serde_json::from_slice(&bytes).unwrap();
    (manifest["revision"].as_u64().unwrap(), hex::encode(Sha256::digest(&bytes)))
}

/// The store's files, without what SQLite keeps beside an open one.
fn copy_store(from: &Path, to: &Path) {
    let _none = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for name in ["meta.db", "meta.db-wal", "manifest.json"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

fn put_back(world: &World, saved: &Path, names: &[&str]) {
    for name in names {
        let _none = fs::remove_file(world.data_dir().join(name));
        if saved.join(name).exists() {
            fs::copy(saved.join(name), world.data_dir().join(name)).unwrap();
        }
    }
}

const STORE: [&str; 3] = ["meta.db", "meta.db-wal", "meta.db-shm"];

/// Values are served; nothing that changes keys is done.
#[track_caller]
fn serves_with_gates_shut(world: &World, value: &str, plaintext: &[u8], status: u16, code: &str) {
    assert_eq!(world.open(value), plaintext);
    world.open(&world.encrypt(b"new"));
    let mut refused = world.post("/v1/requests", json!({"operation": "stage"}));
    if refused.status == 202 {
        // A request is only asked for; what would make a key can't be recorded.
        let primary = world.encrypt(b"").split(':').nth(1).unwrap()[1..].parse().unwrap();
        for holder in [1, 2] {
            let body = json!({
                "digest": refused.json["digest"],
                "parts": {format!("prod-keyPart-v{primary}"): world.share(primary, holder)},
            });
            let path = format!("/v1/requests/{}/consent", refused.json["id"].as_str().unwrap_or_default());
            let answer = world.control("POST", &path, None, body);
            if holder == 2 {
                refused = answer;
            }
        }
    }
    assert_eq!((refused.status, refused.code()), (status, code), "{}", refused.json);
    assert!(!world.get("/v1/versions").to_string().contains("staged"), "nothing is half made");
    assert_eq!(world.get("/v1/status")["manifest"], "last-good");
    assert_eq!(world.control("GET", "/readyz", None, Json::Null).status, 200, "readiness asks no store");
}

#[test]
fn a_damaged_last_good_manifest_is_named_and_an_operator_confirms_the_stored_one() {
    let mut world = unlocked(5);
    let value = world.encrypt(b"x");
    world.rotate(9);
    let (revision, right) = digest(&world);
    let path = world.data_dir().join("manifest.json");
    let whole = fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    for damaged in [
        &b""[..],
        b"{",
        b"\xff\xfe",
        &whole[..whole.len() / 2],
        text.replace("\"revision\":", "\"revision\":9").as_bytes(),
    ] {
        world.kill();
        fs::write(&path, damaged).unwrap();
        world.start();
        assert!(world.state() == "sealed", "{}", world.get("/v1/status"));
        let again = json!({"keyring": "prod", "threshold": 2, "holders": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(world.post("/v1/init", again).status, 409, "it is no reason to begin anew");
    }
    world.kill();
    fs::write(&path, "{").unwrap();
    world.start();
    assert!(needs(&world).contains("last good manifest") && needs(&world).contains(&right), "{}", needs(&world));
    // Shares are collected by the stored one; nothing is served on its word alone.
    world.unlock(&[(9, 1), (10, 1)]).expect(200);
    assert_eq!(world.unlock(&[(9, 2), (10, 2)]).expect(200)["state"], "unlocking");
    world.decrypt(&value).expect_problem(503, "sealed", "undetermined");
    let wrong = json!({"revision": revision, "digest": "00".repeat(32)});
    assert_eq!(world.post("/v1/manifest/confirm", wrong).code(), "conflict");
    assert_eq!(
        world.post("/v1/manifest/confirm", json!({"revision": revision + 1, "digest": right})).code(),
        "conflict"
    );
    world.post("/v1/manifest/confirm", json!({"revision": revision, "digest": right})).expect(200);
    assert_eq!(world.state(), "unlocked", "the shares are there already");
    assert_eq!(world.open(&value), b"x");
    assert!(digest(&world).0 >= revision, "it is the last good one from now on");
}

#[test]
fn a_manifest_that_could_not_be_written_is_written_as_soon_as_it_can_be() {
    let mut world = unlocked(5);
    let path = world.data_dir().join("manifest.json");
    let (before, in_the_way) = (digest(&world).0, world.data_dir().join("manifest.json.new"));
    // No file can be made under a name that is a directory's.
    fs::create_dir(&in_the_way).unwrap();
    world.rotate(9);
    assert!(needs(&world).contains("could not be written"), "{}", needs(&world));
    assert_eq!(digest(&world).0, before);
    fs::remove_dir(&in_the_way).unwrap();
    world.until("the manifest is on disk", || (digest(&world).0 > before).then_some(()));
    assert!(fs::read_to_string(&path).unwrap().contains("\"primary\":10"));
    world.until("nothing is said of it", || (!needs(&world).contains("could not be written")).then_some(()));
}

#[test]
fn an_older_last_good_manifest_follows_the_stored_chain() {
    let mut world = unlocked(5);
    let old = world.encrypt(b"x");
    let saved = world.path("saved");
    copy_store(&world.data_dir(), &saved);
    world.rotate(9);
    let new = world.encrypt(b"y");
    let newest = digest(&world).0;
    world.kill();
    put_back(&world, &saved, &["manifest.json"]);
    world.start();
    // It asks for what the chain asks for: v9 alone is not enough.
    world.unlock(&[(9, 1)]).expect(200);
    assert_eq!(world.unlock(&[(9, 2)]).expect(200)["state"], "unlocking");
    world.unlock(&[(10, 1)]).expect(200);
    assert_eq!(world.unlock(&[(10, 2)]).expect(200)["state"], "unlocked");
    assert_eq!((world.open(&old), world.open(&new)), (b"x".to_vec(), b"y".to_vec()));
    assert_eq!(digest(&world).0, newest);
    assert_eq!(world.get("/v1/status")["manifest"], "store");
}

#[test]
fn a_store_from_an_older_copy_shuts_the_gates_until_an_operator_republishes() {
    let mut world = unlocked(5);
    let old = world.encrypt(b"x");
    world.stop();
    let saved = world.path("saved");
    copy_store(&world.data_dir(), &saved);
    world.start();
    unlock(&world, &[9]);
    world.rotate(9);
    let new = world.encrypt(b"y");
    let newest = digest(&world).0;
    world.kill();
    put_back(&world, &saved, &STORE);
    world.start();
    assert!(needs(&world).contains("republish"), "{}", needs(&world));
    unlock(&world, &[9, 10]);
    serves_with_gates_shut(&world, &old, b"x", 409, "conflict");
    assert_eq!(world.open(&new), b"y");
    for (path, body) in [("/v1/versions/9/activate", json!({})), ("/v1/versions/9/retire", json!({}))] {
        assert_eq!(world.post(path, body).status, 409, "{path}");
    }
    let published = world.post("/v1/manifest/republish", json!({})).expect(200);
    assert!(published["revision"].as_u64().unwrap() > newest);
    assert_eq!(world.get("/v1/status")["manifest"], "store");
    // The gates are open, but for one word: what else was forgotten, only people know.
    assert_eq!(world.post("/v1/requests", json!({"operation": "stage"})).code(), "conflict");
    assert_eq!(world.stage_as(10, json!({"operation": "stage", "highest": 10})), 11);
    // It stands after a restart too.
    world.kill();
    world.start();
    unlock(&world, &[9, 10]);
    assert_eq!(world.get("/v1/status")["manifest"], "store");
    assert_eq!(world.open(&new), b"y");
}

#[test]
fn a_forked_manifest_is_followed_by_nobody_until_one_is_named() {
    let mut world = unlocked(5);
    let value = world.encrypt(b"x");
    world.stop();
    let (base, fork) = (world.path("base"), world.path("fork"));
    copy_store(&world.data_dir(), &base);
    let stage = |world: &mut World| {
        world.start();
        unlock(world, &[9]);
        world.stage(9);
        let seen = digest(world);
        world.stop();
        seen
    };
    let first = stage(&mut world);
    copy_store(&world.data_dir(), &fork);
    put_back(&world, &base, &[&STORE[..], &["manifest.json"]].concat());
    let second = stage(&mut world);
    assert!(first.0 == second.0 && first.1 != second.1);
    // This node holds the first, the store the second, under one number.
    put_back(&world, &fork, &["manifest.json"]);
    world.start();
    unlock(&world, &[9]);
    assert_eq!(world.post("/v1/versions/10/abort", json!({})).code(), "conflict");
    assert_eq!(world.get("/v1/status")["manifest"], "last-good");
    assert_eq!(world.open(&value), b"x");
    let wrong = json!({"revision": first.0, "digest": first.1});
    assert_eq!(world.post("/v1/manifest/confirm", wrong).code(), "conflict", "the store does not have that one");
    world.post("/v1/manifest/confirm", json!({"revision": second.0, "digest": second.1})).expect(200);
    assert_eq!(world.get("/v1/status")["manifest"], "store");
    world.post("/v1/versions/10/abort", json!({})).expect(200);
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn a_manifest_of_another_keyring_is_not_ours() {
    let mut world = unlocked(5);
    let mut other = unlocked(5);
    let value = world.encrypt(b"x");
    world.kill();
    other.kill();
    let (manifest, own) =
        (world.data_dir().join("manifest.json"), fs::read(world.data_dir().join("manifest.json")).unwrap());
    // The same name, made elsewhere: the node keeps to it, and the store's is not followed.
    fs::copy(other.data_dir().join("manifest.json"), &manifest).unwrap();
    world.start();
    let refused = world.unlock(&[(9, 1)]).expect(422);
    assert_eq!(refused["rejected"][0]["code"], "wrong_keyring");
    assert!(needs(&world).contains("disagree"), "{}", needs(&world));
    world.kill();
    // Another name.
    let named = String::from_utf8(own.clone()).unwrap().replace("\"keyring\":\"prod\"", "\"keyring\":\"test\"");
    fs::write(&manifest, named).unwrap();
    world.start();
    assert!(needs(&world).contains("of keyring test, the configuration of prod"), "{}", needs(&world));
    world.kill();
    fs::write(&manifest, own).unwrap();
    world.start();
    unlock(&world, &[9]);
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn without_its_store_a_node_starts_unlocks_and_decrypts_from_the_last_good_manifest() {
    let mut world = unlocked(5);
    let old = world.encrypt(b"x");
    world.rotate(9);
    let newest = digest(&world).0;
    // Gone while it serves.
    for name in STORE {
        let _none = fs::remove_file(world.data_dir().join(name));
    }
    world.until("it is noticed", || needs(&world).contains("metadata store does not answer").then_some(()));
    serves_with_gates_shut(&world, &old, b"x", 503, "store_unavailable");
    // Gone at the start: an empty store is no new keyring.
    world.kill();
    world.start();
    assert_eq!(world.state(), "sealed");
    unlock(&world, &[9, 10]);
    serves_with_gates_shut(&world, &old, b"x", 409, "conflict");
    let again = json!({"keyring": "prod", "threshold": 2, "holders": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(world.post("/v1/init", again.clone()).code(), "conflict");
    assert!(world.post("/v1/manifest/republish", json!({})).expect(200)["revision"].as_u64().unwrap() > newest);
    assert_eq!(world.stage_as(10, json!({"operation": "stage", "highest": 10})), 11);

    // Neither store nor manifest: still no reason to make another keyring in its place.
    world.kill();
    for name in [&STORE[..], &["manifest.json"]].concat() {
        let _none = fs::remove_file(world.data_dir().join(name));
    }
    world.start();
    assert_eq!(world.post("/v1/init", again).code(), "conflict");
}

#[test]
fn a_store_that_can_not_be_opened_is_away_until_it_can() {
    let mut world = unlocked(5);
    let value = world.encrypt(b"x");
    world.stop();
    let saved = world.path("saved");
    copy_store(&world.data_dir(), &saved);
    let meta = world.data_dir().join("meta.db");
    for (what, spoil) in [
        ("a directory", (|path: &Path| fs::create_dir(path).unwrap()) as fn(&Path)),
        ("junk", |path| fs::write(path, vec![b'j'; 8192]).unwrap()),
        ("another program's", |path| {
            rusqlite::Connection::open(path).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
        }),
    ] {
        put_back(&world, Path::new("/nowhere"), &STORE);
        spoil(&meta);
        world.start();
        assert_eq!(world.state(), "sealed", "{what}");
        unlock(&world, &[9]);
        serves_with_gates_shut(&world, &value, b"x", 503, "store_unavailable");
        assert!(needs(&world).contains("metadata store"), "{what}: {}", needs(&world));
        // Repaired while it runs: it is found again by itself.
        if meta.is_dir() {
            fs::remove_dir(&meta).unwrap()
        } else {
            fs::remove_file(&meta).unwrap()
        }
        put_back(&world, &saved, &["meta.db", "meta.db-wal"]);
        world.until("the store is back", || (world.get("/v1/status")["manifest"] == "store").then_some(()));
        let request = world.post("/v1/requests", json!({"operation": "stage"})).expect(202);
        assert_eq!(request["needed"], 2);
        world.stop();
    }
}

#[test]
fn a_full_disk_under_the_store_stops_ceremonies_and_nothing_else() {
    // A small disk of the daemon's own, in its own mount namespace: it needs no cleaning up.
    let mut world = World::new("[metadata]\nurl = \"sqlite://{dir}/disk/meta.db\"\n");
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    let mut command = Command::new("unshare");
    let as_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    command.arg(if as_root { "-m" } else { "-mr" }).args(["sh", "-c"]).arg(format!(
        "mount -t tmpfs -o size=1m,mode=700 tmpfs '{}' && exec '{}' server --config '{}'",
        disk.display(),
        env!("CARGO_BIN_EXE_keymoot"),
        world.config_file().display()
    ));
    world.start_as(command);
    world.init(5, 9);
    unlock(&world, &[9]);
    let value = world.encrypt(b"x");
    let inside =
        Path::new("/proc").join(world.pid().to_string()).join("root").join(disk.strip_prefix("/").unwrap());
    assert!(inside.join("meta.db").exists());
    let fill = || {
        let mut file = fs::File::create(inside.join("fill")).unwrap();
        let full = std::iter::repeat_with(|| file.write_all(&[0; 512])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    };
    let request = world.post("/v1/requests", json!({"operation": "stage"})).expect(202);
    let (id, digest) = (request["id"].as_str().unwrap(), &request["digest"]);
    let consent = |holder: usize| {
        let body = json!({"digest": digest, "parts": {"prod-keyPart-v9": world.share(9, holder)}});
        world.control("POST", &format!("/v1/requests/{id}/consent"), None, body)
    };
    fill();
    assert_eq!(consent(1).expect(200)["have"], 1);
    let full = consent(2);
    assert_eq!((full.status, full.code()), (503, "store_unavailable"), "{}", full.json);
    assert!(full.json["detail"].as_str().unwrap().contains("disk is full"), "{}", full.json);
    assert_eq!(world.get("/v1/versions")["versions"].as_array().unwrap().len(), 1, "nothing is half made");
    assert_eq!(world.open(&value), b"x");
    assert!(world.encrypt(b"y").starts_with("km:v9:"));
    let job = world.post("/v1/rekey", json!({}));
    assert!([400, 503].contains(&job.status), "{}", job.json);

    fs::remove_file(inside.join("fill")).unwrap();
    assert_eq!(world.rotate(9), 10, "no number was used up");
    assert_eq!(world.open(&value), b"x");
    assert!(world.encrypt(b"y").starts_with("km:v10:"));
}
