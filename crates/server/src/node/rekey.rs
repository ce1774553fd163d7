//! What the rekey worker is given: the keyring in service and the sources that are declared.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use keymoot_api::{Missing, Problem};
use keymoot_keyring::Keyring;
use keymoot_rekey::{Brake, JobsError, Keys, Manners, Released, Sources, plan};
use keymoot_storage::source::{Source, SourceSpec};
use keymoot_types::{ErrorCode, KeyVersion, SourceName};

use super::{Node, wall_clock};
use crate::{config::Config, serving::Serving, telemetry::Foreground};

/// The keys in service, as the worker asks for them before every batch.
pub(super) struct InService(pub(super) Arc<ArcSwap<Serving>>);

impl Keys for InService {
    fn keyring(&self) -> Option<Arc<Keyring>> {
        self.0.load().keyring.clone()
    }

    fn declared(&self) -> Vec<KeyVersion> {
        self.0.load().versions.iter().map(|facts| facts.version).collect()
    }

    fn released(&self) -> Vec<Released> {
        self.0.load().released.clone()
    }

    fn revision(&self) -> u64 {
        self.0.load().revision
    }
}

/// What jobs are careful of: the configuration's limits, and how long the node's own services wait.
pub(super) struct Considerate {
    manners: ArcSwap<Manners>,
    foreground: Arc<Foreground>,
}

impl Considerate {
    pub(super) fn new(config: &Config, foreground: Arc<Foreground>) -> Self {
        Self { manners: ArcSwap::from_pointee(config.rekey.clone()), foreground }
    }

    /// Jobs keep to it from the next batch on.
    pub(super) fn reload(&self, config: &Config) {
        self.manners.store(Arc::new(config.rekey.clone()));
    }
}

impl Brake for Considerate {
    fn manners(&self) -> Arc<Manners> {
        self.manners.load_full()
    }

    fn decrypt_latency(&self) -> Option<Duration> {
        self.foreground.latency()
    }
}

/// The declared sources, opened: nothing is connected before it is used.
#[derive(Default)]
pub(super) struct OpenSources {
    opened: ArcSwap<Vec<(SourceName, Arc<dyn Source>)>>,
    declared: ArcSwap<Vec<SourceName>>,
}

impl OpenSources {
    /// Opens what is declared now. A source that can't be opened is named, here and among the names: what is asked for
    /// all does not pass over it.
    pub(super) fn open(&self, specs: &[SourceSpec]) -> Vec<String> {
        let mut refused = Vec::new();
        let mut opened = Vec::new();
        for spec in specs {
            match keymoot_storage::open::open_source(spec.clone()) {
                Ok(source) => opened.push((spec.name.clone(), source)),
                Err(error) => refused.push(error.to_string()),
            }
        }
        self.opened.store(Arc::new(opened));
        self.declared.store(Arc::new(specs.iter().map(|spec| spec.name.clone()).collect()));
        refused
    }

    pub(super) fn all(&self) -> Arc<Vec<(SourceName, Arc<dyn Source>)>> {
        self.opened.load_full()
    }
}

impl Sources for OpenSources {
    fn names(&self) -> Vec<SourceName> {
        self.declared.load().to_vec()
    }

    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>> {
        self.opened.load().iter().find(|(known, _)| known == name).map(|(_, source)| source.clone())
    }
}

/// Why something was not done to a job, as callers are told.
pub(crate) fn jobs_problem(error: JobsError) -> Problem {
    let code = match &error {
        JobsError::Blocked(blockers) => {
            let lack = |blocker: &plan::Blocker| {
                Missing::new("source_blocked", blocker.reason.as_str()).of(&blocker.source_name)
            };
            let missing = blockers.iter().map(lack).collect();
            return Problem::gate_refused("the preflight refuses, and no job was started", missing);
        }
        JobsError::NotFound(_) => ErrorCode::NotFound,
        JobsError::UnknownSource(_) | JobsError::NoSource | JobsError::Limits(_) | JobsError::PageMark => {
            ErrorCode::BadRequest
        }
        JobsError::Busy { .. } | JobsError::State(_) => ErrorCode::Conflict,
        JobsError::Metadata(_) => ErrorCode::StoreUnavailable,
    };
    Problem::new(code, error.to_string())
}

impl Node {
    /// Decrypts a sample of real values of each version from every source that can be reached. The sources in
    /// which a version was found and not one of its values authenticated are named.
    pub(super) async fn sample_sources(&self) -> Vec<SourceName> {
        let keys = InService(self.serving.clone());
        let mut failed = Vec::new();
        let mut samples = Vec::new();
        for (name, source) in self.sources.all().iter() {
            let found = match plan::sample(source.clone(), &keys).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "no sample was taken from this source");
                    continue;
                }
            };
            for sample in found {
                let tried = sample.authenticated + sample.failed + sample.unavailable;
                if sample.alarming() && !failed.contains(name) {
                    tracing::error!(source = %name, version = sample.version.get(), tried, "not one sampled value authenticated");
                    failed.push(name.clone());
                }
                samples.push(keymoot_api::status::Sample {
                    source: name.clone(),
                    version: sample.version,
                    tried,
                    authenticated: sample.authenticated,
                    taken_at: wall_clock(),
                });
            }
        }
        self.core.lock().await.samples = samples;
        failed
    }

    /// The same after an unlock: an alarm, never a condition.
    pub(super) fn sample_in_background(&self) {
        let Some(node) = self.this.upgrade() else { return };
        self.tasks.spawn(async move {
            tokio::select! {
                () = node.stop.cancelled() => {}
                failed = node.sample_sources() => {
                    let samples = node.core.lock().await.samples.clone();
                    tracing::info!(samples = samples.len(), ?failed, "real values were sampled");
                }
            }
        });
    }

    /// Jobs that ran go on by themselves, as soon as there is a key; so do those of other nodes, as far as their leases
    /// are to be had.
    pub(crate) fn resume_jobs(&self) {
        let Some(node) = self.this.upgrade() else { return };
        self.tasks.spawn(async move {
            match node.jobs.resume_all().await {
                Ok(resumed) => {
                    for id in resumed {
                        tracing::info!(%id, "rekey job goes on at its checkpoint");
                    }
                }
                Err(error) => tracing::warn!(%error, "jobs could not be looked up yet"),
            }
            node.jobs.follow().await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_can_not_be_opened_is_among_the_names() {
        let spec = |name: &str, url: &str| SourceSpec {
            name: name.parse().unwrap(),
            url: url.into(),
            table: "t".into(),
            id: vec!["id".into()],
            column: "c".into(),
            key: "pii".parse().unwrap(),
            associated_data: "".parse().unwrap(),
            accept_triggers: vec![],
            adopt: false,
            throttle_query: None,
        };
        let sources = OpenSources::default();
        let refused =
            sources.open(&[spec("a", "postgres://u@h/d?sslmod=require"), spec("b", "sqlite:///srv/b.db")]);
        assert_eq!(refused.len(), 1, "{refused:?}");
        let names: Vec<_> = sources.names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(sources.source(&names[0].parse().unwrap()).is_none());
        assert!(sources.source(&names[1].parse().unwrap()).is_some());
    }
}
