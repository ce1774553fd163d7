//! A rolling restart with the service up: three nodes behind a balancer, restarted one by one in the middle of a rekey,
//! in a maintenance window, without a holder and without one wrong answer.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::blocking::Client;
use serde_json::{Value as Json, json};

use crate::{
    balancer::Balancer,
    cluster::{Cluster, PATIENT},
    harness::{
        Background, KEY, OPERATOR, PATIENCE, SERVICE, SOURCE, World, client_of, make_table, oracle,
        servers::directory,
    },
};

const ROWS: usize = 3_000;
/// So slow that all restarts come in the middle.
const ROWS_PER_SECOND: u64 = 20;

/// What a client met.
#[derive(Default)]
struct Met {
    valid: u64,
    retried: u64,
}

/// Decrypts until it is told to stop. Trouble is no answer on a value, so it asks again; a wrong answer ends the test.
fn decrypt_all_along(client: &Client, url: &str, values: &[(String, String)], stop: &AtomicBool) -> Met {
    let mut met = Met::default();
    for (plaintext, value) in values.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        loop {
            let sent = client
                .post(format!("{url}/v1/keys/{KEY}/decrypt"))
                .bearer_auth(SERVICE)
                .body(json!({"ciphertext": value}).to_string())
                .send();
            let verdict = |answer: &reqwest::blocking::Response| {
                answer.headers().get("keymoot-verdict").map(|verdict| verdict.to_str().unwrap().to_owned())
            };
            if let Ok(answer) = sent
                && let Some(verdict) = verdict(&answer)
            {
                assert_ne!(verdict, "invalid", "a good value was called invalid: {:?}", answer.text());
                if verdict == "valid"
                    && let Ok(bytes) = answer.bytes()
                {
                    let json: Json = serde_json::from_slice(&bytes).unwrap();
                    let opened = STANDARD.decode(json["plaintext"].as_str().unwrap()).unwrap();
                    assert_eq!(opened, plaintext.as_bytes());
                    met.valid += 1;
                    break;
                }
            }
            met.retried += 1;
            assert!(began.elapsed() < PATIENCE, "no answer on {plaintext}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    met
}

fn events(node: &World, event: &str) -> Vec<Json> {
    let lines = node.get("/v1/audit")["entries"].as_array().unwrap().clone();
    lines.into_iter().filter(|line| line["event"] == event && line["phase"] == "done").collect()
}

#[test]
fn nodes_are_restarted_one_by_one_in_mid_rekey_without_a_holder_and_without_a_wrong_answer() {
    let dir = directory(None);
    let (db, meta) = (dir.path().join("app.db"), dir.path().join("meta.db"));
    let url = format!("sqlite://{}", meta.display());
    let declared = PATIENT.to_owned() + &SOURCE.replace("{dir}", dir.path().to_str().unwrap());
    let mut cluster = Cluster::at([&url, &url, &url], &declared);
    cluster.keep_addresses();
    let plaintexts: Vec<String> = (1..=ROWS).map(|id| format!("secret {id}")).collect();
    let old = cluster.nodes[0].encrypt_all(&plaintexts);
    make_table(&db, &old);
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0].until("v10 is primary", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    let new = cluster.nodes[0].encrypt_all(&plaintexts[..500]);
    let values: Vec<_> = plaintexts.iter().cloned().zip(old).chain(plaintexts.iter().cloned().zip(new)).collect();

    let window = cluster.window(v10, &["db1", "db2", "db3"], "1h");
    let job = cluster.limited_rekey(ROWS_PER_SECOND);
    let balancer = Balancer::new(&cluster.nodes);
    let certs: Vec<_> = cluster.nodes.iter().map(|node| node.data_dir().join("tls-cert.pem")).collect();
    let certs: Vec<_> = certs.iter().map(std::path::PathBuf::as_path).collect();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (client, url, values) = (client_of(&certs), balancer.url(), values.clone());
            Background::start(move |stop| decrypt_all_along(&client, &url, &values, stop))
        })
        .collect();

    for at in 0..cluster.nodes.len() {
        let node = &mut cluster.nodes[at];
        node.stop();
        node.start();
        let node = &cluster.nodes[at];
        node.until("it has its keys again, and no holder was asked", || {
            (node.state() == "unlocked").then_some(())
        });
        let received = node.until("the receipt is recorded", || events(node, "window-keys-received").pop());
        assert_eq!(received["facts"]["versions"], json!([9, v10]));
        let giver = received["facts"]["node"].as_str().unwrap().to_owned();
        let giver = cluster.nodes.iter().find(|other| other.get("/v1/status")["node"] == *giver).unwrap();
        let name = node.get("/v1/status")["node"].clone();
        let given = giver.until("what was given is recorded", || {
            events(giver, "window-keys-given").into_iter().find(|line| line["facts"]["node"] == name)
        });
        assert_eq!((&given["facts"]["versions"], &given["facts"]["window"]), (&json!([9, v10]), &json!(window)));
        // It knows for how long the window is open, and so may give in its turn.
        assert!(node.get("/v1/status")["window"]["left_seconds"].as_u64().unwrap() < 3600);
        cluster.until_all_present();
    }
    let restarted = cluster.nodes[0].get(&format!("/v1/rekey/{job}"));
    assert_eq!(restarted["state"], "running", "the restarts came in the middle: {restarted}");
    cluster.nodes[0]
        .control("PATCH", &format!("/v1/rekey/{job}"), Some(OPERATOR), json!({"max_rows_per_second": null}))
        .expect(200);
    let ended = cluster.nodes[0].job_end(&job);
    assert_eq!(ended["state"], "completed", "{ended}");
    let met = clients
        .into_iter()
        .map(Background::end)
        .fold(Met::default(), |all, one| Met { valid: all.valid + one.valid, retried: all.retried + one.retried });
    assert!(met.valid > 100, "{} valid answers", met.valid);
    println!("{} valid answers, {} retried, none invalid", met.valid, met.retried);
    let facts = (1..).zip(&plaintexts).map(|(id, text)| json!([id, {"plaintext": text}])).collect();
    let checked = oracle::check_table_at(&db, &oracle::shares(&cluster.nodes[0], &[9, v10]), facts);
    assert_eq!(checked["versions"], json!([[v10, ROWS]]));
}
