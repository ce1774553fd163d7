//! The number of a key version: the one parser, and the one order, of the whole program.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The number of a key version, 1 ..= 4294967295, ordered as a number.
///
/// Sorting versions as text put v10 before v9 in 2023 and logged every user of a large service out. So there
/// is no way from a version to an order but this one.
///
/// In text it is ASCII decimal digits without sign, space or leading zero; in JSON a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(NonZeroU32);

/// Why a text is not a key version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyVersionError {
    /// Nothing stood where the digits should be.
    #[error("a key version is a number from 1 to 4294967295, and nothing was given")]
    Empty,
    /// A character other than `0` to `9`: a sign, a space, a full-width digit.
    #[error("a key version has only the digits 0 to 9")]
    NotADigit,
    /// `09`: one version has one spelling.
    #[error("a key version has no leading zero")]
    LeadingZero,
    /// Zero, or more than 4294967295.
    #[error("a key version is a number from 1 to 4294967295")]
    OutOfRange,
}

impl KeyVersion {
    /// The first version.
    pub const MIN: Self = Self(NonZeroU32::MIN);

    /// From a number; zero is not a version.
    pub fn new(number: u32) -> Result<Self, KeyVersionError> {
        NonZeroU32::new(number).map(Self).ok_or(KeyVersionError::OutOfRange)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The number as the formats have it: unsigned, big-endian.
    pub fn to_be_bytes(self) -> [u8; 4] {
        self.get().to_be_bytes()
    }

    /// The next number, or none after 4294967295.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl FromStr for KeyVersion {
    type Err = KeyVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(KeyVersionError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(KeyVersionError::NotADigit);
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(KeyVersionError::LeadingZero);
        }
        text.parse().map_err(|_| KeyVersionError::OutOfRange).and_then(Self::new)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Serialize for KeyVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

impl<'de> Deserialize<'de> for KeyVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ten_comes_after_nine() {
        let mut versions: Vec<KeyVersion> =
            ["10", "9", "100", "99", "1"].iter().map(|text| text.parse().unwrap()).collect();
        versions.sort();
        assert_eq!(versions.iter().map(|v| v.get()).collect::<Vec<_>>(), [1, 9, 10, 99, 100]);
    }

    #[test]
    fn fault_16_only_the_canonical_spelling_parses() {
        for (text, error) in [
            ("", KeyVersionError::Empty),
            ("0", KeyVersionError::OutOfRange),
            ("09", KeyVersionError::LeadingZero),
            ("-9", KeyVersionError::NotADigit),
            ("+9", KeyVersionError::NotADigit),
            (" 9", KeyVersionError::NotADigit),
            ("9 ", KeyVersionError::NotADigit),
            ("9.0", KeyVersionError::NotADigit),
            ("1e1", KeyVersionError::NotADigit),
            ("0x9", KeyVersionError::NotADigit),
            ("９", KeyVersionError::NotADigit),
            ("٩", KeyVersionError::NotADigit),
            ("4294967296", KeyVersionError::OutOfRange),
            ("99999999999999999999", KeyVersionError::OutOfRange),
        ] {
            assert_eq!(text.parse::<KeyVersion>(), Err(error), "{text:?}");
        }
        assert_eq!("4294967295".parse::<KeyVersion>().unwrap().get(), u32::MAX);
    }

    #[test]
    fn no_version_follows_the_last() {
        assert_eq!(KeyVersion::new(u32::MAX).unwrap().next(), None);
    }

    proptest! {
        #[test]
        fn one_number_has_one_spelling(number in 1u32..) {
            let version = KeyVersion::new(number).unwrap();
            prop_assert_eq!(version.to_string().parse::<KeyVersion>().unwrap(), version);
        }

        #[test]
        fn what_parses_prints_as_it_was(text in "\\PC{0,12}") {
            if let Ok(version) = text.parse::<KeyVersion>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
