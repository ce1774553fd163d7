//! Rotation: requests that holders consent to, and the steps of a version's life.

use jiff::Timestamp;
use keymoot_types::{
    Digest, HolderName, KeyId, KeyName, KeyVersion, NodeName, NodeState, SourceName, VersionState,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    Base64Bytes, HumanDuration, Missing, body,
    init::HolderSpec,
    unlock::{AcceptedPart, Parts, RejectedPart, VersionProgress},
};

/// What an operator asks the holders to consent to: `{"operation": "stage", …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum RequestBody {
    /// Make the next version.
    Stage(StageRequest),
    /// New shares of a version for these holders.
    Reshare(ReshareRequest),
    /// The same, because some holders are to be replaced.
    Replace(ReshareRequest),
    /// Bring a version back that a restored store has forgotten.
    Import(ImportRequest),
    /// Retire without evidence, accepting a named loss.
    RetireOverride(RetireOverrideRequest),
    /// Write the values of a source in clear again.
    Release(ReleaseRequest),
    /// Let restarted members receive the keys from an unlocked one.
    Window(WindowRequest),
}

impl RequestBody {
    /// The operation's word.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Stage(_) => "stage",
            Self::Reshare(_) => "reshare",
            Self::Replace(_) => "replace",
            Self::Import(_) => "import",
            Self::RetireOverride(_) => "retire-override",
            Self::Release(_) => "release",
            Self::Window(_) => "window",
        }
    }
}

/// Both by default as the primary's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRequest {
    /// Shares that rebuild the key, 2 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
    /// Who gets a share.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::optional_objects")]
    pub holders: Option<Vec<HolderSpec>>,
    /// The highest number that ever was, as an operator knows it: needed after a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<KeyVersion>,
}

/// Who holds an existing version from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReshareRequest {
    /// Of which version.
    pub version: KeyVersion,
    /// Who gets a share: all of them.
    #[serde(deserialize_with = "body::objects")]
    pub holders: Vec<HolderSpec>,
    /// Shares that rebuild the key, 2 to 255; by default as now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
}

/// A version and a value that shows the rebuilt key to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// Which version.
    pub version: KeyVersion,
    /// A value of it, in text form, or a manifest that knows it.
    pub witness: String,
    /// The key name of the value; by default each that is declared is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyName>,
    /// What the value is bound to, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<Base64Bytes>,
}

/// A version and the loss that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireOverrideRequest {
    /// Which version.
    pub version: KeyVersion,
    /// The loss accepted, in the operator's words.
    pub reason: String,
}

/// A source whose values are to become plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Which.
    pub source: SourceName,
}

/// Members, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRequest {
    /// Which may receive keys.
    pub members: Vec<NodeName>,
    /// For how long.
    #[serde(rename = "for")]
    pub duration: HumanDuration,
}

/// `{"id", "digest", "operation", "version"?, "needed", "have"}`, 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAnswer {
    /// Whoever has it may look at the request.
    pub id: String,
    /// What is consented to.
    pub digest: Digest,
    /// The operation's word.
    pub operation: String,
    /// Which version; none for a stage: a number is taken when the version is made.
    pub version: Option<KeyVersion>,
    /// Holders needed.
    pub needed: u8,
    /// Holders who have consented.
    pub have: u8,
}

/// All of a request: what is consented to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDetail {
    /// Its id.
    pub id: String,
    /// What is consented to.
    pub digest: Digest,
    /// The operation's word.
    pub operation: String,
    /// Which version; for a stage, once it is made.
    pub version: Option<KeyVersion>,
    /// Holders needed.
    pub needed: u8,
    /// Holders who have consented.
    pub have: u8,
    /// Whose shares count: those of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_version: Option<KeyVersion>,
    /// Of which version a share is given along with it: an import's shares are known by nothing but who gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouching_version: Option<KeyVersion>,
    /// `open`, `done`, `expired` or `cancelled`.
    #[serde(default)]
    pub state: String,
    /// The threshold of what is to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
    /// Who is to get a share, with their recipients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderSpec>,
    /// The value or manifest that shows an imported key to be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
    /// The loss that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The source that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// What is asked for, whole: the digest is SHA-256 of its canonical form (RFC 8785), so that whoever consents can
    /// make it again from what they see.
    pub asked: Json,
    /// Who has consented; only with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consented: Option<Vec<HolderName>>,
    /// The name of the token that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// When it closes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `{"digest", "parts": {…}}`: a holder's consent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentRequest {
    /// Of the request that the holder has looked at.
    pub digest: Digest,
    /// A share of the primary (for `import`: of that version).
    pub parts: Parts,
}

/// As the answer to an unlock, with `needed` and `have`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentAnswer {
    /// In the order in which they were given.
    pub accepted: Vec<AcceptedPart>,
    /// Likewise.
    pub rejected: Vec<RejectedPart>,
    /// Where every version stands now, ascending.
    pub versions: Vec<VersionProgress>,
    /// The node that answers.
    pub node: NodeName,
    /// The node's state; once it is done, the version's.
    pub state: ConsentState,
    /// Holders needed.
    pub needed: u8,
    /// Holders who have consented.
    pub have: u8,
    /// The version that was made, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<KeyVersion>,
}

/// The state in the answer to a consent. The two sets of words have none in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConsentState {
    /// Done: the version's.
    Version(VersionState),
    /// More consents are needed: the node's.
    Node(NodeState),
}

/// A member that a gate does not wait for, by name and for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// Which.
    pub node: NodeName,
    /// For how long.
    #[serde(rename = "for")]
    pub duration: HumanDuration,
}

/// The body of `activate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateRequest {
    /// Members that are not waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "body::objects")]
    pub exclude: Vec<Exclusion>,
    /// Holders who need not have proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excuse: Vec<HolderName>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why a degraded node goes back without the lost version.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub override_reason: Option<String>,
}

/// The body of `retire`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireRequest {
    /// As in every step; a retirement refuses it: nobody is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "body::objects")]
    pub exclude: Vec<Exclusion>,
    /// See `exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excuse: Vec<HolderName>,
    /// Only say what is missing; starts no census.
    #[serde(default)]
    pub dry_run: bool,
    /// Sources that an operator declares to exist no longer; the certificate says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<SourceName>,
}

/// The body of `abort` and of `restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// Members that are not waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "body::objects")]
    pub exclude: Vec<Exclusion>,
    /// Holders who need not have proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excuse: Vec<HolderName>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a version: 200 of `activate`, `abort`, `retire` and `restore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepAnswer {
    /// Which.
    pub version: KeyVersion,
    /// Its state now.
    pub state: VersionState,
    /// The version that encrypts now.
    pub primary: KeyVersion,
    /// The manifest's revision now.
    pub revision: u64,
    /// Whether nothing was changed because that was asked for.
    #[serde(default)]
    pub dry_run: bool,
    /// What is missing, in a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// What would answer what afterwards, in sentences, in a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
    /// The signed certificate of a retirement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Json>,
}

/// `{"versions": […]}`: the answer to `GET /v1/versions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionsAnswer {
    /// Ascending.
    pub versions: Vec<VersionDetail>,
}

/// All that is known of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionDetail {
    /// Its number.
    pub version: KeyVersion,
    /// Its identity.
    pub key_id: KeyId,
    /// What it may be used for.
    pub state: VersionState,
    /// When it was made.
    pub created: Timestamp,
    /// Whether nothing unlocks without it.
    pub required: bool,
    /// Whether this node has it loaded.
    pub validated: bool,
    /// Shares that rebuild it.
    pub threshold: u8,
    /// Who holds it, ascending by x.
    pub holders: Vec<VersionHolder>,
    /// When it last authenticated something that a service sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// When it was retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Timestamp>,
}

/// A holder's place in a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionHolder {
    /// Who.
    pub name: HolderName,
    /// Where the polynomial was evaluated.
    pub x: u8,
    /// The age recipient; none where the package was plain, which counts as exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// When possession was last proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<Timestamp>,
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
