//! `reload`: a new configuration replaces the old one whole, or not at all.

use keymoot_api::{Problem, upkeep::ReloadAnswer};
use keymoot_types::ErrorCode;

use super::Node;
use crate::config::Config;

impl Node {
    /// Takes a configuration that was read without mistakes into use.
    pub(crate) async fn reload(&self, new: Config) -> Result<ReloadAnswer, Problem> {
        let old = self.config.load_full();
        let mut fixed = Vec::new();
        if new.keyring != old.keyring {
            fixed.push("keyring");
        }
        if new.cluster.node != old.cluster.node {
            fixed.push("cluster.node");
        }
        if new.data_dir != old.data_dir {
            fixed.push("data_dir");
        }
        if !fixed.is_empty() {
            let detail = format!("{} can't change while the daemon runs; nothing was changed", fixed.join(", "));
            return Err(Problem::new(ErrorCode::BadRequest, detail));
        }
        let mut warnings = Vec::new();
        if (new.listen.data, new.listen.control) != (old.listen.data, old.listen.control) {
            warnings.push("the listeners keep their addresses until the next start".to_owned());
        }
        if *new.metadata_url != *old.metadata_url {
            warnings.push("the metadata store stays the same until the next start".to_owned());
        }
        warnings.extend(self.sources.open(new.source_specs()));
        self.audit.set_max_bytes(new.audit.max_bytes);
        self.considerate.reload(&new);
        let mut core = self.core.lock().await;
        self.config.store(std::sync::Arc::new(new));
        self.rebuild(&mut core);
        self.catch_up(&mut core).await;
        tracing::info!(warnings = warnings.len(), "configuration reloaded");
        Ok(ReloadAnswer { reloaded: true, warnings })
    }
}
