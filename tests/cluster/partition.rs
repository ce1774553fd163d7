//! Three machines whose cables are pulled out, in the midst of a rotation and of a rekey.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    cluster::{Cluster, PATIENT, missing},
    harness::{
        KEY, OPERATOR, SERVICE, SOURCE, World, make_table, oracle,
        servers::{Etcd, Postgres},
    },
    namespaces::Machine,
};

const ROWS: usize = 3_000;
/// So slow that the cables come out in the middle.
const ROWS_PER_SECOND: u64 = 40;
const TAKEN: &str = "this node works on the source";

/// A value, and what it holds.
type Known = (String, String);

/// Answers on values while a story went on.
#[derive(Default)]
struct Heard {
    valid: AtomicUsize,
    retryable: AtomicUsize,
}

/// Decrypts on one node until it is over. A wrong word on a good value ends the test.
fn decrypt_all_along(node: &World, values: &[Known], heard: &Heard, over: &AtomicBool) {
    let url = format!("{}/v1/keys/{KEY}/decrypt", node.data_url());
    for (value, text) in values.iter().cycle() {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let body = json!({"ciphertext": value}).to_string().into_bytes();
        let ask = || node.try_raw(url.clone(), "POST", Some(SERVICE), body.clone());
        // A connection that was idle for ten seconds is given up, which is found out by the next question.
        let answer = ask().or_else(|_| ask()).unwrap();
        if answer.verdict.as_deref() == Some("valid") {
            assert_eq!(STANDARD.decode(answer.json["plaintext"].as_str().unwrap()).unwrap(), text.as_bytes());
            heard.valid.fetch_add(1, Ordering::SeqCst);
        } else {
            assert_eq!((answer.status, answer.verdict.as_deref()), (503, Some("undetermined")), "{}", answer.json);
            heard.retryable.fetch_add(1, Ordering::SeqCst);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Every node is asked all along; whatever ends the story, ends that.
fn while_asked(cluster: &Cluster, values: &[Known], story: impl FnOnce()) {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (over, heard) = (AtomicBool::new(false), [0; 3].map(|_| Heard::default()));
    thread::scope(|scope| {
        for (node, heard) in cluster.nodes.iter().zip(&heard) {
            let over = &over;
            scope.spawn(move || decrypt_all_along(node, values, heard, over));
        }
        let _ends = Ends(&over);
        story();
    });
    for heard in heard {
        let (valid, retryable) = (heard.valid.into_inner(), heard.retryable.into_inner());
        println!("{valid} opened, {retryable} to be asked again");
        // All of them hold every key throughout: a cable has nothing to do with it.
        assert!(valid > 100 && retryable == 0, "{valid} opened, {retryable} to be asked again");
    }
}

struct Machines {
    machines: Vec<Machine>,
    cluster: Cluster,
    _files: tempfile::TempDir,
    app: std::path::PathBuf,
}

impl Machines {
    fn new(store: &[SocketAddr], url_at: impl Fn(&[SocketAddr]) -> String) -> Self {
        let files = tempfile::tempdir().unwrap();
        let source = PATIENT.to_owned() + &SOURCE.replace("{dir}", files.path().to_str().unwrap());
        let mut machines: Vec<_> = (0..3).map(|_| Machine::new()).collect();
        let urls: Vec<_> = machines
            .iter_mut()
            .map(|machine| url_at(&store.iter().map(|member| machine.leads_to(*member)).collect::<Vec<_>>()))
            .collect();
        let mut machine = machines.iter_mut();
        let cluster = Cluster::started([&urls[0], &urls[1], &urls[2]], &source, |world| {
            machine.next().unwrap().start(world);
        });
        Self { app: files.path().join("app.db"), machines, cluster, _files: files }
    }

    fn until_healed(&self) {
        for node in &self.cluster.nodes {
            node.until("it follows the store", || (node.get("/v1/status")["manifest"] == "store").then_some(()));
        }
        self.cluster.until_all_present();
    }

    fn until_cut_off(&self, n: usize) {
        let node = &self.cluster.nodes[n];
        node.until("it is cut off", || (node.get("/v1/status")["manifest"] == "last-good").then_some(()));
    }

    fn rotates(&self, v10: u32) {
        let Self { machines, cluster, .. } = self;
        let nodes = &cluster.nodes;
        // Cut off, db3 has neither v10 nor news: it is what the gate waits for.
        machines[2].plug(false);
        for node in &nodes[..2] {
            node.unlock_by(v10, &[1, 2]);
        }
        nodes[0].until("db3 is all that is missing", || {
            let refused = cluster.activate(v10, json!({}));
            // It may be said as well that the store, or the audit log's disk, is too slow now.
            assert!([409, 503].contains(&refused.status), "{}", refused.json);
            assert_eq!(nodes[0].state_of(9), "primary");
            if refused.status == 503 {
                return None;
            }
            let missing = missing(&refused.json);
            (!missing.is_empty() && missing.iter().all(|(_, who)| who == "db3")).then_some(())
        });
        for node in nodes {
            assert!(node.encrypt(b"x").starts_with("km:v9:"));
        }
        machines[2].plug(true);
        nodes[2].unlock_by(v10, &[3, 4]);
        // From now on cables come out at any moment, until it is done.
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in [1, 2, 0, 2] {
                    machines[n].plug(false);
                    thread::sleep(Duration::from_millis(2_500));
                    machines[n].plug(true);
                    thread::sleep(Duration::from_millis(3_500));
                }
                done.store(true, Ordering::SeqCst);
            });
            nodes[0].until("the cables are left alone", || {
                let answer = cluster.activate(v10, json!({}));
                assert!([200, 409, 503].contains(&answer.status), "{}", answer.json);
                // Who encrypts with v10 is opened by everybody.
                for value in nodes.iter().map(|node| node.encrypt(b"y")) {
                    for node in nodes {
                        assert_eq!(node.open(&value), b"y");
                    }
                }
                done.load(Ordering::SeqCst).then_some(())
            });
        });
        nodes[0].until("activated", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
        for node in nodes {
            node.until("it encrypts with v10", || node.encrypt(b"x").starts_with("km:v10:").then_some(()));
        }
    }

    fn rekeys(&self) {
        let Self { machines, cluster, .. } = self;
        let nodes = &cluster.nodes;
        let id = cluster.limited_rekey(ROWS_PER_SECOND);
        let job = format!("/v1/rekey/{id}");
        let times = || nodes.iter().map(|node| node.log().matches(TAKEN).count()).collect::<Vec<_>>();
        let holder = nodes[0].until("somebody works", || times().iter().position(|times| *times > 0));
        machines[holder].plug(false);
        let before = times();
        nodes[0].until("another one goes on", || {
            let now = times();
            (0..3).any(|n| n != holder && now[n] > before[n]).then_some(())
        });
        self.until_cut_off(holder);
        machines[holder].plug(true);
        // And all of them at once.
        machines.iter().for_each(|machine| machine.plug(false));
        (0..3).for_each(|n| self.until_cut_off(n));
        machines.iter().for_each(|machine| machine.plug(true));
        self.until_healed();
        nodes[0].until("it is limited no longer", || {
            let lifted = json!({"max_rows_per_second": null});
            let answer = nodes[0].control("PATCH", &job, Some(OPERATOR), lifted);
            // On a machine that is slow enough it is done by itself.
            [200, 409].contains(&answer.status).then_some(())
        });
        assert_eq!(nodes[1].job_end(&id)["state"], "completed");
    }
}

fn goes_on_without_cables(mut all: Machines) {
    let texts: Vec<_> = (0..ROWS).map(|n| format!("session {n}")).collect();
    let values = all.cluster.nodes[0].encrypt_all(&texts);
    make_table(&all.app, &values);
    let known: Vec<Known> = values.into_iter().zip(texts.clone()).collect();
    let v10 = all.cluster.staged(9);
    while_asked(&all.cluster, &known, || all.rotates(v10));
    while_asked(&all.cluster, &known, || all.rekeys());
    all.until_healed();
    let facts = (1..).zip(texts).map(|(id, text): (i64, _)| json!([id, {"plaintext": text}])).collect();
    let checked = oracle::check_table_at(&all.app, &oracle::shares(&all.cluster.nodes[0], &[9, 10]), facts);
    assert_eq!(checked["versions"], json!([[10, ROWS]]));
}

#[test]
fn fault_48_machines_that_are_cut_off_from_postgresql_and_each_other_leave_nobody_behind_and_say_nothing_wrong() {
    let store = Postgres::start();
    goes_on_without_cables(Machines::new(&[store.address()], |at| store.url_at(at[0])));
}

#[test]
fn fault_48_machines_that_are_cut_off_from_etcd_and_each_other_leave_nobody_behind_and_say_nothing_wrong() {
    let store = Etcd::start();
    let members = [0, 1, 2].map(|member| store.address(member));
    goes_on_without_cables(Machines::new(&members, Etcd::url_at));
}
