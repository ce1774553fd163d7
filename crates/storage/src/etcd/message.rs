//! What is said to etcd's JSON interface: bytes in base64, and long numbers as text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value as Json, json};

/// The answer to a transaction.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<Response>,
}

impl TxnAnswer {
    /// What the first question within it found.
    pub(super) fn range(self) -> RangeAnswer {
        self.responses.into_iter().find_map(|response| response.response_range).unwrap_or_default()
    }

    /// The first key of each question, where it found one.
    pub(super) fn firsts(self) -> impl Iterator<Item = Option<KeyValue>> {
        let ranges = self.responses.into_iter().filter_map(|response| response.response_range);
        ranges.map(|range| range.kvs.into_iter().next())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    response_range: Option<RangeAnswer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) revision: i64,
}

/// Keys that were found.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeAnswer {
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    pub(super) mod_revision: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenAnswer {
    pub(super) token: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorAnswer {
    pub(super) code: i64,
    pub(super) error: String,
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Holds while the key has this value.
pub(super) fn has_value(key: &str, value: &[u8]) -> Json {
    json!({"target": "VALUE", "result": "EQUAL", "key": text(key), "value": text(value)})
}

/// Holds while the key was last changed at this revision; 0 where there is none.
pub(super) fn unchanged_since(key: &str, revision: i64) -> Json {
    json!({"target": "MOD", "result": "EQUAL", "key": text(key), "mod_revision": revision.to_string()})
}

/// Holds while no key is there from `key` up to `end`.
pub(super) fn none_from(key: &str, end: &[u8]) -> Json {
    json!({"target": "CREATE", "result": "EQUAL", "key": text(key), "range_end": text(end), "create_revision": "0"})
}

pub(super) fn transaction(compare: &[Json], success: &[Json], failure: &[Json]) -> Json {
    json!({"compare": compare, "success": success, "failure": failure})
}

pub(super) fn put(key: &str, value: &[u8]) -> Json {
    json!({"request_put": {"key": text(key), "value": text(value)}})
}

pub(super) fn delete(key: &str) -> Json {
    json!({"request_delete_range": {"key": text(key)}})
}

pub(super) fn delete_from(key: &str, end: &[u8]) -> Json {
    json!({"request_delete_range": {"key": text(key), "range_end": text(end)}})
}

/// The key as it is now.
pub(super) fn read(key: &str) -> Json {
    json!({"request_range": {"key": text(key)}})
}

/// The key as it was at this revision.
pub(super) fn read_past(key: &str, revision: i64) -> Json {
    json!({"request_range": {"key": text(key), "revision": revision.to_string()}})
}

/// At most `limit` keys from `key` up to `end`, ascending, as they were at this revision (0: now).
pub(super) fn read_from(key: &[u8], end: &[u8], limit: usize, revision: i64) -> Json {
    json!({"request_range": {
        "key": text(key), "range_end": text(end), "limit": limit.to_string(), "revision": revision.to_string(),
    }})
}
