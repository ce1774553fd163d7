//! Requests that come twice, late and at once, answers that overtake each other, and peers that speak another protocol.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use super::sweep::{Caller, address, request};
use crate::harness::{
    KEY, OPERATOR, PATIENCE, SERVICE, World,
    proxy::{Proxy, Rule},
};

#[test]
fn fault_60_the_same_activation_sent_many_times_at_once_over_late_links_is_done_once() {
    let mut world = crate::unlocked(5);
    world.rotate(9);
    let revision = || world.get("/v1/status")["revision"].as_u64().unwrap();
    let before = revision();
    world.post("/v1/versions/9/activate", Json::Null).expect(200);
    let steps = revision() - before;
    let (proxy, caller) = (Proxy::new(address(world.control_url())), Caller::new(&world));
    let same = request("POST", "/v1/versions/10/activate", Some(OPERATOR), "{}");
    for delay in [0, 5, 40] {
        proxy.set(Rule::Delay(Duration::from_millis(delay)));
        let said: Vec<_> = thread::scope(|scope| {
            let asking: Vec<_> = (0..6).map(|_| scope.spawn(|| caller.call(proxy.address(), &same))).collect();
            asking.into_iter().map(|one| one.join().unwrap().expect("an answer")).collect()
        });
        assert!(
            said.iter().all(|said| said.status == 200),
            "{:?}",
            said.iter().map(|said| &said.json).collect::<Vec<_>>()
        );
        assert_eq!(revision(), before + 2 * steps, "it was done more than once");
    }
    assert_eq!(world.state_of(10), "primary");
}

/// What a network may do to a request on its way: the bytes come again, on the same connection.
#[test]
fn fault_60_a_share_whose_bytes_come_twice_in_a_row_counts_once_and_both_are_answered() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let share = String::from_utf8(request("POST", "/v1/unlock/parts", None, &world.parts(&[(9, 1)]))).unwrap();
    let twice = [share.replace("connection: close\r\n", ""), share].concat();
    let caller = Caller::new(&world);
    // The first of the two answers.
    let said = caller.call(address(world.control_url()), twice.as_bytes()).unwrap();
    assert_eq!((said.status, world.state().as_str()), (200, "unlocking"), "{}", said.json);
    assert_eq!(world.get("/v1/status")["versions"][0]["have"], 1);
}

#[test]
fn fault_60_answers_that_overtake_each_other_on_one_connection_each_belong_to_their_question() {
    let world = crate::unlocked(5);
    let texts: Vec<_> = (0..4_000).map(|n| format!("text {n}")).collect();
    let values = world.encrypt_all(&texts);
    let small: Vec<_> =
        texts.iter().zip(&values).take(20).map(|(text, value)| (text.clone(), value.clone())).collect();
    let proxy = Proxy::new(address(world.data_url()));
    proxy.set(Rule::Delay(Duration::from_millis(2)));
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(world.data_dir().join("tls-cert.pem")).unwrap();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let tls = Arc::new(tls);
    let ask_all = async || {
        let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |n: usize, body: Json| {
            let (mut sender, order) = (sender.clone(), order.clone());
            async move {
                let request = hyper::Request::post(format!("https://x/v1/keys/{KEY}/decrypt"))
                    .header("authorization", format!("Bearer {SERVICE}"))
                    .body(Full::new(Bytes::from(body.to_string())))
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                let bytes = answer.into_body().collect().await.unwrap().to_bytes();
                order.lock().await.push(n);
                serde_json::from_slice::<Json>(&bytes).unwrap()
            }
        };
        // The long one first, and the short ones behind it.
        let items: Vec<_> = values.iter().map(|value| json!({"ciphertext": value})).collect();
        let long = tokio::spawn(ask(0, json!({"items": items})));
        tokio::time::sleep(Duration::from_millis(5)).await;
        let short =
            small.iter().zip(1..).map(|((_, value), n)| tokio::spawn(ask(n, json!({"ciphertext": value}))));
        for ((text, _), answer) in small.iter().zip(short.collect::<Vec<_>>()) {
            let answer = answer.await.unwrap();
            assert_eq!(
                (answer["verdict"].as_str(), answer["plaintext"].as_str()),
                (Some("valid"), Some(&*STANDARD.encode(text)))
            );
        }
        let long = long.await.unwrap();
        for (item, text) in long["items"].as_array().unwrap().iter().zip(&texts) {
            assert_eq!(item["plaintext"].as_str(), Some(&*STANDARD.encode(text)));
        }
        Arc::try_unwrap(order).unwrap().into_inner()
    };
    // Where this process stands still behind the long one, nothing is sent that could overtake it: then once more.
    world.until("something overtakes the long one", || {
        let order = runtime.block_on(ask_all());
        (order.first() != Some(&0)).then_some(())
    });
}

/// The first bytes of a client that knows no later TLS than 1.1 (version 3.2), with two suites of its time.
fn hello_of_tls_1_1() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 4, 0xc0, 0x13, 0x00, 0x2f], &[1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[test]
fn fault_60_who_speaks_an_older_tls_or_none_is_refused_on_both_listeners_and_told_nothing() {
    let world = crate::unlocked(5);
    for url in [world.data_url(), world.control_url()] {
        for (what, first) in [
            ("TLS 1.1", hello_of_tls_1_1()),
            ("HTTP without TLS", b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ] {
            let mut stream = TcpStream::connect(address(url)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&first).unwrap();
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset, "{what}");
            // An alert of TLS, or nothing at all.
            assert!(answer.is_empty() || (answer[0] == 21 && answer.len() <= 7), "{what}: {answer:?}");
        }
    }
    assert_eq!(world.open(&world.encrypt(b"x")), b"x");
}
