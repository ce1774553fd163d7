//! What is certified when a version retires: what was found, and what was not looked at. The caller signs it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{KeyId, KeyName, KeyVersion, KeyringId, KeyringName, NodeName, SourceName, census::SourceCensus};

/// Where values of the retired version may still lie.
pub const NOT_LOOKED_AT: [&str; 3] = ["backups", "replicas", "exports"];

/// The body of a retirement certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The keyring's name.
    pub keyring: KeyringName,
    /// The keyring's id.
    pub keyring_id: KeyringId,
    /// The version that was retired.
    pub version: KeyVersion,
    /// Its identity.
    pub key_id: KeyId,
    /// When.
    pub retired_at: Timestamp,
    /// The name of the token that asked for it.
    pub asked_by: String,
    /// The node that counted and signed.
    pub node: NodeName,
    /// The version that signs.
    pub by: KeyVersion,
    /// The revision of the manifest in which it was retired.
    pub revision: u64,
    /// Every source that was ever declared and was counted.
    pub sources: Vec<SourceName>,
    /// Sources that an operator declared gone.
    pub gone: Vec<SourceName>,
    /// Sources whose values were written in clear again, by their holders' consent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<SourceName>,
    /// The two censuses in a row.
    pub censuses: Vec<CertifiedCensus>,
    /// How long values of each key live outside the sources.
    pub max_ages: Vec<MaxAge>,
    /// For how long the version had authenticated nothing that a service sent.
    pub quiet_s: u64,
    /// What nobody looked at.
    pub not_looked_at: Vec<String>,
    /// The statements to count again, by hand.
    pub count_again: Vec<CountAgain>,
}

/// One census of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifiedCensus {
    /// When it began.
    pub begun_at: Timestamp,
    /// What it found.
    pub sources: Vec<SourceCensus>,
}

/// How long values of a key live outside the sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxAge {
    /// The key.
    pub key: KeyName,
    /// Seconds; `None`: its values lie nowhere else.
    pub max_age_s: Option<u64>,
}

/// How to count a source by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountAgain {
    /// The source.
    pub source: SourceName,
    /// Its statement.
    pub sql: String,
    /// Where it ran.
    pub server: String,
}

impl Certificate {
    /// The sources of the newest census.
    pub fn counted(censuses: &[CertifiedCensus]) -> Vec<SourceName> {
        newest(censuses).iter().map(|source| source.name.clone()).collect()
    }

    /// How to count each of them by hand.
    pub fn count_again(censuses: &[CertifiedCensus]) -> Vec<CountAgain> {
        let of = |source: &SourceCensus| CountAgain {
            source: source.name.clone(),
            sql: source.sql.clone(),
            server: source.server.clone(),
        };
        newest(censuses).iter().map(of).collect()
    }
}

fn newest(censuses: &[CertifiedCensus]) -> &[SourceCensus] {
    censuses.last().map_or(&[], |census| &census.sources)
}
