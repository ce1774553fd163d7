//! Proton, 2021: while the database was away every cached session ran out at the same moment. From then on each request
//! waited ten seconds for it, and the hosts could not be reached any more.
//!
//! A store that takes connections and says nothing, for longer than anything that was heard from it counts.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::join_all;
use serde_json::{Value as Json, json};

use crate::{
    fleet::{Answers, Fleet, OfNode, set_all, until_all_follow, until_manifests_are, while_asked},
    harness::{KEY, PATIENCE, SERVICE, World, proxy::Rule},
};

/// Long enough for a median.
const CALM: Duration = Duration::from_secs(4);
/// Longer than a node waits for its store (12 s), and than it believes what it last heard of the others (6 beats).
const AWAY: Duration = Duration::from_secs(20);
/// How much slower than before values may be decrypted, by the median: a machine that runs tests is not quiet.
const SLOWER_MAX: u32 = 5;
/// A value that waits for the store waits in every silence of it; a machine that stands still for a moment does so in
/// one of them.
const SILENCES: usize = 3;

/// Clients that come all at once to each node, and what each asks for in turn.
const HERD: usize = 200;
const QUESTIONS: usize = 5;

/// What a herd was answered.
#[derive(Default)]
struct Herd {
    opened: usize,
    overloaded: usize,
    bad: Vec<String>,
}

/// Sends a herd to every node, one connection a client.
fn stampede(nodes: &[World], (value, text): &(String, Vec<u8>)) -> Herd {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let body = json!({"ciphertext": value}).to_string();
    let mut asking = Vec::new();
    for node in nodes {
        let pem = fs::read(node.data_dir().join("tls-cert.pem")).unwrap();
        let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([certificate]).http1_only().no_proxy();
        let http = http.timeout(PATIENCE).build().unwrap();
        let url = format!("{}/v1/keys/{KEY}/decrypt", node.data_url());
        asking.extend((0..HERD).map(|_| ask(http.clone(), url.clone(), body.clone(), STANDARD.encode(text))));
    }
    let mut all = Herd::default();
    for one in runtime.block_on(join_all(asking)) {
        all.opened += one.opened;
        all.overloaded += one.overloaded;
        all.bad.extend(one.bad);
    }
    all
}

async fn ask(http: reqwest::Client, url: String, body: String, text: String) -> Herd {
    let mut herd = Herd::default();
    for _ in 0..QUESTIONS {
        let answer = match http.post(&url).bearer_auth(SERVICE).body(body.clone()).send().await {
            Ok(answer) => answer,
            Err(error) => {
                herd.bad.push(format!("{error:?}"));
                continue;
            }
        };
        let (status, later) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        let json: Json = answer.json().await.unwrap_or_default();
        match status {
            200 if json["plaintext"] == text => herd.opened += 1,
            503 if json["code"] == "overloaded" && later => herd.overloaded += 1,
            _ => herd.bad.push(format!("{status} {json}")),
        }
    }
    herd
}

#[test]
fn values_are_decrypted_as_fast_as_ever_while_the_store_says_nothing_and_it_comes_back_under_a_herd() {
    let fleet = Fleet::new();
    let nodes = &fleet.cluster.nodes;
    let mut slow = Vec::new();
    while slow.len() < SILENCES
        && let Err(why) = silence(&fleet)
    {
        slow.push(why);
    }
    assert!(slow.len() < SILENCES, "{slow:?}");
    nodes[0].until("the gate opens", || (fleet.cluster.activate(10, json!({})).status == 200).then_some(()));
    until_all_follow(nodes);
}

/// The store is silent for a while, and back under a herd. Whether values were decrypted as fast as ever meanwhile.
fn silence(fleet: &Fleet) -> Result<(), String> {
    let nodes = &fleet.cluster.nodes;
    let began = Instant::now();
    let (mut calm_over, mut silent, mut over) = (began, began, began);
    let mut herd = Herd::default();
    let answers = while_asked(nodes, &fleet.values, || {
        thread::sleep(CALM);
        calm_over = Instant::now();
        set_all(&fleet.links, &Rule::BlackHole);
        until_manifests_are(nodes, "last-good");
        silent = Instant::now();
        thread::sleep(AWAY);
        for node in nodes {
            let peers = node.get("/v1/status")["peers"].clone();
            let absent = peers.as_array().unwrap().iter().filter(|peer| peer["present"] == false).count();
            assert_eq!(absent, 2, "what was heard of the others has not run out: {peers}");
        }
        over = Instant::now();
        thread::scope(|scope| {
            let coming = scope.spawn(|| stampede(nodes, &fleet.values[0]));
            set_all(&fleet.links, &Rule::Pass);
            herd = coming.join().unwrap();
        });
        until_manifests_are(nodes, "store");
    });
    assert_eq!(herd.bad, Vec::<String>::new());
    assert_eq!(herd.opened + herd.overloaded, nodes.len() * HERD * QUESTIONS);
    for of_node in &answers {
        let OfNode { service, supervisor, operator } = of_node;
        for party in [service, supervisor, operator] {
            assert_eq!(party.bad, Vec::<String>::new());
        }
    }
    for OfNode { service, operator, .. } in &answers {
        let median = |latencies: Vec<Duration>| latencies.get(latencies.len() / 2).copied();
        let (before, then) =
            (median(service.latencies(began, calm_over)), median(service.latencies(silent, over)));
        let (Some(before), Some(then)) = (before, then) else { return Err("nobody was answered".into()) };
        if then > before * SLOWER_MAX {
            return Err(format!("{then:?} with the store away, {before:?} before"));
        }
        // A decryption that waited even once for the store would have taken as long as a question to it.
        let slowest = |party: &Answers| party.latencies(calm_over, over).pop().unwrap();
        let (decrypting, asking) = (slowest(service), slowest(operator));
        if decrypting >= asking / 2 {
            return Err(format!("a value took {decrypting:?}, a question to the store {asking:?}"));
        }
    }
    Ok(())
}
