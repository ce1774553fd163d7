//! One keyholder's share of one root key.
//!
//! Shamir over GF(2^8): `x` from 1 to 255, one `y` byte for each byte of the key.
//!
//! ```text
//! payload = 0x01 ‖ keyring_id[8] ‖ version u32 ‖ x ‖ y[32]       (46 bytes)
//! text    = bech32m("kmshare", payload)                          (88 characters, BIP 350)
//! ```

use std::{fmt, num::NonZeroU8};

use bech32::{
    Bech32m, Hrp,
    primitives::decode::{CheckedHrpstring, UncheckedHrpstring},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{KeyVersion, KeyringId, Wiped};

/// Bytes of a root key, and so of a share's `y`.
pub const KEY_BYTES: usize = 32;
/// Characters of a share's text.
pub const TEXT_CHARS: usize = 88;

const PREFIX: &str = "kmshare";
const TYPE_BYTE: u8 = 1;
const PAYLOAD_BYTES: usize = 1 + 8 + 4 + 1 + KEY_BYTES;

/// A share whose checksum was right. Whether it belongs to anything only the manifest's digests tell.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Share {
    #[zeroize(skip)]
    keyring_id: KeyringId,
    #[zeroize(skip)]
    version: KeyVersion,
    #[zeroize(skip)]
    x: NonZeroU8,
    y: Box<[u8; KEY_BYTES]>,
}

/// Why a text is not a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Wrong prefix, length, alphabet, mixed case; or, under a right checksum, a wrong type byte, version or x.
    #[error("not a share: {0}")]
    Malformed(&'static str),
    /// A right shape, but characters were changed.
    #[error("the checksum is wrong: at least one character was changed")]
    ChecksumFailed,
}

impl Share {
    /// Puts a share together; `x = 0` would be the secret itself and can't be expressed.
    pub fn new(keyring_id: KeyringId, version: KeyVersion, x: NonZeroU8, y: Box<[u8; KEY_BYTES]>) -> Self {
        Self { keyring_id, version, x, y }
    }

    /// Reads a share's text: all lower or all upper case, nothing before or after it.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        if text.len() != TEXT_CHARS {
            return Err(ShareError::Malformed("a share has 88 characters"));
        }
        let unchecked = UncheckedHrpstring::new(text)
            .map_err(|_| ShareError::Malformed("a character that no share has, or mixed case"))?;
        if !unchecked.hrp().as_str().eq_ignore_ascii_case(PREFIX) {
            return Err(ShareError::Malformed("a share begins with kmshare1"));
        }
        let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|_| ShareError::ChecksumFailed)?;
        let payload = Wiped::from(checked.byte_iter().collect::<Vec<u8>>());
        let share = Self::from_payload(&payload)?;
        // 46 bytes leave two unused bits in the last character before the checksum.
        if !share.to_text().eq_ignore_ascii_case(text) {
            return Err(ShareError::Malformed("its unused bits are not zero"));
        }
        Ok(share)
    }

    /// Reads the 46 bytes behind the text.
    pub fn from_payload(payload: &[u8]) -> Result<Self, ShareError> {
        let malformed = ShareError::Malformed;
        let payload: &[u8; PAYLOAD_BYTES] = payload.try_into().map_err(|_| malformed("a share has 46 bytes"))?;
        let [kind, k0, k1, k2, k3, k4, k5, k6, k7, v0, v1, v2, v3, x, y @ ..] = payload;
        if *kind != TYPE_BYTE {
            return Err(malformed("its type byte is not 1"));
        }
        let version = KeyVersion::new(u32::from_be_bytes([*v0, *v1, *v2, *v3]))
            .map_err(|_| malformed("its version is 0"))?;
        let x = NonZeroU8::new(*x).ok_or(malformed("its x is 0"))?;
        let keyring_id = KeyringId::new([*k0, *k1, *k2, *k3, *k4, *k5, *k6, *k7]);
        Ok(Self::new(keyring_id, version, x, Box::new(*y)))
    }

    /// The text that its holder keeps.
    pub fn to_text(&self) -> Zeroizing<String> {
        let payload = Zeroizing::new(
            [
                &[TYPE_BYTE],
                self.keyring_id.as_bytes().as_slice(),
                &self.version.to_be_bytes(),
                &[self.x.get()],
                self.y.as_slice(),
            ]
            .concat(),
        );
        // The prefix is a constant within bech32's rules and 46 bytes fit its code length.
        let text =
            Hrp::parse(PREFIX).ok().and_then(|prefix| bech32::encode::<Bech32m>(prefix, payload.as_slice()).ok());
        Zeroizing::new(text.unwrap_or_default())
    }

    /// The keyring that it belongs to, by its own word.
    pub fn keyring_id(&self) -> KeyringId {
        self.keyring_id
    }

    /// The key version that it belongs to, by its own word.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// Where the polynomial was evaluated, 1 to 255.
    pub fn x(&self) -> NonZeroU8 {
        self.x
    }

    /// The polynomial's values there, one for each byte of the key. Secret.
    pub fn y(&self) -> &[u8; KEY_BYTES] {
        &self.y
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({:?} of {}, x {})", self.version, self.keyring_id, self.x)
    }
}
