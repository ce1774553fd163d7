//! How much strangers can make us write: refusals are written in full up to a number, beyond that counted.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use keymoot_types::audit::{Entry, Phase};
use serde_json::{Value as Json, json};

use crate::listen::network;

const WINDOW: Duration = Duration::from_secs(60);
/// Lines of one address in a window.
const OF_ONE_MAX: u32 = 20;
/// Lines of all addresses in a window.
const OF_ALL_MAX: u32 = 100;
/// Addresses that are told apart; the rest is counted together.
const ADDRESSES_MAX: usize = 64;

/// Counts refusals by address.
#[derive(Default)]
pub(super) struct Quota {
    began: Option<Instant>,
    lines: u32,
    of: BTreeMap<Option<IpAddr>, Count>,
}

#[derive(Default)]
struct Count {
    lines: u32,
    left_out: u64,
}

impl Quota {
    /// Whether one more may be written; if not, it is counted.
    pub(super) fn admits(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        self.began.get_or_insert(now);
        let from = from.map(network);
        let known = self.of.len() < ADDRESSES_MAX || self.of.contains_key(&from);
        let count = self.of.entry(if known { from } else { None }).or_default();
        if self.lines < OF_ALL_MAX && count.lines < OF_ONE_MAX {
            self.lines += 1;
            count.lines += 1;
            return true;
        }
        count.left_out += 1;
        false
    }

    /// Once a window is over: what was only counted in it, if anything.
    pub(super) fn summary(&mut self, now: Instant) -> Option<Entry> {
        let began = self.began.filter(|began| now.saturating_duration_since(*began) >= WINDOW)?;
        let Self { of, .. } = std::mem::take(self);
        let left_out: Vec<_> = of.iter().filter(|(_, count)| count.left_out > 0).collect();
        if left_out.is_empty() {
            return None;
        }
        let addresses: Vec<Json> =
            left_out.iter().map(|(from, count)| json!({"from": from, "refused": count.left_out})).collect();
        let total: u64 = left_out.iter().map(|(_, count)| count.left_out).sum();
        Some(
            Entry::new("refusals-left-out", Phase::Note)
                .fact("refused", total)
                .fact("within_s", now.saturating_duration_since(began).as_secs())
                .fact("addresses", addresses),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from(n).into())
    }

    #[test]
    fn a_flood_of_refusals_becomes_a_few_lines_and_a_count() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let written = (0..10_000).filter(|_| quota.admits(address(1), now)).count();
        assert_eq!(written, 20);
        assert!(quota.admits(address(2), now), "another address is heard");
        let all = (0..100_000).filter(|n| quota.admits(address(*n), now)).count();
        assert_eq!(all, 100 - 21, "however many addresses there are");
        assert!(quota.of.len() <= ADDRESSES_MAX + 1);
        assert!(quota.summary(now).is_none());
        let summary = serde_json::to_value(quota.summary(now + WINDOW).unwrap()).unwrap();
        assert_eq!(summary["facts"]["refused"], 9_980 + 100_000 - 79);
        assert!(quota.summary(now + 2 * WINDOW).is_none());
        assert!(quota.admits(address(1), now + WINDOW), "a new minute");
    }
}
