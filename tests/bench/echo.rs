//! The ceiling: an axum server behind the same TLS that reads a JSON body and sends it back, in a process of its
//! own. What the daemon loses against it is the price of what the daemon does.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use axum::{Json, Router, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

use crate::load::Server;

/// The first argument of the child.
pub(crate) const ROLE: &str = "be-the-echo";

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<String>,
}

/// The child, which ends with this.
pub(crate) struct Echo {
    child: Child,
    pub(crate) server: Server,
}

impl Echo {
    /// `data_dir` holds the daemon's self-signed pair, which it serves as well.
    pub(crate) fn start(data_dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(ROLE).arg(data_dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let server = Server { address: line.trim().parse().unwrap(), pid: child.id() };
        Self { child, server }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Serves until it is killed.
pub(crate) fn serve(data_dir: &Path) {
    let read = |name: &str| fs::read(data_dir.join(name)).unwrap();
    let cert = CertificateDer::from_pem_slice(&read("tls-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("tls-key.pem")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
    Runtime::new().unwrap().block_on(listen(TlsAcceptor::from(Arc::new(config))));
}

async fn listen(tls: TlsAcceptor) {
    let router = Router::new()
        .route("/v1/keys/{key}/{operation}", post(|Json(body): Json<Body>| async move { Json(body) }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            if let Ok(stream) = tls.accept(stream).await {
                let builder = auto::Builder::new(TokioExecutor::new());
                // How a connection of the load ends is no matter.
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            }
        });
    }
}
