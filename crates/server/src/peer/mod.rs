//! Between members: root keys for one that was restarted in a maintenance window, over mutual TLS.
//!
//! # Layout
//!
//! [`identity`] is what a member is known by → [`tls`] proves it, both ways → [`wire`] is what is said. Who is answered
//! is decided in `node/window_keys.rs`. On the control listener a member is told from everybody else by the protocol
//! that it asks for (ALPN), so that nobody else is ever asked for a certificate.

pub(crate) mod identity;
pub(crate) mod tls;
pub(crate) mod wire;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use keymoot_types::{Digest, KeyringId, window::Peer};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, server::TlsStream};

pub(crate) use self::identity::Identity;
use self::wire::Answer;
use crate::{listen::Beside, memory::WipingStack, node::Node};

/// What is asked for in the handshake.
pub(crate) const ALPN: &[u8] = b"keymoot-peer/1";
/// From the connection to its end.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a member gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It has no address.
    #[error("it had no address when the window was asked for")]
    NoAddress,
    /// The connection, or the proof of who is at its end.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It did not end.
    #[error("no answer within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    /// It says why.
    #[error("it refuses: {0}")]
    Refused(String),
}

/// What the control listener serves beside HTTP; nothing on a node that has no identity.
pub(crate) fn beside(node: &Arc<Node>) -> Option<Beside> {
    let tls = match tls::server(node.identity.as_ref()?) {
        Ok(tls) => tls,
        Err(error) => {
            tracing::error!(%error, "other members get no keys from this one");
            return None;
        }
    };
    let node = node.clone();
    let serve = move |stream, from| {
        let node = node.clone();
        Box::pin(async move {
            let answering = WipingStack::new(serve(&node, stream, from));
            if timeout(EXCHANGE_TIMEOUT, answering).await.is_err() {
                tracing::warn!(%from, "a member that asked for keys did not take them in time");
            }
        }) as _
    };
    Some(Beside { alpn: ALPN, tls, serve: Arc::new(serve) })
}

async fn serve(node: &Node, mut stream: TlsStream<TcpStream>, from: SocketAddr) {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(fingerprint) = certificates.first().map(identity::fingerprint) else { return };
    let Ok(keyring_id) = wire::read_ask(&mut stream).await else { return };
    match node.keys_for(&fingerprint, keyring_id, from.ip()).await {
        Ok(given) => {
            let sent = wire::send(&mut stream, &Answer::Keys { left: given.left, keys: given.keys }).await;
            node.note_given(given.entry, sent.as_ref().err());
        }
        // Nobody hears of it who is gone.
        Err(why) => drop(wire::send(&mut stream, &Answer::Refused(why)).await),
    }
}

/// Asks one member.
pub(crate) async fn ask(identity: &Identity, peer: &Peer, keyring_id: KeyringId) -> Result<Answer, AskError> {
    let address = peer.address.as_deref().ok_or(AskError::NoAddress)?;
    let asking = WipingStack::new(exchange(identity, address, peer.fingerprint, keyring_id));
    match timeout(EXCHANGE_TIMEOUT, asking).await.map_err(|_| AskError::Timeout)? {
        Ok(Answer::Refused(why)) => Err(AskError::Refused(why)),
        answer => Ok(answer?),
    }
}

async fn exchange(
    identity: &Identity,
    address: &str,
    fingerprint: Digest,
    keyring_id: KeyringId,
) -> io::Result<Answer> {
    let tls = tls::client(identity, fingerprint).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    // It is known by its certificate, and by no name.
    let name = ServerName::try_from("member.invalid").map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
    wire::send_ask(&mut stream, keyring_id).await?;
    wire::read(&mut stream).await
}
