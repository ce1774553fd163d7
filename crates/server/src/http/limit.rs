//! How many refused parts an address may give before they are looked into no longer. A right share is never asked
//! for its allowance: whoever else floods from the same address, it counts.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use keymoot_api::Problem;
use keymoot_types::ErrorCode;
use metrics::{Counter, counter};

use super::problem::later_than;
use crate::listen::network;

/// Ten whole files of two dozen wrong versions each: no mistake gets there, and no guessing gets anywhere.
const BURST: NonZeroU32 = NonZeroU32::new(240).unwrap();
/// One more after each of these.
const REFILL: Duration = Duration::from_secs(1);
/// Addresses that are known at once; beyond them all others share one allowance.
const ADDRESSES_MAX: usize = 10_000;
/// How often those that have all of their allowance again may be looked for.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How often the log speaks of one address.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Addresses that the log speaks of in that time.
const REPORTS_MAX: usize = 64;

/// The allowance of every address.
pub struct RefusedParts<C: Clock = DefaultClock> {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    reports: Mutex<Reports>,
    turned_away: Counter,
}

#[derive(Default)]
struct Reports {
    tidied: Option<Instant>,
    of: HashMap<IpAddr, Report>,
}

#[derive(Default)]
struct Report {
    last: Option<Instant>,
    calls: u64,
}

impl std::default::Default for RefusedParts {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> RefusedParts<C> {
    fn with_clock(clock: C) -> Self {
        let quota = Quota::with_period(REFILL).map_or(Quota::per_second(BURST), |quota| quota.allow_burst(BURST));
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()),
            clock,
            reports: Mutex::default(),
            turned_away: counter!("keymoot_parts_rate_limited_total"),
        }
    }

    /// Counts so many refused parts of this address, or says that they are too many. Nothing is counted then.
    pub fn count(&self, from: IpAddr, parts: usize) -> Result<(), Problem> {
        let from = self.known(network(from));
        let parts = u32::try_from(parts).unwrap_or(u32::MAX).min(BURST.get());
        let Some(parts) = NonZeroU32::new(parts) else { return Ok(()) };
        // More than the burst it can't be, so the outer answer is always there.
        let Ok(Err(not_until)) = self.limiter.check_key_n(&from, parts) else { return Ok(()) };
        self.turned_away.increment(1);
        if let Some(calls) = self.report(from, Instant::now()) {
            tracing::warn!(%from, calls, "an address gives more wrong parts than anybody has: answered 429, not logged");
        }
        let wait = not_until.wait_time_from(self.clock.now());
        let detail = "too many wrong parts came from this address; a right share is taken all the same";
        Err(later_than(wait, ErrorCode::RateLimited, detail))
    }

    /// The address under which it is counted.
    fn known(&self, from: IpAddr) -> IpAddr {
        if self.limiter.len() < ADDRESSES_MAX {
            return from;
        }
        let mut reports = self.reports();
        let now = Instant::now();
        if reports.tidied.is_none_or(|last| now.saturating_duration_since(last) >= TIDY_EVERY) {
            reports.tidied = Some(now);
            self.limiter.retain_recent();
        }
        if self.limiter.len() < ADDRESSES_MAX { from } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    /// How many calls were turned away since the log last spoke of this address, when it is to speak again.
    fn report(&self, from: IpAddr, now: Instant) -> Option<u64> {
        let due =
            |report: &Report| report.last.is_none_or(|last| now.saturating_duration_since(last) >= REPORT_EVERY);
        let mut reports = self.reports();
        if reports.of.len() >= REPORTS_MAX && !reports.of.contains_key(&from) {
            reports.of.retain(|_, report| !due(report));
            if reports.of.len() >= REPORTS_MAX {
                return None;
            }
        }
        let report = reports.of.entry(from).or_default();
        report.calls += 1;
        due(report).then(|| {
            report.last = Some(now);
            std::mem::take(&mut report.calls)
        })
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_address_that_is_over_its_allowance_waits_for_it_and_no_other_does() {
        let clock = FakeRelativeClock::default();
        let limit = RefusedParts::with_clock(clock.clone());
        let burst = BURST.get() as usize;
        limit.count(v4(1), burst - 1).unwrap();
        limit.count(v4(1), 1).unwrap();
        let problem = limit.count(v4(1), 10).unwrap_err();
        assert_eq!((problem.code, problem.status), (ErrorCode::RateLimited, 429));
        assert!((10_000..12_000).contains(&problem.retry_after_ms.unwrap()), "{problem:?}");
        limit.count(v4(2), burst).unwrap();
        limit.count(v4(1), 0).unwrap();
        for _ in 0..100 {
            limit.count(v4(1), 10).unwrap_err();
        }
        clock.advance(10 * REFILL);
        limit.count(v4(1), 10).unwrap();
        limit.count(v4(1), 1).unwrap_err();
        // A call with more parts than there ever is allowance for is not refused for good.
        clock.advance(BURST.get() * REFILL);
        limit.count(v4(1), 10 * burst).unwrap();
    }

    #[test]
    fn the_addresses_of_one_network_share_an_allowance() {
        let limit = RefusedParts::with_clock(FakeRelativeClock::default());
        let burst = BURST.get() as usize;
        for (first, second, together) in [
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.2", "192.0.2.3", false),
        ] {
            limit.count(first.parse().unwrap(), burst).unwrap();
            assert_eq!(limit.count(second.parse().unwrap(), 1).is_err(), together, "{first} {second}");
        }
    }

    #[test]
    fn the_memory_of_addresses_is_bounded_and_forgets_those_that_have_all_again() {
        let clock = FakeRelativeClock::default();
        let limit = RefusedParts::with_clock(clock.clone());
        let addresses = u32::try_from(ADDRESSES_MAX).unwrap();
        let counted = (0..2 * addresses).filter(|number| limit.count(v4(*number), 1).is_ok()).count();
        assert!(limit.limiter.len() <= ADDRESSES_MAX + 1);
        // Those over the bound have one allowance together.
        assert_eq!(counted, ADDRESSES_MAX + BURST.get() as usize);
        clock.advance(2 * BURST.get() * REFILL);
        limit.reports().tidied = None;
        limit.count(v4(addresses), 1).unwrap();
        assert_eq!(limit.limiter.len(), 1);
    }

    #[test]
    fn the_log_speaks_of_an_address_once_a_minute_and_of_so_many_addresses() {
        let limit = RefusedParts::with_clock(FakeRelativeClock::default());
        let now = Instant::now();
        assert_eq!(limit.report(v4(1), now), Some(1));
        for _ in 0..1_000 {
            assert_eq!(limit.report(v4(1), now), None);
        }
        let spoken = (2..1_000).filter(|number| limit.report(v4(*number), now).is_some()).count();
        assert_eq!(spoken, REPORTS_MAX - 1);
        assert_eq!(limit.report(v4(1), now + REPORT_EVERY), Some(1_001));
        assert_eq!(limit.report(v4(2_000), now + REPORT_EVERY), Some(1));
        assert_eq!(limit.reports().of.len(), 2, "those of whom nothing is to be said are forgotten");
    }
}
