//! What keeps a node and its cluster in order: members, the manifest, the audit log, certificates.

use keymoot_types::{Digest, NodeName, audit::SignedHead};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// `{"add": "db4"}` or `{"destroyed": "db2"}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersRequest {
    /// A new member.
    Add(NodeName),
    /// A member that exists no longer, and its memory with it.
    Destroyed(NodeName),
}

/// `{"members": […]}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// As they are now.
    pub members: Vec<NodeName>,
}

/// `{"revision": 7, "digest": hex}`: adopt exactly this manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// Its revision.
    pub revision: u64,
    /// Its digest.
    pub digest: Digest,
}

/// `{"revision": 7, "digest": hex}`: the manifest that was adopted or published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestAnswer {
    /// Its revision.
    pub revision: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A body without fields: `{}` or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `{"entries": […], "next"?, "head"?}`: lines of the audit log, as they stand in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// Ascending by `seq`.
    pub entries: Vec<Json>,
    /// To be given as `?after=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The newest head of this node's log that was signed and kept outside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SignedHead>,
}

/// `{"certificates": […]}`: signed certificates of retirements, newest last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificatesAnswer {
    /// As they were signed.
    pub certificates: Vec<Json>,
}

/// The answer to a reload: what the new configuration changed, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Whether the new configuration is in force.
    pub reloaded: bool,
    /// What is doubtful about it, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    #[test]
    fn one_member_is_added_or_destroyed() {
        assert!(matches!(body::parse(br#"{"add":"db4"}"#), Ok(MembersRequest::Add(_))));
        assert!(matches!(body::parse(br#"{"destroyed":"db2"}"#), Ok(MembersRequest::Destroyed(_))));
        for bad in
            ["", r#"{"add":"a","destroyed":"b"}"#, r#"{"add":"a","add":"b"}"#, r#"{"drop":"a"}"#, r#"{"add":5}"#]
        {
            assert!(body::parse::<MembersRequest>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_an_empty_object_and_no_more() {
        assert!(body::parse::<Nothing>(b"").is_ok());
        assert!(body::parse::<Nothing>(br#"{"force":true}"#).is_err());
        assert!(body::parse::<Nothing>(b"[]").is_err());
    }
}
