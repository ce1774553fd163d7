//! Bad input: each has a clear error, a verdict that says nothing false, and changes nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{AUDITOR, KEY, OPERATOR, PATIENCE, SERVICE, World};

const READER: &str = "km_rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr";
const EXPIRED: &str = "km_eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const MIB: usize = 1024 * 1024;

/// Unlocked at v9, with a second key and a token that may only decrypt the first.
fn unlocked() -> World {
    let token = |name: &str, token: &str, rest: &str| {
        let sha256 = hex::encode(Sha256::digest(token));
        format!(
            "[[token]]\nname = \"{name}\"\nrole = \"service\"\nsha256 = \"{sha256}\"\nkeys = [\"{KEY}\"]\n\
             operations = [\"decrypt\"]\n{rest}\n"
        )
    };
    let mut world = World::new(&format!(
        "{}{}[[key]]\nname = \"pii\"\nonly_in_sources = true\n",
        token("reader", READER, ""),
        token("expired", EXPIRED, "expires = \"2020-01-01T00:00:00Z\"")
    ));
    world.start();
    world.init(3, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    world
}

#[track_caller]
fn data(world: &World, operation: &str, body: impl Into<Vec<u8>>, status: u16, code: &str, verdict: &str) {
    let url = format!("{}/v1/keys/{KEY}/{operation}", world.data_url());
    world.raw(url, "POST", Some(SERVICE), body.into()).expect_problem(status, code, verdict);
}

#[track_caller]
fn control(world: &World, path: &str, body: impl Into<Vec<u8>>, status: u16, code: &str) -> Json {
    let url = format!("{}{path}", world.control_url());
    let answer = world.raw(url, "POST", Some(OPERATOR), body.into());
    assert_eq!((answer.status, answer.code()), (status, code), "{path}: {}", answer.json);
    answer.json
}

#[test]
fn a_body_that_is_not_what_it_should_be_is_a_bad_request_everywhere() {
    let world = unlocked();
    let value = world.encrypt(b"kept");
    let revision = world.get("/v1/status")["revision"].clone();
    let not_utf8: &[u8] = b"{\"plaintext\":\"\xff\xfe\"}";
    for body in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"null",
        b"\"x\"",
        b"{}",
        b"{\"plaintext\"}",
        b"{\"plaintext\":",
        not_utf8,
        b"\xef\xbb\xbf{\"plaintext\":\"\"}",
        b"{\"plaintext\":5}",
        b"{\"plaintext\":null}",
        b"{\"plaintext\":[]}",
        b"{\"plaintext\":\"!\"}",
        b"{\"plaintext\":\"YQ\"}",
        b"{\"plaintext\":\"\",\"plaintext\":\"\"}",
        b"{\"plaintext\":\"\",\"more\":1}",
        b"{\"plaintext\":\"\"} x",
        b"{\"plaintext\":\"\",\"associated_data\":7}",
        b"{\"items\":5}",
        b"{\"items\":[5]}",
        b"{\"items\":[],\"plaintext\":\"\"}",
        b"{\"items\":[{\"plaintext\":\"\",\"more\":1}]}",
        b"{\"items\":[{\"plaintext\":\"\"},{\"plaintext\":\"\",\"plaintext\":\"\"}]}",
        b"{\"items\":[],\"items\":[]}",
    ] {
        data(&world, "encrypt", body, 400, "bad_request", "undetermined");
    }
    for body in [
        "{}",
        "{\"ciphertext\":9}",
        "{\"ciphertext\":\"x\",\"rewrap\":\"yes\"}",
        "{\"ciphertext\":\"x\",\"version\":9}",
    ] {
        data(&world, "decrypt", body, 400, "bad_request", "undetermined");
    }
    for body in ["{\"bits\":128}", "{\"bits\":\"256\"}", "{\"plaintext\":1}", "{\"items\":[]}"] {
        data(&world, "datakey", body, 400, "bad_request", "undetermined");
    }

    for path in [
        "/v1/init",
        "/v1/unlock/parts",
        "/v1/unlock/degraded",
        "/v1/prove/parts",
        "/v1/requests",
        "/v1/manifest/confirm",
        "/v1/members",
    ] {
        for body in [
            b"".as_slice(),
            b"{",
            b"[]",
            b"7",
            b"{\"x\":1}",
            b"{\"parts\":{\"a\":\"\xff\"}}",
            b"\xff\xff",
            b"{}{}",
        ] {
            let url = format!("{}{path}", world.control_url());
            let answer = world.raw(url, "POST", Some(OPERATOR), body.to_vec());
            if path == "/v1/members" && answer.status == 404 {
                continue;
            }
            assert_eq!((answer.status, answer.code()), (400, "bad_request"), "{path} {body:?}: {}", answer.json);
        }
    }
    for (path, body) in [
        ("/v1/init", r#"{"keyring":"prod","threshold":2,"holders":[{"name":"a"},{"name":"a"}]}"#),
        ("/v1/init", r#"{"keyring":"prod","threshold":1,"holders":[{"name":"a"},{"name":"b"}]}"#),
        ("/v1/init", r#"{"keyring":"prod","threshold":3,"holders":[{"name":"a"},{"name":"b"}]}"#),
        ("/v1/init", r#"{"keyring":"other","threshold":2,"holders":[{"name":"a"},{"name":"b"}]}"#),
        (
            "/v1/init",
            r#"{"keyring":"prod","threshold":2,"holders":[{"name":"a"},{"name":"b"}],"first_version":4294967296}"#,
        ),
        ("/v1/unlock/parts", r#"{"parts":{}}"#),
        ("/v1/unlock/parts", r#"{"parts":{"a":null}}"#),
        ("/v1/unlock/parts", r#"{"parts":{"a":"x","a":"x"}}"#),
        ("/v1/requests", r#"{"operation":"unknown"}"#),
        ("/v1/requests", r#"{"operation":"stage","threshold":"2"}"#),
        ("/v1/requests", r#"{"operation":"stage","versions":9}"#),
        ("/v1/requests", r#"{"operation":"stage","operation":"stage"}"#),
        ("/v1/versions/9/retire", r#"{"force":true}"#),
        ("/v1/versions/9/activate", r#"{"excuse":"h1"}"#),
        ("/v1/rekey", r#"{"sources":["nowhere.at-all"]}"#),
        ("/v1/rekey", r#"{"sources":[]}"#),
        ("/v1/rekey", r#"{"dry_run":1}"#),
        ("/v1/census", r#"{"sources":["nowhere.at-all"]}"#),
    ] {
        let answer = control(&world, path, body, 400, "bad_request");
        assert!(answer["detail"].as_str().unwrap().len() > 10, "{answer}");
    }
    assert_eq!(world.get("/v1/status")["revision"], revision, "nothing was changed");
    assert_eq!(world.open(&value), b"kept");
}

#[test]
fn versions_have_one_spelling_in_values_addresses_and_requests() {
    let world = unlocked();
    let value = world.encrypt(b"x");
    let body = value.strip_prefix("km:v9:").unwrap();
    for spelling in [
        "09",
        "-9",
        "+9",
        " 9",
        "9 ",
        "0",
        "4294967296",
        "18446744073709551625",
        "９",
        "٩",
        "9.0",
        "0x9",
        "",
        "1e1",
    ] {
        let value = json!({"ciphertext": format!("km:v{spelling}:{body}")}).to_string();
        for operation in ["decrypt", "rewrap", "datakey/decrypt"] {
            data(&world, operation, value.clone(), 422, "malformed_ciphertext", "invalid");
        }
    }
    for spelling in ["09", "-9", "v9", "4294967296", "%EF%BC%99", "9%20", "9.0", "0"] {
        for step in ["activate", "abort", "retire", "restore"] {
            control(&world, &format!("/v1/versions/{spelling}/{step}"), "", 400, "bad_request");
        }
        let packages =
            world.control("GET", &format!("/v1/versions/{spelling}/packages"), Some(OPERATOR), Json::Null);
        assert_eq!((packages.status, packages.code()), (400, "bad_request"));
    }
    control(&world, "/v1/versions/10/activate", "", 404, "not_found");
    for spelling in ["09", "-9", "\"9\"", "9.5", "4294967296", "０"] {
        control(&world, "/v1/unlock/degraded", format!("{{\"missing\":[{spelling}]}}"), 400, "bad_request");
    }
    assert_eq!(world.open(&value), b"x");
}

#[test]
fn what_is_no_value_is_invalid_and_what_may_be_a_newer_one_is_undetermined() {
    let world = unlocked();
    let value = world.encrypt(b"x");
    let wrapped = world.data("datakey", json!({})).expect(200)["ciphertext"].as_str().unwrap().to_owned();
    for text in [
        "",
        "x",
        "km:v9",
        "km:v9:",
        "KM:V9:AQ",
        "km:v9:AQ",
        &format!("{value}="),
        &format!("{value}\n"),
        &format!(" {value}"),
        &value.replace("km:v9:A", "km:v9:+"),
        "vault:v1:abcd",
        &wrapped,
    ] {
        for operation in ["decrypt", "rewrap"] {
            if operation == "rewrap" && text == wrapped {
                continue;
            }
            data(
                &world,
                operation,
                json!({"ciphertext": text}).to_string(),
                422,
                "malformed_ciphertext",
                "invalid",
            );
        }
    }
    data(
        &world,
        "datakey/decrypt",
        json!({"ciphertext": value}).to_string(),
        422,
        "malformed_ciphertext",
        "invalid",
    );
    let mut other = value.clone().into_bytes();
    other[30] = if other[30] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).unwrap();
    data(&world, "decrypt", json!({"ciphertext": other}).to_string(), 422, "authentication_failed", "invalid");
    // A body byte that this build does not know, and a version that nobody has heard of.
    data(
        &world,
        "decrypt",
        json!({"ciphertext": "km:v9:_____w"}).to_string(),
        503,
        "unsupported_format",
        "undetermined",
    );
    let unknown = value.replacen("v9", "v4294967295", 1);
    let answer = world.decrypt(&unknown).expect_problem(503, "unknown_key_version", "undetermined");
    assert_eq!(answer["version"], 4_294_967_295_u32);
    assert!(answer["retry_after_ms"].is_null());
}

#[test]
fn bodies_and_plaintexts_have_a_limit_and_everything_below_it_works() {
    let world = unlocked();
    for plaintext in [vec![], vec![7; MIB], vec![9; 4 * MIB]] {
        assert_eq!(world.open(&world.encrypt(&plaintext)), plaintext);
    }
    let over = json!({"plaintext": STANDARD.encode(vec![9; 4 * MIB + 1])}).to_string();
    data(&world, "encrypt", over, 413, "too_large", "undetermined");
    let huge = vec![b' '; 40 * MIB];
    for operation in ["encrypt", "decrypt", "datakey"] {
        data(&world, operation, huge.clone(), 413, "too_large", "undetermined");
    }
    for path in ["/v1/unlock/parts", "/v1/init", "/v1/seal"] {
        control(&world, path, huge.clone(), 413, "too_large");
        control(&world, path, vec![b' '; MIB + 1], 413, "too_large");
    }
    assert_eq!(world.state(), "unlocked");
    // Nor does chunked encoding, which declares no length, get further.
    let mut stream = dial(&world, world.control_url());
    let head = "POST /v1/unlock/parts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..20 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(status(&mut stream), 413);
}

#[test]
fn a_batch_answers_in_order_with_its_references_and_says_when_its_verdicts_differ() {
    let world = unlocked();
    let item = |n: usize| json!({"plaintext": STANDARD.encode(n.to_string()), "reference": format!("r{n}")});
    let items: Vec<_> = (0..10_000).map(item).collect();
    let made = world.data("encrypt", json!({"items": items}));
    assert_eq!(made.verdict.as_deref(), Some("valid"));
    let made = made.expect(200);
    let made = made["items"].as_array().unwrap();
    assert_eq!(made.len(), 10_000);
    let back: Vec<_> = made
        .iter()
        .map(|item| json!({"ciphertext": item["ciphertext"], "reference": item["reference"]}))
        .collect();
    let opened = world.data("decrypt", json!({"items": back})).expect(200);
    for (n, item) in opened["items"].as_array().unwrap().iter().enumerate() {
        assert_eq!(STANDARD.decode(item["plaintext"].as_str().unwrap()).unwrap(), n.to_string().as_bytes());
        assert_eq!((&item["reference"], &item["verdict"]), (&json!(format!("r{n}")), &json!("valid")));
    }
    let items: Vec<_> = (0..10_001).map(item).collect();
    data(&world, "encrypt", json!({"items": items}).to_string(), 413, "too_large", "undetermined");
    let nothing = world.data("encrypt", json!({"items": []}));
    assert_eq!(nothing.verdict.as_deref(), Some("undetermined"), "of nothing, nothing is said");
    assert_eq!(nothing.expect(200), json!({"items": []}));
}

#[test]
fn each_item_of_a_batch_is_judged_alone() {
    let world = unlocked();
    let good = world.encrypt(b"good");
    let unknown = good.replacen("v9", "v77", 1);
    let batch = |values: &[&str]| {
        let items: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(n, value)| json!({"ciphertext": value, "reference": n.to_string()}))
            .collect();
        let answer = world.data("decrypt", json!({"items": items}));
        let verdict = answer.verdict.clone().unwrap();
        (verdict, answer.expect(200)["items"].clone())
    };
    let (verdict, items) = batch(&[&good, "junk", &unknown, &good]);
    assert_eq!(verdict, "mixed");
    assert_eq!(items[0]["plaintext"], STANDARD.encode("good"));
    for (at, code, status, verdict) in
        [(1, "malformed_ciphertext", 422, "invalid"), (2, "unknown_key_version", 503, "undetermined")]
    {
        let error = &items[at]["error"];
        assert_eq!(
            (&error["code"], &error["status"], &error["verdict"]),
            (&json!(code), &json!(status), &json!(verdict))
        );
        assert_eq!(items[at]["reference"], at.to_string());
    }
    assert_eq!(items[3]["reference"], "3");
    assert_eq!(batch(&[&good, &good]).0, "valid");
    assert_eq!(batch(&["junk", ""]).0, "invalid");
    assert_eq!(batch(&[&unknown]).0, "undetermined");
}

#[test]
fn who_may_not_ask_is_told_so_and_no_value_is_judged() {
    let world = unlocked();
    let value = world.encrypt(b"x");
    let body = json!({"ciphertext": value}).to_string().into_bytes();
    let url = |key: &str, operation: &str| format!("{}/v1/keys/{key}/{operation}", world.data_url());
    let unknown_token = SERVICE.replace('s', "t");
    for token in [None, Some(unknown_token.as_str()), Some("km_short"), Some(""), Some("Bearer"), Some(EXPIRED)] {
        let answer = world.raw(url(KEY, "decrypt"), "POST", token, body.clone());
        answer.expect_problem(401, "unauthenticated", "undetermined");
    }
    for (key, operation, token, status, code) in [
        ("nobody-declared-this", "decrypt", SERVICE, 404, "unknown_key"),
        ("PII", "decrypt", SERVICE, 404, "unknown_key"),
        ("pii", "decrypt", SERVICE, 403, "forbidden"),
        (KEY, "encrypt", READER, 403, "forbidden"),
        (KEY, "rewrap", READER, 403, "forbidden"),
        (KEY, "datakey", READER, 403, "forbidden"),
        (KEY, "datakey/decrypt", READER, 403, "forbidden"),
        (KEY, "decrypt", OPERATOR, 403, "forbidden"),
        (KEY, "decrypt", AUDITOR, 403, "forbidden"),
    ] {
        world.raw(url(key, operation), "POST", Some(token), body.clone()).expect_problem(
            status,
            code,
            "undetermined",
        );
    }
    assert_eq!(
        world.raw(url(KEY, "decrypt"), "POST", Some(READER), body.clone()).verdict.as_deref(),
        Some("valid")
    );

    // Every answer of the data listener has a verdict, whatever was asked.
    for (method, path, token, status) in [
        ("GET", "/", None, 404),
        ("GET", "/v1/keys", None, 401),
        ("GET", "/v1/keys", Some(SERVICE), 200),
        ("GET", "/v1/keys/auth-token/decrypt", Some(SERVICE), 405),
        ("DELETE", "/v1/keys", Some(SERVICE), 405),
        ("POST", "/v1/keys//decrypt", Some(SERVICE), 404),
        ("POST", "/v1/keys/%ff/decrypt", Some(SERVICE), 400),
        ("POST", "/v1/status", Some(OPERATOR), 404),
        ("POST", "/v1/unlock/parts", None, 404),
        ("OPTIONS", "/v1/keys/auth-token/decrypt", None, 405),
    ] {
        let answer = world.raw(format!("{}{path}", world.data_url()), method, token, vec![]);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.json);
        assert_eq!(answer.verdict.as_deref(), Some("undetermined"), "{method} {path}");
    }

    // Nor does a service, or an auditor, get anywhere on the control listener.
    for (method, path) in [
        ("POST", "/v1/init"),
        ("DELETE", "/v1/unlock"),
        ("POST", "/v1/unlock/degraded"),
        ("POST", "/v1/seal"),
        ("POST", "/v1/requests"),
        ("GET", "/v1/versions/9/packages"),
        ("POST", "/v1/versions/9/activate"),
        ("POST", "/v1/versions/9/retire"),
        ("POST", "/v1/rekey"),
        ("POST", "/v1/census"),
        ("POST", "/v1/reload"),
        ("POST", "/v1/manifest/republish"),
        ("POST", "/v1/manifest/confirm"),
    ] {
        for (token, status, code) in
            [(None, 401, "unauthenticated"), (Some(SERVICE), 403, "forbidden"), (Some(AUDITOR), 403, "forbidden")]
        {
            let answer = world.control(method, path, token, Json::Null);
            assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
        }
    }
    for path in ["/v1/versions", "/v1/census", "/v1/rekey", "/v1/certificates"] {
        assert_eq!(world.control("GET", path, Some(SERVICE), Json::Null).status, 403, "{path}");
        assert_eq!(world.control("GET", path, Some(AUDITOR), Json::Null).status, 200, "{path}");
    }
    assert_eq!(world.state(), "unlocked");
}

/// A connection on which anything can be written.
fn dial(world: &World, url: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.data_dir().join("tls-cert.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(url.strip_prefix("https://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    StreamOwned::new(connection, stream)
}

/// The status of the answer that comes next.
fn status(stream: &mut impl std::io::Read) -> u16 {
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    std::str::from_utf8(&head).unwrap().strip_prefix("HTTP/1.1 ").unwrap().parse().unwrap()
}

#[test]
fn a_body_that_drips_is_given_up_in_time_and_holds_nobody_up() {
    let world = unlocked();
    let mut stream = dial(&world, world.control_url());
    let head = "POST /v1/unlock/parts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    stream.sock.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let started = Instant::now();
    let mut answer = [0; 12];
    let mut have = 0;
    while have < answer.len() {
        assert!(started.elapsed() < PATIENCE, "no end was put to it");
        match stream.read(&mut answer[have..]) {
            Ok(0) => panic!("the connection was cut without an answer"),
            Ok(read) => have += read,
            // Nothing yet: another drop, and somebody else is served meanwhile.
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                // What was answered in between is read next.
                let _ended = stream.write_all(b" ");
                world.get("/v1/status");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert!(started.elapsed() > Duration::from_secs(5), "a slow line is given some time");
}
