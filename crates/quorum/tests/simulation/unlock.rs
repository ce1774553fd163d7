//! Parts come in, versions become validated, the node goes into service; proofs and requests of the holders: as
//! `node/unlock.rs`, `node/prove.rs`, `node/request.rs` and `node/made.rs` of the daemon.

use std::collections::BTreeSet;

use keymoot_keyring::{Keyring, stage};
use keymoot_quorum::{
    PartRefusal,
    adopt::{self, Divergence},
    consent::Consents,
    judge::{Purpose, judge},
    reshare, revise, unlock,
};
use keymoot_types::{HolderName, KeyVersion, Manifest, RefusalCode, Share, VersionState, manifest::ShareSet};

use crate::{
    node::{Loaded, Node, Packages, Proof, Refused, Request, What},
    store::{Body, Write},
    world::{HOLDERS, THRESHOLD, World, holder, key_name, then},
};

impl World {
    pub(crate) fn give_part(&mut self, node: &mut Node, name: &str, text: &str) -> Result<(), RefusalCode> {
        let Some(target) = node.target().cloned() else { return Err(RefusalCode::UnknownVersion) };
        let now = self.monotonic(node);
        let Node { unlock, loaded, .. } = node;
        let loaded = |version| loaded.contains_key(&version);
        match unlock.give(target.document.manifest(), loaded, name, text, now) {
            Ok(unlock::Accepted { version, holder, set, .. }) => {
                note(node, target.document.manifest(), version, set, holder);
                self.enter_service(node);
                Ok(())
            }
            Err(refusal) => {
                if refusal.share_was_right() {
                    self.enter_service(node);
                }
                Err(refusal.code)
            }
        }
    }

    pub(crate) fn enter_service(&mut self, node: &mut Node) {
        if node.loaded.is_empty() { self.unlock_if_complete(node) } else { self.load_more(node) }
    }

    fn unlock_if_complete(&mut self, node: &mut Node) {
        let Some(target) = node.target().cloned() else { return };
        let lacks = node.unlock.missing(target.document.manifest());
        if !lacks.is_empty() || node.unlock.validated().next().is_none() {
            return;
        }
        let validated: Loaded = node.unlock.validated().map(|key| (key.version(), key.clone())).collect();
        let loaded = |version: KeyVersion| validated.get(&version).map(AsRef::as_ref);
        let verified = match &node.adopted {
            Some(adopted) => adopt::stands(&adopted.document, loaded),
            None => adopt::stands(&target.document, loaded).and_then(|()| {
                let confirmed = node.confirmed == Some(target.identity());
                confirmed.then_some(()).ok_or(Divergence::Forked { revision: target.revision() })
            }),
        };
        if let Err(divergence) = verified {
            if node.adopted.is_some() {
                node.diverged = Some(divergence);
            }
            return;
        }
        node.loaded = validated;
        if node.adopted.is_none() {
            node.ahead.clear();
            self.keep(node, target, true);
        } else {
            self.adopt_ahead(node);
        }
        let lacks = |manifest: &Manifest| {
            manifest
                .required()
                .any(|record| node.loaded.get(&record.version).is_none_or(|key| key.key_id() != record.key_id))
        };
        if node.manifest().is_ok_and(lacks) {
            node.loaded.clear();
            return;
        }
        drop(node.unlock.take_validated());
        self.resume_clock(node);
        self.load_proofs(node);
        self.drop_retired(node);
        self.say(format_args!("{} is unlocked", node.name));
        self.rebuild(node);
        self.catch_up(node);
    }

    fn load_more(&mut self, node: &mut Node) {
        let newly = node.unlock.take_validated();
        if newly.is_empty() {
            return;
        }
        node.loaded.extend(newly.into_iter().map(|key| (key.version(), key)));
        self.adopt_ahead(node);
        self.drop_retired(node);
        self.rebuild(node);
        self.catch_up(node);
    }

    pub(crate) fn seal(&mut self, node: &mut Node) {
        let clock = self.sealed_clock(node, true);
        node.loaded.clear();
        node.exclusions = Default::default();
        node.unlock = Default::default();
        node.packages.clear();
        node.request = None;
        node.clock_resumed = false;
        node.canaries_failed.clear();
        node.members.interrupted();
        self.rebuild(node);
        if let Some(clock) = clock {
            self.put_clock(node, clock);
        }
    }

    /// Writes what the configuration declares and the manifest lacks.
    pub(crate) fn catch_up(&mut self, node: &mut Node) {
        let Ok(mut manifest) = node.next() else { return };
        if node.primary().is_err() || node.diverged.is_some() || node.store_away {
            return;
        }
        let mut changed = declare(&mut manifest);
        changed |= add_canaries(&mut manifest, node.loaded.values().cloned());
        let vouched: Vec<_> = match &node.adopted {
            Some(adopted) => adopted.document.manifest().macs.iter().map(|mac| mac.version).collect(),
            None => return,
        };
        let unvouched = |version| node.loaded.contains_key(&version) && !vouched.contains(&version);
        changed |= manifest.required().any(|record| unvouched(record.version));
        if changed {
            let _ = self.publish(node, manifest, &[]);
        }
    }

    pub(crate) fn prove(&mut self, node: &mut Node, parts: &[(String, String)]) -> Result<(), Refused> {
        node.primary()?;
        let manifest = node.manifest()?.clone();
        for (name, text) in parts {
            if let Ok(part) = judge(&manifest, Purpose::Prove, name, text) {
                note(node, &manifest, part.share.version(), part.set, part.holder);
            }
        }
        self.write_proofs(node)
    }

    pub(crate) fn write_proofs(&mut self, node: &mut Node) -> Result<(), Refused> {
        while let Some(proof) = node.unwritten.last().cloned() {
            let record = node.sealed(Body::Proof(proof.clone()))?;
            let Proof { version, set, key_check, holder } = proof;
            let key = format!("proof/{:010}/{set}/{holder}", version.get());
            self.send(node, Write::Put(key, record)).map_err(|error| format!("the store is {error:?}"))?;
            if let Some(packages) = node.packages.get_mut(&version).filter(|packages| packages.set == set) {
                packages.parts.retain(|(name, _)| *name != holder);
            }
            node.proved.insert((version, key_check, holder));
            node.unwritten.pop();
        }
        self.finish_reshares(node)
    }

    pub(crate) fn load_proofs(&mut self, node: &mut Node) {
        for (_, stored) in self.list(node, "proof/").unwrap_or_default() {
            if let (true, Body::Proof(proof)) = (node.believes(&stored), &*stored.body) {
                node.proved.insert((proof.version, proof.key_check, proof.holder.clone()));
            }
        }
        let _ = self.write_proofs(node);
    }

    fn finish_reshares(&mut self, node: &mut Node) -> Result<(), Refused> {
        let complete: Vec<_> =
            reshare::complete(node.manifest()?, |version, set| of_set(node, version, set)).collect();
        if complete.is_empty() {
            return Ok(());
        }
        let mut manifest = node.next()?;
        for version in &complete {
            reshare::finish(&mut manifest, *version).map_err(|error| error.to_string())?;
        }
        self.publish(node, manifest, &[])
    }

    pub(crate) fn open_request(&mut self, node: &mut Node, what: What) -> Result<(), Refused> {
        node.primary()?;
        self.follow(node);
        node.gates_open()?;
        if node.store_away {
            return Err("the store is away".into());
        }
        let manifest = node.manifest()?;
        match &what {
            What::Stage { highest } => {
                none_unfinished(manifest)?;
                node.numbers.next(manifest, *highest).map_err(|refused| refused.to_string())?;
            }
            What::Reshare { version, .. } => {
                reshare::next_set(manifest, *version).map_err(|error| error.to_string())?;
            }
        }
        node.request = Some(Request { what, primary: manifest.primary, consents: Consents::default() });
        Ok(())
    }

    /// A holder's consent. With the threshold it is done.
    pub(crate) fn consent(&mut self, node: &mut Node, name: &str, text: &str) -> Result<(), Refused> {
        node.primary()?;
        self.follow(node);
        node.gates_open()?;
        let manifest = node.manifest()?.clone();
        let Some(mut request) = node.request.take() else { return Err("no request".into()) };
        if request.primary != manifest.primary {
            return Err("another version became primary".into());
        }
        let given = request.consents.give(&manifest, request.primary, name, text);
        let part = match given {
            Ok(part) => part,
            Err(PartRefusal { code, .. }) => {
                node.request = Some(request);
                return Err(format!("{code:?}"));
            }
        };
        note(node, &manifest, request.primary, part.set, part.holder);
        let _ = self.write_proofs(node);
        let threshold = manifest.version(request.primary).map_or(u8::MAX, |record| record.share_set.threshold);
        if request.consents.have() < usize::from(threshold) {
            node.request = Some(request);
            return Ok(());
        }
        match request.what {
            What::Stage { highest } => self.make_staged(node, highest),
            What::Reshare { version, lost } => self.make_reshared(node, version, &lost),
        }
    }

    fn make_staged(&mut self, node: &mut Node, highest: Option<KeyVersion>) -> Result<(), Refused> {
        let mut manifest = node.next()?;
        none_unfinished(&manifest)?;
        let version = revise::next_version(&manifest, highest).map_err(|error| error.to_string())?;
        let made = stage::stage(manifest.keyring_id, version, THRESHOLD, &names());
        let staged = made.map_err(|error| error.to_string())?;
        revise::stage(&mut manifest, &staged, then());
        add_canaries(&mut manifest, node.loaded.values().chain([&staged.validated]).cloned());
        self.publish(node, manifest, std::slice::from_ref(&staged.validated))?;
        node.numbers = Default::default();
        let _ = self.forget_marker(node, true);
        node.packages.insert(version, packages(staged.share_set.set, &staged.shares));
        Ok(())
    }

    fn make_reshared(&mut self, node: &mut Node, version: KeyVersion, lost: &[HolderName]) -> Result<(), Refused> {
        let mut manifest = node.next()?;
        let set = reshare::next_set(&manifest, version).map_err(|error| error.to_string())?;
        let key = node.loaded.get(&version).cloned().ok_or("it is not loaded")?;
        let made = stage::reshare(&key, set, THRESHOLD, &names()).map_err(|error| error.to_string())?;
        reshare::begin(&mut manifest, version, made.share_set, lost).map_err(|error| error.to_string())?;
        self.publish(node, manifest, &[])?;
        node.packages.insert(version, packages(set, &made.shares));
        Ok(())
    }
}

fn none_unfinished(manifest: &Manifest) -> Result<(), Refused> {
    let unfinished = |state| matches!(state, VersionState::Staged | VersionState::Activating);
    let any = manifest.versions.iter().any(|record| unfinished(record.state));
    if any { Err("a version is staged already".into()) } else { Ok(()) }
}

/// Notes a proof until it can be recorded.
fn note(node: &mut Node, manifest: &Manifest, version: KeyVersion, set: u32, holder: HolderName) {
    let Some(record) = manifest.version(version) else { return };
    let mut sets = std::iter::once(&record.share_set).chain(record.share_set.pending.as_deref());
    if let Some(of) = sets.find(|of| of.set == set) {
        node.unwritten.push(Proof { version, set, key_check: of.key_check, holder });
    }
}

pub(crate) fn of_set(node: &Node, version: KeyVersion, set: &ShareSet) -> BTreeSet<HolderName> {
    let of_set = node.proved.iter().filter(|(of, check, _)| (*of, *check) == (version, set.key_check));
    of_set.map(|(_, _, holder)| holder.clone()).collect()
}

pub(crate) fn names() -> Vec<(HolderName, Option<String>)> {
    (0..HOLDERS).map(|index| (holder(index), None)).collect()
}

pub(crate) fn packages(set: u32, shares: &[Share]) -> Packages {
    let parts = shares.iter().enumerate().map(|(index, share)| (holder(index), share.to_text().to_string()));
    Packages { set, parts: parts.collect() }
}

pub(crate) fn declare(manifest: &mut Manifest) -> bool {
    let key = revise::KeyDeclaration { name: key_name(), max_age_s: Some(crate::world::MAX_AGE.as_secs()) };
    revise::declare(manifest, &[key], &[(crate::world::source(), key_name())])
}

pub(crate) fn add_canaries(
    manifest: &mut Manifest,
    loaded: impl Iterator<Item = std::sync::Arc<keymoot_keyring::Validated>>,
) -> bool {
    revise::add_canaries(manifest, &Keyring::new(loaded, None, &[key_name()]), &[key_name()])
}
