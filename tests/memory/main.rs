//! What is in the memory of a running daemon, as root sees it: everything while it is unlocked, nothing once sealed.

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
mod image;
mod secrets;

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use serde_json::json;

use self::{
    harness::World,
    image::Image,
    secrets::{Kind, Secrets},
};

/// A field of `/proc/PID/status` or `/proc/PID/limits`.
fn proc_line(world: &World, file: &str, start: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/{file}", world.pid())).unwrap();
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}")).to_owned()
}

/// The daemon under a limit of locked memory, without the capability that lifts it.
fn limited(world: &World, memlock: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", &format!("--memlock={memlock}")])
        .arg(env!("CARGO_BIN_EXE_keymoot"))
        .args(["server", "--config"])
        .arg(world.config_file());
    command
}

/// The first half is the control: what is not found while it must be there would prove nothing by being absent.
#[test]
fn fault_59_after_a_seal_no_key_and_no_share_is_in_the_image_of_the_process() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let secrets = Secrets::of(&world, 9, &[1, 2]);

    // In mid-ceremony the share that was given is there, and nothing that needs two.
    world.unlock(&[(9, 1)]).expect(200);
    let found = secrets.found_in(&Image::of(world.pid()));
    assert!(found.iter().any(|found| found.is(Kind::Share, 1) && found.form == "raw"), "the control: {found:#?}");
    assert!(found.iter().all(|found| found.is(Kind::Share, 1)), "one share is all there is: {found:#?}");

    world.unlock(&[(9, 2)]).expect(200);
    let value = world.encrypt(b"4111 1111 1111 1111");
    assert_eq!(world.open(&value), b"4111 1111 1111 1111");
    let found = secrets.found_in(&Image::of(world.pid()));
    for kind in [Kind::Root, Kind::Prk, Kind::DataKey] {
        assert!(found.iter().any(|found| found.kind == kind), "the control, {kind:?}: {found:#?}");
    }
    // What an unlocked node has no more use for is gone already.
    assert!(found.iter().all(|found| found.kind != Kind::Share), "{found:#?}");

    world.post("/v1/seal", json!(null)).expect(204);
    assert_eq!(world.state(), "sealed");
    let found = secrets.found_in(&Image::of(world.pid()));
    assert!(found.is_empty(), "after the seal: {found:#?}");
}

/// The control of the other spellings, which the daemon holds at no time: a process that has them all.
#[test]
fn every_spelling_of_a_secret_is_found_where_it_is() {
    let mut world = World::new("");
    world.start();
    world.init(3, 9);
    let secrets = Secrets::of(&world, 9, &[1, 2]);
    let texts = secrets.in_text();
    assert!(texts.len() * 2 > secrets.forms(), "{} of {}", texts.len(), secrets.forms());
    let mut holder = Command::new("sleep").arg("600").env("SECRETS", texts.join(" ")).spawn().unwrap();
    let comm = format!("/proc/{}/comm", holder.id());
    while fs::read_to_string(&comm).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    let found = secrets.found_in(&Image::of(holder.id()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(found.len(), texts.len());
    for form in ["text", "text in capitals", "hex", "HEX", "base64", "base64url", "bech32", "bech32 in capitals"] {
        assert!(found.iter().any(|found| found.form == form), "{form}");
    }
}

/// A whole year: a version staged, proved, loaded, activated, and the old one's shares refused and given again.
#[test]
fn fault_59_after_a_rotation_and_a_seal_no_key_and_no_share_of_either_version_is_left() {
    let mut world = World::new("");
    world.start();
    world.init(3, 9);
    world.unlock(&[(9, 1)]).expect(200);
    // A refused part and a cancelled ceremony leave nothing either.
    world.unlock(&[(9, 1)]).expect(422);
    world.control("DELETE", "/v1/unlock", Some(harness::OPERATOR), json!(null)).expect(204);
    world.unlock(&[(9, 2)]).expect(200);
    world.unlock(&[(9, 3)]).expect(200);
    let values: Vec<_> = (0..200).map(|n| world.encrypt(format!("card {n}").as_bytes())).collect();
    let ten = world.rotate(9);
    for value in &values {
        world.data("rewrap", json!({"ciphertext": value})).expect(200);
    }
    world.data("datakey", json!({"bits": 512})).expect(200);
    // New shares of v9, proved and in force: those before are secrets as well.
    let before = Secrets::of(&world, 9, &[1, 2, 3]);
    let holders: serde_json::Value = (1..=3).map(|n| json!({"name": format!("h{n}")})).collect();
    let request = world.ask(json!({"operation": "reshare", "version": 9, "holders": holders}));
    world.consent(&request, &[(ten, 1)]).expect(200);
    world.consent(&request, &[(ten, 2)]).expect(200);
    world.take_packages(9);
    world.prove(9);
    let both = [before, Secrets::of(&world, 9, &[1, 2, 3]), Secrets::of(&world, ten, &[1, 2, 3])];
    let image = Image::of(world.pid());
    for secrets in &both {
        let found = secrets.found_in(&image);
        assert!(!found.is_empty(), "the control: v{}", secrets.version);
    }
    world.post("/v1/seal", json!(null)).expect(204);
    let image = Image::of(world.pid());
    for secrets in &both {
        let found = secrets.found_in(&image);
        assert!(found.is_empty(), "after the seal, v{}: {found:#?}", secrets.version);
    }
}

#[test]
fn fault_59_an_unlocked_daemon_that_aborts_leaves_no_core_file() {
    let mut world = World::new("");
    let cores = world.path("cores");
    fs::create_dir(&cores).unwrap();
    let mut command = Command::new("prlimit");
    command
        .args(["--core=unlimited", env!("CARGO_BIN_EXE_keymoot"), "server", "--config"])
        .arg(world.config_file())
        .current_dir(&cores);
    world.start_as(command);
    world.init(3, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let limit = proc_line(&world, "limits", "Max core file size");
    assert_eq!(limit.split_whitespace().nth(4), Some("0"), "{limit}");
    assert_eq!(limit.split_whitespace().nth(5), Some("0"), "{limit}");
    assert_eq!(proc_line(&world, "status", "CoreDumping:").split_whitespace().nth(1), Some("0"));
    let pid = world.pid().to_string();
    assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
    // Dead and not yet waited for: the last field is what `wait` will say, 0x80 in it would be a core dump.
    let exit_code = world.until("it is dead", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.starts_with('Z').then(|| fields.split_whitespace().last().unwrap().to_owned())
    });
    assert_eq!(exit_code, "6");
    assert_eq!(fs::read_dir(&cores).unwrap().count(), 0);

    // The control: where nothing forbids it the same signal makes the kernel dump.
    let mut control = Command::new("prlimit");
    control.args(["--core=unlimited", "sleep", "60"]).current_dir(&cores).stdin(Stdio::null());
    let mut control = control.spawn().unwrap();
    let comm = format!("/proc/{}/comm", control.id());
    while fs::read_to_string(&comm).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-ABRT", &control.id().to_string()]).status().unwrap().success());
    assert!(control.wait().unwrap().core_dumped(), "this machine dumps no cores, so the test shows nothing");
}

#[test]
fn fault_59_pages_are_locked_and_a_limit_is_a_warning_or_a_refusal() {
    let mut world = World::new("");
    // Root has the capability, whatever the limit.
    world.start();
    let locked = proc_line(&world, "status", "VmLck:");
    let bytes: u64 = locked.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(bytes > 10_000, "{locked}");
    assert!(world.log().contains("memory is locked"));
    world.stop();

    for memlock in ["0", "65536", "4194304"] {
        let mut world = World::new("");
        world.start_as(limited(&world, memlock));
        assert!(proc_line(&world, "status", "VmLck:").ends_with(" 0 kB"));
        let log = world.log();
        assert!(log.contains(&format!("RLIMIT_MEMLOCK is {memlock} bytes")), "{log}");
        assert!(log.contains("LimitMEMLOCK=infinity"), "{log}");
        let limit = proc_line(&world, "limits", "Max locked memory");
        assert_eq!(limit.split_whitespace().nth(3), Some(memlock), "the limit stays as it was: {limit}");
        world.init(3, 9);
        world.unlock(&[(9, 1)]).expect(200);
        world.unlock(&[(9, 2)]).expect(200);
        world.stop();
    }

    let world = World::new("[memory]\nrequire_lock = true\n");
    let output = limited(&world, "65536").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("RLIMIT_MEMLOCK is 65536 bytes") && said.contains("require_lock"), "{said}");
}
