//! Making the next revision of the manifest. Pure: what is written where is the caller's.

use std::sync::Arc;

use jiff::Timestamp;
use keymoot_keyring::{Keyring, Validated, stage::Staged};
use keymoot_types::{
    Digest, KeyName, KeyVersion, KeyringId, KeyringName, Manifest, NodeName, SourceName, VersionState,
    manifest::{
        Canary, Declared, DeclaredKey, DeclaredSource, Lifetime, ManifestDocument, ManifestError, ManifestMac,
        Release, Retirement, ShareSet, VersionRecord,
    },
};

/// A step that the table of states does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepRefused {
    /// The manifest has never heard of that version.
    #[error("the manifest has never heard of v{0}")]
    Unknown(KeyVersion),
    /// Not from this state to that.
    #[error("v{version} is {from} and can't become {to}")]
    NoSuchStep {
        /// The version.
        version: KeyVersion,
        /// Its state.
        from: VersionState,
        /// What was asked for.
        to: VersionState,
    },
    /// After the hold only digests stay.
    #[error("the hold of v{0} is over; it is destroyed")]
    HoldEnded(KeyVersion),
    /// 4294967295 was the last.
    #[error("there is no number left for a new version")]
    NoNumberLeft,
}

/// The text that the canary of a version and key holds.
pub fn canary_text(version: KeyVersion, key: &KeyName) -> String {
    format!("keymoot canary of v{version} for {key}")
}

/// The first revision of a new keyring, without canaries and macs.
pub fn first(
    keyring: KeyringName,
    keyring_id: KeyringId,
    members: Vec<NodeName>,
    staged: &Staged,
    now: Timestamp,
) -> Manifest {
    let record = record(&staged.validated, staged.share_set.clone(), VersionState::Primary, now);
    Manifest {
        keyring,
        keyring_id,
        revision: 1,
        previous: None,
        members,
        primary: record.version,
        declared: Declared::default(),
        versions: vec![record],
        canaries: vec![],
        macs: vec![],
        window: None,
        unknown: Default::default(),
    }
}

/// The record of a version whose key is here.
pub fn record(validated: &Validated, share_set: ShareSet, state: VersionState, now: Timestamp) -> VersionRecord {
    VersionRecord {
        version: validated.version(),
        key_id: validated.key_id(),
        state,
        created: now,
        public_key: Digest::new(validated.public_key()),
        share_set,
        retirement: None,
        given_up: None,
        since: None,
        brought_back: false,
        exposed: vec![],
        unknown: Default::default(),
    }
}

/// A copy to change: the next number, the digest of the one before, no macs yet.
pub fn next(current: &ManifestDocument) -> Manifest {
    let mut manifest = current.manifest().clone();
    manifest.revision += 1;
    manifest.previous = Some(current.digest());
    manifest.macs.clear();
    manifest
}

/// The number of the next version: above all that ever were, and above `seen` in shares, values and censuses.
pub fn next_version(manifest: &Manifest, seen: Option<KeyVersion>) -> Result<KeyVersion, StepRefused> {
    manifest.highest().max(seen).and_then(KeyVersion::next).ok_or(StepRefused::NoNumberLeft)
}

/// Adds a staged version.
pub fn stage(manifest: &mut Manifest, staged: &Staged, now: Timestamp) {
    manifest.versions.push(record(&staged.validated, staged.share_set.clone(), VersionState::Staged, now));
    manifest.versions.sort_by_key(|record| record.version);
}

/// Moves a version to another state; making one primary makes the old primary decrypt-only, and nothing else
/// does: there is always exactly one.
pub fn step(manifest: &mut Manifest, version: KeyVersion, to: VersionState) -> Result<(), StepRefused> {
    let revision = manifest.revision;
    let record = manifest.version_mut(version).ok_or(StepRefused::Unknown(version))?;
    if !record.state.may_become(to) || record.state == VersionState::Primary {
        return Err(StepRefused::NoSuchStep { version, from: record.state, to });
    }
    record.state = to;
    record.since = Some(revision);
    record.brought_back = false;
    if to == VersionState::Primary {
        let before = std::mem::replace(&mut manifest.primary, version);
        if let Some(old) = manifest.version_mut(before) {
            old.state = VersionState::DecryptOnly;
            old.since = Some(revision);
        }
    }
    Ok(())
}

/// Takes a version out of use.
pub fn retire(
    manifest: &mut Manifest,
    version: KeyVersion,
    override_reason: Option<String>,
    now: Timestamp,
) -> Result<(), StepRefused> {
    step(manifest, version, VersionState::Retired)?;
    if let Some(record) = manifest.version_mut(version) {
        record.retirement = Some(Retirement { at: now, override_reason, hold_ended: None });
    }
    manifest.canaries.retain(|canary| canary.version != version);
    Ok(())
}

/// Brings a retired version back within its hold.
pub fn restore(manifest: &mut Manifest, version: KeyVersion) -> Result<(), StepRefused> {
    let retirement = manifest.version(version).and_then(|record| record.retirement.as_ref());
    if retirement.is_some_and(|retirement| retirement.hold_ended.is_some()) {
        return Err(StepRefused::HoldEnded(version));
    }
    step(manifest, version, VersionState::DecryptOnly)?;
    if let Some(record) = manifest.version_mut(version) {
        record.retirement = None;
        record.brought_back = true;
    }
    Ok(())
}

/// Takes up a version that the manifest has forgotten, to decrypt. Its values are taken to live as long as the
/// primary's.
pub fn import(manifest: &mut Manifest, record: VersionRecord) -> Result<(), StepRefused> {
    let version = record.version;
    if let Some(known) = manifest.version(version) {
        return Err(StepRefused::NoSuchStep { version, from: known.state, to: VersionState::DecryptOnly });
    }
    for key in &mut manifest.declared.keys {
        let primary = key.lifetimes.iter().find(|lifetime| lifetime.version == manifest.primary);
        if let Some(max_age_s) = primary.map(|lifetime| lifetime.max_age_s) {
            key.lifetimes.push(Lifetime { version, max_age_s });
            key.lifetimes.sort_by_key(|lifetime| lifetime.version);
        }
    }
    let state = VersionState::DecryptOnly;
    manifest.versions.push(VersionRecord {
        state,
        retirement: None,
        given_up: None,
        brought_back: true,
        ..record
    });
    manifest.versions.sort_by_key(|record| record.version);
    Ok(())
}

/// A key as the configuration declares it: how long its values live outside the sources, if it says so.
pub struct KeyDeclaration {
    /// Its name.
    pub name: KeyName,
    /// Seconds; 0 where all values lie in declared sources; `None` where the configuration says neither.
    pub max_age_s: Option<u64>,
}

/// Adds the keys and sources that the manifest does not know yet, and raises lifetimes that grew while the
/// primary encrypts. Nothing is ever taken out. Says whether anything changed.
pub fn declare(manifest: &mut Manifest, keys: &[KeyDeclaration], sources: &[(SourceName, KeyName)]) -> bool {
    let before = manifest.declared.clone();
    let primary = manifest.primary;
    for key in keys {
        let known = &mut manifest.declared.keys;
        let at = known.iter().position(|declared| declared.name == key.name).unwrap_or_else(|| {
            known.push(DeclaredKey { name: key.name.clone(), lifetimes: vec![] });
            known.len() - 1
        });
        if let (Some(declared), Some(max_age_s)) = (known.get_mut(at), key.max_age_s) {
            match declared.lifetimes.iter_mut().find(|lifetime| lifetime.version == primary) {
                Some(lifetime) => lifetime.max_age_s = lifetime.max_age_s.max(max_age_s),
                None => {
                    declared.lifetimes.push(Lifetime { version: primary, max_age_s });
                    declared.lifetimes.sort_by_key(|lifetime| lifetime.version);
                }
            }
        }
    }
    for (name, key) in sources {
        match manifest.declared.sources.iter_mut().find(|source| source.name == *name) {
            // A source that was declared gone and is declared again is there again.
            Some(source) => source.gone = None,
            None => {
                manifest.declared.sources.push(DeclaredSource {
                    name: name.clone(),
                    key: key.clone(),
                    gone: None,
                    released: None,
                });
            }
        }
    }
    manifest.declared != before
}

/// Records the holders' consent that the values of a source become plaintext again. `false`: it is known of no such
/// source, or was recorded before.
pub fn release(manifest: &mut Manifest, source: &SourceName, release: Release) -> bool {
    let declared = manifest.declared.sources.iter_mut().find(|declared| declared.name == *source);
    let Some(declared) = declared.filter(|declared| declared.released.is_none()) else { return false };
    declared.released = Some(release);
    true
}

/// Adds the canaries that are not there yet, for every version that decrypts (and, while it is being made, for a
/// staged one) and is in `keyring`. Says whether any was added.
pub fn add_canaries(manifest: &mut Manifest, keyring: &Keyring, keys: &[KeyName]) -> bool {
    let mut added = false;
    for (version, _) in keyring.versions() {
        let wanted = manifest
            .version(version)
            .is_some_and(|record| record.state.decrypts() || record.state == VersionState::Staged);
        for key in keys.iter().filter(|_| wanted) {
            if manifest.canaries.iter().any(|canary| canary.version == version && canary.key == *key) {
                continue;
            }
            // Without randomness there is no canary now; the next revision adds it.
            if let Ok(value) = keyring.seal_canary(version, key, canary_text(version, key).as_bytes()) {
                manifest.canaries.push(Canary { version, key: key.clone(), value: value.to_text() });
                added = true;
            }
        }
    }
    manifest.canaries.sort_by(|a, b| (a.version, &a.key).cmp(&(b.version, &b.key)));
    added
}

/// Adds the macs of all that is loaded and closes the revision.
pub fn seal<'a>(
    mut manifest: Manifest,
    loaded: impl IntoIterator<Item = &'a Arc<Validated>>,
) -> Result<ManifestDocument, ManifestError> {
    manifest.macs.clear();
    let document = ManifestDocument::from_manifest(manifest)?;
    let mut manifest = document.manifest().clone();
    manifest.macs = loaded
        .into_iter()
        .map(|key| ManifestMac { version: key.version(), mac: key.manifest_mac(&document) })
        .collect();
    manifest.macs.sort_by_key(|mac| mac.version);
    manifest.macs.dedup_by_key(|mac| mac.version);
    ManifestDocument::from_manifest(manifest)
}
