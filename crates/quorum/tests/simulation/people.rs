//! Operators and holders: they see what a node shows them, and do what would come next, mostly.

use std::time::Duration;

use keymoot_keyring::key_check::share_digest;
use keymoot_types::{Digest, HolderName, KeyVersion, Share, VersionState};

use crate::{
    faults::Fault,
    node::{Node, Packages, What},
    world::{HOLDERS, NODES, World, holder},
};

/// A holder's parts file.
pub(crate) struct Holder {
    name: HolderName,
    pub(crate) parts: Vec<Part>,
}

pub(crate) struct Part {
    version: KeyVersion,
    set: u32,
    pub(crate) digest: Digest,
    text: String,
}

impl Holder {
    pub(crate) fn new(index: usize) -> Self {
        Self { name: holder(index), parts: vec![] }
    }
}

/// What may come next.
#[derive(Clone, Copy)]
enum Act {
    Stage,
    Reshare(KeyVersion),
    Consent,
    Deliver,
    Prove,
    Load(KeyVersion),
    Activate(KeyVersion),
    Abort(KeyVersion),
    Retire(KeyVersion),
    Restore(KeyVersion),
    Rekey,
    Census,
    Seal,
}

impl World {
    pub(crate) fn operate(&mut self) {
        let at = self.dice.below(NODES);
        self.operate_at(at);
    }

    pub(crate) fn operate_at(&mut self, at: usize) {
        let Some(node) = &self.slots[at].node else { return };
        let lacks = lacks(node);
        let diverged = node.diverged.is_some();
        let acts = if node.loaded.is_empty() || diverged { vec![] } else { acts(node) };
        if let Some(version) = lacks.first().copied().filter(|_| self.dice.percent(80)) {
            return self.load(at, version);
        }
        if diverged && self.dice.percent(30) {
            return self.settle(at);
        }
        let total: u64 = acts.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return;
        }
        let mut at_weight = self.dice.between(0, total);
        for (weight, act) in acts {
            if at_weight < weight {
                return self.act(at, act);
            }
            at_weight -= weight;
        }
    }

    fn act(&mut self, at: usize, act: Act) {
        match act {
            Act::Stage => {
                let restored = self.slots[at].node.as_ref().is_some_and(|node| node.numbers.restored);
                let highest = self.truth.highest.filter(|_| restored);
                self.told(at, "is asked to stage", |world, node| {
                    world.open_request(node, What::Stage { highest })
                });
            }
            Act::Reshare(version) => {
                let lost = self.holders.iter().filter(|holder| holder.parts.is_empty());
                let lost = lost.map(|holder| holder.name.clone()).collect();
                self.told(at, format_args!("is asked for new shares of v{version}"), |world, node| {
                    world.open_request(node, What::Reshare { version, lost })
                });
            }
            Act::Consent => {
                let Some(node) = &self.slots[at].node else { return };
                let Some(version) = node.request.as_ref().map(|request| request.primary) else { return };
                let Some((who, name, text)) = self.a_part(version) else { return };
                let what = format_args!("takes the consent of {who}").to_string();
                self.told(at, what, |world, node| world.consent(node, &name, &text));
            }
            Act::Deliver => self.deliver_from(at),
            Act::Prove => {
                let who = self.dice.below(HOLDERS);
                let parts: Vec<_> = self.holders[who]
                    .parts
                    .iter()
                    .map(|part| (part_name(part.version), part.text.clone()))
                    .collect();
                self.told(at, format_args!("takes the proof of holder-{who}"), |world, node| {
                    world.prove(node, &parts)
                });
            }
            Act::Load(version) => self.load(at, version),
            Act::Activate(version) => {
                let gone: Vec<_> = self.slots.iter().filter(|slot| slot.is_gone(self.now)).collect();
                let gone: Vec<_> = gone.into_iter().map(|slot| slot.name.clone()).collect();
                let gone = if self.dice.percent(15) { gone } else { vec![] };
                let time = Duration::from_millis(self.dice.between(1_000, 40_000));
                let without: Vec<_> = gone.into_iter().map(|of| (of, time)).collect();
                let what = format!("activates v{version} without {without:?}");
                self.told(at, what, |world, node| world.activate(node, version, without));
            }
            Act::Abort(version) => {
                self.told(at, format_args!("aborts v{version}"), |world, node| world.abort(node, version));
            }
            Act::Retire(version) => {
                self.told(at, format_args!("retires v{version}"), |world, node| world.retire(node, version));
            }
            Act::Restore(version) => {
                self.told(at, format_args!("restores v{version}"), |world, node| {
                    world.restore_version(node, version)
                });
            }
            Act::Rekey => self.rekey(at),
            Act::Census => drop(self.on(at, |_, node| {
                node.censuses_due = node.censuses_due.max(1);
                Ok(())
            })),
            Act::Seal => {
                self.told(at, "is sealed", |world, node| {
                    world.seal(node);
                    Ok(())
                });
            }
        }
    }

    /// A holder gives a part of this version.
    fn load(&mut self, at: usize, version: KeyVersion) {
        let Some((who, name, text)) = self.a_part(version) else { return };
        let wrong = self.faults.occasion(&[Fault::WrongPart], at).is_some();
        let text = if wrong { wrong_text(&text) } else { text };
        let what = format!("takes a part of v{version} from {who}{}", if wrong { ", a wrong one" } else { "" });
        let taken = self
            .told(at, what, |world, node| world.give_part(node, &name, &text).map_err(|code| format!("{code:?}")));
        if wrong && taken {
            self.broke("a wrong part was taken");
        }
    }

    fn a_part(&mut self, version: KeyVersion) -> Option<(HolderName, String, String)> {
        let who = self.dice.below(HOLDERS);
        let parts: Vec<_> = self.holders[who].parts.iter().filter(|part| part.version == version).collect();
        let at = self.dice.below(parts.len());
        let part = parts.get(at)?;
        Some((self.holders[who].name.clone(), part_name(version), part.text.clone()))
    }

    /// A holder fetches what was made for them.
    fn deliver_from(&mut self, at: usize) {
        let who = holder(self.dice.below(HOLDERS));
        let Some(node) = &self.slots[at].node else { return };
        let own = node.packages.iter().map(|(version, made)| {
            let parts = made.parts.iter().filter(|(name, _)| *name == who).cloned().collect();
            (*version, Packages { set: made.set, parts })
        });
        for (version, packages) in own.collect::<Vec<_>>() {
            self.deliver(version, packages);
        }
    }

    pub(crate) fn deliver(&mut self, version: KeyVersion, packages: Packages) {
        for (name, text) in packages.parts {
            let Some(holder) = self.holders.iter_mut().find(|holder| holder.name == name) else { continue };
            let digest = share_digest(&Share::parse(&text).unwrap());
            if holder.parts.iter().all(|part| part.digest != digest) {
                holder.parts.push(Part { version, set: packages.set, digest, text });
                let set = packages.set;
                self.say(format_args!("{name} gets a share of v{version}, set {set}"));
            }
        }
    }

    /// One laptop in a run: one more than the threshold have proved, so that one may be lost.
    pub(crate) fn lose_laptop(&mut self) {
        if self.faults.fired.contains_key(&Fault::LaptopLost) {
            return;
        }
        let who = self.dice.below(HOLDERS);
        let sets: Vec<_> = self.holders[who].parts.iter().map(|part| (part.version, part.set)).collect();
        self.holders[who].parts.clear();
        self.faults.count(Fault::LaptopLost);
        self.say(format_args!("holder-{who} loses {sets:?}"));
    }

    /// The store's manifest is not followed here: the furthest node publishes its own again, and the others confirm.
    fn settle(&mut self, at: usize) {
        let adopted = |world: &Self, at: usize| {
            let slot = &world.slots[at];
            slot.node.as_ref().and_then(|node| node.adopted.clone()).or(slot.disk.clone())
        };
        let revision = |at: &usize| adopted(self, *at).map_or(0, |document| document.revision());
        let Some(furthest) = (0..NODES).rev().max_by_key(revision) else { return };
        let best = adopted(self, furthest);
        let head = self.store.head();
        let digest = |document: &Option<crate::store::Doc>| document.as_ref().map(|document| document.digest);
        if at != furthest && digest(&best) == digest(&head) {
            let Some((revision, digest)) = head.map(|head| head.identity()) else { return };
            self.told(at, format_args!("confirms {revision}"), |world, node| {
                world.confirm(node, revision, digest)
            });
        } else {
            self.told(furthest, "publishes its manifest again", |world, node| world.republish(node));
        }
    }
}

/// Versions without which this node can't unlock, or does not open all that it should.
fn lacks(node: &Node) -> Vec<KeyVersion> {
    let Some(target) = node.target() else { return vec![] };
    let manifest = target.document.manifest();
    if node.loaded.is_empty() {
        return node.unlock.missing(manifest);
    }
    let required = manifest.required().filter(|record| !node.loaded.contains_key(&record.version));
    required.map(|record| record.version).collect()
}

fn acts(node: &Node) -> Vec<(u64, Act)> {
    let Ok(manifest) = node.manifest() else { return vec![] };
    let mut acts = vec![(10, Act::Rekey), (10, Act::Census), (1, Act::Seal), (15, Act::Reshare(manifest.primary))];
    if node.request.is_some() {
        acts.push((200, Act::Consent));
    }
    if node.packages.values().any(|packages| !packages.parts.is_empty()) {
        acts.push((300, Act::Deliver));
    }
    let mut under_way = false;
    for record in &manifest.versions {
        let version = record.version;
        if record.share_set.pending.is_some() {
            acts.push((80, Act::Prove));
        }
        match record.state {
            VersionState::Staged | VersionState::Activating => {
                under_way = true;
                acts.extend([(100, Act::Prove), (100, Act::Activate(version)), (5, Act::Abort(version))]);
                if !node.loaded.contains_key(&version) {
                    acts.push((150, Act::Load(version)));
                }
            }
            VersionState::DecryptOnly => {
                acts.extend([(80, Act::Rekey), (120, Act::Retire(version)), (6, Act::Activate(version))]);
            }
            VersionState::Retired => acts.push((4, Act::Restore(version))),
            VersionState::Primary | VersionState::Aborted => {}
        }
    }
    if !under_way {
        acts.push((60, Act::Stage));
    }
    acts
}

fn part_name(version: KeyVersion) -> String {
    format!("prod-keyPart-v{version}")
}

/// One character is another.
fn wrong_text(text: &str) -> String {
    let (head, last) = text.split_at(text.len() - 1);
    format!("{head}{}", if last == "q" { "p" } else { "q" })
}
