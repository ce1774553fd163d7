//! Making a new key version: a root key, its shares, and the record that commits to them.

use std::sync::Arc;

use keymoot_types::{
    Digest, HolderName, KeyId, KeyVersion, KeyringId, Share,
    manifest::{Holder, ShareSet},
};

use crate::{
    RandomError, Validated,
    derive::RootKey,
    key_check::{key_check, share_digest},
    shamir::{self, ShamirError},
    stack::{self, wiped},
};

/// A new version, with its shares still here. The root key itself is gone already.
pub struct Staged {
    /// The version, as good as validated: for its canaries and macs. Drop it and only the shares bring it back.
    pub validated: Arc<Validated>,
    /// One share a holder, in their order. Secret.
    pub shares: Vec<Share>,
    /// What the manifest says of it.
    pub share_set: ShareSet,
    /// Its identity.
    pub key_id: KeyId,
    /// Its Ed25519 public key.
    pub public_key: Digest,
}

/// Makes 8 random bytes: a keyring's id.
pub fn new_keyring_id() -> Result<KeyringId, RandomError> {
    let mut id = [0; 8];
    crate::random(&mut id)?;
    Ok(KeyringId::new(id))
}

/// Makes a root key and splits it among `holders` (name, and age recipient where there is one).
pub fn stage(
    keyring_id: KeyringId,
    version: KeyVersion,
    threshold: u8,
    holders: &[(HolderName, Option<String>)],
) -> Result<Staged, ShamirError> {
    let root = RootKey::generate()?;
    let count = u8::try_from(holders.len()).map_err(|_| ShamirError::Threshold(threshold))?;
    let shares = shamir::split(&root, keyring_id, version, threshold, count)?;
    let prk = wiped::<{ stack::CEREMONY }, _>(|| root.extract(keyring_id));
    drop(root);
    let holders = holders
        .iter()
        .zip(&shares)
        .map(|((name, recipient), share)| Holder {
            name: name.clone(),
            x: share.x(),
            digest: share_digest(share),
            recipient: recipient.clone(),
        })
        .collect();
    let mut share_set =
        ShareSet { set: 1, threshold, key_check: Digest::new([0; 32]), holders, replaced: vec![], pending: None };
    let (key_check, validated) = wiped::<{ stack::CEREMONY }, _>(|| {
        (key_check(&prk, version, &share_set), Arc::new(Validated::made(version, prk)))
    });
    share_set.key_check = key_check;
    Ok(Staged {
        key_id: validated.key_id(),
        public_key: Digest::new(validated.public_key()),
        validated,
        shares,
        share_set,
    })
}
