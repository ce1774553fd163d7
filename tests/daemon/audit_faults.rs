//! Fault 56 of `docs/track-record.md`: the audit log's disk is full, its file is deleted, renamed or replaced, a write
//! hangs. What makes, moves or destroys keys is refused, what leads back to service is not, and it heals by itself.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value as Json, json};

use crate::{
    audit::{file, files, last, lines, metric, needs, report, whole},
    harness::{OPERATOR, World},
    trap::dies,
    unlock, unlocked,
};

/// `strace` on the one thread that writes the log.
pub struct Tracer(Child);

impl Tracer {
    pub fn set(world: &World, call: &str, inject: &str) -> Self {
        let tasks = format!("/proc/{}/task", world.pid());
        let thread = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path()).find(|task| {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.trim() == "audit"
        });
        let thread = thread.expect("the log's thread");
        let child = Command::new("strace")
            .args(["-qq", "-o", world.path("strace").to_str().unwrap(), "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{inject}")])
            .args(["-p", thread.file_name().unwrap().to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace did not start ({error}): install strace"));
        let mut tracer = Self(child);
        world.until("strace is attached", || {
            if tracer.0.try_wait().unwrap().is_some() {
                // The log may have been written to, and the injected signal sent, before it was looked at.
                assert!(dies(world.pid()), "strace ended");
                return Some(());
            }
            let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Two versions, v10 the primary: there is a way back to v9.
fn rotated() -> World {
    let mut world = unlocked(5);
    world.rotate(9);
    world
}

/// A call that is guarded, and changes nothing where it is let through.
fn guarded(world: &World) -> (u16, String, String) {
    let answer = world.once("POST", "/v1/versions/77/abort", Some(OPERATOR), json!({}));
    let detail = answer.json["detail"].as_str().unwrap_or_default().to_owned();
    (answer.status, answer.code().to_owned(), detail)
}

/// The log fails, for a cause that is named: what is refused, and what goes on.
#[track_caller]
fn fails_closed_and_open(world: &World, cause: &str) {
    let detail = world.until("what is guarded is refused", || {
        let (status, code, detail) = guarded(world);
        assert!([404, 503].contains(&status), "{status} {code}");
        // Between two steps of the harm it may have looked, and have seen something else.
        (code == "audit_unavailable" && detail.contains(cause)).then_some(detail)
    });
    assert!(detail.starts_with("nothing was done"), "{detail}");
    assert!(
        needs(world).contains("the audit log can't be written") && needs(world).contains(cause),
        "{}",
        needs(world)
    );
    assert_eq!(metric(world, "keymoot_audit_ok"), Some(0.0));
    assert!(metric(world, "keymoot_audit_failures_total").unwrap() > 0.0);
    // What makes, moves or destroys keys is not done.
    let revision = world.get("/v1/status")["revision"].clone();
    for (method, path, body) in [
        ("POST", "/v1/requests", json!({"operation": "stage"})),
        ("GET", "/v1/versions/10/packages", Json::Null),
        ("POST", "/v1/versions/9/retire", json!({})),
        ("POST", "/v1/versions/11/activate", json!({})),
        ("POST", "/v1/manifest/republish", Json::Null),
        ("POST", "/v1/rekey", json!({})),
        (
            "POST",
            "/v1/init",
            json!({"keyring": "prod", "threshold": 2, "holders": [{"name": "a"}, {"name": "b"}]}),
        ),
    ] {
        let answer = world.once(method, path, Some(OPERATOR), body);
        assert_eq!((answer.status, answer.code()), (503, "audit_unavailable"), "{method} {path}");
        assert_eq!(answer.json["verdict"], "undetermined");
    }
    assert_eq!(world.get("/v1/status")["revision"], revision, "nothing was changed");
    // Values are served, and readiness asks no log.
    let value = world.encrypt(b"x");
    assert_eq!(world.open(&value), b"x");
    assert_eq!(world.control("GET", "/readyz", None, Json::Null).status, 200);
    // The ways back stay open.
    assert_eq!(world.post("/v1/seal", Json::Null).status, 204);
    assert_eq!(world.state(), "sealed");
    world.unlock(&[(9, 1)]).expect(200);
    assert_eq!(world.control("DELETE", "/v1/unlock", Some(OPERATOR), Json::Null).status, 204);
    unlock(world, &[9, 10]);
    assert_eq!(world.open(&value), b"x");
    world.submit("/v1/prove/parts", &[(10, 3)]).expect(200);
    world.post("/v1/versions/9/activate", json!({})).expect(200);
    assert_eq!((world.state_of(9), world.state_of(10)), ("primary".into(), "decrypt-only".into()));
    let forth = world.once("POST", "/v1/versions/10/activate", Some(OPERATOR), json!({}));
    assert_eq!((forth.status, forth.code()), (503, "audit_unavailable"), "this is no way back");
}

/// It works again, and what was done meanwhile stands in the log, marked.
#[track_caller]
fn heals(world: &World) {
    world.until("what is guarded is let through", || (guarded(world).0 == 404).then_some(()));
    let spilled: Vec<_> = world.until("what was spilled is in the log", || {
        let spilled: Vec<_> = lines(&files(&world.data_dir()))
            .into_iter()
            .filter(|line| line["facts"]["spilled"].is_object())
            .map(|line| format!("{} {}", line["event"].as_str().unwrap(), line["phase"].as_str().unwrap()))
            .collect();
        let all = ["seal done", "unlock-parts done", "unlock-reset done", "prove-parts done", "activate done"];
        all.iter().all(|wanted| spilled.iter().any(|line| line == wanted)).then_some(spilled)
    });
    assert!(
        !spilled.iter().any(|line| line.starts_with("request ") || line.starts_with("retire ")),
        "{spilled:?}"
    );
    for event in ["seal", "activate", "unlock-parts"] {
        let marked = world.log().lines().any(|line| {
            let line: Json = serde_json::from_str(line).unwrap_or_default();
            line["audit_spill"] == true && line["record"].as_str().unwrap().contains(&format!("\"{event}\""))
        });
        assert!(marked, "{event} stands in the system's log");
    }
    world.until("it says so", || (metric(world, "keymoot_audit_ok") == Some(1.0)).then_some(()));
    assert!(!needs(world).contains("audit"), "{}", needs(world));
    world.until("nothing waits in the store", || (stored_spills(world) == 0).then_some(()));
    world.post("/v1/versions/10/activate", json!({})).expect(200);
}

fn stored_spills(world: &World) -> i64 {
    let store = rusqlite::Connection::open(world.data_dir().join("meta.db")).unwrap();
    let sql = "SELECT count(*) FROM records WHERE key LIKE 'audit-spill/%'";
    store.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[test]
fn fault_56_a_file_that_was_renamed_deleted_or_replaced_shuts_the_gates_until_it_is_back() {
    let world = rotated();
    let aside = world.path("aside");
    let by_directory = |world: &World| fs::create_dir(file(world)).unwrap();
    let by_file = |world: &World| fs::write(file(world), "{}\n").unwrap();
    for (cause, replace) in [
        ("is gone", None),
        ("replaced by a directory", Some(&by_directory as &dyn Fn(&World))),
        ("replaced by another file", Some(&by_file)),
    ] {
        fs::rename(file(&world), &aside).unwrap();
        if let Some(replace) = replace {
            replace(&world);
        }
        fails_closed_and_open(&world, cause);
        if file(&world).is_dir() {
            // In one step, so that what it sees in between is the directory.
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &aside, rustix::fs::CWD, file(&world), flags).unwrap();
            fs::remove_dir(&aside).unwrap();
        } else {
            fs::rename(&aside, file(&world)).unwrap();
        }
        heals(&world);
        let resumed = last(&whole(&world), "log-resumed", "note").clone();
        assert!(resumed["facts"]["cause"].as_str().unwrap().contains(cause), "{resumed}");
    }
    // A copy is as good as the file itself.
    fs::rename(file(&world), &aside).unwrap();
    fails_closed_and_open(&world, "is gone");
    fs::copy(&aside, file(&world)).unwrap();
    heals(&world);
    whole(&world);
    // Deleted for good: an operator begins a new one, and the chain goes on.
    fs::remove_file(file(&world)).unwrap();
    fails_closed_and_open(&world, "is gone");
    world.post("/v1/reload", Json::Null).expect(200);
    heals(&world);
    let lines = whole(&world);
    assert_eq!(lines[0]["event"], "new-file");
    assert_ne!(lines[0]["previous"], "0".repeat(64), "{}", lines[0]);
}

#[test]
fn fault_56_a_full_disk_under_the_log_shuts_the_gates_until_there_is_space() {
    let mut world = World::new("");
    let disk = world.path("disk");
    for dir in [&disk, &world.data_dir()] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(file(&world), "").unwrap();
    // A small disk of the log's own, in the daemon's mount namespace: it needs no cleaning up.
    let as_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new("unshare");
    command.arg(if as_root { "-m" } else { "-mr" }).args(["sh", "-c"]).arg(format!(
        "mount -t tmpfs -o size=256k,mode=700 tmpfs '{disk}' && touch '{disk}/log' && mount --bind '{disk}/log' '{log}' \
         && exec '{keymoot}' server --config '{config}'",
        disk = disk.display(),
        log = file(&world).display(),
        keymoot = env!("CARGO_BIN_EXE_keymoot"),
        config = world.config_file().display()
    ));
    world.start_as(command);
    world.init(5, 9);
    unlock(&world, &[9]);
    world.rotate(9);
    let inside =
        Path::new("/proc").join(world.pid().to_string()).join("root").join(disk.strip_prefix("/").unwrap());
    let mut filler = fs::File::create(inside.join("fill")).unwrap();
    let full = std::iter::repeat_with(|| filler.write_all(&[0; 512])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    fails_closed_and_open(&world, "No space left on device");
    // It is tried again all the time, and what does not fit is taken back each time.
    let taken_back = || report(&[inside.join("log")]).is_whole().then_some(());
    world.until("what did not fit is taken back", taken_back);
    drop(filler);
    fs::remove_file(inside.join("fill")).unwrap();
    world.until("what is guarded is let through", || (guarded(&world).0 == 404).then_some(()));
    world.until("what was spilled is in the log", || {
        let lines = lines(&[inside.join("log")]);
        lines.iter().any(|line| line["event"] == "activate" && line["facts"]["spilled"].is_object()).then_some(())
    });
    assert!(report(&[inside.join("log")]).is_whole());
}

#[test]
fn fault_56_a_write_that_hangs_shuts_the_gates_and_what_was_refused_meanwhile_says_so() {
    let world = rotated();
    let hang = Tracer::set(&world, "fdatasync", "delay_enter=3600000000");
    let first = guarded(&world);
    assert_eq!(first.1, "audit_unavailable", "nobody waits for it: {first:?}");
    fails_closed_and_open(&world, "has not come back");
    drop(hang);
    heals(&world);
    let lines = whole(&world);
    let abandoned = last(&lines, "not-done", "refused")["facts"]["intent"].as_u64().unwrap();
    let intent = lines.iter().find(|line| line["seq"] == abandoned).unwrap();
    assert_eq!((&intent["event"], &intent["phase"]), (&json!("abort"), &json!("intent")));
}

#[test]
fn fault_56_what_was_written_later_than_anybody_waited_stands_in_the_log_once() {
    let world = rotated();
    let hang = Tracer::set(&world, "fdatasync", "delay_enter=3600000000");
    // It goes on without its record.
    assert_eq!(world.post("/v1/seal", Json::Null).status, 204);
    assert_eq!(world.state(), "sealed");
    drop(hang);
    let seals = |phase: &str| {
        let lines = lines(&files(&world.data_dir()));
        lines.into_iter().filter(|line| line["event"] == "seal" && line["phase"] == phase).collect::<Vec<_>>()
    };
    // Records go there in the order in which they were spilled.
    world.until("what was done meanwhile is in the log", || (!seals("done").is_empty()).then_some(()));
    assert_eq!((seals("intent").len(), seals("done").len()), (1, 1));
    assert!(whole(&world).iter().all(|line| line["event"] != "not-done"), "it was done");
}

#[test]
fn a_daemon_that_starts_without_a_log_unlocks_and_writes_it_once_it_can() {
    let mut world = unlocked(5);
    world.rotate(9);
    world.stop();
    let aside = world.path("aside");
    fs::rename(file(&world), &aside).unwrap();
    fs::create_dir(file(&world)).unwrap();
    world.start();
    assert_eq!(guarded(&world).1, "audit_unavailable");
    unlock(&world, &[9, 10]);
    fails_closed_and_open(&world, "audit.jsonl");
    // What it can't write it remembers beyond its end.
    world.until("the store has all of it", || {
        let spilled = world.log().matches("\"audit_spill\":true").count();
        (i64::try_from(spilled) == Ok(stored_spills(&world))).then_some(())
    });
    world.kill();
    fs::remove_dir(file(&world)).unwrap();
    fs::rename(&aside, file(&world)).unwrap();
    world.start();
    unlock(&world, &[9, 10]);
    heals(&world);
    whole(&world);
}
