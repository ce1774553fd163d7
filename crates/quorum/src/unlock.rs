//! Collecting → validated → unlocked.
//!
//! Nothing unlocks until every required version is positively validated. Parts are kept for each version by
//! number, so it makes no difference in which order, by whom or in how many pieces they come.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_keyring::{Validated, shamir};
use keymoot_types::{HolderName, KeyVersion, Manifest, RefusalCode, manifest::VersionRecord};

use crate::{
    Monotonic,
    judge::{Matched, PartRefusal, judge},
};

/// How long an accepted part lives, on a monotonic clock.
pub const PART_LIFETIME: Duration = Duration::from_secs(600);

/// A part that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its version.
    pub version: KeyVersion,
    /// Its holder.
    pub holder: HolderName,
    /// The share set that it belongs to.
    pub set: u32,
    /// Whether the version became validated by it.
    pub validated: bool,
}

/// What has been collected on one node.
#[derive(Default)]
pub struct Unlock {
    collecting: BTreeMap<KeyVersion, Vec<Given>>,
    validated: BTreeMap<KeyVersion, Proved>,
}

struct Given {
    part: Matched,
    at: Monotonic,
}

struct Proved {
    key: Arc<Validated>,
    holders: Vec<HolderName>,
}

/// How far one version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Distinct shares given; stays at the threshold once validated.
    pub have: u8,
    /// Shares needed.
    pub threshold: u8,
    /// Whether the key is rebuilt and proved.
    pub validated: bool,
    /// Who gave.
    pub holders: Vec<HolderName>,
}

impl Unlock {
    /// Judges a part and keeps it. With the threshold the root key is rebuilt, proved and its shares wiped.
    ///
    /// `loaded` says whether the node already serves with a version: nothing is collected for it then.
    pub fn give(
        &mut self,
        manifest: &Manifest,
        loaded: impl Fn(KeyVersion) -> bool,
        name: &str,
        text: &str,
        now: Monotonic,
    ) -> Result<Accepted, PartRefusal> {
        self.expire(now);
        let part = judge(manifest, name, text)?;
        let version = part.share.version();
        let refuse = |code, detail, holder: &HolderName| PartRefusal {
            name: name.into(),
            code,
            detail,
            version: Some(version),
            holder: Some(holder.clone()),
        };
        if loaded(version) || self.validated.contains_key(&version) {
            let detail = format!("v{version} is loaded here already; nothing more is needed for it");
            return Err(refuse(RefusalCode::AlreadyLoaded, detail, &part.holder));
        }
        let given = self.collecting.entry(version).or_default();
        if given.iter().any(|earlier| earlier.part.holder == part.holder) {
            let detail = format!("this holder's share of v{version} is here already; another holder's is needed");
            return Err(refuse(RefusalCode::DuplicateShare, detail, &part.holder));
        }
        let (holder, set) = (part.holder.clone(), part.set);
        given.push(Given { part, at: now });
        let validated = match manifest.version(version) {
            Some(record) => self
                .validate(record)
                .map_err(|detail| refuse(RefusalCode::KeyCheckFailed, detail, &holder))?,
            None => false,
        };
        Ok(Accepted { version, holder, set, validated })
    }

    fn validate(&mut self, record: &VersionRecord) -> Result<bool, String> {
        let set = &record.share_set;
        let Some(given) = self.collecting.get(&record.version) else { return Ok(false) };
        if given.len() < usize::from(set.threshold) {
            return Ok(false);
        }
        // From here on the parts are gone, however it ends.
        let given = self.collecting.remove(&record.version).unwrap_or_default();
        let shares: Vec<_> = given.iter().map(|given| &given.part.share).collect();
        let rebuilt = shamir::rebuild(set.threshold, &shares).map_err(|error| error.to_string())?;
        let key = rebuilt.validate(record.key_id, set).map_err(|error| error.to_string())?;
        let holders = given.iter().map(|given| given.part.holder.clone()).collect();
        self.validated.insert(record.version, Proved { key: Arc::new(key), holders });
        Ok(true)
    }

    /// Wipes the parts whose time is over and names them.
    pub fn expire(&mut self, now: Monotonic) -> Vec<(KeyVersion, HolderName)> {
        let mut expired = Vec::new();
        for (version, given) in &mut self.collecting {
            given.retain(|given| {
                let alive = now.saturating_sub(given.at) < PART_LIFETIME;
                if !alive {
                    expired.push((*version, given.part.holder.clone()));
                }
                alive
            });
        }
        self.collecting.retain(|_, given| !given.is_empty());
        expired
    }

    /// Whether anything at all was collected.
    pub fn is_empty(&self) -> bool {
        self.collecting.is_empty() && self.validated.is_empty()
    }

    /// How far a version is.
    pub fn progress(&self, record: &VersionRecord) -> Progress {
        let threshold = record.share_set.threshold;
        if let Some(proved) = self.validated.get(&record.version) {
            return Progress { have: threshold, threshold, validated: true, holders: proved.holders.clone() };
        }
        let given = self.collecting.get(&record.version).map_or(&[][..], Vec::as_slice);
        Progress {
            have: u8::try_from(given.len()).unwrap_or(u8::MAX),
            threshold,
            validated: false,
            holders: given.iter().map(|given| given.part.holder.clone()).collect(),
        }
    }

    /// The required versions that are not validated here, ascending: identity is (number, key id).
    pub fn missing(&self, manifest: &Manifest) -> Vec<KeyVersion> {
        manifest
            .required()
            .filter(|record| {
                !self.validated.get(&record.version).is_some_and(|proved| proved.key.key_id() == record.key_id)
            })
            .map(|record| record.version)
            .collect()
    }

    /// What is validated, ascending.
    pub fn validated(&self) -> impl Iterator<Item = &Arc<Validated>> {
        self.validated.values().map(|proved| &proved.key)
    }

    /// Takes out what is validated, ascending, and leaves what is still being collected.
    pub fn take_validated(&mut self) -> Vec<Arc<Validated>> {
        std::mem::take(&mut self.validated).into_values().map(|proved| proved.key).collect()
    }
}
