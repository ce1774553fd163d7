//! Collecting → validated → unlocked, in any order, by anyone, in any pieces; and with every kind of trouble.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod faults;

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
