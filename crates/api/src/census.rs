//! Counting every row of every source, by form alone.

use jiff::Timestamp;
use keymoot_types::{KeyVersion, SourceName};
use serde::{Deserialize, Serialize};

/// `{"sources"?: ["customers.ssn"]}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CensusRequest {
    /// Which; by default all that are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceName>>,
}

/// The latest census of every source. Also, with 202, the answer to starting one: what is known so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CensusAnswer {
    /// Whether one is at work.
    #[serde(default)]
    pub running: bool,
    /// Those that were ever counted.
    pub sources: Vec<SourceCensus>,
}

/// What a source holds. Every row is in exactly one class: the classes add up to `rows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCensus {
    /// Which.
    pub name: SourceName,
    /// Well-formed values, ascending by version.
    pub versions: Vec<VersionCount>,
    /// NULL.
    pub null: u64,
    /// Without bytes.
    pub empty: u64,
    /// Without our prefix.
    pub foreign: u64,
    /// Our prefix, but malformed or of an unknown version.
    pub unreadable: u64,
    /// All rows.
    pub rows: u64,
    /// Whether it proves something.
    pub conclusive: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// When it was begun.
    pub taken_at: Timestamp,
}

/// `{"version": 9, "count": 12}`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionCount {
    /// Which.
    pub version: KeyVersion,
    /// Rows.
    pub count: u64,
}
