//! `keymoot audit`, on logs that are written here and on one of a real daemon.

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
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_keyring::{
    Validated,
    stage::{new_keyring_id, stage},
};
use keymoot_types::{
    KeyVersion, KeyringId,
    audit::{Chain, Entry, Phase, SignedHead, Tip},
};
use serde_json::Value as Json;
use tempfile::TempDir;

/// A log of one node with a checkpoint in every tenth line, and what its keyring signs with.
struct World {
    dir: TempDir,
    keyring_id: KeyringId,
    signer: Arc<Validated>,
    chain: Chain,
    lines: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let keyring_id = new_keyring_id().unwrap();
        let holders = ["ann", "bob"].map(|name| (name.parse().unwrap(), None));
        let signer = stage(keyring_id, KeyVersion::new(9).unwrap(), 2, &holders).unwrap().validated;
        let chain = Chain::new("db1".parse().unwrap(), "8f0c2a52-6a0e-4a7e-9f39-1f2a6d2f9d11", Tip::START);
        Self { dir: tempfile::tempdir().unwrap(), keyring_id, signer, chain, lines: Vec::new() }
    }

    fn with(length: u64) -> Self {
        let mut world = Self::new();
        world.grow(length, "ann");
        world
    }

    fn grow(&mut self, length: u64, holder: &str) {
        while self.chain.tip().seq < length {
            let entry = if (self.chain.tip().seq + 1).is_multiple_of(10) {
                Entry::checkpoint(&self.head()).unwrap()
            } else {
                Entry::new("unlock-part", Phase::Done).who("ops").fact("holder", holder)
            };
            self.add(&entry);
        }
    }

    fn add(&mut self, entry: &Entry) {
        let made = self.chain.next("2026-11-21T07:00:00Z".parse().unwrap(), entry).unwrap();
        self.chain.advance(&made);
        self.lines.push(made.bytes);
    }

    fn head(&self) -> SignedHead {
        let head = self.chain.head(self.keyring_id).unwrap();
        let signature = self.signer.sign(&head.canonical().unwrap());
        SignedHead { head, version: self.signer.version(), public_key: self.signer.public_key(), signature }
    }

    fn key(&self) -> String {
        hex::encode(self.signer.public_key())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, lines: &[Vec<u8>]) -> String {
        fs::write(self.path(name), lines.concat()).unwrap();
        self.path(name).to_str().unwrap().into()
    }

    fn write_head(&self) -> String {
        let path = self.path("head.json");
        fs::write(&path, serde_json::to_string_pretty(&self.head()).unwrap()).unwrap();
        path.to_str().unwrap().into()
    }
}

fn keymoot(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
    command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

/// What `audit verify` says as a document, and as text.
#[track_caller]
fn verify(arguments: &[&str], code: i32) -> (Json, String) {
    let of = |more: &[&str]| {
        let output = keymoot(&[&["audit", "verify"], arguments, more].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    (serde_json::from_str(&of(&["--output", "json"])).unwrap(), of(&[]))
}

/// The first bad line is this one, for this reason, in both forms of the result.
#[track_caller]
fn assert_bad(arguments: &[&str], file: &str, line: u64, reason: &str) {
    let (json, text) = verify(arguments, 1);
    assert_eq!((json["whole"].as_bool(), json["first_bad"]["line"].as_u64()), (Some(false), Some(line)), "{json}");
    assert_eq!(json["first_bad"]["file"], file);
    assert!(json["first_bad"]["reason"].as_str().unwrap().contains(reason), "{json}");
    assert!(text.starts_with(&format!("{file}, line {line}, seq ")) && text.contains("NOT WHOLE"), "{text}");
}

fn spoil(line: &mut Vec<u8>) {
    let text = String::from_utf8(line.clone()).unwrap();
    *line = text.replace("\"ann\"", "\"bob\"").into_bytes();
    assert_ne!(line, text.as_bytes());
}

#[test]
fn a_whole_log_is_whole_and_it_is_said_what_vouches_for_it() {
    let world = World::with(95);
    let log = world.write("audit.jsonl", &world.lines);
    let (json, text) = verify(&[&log], 0);
    assert_eq!(
        (json["whole"].as_bool(), json["lines"].as_u64(), json["node"].as_str()),
        (Some(true), Some(95), Some("db1"))
    );
    assert_eq!((json["first_seq"].as_u64(), json["last_seq"].as_u64()), (Some(1), Some(95)));
    assert_eq!(json["head"], world.chain.tip().hash.to_string());
    assert_eq!((json["checkpoints"].as_u64(), json["vouched"]["pinned"].as_bool()), (Some(9), Some(false)));
    assert!(text.contains("without --key this proves nothing about who wrote the log"), "{text}");

    let in_base64 = STANDARD.encode(world.signer.public_key());
    for key in [&world.key(), &in_base64] {
        let (json, text) = verify(&[&log, "--key", key], 0);
        assert_eq!(json["vouched"]["pinned"], true);
        assert_eq!((json["vouched"]["seq"].as_u64(), json["vouched"]["version"].as_u64()), (Some(89), Some(9)));
        assert!(text.contains("signed by v9 with the pinned key") && !text.contains("--key"), "{text}");
        assert!(text.contains("no signature vouches yet for seq 90 to 95"), "{text}");
    }
    let (json, text) = verify(&[&log, "--head", &world.write_head(), "--key", &world.key()], 0);
    assert_eq!(json["compared"], 95);
    assert!(text.contains("seq 95 is the one that was signed"), "{text}");
}

#[test]
fn an_altered_removed_doubled_swapped_or_spliced_line_is_named_with_file_and_number() {
    let world = World::with(40);
    let another = World::with(40);
    let change = |reason: &str, line: u64, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = world.lines.clone();
        change(&mut lines);
        let log = world.write("audit.jsonl", &lines);
        assert_bad(&[&log], &log, line, reason);
    };
    change("it was altered", 23, &|lines| spoil(&mut lines[22]));
    change("seq 24 stands where seq 23 belongs", 23, &|lines| drop(lines.remove(22)));
    change("seq 2 stands where seq 1 belongs", 1, &|lines| drop(lines.remove(0)));
    change("seq 23 stands where seq 24 belongs", 24, &|lines| lines.insert(22, lines[22].clone()));
    change("seq 24 stands where seq 23 belongs", 23, &|lines| lines.swap(22, 23));
    change("does not follow the line before it", 23, &|lines| lines[22] = another.lines[22].clone());
    change("not in canonical form", 23, &|lines| lines[22].insert(1, b' '));
    change("it is no record", 1, &|lines| lines.insert(0, b"\n".to_vec()));
}

#[test]
fn a_torn_last_line_is_said_to_be_torn_and_nothing_else() {
    let world = World::with(25);
    let mut lines = world.lines.clone();
    lines[24].truncate(40);
    let log = world.write("audit.jsonl", &lines);
    let (json, text) = verify(&[&log], 1);
    assert_eq!((json["lines"].as_u64(), json["torn_tail"]["line"].as_u64()), (Some(24), Some(25)));
    assert!(
        json["first_bad"].is_null() && text.contains("line 25: its 40 bytes end without a line feed"),
        "{text}"
    );
}

#[test]
fn the_files_of_a_rotation_are_one_log_in_whatever_order_they_are_given() {
    let world = World::with(60);
    let first = world.write("audit-00000000000000000001.jsonl", &world.lines[..20]);
    let second = world.write("audit-00000000000000000021.jsonl", &world.lines[20..45]);
    let current = world.write("audit.jsonl", &world.lines[45..]);
    let copy = world.write("copy-of-the-second", &world.lines[20..45]);
    let dir = world.dir.path().to_str().unwrap();
    fs::write(world.path("manifest.json"), "{}").unwrap();
    for files in
        [&[&*current, &first, &second][..], &[&second, &first, &current], &[&copy, &current, &first], &[dir]]
    {
        let (json, text) = verify(files, 0);
        assert_eq!((json["lines"].as_u64(), json["last_seq"].as_u64()), (Some(60), Some(60)));
        assert!(text.contains("whole: 60 lines, seq 1 to 60"), "{text}");
    }
    assert_bad(&[&current, &first], &current, 1, "seq 46 stands where seq 21 belongs");
    assert_bad(&[&first, &second, &second], &second, 1, "seq 21 stands where seq 46 belongs");

    // What was moved away is missed unless it is named.
    assert_bad(&[&second, &current], &second, 1, "seq 21 stands where seq 1 belongs");
    let (json, _) = verify(&[&second, &current, "--from", "21"], 0);
    assert_eq!(json["first_seq"], 21);

    // A rotated file stays at its place though its first line is damaged; one that ends torn is no tail.
    let mut lines = world.lines[20..45].to_vec();
    lines[0][2] = b'x';
    world.write("audit-00000000000000000021.jsonl", &lines);
    assert_bad(&[dir], &second, 1, "it is no record");
    world.write("audit-00000000000000000021.jsonl", &world.lines[20..45]);
    let mut lines = world.lines[..20].to_vec();
    lines[19].pop();
    world.write("audit-00000000000000000001.jsonl", &lines);
    assert_bad(&[dir], &first, 20, "the file ends within the line");
}

#[test]
fn fault_55_a_cut_tail_and_a_rebuilt_log_are_found_by_a_signed_head() {
    let mut world = World::with(30);
    let early = world.head();
    world.grow(50, "ann");
    let head = world.write_head();
    for length in 0..50 {
        let log = world.write("cut.jsonl", &world.lines[..length]);
        let (json, text) = verify(&[&log, "--head", &head], 1);
        let finding = if length == 0 {
            "there is no line in it".to_owned()
        } else {
            format!("the log ends at seq {length}, and seq 50 was signed")
        };
        assert!(text.contains(&finding) && json["first_bad"].is_null(), "{text}");
    }

    // Whoever can write the file, with a key of their own: the chain is valid, and so are the signatures in it.
    let mut rebuilt = World::with(20);
    rebuilt.grow(60, "eve");
    let log = rebuilt.write("audit.jsonl", &rebuilt.lines);
    let (_, text) = verify(&[&log], 0);
    assert!(text.contains("proves nothing"), "{text}");
    assert_bad(&[&log, "--head", &head], &log, 50, "seq 50 has another hash than the one that was signed");
    assert_bad(&[&log, "--key", &world.key()], &log, 10, "a key that is not pinned");

    // A head counts only with a right signature, and by a pinned key where keys are pinned.
    for forged in [
        SignedHead { head: keymoot_types::audit::Head { seq: 29, ..early.head.clone() }, ..early.clone() },
        rebuilt.head(),
    ] {
        let path = world.path("forged.json");
        fs::write(&path, serde_json::to_string(&forged).unwrap()).unwrap();
        let log = world.write("audit.jsonl", &world.lines);
        let output = keymoot(&["audit", "verify", &log, "--key", &world.key(), "--head", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the signed head: "), "{output:?}");
    }
}

#[test]
fn a_checkpoint_with_a_wrong_signature_is_a_bad_line_and_a_log_without_one_has_no_witness() {
    let mut world = World::with(9);
    let mut forged = world.head();
    forged.signature[0] ^= 1;
    world.add(&Entry::checkpoint(&forged).unwrap());
    let log = world.write("audit.jsonl", &world.lines);
    assert_bad(&[&log], &log, 10, "the signature of v9 is wrong");

    let log = world.write("audit.jsonl", &world.lines[..9]);
    verify(&[&log], 0);
    let (_, text) = verify(&[&log, "--key", &world.key()], 1);
    assert!(text.contains("no line is vouched for"), "{text}");
}

#[test]
fn a_declared_loss_is_a_finding() {
    let mut world = World::with(15);
    let remembered = world.head();
    world.chain = Chain::new("db1".parse().unwrap(), "later", Tip::START);
    world.chain.declare_lost(15);
    world.lines.clear();
    world.add(&Entry::log_lost(Some(&remembered), "the file is missing").unwrap());
    world.grow(30, "ann");
    let log = world.write("audit.jsonl", &world.lines);
    let (json, text) = verify(&[&log], 1);
    assert_eq!((json["losses"].as_u64(), json["first_seq"].as_u64()), (Some(1), Some(16)));
    assert!(
        text.contains("the first in seq 16: lines before it are gone") && json["first_bad"].is_null(),
        "{text}"
    );
}

#[test]
fn wrong_usage_ends_with_two_and_an_unreadable_file_with_one() {
    let world = World::with(3);
    let log = world.write("audit.jsonl", &world.lines);
    let empty = tempfile::tempdir().unwrap();
    let empty: &Path = empty.path();
    for arguments in [
        &["audit", "verify"][..],
        &["audit", "verify", &log, "--key", "x"],
        &["audit", "verify", &log, "--head", &log],
        &["audit", "verify", &log, "--head", "x", "--against-node"],
        &["audit", "verify", empty.to_str().unwrap()],
        &["audit", "tail", "--after", "3", "-n", "3"],
    ] {
        assert_eq!(keymoot(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(keymoot(&["audit", "verify", "/nowhere"]).status.code(), Some(1));
    // Nobody is asked unless --against-node says so.
    let at = "https://127.0.0.1:9";
    assert_eq!(keymoot(&["audit", "verify", &log, "--control-addr", at]).status.code(), Some(0));
    for arguments in [&["audit", "verify", &log, "--against-node"][..], &["audit", "tail"], &["audit", "head"]] {
        let output = keymoot(&[arguments, &["--control-addr", at]].concat());
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }
}

/// Of a daemon: the same commands as its operator gives them.
fn asked(daemon: &harness::World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
    command.arg("audit").args(arguments).args(["--control-addr", daemon.control_url(), "--ca"]);
    command.arg(daemon.data_dir().join("tls-cert.pem")).env_clear().env("KEYMOOT_TOKEN", harness::OPERATOR);
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn document(command: &mut Command) -> Json {
    let output = command.args(["--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It goes on for ever by itself.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

/// What an implementation that shares no code says of the files.
fn oracle(file: &Path) -> Json {
    let python = std::env::var_os("KEYMOOT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/oracle.py");
    let mut child =
        Command::new(python).args([script, "audit"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::json!({"files": [file]}).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_log_of_a_daemon_is_shown_followed_and_verified_by_two_implementations() {
    let mut daemon = harness::World::new("");
    daemon.start();
    let nothing_signed = asked(&daemon, &["head"]).output().unwrap();
    assert_eq!(nothing_signed.status.code(), Some(1), "{nothing_signed:?}");
    daemon.init(3, 9);
    daemon.unlock(&[(9, 1)]).expect(200);
    daemon.unlock(&[(9, 2)]).expect(200);
    // The first checkpoint after the unlock, and one more for a guarded call.
    daemon.rotate(9);
    let head = daemon.until("a signed head", || {
        let output = asked(&daemon, &["head"]).output().unwrap();
        serde_json::from_slice::<SignedHead>(&output.stdout).ok()
    });

    let all = document(&mut asked(&daemon, &["tail", "--after", "0"]));
    let all = all["entries"].as_array().unwrap();
    let seqs: Vec<_> = all.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert_eq!(all[head.head.seq as usize - 1]["hash"], head.head.hash.to_string());
    let newest = document(&mut asked(&daemon, &["tail", "-n", "2"]));
    let newest = newest["entries"].as_array().unwrap();
    assert!(newest.len() == 2 && newest[1]["seq"].as_u64() >= seqs.last().copied(), "{newest:?}");
    let text = asked(&daemon, &["tail", "--after", "0"]).output().unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().lines().count() >= all.len());
    let mut follower = Follower(
        asked(&daemon, &["tail", "-n", "1", "--follow", "--output", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let before: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    daemon.control("DELETE", "/v1/unlock", Some(harness::OPERATOR), Json::Null).expect(204);
    let after: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(after["seq"].as_u64().unwrap(), before["seq"].as_u64().unwrap() + 1);
    drop(follower);

    let manifest: Json =
        serde_json::from_slice(&fs::read(daemon.data_dir().join("manifest.json")).unwrap()).unwrap();
    let keys: Vec<_> =
        manifest["versions"].as_array().unwrap().iter().map(|version| &version["public_key"]).collect();
    let keys: Vec<_> = keys.into_iter().flat_map(|key| ["--key", key.as_str().unwrap()]).collect();
    let data_dir = daemon.data_dir().to_str().unwrap().to_owned();
    let result = document(&mut asked(&daemon, &[&["verify", &data_dir, "--against-node"], &keys[..]].concat()));
    assert!(result["compared"].as_u64() >= Some(head.head.seq) && result["vouched"]["pinned"] == true, "{result}");

    // Stopped, and its tail cut off behind its back.
    let last = daemon.until("a newer head", || {
        let output = asked(&daemon, &["head"]).output().unwrap();
        output.status.success().then_some(output.stdout)
    });
    daemon.stop();
    let log = daemon.data_dir().join("audit.jsonl");
    let (whole, _) = verify(&[&data_dir], 0);
    let said = oracle(&log);
    assert_eq!(
        (&said["lines"], &said["head"], &said["checkpoints"]),
        (&whole["lines"], &whole["head"], &whole["checkpoints"])
    );
    let path = daemon.path("last.head");
    fs::write(&path, last).unwrap();
    let path = path.to_str().unwrap();
    verify(&[&[&*data_dir, "--head", path], &keys[..]].concat(), 0);
    let text = fs::read_to_string(&log).unwrap();
    let cut: String = text.lines().take(head.head.seq as usize - 1).map(|line| format!("{line}\n")).collect();
    fs::write(&log, cut).unwrap();
    let (_, text) = verify(&[&[&*data_dir, "--head", path], &keys[..]].concat(), 1);
    assert!(text.contains("was signed: its tail was cut off"), "{text}");
}

#[test]
fn a_log_whose_daemon_begins_new_files_meanwhile_is_whole_all_the_same() {
    let world = World::with(400);
    let (lines, dir) = (&world.lines, world.dir.path());
    let (begun, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let current = dir.join("audit.jsonl");
            for (line, seq) in lines.iter().zip(1..) {
                fs::write(&current, line).unwrap();
                begun.store(seq, Ordering::SeqCst);
                if over.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
                fs::rename(&current, dir.join(format!("audit-{seq:020}.jsonl"))).unwrap();
            }
        });
        while begun.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        // More often than new files are begun while one of them is read.
        for _ in 0..40 {
            let (json, _) = verify(&[dir.to_str().unwrap()], 0);
            assert!(json["lines"].as_u64().unwrap() > 0, "{json}");
        }
        over.store(true, Ordering::SeqCst);
    });
}
