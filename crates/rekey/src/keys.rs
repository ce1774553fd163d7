//! What the worker asks of the node that it runs on.

use std::{sync::Arc, time::Duration};

use keymoot_keyring::Keyring;
use keymoot_storage::source::{Ahead, Selection, Source, SourceSpec, Task};
use keymoot_types::{Digest, KeyVersion, SourceName, value};

use crate::manners::Manners;

/// The keys now in service. Asked before every batch, so that a sealed or rotated node is noticed at once.
pub trait Keys: Send + Sync {
    /// The keyring in service; `None` while the node is sealed: jobs wait.
    fn keyring(&self) -> Option<Arc<Keyring>>;

    /// Every version that the manifest knows, whatever its state. A value of any other is of an unknown version.
    fn declared(&self) -> Vec<KeyVersion>;

    /// What the holders consented to become plaintext again. The worker decrypts that and nothing else, whatever a job
    /// says: who can write to the store can make up a job.
    fn released(&self) -> Vec<Released>;

    /// The manifest's revision that all of it is of.
    fn revision(&self) -> u64;
}

/// A source that was released, and how it was declared then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Which.
    pub source: SourceName,
    /// [`SourceSpec::digest`] of that time.
    pub declaration: Digest,
}

/// The sources now declared. A reload may change them while a job runs.
pub trait Sources: Send + Sync {
    /// The names, in the order of the configuration.
    fn names(&self) -> Vec<SourceName>;

    /// The opened source of that name.
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>>;
}

/// What the node wants its jobs to be careful of.
pub trait Brake: Send + Sync {
    /// Asked before every batch: a reload may change it while a job runs.
    fn manners(&self) -> Arc<Manners>;

    /// What 99 of 100 of the node's own decryptions took at most, lately. `None`: there were too few.
    fn decrypt_latency(&self) -> Option<Duration>;
}

/// What the rows of a source are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aim {
    /// Values of this version,
    pub(crate) primary: KeyVersion,
    /// or plaintext.
    pub(crate) releases: bool,
}

/// One look at [`Keys`], good for one batch. It holds keys: dropped before any wait.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) ring: Arc<Keyring>,
    pub(crate) primary: KeyVersion,
    pub(crate) declared: Vec<KeyVersion>,
    pub(crate) released: Vec<Released>,
    pub(crate) revision: u64,
}

impl Service {
    /// What is in service, or why nothing can be encrypted.
    pub(crate) fn look(keys: &dyn Keys) -> Result<Self, &'static str> {
        let ring = keys.keyring().ok_or("the node is sealed")?;
        let primary = ring.primary().ok_or("the node is degraded and encrypts nothing")?;
        // The revision first: it is never later than what it is believed for.
        let revision = keys.revision();
        Ok(Self { ring, primary, declared: keys.declared(), released: keys.released(), revision })
    }

    /// Whether the values of this source are to become plaintext.
    pub(crate) fn releases(&self, source: &SourceName) -> bool {
        self.released.iter().any(|released| released.source == *source)
    }

    pub(crate) fn aim(&self, source: &SourceName) -> Aim {
        Aim { primary: self.primary, releases: self.releases(source) }
    }

    /// What is to be done with a source. One that was released is never adopted again by itself, and another column
    /// under its name is nothing that anybody consented to.
    pub(crate) fn task(&self, spec: &SourceSpec) -> Result<Task, String> {
        match self.released.iter().find(|released| released.source == spec.name) {
            Some(released) if released.declaration == spec.digest() => Ok(Task::Release),
            Some(_) => {
                Err("it was released and is declared otherwise now: declare the column under another name, or as \
                            it was"
                    .into())
            }
            None if spec.adopt => Ok(Task::Adopt),
            None => Ok(Task::Rekey),
        }
    }

    /// What a job writes now to a source.
    pub(crate) fn ahead(&self, spec: &SourceSpec) -> Result<Ahead, String> {
        Ok(Ahead { task: self.task(spec)?, version: Some(self.primary) })
    }

    /// Whether the version is known here, loaded or not.
    pub(crate) fn knows(&self, version: KeyVersion) -> bool {
        self.ring.holds(version) || self.declared.contains(&version)
    }

    /// What a later pass selects: values that are not as they should be, by how they begin; `None` where there can be
    /// none. Plaintext begins in no way of its own, so a column that is adopted is read whole.
    pub(crate) fn left_rows(&self, spec: &SourceSpec) -> Option<Selection> {
        let releases = self.releases(&spec.name);
        if spec.adopt && !releases {
            return Some(Selection::Every);
        }
        let old = self.declared.iter().filter(|version| releases || **version != self.primary);
        let prefixes: Vec<_> = old.flat_map(|version| prefixes(*version)).collect();
        (!prefixes.is_empty()).then_some(Selection::Prefixes(prefixes))
    }
}

/// How a value of this version begins, in text and in binary.
pub(crate) fn prefixes(version: KeyVersion) -> [Vec<u8>; 2] {
    [
        format!("{}{version}:", value::TEXT_PREFIX).into_bytes(),
        [value::BINARY_PREFIX, &version.to_be_bytes()].concat(),
    ]
}
