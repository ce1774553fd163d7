//! How fast a job may go. All of it can be changed while it runs, from the next batch on.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

/// What a transaction should take: short enough that no writer waits long for a row.
const TRANSACTION: Duration = Duration::from_millis(200);
/// A batch that took longer waited for a server that was away, or for a lock: that was no work to rest from.
const WORK_MAX: Duration = Duration::from_secs(1);
const ROWS_MIN: usize = 10;
pub(crate) const ROWS_MAX: usize = 10_000;
const ROWS_FIRST: usize = 500;
const CONCURRENCY_MAX: u8 = 16;
/// As many as keep a server with a few cores busy.
const WORKERS: u8 = 2;
/// What the cells of a chunk should hold, as every chunk in flight is in memory.
const CHUNK_BYTES: usize = 1024 * 1024;
const NICE_RATIO_MAX: f64 = 1000.0;

/// The limits of a job, kept with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Rows read in a second, over all sources of the job that a node works on.
    pub max_rows_per_second: Option<u32>,
    /// Sleep for each unit of work: 1 is half of the time.
    pub nice_ratio: Option<f64>,
    /// Workers of the job on each node: chunks that are written at once, over all its sources; 2 where nothing is set.
    pub concurrency: Option<u8>,
}

/// Why limits were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Zero rows a second is a pause.
    #[error("max_rows_per_second is at least 1; to stop, pause the job")]
    NoRows,
    /// Negative, infinite or absurd.
    #[error("nice_ratio is a number from 0 to 1000")]
    NiceRatio,
    /// None, or more than any database likes.
    #[error("concurrency is a number from 1 to 16")]
    Concurrency,
}

/// A change of limits: a field that is absent stays, `null` lifts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsPatch {
    /// See [`Limits::max_rows_per_second`].
    #[serde(default, deserialize_with = "present")]
    pub max_rows_per_second: Option<Option<u32>>,
    /// See [`Limits::nice_ratio`].
    #[serde(default, deserialize_with = "present")]
    pub nice_ratio: Option<Option<f64>>,
    /// See [`Limits::concurrency`].
    #[serde(default, deserialize_with = "present")]
    pub concurrency: Option<Option<u8>>,
}

/// Tells a `null` from an absent field.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Limits {
    /// These limits with a change applied, or why not.
    pub fn patched(self, patch: LimitsPatch) -> Result<Self, LimitError> {
        let limits = Self {
            max_rows_per_second: patch.max_rows_per_second.unwrap_or(self.max_rows_per_second),
            nice_ratio: patch.nice_ratio.unwrap_or(self.nice_ratio),
            concurrency: patch.concurrency.unwrap_or(self.concurrency),
        };
        if limits.max_rows_per_second == Some(0) {
            return Err(LimitError::NoRows);
        }
        if limits.nice_ratio.is_some_and(|ratio| !(0.0..=NICE_RATIO_MAX).contains(&ratio)) {
            return Err(LimitError::NiceRatio);
        }
        if limits.concurrency.is_some_and(|sources| !(1..=CONCURRENCY_MAX).contains(&sources)) {
            return Err(LimitError::Concurrency);
        }
        Ok(limits)
    }

    pub(crate) fn workers(&self) -> usize {
        self.concurrency.unwrap_or(WORKERS).into()
    }

    pub(crate) fn at_pace(self, halvings: u8) -> Pace {
        Pace { limits: self, halvings }
    }
}

/// The limits of a job as they apply to a source whose server is, or just was, under strain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    limits: Limits,
    /// How often the speed is halved.
    halvings: u8,
}

impl Pace {
    /// At most a second's worth, so that a limit is kept evenly and a change is felt soon; half of it for each halving,
    /// so that nobody waits long for a row.
    pub(crate) fn rows_in_a_batch(&self, wanted: usize) -> usize {
        let a_second = self.limits.max_rows_per_second.and_then(|rows| usize::try_from(rows).ok());
        (wanted.min(a_second.unwrap_or(wanted)) >> self.halvings).max(1)
    }

    fn slowness(&self) -> u32 {
        1_u32.checked_shl(self.halvings.into()).unwrap_or(u32::MAX)
    }

    /// How long so many rows last.
    fn rows_last(&self, rows: usize) -> Option<Duration> {
        let (per_second, rows) = (self.limits.max_rows_per_second?, u32::try_from(rows).ok()?);
        Some(Duration::from_secs_f64(f64::from(rows) / f64::from(per_second.max(1))) * self.slowness())
    }

    /// How long to sleep for so much work: at half the speed as long as it took.
    fn sleep(&self, worked: Duration) -> Option<Duration> {
        let nice = self.limits.nice_ratio.unwrap_or(0.0).clamp(0.0, NICE_RATIO_MAX);
        let ratio = (1.0 + nice) * f64::from(self.slowness()) - 1.0;
        (ratio > 0.0).then(|| worked.min(WORK_MAX).mul_f64(ratio))
    }

    fn is_bound(&self) -> bool {
        self.limits.max_rows_per_second.is_some() || self.limits.nice_ratio.is_some() || self.halvings > 0
    }
}

/// Says when the next batch of a job may begin; shared by its sources.
#[derive(Default)]
pub(crate) struct Pacer(Mutex<Option<Instant>>);

impl Pacer {
    /// Rows were read.
    pub(crate) fn rows(&self, rows: usize, pace: &Pace) {
        if let Some(last) = pace.rows_last(rows) {
            let now = Instant::now();
            let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = next.map_or(now, |next| next.max(now));
            *next = Some(begin + last);
        }
    }

    /// A batch took that long.
    pub(crate) fn worked(&self, took: Duration, pace: &Pace) {
        if let Some(sleep) = pace.sleep(took) {
            let until = Instant::now() + sleep;
            let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *next = Some(next.map_or(until, |next| next.max(until)));
        }
    }

    /// How long to wait; `None`: go. A limit that was lifted holds nothing back.
    pub(crate) fn wait(&self, pace: &Pace) -> Option<Duration> {
        if !pace.is_bound() {
            return None;
        }
        let next = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        next.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }
}

/// How many rows a batch has: it follows the time that the last one took.
pub(crate) struct BatchSize(usize);

impl BatchSize {
    /// The more starts ended without a checkpoint, the smaller, down to row by row: one poisonous row then
    /// stands alone.
    pub(crate) fn after_attempts(attempts: u32) -> Self {
        Self(match attempts {
            0 => ROWS_FIRST,
            1 => 200,
            2 => 50,
            3 => 10,
            _ => 1,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.0
    }

    pub(crate) fn at_most(&mut self, rows: usize) {
        self.0 = self.0.min(rows);
    }

    /// A batch of `rows`, whose cells held so many bytes, took that long.
    pub(crate) fn took(&mut self, rows: usize, bytes: usize, took: Duration) {
        // So many rows like these.
        let fit = rows.saturating_mul(CHUNK_BYTES).checked_div(bytes).unwrap_or(ROWS_MAX).max(1);
        if bytes > CHUNK_BYTES {
            self.0 = fit.min(self.0);
            return;
        }
        if rows < self.0 && took < TRANSACTION {
            // A short batch says little about a full one.
            return;
        }
        let ratio = (TRANSACTION.as_secs_f64() / took.as_secs_f64().max(0.001)).clamp(0.5, 2.0);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 20,000"
        )]
        let next = (self.0 as f64 * ratio) as usize;
        self.0 = next.clamp(ROWS_MIN.min(self.0.saturating_mul(2)), ROWS_MAX).min(fit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(json: &str) -> Result<Limits, LimitError> {
        let limits = Limits { max_rows_per_second: Some(5), nice_ratio: Some(1.0), concurrency: Some(2) };
        limits.patched(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn null_lifts_a_limit_and_absence_leaves_it() {
        let limits = patch(r#"{"max_rows_per_second": null}"#).unwrap();
        assert_eq!(limits, Limits { max_rows_per_second: None, nice_ratio: Some(1.0), concurrency: Some(2) });
        assert!(serde_json::from_str::<LimitsPatch>(r#"{"speed": 1}"#).is_err());
    }

    #[test]
    fn absurd_limits_are_refused() {
        assert_eq!(patch(r#"{"max_rows_per_second": 0}"#), Err(LimitError::NoRows));
        assert_eq!(patch(r#"{"nice_ratio": -1}"#), Err(LimitError::NiceRatio));
        assert_eq!(patch(r#"{"concurrency": 0}"#), Err(LimitError::Concurrency));
        assert_eq!(patch(r#"{"concurrency": 17}"#), Err(LimitError::Concurrency));
    }

    #[test]
    fn a_batch_follows_the_time_it_takes_within_its_bounds() {
        let mut size = BatchSize::after_attempts(0);
        for _ in 0..20 {
            size.took(size.rows(), 0, Duration::from_millis(1));
        }
        assert_eq!(size.rows(), ROWS_MAX);
        for _ in 0..20 {
            size.took(size.rows(), 0, Duration::from_secs(9));
        }
        assert_eq!(size.rows(), ROWS_MIN);
        assert_eq!(BatchSize::after_attempts(9).rows(), 1);
        let mut wide = BatchSize::after_attempts(0);
        wide.took(500, 50 * 1024 * 1024, Duration::from_millis(1));
        assert_eq!(wide.rows(), 10, "rows of a hundred kilobytes each");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pacer_spreads_rows_and_forgets_a_lifted_limit() {
        let pacer = Pacer::default();
        let pace = Limits { max_rows_per_second: Some(100), ..Limits::default() }.at_pace(0);
        assert_eq!(pacer.wait(&pace), None);
        pacer.rows(50, &pace);
        pacer.rows(50, &pace);
        assert_eq!(pacer.wait(&pace), Some(Duration::from_secs(1)));
        assert_eq!(pacer.wait(&Limits::default().at_pace(0)), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.wait(&pace), None);
    }

    #[test]
    fn each_halving_halves_batches_and_speed_whatever_limits_there_are() {
        let limits = Limits { max_rows_per_second: Some(100), nice_ratio: Some(1.0), ..Limits::default() };
        let work = Duration::from_millis(200);
        for (halvings, rows, lasts, sleep) in [(0, 100, 1, 200), (1, 50, 2, 600), (2, 25, 4, 1400)] {
            let pace = limits.at_pace(halvings);
            assert_eq!(pace.rows_in_a_batch(5000), rows);
            assert_eq!(pace.rows_last(100), Some(Duration::from_secs(lasts)));
            assert_eq!(pace.sleep(work), Some(Duration::from_millis(sleep)));
        }
        let outage = Duration::from_secs(600);
        assert_eq!(
            limits.at_pace(4).sleep(outage),
            Some(Duration::from_secs(31)),
            "no rest of hours after an outage"
        );
        let free = Limits::default();
        assert_eq!(free.at_pace(0).sleep(work), None);
        assert_eq!(free.at_pace(1).sleep(work), Some(work));
        assert_eq!((free.at_pace(1).rows_in_a_batch(1), free.at_pace(1).rows_in_a_batch(500)), (1, 250));
    }
}
