//! The data API: what services call.
//!
//! `encrypt`, `decrypt` and `rewrap` take one item or a batch, `{"items": […]}`, and answer in the same shape.

use std::{fmt, marker::PhantomData};

use keymoot_types::{ErrorCode, KeyName, KeyVersion, Verdict};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::{
    Base64Bytes, HumanDuration, Problem,
    body::{self, Object},
};

/// The most items in a batch.
pub const ITEMS_MAX: usize = 10_000;
/// The longest plaintext, bytes.
pub const PLAINTEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `{"plaintext": base64, "associated_data"?: base64, "reference"?: text}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptRequest {
    /// May be empty: an empty value is a value.
    pub plaintext: Base64Bytes,
    /// What the value is bound to; must be given again to decrypt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<Base64Bytes>,
    /// Comes back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// `{"ciphertext": "km:v10:…", "version": 10, "reference"?}`. Also the answer to a rewrap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptAnswer {
    /// The value, in text form.
    pub ciphertext: String,
    /// The version that encrypted it.
    pub version: KeyVersion,
    /// As given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// `{"ciphertext": "km:v9:…", "associated_data"?: base64, "rewrap"?: bool, "reference"?: text}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecryptRequest {
    /// A value, in text form.
    pub ciphertext: String,
    /// As when it was encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<Base64Bytes>,
    /// Whether a value of an old version should come back encrypted anew, beside its plaintext.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rewrap: bool,
    /// Comes back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// `{"plaintext": base64, "version": 9, "verdict": "valid", "rewrapped"?: "km:v10:…", "reference"?}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecryptAnswer {
    /// What was encrypted.
    pub plaintext: Base64Bytes,
    /// The version that the value was made with.
    pub version: KeyVersion,
    /// Always `valid`: anything else is a problem.
    pub verdict: Verdict,
    /// The same plaintext under the primary, if it was asked for and the value was of an old version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrapped: Option<String>,
    /// As given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// `{"ciphertext": "km:v9:…", "associated_data"?: base64, "reference"?: text}`; answered by [`EncryptAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewrapRequest {
    /// A value, in text form.
    pub ciphertext: String,
    /// As when it was encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<Base64Bytes>,
    /// Comes back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// `{"plaintext"?: bool, "bits"?: 256 | 512}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataKeyRequest {
    /// Whether the key itself is wanted, beside its wrapped form.
    #[serde(default = "yes")]
    pub plaintext: bool,
    /// Its size.
    #[serde(default)]
    pub bits: DataKeyBits,
}

impl Default for DataKeyRequest {
    fn default() -> Self {
        Self { plaintext: true, bits: DataKeyBits::default() }
    }
}

/// The size of a data key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DataKeyBits {
    /// 32 bytes.
    #[default]
    Bits256,
    /// 64 bytes.
    Bits512,
}

impl DataKeyBits {
    /// The size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bits256 => 32,
            Self::Bits512 => 64,
        }
    }
}

impl Serialize for DataKeyBits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(match self {
            Self::Bits256 => 256,
            Self::Bits512 => 512,
        })
    }
}

impl<'de> Deserialize<'de> for DataKeyBits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            256 => Ok(Self::Bits256),
            512 => Ok(Self::Bits512),
            _ => Err(de::Error::custom("bits is 256 or 512")),
        }
    }
}

/// `{"ciphertext": "km:v10:…", "plaintext"?: base64, "version": 10}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeyAnswer {
    /// The wrapped data key, in text form.
    pub ciphertext: String,
    /// The data key, if it was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<Base64Bytes>,
    /// The version that wraps it.
    pub version: KeyVersion,
}

/// `{"ciphertext": "km:v10:…"}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataKeyDecryptRequest {
    /// A wrapped data key, in text form.
    pub ciphertext: String,
}

/// `{"plaintext": base64, "version": 10}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeyDecryptAnswer {
    /// The data key.
    pub plaintext: Base64Bytes,
    /// The version that wraps it.
    pub version: KeyVersion,
}

/// `{"keys": [{"name", …}], "primary"?: 10}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysAnswer {
    /// Those that the caller may use.
    pub keys: Vec<KeyInfo>,
    /// The version that encrypts; absent while there is no keyring.
    pub primary: Option<KeyVersion>,
}

/// A declared key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its name.
    pub name: KeyName,
    /// How long values live outside the sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
    /// Whether all values lie in declared sources.
    #[serde(default)]
    pub only_in_sources: bool,
}

/// A request or answer, alone or in a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// The object itself.
    One(T),
    /// `{"items": […]}`
    Many {
        /// In order.
        items: Vec<T>,
    },
}

/// What became of one item of a batch: its answer, or `{"error": problem, "reference"?}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ItemAnswer<T> {
    /// It went well.
    Done(T),
    /// It did not.
    Failed {
        /// Why.
        error: Box<Problem>,
        /// As given.
        #[serde(skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
}

impl<T: for<'de> Deserialize<'de>> OneOrMany<T> {
    /// Reads a request. Not by trying both shapes and giving up with a vague error: the body is a batch if it has
    /// `items`, and is then read as strictly as a single one. More than [`ITEMS_MAX`] items are `too_large`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let single_error = match body::parse(bytes) {
            Ok(one) => return Ok(Self::One(one)),
            Err(problem) => problem,
        };
        let Batch { items } =
            body::parse::<Batch<T>>(bytes).map_err(|batch_error| {
                match serde_json::from_slice::<Probe>(bytes) {
                    Ok(Probe { has_items: true }) => batch_error,
                    _ => single_error,
                }
            })?;
        if items.count > ITEMS_MAX {
            let detail = format!("a batch has at most {ITEMS_MAX} items, and this one has {}", items.count);
            return Err(Problem::new(ErrorCode::TooLarge, detail));
        }
        Ok(Self::Many { items: items.kept })
    }
}

/// Reads the answer to a batch, in the order of the request.
pub fn parse_item_answers<T: for<'de> Deserialize<'de>>(
    bytes: &[u8],
) -> Result<Vec<ItemAnswer<T>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        // Borrowed, so that plaintexts are not copied into a buffer that nobody wipes.
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Failure {
        error: Option<Box<Problem>>,
        reference: Option<String>,
    }
    let Answer { items } = serde_json::from_slice(bytes)?;
    let read = |item: &RawValue| match serde_json::from_str::<Failure>(item.get())? {
        Failure { error: Some(error), reference } => Ok(ItemAnswer::Failed { error, reference }),
        Failure { error: None, .. } => serde_json::from_str(item.get()).map(ItemAnswer::Done),
    };
    items.into_iter().map(read).collect()
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
struct Batch<T> {
    items: Items<T>,
}

/// The items that were kept, at most [`ITEMS_MAX`], and how many there were: a batch that is too large is not
/// built in memory first.
struct Items<T> {
    kept: Vec<T>,
    count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of items")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Items<T>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < ITEMS_MAX {
                    match list.next_element()? {
                        Some(Object(item)) => kept.push(item),
                        None => return Ok(Items { count: kept.len(), kept }),
                    }
                }
                let mut count = kept.len();
                while list.next_element::<de::IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Items { kept, count })
            }
        }

        deserializer.deserialize_seq(Visitor(PhantomData))
    }
}

/// Only whether the body is an object with `items`.
struct Probe {
    has_items: bool,
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Probe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Probe, A::Error> {
                let mut has_items = false;
                while let Some((name, de::IgnoredAny)) = map.next_entry::<String, de::IgnoredAny>()? {
                    has_items |= name == "items";
                }
                Ok(Probe { has_items })
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
