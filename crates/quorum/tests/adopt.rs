//! Which manifest is followed: only the next one, whole, vouched for by every version that the present requires.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{Version, World, key, node, source, then, v};
use keymoot_quorum::{
    adopt::{Divergence, adopt, follows, identity, stands},
    revise::{self, KeyDeclaration},
};
use keymoot_types::{
    Digest, KeyringId, Manifest,
    VersionState::*,
    manifest::{ManifestDocument, ManifestMac},
};
use serde_json::{Value as Json, json};

const BOTH: &[u32] = &[9, 10];

/// v9 primary, v10 activating: both are required.
fn world() -> World {
    World::v9_and_v10(Activating)
}

fn changed(current: &ManifestDocument) -> Manifest {
    let mut manifest = revise::next(current);
    manifest.members.push(node("db4"));
    manifest
}

fn not_vouched(version: u32) -> Result<(), Divergence> {
    Err(Divergence::NotVouched { revision: 2, version: v(version) })
}

#[test]
fn the_next_revision_that_every_required_version_vouches_for_is_adopted() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let next = world.seal(changed(&current), BOTH);
    assert_eq!(follows(&current, &next), Ok(()));
    assert_eq!(adopt(&current, &next, world.loaded(BOTH)), Ok(()));
    // Also as it comes out of the store.
    let stored = ManifestDocument::parse(next.canonical()).unwrap();
    assert_eq!(adopt(&current, &stored, world.loaded(BOTH)), Ok(()));
    assert_eq!(identity(&stored), (2, next.digest()));
}

#[test]
fn a_gap_a_lower_revision_and_an_equal_one_with_another_digest_do_not_follow() {
    let world = world();
    let first = world.sealed_by(BOTH);
    let second = world.seal(changed(&first), BOTH);
    let third = world.seal(changed(&second), BOTH);
    let fork = world.seal(revise::next(&first), BOTH);
    let vouched = |current, next| adopt(current, next, world.loaded(BOTH));
    assert_eq!(vouched(&first, &third), Err(Divergence::Gap { revision: 2 }));
    assert_eq!(vouched(&third, &second), Err(Divergence::WentBack { adopted: 3, stored: 2 }));
    assert_eq!(vouched(&second, &fork), Err(Divergence::Forked { revision: 2 }));
    assert_eq!(vouched(&second, &second), Err(Divergence::Forked { revision: 2 }));
    // A right number on another past.
    assert_eq!(vouched(&fork, &third), Err(Divergence::Forked { revision: 3 }));
    let mut orphan = changed(&first);
    orphan.previous = None;
    assert_eq!(vouched(&first, &world.seal(orphan, BOTH)), Err(Divergence::Forked { revision: 2 }));
}

#[test]
fn a_chain_is_adopted_step_by_step_and_every_skipped_step_is_a_gap() {
    let world = world();
    let mut chain = vec![world.sealed_by(BOTH)];
    for _ in 0..6 {
        let next = world.seal(revise::next(chain.last().unwrap()), BOTH);
        chain.push(next);
    }
    for (at, current) in chain.iter().enumerate() {
        for (to, next) in chain.iter().enumerate() {
            let followed = follows(current, next);
            assert_eq!(followed.is_ok(), to == at + 1, "{at} {to}");
            if to > at + 1 {
                assert_eq!(followed, Err(Divergence::Gap { revision: at as u64 + 2 }));
            }
        }
    }
}

#[test]
fn after_the_last_revision_there_is_none_and_no_overflow() {
    let world = world();
    let mut last = world.manifest.clone();
    // Canonical JSON is exact up to here.
    let highest = (1 << 53) - 1;
    last.revision = highest;
    let last = world.seal(last, BOTH);
    let first = world.sealed_by(BOTH);
    assert_eq!(follows(&last, &first), Err(Divergence::WentBack { adopted: highest, stored: 1 }));
    assert_eq!(follows(&last, &last), Err(Divergence::Forked { revision: highest }));
    assert_eq!(follows(&first, &last), Err(Divergence::Gap { revision: 2 }));
}

#[test]
fn a_manifest_of_another_keyring_is_never_followed() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let mut other_id = changed(&current);
    other_id.keyring_id = KeyringId::new([9; 8]);
    let mut other_name = changed(&current);
    other_name.keyring = "test".parse().unwrap();
    for other in [other_id, other_name] {
        let other = world.seal(other, BOTH);
        assert_eq!(adopt(&current, &other, world.loaded(BOTH)), Err(Divergence::OtherKeyring));
    }
}

#[test]
fn the_mac_of_each_required_version_is_needed_and_must_be_right() {
    let world = World::new(&[(8, DecryptOnly), (9, Primary), (10, Activating)]);
    let all = [8, 9, 10];
    let current = world.sealed_by(&all);
    for lacking in all {
        let others: Vec<u32> = all.into_iter().filter(|number| *number != lacking).collect();
        let next = world.seal(changed(&current), &others);
        assert_eq!(adopt(&current, &next, world.loaded(&all)), not_vouched(lacking));
        // Every bit of it counts.
        let whole = world.seal(changed(&current), &all);
        let at = all.iter().position(|number| *number == lacking).unwrap();
        for bit in 0..256 {
            let mut manifest = whole.manifest().clone();
            let mut mac = *manifest.macs[at].mac.as_bytes();
            mac[bit / 8] ^= 1 << (bit % 8);
            manifest.macs[at].mac = Digest::new(mac);
            let wrong = ManifestDocument::from_manifest(manifest).unwrap();
            assert_eq!(adopt(&current, &wrong, world.loaded(&all)), not_vouched(lacking));
        }
        // A right mac of another version under its number does not do.
        let mut manifest = whole.manifest().clone();
        manifest.macs[at].mac = manifest.macs[(at + 1) % 3].mac;
        let exchanged = ManifestDocument::from_manifest(manifest).unwrap();
        assert_eq!(adopt(&current, &exchanged, world.loaded(&all)), not_vouched(lacking));
    }
}

#[test]
fn a_mac_that_is_right_for_another_content_is_wrong() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let next = world.seal(changed(&current), BOTH);
    let mut rewritten = next.manifest().clone();
    rewritten.members.pop();
    let rewritten = ManifestDocument::from_manifest(rewritten).unwrap();
    assert_eq!(adopt(&current, &rewritten, world.loaded(BOTH)), not_vouched(9));
}

#[test]
fn a_staged_version_need_not_vouch() {
    let world = World::v9_and_v10(Staged);
    let current = world.sealed_by(BOTH);
    let next = world.seal(changed(&current), &[9]);
    assert_eq!(adopt(&current, &next, world.loaded(&[9])), Ok(()));
    // What the present requires is asked, not what the next does: its own first step needs v9 alone.
    let mut begun = revise::next(&current);
    revise::step(&mut begun, v(10), Activating).unwrap();
    assert_eq!(adopt(&current, &world.seal(begun, &[9]), world.loaded(&[9])), Ok(()));
}

#[test]
fn the_revision_that_retires_a_version_still_needs_its_mac_and_the_one_after_does_not() {
    let world = World::new(&[(9, DecryptOnly), (10, Primary)]);
    let current = world.sealed_by(BOTH);
    let mut retired = revise::next(&current);
    revise::retire(&mut retired, v(9), None, then()).unwrap();
    assert_eq!(adopt(&current, &world.seal(retired.clone(), &[10]), world.loaded(BOTH)), not_vouched(9));
    let retired = world.seal(retired, BOTH);
    assert_eq!(adopt(&current, &retired, world.loaded(BOTH)), Ok(()));
    let after = world.seal(changed(&retired), &[10]);
    assert_eq!(adopt(&retired, &after, world.loaded(&[10])), Ok(()));
}

#[test]
fn a_version_that_is_not_loaded_or_is_another_key_verifies_nothing() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let next = world.seal(changed(&current), BOTH);
    let gone = |version| Err(Divergence::KeyGone { revision: 2, version: v(version) });
    assert_eq!(adopt(&current, &next, world.loaded(&[9])), gone(10));
    assert_eq!(adopt(&current, &next, world.loaded(&[10])), gone(9));
    assert_eq!(adopt(&current, &next, world.loaded(&[])), gone(9));
    // Version 10 of another identity.
    let other = World::v9_and_v10(Activating);
    let mixed = |version| if version == v(9) { world.loaded(BOTH)(version) } else { other.loaded(BOTH)(version) };
    assert_eq!(adopt(&current, &next, mixed), gone(10));
}

#[test]
fn an_old_leaked_key_alone_rewrites_nothing() {
    let world = World::new(&[(9, DecryptOnly), (10, Primary)]);
    let current = world.sealed_by(BOTH);
    let leaked = world.version(9);
    let forged = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = revise::next(&current);
        change(&mut manifest);
        manifest
    };
    let rolled_back = forged(&|manifest| revise::step(manifest, v(9), Primary).unwrap());
    let retired = forged(&|manifest| {
        revise::step(manifest, v(9), Primary).unwrap();
        revise::retire(manifest, v(10), None, then()).unwrap();
    });
    let given_up = forged(&|manifest| {
        revise::step(manifest, v(9), Primary).unwrap();
        manifest.version_mut(v(10)).unwrap().given_up = Some("lost".into());
    });
    let grown = forged(&|manifest| {
        let own = Version::make(11, 2, 2);
        revise::stage(manifest, &own.staged, then());
    });
    for manifest in [rolled_back, retired, given_up, grown] {
        let alone = world.seal(manifest.clone(), &[9]);
        assert_eq!(adopt(&current, &alone, world.loaded(BOTH)), not_vouched(10));
        // With its own mac put in the other's place, and with the other's last mac copied.
        for mac in [leaked.validated().manifest_mac(&alone), current.manifest().macs[1].mac] {
            let mut forged = alone.manifest().clone();
            forged.macs.push(ManifestMac { version: v(10), mac });
            let forged = ManifestDocument::from_manifest(forged).unwrap();
            assert_eq!(adopt(&current, &forged, world.loaded(BOTH)), not_vouched(10));
        }
    }
}

#[test]
fn a_version_that_vanished_or_changed_its_identity_is_not_followed_even_when_all_vouch() {
    let world = World::new(&[(7, Retired), (8, Aborted), (9, Primary), (10, Activating)]);
    let current = world.sealed_by(BOTH);
    for number in [7, 8, 10] {
        let gone = Err(Divergence::VersionGone { revision: 2, version: v(number) });
        let mut without = revise::next(&current);
        without.versions.retain(|record| record.version != v(number));
        let without = world.seal(without, BOTH);
        assert_eq!(follows(&current, &without), gone);
        assert_eq!(adopt(&current, &without, world.loaded(BOTH)), gone);
        let mut reused = revise::next(&current);
        reused.version_mut(v(number)).unwrap().key_id = Version::make(number, 2, 2).validated().key_id();
        assert_eq!(adopt(&current, &world.seal(reused, BOTH), world.loaded(BOTH)), gone);
    }
}

fn with_unknown(document: &ManifestDocument) -> Json {
    let mut json: Json = serde_json::from_slice(document.canonical()).unwrap();
    json["x_newer"] = json!({"b": [1, 2.5, null], "a": "ü"});
    json["versions"][1]["x_newer"] = json!("of a version");
    json
}

/// The macs of a document that holds fields which this build does not know.
fn vouch(world: &World, mut json: Json, by: &[u32]) -> ManifestDocument {
    let document = ManifestDocument::parse(json.to_string().as_bytes()).unwrap();
    let macs = by.iter().map(|number| {
        let mac = world.version(*number).validated().manifest_mac(&document);
        json!({"version": number, "mac": mac})
    });
    json["macs"] = macs.collect();
    ManifestDocument::parse(json.to_string().as_bytes()).unwrap()
}

#[test]
fn fields_of_a_newer_build_are_covered_by_the_macs_and_kept_in_the_next_revision() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let next = vouch(&world, with_unknown(&world.seal(changed(&current), BOTH)), BOTH);
    assert_eq!(adopt(&current, &next, world.loaded(BOTH)), Ok(()));

    let tampered = [
        ("/x_newer/a", json!("u")),
        ("/x_newer/b/1", json!(2.25)),
        ("/versions/1/x_newer", json!("")),
        ("/x_newer", Json::Null),
    ];
    for (at, value) in tampered {
        let mut json: Json = serde_json::from_slice(next.canonical()).unwrap();
        *json.pointer_mut(at).unwrap() = value;
        let tampered = ManifestDocument::parse(json.to_string().as_bytes()).unwrap();
        assert_ne!(tampered.digest(), next.digest());
        assert_eq!(adopt(&current, &tampered, world.loaded(BOTH)), not_vouched(9), "{at}");
    }

    let after = world.seal(revise::next(&next), BOTH);
    assert_eq!(adopt(&next, &after, world.loaded(BOTH)), Ok(()));
    let kept: Json = serde_json::from_slice(after.canonical()).unwrap();
    assert_eq!(kept["x_newer"], json!({"b": [1, 2.5, null], "a": "ü"}));
    assert_eq!(kept["versions"][1]["x_newer"], json!("of a version"));
}

#[test]
fn a_manifest_stands_when_its_primary_vouches_and_no_loaded_version_contradicts() {
    let world = World::new(&[(9, DecryptOnly), (10, Primary)]);
    let whole = world.sealed_by(BOTH);
    assert_eq!(stands(&whole, world.loaded(BOTH)), Ok(()));
    let revision = 1;
    let refused = |version| Err(Divergence::NotVouched { revision, version: v(version) });
    // No mac of the primary: whatever else vouches.
    assert_eq!(stands(&world.sealed_by(&[9]), world.loaded(BOTH)), refused(10));
    assert_eq!(stands(&world.sealed_by(&[]), world.loaded(BOTH)), refused(10));
    // One that was missing at a degraded rollback has no mac yet.
    assert_eq!(stands(&world.sealed_by(&[10]), world.loaded(BOTH)), Ok(()));
    // A wrong one is never accepted from a version that is loaded.
    for (at, number) in BOTH.iter().enumerate() {
        let mut manifest = whole.manifest().clone();
        manifest.macs[at].mac = Digest::new([0; 32]);
        let wrong = ManifestDocument::from_manifest(manifest).unwrap();
        assert_eq!(stands(&wrong, world.loaded(BOTH)), refused(*number));
        let other: &[u32] = if *number == 9 { &[10] } else { &[9] };
        assert_eq!(stands(&wrong, world.loaded(other)), Ok(()));
    }
}

#[test]
fn declarations_travel_along_the_chain() {
    let world = world();
    let current = world.sealed_by(BOTH);
    let mut manifest = revise::next(&current);
    let keys = [KeyDeclaration { name: key("pii"), max_age_s: Some(0) }];
    assert!(revise::declare(&mut manifest, &keys, &[(source("customers.ssn"), key("pii"))]));
    let next = world.seal(manifest, BOTH);
    assert_eq!(adopt(&current, &next, world.loaded(BOTH)), Ok(()));
    assert_eq!(revise::next(&next).declared, next.manifest().declared);
}
