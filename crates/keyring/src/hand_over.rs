//! Root keys on their way from one member to another, in a maintenance window.
//!
//! ```text
//! keys = (version u32 ‖ root[32]) for each version, ascending
//! ```
//!
//! What arrives is a [`Rebuilt`]: it can do nothing but be checked, as one that was made of shares.

use keymoot_types::{KeyVersion, KeyringId, Wiped, share::KEY_BYTES};

use crate::{Rebuilt, Validated, derive::RootKey};

const VERSION_BYTES: usize = 4;

/// Bytes of one version.
pub const BYTES_EACH: usize = VERSION_BYTES + KEY_BYTES;

/// The keys as they are sent. Secret.
pub fn pack<'k>(keys: impl ExactSizeIterator<Item = &'k Validated>) -> Wiped {
    // Of its full length from the start: a buffer that grows leaves copies behind.
    let mut packed = Wiped::with_capacity(keys.len() * BYTES_EACH);
    for key in keys {
        packed.extend_from_slice(&key.version().to_be_bytes());
        packed.extend_from_slice(key.root().as_bytes());
    }
    packed
}

/// What was sent, not yet proved to be any key; nothing where it is not of the form.
pub fn unpack(keyring_id: KeyringId, packed: &[u8]) -> Option<Vec<Rebuilt>> {
    let (keys, []) = packed.as_chunks::<BYTES_EACH>() else { return None };
    keys.iter()
        .map(|key| {
            let (version, bytes) = key.split_first_chunk::<VERSION_BYTES>()?;
            let version = KeyVersion::new(u32::from_be_bytes(*version)).ok()?;
            let mut root = Box::new([0; KEY_BYTES]);
            root.copy_from_slice(bytes);
            Some(Rebuilt { root: RootKey::from_bytes(root), keyring_id, version })
        })
        .collect()
}

impl Rebuilt {
    /// Of which version it may be.
    pub fn version(&self) -> KeyVersion {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage;

    #[test]
    fn what_arrives_is_a_key_only_by_its_key_check() {
        let id = stage::new_keyring_id().unwrap();
        let holders = ["ann", "bob"].map(|name| (name.parse().unwrap(), None));
        let made = |number| stage::stage(id, KeyVersion::new(number).unwrap(), 2, &holders).unwrap();
        let (v9, v10) = (made(9), made(10));
        let packed = pack([&*v9.validated, &*v10.validated].into_iter());
        let arrived = unpack(id, &packed).unwrap();
        assert_eq!(arrived.iter().map(|key| key.version().get()).collect::<Vec<_>>(), [9, 10]);
        for (key, staged) in arrived.into_iter().zip([&v9, &v10]) {
            let key = key.validate(staged.validated.key_id(), &staged.share_set).unwrap();
            assert_eq!(key.public_key(), staged.validated.public_key());
        }
        for at in 0..packed.len() {
            let mut altered = packed.clone();
            altered[at] ^= 1;
            let Some(arrived) = unpack(id, &altered) else { continue };
            let all = arrived.into_iter().zip([&v9, &v10]);
            let passed = all.filter_map(|(key, made)| {
                let wanted = key.version() == made.validated.version();
                key.validate(made.validated.key_id(), &made.share_set).ok().filter(|_| wanted)
            });
            assert_eq!(passed.count(), 1, "an altered byte at {at}");
        }
        assert!(unpack(id, &packed[1..]).is_none() && unpack(id, &[0; BYTES_EACH]).is_none());
        let other = stage::new_keyring_id().unwrap();
        let of_another_keyring = unpack(other, &packed).unwrap().remove(0);
        assert!(of_another_keyring.validate(v9.validated.key_id(), &v9.share_set).is_err());
    }
}
