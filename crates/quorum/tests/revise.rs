//! The next revision: only the steps of the table, one primary always, nothing ever forgotten.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{Version, World, key, source, then, v};
use keymoot_keyring::Keyring;
use keymoot_quorum::revise::{self, KeyDeclaration, StepRefused};
use keymoot_types::{
    Manifest, Value, VersionState,
    VersionState::*,
    manifest::{Lifetime, ManifestDocument},
};
use proptest::prelude::*;

fn primaries(manifest: &Manifest) -> Vec<u32> {
    manifest.versions.iter().filter(|record| record.state == Primary).map(|record| record.version.get()).collect()
}

fn states(manifest: &Manifest) -> Vec<VersionState> {
    manifest.versions.iter().map(|record| record.state).collect()
}

/// v9 in this state, beside a primary.
fn beside(state: VersionState) -> World {
    match state {
        Primary => World::new(&[(9, Primary), (10, DecryptOnly)]),
        state => World::new(&[(9, state), (10, Primary)]),
    }
}

#[test]
fn a_version_takes_only_the_steps_of_the_table_and_the_primary_leaves_only_for_another() {
    for from in VersionState::ALL {
        for to in VersionState::ALL {
            let world = beside(from);
            let mut manifest = world.manifest.clone();
            let stepped = revise::step(&mut manifest, v(9), to);
            if from.may_become(to) && from != Primary {
                assert_eq!(stepped, Ok(()), "{from} {to}");
                assert_eq!(manifest.version(v(9)).unwrap().state, to);
            } else {
                assert_eq!(stepped, Err(StepRefused::NoSuchStep { version: v(9), from, to }));
                assert_eq!(manifest, world.manifest, "a refused step changes nothing");
            }
            assert_eq!(primaries(&manifest), [manifest.primary.get()]);
            assert!(ManifestDocument::from_manifest(manifest).is_ok());
        }
    }
    let mut manifest = beside(Primary).manifest;
    assert_eq!(revise::step(&mut manifest, v(11), Activating), Err(StepRefused::Unknown(v(11))));
}

#[test]
fn making_a_version_primary_makes_the_old_one_decrypt_only_in_the_same_step() {
    let mut manifest = World::v9_and_v10(Activating).manifest;
    revise::step(&mut manifest, v(10), Primary).unwrap();
    assert_eq!((manifest.primary, states(&manifest)), (v(10), vec![DecryptOnly, Primary]));
    // And back.
    revise::step(&mut manifest, v(9), Primary).unwrap();
    assert_eq!((manifest.primary, states(&manifest)), (v(9), vec![Primary, DecryptOnly]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn there_is_exactly_one_primary_after_any_steps(
        steps in prop::collection::vec((7..12_u32, prop::sample::select(VersionState::ALL.to_vec()), 0..3_u8), 0..60)
    ) {
        let world = World::with(&[(7, Retired), (8, DecryptOnly), (9, Primary), (10, Staged), (11, Staged)], 2, 2);
        let mut manifest = world.manifest.clone();
        for (number, to, how) in steps {
            let before = manifest.clone();
            let done = match how {
                0 => revise::step(&mut manifest, v(number), to),
                1 => revise::retire(&mut manifest, v(number), None, then()),
                _ => revise::restore(&mut manifest, v(number)),
            };
            if done.is_err() {
                prop_assert_eq!(&manifest, &before);
            }
            prop_assert_eq!(primaries(&manifest), [manifest.primary.get()]);
            prop_assert!(ManifestDocument::from_manifest(manifest.clone()).is_ok());
            for (old, new) in before.versions.iter().zip(&manifest.versions) {
                prop_assert_eq!((old.version, old.key_id), (new.version, new.key_id));
                prop_assert!(old.state == new.state || old.state.may_become(new.state));
            }
        }
    }
}

#[test]
fn the_next_number_is_above_all_that_ever_were_and_all_that_was_seen() {
    // The highest was aborted, and its number is not used again.
    let manifest = World::new(&[(7, Retired), (9, Primary), (12, Aborted)]).manifest;
    assert_eq!(revise::next_version(&manifest, None), Ok(v(13)));
    for (seen, next) in [(1, 13), (12, 13), (13, 14), (99, 100), (u32::MAX - 1, u32::MAX)] {
        assert_eq!(revise::next_version(&manifest, Some(v(seen))), Ok(v(next)));
    }
    assert_eq!(revise::next_version(&manifest, Some(v(u32::MAX))), Err(StepRefused::NoNumberLeft));
    let last = World::with(&[(u32::MAX, Primary)], 2, 2).manifest;
    assert_eq!(revise::next_version(&last, None), Err(StepRefused::NoNumberLeft));
}

#[test]
fn fault_16_versions_stand_in_the_order_of_their_numbers_however_they_were_staged() {
    let made: Vec<_> = [100, 9, 99, 10, 1000].map(|number| Version::make(number, 2, 2)).into();
    let mut manifest = World::with(&[(50, Primary)], 2, 2).manifest;
    for version in &made {
        revise::stage(&mut manifest, &version.staged, then());
    }
    let numbers: Vec<u32> = manifest.versions.iter().map(|record| record.version.get()).collect();
    assert_eq!(numbers, [9, 10, 50, 99, 100, 1000]);
    let validated = made.iter().map(Version::validated);
    let document = revise::seal(manifest, validated).unwrap();
    let macs: Vec<u32> = document.manifest().macs.iter().map(|mac| mac.version.get()).collect();
    assert_eq!(macs, [9, 10, 99, 100, 1000]);
}

#[test]
fn a_new_version_is_staged_and_the_first_is_primary() {
    let world = World::v9_and_v10(Staged);
    let document = world.sealed_by(&[9]);
    assert_eq!((document.manifest().revision, document.manifest().previous), (1, None));
    let record = world.record(10);
    assert_eq!((record.state, record.key_id), (Staged, world.version(10).validated().key_id()));
    assert_eq!(world.manifest.primary, v(9));
    let next = revise::next(&document);
    assert_eq!((next.revision, next.previous), (2, Some(document.digest())));
    assert!(next.macs.is_empty());
}

#[test]
fn what_is_sealed_carries_a_right_mac_of_each_version_that_is_loaded_once() {
    let world = World::v9_and_v10(Staged);
    let document = world.sealed_by(&[10, 9, 10]);
    let macs: Vec<u32> = document.manifest().macs.iter().map(|mac| mac.version.get()).collect();
    assert_eq!(macs, [9, 10]);
    for version in &world.versions {
        assert!(version.validated().vouches_for(&document));
    }
    // Macs that were there before are not what the new ones are over, and do not stay.
    let again = world.seal(document.manifest().clone(), &[9]);
    assert!(world.version(9).validated().vouches_for(&again));
    assert!(!world.version(10).validated().vouches_for(&again));
    assert!(!world.version(9).validated().vouches_for(&world.sealed_by(&[10])));
}

#[test]
fn a_manifest_without_its_primary_is_not_sealed() {
    let world = World::v9_and_v10(Staged);
    let mut none = world.manifest.clone();
    none.version_mut(v(9)).unwrap().state = DecryptOnly;
    let mut two = world.manifest.clone();
    two.version_mut(v(10)).unwrap().state = Primary;
    let mut other = world.manifest.clone();
    other.primary = v(10);
    for manifest in [none, two, other] {
        assert!(revise::seal(manifest, [world.version(9).validated()]).is_err());
    }
}

fn declaration(name: &str, max_age_s: Option<u64>) -> KeyDeclaration {
    KeyDeclaration { name: key(name), max_age_s }
}

#[test]
fn a_declaration_takes_nothing_out_and_lifetimes_only_grow_while_their_version_encrypts() {
    let mut manifest = World::v9_and_v10(Activating).manifest;
    let columns = [(source("a.x"), key("pii")), (source("b.y"), key("auth"))];
    assert!(revise::declare(&mut manifest, &[declaration("pii", Some(10)), declaration("auth", None)], &columns));
    let lifetimes = |manifest: &Manifest, at: usize| {
        let lifetimes = &manifest.declared.keys[at].lifetimes;
        lifetimes.iter().map(|life: &Lifetime| (life.version.get(), life.max_age_s)).collect::<Vec<_>>()
    };
    assert_eq!((lifetimes(&manifest, 0), lifetimes(&manifest, 1)), (vec![(9, 10)], vec![]));
    // The same, less, or nothing: no change.
    for keys in [
        vec![declaration("pii", Some(10))],
        vec![declaration("pii", Some(3))],
        vec![declaration("pii", None)],
        vec![],
    ] {
        let before = manifest.clone();
        assert!(!revise::declare(&mut manifest, &keys, &[]));
        assert_eq!(manifest, before);
    }
    assert!(revise::declare(&mut manifest, &[declaration("pii", Some(30))], &[]));
    assert_eq!(lifetimes(&manifest, 0), [(9, 30)]);
    // From the activation on, what grows is v10's.
    revise::step(&mut manifest, v(10), Primary).unwrap();
    assert!(revise::declare(&mut manifest, &[declaration("pii", Some(90)), declaration("new", Some(0))], &[]));
    assert_eq!((lifetimes(&manifest, 0), lifetimes(&manifest, 2)), (vec![(9, 30), (10, 90)], vec![(10, 0)]));
    assert_eq!(manifest.declared.sources.len(), 2);
}

#[test]
fn a_source_that_was_declared_gone_and_is_declared_again_is_there_again() {
    let mut manifest = World::v9_and_v10(Staged).manifest;
    let column = [(source("a.x"), key("pii"))];
    revise::declare(&mut manifest, &[], &column);
    manifest.declared.sources[0].gone = Some(then());
    assert!(!revise::declare(&mut manifest, &[], &[]));
    assert_eq!(manifest.declared.sources[0].gone, Some(then()));
    assert!(revise::declare(&mut manifest, &[], &column));
    assert_eq!((manifest.declared.sources.len(), manifest.declared.sources[0].gone), (1, None));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_declared_in_whatever_order_nothing_shrinks(
        rounds in prop::collection::vec(
            (prop::collection::vec((0..4_u8, prop::option::of(0..100_u64)), 0..4),
             prop::collection::vec(0..4_u8, 0..4), any::<bool>()), 0..12)
    ) {
        let mut manifest = World::with(&[(9, DecryptOnly), (10, Primary)], 2, 2).manifest;
        for (keys, columns, turn) in rounds {
            let before = manifest.declared.clone();
            if turn {
                let other = if manifest.primary == v(9) { v(10) } else { v(9) };
                revise::step(&mut manifest, other, Primary).unwrap();
            }
            let keys: Vec<_> = keys.iter().map(|(name, age)| declaration(&format!("k{name}"), *age)).collect();
            let columns: Vec<_> = columns.iter().map(|name| (source(&format!("s.{name}")), key("k0"))).collect();
            let changed = revise::declare(&mut manifest, &keys, &columns);
            prop_assert_eq!(changed, manifest.declared != before);
            // Saying the same again says nothing.
            prop_assert!(!revise::declare(&mut manifest, &keys, &columns));
            for old in &before.keys {
                let new = manifest.declared.keys.iter().find(|key| key.name == old.name).unwrap();
                for life in &old.lifetimes {
                    let now = new.lifetimes.iter().find(|now| now.version == life.version).unwrap();
                    prop_assert!(now.max_age_s >= life.max_age_s);
                    prop_assert!(now == life || now.version == manifest.primary);
                }
            }
            for old in &before.sources {
                prop_assert!(manifest.declared.sources.iter().any(|new| new.name == old.name));
            }
        }
    }
}

fn keyring(world: &World, numbers: &[u32], keys: &[&str]) -> Keyring {
    let keys: Vec<_> = keys.iter().map(|name| key(name)).collect();
    Keyring::new(numbers.iter().map(|number| world.version(*number).validated().clone()), None, &keys)
}

fn canaries(manifest: &Manifest) -> Vec<(u32, &str)> {
    manifest.canaries.iter().map(|canary| (canary.version.get(), canary.key.as_str())).collect()
}

#[test]
fn canaries_are_added_once_for_each_loaded_version_and_key_and_they_decrypt() {
    let world = World::new(&[(7, Retired), (8, Aborted), (9, Primary), (10, Staged), (100, DecryptOnly)]);
    let keyring = keyring(&world, &[7, 8, 9, 10, 100], &["pii", "auth"]);
    let keys = [key("pii"), key("auth"), key("undeclared")];
    let mut manifest = world.manifest.clone();
    assert!(revise::add_canaries(&mut manifest, &keyring, &keys));
    let expected = [(9, "auth"), (9, "pii"), (10, "auth"), (10, "pii"), (100, "auth"), (100, "pii")];
    assert_eq!(canaries(&manifest), expected);
    for canary in &manifest.canaries {
        let value = Value::parse(&canary.value).unwrap();
        let text = keyring.decrypt(&canary.key, &value, b"").unwrap();
        assert_eq!(value.version(), canary.version);
        assert_eq!(text.as_slice(), revise::canary_text(canary.version, &canary.key).as_bytes());
    }
    let before = manifest.clone();
    assert!(!revise::add_canaries(&mut manifest, &keyring, &keys));
    assert_eq!(manifest, before);
}

#[test]
fn a_key_that_is_declared_later_gets_its_canaries_and_the_others_keep_theirs() {
    let world = World::v9_and_v10(Staged);
    let mut manifest = world.manifest.clone();
    assert!(revise::add_canaries(&mut manifest, &keyring(&world, &[9], &["pii"]), &[key("pii")]));
    let first = manifest.canaries[0].clone();
    let both = [key("auth"), key("pii")];
    assert!(revise::add_canaries(&mut manifest, &keyring(&world, &[9, 10], &["auth", "pii"]), &both));
    assert_eq!(canaries(&manifest), [(9, "auth"), (9, "pii"), (10, "auth"), (10, "pii")]);
    assert!(manifest.canaries.contains(&first));
}

#[test]
fn a_version_that_is_retired_and_restored_is_as_it_was() {
    let world = World::new(&[(9, DecryptOnly), (10, Primary)]);
    let mut manifest = world.manifest.clone();
    let keyring = keyring(&world, &[9, 10], &["pii"]);
    revise::add_canaries(&mut manifest, &keyring, &[key("pii")]);
    let before = manifest.clone();
    revise::retire(&mut manifest, v(9), Some("lost with the laptop".into()), then()).unwrap();
    let retirement = manifest.version(v(9)).unwrap().retirement.clone().unwrap();
    assert_eq!((retirement.at, retirement.hold_ended), (then(), None));
    assert_eq!(retirement.override_reason.as_deref(), Some("lost with the laptop"));
    assert_eq!(canaries(&manifest), [(10, "pii")]);
    assert!(manifest.required().all(|record| record.version == v(10)));
    // Retiring again is no step.
    assert!(revise::retire(&mut manifest, v(9), None, then()).is_err());
    revise::restore(&mut manifest, v(9)).unwrap();
    revise::add_canaries(&mut manifest, &keyring, &[key("pii")]);
    assert_eq!(canaries(&manifest), canaries(&before));
    // But that members may lack it, and that a wait of before is another.
    let restored = manifest.version_mut(v(9)).unwrap();
    assert_eq!((restored.brought_back, restored.since), (true, Some(1)));
    (restored.brought_back, restored.since) = (false, None);
    assert_eq!(manifest.versions, before.versions);
}

#[test]
fn only_a_retired_version_within_its_hold_is_restored() {
    for state in VersionState::ALL {
        let world = beside(state);
        let mut manifest = world.manifest.clone();
        let restored = revise::restore(&mut manifest, v(9));
        assert_eq!(restored.is_ok(), state == Retired, "{state}");
        if restored.is_err() {
            assert_eq!(manifest, world.manifest);
        }
    }
    let mut manifest = World::new(&[(9, DecryptOnly), (10, Primary)]).manifest;
    revise::retire(&mut manifest, v(9), None, then()).unwrap();
    manifest.version_mut(v(9)).unwrap().retirement.as_mut().unwrap().hold_ended = Some(then());
    let before = manifest.clone();
    assert_eq!(revise::restore(&mut manifest, v(9)), Err(StepRefused::HoldEnded(v(9))));
    assert_eq!(manifest, before);
}
