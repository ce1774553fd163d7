//! Time that runs out, and records that are damaged.

use super::*;

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
