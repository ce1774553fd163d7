//! Load: connections that are kept, each asking its next question as soon as it has the answer to the last.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{net::TcpStream, runtime::Runtime, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::{figures::Round, process::cpu_seconds};

pub(crate) const CONNECTIONS: usize = 16;

/// Whom to ask.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
}

/// What to ask: the same again and again, one of `bodies` for each connection.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) path: String,
    pub(crate) header: (&'static str, String),
    pub(crate) bodies: Vec<Bytes>,
}

pub(crate) struct Load {
    runtime: Runtime,
    tls: TlsConnector,
}

impl Load {
    /// Trusts exactly this certificate.
    pub(crate) fn new(cert: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(cert).unwrap()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { runtime: Runtime::new().unwrap(), tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Asks for so long. Connecting is not part of it.
    pub(crate) fn round(&self, server: &Server, question: &Question, time: Duration) -> Round {
        self.runtime.block_on(self.ask(server, question, time))
    }

    /// One answer.
    pub(crate) fn once(&self, server: &Server, question: &Question) -> Bytes {
        self.runtime.block_on(async {
            let mut connection = self.connect(server.address).await;
            question.send(&mut connection, 0).await
        })
    }

    async fn ask(&self, server: &Server, question: &Question, time: Duration) -> Round {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(self.connect(server.address).await);
        }
        let cpu = cpu_seconds(server.pid);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, mut connection) in connections.into_iter().enumerate() {
            let question = question.clone();
            tasks.spawn(async move {
                let mut latency = Histogram::<u64>::new(3).unwrap();
                while begin.elapsed() < time {
                    let asked = Instant::now();
                    question.send(&mut connection, number).await;
                    latency.record(u64::try_from(asked.elapsed().as_micros()).unwrap()).unwrap();
                }
                latency
            });
        }
        let mut latency = Histogram::<u64>::new(3).unwrap();
        for one in tasks.join_all().await {
            latency.add(one).unwrap();
        }
        let answers = latency.len();
        let per_second = answers as f64 / begin.elapsed().as_secs_f64();
        Round { per_second, latency, answers, server_cpu: cpu_seconds(server.pid) - cpu }
    }

    async fn connect(&self, address: SocketAddr) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(address.ip());
        let stream = self.tls.connect(name, stream).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

impl Question {
    async fn send(&self, connection: &mut SendRequest<Full<Bytes>>, number: usize) -> Bytes {
        let body = self.bodies[number % self.bodies.len()].clone();
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header(self.header.0, &self.header.1)
            .body(Full::new(body))
            .unwrap();
        connection.ready().await.unwrap();
        let response = connection.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        body
    }
}
