//! A maintenance window: holders have granted that named members, once restarted, get the keys from an unlocked one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Digest, NodeName};

/// The window that is granted. It stands in the manifest, under its macs, until its time is over or an operator ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Of the request that holders consented to.
    pub id: String,
    /// Who may receive the keys.
    pub members: Vec<NodeName>,
    /// For how many seconds, from the grant on.
    pub for_s: u64,
    /// Every member that was there when it was asked for.
    pub peers: Vec<Peer>,
}

/// How a member is known to the others: it says so in heartbeats, which only an unlocked node can make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Which.
    pub node: NodeName,
    /// Where its control listener is reached; none for one that can't be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// SHA-256 of the certificate that it shows to other members.
    pub fingerprint: Digest,
}

/// For how long a window has been open, as a member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Which window.
    pub id: String,
    /// Milliseconds.
    pub spent_ms: u64,
}

impl Window {
    /// For how long it is granted.
    pub fn granted_for(&self) -> Duration {
        Duration::from_secs(self.for_s)
    }

    /// A member as it was when the window was asked for.
    pub fn peer(&self, node: &NodeName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.node == *node)
    }
}
