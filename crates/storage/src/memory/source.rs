use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::source::{
    Cell, Chunk, Most, Preflight, Row, RowId, Selection, Snapshot, Source, SourceError, SourceSpec, Swap, Swapped,
    Total, Visit,
};

/// A table in memory, ordered by its ids.
pub struct MemorySource {
    spec: SourceSpec,
    rows: Mutex<BTreeMap<RowId, Row>>,
}

impl MemorySource {
    /// An empty table.
    pub fn new(spec: SourceSpec) -> Self {
        Self { spec, rows: Mutex::default() }
    }

    /// Writes a row as the application would: over whatever is there.
    pub fn write(&self, row: Row) {
        self.locked().insert(row.id.clone(), row);
    }

    /// Deletes a row as the application would.
    pub fn delete(&self, id: &RowId) {
        self.locked().remove(id);
    }

    /// All rows as they are now.
    pub fn rows(&self) -> Vec<Row> {
        self.locked().values().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<RowId, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Selection {
    fn takes(&self, cell: &Cell) -> bool {
        match self {
            Self::Every => true,
            Self::Prefixes(prefixes) => {
                cell.bytes().is_some_and(|bytes| prefixes.iter().any(|prefix| bytes.starts_with(prefix)))
            }
        }
    }
}

#[async_trait]
impl Source for MemorySource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    async fn preflight(&self) -> Result<Preflight, SourceError> {
        Ok(Preflight { server: "memory".into(), ..Preflight::default() })
    }

    async fn total(&self) -> Result<Total, SourceError> {
        Ok(Total { rows: self.locked().len() as u64, exact: true })
    }

    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        let rows = self.locked();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at: Vec<&Row> =
            rows.range((start, Bound::Unbounded)).map(|(_, row)| row).take(most.looked_at).collect();
        let Some(end) = looked_at.last().map(|row| row.id.clone()) else {
            return Ok(Chunk::of_every(Vec::new()));
        };
        let selected = looked_at.into_iter().filter(|row| select.takes(&row.cell));
        Ok(Chunk::up_to(end, selected.take(most.rows).cloned().collect(), most.rows))
    }

    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        let rows = self.locked();
        Ok(ids.iter().map(|id| rows.get(id).cloned()).collect())
    }

    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        let mut rows = self.locked();
        let mut outcomes = Vec::with_capacity(batch.len());
        for swap in batch {
            let unchanged = rows.get_mut(&swap.id).filter(|row| {
                row.cell == swap.old && swap.columns.iter().all(|column| row.columns.contains(column))
            });
            outcomes.push(match unchanged {
                Some(row) => {
                    row.cell = swap.new.clone();
                    Swapped::Done
                }
                None => Swapped::Lost,
            });
        }
        Ok(outcomes)
    }

    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        let cells: Vec<Cell> = self.locked().values().map(|row| row.cell.clone()).collect();
        cells.iter().for_each(visit);
        let rows = cells.len() as u64;
        Ok(Snapshot {
            visited: rows,
            counted: rows,
            not_conclusive: None,
            sql: "in memory: no SQL".into(),
            server: "memory".into(),
        })
    }
}
