//! The keyring in service: which versions are loaded, and what is encrypted with which.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use keymoot_types::{KeyId, KeyName, KeyVersion, Value, value::BodyKind};

use crate::{
    RandomError, Validated,
    cipher::{DataKey, DataKeyBits, OpenError, Plaintext, SealError},
    stack::{self, wiped},
};

/// Validated key versions and their data keys: immutable, swapped whole. It can't be made from anything but
/// [`Validated`] versions.
pub struct Keyring {
    versions: BTreeMap<KeyVersion, Loaded>,
    primary: Option<KeyVersion>,
}

struct Loaded {
    validated: Arc<Validated>,
    data_keys: HashMap<KeyName, DataKey>,
}

/// Why a value was not re-encrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RekeyError {
    /// The old value could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new value could not be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The new value did not open to the old plaintext: a broken machine. Nothing may be written.
    #[error("the new value does not open to what the old one held")]
    SelfCheck,
}

impl Keyring {
    /// Builds a keyring for the declared `keys`. `primary` encrypts; it must be among the versions.
    pub fn new(
        versions: impl IntoIterator<Item = Arc<Validated>>,
        primary: Option<KeyVersion>,
        keys: &[KeyName],
    ) -> Self {
        let versions: BTreeMap<_, _> = versions
            .into_iter()
            .map(|validated| {
                let data_keys = wiped::<{ stack::CEREMONY }, _>(|| {
                    let derive = |name: &KeyName| DataKey::new(validated.prk(), validated.version(), name);
                    keys.iter().map(|name| (name.clone(), derive(name))).collect()
                });
                (validated.version(), Loaded { validated, data_keys })
            })
            .collect();
        let primary = primary.filter(|version| versions.contains_key(version));
        Self { versions, primary }
    }

    /// The version that encrypts, if one may.
    pub fn primary(&self) -> Option<KeyVersion> {
        self.primary
    }

    /// Whether this version is loaded.
    pub fn holds(&self, version: KeyVersion) -> bool {
        self.versions.contains_key(&version)
    }

    /// What is loaded, ascending by number.
    pub fn versions(&self) -> impl Iterator<Item = (KeyVersion, KeyId)> {
        self.versions.iter().map(|(version, loaded)| (*version, loaded.validated.key_id()))
    }

    /// The loaded versions themselves, ascending: to build the next keyring, to mac and to sign.
    pub fn validated(&self) -> impl Iterator<Item = &Arc<Validated>> {
        self.versions.values().map(|loaded| &loaded.validated)
    }

    /// One of them.
    pub fn get(&self, version: KeyVersion) -> Option<&Arc<Validated>> {
        self.versions.get(&version).map(|loaded| &loaded.validated)
    }

    /// `seal[primary, key](plaintext)`, body `0x01`.
    pub fn encrypt(&self, key: &KeyName, plaintext: &[u8], associated_data: &[u8]) -> Result<Value, SealError> {
        wiped::<{ stack::VALUE }, _>(|| self.sealing(key)?.seal_direct(plaintext, associated_data))
    }

    /// Opens a value of body `0x01` or `0x02`.
    pub fn decrypt(&self, key: &KeyName, value: &Value, associated_data: &[u8]) -> Result<Plaintext, OpenError> {
        wiped::<{ stack::VALUE }, _>(|| self.data_key(key, value.version())?.open(value, associated_data))
    }

    /// Makes a data key for a client: wrapped (body `0x03`), and itself.
    pub fn wrap_data_key(&self, key: &KeyName, bits: DataKeyBits) -> Result<(Value, Plaintext), SealError> {
        let mut data_key = Plaintext::from(vec![0; bits.bytes()]);
        crate::random(&mut data_key).map_err(|error: RandomError| SealError::Random(error))?;
        let wrapped = wiped::<{ stack::VALUE }, _>(|| self.sealing(key)?.wrap(&data_key))?;
        Ok((wrapped, data_key))
    }

    /// Opens a wrapped data key, body `0x03`.
    pub fn unwrap_data_key(&self, key: &KeyName, value: &Value) -> Result<Plaintext, OpenError> {
        wiped::<{ stack::VALUE }, _>(|| self.data_key(key, value.version())?.unwrap(value))
    }

    /// Opens a value of any body and drops what was in it.
    pub fn check(&self, key: &KeyName, value: &Value, associated_data: &[u8]) -> Result<(), OpenError> {
        wiped::<{ stack::VALUE }, _>(|| self.open_any(key, value, associated_data)).map(drop)
    }

    /// Re-encrypts with the primary: open → seal anew in the same kind of body → open again and compare.
    /// A value gets a fresh data-encryption key; a wrapped data key is wrapped anew.
    pub fn rekey(&self, key: &KeyName, value: &Value, associated_data: &[u8]) -> Result<Value, RekeyError> {
        wiped::<{ stack::REKEY }, _>(|| {
            let plaintext = self.open_any(key, value, associated_data)?;
            let sealing = self.sealing(key)?;
            let rekeyed = match value.kind() {
                BodyKind::Direct => sealing.seal_direct(&plaintext, associated_data),
                BodyKind::Envelope => sealing.seal_envelope(&plaintext, associated_data),
                BodyKind::DataKey => sealing.wrap(&plaintext),
            }?;
            self.checked(key, rekeyed, &plaintext, associated_data)
        })
    }

    /// Encrypts plaintext that lay open until now: seal → open again and compare, as in [`Keyring::rekey`].
    pub fn adopt(&self, key: &KeyName, plaintext: &[u8], associated_data: &[u8]) -> Result<Value, RekeyError> {
        wiped::<{ stack::REKEY }, _>(|| {
            let value = self.sealing(key)?.seal_direct(plaintext, associated_data)?;
            self.checked(key, value, plaintext, associated_data)
        })
    }

    /// The value, if it opens to what was sealed.
    fn checked(
        &self,
        key: &KeyName,
        value: Value,
        plaintext: &[u8],
        associated_data: &[u8],
    ) -> Result<Value, RekeyError> {
        let reopened = self.open_any(key, &value, associated_data).map_err(|_| RekeyError::SelfCheck)?;
        // Nobody who times it chose either.
        if *reopened == *plaintext { Ok(value) } else { Err(RekeyError::SelfCheck) }
    }

    /// A canary: a value of known text under one version, whatever encrypts now.
    pub fn seal_canary(&self, version: KeyVersion, key: &KeyName, text: &[u8]) -> Result<Value, SealError> {
        let data_key = self.data_key(key, version).map_err(|error| match error {
            OpenError::UnknownKey(key) => SealError::UnknownKey(key),
            _ => SealError::NoPrimary,
        })?;
        wiped::<{ stack::VALUE }, _>(|| data_key.seal_direct(text, b""))
    }

    /// Whoever calls wipes the stack.
    fn open_any(&self, key: &KeyName, value: &Value, associated_data: &[u8]) -> Result<Plaintext, OpenError> {
        let data_key = self.data_key(key, value.version())?;
        match value.kind() {
            BodyKind::DataKey => data_key.unwrap(value),
            _ => data_key.open(value, associated_data),
        }
    }

    fn sealing(&self, key: &KeyName) -> Result<&DataKey, SealError> {
        let primary = self.primary.ok_or(SealError::NoPrimary)?;
        self.data_key(key, primary).map_err(|_| SealError::UnknownKey(key.clone()))
    }

    fn data_key(&self, key: &KeyName, version: KeyVersion) -> Result<&DataKey, OpenError> {
        let loaded = self.versions.get(&version).ok_or(OpenError::NotLoaded(version))?;
        loaded.data_keys.get(key).ok_or_else(|| OpenError::UnknownKey(key.clone()))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("versions", &self.versions().collect::<Vec<_>>())
            .field("primary", &self.primary)
            .finish()
    }
}
