//! Which of the shares given make a root key that a witness vouches for.

use std::{collections::BTreeMap, num::NonZeroU8};

use keymoot_keyring::{Rebuilt, Validated, key_check::share_digest, shamir};
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
    #[error(
        "no set of the {given} shares of v{version} opens the witness: more shares are needed, or the witness is not \
         genuine, of another key name, or bound to other associated data"
    )]
    NoSet { version: KeyVersion, given: usize },
    #[error("the {given} shares of v{version} make too many sets to try them all: give fewer, or a manifest")]
    TooMany { version: KeyVersion, given: usize },
    #[error("the key check of v{0} is another: the manifest's record is damaged, all shares were right")]
    Record(KeyVersion),
}

/// By a value. The threshold is not known without a manifest, so it is found: the fewest shares that open it.
pub(super) fn by_value(groups: &Groups, witness: &Witness<'_>) -> Result<Found, NotFound> {
    let version = witness.value.version();
    let shares_of = groups.iter().filter(|((_, of), _)| *of == version).map(|(_, shares)| shares);
    let mut reason = NotFound::None(version);
    for shares in shares_of {
        match search(shares, version, witness) {
            Ok(found) => return Ok(found),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

fn search(shares: &[Share], version: KeyVersion, witness: &Witness<'_>) -> Result<Found, NotFound> {
    let given = shares.len();
    let refs: Vec<&Share> = shares.iter().collect();
    let prove = |chosen: &[&Share]| {
        let rebuilt = rebuild(chosen)?;
        rebuilt.validate_by_witness(witness.key, witness.value, witness.associated_data).ok()
    };
    // All shares are right, as a rule: then the first k open it as soon as k is the threshold.
    let first_k = (2..=given).map(|k| refs.get(..k).unwrap_or_default().to_vec());
    for chosen in first_k {
        if let Some(validated) = prove(&chosen) {
            return Ok(found(validated, &chosen, &refs, &prove));
        }
    }
    let mut tries = 0;
    for k in 2..given {
        let mut places: Vec<usize> = (0..k).collect();
        loop {
            tries += 1;
            if tries > TRIES_MAX {
                return Err(NotFound::TooMany { version, given });
            }
            let chosen: Vec<&Share> = places.iter().filter_map(|at| refs.get(*at).copied()).collect();
            if let Some(validated) = prove(&chosen) {
                return Ok(found(validated, &chosen, &refs, &prove));
            }
            if !advance(&mut places, given) {
                break;
            }
        }
    }
    Err(NotFound::NoSet { version, given })
}

/// Interpolates through all of them.
fn rebuild(chosen: &[&Share]) -> Option<Rebuilt> {
    shamir::rebuild(u8::try_from(chosen.len()).ok()?, chosen).ok()
}

/// The next choice of `places.len()` out of `count`, in order.
fn advance(places: &mut [usize], count: usize) -> bool {
    let k = places.len();
    let Some(at) = (0..k).rev().find(|at| places.get(*at).is_some_and(|place| *place < count - k + at)) else {
        return false;
    };
    let next = places.get(at).map_or(0, |place| place + 1);
    for (offset, place) in places.iter_mut().skip(at).enumerate() {
        *place = next + offset;
    }
    true
}

/// A share is right if it can stand for one of the chosen and the key stays the same.
fn found(
    validated: Validated,
    chosen: &[&Share],
    all: &[&Share],
    prove: &dyn Fn(&[&Share]) -> Option<Validated>,
) -> Found {
    let is_right = |share: &Share| {
        chosen.iter().any(|one| share_digest(one) == share_digest(share)) || {
            let rest = chosen.get(1..).unwrap_or_default();
            let with: Vec<&Share> = rest.iter().copied().chain([share]).collect();
            prove(&with).is_some_and(|again| again.key_id() == validated.key_id())
        }
    };
    let (right, wrong): (Vec<&Share>, Vec<&Share>) = all.iter().copied().partition(|share| is_right(share));
    Found {
        threshold: u8::try_from(chosen.len()).unwrap_or(u8::MAX),
        right: places(&right),
        wrong: places(&wrong),
        holders: vec![],
        validated,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_comes_once_and_in_order() {
        let mut places = vec![0, 1];
        let mut seen = vec![places.clone()];
        while advance(&mut places, 4) {
            seen.push(places.clone());
        }
        assert_eq!(seen, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
    }
}
