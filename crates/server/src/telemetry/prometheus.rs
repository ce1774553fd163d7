//! Metrics: `keymoot_<thing>_<unit>[_total]`, in Prometheus' text form.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// Samples of histograms wait in memory until they are counted.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// From a decryption at rest to the longest batch.
const BUCKETS_SECONDS: [f64; 12] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 1.0, 10.0];

/// The numbers of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: Collector,
}

impl Metrics {
    /// Begins to count, for the whole process: to be called once, before anything counts.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_SECONDS)?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(BuildError::FailedToSetGlobalRecorder)?;
        let process = Collector::default();
        process.describe();
        Ok(Self { handle, process })
    }

    /// What Prometheus reads.
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Keeps memory flat although nobody reads. Runs for ever: to be spawned.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tick.tick().await;
            self.handle.run_upkeep();
        }
    }
}
