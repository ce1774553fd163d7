//! Everybody comes back at once.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value as Json, json};

use crate::harness::{KEY, SERVICE, World};

const CLIENTS: usize = 1000;

/// How long after the restart all of them must have been served: only somebody who is never served is near it, also
/// where the machine stands still for a while.
const FULL_SERVICE: Duration = Duration::from_secs(120);

/// Asks until the value is opened, with a pause that differs for each: what each was told on the way, by status.
async fn comes_back(n: usize, http: reqwest::Client, url: String, body: String, text: String) -> Vec<u16> {
    let (end, mut told) = (Instant::now() + FULL_SERVICE, Vec::new());
    while Instant::now() < end {
        if let Ok(answer) = http.post(&url).bearer_auth(SERVICE).body(body.clone()).send().await {
            let (status, later) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
            told.push(status);
            let json: Json = answer.json().await.unwrap_or_default();
            match status {
                200 if json["plaintext"] == text => return told,
                503 if json["verdict"] == "undetermined" && later => {}
                _ => panic!("client {n} was told {status} {json}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100 + (n as u64 * 37) % 400)).await;
    }
    panic!("client {n} was not served: {told:?}")
}

#[test]
fn fault_52_a_thousand_clients_that_come_back_at_once_after_a_restart_are_all_served() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    world.unlock_by(9, &[1, 2]);
    let value = world.encrypt(b"hello");
    world.stop();
    world.start();
    let pem = fs::read(world.data_dir().join("tls-cert.pem")).unwrap();
    let url = format!("{}/v1/keys/{KEY}/decrypt", world.data_url());
    let body = json!({"ciphertext": value}).to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let herd = runtime.spawn(async move {
        let clients = (0..CLIENTS).map(|n| {
            // A connection each.
            let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
            let http = reqwest::Client::builder().tls_certs_only([certificate]).http1_only().no_proxy();
            let http = http.timeout(FULL_SERVICE).build().unwrap();
            comes_back(n, http, url.clone(), body.clone(), "aGVsbG8=".into())
        });
        join_all(clients).await
    });
    // Shares are heard in the midst of it.
    world.unlock_by(9, &[1, 2]);
    let told = runtime.block_on(herd).unwrap();
    assert_eq!(told.len(), CLIENTS);
    assert_eq!(world.open(&value), b"hello", "and it goes on");
}
