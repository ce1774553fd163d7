//! The quarantine of a job as a person works with it: seen, and looked at again.

use std::collections::{BTreeMap, BTreeSet};

use keymoot_storage::source::RowId;
use keymoot_types::SourceName;

use crate::{
    job::{JobId, JobState},
    jobs::{Jobs, JobsError},
    quarantine::{Quarantine, QuarantinePage, page_mark, parse_page_mark},
    view::JobView,
};

/// Rows of one page.
pub const PAGE_ROWS_MAX: usize = 1000;

impl Jobs {
    /// The rows of a job that could not be read, from `after` (the `next` of the page before) on.
    pub async fn quarantine(
        &self,
        id: JobId,
        after: Option<&str>,
        rows_max: usize,
    ) -> Result<QuarantinePage, JobsError> {
        let rows_max = rows_max.clamp(1, PAGE_ROWS_MAX);
        let after = after.map(|mark| parse_page_mark(mark).ok_or(JobsError::PageMark)).transpose()?;
        let mut sources: Vec<SourceName> =
            self.view(id).await?.sources.into_iter().map(|source| source.name).collect();
        sources.sort();
        let mut rows = Vec::new();
        for source in sources {
            let behind = match &after {
                Some((last, _)) if source < *last => continue,
                Some((last, row)) if source == *last => Some(row),
                _ => None,
            };
            let listed = Quarantine::load(self.inner.metadata(), id, &source).await?;
            // One more than is shown tells whether there is a next page.
            rows.extend(listed.rows_after(&source, behind, rows_max + 1 - rows.len()));
            if rows.len() > rows_max {
                break;
            }
        }
        let more = rows.len() > rows_max;
        rows.truncate(rows_max);
        let next = rows.last().filter(|_| more).map(|(row, shown)| page_mark(&shown.source, row));
        Ok(QuarantinePage { rows: rows.into_iter().map(|(_, shown)| shown).collect(), next })
    }

    /// Looks at the rows in quarantine again; those that are gone or readable leave it, and readable ones are
    /// rewritten. A job that had completed runs again for that.
    pub async fn retry(&self, id: JobId) -> Result<JobView, JobsError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.lock_starts().await;
        let view = self.view(id).await?;
        if matches!(view.state, JobState::Failed | JobState::Cancelled) {
            return Err(JobsError::State(view.state));
        }
        let sources: Vec<SourceName> = view.sources.into_iter().map(|source| source.name).collect();
        self.refuse_busy(&sources, Some(id)).await?;
        inner
            .change(id, |job| {
                match job.state {
                    JobState::Failed | JobState::Cancelled => return Err(JobsError::State(job.state)),
                    JobState::Completed | JobState::CompletedWithQuarantine => job.running(),
                    JobState::Running | JobState::Paused => {}
                }
                job.retries = job.retries.saturating_add(1);
                Ok(())
            })
            .await?;
        inner.adopt(id).await?;
        self.view(id).await
    }

    /// Rows in quarantine now, by source: evidence for the retirement gate. A later job that finished a source
    /// has seen every row of it, so what earlier jobs listed no longer counts. Dry runs never count.
    pub async fn quarantine_left(&self) -> Result<BTreeMap<SourceName, u64>, JobsError> {
        let mut left: BTreeMap<SourceName, u64> = BTreeMap::new();
        let mut settled: BTreeSet<SourceName> = BTreeSet::new();
        let mut listed: BTreeSet<(SourceName, RowId)> = BTreeSet::new();
        for job in self.inner.stored_jobs().await?.iter().rev().filter(|job| !job.dry_run) {
            for source in self.inner.stored_sources(job.id).await? {
                let record = source.value();
                if settled.contains(&record.name) {
                    continue;
                }
                let rows = Quarantine::load(self.inner.metadata(), job.id, &record.name).await?.ids();
                let new = rows.into_iter().filter(|row| listed.insert((record.name.clone(), row.clone()))).count();
                *left.entry(record.name.clone()).or_default() += crate::chunk::count(new) + record.unlisted;
                if record.done {
                    settled.insert(record.name.clone());
                }
            }
        }
        Ok(left)
    }
}
