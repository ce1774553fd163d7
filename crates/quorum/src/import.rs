//! Bringing back a version that a restored store has forgotten.
//!
//! No digest tells its shares apart. So each is taken only from a holder of the primary, who gives both in one call:
//! that says whose it is, and keeps out a version that somebody made up, with shares and a witness to fit it.

use keymoot_keyring::{
    Rebuilt, Validated,
    key_check::share_digest,
    search::{self, Found, NotFound},
    stage::known_shares,
};
use keymoot_types::{
    HolderName, KeyVersion, Manifest, RefusalCode, Share,
    manifest::{Holder, ShareSet},
};

use crate::{
    Monotonic,
    judge::{PartRefusal, parse},
    unlock::PART_LIFETIME,
};

/// Sets of shares that are tried; more than a hundred times what ten holders with one wrong share need.
const TRIES_MAX: usize = 20_000;

/// The shares of a forgotten version that were given so far.
pub struct Import {
    version: KeyVersion,
    given: Vec<Given>,
}

struct Given {
    holder: HolderName,
    /// Of the holder's place in the primary: what the forgotten package was encrypted to is forgotten as well.
    recipient: Option<String>,
    share: Share,
    at: Monotonic,
}

impl Import {
    /// Of this version.
    pub fn new(version: KeyVersion) -> Self {
        Self { version, given: vec![] }
    }

    /// Takes a part from `holder`, who has just shown a share of the primary.
    pub fn give(
        &mut self,
        manifest: &Manifest,
        holder: &HolderName,
        name: &str,
        text: &str,
        now: Monotonic,
    ) -> Result<(), PartRefusal> {
        self.expire(now);
        let share = parse(manifest, name, text)?;
        let refuse = |code, detail: String| PartRefusal {
            name: name.into(),
            code,
            detail,
            version: Some(share.version()),
            holder: Some(holder.clone()),
        };
        if share.version() != self.version {
            let detail =
                format!("the request is for v{}, and this is a share of v{}", self.version, share.version());
            return Err(refuse(RefusalCode::NameMismatch, detail));
        }
        let again = |given: &&Given| given.holder == *holder && share_digest(&given.share) == share_digest(&share);
        if self.given.iter().any(|given| again(&given)) {
            let detail = "this holder has consented already; another holder is needed".into();
            return Err(refuse(RefusalCode::DuplicateShare, detail));
        }
        if self.given.iter().any(|given| given.holder != *holder && given.share.x() == share.x()) {
            let detail = format!("another holder gave a share with the same x, {}", share.x());
            return Err(refuse(RefusalCode::ShareMismatch, detail));
        }
        // Nobody can say which of two is right but the holder, who corrects a mistake by this.
        self.given.retain(|given| given.holder != *holder);
        let primary = manifest.version(manifest.primary);
        let place = primary.and_then(|record| record.share_set.holders.iter().find(|place| place.name == *holder));
        let recipient = place.and_then(|place| place.recipient.clone());
        self.given.push(Given { holder: holder.clone(), recipient, share, at: now });
        Ok(())
    }

    /// Wipes the shares whose time is over.
    pub fn expire(&mut self, now: Monotonic) {
        self.given.retain(|given| now.saturating_sub(given.at) < PART_LIFETIME);
    }

    /// Who has given, in their order.
    pub fn holders(&self) -> Vec<HolderName> {
        self.given.iter().map(|given| given.holder.clone()).collect()
    }

    /// Looks for the fewest shares whose key the witness proves, and makes the record of all that are of that key.
    pub fn find(&self, prove: impl Fn(Rebuilt) -> Option<Validated>) -> Result<(Validated, ShareSet), NotFound> {
        let shares: Vec<&Share> = self.given.iter().map(|given| &given.share).collect();
        let Found { validated, threshold, right, .. } = search::search(&shares, self.version, TRIES_MAX, prove)?;
        let holders = self.given.iter().filter(|given| right.contains(&given.share.x()));
        let holders = holders.map(|given| Holder {
            name: given.holder.clone(),
            x: given.share.x(),
            digest: share_digest(&given.share),
            recipient: given.recipient.clone(),
        });
        let share_set = known_shares(&validated, threshold, holders.collect());
        Ok((validated, share_set))
    }
}
