//! OpenBao's transit engine over the same TLS, storage in memory, no audit: what is common today.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::blocking::Client;
use serde_json::{Value as Json, json};

use crate::{
    harness,
    load::{Load, Question, Server},
    service::plaintexts,
};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "x-vault-token";

pub(crate) struct Bao {
    child: Child,
    pub(crate) server: Server,
    token: String,
}

impl Bao {
    /// `data_dir` holds the daemon's self-signed pair, which it serves as well.
    pub(crate) fn start(data_dir: &Path, load: &Load) -> Self {
        let program = std::env::var("KEYMOOT_BENCH_BAO")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv/bin/bao").into());
        let address = free_address();
        let config = json!({
            "storage": {"inmem": {}},
            "listener": {"tcp": {
                "address": address.to_string(),
                "tls_cert_file": data_dir.join("tls-cert.pem"),
                "tls_key_file": data_dir.join("tls-key.pem"),
            }},
            "log_level": "error",
        });
        let file = data_dir.join("../bao.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(&program);
        command.arg("server").arg("-config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; see docs/performance.md"));
        let mut bao = Self { server: Server { address, pid: child.id() }, child, token: String::new() };
        bao.open(&harness::client(&data_dir.join("tls-cert.pem")));
        // So that what is asked later has something to decrypt.
        drop(bao.question(load, "encrypt", 1));
        bao
    }

    /// Makes its one key share, opens it and mounts the engine.
    fn open(&mut self, http: &Client) {
        let begin = Instant::now();
        let made = loop {
            match self.put(http, "sys/init", json!({"secret_shares": 1, "secret_threshold": 1})) {
                Ok(made) => break made,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "bao does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        self.token = made["root_token"].as_str().unwrap().to_owned();
        self.put(http, "sys/unseal", json!({"key": made["keys"][0]})).unwrap();
        self.put(http, "sys/mounts/transit", json!({"type": "transit"})).unwrap();
        self.put(http, "transit/keys/bench", json!({})).unwrap();
    }

    fn put(&self, http: &Client, path: &str, body: Json) -> Result<Json, reqwest::Error> {
        let url = format!("https://{}/v1/{path}", self.server.address);
        let answer = http.put(url).header(TOKEN, &self.token).json(&body).send()?.error_for_status()?;
        Ok(serde_json::from_str(&answer.text()?).unwrap_or(Json::Null))
    }

    /// Ciphertexts of these.
    pub(crate) fn encrypt(&self, http: &Client, plaintexts: &[String]) -> Vec<String> {
        self.batch(http, "encrypt", plaintexts.iter().map(|text| json!({"plaintext": STANDARD.encode(text)})))
    }

    /// The same values under its newest key version.
    pub(crate) fn rewrap(&self, http: &Client, ciphertexts: &[String]) -> Vec<String> {
        self.batch(http, "rewrap", ciphertexts.iter().map(|text| json!({"ciphertext": text})))
    }

    fn batch(&self, http: &Client, operation: &str, items: impl Iterator<Item = Json>) -> Vec<String> {
        let asked = json!({"batch_input": items.collect::<Vec<_>>()});
        let answer = self.put(http, &format!("transit/{operation}/bench"), asked).unwrap();
        let made = answer["data"]["batch_results"].as_array().unwrap();
        made.iter().map(|item| item["ciphertext"].as_str().unwrap().to_owned()).collect()
    }

    /// The same work as the daemon's: values of the same plaintexts, one alone or a batch.
    pub(crate) fn question(&self, load: &Load, operation: &str, size: usize) -> Question {
        let items: Vec<Json> =
            plaintexts(size).iter().map(|text| json!({"plaintext": STANDARD.encode(text)})).collect();
        let encrypt = self.asking("encrypt", &body(items));
        if operation == "encrypt" {
            return encrypt;
        }
        let answer: Json = serde_json::from_slice(&load.once(&self.server, &encrypt)).unwrap();
        let data = &answer["data"];
        let made = data["batch_results"].as_array().cloned().unwrap_or_else(|| vec![data.clone()]);
        let items = made.iter().map(|item| json!({"ciphertext": item["ciphertext"]})).collect();
        self.asking(operation, &body(items))
    }

    fn asking(&self, operation: &str, body: &Json) -> Question {
        Question {
            path: format!("/v1/transit/{operation}/bench"),
            header: (TOKEN, self.token.clone()),
            bodies: vec![Bytes::from(body.to_string())],
        }
    }
}

fn body(mut items: Vec<Json>) -> Json {
    if items.len() == 1 { items.remove(0) } else { json!({"batch_input": items}) }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
