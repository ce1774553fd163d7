//! The life of a share set: begun, proved, in force, replaced. At no step are both sets unusable.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod exposure;
mod steps;

use std::{collections::BTreeSet, sync::OnceLock, time::Duration};

use common::{HOLDERS, Version, World, holder, v};
use keymoot_quorum::{
    PartRefusal, Unlock,
    consent::Consents,
    judge::{Purpose, enough, judge},
    reshare::{ReshareRefused, begin, complete, finish, next_set},
    revise,
    unlock::Accepted,
};
use keymoot_types::{
    HolderName, KeyVersion, Manifest, RefusalCode,
    RefusalCode::*,
    VersionState,
    VersionState::*,
    manifest::{ManifestDocument, ShareSet},
};
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(5);
/// Consent is asked of v9 throughout.
fn purposes() -> [Purpose; 3] {
    [Purpose::Unlock, Purpose::Prove, Purpose::Consent(v(9))]
}

fn give(unlock: &mut Unlock, manifest: &Manifest, of: &Version, at: usize) -> Result<Accepted, PartRefusal> {
    unlock.give(manifest, |_| false, &of.name(), &of.text(at), NOW)
}

fn judged(
    manifest: &Manifest,
    purpose: Purpose,
    of: &Version,
    at: usize,
) -> Result<(HolderName, u32), PartRefusal> {
    judge(manifest, purpose, &of.name(), &of.text(at)).map(|part| (part.holder, part.set))
}

fn refused(manifest: &Manifest, purpose: Purpose, of: &Version, at: usize) -> PartRefusal {
    let refusal = judged(manifest, purpose, of, at).unwrap_err();
    assert!(!refusal.detail.contains("holder-") && !refusal.detail.contains("kmshare1q"), "{refusal:?}");
    assert!(!refusal.share_was_right(), "{refusal:?}");
    refusal
}

fn begun(manifest: &Manifest, new: &Version) -> Manifest {
    let mut manifest = manifest.clone();
    begin(&mut manifest, new.number, new.staged.share_set.clone(), &[]).unwrap();
    manifest
}

fn finished(manifest: &Manifest, number: u32) -> Manifest {
    let mut manifest = manifest.clone();
    finish(&mut manifest, v(number)).unwrap();
    manifest
}

/// The versions that `proved` completes, where these have proved this set of every version.
fn completed(manifest: &Manifest, set: u32, by: &[HolderName]) -> Vec<u32> {
    let proved =
        |_, asked: &ShareSet| if asked.set == set { by.iter().cloned().collect() } else { BTreeSet::new() };
    complete(manifest, proved).map(KeyVersion::get).collect()
}

/// v9 of 24 holders with a set to come, of 5.
fn pending() -> (World, Version) {
    let world = World::v9_and_v10(Staged);
    let new = world.version(9).reshared(2, 2, 0..5);
    let manifest = begun(&world.manifest, &new);
    (World { manifest, ..world }, new)
}

#[test]
fn a_share_of_the_set_to_come_counts_as_a_proof_and_for_nothing_else() {
    let (world, new) = pending();
    for at in 0..5 {
        assert_eq!(judged(&world.manifest, Purpose::Prove, &new, at), Ok((holder(at), 2)));
        for purpose in [Purpose::Unlock, Purpose::Consent(v(9))] {
            let refusal = refused(&world.manifest, purpose, &new, at);
            assert_eq!((refusal.code, refusal.version), (ShareMismatch, Some(v(9))));
            // It says what to do, and until when.
            assert!(refusal.detail.contains("keymoot holder prove"), "{}", refusal.detail);
            assert!(refusal.detail.contains("Until 3 holders"), "{}", refusal.detail);
        }
        let mut consents = Consents::default();
        let refusal = consents.give(&world.manifest, v(9), &new.name(), &new.text(at)).unwrap_err();
        assert_eq!((refusal.code, consents.have()), (ShareMismatch, 0));
        let mut unlock = Unlock::default();
        assert_eq!(give(&mut unlock, &world.manifest, &new, at).unwrap_err().code, ShareMismatch);
        assert!(unlock.is_empty());
    }
    // The set in force counts for everything, as before.
    for at in 0..HOLDERS {
        for purpose in purposes() {
            assert_eq!(judged(&world.manifest, purpose, world.version(9), at), Ok((holder(at), 1)));
        }
    }
}

#[test]
fn a_share_of_the_set_to_come_under_another_name_or_altered_is_refused_as_ever() {
    let (world, new) = pending();
    let code = |name: &str, text: &str| judge(&world.manifest, Purpose::Prove, name, text).unwrap_err().code;
    assert_eq!(code("prod-keyPart-v10", &new.text(0)), NameMismatch);
    assert_eq!(code(&new.name(), &new.wrong_text(0)), ShareMismatch);
    assert_eq!(code(&new.name(), &new.text_of(6, *new.share(0).y())), ShareMismatch);
    assert_eq!(code(&new.name(), &new.text_of(200, *new.share(0).y())), UnknownHolder);
}

#[test]
fn after_the_swap_old_shares_are_share_replaced_for_every_purpose_wherever_they_stood() {
    let (world, new) = pending();
    let manifest = finished(&world.manifest, 9);
    for purpose in purposes() {
        // Also the nineteen whose x the new set does not have.
        for at in 0..HOLDERS {
            let refusal = refused(&manifest, purpose, world.version(9), at);
            assert_eq!((refusal.code, refusal.version, refusal.holder), (ShareReplaced, Some(v(9)), None));
            assert!(refusal.detail.contains("destroy it"), "{}", refusal.detail);
        }
        for at in 0..5 {
            assert_eq!(judged(&manifest, purpose, &new, at), Ok((holder(at), 2)));
        }
    }
    // One that never was has no such excuse.
    let never = world.version(9).text_of(20, [3; 32]);
    let refusal = judge(&manifest, Purpose::Prove, &new.name(), &never).unwrap_err();
    assert_eq!(refusal.code, UnknownHolder);
}

#[test]
fn a_set_that_waited_and_was_given_up_is_share_replaced_before_and_after_the_next_one_is_in_force() {
    let (world, given_up) = pending();
    let new = world.version(9).reshared(3, 3, 2..9);
    let waiting = begun(&world.manifest, &new);
    let in_force = finished(&waiting, 9);
    for purpose in purposes() {
        for at in 0..5 {
            for manifest in [&waiting, &in_force] {
                assert_eq!(refused(manifest, purpose, &given_up, at).code, ShareReplaced);
            }
            assert!(judged(&waiting, purpose, world.version(9), at).is_ok());
            assert_eq!(refused(&in_force, purpose, world.version(9), at).code, ShareReplaced);
        }
        assert_eq!(judged(&in_force, purpose, &new, 6), Ok((holder(8), 3)));
    }
    assert_eq!(judged(&waiting, Purpose::Prove, &new, 0), Ok((holder(2), 3)));
    // Proofs of the one that was given up finish nothing.
    let everybody: Vec<_> = (0..HOLDERS).map(holder).collect();
    assert_eq!(completed(&waiting, 2, &everybody), [] as [u32; 0]);
    assert_eq!(completed(&waiting, 3, &everybody), [9]);
    // Nothing is forgotten of a set: 24 and 5 were replaced.
    assert_eq!(in_force.version(v(9)).unwrap().share_set.replaced.len(), 24 + 5);
    assert!(in_force.version(v(9)).unwrap().share_set.pending.is_none());
}

#[test]
fn a_set_is_complete_when_enough_of_its_own_holders_have_proved_it() {
    let world = World::with(&[(8, DecryptOnly), (9, Primary), (10, DecryptOnly)], 2, 4);
    let manifest = [8, 9].iter().fold(world.manifest.clone(), |manifest, number| {
        begun(&manifest, &world.version(*number).reshared(2, 3, 2..8))
    });
    assert_eq!(completed(&world.manifest, 2, &(0..9).map(holder).collect::<Vec<_>>()), [] as [u32; 0]);
    // Ten people, of whom six are holders of the set to come; two are holders of the set in force alone.
    for mask in 0_u32..1 << 10 {
        let by: Vec<_> = (0..10).filter(|at| mask & (1 << at) != 0).collect();
        let own = by.iter().filter(|at| (2..8).contains(*at)).count();
        let by: Vec<_> = by.into_iter().map(holder).collect();
        let expected: &[u32] = if own >= 4 { &[8, 9] } else { &[] };
        assert_eq!(completed(&manifest, 2, &by), expected, "{mask:b}");
        // The same people's proofs of another set are none.
        assert_eq!(completed(&manifest, 1, &by), [] as [u32; 0]);
    }
    // Each version by its own proofs.
    let all: BTreeSet<_> = (2..8).map(holder).collect();
    let of_v8 = |version, _: &ShareSet| if version == v(8) { all.clone() } else { BTreeSet::new() };
    assert_eq!(complete(&manifest, of_v8).collect::<Vec<_>>(), [v(8)]);
}

#[test]
fn enough_is_one_more_than_the_threshold_as_far_as_there_are_holders() {
    let mut set = Version::make(9, 2, 255).staged.share_set;
    for count in (2..=255).rev() {
        set.holders.truncate(count);
        for threshold in 2..=u8::try_from(count).unwrap() {
            set.threshold = threshold;
            let enough = enough(&set);
            assert_eq!(enough, count.min(usize::from(threshold) + 1));
            assert!((usize::from(threshold)..=count).contains(&enough));
        }
    }
}

#[test]
fn only_a_version_that_is_in_use_gets_new_shares() {
    for state in VersionState::ALL {
        let states: &[_] = if state == Primary { &[(9, Primary)] } else { &[(8, Primary), (9, state)] };
        let world = World::with(states, 2, 3);
        let mut manifest = world.manifest.clone();
        let new = world.version(9).reshared(2, 2, 0..3);
        let begun = begin(&mut manifest, v(9), new.staged.share_set, &[holder(1)]);
        assert_eq!(next_set(&world.manifest, v(9)).map(|_| ()), begun);
        if [Primary, DecryptOnly].contains(&state) {
            assert_eq!(next_set(&world.manifest, v(9)), Ok(2));
            continue;
        }
        assert_eq!(begun, Err(ReshareRefused::State { version: v(9), state }));
        assert_eq!(manifest, world.manifest, "a refusal changes nothing");
        let (said, instead) = (
            begun.unwrap_err().to_string(),
            match state {
                Staged => "abort it and stage another",
                Activating => "activate it again, or abort it, first",
                _ => "its shares open nothing any longer",
            },
        );
        assert!(said.starts_with(&format!("v9 is {state}: ")) && said.contains(instead), "{said}");
    }
    let mut manifest = World::with(&[(9, Primary)], 2, 2).manifest;
    assert_eq!(next_set(&manifest, v(12)), Err(ReshareRefused::Unknown(v(12))));
    assert_eq!(finish(&mut manifest, v(12)), Err(ReshareRefused::Unknown(v(12))));
}

#[test]
fn the_number_of_a_set_is_never_used_twice() {
    let world = World::with(&[(9, Primary)], 2, 3);
    let mut manifest = world.manifest.clone();
    for (expected, finishes) in [(2, false), (3, false), (4, true), (5, true), (6, false)] {
        assert_eq!(next_set(&manifest, v(9)), Ok(expected));
        manifest = begun(&manifest, &world.version(9).reshared(expected, 2, 0..3));
        if finishes {
            manifest = finished(&manifest, 9);
            assert_eq!(manifest.version(v(9)).unwrap().share_set.set, expected);
        }
    }
    let set = |manifest: &mut Manifest, number| manifest.version_mut(v(9)).unwrap().share_set.set = number;
    set(&mut manifest, u32::MAX);
    assert_eq!(next_set(&manifest, v(9)), Err(ReshareRefused::NoNumberLeft(v(9))));
    set(&mut manifest, 1);
    manifest.version_mut(v(9)).unwrap().share_set.pending.as_mut().unwrap().set = u32::MAX;
    assert_eq!(next_set(&manifest, v(9)), Err(ReshareRefused::NoNumberLeft(v(9))));
}

#[test]
fn finishing_where_nothing_waits_changes_nothing() {
    let (world, _) = pending();
    let once = finished(&world.manifest, 9);
    assert_eq!(finished(&once, 9), once);
    assert_eq!(finished(&world.manifest, 10), world.manifest);
}
