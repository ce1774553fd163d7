//! A walk between two censuses: whether old values come back.

use std::{collections::BTreeSet, time::Duration};

use keymoot_rekey::walk::Walk;
use keymoot_storage::{memory::MemorySource, source::Cell};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_step_reads_on_where_the_last_one_ended_and_a_round_visits_every_row() {
    let (keys, table) = (TestKeys::new(), MemorySource::new(spec("customers.ssn")));
    let value = |version, id| row(id, Cell::Text(keys.value(version, id, "x")));
    (0..1200).for_each(|id| table.write(value(10, id)));
    table.write(value(9, 1100));
    let mut walk = Walk::default();
    let mut found = Vec::new();
    // Without any time a step is one chunk.
    for _ in 0..6 {
        found.push(walk.step(&table, &[v(9)], Duration::ZERO).await.unwrap());
    }
    let of_a_round = [BTreeSet::new(), BTreeSet::new(), [v(9)].into()];
    assert_eq!(found[..3], of_a_round);
    // The fourth came to the end.
    assert_eq!(found[4..], of_a_round[..2], "{found:?}");
    assert_eq!(walk.step(&table, &[v(8)], Duration::ZERO).await, Ok(BTreeSet::new()));
}

#[tokio::test(start_paused = true)]
async fn with_time_enough_a_step_ends_at_the_end_of_the_table_or_at_what_it_looks_for() {
    let (keys, table) = (TestKeys::new(), MemorySource::new(spec("customers.ssn")));
    assert_eq!(Walk::default().step(&table, &[v(9)], Duration::MAX).await, Ok(BTreeSet::new()));
    (0..1200).for_each(|id| table.write(row(id, Cell::Text(b"km:v9:is no value".to_vec()))));
    assert_eq!(Walk::default().step(&table, &[v(9)], Duration::MAX).await, Ok(BTreeSet::new()));
    table.write(row(1199, Cell::Text(keys.value(9, 1199, "x"))));
    assert_eq!(Walk::default().step(&table, &[v(9)], Duration::MAX).await, Ok([v(9)].into()));
}
