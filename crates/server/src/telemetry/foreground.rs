//! How long services wait for their decryptions, lately: the rekey worker steps aside for them.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// So many whole seconds are looked at, beside the one that has begun.
const SECONDS: u64 = 3;
const SLOTS: usize = SECONDS as usize + 2;
/// Two a doubling, from 64 µs to half a minute.
const CLASSES: usize = 40;
const FIRST_US: f64 = 64.0;
/// Fewer tell nothing about the slowest of a hundred.
const DECRYPTIONS_MIN: u64 = 20;

/// Decryptions by how long they took, second by second. Writers never wait; one that counts at the very moment in
/// which a second's place is cleared may be lost, which moves no limit.
pub struct Foreground {
    began: Instant,
    slots: [Slot; SLOTS],
}

struct Slot {
    second: AtomicU64,
    counts: [AtomicU64; CLASSES],
}

impl Default for Foreground {
    fn default() -> Self {
        let slot = |_| Slot { second: AtomicU64::new(u64::MAX), counts: [const { AtomicU64::new(0) }; CLASSES] };
        Self { began: Instant::now(), slots: std::array::from_fn(slot) }
    }
}

impl Foreground {
    /// A decryption took that long.
    pub fn took(&self, time: Duration) {
        self.count(self.began.elapsed().as_secs(), time);
    }

    /// What 99 of 100 took at most, to half a doubling; `None`: there were too few.
    pub fn latency(&self) -> Option<Duration> {
        self.latency_at(self.began.elapsed().as_secs())
    }

    fn count(&self, second: u64, time: Duration) {
        let Some(slot) = usize::try_from(second).ok().and_then(|second| self.slots.get(second % SLOTS)) else {
            return;
        };
        if slot.second.swap(second, Relaxed) != second {
            slot.counts.iter().for_each(|count| count.store(0, Relaxed));
        }
        if let Some(count) = slot.counts.get(class(time)) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn latency_at(&self, second: u64) -> Option<Duration> {
        let oldest = second.saturating_sub(SECONDS);
        let mut counts = [0; CLASSES];
        for slot in self.slots.iter().filter(|slot| (oldest..=second).contains(&slot.second.load(Relaxed))) {
            for (sum, count) in counts.iter_mut().zip(&slot.counts) {
                *sum += count.load(Relaxed);
            }
        }
        let all: u64 = counts.iter().sum();
        let mut slower = 0;
        let found = counts.iter().rposition(|count| {
            slower += count;
            slower > all / 100
        });
        found.filter(|_| all >= DECRYPTIONS_MIN).map(upper)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the number of classes")]
fn class(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() * 1e6 / FIRST_US).max(1.0).log2();
    ((2.0 * doublings).ceil() as usize).min(CLASSES - 1)
}

/// The longest time of a class.
#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn upper(class: usize) -> Duration {
    Duration::from_secs_f64(FIRST_US / 1e6 * (class as f64 / 2.0).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_slowest_of_a_hundred_is_told_to_half_a_doubling_and_soon_forgotten() {
        let foreground = Foreground::default();
        (0..990).for_each(|_| foreground.count(7, MS));
        let fast = foreground.latency_at(7).unwrap();
        assert!((MS..MS * 3 / 2).contains(&fast), "{fast:?}");
        (0..20).for_each(|_| foreground.count(8, MS * 200));
        let slow = foreground.latency_at(8).unwrap();
        assert!((MS * 200..MS * 300).contains(&slow), "{slow:?}");
        assert_eq!(foreground.latency_at(12), None);
        (0..100).for_each(|_| foreground.count(12, MS));
        assert_eq!(foreground.latency_at(12), Some(fast), "the place of second 7 was cleared");
    }

    #[test]
    fn a_few_decryptions_tell_nothing_and_odd_times_have_a_class() {
        let foreground = Foreground::default();
        (0..DECRYPTIONS_MIN - 1).for_each(|_| foreground.took(MS * 500));
        assert_eq!(foreground.latency(), None);
        foreground.count(0, Duration::ZERO);
        foreground.count(0, Duration::MAX);
        assert!(foreground.latency_at(0).is_some());
    }
}
