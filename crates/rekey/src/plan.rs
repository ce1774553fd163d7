//! Before the first write: may a source be rekeyed, what will it cost, and do its values open at all?

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_storage::source::{Ahead, Most, Row, Selection, Source, SourceError};
pub use keymoot_types::plan::{SourcePlan, VersionSample};
use keymoot_types::{KeyVersion, SourceName, Value};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    inner::Inner,
    jobs::{Jobs, JobsError},
    keys::{Keys, Service, prefixes},
};

/// For all sources together, and for one: an answer comes while somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(45);
const PATIENCE_SOURCE: Duration = Duration::from_secs(20);
const NOT_OPENED: &str = "it could not be opened: see the log of the node";

/// Rows that the estimate is made from.
const ROWS_TIMED: usize = 1000;
/// Values of each version that are opened.
const VALUES_SAMPLED: usize = 20;
/// How long a source is looked through for them: a version that has few may have none in the sample.
const SAMPLING: Duration = Duration::from_secs(3);
/// Rows of one statement of it.
const SAMPLING_ROWS: usize = 1000;
/// What writing a row costs beside reading and encrypting it, in microseconds: half of what databases were
/// measured at, as much is spent elsewhere.
const WRITE_ROW_US: f64 = 15.0;

/// Sources whose preflights run at once.
const SOURCES_AT_ONCE: usize = 4;

/// A reason not to start, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Where.
    pub source_name: SourceName,
    /// What stands in the way and what to do.
    pub reason: String,
}

/// Plans one source. Nothing is written, and an error is part of the plan.
pub async fn plan(source: Arc<dyn Source>, keys: &dyn Keys) -> SourcePlan {
    let mut plan = SourcePlan::unknown(source.spec().name.clone());
    match fill(&mut plan, source, keys).await {
        Ok(()) => {}
        Err(SourceError::Mistaken { reason, .. }) => plan.blockers.push(reason),
        Err(error @ SourceError::Unreachable { .. }) => plan.not_reached = Some(error.to_string()),
    }
    plan
}

/// What the preflight refuses. A source that is away, or that takes too long to look at, refuses nothing: a job waits
/// for it, and looks again before it writes.
async fn blockers(inner: Arc<Inner>, name: SourceName, until: Instant) -> Vec<String> {
    let Some(source) = inner.setup.sources.source(&name) else { return vec![NOT_OPENED.into()] };
    let service = Service::look(inner.setup.keys.as_ref()).ok();
    let ahead = service.and_then(|service| service.ahead(source.spec()).ok());
    let ahead = ahead.unwrap_or_else(|| Ahead::of(source.spec()));
    match timeout_at(until, source.preflight_for(ahead)).await {
        Ok(Ok(preflight)) => {
            let blockers = preflight.blockers.clone();
            if blockers.is_empty() {
                inner.looked.note(&source, ahead, preflight);
            }
            blockers
        }
        Ok(Err(SourceError::Mistaken { reason, .. })) => vec![reason],
        Ok(Err(SourceError::Unreachable { .. })) | Err(_) => Vec::new(),
    }
}

impl Jobs {
    /// The same preflight as a plan's, in the order of the sources.
    pub(crate) async fn refuse_blocked(&self, sources: &[SourceName]) -> Result<(), JobsError> {
        let until = Instant::now() + PATIENCE_SOURCE;
        let mut found = Vec::new();
        for some in sources.chunks(SOURCES_AT_ONCE) {
            let look = |name: &SourceName| {
                self.inner.setup.runtime.spawn(blockers(self.inner.clone(), name.clone(), until))
            };
            for (name, looked) in some.iter().zip(some.iter().map(look).collect::<Vec<_>>()) {
                let reasons = looked.await.unwrap_or_else(|error| vec![format!("a defect: {error}")]);
                let blocker = |reason| Blocker { source_name: name.clone(), reason };
                found.extend(reasons.into_iter().map(blocker));
            }
        }
        if found.is_empty() { Ok(()) } else { Err(JobsError::Blocked(found)) }
    }

    /// Plans these sources, by default all that are declared, one after the other. Those that take too long say so.
    pub async fn plan(&self, wanted: Option<Vec<SourceName>>) -> Result<Vec<SourcePlan>, JobsError> {
        let setup = &self.inner.setup;
        let began = Instant::now();
        let mut plans = Vec::new();
        let names = self.inner.wanted_sources(wanted)?;
        let share = if names.len() == 1 { PATIENCE } else { PATIENCE_SOURCE };
        for name in names {
            let patience = PATIENCE.saturating_sub(began.elapsed()).min(share);
            let mut not_planned = SourcePlan::unknown(name.clone());
            plans.push(match setup.sources.source(&name) {
                None => {
                    not_planned.blockers.push(NOT_OPENED.into());
                    not_planned
                }
                Some(source) => timeout(patience, plan(source, setup.keys.as_ref())).await.unwrap_or_else(|_| {
                    let seconds = patience.as_secs();
                    let next = if share == PATIENCE {
                        "a job looks at it for as long as that takes, before it writes"
                    } else {
                        "ask for this source alone"
                    };
                    not_planned.not_reached = Some(format!("no plan within {seconds} s: {next}"));
                    not_planned
                }),
            });
        }
        Ok(plans)
    }
}

async fn fill(plan: &mut SourcePlan, source: Arc<dyn Source>, keys: &dyn Keys) -> Result<(), SourceError> {
    let ahead = Service::look(keys).ok().map(|service| service.ahead(source.spec()));
    let preflight = match ahead {
        Some(Ok(ahead)) => source.preflight_for(ahead).await?,
        Some(Err(reason)) => {
            plan.blockers.push(reason);
            return Ok(());
        }
        None => source.preflight().await?,
    };
    plan.blockers = preflight.blockers;
    plan.warnings = preflight.warnings;
    plan.side_effects = preflight.side_effects;
    plan.index = preflight.index;
    plan.grants = preflight.grants;
    plan.server = preflight.server;
    if !plan.blockers.is_empty() {
        // A table that is not as declared can't be read either.
        return Ok(());
    }
    let total = source.total().await?;
    plan.rows = Some(total.rows);
    plan.rows_exact = total.exact;
    let service = match Service::look(keys) {
        Ok(service) => service,
        Err(reason) => {
            plan.not_sampled = Some(reason.into());
            return Ok(());
        }
    };
    let began = Instant::now();
    let rows = source.read(None, ROWS_TIMED, &Selection::Every).await?;
    let read = rows.len();
    open(&source, service.clone(), rows).await;
    plan.seconds = seconds(total.rows, read, began.elapsed().as_secs_f64());
    plan.samples = sample(source, keys).await?;
    Ok(())
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn seconds(rows: u64, sampled: usize, took: f64) -> Option<u64> {
    if sampled == 0 {
        return (rows == 0).then_some(0);
    }
    // A rekey opens, seals and opens again: three times what the sample did.
    let a_row = 3.0 * took / sampled as f64 + WRITE_ROW_US / 1e6;
    Some((rows as f64 * a_row).ceil() as u64)
}

/// Opens some real values of every version that the manifest knows: after an unlock an alarm, before an
/// activation a condition. A sealed node samples nothing.
pub async fn sample(source: Arc<dyn Source>, keys: &dyn Keys) -> Result<Vec<VersionSample>, SourceError> {
    let (Some(ring), mut versions) = (keys.keyring(), keys.declared()) else {
        return Ok(Vec::new());
    };
    versions.sort_unstable();
    versions.dedup();
    let service = Service {
        primary: ring.primary().unwrap_or(KeyVersion::MIN),
        ring,
        declared: versions.clone(),
        released: keys.released(),
        revision: keys.revision(),
    };
    let mut samples = Vec::new();
    for (version, rows) in first_rows(source.as_ref(), &versions).await? {
        if rows.is_empty() {
            continue;
        }
        let opened = open(&source, service.clone(), rows).await;
        samples.push(VersionSample {
            version,
            authenticated: opened.authenticated,
            failed: opened.failed,
            unavailable: opened.unavailable,
        });
    }
    Ok(samples)
}

/// The first rows of each version, as far as one walk finds them in its time.
async fn first_rows(
    source: &dyn Source,
    versions: &[KeyVersion],
) -> Result<BTreeMap<KeyVersion, Vec<Row>>, SourceError> {
    let select = Selection::Prefixes(versions.iter().flat_map(|version| prefixes(*version)).collect());
    let mut found: BTreeMap<KeyVersion, Vec<Row>> =
        versions.iter().map(|version| (*version, Vec::new())).collect();
    let most = Most { rows: SAMPLING_ROWS, looked_at: SAMPLING_ROWS };
    let (end, mut after) = (Instant::now() + SAMPLING, None);
    loop {
        let chunk = source.chunk(after.as_ref(), most, &select).await?;
        for row in chunk.rows {
            let of = |found: &(&KeyVersion, &mut Vec<Row>)| {
                let starts = |bytes: &[u8]| prefixes(*found.0).iter().any(|prefix| bytes.starts_with(prefix));
                row.cell.bytes().is_some_and(starts)
            };
            if let Some((_, rows)) = found.iter_mut().find(of).filter(|(_, rows)| rows.len() < VALUES_SAMPLED) {
                rows.push(row);
            }
        }
        let enough = found.values().all(|rows| rows.len() >= VALUES_SAMPLED);
        match chunk.last {
            Some(last) if !enough && Instant::now() < end => after = Some(last),
            _ => return Ok(found),
        }
    }
}

#[derive(Default)]
struct Opened {
    authenticated: u64,
    failed: u64,
    unavailable: u64,
}

async fn open(source: &Arc<dyn Source>, service: Service, rows: Vec<Row>) -> Opened {
    let source = source.clone();
    let opening = move || {
        let mut opened = Opened::default();
        for row in rows {
            let Some((value, _)) = row.cell.bytes().and_then(|bytes| Value::parse_bytes(bytes).ok()) else {
                // What is no value tells nothing about keys; the census counts it.
                continue;
            };
            let column =
                |name: &str| row.columns.iter().find(|(column, _)| column == name).map(|(_, value)| value.clone());
            if !service.ring.holds(value.version()) {
                opened.unavailable += 1;
                continue;
            }
            let spec = source.spec();
            let authentic = spec
                .associated_data
                .fill(column)
                .is_ok_and(|associated_data| service.ring.check(&spec.key, &value, &associated_data).is_ok());
            if authentic { opened.authenticated += 1 } else { opened.failed += 1 }
        }
        opened
    };
    tokio::task::spawn_blocking(opening).await.unwrap_or_default()
}
