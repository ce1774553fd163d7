//! What must hold at every step, judged from outside with knowledge that no node has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use keymoot_types::{KeyId, KeyVersion, Manifest, NodeName, Value, Verdict, VersionState};

use crate::{
    node::Node,
    store::Doc,
    world::{HOLD, NODES, Slot, World},
};

const NOTICED_WITHIN: u64 = 10_000;

/// What only the simulation knows.
#[derive(Default)]
pub(crate) struct Truth {
    /// The first invariant that was broken, and how.
    pub(crate) broken: Option<String>,
    /// To which key every number was given that came into use. One that was only staged is lost with a store that went
    /// back, and nobody has a value of it.
    numbers: BTreeMap<KeyVersion, KeyId>,
    /// The highest number that was ever given, be it to a version that was staged and no more.
    pub(crate) highest: Option<KeyVersion>,
    retired_at: BTreeMap<KeyVersion, u64>,
    /// The state of each version in the newest stored manifest.
    states: BTreeMap<KeyVersion, VersionState>,
    /// Members that an operator went on without, by version.
    excluded: BTreeSet<(KeyVersion, NodeName)>,
    /// How often the cluster came how far.
    pub(crate) deeds: BTreeMap<String, u64>,
}

impl World {
    pub(crate) fn broke(&mut self, what: impl fmt::Display) {
        self.say(format_args!("BROKEN: {what}"));
        let told = format!("at {}: {what}", self.now);
        self.truth.broken.get_or_insert(told);
    }

    pub(crate) fn exclude(&mut self, version: KeyVersion, nodes: &[NodeName]) {
        self.truth.excluded.extend(nodes.iter().map(|node| (version, node.clone())));
    }

    /// A value was just made: whoever serves can open it, unless an operator went on without them.
    pub(crate) fn check_opens(&mut self, by: usize, value: &Value) {
        let version = value.version();
        for at in 0..NODES {
            let slot = &self.slots[at];
            let excluded = self.truth.excluded.contains(&(version, slot.name.clone()));
            if slot.serving.keyring.is_none() || (excluded && at != by) {
                continue;
            }
            let verdict = slot.serving.verdict(value);
            let unnoticed = verdict == Verdict::Undetermined && self.has_just_gone_back();
            if verdict != Verdict::Valid && !unnoticed {
                let (maker, name) = (self.slots[by].name.clone(), slot.name.clone());
                return self
                    .broke(format_args!("{maker} made a value of v{version}, and to {name} it is {verdict}"));
            }
        }
    }

    /// A store that goes back has broken its promise: what it acknowledged last, others may never have seen. Until all
    /// have noticed, which an echo bounds, no value is called invalid, and that is all; the hold is there for it.
    fn has_just_gone_back(&self) -> bool {
        self.store.restored_at.is_some_and(|at| self.now < at.max(self.store.away_until) + NOTICED_WITHIN)
    }

    /// A revision entered the store.
    pub(crate) fn check_stored(&mut self, document: &Doc) {
        let manifest = document.document.manifest();
        self.say(format_args!("revision {} is stored: {}", manifest.revision, summary(manifest)));
        let primaries = manifest.versions.iter().filter(|record| record.state == VersionState::Primary);
        if primaries.map(|record| record.version).ne([manifest.primary]) {
            self.broke("not exactly one version is primary");
        }
        for record in &manifest.versions {
            let version = record.version;
            self.truth.highest = self.truth.highest.max(Some(version));
            let in_use = !matches!(record.state, VersionState::Staged | VersionState::Aborted);
            if in_use && *self.truth.numbers.entry(version).or_insert(record.key_id) != record.key_id {
                self.broke(format_args!("the number v{version} was given to two keys"));
            }
            let before = self.truth.states.insert(version, record.state);
            if before != Some(record.state) {
                *self.truth.deeds.entry(record.state.to_string()).or_default() += 1;
            }
            if record.state == VersionState::Retired && record.since == Some(manifest.revision) {
                self.check_retired(version);
                self.truth.retired_at.entry(version).or_insert(self.now);
            }
            let ended = record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_some());
            if ended && let Some(at) = self.truth.retired_at.remove(&version) {
                *self.truth.deeds.entry("destroyed".into()).or_default() += 1;
                let held = self.now - at;
                if Duration::from_millis(held) < HOLD {
                    self.broke(format_args!("the hold of v{version} ended after {held} ms"));
                }
            }
        }
    }

    fn check_retired(&mut self, version: KeyVersion) {
        if self.has_just_gone_back() {
            return;
        }
        if self.values.need(version) {
            self.broke(format_args!("v{version} was retired, and a value of it is needed"));
        }
        let writes =
            |slot: &&Slot| slot.serving.keyring.as_ref().and_then(|keyring| keyring.primary()) == Some(version);
        if let Some(name) = self.slots.iter().find(writes).map(|slot| slot.name.clone()) {
            self.broke(format_args!("v{version} was retired, and {name} may write it yet"));
        }
    }

    /// A node makes a manifest its own.
    pub(crate) fn check_kept(&mut self, node: &Node, document: &Doc, by_word: bool) {
        let before = node.adopted.as_ref().map_or(0, |adopted| adopted.revision());
        if document.revision() <= before && !by_word {
            self.broke(format_args!("{} goes from revision {before} to {}", node.name, document.revision()));
        }
        let previous = document.document.manifest().previous;
        if !by_word && previous != node.adopted.as_ref().map(|adopted| adopted.digest) {
            let revision = document.revision();
            self.broke(format_args!("{} adopts {revision} over {before}, which is not its past", node.name));
        }
    }

    /// A message of long ago was delivered: what is newest stays, or it is the next revision that was never answered.
    pub(crate) fn check_late(&mut self, before: Option<Doc>, after: Option<Doc>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        if before.digest != after.digest && after.revision() <= before.revision() {
            self.broke(format_args!("a late write made {} of {}", after.revision(), before.revision()));
        }
    }

    /// At the end of every step.
    pub(crate) fn check(&mut self) {
        for at in 0..NODES {
            let slot = &self.slots[at];
            let Some(node) = &slot.node else { continue };
            let Some(adopted) = node.adopted.clone() else { continue };
            let name = slot.name.clone();
            let served = slot.serving.revision;
            if slot.serving.keyring.is_some() && served != adopted.revision() {
                let revision = adopted.revision();
                self.broke(format_args!("{name} has adopted {revision} and serves by {served}"));
            }
            self.check_shares(&name, &adopted);
            self.check_same(at, &adopted);
        }
        if let Some(head) = self.store.head() {
            self.check_shares("the store", &head);
        }
    }

    /// Two nodes at one revision have the same manifest, unless one says that it does not follow; both have looked.
    fn check_same(&mut self, at: usize, adopted: &Doc) {
        let settled = |node: &Node| node.looked_at > self.store.changed_at && node.diverged.is_none();
        if !self.slots[at].node.as_deref().is_some_and(settled) {
            return;
        }
        for other in at + 1..NODES {
            let Some(node) = self.slots[other].node.as_deref().filter(|node| settled(node)) else { continue };
            let Some(theirs) = &node.adopted else { continue };
            if theirs.revision() == adopted.revision() && theirs.digest != adopted.digest {
                let revision = adopted.revision();
                return self.broke(format_args!("two nodes have two revisions {revision}, and neither says so"));
            }
        }
    }

    /// For every version that an unlock requires, a threshold of holders have shares in force.
    fn check_shares(&mut self, of: impl fmt::Display, document: &Doc) {
        for record in document.document.manifest().required() {
            let set = &record.share_set;
            let has = |index: &usize| {
                let mut parts = self.holders[*index].parts.iter();
                parts.any(|part| set.holders.iter().any(|holder| holder.digest == part.digest))
            };
            let have = (0..self.holders.len()).filter(has).count();
            if have < usize::from(set.threshold) {
                let (version, needed) = (record.version, set.threshold);
                let of = of.to_string();
                return self.broke(format_args!(
                    "{of} asks for {needed} shares of v{version}, set {}, and holders have {have}",
                    set.set
                ));
            }
        }
    }
}

fn summary(manifest: &Manifest) -> String {
    let of = |record: &keymoot_types::manifest::VersionRecord| {
        let set = &record.share_set;
        let pending = set.pending.as_ref().map_or(String::new(), |pending| format!("+{}", pending.set));
        format!("v{} {} set {}{pending}", record.version, record.state, set.set)
    };
    manifest.versions.iter().map(of).collect::<Vec<_>>().join(", ")
}
