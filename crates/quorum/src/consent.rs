//! Holders consent to a request by their shares: no operator alone can make or reach a key.

use keymoot_types::{HolderName, KeyVersion, Manifest, RefusalCode};

use crate::judge::{Matched, PartRefusal, Purpose, judge};

/// Who has consented to one request so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Consents {
    /// The share set that they were given by.
    set: Option<u32>,
    given: Vec<HolderName>,
}

impl Consents {
    /// Judges a holder's part. It must be a share of `version`, the one that the request asks for (mostly the
    /// primary). The share is handed back to be recorded as a proof, and wiped by dropping it.
    pub fn give(
        &mut self,
        manifest: &Manifest,
        version: KeyVersion,
        name: &str,
        text: &str,
    ) -> Result<Matched, PartRefusal> {
        let in_force = manifest.version(version).map(|record| record.share_set.set);
        if self.set != in_force {
            // A stolen share may have been among those that were replaced meanwhile.
            self.given.clear();
            self.set = in_force;
        }
        let part = judge(manifest, Purpose::Consent(version), name, text)?;
        if self.given.contains(&part.holder) {
            return Err(PartRefusal {
                name: name.into(),
                code: RefusalCode::DuplicateShare,
                detail: "this holder has consented already; another holder is needed".into(),
                version: Some(version),
                holder: Some(part.holder),
            });
        }
        self.given.push(part.holder.clone());
        Ok(part)
    }

    /// How many.
    pub fn have(&self) -> usize {
        self.given.len()
    }

    /// Who.
    pub fn holders(&self) -> &[HolderName] {
        &self.given
    }
}
