//! Whether a version that was named as lost here is held by another member.
//!
//! A degraded node often lacks the very key that heartbeats are vouched for with, and can believe none of them. But
//! one that changes while it looks was written by somebody who lives; and all that it can do here is to refuse.

use std::{collections::BTreeMap, time::Duration};

use keymoot_api::Problem;
use keymoot_quorum::members::ECHO_LAG_MAX;
use keymoot_types::{KeyId, KeyVersion, NodeName, heartbeat::Heartbeat};

use super::{Core, Node, peers, record, store_problem};

/// As long as it takes to tell that a member is silent: one that beats so seldom is still there for every other gate.
const LISTEN: Duration = Duration::from_secs(2 * ECHO_LAG_MAX);
const LOOK: Duration = Duration::from_millis(500);

impl Core {
    /// The versions that an operator named as lost, with their identity.
    pub(super) fn lost(&self) -> Vec<(KeyVersion, KeyId)> {
        let records = self.missing.iter().filter_map(|version| self.record(*version).ok());
        records.map(|record| (record.version, record.key_id)).collect()
    }
}

impl Node {
    /// Members whose heartbeats come in and say that they hold one of these versions.
    pub(super) async fn still_held(
        &self,
        lost: &[(KeyVersion, KeyId)],
    ) -> Result<Vec<(NodeName, KeyVersion)>, Problem> {
        let mut held = Vec::new();
        if lost.is_empty() {
            return Ok(held);
        }
        let heartbeats = async || self.metadata.list(peers::PREFIX).await.map_err(|error| store_problem(&error));
        let before: BTreeMap<_, _> =
            heartbeats().await?.into_iter().map(|stored| (stored.key, stored.stamp)).collect();
        let started = self.now();
        loop {
            // Taken before the look: where this process stood still, a look comes behind it.
            let over = self.now().saturating_sub(started) >= LISTEN;
            tokio::time::sleep(LOOK).await;
            for stored in heartbeats().await? {
                let Some(said) = record::claimed::<Heartbeat>(&stored.value) else { continue };
                if said.node == self.name || before.get(&stored.key) == Some(&stored.stamp) {
                    continue;
                }
                let holds = said.validated.iter().filter(|one| lost.contains(&(one.version, one.key_id)));
                held.extend(holds.map(|one| (said.node.clone(), one.version)));
            }
            if over || !held.is_empty() {
                return Ok(held);
            }
        }
    }
}
