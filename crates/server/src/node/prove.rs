//! `prove`: a share is compared with its digest, recorded and wiped. Activation counts these proofs.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use jiff::Timestamp;
use keymoot_api::{
    Problem,
    unlock::{AcceptedPart, PartsAnswer, PartsRequest},
};
use keymoot_quorum::judge::{Purpose, judge};
use keymoot_types::{Digest, HolderName, KeyVersion, Manifest, manifest::ShareSet};
use serde::{Deserialize, Serialize};

use super::{Core, Node, record, store_problem, unlock, wall_clock};

pub(super) const PREFIX: &str = "proof/";

/// One holder's proof of one version, under one share set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    pub(crate) version: KeyVersion,
    pub(crate) holder: HolderName,
    pub(crate) set: u32,
    /// Of exactly this share set: after a restore of the store another may have the same number.
    pub(crate) key_check: Digest,
    pub(crate) at: Timestamp,
}

/// Who has proved what: what is recorded, and what waits to be.
#[derive(Default)]
pub(super) struct Proofs {
    recorded: BTreeMap<(KeyVersion, u32, HolderName), Proof>,
    unwritten: Vec<Proof>,
}

impl Proofs {
    /// Notes a proof that can't be recorded yet: a sealed node has no key to vouch with.
    pub(super) fn note(&mut self, manifest: &Manifest, version: KeyVersion, holder: &HolderName, set: u32) {
        let Some(record) = manifest.version(version) else { return };
        let mut sets = iter::once(&record.share_set).chain(record.share_set.pending.as_deref());
        let Some(key_check) = sets.find(|of| of.set == set).map(|of| of.key_check) else { return };
        // One place a share: however often it is proved while the store is away.
        self.unwritten.retain(|proof| (proof.version, proof.set, &proof.holder) != (version, set, holder));
        self.unwritten.push(Proof { version, holder: holder.clone(), set, key_check, at: wall_clock() });
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }

    /// When this holder last proved their share of this set.
    pub(super) fn of(&self, version: KeyVersion, set: &ShareSet, holder: &HolderName) -> Option<&Proof> {
        let proof = self.recorded.get(&(version, set.set, holder.clone()));
        proof.filter(|proof| proof.key_check == set.key_check)
    }

    /// Who has proved this set.
    pub(super) fn of_set(&self, version: KeyVersion, set: &ShareSet) -> BTreeSet<HolderName> {
        let this = (version, set.set, set.key_check);
        let proofs = self.recorded.values().filter(|proof| (proof.version, proof.set, proof.key_check) == this);
        proofs.map(|proof| proof.holder.clone()).collect()
    }

    fn insert(&mut self, proof: Proof) {
        self.recorded.insert((proof.version, proof.set, proof.holder.clone()), proof);
    }
}

impl Core {
    /// Who has proved each version under its present share set.
    pub(super) fn proved(&self) -> BTreeMap<KeyVersion, BTreeSet<HolderName>> {
        let Some(document) = &self.adopted else { return BTreeMap::new() };
        let versions = document.manifest().versions.iter();
        versions.map(|record| (record.version, self.proofs.of_set(record.version, &record.share_set))).collect()
    }
}

impl Node {
    /// Checks, records and wipes. Proving again is fine.
    pub(crate) async fn prove_parts(&self, request: PartsRequest, named: bool) -> Result<PartsAnswer, Problem> {
        unlock::bounded(&request)?;
        let mut core = self.core.lock().await;
        core.primary()?;
        let manifest = core.manifest()?.manifest().clone();
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for (name, text) in &request.parts.0 {
            match judge(&manifest, Purpose::Prove, name, text) {
                Ok(part) => {
                    let version = part.share.version();
                    core.proofs.note(&manifest, version, &part.holder, part.set);
                    accepted.push(AcceptedPart { version, holder: part.holder });
                }
                Err(refusal) => rejected.push(unlock::rejection(refusal, named)),
            }
        }
        if !accepted.is_empty() {
            self.write_proofs(&mut core).await?;
        }
        for part in &accepted {
            tracing::info!(version = part.version.get(), holder = %part.holder, "possession proved and recorded");
        }
        Ok(self.parts_answer(&core, accepted, rejected, named))
    }

    /// Records the proofs that wait, each with a mac; what could not be recorded goes on waiting.
    pub(super) async fn write_proofs(&self, core: &mut Core) -> Result<(), Problem> {
        let primary = core.primary()?;
        while let Some(proof) = core.proofs.unwritten.last().cloned() {
            let key = format!("{PREFIX}{:010}/{}/{}", proof.version.get(), proof.set, proof.holder);
            if let Some(bytes) = record::seal(&key, &proof, &primary) {
                self.metadata.put(&key, &bytes).await.map_err(|error| store_problem(&error))?;
                if let Some(packages) = core.packages.get_mut(&proof.version) {
                    packages.proved(proof.set, &proof.holder);
                }
                core.proofs.insert(proof);
            }
            core.proofs.unwritten.pop();
        }
        self.finish_reshares(core).await
    }

    /// Reads what was recorded before this boot and by other members, and records what was proved here.
    pub(super) async fn load_proofs(&self, core: &mut Core) {
        let Ok(primary) = core.primary() else { return };
        match self.metadata.list(PREFIX).await {
            Ok(records) => {
                for stored in records {
                    match record::open::<Proof>(&stored.key, &stored.value, &primary) {
                        Ok(proof) => core.proofs.insert(proof),
                        Err(error) => tracing::debug!(%error, "a proof is not counted"),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the proofs could not be read; tried again later"),
        }
        if let Err(problem) = self.write_proofs(core).await {
            tracing::warn!(%problem, "proofs of this unlock could not be recorded; tried again later");
        }
    }
}
