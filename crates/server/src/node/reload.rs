//! `reload`: a new configuration replaces the old one whole, or not at all.

use keymoot_api::{Problem, upkeep::ReloadAnswer};
use keymoot_types::ErrorCode;

use super::Node;
use crate::config::Config;

impl Node {
    /// Refuses a configuration that only a start can take into use. Asked before anything of it is.
    pub(crate) fn may_reload(&self, new: &Config) -> Result<(), Problem> {
        let old = self.config.load();
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
        if fixed.is_empty() {
            return Ok(());
        }
        let detail = format!("{} can't change while the daemon runs; nothing was changed", fixed.join(", "));
        Err(Problem::new(ErrorCode::BadRequest, detail))
    }

    /// Takes a configuration into use that was read without mistakes and that [`Self::may_reload`] let pass.
    pub(crate) async fn reload(&self, new: Config) -> ReloadAnswer {
        let old = self.config.load_full();
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
        ReloadAnswer { reloaded: true, warnings }
    }
}
