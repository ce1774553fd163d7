//! Records in the metadata store that a gate believes: each carries a mac under the primary's manifest key, so
//! that whoever can write to the store can open no gate.

use std::{collections::BTreeMap, sync::Arc};

use keymoot_api::Problem;
use keymoot_keyring::Validated;
use keymoot_storage::metadata::Stamp;
use keymoot_types::{Digest, KeyVersion};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{Core, Node, census, exclude, highest, moment, prove, store_problem};

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
    #[error("the record {key} is vouched for by v{version}, which is not the primary")]
    NotByThePrimary { key: String, version: KeyVersion },
}

/// Writes a record's bytes: the payload and its mac, bound to the record's key.
pub(crate) fn seal(key: &str, payload: &impl Serialize, by: &Validated) -> Option<Vec<u8>> {
    let payload = serde_json::to_value(payload).ok()?;
    let canonical = serde_json_canonicalizer::to_vec(&payload).ok()?;
    let mac = by.record_mac(key, &canonical);
    serde_json::to_vec(&Sealed { payload, version: by.version(), mac }).ok()
}

/// Reads a record that was sealed, and believes it only if its mac is the primary's and right: whoever has stolen an
/// old root key and can write to the store opens no gate either.
pub(crate) fn open<T: DeserializeOwned>(key: &str, bytes: &[u8], primary: &Validated) -> Result<T, RecordError> {
    let unreadable = || RecordError::Unreadable(key.into());
    let sealed: Sealed = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    let canonical = serde_json_canonicalizer::to_vec(&sealed.payload).map_err(|_| unreadable())?;
    if sealed.version != primary.version() {
        return Err(RecordError::NotByThePrimary { key: key.into(), version: sealed.version });
    }
    if !primary.vouches_for_record(key, &canonical, &sealed.mac) {
        return Err(RecordError::NotVouched(key.into()));
    }
    serde_json::from_value(sealed.payload).map_err(|_| unreadable())
}

/// What a record says, whoever wrote it: good for a refusal, and for nothing else.
pub(super) fn claimed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice::<Sealed>(bytes).ok().and_then(|sealed| serde_json::from_value(sealed.payload).ok())
}

/// A record that was believed while its version was the primary.
pub(super) struct Believed {
    key: String,
    stamp: Stamp,
    payload: Json,
}

impl Node {
    /// Everything that the present primary vouches for, before another version becomes primary.
    pub(super) async fn believed_records(&self, core: &Core) -> Result<Vec<Believed>, Problem> {
        let primary = core.primary()?;
        let mut believed = Vec::new();
        for prefix in
            [prove::PREFIX, census::PREFIX, moment::PREFIX, moment::CLOCK, exclude::PREFIX, highest::SEEN]
        {
            for stored in self.metadata.list(prefix).await.map_err(|error| store_problem(&error))? {
                if let Ok(payload) = open::<Json>(&stored.key, &stored.value, &primary) {
                    believed.push(Believed { key: stored.key, stamp: stored.stamp, payload });
                }
            }
        }
        Ok(believed)
    }

    /// Seals with the new primary what the one before vouched for. Where that fails, or the node ends before it, the
    /// record counts no longer: a wait begins anew, a census is taken again, a holder proves again.
    pub(super) async fn vouch_anew(&self, core: &Core, believed: Vec<Believed>) {
        let Ok(primary) = core.primary() else { return };
        for Believed { key, stamp, payload } in believed {
            let Some(bytes) = seal(&key, &payload, &primary) else { continue };
            if let Err(error) = self.metadata.swap(&key, Some(stamp), &bytes).await {
                tracing::warn!(%error, key, "a record is not vouched for by the new primary");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keymoot_keyring::stage;

    use super::*;

    #[test]
    fn a_record_is_believed_by_the_mac_of_the_primary_alone_and_under_its_own_key() {
        let id = stage::new_keyring_id().unwrap();
        let holders = ["ann", "bob"].map(|name| (name.parse().unwrap(), None));
        let make = |number| stage::stage(id, KeyVersion::new(number).unwrap(), 2, &holders).unwrap().validated;
        let (stolen, primary) = (make(9), make(10));
        let good = seal("census/1", &1, &primary).unwrap();
        assert_eq!(open::<u8>("census/1", &good, &primary), Ok(1));
        assert_eq!(open::<u8>("census/2", &good, &primary), Err(RecordError::NotVouched("census/2".into())));
        let by_old = seal("census/1", &1, &stolen).unwrap();
        let refused = RecordError::NotByThePrimary { key: "census/1".into(), version: stolen.version() };
        assert_eq!(open::<u8>("census/1", &by_old, &primary), Err(refused));
        // Nor under the primary's name.
        let relabelled = String::from_utf8(by_old).unwrap().replace("\"version\":9", "\"version\":10");
        let forged = open::<u8>("census/1", relabelled.as_bytes(), &primary);
        assert_eq!(forged, Err(RecordError::NotVouched("census/1".into())));
    }
}
