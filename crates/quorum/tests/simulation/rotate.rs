//! Activation in two swaps, the ways back, retirement and its hold: as `node/rotate.rs` and `node/retire.rs` of the
//! daemon.

use std::{collections::BTreeMap, time::Duration};

use keymoot_quorum::{
    gate::{self, ActivationFacts, Census, CensusFacts, KeyLife, RetirementFacts},
    revise,
};
use keymoot_types::{KeyVersion, NodeName, VersionState};

use crate::{
    node::{Activation, Node, Refused},
    peers::Moment,
    store::{Body, Record, Write},
    unlock::of_set,
    world::{HOLD, MAX_AGE, MAX_WRITE_DELAY, QUIET, World, key_name, source, then},
};

const ADOPTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Older censuses are removed.
const KEPT: usize = 8;

impl World {
    /// Checks everything and makes the first of the two swaps; `go_on` makes the second.
    pub(crate) fn activate(
        &mut self,
        node: &mut Node,
        version: KeyVersion,
        without: Vec<(NodeName, Duration)>,
    ) -> Result<(), Refused> {
        self.follow(node);
        self.load_proofs(node);
        node.primary()?;
        let state = node.record(version)?.state;
        if matches!(state, VersionState::Primary | VersionState::Retired | VersionState::Aborted) {
            return Err(format!("it is {state}"));
        }
        let now = self.service_time(node);
        for (of, time) in without {
            if of == node.name {
                return Err("it is the node that answers".into());
            }
            node.exclusions.exclude(of, now + time);
        }
        self.gate(node, version)?;
        if state == VersionState::DecryptOnly {
            return self.make_primary(node, version);
        }
        if state == VersionState::Staged {
            self.swap_state(node, version, VersionState::Activating)?;
        }
        let started = self.monotonic(node);
        node.activation = Some(Activation { version, started });
        Ok(())
    }

    /// The members that are waited for now.
    fn waited_for(&self, node: &mut Node) -> Result<Vec<NodeName>, Refused> {
        let now = self.service_time(node);
        let members = node.manifest()?.members.iter();
        Ok(members.filter(|of| !node.exclusions.excludes(of, now)).cloned().collect())
    }

    fn gate(&mut self, node: &mut Node, version: KeyVersion) -> Result<(), Refused> {
        let asked = self.waited_for(node)?;
        let manifest = node.manifest()?;
        let record = node.record(version)?;
        let facts = ActivationFacts {
            version,
            members: asked.iter().map(|of| self.facts_of(node, of, record)).collect(),
            proofs: &proved(node),
            excused: &[],
            samples_failed: vec![],
        };
        open(gate::activation(manifest, record, &facts))
    }

    /// What an activation that waits does when it looks again.
    pub(crate) fn go_on(&mut self, node: &mut Node) -> Result<(), Refused> {
        let Some(activation) = node.activation.take() else { return Ok(()) };
        let version = activation.version;
        node.primary()?;
        match node.record(version)?.state {
            VersionState::Activating => {}
            VersionState::Primary => return Ok(()),
            // As the daemon has it: whatever else it has become meanwhile, the second swap decides.
            _ => return self.make_primary(node, version),
        }
        let asked = self.waited_for(node)?;
        // The present revision: it may have been staged again, and activated again, since this began to wait.
        if self.not_adopted(node, &asked).is_empty() {
            if let Err(refused) = self.gate(node, version) {
                self.swap_state(node, version, VersionState::Staged)?;
                return Err(refused);
            }
            return self.make_primary(node, version);
        }
        if self.monotonic(node).saturating_sub(activation.started) >= ADOPTION_TIMEOUT {
            self.swap_state(node, version, VersionState::Staged)?;
            return Err("not every member has adopted".into());
        }
        node.activation = Some(activation);
        Ok(())
    }

    fn make_primary(&mut self, node: &mut Node, version: KeyVersion) -> Result<(), Refused> {
        let believed = self.believed_records(node)?;
        let now = self.service_time(node);
        let excluded: Vec<_> = node.exclusions.left(now).map(|(of, _)| of.clone()).collect();
        self.exclude(version, &excluded);
        self.swap_state(node, version, VersionState::Primary)?;
        self.vouch_anew(node, believed);
        self.catch_up(node);
        Ok(())
    }

    fn swap_state(&mut self, node: &mut Node, version: KeyVersion, to: VersionState) -> Result<(), Refused> {
        let mut manifest = node.next()?;
        revise::step(&mut manifest, version, to).map_err(|error| error.to_string())?;
        self.publish(node, manifest, &[])
    }

    pub(crate) fn abort(&mut self, node: &mut Node, version: KeyVersion) -> Result<(), Refused> {
        node.primary()?;
        let to = match node.record(version)?.state {
            VersionState::Staged => VersionState::Aborted,
            VersionState::Activating => VersionState::Staged,
            state => return Err(format!("it is {state}")),
        };
        self.swap_state(node, version, to)?;
        if to == VersionState::Aborted {
            node.loaded.remove(&version);
            node.packages.remove(&version);
            self.rebuild(node);
        }
        Ok(())
    }

    pub(crate) fn restore_version(&mut self, node: &mut Node, version: KeyVersion) -> Result<(), Refused> {
        node.primary()?;
        let mut manifest = node.next()?;
        revise::restore(&mut manifest, version).map_err(|error| error.to_string())?;
        self.publish(node, manifest, &[])
    }

    pub(crate) fn retire(&mut self, node: &mut Node, version: KeyVersion) -> Result<(), Refused> {
        node.primary()?;
        self.follow(node);
        node.gates_open()?;
        let manifest = node.manifest()?.clone();
        if node.record(version)?.state != VersionState::DecryptOnly {
            return Err("it is not decrypt-only".into());
        }
        let stopped = self.moment(node, Moment::Stopped, version);
        let now = self.service_time(node);
        let last_use = self.last_uses(node, now).get(&version).copied();
        let censuses = self.censuses(node)?;
        let facts = RetirementFacts {
            version,
            unsettled: self.not_adopted(node, &manifest.members),
            stopped,
            now,
            max_write_delay: MAX_WRITE_DELAY,
            quiet: QUIET,
            last_use: last_use.max(self.last_use_elsewhere(node, now, version)),
            censuses: &censuses,
            census_running: node.censuses_due > 0,
            sources: &[source()],
            configured: &[source()],
            quarantined: &[],
            keys: &[KeyLife { key: key_name(), max_age: Some(MAX_AGE) }],
            proofs: &proved(node),
        };
        let lacks = gate::retirement(&manifest, &facts);
        if !lacks.is_empty() {
            let of_a_census = |code: &str| ["census_stale", "values_left"].contains(&code);
            if lacks.iter().any(|lack| of_a_census(lack.code))
                && now >= gate::census_from(stopped.unwrap_or(now), MAX_WRITE_DELAY)
            {
                node.censuses_due = 2;
            }
            return open(lacks);
        }
        let mut next = node.next()?;
        revise::retire(&mut next, version, None, then()).map_err(|error| error.to_string())?;
        self.publish(node, next, &[])?;
        self.note_moment(node, Moment::Retired, version);
        node.loaded.remove(&version);
        self.rebuild(node);
        Ok(())
    }

    /// Everything that the present primary vouches for, before another version becomes primary.
    fn believed_records(&mut self, node: &Node) -> Result<Vec<(String, Record)>, Refused> {
        node.primary()?;
        let mut believed = vec![];
        for prefix in ["proof/", "census/", "moment/", "clock/"] {
            let stored = self.list(node, prefix).map_err(|error| format!("the store is {error:?}"))?;
            believed.extend(stored.into_iter().filter(|(_, record)| node.believes(record)));
        }
        Ok(believed)
    }

    /// Seals with the new primary what the one before vouched for.
    fn vouch_anew(&mut self, node: &Node, believed: Vec<(String, Record)>) {
        for (key, stored) in believed {
            let Ok(primary) = node.primary() else { return };
            let anew = Record { by: Some((primary.version(), primary.key_id())), ..stored.clone() };
            let _ = self.send(node, Write::Swap(key, Some(stored.stamp), anew));
        }
    }

    /// Takes one of the censuses that are due: what is under way at a writer is not in a source.
    pub(crate) fn take_census(&mut self, node: &mut Node) -> Result<(), Refused> {
        node.censuses_due -= 1;
        node.primary()?;
        let began = self.service_time(node);
        let values = self.values.counted();
        let counted = CensusFacts { source: source(), values, unreadable: 0, why_not: None };
        let census = Census { began, ended: began, set_aside: None, sources: vec![counted] };
        self.census_number += 1;
        let key = format!("census/{:010}", self.census_number);
        let record = node.sealed(Body::Census { node: node.at, census })?;
        let problem = |error| format!("the store is {error:?}");
        self.send(node, Write::Put(key, record)).map_err(problem)?;
        for (key, old) in self.list(node, "census/").map_err(problem)?.iter().rev().skip(KEPT) {
            self.send(node, Write::Remove(key.clone(), old.stamp)).map_err(problem)?;
        }
        Ok(())
    }

    /// This node's own, oldest first.
    fn censuses(&mut self, node: &Node) -> Result<Vec<Census>, Refused> {
        let stored = self.list(node, "census/").map_err(|error| format!("the store is {error:?}"))?;
        let mine = stored.iter().filter(|(_, record)| node.believes(record));
        let mine = mine.filter_map(|(_, record)| match &*record.body {
            Body::Census { node: by, census } if *by == node.at => Some(census.clone()),
            _ => None,
        });
        Ok(mine.collect())
    }

    pub(crate) fn look_at_holds(&mut self, node: &mut Node) {
        let Some(adopted) = node.adopted.clone() else { return };
        for record in &adopted.document.manifest().versions {
            let held = record.state == VersionState::Retired
                && record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_none());
            if !held {
                continue;
            }
            let Some(retired) = self.moment(node, Moment::Retired, record.version) else { continue };
            if self.service_time(node) >= retired + HOLD {
                let _ = self.end_hold(node, record.version, retired + HOLD);
            }
        }
    }

    fn end_hold(&mut self, node: &mut Node, version: KeyVersion, over: Duration) -> Result<(), Refused> {
        let censuses = self.censuses(node)?;
        let clean = censuses.iter().any(|census| {
            census.began >= over
                && census.sources.iter().all(|found| found.values.iter().all(|(of, _)| *of != version))
        });
        if !clean {
            node.censuses_due = node.censuses_due.max(1);
            return Ok(());
        }
        let mut next = node.next()?;
        if let Some(retirement) = next.version_mut(version).and_then(|record| record.retirement.as_mut()) {
            retirement.hold_ended = Some(then());
        }
        self.publish(node, next, &[])
    }
}

fn proved(node: &Node) -> BTreeMap<KeyVersion, std::collections::BTreeSet<keymoot_types::HolderName>> {
    let Ok(manifest) = node.manifest() else { return BTreeMap::new() };
    let versions = manifest.versions.iter();
    versions.map(|record| (record.version, of_set(node, record.version, &record.share_set))).collect()
}

fn open(lacks: Vec<gate::Missing>) -> Result<(), Refused> {
    if lacks.is_empty() {
        return Ok(());
    }
    let lacks: Vec<_> = lacks.iter().map(|lack| lack.code).collect();
    Err(lacks.join(" "))
}
