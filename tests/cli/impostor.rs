//! Nodes that are none: silent, with a wrong certificate, lying, redirecting. Each records what it was sent.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection, Stream,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A certificate authority of the test's own.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What is wrong with a certificate, or nothing.
#[derive(Clone, Copy)]
pub enum Certificate {
    Good,
    Expired,
    NotYetValid,
    WrongName,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn tls(&self, certificate: Certificate) -> Arc<ServerConfig> {
        let name = if matches!(certificate, Certificate::WrongName) { "db9.example" } else { "127.0.0.1" };
        let mut params = CertificateParams::new([name.into()]).unwrap();
        if matches!(certificate, Certificate::Expired) {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        if matches!(certificate, Certificate::NotYetValid) {
            params.not_before = date_time_ymd(2200, 1, 1);
            params.not_after = date_time_ymd(2201, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(vec![signed.der().clone()], key).unwrap())
    }
}

/// What it answers to a request.
pub type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// What it does with a connection.
pub enum Manner {
    /// Takes the connection and says nothing.
    Silent,
    /// Speaks HTTP without TLS.
    Plain(Answer),
    /// Speaks it behind a certificate.
    Tls(Arc<ServerConfig>, Answer),
}

/// A listener on loopback, for as long as the test runs.
pub struct Impostor {
    pub address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// As it came over the wire.
    raw: Mutex<Vec<u8>>,
    /// As it was after TLS.
    plain: Mutex<Vec<u8>>,
}

impl Impostor {
    pub fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, manner) = (Arc::new(Seen::default()), Arc::new(manner));
        let of_thread = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                of_thread.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, manner) = (of_thread.clone(), manner.clone());
                // Whatever breaks, the client's word about it is what the test looks at.
                std::thread::spawn(move || drop(serve(Wire { stream, seen: &seen }, &manner, &seen)));
            }
        });
        Self { address, seen }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Everything that came, as it came.
    pub fn raw(&self) -> Vec<u8> {
        self.seen.raw.lock().unwrap().clone()
    }

    /// The requests that could be read.
    pub fn requests(&self) -> String {
        String::from_utf8_lossy(&self.seen.plain.lock().unwrap()).into_owned()
    }
}

/// A connection whose incoming bytes are recorded.
struct Wire<'s> {
    stream: TcpStream,
    seen: &'s Seen,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.seen.raw.lock().unwrap().extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

fn serve(mut wire: Wire<'_>, manner: &Manner, seen: &Seen) -> std::io::Result<()> {
    match manner {
        Manner::Silent => drop(wire.read_to_end(&mut Vec::new())?),
        Manner::Plain(answer) => {
            let read = wire.read(&mut [0; 4096])?;
            assert!(read > 0, "nothing came");
            wire.write_all(&answer(""))?;
        }
        Manner::Tls(config, answer) => {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            respond(&mut Stream::new(&mut connection, &mut wire), answer, seen)?;
            connection.send_close_notify();
            connection.write_tls(&mut wire)?;
        }
    }
    wire.stream.shutdown(Shutdown::Both)
}

/// One request with its body, and one answer.
fn respond(stream: &mut (impl Read + Write), answer: &Answer, seen: &Seen) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !is_whole(&request) {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        request.extend_from_slice(&buffer[..read]);
        seen.plain.lock().unwrap().extend_from_slice(&buffer[..read]);
    }
    stream.write_all(&answer(&String::from_utf8_lossy(&request)))?;
    stream.flush()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// A whole HTTP answer.
pub fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// The first answer of a server that knows no later TLS than 1.1 (version 3.2): its hello, with a suite of that time.
pub fn hello_of_tls_1_1() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0], &[0xc0, 0x13], &[0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length][..], &body].concat()
}
