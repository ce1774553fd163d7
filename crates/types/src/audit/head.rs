//! The end of a log at some time, and a signature that says so.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Digest, KeyVersion, KeyringId, NodeName};

/// The last line of a node's log at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Whose signing key vouches for it.
    pub keyring_id: KeyringId,
    /// Whose log.
    pub node: NodeName,
    /// The line's number.
    pub seq: u64,
    /// The line's `hash`.
    pub hash: Digest,
}

/// A head and the signature over it: the facts of a checkpoint, and what is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// What is signed.
    pub head: Head,
    /// The version that signed.
    pub version: KeyVersion,
    /// Its public key: proves nothing unless it is equal to one that was pinned before.
    #[serde(with = "base64_array")]
    pub public_key: [u8; 32],
    /// Ed25519 over `keymoot/v1/signed` and [`Head::canonical`].
    #[serde(with = "base64_array")]
    pub signature: [u8; 64],
}

impl Head {
    /// What is signed: the canonical JSON of `{"audit": head}`.
    pub fn canonical(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json_canonicalizer::to_vec(&json!({"audit": self}))
    }
}

mod base64_array {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom(format!("{N} bytes in base64 are wanted")))
    }
}
