//! Bytes in JSON: standard base64, with padding.

use std::{fmt, ops::Deref};

use base64::{Engine as _, encoded_len, engine::general_purpose::STANDARD};
use keymoot_types::Wiped;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::Error as _};

/// Plaintext or associated data: wiped when dropped, and never shown. In JSON canonical standard base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Bytes(Wiped);

impl Base64Bytes {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Wiped>) -> Self {
        Self(bytes.into())
    }

    /// Gives them up, still wiped when dropped.
    pub fn into_inner(self) -> Wiped {
        self.0
    }
}

impl Deref for Base64Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Base64Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Bytes({} bytes)", self.0.len())
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length =
            encoded_len(self.0.len(), true).ok_or_else(|| S::Error::custom("too many bytes for a text"))?;
        let mut text = Wiped::from(vec![0; length]);
        STANDARD.encode_slice(self.0.as_slice(), &mut text).map_err(S::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&text).map_err(S::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Base64Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes as standard base64 with padding")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64Bytes, E> {
                // The decoder's own error names the offending byte; ours names nothing.
                STANDARD
                    .decode(text)
                    .map(|bytes| Base64Bytes(bytes.into()))
                    .map_err(|_| E::custom("bytes are written as standard base64 with padding"))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}
