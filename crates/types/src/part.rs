//! A named line of a parts file: `prod-keyPart-v10: kmshare1…`.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use crate::{KeyVersion, KeyringName, Share};

/// What stands between the keyring's name and the version.
const MIDDLE: &str = "-keyPart-v";

/// The name of a part: which keyring, which version. The share under it must say the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    /// The keyring.
    pub keyring: KeyringName,
    /// The version, parsed as every version is.
    pub version: KeyVersion,
}

/// A text that is not exactly `<keyring>-keyPart-v<n>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part is named <keyring>-keyPart-v<number>")]
pub struct PartNameError;

impl FromStr for PartName {
    type Err = PartNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // From the right: a keyring may itself be called `a-keyPart-v1`? Its rule has no capitals, so no.
        let (keyring, version) = text.split_once(MIDDLE).ok_or(PartNameError)?;
        Ok(Self {
            keyring: keyring.parse().map_err(|_| PartNameError)?,
            version: version.parse().map_err(|_| PartNameError)?,
        })
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MIDDLE}{}", self.keyring, self.version)
    }
}

/// The lines of a holder's parts file, in the order in which they stand. The texts are secret and not yet judged.
#[derive(Default)]
pub struct PartsFile {
    /// Name and share text of each line.
    pub lines: Vec<(String, Zeroizing<String>)>,
}

/// Why a file is not a parts file. The message never repeats the line: it may hold a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsFileError {
    /// A line that is neither empty, nor a comment, nor `name: share`.
    #[error("line {line} is not `<keyring>-keyPart-v<number>: kmshare1…`")]
    NotAPart {
        /// Counted from 1.
        line: usize,
    },
    /// One name on two lines: which of the two was meant can't be known.
    #[error("{name} stands on line {first} and again on line {line}")]
    Duplicate {
        /// The name.
        name: String,
        /// Its first line, counted from 1.
        first: usize,
        /// Its second.
        line: usize,
    },
    /// Longer than any holder's file.
    #[error("it has {0} bytes, and a parts file has at most 65536")]
    TooLong(usize),
    /// No part in the whole file.
    #[error("there is no part in it")]
    Empty,
}

impl PartsFile {
    /// The longest file that is read: far more than 255 versions of one holder.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// Reads a parts file. Blanks around a line and a name, and CRLF, are a text editor's and allowed.
    pub fn parse(text: &str) -> Result<Self, PartsFileError> {
        if text.len() > Self::BYTES_MAX {
            return Err(PartsFileError::TooLong(text.len()));
        }
        let mut lines: Vec<(String, Zeroizing<String>)> = Vec::new();
        let mut numbers = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, share) = line.split_once(':').ok_or(PartsFileError::NotAPart { line: number })?;
            let (name, share) = (name.trim_end_matches([' ', '\t']), share.trim_start_matches([' ', '\t']));
            if name.is_empty() || share.is_empty() {
                return Err(PartsFileError::NotAPart { line: number });
            }
            if let Some(at) = lines.iter().position(|(known, _)| known == name) {
                let first = numbers.get(at).copied().unwrap_or(number);
                // Only what is a name is repeated: with the two sides swapped it would be the share.
                let name = name.parse::<PartName>().map_or_else(|_| "a name".into(), |name| name.to_string());
                return Err(PartsFileError::Duplicate { name, first, line: number });
            }
            lines.push((name.into(), Zeroizing::new(share.into())));
            numbers.push(number);
        }
        if lines.is_empty() { Err(PartsFileError::Empty) } else { Ok(Self { lines }) }
    }

    /// Writes one line a share, ascending by version.
    pub fn write(keyring: &KeyringName, shares: &[Share]) -> Zeroizing<String> {
        let mut shares: Vec<&Share> = shares.iter().collect();
        shares.sort_by_key(|share| share.version());
        let mut text = Zeroizing::new(String::new());
        for share in shares {
            let name = PartName { keyring: keyring.clone(), version: share.version() };
            text.push_str(&name.to_string());
            text.push_str(": ");
            text.push_str(&share.to_text());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_exact() {
        let name: PartName = "prod-keyPart-v10".parse().unwrap();
        assert_eq!((name.keyring.as_str(), name.version.get()), ("prod", 10));
        assert_eq!(name.to_string(), "prod-keyPart-v10");
        for bad in
            ["prod-keyPart-v09", "prod-keypart-v9", "prod-keyPart-9", "-keyPart-v9", "prod-keyPart-v9 ", "v9", ""]
        {
            assert!(bad.parse::<PartName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_parts_file_is_read_in_its_own_order() {
        let file = PartsFile::parse("# mine\r\n\nprod-keyPart-v10: b\r\n  prod-keyPart-v9:a\n").unwrap();
        let lines: Vec<_> = file.lines.iter().map(|(name, share)| (name.as_str(), share.as_str())).collect();
        assert_eq!(lines, [("prod-keyPart-v10", "b"), ("prod-keyPart-v9", "a")]);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number_and_never_repeated() {
        for (text, error) in [
            ("kmshare1secret", PartsFileError::NotAPart { line: 1 }),
            ("# x\nname:", PartsFileError::NotAPart { line: 2 }),
            ("secret: b\nsecret: c", PartsFileError::Duplicate { name: "a name".into(), first: 1, line: 2 }),
            (
                "a-keyPart-v9: b\n\na-keyPart-v9: c",
                PartsFileError::Duplicate { name: "a-keyPart-v9".into(), first: 1, line: 3 },
            ),
            ("# nothing", PartsFileError::Empty),
        ] {
            let found = PartsFile::parse(text).err();
            assert!(!format!("{found:?}").contains("secret"));
            assert_eq!(found, Some(error));
        }
    }
}
