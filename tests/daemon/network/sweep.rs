//! One exchange after the other, each over a connection of its own that is cut behind another byte.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value as Json;

use crate::harness::{
    Answer, PATIENCE, World,
    proxy::{Proxy, Rule, Sample},
};

pub struct Said {
    pub status: u16,
    pub json: Json,
}

/// A client that makes a whole new connection for every request and speaks plain HTTP/1.1 on it.
pub struct Caller {
    tls: Arc<ClientConfig>,
}

impl Caller {
    pub fn new(world: &World) -> Self {
        let mut roots = RootCertStore::empty();
        let pem = fs::read(world.data_dir().join("tls-cert.pem")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // Short handshakes: what is cut is to be the exchange.
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        let tls = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let mut tls = tls.unwrap().with_root_certificates(roots).with_no_client_auth();
        tls.resumption = rustls::client::Resumption::disabled();
        Self { tls: Arc::new(tls) }
    }

    /// What was answered, if it came whole. It ends by its deadline, or the test does.
    pub fn call(&self, to: SocketAddr, request: &[u8]) -> Option<Said> {
        let mut tcp = TcpStream::connect(to).ok()?;
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut connection = ClientConnection::new(self.tls.clone(), name).unwrap();
        let mut stream = Stream::new(&mut connection, &mut tcp);
        // One that breaks off here may have been heard all the same.
        let _cut = stream.write_all(request);
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "no end within {PATIENCE:?}");
        }
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
        let (head, body) = (String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase(), &bytes[head + 4..]);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() < length {
            return None;
        }
        let json = if length == 0 { Json::Null } else { serde_json::from_slice(&body[..length]).unwrap() };
        Some(Said { status, json })
    }
}

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> Vec<u8> {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

pub fn address(url: &str) -> SocketAddr {
    url.strip_prefix("https://").unwrap().parse().unwrap()
}

/// The same once more, by somebody who waits where it is said that nothing was done: the disk of a busy machine may be slow.
#[track_caller]
pub fn again(world: &World, ask: impl Fn() -> Answer) -> Answer {
    world.until("it is done", || Some(ask()).filter(|answer| answer.status != 503))
}

/// What a sweep met, both ways together.
#[derive(Default, Debug)]
pub struct Met {
    pub answered: usize,
    pub unanswered: usize,
    /// Of these, what was done all the same.
    pub done: usize,
}

/// Cuts one exchange behind byte after byte, first of the request and then of the reply. `prepare` makes it undone and
/// gives the request; `settle` looks at the state, does the same again, and says whether it was done already.
pub fn sweep(
    world: &World,
    url: &str,
    sample: Sample,
    mut prepare: impl FnMut() -> Vec<u8>,
    mut settle: impl FnMut(Option<&Said>) -> bool,
) -> Met {
    let (proxy, caller) = (Proxy::new(address(url)), Caller::new(world));
    let whole = prepare();
    let said = caller.call(proxy.address(), &whole).expect("an exchange that nobody cuts");
    settle(Some(&said));
    let lengths = proxy.passed();
    let mut met = Met::default();
    let ways: [fn(usize) -> Rule; 2] = [Rule::CutRequest, Rule::CutReply];
    for (way, length) in ways.into_iter().zip(lengths) {
        assert!(length > 300, "{lengths:?} bytes are no exchange");
        for bytes in sample.of(length) {
            let request = prepare();
            proxy.set(way(bytes));
            let said = caller.call(proxy.address(), &request).filter(|said| said.status != 503);
            let done = settle(said.as_ref());
            match said {
                Some(said) => {
                    assert!(said.status < 300, "{:?} {} {}", way(bytes), said.status, said.json);
                    met.answered += 1;
                }
                None => {
                    met.unanswered += 1;
                    met.done += usize::from(done);
                }
            }
        }
    }
    println!("{lengths:?} bytes: {met:?}");
    assert!(met.unanswered > 5, "{met:?}");
    met
}
