//! Shares under attack: damaged, mixed, repeated, too few. Faults 1 and 3 to 5 of `docs/track-record.md`.

mod common;

use common::{
    copy, evaluate, flipped, interpolate, key_check_of, key_id_of, keyring_id, number, orders, pairs, payload,
    share, share_set, version_of, versions,
};
use keymoot_keyring::{
    derive::RootKey,
    key_check::share_digest,
    shamir::{self, ShamirError},
    stage::{Staged, stage},
};
use keymoot_types::{Digest, HolderName, KeyringId, Share, share::ShareError};
use proptest::prelude::*;

fn staged(threshold: u8, count: usize) -> Staged {
    let holders: Vec<(HolderName, Option<String>)> =
        (0..count).map(|n| (format!("holder-{n}").parse().unwrap(), None)).collect();
    stage(keyring_id(), number(12), threshold, &holders).unwrap()
}

#[test]
fn fault_01_every_bit_flip_of_a_payload_is_refused_or_has_a_digest_of_no_share() {
    let (mut flips, mut refused) = (0, 0);
    for version in versions() {
        let digests: Vec<Digest> = version.shares.iter().map(share_digest).collect();
        for (share, own) in version.shares.iter().zip(&version.set.holders) {
            let payload = payload(share);
            assert_eq!(share_digest(&Share::from_payload(&payload).unwrap()), own.digest);
            for bit in 0..payload.len() * 8 {
                flips += 1;
                match Share::from_payload(&flipped(&payload, bit)) {
                    Err(ShareError::Malformed(_)) => refused += 1,
                    Err(error) => panic!("{error}"),
                    Ok(damaged) => {
                        assert!(!digests.contains(&share_digest(&damaged)), "{share:?} bit {bit}");
                        // Under a right checksum too: only the digest tells.
                        let damaged = copy(&damaged);
                        assert!(!digests.contains(&share_digest(&damaged)), "{share:?} bit {bit}");
                    }
                }
            }
        }
    }
    assert_eq!(flips, (2 * 24 + 6 * 7) * 46 * 8);
    // The eight bits of each type byte, and the single bits whose loss makes a version or an x of zero.
    assert!(refused >= 90 * 8, "{refused}");
}

#[test]
fn fault_01_every_bit_flip_that_was_not_caught_before_is_caught_by_the_key_check() {
    let version = version_of(9);
    let [first, second] = [&version.shares[4], &version.shares[19]];
    for bit in 0..32 * 8 {
        let y = flipped(first.y(), bit).try_into().unwrap();
        let damaged = share(first.keyring_id(), first.version(), first.x().get(), y);
        assert!(!version.opens_with(&[&damaged, second]), "bit {bit}");
        assert!(!version.opens_with(&[second, &damaged]), "bit {bit}");
    }
}

#[test]
fn fault_03_shares_of_two_versions_or_two_keyrings_make_no_key() {
    let versions = versions();
    for [one, other] in pairs(&versions) {
        for (a, b) in [(one, other), (other, one)] {
            let enough = usize::from(a.threshold) - 1;
            let mut mixed: Vec<&Share> = a.shares.iter().take(enough).collect();
            mixed.push(&b.shares[6]);
            assert_eq!(shamir::rebuild(a.threshold, &mixed).err(), Some(ShamirError::Mixed));
            // Also behind enough good ones, where it would not be used.
            let mut behind: Vec<&Share> = a.shares.iter().take(enough + 1).collect();
            behind.push(&b.shares[6]);
            assert_eq!(shamir::rebuild(a.threshold, &behind).err(), Some(ShamirError::Mixed));
        }
    }
    for version in &versions {
        let foreign =
            |share: &Share| common::share(KeyringId::new([7; 8]), share.version(), share.x().get(), *share.y());
        let mut mixed: Vec<Share> = version.shares.iter().map(copy).collect();
        mixed[0] = foreign(&mixed[0]);
        let mixed: Vec<&Share> = mixed.iter().collect();
        assert_eq!(shamir::rebuild(version.threshold, &mixed).err(), Some(ShamirError::Mixed));
        // All of one foreign keyring: a key is rebuilt, and it is not this one.
        let all: Vec<Share> = version.shares.iter().map(foreign).collect();
        assert!(!version.opens_with(&all.iter().collect::<Vec<_>>()));
    }
}

#[test]
fn fault_03_a_share_relabelled_to_another_version_or_keyring_proves_nothing() {
    let (nine, ten) = (version_of(9), version_of(10));
    for (from, to) in [(&nine, &ten), (&ten, &nine)] {
        for stolen in &from.shares {
            let relabelled = share(keyring_id(), to.number, stolen.x().get(), *stolen.y());
            assert!(!to.set.holders.iter().any(|holder| holder.digest == share_digest(&relabelled)));
            let partner = to.shares.iter().find(|share| share.x() != relabelled.x()).unwrap();
            assert!(!to.opens_with(&[&relabelled, partner]));
        }
        let all: Vec<Share> =
            from.shares.iter().map(|s| share(keyring_id(), to.number, s.x().get(), *s.y())).collect();
        assert!(!to.opens_with(&all.iter().collect::<Vec<_>>()));
    }
}

#[test]
fn fault_04_a_repeated_x_is_refused_by_name() {
    for version in versions() {
        for repeated in &version.shares {
            let again = copy(repeated);
            let other = share(repeated.keyring_id(), repeated.version(), repeated.x().get(), [0x5a; 32]);
            for second in [&again, &other] {
                // Alone, among too few, and beside enough distinct ones.
                for rest in 0..version.shares.len() {
                    let distinct = version.shares.iter().filter(|share| share.x() != repeated.x()).take(rest);
                    let shares: Vec<&Share> = [repeated].into_iter().chain(distinct).chain([second]).collect();
                    let refused = shamir::rebuild(version.threshold, &shares).err();
                    assert_eq!(refused, Some(ShamirError::RepeatedX(repeated.x())));
                }
            }
        }
    }
}

#[test]
fn fault_04_an_x_of_zero_can_not_be_expressed_and_255_is_an_x() {
    let mut zero = payload(&version_of(9).shares[0]);
    zero[13] = 0;
    assert!(matches!(Share::from_payload(&zero), Err(ShareError::Malformed(_))));
    let root = [0x42; 32];
    let shares = shamir::split(&RootKey::from_bytes(Box::new(root)), keyring_id(), number(3), 2, 255).unwrap();
    assert_eq!(shares.iter().map(|share| share.x().get()).collect::<Vec<_>>(), (1..=255).collect::<Vec<_>>());
    let set = {
        let mut set = share_set(2, Digest::new([0; 32]), &shares);
        set.key_check = key_check_of(&root, keyring_id(), number(3), &set);
        set
    };
    for share in shares.iter().take(254) {
        let rebuilt = shamir::rebuild(2, &[share, &shares[254]]).unwrap();
        assert!(rebuilt.validate(key_id_of(&root, keyring_id()), &set).is_ok());
    }
}

#[test]
fn fault_04_thresholds_that_hand_out_the_key_or_can_not_be_met_are_refused() {
    let root = || RootKey::from_bytes(Box::new([1; 32]));
    for (threshold, count) in [(0, 0), (0, 5), (1, 1), (1, 255), (2, 0), (2, 1), (3, 2), (255, 254)] {
        let split = shamir::split(&root(), keyring_id(), number(1), threshold, count).err();
        assert_eq!(split, Some(ShamirError::Threshold(threshold)), "{threshold} of {count}");
    }
    assert_eq!(shamir::split(&root(), keyring_id(), number(1), 255, 255).unwrap().len(), 255);
    let shares = version_of(9).shares;
    for threshold in [0, 1] {
        let rebuilt = shamir::rebuild(threshold, &shares.iter().collect::<Vec<_>>()).err();
        assert_eq!(rebuilt, Some(ShamirError::Threshold(threshold)));
    }
}

#[test]
fn fault_04_one_bad_share_among_more_than_enough_never_makes_a_wrong_key_valid() {
    let version = version_of(1);
    for bad in 0..version.shares.len() {
        let mut shares: Vec<Share> = version.shares.iter().map(copy).collect();
        shares[bad] = share(keyring_id(), version.number, shares[bad].x().get(), [0xee; 32]);
        let used = bad < usize::from(version.threshold);
        assert_eq!(version.opens_with(&shares.iter().collect::<Vec<_>>()), !used, "bad at {bad}");
    }
}

#[test]
fn fault_05_all_276_pairs_of_24_bring_back_the_same_key_in_both_implementations() {
    for version in [version_of(9), version_of(10)] {
        let mut tried = 0;
        for [a, b] in pairs(&version.shares) {
            tried += 1;
            assert!(version.opens_with(&[a, b]) && version.opens_with(&[b, a]), "{a:?} {b:?}");
            assert_eq!(interpolate(&[a, b]), version.root);
        }
        assert_eq!(tried, 276);
    }
    let fresh = staged(2, 24);
    let root = interpolate(&[&fresh.shares[0], &fresh.shares[23]]);
    assert_eq!(key_id_of(&root, keyring_id()), fresh.validated.key_id());
    assert_eq!(key_check_of(&root, keyring_id(), number(12), &fresh.share_set), fresh.share_set.key_check);
    let mut tried = 0;
    for [a, b] in pairs(&fresh.shares) {
        tried += 1;
        let rebuilt = shamir::rebuild(2, &[a, b]).unwrap();
        assert_eq!(
            rebuilt.validate(fresh.validated.key_id(), &fresh.share_set).unwrap().key_id(),
            fresh.validated.key_id()
        );
        assert_eq!(interpolate(&[a, b]), root);
    }
    assert_eq!(tried, 276);
}

#[test]
fn fault_05_fewer_than_the_threshold_are_refused_with_both_numbers() {
    for version in versions() {
        let needed = version.threshold;
        for given in 0..usize::from(needed) {
            for order in orders(version.shares.len(), given.min(2)) {
                let mut shares: Vec<&Share> = order.iter().map(|at| &version.shares[*at]).collect();
                let rest = version.shares.iter().filter(|share| !shares.iter().any(|s| s.x() == share.x()));
                shares.extend(rest.take(given - order.len()).collect::<Vec<_>>());
                assert_eq!(shares.len(), given);
                let error = shamir::rebuild(needed, &shares).err().unwrap();
                assert_eq!(error, ShamirError::TooFew { needed, given });
                assert_eq!(error.to_string(), format!("{needed} shares are needed and {given} were given"));
            }
        }
    }
}

#[test]
fn fault_05_every_choice_in_every_order_brings_back_thresholds_of_four_and_five() {
    for (version, choices) in [(version_of(1), 840), (version_of(11), 2520)] {
        let orders = orders(7, version.threshold.into());
        assert_eq!(orders.len(), choices);
        for order in orders {
            let shares: Vec<&Share> = order.iter().map(|at| &version.shares[*at]).collect();
            assert!(version.opens_with(&shares), "{order:?}");
            assert_eq!(interpolate(&shares), version.root);
        }
    }
}

#[test]
fn fault_05_one_share_fewer_than_needed_tells_nothing_of_the_key() {
    // Under a threshold that was lowered behind its back, interpolation goes wrong and the key check sees it.
    for version in versions().iter().filter(|version| version.threshold > 2) {
        let shares: Vec<&Share> = version.shares.iter().collect();
        for lowered in 2..version.threshold {
            let rebuilt = shamir::rebuild(lowered, &shares).unwrap();
            assert!(rebuilt.validate(version.key_id, &version.set).is_err());
        }
    }
}

#[derive(Debug, Clone)]
struct Split {
    coefficients: Vec<[u8; 32]>,
    xs: Vec<u8>,
}

fn split() -> impl Strategy<Value = Split> {
    (2usize..=6).prop_flat_map(|threshold| {
        let coefficients = prop::collection::vec(any::<[u8; 32]>(), threshold);
        let xs = prop::sample::subsequence((1..=255).collect::<Vec<u8>>(), threshold).prop_shuffle();
        (coefficients, xs).prop_map(|(coefficients, xs)| Split { coefficients, xs })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fault_05_what_the_other_implementation_splits_this_one_brings_back(split in split()) {
        let root = split.coefficients[0];
        let shares: Vec<Share> = split.xs.iter().map(|x| {
            let y = std::array::from_fn(|at| {
                evaluate(&split.coefficients.iter().map(|c| c[at]).collect::<Vec<_>>(), *x)
            });
            share(keyring_id(), number(5), *x, y)
        }).collect();
        let threshold = u8::try_from(shares.len()).unwrap();
        let mut set = share_set(threshold, Digest::new([0; 32]), &shares);
        set.key_check = key_check_of(&root, keyring_id(), number(5), &set);
        let rebuilt = shamir::rebuild(threshold, &shares.iter().collect::<Vec<_>>()).unwrap();
        prop_assert!(rebuilt.validate(key_id_of(&root, keyring_id()), &set).is_ok());
    }

    #[test]
    fn fault_05_what_this_one_splits_the_other_implementation_brings_back(
        root: [u8; 32], threshold in 2u8..=9, more in 0u8..=3,
    ) {
        let key = RootKey::from_bytes(Box::new(root));
        let shares = shamir::split(&key, keyring_id(), number(5), threshold, threshold + more).unwrap();
        let last: Vec<&Share> = shares.iter().rev().take(threshold.into()).collect();
        prop_assert_eq!(interpolate(&last), root);
        if threshold > 2 {
            prop_assert_ne!(interpolate(&last[1..]), root);
        }
    }
}
