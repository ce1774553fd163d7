//! The quarantine of a job as a person works with it: seen, and looked at again.

use std::collections::{BTreeMap, BTreeSet};

use keymoot_storage::source::{Row, RowId};
use keymoot_types::{SourceName, lifecycle::JobState};
use serde_json::Value as Json;

use crate::{
    checkpoint::{Durable, source_key},
    job::{JobId, JobRecord, SourceRecord},
    jobs::{Jobs, JobsError},
    judge::Judge,
    keys::Service,
    quarantine::{Quarantine, QuarantinePage, id_json, page_mark, parse_page_mark},
    view::JobView,
};

/// Rows of one page.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Rows that are read again at once.
const ROWS_AT_ONCE: usize = 500;
/// Rows that are named where a retirement is refused.
const FIRST_MAX: usize = 10;

/// What is in quarantine of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Rows.
    pub rows: u64,
    /// The ids of the first of them.
    pub first: Vec<Json>,
}

impl Jobs {
    /// The rows of a job that could not be read, from `after` (the `next` of the page before) on.
    pub async fn quarantine(
        &self,
        id: JobId,
        after: Option<&str>,
        rows_max: usize,
    ) -> Result<QuarantinePage, JobsError> {
        self.quarantine_of(id, None, after, rows_max).await
    }

    /// The same, of one source alone if so wanted.
    pub async fn quarantine_of(
        &self,
        id: JobId,
        wanted: Option<&SourceName>,
        after: Option<&str>,
        rows_max: usize,
    ) -> Result<QuarantinePage, JobsError> {
        let rows_max = rows_max.clamp(1, PAGE_ROWS_MAX);
        let after = after.map(|mark| parse_page_mark(mark).ok_or(JobsError::PageMark)).transpose()?;
        let mut sources: Vec<SourceName> =
            self.view(id).await?.sources.into_iter().map(|source| source.name).collect();
        sources.retain(|source| wanted.is_none_or(|wanted| wanted == source));
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

    /// What is in quarantine now, by source: evidence for the retirement gate. A later job that finished a source has
    /// seen every row of it, so what earlier jobs listed no longer counts. Dry runs never count.
    pub async fn quarantine_left(&self) -> Result<BTreeMap<SourceName, Left>, JobsError> {
        let mut left: BTreeMap<SourceName, Left> = BTreeMap::new();
        let mut settled: BTreeSet<SourceName> = BTreeSet::new();
        let mut listed: BTreeSet<(SourceName, RowId)> = BTreeSet::new();
        for job in self.inner.stored_jobs().await?.iter().rev().filter(|job| !job.dry_run) {
            for source in self.inner.stored_sources(job.id).await? {
                let record = source.value();
                if settled.contains(&record.name) {
                    continue;
                }
                let of_source = left.entry(record.name.clone()).or_default();
                of_source.rows += record.unlisted;
                for row in Quarantine::load(self.inner.metadata(), job.id, &record.name).await?.ids() {
                    if listed.insert((record.name.clone(), row.clone())) {
                        of_source.rows += 1;
                        if of_source.first.len() < FIRST_MAX {
                            of_source.first.push(id_json(&row));
                        }
                    }
                }
                if record.done {
                    settled.insert(record.name.clone());
                }
            }
        }
        Ok(left)
    }

    /// Looks at the listed rows of a source again, as far as no job works on it: those that are gone or readable leave
    /// the list. Nothing is written to the source: a readable row of an old version is found by census and job.
    pub async fn let_go(&self, name: &SourceName) -> Result<u64, JobsError> {
        let inner = &self.inner;
        let (Some(source), Ok(service)) =
            (inner.setup.sources.source(name), Service::look(inner.setup.keys.as_ref()))
        else {
            return Ok(0);
        };
        let mut gone = 0;
        for job in inner.stored_jobs().await?.iter().filter(|job| job.state.ended() && job.sources.contains(name))
        {
            let mut listed = Quarantine::load(inner.metadata(), job.id, name).await?;
            let before = listed.len();
            let Ok(judge) = Judge::new(source.clone(), service.clone(), true) else { return Ok(gone) };
            for ids in listed.ids().chunks(ROWS_AT_ONCE) {
                // A source that is away keeps its rows listed; the next census looks again.
                let Ok(rows) = source.read_again(ids).await else { break };
                for id in readable(&judge, ids, rows).await {
                    listed.remove(&id);
                }
            }
            if listed.len() == before {
                continue;
            }
            gone += before - listed.len();
            listed.flush(inner.metadata()).await?;
            self.fewer_listed(job.id, name, listed.len()).await?;
        }
        Ok(gone)
    }

    /// The counts of an ended job follow its list.
    async fn fewer_listed(&self, id: JobId, name: &SourceName, rows: u64) -> Result<(), JobsError> {
        let Some(mut stored) = Durable::<SourceRecord>::load(self.inner.metadata(), &source_key(id, name)).await?
        else {
            return Ok(());
        };
        let mut record = stored.value().clone();
        record.quarantined = rows + record.unlisted;
        stored.save(self.inner.metadata(), record).await?;
        let sources = self.inner.stored_sources(id).await?;
        let clean = sources.iter().all(|source| source.value().quarantined == 0);
        let completed = |job: &mut JobRecord| {
            if clean && job.state == JobState::CompletedWithQuarantine {
                job.state = JobState::Completed;
            }
            Ok(())
        };
        self.inner.change(id, completed).await.map(drop)
    }
}

/// Of these rows, those that are gone or can be read.
async fn readable(judge: &Judge, ids: &[RowId], rows: Vec<Option<Row>>) -> Vec<RowId> {
    let gone: Vec<RowId> =
        ids.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(id, _)| id.clone()).collect();
    let (judge, present) = (judge.clone(), rows.into_iter().flatten().collect());
    match tokio::task::spawn_blocking(move || judge.rows(present)).await {
        Ok(Ok(judgement)) => {
            let listed: BTreeSet<&RowId> = judgement.unreadable.iter().map(|row| &row.id).collect();
            ids.iter().filter(|id| !listed.contains(id)).cloned().collect()
        }
        _ => gone,
    }
}
