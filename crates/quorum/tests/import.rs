//! A version that a restored store has forgotten: taken up again from its shares alone, and each share from somebody
//! who holds one of the primary.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Version, World, holder, key, permutations, then, v};
use keymoot_keyring::{Keyring, Rebuilt, Validated, search::NotFound};
use keymoot_quorum::{
    PartRefusal, Unlock,
    adopt::adopt,
    import::Import,
    revise::{self, KeyDeclaration, StepRefused},
    unlock::PART_LIFETIME,
};
use keymoot_types::{
    KeyringId, Manifest,
    RefusalCode::*,
    Value, VersionState,
    VersionState::*,
    manifest::{Lifetime, Retirement, ShareSet},
};

const START: Duration = Duration::from_secs(5);

/// The store knows v9; v10 was made after the backup.
fn restored() -> World {
    World::with(&[(9, Primary)], 2, 6)
}

fn give(
    import: &mut Import,
    world: &World,
    who: usize,
    (name, text): (String, String),
    now: Duration,
) -> Result<(), PartRefusal> {
    import.give(&world.manifest, &holder(who), &name, &text, now)
}

fn right(version: &Version, who: usize) -> (String, String) {
    (version.name(), version.text(who))
}

fn witness(of: &Version) -> Value {
    let keyring = Keyring::new([of.validated().clone()], Some(of.number), &[key("pii")]);
    keyring.encrypt(&key("pii"), b"plain", b"row 7").unwrap()
}

fn proved_by(witness: &Value) -> impl Fn(Rebuilt) -> Option<Validated> {
    |rebuilt| rebuilt.validate_by_witness(&key("pii"), witness, b"row 7").ok()
}

/// The manifest with v10 in it.
fn taken_up(world: &World, validated: &Validated, set: ShareSet) -> Manifest {
    let mut manifest = world.manifest.clone();
    revise::import(&mut manifest, revise::record(validated, set, DecryptOnly, then())).unwrap();
    manifest
}

#[test]
fn in_whatever_order_shares_come_the_same_record_is_made_of_them() {
    let (world, v10) = (restored(), Version::make(10, 3, 6));
    let witness = witness(&v10);
    let mut records: Vec<ShareSet> = vec![];
    for order in permutations(&[5, 0, 3, 1]) {
        let mut import = Import::new(v(10));
        for (given, who) in order.iter().enumerate() {
            // Too few: none is found.
            if given < 3 {
                let found = import.find(proved_by(&witness)).unwrap_err();
                assert_eq!(found, NotFound::NoSet { version: v(10), given });
            } else {
                assert_eq!(import.find(proved_by(&witness)).unwrap().1.holders.len(), 3);
            }
            give(&mut import, &world, *who, right(&v10, *who), START).unwrap();
        }
        assert_eq!(import.holders(), order.iter().copied().map(holder).collect::<Vec<_>>());
        let (validated, set) = import.find(proved_by(&witness)).unwrap();
        assert_eq!((validated.version(), validated.key_id()), (v(10), v10.validated().key_id()));
        assert_eq!((set.set, set.threshold), (1, 3));
        let names: Vec<_> = set.holders.iter().map(|holder| holder.name.clone()).collect();
        assert_eq!(names, [0, 1, 3, 5].map(holder));
        records.push(set);
    }
    records.dedup();
    assert_eq!(records.len(), 1);
}

#[test]
fn the_record_unlocks_afterwards_by_those_who_gave_and_in_any_pair() {
    let (world, v10) = (restored(), Version::make(10, 2, 6));
    let mut import = Import::new(v(10));
    let gave = [4, 1, 2];
    for who in gave {
        give(&mut import, &world, who, right(&v10, who), START).unwrap();
    }
    let (validated, set) = import.find(proved_by(&witness(&v10))).unwrap();
    let manifest = taken_up(&world, &validated, set);
    let record = manifest.version(v(10)).unwrap();
    assert_eq!((record.state, record.key_id), (DecryptOnly, v10.validated().key_id()));
    assert_eq!(record.public_key.as_bytes(), &v10.validated().public_key());
    for (a, b) in [(4, 1), (1, 2), (2, 4)] {
        let mut unlock = Unlock::default();
        let mut give = |version: &Version, who: usize| {
            unlock.give(&manifest, |_| false, &version.name(), &version.text(who), START)
        };
        for who in [a, b] {
            let accepted = give(&v10, who).unwrap();
            assert_eq!((accepted.holder, accepted.validated), (holder(who), who == b));
            give(world.version(9), who).unwrap();
        }
        // Who did not give when it was taken up is not known of it.
        assert_eq!(give(&v10, 0).unwrap_err().code, UnknownHolder);
        assert_eq!(unlock.missing(&manifest), []);
    }
}

#[test]
fn what_was_taken_up_is_adopted_by_nodes_that_never_knew_it() {
    let (world, v10) = (restored(), Version::make(10, 2, 6));
    let before = world.sealed_by(&[9]);
    let mut next = revise::next(&before);
    let record = revise::record(v10.validated(), v10.staged.share_set.clone(), DecryptOnly, then());
    revise::import(&mut next, record).unwrap();
    let after = world.seal(next, &[9]);
    assert_eq!(adopt(&before, &after, world.loaded(&[9])), Ok(()));
}

#[test]
fn a_refused_part_is_named_and_changes_nothing() {
    let (world, v10) = (restored(), Version::make(10, 2, 6));
    let foreign = Version::make_in(KeyringId::new([1; 8]), 10, 2, 6);
    let v11 = Version::make(11, 2, 6);
    let bad_checksum = |text: String| {
        let (body, last) = text.split_at(text.len() - 1);
        format!("{body}{}", if last == "q" { "p" } else { "q" })
    };
    let mut import = Import::new(v(10));
    give(&mut import, &world, 3, right(&v10, 3), START).unwrap();
    let cases = [
        (0, (v10.name(), "kmshare1".into()), MalformedShare, None),
        (0, (v10.name(), bad_checksum(v10.text(0))), ChecksumFailed, None),
        (0, right(&foreign, 0), WrongKeyring, None),
        (0, ("prod-keyPart-v11".into(), v10.text(0)), NameMismatch, None),
        (0, ("test-keyPart-v10".into(), v10.text(0)), NameMismatch, None),
        // Another version under its own name, known or not: the request is for v10.
        (0, right(world.version(9), 0), NameMismatch, Some(0)),
        (0, right(&v11, 0), NameMismatch, Some(0)),
        // Who has given can't give it again.
        (3, right(&v10, 3), DuplicateShare, Some(3)),
        // Somebody else with the same share, or another with its x.
        (0, right(&v10, 3), ShareMismatch, Some(0)),
        (0, (v10.name(), v10.wrong_text(3)), ShareMismatch, Some(0)),
    ];
    for (who, part, code, named) in cases {
        let name = part.0.clone();
        let refusal = give(&mut import, &world, who, part, START).unwrap_err();
        assert_eq!((refusal.code, refusal.name.clone()), (code, name), "{refusal:?}");
        assert_eq!(refusal.holder, named.map(holder), "{refusal:?}");
        assert!(!refusal.detail.contains("holder-") && !refusal.detail.contains("kmshare1q"), "{refusal:?}");
        assert_eq!(import.holders(), [holder(3)]);
    }
    // Both versions are told apart.
    let refusal = give(&mut import, &world, 0, right(&v11, 0), START).unwrap_err();
    assert!(refusal.detail.contains("v10") && refusal.detail.contains("v11"), "{}", refusal.detail);
    give(&mut import, &world, 0, right(&v10, 0), START).unwrap();
    assert!(import.find(proved_by(&witness(&v10))).is_ok());
}

#[test]
fn a_holder_may_correct_a_share_and_a_refused_correction_loses_nothing() {
    let (world, v10) = (restored(), Version::make(10, 2, 6));
    let witness = witness(&v10);
    let mut import = Import::new(v(10));
    give(&mut import, &world, 0, (v10.name(), v10.wrong_text(0)), START).unwrap();
    give(&mut import, &world, 1, right(&v10, 1), START).unwrap();
    assert!(import.find(proved_by(&witness)).is_err());
    // Somebody else's place is taken, and what was given before stays.
    for _ in 0..2 {
        let refusal = give(&mut import, &world, 1, right(&v10, 0), START).unwrap_err();
        assert_eq!((refusal.code, refusal.holder), (ShareMismatch, Some(holder(1))));
        assert_eq!(import.holders(), [holder(0), holder(1)]);
    }
    give(&mut import, &world, 0, right(&v10, 0), START).unwrap();
    let (_, set) = import.find(proved_by(&witness)).unwrap();
    assert_eq!(set.holders.iter().map(|holder| holder.name.clone()).collect::<Vec<_>>(), [0, 1].map(holder));
}

#[test]
fn fault_08_one_wrong_share_in_each_position_hinders_no_import() {
    for threshold in [2, 3] {
        let (world, v10) = (restored(), Version::make(10, threshold, 6));
        let witness = witness(&v10);
        let needed = usize::from(threshold);
        for position in 0..=needed {
            let mut import = Import::new(v(10));
            for turn in 0..=needed {
                let part = if turn == position { (v10.name(), v10.wrong_text(turn)) } else { right(&v10, turn) };
                give(&mut import, &world, turn, part, START).unwrap();
            }
            let (validated, set) = import.find(proved_by(&witness)).unwrap();
            assert_eq!((validated.key_id(), set.threshold), (v10.validated().key_id(), threshold));
            // Whose share was wrong is no holder of it.
            let expected: Vec<_> = (0..=needed).filter(|who| *who != position).map(holder).collect();
            assert_eq!(set.holders.iter().map(|holder| holder.name.clone()).collect::<Vec<_>>(), expected);
            let manifest = taken_up(&world, &validated, set);
            let refusal =
                Unlock::default().give(&manifest, |_| false, &v10.name(), &v10.wrong_text(position), START);
            assert_eq!(refusal.unwrap_err().code, UnknownHolder);
        }
    }
}

#[test]
fn fault_11_a_share_is_wiped_after_ten_minutes_each_by_its_own_time() {
    let (world, v10) = (restored(), Version::make(10, 2, 6));
    let witness = witness(&v10);
    let at = Duration::from_secs;
    let mut import = Import::new(v(10));
    give(&mut import, &world, 0, right(&v10, 0), at(0)).unwrap();
    give(&mut import, &world, 1, right(&v10, 1), at(300)).unwrap();
    import.expire(PART_LIFETIME - Duration::from_nanos(1));
    assert!(import.find(proved_by(&witness)).is_ok());
    import.expire(PART_LIFETIME);
    assert_eq!(import.holders(), [holder(1)]);
    assert!(import.find(proved_by(&witness)).is_err());
    // Who expired may give again, and time passes with whatever is given, refused or not.
    give(&mut import, &world, 0, right(&v10, 0), at(601)).unwrap();
    assert!(import.find(proved_by(&witness)).is_ok());
    assert!(give(&mut import, &world, 2, ("x".into(), "y".into()), at(900)).is_err());
    assert_eq!(import.holders(), [holder(0)]);
}

#[test]
fn shares_that_do_not_open_the_witness_are_no_version() {
    let (world, v10, other) = (restored(), Version::make(10, 2, 6), Version::make(10, 2, 6));
    let mut import = Import::new(v(10));
    for who in 0..3 {
        give(&mut import, &world, who, right(&v10, who), START).unwrap();
    }
    let refused = import.find(proved_by(&witness(&other))).unwrap_err();
    assert_eq!(refused, NotFound::NoSet { version: v(10), given: 3 });
    // A failed look keeps what was given.
    assert!(import.find(proved_by(&witness(&v10))).is_ok());
}

#[test]
fn a_version_that_the_manifest_knows_is_not_taken_up_again() {
    for state in VersionState::ALL {
        let states: &[_] = if state == Primary { &[(10, Primary)] } else { &[(9, Primary), (10, state)] };
        let world = World::with(states, 2, 3);
        let other = Version::make(10, 2, 3);
        for version in [world.version(10), &other] {
            let mut manifest = world.manifest.clone();
            let set = version.staged.share_set.clone();
            let record = revise::record(version.validated(), set, DecryptOnly, then());
            let refused = revise::import(&mut manifest, record);
            assert_eq!(refused, Err(StepRefused::NoSuchStep { version: v(10), from: state, to: DecryptOnly }));
            assert_eq!(manifest, world.manifest);
        }
    }
}

#[test]
fn what_is_taken_up_only_decrypts_and_its_values_live_as_long_as_the_primarys() {
    let mut world = World::with(&[(7, DecryptOnly), (9, Primary)], 2, 3);
    let declared = |name: &str, max_age_s| KeyDeclaration { name: key(name), max_age_s };
    let keys = [declared("auth", Some(90)), declared("pii", Some(0)), declared("none", None)];
    revise::declare(&mut world.manifest, &keys, &[]);
    world.manifest.declared.keys[0].lifetimes.insert(0, Lifetime { version: v(7), max_age_s: 5 });
    for number in [8, 10] {
        let version = Version::make(number, 2, 3);
        // Whatever the record says of its past.
        let mut record = revise::record(version.validated(), version.staged.share_set.clone(), Retired, then());
        record.retirement = Some(Retirement { at: then(), override_reason: None, hold_ended: Some(then()) });
        record.given_up = Some("lost".into());
        let mut manifest = world.manifest.clone();
        revise::import(&mut manifest, record).unwrap();
        let record = manifest.version(v(number)).unwrap();
        assert_eq!((record.state, &record.retirement, &record.given_up), (DecryptOnly, &None, &None));
        assert_eq!((manifest.primary, manifest.versions.len()), (v(9), 3));
        let lifetimes = |at: usize| {
            let lifetimes = &manifest.declared.keys[at].lifetimes;
            assert!(lifetimes.is_sorted_by_key(|lifetime| lifetime.version));
            lifetimes.iter().map(|lifetime| (lifetime.version.get(), lifetime.max_age_s)).collect::<Vec<_>>()
        };
        let mut auth = vec![(7, 5), (9, 90), (number, 90)];
        auth.sort();
        let mut pii = vec![(9, 0), (number, 0)];
        pii.sort();
        // A key of which the primary says nothing says nothing of this one: retirement will ask.
        assert_eq!([lifetimes(0), lifetimes(1), lifetimes(2)], [auth, pii, vec![]]);
        // The next number is above it.
        assert_eq!(revise::next_version(&manifest, None), Ok(v(number.max(9) + 1)));
        assert!(revise::seal(manifest, [world.version(9).validated(), version.validated()]).is_ok());
    }
}
