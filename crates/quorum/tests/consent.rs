//! Consent is given by shares of one version, by distinct holders.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{HOLDERS, Version, World, holder, v};
use keymoot_quorum::{PartRefusal, consent::Consents, reshare};
use keymoot_types::{HolderName, RefusalCode, RefusalCode::*, VersionState::*};

fn give(
    consents: &mut Consents,
    world: &World,
    (name, text): (String, String),
) -> Result<HolderName, PartRefusal> {
    consents.give(&world.manifest, v(9), &name, &text).map(|part| part.holder)
}

fn code(consents: &mut Consents, world: &World, part: (String, String)) -> RefusalCode {
    give(consents, world, part).unwrap_err().code
}

#[test]
fn consents_are_counted_by_distinct_holders() {
    let world = World::v9_and_v10(Staged);
    let mut consents = Consents::default();
    assert_eq!((consents.have(), consents.holders()), (0, &[][..]));
    for (given, who) in [11, 3, 7].into_iter().enumerate() {
        assert_eq!(give(&mut consents, &world, world.part(9, who)), Ok(holder(who)));
        assert_eq!(consents.have(), given + 1);
        let again = give(&mut consents, &world, world.part(9, who)).unwrap_err();
        assert_eq!((again.code, again.version, again.holder), (DuplicateShare, Some(v(9)), Some(holder(who))));
        assert!(!again.detail.contains("holder-"));
        assert_eq!(consents.have(), given + 1);
    }
    assert_eq!(consents.holders(), [11, 3, 7].map(holder));
}

#[test]
fn the_share_is_handed_back_to_be_recorded_as_a_proof() {
    let world = World::v9_and_v10(Staged);
    let (name, text) = world.part(9, 2);
    let part = Consents::default().give(&world.manifest, v(9), &name, &text).unwrap();
    assert_eq!((part.share.version(), part.holder, part.set), (v(9), holder(2), 1));
}

#[test]
fn a_share_of_another_version_is_name_mismatch_in_its_place_in_the_order() {
    let world = World::new(&[(7, Retired), (8, Aborted), (9, Primary), (10, Staged), (11, DecryptOnly)]);
    let mut consents = Consents::default();
    for number in [7, 8, 10, 11] {
        let refusal = give(&mut consents, &world, world.part(number, 0)).unwrap_err();
        assert_eq!((refusal.code, refusal.version, refusal.holder), (NameMismatch, Some(v(number)), None));
        assert!(refusal.detail.contains(&format!("v{number}")) && refusal.detail.contains("v9"));
        // Also a wrong share of it: that is judged later.
        let version = world.version(number);
        assert_eq!(code(&mut consents, &world, (version.name(), version.wrong_text(0))), NameMismatch);
    }
    let unknown = Version::make(12, 2, HOLDERS);
    assert_eq!(code(&mut consents, &world, (unknown.name(), unknown.text(0))), NameMismatch);
    assert_eq!(code(&mut consents, &world, (unknown.name(), "kmshare1".into())), MalformedShare);
    assert_eq!(consents.have(), 0);
}

#[test]
fn a_refused_part_is_no_consent() {
    let world = World::v9_and_v10(Staged);
    let version = world.version(9);
    let mut consents = Consents::default();
    give(&mut consents, &world, world.part(9, 0)).unwrap();
    let before = consents.clone();
    assert_eq!(code(&mut consents, &world, (version.name(), version.wrong_text(1))), ShareMismatch);
    assert_eq!(code(&mut consents, &world, ("prod-keyPart-v10".into(), version.text(1))), NameMismatch);
    assert_eq!(code(&mut consents, &world, (version.name(), version.text_of(200, [1; 32]))), UnknownHolder);
    assert_eq!(consents, before);
    assert_eq!(give(&mut consents, &world, world.part(9, 1)), Ok(holder(1)));
}

#[test]
fn a_consent_by_a_share_that_was_replaced_meanwhile_counts_no_longer() {
    let mut world = World::with(&[(9, Primary)], 2, 4);
    let mut consents = Consents::default();
    let new = world.version(9).reshared(2, 2, 0..4);
    give(&mut consents, &world, world.part(9, 0)).unwrap();
    reshare::begin(&mut world.manifest, v(9), new.staged.share_set.clone(), &[holder(0)]).unwrap();
    give(&mut consents, &world, world.part(9, 1)).unwrap();
    assert_eq!(consents.have(), 2, "the set before is in force until enough have proved");
    reshare::finish(&mut world.manifest, v(9)).unwrap();
    give(&mut consents, &world, (new.name(), new.text(2))).unwrap();
    assert_eq!(consents.holders(), [holder(2)]);
}
