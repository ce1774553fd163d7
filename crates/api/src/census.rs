//! Counting every row of every source, by form alone.

use keymoot_types::SourceName;
pub use keymoot_types::census::{SourceCensus, VersionCount};
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
