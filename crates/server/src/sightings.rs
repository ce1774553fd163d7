//! Unknown versions that were asked for: in shares and in values, which anybody can make up. Counting them takes no
//! lock and no room, whoever sends how many.

use std::sync::atomic::{AtomicU32, Ordering};

use keymoot_quorum::number;
use keymoot_types::KeyVersion;

/// The highest, and how many there were.
#[derive(Debug, Default)]
pub struct Sightings {
    /// 0: none.
    highest: AtomicU32,
    times: AtomicU32,
}

impl Sightings {
    /// A version was named that is not known here; `known` is the highest that is. What can't have been is not counted.
    pub fn saw(&self, version: KeyVersion, known: KeyVersion) {
        if number::is_plausible(known, version) {
            self.add(version, 1);
        }
    }

    /// Counts so many at once, as when a record of them could not be written.
    pub(crate) fn add(&self, version: KeyVersion, times: u32) {
        self.highest.fetch_max(version.get(), Ordering::Relaxed);
        let added = |before: u32| Some(before.saturating_add(times));
        // Always some, so it can't fail.
        let _before = self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Option<(KeyVersion, u32)> {
        let times = self.times.swap(0, Ordering::Relaxed);
        KeyVersion::new(self.highest.swap(0, Ordering::Relaxed)).ok().map(|version| (version, times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_not_counted_and_what_is_counted_is_taken_once() {
        let version = |number| KeyVersion::new(number).unwrap();
        let sightings = Sightings::default();
        for junk in [u32::MAX, 9 + number::AHEAD_MAX + 1, 9, 8] {
            sightings.saw(version(junk), version(9));
        }
        assert_eq!(sightings.take(), None);
        for real in [12, 10, 11] {
            sightings.saw(version(real), version(9));
        }
        assert_eq!(sightings.take(), Some((version(12), 3)));
        assert_eq!(sightings.take(), None);
    }
}
