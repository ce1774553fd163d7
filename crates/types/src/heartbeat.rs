//! What a member says of itself, for the others to judge.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, KeyId, KeyName, KeyVersion, NodeName, NodeState,
    window::{Peer, Spent},
};

/// One start of a node: 128 random bits, in text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// One heartbeat. It carries a mac under the primary's manifest key, so a sealed node has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeName,
    /// Which of its starts.
    pub boot: BootId,
    /// Counted from 1 in each boot.
    pub beat: u64,
    /// The newest beat that it has seen of each other boot: whoever finds a recent one of its own here knows that
    /// this was not recorded long ago.
    pub echoes: Vec<Echo>,
    /// What it can do.
    pub state: NodeState,
    /// The revision that it has adopted.
    pub revision: u64,
    /// That revision's digest.
    pub digest: Digest,
    /// Why it does not follow the store's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Whether it may have forgotten versions: its manifest was put back or confirmed by somebody.
    #[serde(default)]
    pub restored: bool,
    /// What is validated there, ascending: identity is (number, key id).
    pub validated: Vec<Validated>,
    /// Keys and sources as its configuration declares them, ascending by name.
    pub config: Vec<Declared>,
    /// How other members reach it and know it by its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// For how long it knows the maintenance window to have been open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Spent>,
}

/// A beat of another boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Whose.
    pub boot: BootId,
    /// The newest that was seen.
    pub beat: u64,
}

/// A version that is validated on a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// The number.
    pub version: KeyVersion,
    /// The identity.
    pub key_id: KeyId,
    /// Keys whose canary does not decrypt, or was never made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries_failed: Vec<KeyName>,
    /// For how long it has authenticated nothing that a service sent, in the member's service time; none where it
    /// never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// A key or source of the configuration, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Declared {
    /// `key auth-token`, `source customers.ssn`.
    pub name: String,
    /// SHA-256 of what is declared.
    pub digest: Digest,
}
