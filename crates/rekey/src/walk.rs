//! Looks through a source for values of versions that should have none left, a little at a time.
//!
//! A census counts every row in one snapshot, which is too dear to be done every minute. A walk reads on in primary-key
//! order for as long as it is given, round and round. It proves nothing when it finds nothing; but of a table that was
//! restored from a backup, which is old from its first row to its last, the first step tells.

use std::{collections::BTreeSet, time::Duration};

use keymoot_storage::source::{RowId, Selection, Source, SourceError};
use keymoot_types::{KeyVersion, value::Class};
use tokio::time::Instant;

/// Rows of one read: few enough for a step to end soon after its time is over.
const ROWS: usize = 500;

/// Where the walk through one source stands.
#[derive(Debug, Default)]
pub struct Walk {
    after: Option<RowId>,
}

impl Walk {
    /// Reads on for so long, or to the end of the table, and at least one chunk: those of `versions` that were met.
    ///
    /// # Errors
    /// The source's. The next step begins at the first row.
    pub async fn step(
        &mut self,
        source: &dyn Source,
        versions: &[KeyVersion],
        time: Duration,
    ) -> Result<BTreeSet<KeyVersion>, SourceError> {
        let began = Instant::now();
        let mut met = BTreeSet::new();
        // Taken out, so that an error begins anew.
        let mut after = self.after.take();
        loop {
            let rows = source.read(after.as_ref(), ROWS, &Selection::Every).await?;
            let classes = rows.iter().map(|row| Class::of(row.cell.bytes()));
            met.extend(classes.filter_map(|class| match class {
                Class::Version(version) => versions.contains(&version).then_some(version),
                _ => None,
            }));
            let Some(last) = rows.last() else { return Ok(met) };
            after = Some(last.id.clone());
            if !met.is_empty() || began.elapsed() >= time {
                self.after = after;
                return Ok(met);
            }
        }
    }
}
