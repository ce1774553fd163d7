//! From a root key to everything else. HKDF-SHA-256 (RFC 5869), one label a use.
//!
//! ```text
//! prk_v          = HKDF-Extract(salt = keyring_id, ikm = root_v)
//! data_key(v,n)  = HKDF-Expand(prk_v, "keymoot/v1/data-key/" ‖ n, 32)
//! key_id(v)      = HKDF-Expand(prk_v, "keymoot/v1/key-id", 16)        public
//! check_key(v)   = HKDF-Expand(prk_v, "keymoot/v1/key-check", 32)
//! manifest_key(v)= HKDF-Expand(prk_v, "keymoot/v1/manifest", 32)
//! signing_seed(v)= HKDF-Expand(prk_v, "keymoot/v1/signing", 32)       Ed25519
//! ```

use hkdf::Hkdf;
use keymoot_types::{KeyId, KeyName, KeyringId, share::KEY_BYTES};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::RandomError;

const DATA_KEY: &str = "keymoot/v1/data-key/";
const KEY_ID: &str = "keymoot/v1/key-id";
const KEY_CHECK: &str = "keymoot/v1/key-check";
const MANIFEST: &str = "keymoot/v1/manifest";
const SIGNING: &str = "keymoot/v1/signing";

/// 32 secret bytes on the heap.
pub type SecretBytes = Box<Zeroizing<[u8; KEY_BYTES]>>;

/// A root key, whole. It exists for as long as its version is in memory, and no longer.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RootKey(Box<[u8; KEY_BYTES]>);

impl RootKey {
    /// Makes a new one.
    pub fn generate() -> Result<Self, RandomError> {
        let mut root = Self(Box::new([0; KEY_BYTES]));
        crate::random(root.0.as_mut_slice())?;
        Ok(root)
    }

    /// From bytes that were rebuilt.
    pub fn from_bytes(bytes: Box<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// The secret itself: for splitting only.
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// `prk`: the root of all derivations.
    pub fn extract(&self, keyring_id: KeyringId) -> Prk {
        let (prk, _) = Hkdf::<Sha256>::extract(Some(keyring_id.as_bytes()), self.0.as_slice());
        Prk(Box::new(Zeroizing::new(prk.into())))
    }
}

/// The pseudorandom key of one version. Everything is derived from it, and it does not lead back to the root.
pub struct Prk(SecretBytes);

impl Prk {
    fn expand<const N: usize>(&self, info: &[&[u8]]) -> Box<Zeroizing<[u8; N]>> {
        let mut okm = Box::new(Zeroizing::new([0; N]));
        // 32 bytes are a valid PRK and N is at most 32: neither call can refuse.
        if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(self.0.as_slice()) {
            hkdf.expand_multi_info(info, okm.as_mut_slice()).unwrap_or_default();
        }
        okm
    }

    /// The key that seals values of this key name.
    pub fn data_key(&self, name: &KeyName) -> SecretBytes {
        self.expand(&[DATA_KEY.as_bytes(), name.as_str().as_bytes()])
    }

    /// The version's public identity.
    pub fn key_id(&self) -> KeyId {
        KeyId::new(**self.expand::<16>(&[KEY_ID.as_bytes()]))
    }

    /// The key of the key check.
    pub(crate) fn check_key(&self) -> SecretBytes {
        self.expand(&[KEY_CHECK.as_bytes()])
    }

    /// The key of manifest and record macs.
    pub(crate) fn manifest_key(&self) -> SecretBytes {
        self.expand(&[MANIFEST.as_bytes()])
    }

    /// The seed of the Ed25519 key.
    pub(crate) fn signing_seed(&self) -> SecretBytes {
        self.expand(&[SIGNING.as_bytes()])
    }
}
