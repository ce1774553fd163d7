//! Every node and the store are gone, and the backup is older than the last rotation: not one wrong verdict on the
//! way back, and no number is given twice.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::blocking::Client;
use serde_json::{Value as Json, json};

use crate::harness::{Background, KEY, SERVICE, SOURCE, World, make_table};

const ROWS: usize = 1000;

fn keymoot(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
    command.args(arguments).arg("--config").arg(world.config_file()).arg("--output=json").output().unwrap()
}

fn done(output: Output) -> Json {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn backup(world: &World) -> Json {
    done(keymoot(world, &["backup", "--out", world.path("backup").to_str().unwrap()]))
}

/// All that a node and its store have, and the way back from the backup: the node is unlocked with v9.
fn lose_all_and_restore(world: &mut World, noted: &Json) {
    world.kill();
    fs::remove_dir_all(world.data_dir()).unwrap();
    let restored = done(keymoot(world, &["restore-backup", world.path("backup").to_str().unwrap()]));
    assert_eq!(restored["digest"], noted["digest"]);
    world.start();
    assert_eq!(world.state(), "sealed");
    world.unlock_by(9, &[3, 4]);
    assert_eq!(world.state(), "unlocking", "nobody has said yet that this manifest counts");
    let named = json!({"revision": noted["revision"], "digest": noted["digest"]});
    assert!(world.get("/v1/status")["needs"].to_string().contains(named["digest"].as_str().unwrap()));
    world.post("/v1/manifest/confirm", named).expect(200);
    assert_eq!(world.state(), "unlocked");
}

/// A client that asks for every value again and again, whatever happens to the daemon.
struct Watcher {
    seen: Arc<Seen>,
    background: Background<()>,
}

#[derive(Default)]
struct Seen {
    values: Mutex<Vec<String>>,
    daemon: Mutex<Option<(Client, String)>>,
    answers: Mutex<BTreeMap<String, u64>>,
}

impl Watcher {
    fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let watched = seen.clone();
        Self { seen, background: Background::start(move |stop| watched.watch(stop)) }
    }

    fn watch_also(&self, values: &[String]) {
        self.seen.values.lock().unwrap().extend_from_slice(values);
    }

    /// The daemon listens on another port after every start.
    fn follow(&self, world: &World) {
        let url = format!("{}/v1/keys/{KEY}/decrypt", world.data_url());
        *self.seen.daemon.lock().unwrap() = Some((world.http(), url));
    }

    /// How often each answer came.
    fn end(self) -> BTreeMap<String, u64> {
        self.background.end();
        std::mem::take(&mut *self.seen.answers.lock().unwrap())
    }
}

impl Seen {
    fn watch(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let values = self.values.lock().unwrap().clone();
            let Some((http, url)) = self.daemon.lock().unwrap().clone() else {
                std::thread::yield_now();
                continue;
            };
            let items: Vec<_> = values.iter().map(|value| json!({"ciphertext": value})).collect();
            let request = http.post(url).bearer_auth(SERVICE).body(json!({"items": items}).to_string());
            let Ok(response) = request.send() else { continue };
            // A node that is sealed, or goes away, says nothing of any value.
            let Ok(answer) = response.bytes().map(|bytes| serde_json::from_slice(&bytes).unwrap_or(Json::Null))
            else {
                continue;
            };
            let mut answers = self.answers.lock().unwrap();
            let none = vec![answer.clone()];
            for item in answer["items"].as_array().unwrap_or(&none) {
                let problem = if item["error"].is_object() { &item["error"] } else { item };
                let said = format!("{} {}", problem["verdict"].as_str().unwrap_or("none"), problem["code"]);
                *answers.entry(said).or_default() += 1;
            }
        }
    }
}

fn rows(world: &World) -> Vec<String> {
    let table = rusqlite::Connection::open(world.path("app.db")).unwrap();
    let mut statement = table.prepare("SELECT token FROM tokens ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn of(values: &[String], version: u32) -> usize {
    values.iter().filter(|value| value.starts_with(&format!("km:v{version}:"))).count()
}

/// Stops a job when part of its rows are rekeyed.
fn rekey_in_part(world: &World) {
    let switch = world.data_dir().join("pause-rekey");
    fs::write(&switch, "").unwrap();
    let job = world.post("/v1/rekey", json!({})).expect(202);
    let path = format!("/v1/rekey/{}", job["id"].as_str().unwrap());
    world.control("PATCH", &path, Some(crate::harness::OPERATOR), json!({"max_rows_per_second": 10})).expect(200);
    fs::remove_file(&switch).unwrap();
    world.until("some rows are rekeyed", || (of(&rows(world), 10) > 0).then_some(()));
}

fn recovered(world: &World, version: u32, value: &str) -> Vec<u8> {
    let files: Vec<_> = [1, 2].map(|holder| world.path(&format!("h{holder}.parts"))).into();
    for (holder, file) in (1..).zip(&files) {
        fs::write(file, format!("prod-keyPart-v{version}: {}\n", world.share(version, holder))).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_keymoot"))
        .args(["recover", "--witness", value, "--key", KEY, "--parts"])
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    STANDARD.decode(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
}

#[test]
fn all_is_lost_and_comes_back_from_a_backup_before_the_rotation_without_one_wrong_verdict() {
    let mut world = World::new(SOURCE);
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    let plain: Vec<_> = (0..ROWS).map(|n| format!("row {n}")).collect();
    make_table(&world.path("app.db"), &world.encrypt_all(&plain));
    let issued = world.encrypt_all(&["a".to_owned(), "b".to_owned()]);
    let watcher = Watcher::start();
    watcher.watch_also(&issued);
    watcher.watch_also(&rows(&world));
    watcher.follow(&world);
    let noted = backup(&world);

    world.rotate(9);
    let new = world.encrypt_all(&["c".to_owned(), "d".to_owned()]);
    assert_eq!(of(&new, 10), 2);
    watcher.watch_also(&new);
    rekey_in_part(&world);
    lose_all_and_restore(&mut world, &noted);
    watcher.follow(&world);
    let halfway = rows(&world);
    watcher.watch_also(&halfway);
    let (old, rekeyed) = (of(&halfway, 9), of(&halfway, 10));
    assert!(old > 0 && rekeyed > 0 && old + rekeyed == ROWS, "{old} rows of v9, {rekeyed} of v10");

    // What there is opens; what is not known is undetermined; what is junk is invalid.
    for (row, value) in halfway.iter().enumerate().step_by(7) {
        if value.starts_with("km:v9:") {
            assert_eq!(world.open(value), format!("row {row}").as_bytes());
        } else {
            world.decrypt(value).expect_problem(503, "unknown_key_version", "undetermined");
        }
    }
    let mut altered = issued[0].clone().into_bytes();
    altered[20] = if altered[20] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    world.decrypt("garbage").expect_problem(422, "malformed_ciphertext", "invalid");
    world.decrypt(&altered).expect_problem(422, "authentication_failed", "invalid");

    // The rotation that nobody here remembers is not made a second time.
    let refused = world.post("/v1/requests", json!({"operation": "stage"}));
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "{}", refused.json);
    assert!(refused.json["detail"].as_str().unwrap().contains("--highest"), "{}", refused.json);
    assert!(world.get("/v1/status")["needs"].to_string().contains("--highest"));

    // v10 comes back by its shares, to decrypt.
    let request = world.ask(json!({"operation": "import", "version": 10, "witness": new[0]}));
    world.consent(&request, &[(10, 1), (9, 1)]).expect(200);
    assert_eq!(world.consent(&request, &[(10, 2), (9, 2)]).expect(200)["version"], 10);
    for (row, value) in halfway.iter().enumerate().step_by(7) {
        assert_eq!(world.open(value), format!("row {row}").as_bytes());
    }
    assert_eq!(world.open(&new[1]), b"d");

    // The next version is one that never was.
    assert_eq!(world.post("/v1/requests", json!({"operation": "stage"})).code(), "conflict");
    assert_eq!(world.stage_as(9, json!({"operation": "stage", "highest": 10})), 11);
    world.prove(11);
    world.unlock_by(11, &[1, 2]);
    world.post("/v1/versions/11/activate", json!({})).expect(200);
    let job = world.rekey();
    assert_eq!((&job["state"], of(&rows(&world), 11)), (&json!("completed"), ROWS), "{job}");
    watcher.watch_also(&rows(&world));
    // A whole round behind the last change.
    let answers = || watcher.seen.answers.lock().unwrap().values().sum::<u64>();
    let so_far = answers();
    world.until("every value was asked for again", || (answers() > so_far + 8 * ROWS as u64).then_some(()));
    let answers = watcher.end();
    assert!(answers["valid null"] > 0 && answers["undetermined \"unknown_key_version\""] > 0, "{answers:?}");
    assert!(!answers.keys().any(|answer| answer.starts_with("invalid")), "{answers:?}");

    // With neither daemon nor store, the shares are enough.
    world.kill();
    fs::remove_dir_all(world.data_dir()).unwrap();
    assert_eq!(recovered(&world, 9, &issued[0]), b"a");
    assert_eq!(recovered(&world, 10, &new[0]), b"c");
}
