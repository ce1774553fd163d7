//! Tables as careful administrators have them: each is rewritten whole, or refused before the first write with the remedy.

use std::collections::BTreeMap;

use keymoot_storage::{
    open_source,
    source::{Ahead, Cell, Row, RowId, Selection, Source, SourceError, SourceSpec, Swap, Swapped, Task},
};
use keymoot_types::{
    KeyVersion,
    value::{Form, begins_as_value, direct_value_bytes},
};

/// What is to become of a table.
#[derive(Clone, Copy)]
pub enum Ends {
    /// Every row is rewritten.
    Whole,
    /// Nothing is written, and these words are in the reason.
    Refused(&'static [&'static str]),
    /// A warning has these words, and the first batch fails for good with the remedy.
    Stopped(&'static [&'static str]),
}

/// What the job would write: v10 for v9, and for plaintext that is adopted a value of its length.
fn new_cell(cell: &Cell, task: Task) -> Option<Cell> {
    let old = cell.bytes().filter(|bytes| !bytes.is_empty())?;
    if let Some(rest) = old.strip_prefix(b"km:v9:") {
        return Some(cell.with_bytes([b"km:v10:", rest].concat()));
    }
    if task != Task::Adopt || begins_as_value(old) {
        return None;
    }
    let ten = KeyVersion::new(10).unwrap();
    let (prefix, form) = match cell {
        Cell::Text(_) => (&b"km:v10:"[..], Form::Text),
        _ => (&b"KM\x01\0\0\0\x0a"[..], Form::Binary),
    };
    let length = direct_value_bytes(form, ten, old.len());
    Some(cell.with_bytes([prefix, &vec![b'Q'; length - prefix.len()]].concat()))
}

async fn all(source: &dyn Source, select: &Selection) -> BTreeMap<RowId, Row> {
    let (mut rows, mut after) = (BTreeMap::new(), None);
    loop {
        let chunk = source.read(after.as_ref(), 3, select).await.unwrap();
        let Some(last) = chunk.last() else { return rows };
        after = Some(last.id.clone());
        for row in chunk {
            assert!(rows.insert(row.id.clone(), row.clone()).is_none(), "{row:?} was read twice");
        }
    }
}

/// Does with a source what a job does.
pub async fn ends(what: &str, spec: SourceSpec, ends: Ends) {
    let task = Ahead::of(&spec).task;
    let source = open_source(spec).unwrap();
    let ahead = Ahead { task, version: Some(KeyVersion::new(10).unwrap()) };
    let found = source.preflight_for(ahead).await.unwrap();
    let blockers = found.blockers.join("; ");
    let words = match ends {
        Ends::Refused(words) => words,
        Ends::Stopped(words) => {
            let warnings = found.warnings.join("; ");
            assert!(words.iter().all(|word| warnings.contains(word)), "{what}: {warnings}");
            stopped(what, &*source, task).await;
            return;
        }
        Ends::Whole => {
            assert_eq!(blockers, "", "{what}");
            whole(what, &*source, task).await;
            return;
        }
    };
    assert!(!blockers.is_empty(), "{what}: nothing is refused; {:?}", found.warnings);
    for word in words {
        assert!(blockers.contains(word), "{what}: {word:?} is not in {blockers}");
    }
}

fn swaps(rows: &BTreeMap<RowId, Row>, task: Task) -> Vec<Swap> {
    let swap = |row: &Row| {
        let new = new_cell(&row.cell, task)?;
        Some(Swap { id: row.id.clone(), old: row.cell.clone(), new, columns: row.columns.clone() })
    };
    rows.values().filter_map(swap).collect()
}

async fn stopped(what: &str, source: &dyn Source, task: Task) {
    let before = all(source, &Selection::Every).await;
    let error = source.swap(&swaps(&before, task)).await.unwrap_err();
    assert!(matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("drop")), "{what}: {error}");
    assert_eq!(all(source, &Selection::Every).await, before, "{what}");
}

async fn whole(what: &str, source: &dyn Source, task: Task) {
    let before = all(source, &Selection::Every).await;
    let total = source.total().await.unwrap();
    assert_eq!(usize::try_from(total.rows).unwrap(), before.len(), "{what}");
    let ids: Vec<RowId> = before.keys().cloned().collect();
    let again = source.read_again(&ids).await.unwrap();
    assert!(again.iter().flatten().eq(before.values()), "{what}: {again:?} is not {before:?}");
    let swaps = swaps(&before, task);
    assert!(!swaps.is_empty(), "{what}: the table has nothing to rewrite");
    let done = source.swap(&swaps).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(done.iter().all(|one| *one == Swapped::Done), "{what}: {done:?}");
    let after = all(source, &Selection::Every).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{what}");
    for swap in &swaps {
        assert_eq!(after[&swap.id].cell, swap.new, "{what}");
    }
    let left = all(source, &Selection::Prefixes(vec![b"km:v9:".to_vec()])).await;
    assert!(left.is_empty(), "{what}: {left:?}");
    let mut counted = 0;
    let census = source.census(&mut |_| counted += 1).await.unwrap();
    assert_eq!((counted, census.counted, census.visited), (before.len(), total.rows, total.rows), "{what}");
}
