//! Three nodes on one PostgreSQL server, each with a link of its own to it, in the midst of a rotation; and everybody who
//! asks them something meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

use crate::{
    cluster::Cluster,
    harness::{
        Answer, KEY, OPERATOR, SERVICE, World,
        proxy::{Proxy, Rule},
        servers::Postgres,
    },
};

/// Of a service: without a pause six of them would leave the nodes no processor to ask their stores with, and what is told
/// here is of stores that are away.
const BETWEEN_VALUES: Duration = Duration::from_millis(5);

pub struct Fleet {
    pub cluster: Cluster,
    pub links: Vec<Proxy>,
    pub store: Postgres,
    /// Values of v9, and what each of them holds.
    pub values: Vec<(String, Vec<u8>)>,
}

impl Fleet {
    /// v9 is primary; v10 is staged, proved and loaded everywhere.
    pub fn new() -> Self {
        let store = Postgres::start();
        let links: Vec<_> = (0..3).map(|_| Proxy::new(store.address())).collect();
        let urls: Vec<_> = links.iter().map(|link| store.url_at(link.address())).collect();
        let mut cluster = Cluster::at([&urls[0], &urls[1], &urls[2]], "");
        let values = cluster.nodes.iter().zip(1..).map(|(node, n)| {
            let text = format!("session {n}").into_bytes();
            (node.encrypt(&text), text)
        });
        let values = values.collect();
        let staged = cluster.staged(9);
        cluster.unlock_all(staged);
        Self { cluster, links, store, values }
    }
}

pub fn set_all(links: &[Proxy], rule: &Rule) {
    for link in links {
        link.set(rule.clone());
    }
}

/// Waits until every node's manifest is from there.
pub fn until_manifests_are(nodes: &[World], origin: &str) {
    for node in nodes {
        node.until("the manifest's place", || (node.get("/v1/status")["manifest"] == origin).then_some(()));
    }
}

/// Waits until every node encrypts with v10.
pub fn until_all_follow(nodes: &[World]) {
    for node in nodes {
        node.until("the node follows", || node.encrypt(b"after it").starts_with("km:v10:").then_some(()));
    }
}

/// What one party was answered.
#[derive(Default)]
pub struct Answers {
    /// When each answer that was as it should be was asked for, and when it came.
    pub good: Vec<(Instant, Instant)>,
    /// All others.
    pub bad: Vec<String>,
    /// Where a node's manifest was from, each change of it.
    pub origins: Vec<Json>,
}

/// What was answered on one node while a story went on.
pub struct OfNode {
    /// A service that decrypts one value after the other.
    pub service: Answers,
    /// A supervisor, who asks whether the node is alive and ready, and how it stands.
    pub supervisor: Answers,
    /// An operator whose question makes the node ask its store.
    pub operator: Answers,
}

/// Asks every node all of it for as long as the story goes on.
pub fn while_asked(nodes: &[World], values: &[(String, Vec<u8>)], story: impl FnOnce()) -> Vec<OfNode> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = nodes
            .iter()
            .map(|node| {
                let over = &over;
                (
                    scope.spawn(|| {
                        until(over, BETWEEN_VALUES, |answers, n| decrypt(node, &values[n % values.len()], answers))
                    }),
                    scope.spawn(|| until(over, Duration::from_millis(50), |answers, _| supervise(node, answers))),
                    scope.spawn(|| {
                        until(over, Duration::from_millis(20), |answers, n| ask_the_store(node, n, answers))
                    }),
                )
            })
            .collect();
        let ends = Ends(&over);
        story();
        drop(ends);
        asking
            .into_iter()
            .map(|(service, supervisor, operator)| OfNode {
                service: service.join().unwrap(),
                supervisor: supervisor.join().unwrap(),
                operator: operator.join().unwrap(),
            })
            .collect()
    })
}

/// Whatever ends a story, ends those who go on until it is over.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn until(over: &AtomicBool, pause: Duration, ask: impl Fn(&mut Answers, usize)) -> Answers {
    let mut answers = Answers::default();
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        ask(&mut answers, n);
        thread::sleep(pause);
    }
    answers
}

impl Answers {
    fn take(
        &mut self,
        asked: Instant,
        what: &str,
        answer: Result<Answer, reqwest::Error>,
        good: impl Fn(&Answer) -> bool,
    ) {
        match answer {
            Ok(answer) if good(&answer) => self.good.push((asked, Instant::now())),
            Ok(answer) => self.bad.push(format!("{what}: {} {}", answer.status, answer.json)),
            Err(error) => self.bad.push(format!("{what}: {error:?}")),
        }
    }

    /// How long each answer took that was asked for in this time, ascending.
    pub fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let asked_then = self.good.iter().filter(|(asked, _)| (from..to).contains(asked));
        let mut latencies: Vec<_> = asked_then.map(|(asked, answered)| *answered - *asked).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// Whether a value came back as what it holds.
pub fn is_opened(answer: &Answer, text: &[u8]) -> bool {
    let opened = answer.json["plaintext"].as_str().map(|text| STANDARD.decode(text).unwrap());
    (answer.status, answer.verdict.as_deref(), opened.as_deref()) == (200, Some("valid"), Some(text))
}

fn decrypt(node: &World, (value, text): &(String, Vec<u8>), answers: &mut Answers) {
    let url = format!("{}/v1/keys/{KEY}/decrypt", node.data_url());
    let body = serde_json::json!({"ciphertext": value}).to_string().into_bytes();
    let asked = Instant::now();
    answers
        .take(asked, "decrypt", node.try_raw(url, "POST", Some(SERVICE), body), |answer| is_opened(answer, text));
}

fn supervise(node: &World, answers: &mut Answers) {
    for path in ["/livez", "/readyz", "/v1/status"] {
        let asked = Instant::now();
        let answer = node.try_raw(format!("{}{path}", node.control_url()), "GET", Some(OPERATOR), vec![]);
        if let Ok(status) = &answer
            && path == "/v1/status"
            && answers.origins.last() != Some(&status.json["manifest"])
        {
            answers.origins.push(status.json["manifest"].clone());
        }
        answers.take(asked, path, answer, |answer| {
            answer.status == 200 && (path != "/v1/status" || answer.json["state"] == "unlocked")
        });
    }
}

/// What jobs there are stands in the store; an activation asks it too, and holds everything else up that may change keys.
fn ask_the_store(node: &World, n: usize, answers: &mut Answers) {
    let (method, path, body): (_, _, &[u8]) = match n % 4 {
        0 => ("POST", "/v1/versions/10/activate", br#"{"dry_run":true}"#),
        _ => ("GET", "/v1/rekey", b""),
    };
    let asked = Instant::now();
    let answer = node.try_raw(format!("{}{path}", node.control_url()), method, Some(OPERATOR), body.to_vec());
    answers.take(asked, path, answer, |answer| matches!(answer.status, 200 | 503));
}
