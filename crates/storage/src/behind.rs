//! How far a replica is behind its primary, by what was seen of both: where the primary was, and what of that the replica
//! has not reached yet. So a replica that says nothing any more, or has stopped, falls behind like any other; and no clock
//! of another machine is asked.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A quarter of an hour of looks; behind that, more would tell nothing new.
const SEEN_MAX: usize = 900;

/// Where a primary was, from the first position on that its slowest replica has not reached.
pub(crate) struct Behind<P>(Mutex<VecDeque<(Instant, P)>>);

impl<P> Default for Behind<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> Behind<P> {
    /// The primary is at `position` now; `reached` tells of an earlier one whether all replicas have it.
    pub(crate) fn lag(&self, position: P, reached: impl Fn(&P) -> bool) -> Duration {
        self.lag_at(Instant::now(), position, reached)
    }

    fn lag_at(&self, now: Instant, position: P, reached: impl Fn(&P) -> bool) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.front().is_some_and(|(_, earlier)| reached(earlier)) {
            seen.pop_front();
        }
        if seen.len() < SEEN_MAX && !reached(&position) {
            seen.push_back((now, position));
        }
        seen.front().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_behind_since_the_first_position_that_it_has_not_reached() {
        let (behind, start) = (Behind::default(), Instant::now());
        let at = |seconds: u64, primary: u64, replica: u64| {
            behind.lag_at(start + Duration::from_secs(seconds), primary, |earlier| *earlier <= replica).as_secs()
        };
        assert_eq!([at(0, 10, 10), at(1, 20, 10), at(2, 30, 10)], [0, 0, 1]);
        assert_eq!(at(9, 30, 20), 7, "it moves, and is behind since second 2");
        assert_eq!([at(10, 40, 30), at(11, 40, 40), at(99, 40, 40)], [0, 0, 0]);
        // It stops for longer than is remembered in steps.
        let mut last = 0;
        for second in 100..3000 {
            last = at(second, second, 40);
        }
        assert_eq!(last, 2899);
        assert_eq!(at(3000, 3000, 3000), 0);
    }
}
