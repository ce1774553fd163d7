//! How much callers can make us write: refusals, and right shares that are given again and again, are written in full
//! up to a number, beyond that counted.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use keymoot_types::{
    HolderName,
    audit::{Entry, Phase},
};
use serde_json::{Value as Json, json};

use crate::listen::network;

const WINDOW: Duration = Duration::from_secs(60);
/// Refused calls of one address in a window.
const OF_ADDRESS_MAX: u32 = 20;
/// Calls with one holder's right share in a window: far more than any ceremony asks for.
const OF_HOLDER_MAX: u32 = 240;
/// Lines of all addresses in a window.
const OF_ALL_MAX: u32 = 100;
/// Addresses that are told apart; the rest is counted together.
const ADDRESSES_MAX: usize = 64;

/// Counts refusals by address, and right shares by holder.
#[derive(Default)]
pub(super) struct Quota {
    began: Option<Instant>,
    lines: u32,
    of: BTreeMap<Option<IpAddr>, Count>,
    /// No more than there are in the manifest: only a right share counts.
    holders: BTreeMap<HolderName, Count>,
}

#[derive(Default)]
struct Count {
    lines: u32,
    left_out: u64,
}

impl Count {
    fn admits(&mut self, max: u32) -> bool {
        let admitted = self.lines < max;
        if admitted {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        admitted
    }
}

impl Quota {
    /// Whether one more may be written; if not, it is counted.
    pub(super) fn admits(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        self.began.get_or_insert(now);
        let from = from.map(network);
        let known = self.of.len() < ADDRESSES_MAX || self.of.contains_key(&from);
        let admitted = self
            .of
            .entry(if known { from } else { None })
            .or_default()
            .admits(if self.lines < OF_ALL_MAX { OF_ADDRESS_MAX } else { 0 });
        self.lines += u32::from(admitted);
        admitted
    }

    /// Whether one more call with right shares of these holders may be written; if not, it is counted. No stranger
    /// uses up a holder's room.
    pub(super) fn admits_holders(&mut self, holders: &[HolderName], now: Instant) -> bool {
        self.began.get_or_insert(now);
        let counts =
            holders.iter().map(|holder| self.holders.entry(holder.clone()).or_default().admits(OF_HOLDER_MAX));
        // Each is counted, so this does not end at the first.
        counts.fold(false, |any, admitted| any | admitted)
    }

    /// Once a window is over: what was only counted in it, if anything.
    pub(super) fn summary(&mut self, now: Instant) -> Option<Entry> {
        let began = self.began.filter(|began| now.saturating_duration_since(*began) >= WINDOW)?;
        let Self { of, holders, .. } = std::mem::take(self);
        let left_out: Vec<_> = of.iter().filter(|(_, count)| count.left_out > 0).collect();
        let repeated: Vec<Json> = holders
            .iter()
            .filter(|(_, count)| count.left_out > 0)
            .map(|(holder, count)| json!({"holder": holder, "repeated": count.left_out}))
            .collect();
        if left_out.is_empty() && repeated.is_empty() {
            return None;
        }
        let addresses: Vec<Json> =
            left_out.iter().map(|(from, count)| json!({"from": from, "refused": count.left_out})).collect();
        let total: u64 = left_out.iter().map(|(_, count)| count.left_out).sum();
        Some(
            Entry::new("calls-left-out", Phase::Note)
                .fact("refused", total)
                .fact("within_s", now.saturating_duration_since(began).as_secs())
                .fact("addresses", addresses)
                .fact("holders", repeated),
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

    #[test]
    fn a_holder_who_gives_the_same_share_again_and_again_is_counted_and_takes_nobody_elses_room() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let names = ["h1", "h2"].map(|name| name.parse::<HolderName>().unwrap());
        let [first, second] = &names;
        let written = (0..1000).filter(|_| quota.admits_holders(std::slice::from_ref(first), now)).count();
        assert_eq!(written, 240);
        assert!(quota.admits_holders(&[first.clone(), second.clone()], now), "the second is heard");
        assert!(quota.admits(address(1), now), "and so are strangers");
        for n in 0..100_000 {
            quota.admits(address(n), now);
        }
        assert!(quota.admits_holders(std::slice::from_ref(second), now), "whatever strangers do");
        let summary = serde_json::to_value(quota.summary(now + WINDOW).unwrap()).unwrap();
        assert_eq!(summary["facts"]["holders"], json!([{"holder": "h1", "repeated": 761}]));
        assert!(quota.admits_holders(&names, now + WINDOW), "a new minute");
    }
}
