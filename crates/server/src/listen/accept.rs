//! The accept loop.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::{HeaderValue, Request, StatusCode, Version, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use keymoot_api::routes;
use metrics::{Counter, Gauge, counter, gauge};
use rustls::{ServerConfig, server::Acceptor};
use tokio::{net::TcpStream, sync::Notify, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{Beside, Bound, Limits, TlsHandle, room::Room};
use crate::memory::WipingStack;

/// When the process is out of file descriptors, some come back in this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of a request; none of ours is near it.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const HEADERS_MAX: usize = 64;
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
// What a client may send ahead of being read: it bounds the memory of one HTTP/2 connection.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Streams reset by the client before they were taken up (CVE-2023-44487), and by us for its errors.
const RESETS_MAX: usize = 20;
/// Refusals behind whose back the rest of the body is still read: closing would cut the answer off.
const READ_AWAY: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::PAYLOAD_TOO_LARGE];
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end; an extension of requests to the control listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves until `stop`, and then until open requests are answered or the drain time is over.
pub async fn serve(bound: Bound, tls: TlsHandle, router: Router, limits: Limits, stop: CancellationToken) {
    serve_beside(bound, tls, router, limits, stop, None).await;
}

/// The same, and perhaps another protocol on the same address.
pub async fn serve_beside(
    bound: Bound,
    tls: TlsHandle,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    beside: Option<Beside>,
) {
    let connection = Arc::new(Connection {
        http: http(&limits),
        router,
        beside,
        limits,
        stop: stop.clone(),
        open: gauge!("keymoot_connections", "listener" => limits.name),
        failed: counter!("keymoot_handshakes_failed_total", "listener" => limits.name),
        crowded_out: counter!("keymoot_connections_crowded_out_total", "listener" => limits.name),
    });
    let room = Room::new(&limits);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = bound.listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, limits.name).await;
                continue;
            }
        };
        // Until there is room, the next connections wait in the kernel.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = room.enter(peer.ip()) => place,
        };
        let tls = tls.load_full();
        let connection = connection.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = place.ended() => connection.crowded_out.increment(1),
                () = connection.run(stream, peer, tls) => {}
            }
        });
    }
    drop(bound);
    tasks.close();
    // Each connection ends itself in time; the second is for the runtime.
    if timeout(limits.drain_timeout + Duration::from_secs(1), tasks.wait()).await.is_err() {
        tracing::warn!(
            listener = limits.name,
            open = tasks.len(),
            "connections were cut at the end of the drain time"
        );
    }
}

async fn pause_after(error: &io::Error, listener: &'static str) {
    // A client that was gone before it was accepted is no trouble of ours.
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(listener, %error, "accepting failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// What all connections of a listener share.
struct Connection {
    http: auto::Builder<TokioExecutor>,
    router: Router,
    beside: Option<Beside>,
    limits: Limits,
    stop: CancellationToken,
    open: Gauge,
    failed: Counter,
    crowded_out: Counter,
}

impl Connection {
    /// Ends with what the client asked for: HTTP, or what is served beside it.
    async fn handshake(
        &self,
        stream: TcpStream,
        tls: Arc<ServerConfig>,
    ) -> io::Result<(TlsStream<TcpStream>, Option<&Beside>)> {
        let Some(beside) = &self.beside else {
            return Ok((TlsAcceptor::from(tls).accept(stream).await?, None));
        };
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let wanted = hello.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == beside.alpn));
        let stream = hello.into_stream(if wanted { beside.tls.clone() } else { tls }).await?;
        Ok((stream, wanted.then_some(beside)))
    }

    async fn run(&self, stream: TcpStream, peer: SocketAddr, tls: Arc<ServerConfig>) {
        let _open = Open::new(&self.open);
        // Answers are small and whole: waiting to fill a packet only delays them. An error here is one there too.
        stream.set_nodelay(true).ok();
        let handshake = timeout(self.limits.handshake_timeout, self.handshake(stream, tls));
        let (stream, beside) = tokio::select! {
            () = self.stop.cancelled() => return,
            stream = handshake => match stream {
                Ok(Ok(stream)) => stream,
                // Port scans and impatient clients: counted, not logged.
                Ok(Err(_)) | Err(_) => return self.failed.increment(1),
            },
        };
        if let Some(beside) = beside {
            return (beside.serve)(stream, peer).await;
        }
        let peer = self.limits.peer.then_some(Peer(peer));
        let router = &self.router;
        let asked = AtomicBool::new(false);
        let had_shares = Arc::new(Notify::new());
        let service = service_fn(|mut request: Request<Incoming>| {
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            asked.store(true, Ordering::Relaxed);
            let request_version = request.version();
            let mut router = router.clone();
            let had_shares = carries_shares(request.uri().path()).then(|| had_shares.clone());
            async move {
                let answering = async { router.call(request).await.unwrap_or_else(|never| match never {}) };
                let Some(had_shares) = had_shares else { return Ok::<_, Infallible>(answering.await) };
                let mut response = WipingStack::new(answering).await;
                if READ_AWAY.contains(&response.status()) {
                    return Ok(response);
                }
                if request_version < Version::HTTP_2 {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                had_shares.notify_one();
                Ok(response)
            }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        // hyper's own timeout begins only once it knows which version of HTTP is spoken.
        let silent = async {
            tokio::time::sleep(self.limits.header_timeout).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        // What goes wrong from here on the client sees, or has caused.
        tokio::select! {
            // First: what came while this process was held up is read before its client is called silent.
            biased;
            ended = connection.as_mut() => drop(ended),
            () = silent => {}
            // The buffers of a connection live as long as it does, and with them what was read and written.
            () = had_shares.notified() => {
                connection.as_mut().graceful_shutdown();
                drop(timeout(self.limits.drain_timeout, connection).await);
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                drop(timeout(self.limits.drain_timeout, connection).await);
            }
        }
    }
}

/// Whether shares stand in the request or its answer.
fn carries_shares(path: &str) -> bool {
    path == routes::INIT.path
        || ["/unlock/parts", "/prove/parts", "/consent", "/packages"].iter().any(|end| path.ends_with(end))
}

/// Counts a connection for as long as it lives, whatever ends it.
struct Open<'a>(&'a Gauge);

impl<'a> Open<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
