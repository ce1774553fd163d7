//! `keymoot backup` and `restore-backup`, against the store of a real daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails loudly"
)]

#[path = "../harness/mod.rs"]
mod harness;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{AUDITOR, OPERATOR, SERVICE, World};
use serde_json::{Value as Json, json};

const STORE: [&str; 3] = ["meta.db", "meta.db-wal", "meta.db-shm"];

fn keymoot(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keymoot")).args(arguments).arg("--output=json").env_clear().output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> Json {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

fn backup(world: &World, name: &str) -> (PathBuf, Json) {
    let path = world.path(name);
    let config = world.config_file();
    let made = keymoot(&["backup", "--config", config.to_str().unwrap(), "--out", path.to_str().unwrap()]);
    let made = done(&made);
    (path, made)
}

fn restore(world: &World, file: &Path, more: &[&str]) -> Output {
    let config = world.config_file();
    let arguments = ["restore-backup", file.to_str().unwrap(), "--config", config.to_str().unwrap()];
    keymoot(&[&arguments, more].concat())
}

fn load(world: &World, version: u32) {
    for holder in [1, 2] {
        world.unlock(&[(version, holder)]).expect(200);
    }
}

fn unlocked() -> World {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    load(&world, 9);
    world
}

fn records(path: &Path) -> Vec<(String, Vec<u8>)> {
    let store = rusqlite::Connection::open(path).unwrap();
    let mut statement = store.prepare("SELECT key, value FROM records ORDER BY key").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

fn head_number(signed_head: &[u8]) -> u64 {
    serde_json::from_slice::<Json>(signed_head).unwrap()["head"]["seq"].as_u64().unwrap()
}

fn lines(file: &Path) -> Vec<Json> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_backup_beside_a_running_daemon_holds_every_record_and_no_secret() {
    let mut world = unlocked();
    let value = world.encrypt(b"a plaintext of its own");
    world.rotate(9);
    let (file, made) = backup(&world, "one.backup");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = lines(&file);
    let header = &lines[0];
    assert_eq!((&header["format"], &header["keyring"]), (&json!("keymoot-backup/1"), &json!("prod")));
    assert_eq!((&header["revision"], &header["digest"]), (&made["revision"], &made["digest"]));
    world.kill();
    let stored = records(&world.data_dir().join("meta.db"));
    let held: Vec<_> = lines.iter().filter_map(|line| line["record"].as_object()).collect();
    assert_eq!(header["records"], held.len());
    for record in &held {
        let key = record["key"].as_str().unwrap();
        let value = STANDARD.decode(record["value"].as_str().unwrap()).unwrap();
        let (_, now) = stored.iter().find(|(stored, _)| stored == key).unwrap_or_else(|| panic!("{key} is gone"));
        // The service time and the signed end of the log go on beside the backup.
        let same_or_older = match key.split_once('/').unwrap().0 {
            "clock" => true,
            "audit" => head_number(&value) <= head_number(now),
            _ => &value == now,
        };
        assert!(same_or_older, "{key}");
    }
    let last_good = STANDARD.decode(lines[1]["last_good"].as_str().unwrap()).unwrap();
    assert_eq!(last_good, fs::read(world.data_dir().join("manifest.json")).unwrap());

    let whole: Vec<u8> =
        held.iter().flat_map(|record| STANDARD.decode(record["value"].as_str().unwrap()).unwrap()).collect();
    let text = String::from_utf8_lossy(&whole);
    // Tokens as a whole: three characters of one stand in some canary sooner or later.
    let others = [&*value, "kmshare1", OPERATOR, SERVICE, AUDITOR, "PRIVATE"];
    for secret in world.shares.iter().map(|(_, _, share)| share.as_str()).chain(others) {
        assert!(!text.contains(secret) && !fs::read_to_string(&file).unwrap().contains(secret));
    }
    // Made again in its place, whole.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    backup(&world, "one.backup");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!world.path("one.backup.new").exists());
    let found = done(&keymoot(&["inspect", file.to_str().unwrap()]));
    assert_eq!(
        (&found["kind"], &found["whole"], &found["digest"]),
        (&json!("backup"), &json!(true), &made["digest"])
    );
}

#[test]
fn a_backup_goes_into_an_empty_store_as_a_whole_and_is_marked_as_restored() {
    let mut world = unlocked();
    let value = world.encrypt(b"x");
    let (file, made) = backup(&world, "one.backup");
    refused(&restore(&world, &file, &["--force"]), &["a daemon runs on", "stop it first"]);
    world.stop();
    fs::remove_dir_all(world.data_dir()).unwrap();
    let restored = done(&restore(&world, &file, &[]));
    assert_eq!((&restored["digest"], &restored["replaced"]), (&made["digest"], &Json::Null));
    let stored = records(&world.data_dir().join("meta.db"));
    let marker: Json =
        serde_json::from_slice(&stored.iter().find(|(key, _)| key == "restored/by/backup").unwrap().1).unwrap();
    assert_eq!((&marker["revision"], &marker["digest"]), (&made["revision"], &made["digest"]));
    for line in lines(&file).iter().filter_map(|line| line["record"].as_object()) {
        let value = STANDARD.decode(line["value"].as_str().unwrap()).unwrap();
        assert!(stored.contains(&(line["key"].as_str().unwrap().to_owned(), value)));
    }
    assert!(!world.data_dir().join("manifest.json").exists(), "which manifest counts is an operator's word");
    world.start();
    world
        .post("/v1/manifest/confirm", json!({"revision": made["revision"], "digest": made["digest"]}))
        .expect(200);
    load(&world, 9);
    assert_eq!(world.open(&value), b"x");
    let again = json!({"keyring": "prod", "threshold": 2, "holders": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(world.post("/v1/init", again).code(), "conflict");
}

#[test]
fn a_store_with_records_is_replaced_only_by_force_and_both_revisions_are_named() {
    let mut world = unlocked();
    let (file, made) = backup(&world, "one.backup");
    world.rotate(9);
    let value = world.encrypt(b"of v10");
    world.stop();
    let before = records(&world.data_dir().join("meta.db"));
    let there = format!("revision {}", made["revision"]);
    refused(&restore(&world, &file, &[]), &["revision", &there, "--force", "Nothing was changed"]);
    assert_eq!(records(&world.data_dir().join("meta.db")), before);
    let restored = done(&restore(&world, &file, &["--force"]));
    assert!(restored["replaced"].as_str().unwrap().contains("revision"));
    // The node knew more than the backup, and still does.
    assert!(restored["last_good"].as_u64() > made["revision"].as_u64());
    world.start();
    load(&world, 9);
    load(&world, 10);
    assert_eq!(world.open(&value), b"of v10");
    world.post("/v1/manifest/republish", json!({})).expect(200);
    assert_eq!(world.post("/v1/requests", json!({"operation": "stage"})).code(), "conflict");
    assert_eq!(world.stage_as(10, json!({"operation": "stage", "highest": 10})), 11);
}

#[test]
fn a_manifest_that_was_ahead_of_the_store_when_it_was_backed_up_comes_back() {
    let mut world = unlocked();
    world.stop();
    let meta = world.data_dir().join("meta.db");
    let old: Vec<_> = STORE.map(|name| (name, fs::read(world.data_dir().join(name)).ok())).into();
    world.start();
    load(&world, 9);
    world.rotate(9);
    world.stop();
    for (name, bytes) in old {
        let _none = fs::remove_file(world.data_dir().join(name));
        if let Some(bytes) = bytes {
            fs::write(world.data_dir().join(name), bytes).unwrap();
        }
    }
    assert!(meta.exists());
    let newest = fs::read(world.data_dir().join("manifest.json")).unwrap();
    let (file, made) = backup(&world, "one.backup");
    fs::remove_dir_all(world.data_dir()).unwrap();
    let restored = done(&restore(&world, &file, &[]));
    assert!(restored["last_good"].as_u64() > made["revision"].as_u64());
    assert_eq!(fs::read(world.data_dir().join("manifest.json")).unwrap(), newest);
}

#[test]
fn what_is_no_whole_backup_of_this_keyring_is_refused_and_nothing_is_made() {
    let mut world = unlocked();
    let (file, _) = backup(&world, "one.backup");
    world.stop();
    fs::remove_dir_all(world.data_dir()).unwrap();
    let bytes = fs::read(&file).unwrap();
    let bad = world.path("bad.backup");
    let cut = &bytes[..bytes.len() - 40];
    let newer = String::from_utf8(bytes.clone()).unwrap().replace("keymoot-backup/1", "keymoot-backup/2");
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    for (content, word) in [
        (cut, "cut off"),
        (&altered, "damaged"),
        (newer.as_bytes(), "keymoot-backup/2"),
        (&b"{\"revision\": 1}"[..], "no backup"),
        (b"", "no backup"),
    ] {
        fs::write(&bad, content).unwrap();
        refused(&restore(&world, &bad, &[]), &["bad.backup", word]);
    }
    // Another keyring of the same name, and one of another name.
    let other = unlocked();
    let (foreign, _) = backup(&other, "foreign.backup");
    fs::create_dir_all(world.data_dir()).unwrap();
    done(&restore(&world, &file, &[]));
    refused(&restore(&world, &foreign, &["--force"]), &["keyring id", "nothing was changed"]);
    let config = fs::read_to_string(world.config_file()).unwrap();
    fs::write(world.config_file(), config.replace("keyring = \"prod\"", "keyring = \"test\"")).unwrap();
    refused(&restore(&world, &file, &["--force"]), &["of keyring prod", "here is test"]);
}

#[test]
fn a_store_that_is_not_there_is_not_made_for_a_backup() {
    let world = World::new("");
    let out = world.path("one.backup");
    let config = world.config_file();
    let none = keymoot(&["backup", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    assert!(!out.exists() && !world.data_dir().join("meta.db").exists());
}

#[test]
fn a_second_daemon_on_the_same_data_directory_does_not_start() {
    let world = unlocked();
    let second = Command::new(env!("CARGO_BIN_EXE_keymoot"))
        .args(["server", "--config"])
        .arg(world.config_file())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("a daemon runs on"));
}
