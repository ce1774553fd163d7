//! Which of some shares make the key, where nothing but a proof tells: the fewest, whatever lies among them, and never
//! longer than was allowed.

mod common;

use std::{cell::Cell, num::NonZeroU8};

use common::{copy, interpolate, keyring_id, name, number, orders, pairs, share};
use keymoot_keyring::{
    Keyring, Rebuilt, Validated,
    search::{Found, NotFound, search},
    stage::{Reshared, Staged, reshare, stage},
};
use keymoot_types::{HolderName, KeyringId, Share};
use sha2::{Digest as _, Sha256};

const ENOUGH: usize = 100_000;

fn holders(count: usize) -> Vec<(HolderName, Option<String>)> {
    (1..=count).map(|n| (format!("holder-{n}").parse().unwrap(), None)).collect()
}

fn staged(threshold: u8, count: usize) -> Staged {
    stage(keyring_id(), number(12), threshold, &holders(count)).unwrap()
}

/// A share with the same x that was never made. No two of them are wrong in the same way, or they might cancel out.
fn wrong(of: &Share) -> Share {
    share(of.keyring_id(), of.version(), of.x().get(), Sha256::digest(of.y()).into())
}

fn proves(staged: &Staged) -> impl Fn(Rebuilt) -> Option<Validated> {
    |rebuilt| rebuilt.validate(staged.validated.key_id(), &staged.share_set).ok()
}

fn look(staged: &Staged, shares: &[Share], tries_max: usize) -> Result<Found, NotFound> {
    search(&shares.iter().collect::<Vec<_>>(), number(12), tries_max, proves(staged))
}

fn xs(places: &[NonZeroU8]) -> Vec<u8> {
    places.iter().map(|x| x.get()).collect()
}

/// The shares of `staged`, and in their places wrong ones where the mask has a bit.
fn spoiled(staged: &Staged, mask: u32) -> Vec<Share> {
    let is_wrong = |at: usize| mask & (1 << at) != 0;
    staged.shares.iter().enumerate().map(|(at, s)| if is_wrong(at) { wrong(s) } else { copy(s) }).collect()
}

#[test]
fn it_finds_the_fewest_and_tells_right_from_wrong_wherever_the_wrong_ones_stand() {
    for threshold in [2, 3, 4] {
        let staged = staged(threshold, 6);
        for mask in 0_u32..1 << 6 {
            let expected: (Vec<u8>, Vec<u8>) = (1..=6).partition(|x| mask & (1 << (x - 1)) == 0);
            let found = look(&staged, &spoiled(&staged, mask), ENOUGH);
            if expected.0.len() < threshold.into() {
                assert_eq!(found.unwrap_err(), NotFound::NoSet { version: number(12), given: 6 }, "{mask:b}");
                continue;
            }
            let found = found.unwrap();
            assert_eq!(found.threshold, threshold, "{mask:b}");
            assert_eq!((xs(&found.right), xs(&found.wrong)), expected, "{mask:b}");
            assert_eq!(found.validated.key_id(), staged.validated.key_id());
        }
    }
}

#[test]
fn the_order_in_which_shares_were_given_makes_no_difference() {
    let staged = staged(3, 5);
    for order in orders(5, 5) {
        let shares: Vec<Share> = order
            .iter()
            .map(|at| if *at == 1 { wrong(&staged.shares[1]) } else { copy(&staged.shares[*at]) })
            .collect();
        let found = look(&staged, &shares, ENOUGH).unwrap();
        assert_eq!((found.threshold, xs(&found.right), xs(&found.wrong)), (3, vec![1, 3, 4, 5], vec![2]));
    }
}

#[test]
fn shares_that_are_all_right_are_found_whatever_the_threshold_without_a_search() {
    for threshold in [2, 3, 12, 24] {
        let staged = staged(threshold, 24);
        let found = look(&staged, &spoiled(&staged, 0), 0).unwrap();
        assert_eq!((found.threshold, found.right.len(), found.wrong.len()), (threshold, 24, 0));
    }
}

#[test]
fn too_many_sets_are_given_up_in_bounded_tries() {
    let staged = staged(12, 24);
    // Twelve right ones among twelve wrong ones: millions of sets.
    let shares = spoiled(&staged, 0x55_5555);
    let shares: Vec<&Share> = shares.iter().collect();
    for tries_max in [0, 1, 100, 5_000] {
        let tried = Cell::new(0);
        let found = search(&shares, number(12), tries_max, |rebuilt| {
            tried.set(tried.get() + 1);
            proves(&staged)(rebuilt)
        });
        assert_eq!(found.unwrap_err(), NotFound::TooMany { version: number(12), given: 24 });
        // The first two, the first three, and so on are tried beside.
        assert_eq!(tried.get(), tries_max + 23);
    }
}

#[test]
fn the_last_set_that_is_allowed_is_tried_and_none_after_it() {
    let staged = staged(2, 4);
    // Only the third and the fourth make it: the sixth pair.
    let shares = spoiled(&staged, 0b0011);
    assert_eq!(look(&staged, &shares, 5).unwrap_err(), NotFound::TooMany { version: number(12), given: 4 });
    assert_eq!(look(&staged, &shares, 6).unwrap().threshold, 2);
    // All six pairs and all four triples were tried: that there is none is known, and not only feared.
    let shares = spoiled(&staged, 0b0111);
    assert_eq!(look(&staged, &shares, 10).unwrap_err(), NotFound::NoSet { version: number(12), given: 4 });
    assert_eq!(look(&staged, &shares, 9).unwrap_err(), NotFound::TooMany { version: number(12), given: 4 });
}

#[test]
fn fault_04_a_repeated_x_hinders_nothing_and_the_wrong_share_of_the_two_is_told() {
    let staged = staged(2, 3);
    let [one, two, three] = [0, 1, 2].map(|at| &staged.shares[at]);
    // Beside right ones, another with the x of each, in each position; and the very same share twice.
    for of in [one, two, three] {
        for at in 0..=3 {
            let mut shares = spoiled(&staged, 0);
            shares.insert(at, wrong(of));
            let found = look(&staged, &shares, ENOUGH).unwrap();
            assert_eq!((found.threshold, xs(&found.right)), (2, vec![1, 2, 3]), "{at}");
            assert_eq!(xs(&found.wrong), [of.x().get()]);
            let mut shares = spoiled(&staged, 0);
            shares.insert(at, copy(of));
            let found = look(&staged, &shares, ENOUGH).unwrap();
            assert_eq!((found.threshold, found.right.len(), found.wrong.len()), (2, 4, 0), "{at}");
        }
    }
    for shares in [vec![copy(one), copy(one)], vec![copy(one), wrong(one)], vec![wrong(one), copy(one), copy(one)]]
    {
        let given = shares.len();
        let refused = look(&staged, &shares, ENOUGH).unwrap_err();
        assert_eq!(refused, NotFound::NoSet { version: number(12), given });
    }
}

#[test]
fn fault_03_of_two_share_sets_of_one_key_one_is_found_and_never_a_mix() {
    // Two old shares and two new ones make the key too, for one choice of x in about 256, whatever the polynomials:
    // the differences of the two cancel out.
    let old = staged(2, 24);
    let Reshared { shares: new, .. } = reshare(&old.validated, 2, 2, &holders(24)).unwrap();
    let root = interpolate(&[&old.shares[0], &old.shares[1]]);
    let mut cancelled = 0;
    for [a, b] in pairs(&old.shares[..12]) {
        for [c, d] in pairs(&new[12..]) {
            let mixed = [a, c, b, d];
            if interpolate(&mixed) != root {
                continue;
            }
            cancelled += 1;
            let found = search(&mixed, number(12), ENOUGH, proves(&old)).unwrap();
            assert_eq!(found.threshold, 2);
            let [old_ones, new_ones] = [[a, b], [c, d]].map(|two| two.map(|share| share.x()).to_vec());
            assert_eq!((found.right, found.wrong), (old_ones, new_ones));
        }
    }
    assert!(cancelled > 0);
}

#[test]
fn fewer_than_two_shares_are_no_set() {
    let staged = staged(2, 2);
    for given in [0, 1] {
        let shares: Vec<Share> = staged.shares.iter().take(given).map(copy).collect();
        let refused = look(&staged, &shares, ENOUGH).unwrap_err();
        assert_eq!(refused, NotFound::NoSet { version: number(12), given });
        assert!(refused.to_string().contains("v12"), "{refused}");
    }
}

#[test]
fn fault_03_shares_of_another_version_or_keyring_are_wrong_ones() {
    let (staged, other) = (staged(2, 4), staged(2, 4));
    let relabelled = |id, version, of: &Share| share(id, version, of.x().get(), *of.y());
    let strangers = [
        relabelled(KeyringId::new([7; 8]), number(12), &staged.shares[0]),
        relabelled(keyring_id(), number(13), &staged.shares[0]),
        copy(&other.shares[0]),
    ];
    for stranger in strangers {
        for at in 0..=3 {
            let mut shares: Vec<Share> = staged.shares.iter().skip(1).map(copy).collect();
            shares.insert(at, copy(&stranger));
            let found = look(&staged, &shares, ENOUGH).unwrap();
            assert_eq!((found.threshold, xs(&found.right), xs(&found.wrong)), (2, vec![2, 3, 4], vec![1]), "{at}");
        }
    }
}

#[test]
fn a_witness_proves_as_well_as_a_record() {
    let staged = staged(3, 6);
    let key = name("pii");
    let keyring = Keyring::new([staged.validated.clone()], Some(number(12)), std::slice::from_ref(&key));
    let witness = keyring.encrypt(&key, b"plain", b"row 7").unwrap();
    let shares = spoiled(&staged, 0b001010);
    let shares: Vec<&Share> = shares.iter().collect();
    let look = |associated_data: &[u8]| {
        search(&shares, number(12), ENOUGH, |rebuilt| {
            rebuilt.validate_by_witness(&key, &witness, associated_data).ok()
        })
    };
    let found = look(b"row 7").unwrap();
    assert_eq!(found.validated.key_id(), staged.validated.key_id());
    assert_eq!((found.threshold, xs(&found.right), xs(&found.wrong)), (3, vec![1, 3, 5, 6], vec![2, 4]));
    assert_eq!(look(b"row 8").unwrap_err(), NotFound::NoSet { version: number(12), given: 6 });
}
