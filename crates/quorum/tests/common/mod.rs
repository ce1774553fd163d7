//! Keyrings to decide about: made by the crate's own `stage` and `revise`, with every share at hand.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{num::NonZeroU8, sync::Arc};

use jiff::Timestamp;
use keymoot_keyring::{
    Validated,
    stage::{self, Reshared, Staged},
};
use keymoot_quorum::revise;
use keymoot_types::{
    HolderName, KeyName, KeyVersion, KeyringId, Manifest, NodeName, Share, SourceName, VersionState,
    manifest::{ManifestDocument, VersionRecord},
};

pub(crate) const HOLDERS: usize = 24;

pub(crate) fn v(number: u32) -> KeyVersion {
    KeyVersion::new(number).unwrap()
}

pub(crate) fn key(name: &str) -> KeyName {
    name.parse().unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn source(name: &str) -> SourceName {
    name.parse().unwrap()
}

pub(crate) fn holder(index: usize) -> HolderName {
    format!("holder-{index}").parse().unwrap()
}

pub(crate) fn then() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub(crate) fn keyring_id() -> KeyringId {
    KeyringId::new(*b"keymoot!")
}

/// A version and the texts of its shares, in the order of its holders.
pub(crate) struct Version {
    pub(crate) number: KeyVersion,
    pub(crate) staged: Staged,
}

impl Version {
    pub(crate) fn make(number: u32, threshold: u8, holders: usize) -> Self {
        Self::make_in(keyring_id(), number, threshold, holders)
    }

    pub(crate) fn make_in(id: KeyringId, number: u32, threshold: u8, holders: usize) -> Self {
        let names: Vec<_> = (0..holders).map(|index| (holder(index), None)).collect();
        Self { number: v(number), staged: stage::stage(id, v(number), threshold, &names).unwrap() }
    }

    /// New shares of the same key, for these holders.
    pub(crate) fn reshared(&self, set: u32, threshold: u8, holders: impl IntoIterator<Item = usize>) -> Self {
        let names: Vec<_> = holders.into_iter().map(|index| (holder(index), None)).collect();
        let Reshared { shares, share_set } = stage::reshare(self.validated(), set, threshold, &names).unwrap();
        Self { number: self.number, staged: Staged { validated: self.validated().clone(), shares, share_set } }
    }

    pub(crate) fn name(&self) -> String {
        format!("prod-keyPart-v{}", self.number)
    }

    pub(crate) fn share(&self, holder: usize) -> &Share {
        &self.staged.shares[holder]
    }

    pub(crate) fn text(&self, holder: usize) -> String {
        self.share(holder).to_text().to_string()
    }

    /// Well-formed in every way, and not the share that was made.
    pub(crate) fn wrong_text(&self, holder: usize) -> String {
        let mut y = *self.share(holder).y();
        y[7] ^= 0x10;
        self.text_of(self.share(holder).x().get(), y)
    }

    pub(crate) fn text_of(&self, x: u8, y: [u8; 32]) -> String {
        let id = self.share(0).keyring_id();
        Share::new(id, self.number, NonZeroU8::new(x).unwrap(), Box::new(y)).to_text().to_string()
    }

    pub(crate) fn validated(&self) -> &Arc<Validated> {
        &self.staged.validated
    }
}

/// Some versions in some states, and the manifest that says so.
pub(crate) struct World {
    pub(crate) versions: Vec<Version>,
    pub(crate) manifest: Manifest,
}

impl World {
    /// Threshold 2 of 24.
    pub(crate) fn new(versions: &[(u32, VersionState)]) -> Self {
        Self::with(versions, 2, HOLDERS)
    }

    pub(crate) fn with(versions: &[(u32, VersionState)], threshold: u8, holders: usize) -> Self {
        let made: Vec<_> = versions.iter().map(|(number, _)| Version::make(*number, threshold, holders)).collect();
        let primary = versions.iter().position(|(_, state)| *state == VersionState::Primary).unwrap();
        let first = &made[primary];
        let members = vec![node("db1"), node("db2"), node("db3")];
        let name = "prod".parse().unwrap();
        let mut manifest = revise::first(name, keyring_id(), members, &first.staged, then());
        for (version, (_, state)) in made.iter().zip(versions) {
            if *state != VersionState::Primary {
                revise::stage(&mut manifest, &version.staged, then());
                manifest.version_mut(version.number).unwrap().state = *state;
            }
        }
        Self { versions: made, manifest }
    }

    /// v9 primary, v10 in this state.
    pub(crate) fn v9_and_v10(v10: VersionState) -> Self {
        Self::new(&[(9, VersionState::Primary), (10, v10)])
    }

    pub(crate) fn version(&self, number: u32) -> &Version {
        self.versions.iter().find(|version| version.number == v(number)).unwrap()
    }

    pub(crate) fn record(&self, number: u32) -> &VersionRecord {
        self.manifest.version(v(number)).unwrap()
    }

    pub(crate) fn record_mut(&mut self, number: u32) -> &mut VersionRecord {
        self.manifest.version_mut(v(number)).unwrap()
    }

    pub(crate) fn part(&self, number: u32, holder: usize) -> (String, String) {
        let version = self.version(number);
        (version.name(), version.text(holder))
    }

    /// The manifest, closed and vouched for by these versions.
    pub(crate) fn sealed_by(&self, vouching: &[u32]) -> ManifestDocument {
        self.seal(self.manifest.clone(), vouching)
    }

    pub(crate) fn seal(&self, manifest: Manifest, vouching: &[u32]) -> ManifestDocument {
        revise::seal(manifest, vouching.iter().map(|number| self.version(*number).validated())).unwrap()
    }

    /// What a node has loaded.
    pub(crate) fn loaded<'a>(&'a self, numbers: &'a [u32]) -> impl Fn(KeyVersion) -> Option<&'a Validated> {
        move |version| {
            let found = self.versions.iter().find(|candidate| candidate.number == version)?;
            numbers.contains(&version.get()).then(|| found.validated().as_ref())
        }
    }
}

/// Every order of these items.
pub(crate) fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    (0..items.len())
        .flat_map(|at| {
            let mut rest = items.to_vec();
            let first = rest.remove(at);
            permutations(&rest).into_iter().map(move |tail| [vec![first.clone()], tail].concat())
        })
        .collect()
}
