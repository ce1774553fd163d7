//! Why a submitted part was turned away. The order of the variants is the order of judging, but that
//! [`RefusalCode::ShareReplaced`] comes before [`RefusalCode::UnknownHolder`]: a share of an old set is of nobody's place now.

use serde::{Deserialize, Serialize};

/// The code of a refused part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Not a share at all: prefix, length, alphabet, case, type byte, version 0, x = 0.
    MalformedShare,
    /// The shape is right and the checksum is not.
    ChecksumFailed,
    /// A share of another keyring.
    WrongKeyring,
    /// The name is not `<keyring>-keyPart-v<n>`, or names another version than the share.
    NameMismatch,
    /// The manifest has never heard of that version.
    UnknownVersion,
    /// The version is retired.
    VersionRetired,
    /// The version was aborted; its shares are refused by name.
    VersionAborted,
    /// No holder of that version has this x.
    UnknownHolder,
    /// A share of an earlier set, replaced by a reshare.
    ShareReplaced,
    /// The holder is known and the share is not the one that was made for them.
    ShareMismatch,
    /// That version is loaded on this node: nothing is collected for it.
    AlreadyLoaded,
    /// This holder has already given their share in this ceremony.
    DuplicateShare,
    /// All shares were right and the rebuilt key does not match the manifest's record: the record is damaged.
    KeyCheckFailed,
}

impl RefusalCode {
    /// The code as the interfaces spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedShare => "malformed_share",
            Self::ChecksumFailed => "checksum_failed",
            Self::WrongKeyring => "wrong_keyring",
            Self::NameMismatch => "name_mismatch",
            Self::UnknownVersion => "unknown_version",
            Self::VersionRetired => "version_retired",
            Self::VersionAborted => "version_aborted",
            Self::UnknownHolder => "unknown_holder",
            Self::ShareReplaced => "share_replaced",
            Self::ShareMismatch => "share_mismatch",
            Self::AlreadyLoaded => "already_loaded",
            Self::DuplicateShare => "duplicate_share",
            Self::KeyCheckFailed => "key_check_failed",
        }
    }
}
