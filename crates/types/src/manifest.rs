//! What is known about a keyring without any secret: a chain of revisions.
//!
//! Lists, never objects keyed by a version, and ascending by number. What is received is digested and vouched for
//! with every field as it came; a next revision keeps the unknown fields of the manifest and of its versions, so
//! that an old and a new build can run side by side.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use crate::{
    Digest, HolderName, KeyId, KeyName, KeyVersion, KeyringId, KeyringName, NodeName, SourceName, VersionState,
    window::Window,
};

/// One revision of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The keyring's name.
    pub keyring: KeyringName,
    /// The keyring's id, made once.
    pub keyring_id: KeyringId,
    /// Only rises, by one.
    pub revision: u64,
    /// SHA-256 of the canonical manifest before it; none for the first.
    pub previous: Option<Digest>,
    /// The daemons that serve this keyring.
    pub members: Vec<NodeName>,
    /// The version that encrypts.
    pub primary: KeyVersion,
    /// Every source and key that ever was.
    pub declared: Declared,
    /// Every version that ever was, ascending.
    pub versions: Vec<VersionRecord>,
    /// Values of known text, ascending by version, then by key.
    pub canaries: Vec<Canary>,
    /// One for every version that the writer had loaded, ascending.
    pub macs: Vec<ManifestMac>,
    /// What holders have granted to members that are restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What a newer build wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// Every source and key that ever was: retiring a version asks about all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Keys, in the order in which they came.
    pub keys: Vec<DeclaredKey>,
    /// Sources, likewise.
    pub sources: Vec<DeclaredSource>,
}

/// A data key, and how long its values live outside the sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclaredKey {
    /// Its name.
    pub name: KeyName,
    /// The largest `max_age` that it had while each version encrypted, ascending by version.
    pub lifetimes: Vec<Lifetime>,
}

/// How long values of one key and version may live outside the sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// The version that encrypted.
    pub version: KeyVersion,
    /// Seconds; 0 where all values lie in declared sources.
    pub max_age_s: u64,
}

/// A column that holds, or once held, values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclaredSource {
    /// Its name.
    pub name: SourceName,
    /// The key of its values.
    pub key: KeyName,
    /// When an operator declared that it no longer exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Timestamp>,
    /// When its holders consented that its values become plaintext again. It is never adopted after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Release>,
}

/// The holders' consent that the values of a source become plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// When enough had consented.
    pub at: Timestamp,
    /// Digest of the source's declaration, without its credentials: of that column and no other.
    pub declaration: Digest,
}

/// One key version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The number, never used again.
    pub version: KeyVersion,
    /// The identity: derived from the root key, public.
    pub key_id: KeyId,
    /// What it may be used for.
    pub state: VersionState,
    /// When it was made.
    pub created: Timestamp,
    /// Its Ed25519 public key, kept for ever: 32 bytes, hex.
    pub public_key: Digest,
    /// Who holds what of it.
    pub share_set: ShareSet,
    /// How it went out of use, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement: Option<Retirement>,
    /// Set by a rollback on a node that started without this version, which was lost: the operator's reason.
    /// Nodes that lack it may encrypt; loading it again takes this back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// The revision with which it came into its state: a wait that began in an earlier time of this state is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Set where it was out of use or given up and came back, until it is primary again: a member that was away may lack it, and
    /// serve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brought_back: bool,
    /// Shares that may be in other hands, ascending by set. Making new shares takes none of them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ExposedSet>,
    /// What a newer build wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Json>,
}

/// How a version went out of use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retirement {
    /// When.
    pub at: Timestamp,
    /// Set where it went without evidence: the loss that was accepted. Its values are undetermined for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_reason: Option<String>,
    /// When the hold ended with one more conclusive census; only then may a value of it be called invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ended: Option<Timestamp>,
}

/// Shares of one set that are, or may be, where they should not be. Shares of different sets never combine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedSet {
    /// Which share set.
    pub set: u32,
    /// How many of its shares rebuild the key.
    pub threshold: u8,
    /// Its holders, once their shares were replaced by those of a later set; none while it is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<HolderName>,
    /// Holders whose share is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<HolderName>,
    /// Holders who are holders no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<HolderName>,
    /// Holders whose package was not encrypted. Of the set in force its recipients tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain: Vec<HolderName>,
}

/// The shares of one version: one polynomial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareSet {
    /// Counted from 1; a reshare makes the next.
    pub set: u32,
    /// How many shares rebuild the key.
    pub threshold: u8,
    /// HMAC over threshold and digests: commits to the key, the threshold and the set at once.
    pub key_check: Digest,
    /// Ascending by x.
    pub holders: Vec<Holder>,
    /// Digests of the shares of earlier sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Digest>,
    /// The set to come, while a reshare waits for its proofs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<ShareSet>>,
}

/// One keyholder's place in a share set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub name: HolderName,
    /// Where the polynomial was evaluated.
    pub x: std::num::NonZeroU8,
    /// SHA-256 of the share: a wrong one is named when it is submitted.
    pub digest: Digest,
    /// The age recipient that the package was encrypted to; none for a plain one, which counts as exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
}

/// A value of known text: it is opened through the serving path before a node calls itself ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Version that encrypted it.
    pub version: KeyVersion,
    /// Its data key.
    pub key: KeyName,
    /// The value, in text form.
    pub value: String,
}

/// HMAC-SHA-256 under one version's manifest key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestMac {
    /// Whose key.
    pub version: KeyVersion,
    /// Over the canonical manifest without `macs`.
    pub mac: Digest,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of a manifest's shape.
    #[error("the manifest can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Its parts contradict one another.
    #[error("the manifest contradicts itself: {0}")]
    Inconsistent(String),
}

impl Manifest {
    /// Looks a version up by number.
    pub fn version(&self, version: KeyVersion) -> Option<&VersionRecord> {
        self.versions.iter().find(|record| record.version == version)
    }

    /// The same, to change it.
    pub fn version_mut(&mut self, version: KeyVersion) -> Option<&mut VersionRecord> {
        self.versions.iter_mut().find(|record| record.version == version)
    }

    /// The versions without which nothing is unlocked, ascending.
    pub fn required(&self) -> impl Iterator<Item = &VersionRecord> {
        self.versions.iter().filter(|record| record.state.required())
    }

    /// The highest number that ever was.
    pub fn highest(&self) -> Option<KeyVersion> {
        self.versions.iter().map(|record| record.version).max()
    }
}

/// A manifest beside the exact bytes that it came in: digests and macs are over what was received.
#[derive(Debug, Clone)]
pub struct ManifestDocument {
    manifest: Manifest,
    canonical: Vec<u8>,
    canonical_without_macs: Vec<u8>,
}

impl ManifestDocument {
    /// Reads and checks a stored manifest, unknown fields included.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        // From the bytes, not from the tree: a name given twice is an error only there.
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        let json: Json = serde_json::from_slice(bytes)?;
        check(&manifest)?;
        Self::build(manifest, json)
    }

    /// From a manifest that this build made.
    pub fn from_manifest(manifest: Manifest) -> Result<Self, ManifestError> {
        check(&manifest)?;
        let json = serde_json::to_value(&manifest)?;
        Self::build(manifest, json)
    }

    fn build(manifest: Manifest, mut json: Json) -> Result<Self, ManifestError> {
        if !numbers_are_exact(&json) {
            return Err(ManifestError::Inconsistent(
                "a number is beyond 2^53, where canonical JSON is not exact".into(),
            ));
        }
        let canonical = serde_json_canonicalizer::to_vec(&json)?;
        if let Some(object) = json.as_object_mut() {
            object.remove("macs");
        }
        let canonical_without_macs = serde_json_canonicalizer::to_vec(&json)?;
        Ok(Self { manifest, canonical, canonical_without_macs })
    }

    /// What it says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// RFC 8785, whole: what is stored, and what [`ManifestDocument::digest`] is over.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// RFC 8785, without `macs`: what the macs are over.
    pub fn canonical_without_macs(&self) -> &[u8] {
        &self.canonical_without_macs
    }

    /// SHA-256 of the canonical form: what the next revision names as `previous`.
    pub fn digest(&self) -> Digest {
        Digest::new(Sha256::digest(&self.canonical).into())
    }
}

/// RFC 8785 writes numbers as doubles: beyond 2^53 - 1 two manifests could have one digest.
pub(crate) fn numbers_are_exact(json: &Json) -> bool {
    const EXACT_MAX: u64 = (1 << 53) - 1;
    match json {
        Json::Number(number) => {
            number.is_f64()
                || number.as_u64().is_some_and(|number| number <= EXACT_MAX)
                || number.as_i64().is_some_and(|number| number.unsigned_abs() <= EXACT_MAX)
        }
        Json::Array(items) => items.iter().all(numbers_are_exact),
        Json::Object(fields) => fields.values().all(numbers_are_exact),
        Json::Null | Json::Bool(_) | Json::String(_) => true,
    }
}

fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    let refuse = |reason: String| Err(ManifestError::Inconsistent(reason));
    if manifest.revision == 0 {
        return refuse("revisions count from 1".into());
    }
    if !manifest.versions.is_sorted_by(|a, b| a.version < b.version) {
        return refuse("versions are not ascending by number".into());
    }
    let primaries: Vec<_> =
        manifest.versions.iter().filter(|record| record.state == VersionState::Primary).collect();
    if primaries.iter().map(|record| record.version).ne([manifest.primary]) {
        return refuse(format!("exactly v{} must be primary", manifest.primary));
    }
    if !manifest.macs.is_sorted_by(|a, b| a.version < b.version) {
        return refuse("macs are not ascending by number, one a version".into());
    }
    if let Some(record) =
        manifest.versions.iter().find(|record| !record.exposed.is_sorted_by(|a, b| a.set < b.set))
    {
        return refuse(format!("the exposed sets of v{} are not ascending by number", record.version));
    }
    if !manifest.canaries.is_sorted_by(|a, b| (a.version, &a.key) < (b.version, &b.key)) {
        return refuse("canaries are not ascending by version and key".into());
    }
    for record in &manifest.versions {
        let sets = [Some(&record.share_set), record.share_set.pending.as_deref()];
        for set in sets.into_iter().flatten() {
            check_set(record.version, set)?;
        }
    }
    Ok(())
}

fn check_set(version: KeyVersion, set: &ShareSet) -> Result<(), ManifestError> {
    let refuse = |reason: String| Err(ManifestError::Inconsistent(reason));
    if set.threshold < 2 || usize::from(set.threshold) > set.holders.len() {
        return refuse(format!("v{version} needs {} of {} shares", set.threshold, set.holders.len()));
    }
    if !set.holders.is_sorted_by(|a, b| a.x < b.x) {
        return refuse(format!("the holders of v{version} are not ascending by x"));
    }
    let mut names = BTreeSet::new();
    match set.holders.iter().find(|holder| !names.insert(&holder.name)) {
        Some(twice) => refuse(format!("{} holds two shares of v{version}", twice.name)),
        None => Ok(()),
    }
}
