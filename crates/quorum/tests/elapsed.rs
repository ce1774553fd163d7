//! The time of waits that end in destruction: no clock that jumps ends one.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use keymoot_quorum::elapsed::Elapsed;
use proptest::prelude::*;

const YEAR_MS: i64 = 365 * 86_400_000;

fn ms(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.max(0).unsigned_abs())
}

/// How far both clocks go between two observations, in milliseconds: mostly a beat, sometimes a leap.
fn beat() -> impl Strategy<Value = (i64, i64)> {
    let clock = || prop_oneof![6 => 0..20_000_i64, 1 => -YEAR_MS..YEAR_MS, 1 => Just(0_i64)];
    (clock(), clock())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sum_never_exceeds_what_either_clock_went_forward(
        before in 0..10_000_000_u64,
        beats in prop::collection::vec(beat(), 0..60),
    ) {
        let before = Duration::from_millis(before);
        let mut elapsed = Elapsed::resume(before);
        // Far from zero, so that a monotonic clock that goes back has somewhere to go.
        let (mut monotonic, mut wall) = (100 * YEAR_MS, Timestamp::from_second(1_700_000_000).unwrap());
        let (mut by_monotonic, mut by_wall, mut by_both) = (before, before, before);
        prop_assert_eq!(elapsed.observe(ms(monotonic), wall), before);
        for (monotonic_step, wall_step) in beats {
            monotonic += monotonic_step;
            wall += SignedDuration::from_millis(wall_step);
            by_monotonic += ms(monotonic_step);
            by_wall += ms(wall_step);
            by_both += ms(monotonic_step).min(ms(wall_step));
            let earlier = elapsed.total();
            let total = elapsed.observe(ms(monotonic), wall);
            prop_assert_eq!(total, elapsed.total());
            prop_assert!(total >= earlier);
            prop_assert!(total <= by_monotonic && total <= by_wall);
            prop_assert_eq!(total, by_both);
        }
    }
}

#[test]
fn time_before_the_first_look_of_a_boot_is_not_counted() {
    let wall = Timestamp::from_second(2_000_000_000).unwrap();
    let mut elapsed = Elapsed::resume(Duration::from_secs(50));
    assert_eq!(elapsed.observe(Duration::from_secs(86_400), wall), Duration::from_secs(50));
    assert_eq!(elapsed, {
        let mut other = Elapsed::resume(Duration::from_secs(50));
        other.observe(Duration::from_secs(86_400), wall);
        other
    });
}

#[test]
fn the_ends_of_time_are_no_panic() {
    let mut elapsed = Elapsed::default();
    for (monotonic, wall) in [
        (Duration::ZERO, Timestamp::MIN),
        (Duration::MAX, Timestamp::MAX),
        (Duration::ZERO, Timestamp::MIN),
        (Duration::MAX, Timestamp::MAX),
    ] {
        elapsed.observe(monotonic, wall);
    }
    // Both clocks went that far, and no further than the wall clock can.
    let span = Duration::try_from(Timestamp::MAX.duration_since(Timestamp::MIN)).unwrap();
    assert_eq!(elapsed.total(), span * 2);
}
