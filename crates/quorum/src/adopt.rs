//! Whether a stored manifest may be followed.

use keymoot_keyring::Validated;
use keymoot_types::{
    Digest, KeyVersion, Manifest,
    manifest::{ManifestDocument, VersionRecord},
};

/// Why a manifest is not followed: an alarm. Gates shut; serving goes on as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// Another keyring altogether.
    #[error("the store holds a manifest of another keyring")]
    OtherKeyring,
    /// Lower than what this node has adopted: the store was restored from a backup.
    #[error("the store went back to revision {stored}, and this node has adopted {adopted}")]
    WentBack {
        /// This node's.
        adopted: u64,
        /// The store's.
        stored: u64,
    },
    /// The same number and another content, or a revision that does not follow.
    #[error("revision {revision} does not follow the one that this node has adopted")]
    Forked {
        /// The revision that does not follow.
        revision: u64,
    },
    /// A revision in between is not there.
    #[error("revision {revision} is missing from the store")]
    Gap {
        /// Which.
        revision: u64,
    },
    /// A version that the adopted manifest requires does not vouch for the next.
    #[error("revision {revision} carries no right mac of v{version}")]
    NotVouched {
        /// The revision.
        revision: u64,
        /// The version.
        version: KeyVersion,
    },
    /// A version whose mac is needed is not loaded here.
    #[error("revision {revision} can't be verified: v{version} is not loaded here")]
    KeyGone {
        /// The revision.
        revision: u64,
        /// The version.
        version: KeyVersion,
    },
    /// A version that was, with its identity, is not in the next: half a manifest is no manifest.
    #[error("revision {revision} has lost v{version}, or gives its number to another key")]
    VersionGone {
        /// The revision.
        revision: u64,
        /// The version.
        version: KeyVersion,
    },
    /// What is stored can't be read as a manifest.
    #[error("revision {revision} is damaged: {reason}")]
    Damaged {
        /// Which.
        revision: u64,
        /// Why.
        reason: String,
    },
}

/// Whether `next` follows `current` by its digest and loses no version: what a sealed node can tell.
pub fn follows(current: &ManifestDocument, next: &ManifestDocument) -> Result<(), Divergence> {
    let (now, then) = (current.manifest(), next.manifest());
    if (&then.keyring, then.keyring_id) != (&now.keyring, now.keyring_id) {
        return Err(Divergence::OtherKeyring);
    }
    let revision = then.revision;
    if revision < now.revision {
        return Err(Divergence::WentBack { adopted: now.revision, stored: revision });
    }
    match now.revision.checked_add(1) {
        Some(following) if revision > following => return Err(Divergence::Gap { revision: following }),
        Some(following) if revision == following && then.previous == Some(current.digest()) => {}
        _ => return Err(Divergence::Forked { revision }),
    }
    for record in &now.versions {
        if then.version(record.version).is_none_or(|kept| kept.key_id != record.key_id) {
            return Err(Divergence::VersionGone { revision, version: record.version });
        }
    }
    Ok(())
}

/// Whether `next` may be adopted over `current`: it follows, and every version that `current` requires vouches
/// for it. So a leaked old key alone can't rewrite the manifest.
pub fn adopt<'a>(
    current: &ManifestDocument,
    next: &ManifestDocument,
    loaded: impl Fn(KeyVersion) -> Option<&'a Validated>,
) -> Result<(), Divergence> {
    follows(current, next)?;
    let revision = next.manifest().revision;
    for record in current.manifest().required() {
        let version = record.version;
        // A version that was given up at a rollback vouches again once it is loaded.
        if record.given_up.is_some() && loaded(version).is_none() {
            continue;
        }
        let key = loaded(version)
            .filter(|key| key.key_id() == record.key_id)
            .ok_or(Divergence::KeyGone { revision, version })?;
        if !key.vouches_for(next) {
            return Err(Divergence::NotVouched { revision, version });
        }
    }
    Ok(())
}

/// A version that `current` requires and that is not held: it could not vouch for a next revision made here, which
/// therefore nobody could follow.
pub fn silent(current: &Manifest, holds: impl Fn(&VersionRecord) -> bool) -> Option<KeyVersion> {
    let mut required = current.required().filter(|record| record.given_up.is_none());
    required.find(|record| !holds(record)).map(|record| record.version)
}

/// Whether a manifest stands by itself under the keys that are loaded: its primary vouches, and no mac of a
/// loaded version is wrong. A required version may lack its mac (it was missing at a degraded rollback).
pub fn stands<'a>(
    document: &ManifestDocument,
    loaded: impl Fn(KeyVersion) -> Option<&'a Validated>,
) -> Result<(), Divergence> {
    let manifest = document.manifest();
    let revision = manifest.revision;
    let primary = manifest.primary;
    if !manifest.macs.iter().any(|mac| mac.version == primary) {
        return Err(Divergence::NotVouched { revision, version: primary });
    }
    for mac in &manifest.macs {
        if let Some(key) = loaded(mac.version)
            && !key.vouches_for(document)
        {
            return Err(Divergence::NotVouched { revision, version: mac.version });
        }
    }
    Ok(())
}

/// Revision and digest, as heartbeats and `confirm` name them.
pub fn identity(document: &ManifestDocument) -> (u64, Digest) {
    (document.manifest().revision, document.digest())
}
