//! What a census found: every row of a source in exactly one class.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{KeyVersion, SourceName};

/// How many rows hold a value of one version: `{"version": 9, "count": 12}`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionCount {
    /// The version.
    pub version: KeyVersion,
    /// Rows.
    pub count: u64,
}

/// What a census found in one source. The classes add up to `rows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCensus {
    /// The source.
    pub name: SourceName,
    /// Well-formed values by version, ascending as numbers.
    pub versions: Vec<VersionCount>,
    /// NULL.
    pub null: u64,
    /// Empty.
    pub empty: u64,
    /// Does not begin as a value does.
    pub foreign: u64,
    /// Of these, text with a value inside, which no rekey reaches.
    #[serde(default)]
    pub embedded: u64,
    /// What is foreign is plaintext that is still to be encrypted: only without any is the column taken over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopts: bool,
    /// Begins as a value does and is none, or is of a version that nobody knows.
    pub unreadable: u64,
    /// Of these, the values of versions that nobody knows: the lowest so many of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<VersionCount>,
    /// `COUNT(*)` in the same snapshot.
    pub rows: u64,
    /// Whether nothing can be hidden from these counts.
    pub conclusive: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// When the snapshot was begun.
    pub taken_at: Timestamp,
    /// To count again, by hand.
    #[serde(default)]
    pub sql: String,
    /// Server or library version.
    #[serde(default)]
    pub server: String,
}

impl SourceCensus {
    /// Rows of a version.
    pub fn rows_of(&self, version: KeyVersion) -> u64 {
        self.versions.iter().filter(|count| count.version == version).map(|count| count.count).sum()
    }

    /// Whether it proves that the source has neither a value of `version` nor anything unreadable.
    pub fn clean_of(&self, version: KeyVersion) -> bool {
        self.conclusive && self.rows_of(version) == 0 && self.unreadable == 0
    }
}
