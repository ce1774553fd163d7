//! What may be in other hands, counted for each share set apart: shares of two sets never combine.

use std::collections::BTreeMap;

use keymoot_quorum::reshare::{Exposure, exposure};
use keymoot_types::{Digest, manifest::Holder};

use super::*;

/// A set without shares, of these people; some of them had a plain package.
fn set(number: u32, threshold: u8, people: &BTreeSet<usize>, plain: &BTreeSet<usize>) -> ShareSet {
    let holders = people.iter().zip(1..).map(|(who, x)| Holder {
        name: holder(*who),
        x: u8::try_from(x).unwrap().try_into().unwrap(),
        digest: Digest::new([u8::try_from(number).unwrap() ^ 0x80; 32].map(|byte| byte.wrapping_mul(x as u8))),
        recipient: (!plain.contains(who)).then(|| "age1".into()),
    });
    let key_check = Digest::new([0; 32]);
    ShareSet { set: number, threshold, key_check, holders: holders.collect(), replaced: vec![], pending: None }
}

fn people<const N: usize>(who: [usize; N]) -> BTreeSet<usize> {
    who.into()
}

fn nobody() -> BTreeSet<usize> {
    BTreeSet::new()
}

/// v9 with this set in force.
fn with(set: ShareSet) -> Manifest {
    let mut manifest = World::with(&[(9, Primary)], 2, 2).manifest;
    manifest.version_mut(v(9)).unwrap().share_set = set;
    manifest
}

fn start(manifest: &mut Manifest, new: ShareSet, lost: &[usize]) {
    begin(manifest, v(9), new, &lost.iter().copied().map(holder).collect::<Vec<_>>()).unwrap();
}

fn end(manifest: &mut Manifest) {
    finish(manifest, v(9)).unwrap();
}

fn exposed(manifest: &Manifest) -> Exposure {
    // What is counted is what the store keeps.
    let document = ManifestDocument::from_manifest(manifest.clone()).unwrap();
    let again = ManifestDocument::parse(document.canonical()).unwrap();
    assert_eq!(again.manifest(), manifest);
    exposure(again.manifest().version(v(9)).unwrap())
}

/// Lost, left, plain, replaced.
fn counts(manifest: &Manifest) -> [usize; 4] {
    let exposure = exposed(manifest);
    [exposure.lost, exposure.left, exposure.plain, exposure.replaced]
}

#[test]
fn nothing_is_exposed_of_a_set_whose_packages_were_encrypted_and_nobody_lost() {
    let manifest = with(set(1, 2, &people([0, 1, 2]), &nobody()));
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0; 4], None));
    assert_eq!(exposed(&manifest).version, v(9));
}

#[test]
fn a_lost_share_counts_from_the_moment_it_is_told_whatever_becomes_of_the_new_set() {
    let mut manifest = with(set(1, 2, &people([0, 1, 2]), &nobody()));
    start(&mut manifest, set(2, 2, &people([0, 1, 2]), &nobody()), &[1]);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([1, 0, 0, 0], None));
    // Told again, with another: each once. Who holds no share can't have lost one.
    start(&mut manifest, set(3, 2, &people([0, 1, 2]), &nobody()), &[1, 2, 9]);
    let exposure = exposed(&manifest);
    // Two of the set in force, and of the one that was given up, whose packages they had opened too.
    assert_eq!(exposure.rebuilds, Some((1, 2, 2)));
    assert_eq!(counts(&manifest), [4, 0, 0, 3]);
    let before = exposed(&manifest);
    end(&mut manifest);
    assert_eq!(counts(&manifest), [4, 0, 0, 6]);
    assert_eq!(exposed(&manifest).rebuilds, before.rebuilds, "new shares take none back");
}

#[test]
fn who_is_no_longer_a_holder_counts_once_the_new_set_is_in_force() {
    let mut manifest = with(set(1, 2, &people([0, 1, 2, 3]), &nobody()));
    start(&mut manifest, set(2, 2, &people([0, 1, 4]), &nobody()), &[]);
    assert_eq!(counts(&manifest), [0; 4]);
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 2, 0, 4], Some((1, 2, 2))));
}

#[test]
fn two_who_left_one_after_the_other_may_both_have_kept_a_share_of_the_first_set() {
    let mut manifest = with(set(1, 2, &people([0, 1, 2, 3]), &nobody()));
    start(&mut manifest, set(2, 2, &people([0, 1, 2]), &nobody()), &[]);
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 1, 0, 4], None));
    start(&mut manifest, set(3, 2, &people([0, 1]), &nobody()), &[]);
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 3, 0, 7], Some((1, 2, 2))));
}

#[test]
fn nobody_is_counted_twice_in_one_set() {
    // Lost, gone, and their package was plain: one share, and it is not two of the threshold.
    let mut manifest = with(set(1, 2, &people([0, 1, 2]), &people([1])));
    start(&mut manifest, set(2, 2, &people([0, 2]), &nobody()), &[1]);
    end(&mut manifest);
    let exposure = exposed(&manifest);
    assert_eq!((exposure.lost, exposure.left, exposure.plain), (1, 0, 1));
    assert_eq!(exposure.rebuilds, None);
    let record = &manifest.version(v(9)).unwrap().exposed[0];
    assert_eq!((&record.lost, &record.plain, record.left.len()), (&vec![holder(1)], &vec![holder(1)], 0));
}

#[test]
fn plain_packages_count_at_once_and_stay_when_their_set_is_replaced() {
    let mut manifest = with(set(1, 2, &people([0, 1, 2]), &people([0, 1])));
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 0, 2, 0], Some((1, 2, 2))));
    start(&mut manifest, set(2, 2, &people([0, 1, 2]), &nobody()), &[]);
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 0, 2, 3], Some((1, 2, 2))));
    // Those of a set to come make the key too, from the day on which they are handed out.
    let mut manifest = with(set(1, 2, &people([0, 1, 2]), &nobody()));
    start(&mut manifest, set(2, 3, &people([0, 1, 2]), &people([0, 1, 2])), &[]);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 0, 3, 0], Some((2, 3, 3))));
}

#[test]
fn a_set_that_was_given_up_counts_like_one_that_was_in_force() {
    // It went to a stranger by mistake, and to two whose package was plain.
    let mut manifest = with(set(1, 3, &people([0, 1, 2]), &nobody()));
    start(&mut manifest, set(2, 3, &people([0, 1, 2, 7]), &people([1, 2])), &[]);
    start(&mut manifest, set(3, 3, &people([0, 1, 2, 3]), &nobody()), &[]);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 1, 2, 4], Some((2, 3, 3))));
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([0, 1, 2, 7], Some((2, 3, 3))));
    // Who is to come in the one after is no stranger.
    let mut manifest = with(set(1, 2, &people([0, 1]), &nobody()));
    start(&mut manifest, set(2, 2, &people([0, 7]), &nobody()), &[]);
    start(&mut manifest, set(3, 2, &people([1, 7]), &nobody()), &[]);
    assert_eq!(counts(&manifest), [0, 0, 0, 2]);
}

#[test]
fn one_share_of_each_of_many_sets_demands_nothing() {
    let mut manifest = with(set(1, 2, &people([0, 1, 2]), &people([0])));
    for number in 2..10 {
        start(&mut manifest, set(number, 2, &people([0, 1, 2]), &people([0])), &[0]);
        end(&mut manifest);
    }
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([8, 0, 9, 24], None));
    // One who leaves may have kept a share of each.
    start(&mut manifest, set(10, 2, &people([0, 1]), &nobody()), &[]);
    end(&mut manifest);
    assert_eq!((counts(&manifest), exposed(&manifest).rebuilds), ([8, 9, 9, 27], Some((1, 2, 2))));
}

/// What is known of one set.
#[derive(Debug, Clone, Default)]
struct Known {
    threshold: u8,
    holders: BTreeSet<usize>,
    plain: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    left: BTreeSet<usize>,
    is_replaced: bool,
}

impl Known {
    fn elsewhere(&self) -> usize {
        (0..6).filter(|who| [&self.lost, &self.left, &self.plain].iter().any(|names| names.contains(who))).count()
    }

    fn lose(&mut self, lost: &BTreeSet<usize>) {
        self.lost = &self.lost | &(lost & &self.holders);
        self.left = &self.left - &self.lost;
    }

    fn leave(&mut self, stays: &BTreeSet<usize>) {
        if self.is_replaced {
            self.left = &self.left | &(&(&self.holders - stays) - &self.lost);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { holders: BTreeSet<usize>, plain: BTreeSet<usize>, lost: BTreeSet<usize>, threshold: u8 },
    Finish,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = |least, most| prop::collection::btree_set(0..6_usize, least..=most);
    let begin = (some(2, 6), some(0, 2), some(0, 2), 2..4_u8).prop_map(|(holders, plain, lost, threshold)| {
        let threshold = threshold.min(u8::try_from(holders.len()).unwrap());
        Step::Begin { plain: &plain & &holders, holders, lost, threshold }
    });
    prop::collection::vec(prop_oneof![3 => begin, 2 => Just(Step::Finish)], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rotation_is_demanded_exactly_when_a_threshold_of_one_set_may_be_elsewhere(steps in steps()) {
        let everybody = people([0, 1, 2, 3, 4, 5]);
        let mut manifest = with(set(1, 2, &everybody, &nobody()));
        let first = Known { threshold: 2, holders: everybody, ..Known::default() };
        let mut sets = BTreeMap::from([(1, first)]);
        let (mut in_force, mut waiting, mut demanded) = (1, None, false);
        for step in steps {
            match step {
                Step::Begin { holders, plain, lost, threshold } => {
                    let number = next_set(&manifest, v(9)).unwrap();
                    prop_assert_eq!(number, sets.last_key_value().unwrap().0 + 1);
                    let lost_names: Vec<_> = lost.iter().copied().collect();
                    start(&mut manifest, set(number, threshold, &holders, &plain), &lost_names);
                    sets.values_mut().for_each(|set| set.lose(&lost));
                    let stays = &holders | &sets[&in_force].holders;
                    if let Some(given_up) = waiting.replace(number) {
                        sets.get_mut(&given_up).unwrap().is_replaced = true;
                        sets.values_mut().for_each(|set| set.leave(&stays));
                    }
                    sets.insert(number, Known { threshold, holders, plain, ..Known::default() });
                }
                Step::Finish => {
                    end(&mut manifest);
                    if let Some(number) = waiting.take() {
                        let stays = sets[&number].holders.clone();
                        sets.get_mut(&in_force).unwrap().is_replaced = true;
                        sets.values_mut().for_each(|set| set.leave(&stays));
                        in_force = number;
                    }
                }
            }
            let count = |of: fn(&Known) -> usize| sets.values().map(of).sum::<usize>();
            let expected = [
                count(|set| set.lost.len()),
                count(|set| set.left.len()),
                count(|set| set.plain.len()),
                count(|set| if set.is_replaced { set.holders.len() } else { 0 }),
            ];
            prop_assert_eq!(counts(&manifest), expected);
            let rebuilds = exposed(&manifest).rebuilds;
            let demand = sets.values().any(|set| set.elsewhere() >= usize::from(set.threshold));
            prop_assert_eq!(rebuilds.is_some(), demand);
            if let Some((number, elsewhere, threshold)) = rebuilds {
                let set = &sets[&number];
                prop_assert_eq!((elsewhere, threshold), (set.elsewhere(), set.threshold));
                prop_assert!(elsewhere >= usize::from(threshold));
            }
            // What was once elsewhere is never called back.
            prop_assert!(demand || !demanded);
            demanded = demand;
            let replaced = sets.values().filter(|set| set.is_replaced).map(|set| set.holders.len()).sum::<usize>();
            prop_assert_eq!(manifest.version(v(9)).unwrap().share_set.replaced.len(), replaced);
        }
    }
}
