//! Rows that could not be read: where they are and why, never what they hold.
//!
//! Kept in segments of many rows, so that a column full of junk costs one write a segment and not one a row.

use std::collections::{BTreeMap, BTreeSet};

use keymoot_storage::{
    metadata::{Metadata, MetadataError, Stamp},
    source::{IdPart, RowId},
};
use keymoot_types::{KeyVersion, SourceName};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    checkpoint::{parse, quarantine_prefix, swap},
    job::JobId,
    judge::{Reason, Unreadable},
};

/// Rows listed for one source; those over it are counted. So many are one mistake, not so many accidents.
pub const ROWS_LISTED_MAX: usize = 100_000;
/// Keeps a segment far below the store's largest record, even where primary keys are long texts.
const SEGMENT_ROWS: usize = 128;

/// One row of the quarantine, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// The source.
    pub source: SourceName,
    /// The row's primary key: JSON as its column is, bytes in hex, several columns as a list.
    pub id: Json,
    /// The key version that the value names, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<KeyVersion>,
    /// Why.
    pub reason: Reason,
}

/// A part of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinePage {
    /// In the order of sources and primary keys.
    pub rows: Vec<QuarantinedRow>,
    /// What to ask for the next part with; none: this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    version: Option<KeyVersion>,
    reason: Reason,
    /// The pass that found it.
    pass: u32,
}

/// The quarantine of one source of one job.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    prefix: String,
    rows: BTreeMap<RowId, (Entry, usize)>,
    segments: Vec<Segment>,
    unwritten: BTreeSet<usize>,
}

/// One record of the list.
#[derive(Debug, Default)]
struct Segment {
    ids: BTreeSet<RowId>,
    stamp: Option<Stamp>,
}

impl Quarantine {
    pub(crate) async fn load(
        metadata: &dyn Metadata,
        id: JobId,
        source: &SourceName,
    ) -> Result<Self, MetadataError> {
        let mut all = Self { prefix: quarantine_prefix(id, source), ..Self::default() };
        for (number, record) in metadata.list(&all.prefix).await?.iter().enumerate() {
            let rows: Vec<(RowId, Entry)> = parse(record)?;
            let ids = rows.iter().map(|(id, _)| id.clone()).collect();
            all.segments.push(Segment { ids, stamp: Some(record.stamp) });
            all.rows.extend(rows.into_iter().map(|(id, entry)| (id, (entry, number))));
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.rows.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn ids(&self) -> Vec<RowId> {
        self.rows.keys().cloned().collect()
    }

    /// The pass that found a row; `None`: it is not listed.
    pub(crate) fn found_in(&self, id: &RowId) -> Option<u32> {
        self.rows.get(id).map(|(entry, _)| entry.pass)
    }

    /// Those of `ids` that are listed.
    pub(crate) fn of<'a>(&self, ids: impl Iterator<Item = &'a RowId>) -> Vec<RowId> {
        if self.rows.is_empty() {
            Vec::new()
        } else {
            ids.filter(|id| self.rows.contains_key(id)).cloned().collect()
        }
    }

    /// Lists a row; `false` where the list is full. A row that is there keeps the pass that found it.
    pub(crate) fn add(&mut self, row: &Unreadable, pass: u32) -> bool {
        let mut entry = Entry { version: row.version, reason: row.reason, pass };
        let segment = match self.rows.get(&row.id) {
            Some((known, segment)) => {
                entry.pass = known.pass;
                if *known == entry {
                    return true;
                }
                *segment
            }
            None if self.rows.len() >= ROWS_LISTED_MAX => return false,
            None => self.segment_with_room(),
        };
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.ids.insert(row.id.clone());
        }
        self.rows.insert(row.id.clone(), (entry, segment));
        self.unwritten.insert(segment);
        true
    }

    fn segment_with_room(&mut self) -> usize {
        if self.segments.last().is_none_or(|segment| segment.ids.len() >= SEGMENT_ROWS) {
            self.segments.push(Segment::default());
        }
        self.segments.len().saturating_sub(1)
    }

    /// A row was found gone or readable.
    pub(crate) fn remove(&mut self, id: &RowId) {
        if let Some((_, number)) = self.rows.remove(id) {
            if let Some(segment) = self.segments.get_mut(number) {
                segment.ids.remove(id);
            }
            self.unwritten.insert(number);
        }
    }

    /// Writes what was changed. After an error call it again: what was written is not written twice. Where another
    /// worker has written to the list it is [`MetadataError::Changed`], and it has to be loaded anew.
    pub(crate) async fn flush(&mut self, metadata: &dyn Metadata) -> Result<(), MetadataError> {
        while let Some(number) = self.unwritten.first().copied() {
            let Some(segment) = self.segments.get_mut(number) else { break };
            let rows: Vec<(&RowId, Entry)> =
                segment.ids.iter().filter_map(|id| self.rows.get(id).map(|(entry, _)| (id, *entry))).collect();
            let bytes = serde_json::to_vec(&rows).map_err(|error| MetadataError::Damaged(error.to_string()))?;
            // An empty segment stays: its number is its place in the list.
            let key = format!("{}{number:010}", self.prefix);
            segment.stamp = Some(swap(metadata, &key, segment.stamp, &bytes).await?);
            self.unwritten.remove(&number);
        }
        Ok(())
    }

    /// Up to `rows_max` rows behind `after`.
    pub(crate) fn rows_after(
        &self,
        source: &SourceName,
        after: Option<&RowId>,
        rows_max: usize,
    ) -> Vec<(RowId, QuarantinedRow)> {
        let behind = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.rows
            .range((behind, std::ops::Bound::Unbounded))
            .take(rows_max)
            .map(|(id, (entry, _))| {
                let row = QuarantinedRow {
                    source: source.clone(),
                    id: id_json(id),
                    version: entry.version,
                    reason: entry.reason,
                };
                (id.clone(), row)
            })
            .collect()
    }
}

/// A primary key as people see it.
pub fn id_json(id: &RowId) -> Json {
    let part = |part: &IdPart| match part {
        IdPart::Integer(number) => Json::from(*number),
        IdPart::Text(text) | IdPart::Uuid(text) => Json::from(text.as_str()),
        IdPart::Bytes(bytes) => Json::from(hex::encode(bytes)),
    };
    match id.0.as_slice() {
        [only] => part(only),
        several => several.iter().map(part).collect(),
    }
}

/// Where a page ended, as text that is safe in a URL.
pub(crate) fn page_mark(source: &SourceName, id: &RowId) -> String {
    hex::encode(serde_json::to_vec(&(source, id)).unwrap_or_default())
}

/// The reverse; `None` for a text that no page ended with.
pub(crate) fn parse_page_mark(text: &str) -> Option<(SourceName, RowId)> {
    serde_json::from_slice(&hex::decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_id_is_json_as_its_column_is() {
        let id = |parts: &[IdPart]| id_json(&RowId(parts.to_vec()));
        assert_eq!(id(&[IdPart::Integer(-7)]), serde_json::json!(-7));
        assert_eq!(id(&[IdPart::Text("a".into())]), serde_json::json!("a"));
        assert_eq!(id(&[IdPart::Bytes(vec![0, 255])]), serde_json::json!("00ff"));
        assert_eq!(id(&[IdPart::Integer(1), IdPart::Text("x".into())]), serde_json::json!([1, "x"]));
    }

    #[test]
    fn a_page_mark_comes_back() {
        let (source, id): (SourceName, _) = ("c.ssn".parse().unwrap(), RowId(vec![IdPart::Bytes(vec![1])]));
        assert_eq!(parse_page_mark(&page_mark(&source, &id)), Some((source, id)));
        assert_eq!(parse_page_mark("zz"), None);
    }
}
