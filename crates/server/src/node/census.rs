//! Censuses: every declared source counted, recorded with a mac, the newest kept.

use std::{sync::PoisonError, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use keymoot_api::{Problem, census::CensusAnswer};
use keymoot_quorum::gate;
use keymoot_rekey::{
    Sources as _,
    census::{self, SourceCensus},
};
use keymoot_storage::{metadata::Record, source::SourceSpec};
use keymoot_types::{ErrorCode, KeyVersion, NodeName, SourceName, heartbeat::Declared};
use serde::{Deserialize, Serialize};

use super::{Core, Node, bad_request, record, restored::Restored, sealed, store_problem, wall_clock};

pub(super) const PREFIX: &str = "census/";
/// Older ones are removed, each node's by itself.
const KEPT: usize = 8;
/// After one that found values of a retired version the next is due in a minute, or in ten times what it took.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_FACTOR: u32 = 10;
/// While the store is away; with jitter up to twice as long.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Whether a census is under way, and what was asked for meanwhile.
#[derive(Default)]
pub(super) struct Counting {
    running: bool,
    next: Option<Wanted>,
}

/// Some sources, or all.
type Wanted = Option<Vec<SourceName>>;

/// One census of all sources, as it is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Taken {
    /// By whom: its service time is no other's.
    pub(super) node: NodeName,
    /// Grows with each of the node. No clock orders them: after a crash service time is up to a minute behind, and the
    /// wall clock may be set back.
    #[serde(default)]
    number: u64,
    /// Service time at which it began.
    pub(super) began_ms: u64,
    /// And ended; 0 where that is not known.
    #[serde(default)]
    ended_ms: u64,
    /// The same for people.
    pub(super) begun_at: Timestamp,
    /// Whether every declared source was counted: only then the gate looks at it.
    pub(super) whole: bool,
    /// How the sources were declared.
    #[serde(default)]
    declared: Vec<Declared>,
    pub(super) sources: Vec<SourceCensus>,
}

impl Taken {
    pub(super) fn began(&self) -> Duration {
        Duration::from_millis(self.began_ms)
    }

    fn ended(&self) -> Duration {
        Duration::from_millis(self.ended_ms)
    }

    /// The latest time that it speaks of.
    pub(super) fn latest(&self) -> Duration {
        self.began().max(self.ended())
    }

    /// When another one is worth its work.
    pub(super) fn again_from(&self) -> Duration {
        let took = self.ended().saturating_sub(self.began());
        self.ended().saturating_add(took.saturating_mul(AGAIN_FACTOR).max(AGAIN))
    }

    /// Whether it found values of a version, in any source.
    pub(super) fn found(&self, version: KeyVersion) -> bool {
        let mut counts = self.sources.iter().flat_map(|found| &found.versions);
        counts.any(|count| count.version == version && count.count > 0)
    }

    /// Why it is no evidence, for the node `here`, of all that is declared now.
    pub(super) fn set_aside(&self, here: &NodeName, declared: &[Declared]) -> Option<String> {
        if self.node != *here {
            return Some(format!("{} took it, whose time is its own", self.node));
        }
        if !self.whole {
            return Some("it counted some sources only".into());
        }
        let differs = |one: &&Declared| !self.declared.contains(one);
        let changed: Vec<_> = declared.iter().filter(differs).map(|one| one.name.as_str()).collect();
        (!changed.is_empty()).then(|| format!("{} was declared otherwise, or not at all", changed.join(", ")))
    }

    pub(super) fn facts(&self, here: &NodeName, declared: &[Declared]) -> gate::Census {
        gate::Census {
            began: self.began(),
            ended: self.ended(),
            set_aside: self.set_aside(here, declared),
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

/// What came of the wish to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spawned {
    /// It began.
    Now,
    /// Another one runs, and was left alone.
    Running,
    /// The node ends.
    Ending,
}

fn declaration(source: &SourceSpec) -> Declared {
    Declared { name: source.name.to_string(), digest: source.digest() }
}

impl Node {
    /// How all sources are declared now.
    pub(super) fn declarations(&self) -> Vec<Declared> {
        self.sources.all().iter().map(|(_, source)| declaration(source.spec())).collect()
    }

    /// `POST census`: counts in the background. One runs at a time: what is asked for meanwhile comes after it.
    pub(crate) async fn start_census(&self, wanted: Option<Vec<SourceName>>) -> Result<CensusAnswer, Problem> {
        self.core.lock().await.primary()?;
        if let Some(unknown) = wanted.iter().flatten().find(|name| self.sources.source(name).is_none()) {
            return Err(bad_request(format!("source {unknown} is not declared")));
        }
        if self.spawn_censuses(1, wanted.clone()) == Spawned::Running {
            self.count_next(wanted);
        }
        self.censuses_shown().await
    }

    /// `GET census`: the newest of every source.
    pub(crate) async fn censuses_shown(&self) -> Result<CensusAnswer, Problem> {
        let core = self.core.lock().await;
        if core.loaded.is_empty() {
            // Without a key no record can be believed.
            return Err(sealed());
        }
        // Read before: what ends in between is shown, and said to run yet.
        let running = self.census_running();
        let mut newest: Vec<(NodeName, SourceCensus)> = Vec::new();
        for taken in self.censuses(&core).await? {
            for source in taken.sources {
                match newest.iter_mut().find(|(_, shown)| shown.name == source.name) {
                    None => newest.push((taken.node.clone(), source)),
                    // Of one node the later one stands behind; between two only their clocks tell.
                    Some((node, shown)) if *node == taken.node || shown.taken_at < source.taken_at => {
                        (*node, *shown) = (taken.node.clone(), source);
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(CensusAnswer { running, sources: newest.into_iter().map(|(_, source)| source).collect() })
    }

    /// The censuses that can be believed, of each node the oldest first.
    pub(super) async fn censuses(&self, core: &Core) -> Result<Vec<Taken>, Problem> {
        Ok(self.stored_censuses(core).await?.into_iter().map(|(_, taken)| taken).collect())
    }

    async fn stored_censuses(&self, core: &Core) -> Result<Vec<(Record, Taken)>, Problem> {
        let primary = core.primary()?;
        let stored = self.metadata.list(PREFIX).await.map_err(|error| store_problem(&error))?;
        let believed = stored.into_iter().filter_map(|stored| {
            let taken = record::open::<Taken>(&stored.key, &stored.value, &primary)
                .inspect_err(|error| tracing::warn!(%error, "a census is not counted"))
                .ok()?;
            Some((stored, taken))
        });
        let mut believed: Vec<_> = believed.collect();
        believed.sort_by(|(_, one), (_, other)| (&one.node, one.number).cmp(&(&other.node, other.number)));
        Ok(believed)
    }

    /// This node's own, the oldest first, and behind them what others counted since the last two of these began:
    /// that is no evidence of nothing, and evidence of what was found.
    pub(super) async fn evidence(&self, core: &Core, declared: &[Declared]) -> Result<Vec<Taken>, Problem> {
        let (mut own, others): (Vec<_>, Vec<_>) =
            self.censuses(core).await?.into_iter().partition(|taken| taken.node == self.name);
        let whole = own.iter().filter(|taken| taken.set_aside(&self.name, declared).is_none());
        let since = whole.rev().nth(1).map(|taken| taken.begun_at);
        own.extend(others.into_iter().filter(|taken| since.is_none_or(|since| taken.begun_at >= since)));
        Ok(own)
    }

    pub(super) fn census_running(&self) -> bool {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).running
    }

    /// Starts so many censuses in a row, unless one is running.
    pub(super) fn spawn_censuses(&self, number: usize, wanted: Wanted) -> Spawned {
        let Some(node) = self.this.upgrade() else { return Spawned::Ending };
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut counting.running, true) {
            return Spawned::Running;
        }
        drop(counting);
        let counting = async move {
            let mut todo = Some((number, wanted));
            while let Some((number, wanted)) = todo {
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
                todo = node.next_census();
            }
        };
        self.tasks.spawn_on(counting, &self.columns);
        Spawned::Now
    }

    /// What is counted after the census that runs.
    fn count_next(&self, wanted: Wanted) {
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match (counting.next.take(), wanted) {
            (Some(None), _) | (_, None) => None,
            (None, wanted) => wanted,
            (Some(Some(mut before)), Some(wanted)) => {
                before.extend(wanted);
                before.sort();
                before.dedup();
                Some(before)
            }
        };
        counting.next = Some(next);
    }

    fn next_census(&self) -> Option<(usize, Wanted)> {
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = counting.next.take().filter(|_| !self.stop.is_cancelled());
        counting.running = next.is_some();
        next.map(|wanted| (1, wanted))
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
        let restored = patiently(|| self.restored()).await?;
        let begun_at = wall_clock();
        let opened = self.sources.all();
        let declared = opened.iter().map(|(_, source)| declaration(source.spec())).collect();
        let mut sources = Vec::new();
        for (name, source) in opened.iter() {
            if wanted.is_some_and(|wanted| !wanted.contains(name)) {
                continue;
            }
            let mut found =
                census::census(source.as_ref(), |version| known.contains(&version), wall_clock()).await;
            found.adopts &= !self.serving.load().released.iter().any(|released| released.source == *name);
            tracing::info!(
                source = %found.name, rows = found.rows, conclusive = found.conclusive, why_not = found.why_not,
                "census taken"
            );
            sources.push(found);
            match self.jobs.let_go(name).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(source = %name, rows, "rows left the quarantine: gone, or readable"),
                Err(error) => {
                    tracing::warn!(source = %name, %error, "the quarantine could not be looked at again")
                }
            }
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ended = self.core.lock().await.service_time(self.now());
        let taken = Taken {
            node: self.name.clone(),
            number: 0,
            began_ms: ms(began),
            ended_ms: ms(ended),
            begun_at,
            whole: wanted.is_none(),
            declared,
            sources,
        };
        let key = format!("{PREFIX}{}", uuid::Uuid::now_v7());
        patiently(|| self.record_census(&key, taken.clone(), &restored)).await
    }

    /// Done again under the same key it replaces itself.
    async fn record_census(&self, key: &str, mut taken: Taken, restored: &[Restored]) -> Result<(), Problem> {
        let mut core = self.core.lock().await;
        let mut own = self.stored_censuses(&core).await?;
        own.retain(|(record, taken)| taken.node == self.name && record.key != key);
        taken.number = own.last().map_or(0, |(_, newest)| newest.number).saturating_add(1);
        let primary = core.primary()?;
        let bytes = record::seal(key, &taken, &primary)
            .ok_or_else(|| Problem::new(ErrorCode::Internal, "a census could not be written"))?;
        self.metadata.put(key, &bytes).await.map_err(|error| store_problem(&error))?;
        for (old, _) in own.into_iter().rev().skip(KEPT - 1) {
            self.metadata.remove(&old.key, old.stamp).await.map_err(|error| store_problem(&error))?;
        }
        self.settle_restored(&mut core, restored, &taken).await;
        Ok(())
    }
}

/// Asks until the store answers: what was counted may have taken hours.
async fn patiently<T, F: Future<Output = Result<T, Problem>>>(ask: impl FnMut() -> F) -> Result<T, Problem> {
    let waits = ExponentialBuilder::default().with_jitter().with_max_delay(LONGEST_WAIT).without_max_times();
    ask.retry(waits)
        .when(|problem| problem.code == ErrorCode::StoreUnavailable)
        .notify(|problem, wait| {
            tracing::warn!(%problem, ?wait, "a census waits for the metadata store, which is asked again");
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str, table: &str) -> SourceSpec {
        SourceSpec {
            name: "customers.ssn".parse().unwrap(),
            url: url.into(),
            table: table.into(),
            id: vec!["id".into()],
            column: "ssn".into(),
            key: "pii".parse().unwrap(),
            associated_data: "customers/{id}".parse().unwrap(),
            accept_triggers: vec![],
            adopt: false,
            throttle_query: None,
        }
    }

    #[test]
    fn fault_44_a_census_of_another_list_of_sources_is_set_aside_and_a_new_password_is_none() {
        let here = spec("postgres://app:secret@db1/shop?sslmode=require", "customers");
        let taken = Taken {
            node: "db1".parse().unwrap(),
            number: 1,
            began_ms: 0,
            ended_ms: 0,
            begun_at: Timestamp::UNIX_EPOCH,
            whole: true,
            declared: vec![declaration(&here)],
            sources: vec![],
        };
        let aside = |url: &str, table: &str| taken.set_aside(&taken.node, &[declaration(&spec(url, table))]);
        assert_eq!(aside("postgres://other:renewed@db1/shop", "customers"), None);
        for (url, table) in [
            ("postgres://app:secret@db2/shop", "customers"),
            ("postgres://app:secret@db1/archive", "customers"),
            ("postgres://app:secret@db1/shop", "clients"),
        ] {
            let why = aside(url, table).unwrap();
            assert_eq!(why, "customers.ssn was declared otherwise, or not at all");
        }
        assert!(
            Taken { declared: vec![], ..taken.clone() }.set_aside(&taken.node, &[declaration(&here)]).is_some()
        );
        assert!(Taken { whole: false, ..taken.clone() }.set_aside(&taken.node, &[declaration(&here)]).is_some());
        let why = taken.set_aside(&"db2".parse().unwrap(), &[declaration(&here)]).unwrap();
        assert_eq!(why, "db1 took it, whose time is its own");
    }
}
