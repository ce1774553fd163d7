//! Splitting a root key and rebuilding it: the wrapper round the splitting crate.
//!
//! Shamir, "How to share a secret", 1979, over GF(2^8). The crate itself accepts x = 0, a threshold of 1 and a
//! repeated x (and then returns a wrong secret without an error). All three are refused before it is called.

use std::{collections::BTreeSet, convert::Infallible, num::NonZeroU8};

use keymoot_types::{KeyVersion, KeyringId, Share, Wiped, share::KEY_BYTES};
use rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use crate::{
    RandomError,
    derive::RootKey,
    stack::{self, wiped},
};

/// Why a root key was not split or rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// A threshold of 1 hands the key to everyone.
    #[error("a threshold of {0} is not possible: at least 2, at most the number of shares")]
    Threshold(u8),
    /// Both numbers, so that people see how far they are.
    #[error("{needed} shares are needed and {given} were given")]
    TooFew {
        /// The threshold.
        needed: u8,
        /// Distinct shares given.
        given: usize,
    },
    /// Two shares of the same x.
    #[error("two shares have the same x, {0}")]
    RepeatedX(NonZeroU8),
    /// Shares of different versions or keyrings.
    #[error("the shares are not of one version of one keyring")]
    Mixed,
    /// No randomness, no share.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// Splits a root key into `count` shares with x from 1 upwards.
pub fn split(
    root: &RootKey,
    keyring_id: KeyringId,
    version: KeyVersion,
    threshold: u8,
    count: u8,
) -> Result<Vec<Share>, ShamirError> {
    if threshold < 2 || threshold > count {
        return Err(ShamirError::Threshold(threshold));
    }
    // The crate draws four bytes for each coefficient. They are drawn beforehand, so that a failing random
    // source is an error here and not a panic there.
    let draws = usize::from(threshold - 1) * KEY_BYTES * 4;
    let mut rng = Drawn::new(draws)?;
    let shares: Vec<Share> = wiped::<{ stack::CEREMONY }, _>(|| {
        sharks::Sharks(threshold)
            .dealer_rng(root.as_bytes(), &mut rng)
            .take(usize::from(count))
            .filter_map(|share| {
                let bytes = Wiped::from(Vec::from(&share));
                let (x, y) = bytes.split_first()?;
                Some(Share::new(keyring_id, version, NonZeroU8::new(*x)?, Box::new(y.try_into().ok()?)))
            })
            .collect()
    });
    if rng.exhausted || shares.len() != usize::from(count) {
        return Err(RandomError.into());
    }
    Ok(shares)
}

/// A root key rebuilt from enough shares, and not yet proved to be the right one. It can do nothing but be
/// checked.
pub struct Rebuilt {
    pub(crate) root: RootKey,
    pub(crate) keyring_id: KeyringId,
    pub(crate) version: KeyVersion,
}

/// Rebuilds a root key. Exactly `threshold` of the shares are used.
pub fn rebuild(threshold: u8, shares: &[&Share]) -> Result<Rebuilt, ShamirError> {
    if threshold < 2 {
        return Err(ShamirError::Threshold(threshold));
    }
    let mut seen = BTreeSet::new();
    if let Some(share) = shares.iter().find(|share| !seen.insert(share.x())) {
        return Err(ShamirError::RepeatedX(share.x()));
    }
    let too_few = ShamirError::TooFew { needed: threshold, given: shares.len() };
    let first = *shares.first().ok_or(too_few)?;
    let used = shares.get(..usize::from(threshold)).ok_or(too_few)?;
    if shares.iter().any(|s| (s.keyring_id(), s.version()) != (first.keyring_id(), first.version())) {
        return Err(ShamirError::Mixed);
    }
    let root = wiped::<{ stack::CEREMONY }, _>(|| interpolate(threshold, used)).ok_or(too_few)?;
    Ok(Rebuilt { root, keyring_id: first.keyring_id(), version: first.version() })
}

fn interpolate(threshold: u8, shares: &[&Share]) -> Option<RootKey> {
    let points: Vec<sharks::Share> = shares
        .iter()
        .filter_map(|share| {
            let point = Zeroizing::new([&[share.x().get()], share.y().as_slice()].concat());
            sharks::Share::try_from(point.as_slice()).ok()
        })
        .collect();
    let secret = sharks::Sharks(threshold).recover(&points).map(Zeroizing::new).ok()?;
    let mut root = Box::new([0; KEY_BYTES]);
    for (to, from) in root.iter_mut().zip(secret.iter()) {
        *to = *from;
    }
    Some(RootKey::from_bytes(root))
}

/// Randomness drawn from the kernel beforehand.
struct Drawn {
    bytes: Wiped,
    used: usize,
    exhausted: bool,
}

impl Drawn {
    fn new(bytes: usize) -> Result<Self, RandomError> {
        let mut drawn = Wiped::from(vec![0; bytes]);
        crate::random(&mut drawn)?;
        Ok(Self { bytes: drawn, used: 0, exhausted: false })
    }
}

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut word = [0; 4];
        self.try_fill_bytes(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut word = [0; 8];
        self.try_fill_bytes(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        match self.bytes.get(self.used..self.used + to.len()) {
            Some(from) => to.copy_from_slice(from),
            // Seen by `split`, which then issues nothing.
            None => self.exhausted = true,
        }
        self.used += to.len();
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}
