//! Records in the metadata store that a gate believes: each carries a mac under the primary's manifest key, so
//! that whoever can write to the store can open no gate.

use std::{collections::BTreeMap, sync::Arc};

use keymoot_keyring::Validated;
use keymoot_types::{Digest, KeyVersion};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

/// Root keys in memory, by number.
pub(crate) type Loaded = BTreeMap<KeyVersion, Arc<Validated>>;

#[derive(Serialize, Deserialize)]
struct Sealed {
    payload: Json,
    version: KeyVersion,
    mac: Digest,
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record {0} can't be read")]
    Unreadable(String),
    #[error("the record {0} carries no right mac")]
    NotVouched(String),
    #[error("the record {key} is vouched for by v{version}, which is not loaded here")]
    KeyGone { key: String, version: KeyVersion },
}

/// Writes a record's bytes: the payload and its mac, bound to the record's key.
pub(crate) fn seal(key: &str, payload: &impl Serialize, by: &Validated) -> Option<Vec<u8>> {
    let payload = serde_json::to_value(payload).ok()?;
    let canonical = serde_json_canonicalizer::to_vec(&payload).ok()?;
    let mac = by.record_mac(key, &canonical);
    serde_json::to_vec(&Sealed { payload, version: by.version(), mac }).ok()
}

/// Reads a record that was sealed, and believes it only if its mac is right.
pub(crate) fn open<T: DeserializeOwned>(key: &str, bytes: &[u8], loaded: &Loaded) -> Result<T, RecordError> {
    let unreadable = || RecordError::Unreadable(key.into());
    let sealed: Sealed = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    let canonical = serde_json_canonicalizer::to_vec(&sealed.payload).map_err(|_| unreadable())?;
    let by = loaded
        .get(&sealed.version)
        .ok_or_else(|| RecordError::KeyGone { key: key.into(), version: sealed.version })?;
    if !by.vouches_for_record(key, &canonical, &sealed.mac) {
        return Err(RecordError::NotVouched(key.into()));
    }
    serde_json::from_value(sealed.payload).map_err(|_| unreadable())
}
