//! Collecting → validated → unlocked, in any order, by anyone, in any pieces; and with every kind of trouble.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::Duration,
};

use common::{HOLDERS, Version, World, holder, permutations, v};
use keymoot_quorum::{
    Unlock,
    unlock::{Accepted, PART_LIFETIME, Progress},
};
use keymoot_types::{
    Digest, KeyId, KeyVersion, KeyringId, RefusalCode, VersionState::*, manifest::ManifestDocument,
};
use proptest::prelude::*;

const START: Duration = Duration::from_secs(5);

fn give(
    unlock: &mut Unlock,
    world: &World,
    (name, text): (String, String),
    now: Duration,
) -> Result<Accepted, RefusalCode> {
    unlock.give(&world.manifest, |_| false, &name, &text, now).map_err(|refusal| refusal.code)
}

fn numbers<'a>(versions: impl IntoIterator<Item = &'a KeyVersion>) -> Vec<u32> {
    versions.into_iter().map(|version| version.get()).collect()
}

fn validated(unlock: &Unlock) -> Vec<u32> {
    unlock.validated().map(|key| key.version().get()).collect()
}

fn missing(unlock: &Unlock, world: &World) -> Vec<u32> {
    numbers(&unlock.missing(&world.manifest))
}

fn whole(unlock: &Unlock, world: &World) -> Vec<Progress> {
    world.manifest.versions.iter().map(|record| unlock.progress(record)).collect()
}

/// v9, v10, v99 and v100, all required.
fn four() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(&[(9, Primary), (10, DecryptOnly), (99, Activating), (100, DecryptOnly)]))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Right,
    Wrong,
    BadChecksum,
    WrongName,
    OtherKeyring,
}

#[derive(Debug, Clone, Copy)]
struct Submitted {
    version: u32,
    holder: usize,
    kind: Kind,
}

impl Submitted {
    fn part(self, world: &World) -> (String, String) {
        let version = world.version(self.version);
        let (name, text) = world.part(self.version, self.holder);
        match self.kind {
            Kind::Right => (name, text),
            Kind::Wrong => (name, version.wrong_text(self.holder)),
            Kind::BadChecksum => {
                let (head, tail) = text.split_at(40);
                (name, format!("{head}{}{}", if tail.starts_with('q') { "p" } else { "q" }, &tail[1..]))
            }
            Kind::WrongName => (format!("prod-keyPart-v{}", if self.version == 9 { 10 } else { 9 }), text),
            Kind::OtherKeyring => {
                static FOREIGN: OnceLock<Version> = OnceLock::new();
                let foreign = FOREIGN.get_or_init(|| Version::make_in(KeyringId::new([3; 8]), 9, 2, HOLDERS));
                (foreign.name(), foreign.text(self.holder))
            }
        }
    }
}

fn submissions() -> impl Strategy<Value = Vec<Submitted>> {
    let kind = prop_oneof![
        6 => Just(Kind::Right),
        1 => Just(Kind::Wrong),
        1 => Just(Kind::BadChecksum),
        1 => Just(Kind::WrongName),
        1 => Just(Kind::OtherKeyring),
    ];
    // Few holders, so that repetitions are common.
    let one = (prop::sample::select(vec![9_u32, 10, 99, 100]), 0..4_usize, kind);
    let one = one.prop_map(|(version, holder, kind)| Submitted { version, holder, kind });
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_unlocks_exactly_when_every_required_version_has_two_distinct_right_shares(submitted in submissions()) {
        let world = four();
        let mut unlock = Unlock::default();
        let mut model: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
        for (step, part) in submitted.iter().enumerate() {
            let before = whole(&unlock, world);
            let given = give(&mut unlock, world, part.part(world), START + Duration::from_secs(step as u64));
            let have = model.entry(part.version).or_default();
            let expected = match part.kind {
                Kind::Right if have.len() == 2 => Err(RefusalCode::AlreadyLoaded),
                Kind::Right if !have.insert(part.holder) => Err(RefusalCode::DuplicateShare),
                Kind::Right => Ok(()),
                Kind::Wrong => Err(RefusalCode::ShareMismatch),
                Kind::BadChecksum => Err(RefusalCode::ChecksumFailed),
                Kind::WrongName => Err(RefusalCode::NameMismatch),
                Kind::OtherKeyring => Err(RefusalCode::WrongKeyring),
            };
            let have = have.len();
            match given {
                Ok(accepted) => {
                    prop_assert_eq!(expected, Ok(()));
                    let named = (accepted.version, accepted.holder, accepted.set, accepted.validated);
                    prop_assert_eq!(named, (v(part.version), holder(part.holder), 1, have == 2));
                }
                Err(code) => {
                    prop_assert_eq!(expected, Err(code));
                    // A refusal changes nothing.
                    prop_assert_eq!(before, whole(&unlock, world));
                }
            }
            let done: Vec<u32> = model.iter().filter(|(_, have)| have.len() == 2).map(|(number, _)| *number).collect();
            let open: Vec<u32> = [9, 10, 99, 100].into_iter().filter(|number| !done.contains(number)).collect();
            // Ordered by number: a BTreeMap of u32 is the model's order.
            prop_assert_eq!(validated(&unlock), done);
            prop_assert_eq!(missing(&unlock, world), open);
        }
    }

    #[test]
    fn every_order_and_split_of_two_holders_parts_unlocks_v9_and_v10(
        first in 0..HOLDERS,
        second in 0..HOLDERS,
        order in Just(vec![(9_u32, false), (9, true), (10, false), (10, true)]).prop_shuffle(),
        repeats in prop::collection::vec(0..4_usize, 0..4),
    ) {
        prop_assume!(first != second);
        let world = four();
        let mut unlock = Unlock::default();
        for (at, (version, of_second)) in order.iter().enumerate() {
            let who = if *of_second { second } else { first };
            prop_assert!(give(&mut unlock, world, world.part(*version, who), START).is_ok());
            for repeat in repeats.iter().filter(|repeat| **repeat <= at) {
                let (version, of_second) = order[*repeat];
                let again = give(&mut unlock, world, world.part(version, if of_second { second } else { first }), START);
                prop_assert!(matches!(again, Err(RefusalCode::DuplicateShare | RefusalCode::AlreadyLoaded)));
            }
        }
        prop_assert_eq!(validated(&unlock), [9, 10]);
        let taken: Vec<u32> = unlock.take_validated().iter().map(|key| key.version().get()).collect();
        prop_assert_eq!(taken, [9, 10]);
        prop_assert!(unlock.is_empty());
    }
}

#[test]
fn all_276_pairs_of_holders_unlock_each_version_and_none_alone_does() {
    let world = four();
    let mut pairs = 0;
    for first in 0..HOLDERS {
        for second in first + 1..HOLDERS {
            let mut unlock = Unlock::default();
            for number in [100, 10, 99, 9] {
                assert!(!give(&mut unlock, world, world.part(number, second), START).unwrap().validated);
            }
            assert_eq!(missing(&unlock, world), [9, 10, 99, 100]);
            for number in [10, 100, 9, 99] {
                assert!(give(&mut unlock, world, world.part(number, first), START).unwrap().validated);
            }
            assert_eq!(missing(&unlock, world), [] as [u32; 0]);
            for key in unlock.validated() {
                assert_eq!(key.key_id(), world.record(key.version().get()).key_id);
            }
            pairs += 1;
        }
    }
    assert_eq!(pairs, 276);
}

#[test]
fn fault_16_versions_are_ordered_as_numbers_where_their_texts_are_not() {
    let expected = [9, 10, 99, 100];
    let mut texts = expected.map(|number| format!("v{number}"));
    texts.sort();
    // The counter-proof: sorted as text, v10 stands before v9, and that logged everyone out once.
    assert_eq!(texts, ["v10", "v100", "v9", "v99"]);
    let world = four();
    for order in permutations(&expected) {
        let mut unlock = Unlock::default();
        for number in order {
            for who in [6, 2] {
                give(&mut unlock, world, world.part(number, who), START).unwrap();
            }
        }
        assert_eq!(validated(&unlock), expected);
        assert_eq!(numbers(world.manifest.versions.iter().map(|record| &record.version)), expected);
    }
}

#[test]
fn fault_16_two_hundred_versions_unlock_in_the_order_of_their_numbers() {
    let states: Vec<_> =
        (1..=200).map(|number| (number, if number == 200 { Primary } else { DecryptOnly })).collect();
    let world = World::with(&states, 2, 2);
    let mut unlock = Unlock::default();
    // As text: v1, v10, v100, v101 …
    let mut order: Vec<u32> = (1..=200).collect();
    order.sort_by_key(|number| format!("v{number}"));
    for number in &order {
        assert_eq!(missing(&unlock, &world).len(), 200 - validated(&unlock).len());
        for who in [1, 0] {
            give(&mut unlock, &world, world.part(*number, who), START).unwrap();
        }
    }
    assert_eq!(validated(&unlock), (1..=200).collect::<Vec<_>>());
    assert_eq!(missing(&unlock, &world), [] as [u32; 0]);
}

#[test]
fn v10_alone_is_not_enough_while_v9_is_required() {
    for v10 in [Activating, DecryptOnly] {
        let world = World::v9_and_v10(v10);
        let mut unlock = Unlock::default();
        for who in 0..2 {
            give(&mut unlock, &world, world.part(10, who), START).unwrap();
        }
        assert_eq!((validated(&unlock), missing(&unlock, &world)), (vec![10], vec![9]));
        for who in 0..2 {
            give(&mut unlock, &world, world.part(9, who), START).unwrap();
        }
        assert_eq!((validated(&unlock), missing(&unlock, &world)), (vec![9, 10], vec![]));
    }
}

#[test]
fn v9_alone_is_enough_while_v10_is_only_staged() {
    let world = World::v9_and_v10(Staged);
    let mut unlock = Unlock::default();
    for who in [3, 4] {
        give(&mut unlock, &world, world.part(9, who), START).unwrap();
    }
    assert_eq!(missing(&unlock, &world), [] as [u32; 0]);
    // And v10 may still come.
    for who in [3, 4] {
        give(&mut unlock, &world, world.part(10, who), START).unwrap();
    }
    assert_eq!(validated(&unlock), [9, 10]);
}

#[test]
fn an_empty_ceremony_unlocks_nothing() {
    let unlock = Unlock::default();
    assert!(unlock.is_empty());
    assert_eq!(missing(&unlock, four()), [9, 10, 99, 100]);
}

#[test]
fn fault_08_one_wrong_share_in_each_position_hinders_no_ceremony() {
    let world = World::with(&[(9, Primary)], 3, HOLDERS);
    for position in 0..=3 {
        // Of a holder that has given, of one that will, and of one that takes no part.
        for whose in [0, 2, 9] {
            let mut unlock = Unlock::default();
            for turn in 0..=3 {
                if turn == position {
                    let wrong = (world.version(9).name(), world.version(9).wrong_text(whose));
                    let before = unlock.progress(world.record(9));
                    assert_eq!(give(&mut unlock, &world, wrong, START), Err(RefusalCode::ShareMismatch));
                    assert_eq!(unlock.progress(world.record(9)), before);
                }
                if turn < 3 {
                    let accepted = give(&mut unlock, &world, world.part(9, turn), START).unwrap();
                    assert_eq!(accepted.validated, turn == 2);
                }
            }
            assert_eq!(validated(&unlock), [9]);
        }
    }
}

#[test]
fn fault_10_two_ceremonies_interleaved_in_every_order_both_finish() {
    let world = World::v9_and_v10(Activating);
    let parts = [(9, 0), (9, 1), (10, 1), (10, 2)];
    let orders = permutations(&parts);
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut unlock = Unlock::default();
        let mut have: BTreeMap<u32, u8> = BTreeMap::new();
        for (version, who) in order {
            let accepted = give(&mut unlock, &world, world.part(version, who), START).unwrap();
            assert_eq!((accepted.version, accepted.holder), (v(version), holder(who)));
            *have.entry(version).or_default() += 1;
            for number in [9, 10] {
                // Each share landed at its own version.
                let progress = unlock.progress(world.record(number));
                let expected = have.get(&number).copied().unwrap_or(0);
                assert_eq!((progress.have, progress.validated), (expected, expected == 2));
            }
        }
        assert_eq!(missing(&unlock, &world), [] as [u32; 0]);
    }
}

#[test]
fn fault_10_one_ceremony_fails_alone() {
    let mut world = World::v9_and_v10(Activating);
    world.record_mut(10).share_set.key_check = Digest::new([0; 32]);
    for order in permutations(&[(9, 0), (9, 1), (10, 1), (10, 2)]) {
        let mut unlock = Unlock::default();
        let outcomes: Vec<_> = order
            .iter()
            .map(|(version, who)| give(&mut unlock, &world, world.part(*version, *who), START))
            .collect();
        let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert_eq!(failed, [&RefusalCode::KeyCheckFailed]);
        assert_eq!((validated(&unlock), missing(&unlock, &world)), (vec![9], vec![10]));
    }
}

#[test]
fn fault_11_a_part_lives_just_under_ten_minutes() {
    let world = World::v9_and_v10(Staged);
    for (age, alive) in [
        (Duration::ZERO, true),
        (Duration::from_nanos(599_999_999_999), true),
        (PART_LIFETIME, false),
        (Duration::from_secs(86_400 * 365), false),
        (Duration::MAX - START, false),
    ] {
        let mut unlock = Unlock::default();
        give(&mut unlock, &world, world.part(9, 0), START).unwrap();
        let second = give(&mut unlock, &world, world.part(9, 1), START + age).unwrap();
        assert_eq!(second.validated, alive, "{age:?}");
        assert_eq!(unlock.progress(world.record(9)).have, if alive { 2 } else { 1 });
    }
    assert_eq!(PART_LIFETIME, Duration::from_secs(600));
}

#[test]
fn fault_11_what_expires_is_named_and_wiped_each_part_by_its_own_time() {
    let world = World::with(&[(9, Primary), (10, DecryptOnly)], 3, 5);
    let mut unlock = Unlock::default();
    let at = Duration::from_secs;
    give(&mut unlock, &world, world.part(10, 2), at(0)).unwrap();
    give(&mut unlock, &world, world.part(9, 0), at(1)).unwrap();
    give(&mut unlock, &world, world.part(9, 1), at(300)).unwrap();
    assert_eq!(unlock.expire(at(599)), []);
    assert_eq!(unlock.expire(at(600)), [(v(10), holder(2))]);
    // Even a refused part is a moment at which time is looked at.
    assert_eq!(give(&mut unlock, &world, ("x".into(), "y".into()), at(601)), Err(RefusalCode::MalformedShare));
    assert_eq!(unlock.progress(world.record(9)).holders, [holder(1)]);
    // Who expired may give again.
    assert!(!give(&mut unlock, &world, world.part(9, 0), at(602)).unwrap().validated);
    assert!(give(&mut unlock, &world, world.part(9, 4), at(603)).unwrap().validated);
    // What is validated is no longer a part.
    assert_eq!(unlock.expire(at(100_000)), []);
    assert_eq!(validated(&unlock), [9]);
}

#[test]
fn fault_11_a_clock_that_goes_back_moves_no_deadline_and_panics_nowhere() {
    let world = World::v9_and_v10(Staged);
    let at = Duration::from_secs;
    let mut unlock = Unlock::default();
    give(&mut unlock, &world, world.part(9, 0), at(1000)).unwrap();
    for back in [0, 999, 1, 500] {
        assert_eq!(unlock.expire(at(back)), []);
    }
    assert_eq!(unlock.expire(at(1599)), []);
    assert_eq!(unlock.expire(at(1600)), [(v(9), holder(0))]);
    assert!(unlock.is_empty());
}

#[test]
fn fault_14_every_bit_of_the_record_is_held_by_the_key_check() {
    let world = World::with(&[(9, Primary)], 2, 4);
    let attempt = |damaged: &World| {
        let mut unlock = Unlock::default();
        give(&mut unlock, damaged, world.part(9, 0), START).unwrap();
        let last = give(&mut unlock, damaged, world.part(9, 1), START);
        assert_eq!((validated(&unlock), missing(&unlock, damaged)), (vec![], vec![9]));
        last
    };
    let damaged = |change: &dyn Fn(&mut keymoot_types::manifest::VersionRecord)| {
        let mut copy = World { versions: vec![], manifest: world.manifest.clone() };
        change(copy.record_mut(9));
        copy
    };
    let flip = |bytes: &[u8; 32], bit: usize| {
        let mut bytes = *bytes;
        bytes[bit / 8] ^= 1 << (bit % 8);
        Digest::new(bytes)
    };
    let mut flips = 0;
    for bit in 0..256 {
        let check =
            damaged(&|record| record.share_set.key_check = flip(record.share_set.key_check.as_bytes(), bit));
        assert_eq!(attempt(&check), Err(RefusalCode::KeyCheckFailed), "key check, bit {bit}");
        for other in [2, 3] {
            let digest = damaged(&|record| {
                let holder = &mut record.share_set.holders[other];
                holder.digest = flip(holder.digest.as_bytes(), bit);
            });
            assert_eq!(attempt(&digest), Err(RefusalCode::KeyCheckFailed), "digest of {other}, bit {bit}");
        }
        flips += 3;
    }
    for bit in 0..128 {
        let identity = damaged(&|record| {
            let mut bytes = *record.key_id.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            record.key_id = KeyId::new(bytes);
        });
        assert_eq!(attempt(&identity), Err(RefusalCode::KeyCheckFailed), "key id, bit {bit}");
        flips += 1;
    }
    for x in (1..=255_u8).filter(|x| ![1, 2, 3].contains(x)) {
        let moved = damaged(&|record| record.share_set.holders[3].x = x.try_into().unwrap());
        if x != 4 {
            assert_eq!(attempt(&moved), Err(RefusalCode::KeyCheckFailed), "x {x}");
        }
    }
    let fewer = damaged(&|record| drop(record.share_set.holders.pop()));
    assert_eq!(attempt(&fewer), Err(RefusalCode::KeyCheckFailed));
    assert_eq!(flips, 3 * 256 + 128);
}

#[test]
fn fault_14_no_bit_of_the_threshold_makes_a_key() {
    let world = World::with(&[(9, Primary)], 2, 4);
    for bit in 0..8 {
        let mut damaged = World { versions: vec![], manifest: world.manifest.clone() };
        damaged.record_mut(9).share_set.threshold ^= 1 << bit;
        let threshold = damaged.record(9).share_set.threshold;
        let readable = ManifestDocument::from_manifest(damaged.manifest.clone()).is_ok();
        assert_eq!(readable, threshold == 3, "{threshold}");
        let mut unlock = Unlock::default();
        let codes: Vec<_> =
            (0..4).map(|who| give(&mut unlock, &damaged, world.part(9, who), START).err()).collect();
        let failing = codes.iter().flatten().all(|code| *code == RefusalCode::KeyCheckFailed);
        assert!(failing, "threshold {threshold}: {codes:?}");
        assert!(threshold > 4 || codes[3] == Some(RefusalCode::KeyCheckFailed), "threshold {threshold}");
        assert_eq!((validated(&unlock), missing(&unlock, &damaged)), (vec![], vec![9]));
    }
}

#[test]
fn fault_14_a_record_of_another_version_is_called_damaged_and_its_shares_are_not_called_wrong() {
    let world = World::v9_and_v10(Activating);
    let mut swapped = World { versions: vec![], manifest: world.manifest.clone() };
    let sets = (world.record(9).share_set.clone(), world.record(10).share_set.clone());
    (swapped.record_mut(10).share_set, swapped.record_mut(9).share_set) = sets;
    let mut unlock = Unlock::default();
    for number in [9, 10] {
        for who in 0..HOLDERS {
            let given = give(&mut unlock, &swapped, world.part(number, who), START);
            assert_eq!(given, Err(RefusalCode::KeyCheckFailed));
        }
    }
    // Two holders' places exchanged within one version.
    let mut exchanged = World { versions: vec![], manifest: world.manifest.clone() };
    let holders = &mut exchanged.record_mut(9).share_set.holders;
    let digest = holders[0].digest;
    (holders[0].digest, holders[1].digest) = (holders[1].digest, digest);
    for who in [0, 1, 2] {
        let given = give(&mut unlock, &exchanged, world.part(9, who), START).map(|accepted| accepted.validated);
        assert_eq!(given, if who == 2 { Ok(false) } else { Err(RefusalCode::KeyCheckFailed) });
    }
    let (name, text) = world.part(9, 3);
    let last = unlock.give(&exchanged.manifest, |_| false, &name, &text, START).unwrap_err();
    assert_eq!((last.code, last.version), (RefusalCode::KeyCheckFailed, Some(v(9))));
    assert!(last.detail.contains("damaged") && last.share_was_right(), "{}", last.detail);
    assert_eq!(validated(&unlock), [] as [u32; 0]);
}

#[test]
fn fault_14_once_a_damaged_record_is_repaired_the_earlier_parts_count() {
    let world = World::v9_and_v10(Staged);
    let mut damaged = World { versions: vec![], manifest: world.manifest.clone() };
    damaged.record_mut(9).share_set.key_check = Digest::new([9; 32]);
    let mut unlock = Unlock::default();
    give(&mut unlock, &damaged, world.part(9, 0), START).unwrap();
    for _ in 0..3 {
        // The refused part changes nothing, and is not a duplicate when it comes again.
        assert_eq!(give(&mut unlock, &damaged, world.part(9, 1), START), Err(RefusalCode::KeyCheckFailed));
        assert_eq!(unlock.progress(damaged.record(9)).holders, [holder(0)]);
    }
    assert!(give(&mut unlock, &world, world.part(9, 1), START).unwrap().validated);
}

#[test]
fn fault_17_of_n_versions_exactly_the_damaged_one_stays_locked_and_is_named() {
    const N: usize = 12;
    let all: Vec<u32> = (5..5 + N as u32).collect();
    let states: Vec<_> = all.iter().map(|n| (*n, if *n == 7 { Primary } else { DecryptOnly })).collect();
    let world = World::with(&states, 2, 3);
    for damaged in &all {
        let mut copy = World { versions: vec![], manifest: world.manifest.clone() };
        let set = &mut copy.record_mut(*damaged).share_set;
        let mut check = *set.key_check.as_bytes();
        check[31] ^= 1;
        set.key_check = Digest::new(check);
        let mut unlock = Unlock::default();
        let mut refused = Vec::new();
        for who in [2, 0] {
            for number in &all {
                if let Err(code) = give(&mut unlock, &copy, world.part(*number, who), START) {
                    refused.push((*number, code));
                }
            }
        }
        assert_eq!(refused, [(*damaged, RefusalCode::KeyCheckFailed)]);
        assert_eq!(missing(&unlock, &copy), [*damaged]);
        let others: Vec<u32> = all.iter().copied().filter(|number| number != damaged).collect();
        assert_eq!(validated(&unlock), others);
    }
}

#[test]
fn parts_of_two_share_sets_are_never_combined() {
    let world = World::v9_and_v10(Staged);
    // The same number made anew: what a reshare, or an init repeated, does to a node that was collecting.
    let renewed = World::v9_and_v10(Staged);
    let mut unlock = Unlock::default();
    give(&mut unlock, &world, world.part(9, 0), START).unwrap();
    assert_eq!(unlock.progress(renewed.record(9)).have, 0);
    // The same holder's new share is no duplicate, and with the old one it makes no pair.
    assert!(!give(&mut unlock, &renewed, renewed.part(9, 0), START).unwrap().validated);
    assert_eq!(give(&mut unlock, &renewed, world.part(9, 1), START), Err(RefusalCode::ShareMismatch));
    assert!(give(&mut unlock, &renewed, renewed.part(9, 1), START).unwrap().validated);
    assert_eq!(missing(&unlock, &renewed), [] as [u32; 0]);
    // And a key of the earlier identity is not the version that the other manifest requires.
    assert_eq!(missing(&unlock, &world), [9]);
    assert!(!unlock.progress(world.record(9)).validated);
}

#[test]
fn a_loaded_version_takes_no_parts_and_another_still_does() {
    let world = World::v9_and_v10(Staged);
    let mut unlock = Unlock::default();
    let serving = |version: KeyVersion| version == v(9);
    let (name, text) = world.part(9, 0);
    let refusal = unlock.give(&world.manifest, serving, &name, &text, START).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::AlreadyLoaded);
    for (who, last) in [(0, false), (1, true)] {
        let (name, text) = world.part(10, who);
        assert_eq!(unlock.give(&world.manifest, serving, &name, &text, START).unwrap().validated, last);
    }
    assert_eq!(validated(&unlock), [10]);
}
