//! Fixed-length public identifiers, lower-case hex in text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} is {digits} lower-case hex digits")]
pub struct IdError {
    kind: &'static str,
    digits: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// From its bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = IdError { kind: $kind, digits: 2 * $len };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(error);
                }
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| error)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// 8 random bytes made once, at `init`, and part of every share.
    KeyringId, "keyring id", 8
);
id!(
    /// The public name of a root key, derived from it: a version's identity, beside its number.
    KeyId, "key id", 16
);
id!(
    /// A SHA-256 digest or an HMAC-SHA-256.
    Digest, "digest", 32
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id: KeyringId = "5479101ec1821850".parse().unwrap();
        assert_eq!(id.to_string(), "5479101ec1821850");
        for bad in ["", "5479101EC1821850", "5479101ec182185", "5479101ec18218500", "5479101ec182185g"] {
            assert!(bad.parse::<KeyringId>().is_err(), "{bad:?}");
        }
    }
}
