//! New shares of a version whose key stays the same. Faults 3 to 5 of `docs/track-record.md`, across share sets.

mod common;

use std::sync::Arc;

use common::{interpolate, key_check_of, key_id_of, keyring_id, name, number, pairs, share_set};
use keymoot_keyring::{
    Keyring, Validated,
    key_check::share_digest,
    shamir::{self, ShamirError},
    stage::{Reshared, Staged, known_shares, reshare, stage},
};
use keymoot_types::{Digest, HolderName, Share, manifest::ShareSet};
use proptest::prelude::*;

const HOLDERS: usize = 24;

fn holders(count: usize) -> Vec<(HolderName, Option<String>)> {
    let recipient = |n: usize| n.is_multiple_of(2).then(|| format!("age1{n}"));
    (1..=count).map(|n| (format!("holder-{n}").parse().unwrap(), recipient(n))).collect()
}

fn staged(threshold: u8, count: usize) -> Staged {
    stage(keyring_id(), number(12), threshold, &holders(count)).unwrap()
}

fn reshared(of: &Staged, threshold: u8, count: usize) -> Reshared {
    reshare(&of.validated, 2, threshold, &holders(count)).unwrap()
}

/// The key that these shares make, if it is the one that this record speaks of.
fn proved(of: &Validated, set: &ShareSet, shares: &[&Share]) -> Option<Validated> {
    let threshold = u8::try_from(shares.len()).unwrap();
    shamir::rebuild(threshold, shares).unwrap().validate(of.key_id(), set).ok()
}

/// Every choice of `take` of the numbers below `of`, ascending.
fn choices(of: usize, take: usize) -> Vec<Vec<usize>> {
    (0_u32..1 << of)
        .filter(|mask| mask.count_ones() as usize == take)
        .map(|mask| (0..of).filter(|at| mask & (1 << at) != 0).collect())
        .collect()
}

#[test]
fn a_reshare_keeps_the_identity_and_every_derived_key() {
    let keys = [name("pii"), name("auth")];
    for (threshold, new_threshold) in [(2, 2), (2, 3), (3, 2), (3, 24), (24, 2), (24, 24)] {
        let old = staged(threshold, HOLDERS);
        let new = reshared(&old, new_threshold, HOLDERS);
        let last: Vec<&Share> = new.shares.iter().rev().take(new_threshold.into()).collect();
        let rebuilt = proved(&old.validated, &new.share_set, &last).unwrap();
        let before = &old.validated;
        assert_eq!((rebuilt.version(), rebuilt.key_id()), (before.version(), before.key_id()));
        assert_eq!(rebuilt.public_key(), before.public_key());
        assert_eq!(rebuilt.manifest_mac_of(b"{}"), before.manifest_mac_of(b"{}"));
        assert_eq!(rebuilt.record_mac("proof", b"x"), before.record_mac("proof", b"x"));
        let before = Keyring::new([before.clone()], Some(number(12)), &keys);
        let after = Keyring::new([Arc::new(rebuilt)], Some(number(12)), &keys);
        for key in &keys {
            for (sealer, opener) in [(&before, &after), (&after, &before)] {
                let value = sealer.encrypt(key, b"plain", b"row 7").unwrap();
                assert_eq!(opener.decrypt(key, &value, b"row 7").unwrap().as_slice(), b"plain");
            }
        }
        // In the other implementation too.
        let first: Vec<&Share> = old.shares.iter().take(threshold.into()).collect();
        assert_eq!(interpolate(&last), interpolate(&first));
    }
}

#[test]
fn fault_05_all_276_pairs_of_a_new_set_of_24_bring_back_the_key() {
    let old = staged(2, HOLDERS);
    let new = reshared(&old, 2, HOLDERS);
    let mut tried = 0;
    for [a, b] in pairs(&new.shares) {
        tried += 1;
        let rebuilt = proved(&old.validated, &new.share_set, &[a, b]).unwrap();
        assert_eq!(rebuilt.key_id(), old.validated.key_id());
        assert!(proved(&old.validated, &new.share_set, &[b, a]).is_some());
    }
    assert_eq!(tried, 276);
}

#[test]
fn fault_03_no_pair_of_an_old_and_a_new_share_makes_the_key() {
    let old = staged(2, HOLDERS);
    let new = reshared(&old, 2, HOLDERS);
    let (mut mixed, mut repeated) = (0, 0);
    for a in &old.shares {
        for b in &new.shares {
            assert_ne!(share_digest(a), share_digest(b));
            if a.x() == b.x() {
                repeated += 1;
                assert_eq!(shamir::rebuild(2, &[a, b]).err(), Some(ShamirError::RepeatedX(a.x())));
                continue;
            }
            mixed += 1;
            for shares in [[a, b], [b, a]] {
                for set in [&old.share_set, &new.share_set] {
                    assert!(proved(&old.validated, set, &shares).is_none(), "{a:?} {b:?}");
                }
            }
        }
    }
    assert_eq!((mixed, repeated), (24 * 23, 24));
}

#[test]
fn fault_03_no_mix_of_old_and_new_shares_of_threshold_size_makes_the_key() {
    // Every choice of three of twelve shares, six old and six new: right exactly where all are of one set.
    let old = staged(3, 6);
    let new = reshared(&old, 3, 6);
    let all: Vec<&Share> = old.shares.iter().chain(&new.shares).collect();
    let (mut of_one_set, mut of_both) = (0, 0);
    for choice in choices(12, 3) {
        let shares: Vec<&Share> = choice.iter().map(|at| all[*at]).collect();
        let rebuilt = shamir::rebuild(3, &shares);
        if choice.iter().all(|at| *at < 6) || choice.iter().all(|at| *at >= 6) {
            of_one_set += 1;
            assert!(rebuilt.unwrap().validate(old.validated.key_id(), &new.share_set).is_ok());
        } else if let Ok(rebuilt) = rebuilt {
            of_both += 1;
            assert!(rebuilt.validate(old.validated.key_id(), &new.share_set).is_err(), "{choice:?}");
        }
    }
    assert_eq!((of_one_set, of_both), (2 * 20, 2 * 6 * 10));
    // All of 24 are needed: one old among 23 new ones spoils it, and one new among 23 old ones.
    let old = staged(24, HOLDERS);
    let new = reshared(&old, 24, HOLDERS);
    for (many, one) in [(&new.shares, &old.shares), (&old.shares, &new.shares)] {
        for at in 0..HOLDERS {
            let mut shares: Vec<&Share> = many.iter().collect();
            assert!(proved(&old.validated, &new.share_set, &shares).is_some());
            shares[at] = &one[at];
            assert!(proved(&old.validated, &new.share_set, &shares).is_none(), "{at}");
        }
    }
}

#[test]
fn a_new_threshold_is_exactly_that() {
    let old = staged(2, HOLDERS);
    for threshold in [3, 24] {
        let new = reshared(&old, threshold, HOLDERS);
        let shares: Vec<&Share> = new.shares.iter().collect();
        for fewer in 2..usize::from(threshold) {
            assert!(proved(&old.validated, &new.share_set, &shares[..fewer]).is_none(), "{fewer} of {threshold}");
        }
        assert!(proved(&old.validated, &new.share_set, &shares[..threshold.into()]).is_some());
    }
    let high = staged(24, HOLDERS);
    let low = reshared(&high, 2, 2);
    assert!(proved(&high.validated, &low.share_set, &[&low.shares[0], &low.shares[1]]).is_some());
}

#[test]
fn the_old_set_still_rebuilds_the_key_so_a_reshare_revokes_nothing() {
    let old = staged(2, HOLDERS);
    let new = reshared(&old, 3, 5);
    for [a, b] in pairs(&old.shares) {
        // Under its own record, and the new one knows the key as well: only digests tell the sets apart.
        assert!(proved(&old.validated, &old.share_set, &[a, b]).is_some());
        assert!(proved(&old.validated, &new.share_set, &[a, b]).is_some());
    }
}

#[test]
fn the_record_of_a_new_set_commits_to_key_threshold_and_shares() {
    for threshold in [2, 3, 24] {
        let old = staged(2, HOLDERS);
        let Reshared { shares, share_set } = reshared(&old, threshold, HOLDERS);
        let root = interpolate(&shares.iter().take(threshold.into()).collect::<Vec<_>>());
        assert_eq!(key_id_of(&root, keyring_id()), old.validated.key_id());
        assert_eq!(key_check_of(&root, keyring_id(), number(12), &share_set), share_set.key_check);
        assert_ne!(share_set.key_check, old.share_set.key_check);
        assert_eq!((share_set.set, share_set.threshold), (2, threshold));
        assert_eq!((share_set.replaced.len(), share_set.pending.is_none()), (0, true));
        for (((name, recipient), share), holder) in holders(HOLDERS).iter().zip(&shares).zip(&share_set.holders) {
            assert_eq!((&holder.name, &holder.recipient), (name, recipient));
            assert_eq!((holder.x, holder.digest), (share.x(), share_digest(share)));
            assert_eq!((share.version(), share.keyring_id()), (number(12), keyring_id()));
        }
        let damaged: [&dyn Fn(&mut ShareSet); 6] = [
            &|set| set.threshold += 1,
            &|set| set.holders[3].digest = Digest::new([7; 32]),
            &|set| set.holders.swap(0, 1),
            &|set| drop(set.holders.pop()),
            &|set| set.holders[23].x = 25.try_into().unwrap(),
            &|set| set.key_check = old.share_set.key_check,
        ];
        let right: Vec<&Share> = shares.iter().take(threshold.into()).collect();
        assert!(proved(&old.validated, &share_set, &right).is_some());
        for damage in damaged {
            let mut set = share_set.clone();
            damage(&mut set);
            assert!(proved(&old.validated, &set, &right).is_none());
        }
    }
}

#[test]
fn thresholds_that_hand_out_the_key_or_can_not_be_met_are_refused() {
    let old = staged(2, 2);
    for (threshold, count) in [(0, 5), (1, 5), (2, 0), (2, 1), (6, 5), (2, 256), (255, 256)] {
        let refused = reshare(&old.validated, 2, threshold, &holders(count)).err();
        assert_eq!(refused, Some(ShamirError::Threshold(threshold)), "{threshold} of {count}");
    }
    assert_eq!(reshare(&old.validated, 2, 255, &holders(255)).unwrap().shares.len(), 255);
}

#[test]
fn the_record_of_known_shares_is_that_of_the_shares_that_are_known() {
    let old = staged(3, 7);
    let all = share_set(3, Digest::new([0; 32]), &old.shares);
    for take in 3..=7 {
        for choice in choices(7, take) {
            // In whatever order they came.
            let known = choice.iter().rev().map(|at| all.holders[*at].clone()).collect();
            let set = known_shares(&old.validated, 3, known);
            assert!(set.holders.is_sorted_by_key(|holder| holder.x));
            assert_eq!((set.set, set.threshold, set.holders.len()), (1, 3, take));
            let shares: Vec<&Share> = choice.iter().take(3).map(|at| &old.shares[*at]).collect();
            assert!(proved(&old.validated, &set, &shares).is_some());
            assert_eq!(set.key_check == old.share_set.key_check, take == 7);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_reshares_any_threshold_of_the_last_set_makes_the_key(
        chain in prop::collection::vec((2_u8..=6, 0_usize..=4), 1..5),
        order in Just((0..10).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let first = staged(2, 3);
        let mut current = Reshared { shares: vec![], share_set: first.share_set.clone() };
        let mut threshold = 2;
        for (at, (next, more)) in chain.iter().enumerate() {
            // Each from the key as the set before brought it back.
            let made_from = match current.shares.get(..usize::from(threshold)) {
                Some(shares) => Arc::new(
                    proved(&first.validated, &current.share_set, &shares.iter().collect::<Vec<_>>()).unwrap(),
                ),
                None => first.validated.clone(),
            };
            threshold = *next;
            let set = u32::try_from(at).unwrap() + 2;
            current = reshare(&made_from, set, threshold, &holders(usize::from(threshold) + more)).unwrap();
            prop_assert_eq!(current.share_set.set, set);
        }
        let mut shares: Vec<&Share> = order.iter().filter_map(|at| current.shares.get(*at)).collect();
        shares.truncate(threshold.into());
        prop_assert!(proved(&first.validated, &current.share_set, &shares).is_some());
        if threshold > 2 {
            prop_assert!(proved(&first.validated, &current.share_set, &shares[1..]).is_none());
        }
    }
}
