//! `import`: a version that a restored store has forgotten comes back, by its shares and a witness.

use std::sync::Arc;

use jiff::Timestamp;
use keymoot_api::{Problem, rotate::ImportRequest};
use keymoot_keyring::{Rebuilt, Validated};
use keymoot_quorum::{Monotonic, PartRefusal, Unlock, import::Import, judge, judge::Purpose, revise};
use keymoot_types::{
    ErrorCode, HolderName, KeyName, KeyVersion, Manifest, RefusalCode, Value, VersionState,
    manifest::{ManifestDocument, VersionRecord},
};

use super::{Core, bad_request};
use crate::config::Config;

/// What shows a rebuilt key to be the right one.
pub(super) enum Witness {
    /// A manifest that knows the version, vouched for by the present primary.
    Manifest(Box<ManifestDocument>),
    /// A value of the version.
    Value { value: Value, keys: Vec<KeyName>, associated_data: Vec<u8> },
}

/// Reads a witness, and refuses one that can show nothing.
pub(super) fn witness(core: &Core, asked: &ImportRequest, config: &Config) -> Result<Witness, Problem> {
    let text = asked.witness.trim();
    if text.starts_with('{') { by_manifest(core, asked.version, text) } else { by_value(asked, text, config) }
}

fn by_manifest(core: &Core, version: KeyVersion, text: &str) -> Result<Witness, Problem> {
    let document = ManifestDocument::parse(text.as_bytes()).map_err(|error| bad_request(error.to_string()))?;
    // Whoever made up a version and a manifest to fit it has no mac of the primary.
    if !core.primary()?.vouches_for(&document) {
        return Err(bad_request("the manifest carries no right mac of the present primary; give a value instead"));
    }
    let record = document.manifest().version(version);
    let state = record.map(|record| record.state);
    match state {
        None => Err(bad_request(format!("the manifest does not know v{version} either"))),
        Some(VersionState::Retired | VersionState::Aborted) => {
            let detail = format!("in that manifest v{version} is out of use, so there is nothing to bring back");
            Err(bad_request(detail))
        }
        Some(_) => Ok(Witness::Manifest(Box::new(document))),
    }
}

fn by_value(asked: &ImportRequest, text: &str, config: &Config) -> Result<Witness, Problem> {
    let value = Value::parse(text)
        .map_err(|_| bad_request("the witness is neither a value in text form nor a manifest"))?;
    if value.version() != asked.version {
        let detail = format!("the witness is of v{}, and v{} is asked for", value.version(), asked.version);
        return Err(bad_request(detail));
    }
    let keys = match &asked.key {
        Some(key) if config.key_names().contains(key) => vec![key.clone()],
        Some(key) => return Err(Problem::new(ErrorCode::UnknownKey, format!("no key {key} is declared"))),
        None => config.key_names(),
    };
    let associated_data = asked.associated_data.as_ref().map(|bytes| bytes.to_vec()).unwrap_or_default();
    Ok(Witness::Value { value, keys, associated_data })
}

/// The shares that were given for an import.
pub(super) enum Shares {
    /// Told apart by the digests of a manifest.
    Known { document: Box<ManifestDocument>, unlock: Box<Unlock> },
    /// Vouched for by the holders' shares of the primary.
    Forgotten { import: Import, value: Value, keys: Vec<KeyName>, associated_data: Vec<u8> },
}

impl Shares {
    pub(super) fn new(version: KeyVersion, witness: Witness) -> Self {
        match witness {
            Witness::Manifest(document) => Self::Known { document, unlock: Box::default() },
            Witness::Value { value, keys, associated_data } => {
                Self::Forgotten { import: Import::new(version), value, keys, associated_data }
            }
        }
    }

    pub(super) fn holders(&self, version: KeyVersion) -> Vec<HolderName> {
        match self {
            Self::Known { document, unlock } => document
                .manifest()
                .version(version)
                .map(|record| unlock.progress(record).holders)
                .unwrap_or_default(),
            Self::Forgotten { import, .. } => import.holders(),
        }
    }

    /// How many holders are needed, as far as that is known: of a forgotten version it shows when they were given.
    pub(super) fn needed(&self, version: KeyVersion, of_primary: u8) -> u8 {
        match self {
            Self::Known { document, .. } => {
                document.manifest().version(version).map_or(of_primary, |record| record.share_set.threshold)
            }
            Self::Forgotten { import, .. } => {
                let have = u8::try_from(import.holders().len()).unwrap_or(u8::MAX);
                if have >= of_primary { have.saturating_add(1) } else { of_primary }
            }
        }
    }

    pub(super) fn expire(&mut self, now: Monotonic) {
        match self {
            Self::Known { unlock, .. } => drop(unlock.expire(now)),
            Self::Forgotten { import, .. } => import.expire(now),
        }
    }

    /// Takes the parts of one call. Of a forgotten version each comes with the same holder's part of the primary.
    pub(super) fn give(
        &mut self,
        manifest: &Manifest,
        version: KeyVersion,
        parts: &[(&str, &str)],
        now: Monotonic,
    ) -> Vec<Result<(KeyVersion, HolderName), PartRefusal>> {
        match self {
            Self::Known { document, unlock } => parts
                .iter()
                .map(|(name, text)| {
                    let known = document.manifest();
                    judge::judge(known, Purpose::Consent(version), name, text)?;
                    let part = unlock.give(known, |_| false, name, text, now)?;
                    Ok((part.version, part.holder))
                })
                .collect(),
            Self::Forgotten { import, .. } => {
                let of_primary = Purpose::Consent(manifest.primary);
                let vouching = parts.iter().find_map(|(name, text)| {
                    judge::judge(manifest, of_primary, name, text).ok().map(|part| part.holder)
                });
                parts
                    .iter()
                    .map(|(name, text)| {
                        if let Ok(part) = judge::judge(manifest, of_primary, name, text) {
                            return Ok((manifest.primary, part.holder));
                        }
                        let Some(holder) = &vouching else { return Err(alone(manifest, version, name, text)) };
                        import.give(manifest, holder, name, text, now)?;
                        Ok((version, holder.clone()))
                    })
                    .collect()
            }
        }
    }

    /// The version, once the shares show it: its key, and what the manifest is to say of it.
    pub(super) fn found(
        &mut self,
        version: KeyVersion,
        of_primary: u8,
        now: Timestamp,
    ) -> Option<(Arc<Validated>, VersionRecord)> {
        match self {
            Self::Known { document, unlock } => {
                let record = document.manifest().version(version)?;
                let key = unlock.take_validated().into_iter().find(|key| key.key_id() == record.key_id)?;
                Some((key, record.clone()))
            }
            Self::Forgotten { import, value, keys, associated_data } => {
                if import.holders().len() < usize::from(of_primary) {
                    return None;
                }
                let opens = |key: &KeyName, rebuilt: Rebuilt| {
                    rebuilt.validate_by_witness(key, value, associated_data).ok()
                };
                let (validated, share_set) =
                    keys.iter().find_map(|key| import.find(|rebuilt| opens(key, rebuilt)).ok())?;
                let record = revise::record(&validated, share_set, VersionState::DecryptOnly, now);
                Some((Arc::new(validated), record))
            }
        }
    }
}

/// Why a part is not taken that comes without the same holder's part of the primary.
fn alone(manifest: &Manifest, version: KeyVersion, name: &str, text: &str) -> PartRefusal {
    let primary = manifest.primary;
    match judge::judge(manifest, Purpose::Consent(version), name, text) {
        Err(refusal) if refusal.code != RefusalCode::UnknownVersion => refusal,
        _ => PartRefusal {
            name: name.into(),
            code: RefusalCode::UnknownVersion,
            detail: format!(
                "the manifest has forgotten v{version}, so nothing here can tell whose share it is: give it together \
                 with your share of v{primary}"
            ),
            version: Some(version),
            holder: None,
        },
    }
}
