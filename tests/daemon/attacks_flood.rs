//! Floods: thousands of hostile calls and connections, and honest holders who notice nothing of them.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::blocking::Client;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value as Json, json};

use crate::{
    audit::metric,
    harness::{AUDITOR, Background, PATIENCE, SERVICE, World},
    oracle,
};

/// The address that the floods come from, and some of the holders too.
const HERE: &str = "127.0.0.1";
/// Another one of the same machine.
const THERE: &str = "127.0.0.2";
const THREADS: usize = 4;

fn client_at(world: &World, address: &str) -> Client {
    let pem = fs::read(world.data_dir().join("tls-cert.pem")).unwrap();
    let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
    let builder = Client::builder().tls_certs_only([certificate]).timeout(PATIENCE).no_proxy();
    builder.local_address(address.parse::<IpAddr>().unwrap()).build().unwrap()
}

struct Answer {
    status: u16,
    retry_after: Option<u64>,
    verdict: Option<String>,
    json: Json,
}

/// One call with parts, from one of the two addresses.
fn give(world: &World, from: &Client, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    let response = from.post(format!("{}{path}", world.control_url())).body(body.into()).send().unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Answer {
        status: response.status().as_u16(),
        retry_after: header("retry-after").map(|seconds| seconds.parse().unwrap()),
        verdict: header("keymoot-verdict"),
        json: serde_json::from_slice(&response.bytes().unwrap()).unwrap(),
    }
}

/// What an honest holder sends is taken at once, whatever else goes on.
#[track_caller]
fn right(world: &World, from: &Client, path: &str, body: impl Into<Vec<u8>>) -> Json {
    let answer = give(world, from, path, body);
    assert_eq!(answer.status, 200, "{}", answer.json);
    answer.json
}

fn wrong(name: &str, shares: &[&str]) -> Vec<u8> {
    let parts: serde_json::Map<_, _> =
        shares.iter().enumerate().map(|(n, share)| (format!("{name}{n}"), json!(share))).collect();
    json!({"parts": parts}).to_string().into_bytes()
}

#[test]
fn fault_09_an_address_gives_so_many_wrong_parts_and_its_right_ones_always_count() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let (here, there) = (client_at(&world, HERE), client_at(&world, THERE));
    let unlock = "/v1/unlock/parts";
    let junk = wrong("prod-keyPart-v9", &["kmshare1qqq"; 8]);
    let limited = world.until("the address is over its allowance", || {
        let answer = give(&world, &here, unlock, junk.clone());
        if answer.status == 422 {
            assert_eq!(answer.json["rejected"].as_array().unwrap().len(), 8);
            return None;
        }
        Some(answer)
    });
    assert_eq!((limited.status, &limited.json["code"]), (429, &json!("rate_limited")), "{}", limited.json);
    assert_eq!(
        (limited.verdict.as_deref(), &limited.json["verdict"]),
        (Some("undetermined"), &json!("undetermined"))
    );
    assert!(limited.json["rejected"].is_null() && limited.json["accepted"].is_null(), "{}", limited.json);
    let retry_ms = limited.json["retry_after_ms"].as_u64().unwrap();
    assert!(retry_ms >= 1_000 && limited.retry_after == Some(retry_ms.div_ceil(1_000)), "{}", limited.json);
    let again: Vec<_> =
        (0..5).map(|_| give(&world, &here, unlock, junk.clone()).json["retry_after_ms"].as_u64()).collect();
    assert!(again.iter().any(|other| *other != Some(retry_ms)), "not everybody comes back at once: {again:?}");

    // The other calls that take shares have the same allowance; an unknown request is not told apart from a known one.
    // It comes back by one a second, so that of this many there is none for minutes.
    let many = wrong("prod-keyPart-v9", &["kmshare1qqq"; 200]);
    for path in ["/v1/prove/parts", "/v1/requests/00000000-0000-7000-8000-000000000000/consent"] {
        for (from, parts, limited) in [(&here, &many, true), (&there, &junk, false)] {
            let mut body: Json = serde_json::from_slice(parts).unwrap();
            if path.ends_with("consent") {
                body["digest"] = json!("00".repeat(32));
            }
            let answer = give(&world, from, path, body.to_string());
            assert_eq!(answer.json["code"] == "rate_limited", limited, "{path}: {}", answer.json);
        }
    }
    // A right share beside wrong ones: all of them are answered one by one.
    let mixed = json!({"parts": {"prod-keyPart-v9": world.share(9, 1), "prod-keyPart-v10": "kmshare1qqq"}});
    let mixed = give(&world, &here, unlock, mixed.to_string());
    assert_eq!((mixed.status, &mixed.json["accepted"][0]["holder"]), (422, &json!("h1")), "{}", mixed.json);
    assert_eq!(mixed.json["rejected"][0]["code"], "malformed_share");
    // One that is here already is a right share too, and is told so.
    let repeated = give(&world, &here, unlock, world.parts(&[(9, 1)]));
    assert_eq!((repeated.status, &repeated.json["rejected"][0]["code"]), (422, &json!("duplicate_share")));
    assert_eq!(right(&world, &here, unlock, world.parts(&[(9, 2)]))["state"], "unlocked");
    right(&world, &here, "/v1/prove/parts", world.parts(&[(9, 3)]));

    // In time it is told again what is wrong with a part.
    let one = wrong("prod-keyPart-v9", &["kmshare1qqq"]);
    let told = world.until("some allowance is back", || {
        let answer = give(&world, &here, unlock, one.clone());
        (answer.status != 429).then_some(answer)
    });
    assert_eq!((told.status, &told.json["rejected"][0]["code"]), (422, &json!("malformed_share")));
}

/// A request as it goes over the line, and whether its sender goes away in the middle of it.
struct Hostile {
    bytes: Vec<u8>,
    cut: bool,
}

fn hostile(method: &str, path: &str, token: Option<&str>, body: impl AsRef<[u8]>) -> Hostile {
    let body = body.as_ref();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: {}\r\n\r\n", body.len());
    Hostile { bytes: [head.as_bytes(), body].concat(), cut: false }
}

type Line = StreamOwned<ClientConnection, TcpStream>;

/// Sends hostile calls from many threads, as fast as they are answered, until it is stopped.
struct Flood {
    calls: Arc<AtomicUsize>,
    statuses: Arc<Mutex<BTreeMap<u16, usize>>>,
    threads: Vec<Background<()>>,
    began: Instant,
}

impl Flood {
    fn new(world: &World, calls: Vec<Hostile>) -> Self {
        let config = config(world);
        let address: SocketAddr = world.control_url().strip_prefix("https://").unwrap().parse().unwrap();
        let mut flood =
            Self { calls: Arc::default(), statuses: Arc::default(), threads: vec![], began: Instant::now() };
        let hostile = Arc::new(calls);
        for thread in 0..THREADS {
            let (calls, statuses) = (flood.calls.clone(), flood.statuses.clone());
            let (config, hostile) = (config.clone(), hostile.clone());
            flood.threads.push(Background::start(move |stop| {
                let mut line = None;
                for call in hostile.iter().cycle().skip(thread * hostile.len() / THREADS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // A call whose connection was ended under it is one all the same; its status is 0.
                    let status = exchange(&mut line, &config, address, call).unwrap_or_default();
                    *statuses.lock().unwrap().entry(status).or_default() += 1;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        flood
    }

    #[track_caller]
    fn until(&self, calls: usize) {
        let mut newest = (0, Instant::now());
        while newest.0 < calls {
            let so_far = self.calls.load(Ordering::Relaxed);
            // It may be slow, on a slow machine, as long as it goes on.
            assert!(so_far > newest.0 || newest.1.elapsed() < PATIENCE, "the flood dries up");
            if so_far > newest.0 {
                newest = (so_far, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How often it met which status.
    fn stop(self) -> BTreeMap<u16, usize> {
        self.threads.into_iter().for_each(Background::end);
        let (calls, took) = (self.calls.load(Ordering::Relaxed), self.began.elapsed());
        let statuses = std::mem::take(&mut *self.statuses.lock().unwrap());
        println!("{calls} hostile calls, {:.0} a second: {statuses:?}", calls as f64 / took.as_secs_f64());
        statuses
    }
}

fn config(world: &World) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.data_dir().join("tls-cert.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The status of the answer, and the line kept if it may be used again.
fn exchange(
    line: &mut Option<Line>,
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    call: &Hostile,
) -> io::Result<u16> {
    let mut stream = match line.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let name = ServerName::try_from("localhost").unwrap();
            StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream)
        }
    };
    stream.write_all(&call.bytes)?;
    if call.cut {
        return Ok(0);
    }
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|header| header.strip_prefix(name).map(str::trim));
    let mut body = vec![0; header("content-length:").and_then(|bytes| bytes.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body)?;
    if header("connection:") != Some("close") {
        *line = Some(stream);
    }
    Ok(head[9..12].parse().unwrap_or_default())
}

/// Everything that somebody without a share, or with one of another keyring or used up, may try.
fn attack(world: &World, request: Option<&Json>) -> Vec<Hostile> {
    let (unlock, prove) = ("/v1/unlock/parts", "/v1/prove/parts");
    let id = world.get("/v1/status")["keyring_id"].clone();
    let y = "07".repeat(32);
    let crafted = oracle::crafted(&json!([
        {"keyring_id": "0011223344556677", "version": 9, "x": 1, "y": y},
        {"keyring_id": id, "version": 9, "x": 1, "y": y},
        {"keyring_id": id, "version": 9, "x": 200, "y": y},
        {"keyring_id": id, "version": 77_777, "x": 1, "y": y},
    ]));
    let name = "prod-keyPart-v9";
    let part = |share: &str| json!({"parts": {name: share}}).to_string();
    let mut calls = vec![];
    for share in &crafted {
        calls.push(hostile("POST", unlock, None, part(share)));
        calls.push(hostile("POST", prove, None, part(share)));
    }
    for body in ["{", "", "[]", r#"{"parts":{}}"#, r#"{"parts":{"a":7}}"#, r#"{"parts":{"a":"x","a":"x"}}"#] {
        calls.push(hostile("POST", unlock, None, body));
    }
    calls.push(hostile("POST", unlock, None, wrong("prod-keyPart-v", &[crafted[1].as_str(); 200])));
    calls.push(hostile("POST", unlock, None, "x".repeat(100_000)));
    calls.push(hostile("POST", unlock, Some("km_nobody"), part(&crafted[1])));
    let mut cut = hostile("POST", unlock, None, part(&crafted[1]));
    cut.bytes.truncate(cut.bytes.len() - 40);
    calls.push(Hostile { cut: true, ..cut });
    for token in [None, Some("km_nobody"), Some(SERVICE), Some(AUDITOR)] {
        for (method, path) in [("DELETE", "/v1/unlock"), ("POST", "/v1/seal"), ("POST", "/v1/unlock/degraded")] {
            calls.push(hostile(method, path, token, ""));
        }
    }
    let consent = |digest: &Json, share: &str| json!({"digest": digest, "parts": {name: share}}).to_string();
    let unknown = "/v1/requests/00000000-0000-7000-8000-000000000000";
    calls.push(hostile(
        "POST",
        &format!("{unknown}/consent"),
        None,
        consent(&json!("00".repeat(32)), &crafted[1]),
    ));
    calls.push(hostile("GET", unknown, None, ""));
    if let Some(request) = request {
        let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
        // Of a holder who is no party to what goes on: a share that counts no more, again and again.
        let used_up = world.share(9, 5);
        calls.push(hostile("POST", unlock, None, part(&used_up)));
        calls.push(hostile("POST", &format!("{unknown}/consent"), None, consent(&request["digest"], &used_up)));
        let other = json!("00".repeat(32));
        calls.push(hostile("POST", &format!("{path}/consent"), None, consent(&other, &used_up)));
        for share in &crafted {
            calls.push(hostile("POST", &format!("{path}/consent"), None, consent(&request["digest"], share)));
        }
        calls.push(hostile("DELETE", &path, Some(SERVICE), ""));
        calls.push(hostile("DELETE", &path, None, ""));
        calls.push(hostile("GET", &path, None, ""));
    }
    calls
}

/// Memory that the daemon has in RAM, in KiB.
fn resident_kib(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn fault_09_a_flood_of_hostile_starts_does_not_stop_an_honest_ceremony() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let (here, there) = (client_at(&world, HERE), client_at(&world, THERE));
    let (unlock, prove) = ("/v1/unlock/parts", "/v1/prove/parts");

    // A sealed node: the first holder sits behind the same address as the flood.
    let flood = Flood::new(&world, attack(&world, None));
    flood.until(1_000);
    let resident = resident_kib(&world);
    assert_eq!(right(&world, &here, unlock, world.parts(&[(9, 1)]))["state"], "unlocking");
    flood.until(4_000);
    assert_eq!(world.get("/v1/status")["versions"][0]["have"], 1, "nothing counted and nothing was wiped");
    assert_eq!(right(&world, &there, unlock, world.parts(&[(9, 2)]))["state"], "unlocked");
    let met = flood.stop();
    assert!([400, 401, 403, 429].iter().all(|status| met.contains_key(status)), "{met:?}");
    assert!(!met.contains_key(&500) && !met.contains_key(&200), "{met:?}");

    // An open request whose id the flood knows: consent, prove, load, activate.
    let request = world.post("/v1/requests", json!({"operation": "stage"})).expect(202);
    let consent = format!("/v1/requests/{}/consent", request["id"].as_str().unwrap());
    let flood = Flood::new(&world, attack(&world, Some(&request)));
    flood.until(1_000);
    let consents = |holder: usize| {
        json!({"digest": request["digest"], "parts": {"prod-keyPart-v9": world.share(9, holder)}}).to_string()
    };
    assert_eq!(right(&world, &here, &consent, consents(1))["have"], 1);
    flood.until(2_000);
    assert_eq!(right(&world, &there, &consent, consents(2))["version"], 10);
    world.keep_packages(&world.get("/v1/versions/10/packages"));
    for (holder, from) in (1..=5).zip([&here, &there].into_iter().cycle()) {
        right(&world, from, prove, world.parts(&[(10, holder)]));
    }
    right(&world, &here, unlock, world.parts(&[(10, 1)]));
    flood.until(4_000);
    right(&world, &there, unlock, world.parts(&[(10, 2)]));
    world.post("/v1/versions/10/activate", json!({})).expect(200);
    let value = world.encrypt(b"served meanwhile");
    assert!(value.starts_with("km:v10:"));
    flood.until(6_000);
    let met = flood.stop();
    assert!(!met.contains_key(&500) && met.contains_key(&422), "{met:?}");

    assert_eq!(world.open(&value), b"served meanwhile");
    let more = resident_kib(&world).saturating_sub(resident);
    assert!(more < 128 * 1024, "{more} KiB more than before");
    // So many lines as there was allowance, and not one for each call.
    let refused = world.log().matches("part refused").count();
    assert!(refused < 1_000, "{refused} lines");
    assert!(world.log().contains("more wrong parts than anybody has"));
    let detail = world.until("a wrong part is answered in detail again", || {
        let answer = give(&world, &here, unlock, wrong("prod-keyPart-v9", &["kmshare1qqq"]));
        (answer.status == 422).then_some(answer.json)
    });
    assert_eq!(detail["rejected"][0]["code"], "malformed_share");
}

#[test]
fn fault_09_connections_that_say_nothing_keep_no_holder_out() {
    let mut world = World::new("");
    world.start();
    world.init(5, 9);
    let (here, there) = (client_at(&world, HERE), client_at(&world, THERE));
    let address: SocketAddr = world.control_url().strip_prefix("https://").unwrap().parse().unwrap();
    let mut silent = Vec::new();
    // More than the listener holds: the first ones are ended for the last ones, long before they time out.
    for _ in 0..1_050 {
        silent.push(TcpStream::connect(address).unwrap());
    }
    right(&world, &here, "/v1/unlock/parts", world.parts(&[(9, 1)]));
    assert_eq!(right(&world, &there, "/v1/unlock/parts", world.parts(&[(9, 2)]))["state"], "unlocked");
    let open = silent.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    });
    let open = open.count();
    // On a machine that stands still for seconds some time out by themselves before the last ones come.
    let ended =
        |what: &str| metric(&world, &format!("keymoot_{what}_total{{listener=\"control\"}}")).unwrap_or(0.0);
    let (made_way, timed_out) = (ended("connections_crowded_out"), ended("handshakes_failed"));
    assert!(
        open <= 1_000 && made_way <= 150.0,
        "{open} are open still, {made_way} made way: only as many as had to"
    );
    assert!(
        open as f64 + made_way + timed_out >= 1_050.0,
        "{open} open, {made_way} made way, {timed_out} timed out"
    );
}
