//! A crash at every step of a reshare: what is in the store then still unlocks, by the set in force and by no other.

use keymoot_quorum::adopt::adopt;

use super::*;

/// What a node finds when it comes back.
struct Step {
    document: ManifestDocument,
    /// How many of the new holders have proved by then.
    proofs: usize,
    is_begun: bool,
    is_finished: bool,
}

/// From before the reshare to after it, with the shares of both sets.
struct Life {
    world: World,
    new: Version,
    steps: Vec<Step>,
}

impl Life {
    fn of((threshold, count): (u8, usize), (new_threshold, new_count): (u8, usize)) -> Self {
        let world = World::with(&[(9, Primary)], threshold, count);
        let new = world.version(9).reshared(2, new_threshold, 0..new_count);
        let next = |document: &ManifestDocument, change: &dyn Fn(&mut Manifest)| {
            let mut manifest = revise::next(document);
            change(&mut manifest);
            world.seal(manifest, &[9])
        };
        let before = world.sealed_by(&[9]);
        let set = &new.staged.share_set;
        let waiting = next(&before, &|manifest| begin(manifest, v(9), set.clone(), &[]).unwrap());
        let after = next(&waiting, &|manifest| finish(manifest, v(9)).unwrap());
        let step = |document: &ManifestDocument, proofs, is_begun, is_finished| {
            // As it comes out of the store.
            let document = ManifestDocument::parse(document.canonical()).unwrap();
            Step { document, proofs, is_begun, is_finished }
        };
        let mut steps = vec![step(&before, 0, false, false)];
        steps.extend((0..=new_count).map(|proofs| step(&waiting, proofs, true, false)));
        steps.push(step(&after, new_count, true, true));
        Self { world, new, steps }
    }

    fn old(&self) -> &Version {
        self.world.version(9)
    }
}

impl Step {
    /// Why a share is refused that does not count now; none for one that does.
    fn refuses(&self, is_new: bool, x_in_force: bool) -> Option<RefusalCode> {
        match (is_new, self.is_finished) {
            (true, true) | (false, false) => None,
            (false, true) => Some(ShareReplaced),
            // While it waits it is known, whatever its x.
            (true, false) if self.is_begun || x_in_force => Some(ShareMismatch),
            (true, false) => Some(UnknownHolder),
        }
    }
}

#[test]
fn fault_12_at_every_step_of_a_reshare_a_threshold_of_the_set_in_force_unlocks_and_nothing_else_does() {
    let shapes = [((2, 3), (3, 5)), ((3, 5), (2, 3)), ((2, 4), (2, 4)), ((2, 2), (2, 2)), ((4, 4), (3, 4))];
    for (old_shape, new_shape) in shapes {
        let life = Life::of(old_shape, new_shape);
        let shares: Vec<(&Version, usize, bool)> = (0..old_shape.1)
            .map(|at| (life.old(), at, false))
            .chain((0..new_shape.1).map(|at| (&life.new, at, true)))
            .collect();
        for step in &life.steps {
            let manifest = step.document.manifest();
            let threshold = usize::from(if step.is_finished { new_shape.0 } else { old_shape.0 });
            let mut unlocked = 0;
            // Every choice of the shares of both sets.
            for mask in 0_u32..1 << shares.len() {
                let mut unlock = Unlock::default();
                let mut right = 0;
                for (_, (of, at, is_new)) in shares.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0) {
                    let given = give(&mut unlock, manifest, of, *at).map_err(|refusal| refusal.code);
                    match step.refuses(*is_new, *at < old_shape.1) {
                        Some(code) => assert_eq!(given, Err(code)),
                        None if right >= threshold => assert_eq!(given, Err(AlreadyLoaded)),
                        None => {
                            right += 1;
                            assert_eq!(given.unwrap().validated, right == threshold);
                        }
                    }
                }
                assert_eq!(unlock.missing(manifest).is_empty(), right >= threshold, "{mask:b}");
                unlocked += usize::from(right >= threshold);
            }
            assert!(unlocked > 0, "no set is usable");
        }
    }
}

#[test]
fn fault_12_the_swap_waits_for_enough_proofs_and_both_revisions_are_followed_by_every_node() {
    let life = Life::of((2, 3), (3, 5));
    for step in &life.steps {
        let by: Vec<_> = (0..step.proofs).map(holder).collect();
        let ready = step.is_begun && !step.is_finished && step.proofs >= 4;
        assert_eq!(completed(step.document.manifest(), 2, &by), if ready { vec![9] } else { vec![] });
    }
    let mut revisions: Vec<&ManifestDocument> = life.steps.iter().map(|step| &step.document).collect();
    revisions.dedup_by_key(|document| document.digest());
    assert_eq!(revisions.len(), 3);
    for pair in revisions.windows(2) {
        assert_eq!(adopt(pair[0], pair[1], life.world.loaded(&[9])), Ok(()));
        // A key that any threshold of either set brings back vouches for both.
        assert!(life.new.validated().vouches_for(pair[1]));
    }
}

#[test]
fn fault_12_all_276_pairs_of_the_set_in_force_unlock_at_every_step() {
    let life = Life::of((2, HOLDERS), (2, HOLDERS));
    let mut tried = 0;
    for step in [&life.steps[0], &life.steps[1], &life.steps[26]] {
        let manifest = step.document.manifest();
        let (counts, other) = if step.is_finished { (&life.new, life.old()) } else { (life.old(), &life.new) };
        for a in 0..HOLDERS {
            for b in a + 1..HOLDERS {
                tried += 1;
                let mut unlock = Unlock::default();
                give(&mut unlock, manifest, counts, a).unwrap();
                // The other set's share of each of them hinders nothing and helps nothing.
                assert!(give(&mut unlock, manifest, other, b).is_err());
                assert!(give(&mut unlock, manifest, counts, b).unwrap().validated);
                let mut unlock = Unlock::default();
                assert!(
                    give(&mut unlock, manifest, other, a).is_err()
                        && give(&mut unlock, manifest, other, b).is_err()
                );
                assert!(unlock.is_empty());
            }
        }
    }
    assert_eq!(tried, 3 * 276);
}

#[test]
fn fault_12_each_holder_of_the_new_set_can_prove_at_every_step_until_it_is_in_force_and_after() {
    let life = Life::of((2, 3), (3, 5));
    for step in &life.steps {
        let manifest = step.document.manifest();
        for at in 0..5 {
            let proved = judged(manifest, Purpose::Prove, &life.new, at);
            assert_eq!(proved.is_ok(), step.is_begun);
            assert!(proved.is_err() || proved == Ok((holder(at), 2)));
        }
    }
}

#[test]
fn a_new_threshold_holds_from_the_swap_on() {
    for (old, new) in [((2, 5), (4, 5)), ((4, 5), (2, 5))] {
        let life = Life::of(old, new);
        for step in &life.steps {
            let manifest = step.document.manifest();
            let (of, threshold) = if step.is_finished { (&life.new, new.0) } else { (life.old(), old.0) };
            let mut unlock = Unlock::default();
            let needed = (0..5).position(|at| give(&mut unlock, manifest, of, at).unwrap().validated).unwrap() + 1;
            assert_eq!(needed, usize::from(threshold));
            let progress = unlock.progress(manifest.version(v(9)).unwrap());
            assert_eq!((progress.have, progress.threshold, progress.validated), (threshold, threshold, true));
        }
    }
}

/// Before the swap, and after it: 3 of 5 became 2 of 6.
fn swapped() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| Life::of((3, 5), (2, 6)))
}

#[test]
fn parts_that_were_collected_before_the_swap_are_counted_no_longer() {
    let life = swapped();
    let [waiting, after] = [1, 8].map(|at| life.steps[at].document.manifest());
    let mut unlock = Unlock::default();
    for at in 0..2 {
        assert!(!give(&mut unlock, waiting, life.old(), at).unwrap().validated);
    }
    let record = after.version(v(9)).unwrap();
    assert_eq!(unlock.progress(record).have, 0);
    // The same holder's new share is no duplicate, and two old ones beside it make nothing.
    let accepted = give(&mut unlock, after, &life.new, 0).unwrap();
    assert_eq!((accepted.holder, accepted.set, accepted.validated), (holder(0), 2, false));
    assert_eq!(give(&mut unlock, after, life.old(), 2).unwrap_err().code, ShareReplaced);
    assert_eq!(unlock.progress(record).holders, [holder(0)]);
    assert!(give(&mut unlock, after, &life.new, 5).unwrap().validated);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_given_before_and_after_the_swap_only_one_set_at_a_time_counts(
        before in prop::collection::vec((any::<bool>(), 0..5_usize), 0..8),
        after in prop::collection::vec((any::<bool>(), 0..5_usize), 0..8),
    ) {
        let life = swapped();
        let mut unlock = Unlock::default();
        let mut validated = false;
        for (step, given, threshold) in [(&life.steps[1], before, 3), (&life.steps[8], after, 2)] {
            let manifest = step.document.manifest();
            let mut have = BTreeSet::new();
            for (is_new, at) in given {
                let of = if is_new { &life.new } else { life.old() };
                let expected = match step.refuses(is_new, true) {
                    Some(code) => Err(code),
                    None if validated => Err(AlreadyLoaded),
                    None if !have.insert(at) => Err(DuplicateShare),
                    None => Ok(have.len() == threshold),
                };
                let given = give(&mut unlock, manifest, of, at);
                prop_assert_eq!(given.map(|part| part.validated).map_err(|refusal| refusal.code), expected);
                validated |= expected == Ok(true);
                prop_assert_eq!(unlock.missing(manifest).is_empty(), validated);
            }
        }
    }
}
