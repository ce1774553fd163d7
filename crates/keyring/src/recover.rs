//! The second door to a [`Validated`]: a value that the rebuilt key opens, where there is no manifest.

use keymoot_types::{KeyName, KeyVersion, Value, value::BodyKind};

use crate::{
    Rebuilt, Validated,
    cipher::DataKey,
    stack::{self, wiped},
};

/// Why a witness did not prove a rebuilt key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// It says nothing about this key.
    #[error("the witness is of v{witness}, and the shares are of v{rebuilt}")]
    OtherVersion {
        /// Of the shares.
        rebuilt: KeyVersion,
        /// Of the value.
        witness: KeyVersion,
    },
    /// The key is wrong, or the key name, or the associated data. Which of them can't be known.
    #[error("the witness does not authenticate under the rebuilt key of v{0}")]
    Authentication(KeyVersion),
}

impl Rebuilt {
    /// Proves the key by a value of body `0x01`, `0x02` or `0x03` that is known to be genuine; a root key that does
    /// not open it is wiped.
    ///
    /// The witness's 128-bit tag is checked under `data_key(v, key)`, 256 bits that HKDF derives from this root for
    /// this name: a root rebuilt from wrong or too few shares passes with a chance of 2^-128. GCM does not commit to
    /// its key, so this proves that *this root opens this value*, and by it that the shares are right, only as far as
    /// whoever chose the witness did not choose the shares too. Take it from the database, not from a holder. The
    /// manifest's key check does commit, and is the better witness where there is one.
    pub fn validate_by_witness(
        self,
        key: &KeyName,
        witness: &Value,
        associated_data: &[u8],
    ) -> Result<Validated, WitnessError> {
        let version = self.version;
        if witness.version() != version {
            return Err(WitnessError::OtherVersion { rebuilt: version, witness: witness.version() });
        }
        wiped::<{ stack::CEREMONY }, _>(|| {
            let prk = self.root.extract(self.keyring_id);
            let data_key = DataKey::new(&prk, version, key);
            let opened = match witness.kind() {
                BodyKind::Direct | BodyKind::Envelope => data_key.open(witness, associated_data),
                BodyKind::DataKey => data_key.unwrap(witness),
            };
            match opened {
                Ok(_) => Ok(Validated::made(version, self.keyring_id, self.root, prk)),
                Err(_) => Err(WitnessError::Authentication(version)),
            }
        })
    }
}
