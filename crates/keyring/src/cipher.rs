//! Sealing and opening one value.
//!
//! `0x01` and `D` use XAES-256-GCM (C2SP), a 256-bit key and a random 192-bit nonce; the payload of `0x02`
//! AES-256-GCM (NIST SP 800-38D) under a fresh random key.
//!
//! ```text
//! value    "keymoot/v1/value"   ‖ version u32 ‖ L ‖ name ‖ caller's associated data
//! dek      "keymoot/v1/dek"     ‖ version u32 ‖ L ‖ name
//! payload  "keymoot/v1/payload" ‖ L ‖ name ‖ caller's associated data
//! ```

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use keymoot_types::{
    KeyName, KeyVersion, Value, Wiped,
    value::{BodyKind, NONCE_BYTES, PAYLOAD_NONCE_BYTES, WRAPPED_256_BYTES},
};
use xaes_256_gcm::Xaes256Gcm;
use zeroize::Zeroizing;

use crate::{RandomError, derive::Prk};

const VALUE: &[u8] = b"keymoot/v1/value";
const DEK: &[u8] = b"keymoot/v1/dek";
const PAYLOAD: &[u8] = b"keymoot/v1/payload";

/// Secret bytes of any length.
pub type Plaintext = Wiped;

/// The longest plaintext, 4 MiB.
pub const PLAINTEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a value was not opened. Only [`OpenError::Authentication`] says anything about the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The key of that version is not here.
    #[error("key version {0} is not loaded")]
    NotLoaded(KeyVersion),
    /// A key that is not declared.
    #[error("key {0} is not declared")]
    UnknownKey(KeyName),
    /// A wrapped data key where a value belongs, or the reverse.
    #[error("a wrapped data key is not a value, nor a value a wrapped data key")]
    WrongKind,
    /// The key is here and the value does not authenticate under it.
    #[error("the value does not authenticate")]
    Authentication,
}

/// Why nothing was encrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No version may encrypt now.
    #[error("no loaded key version may encrypt")]
    NoPrimary,
    /// A key that is not declared.
    #[error("key {0} is not declared")]
    UnknownKey(KeyName),
    /// More than [`PLAINTEXT_BYTES_MAX`].
    #[error("a plaintext has at most 4 MiB")]
    TooLarge,
    /// No randomness, no value.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The size of a data key that is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKeyBits {
    /// 32 bytes.
    B256,
    /// 64 bytes.
    B512,
}

impl DataKeyBits {
    /// Bytes of the key.
    pub fn bytes(self) -> usize {
        match self {
            Self::B256 => 32,
            Self::B512 => 64,
        }
    }
}

/// `data_key(v, name)`, ready for use: derived once, for a derivation a message would cost more than the cipher.
pub(crate) struct DataKey {
    version: KeyVersion,
    /// `L ‖ name`; a key name has at most 64 bytes.
    name: Vec<u8>,
    cipher: Xaes256Gcm,
}

impl DataKey {
    pub(crate) fn new(prk: &Prk, version: KeyVersion, name: &KeyName) -> Self {
        let key = prk.data_key(name);
        let bytes = name.as_str().as_bytes();
        let name = [&[u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes].concat();
        Self { version, name, cipher: Xaes256Gcm::new((&**key).into()) }
    }

    /// `seal[data_key](plaintext)`, a value of body `0x01`.
    pub(crate) fn seal_direct(&self, plaintext: &[u8], associated_data: &[u8]) -> Result<Value, SealError> {
        let body = self.seal(BodyKind::Direct, &self.aad(VALUE, associated_data), plaintext)?;
        self.value(body)
    }

    /// A value of body `0x02`: a fresh key for the payload, and that key sealed.
    pub(crate) fn seal_envelope(&self, plaintext: &[u8], associated_data: &[u8]) -> Result<Value, SealError> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
        let mut dek = Zeroizing::new([0; 32]);
        crate::random(dek.as_mut_slice())?;
        let mut body = self.seal(BodyKind::Envelope, &self.aad(DEK, &[]), dek.as_slice())?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        crate::random(&mut nonce)?;
        let mut sealed = Wiped::from(plaintext);
        let tag = Aes256Gcm::new((&*dek).into())
            .encrypt_inout_detached(
                &nonce.into(),
                &self.payload_aad(associated_data),
                sealed.as_mut_slice().into(),
            )
            .map_err(|_| SealError::TooLarge)?;
        body.extend_from_slice(&nonce);
        body.extend_from_slice(&sealed);
        body.extend_from_slice(&tag);
        self.value(body)
    }

    /// A wrapped data key, body `0x03`.
    pub(crate) fn wrap(&self, data_key: &[u8]) -> Result<Value, SealError> {
        let body = self.seal(BodyKind::DataKey, &self.aad(DEK, &[]), data_key)?;
        self.value(body)
    }

    /// Opens a value of body `0x01` or `0x02`.
    pub(crate) fn open(&self, value: &Value, associated_data: &[u8]) -> Result<Plaintext, OpenError> {
        let (_, rest) = value.body().split_first().ok_or(OpenError::WrongKind)?;
        match value.kind() {
            BodyKind::Direct => self.open_sealed(rest, &self.aad(VALUE, associated_data)),
            BodyKind::Envelope => {
                let (wrapped, payload) = rest.split_at_checked(WRAPPED_256_BYTES).ok_or(OpenError::WrongKind)?;
                let dek = self.open_sealed(wrapped, &self.aad(DEK, &[]))?;
                let dek: &[u8; 32] = dek.as_slice().try_into().map_err(|_| OpenError::Authentication)?;
                open_with(&Aes256Gcm::new(dek.into()), payload, &self.payload_aad(associated_data))
            }
            BodyKind::DataKey => Err(OpenError::WrongKind),
        }
    }

    /// Opens a wrapped data key, body `0x03`.
    pub(crate) fn unwrap(&self, value: &Value) -> Result<Plaintext, OpenError> {
        match (value.kind(), value.body().split_first()) {
            (BodyKind::DataKey, Some((_, wrapped))) => self.open_sealed(wrapped, &self.aad(DEK, &[])),
            _ => Err(OpenError::WrongKind),
        }
    }

    /// `kind ‖ nonce ‖ ciphertext ‖ tag`
    fn seal(&self, kind: BodyKind, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
        let mut nonce = [0; NONCE_BYTES];
        crate::random(&mut nonce)?;
        // Reserved whole at once: growing would leave copies of the plaintext behind.
        let mut body = Vec::with_capacity(plaintext.len() + 128);
        body.push(kind.byte());
        body.extend_from_slice(&nonce);
        let begin = body.len();
        body.extend_from_slice(plaintext);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), aad, body.split_at_mut(begin).1.into())
            .map_err(|_| SealError::TooLarge)?;
        body.extend_from_slice(&tag);
        Ok(body)
    }

    /// Opens `nonce[24] ‖ ciphertext ‖ tag`.
    fn open_sealed(&self, sealed: &[u8], aad: &[u8]) -> Result<Plaintext, OpenError> {
        open_with(&self.cipher, sealed, aad)
    }

    fn value(&self, body: Vec<u8>) -> Result<Value, SealError> {
        Value::from_parts(self.version, body).map_err(|_| SealError::TooLarge)
    }

    fn aad(&self, label: &[u8], associated_data: &[u8]) -> Vec<u8> {
        [label, &self.version.to_be_bytes(), &self.name, associated_data].concat()
    }

    fn payload_aad(&self, associated_data: &[u8]) -> Vec<u8> {
        [PAYLOAD, &self.name, associated_data].concat()
    }
}

/// `open[key](nonce ‖ ciphertext ‖ tag)`
fn open_with<A: AeadInOut>(cipher: &A, sealed: &[u8], aad: &[u8]) -> Result<Plaintext, OpenError> {
    let nonce_bytes = aes_gcm::Nonce::<A::NonceSize>::default().len();
    let tag_bytes = aes_gcm::Tag::<A::TagSize>::default().len();
    let refused = OpenError::Authentication;
    let (nonce, rest) = sealed.split_at_checked(nonce_bytes).ok_or(refused.clone())?;
    let ciphertext_bytes = rest.len().checked_sub(tag_bytes).ok_or(refused.clone())?;
    let (ciphertext, tag) = rest.split_at(ciphertext_bytes);
    let nonce = nonce.try_into().map_err(|_| refused.clone())?;
    let tag = tag.try_into().map_err(|_| refused.clone())?;
    let mut buffer = Wiped::from(ciphertext);
    cipher.decrypt_inout_detached(nonce, aad, buffer.as_mut_slice().into(), tag).map_err(|_| refused)?;
    Ok(buffer)
}
