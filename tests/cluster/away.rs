//! The database is away for minutes, and a thousand clients notice nothing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value as Json, json};

use crate::{
    cluster::Cluster,
    harness::{
        KEY, OPERATOR, PATIENCE, SERVICE, World,
        proxy::{Proxy, Rule},
        servers::Postgres,
    },
};

const CLIENTS: usize = 1_000;
/// Each asks so often, and none in step with another.
const PAUSE: Duration = Duration::from_secs(6);
/// For how long the database is away, where it is set; by hand five minutes (300).
const SECONDS: &str = "KEYMOOT_TEST_AWAY_SECONDS";
const SECONDS_USUAL: usize = 24;
/// How long after its return everything must be as before, also where the machine stands still for a while.
const FULL_SERVICE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Heard {
    opened: AtomicUsize,
    overloaded: AtomicUsize,
    bad: std::sync::Mutex<Vec<String>>,
}

/// One service: it decrypts again and again over a connection that it keeps.
async fn asks(
    n: usize,
    http: reqwest::Client,
    url: String,
    body: Arc<str>,
    over: Arc<AtomicBool>,
    heard: Arc<Heard>,
) {
    tokio::time::sleep(PAUSE * u32::try_from(n * 37 % CLIENTS).unwrap() / u32::try_from(CLIENTS).unwrap()).await;
    while !over.load(Ordering::SeqCst) {
        match http.post(&url).bearer_auth(SERVICE).body(body.to_string()).send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let json: Json = answer.json().await.unwrap_or_default();
                match status {
                    200 if json["plaintext"] == "aGVsbG8=" => drop(heard.opened.fetch_add(1, Ordering::SeqCst)),
                    503 if json["code"] == "overloaded" => drop(heard.overloaded.fetch_add(1, Ordering::SeqCst)),
                    _ => heard.bad.lock().unwrap().push(format!("{status} {json}")),
                }
            }
            Err(error) => heard.bad.lock().unwrap().push(format!("{error:?}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn all_ask(nodes: Vec<(Vec<u8>, String)>, body: Arc<str>, over: Arc<AtomicBool>, heard: Arc<Heard>) {
    let clients = (0..CLIENTS).map(|n| {
        let (pem, url) = &nodes[n % nodes.len()];
        let certificate = reqwest::Certificate::from_pem(pem).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([certificate]).http1_only().no_proxy();
        let http = http.timeout(PATIENCE).build().unwrap();
        asks(n, http, url.clone(), body.clone(), over.clone(), heard.clone())
    });
    join_all(clients).await;
}

/// Everything works: values come from the store's manifest, the members hear each other, a ceremony begins.
fn in_full_service(nodes: &[World]) -> bool {
    nodes.iter().all(|node| {
        let status = node.get("/v1/status");
        let peers = status["peers"].as_array().unwrap();
        status["manifest"] == "store" && peers.iter().all(|peer| peer["present"] == true)
    }) && {
        let asked = nodes[0].post("/v1/requests", json!({"operation": "stage"}));
        let path = format!("/v1/requests/{}", asked.json["id"].as_str().unwrap_or_default());
        asked.status == 202 && nodes[0].control("DELETE", &path, Some(OPERATOR), Json::Null).status == 204
    }
}

#[test]
fn fault_52_a_database_that_is_away_costs_a_thousand_clients_nothing_and_its_return_is_no_storm() {
    let store = Postgres::start();
    let links: Vec<_> = (0..3).map(|_| Proxy::new(store.address())).collect();
    let urls: Vec<_> = links.iter().map(|link| store.url_at(link.address())).collect();
    let cluster = Cluster::at([&urls[0], &urls[1], &urls[2]], "");
    let body: Arc<str> = json!({"ciphertext": cluster.nodes[0].encrypt(b"hello")}).to_string().into();
    let seconds = std::env::var(SECONDS).map_or(SECONDS_USUAL, |seconds| seconds.parse().unwrap());
    let away = Duration::from_secs(seconds as u64);

    let (over, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Heard::default()));
    let of_node = |node: &World| {
        let pem = fs::read(node.data_dir().join("tls-cert.pem")).unwrap();
        (pem, format!("{}/v1/keys/{KEY}/decrypt", node.data_url()))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let nodes = cluster.nodes.iter().map(of_node).collect();
    let herd = runtime.spawn(all_ask(nodes, body, over.clone(), heard.clone()));
    thread::sleep(PAUSE * 2);

    let accepted = || links.iter().map(Proxy::accepted).collect::<Vec<_>>();
    let before = accepted();
    // First it says nothing, then it is not there.
    for rule in [Rule::BlackHole, Rule::Refuse] {
        links.iter().for_each(|link| link.set(rule.clone()));
        thread::sleep(away / 2);
    }
    let then = accepted();
    let returned = Instant::now();
    links.iter().for_each(|link| link.set(Rule::Pass));
    while !in_full_service(&cluster.nodes) {
        assert!(returned.elapsed() < FULL_SERVICE, "{}", cluster.nodes[0].get("/v1/status"));
        thread::sleep(Duration::from_millis(100));
    }
    let took = returned.elapsed();
    thread::sleep(PAUSE * 2);
    let after = accepted();
    over.store(true, Ordering::SeqCst);
    runtime.block_on(herd).unwrap();

    let tries: Vec<_> = before.iter().zip(&then).map(|(before, then)| then - before).collect();
    let returns: Vec<_> = then.iter().zip(&after).map(|(then, after)| after - then).collect();
    let (opened, overloaded) = (heard.opened.load(Ordering::SeqCst), heard.overloaded.load(Ordering::SeqCst));
    println!(
        "away for {seconds} s: {opened} opened, {overloaded} told to come again; {tries:?} connections to the store \
         meanwhile, {returns:?} after it; full service {took:?} after its return"
    );
    assert_eq!(*heard.bad.lock().unwrap(), Vec::<String>::new());
    assert!(opened > CLIENTS * 3, "{opened}");
    for tries in tries {
        assert!((1..=seconds * 2 + 20).contains(&tries), "{tries} connections to a store that was away");
    }
    for returns in returns {
        assert!(returns <= 30, "{returns} connections to a store that came back");
    }
}
