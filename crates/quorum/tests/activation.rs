//! The activation gate: an empty list is the only permission, and each thing that is missing is named.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{World, holder, key, node, source, v};
use keymoot_quorum::gate::{self, ActivationFacts, MemberFacts, Missing};
use keymoot_types::{HolderName, KeyVersion, SourceName, VersionState, VersionState::*};
use proptest::prelude::*;

type Proofs = BTreeMap<KeyVersion, BTreeSet<HolderName>>;

/// All that the gate looks at, owned, so that a test can spoil one thing.
#[derive(Clone)]
struct Case {
    members: Vec<MemberFacts>,
    proofs: Proofs,
    excused: Vec<HolderName>,
    samples_failed: Vec<SourceName>,
}

const HOLDERS: usize = 5;

fn world(v10: VersionState) -> World {
    World::with(&[(9, Primary), (10, v10)], 2, HOLDERS)
}

fn proved(who: impl IntoIterator<Item = usize>) -> BTreeSet<HolderName> {
    who.into_iter().map(holder).collect()
}

fn all_right() -> Case {
    let member = |name| MemberFacts {
        node: node(name),
        absent: None,
        loaded: true,
        canaries_failed: vec![],
        config_differs: vec![],
        diverged: None,
    };
    Case {
        members: ["db1", "db2", "db3"].map(member).into(),
        proofs: [(v(9), proved([0, 3])), (v(10), proved(0..HOLDERS))].into(),
        excused: vec![],
        samples_failed: vec![],
    }
}

impl Case {
    fn with(mut self, spoil: impl FnOnce(&mut Self)) -> Self {
        spoil(&mut self);
        self
    }

    fn missing(&self, world: &World) -> Vec<Missing> {
        let facts = ActivationFacts {
            version: v(10),
            members: self.members.clone(),
            proofs: &self.proofs,
            excused: &self.excused,
            samples_failed: self.samples_failed.clone(),
        };
        gate::activation(&world.manifest, world.record(10), &facts)
    }

    fn named(&self, world: &World) -> Vec<(&'static str, String)> {
        let missing = self.missing(world);
        for entry in &missing {
            assert!(!entry.detail.is_empty());
        }
        missing.into_iter().map(|entry| (entry.code, entry.who.unwrap())).collect()
    }
}

fn named(entries: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    entries.iter().map(|(code, who)| (*code, (*who).into())).collect()
}

#[test]
fn when_all_is_right_nothing_is_missing() {
    for state in [Staged, Activating] {
        assert_eq!(all_right().missing(&world(state)), []);
    }
}

#[test]
fn each_single_thing_that_is_wrong_on_each_member_is_named_by_its_code_and_member() {
    type Spoil = fn(&mut MemberFacts);
    let table: [(&str, Spoil); 5] = [
        ("member_missing", |member| member.absent = Some("unheard".into())),
        ("not_loaded", |member| member.loaded = false),
        ("canary_failed", |member| member.canaries_failed = vec![key("pii"), key("auth")]),
        ("config_differs", |member| member.config_differs = vec!["key pii is not declared there".into()]),
        ("diverged", |member| member.diverged = Some("the store went back".into())),
    ];
    for state in [Staged, Activating] {
        let world = world(state);
        for (code, spoil) in table {
            for at in 0..3 {
                let case = all_right().with(|case| spoil(&mut case.members[at]));
                let who = case.members[at].node.to_string();
                assert_eq!(case.named(&world), [(code, who)]);
            }
        }
    }
    let failing = all_right().with(|case| case.members[0].canaries_failed = vec![key("pii"), key("auth")]);
    let detail = &failing.missing(&world(Staged))[0].detail;
    assert!(detail.contains("pii") && detail.contains("auth") && detail.contains("v10"), "{detail}");
}

#[test]
fn every_combination_of_what_a_member_lacks_is_listed_whole() {
    let world = world(Staged);
    for lacks in 0..32_u8 {
        let has = |bit: u8| lacks & (1 << bit) == 0;
        let case = all_right().with(|case| {
            let member = &mut case.members[1];
            member.absent = (!has(0)).then(|| "unheard".into());
            member.diverged = if has(1) { None } else { Some("forked".into()) };
            member.loaded = has(2);
            member.canaries_failed = if has(3) { vec![] } else { vec![key("pii")] };
            member.config_differs = if has(4) { vec![] } else { vec!["key pii".into()] };
        });
        // Of a member that was not heard of nothing else is known.
        let codes =
            if has(0) { vec!["diverged", "not_loaded", "canary_failed", "config_differs"] } else { vec![] };
        let mut expected: Vec<_> = if has(0) { vec![] } else { named(&[("member_missing", "db2")]) };
        let lacking = codes.iter().enumerate().filter(|(at, _)| !has(*at as u8 + 1));
        expected.extend(lacking.map(|(_, code)| (*code, String::from("db2"))));
        assert_eq!(case.named(&world), expected);
    }
}

#[test]
fn no_report_is_no_permission() {
    for state in [Staged, Activating, DecryptOnly] {
        let none = all_right().with(|case| case.members.clear());
        assert_eq!(none.named(&world(state)), named(&[("member_missing", "v10")]));
    }
}

#[test]
fn each_holder_who_neither_proved_nor_is_excused_is_named() {
    let world = world(Staged);
    for absent in 0..HOLDERS {
        let case =
            all_right().with(|case| case.proofs.get_mut(&v(10)).unwrap().retain(|who| *who != holder(absent)));
        assert_eq!(case.named(&world), [("not_proved", format!("holder-{absent}"))]);
        let excused = case.with(|case| case.excused.push(holder(absent)));
        assert_eq!(excused.missing(&world), []);
    }
}

#[test]
fn excusing_never_goes_below_one_more_than_the_threshold_where_there_are_so_many() {
    for (threshold, holders) in [(2, 5), (2, 3), (2, 2), (3, 3), (3, 4), (4, 7)] {
        let world = World::with(&[(9, Primary), (10, Activating)], threshold, holders);
        let least = (usize::from(threshold) + 1).min(holders);
        for have in 0..=holders {
            let case = all_right().with(|case| {
                case.proofs = [(v(9), proved(0..holders)), (v(10), proved(0..have))].into();
                case.excused = (have..holders).map(holder).collect();
            });
            let expected = if have < least { named(&[("not_proved", "v10")]) } else { vec![] };
            assert_eq!(case.named(&world), expected, "{have} of {threshold}/{holders}");
        }
    }
}

#[test]
fn proofs_of_others_and_excuses_of_others_count_for_nobody() {
    let world = world(Staged);
    let case = all_right().with(|case| {
        let proofs = case.proofs.get_mut(&v(10)).unwrap();
        proofs.remove(&holder(4));
        proofs.insert("a-stranger".parse().unwrap());
        case.excused = vec!["nobody".parse().unwrap()];
    });
    assert_eq!(case.named(&world), named(&[("not_proved", "holder-4")]));
    let strangers = all_right().with(|case| {
        case.proofs.insert(v(10), (0..9).map(|n| format!("stranger-{n}").parse().unwrap()).collect());
        case.excused = (0..HOLDERS).map(holder).collect();
    });
    assert_eq!(strangers.named(&world), named(&[("not_proved", "v10")]));
    // A proof of v9 is none of v10.
    let old = all_right().with(|case| case.proofs = [(v(9), proved(0..HOLDERS))].into());
    let codes: BTreeSet<_> = old.named(&world).into_iter().collect();
    assert_eq!(codes.len(), HOLDERS + 1);
    assert!(codes.iter().all(|(code, _)| *code == "not_proved"));
}

#[test]
fn the_way_back_needs_a_threshold_of_the_primarys_holders() {
    let world = world(Staged);
    for have in 0..=3 {
        let case = all_right().with(|case| drop(case.proofs.insert(v(9), proved(0..have))));
        let expected = if have < 2 { named(&[("way_back", "v9")]) } else { vec![] };
        assert_eq!(case.named(&world), expected);
    }
    let unheard = all_right().with(|case| drop(case.proofs.remove(&v(9))));
    assert_eq!(unheard.named(&world), named(&[("way_back", "v9")]));
    let mut headless = world;
    headless.manifest.versions.retain(|record| record.version == v(10));
    assert_eq!(all_right().named(&headless), named(&[("way_back", "v9")]));
}

#[test]
fn each_source_of_which_no_sampled_value_authenticated_is_named() {
    let case = all_right().with(|case| case.samples_failed = vec![source("customers.ssn"), source("tokens.t")]);
    let expected = named(&[("sample_failed", "customers.ssn"), ("sample_failed", "tokens.t")]);
    assert_eq!(case.named(&world(Activating)), expected);
}

#[test]
fn a_rollback_needs_no_proofs_and_only_the_nodes_in_service() {
    let rollback = world(DecryptOnly);
    let bare = all_right().with(|case| {
        case.proofs.clear();
        case.members[2].absent = Some("unheard".into());
    });
    assert_eq!(bare.missing(&rollback), []);
    assert!(!bare.missing(&world(Staged)).is_empty());
    // What is in service must still hold it.
    let without = bare.with(|case| case.members[1].loaded = false);
    assert_eq!(without.named(&rollback), named(&[("not_loaded", "db2")]));
    let dead =
        all_right().with(|case| case.members.iter_mut().for_each(|member| member.absent = Some("unheard".into())));
    assert_eq!(dead.named(&rollback), named(&[("member_missing", "v10")]));
}

/// A member that started without a version that was lost may encrypt with the older one for as long as it is away.
#[test]
fn a_version_that_was_given_up_or_out_of_use_is_primary_again_only_with_every_member() {
    let away = all_right().with(|case| case.members[2].absent = Some("unheard".into()));
    let (mut given_up, mut brought_back) = (world(DecryptOnly), world(DecryptOnly));
    given_up.manifest.version_mut(v(10)).unwrap().given_up = Some("its shares are lost".into());
    brought_back.manifest.version_mut(v(10)).unwrap().brought_back = true;
    for world in [given_up, brought_back] {
        assert_eq!(away.named(&world), named(&[("member_missing", "db3")]));
        assert_eq!(all_right().missing(&world), []);
    }
}

#[test]
fn all_that_is_missing_is_listed_at_once() {
    let case = all_right().with(|case| {
        case.members[0].absent = Some("unheard".into());
        case.members[1].loaded = false;
        case.proofs = Proofs::new();
        case.excused = vec![holder(0)];
        case.samples_failed = vec![source("customers.ssn")];
    });
    let expected = [
        ("member_missing", "db1"),
        ("not_loaded", "db2"),
        ("not_proved", "holder-1"),
        ("not_proved", "holder-2"),
        ("not_proved", "holder-3"),
        ("not_proved", "holder-4"),
        ("not_proved", "v10"),
        ("way_back", "v9"),
        ("sample_failed", "customers.ssn"),
    ];
    assert_eq!(case.named(&world(Staged)), named(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_list_is_empty_exactly_when_every_member_and_holder_is_accounted_for(
        members in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.9), 5), 0..4),
        proved_v9 in prop::collection::vec(any::<bool>(), HOLDERS),
        proved_v10 in prop::collection::vec(prop::bool::weighted(0.8), HOLDERS),
        excused in prop::collection::vec(any::<bool>(), HOLDERS),
        sample in prop::bool::weighted(0.1),
    ) {
        let pick = |flags: &[bool]| flags.iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| at).collect::<Vec<_>>();
        let facts = |(at, has): (usize, &Vec<bool>)| MemberFacts {
            node: node(&format!("db{at}")),
            absent: (!has[0]).then(|| "unheard".into()),
            loaded: has[1],
            canaries_failed: if has[2] { vec![] } else { vec![key("pii")] },
            config_differs: if has[3] { vec![] } else { vec!["key pii".into()] },
            diverged: if has[4] { None } else { Some("gap".into()) },
        };
        let case = Case {
            members: members.iter().enumerate().map(facts).collect(),
            proofs: [(v(9), proved(pick(&proved_v9))), (v(10), proved(pick(&proved_v10)))].into(),
            excused: pick(&excused).into_iter().map(holder).collect(),
            samples_failed: if sample { vec![source("s")] } else { vec![] },
        };
        let open = !members.is_empty()
            && members.iter().flatten().all(|has| *has)
            && (0..HOLDERS).all(|at| proved_v10[at] || excused[at])
            && pick(&proved_v10).len() >= 3
            && pick(&proved_v9).len() >= 2
            && !sample;
        prop_assert_eq!(case.missing(&world(Staged)).is_empty(), open);
    }
}
