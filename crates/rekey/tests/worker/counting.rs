//! Dry runs, plans and censuses: what is counted without a write.

use std::sync::{Arc, atomic::Ordering};

use jiff::Timestamp;
use keymoot_rekey::{Start, census::census, plan};
use keymoot_storage::source::{Cell, Source, SourceError};

use crate::support::*;

fn mixed() -> World {
    let world = World::with_rows(6);
    let table = &world.table().table;
    world.put(7, 10);
    table.write(row(8, Cell::Text(b"km:v9:junk".to_vec())));
    table.write(row(9, Cell::Text(world.keys.value(11, 9, "x"))));
    table.write(row(10, Cell::Null));
    table.write(row(11, Cell::Text(vec![])));
    table.write(row(12, Cell::Other("integer")));
    world
}

fn source(world: &World) -> Arc<dyn Source> {
    Arc::new(Mortal { inner: world.table(), death: Death::never() })
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_everything_and_writes_nothing() {
    let world = mixed();
    let before = world.table().table.rows();
    let (jobs, _) = world.process();
    let job = jobs.start(Start { dry_run: true, ..Start::default() }).await.unwrap().id;
    let view = ended(&jobs, job).await;
    adds_up(&view);
    let s = &view.sources[0];
    assert_eq!(
        (s.scanned, s.rekeyed, s.current, s.null, s.empty, s.foreign, s.quarantined),
        (12, 6, 1, 1, 1, 1, 2)
    );
    assert_eq!(world.table().table.rows(), before);
    assert_eq!(world.table().swaps.load(Ordering::SeqCst), 0);
    assert!(jobs.quarantine_left().await.unwrap().is_empty(), "a dry run holds no retirement back");
}

#[tokio::test]
async fn every_row_of_a_census_is_in_one_class_and_versions_ascend_as_numbers() {
    let world = mixed();
    world.table().table.write(row(13, Cell::Text(world.keys.value(9, 13, "x"))));
    let counted = census(source(&world).as_ref(), |version| version < v(11), Timestamp::UNIX_EPOCH).await;
    let versions: Vec<_> = counted.versions.iter().map(|count| (count.version.get(), count.count)).collect();
    assert_eq!(versions, [(9, 7), (10, 1)]);
    assert_eq!((counted.null, counted.empty, counted.foreign, counted.unreadable), (1, 1, 1, 2));
    assert_eq!((counted.rows, counted.conclusive, counted.why_not.as_deref()), (13, true, None));
    assert!(!counted.clean_of(v(11)), "something unreadable is left");
}

#[tokio::test]
async fn a_value_inside_other_text_makes_a_census_inconclusive() {
    let world = World::with_rows(1);
    world.table().table.write(row(2, Cell::Text(b"{\"t\":\"km:v9:AAAA\"}".to_vec())));
    let counted = census(source(&world).as_ref(), |_| true, Timestamp::UNIX_EPOCH).await;
    assert!(!counted.conclusive);
    assert!(counted.why_not.unwrap().contains("inside other text"));
}

#[tokio::test]
async fn a_scan_that_saw_an_error_is_never_conclusive() {
    let world = World::with_rows(3);
    let faulty = keymoot_storage::faulty::FaultySource::new(source(&world));
    let away = SourceError::Unreachable { name: "c.ssn".parse().unwrap(), reason: "cut".into() };
    faulty.fail_at(1, keymoot_storage::faulty::When::After, away);
    let counted = census(&faulty, |_| true, Timestamp::UNIX_EPOCH).await;
    assert!(!counted.conclusive);
    assert!(counted.why_not.unwrap().contains("cut"));
}

#[tokio::test]
async fn a_plan_tells_rows_time_and_whether_values_open() {
    let world = mixed();
    let plan = plan::plan(source(&world), world.keys.as_ref()).await;
    assert_eq!((plan.blockers.len(), plan.rows, plan.seconds.is_some()), (0, Some(12), true));
    let nine = plan.samples.iter().find(|sample| sample.version == v(9)).unwrap();
    assert_eq!((nine.authenticated, nine.failed, nine.alarming()), (6, 0, false));
    world.keys.seal();
    let plan = plan::plan(source(&world), world.keys.as_ref()).await;
    assert_eq!(plan.not_sampled.as_deref(), Some("the node is sealed"));
}
