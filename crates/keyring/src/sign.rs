//! Ed25519 signatures (RFC 8032) over certificates and checkpoints.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::{
    Validated,
    derive::Prk,
    stack::{self, wiped},
};

const SIGNED: &[u8] = b"keymoot/v1/signed";

pub(crate) fn signing_key(prk: &Prk) -> SigningKey {
    SigningKey::from_bytes(&prk.signing_seed())
}

impl Validated {
    /// The public key that verifies this version's signatures.
    pub fn public_key(&self) -> [u8; 32] {
        wiped::<{ stack::CEREMONY }, _>(|| signing_key(self.prk()).verifying_key().to_bytes())
    }

    /// Signs canonical JSON (RFC 8785).
    pub fn sign(&self, canonical: &[u8]) -> [u8; 64] {
        let message = [SIGNED, canonical].concat();
        wiped::<{ stack::CEREMONY }, _>(|| signing_key(self.prk()).sign(&message).to_bytes())
    }
}

/// Whether a signature over canonical JSON is right under a public key that was pinned before.
pub fn verify_signature(public_key: &[u8; 32], canonical: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public_key).is_ok_and(|key| {
        key.verify_strict(&[SIGNED, canonical].concat(), &Signature::from_bytes(signature)).is_ok()
    })
}
