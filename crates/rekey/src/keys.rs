//! What the worker asks of the node that it runs on.

use std::sync::Arc;

use keymoot_keyring::Keyring;
use keymoot_storage::source::{Selection, Source};
use keymoot_types::{KeyVersion, SourceName, value};

/// The keys now in service. Asked before every batch, so that a sealed or rotated node is noticed at once.
pub trait Keys: Send + Sync {
    /// The keyring in service; `None` while the node is sealed: jobs wait.
    fn keyring(&self) -> Option<Arc<Keyring>>;

    /// Every version that the manifest knows, whatever its state. A value of any other is of an unknown version.
    fn declared(&self) -> Vec<KeyVersion>;

    /// The manifest's revision that both are of.
    fn revision(&self) -> u64;
}

/// The sources now declared. A reload may change them while a job runs.
pub trait Sources: Send + Sync {
    /// The names, in the order of the configuration.
    fn names(&self) -> Vec<SourceName>;

    /// The opened source of that name.
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>>;
}

/// A soft limit: foreground latency, replica lag, active threads.
pub trait Brake: Send + Sync {
    /// Why jobs should wait now, with the number (`replica lag 3.2 s > 1.5 s`); `None`: they may go on.
    fn reason(&self) -> Option<String>;
}

/// One look at [`Keys`], good for one batch. It holds keys: dropped before any wait.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) ring: Arc<Keyring>,
    pub(crate) primary: KeyVersion,
    pub(crate) declared: Vec<KeyVersion>,
    pub(crate) revision: u64,
}

impl Service {
    /// What is in service, or why nothing can be encrypted.
    pub(crate) fn look(keys: &dyn Keys) -> Result<Self, &'static str> {
        let ring = keys.keyring().ok_or("the node is sealed")?;
        let primary = ring.primary().ok_or("the node is degraded and encrypts nothing")?;
        Ok(Self { ring, primary, declared: keys.declared(), revision: keys.revision() })
    }

    /// Whether the version is known here, loaded or not.
    pub(crate) fn knows(&self, version: KeyVersion) -> bool {
        self.ring.holds(version) || self.declared.contains(&version)
    }

    /// The rows that are not of the primary, by how their values begin; `None` where there is no other version.
    pub(crate) fn old_rows(&self) -> Option<Selection> {
        let prefixes: Vec<_> =
            self.declared.iter().filter(|version| **version != self.primary).flat_map(|v| prefixes(*v)).collect();
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
