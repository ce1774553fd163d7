//! `keymoot demo` and `keymoot dev`, as somebody runs them who has just installed the program.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use keymoot_api::{Base64Bytes, SecretText};
use keymoot_client::{Client, Options, TransportError, Trouble, Verdict};
use keymoot_types::{ErrorCode, KeyName};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn keymoot(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
    command.env_clear().env("TMPDIR", temporary).stdin(Stdio::null());
    command
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        #[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: i32) -> bool {
    // A process that nobody has waited for yet is not alive.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A program that is stopped whatever happens.
struct Running {
    child: Child,
    _stderr: Option<Lines<BufReader<ChildStderr>>>,
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        until("it does not end", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    fn daemons(&self) -> Vec<i32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn version_count(report: &Json, version: u64) -> u64 {
    let counts = report["values_by_version"].as_array().unwrap();
    counts.iter().find(|count| count["version"] == version).unwrap()["count"].as_u64().unwrap()
}

#[test]
fn the_demo_ends_with_no_failure_and_nothing_of_v9_and_leaves_its_database_where_it_was_told() {
    let outer = tempfile::tempdir().unwrap();
    let (dir, temporary) = (outer.path().join("with a blank"), outer.path().join("tmp"));
    fs::create_dir(&temporary).unwrap();
    let output = keymoot(&temporary)
        .args(["demo", "--records", "2000", "--output", "json", "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    // Exactly one document, and nothing beside it.
    let report: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["succeeded"], &report["failures"]), (&true.into(), &0.into()), "{report:#}");
    assert!(report["requests_served"].as_u64().unwrap() > 0);
    assert_eq!((version_count(&report, 9), report["rows_opened"].as_u64()), (0, report["rows"].as_u64()));
    let replaced =
        report["replaced_by_worker"].as_u64().unwrap() + report["replaced_by_services"].as_u64().unwrap();
    assert_eq!(Some(replaced), report["old_values"].as_u64(), "{report:#}");

    let database = rusqlite::Connection::open(dir.join("app.db")).unwrap();
    let count = |like: &str| {
        let sql = "SELECT count(*) FROM tokens WHERE token LIKE ?1";
        database.query_row(sql, [like], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
    };
    assert_eq!((count("km:v9:%"), count("km:v10:%")), (0, version_count(&report, 10)));
    assert!(count("%") >= 2000);
    for file in ["keymoot.toml", "keymoot.log", "certificate-v9.json"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    assert!(is_empty(&temporary));
    // What a newcomer is told has all the steps.
    for step in ["24 shares", "consents", "24 of 24", "undetermined", "re-encrypts", "quiet_period", "certificate"]
    {
        assert!(told.contains(step), "{step}: {told}");
    }
    // No share and no token was printed or logged.
    let log = fs::read_to_string(dir.join("keymoot.log")).unwrap();
    for text in [&told, log.as_str()] {
        assert!(
            !text.contains("kmshare1") && !text.contains("km_") && !text.contains("AGE-SECRET"),
            "a secret was shown"
        );
    }
}

#[test]
fn the_demo_touches_no_directory_with_something_in_it() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("app.db");
    fs::write(&file, "somebody's").unwrap();
    let output = keymoot(outer.path()).args(["demo", "--dir"]).arg(outer.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(&file).unwrap(), b"somebody's");
}

#[test]
fn a_demo_that_is_interrupted_leaves_neither_files_nor_a_daemon() {
    for (signal, clean) in [(Signal::INT, true), (Signal::TERM, true), (Signal::KILL, false)] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = keymoot(temporary.path());
        let mut child = command.arg("demo").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(told.any(|line| line.unwrap().contains("Two holders unlock")));
        let mut demo = Running { child, _stderr: Some(told) };
        let daemons = demo.daemons();
        assert_eq!(daemons.len(), 1);
        demo.signal(signal);
        assert!(!demo.ended().success());
        until("the daemon outlives the demo", || !daemons.iter().any(|pid| is_alive(*pid)));
        assert!(!clean || is_empty(temporary.path()), "{signal:?}");
    }
}

/// `keymoot dev`, ready.
struct Dev {
    running: Running,
    ready: Json,
    temporary: tempfile::TempDir,
    _stdout: BufReader<ChildStdout>,
}

impl Dev {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = keymoot(temporary.path());
        let mut child = command
            .args(["dev", "--output", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let running = Running { child, _stderr: None };
        let mut document = String::new();
        let ready = loop {
            assert_ne!(stdout.read_line(&mut document).unwrap(), 0, "dev ended: {document}");
            if let Ok(ready) = serde_json::from_str(&document) {
                break ready;
            }
        };
        Self { running, ready, temporary, _stdout: stdout }
    }

    fn text(&self, field: &str) -> &str {
        self.ready[field].as_str().unwrap()
    }

    fn sample(&self, index: usize) -> String {
        self.ready["samples"][index].as_str().unwrap().to_owned()
    }

    fn client(&self, timeout: Duration) -> Client {
        let options = Options {
            token: Some(SecretText::new(self.text("service_token"))),
            ca_pem: Some(fs::read(PathBuf::from(self.text("ca"))).unwrap()),
            timeout,
            retries_max: 0,
            ..Options::new(self.text("addr"))
        };
        Client::new(&options).unwrap()
    }

    /// Ctrl-C.
    fn end(mut self) {
        let daemons = self.running.daemons();
        self.running.signal(Signal::INT);
        assert_eq!(self.running.ended().code(), Some(0));
        until("the daemon outlives dev", || !daemons.iter().any(|pid| is_alive(*pid)));
        assert!(is_empty(self.temporary.path()));
    }
}

fn key() -> KeyName {
    "auth-token".parse().unwrap()
}

fn token() -> Base64Bytes {
    Base64Bytes::new(b"a token".to_vec())
}

fn code<T>(verdict: Verdict<T>) -> ErrorCode {
    match verdict {
        Verdict::Undetermined(Trouble::Problem(problem)) => problem.code,
        Verdict::Undetermined(trouble) => panic!("{trouble}"),
        Verdict::Invalid(problem) => panic!("in trouble, and it says invalid: {problem}"),
        Verdict::Valid(_) => panic!("no trouble"),
    }
}

#[tokio::test]
async fn dev_serves_until_it_is_interrupted_and_its_curl_lines_work_as_printed() {
    let dev = Dev::start(&[]);
    let client = dev.client(PATIENCE);
    let made = client.encrypt(&key(), token(), None).await.valid().unwrap();
    let opened = client.decrypt(&key(), made.ciphertext, None).await.valid().unwrap();
    assert_eq!(opened.plaintext, token());
    for (line, says) in [
        (dev.text("curl_encrypt"), "ciphertext"),
        (dev.ready["curl_decrypt"][0].as_str().unwrap(), "YSB0b2tlbg=="),
    ] {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.contains(" 200") && answer.contains(says), "{line}: {answer}");
    }
    // A second one finds the usual ports taken, and takes others.
    let second = Dev::start(&[]);
    assert_ne!(dev.text("addr"), second.text("addr"));
    assert!(second.client(PATIENCE).decrypt(&key(), second.sample(0), None).await.valid().is_some());
    second.end();
    dev.end();
}

#[tokio::test]
async fn without_v9_its_values_are_undetermined_and_v10_works() {
    let dev = Dev::start(&["--fault", "missing-v9"]);
    let client = dev.client(PATIENCE);
    assert!(dev.sample(0).starts_with("km:v9:"));
    assert_eq!(code(client.decrypt(&key(), dev.sample(0), None).await), ErrorCode::KeyVersionUnavailable);
    assert!(client.decrypt(&key(), dev.sample(1), None).await.valid().is_some());
    let made = client.encrypt(&key(), token(), None).await.valid().unwrap();
    assert_eq!(made.version.get(), 10);
    dev.end();
}

#[tokio::test]
async fn sealed_and_overloaded_are_undetermined_whatever_is_asked() {
    for (fault, wanted) in [("sealed", ErrorCode::Sealed), ("overloaded", ErrorCode::Overloaded)] {
        let dev = Dev::start(&["--fault", fault]);
        let client = dev.client(PATIENCE);
        let verdict = client.decrypt(&key(), dev.sample(0), None).await;
        if let Verdict::Undetermined(trouble) = &verdict {
            assert_eq!(trouble.retry_after().is_some(), fault == "overloaded");
        }
        assert_eq!(code(verdict), wanted);
        assert_eq!(code(client.encrypt(&key(), token(), None).await), wanted);
        dev.end();
    }
}

#[tokio::test]
async fn a_slow_answer_is_right_and_too_late_for_a_client_that_does_not_wait() {
    let dev = Dev::start(&["--fault", "slow"]);
    let begun = Instant::now();
    assert!(dev.client(PATIENCE).decrypt(&key(), dev.sample(0), None).await.valid().is_some());
    assert!(begun.elapsed() >= Duration::from_secs(5));
    let verdict = dev.client(Duration::from_secs(1)).decrypt(&key(), dev.sample(0), None).await;
    assert!(matches!(verdict, Verdict::Undetermined(Trouble::Transport(TransportError::Timeout { .. }))));
    dev.end();
}
