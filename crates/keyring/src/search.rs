//! Which of some shares rebuild a root key, where no record tells: each set of them is asked until one is proved.

use std::num::NonZeroU8;

use keymoot_types::{KeyVersion, Share};

use crate::{Rebuilt, Validated, key_check::share_digest, shamir};

/// A version whose root key was rebuilt and proved.
#[derive(Debug)]
pub struct Found {
    /// The key.
    pub validated: Validated,
    /// The fewest shares that make it.
    pub threshold: u8,
    /// The x of every share given that lies on the polynomial, ascending.
    pub right: Vec<NonZeroU8>,
    /// Of every share given that doesn't.
    pub wrong: Vec<NonZeroU8>,
}

/// Why no set of the shares was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// All were tried.
    #[error(
        "no set of the {given} shares of v{version} opens the witness: more shares are needed, or the witness is not \
         genuine, of another key name, or bound to other associated data"
    )]
    NoSet {
        /// Of which version.
        version: KeyVersion,
        /// Shares given.
        given: usize,
    },
    /// Not all could be tried.
    #[error("the {given} shares of v{version} make too many sets to try them all: give fewer, or a manifest")]
    TooMany {
        /// Of which version.
        version: KeyVersion,
        /// Shares given.
        given: usize,
    },
}

/// Looks for the fewest shares whose key `prove` accepts, in at most `tries_max` tries.
pub fn search(
    shares: &[&Share],
    version: KeyVersion,
    tries_max: usize,
    prove: impl Fn(Rebuilt) -> Option<Validated>,
) -> Result<Found, NotFound> {
    let given = shares.len();
    let prove = |chosen: &[&Share]| prove(rebuild(chosen)?);
    // All shares are right, as a rule: then the first k open it as soon as k is the threshold.
    let first = (2..=given).find_map(|k| {
        let chosen = shares.get(..k)?;
        Some((prove(chosen)?, chosen))
    });
    // Or they are of two share sets of one key, whose differences can cancel out: then half of them, all of one set,
    // open it too.
    let (among, longest) =
        first.as_ref().map_or((shares, given.saturating_sub(1)), |(_, chosen)| (*chosen, chosen.len() / 2));
    let mut tries = 0;
    'all: for k in 2..=longest {
        let mut places: Vec<usize> = (0..k).collect();
        loop {
            tries += 1;
            if tries > tries_max {
                break 'all;
            }
            let chosen: Vec<&Share> = places.iter().filter_map(|at| among.get(*at).copied()).collect();
            if let Some(validated) = prove(&chosen) {
                return Ok(found(validated, &chosen, shares, &prove));
            }
            if !advance(&mut places, among.len()) {
                break;
            }
        }
    }
    match first {
        Some((validated, chosen)) => Ok(found(validated, chosen, shares, &prove)),
        None if tries > tries_max => Err(NotFound::TooMany { version, given }),
        None => Err(NotFound::NoSet { version, given }),
    }
}

/// Interpolates through all of them.
fn rebuild(chosen: &[&Share]) -> Option<Rebuilt> {
    shamir::rebuild(u8::try_from(chosen.len()).ok()?, chosen).ok()
}

/// The next choice of `places.len()` out of `count`, in order.
fn advance(places: &mut [usize], count: usize) -> bool {
    let k = places.len();
    let Some(at) = (0..k).rev().find(|at| places.get(*at).is_some_and(|place| *place < count - k + at)) else {
        return false;
    };
    let next = places.get(at).map_or(0, |place| place + 1);
    for (offset, place) in places.iter_mut().skip(at).enumerate() {
        *place = next + offset;
    }
    true
}

/// A share is right if it can stand for one of the chosen and the key stays the same.
fn found(
    validated: Validated,
    chosen: &[&Share],
    all: &[&Share],
    prove: &dyn Fn(&[&Share]) -> Option<Validated>,
) -> Found {
    let is_right = |share: &Share| {
        chosen.iter().any(|one| share_digest(one) == share_digest(share)) || {
            let rest = chosen.get(1..).unwrap_or_default();
            let with: Vec<&Share> = rest.iter().copied().chain([share]).collect();
            prove(&with).is_some_and(|again| again.key_id() == validated.key_id())
        }
    };
    let (right, wrong): (Vec<&Share>, Vec<&Share>) = all.iter().copied().partition(|share| is_right(share));
    Found {
        threshold: u8::try_from(chosen.len()).unwrap_or(u8::MAX),
        right: places(&right),
        wrong: places(&wrong),
        validated,
    }
}

fn places(shares: &[&Share]) -> Vec<NonZeroU8> {
    let mut places: Vec<_> = shares.iter().map(|share| share.x()).collect();
    places.sort();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_comes_once_and_in_order() {
        let mut places = vec![0, 1];
        let mut seen = vec![places.clone()];
        while advance(&mut places, 4) {
            seen.push(places.clone());
        }
        assert_eq!(seen, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
    }
}
