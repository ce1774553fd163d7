//! A part is judged alone: every code, its place in the order, what it names and what it keeps to itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{HOLDERS, Version, World, holder, v};
use keymoot_keyring::key_check::share_digest;
use keymoot_quorum::{
    Matched, PartRefusal, Unlock,
    judge::{Purpose, judge},
};
use keymoot_types::{HolderName, KeyVersion, KeyringId, RefusalCode, RefusalCode::*, VersionState::*};

const NAME: &str = "prod-keyPart-v9";

fn world() -> World {
    World::new(&[(7, Retired), (8, Aborted), (9, Primary), (10, Staged)])
}

fn refused(world: &World, name: &str, text: &str) -> PartRefusal {
    judge(&world.manifest, Purpose::Unlock, name, text).map(|part: Matched| part.holder).unwrap_err()
}

fn assert_refused(
    world: &World,
    (name, text): (&str, &str),
    code: RefusalCode,
    version: Option<u32>,
    holder: Option<usize>,
) {
    let refusal = refused(world, name, text);
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert_eq!(refusal.name, name);
    assert_eq!(refusal.version.map(KeyVersion::get), version, "{refusal:?}");
    assert_eq!(refusal.holder, holder.map(common::holder), "{refusal:?}");
    assert_names_no_holder(world, &refusal);
}

/// Names are for authenticated people: the sentence that anyone gets holds none, nor the share.
fn assert_names_no_holder(world: &World, refusal: &PartRefusal) {
    for holder in &world.record(9).share_set.holders {
        assert!(!refusal.detail.contains(holder.name.as_str()), "{refusal:?}");
    }
    assert!(!refusal.detail.contains("kmshare1q"), "{refusal:?}");
}

/// The last character changed to another of the alphabet: the shape stays, the checksum breaks.
fn bad_checksum(text: &str) -> String {
    let (body, last) = text.split_at(text.len() - 1);
    format!("{body}{}", if last == "q" { "p" } else { "q" })
}

#[test]
fn every_code_of_the_judgement_is_given_with_the_version_and_the_holder_that_are_known_by_then() {
    let mut world = world();
    let (v9, v10) = (Version::make(9, 2, HOLDERS), Version::make(10, 2, HOLDERS));
    // An earlier set of v9 is one that was replaced.
    let earlier = share_digest(v9.share(3));
    world.record_mut(9).share_set.replaced = vec![earlier];
    let foreign = Version::make_in(KeyringId::new([1; 8]), 9, 2, HOLDERS);
    let unknown = Version::make(11, 2, HOLDERS);
    let right = world.version(9).text(4);
    let few = Version::make(9, 2, 200);

    assert_refused(&world, (NAME, "kmshare1"), MalformedShare, None, None);
    assert_refused(&world, (NAME, &right.replacen("kmshare", "kmshard", 1)), MalformedShare, None, None);
    assert_refused(&world, (NAME, &bad_checksum(&right)), ChecksumFailed, None, None);
    assert_refused(&world, (NAME, &foreign.text(4)), WrongKeyring, Some(9), None);
    assert_refused(&world, ("prod-keyPart-v10", &right), NameMismatch, Some(9), None);
    assert_refused(&world, ("test-keyPart-v9", &right), NameMismatch, Some(9), None);
    assert_refused(&world, ("prod-keyPart-v11", &unknown.text(4)), UnknownVersion, Some(11), None);
    assert_refused(&world, ("prod-keyPart-v7", &world.version(7).text(4)), VersionRetired, Some(7), None);
    assert_refused(&world, ("prod-keyPart-v8", &world.version(8).text(4)), VersionAborted, Some(8), None);
    assert_refused(&world, (NAME, &few.text(99)), UnknownHolder, Some(9), None);
    assert_refused(&world, (NAME, &v9.text(3)), ShareReplaced, Some(9), None);
    assert_refused(&world, (NAME, &v9.text(4)), ShareMismatch, Some(9), Some(4));
    assert_refused(&world, (NAME, &world.version(9).wrong_text(4)), ShareMismatch, Some(9), Some(4));
    assert_refused(&world, ("prod-keyPart-v10", &v10.text(4)), ShareMismatch, Some(10), Some(4));

    let part = judge(&world.manifest, Purpose::Unlock, NAME, &right).unwrap();
    assert_eq!((part.holder, part.set, part.share.version()), (holder(4), 1, v(9)));
    assert!(judge(&world.manifest, Purpose::Unlock, NAME, &right.to_uppercase()).is_ok());
}

#[test]
fn a_part_that_is_wrong_in_two_ways_gets_the_code_that_is_judged_first() {
    let mut world = world();
    let other = Version::make(9, 2, HOLDERS);
    let foreign = |number| Version::make_in(KeyringId::new([1; 8]), number, 2, HOLDERS);
    let beyond = |number| Version::make(number, 2, 200);
    let gone = beyond(9);
    world.record_mut(9).share_set.replaced = vec![share_digest(other.share(3)), share_digest(gone.share(99))];

    let two_ways: [(&str, String, RefusalCode); 14] = [
        // Each line: this code, and also a later one.
        ("v9", bad_checksum(&world.version(9).text(0))[1..].into(), MalformedShare),
        ("v9", world.version(9).text(0).replacen('k', "K", 1), MalformedShare),
        ("v9", bad_checksum(&foreign(9).text(0)), ChecksumFailed),
        (NAME, bad_checksum(&world.version(7).text(0)), ChecksumFailed),
        ("v9", foreign(9).text(0), WrongKeyring),
        ("prod-keyPart-v11", foreign(11).text(0), WrongKeyring),
        ("prod-keyPart-v7", foreign(7).text(0), WrongKeyring),
        (NAME, beyond(11).text(0), NameMismatch),
        (NAME, world.version(7).text(0), NameMismatch),
        ("prod-keyPart-v8", world.version(7).text(0), NameMismatch),
        (NAME, beyond(10).text(99), NameMismatch),
        ("prod-keyPart-v7", beyond(7).text(99), VersionRetired),
        ("prod-keyPart-v8", world.version(8).wrong_text(0), VersionAborted),
        // Its x is no one's any longer, and that it was replaced is the better reason.
        (NAME, gone.text(99), ShareReplaced),
    ];
    for (name, text, code) in &two_ways {
        assert_eq!(refused(&world, name, text).code, *code, "{name}");
    }
    // A replaced share is a mismatch too, and the better reason is given.
    assert_eq!(refused(&world, NAME, &other.text(3)).code, ShareReplaced);

    // On a node that has v9, or holds this holder's share: the share itself is judged before.
    let mut unlock = Unlock::default();
    let now = Duration::ZERO;
    let (name, text) = world.part(9, 3);
    unlock.give(&world.manifest, |_| false, &name, &text, now).unwrap();
    for loaded in [false, true] {
        let mut code = |text: &str| unlock.give(&world.manifest, |_| loaded, NAME, text, now).unwrap_err().code;
        assert_eq!(code(&other.text(3)), ShareReplaced);
        assert_eq!(code(&world.version(9).wrong_text(3)), ShareMismatch);
        assert_eq!(code(&text), if loaded { AlreadyLoaded } else { DuplicateShare });
    }
}

#[test]
fn the_order_of_the_codes_is_the_order_of_judging() {
    // But for one: that a share was replaced is told also where its x is no one's any longer.
    let order = [
        MalformedShare,
        ChecksumFailed,
        WrongKeyring,
        NameMismatch,
        UnknownVersion,
        VersionRetired,
        VersionAborted,
        UnknownHolder,
        ShareReplaced,
        ShareMismatch,
        AlreadyLoaded,
        DuplicateShare,
        KeyCheckFailed,
    ];
    assert!(order.is_sorted_by(|a, b| a < b));
}

#[test]
fn only_the_exact_name_of_a_part_will_do() {
    let world = world();
    let text = world.version(9).text(0);
    for name in [
        "prod-keyPart-v09",
        "prod-keyPart-v9 ",
        " prod-keyPart-v9",
        "prod-keypart-v9",
        "PROD-keyPart-v9",
        "prod-keyPart-v+9",
        "prod-keyPart-v９",
        "prod-keyPart-9",
        "prod-keyPart-v9-keyPart-v9",
        "prod-keyPart-v4294967305",
        "keyPart-v9",
        "",
    ] {
        let refusal = refused(&world, name, &text);
        assert_eq!((refusal.code, refusal.version), (NameMismatch, Some(v(9))), "{name:?}");
        assert_eq!(refusal.name, name);
    }
}

#[test]
fn the_holder_of_a_right_share_may_be_told_and_the_one_whose_place_is_claimed_may_not() {
    let world = world();
    let mut unlock = Unlock::default();
    let (name, text) = world.part(9, 5);
    unlock.give(&world.manifest, |_| false, &name, &text, Duration::ZERO).unwrap();
    let again = unlock.give(&world.manifest, |_| false, &name, &text, Duration::ZERO).unwrap_err();
    assert_eq!((again.code, again.holder.clone()), (DuplicateShare, Some(holder(5))));
    assert!(again.share_was_right());
    assert_names_no_holder(&world, &again);
    let loaded = unlock.give(&world.manifest, |_| true, &name, &text, Duration::ZERO).unwrap_err();
    assert_eq!((loaded.code, loaded.holder.clone()), (AlreadyLoaded, Some(holder(5))));
    assert!(loaded.share_was_right());
    assert_names_no_holder(&world, &loaded);
    let wrong = refused(&world, NAME, &world.version(9).wrong_text(5));
    assert_eq!(wrong.holder, Some(holder(5)));
    assert!(!wrong.share_was_right());
}

#[test]
fn fault_03_a_share_of_one_version_or_keyring_never_counts_for_another() {
    let numbers = [1, 2, 9, 10, 99, 100, 109, u32::MAX];
    let states: Vec<_> = numbers.iter().map(|n| (*n, if *n == 9 { Primary } else { DecryptOnly })).collect();
    let world = World::with(&states, 2, 3);
    let mut unlock = Unlock::default();
    for given in numbers {
        for named in numbers.into_iter().filter(|named| *named != given) {
            let (name, text) = (world.version(named).name(), world.version(given).text(1));
            let refusal = unlock.give(&world.manifest, |_| false, &name, &text, Duration::ZERO).unwrap_err();
            assert_eq!((refusal.code, refusal.version), (NameMismatch, Some(v(given))));
            assert!(
                refusal.detail.contains(&format!("v{named}")) && refusal.detail.contains(&format!("v{given}"))
            );
        }
    }
    let foreign = Version::make_in(KeyringId::new([2; 8]), 9, 2, 3);
    let refusal = unlock.give(&world.manifest, |_| false, NAME, &foreign.text(0), Duration::ZERO).unwrap_err();
    assert_eq!(refusal.code, WrongKeyring);
    assert!(refusal.detail.contains("0202020202020202"), "{}", refusal.detail);
    assert!(unlock.is_empty());
    // One share of each: the pair makes no key.
    for number in [9, 10] {
        let (name, text) = world.part(number, 0);
        assert!(!unlock.give(&world.manifest, |_| false, &name, &text, Duration::ZERO).unwrap().validated);
    }
    assert_eq!(unlock.validated().count(), 0);
}

#[test]
fn fault_04_repeats_equal_x_and_edge_x_are_refused_by_name_and_lose_nothing() {
    let world = World::with(&[(9, Primary)], 3, 255);
    let version = world.version(9);
    let mut unlock = Unlock::default();
    let mut give = |text: &str| unlock.give(&world.manifest, |_| false, NAME, text, Duration::ZERO);
    assert!(give(&version.text(0)).is_ok());
    // The same share twice; in capitals; another share with its x; a share of x 255.
    assert_eq!(give(&version.text(0)).unwrap_err().code, DuplicateShare);
    assert_eq!(give(&version.text(0).to_uppercase()).unwrap_err().code, DuplicateShare);
    assert_eq!(give(&version.wrong_text(0)).unwrap_err().code, ShareMismatch);
    assert_eq!(give(&version.text_of(255, [0; 32])).unwrap_err().code, ShareMismatch);
    assert!(!give(&version.text(254)).unwrap().validated);
    assert_eq!(give(&version.wrong_text(7)).unwrap_err().code, ShareMismatch);
    // More than needed: the third validates, the fourth is not needed.
    assert!(give(&version.text(100)).unwrap().validated);
    assert_eq!(give(&version.text(101)).unwrap_err().code, AlreadyLoaded);
    assert_eq!(give(&version.wrong_text(101)).unwrap_err().code, ShareMismatch);
    let progress = unlock.progress(world.record(9));
    let gave: Vec<HolderName> = [0, 254, 100].map(holder).into();
    assert_eq!((progress.have, progress.threshold, progress.validated, progress.holders), (3, 3, true, gave));
}
