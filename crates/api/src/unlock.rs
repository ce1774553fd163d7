//! Unlocking, proving and consenting: every ceremony that takes shares.

use std::fmt;

use keymoot_types::{HolderName, KeyId, KeyVersion, NodeName, NodeState, RefusalCode, VersionState};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use zeroize::Zeroizing;

use crate::SecretText;

/// `{"parts": {"prod-keyPart-v10": "kmshare1…", …}}`, for `unlock/parts` and `prove/parts`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartsRequest {
    /// What is submitted.
    pub parts: Parts,
}

/// Named share texts in the order in which they came, unjudged. A JSON object; a name given twice is an error.
///
/// A list and not a map: a map's order, by text, put v10 before v9.
#[derive(Default, PartialEq, Eq)]
pub struct Parts(pub Vec<(String, Zeroizing<String>)>);

impl Parts {
    /// More than any holder has. Names are compared with one another, so their number is bounded as they are read.
    pub const MAX: usize = 256;
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the names either: a share may stand where a name belongs.
        write!(f, "Parts({} of them)", self.0.len())
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, share) in &self.0 {
            map.serialize_entry(name, share.as_str())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Parts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of part names and shares")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
                let mut parts: Vec<(String, Zeroizing<String>)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if parts.len() == Parts::MAX {
                        return Err(de::Error::custom(format_args!("more than {} parts", Parts::MAX)));
                    }
                    if parts.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format_args!("the part {name:?} is given twice")));
                    }
                    parts.push((name, map.next_value::<SecretText>()?.into_inner()));
                }
                Ok(Parts(parts))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// What became of the parts that were submitted: 200, or 422 when any was refused. A bad one spoils no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsAnswer {
    /// In the order in which they were given.
    pub accepted: Vec<AcceptedPart>,
    /// Likewise.
    pub rejected: Vec<RejectedPart>,
    /// Where every version stands now, ascending.
    pub versions: Vec<VersionProgress>,
    /// The node that answers.
    pub node: NodeName,
    /// Its state now.
    pub state: NodeState,
}

/// A part that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedPart {
    /// Of which version.
    pub version: KeyVersion,
    /// Whose.
    pub holder: HolderName,
}

/// A part that was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedPart {
    /// The name that it was submitted under.
    pub name: String,
    /// Why.
    pub code: RefusalCode,
    /// The same in a sentence, with what to do.
    pub detail: String,
    /// Of which version, as far as it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<KeyVersion>,
    /// Whose, where it matches a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<HolderName>,
}

/// Where a version stands on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionProgress {
    /// Its number.
    pub version: KeyVersion,
    /// What it may be used for.
    pub state: VersionState,
    /// Its identity.
    pub key_id: KeyId,
    /// Whether nothing unlocks without it.
    pub required: bool,
    /// Shares needed.
    pub threshold: u8,
    /// Shares held; stays at the threshold once it is validated.
    pub have: u8,
    /// Whether its root key was rebuilt and its key check equal.
    pub validated: bool,
    /// Who has given; only with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<HolderName>>,
}

/// `{"missing": [10]}`: unlock without these, for this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DegradedRequest {
    /// The versions that are lost.
    pub missing: Vec<KeyVersion>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    #[test]
    fn parts_keep_the_order_in_which_they_came() {
        let text = r#"{"parts":{"prod-keyPart-v10":"b","prod-keyPart-v9":"a"}}"#;
        let request: PartsRequest = body::parse(text.as_bytes()).unwrap();
        let names: Vec<_> = request.parts.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["prod-keyPart-v10", "prod-keyPart-v9"]);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
    }

    #[test]
    fn what_is_not_an_object_of_strings_is_refused() {
        for (text, says) in [
            (r#"{"parts":{"a":"1","a":"2"}}"#, "given twice"),
            (r#"{"parts":{},"parts":{}}"#, "duplicate field"),
            (r#"{"parts":{"a":5}}"#, "expected a string"),
            (r#"{"parts":["kmshare1qqq"]}"#, "expected an object"),
            (r#"{"parts":"kmshare1qqq"}"#, "invalid type: string, expected an object"),
            (r#"{"parts":{"kmshare1qqq":"x","kmshare1qqq":"x"}}"#, "not repeated"),
            (r#"{"parts":{},"node":"x"}"#, "unknown field"),
            ("{}", "missing field `parts`"),
        ] {
            let problem = body::parse::<PartsRequest>(text.as_bytes()).unwrap_err();
            assert!(problem.detail.contains(says), "{text}: {}", problem.detail);
            assert!(!problem.detail.contains("qqq"), "{}", problem.detail);
        }
    }

    #[test]
    fn a_share_does_not_show_itself() {
        let request: PartsRequest = body::parse(br#"{"parts":{"kmshare1name":"kmshare1text"}}"#).unwrap();
        assert!(!format!("{request:?}").contains("kmshare1"));
    }
}
