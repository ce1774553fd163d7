//! Which number the next version gets. A number given twice would name two keys, and values of the first would
//! look altered: so after a restore an operator says how far the numbers had come.
//!
//! Shares and values that name a number prove nothing, as anybody can make one up. They can make an operator look
//! and make the next number greater, within [`AHEAD_MAX`]; they can neither use up the numbers nor keep a version
//! from being made.

use keymoot_types::{KeyVersion, Manifest};

use crate::revise::{self, StepRefused};

/// A number further above the highest known one is junk, whoever names it: with a new version every day it is
/// almost three years away.
pub const AHEAD_MAX: u32 = 1_000;

/// A number that shares and values have named less often is taken for junk, unless there was a restore. A store
/// that was put back behind our back shows itself by far more of them within seconds.
pub const SIGHTINGS_MIN: u32 = 20;

/// What is known of numbers beside the manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Versions may have been forgotten: the store was restored, or an operator had to settle which manifest counts.
    pub restored: bool,
    /// The highest in shares and values that were sent.
    pub sent: Option<KeyVersion>,
    /// How often an unknown one was sent.
    pub times: u32,
    /// The highest that a census found in a declared source.
    pub counted: Option<KeyVersion>,
}

/// Why no number can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumberRefused {
    /// An operator must say how far the numbers had come.
    #[error(
        "{why}: name the highest number that ever was, at least v{at_least}, as `highest` (`keymoot rotate stage \
         --highest v{at_least}`); holders' parts files and encrypted values show it"
    )]
    Unnamed {
        /// What made it doubtful.
        why: String,
        /// The lowest that it can be.
        at_least: KeyVersion,
    },
    /// It is known that there were more.
    #[error("v{named} was named as the highest number that ever was, and v{known} is known here")]
    BelowKnown {
        /// What was named.
        named: KeyVersion,
        /// What is known.
        known: KeyVersion,
    },
    /// A typing error must not use up the numbers.
    #[error("v{named} is more than {AHEAD_MAX} above v{known}, the highest that is known here: look again")]
    FarAhead {
        /// What was named.
        named: KeyVersion,
        /// What is known.
        known: KeyVersion,
    },
    /// 4294967295 was the last.
    #[error(transparent)]
    NoneLeft(#[from] StepRefused),
}

/// Whether an unknown number may have been given once.
pub fn is_plausible(known: KeyVersion, number: KeyVersion) -> bool {
    number > known && number.get() - known.get() <= AHEAD_MAX
}

impl Numbers {
    /// The number after all that ever were: `named`, what was seen, and what the manifest knows.
    ///
    /// # Errors
    /// [`NumberRefused`], where an operator has to say more or something else.
    pub fn next(self, manifest: &Manifest, named: Option<KeyVersion>) -> Result<KeyVersion, NumberRefused> {
        let known = manifest.highest().ok_or(StepRefused::NoNumberLeft)?;
        match named {
            Some(named) if named < known => return Err(NumberRefused::BelowKnown { named, known }),
            Some(named) if named > known && !is_plausible(known, named) => {
                return Err(NumberRefused::FarAhead { named, known });
            }
            Some(named) => return Ok(revise::next_version(manifest, Some(named).max(self.seen(known)))?),
            None => {}
        }
        match self.doubt(known) {
            Some(why) => Err(NumberRefused::Unnamed { why, at_least: self.seen(known).unwrap_or(known) }),
            None => Ok(revise::next_version(manifest, None)?),
        }
    }

    /// Why the manifest's numbers may not be all that ever were.
    pub fn doubt(self, known: KeyVersion) -> Option<String> {
        let plausible = |number: &KeyVersion| is_plausible(known, *number);
        if let Some(counted) = self.counted.filter(plausible) {
            return Some(format!("a census found values of v{counted}, which the manifest does not know"));
        }
        if let Some(sent) = self.sent.filter(plausible).filter(|_| self.times >= SIGHTINGS_MIN) {
            let times = self.times;
            return Some(format!(
                "shares or values up to v{sent}, which the manifest does not know, were sent {times} times"
            ));
        }
        self.restored.then(|| "this keyring was restored, and may have forgotten versions".into())
    }

    fn seen(self, known: KeyVersion) -> Option<KeyVersion> {
        [self.sent, self.counted].into_iter().flatten().filter(|number| is_plausible(known, *number)).max()
    }
}
