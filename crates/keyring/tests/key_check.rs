//! The key check under attack. Faults 14, 15 and 17 of `docs/track-record.md`.

mod common;

use std::{num::NonZeroU8, sync::Arc};

use common::{
    Version, copy, flipped, key_check_of, key_id_of, key_names, keyring_id, number, share, share_set, version_of,
    versions,
};
use keymoot_keyring::{Keyring, OpenError, derive::RootKey, key_check::KeyCheckFailed, shamir};
use keymoot_types::{Digest, KeyId, Share, manifest::ShareSet};

/// The same version under another record.
fn refused(version: &Version, key_id: KeyId, set: &ShareSet) -> bool {
    match version.rebuild().validate(key_id, set) {
        Ok(_) => false,
        Err(KeyCheckFailed(named)) => {
            assert_eq!(named, version.number);
            true
        }
    }
}

fn flip(digest: &Digest, bit: usize) -> Digest {
    Digest::new(flipped(digest.as_bytes(), bit).try_into().unwrap())
}

#[test]
fn the_vectors_key_checks_are_those_of_the_other_implementation() {
    for version in versions() {
        assert_eq!(key_check_of(&version.root, keyring_id(), version.number, &version.set), version.set.key_check);
        assert_eq!(key_id_of(&version.root, keyring_id()), version.key_id);
        assert!(!refused(&version, version.key_id, &version.set));
    }
}

#[test]
fn fault_14_every_bit_of_a_key_check_record_matters() {
    for version in versions() {
        let altered = |alter: &dyn Fn(&mut ShareSet)| {
            let mut set = version.set.clone();
            alter(&mut set);
            assert_ne!(set, version.set);
            refused(&version, version.key_id, &set)
        };
        for bit in 0..256 {
            assert!(altered(&|set| set.key_check = flip(&set.key_check, bit)), "key check, bit {bit}");
        }
        for bit in 0..8 {
            assert!(altered(&|set| set.threshold ^= 1 << bit), "threshold, bit {bit}");
        }
        for at in 0..version.set.holders.len() {
            for bit in 0..256 {
                assert!(
                    altered(&|set| set.holders[at].digest = flip(&set.holders[at].digest, bit)),
                    "{at}, {bit}"
                );
            }
            for x in (1..=255).filter_map(NonZeroU8::new).filter(|x| *x != version.set.holders[at].x) {
                assert!(altered(&|set| set.holders[at].x = x), "x of {at} is {x}");
            }
            // The count, at every place.
            assert!(altered(&|set| drop(set.holders.remove(at))), "without {at}");
            assert!(altered(&|set| set.holders.insert(at, set.holders[at].clone())), "{at} twice");
        }
        for at in 1..version.set.holders.len() {
            assert!(altered(&|set| set.holders.swap(at - 1, at)), "{at} swapped");
        }
        assert!(altered(&|set| set.holders.clear()));
    }
}

#[test]
fn fault_14_every_bit_of_a_key_id_matters() {
    for version in versions() {
        for bit in 0..128 {
            let key_id = KeyId::new(flipped(version.key_id.as_bytes(), bit).try_into().unwrap());
            assert!(refused(&version, key_id, &version.set), "bit {bit}");
        }
    }
}

#[test]
fn fault_14_records_swapped_between_versions_or_keyrings_are_refused() {
    let versions = versions();
    for version in &versions {
        for other in versions.iter().filter(|other| other.number != version.number) {
            assert!(refused(version, other.key_id, &other.set), "{:?} {:?}", version.number, other.number);
            assert!(refused(version, version.key_id, &other.set));
            assert!(refused(version, other.key_id, &version.set));
            let check_only = ShareSet { key_check: other.set.key_check, ..version.set.clone() };
            assert!(refused(version, version.key_id, &check_only));
        }
        // The same root, the same shares, another keyring's id: nothing of it fits.
        let foreign: Vec<Share> = version
            .shares
            .iter()
            .map(|s| share(keymoot_types::KeyringId::new([9; 8]), s.version(), s.x().get(), *s.y()))
            .collect();
        let rebuilt = shamir::rebuild(version.threshold, &foreign.iter().collect::<Vec<_>>()).unwrap();
        assert!(rebuilt.validate(version.key_id, &version.set).is_err());
    }
}

#[test]
fn fault_14_an_older_copy_of_a_reshared_record_is_refused_part_by_part() {
    let version = version_of(9);
    let root = RootKey::from_bytes(Box::new(version.root));
    let shares = shamir::split(&root, keyring_id(), version.number, 3, 24).unwrap();
    let mut new = share_set(3, Digest::new([0; 32]), &shares);
    new.key_check = key_check_of(&version.root, keyring_id(), version.number, &new);
    let reshared = || shamir::rebuild(3, &shares.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(reshared().validate(version.key_id, &new).unwrap().key_id(), version.key_id);
    let old = &version.set;
    for mixed in [
        ShareSet { key_check: old.key_check, ..new.clone() },
        ShareSet { threshold: old.threshold, ..new.clone() },
        ShareSet { holders: old.holders.clone(), ..new.clone() },
        ShareSet { key_check: new.key_check, ..old.clone() },
        ShareSet { threshold: new.threshold, ..old.clone() },
        ShareSet { holders: new.holders.clone(), ..old.clone() },
    ] {
        assert!(reshared().validate(version.key_id, &mixed).is_err());
    }
    for at in 0..24 {
        let mut mixed = new.clone();
        mixed.holders[at] = old.holders[at].clone();
        assert!(reshared().validate(version.key_id, &mixed).is_err());
    }
    // Shares of the old and the new set together make a wrong key.
    let mut mixed: Vec<Share> = shares.iter().map(copy).collect();
    mixed[0] = copy(&version.shares[0]);
    let rebuilt = shamir::rebuild(3, &mixed.iter().collect::<Vec<_>>()).unwrap();
    assert!(rebuilt.validate(version.key_id, &new).is_err());
}

#[test]
fn what_a_record_says_beside_the_check_does_not_change_it() {
    // Names, recipients, the set's number and what is pending may change without the shares.
    let version = version_of(9);
    let mut set = ShareSet { set: 7, replaced: vec![Digest::new([1; 32])], ..version.set.clone() };
    set.pending = Some(Box::new(version.set.clone()));
    set.holders[0].recipient = Some("age1x".into());
    set.holders[1].name = "renamed".parse().unwrap();
    assert!(!refused(&version, version.key_id, &set));
}

#[test]
fn fault_15_only_one_key_passes_one_check_and_the_id_and_the_check_are_both_compared() {
    for version in versions() {
        for seed in 0..=255u8 {
            let mut other = version.root;
            other[usize::from(seed) % 32] ^= seed | 1;
            let y = |x: u8| std::array::from_fn(|at| other[at] ^ common::mul(x, seed));
            let forged = |x| share(keyring_id(), version.number, x, y(x));
            let (one, two) = (forged(1), forged(2));
            let wrong_key = || shamir::rebuild(2, &[&one, &two]).unwrap();
            let own_id = key_id_of(&other, keyring_id());
            let mut own_set = version.set.clone();
            own_set.key_check = key_check_of(&other, keyring_id(), version.number, &own_set);
            // A whole record of its own passes: the forgery is well made.
            assert!(wrong_key().validate(own_id, &own_set).is_ok());
            assert!(wrong_key().validate(version.key_id, &version.set).is_err());
            assert!(wrong_key().validate(version.key_id, &own_set).is_err(), "the key id was not compared");
            assert!(wrong_key().validate(own_id, &version.set).is_err(), "the key check was not compared");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    KeyCheck,
    KeyId,
    HolderDigest,
    Threshold,
    Share,
}

#[test]
fn fault_17_of_n_versions_exactly_the_damaged_one_fails_at_every_position() {
    let all = versions();
    for n in 1..=all.len() {
        for damaged in 0..n {
            for damage in [Damage::KeyCheck, Damage::KeyId, Damage::HolderDigest, Damage::Threshold, Damage::Share]
            {
                let outcomes: Vec<_> = all
                    .iter()
                    .take(n)
                    .enumerate()
                    .map(|(at, version)| validate(version, (at == damaged).then_some(damage)))
                    .collect();
                let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
                assert_eq!(failed, [&KeyCheckFailed(all[damaged].number)], "{damage:?} at {damaged} of {n}");
                let keyring = Keyring::new(outcomes.into_iter().flatten().map(Arc::new), None, &key_names());
                assert_eq!(keyring.versions().count(), n - 1);
                for (at, version) in all.iter().take(n).enumerate() {
                    assert_eq!(keyring.holds(version.number), at != damaged);
                }
                if damage as u8 == 0 {
                    every_other_version_serves(&keyring, &all, damaged, n);
                }
            }
        }
    }
}

fn validate(version: &Version, damage: Option<Damage>) -> Result<keymoot_keyring::Validated, KeyCheckFailed> {
    let mut key_id = version.key_id;
    let mut set = version.set.clone();
    let mut shares: Vec<Share> = version.shares.iter().map(copy).collect();
    match damage {
        None => {}
        Some(Damage::KeyCheck) => set.key_check = flip(&set.key_check, 0),
        Some(Damage::KeyId) => key_id = KeyId::new([0; 16]),
        Some(Damage::HolderDigest) => set.holders[3].digest = flip(&set.holders[3].digest, 255),
        Some(Damage::Threshold) => set.threshold += 1,
        Some(Damage::Share) => shares[1] = share(keyring_id(), version.number, 2, [0; 32]),
    }
    shamir::rebuild(version.threshold, &shares.iter().collect::<Vec<_>>()).unwrap().validate(key_id, &set)
}

fn every_other_version_serves(keyring: &Keyring, all: &[Version], damaged: usize, n: usize) {
    for (at, version) in all.iter().take(n).enumerate() {
        let entry = common::list("values")
            .iter()
            .find(|entry| entry["version"].as_u64() == Some(version.number.get().into()))
            .unwrap();
        let value = keymoot_types::Value::parse(common::text(entry, "text")).unwrap();
        let key = common::name(common::text(entry, "key"));
        let opened = keyring.decrypt(&key, &value, &common::bytes(entry, "associated_data"));
        if at == damaged {
            assert_eq!(opened, Err(OpenError::NotLoaded(version.number)));
        } else {
            assert_eq!(*opened.unwrap(), common::bytes(entry, "plaintext"));
        }
    }
    assert!(!keyring.holds(number(200)));
}
