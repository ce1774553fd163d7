//! The time that waits which end in destruction are measured in.
//!
//! A sum of a node's monotonic time, never more than its wall clock saw: a clock that jumps forward adds no
//! more than really passed, one that jumps back adds nothing, and time while the node was down is not counted.

use std::time::Duration;

use jiff::Timestamp;

use crate::Monotonic;

/// The time that a node has served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elapsed {
    total: Duration,
    last: Option<(Monotonic, Timestamp)>,
}

impl Elapsed {
    /// Goes on from what was recorded before this boot.
    pub fn resume(total: Duration) -> Self {
        Self { total, last: None }
    }

    /// Adds what passed since the last observation.
    pub fn observe(&mut self, monotonic: Monotonic, wall: Timestamp) -> Duration {
        if let Some((last_monotonic, last_wall)) = self.last {
            let by_monotonic = monotonic.saturating_sub(last_monotonic);
            let by_wall = Duration::try_from(wall.duration_since(last_wall)).unwrap_or(Duration::ZERO);
            self.total += by_monotonic.min(by_wall);
        }
        self.last = Some((monotonic, wall));
        self.total
    }

    /// The sum so far.
    pub fn total(&self) -> Duration {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ends_no_wait() {
        let start = Timestamp::from_second(1_000_000_000).unwrap();
        let at = |seconds: i64| start + jiff::SignedDuration::from_secs(seconds);
        let second = Duration::from_secs;
        let mut elapsed = Elapsed::resume(second(100));
        assert_eq!(elapsed.observe(second(5), at(0)), second(100));
        assert_eq!(elapsed.observe(second(15), at(10)), second(110));
        // A year forwards, in a second.
        assert_eq!(elapsed.observe(second(16), at(31_536_000)), second(111));
        // And back again.
        assert_eq!(elapsed.observe(second(17), at(12)), second(111));
        // A suspended machine: the wall clock went on, the monotonic one did not.
        assert_eq!(elapsed.observe(second(18), at(4000)), second(112));
    }
}
