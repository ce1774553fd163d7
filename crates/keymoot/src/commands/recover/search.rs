//! Which of the shares given make a root key that a witness vouches for.

use std::{collections::BTreeMap, num::NonZeroU8};

use keymoot_keyring::{Validated, key_check::share_digest, search, shamir};
use keymoot_types::{
    HolderName, KeyName, KeyVersion, KeyringId, Share, Value,
    manifest::{ManifestDocument, ShareSet, VersionRecord},
};

/// Sets of shares that are tried for one witness before it is given up: some seconds.
const TRIES_MAX: usize = 200_000;

/// The shares of one version of one keyring, each once.
pub(super) type Groups = BTreeMap<(KeyringId, KeyVersion), Vec<Share>>;

/// A value that is known to be genuine.
pub(super) struct Witness<'a> {
    pub(super) key: &'a KeyName,
    pub(super) value: &'a Value,
    pub(super) associated_data: &'a [u8],
}

/// A version whose root key was rebuilt and proved.
pub(super) struct Found {
    pub(super) validated: Validated,
    pub(super) threshold: u8,
    /// The x of every share given that lies on the polynomial, ascending.
    pub(super) right: Vec<NonZeroU8>,
    /// Of every share given that doesn't.
    pub(super) wrong: Vec<NonZeroU8>,
    /// Whose the right ones are, where a manifest tells.
    pub(super) holders: Vec<HolderName>,
}

/// Why a version was not rebuilt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotFound {
    #[error("v{version} needs {needed} shares of its present share set, and {given} were given")]
    TooFew { version: KeyVersion, needed: u8, given: usize },
    #[error("there is no share of v{0}")]
    None(KeyVersion),
    #[error(transparent)]
    NotProved(#[from] search::NotFound),
    #[error("the key check of v{0} is another: the manifest's record is damaged, all shares were right")]
    Record(KeyVersion),
}

/// By a value. The threshold is not known without a manifest, so it is found: the fewest shares that open it.
pub(super) fn by_value(groups: &Groups, witness: &Witness<'_>) -> Result<Found, NotFound> {
    let version = witness.value.version();
    let shares_of = groups.iter().filter(|((_, of), _)| *of == version).map(|(_, shares)| shares);
    let mut reason = NotFound::None(version);
    for shares in shares_of {
        let shares: Vec<&Share> = shares.iter().collect();
        let found = search::search(&shares, version, TRIES_MAX, |rebuilt| {
            rebuilt.validate_by_witness(witness.key, witness.value, witness.associated_data).ok()
        });
        match found {
            Ok(search::Found { validated, threshold, right, wrong }) => {
                return Ok(Found { validated, threshold, right, wrong, holders: vec![] });
            }
            Err(error) => reason = error.into(),
        }
    }
    Err(reason)
}

fn places(shares: &[&Share]) -> Vec<NonZeroU8> {
    let mut places: Vec<_> = shares.iter().map(|share| share.x()).collect();
    places.sort();
    places
}

/// By a manifest: each share is compared with its digest, and the key with the key check.
pub(super) fn by_manifest(groups: &Groups, document: &ManifestDocument) -> Vec<Result<Found, NotFound>> {
    let manifest = document.manifest();
    let of_keyring = groups.iter().filter(|((keyring_id, _), _)| *keyring_id == manifest.keyring_id);
    of_keyring
        .map(|((_, version), shares)| {
            let record = manifest.version(*version).ok_or(NotFound::None(*version))?;
            by_record(record, shares)
        })
        .collect()
}

/// By the set in force, or by the one to come while a reshare waits for its proofs.
fn by_record(record: &VersionRecord, shares: &[Share]) -> Result<Found, NotFound> {
    let set = &record.share_set;
    match (by_set(record, set, shares), set.pending.as_deref()) {
        (Err(reason), Some(pending)) => by_set(record, pending, shares).map_err(|_| reason),
        (found, _) => found,
    }
}

fn by_set(record: &VersionRecord, set: &ShareSet, shares: &[Share]) -> Result<Found, NotFound> {
    let holder_of = |share: &Share| {
        let digest = share_digest(share);
        set.holders.iter().find(|holder| (holder.x, holder.digest) == (share.x(), digest))
    };
    let (right, wrong): (Vec<&Share>, Vec<&Share>) = shares.iter().partition(|share| holder_of(share).is_some());
    let version = record.version;
    let rebuilt = shamir::rebuild(set.threshold, &right).map_err(|_| NotFound::TooFew {
        version,
        needed: set.threshold,
        given: right.len(),
    })?;
    let validated = rebuilt.validate(record.key_id, set).map_err(|_| NotFound::Record(version))?;
    Ok(Found {
        validated,
        threshold: set.threshold,
        holders: right.iter().filter_map(|share| holder_of(share)).map(|holder| holder.name.clone()).collect(),
        right: places(&right),
        wrong: places(&wrong),
    })
}
