//! Names. Each kind is its own type, so that a key's name cannot stand where a holder's belongs.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// Why a text is not a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {rule}")]
pub struct NameError {
    /// What was wanted, such as `key name`.
    pub kind: &'static str,
    /// What was given, cut to 16 characters: a secret pasted into the wrong place must not be repeated.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, text: text.chars().take(16).collect(), rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of a keyring: `[a-z0-9][a-z0-9-]{0,31}`.
    KeyringName,
    "keyring name",
    "1 to 32 of a-z, 0-9 and -, not beginning with -",
    |text| lower_case_name(text, 32, b"-")
);

name!(
    /// The name of a data key: `[a-z0-9][a-z0-9._-]{0,63}`.
    KeyName,
    "key name",
    "1 to 64 of a-z, 0-9, ., _ and -, beginning with a letter or digit",
    |text| lower_case_name(text, 64, b"._-")
);

name!(
    /// The name of a source, such as `customers.ssn`.
    SourceName,
    "source name",
    "1 to 128 printable characters without white space or /",
    |text| plain_name(text, 128)
);

name!(
    /// The name of a keyholder. It is a file's name too, so it holds no `/` and begins with no `.`.
    HolderName,
    "holder name",
    "1 to 64 printable characters without white space, / or =, not beginning with .",
    |text| plain_name(text, 64) && !text.starts_with('.') && !text.contains('=')
);

name!(
    /// The name of a member of the cluster.
    NodeName,
    "node name",
    "1 to 64 printable characters without white space or /",
    |text| plain_name(text, 64)
);

fn lower_case_name(text: &str, bytes_max: usize, punctuation: &[u8]) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= bytes_max
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || punctuation.contains(&byte))
}

fn plain_name(text: &str, chars_max: usize) -> bool {
    !text.is_empty()
        && text.chars().count() <= chars_max
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_to_their_rules() {
        assert!("prod".parse::<KeyringName>().is_ok());
        assert!("auth-token".parse::<KeyName>().is_ok());
        assert!("a".repeat(64).parse::<KeyName>().is_ok());
        for bad in ["", "-prod", "Prod", "prod.eu", "prod\n", &"a".repeat(33)] {
            assert!(bad.parse::<KeyringName>().is_err(), "{bad:?}");
        }
        for bad in ["", ".x", "A", "ключ", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "..", "a=b", "a b", "a\u{0}"] {
            assert!(bad.parse::<HolderName>().is_err(), "{bad:?}");
        }
    }
}
