//! A plain TCP balancer: connections go round among the nodes whose `/readyz` says 200.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::harness::{World, client};

pub struct Balancer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ready: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    closed: AtomicBool,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(self.address);
    }
}

impl Balancer {
    /// The nodes keep their addresses.
    pub fn new(nodes: &[World]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let of = |url: &str| url.trim_start_matches("https://").parse::<SocketAddr>().unwrap();
        let nodes: Vec<(SocketAddr, String, PathBuf)> = nodes
            .iter()
            .map(|node| {
                (
                    of(node.data_url()),
                    format!("{}/readyz", node.control_url()),
                    node.data_dir().join("tls-cert.pem"),
                )
            })
            .collect();
        let looking = shared.clone();
        thread::spawn(move || {
            let probes: Vec<_> = nodes.iter().map(|(data, url, cert)| (*data, url, client(cert))).collect();
            while !looking.closed.load(Ordering::Relaxed) {
                let is_ready = |url: &str, client: &reqwest::blocking::Client| {
                    let answer = client.get(url).timeout(Duration::from_secs(2)).send();
                    answer.is_ok_and(|answer| answer.status() == 200)
                };
                let ready = probes.iter().filter(|(_, url, client)| is_ready(url, client));
                let ready = ready.map(|(data, ..)| *data).collect();
                *looking.ready.lock().unwrap() = ready;
                thread::sleep(Duration::from_millis(100));
            }
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.closed.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(server) = serving.connect() {
                    join(client, server);
                }
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Shared {
    /// The next that takes the connection: one may have gone since it was last looked at.
    fn connect(&self) -> Option<TcpStream> {
        let ready = self.ready.lock().unwrap().clone();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..ready.len()).find_map(|step| TcpStream::connect(ready[(first + step) % ready.len()]).ok())
    }
}

fn join(client: TcpStream, server: TcpStream) {
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        thread::spawn(move || {
            let _ended = io::copy(&mut from, &mut to);
            let _closed = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
        });
    }
}
