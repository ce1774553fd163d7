//! How a node is.

use jiff::Timestamp;
use keymoot_types::{HolderName, KeyVersion, KeyringId, KeyringName, NodeName, NodeState, SourceName};
use serde::{Deserialize, Serialize};

use crate::{HumanDuration, unlock::VersionProgress};

/// The answer to `GET /v1/status`. Names of holders, sources and peers only with a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// What it can do.
    pub state: NodeState,
    /// The keyring that it is configured for.
    pub keyring: KeyringName,
    /// Absent until it was made.
    pub keyring_id: Option<KeyringId>,
    /// The manifest's revision; 0 until there is one.
    pub revision: u64,
    /// Where the manifest came from.
    pub manifest: ManifestOrigin,
    /// Where every version stands, ascending.
    pub versions: Vec<VersionProgress>,
    /// What needs a person, in sentences. Empty when all is well.
    pub needs: Vec<String>,
    /// The way back that is open now, in a sentence.
    pub way_back: String,
    /// The other members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// Whether each source could be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceHealth>>,
    /// The maintenance window that is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,
    /// Sources whose values become plaintext again, by their holders' consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Vec<ReleasedSource>>,
    /// What became of real values after unlocking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<Sample>>,
    /// What may be in other hands, of every version that decrypts, ascending.
    #[serde(default)]
    pub exposed: Vec<ExposedVersion>,
    /// Who has proved possession of which version, and who never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_proofs: Option<Vec<LastProof>>,
}

/// Where the manifest came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestOrigin {
    /// The metadata store.
    Store,
    /// The local file, because the store does not answer or says something that proves nothing.
    LastGood,
}

/// A maintenance window: restarted members get the keys from an unlocked one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// The request that granted it, and that ends it when it is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who may receive the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<NodeName>>,
    /// For how long it was granted.
    #[serde(rename = "for")]
    pub granted_for: HumanDuration,
    /// For how long this node still gives keys; none where it gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_seconds: Option<u64>,
    /// Why this node gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// Another member, as it last reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Which.
    pub node: NodeName,
    /// Whether it is there under its present boot.
    pub present: bool,
    /// Why it does not count as being there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// What it could do when it was last heard of.
    pub state: Option<NodeState>,
    /// The revision that it had adopted by then.
    pub revision: u64,
    /// The versions that it had validated, ascending.
    pub validated: Vec<KeyVersion>,
    /// Where others reach it for keys, in a maintenance window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Whether a source could be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceHealth {
    /// Which.
    pub name: SourceName,
    /// Whether it answered.
    pub reachable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A source that was released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedSource {
    /// Which.
    pub source: SourceName,
    /// When enough holders had consented.
    pub at: Timestamp,
}

/// Real values of one version from one source that were decrypted after unlocking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// From where.
    pub source: SourceName,
    /// Of which version.
    pub version: KeyVersion,
    /// Values tried.
    pub tried: u64,
    /// Values that authenticated.
    pub authenticated: u64,
    /// When.
    pub taken_at: Timestamp,
}

/// How many shares of a version may be in other hands. New shares take none of them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedVersion {
    /// Of which version.
    pub version: KeyVersion,
    /// Shares that are lost.
    pub lost: usize,
    /// Shares of people who are holders no longer.
    pub left: usize,
    /// Shares that were replaced by a later set, and should have been destroyed.
    pub replaced: usize,
    /// Shares that stood in a package that was not encrypted.
    pub plain: usize,
    /// Whether enough shares of one set may be in other hands to rebuild the key: rotate.
    pub rotate: bool,
}

/// A holder's place in a version, and when they last proved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProof {
    /// Of which version.
    pub version: KeyVersion,
    /// Whose.
    pub holder: HolderName,
    /// When; none if they never did.
    pub proved_at: Option<Timestamp>,
    /// Whether the yearly drill is due: nothing was proved for a year.
    pub drill_due: bool,
}

/// The body of `/readyz`, 200 or 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyAnswer {
    /// Whether the node can answer services.
    pub ready: bool,
    /// Its state.
    pub state: NodeState,
    /// Why not, in sentences.
    pub why_not: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_manifest_came_from_is_spelt_with_a_hyphen() {
        assert_eq!(serde_json::to_value(ManifestOrigin::LastGood).unwrap(), "last-good");
    }

    #[test]
    fn the_status_of_a_newer_server_is_understood() {
        let json = r#"{"node":"db1","state":"sealed","keyring":"prod","keyring_id":null,"revision":0,
            "manifest":"store","versions":[],"needs":[],"way_back":"","weather":"fine"}"#;
        let status: StatusAnswer = serde_json::from_str(json).unwrap();
        assert_eq!(status.state, NodeState::Sealed);
        assert!(status.peers.is_none());
    }
}
