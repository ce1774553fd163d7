//! A census puts every row of a source in exactly one class, in one snapshot, by form alone.
//!
//! It concludes only when nothing can be hidden from it: a scan that saw an error, classes that don't add up to
//! `COUNT(*)`, writers that are still at work, or values inside other text make it inconclusive, with the reason.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keymoot_storage::source::{Cell, Source};
pub use keymoot_types::census::{SourceCensus, VersionCount};
use keymoot_types::{
    KeyVersion,
    value::{Class, holds_embedded_value},
};

/// Unknown versions that are listed for one source.
const UNKNOWN_MAX: usize = 64;

/// Takes the census of one source. `known` says which versions the manifest knows; a value of any other is
/// unreadable. An error of the source is an entry like any other, which concludes nothing.
pub async fn census(
    source: &dyn Source,
    known: impl Fn(KeyVersion) -> bool + Send + Sync,
    taken_at: Timestamp,
) -> SourceCensus {
    let mut classes = Classes::default();
    let answer = source.census(&mut |cell| classes.take(cell, &known)).await;
    let (rows, sql, server, why_not) = match answer {
        Ok(snapshot) => {
            let why_not = classes.why_not(snapshot.visited, snapshot.counted).or(snapshot.not_conclusive);
            (snapshot.counted, snapshot.sql, snapshot.server, why_not)
        }
        // What was seen before the error stays visible; it proves nothing.
        Err(error) => (classes.sum(), String::new(), String::new(), Some(error.to_string())),
    };
    let counts = |versions: BTreeMap<KeyVersion, u64>| {
        versions.into_iter().map(|(version, count)| VersionCount { version, count }).collect()
    };
    SourceCensus {
        name: source.spec().name.clone(),
        versions: counts(classes.versions),
        unknown: counts(classes.unknown),
        null: classes.null,
        empty: classes.empty,
        foreign: classes.foreign,
        embedded: classes.embedded,
        adopts: source.spec().adopt,
        unreadable: classes.unreadable,
        rows,
        conclusive: why_not.is_none(),
        why_not,
        taken_at,
        sql,
        server,
    }
}

#[derive(Default)]
struct Classes {
    versions: BTreeMap<KeyVersion, u64>,
    null: u64,
    empty: u64,
    foreign: u64,
    unreadable: u64,
    /// Of these.
    unknown: BTreeMap<KeyVersion, u64>,
    /// Foreign rows with a value in the middle.
    embedded: u64,
}

impl Classes {
    fn take(&mut self, cell: &Cell, known: impl Fn(KeyVersion) -> bool) {
        if matches!(cell, Cell::Other(_)) {
            // Neither NULL nor anything that a value could be spelt in.
            self.foreign += 1;
            return;
        }
        match Class::of(cell.bytes()) {
            Class::Null => self.null += 1,
            Class::Empty => self.empty += 1,
            Class::Foreign => {
                self.foreign += 1;
                self.embedded += u64::from(cell.bytes().is_some_and(holds_embedded_value));
            }
            Class::Version(version) if known(version) => *self.versions.entry(version).or_default() += 1,
            Class::Version(version) => {
                self.unreadable += 1;
                *self.unknown.entry(version).or_default() += 1;
                // The ones next to those that are known can be real; junk must not fill the record.
                if self.unknown.len() > UNKNOWN_MAX {
                    self.unknown.pop_last();
                }
            }
            Class::Unreadable(_) => self.unreadable += 1,
        }
    }

    fn sum(&self) -> u64 {
        self.versions.values().sum::<u64>() + self.null + self.empty + self.foreign + self.unreadable
    }

    fn why_not(&self, visited: u64, counted: u64) -> Option<String> {
        let sum = self.sum();
        if sum != counted || visited != counted {
            return Some(format!(
                "the classes add up to {sum} rows, {visited} were visited, and COUNT(*) is {counted}"
            ));
        }
        (self.embedded > 0).then(|| {
            format!(
                "{} rows hold an encrypted value inside other text or in another case, which no rekey reaches: decrypt \
                 them in the application and store them on their own",
                self.embedded
            )
        })
    }
}
