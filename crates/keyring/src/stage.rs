//! Making a new key version, or new shares of one: a root key, its shares, and the record that commits to them.

use std::sync::Arc;

use keymoot_types::{
    Digest, HolderName, KeyVersion, KeyringId, Share,
    manifest::{Holder, ShareSet},
};

use crate::{
    RandomError, Validated,
    derive::RootKey,
    key_check::{key_check, share_digest},
    shamir::{self, ShamirError},
    stack::{self, wiped},
};

/// A new version, with its shares still here.
pub struct Staged {
    /// The version, as good as validated: for its canaries and macs. Drop it and only the shares bring it back.
    pub validated: Arc<Validated>,
    /// One share a holder, in their order. Secret.
    pub shares: Vec<Share>,
    /// What the manifest says of it.
    pub share_set: ShareSet,
}

/// Makes 8 random bytes: a keyring's id.
pub fn new_keyring_id() -> Result<KeyringId, RandomError> {
    let mut id = [0; 8];
    crate::random(&mut id)?;
    Ok(KeyringId::new(id))
}

/// Shares of a version that exists, with their record.
pub struct Reshared {
    /// One share a holder, in their order. Secret.
    pub shares: Vec<Share>,
    /// What the manifest says of them.
    pub share_set: ShareSet,
}

/// Makes a root key and splits it among `holders` (name, and age recipient where there is one).
pub fn stage(
    keyring_id: KeyringId,
    version: KeyVersion,
    threshold: u8,
    holders: &[(HolderName, Option<String>)],
) -> Result<Staged, ShamirError> {
    let root = RootKey::generate()?;
    let prk = wiped::<{ stack::CEREMONY }, _>(|| root.extract(keyring_id));
    let validated = Validated::made(version, keyring_id, root, prk);
    let Reshared { shares, share_set } = reshare(&validated, 1, threshold, holders)?;
    Ok(Staged { validated: Arc::new(validated), shares, share_set })
}

/// Splits the root key of a version anew: a new polynomial, so that no share of another set combines with these.
/// It takes none of the old shares back (Herzberg et al., "Proactive secret sharing", 1995, needs them destroyed).
pub fn reshare(
    validated: &Validated,
    set: u32,
    threshold: u8,
    holders: &[(HolderName, Option<String>)],
) -> Result<Reshared, ShamirError> {
    let (keyring_id, version) = (validated.keyring_id(), validated.version());
    let count = u8::try_from(holders.len()).map_err(|_| ShamirError::Threshold(threshold))?;
    let shares = shamir::split(validated.root(), keyring_id, version, threshold, count)?;
    let given = holders.iter().zip(&shares).map(|((name, recipient), share)| Holder {
        name: name.clone(),
        x: share.x(),
        digest: share_digest(share),
        recipient: recipient.clone(),
    });
    let share_set = committed(validated, set, threshold, given.collect());
    Ok(Reshared { shares, share_set })
}

/// The record of shares that are known, of a version that no manifest tells of any longer. Holders ascend by x.
pub fn known_shares(validated: &Validated, threshold: u8, mut holders: Vec<Holder>) -> ShareSet {
    holders.sort_by_key(|holder| holder.x);
    committed(validated, 1, threshold, holders)
}

fn committed(validated: &Validated, set: u32, threshold: u8, holders: Vec<Holder>) -> ShareSet {
    let blank = Digest::new([0; 32]);
    let mut share_set = ShareSet { set, threshold, key_check: blank, holders, replaced: vec![], pending: None };
    share_set.key_check =
        wiped::<{ stack::CEREMONY }, _>(|| key_check(validated.prk(), validated.version(), &share_set));
    share_set
}
