//! What is known of a source before it is rekeyed.

use serde::{Deserialize, Serialize};

use crate::{KeyVersion, SourceName};

/// May a source be rekeyed, what will it cost, and do its values open at all?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// The source.
    pub name: SourceName,
    /// Reasons not to start, each with its remedy.
    pub blockers: Vec<String>,
    /// Why it could not be looked at, or not to the end: try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_reached: Option<String>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// What an update does beside writing.
    pub side_effects: Vec<String>,
    /// The index that the order of primary keys uses.
    pub index: Option<String>,
    /// The smallest grants that the job needs.
    pub grants: Vec<String>,
    /// Server or library version.
    pub server: String,
    /// Rows.
    pub rows: Option<u64>,
    /// Counted, or a planner's estimate.
    pub rows_exact: bool,
    /// Roughly how long the first pass takes without limits.
    pub seconds: Option<u64>,
    /// Whether sampled values open.
    pub samples: Vec<VersionSample>,
    /// Why no values were sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_sampled: Option<String>,
}

impl SourcePlan {
    /// Of a source of which nothing is known yet.
    pub fn unknown(name: SourceName) -> Self {
        Self {
            name,
            blockers: Vec::new(),
            not_reached: None,
            warnings: Vec::new(),
            side_effects: Vec::new(),
            index: None,
            grants: Vec::new(),
            server: String::new(),
            rows: None,
            rows_exact: false,
            seconds: None,
            samples: Vec::new(),
            not_sampled: None,
        }
    }
}

/// What became of some real values of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSample {
    /// The version.
    pub version: KeyVersion,
    /// Opened.
    pub authenticated: u64,
    /// Did not open although the version is loaded, or have no associated data.
    pub failed: u64,
    /// Of a version that is not loaded here.
    pub unavailable: u64,
}

impl VersionSample {
    /// Values were there and not one opened: a wrong key name, template or root key, rather than damage.
    pub fn alarming(&self) -> bool {
        self.failed > 0 && self.authenticated == 0
    }
}
