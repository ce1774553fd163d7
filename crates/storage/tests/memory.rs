//! The adapters in memory hold to the suites that the real ones hold to.

use async_trait::async_trait;
use keymoot_storage::{
    conformance::{self, Application, Holds},
    memory::{MemoryMetadata, MemorySource},
    source::{Row, RowId},
};
use keymoot_types::associated_data::ColumnValue;

struct Behind<'a>(&'a MemorySource);

#[async_trait]
impl Application for Behind<'_> {
    async fn write(&self, row: &Row) {
        self.0.write(row.clone());
    }

    async fn delete(&self, id: &RowId) {
        self.0.delete(id);
    }
}

#[tokio::test]
async fn the_metadata_store_in_memory_keeps_the_promises() {
    conformance::metadata(&MemoryMetadata::default()).await;
}

#[tokio::test]
async fn the_source_in_memory_keeps_the_promises() {
    let source = MemorySource::new(conformance::spec("memory://"));
    conformance::source(&source, &Behind(&source), Holds::ANYTHING).await;
    assert!(!source.rows().is_empty());
}

#[tokio::test]
async fn fault_42_every_row_of_every_table_of_the_matrix_in_memory_is_visited_once() {
    for table in conformance::tables() {
        let source = MemorySource::new(table.spec("memory://", "main"));
        for (id, cell) in &table.rows {
            let columns = table.id.iter().map(|(name, _)| ((*name).to_owned(), ColumnValue::Null)).collect();
            source.write(Row { id: id.clone(), cell: cell.clone(), columns });
        }
        conformance::every_row_once(&source, &table).await;
    }
}
