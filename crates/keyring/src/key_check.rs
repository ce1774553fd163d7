//! The key check: it commits to the root key, the threshold and the set of shares at once.
//!
//! ```text
//! record    = version u32 ‖ threshold u8 ‖ count u8 ‖ (x u8 ‖ digest[32]) for each share, x ascending
//! key_check = HMAC-SHA-256(check_key(v), record)
//! digest    = SHA-256("keymoot/v1/share" ‖ keyring_id ‖ version u32 ‖ x ‖ y)
//! ```
//!
//! HMAC-SHA-256 is committing: no two keys satisfy one check, unlike a plain AEAD tag ("invisible salamanders").

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use keymoot_types::{
    Digest, KeyId, KeyVersion, KeyringId, Share,
    manifest::{ManifestDocument, ShareSet},
};
use sha2::{Digest as _, Sha256};

use crate::{
    Rebuilt,
    derive::{Prk, RootKey},
    stack::{self, wiped},
};

const SHARE: &str = "keymoot/v1/share";
const RECORD: &str = "keymoot/v1/record/";

/// Names a share without telling it.
pub fn share_digest(share: &Share) -> Digest {
    wiped::<{ stack::VALUE }, _>(|| {
        let mut hash = Sha256::new_with_prefix(SHARE);
        hash.update(share.keyring_id().as_bytes());
        hash.update(share.version().to_be_bytes());
        hash.update([share.x().get()]);
        hash.update(share.y());
        Digest::new(hash.finalize().into())
    })
}

/// The bytes that a key check is over.
fn record(version: KeyVersion, set: &ShareSet) -> Vec<u8> {
    let mut record = version.to_be_bytes().to_vec();
    record.push(set.threshold);
    // At most 255 holders have distinct x.
    record.push(u8::try_from(set.holders.len()).unwrap_or(u8::MAX));
    for holder in &set.holders {
        record.push(holder.x.get());
        record.extend_from_slice(holder.digest.as_bytes());
    }
    record
}

pub(crate) fn key_check(prk: &Prk, version: KeyVersion, set: &ShareSet) -> Digest {
    finish(mac(prk.check_key().as_slice(), &[&record(version, set)]))
}

fn mac(key: &[u8], message: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in message {
        mac.update(part);
    }
    Some(mac)
}

fn finish(mac: Option<Hmac<Sha256>>) -> Digest {
    // HMAC takes a key of any length, so there always is one.
    Digest::new(mac.map(|mac| mac.finalize().into_bytes().into()).unwrap_or_default())
}

fn equal(mac: Option<Hmac<Sha256>>, expected: &Digest) -> bool {
    mac.is_some_and(|mac| mac.verify_slice(expected.as_bytes()).is_ok())
}

/// The rebuilt key is not the one that the manifest's record speaks of. All shares matched their digests, so
/// the record is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rebuilt key of {0:?} does not match the manifest's record: the record is damaged, the shares were right"
)]
pub struct KeyCheckFailed(pub KeyVersion);

/// A key version whose root key was rebuilt and proved. Only this can be put into a keyring.
///
/// It keeps the root key, so that the primary's holders can consent to new shares of every version that is loaded,
/// without those of that version being asked for.
pub struct Validated {
    version: KeyVersion,
    key_id: KeyId,
    keyring_id: KeyringId,
    root: RootKey,
    prk: Prk,
}

impl Rebuilt {
    /// Compares with the manifest's record, in constant time; a root key that does not pass is wiped.
    pub fn validate(self, key_id: KeyId, set: &ShareSet) -> Result<Validated, KeyCheckFailed> {
        wiped::<{ stack::CEREMONY }, _>(|| {
            let prk = self.root.extract(self.keyring_id);
            let check = mac(prk.check_key().as_slice(), &[&record(self.version, set)]);
            if equal(check, &set.key_check) && prk.key_id() == key_id {
                Ok(Validated { version: self.version, key_id, keyring_id: self.keyring_id, root: self.root, prk })
            } else {
                Err(KeyCheckFailed(self.version))
            }
        })
    }
}

impl Validated {
    /// Of a version that this process has just made, or that opened a witness.
    pub(crate) fn made(version: KeyVersion, keyring_id: KeyringId, root: RootKey, prk: Prk) -> Self {
        Self { version, key_id: prk.key_id(), keyring_id, root, prk }
    }

    pub(crate) fn keyring_id(&self) -> KeyringId {
        self.keyring_id
    }

    /// For splitting it anew only.
    pub(crate) fn root(&self) -> &RootKey {
        &self.root
    }

    /// The number.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// The identity.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub(crate) fn prk(&self) -> &Prk {
        &self.prk
    }

    /// The mac of a manifest under this version.
    pub fn manifest_mac(&self, document: &ManifestDocument) -> Digest {
        self.manifest_mac_of(document.canonical_without_macs())
    }

    /// The same over canonical bytes.
    pub fn manifest_mac_of(&self, canonical_without_macs: &[u8]) -> Digest {
        wiped::<{ stack::CEREMONY }, _>(|| {
            finish(mac(self.prk.manifest_key().as_slice(), &[canonical_without_macs]))
        })
    }

    /// Whether the manifest carries a right mac of this version.
    pub fn vouches_for(&self, document: &ManifestDocument) -> bool {
        let macs = &document.manifest().macs;
        macs.iter().find(|mac| mac.version == self.version).is_some_and(|entry| {
            wiped::<{ stack::CEREMONY }, _>(|| {
                equal(mac(self.prk.manifest_key().as_slice(), &[document.canonical_without_macs()]), &entry.mac)
            })
        })
    }

    /// The mac of a metadata record, such as a proof: who can write to the store can open no gate. The label
    /// keeps it apart from a manifest, whose canonical form begins with `{`.
    pub fn record_mac(&self, key: &str, payload: &[u8]) -> Digest {
        wiped::<{ stack::CEREMONY }, _>(|| finish(self.record_mac_state(key, payload)))
    }

    /// Whether a record's mac is right, in constant time.
    pub fn vouches_for_record(&self, key: &str, payload: &[u8], expected: &Digest) -> bool {
        wiped::<{ stack::CEREMONY }, _>(|| equal(self.record_mac_state(key, payload), expected))
    }

    fn record_mac_state(&self, key: &str, payload: &[u8]) -> Option<Hmac<Sha256>> {
        mac(self.prk.manifest_key().as_slice(), &[RECORD.as_bytes(), key.as_bytes(), b"\0", payload])
    }
}

impl fmt::Debug for Validated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Validated({:?}, {})", self.version, self.key_id)
    }
}
