//! What is certified when a version retires: what was found, and what was not looked at. The caller signs it.

use jiff::Timestamp;
use keymoot_types::{KeyId, KeyName, KeyVersion, KeyringId, KeyringName, SourceName};
use serde::{Deserialize, Serialize};

use crate::census::SourceCensus;

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
    /// The version that signs.
    pub by: KeyVersion,
    /// The revision of the manifest in which it was retired.
    pub revision: u64,
    /// Every source that was ever declared and was counted.
    pub sources: Vec<SourceName>,
    /// Sources that an operator declared gone.
    pub gone: Vec<SourceName>,
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
    /// Why it was retired without all evidence, and what loss was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_reason: Option<String>,
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

/// What the caller knows; the rest of a [`Certificate`] follows from it.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The keyring's name.
    pub keyring: KeyringName,
    /// The keyring's id.
    pub keyring_id: KeyringId,
    /// The version to retire.
    pub version: KeyVersion,
    /// Its identity.
    pub key_id: KeyId,
    /// Now.
    pub retired_at: Timestamp,
    /// The primary.
    pub by: KeyVersion,
    /// The manifest's new revision.
    pub revision: u64,
    /// The newest censuses, the older first.
    pub censuses: Vec<CertifiedCensus>,
    /// Sources declared gone.
    pub gone: Vec<SourceName>,
    /// Lifetimes of the keys.
    pub max_ages: Vec<MaxAge>,
    /// How long nothing was authenticated.
    pub quiet_s: u64,
    /// The reason of an override.
    pub override_reason: Option<String>,
}

impl From<Evidence> for Certificate {
    fn from(evidence: Evidence) -> Self {
        let newest: &[SourceCensus] = evidence.censuses.last().map_or(&[], |census| &census.sources);
        let sources = newest.iter().map(|source| source.name.clone()).collect();
        let count_again = newest
            .iter()
            .map(|source| CountAgain {
                source: source.name.clone(),
                sql: source.sql.clone(),
                server: source.server.clone(),
            })
            .collect();
        Self {
            keyring: evidence.keyring,
            keyring_id: evidence.keyring_id,
            version: evidence.version,
            key_id: evidence.key_id,
            retired_at: evidence.retired_at,
            by: evidence.by,
            revision: evidence.revision,
            sources,
            gone: evidence.gone,
            censuses: evidence.censuses,
            max_ages: evidence.max_ages,
            quiet_s: evidence.quiet_s,
            not_looked_at: NOT_LOOKED_AT.map(String::from).to_vec(),
            count_again,
            override_reason: evidence.override_reason,
        }
    }
}
