//! The adapters in memory hold to the suites that the real ones hold to.

use async_trait::async_trait;
use keymoot_storage::{
    conformance::{self, Application},
    memory::{MemoryMetadata, MemorySource},
    source::{Row, RowId},
};

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
    conformance::source(&source, &Behind(&source)).await;
    assert!(!source.rows().is_empty());
}
