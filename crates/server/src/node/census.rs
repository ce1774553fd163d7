//! Censuses: every declared source counted, recorded with a mac, the newest kept.

use std::{sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use keymoot_api::{
    Problem,
    census::{CensusAnswer, SourceCensus as ShownCensus, VersionCount},
};
use keymoot_quorum::gate;
use keymoot_rekey::{
    Sources as _,
    census::{self, SourceCensus},
};
use keymoot_types::{ErrorCode, KeyVersion, NodeName, SourceName};
use serde::{Deserialize, Serialize};

use super::{Core, Node, bad_request, record, sealed, store_problem, wall_clock};

pub(super) const PREFIX: &str = "census/";
/// Older ones are removed.
const KEPT: usize = 8;

/// One census of all sources, as it is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Taken {
    /// By whom: its service time is no other's.
    pub(super) node: NodeName,
    /// Service time at which it began.
    pub(super) began_ms: u64,
    /// The same for people.
    pub(super) begun_at: Timestamp,
    /// Whether every declared source was counted: only then the gate looks at it.
    pub(super) whole: bool,
    pub(super) sources: Vec<SourceCensus>,
}

impl Taken {
    pub(super) fn facts(&self) -> gate::Census {
        gate::Census {
            began: Duration::from_millis(self.began_ms),
            sources: self
                .sources
                .iter()
                .map(|source| gate::CensusFacts {
                    source: source.name.clone(),
                    values: source.versions.iter().map(|count| (count.version, count.count)).collect(),
                    unreadable: source.unreadable,
                    why_not: source.why_not.clone(),
                })
                .collect(),
        }
    }
}

impl Node {
    /// `POST census`: counts in the background. One runs at a time.
    pub(crate) async fn start_census(&self, wanted: Option<Vec<SourceName>>) -> Result<CensusAnswer, Problem> {
        self.core.lock().await.primary()?;
        if let Some(unknown) = wanted.iter().flatten().find(|name| self.sources.source(name).is_none()) {
            return Err(bad_request(format!("source {unknown} is not declared")));
        }
        self.spawn_censuses(1, wanted);
        self.censuses_shown().await
    }

    /// `GET census`: the newest of every source.
    pub(crate) async fn censuses_shown(&self) -> Result<CensusAnswer, Problem> {
        let core = self.core.lock().await;
        if core.loaded.is_empty() {
            // Without a key no record can be believed.
            return Err(sealed());
        }
        let mut sources: Vec<ShownCensus> = Vec::new();
        for taken in self.censuses(&core).await?.iter().rev() {
            for source in &taken.sources {
                if !sources.iter().any(|shown| shown.name == source.name) {
                    sources.push(shown(source));
                }
            }
        }
        Ok(CensusAnswer { running: self.census_running.load(Ordering::Acquire), sources })
    }

    /// The censuses that can be believed, oldest first.
    pub(super) async fn censuses(&self, core: &Core) -> Result<Vec<Taken>, Problem> {
        let primary = core.primary()?;
        let stored = self.metadata.list(PREFIX).await.map_err(|error| store_problem(&error))?;
        let believed = stored.iter().filter_map(|stored| {
            record::open::<Taken>(&stored.key, &stored.value, &primary)
                .inspect_err(|error| tracing::warn!(%error, "a census is not counted"))
                .ok()
        });
        Ok(believed.collect())
    }

    /// Starts so many censuses in a row, unless one is running. Says whether one is running now.
    pub(super) fn spawn_censuses(&self, number: usize, wanted: Option<Vec<SourceName>>) -> bool {
        let Some(node) = self.this.upgrade() else { return false };
        if self.census_running.swap(true, Ordering::AcqRel) {
            return true;
        }
        self.tasks.spawn(async move {
            for _ in 0..number {
                tokio::select! {
                    () = node.stop.cancelled() => break,
                    outcome = node.take_census(wanted.as_deref()) => {
                        if let Err(problem) = outcome {
                            tracing::warn!(%problem, "a census could not be recorded");
                            break;
                        }
                    }
                }
            }
            node.census_running.store(false, Ordering::Release);
        });
        true
    }

    /// Counts, and records what was found after it was found.
    async fn take_census(&self, wanted: Option<&[SourceName]>) -> Result<(), Problem> {
        let (began, known) = {
            let mut core = self.core.lock().await;
            core.primary()?;
            let known: Vec<KeyVersion> =
                core.manifest()?.manifest().versions.iter().map(|record| record.version).collect();
            (core.service_time(self.now()), known)
        };
        let begun_at = wall_clock();
        let mut sources = Vec::new();
        for (name, source) in self.sources.all().iter() {
            if wanted.is_some_and(|wanted| !wanted.contains(name)) {
                continue;
            }
            let found = census::census(source.as_ref(), |version| known.contains(&version), wall_clock()).await;
            tracing::info!(
                source = %found.name, rows = found.rows, conclusive = found.conclusive, why_not = found.why_not,
                "census taken"
            );
            sources.push(found);
        }
        let began_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
        let taken = Taken { node: self.name.clone(), began_ms, begun_at, whole: wanted.is_none(), sources };
        let core = self.core.lock().await;
        let primary = core.primary()?;
        // Ids of version 7 sort by time.
        let key = format!("{PREFIX}{}", uuid::Uuid::now_v7());
        let bytes = record::seal(&key, &taken, &primary)
            .ok_or_else(|| Problem::new(ErrorCode::Internal, "a census could not be written"))?;
        self.metadata.put(&key, &bytes).await.map_err(|error| store_problem(&error))?;
        let stored = self.metadata.list(PREFIX).await.map_err(|error| store_problem(&error))?;
        for old in stored.iter().rev().skip(KEPT) {
            self.metadata.remove(&old.key, old.stamp).await.map_err(|error| store_problem(&error))?;
        }
        Ok(())
    }
}

fn shown(census: &SourceCensus) -> ShownCensus {
    ShownCensus {
        name: census.name.clone(),
        versions: census
            .versions
            .iter()
            .map(|count| VersionCount { version: count.version, count: count.count })
            .collect(),
        null: census.null,
        empty: census.empty,
        foreign: census.foreign,
        unreadable: census.unreadable,
        rows: census.rows,
        conclusive: census.conclusive,
        why_not: census.why_not.clone(),
        taken_at: census.taken_at,
    }
}
