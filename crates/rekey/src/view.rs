//! A job as it is shown.

use jiff::Timestamp;
use keymoot_types::{SourceName, lifecycle::JobState};
use serde::{Deserialize, Serialize};

use crate::job::{JobId, JobRecord, SourceRecord, Throttle};
use crate::limits::Limits;

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// Whether it writes nothing to the sources.
    pub dry_run: bool,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What holds a running job back now, with the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// Why it is paused or failed, where it was not a person's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When a pause ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// Its limits.
    pub limits: Limits,
    /// Its sources.
    pub sources: Vec<SourceView>,
}

/// One source of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name.
    pub name: SourceName,
    /// Rows; not known before the source was reached.
    pub total: Option<u64>,
    /// Counted, or a planner's estimate.
    pub total_exact: bool,
    /// Rows visited and settled, NULL and empty included.
    pub scanned: u64,
    /// Values rewritten; in a dry run, those that would be.
    pub rekeyed: u64,
    /// Of these, plaintext that was encrypted for the first time.
    #[serde(default)]
    pub adopted: u64,
    /// Of the primary already.
    pub current: u64,
    /// NULL.
    pub null: u64,
    /// Empty.
    pub empty: u64,
    /// No value: plain text or another type.
    pub foreign: u64,
    /// Deleted between reading and writing.
    pub gone: u64,
    /// Unreadable, untouched and listed.
    pub quarantined: u64,
    /// Writes that the application won.
    pub conflicts: u64,
    /// Over the last seconds.
    pub rows_per_second: f64,
    /// Not known under 1 %, while paused, and after the first pass.
    pub eta_seconds: Option<u64>,
    /// Nothing is left to do.
    pub done: bool,
    /// What holds it back now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Throttle>,
    /// Why the source was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl JobView {
    pub(crate) fn of(job: &JobRecord, sources: Vec<SourceView>) -> Self {
        let mut reasons: Vec<String> =
            sources.iter().filter_map(|source| Some(source.throttled.as_ref()?.reason.clone())).collect();
        reasons.dedup();
        Self {
            id: job.id,
            state: job.state,
            dry_run: job.dry_run,
            started_at: job.started_at,
            ended_at: job.ended_at,
            throttled: (!reasons.is_empty()).then(|| reasons.join("; ")),
            reason: job.reason.clone(),
            paused_until: job.pause.map(|pause| pause.until),
            limits: job.limits,
            sources,
        }
    }
}

impl SourceView {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub(crate) fn of(
        record: &SourceRecord,
        state: JobState,
        rows_per_second: f64,
        throttled: Option<&Throttle>,
    ) -> Self {
        let counters = &record.counters;
        let running = state == JobState::Running && !record.done && record.failed.is_none();
        let left = record.total.map(|total| total.saturating_sub(counters.scanned));
        let eta_seconds = match (left, record.total) {
            (Some(left), Some(total))
                if running
                    && record.full
                    && rows_per_second >= 0.1
                    && counters.scanned.saturating_mul(100) >= total =>
            {
                Some((left as f64 / rows_per_second).ceil() as u64)
            }
            _ => None,
        };
        Self {
            name: record.name.clone(),
            total: record.total,
            total_exact: record.total_exact,
            scanned: counters.scanned,
            rekeyed: counters.rekeyed,
            adopted: counters.adopted,
            current: counters.current,
            null: counters.null,
            empty: counters.empty,
            foreign: counters.foreign,
            gone: counters.gone,
            quarantined: record.quarantined,
            conflicts: counters.conflicts,
            rows_per_second: if running { (rows_per_second * 10.0).round() / 10.0 } else { 0.0 },
            eta_seconds,
            done: record.done,
            throttled: throttled.filter(|_| running).cloned(),
            failed: record.failed.clone(),
        }
    }
}
