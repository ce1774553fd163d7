//! `keymoot recover`, offline, against shares and values that an independent implementation made.

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
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use tempfile::TempDir;

struct World {
    dir: TempDir,
    vectors: Json,
}

impl World {
    fn new() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keymoot-v1.json");
        let vectors = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), vectors }
    }

    fn version(&self, number: u64) -> &Json {
        self.vectors["versions"].as_array().unwrap().iter().find(|version| version["version"] == number).unwrap()
    }

    fn share(&self, number: u64, x: usize) -> &str {
        self.version(number)["shares"][x - 1]["text"].as_str().unwrap()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().into()
    }

    /// A parts file with the shares of a version at these places.
    fn parts(&self, number: u64, places: &[usize]) -> Vec<String> {
        places
            .iter()
            .map(|x| {
                let line = format!("prod-keyPart-v{number}: {}\n", self.share(number, *x));
                self.file(&format!("v{number}-{x}.parts"), line)
            })
            .collect()
    }

    /// The values of a version and key, as (text, plaintext, associated data), all in bytes.
    fn values(&self, number: u64, key: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
        let of = |value: &&Json| value["version"] == number && value["key"] == key;
        let hex = |value: &Json| hex::decode(value.as_str().unwrap()).unwrap();
        let values = self.vectors["values"].as_array().unwrap().iter().filter(of);
        values
            .map(|value| {
                (value["text"].as_str().unwrap().into(), hex(&value["plaintext"]), hex(&value["associated_data"]))
            })
            .collect()
    }

    /// One of them whose associated data may stand on a line.
    fn value(&self, number: u64, key: &str) -> (String, Vec<u8>, String) {
        let found = self.values(number, key).into_iter().find_map(|(text, plaintext, associated_data)| {
            let associated_data = String::from_utf8(associated_data).ok()?;
            let plain = !plaintext.is_empty() && !associated_data.contains(['\n', '\r', '\t', '\0']);
            plain.then_some((text, plaintext, associated_data))
        });
        found.unwrap()
    }
}

fn recover(parts: &[String], arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keymoot"))
        .arg("recover")
        .arg("--parts")
        .args(parts)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses before it reads closes the pipe.
    let _refused = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// v1 needs 4 shares, v9 needs 2: nobody says so, and the values tell.
#[test]
fn enough_shares_and_one_value_decrypt_every_value_of_the_version() {
    let world = World::new();
    for (number, places, threshold) in
        [(1, &[7, 2, 5, 3][..], 4), (1, &[1, 2, 3, 4, 5, 6, 7], 4), (9, &[24, 11], 2)]
    {
        let (witness, _, bound) = world.value(number, "auth-token");
        let mut lines = String::new();
        let mut expected = Vec::new();
        for (text, plaintext, associated_data) in world.values(number, "auth-token") {
            let Ok(associated_data) = String::from_utf8(associated_data) else { continue };
            if associated_data.contains(['\n', '\r']) {
                continue;
            }
            lines.push_str(&format!("{text}\t{associated_data}\n"));
            expected.push(STANDARD.encode(plaintext));
        }
        assert!(expected.len() > 5);
        let parts = world.parts(number, places);
        let output =
            recover(&parts, &["--witness", &witness, "--key", "auth-token", "--associated-data", &bound], &lines);
        let found = stdout(&output, 0);
        assert_eq!(found.lines().collect::<Vec<_>>(), expected);
        let said = stderr(&output);
        assert!(
            said.contains(&format!("v{number} (key id {})", world.version(number)["key_id"].as_str().unwrap()))
        );
        assert!(said.contains(&format!("{threshold} shares are enough")), "{said}");
    }
}

#[test]
fn too_few_shares_or_a_wrong_witness_are_undetermined_and_nothing_is_printed() {
    let world = World::new();
    let (witness, _, bound) = world.value(1, "auth-token");
    let three = world.parts(1, &[1, 2, 3]);
    let four = world.parts(1, &[1, 2, 3, 4]);
    let of_nine = world.value(9, "auth-token").0;
    for (parts, witness, key, bound) in [
        (&three, &witness, "auth-token", bound.as_str()),
        (&four, &witness, "pii", &bound),
        (&four, &witness, "auth-token", "customers/0"),
        (&four, &of_nine, "auth-token", &bound),
    ] {
        let output =
            recover(parts, &["--witness", witness, "--key", key, "--associated-data", bound], &witness.clone());
        assert_eq!(stdout(&output, 3), "");
        assert!(stderr(&output).contains("error: "), "{output:?}");
    }
}

/// A share of v9 that claims to be of v1 is impossible to name beforehand without a manifest: it is found by trying.
#[test]
fn a_wrong_share_among_right_ones_is_named_and_spoils_nothing() {
    let world = World::new();
    let (witness, plaintext, bound) = world.value(9, "pii");
    let mut parts = world.parts(9, &[3, 8, 15]);
    // A share with a right checksum and another y, as an earlier share set has it.
    let altered = keymoot_types::Share::new(
        world.vectors["keyring_id"].as_str().unwrap().parse().unwrap(),
        "9".parse().unwrap(),
        1.try_into().unwrap(),
        Box::new([0x5a; 32]),
    );
    parts.insert(0, world.file("old.parts", format!("prod-keyPart-v9: {}\n", &*altered.to_text())));
    let arguments = ["--witness", &witness, "--key", "pii", "--associated-data", &bound];
    let output = recover(&parts, &arguments, &witness);
    assert_eq!(stdout(&output, 0), format!("{}\n", STANDARD.encode(&plaintext)));
    let said = stderr(&output);
    assert!(
        said.contains("right are those with x 3, 8, 15; of another key or share set, or altered: x 1"),
        "{said}"
    );

    // A damaged one is refused by its checksum, named by its part, never repeated, and the rest goes on.
    let mut text = world.share(9, 20).to_owned();
    let last = if text.ends_with('q') { "p" } else { "q" };
    text.replace_range(text.len() - 1.., last);
    parts.push(world.file("typo.parts", format!("prod-keyPart-v9: {text}\n")));
    let output = recover(&parts, &arguments, &witness);
    assert_eq!(stdout(&output, 1), format!("{}\n", STANDARD.encode(&plaintext)));
    let said = stderr(&output);
    assert!(said.contains("prod-keyPart-v9") && said.contains("checksum") && !said.contains(&text), "{said}");
}

#[test]
fn several_versions_are_recovered_at_once_and_a_version_without_witness_is_undetermined() {
    let world = World::new();
    let nine = world.value(9, "auth-token");
    let ten = world.value(10, "auth-token");
    let parts = [world.parts(9, &[1, 2]), world.parts(10, &[2, 3])].concat();
    let lines = format!("{}\t{}\r\n\n{}\t{}\nkm:v9:-\n", ten.0, ten.2, nine.0, nine.2);
    let own = ["--key", "auth-token", "--witness", &nine.0, "--witness-associated-data", &nine.2];
    let output = recover(&parts, &own, &lines);
    let found = stdout(&output, 1);
    let found: Vec<_> = found.lines().collect();
    assert!(found[0].starts_with("! v10 was not rebuilt"), "{found:?}");
    assert_eq!(found[1], STANDARD.encode(&nine.1));
    assert!(found[2].starts_with("! "), "{found:?}");

    let output = recover(&parts, &own, &lines.replace("km:v9:-\n", ""));
    stdout(&output, 3);
}

#[test]
fn data_keys_are_opened_and_one_value_comes_out_byte_for_byte() {
    let world = World::new();
    for (number, places) in [(9, [5, 6]), (10, [7, 1])] {
        let of = |data_key: &&Json| data_key["version"] == number;
        for data_key in world.vectors["datakeys"].as_array().unwrap().iter().filter(of) {
            let text = data_key["text"].as_str().unwrap();
            let witness = world.file("witness", format!("{text}\n"));
            let output =
                recover(&world.parts(number, &places), &["--witness", &witness, "--key", "pii", "--raw"], text);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(hex::encode(&output.stdout), data_key["plaintext"].as_str().unwrap());
        }
    }
}

#[test]
fn no_output_holds_a_key_or_a_share() {
    let world = World::new();
    let (witness, _, bound) = world.value(9, "auth-token");
    let arguments =
        ["--witness", &witness, "--witness-key", "auth-token", "--associated-data", &bound, "--output", "json"];
    let output = recover(&world.parts(9, &[1, 2]), &arguments, "");
    let json: Json = serde_json::from_str(&stdout(&output, 0)).unwrap();
    assert_eq!((&json["versions"][0]["version"], &json["versions"][0]["threshold"]), (&9.into(), &2.into()));
    let said = (json.to_string() + &stderr(&output)).to_lowercase();
    let root = world.version(9)["root"].as_str().unwrap();
    for secret in [root, &STANDARD.encode(hex::decode(root).unwrap()).to_lowercase(), "kmshare1"] {
        assert!(!said.contains(secret));
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    let world = World::new();
    let parts = world.parts(9, &[1, 2]);
    let witness = world.value(9, "auth-token").0;
    for arguments in [
        &["--witness", &witness][..],
        &["--witness", "nowhere", "--key", "auth-token"],
        &["--witness", &witness, "--raw"],
        &["--witness", &witness, "--key", "A"],
        &["--key", "auth-token"],
    ] {
        assert_eq!(stdout(&recover(&parts, arguments, ""), 2), "");
    }
    assert_eq!(stdout(&recover(&["-".into()], &["--witness", &witness, "--key", "auth-token"], ""), 2), "");
}

/// The daemon is gone; its last good manifest, two holders' files and the values are left.
#[test]
fn a_manifest_is_a_witness_and_names_the_holders_and_a_share_of_nobody() {
    let mut daemon = harness::World::new("");
    daemon.start();
    daemon.init(5, 9);
    daemon.unlock(&[(9, 2)]).expect(200);
    daemon.unlock(&[(9, 4)]).expect(200);
    let value = daemon.encrypt(b"4111 1111");
    let ten = daemon.rotate(9);
    let newer = daemon.encrypt(b"4222 2222");
    daemon.kill();

    let world = World::new();
    let part = |version: u32, holder: usize| {
        let line = format!("prod-keyPart-v{version}: {}\n", daemon.share(version, holder));
        world.file(&format!("{version}-{holder}.parts"), line)
    };
    let manifest = daemon.data_dir().join("manifest.json").to_str().unwrap().to_owned();
    let parts = [part(9, 5), part(9, 1), part(ten, 3), part(ten, 2)];
    let arguments = ["--witness", &manifest, "--key", harness::KEY];
    let output = recover(&parts, &arguments, &format!("{newer}\n{value}\n"));
    let expected = [&b"4222 2222"[..], b"4111 1111"].map(|text| format!("{}\n", STANDARD.encode(text))).concat();
    assert_eq!(stdout(&output, 0), expected);
    assert!(!stderr(&output).contains("mac"), "{output:?}");
    let output = recover(&parts, &["--witness", &manifest, "--prove", "--output", "json"], "");
    let json: Json = serde_json::from_str(&stdout(&output, 0)).unwrap();
    let versions = json["versions"].as_array().unwrap();
    assert_eq!((&versions[0]["version"], &versions[1]["version"]), (&9.into(), &ten.into()));
    assert_eq!(versions[0]["holders"], serde_json::json!(["h5", "h1"]));

    // One share too few, and one that nobody was given.
    let output = recover(&parts[..3], &arguments, &format!("{newer}\n{value}\n"));
    assert!(stdout(&output, 3).starts_with("! v10 was not rebuilt"), "{output:?}");
    assert!(
        stderr(&output).contains("v10 needs 2 shares of its present share set, and 1 were given"),
        "{output:?}"
    );
    let of_another_keyring = world.parts(9, &[1, 2]);
    assert_eq!(stdout(&recover(&of_another_keyring, &arguments, &value), 3), "");

    // A manifest that was altered still proves the keys by their key checks, and is called altered.
    let text = fs::read_to_string(&manifest).unwrap();
    let altered = world.file("altered.json", text.replace("\"local\"", "\"other\""));
    let output = recover(&parts, &["--witness", &altered, "--prove"], "");
    stdout(&output, 0);
    assert!(stderr(&output).contains("carries no right mac of v9"), "{output:?}");
}
