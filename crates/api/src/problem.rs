//! Trouble, as RFC 9457 has it.

use std::{fmt, time::Duration};

use keymoot_types::{ErrorCode, KeyVersion, Verdict};
use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An answer that is no success. It names no secret.
///
/// ```json
/// {"type": "urn:keymoot:problem:sealed", "title": "The node is sealed", "status": 503,
///  "detail": "…", "code": "sealed", "verdict": "undetermined"}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:keymoot:problem:<code>`
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The code in a few words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, in a sentence.
    #[serde(default)]
    pub detail: String,
    /// What programs decide by.
    pub code: ErrorCode,
    /// What it says about the value that was asked about.
    pub verdict: Verdict,
    /// The key version that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<KeyVersion>,
    /// When asking again makes sense, milliseconds. Jittered by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What a gate lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<Missing>>,
}

/// One piece of evidence that a gate lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What programs decide by, such as `not_proved`.
    pub code: String,
    /// The node, holder, source or key that lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// In a sentence, with what to do.
    pub detail: String,
}

impl Missing {
    /// Something that no one in particular lacks.
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), who: None, detail: detail.into() }
    }

    /// Names who lacks it.
    #[must_use]
    pub fn of(self, who: impl fmt::Display) -> Self {
        Self { who: Some(who.to_string()), ..self }
    }
}

impl Problem {
    /// Status, title and verdict follow from the code.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:keymoot:problem:{}", code_name(code)),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            code,
            verdict: code.verdict(),
            version: None,
            retry_after_ms: None,
            missing: None,
        }
    }

    /// A gate that lacks evidence.
    pub fn gate_refused(detail: impl Into<String>, missing: Vec<Missing>) -> Self {
        Self::new(ErrorCode::GateRefused, detail).with_missing(missing)
    }

    /// Names the key version that it is about.
    #[must_use]
    pub fn with_version(self, version: KeyVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Says when to ask again.
    #[must_use]
    pub fn with_retry(self, after: Duration) -> Self {
        Self { retry_after_ms: Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// Lists what is missing.
    #[must_use]
    pub fn with_missing(self, missing: Vec<Missing>) -> Self {
        Self { missing: Some(missing), ..self }
    }
}

/// The code as the interfaces spell it.
pub fn code_name(code: ErrorCode) -> String {
    // Its serialisation is a string without fail; there is one table of spellings, in `types`.
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", code_name(self.code), self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_spelt_as_rfc_9457_has_it() {
        let problem = Problem::new(ErrorCode::KeyVersionUnavailable, "v9 is not loaded")
            .with_version(KeyVersion::new(9).unwrap())
            .with_retry(Duration::from_millis(1500));
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:keymoot:problem:key_version_unavailable",
                "title": "The key version is not loaded here",
                "status": 503, "detail": "v9 is not loaded", "code": "key_version_unavailable",
                "verdict": "undetermined", "version": 9, "retry_after_ms": 1500,
            })
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn a_gate_lists_what_is_missing_and_of_whom() {
        let problem = Problem::gate_refused(
            "v10 can't be activated",
            vec![Missing::new("not_proved", "holder carol has not proved v10").of("carol")],
        );
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!((json["status"].as_u64(), &json["missing"][0]["who"]), (Some(409), &"carol".into()));
    }
}
