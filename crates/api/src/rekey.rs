//! The rekey worker's jobs.

use jiff::Timestamp;
pub use keymoot_types::lifecycle::JobState;
use keymoot_types::{KeyVersion, NodeName, SourceName, plan::SourcePlan};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::HumanDuration;

/// `{"sources"?: ["customers.ssn"], "dry_run"?: bool}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RekeyRequest {
    /// Which; by default all that are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceName>>,
    /// Read and count, write nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `{"sources"?: ["customers.ssn"]}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Which; by default all that are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceName>>,
}

/// `{"sources": [{…}]}`: what a job would find.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// In the order in which they were asked for.
    pub sources: Vec<SourcePlan>,
}

/// `{"id", "state"}`, 202: the job is durable. Also the answer to pause, resume, cancel and retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAnswer {
    /// The job's id.
    pub id: String,
    /// Its state now.
    pub state: JobState,
}

/// A job and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: JobState,
    /// Whether it only counts.
    pub dry_run: bool,
    /// When it was accepted.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// What holds it back now, with the number: `replica lag 3.2 s > 1.5 s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// Why it failed or was paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When a pause ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// What PATCH has set.
    #[serde(default)]
    pub limits: Limits,
    /// In the order of the work.
    pub sources: Vec<SourceProgress>,
}

/// How far a job is in one source. Counts are rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// Which.
    pub name: SourceName,
    /// All rows.
    pub total: u64,
    /// Whether the total was counted, not estimated.
    pub total_exact: bool,
    /// Every row visited, NULL and empty included; survives restarts with the checkpoint.
    pub scanned: u64,
    /// Written anew.
    pub rekeyed: u64,
    /// Of these, plaintext that was encrypted for the first time.
    #[serde(default)]
    pub adopted: u64,
    /// Were the primary's already.
    pub current: u64,
    /// NULL.
    pub null: u64,
    /// Without bytes.
    pub empty: u64,
    /// No values of ours.
    #[serde(default)]
    pub foreign: u64,
    /// Put aside.
    pub quarantined: u64,
    /// Writes lost to the application's own.
    pub conflicts: u64,
    /// Rows read a second, lately.
    pub rows_per_second: f64,
    /// Time left, seconds; none under 1 % or while paused.
    pub eta_seconds: Option<u64>,
    /// What holds this source back now, with the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// The node on which it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_by: Option<NodeName>,
    /// Since when it waits, for this reason or another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_since: Option<Timestamp>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The answer to `GET /v1/rekey`: the newest job's fields, and beside them every job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobsAnswer {
    /// The newest, if there ever was one.
    #[serde(flatten)]
    pub newest: Option<Job>,
    /// Newest first.
    #[serde(default)]
    pub jobs: Vec<Job>,
}

/// `{"for"?: "2h"}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// When it resumes by itself; never, by default.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<HumanDuration>,
}

/// The limits of a job; none where nothing is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Rows read a second.
    pub max_rows_per_second: Option<u64>,
    /// Sleep per unit of work.
    pub nice_ratio: Option<f64>,
    /// Chunks in flight, over all sources, on each node.
    pub concurrency: Option<u32>,
}

/// `{"max_rows_per_second"?, "nice_ratio"?, "concurrency"?}`; `null` lifts a limit, absent leaves it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Rows read a second, at least 1.
    #[serde(default, skip_serializing_if = "Setting::is_unchanged")]
    pub max_rows_per_second: Setting<u64>,
    /// Sleep per unit of work: 1 is a duty of one half.
    #[serde(default, skip_serializing_if = "Setting::is_unchanged")]
    pub nice_ratio: Setting<f64>,
    /// Chunks in flight at once on each node, over all sources: 1 to 16, 2 by default.
    #[serde(default, skip_serializing_if = "Setting::is_unchanged")]
    pub concurrency: Setting<u32>,
}

/// One setting in a PATCH.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Setting<T> {
    /// Absent: stays as it is.
    #[default]
    Unchanged,
    /// `null`: no limit.
    Lift,
    /// A new limit.
    Set(T),
}

impl<T> Setting<T> {
    /// Whether it was absent.
    pub fn is_unchanged(&self) -> bool {
        matches!(self, Self::Unchanged)
    }
}

impl<T: Serialize> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Set(value) => value.serialize(serializer),
            // An unchanged one is skipped by its field's attribute.
            Self::Unchanged | Self::Lift => serializer.serialize_none(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Lift, Self::Set))
    }
}

/// `{"rows": [{"source", "id", "version"?, "reason"}], "next"?}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantineAnswer {
    /// By source and row, never by content.
    pub rows: Vec<QuarantinedRow>,
    /// To be given as `?after=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// In which source.
    pub source: SourceName,
    /// Its primary key: a number or text; bytes in hex; several columns as a list.
    pub id: Json,
    /// The version that it claims to be of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<KeyVersion>,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    #[test]
    fn null_lifts_a_limit_and_absence_leaves_it() {
        let limits: LimitsRequest = body::parse(br#"{"max_rows_per_second":500,"nice_ratio":null}"#).unwrap();
        assert_eq!(limits.max_rows_per_second, Setting::Set(500));
        assert_eq!(limits.nice_ratio, Setting::Lift);
        assert_eq!(limits.concurrency, Setting::Unchanged);
        let json = serde_json::to_string(&limits).unwrap();
        assert_eq!(json, r#"{"max_rows_per_second":500,"nice_ratio":null}"#);
        assert!(body::parse::<LimitsRequest>(br#"{"concurrency":-1}"#).is_err());
        assert!(body::parse::<LimitsRequest>(br#"{"concurrency":1,"concurrency":2}"#).is_err());
    }

    #[test]
    fn every_state_is_spelt_as_it_is_serialised() {
        for state in [
            JobState::Running,
            JobState::Paused,
            JobState::Completed,
            JobState::CompletedWithQuarantine,
            JobState::Failed,
            JobState::Cancelled,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    #[test]
    fn a_list_without_jobs_has_no_newest() {
        let empty = JobsAnswer { newest: None, jobs: vec![] };
        let json = serde_json::to_string(&empty).unwrap();
        assert_eq!(json, r#"{"jobs":[]}"#);
        assert_eq!(serde_json::from_str::<JobsAnswer>(&json).unwrap(), empty);
    }
}
