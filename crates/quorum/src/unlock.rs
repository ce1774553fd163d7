//! Collecting → validated → unlocked.
//!
//! Nothing unlocks until every required version is positively validated. Parts are kept for each version by
//! number, so it makes no difference in which order, by whom or in how many pieces they come.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keymoot_keyring::{Rebuilt, Validated, key_check::KeyCheckFailed, shamir};
use keymoot_types::{HolderName, KeyVersion, Manifest, RefusalCode, manifest::VersionRecord};

use crate::{
    Monotonic,
    judge::{self, Matched, PartRefusal, Purpose, judge},
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
        let part = judge(manifest, Purpose::Unlock, name, text)?;
        let version = part.share.version();
        let refuse = |code, detail| PartRefusal {
            name: name.into(),
            code,
            detail,
            version: Some(version),
            holder: Some(part.holder.clone()),
        };
        let Some(record) = manifest.version(version) else {
            let detail = format!("the manifest has never heard of v{version}");
            return Err(refuse(RefusalCode::UnknownVersion, detail));
        };
        if loaded(version) || self.proved(record).is_some() {
            let detail = format!("v{version} is loaded here already; nothing more is needed for it");
            return Err(refuse(RefusalCode::AlreadyLoaded, detail));
        }
        if self.given(record).any(|earlier| earlier.part.holder == part.holder) {
            let detail = format!("this holder's share of v{version} is here already; another holder's is needed");
            return Err(refuse(RefusalCode::DuplicateShare, detail));
        }
        let proved = self.combine(record, &part).map_err(|detail| refuse(RefusalCode::KeyCheckFailed, detail))?;
        let accepted =
            Accepted { version, holder: part.holder.clone(), set: part.set, validated: proved.is_some() };
        match proved {
            Some(proved) => {
                self.collecting.remove(&version);
                self.validated.insert(version, proved);
            }
            None => self.collecting.entry(version).or_default().push(Given { part, at: now }),
        }
        Ok(accepted)
    }

    /// Takes a key that another member sent, if it is the record's own; what was collected for it is wiped.
    pub fn receive(&mut self, record: &VersionRecord, key: Rebuilt) -> Result<(), KeyCheckFailed> {
        let key = Arc::new(key.validate(record.key_id, &record.share_set)?);
        self.collecting.remove(&record.version);
        self.validated.insert(record.version, Proved { key, holders: vec![] });
        Ok(())
    }

    /// Rebuilds and proves the key, if `part` is the last that was needed. A record that turns out to be damaged
    /// wipes nothing: once it is repaired the earlier parts count again.
    fn combine(&self, record: &VersionRecord, part: &Matched) -> Result<Option<Proved>, String> {
        let set = &record.share_set;
        let parts: Vec<&Matched> = self.given(record).map(|given| &given.part).chain([part]).collect();
        if parts.len() < usize::from(set.threshold) {
            return Ok(None);
        }
        let shares: Vec<_> = parts.iter().map(|part| &part.share).collect();
        let rebuilt = shamir::rebuild(set.threshold, &shares).map_err(|error| error.to_string())?;
        let key = rebuilt.validate(record.key_id, set).map_err(|error| error.to_string())?;
        let holders = parts.iter().map(|part| part.holder.clone()).collect();
        Ok(Some(Proved { key: Arc::new(key), holders }))
    }

    /// The parts that are of the record as it is now: it may have been reshared, or the keyring made anew, since
    /// they were matched. Parts of two sets are never combined.
    fn given(&self, record: &VersionRecord) -> impl Iterator<Item = &Given> {
        let given = self.collecting.get(&record.version).map_or(&[][..], Vec::as_slice);
        given.iter().filter(|given| judge::holder_of(&record.share_set, &given.part.share).is_some())
    }

    /// What is validated under the record's identity, (number, key id).
    fn proved(&self, record: &VersionRecord) -> Option<&Proved> {
        self.validated.get(&record.version).filter(|proved| proved.key.key_id() == record.key_id)
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
        if let Some(proved) = self.proved(record) {
            return Progress { have: threshold, threshold, validated: true, holders: proved.holders.clone() };
        }
        let holders: Vec<_> = self.given(record).map(|given| given.part.holder.clone()).collect();
        Progress { have: u8::try_from(holders.len()).unwrap_or(u8::MAX), threshold, validated: false, holders }
    }

    /// The required versions that are not validated here, ascending: identity is (number, key id).
    pub fn missing(&self, manifest: &Manifest) -> Vec<KeyVersion> {
        manifest.required().filter(|record| self.proved(record).is_none()).map(|record| record.version).collect()
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
