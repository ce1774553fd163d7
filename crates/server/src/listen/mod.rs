//! The two listeners: bound addresses, TLS that can be exchanged while serving, one accept loop each.
//!
//! The accept loop is made by hand: `axum-server` had a p99 of 11 to 15 ms where this stays under 0.6 ms.
//!
//! # Layout
//!
//! [`tls`] makes certificates and keys into settings, `accept` is the loop, `room` says who makes way when
//! a listener is full.

mod accept;
mod room;
pub mod tls;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::server::TlsStream;

pub use self::{
    accept::{Peer, serve, serve_beside},
    tls::TlsError,
};
use crate::config::Config;

/// Connections that the kernel holds ready while accepting pauses.
const BACKLOG: u32 = 4_096;

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What metrics and logs call it.
    pub name: &'static str,
    /// Open connections; beyond that, accepting pauses.
    pub connections_max: usize,
    /// Whether a full listener rather ends the oldest connection of the address that has most.
    pub makes_room: bool,
    /// From the connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the beginning of the wait for a request to the end of its headers; an idle connection ends with it.
    pub header_timeout: Duration,
    /// What open requests get after the stop.
    pub drain_timeout: Duration,
    /// HTTP/2 streams of one connection.
    pub streams_max: u32,
    /// Whether handlers see a [`Peer`]. The data listener spares itself that.
    pub peer: bool,
}

impl Limits {
    /// Of the data listener.
    pub const DATA: Self = Self {
        name: "data",
        connections_max: 10_000,
        makes_room: false,
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(10),
        streams_max: 200,
        peer: false,
    };
    /// Of the control listener: whoever opens a thousand connections keeps no holder out.
    pub const CONTROL: Self = Self {
        name: "control",
        connections_max: 1_000,
        makes_room: true,
        streams_max: 16,
        peer: true,
        ..Self::DATA
    };
}

/// What one party may be taken for: an address, of IPv6 the 64 bits that one customer is given.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Takes as many file descriptors as this process may have: each connection is one, and a shell gives too few.
pub fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// A bound address. Nothing is accepted until it is served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Binds an address; port 0 takes any. To be called in the runtime that will serve it (`Runtime::enter`).
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted daemon takes its address over at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves one connection that is not of HTTP.
pub type ServeStream = dyn Fn(TlsStream<TcpStream>, SocketAddr) -> BoxFuture<'static, ()> + Send + Sync;

/// A protocol beside HTTP on the same listener, with TLS of its own. A client asks for it by its ALPN name.
#[derive(Clone)]
pub struct Beside {
    /// The name.
    pub alpn: &'static [u8],
    /// Its TLS.
    pub tls: Arc<ServerConfig>,
    /// What is done with a connection; it ends in time by itself.
    pub serve: Arc<ServeStream>,
}

/// TLS settings that the next handshake uses.
pub type TlsHandle = Arc<ArcSwap<ServerConfig>>;

/// TLS of both listeners, exchanged together.
#[derive(Clone)]
pub struct Tls {
    data: TlsHandle,
    control: TlsHandle,
}

impl Tls {
    /// Reads certificate and key, or makes a self-signed pair.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let pair = tls::load(config)?;
        Ok(Self { data: Arc::new(ArcSwap::new(pair.data)), control: Arc::new(ArcSwap::new(pair.control)) })
    }

    /// Reads them again, for handshakes from now on. An error changes nothing.
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        let pair = tls::load(config)?;
        self.data.store(pair.data);
        self.control.store(pair.control);
        Ok(())
    }

    /// Of the data listener.
    pub fn data(&self) -> TlsHandle {
        self.data.clone()
    }

    /// Of the control listener.
    pub fn control(&self) -> TlsHandle {
        self.control.clone()
    }
}

#[cfg(test)]
mod tests;
