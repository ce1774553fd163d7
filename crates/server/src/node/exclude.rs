//! `exclude`: members that an operator lets the activation gate not wait for. Recorded, shown, and ended by itself.

use std::time::Duration;

use keymoot_api::{Problem, duration::HumanDuration, rotate::Exclusion};
use keymoot_quorum::exclude::Exclusions;
use keymoot_types::NodeName;
use serde::{Deserialize, Serialize};

use super::{Core, Node, bad_request, conflict, moment::ms, record, store_problem};

pub(super) const PREFIX: &str = "exclusion/";

/// Until when, in the service time of the node that was told.
#[derive(Serialize, Deserialize)]
struct Stored {
    until_ms: u64,
}

impl Node {
    fn exclusion_key(&self, node: &NodeName) -> String {
        format!("{PREFIX}{}/{node}", self.name)
    }

    /// Records the members that an operator excludes, before a gate opens by it. For a dry run it is only thought of.
    pub(super) async fn exclude(
        &self,
        core: &mut Core,
        asked: &[Exclusion],
        dry_run: bool,
    ) -> Result<Exclusions, Problem> {
        self.load_exclusions(core).await?;
        let mut exclusions = core.exclusions.clone().unwrap_or_default();
        let now = core.service_time(self.now());
        for Exclusion { node, duration } in asked {
            if *node == self.name {
                return Err(bad_request(format!("{node} is the node that answers; ask another to exclude it")));
            }
            if !core.manifest()?.manifest().members.contains(node) {
                return Err(bad_request(format!("{node} is no member, so no gate waits for it")));
            }
            let until = now.saturating_add(Duration::from(*duration));
            exclusions.exclude(node.clone(), until);
            // A degraded node has no key to vouch with, and excludes until it is sealed.
            if let (false, Ok(primary)) = (dry_run, core.primary()) {
                if !core.clock_resumed {
                    return Err(conflict("how long this node has served is not known yet; ask again in a moment"));
                }
                let key = self.exclusion_key(node);
                if let Some(bytes) = record::seal(&key, &Stored { until_ms: ms(until) }, &primary) {
                    self.metadata.put(&key, &bytes).await.map_err(|error| store_problem(&error))?;
                }
                tracing::warn!(%node, until_s = until.as_secs(), "a member is excluded: activations do not wait for it");
            }
        }
        if !dry_run {
            core.exclusions = Some(exclusions.clone());
        }
        Ok(exclusions)
    }

    /// Goes on with the exclusions of earlier boots. One that can't be believed is none.
    async fn load_exclusions(&self, core: &mut Core) -> Result<(), Problem> {
        let (None, Ok(primary), true) = (&core.exclusions, core.primary(), core.clock_resumed) else {
            return Ok(());
        };
        let own = format!("{PREFIX}{}/", self.name);
        let mut exclusions = Exclusions::default();
        for stored in self.metadata.list(&own).await.map_err(|error| store_problem(&error))? {
            let node = stored.key.strip_prefix(&own).and_then(|name| name.parse().ok());
            if let (Some(node), Ok(found)) = (node, record::open::<Stored>(&stored.key, &stored.value, &primary)) {
                exclusions.exclude(node, Duration::from_millis(found.until_ms));
            }
        }
        core.exclusions = Some(exclusions);
        Ok(())
    }

    /// The same, where nobody waits for it.
    pub(super) async fn look_at_exclusions(&self, core: &mut Core) {
        if let Err(problem) = self.load_exclusions(core).await {
            tracing::debug!(%problem, "exclusions could not be read; tried again later");
        }
    }
}

/// Who is excluded, in sentences.
pub(super) fn needs(core: &Core) -> Vec<String> {
    let left = core.exclusions.iter().flat_map(|exclusions| exclusions.left(core.elapsed.total()));
    left.map(|(node, left)| {
        let left = HumanDuration::from(Duration::from_secs(left.as_secs().saturating_add(1)));
        format!("member {node} is excluded: no activation waits for it for {left} more")
    })
    .collect()
}
