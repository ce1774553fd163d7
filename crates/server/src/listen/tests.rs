use std::{fs, os::unix::fs::PermissionsExt as _};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    handlers::data::{DataState, routes},
    http::{auth::Access, layers, shed::Shed},
    serving::tests::{World, world},
};

/// A real data listener over TLS on a port of its own.
struct Daemon {
    address: SocketAddr,
    client: TlsConnector,
    stop: CancellationToken,
    task: JoinHandle<()>,
    old: String,
    _dir: TempDir,
}

fn token(fill: &str) -> String {
    format!("km_{}", fill.repeat(43))
}

fn config(dir: &TempDir, more: &str) -> Config {
    let digest = |fill| hex::encode(Sha256::digest(token(fill)));
    let path = dir.path().join("keymoot.toml");
    let text = format!(
        "keyring = \"p\"\ndata_dir = \"data\"\n[[key]]\nname = \"pii\"\nonly_in_sources = true\n\
         [[token]]\nname = \"all\"\nrole = \"service\"\nsha256 = \"{}\"\nkeys = [\"pii\"]\n\
         operations = [\"encrypt\", \"decrypt\", \"rewrap\", \"datakey\"]\n\
         [[token]]\nname = \"writer\"\nrole = \"service\"\nsha256 = \"{}\"\nkeys = [\"pii\"]\noperations = [\"encrypt\"]\n\
         [[token]]\nname = \"past\"\nrole = \"operator\"\nsha256 = \"{}\"\nexpires = 2020-01-01T00:00:00Z\n\
         {more}",
        digest("a"),
        digest("w"),
        digest("p"),
    );
    fs::write(&path, text).unwrap();
    Config::load(&path).unwrap()
}

async fn start(limits: Limits, body_timeout: Duration) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, "[listen]\ndata = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\n");
    let tls = Tls::load(&config).unwrap();
    let bound = Bound::bind(config.listen.data).unwrap();
    let address = bound.address();
    let World { serving, old, .. } = world();
    let access = Arc::new(ArcSwap::from_pointee(Access::new(&config)));
    let serving = Arc::new(ArcSwap::from_pointee(serving));
    let state = DataState::new(access, serving, Shed::default(), Arc::default()).with_body_timeout(body_timeout);
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(bound, tls.data(), layers::data(routes(state)), limits, stop.clone()));

    let mut roots = RootCertStore::empty();
    for certificate in tls::read_certificates(&config.data_dir.join("tls-cert.pem")).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    Daemon { address, client: TlsConnector::from(Arc::new(client)), stop, task, old, _dir: dir }
}

struct Answer {
    status: u16,
    head: String,
    json: Json,
}

impl Answer {
    fn verdict(&self) -> &str {
        self.head.lines().find_map(|line| line.strip_prefix("keymoot-verdict: ")).unwrap()
    }
}

impl Daemon {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.client.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    }

    async fn send(&self, line: &str, token: &str, more: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap_or_else(|error| panic!("{line} {more}: {error}"));
        // Without it the end of a long body may stay in the client's own buffer.
        stream.flush().await.unwrap();
        read(&mut stream).await
    }

    async fn post(&self, path: &str, body: Json) -> Answer {
        let body = body.to_string();
        let length = format!("content-length: {}\r\n", body.len());
        self.send(&format!("POST /v1/keys/{path}"), &token("a"), &length, body.as_bytes()).await
    }
}

async fn read(stream: &mut TlsStream<TcpStream>) -> Answer {
    let mut bytes = Vec::new();
    // A server may end without TLS's goodbye: what counts is what came.
    stream.read_to_end(&mut bytes).await.ok();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.into(), json: serde_json::from_str(body).unwrap_or(Json::Null) }
}

/// Longer than any pause of a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn values_are_served_one_by_one_and_in_batches() {
    let daemon = start(Limits::DATA, LONG).await;
    let made = daemon
        .post("pii/encrypt", json!({"plaintext": "NDExMQ==", "associated_data": "cm93", "reference": "r"}))
        .await;
    assert_eq!((made.status, made.verdict(), &made.json["reference"]), (200, "valid", &json!("r")));
    let opened = daemon
        .post("pii/decrypt", json!({"ciphertext": made.json["ciphertext"], "associated_data": "cm93"}))
        .await;
    assert_eq!(opened.json, json!({"plaintext": "NDExMQ==", "version": 10, "verdict": "valid"}));

    let row = "cm93IDE=";
    let batch = daemon
        .post(
            "pii/decrypt",
            json!({"items": [
                {"ciphertext": daemon.old, "associated_data": row, "rewrap": true, "reference": "good"},
                {"ciphertext": "km:v9:x", "reference": "bad"},
                {"ciphertext": daemon.old},
            ]}),
        )
        .await;
    assert_eq!((batch.status, batch.verdict()), (200, "mixed"));
    let items = batch.json["items"].as_array().unwrap();
    assert!(items[0]["rewrapped"].as_str().unwrap().starts_with("km:v10:"));
    assert_eq!(
        (&items[1]["error"]["code"], &items[1]["reference"]),
        (&json!("malformed_ciphertext"), &json!("bad"))
    );
    assert_eq!(items[2]["error"]["verdict"], "invalid");
    assert_eq!(daemon.post("pii/decrypt", json!({"items": []})).await.verdict(), "undetermined");

    let many = vec![json!({"plaintext": "AA=="}); 10_000];
    let made = daemon.post("pii/encrypt", json!({"items": many})).await;
    assert_eq!((made.verdict(), made.json["items"].as_array().unwrap().len()), ("valid", 10_000));
    let many = vec![json!({"plaintext": "AA=="}); 10_001];
    assert_eq!(daemon.post("pii/encrypt", json!({"items": many})).await.status, 413);
    // One byte more than 4 MiB.
    let long = format!("{}AA==", "AAAA".repeat(4 * 1024 * 1024 / 3));
    assert_eq!(daemon.post("pii/encrypt", json!({"plaintext": long})).await.status, 200);
    let long = format!("{}AAA=", "AAAA".repeat(4 * 1024 * 1024 / 3));
    assert_eq!(daemon.post("pii/encrypt", json!({"plaintext": long})).await.json["code"], "too_large");

    let wrapped = daemon.post("pii/datakey", json!({"bits": 512})).await;
    let opened = daemon.post("pii/datakey/decrypt", json!({"ciphertext": wrapped.json["ciphertext"]})).await;
    assert_eq!(opened.json["plaintext"], wrapped.json["plaintext"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_with_a_verdict() {
    let daemon = start(Limits::DATA, LONG).await;
    let empty = "content-length: 0\r\n";
    let rows = [
        ("POST /v1/keys/pii/decrypt", token("x"), empty, 401, "unauthenticated"),
        ("POST /v1/keys/pii/decrypt", "km_short".into(), empty, 401, "unauthenticated"),
        ("POST /v1/keys/pii/decrypt", token("p"), empty, 401, "unauthenticated"),
        ("POST /v1/keys/pii/decrypt", token("w"), empty, 403, "forbidden"),
        ("POST /v1/keys/piii/decrypt", token("a"), empty, 404, "unknown_key"),
        ("POST /v1/keys/%ff/decrypt", token("a"), empty, 400, "bad_request"),
        ("POST /v1/keys/pii/decrypt", token("a"), empty, 400, "bad_request"),
        ("POST /v1/keys/pii/other", token("a"), empty, 404, "not_found"),
        ("GET /v1/keys/pii/decrypt", token("a"), "", 405, "method_not_allowed"),
    ];
    for (line, token, more, status, code) in rows {
        let answer = daemon.send(line, &token, more, b"").await;
        assert_eq!((answer.status, answer.json["code"].as_str()), (status, Some(code)), "{line}");
        assert_eq!(answer.verdict(), "undetermined", "{line}");
        assert!(
            answer.head.contains("application/problem+json") && answer.head.contains("x-request-id: "),
            "{line}"
        );
    }
    let body = b"{\"ciphertext\": \"\xff\"}";
    let length = format!("content-length: {}\r\n", body.len());
    assert_eq!(
        daemon.send("POST /v1/keys/pii/decrypt", &token("a"), &length, body).await.json["code"],
        "bad_request"
    );
    let keys = daemon.send("GET /v1/keys", &token("a"), "", b"").await;
    assert_eq!((&keys.json["keys"][0]["name"], &keys.json["primary"]), (&json!("pii"), &json!(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_a_limit_in_bytes_and_in_time_and_a_client_that_reads_late_still_hears_of_it() {
    let daemon = start(Limits::DATA, LONG).await;
    let big = vec![b' '; 40_000_000];
    let line = "POST /v1/keys/pii/encrypt";
    let answer = daemon.send(line, &token("a"), "content-length: 40000000\r\n", &big).await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (413, Some("too_large")));
    let answer = daemon.send(line, &token("x"), "content-length: 40000000\r\n", &big).await;
    assert_eq!(answer.status, 401);
    let mut chunked = b"2625a00\r\n".to_vec();
    chunked.extend_from_slice(&big);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = daemon.send(line, &token("a"), "transfer-encoding: chunked\r\n", &chunked).await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (413, Some("too_large")));

    let daemon = start(Limits::DATA, Duration::from_millis(200)).await;
    let answer = daemon.send(line, &token("a"), "content-length: 100\r\n", b"{").await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (400, Some("bad_request")));
    assert!(answer.json["detail"].as_str().unwrap().contains("did not arrive within"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_ends_and_a_stop_leaves_none_open() {
    // It counts for the client that speaks, too.
    let limits = Limits { header_timeout: Duration::from_secs(3), connections_max: 1, ..Limits::DATA };
    let daemon = start(limits, LONG).await;
    let mut silent = daemon.connect().await;
    // The one slot is taken: this waits until the silent one was sent away.
    let made = daemon.post("pii/encrypt", json!({"plaintext": ""})).await;
    assert_eq!(made.status, 200);
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
    daemon.stop.cancel();
    daemon.task.await.unwrap();
    assert!(TcpStream::connect(daemon.address).await.is_err());
}

#[test]
fn the_self_signed_pair_is_private_kept_and_for_loopback_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, "");
    Tls::load(&config).unwrap();
    let read = |name: &str| fs::read(config.data_dir.join(name)).unwrap();
    let first = (read("tls-cert.pem"), read("tls-key.pem"));
    for name in ["tls-cert.pem", "tls-key.pem"] {
        assert_eq!(config.data_dir.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    Tls::load(&config).unwrap();
    assert_eq!((read("tls-cert.pem"), read("tls-key.pem")), first);
    let mut open = config.clone();
    open.listen.control = "0.0.0.0:8201".parse().unwrap();
    assert!(matches!(Tls::load(&open), Err(TlsError::NotLoopback(_))));
}
