//! The vectors as the attack tests use them, and a second, independent implementation of the arithmetic and of
//! the derivations, to which the crate is compared.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{num::NonZeroU8, sync::Arc, sync::OnceLock};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use keymoot_keyring::{Keyring, Validated, key_check::share_digest, shamir};
use keymoot_types::{
    Digest, KeyId, KeyName, KeyVersion, KeyringId, Share,
    manifest::{Holder, ShareSet},
};
use serde_json::Value as Json;
use sha2::Sha256;

/// `tests/vectors/keymoot-v1.json`, read once.
pub(crate) fn vectors() -> &'static Json {
    static VECTORS: OnceLock<Json> = OnceLock::new();
    VECTORS.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keymoot-v1.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    })
}

pub(crate) fn list(name: &str) -> &'static [Json] {
    vectors()[name].as_array().unwrap()
}

pub(crate) fn text<'a>(entry: &'a Json, field: &str) -> &'a str {
    entry[field].as_str().unwrap()
}

pub(crate) fn bytes(entry: &Json, field: &str) -> Vec<u8> {
    hex::decode(text(entry, field)).unwrap()
}

pub(crate) fn number(version: u32) -> KeyVersion {
    KeyVersion::new(version).unwrap()
}

pub(crate) fn name(key: &str) -> KeyName {
    key.parse().unwrap()
}

pub(crate) fn keyring_id() -> KeyringId {
    text(vectors(), "keyring_id").parse().unwrap()
}

/// One key version of the vectors, the root key that no program may ever see included.
pub(crate) struct Version {
    pub(crate) number: KeyVersion,
    pub(crate) threshold: u8,
    pub(crate) root: [u8; 32],
    pub(crate) key_id: KeyId,
    pub(crate) shares: Vec<Share>,
    pub(crate) set: ShareSet,
}

impl Version {
    pub(crate) fn rebuild(&self) -> shamir::Rebuilt {
        shamir::rebuild(self.threshold, &self.shares.iter().collect::<Vec<_>>()).unwrap()
    }

    pub(crate) fn validated(&self) -> Validated {
        self.rebuild().validate(self.key_id, &self.set).unwrap()
    }

    /// Whether exactly these shares bring back this version.
    pub(crate) fn opens_with(&self, shares: &[&Share]) -> bool {
        let rebuilt = shamir::rebuild(self.threshold, shares).unwrap();
        rebuilt.validate(self.key_id, &self.set).is_ok_and(|validated| validated.key_id() == self.key_id)
    }
}

pub(crate) fn versions() -> Vec<Version> {
    list("versions").iter().map(version).collect()
}

fn version(entry: &Json) -> Version {
    let shares: Vec<Share> = entry["shares"]
        .as_array()
        .unwrap()
        .iter()
        .map(|share| Share::parse(text(share, "text")).unwrap())
        .collect();
    let threshold = entry["threshold"].as_u64().unwrap().try_into().unwrap();
    Version {
        number: serde_json::from_value(entry["version"].clone()).unwrap(),
        threshold,
        root: bytes(entry, "root").try_into().unwrap(),
        key_id: text(entry, "key_id").parse().unwrap(),
        set: share_set(threshold, text(entry, "key_check").parse().unwrap(), &shares),
        shares,
    }
}

pub(crate) fn version_of(version: u32) -> Version {
    versions().into_iter().find(|candidate| candidate.number.get() == version).unwrap()
}

pub(crate) fn share_set(threshold: u8, key_check: Digest, shares: &[Share]) -> ShareSet {
    let holders = shares
        .iter()
        .map(|share| Holder {
            name: format!("holder-{}", share.x()).parse().unwrap(),
            x: share.x(),
            digest: share_digest(share),
            recipient: None,
        })
        .collect();
    ShareSet { set: 1, threshold, key_check, holders, replaced: vec![], pending: None }
}

/// Every version of the vectors, and every key name that occurs in them.
pub(crate) fn keyring(primary: Option<u32>) -> Keyring {
    Keyring::new(versions().iter().map(|version| Arc::new(version.validated())), primary.map(number), &key_names())
}

pub(crate) fn key_names() -> Vec<KeyName> {
    let mut names: Vec<KeyName> =
        ["values", "datakeys"].into_iter().flat_map(list).map(|entry| name(text(entry, "key"))).collect();
    names.sort();
    names.dedup();
    names
}

/// A share can't be cloned; a test has to read it again.
pub(crate) fn copy(share: &Share) -> Share {
    Share::parse(&share.to_text()).unwrap()
}

pub(crate) fn share(keyring_id: KeyringId, version: KeyVersion, x: u8, y: [u8; 32]) -> Share {
    Share::new(keyring_id, version, NonZeroU8::new(x).unwrap(), Box::new(y))
}

/// The 46 bytes of a share.
pub(crate) fn payload(share: &Share) -> Vec<u8> {
    let (id, version) = (share.keyring_id(), share.version().to_be_bytes());
    [&[1], id.as_bytes().as_slice(), &version, &[share.x().get()], share.y()].concat()
}

/// Multiplication in GF(2^8) with polynomial 0x11d, bit by bit, without a table.
pub(crate) fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1d };
        b >>= 1;
    }
    product
}

pub(crate) fn inverse(a: u8) -> u8 {
    (0..254).fold(1, |power, _| mul(power, a))
}

/// Lagrange's interpolation at 0 over all the shares given.
pub(crate) fn interpolate(shares: &[&Share]) -> [u8; 32] {
    let mut root = [0; 32];
    for share in shares {
        let x = share.x().get();
        let others = shares.iter().map(|other| other.x().get()).filter(|other| *other != x);
        let weight = others.fold(1, |weight, other| mul(weight, mul(other, inverse(other ^ x))));
        for (to, y) in root.iter_mut().zip(share.y()) {
            *to ^= mul(*y, weight);
        }
    }
    root
}

/// The value at x of the polynomial whose lowest coefficient comes first.
pub(crate) fn evaluate(coefficients: &[u8], x: u8) -> u8 {
    coefficients.iter().rev().fold(0, |value, coefficient| mul(value, x) ^ coefficient)
}

fn expand<const N: usize>(root: &[u8; 32], keyring_id: KeyringId, info: &str) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(keyring_id.as_bytes()), root).expand(info.as_bytes(), &mut out).unwrap();
    out
}

pub(crate) fn key_id_of(root: &[u8; 32], keyring_id: KeyringId) -> KeyId {
    KeyId::new(expand(root, keyring_id, "keymoot/v1/key-id"))
}

pub(crate) fn data_key_of(root: &[u8; 32], keyring_id: KeyringId, key: &KeyName) -> [u8; 32] {
    expand(root, keyring_id, &format!("keymoot/v1/data-key/{key}"))
}

/// The key check as `docs/formats.md` has it, over the record of this set.
pub(crate) fn key_check_of(root: &[u8; 32], keyring_id: KeyringId, version: KeyVersion, set: &ShareSet) -> Digest {
    let check_key: [u8; 32] = expand(root, keyring_id, "keymoot/v1/key-check");
    let mut mac = Hmac::<Sha256>::new_from_slice(&check_key).unwrap();
    mac.update(&version.get().to_be_bytes());
    mac.update(&[set.threshold, set.holders.len().try_into().unwrap()]);
    for holder in &set.holders {
        mac.update(&[holder.x.get()]);
        mac.update(holder.digest.as_bytes());
    }
    Digest::new(mac.finalize().into_bytes().into())
}

/// Every permutation of `take` of the numbers below `of`.
pub(crate) fn orders(of: usize, take: usize) -> Vec<Vec<usize>> {
    if take == 0 {
        return vec![vec![]];
    }
    let shorter = orders(of, take - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..of).filter(|next| !order.contains(next)).map(|next| [order.as_slice(), &[next]].concat())
        })
        .collect()
}

/// The 276 pairs of 24 shares.
pub(crate) fn pairs<T>(items: &[T]) -> impl Iterator<Item = [&T; 2]> {
    items.iter().enumerate().flat_map(|(at, first)| items.iter().skip(at + 1).map(move |second| [first, second]))
}

/// The same bytes with one bit turned over.
pub(crate) fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}
