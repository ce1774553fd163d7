//! Before the first write: may a source be rekeyed, what will it cost, and do its values open at all?

use std::sync::Arc;

use keymoot_storage::source::{Row, Selection, Source, SourceError};
use keymoot_types::{KeyVersion, SourceName, Value};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::keys::{Keys, Service, prefixes};

/// Rows that the estimate is made from.
const ROWS_TIMED: usize = 1000;
/// Values of each version that are opened.
const VALUES_SAMPLED: usize = 20;
/// What writing a row costs beside reading and encrypting it, in microseconds: half of what databases were
/// measured at, as much is spent elsewhere.
const WRITE_ROW_US: f64 = 15.0;

/// What is known of a source before it is rekeyed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// The source.
    pub name: SourceName,
    /// Reasons not to start, each with its remedy; a source that can't be looked at is one.
    pub blockers: Vec<String>,
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

/// Plans one source. Nothing is written, and an error is part of the plan.
pub async fn plan(source: Arc<dyn Source>, keys: &dyn Keys) -> SourcePlan {
    let mut plan = SourcePlan {
        name: source.spec().name.clone(),
        blockers: Vec::new(),
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
    };
    if let Err(error) = fill(&mut plan, source, keys).await {
        plan.blockers.push(error.to_string());
    }
    plan
}

async fn fill(plan: &mut SourcePlan, source: Arc<dyn Source>, keys: &dyn Keys) -> Result<(), SourceError> {
    let preflight = source.preflight().await?;
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
        revision: keys.revision(),
    };
    let mut samples = Vec::new();
    for version in versions {
        let select = Selection::Prefixes(prefixes(version).into());
        let rows = source.read(None, VALUES_SAMPLED, &select).await?;
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
