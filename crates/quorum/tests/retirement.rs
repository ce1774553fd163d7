//! The retirement gate: only with evidence. Absence, of a census, a source, a word about a key, is none.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{World, holder, key, node, source, then, v};
use keymoot_quorum::{
    gate::{self, Census, CensusFacts, KeyLife, Missing, Quarantined, RetirementFacts},
    revise::{self, KeyDeclaration},
};
use keymoot_types::{HolderName, KeyVersion, NodeName, SourceName, VersionState, VersionState::*};
use proptest::prelude::*;

const STOPPED: u64 = 1_000;
const WRITE_DELAY: u64 = 600;
const QUIET: u64 = 86_400;
const MAX_AGE: u64 = 100_000;
/// The first moment at which all waits are over.
const NOW: u64 = STOPPED + MAX_AGE;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Clone)]
struct Case {
    unsettled: Vec<(NodeName, String)>,
    stopped: Option<Duration>,
    now: Duration,
    max_write_delay: Duration,
    quiet: Duration,
    last_use: Option<Duration>,
    censuses: Vec<Census>,
    census_running: bool,
    sources: Vec<SourceName>,
    configured: Vec<SourceName>,
    quarantined: Vec<Quarantined>,
    keys: Vec<KeyLife>,
    proofs: BTreeMap<KeyVersion, BTreeSet<HolderName>>,
}

fn names() -> Vec<SourceName> {
    ["a.x", "b.y", "c.z"].map(source).into()
}

/// v9 decrypt-only, v10 primary; three sources and two keys are declared.
fn world() -> World {
    let mut world = World::with(&[(9, DecryptOnly), (10, Primary)], 2, 3);
    let keys = ["pii", "auth"].map(|name| KeyDeclaration { name: key(name), max_age_s: None });
    let sources: Vec<_> = names().into_iter().map(|name| (name, key("pii"))).collect();
    revise::declare(&mut world.manifest, &keys, &sources);
    world
}

fn counted(name: &SourceName) -> CensusFacts {
    // Values of other versions are left, and that is as it should be.
    let values = vec![(v(1), 3), (v(8), 1), (v(10), 1_000_000), (v(90), 9)];
    CensusFacts { source: name.clone(), values, unreadable: 0, why_not: None }
}

fn quarantined(name: &str, rows: u64) -> Quarantined {
    let first = (1..=rows).map(|n| n.to_string()).collect();
    Quarantined { source: source(name), rows, first }
}

fn census(began: u64) -> Census {
    let sources = names().iter().map(counted).collect();
    // It took until now.
    Census { began: s(began), ended: s(NOW), set_aside: None, sources }
}

fn all_right() -> Case {
    Case {
        unsettled: vec![],
        stopped: Some(s(STOPPED)),
        now: s(NOW),
        max_write_delay: s(WRITE_DELAY),
        quiet: s(QUIET),
        last_use: Some(s(STOPPED + 5)),
        censuses: vec![census(STOPPED + WRITE_DELAY), census(STOPPED + WRITE_DELAY + 50)],
        census_running: false,
        sources: names(),
        configured: names(),
        quarantined: vec![quarantined("a.x", 0)],
        keys: vec![
            KeyLife { key: key("pii"), max_age: Some(s(0)) },
            KeyLife { key: key("auth"), max_age: Some(s(MAX_AGE)) },
        ],
        proofs: [(v(10), [0, 2].map(holder).into())].into(),
    }
}

impl Case {
    fn with(mut self, spoil: impl FnOnce(&mut Self)) -> Self {
        spoil(&mut self);
        self
    }

    fn missing(&self, world: &World) -> Vec<Missing> {
        let facts = RetirementFacts {
            version: v(9),
            unsettled: self.unsettled.clone(),
            stopped: self.stopped,
            now: self.now,
            max_write_delay: self.max_write_delay,
            quiet: self.quiet,
            last_use: self.last_use,
            censuses: &self.censuses,
            census_running: self.census_running,
            sources: &self.sources,
            configured: &self.configured,
            quarantined: &self.quarantined,
            keys: &self.keys,
            proofs: &self.proofs,
        };
        gate::retirement(&world.manifest, &facts)
    }

    fn named(&self) -> Vec<(&'static str, Option<String>)> {
        self.missing(&world()).into_iter().map(|entry| (entry.code, entry.who)).collect()
    }
}

type Named = (&'static str, Option<String>);

fn about(code: &'static str, who: &str) -> Named {
    (code, Some(who.into()))
}

#[test]
fn when_all_is_right_nothing_is_missing() {
    assert_eq!(all_right().missing(&world()), []);
    // Never used since it stopped, as far as is known: the wait counts from then.
    assert_eq!(all_right().with(|case| case.last_use = None).missing(&world()), []);
    // Repeating it is safe.
    let mut retired = world();
    retired.record_mut(9).state = Retired;
    assert_eq!(all_right().missing(&retired), []);
}

#[test]
fn a_census_that_is_dated_after_now_is_never_fresh() {
    // Service time was lost, and with it how long ago these were taken.
    let back = |case: &mut Case| {
        case.stopped = Some(s(0));
        case.last_use = None;
        case.censuses = vec![census(NOW - 20), census(NOW - 10)];
    };
    let fresh = all_right().with(back);
    assert_eq!(fresh.missing(&world()), []);
    for (began, ended) in [(NOW - 10, NOW + 1), (NOW + 1, NOW + 2), (NOW + 1, 0)] {
        let case = fresh.clone().with(|case| {
            case.censuses[1].began = s(began);
            case.censuses[1].ended = s(ended);
        });
        let missing = case.missing(&world());
        assert_eq!((missing.len(), missing[0].code), (1, "census_stale"), "{missing:?}");
        assert!(missing[0].detail.contains("1 of the newest two are dated after"), "{missing:?}");
    }
}

#[test]
fn each_single_thing_that_is_missing_is_named_by_its_code_and_what_it_is_about() {
    type Spoil = fn(&mut Case);
    let table: Vec<(Named, Spoil)> = vec![
        (about("not_settled", "db2"), |case| case.unsettled = vec![(node("db2"), "unheard".into())]),
        (("census_running", None), |case| case.census_running = true),
        (("census_stale", None), |case| case.censuses.clear()),
        (("census_stale", None), |case| drop(case.censuses.remove(0))),
        (("census_stale", None), |case| drop(case.censuses.remove(1))),
        (("census_stale", None), |case| case.censuses[0].began = s(STOPPED + WRITE_DELAY - 1)),
        (("census_stale", None), |case| case.censuses[1].began = s(STOPPED + WRITE_DELAY - 1)),
        (("census_stale", None), |case| case.max_write_delay = s(WRITE_DELAY + 51)),
        (("census_stale", None), |case| case.censuses[1].ended = s(NOW - 3600) - Duration::from_nanos(1)),
        (("census_stale", None), |case| {
            case.censuses[0].ended = s(50_000);
            case.censuses[1].began = s(53_600) + Duration::from_nanos(1);
        }),
        (about("census_stale", "b.y"), |case| drop(case.censuses[0].sources.remove(1))),
        (about("census_stale", "b.y"), |case| drop(case.censuses[1].sources.remove(1))),
        (about("census_inconclusive", "a.x"), |case| {
            case.censuses[0].sources[0].why_not = Some("a scan died".into())
        }),
        (about("census_inconclusive", "c.z"), |case| {
            case.censuses[1].sources[2].why_not = Some("a scan died".into())
        }),
        (about("values_left", "a.x"), |case| case.censuses[0].sources[0].values.push((v(9), 1))),
        (about("values_left", "c.z"), |case| case.censuses[1].sources[2].values.insert(2, (v(9), 1))),
        (about("unreadable_left", "b.y"), |case| case.censuses[0].sources[1].unreadable = 1),
        (about("unreadable_left", "b.y"), |case| case.censuses[1].sources[1].unreadable = 1),
        (about("quarantine_left", "a.x"), |case| case.quarantined = vec![quarantined("a.x", 1)]),
        (about("source_missing", "c.z"), |case| drop(case.configured.pop())),
        (about("key_undeclared", "pii"), |case| case.keys[0].max_age = None),
        (about("key_undeclared", "auth"), |case| drop(case.keys.pop())),
        (about("max_age", "auth"), |case| case.keys[1].max_age = Some(s(MAX_AGE) + Duration::from_nanos(1))),
        (about("quiet_period", "v9"), |case| case.last_use = Some(s(NOW - QUIET) + Duration::from_nanos(1))),
        (about("quiet_period", "v9"), |case| case.quiet = s(NOW - STOPPED)),
        (about("way_back", "v10"), |case| case.proofs.clear()),
        (about("way_back", "v10"), |case| drop(case.proofs.insert(v(10), [holder(1)].into()))),
        (about("way_back", "v10"), |case| drop(case.proofs.insert(v(10), [holder(1), holder(7)].into()))),
    ];
    for (at, (expected, spoil)) in table.into_iter().enumerate() {
        assert_eq!(all_right().with(spoil).named(), [expected], "line {at}");
    }
}

#[test]
fn every_list_may_be_right_alone_and_all_that_is_missing_is_listed_at_once() {
    let case = all_right().with(|case| {
        case.unsettled = vec![(node("db1"), "unheard".into()), (node("db3"), "unheard".into())];
        case.censuses.clear();
        case.configured.remove(0);
        case.quarantined = vec![quarantined("b.y", 2), quarantined("c.z", 4)];
        case.keys.remove(0);
        case.last_use = Some(s(NOW));
        case.proofs.clear();
    });
    let expected = [
        about("not_settled", "db1"),
        about("not_settled", "db3"),
        ("census_stale", None),
        about("quarantine_left", "b.y"),
        about("quarantine_left", "c.z"),
        about("source_missing", "a.x"),
        about("key_undeclared", "pii"),
        about("quiet_period", "v9"),
        about("way_back", "v10"),
    ];
    assert_eq!(case.named(), expected);
}

#[test]
fn the_newest_two_censuses_count_and_no_older_one() {
    let old = |values: u64| {
        let mut census = census(STOPPED - 1);
        census.sources[0].values.push((v(9), values));
        census
    };
    let case = all_right().with(|case| drop(case.censuses.splice(0..0, [old(5), old(7)])));
    assert_eq!(case.named(), []);
    // Clean ones do not excuse a newer one that is not.
    let newer = all_right().with(|case| {
        case.censuses.push(census(NOW - 5));
        case.censuses[2].sources[1].values.push((v(9), 2));
    });
    assert_eq!(newer.named(), [about("values_left", "b.y")]);
}

#[test]
fn what_is_said_by_both_censuses_is_said_once() {
    let case = all_right().with(|case| {
        for census in &mut case.censuses {
            census.sources[0].values.push((v(9), 4));
        }
    });
    assert_eq!(case.named(), [about("values_left", "a.x")]);
    assert!(case.missing(&world())[0].detail.contains("4 values of v9"));
}

#[test]
fn while_it_is_not_known_since_when_nothing_is_encrypted_with_it_nothing_counts() {
    // Not even where every wait is nothing.
    let case = all_right().with(|case| {
        case.stopped = None;
        case.max_write_delay = s(0);
        case.quiet = s(0);
        case.keys[1].max_age = Some(s(0));
        case.last_use = None;
        case.censuses = vec![census(NOW), census(NOW)];
    });
    assert_eq!(case.named(), [about("not_settled", "v9")]);
}

#[test]
fn only_a_version_that_encrypts_no_more_retires() {
    for state in VersionState::ALL {
        let mut world = world();
        world.record_mut(9).state = state;
        let missing = all_right().missing(&world);
        assert_eq!(missing.is_empty(), matches!(state, DecryptOnly | Retired), "{state}");
    }
    let mut unheard = world();
    unheard.manifest.versions.remove(0);
    assert_eq!(all_right().missing(&unheard)[0].code, "not_settled");
}

#[test]
fn every_key_that_was_ever_declared_is_asked_about_whatever_the_facts_list() {
    let none = all_right().with(|case| case.keys.clear());
    assert_eq!(none.named(), [about("key_undeclared", "pii"), about("key_undeclared", "auth")]);
}

#[test]
fn a_source_that_this_very_request_declares_gone_is_asked_about_no_more_but_what_was_found_counts() {
    // The manifest does not say so yet; the caller leaves it out of the list.
    let case = all_right().with(|case| {
        case.sources.remove(1);
        case.configured.remove(1);
        case.quarantined = vec![quarantined("b.y", 3)];
        case.censuses.iter_mut().for_each(|census| drop(census.sources.remove(1)));
    });
    assert_eq!(case.named(), []);
    let found = case.with(|case| {
        case.censuses[0].sources.push(counted(&source("b.y")));
        case.censuses[0].sources[2].values.push((v(9), 1));
    });
    assert_eq!(found.named(), [about("values_left", "b.y")]);
}

#[test]
fn rows_in_quarantine_of_a_source_that_nobody_declared_block_too() {
    let case = all_right().with(|case| case.quarantined = vec![quarantined("unheard.of", 1)]);
    assert_eq!(case.named(), [about("quarantine_left", "unheard.of")]);
}

#[test]
fn a_source_that_was_declared_gone_by_name_is_asked_about_no_more() {
    let mut world = world();
    world.manifest.declared.sources[1].gone = Some(then());
    let case = all_right().with(|case| {
        case.sources.remove(1);
        case.configured.remove(1);
        case.quarantined = vec![quarantined("b.y", 3)];
        case.censuses[1].sources.remove(1);
        // It was still there for the first census.
        case.censuses[0].sources[1].values.push((v(9), 12));
    });
    assert_eq!(case.missing(&world), []);
}

#[test]
fn a_source_that_is_counted_more_than_once_is_looked_at_whole() {
    // As on each node of a cluster.
    let case = all_right().with(|case| {
        let mut other_node = counted(&source("a.x"));
        other_node.values.push((v(9), u64::MAX));
        other_node.values.push((v(9), u64::MAX));
        case.censuses[1].sources.push(other_node);
    });
    assert_eq!(case.named(), [about("values_left", "a.x")]);
}

#[test]
fn waits_without_end_are_no_overflow() {
    let case = all_right().with(|case| {
        case.max_write_delay = Duration::MAX;
        case.quiet = Duration::MAX;
        case.keys[1].max_age = Some(Duration::MAX);
        case.last_use = Some(Duration::MAX);
    });
    let expected = [("census_stale", None), about("max_age", "auth"), about("quiet_period", "v9")];
    assert_eq!(case.named(), expected);
    assert_eq!(gate::census_from(s(1), Duration::MAX), Duration::MAX);
}

fn rows() -> impl Strategy<Value = Vec<(u32, u64)>> {
    prop::collection::vec((prop::sample::select(vec![8_u32, 9, 10, 90]), 0..3_u64), 0..4)
}

fn any_census() -> impl Strategy<Value = Census> {
    let found = (0..5_usize, rows(), 0..2_u64, prop::option::weighted(0.2, Just(String::from("why"))));
    let found = found.prop_map(|(at, values, unreadable, why_not)| CensusFacts {
        source: ["a.x", "b.y", "c.z", "unheard.of", "other"].map(source)[at].clone(),
        values: values.into_iter().map(|(version, count)| (v(version), count)).collect(),
        unreadable,
        why_not,
    });
    (0..200_000_u64, prop::collection::vec(found, 0..6)).prop_map(|(began, sources)| Census {
        began: s(began),
        ended: s(NOW),
        set_aside: None,
        sources,
    })
}

fn some(of: Vec<SourceName>) -> impl Strategy<Value = Vec<SourceName>> {
    prop::sample::subsequence(of.clone(), 0..=of.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn while_the_newest_census_finds_one_value_the_list_is_never_empty(
        censuses in prop::collection::vec(any_census(), 1..4),
        found_at in 0..6_usize,
        (sources, configured) in (some(names()), some(names())),
        (now, stopped, quiet) in (0..400_000_u64, prop::option::of(0..400_000_u64), 0..100_000_u64),
        permissive in any::<bool>(),
    ) {
        let case = all_right().with(|case| {
            if !permissive {
                case.sources = sources;
                case.configured = configured;
                case.now = s(now);
                case.stopped = stopped.map(s);
                case.quiet = s(quiet);
            }
            case.censuses = censuses;
            let newest = case.censuses.last_mut().unwrap();
            newest.began = s(NOW);
            let mut left = counted(&["a.x", "b.y", "c.z", "unheard.of", "other"].map(source)[found_at % 5]);
            left.values.push((v(9), 1));
            let at = found_at.min(newest.sources.len());
            newest.sources.insert(at, left);
        });
        let missing = case.missing(&world());
        prop_assert!(missing.iter().any(|entry| entry.code == "values_left"), "{missing:?}");
    }

    #[test]
    fn the_list_is_empty_only_with_two_fresh_clean_censuses_of_every_source(
        censuses in prop::collection::vec(any_census(), 0..4),
        clean in 0..3_usize,
    ) {
        let case = all_right().with(|case| {
            case.censuses = censuses;
            for at in 0..clean {
                case.censuses.push(census(STOPPED + WRITE_DELAY + at as u64));
            }
        });
        let evidence = case.censuses.len() >= 2
            && case.censuses.iter().rev().take(2).all(|census| {
                (s(STOPPED + WRITE_DELAY)..=s(NOW)).contains(&census.began)
                    && names().iter().all(|name| census.sources.iter().any(|found| found.source == *name))
                    && census.sources.iter().all(|found| {
                        found.unreadable == 0
                            && found.why_not.is_none()
                            && found.values.iter().all(|(version, count)| *version != v(9) || *count == 0)
                    })
            });
        prop_assert_eq!(case.missing(&world()).is_empty(), evidence);
    }

    #[test]
    fn no_wait_ends_before_its_time(
        now in 0..400_000_u64,
        stopped in 0..400_000_u64,
        last_use in prop::option::of(0..400_000_u64),
        max_age in 0..200_000_u64,
        quiet in 0..200_000_u64,
    ) {
        let case = all_right().with(|case| {
            case.now = s(now);
            case.stopped = Some(s(stopped));
            case.last_use = last_use.map(s);
            case.keys[1].max_age = Some(s(max_age));
            case.quiet = s(quiet);
        });
        let codes: Vec<_> = case.missing(&world()).into_iter().map(|entry| entry.code).collect();
        prop_assert_eq!(codes.contains(&"max_age"), now < stopped + max_age || now < stopped);
        prop_assert_eq!(codes.contains(&"quiet_period"), now < last_use.unwrap_or(0).max(stopped) + quiet);
    }
}

#[test]
fn fault_44_a_census_that_is_set_aside_is_no_evidence_and_what_it_found_counts() {
    let aside = |began, why: &str| Census { set_aside: Some(why.into()), ..census(began) };
    let detail = |case: &Case| {
        let missing = case.missing(&world());
        missing.iter().find(|entry| entry.code == "census_stale").map(|entry| entry.detail.clone())
    };
    let (first, second) = (STOPPED + WRITE_DELAY, STOPPED + WRITE_DELAY + 50);
    let none = detail(&all_right().with(|case| case.censuses.clear())).unwrap();
    assert!(none.contains("none was taken"), "{none}");
    let old = detail(&all_right().with(|case| case.censuses[0].began = s(STOPPED))).unwrap();
    assert!(old.contains("1 of the newest two began before that"), "{old}");
    let aged = detail(&all_right().with(|case| case.censuses[1].ended = s(STOPPED))).unwrap();
    assert!(aged.contains("too old: each counts for 1 h after it ended"), "{aged}");
    let some = all_right().with(|case| case.censuses[1] = aside(second, "of some sources only"));
    let some = detail(&some).unwrap();
    assert!(some.contains("there is 1 so far; one does not count: of some sources only"), "{some}");

    // Beside two that count it is no matter, unless it found something.
    let beside = all_right().with(|case| case.censuses.insert(1, aside(first + 1, "of some sources only")));
    assert_eq!(beside.named(), vec![]);
    let found = beside.with(|case| case.censuses[1].sources[2].values.push((v(9), 1)));
    assert_eq!(found.named(), vec![("values_left", Some("c.z".into()))]);
    let before = all_right().with(|case| {
        let mut old = aside(first - 1, "of another list of sources");
        old.sources[2].values.push((v(9), 1));
        case.censuses.insert(0, old);
    });
    assert_eq!(before.named(), vec![], "two in a row came after it");
}
