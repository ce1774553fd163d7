//! What may be written of a call: named fields of what was asked and answered, and nothing else. Shares, tokens,
//! packages and values stand in other fields, which are skipped without being looked at.

use std::fmt;

use axum::{body::Body, response::Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use keymoot_api::{Problem, body::holds_secret, problem::code_name};
use keymoot_types::{
    HolderName,
    audit::{Entry, Phase},
};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value as Json, json};

/// Of a body.
const ASKED: [&str; 26] = [
    "operation",
    "version",
    "threshold",
    "holders",
    "reason",
    "override",
    "exclude",
    "excuse",
    "dry_run",
    "missing",
    "gone",
    "highest",
    "key",
    "add",
    "destroyed",
    "revision",
    "digest",
    "sources",
    "source",
    "members",
    "for",
    "keyring",
    "first_version",
    "max_rows_per_second",
    "nice_ratio",
    "concurrency",
];
/// Of an answer.
const TOLD: [&str; 19] = [
    "id",
    "keyring_id",
    "operation",
    "version",
    "state",
    "primary",
    "revision",
    "digest",
    "dry_run",
    "needed",
    "have",
    "reloaded",
    "members",
    "warnings",
    "holder",
    "accepted",
    "rejected",
    "missing",
    "code",
];
/// Of a thing in a list. Whoever swaps a holder's recipient gets the share.
const OF_ONE: [&str; 8] = ["version", "holder", "code", "who", "name", "node", "for", "recipient"];

const LIST_MAX: usize = 255;
/// Refused parts of a call that had no right one.
const REJECTED_MAX: usize = 8;
/// Names and recipients are shorter.
const WORD_BYTES_MAX: usize = 64;

/// Reads an object and keeps some of its fields.
struct Pick(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Pick {
    type Value = Map<String, Json>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick {
    type Value = Map<String, Json>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.contains(&name.as_str()) {
                let value: Json = map.next_value()?;
                if !value.is_null() {
                    kept.insert(name, value);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kept)
    }
}

fn pick(bytes: &[u8], names: &'static [&'static str]) -> Map<String, Json> {
    let picked = Pick(names).deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    picked.unwrap_or_default().into_iter().map(|(name, value)| (name, clean(value))).collect()
}

/// What was asked for.
pub(super) fn asked(body: &[u8]) -> Map<String, Json> {
    pick(body, &ASKED)
}

/// Texts that look like a secret are left out; of things in a list only what names them is kept.
fn clean(value: Json) -> Json {
    match value {
        Json::String(text) => word(text, usize::MAX),
        Json::Array(things) => things.into_iter().take(LIST_MAX).map(one).collect(),
        Json::Object(_) => Json::Null,
        plain => plain,
    }
}

fn one(thing: Json) -> Json {
    match thing {
        Json::String(text) => word(text, WORD_BYTES_MAX),
        Json::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| OF_ONE.contains(&name.as_str()));
            kept.map(|(name, value)| (name, one(value))).collect()
        }
        Json::Array(_) => Json::Null,
        plain => plain,
    }
}

/// A text as it may be written.
pub(super) fn word(mut text: String, bytes_max: usize) -> Json {
    if holds_secret(&text) {
        return json!("(left out: it looks like a secret)");
    }
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
    Json::String(text)
}

/// What became of a call.
pub(super) struct Outcome {
    pub(super) phase: Phase,
    status: u16,
    facts: Map<String, Json>,
}

impl Outcome {
    /// Looks at an answer and gives it back.
    pub(super) async fn of(answer: Result<Response, Problem>) -> (Result<Response, Problem>, Self) {
        let response = match answer {
            Ok(response) => response,
            Err(problem) => {
                let outcome = Self::refused(&problem);
                return (Err(problem), outcome);
            }
        };
        let (head, body) = response.into_parts();
        // It is in memory already, in one piece.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let facts = pick(&bytes, &TOLD);
        let phase = phase(head.status, &facts);
        let outcome = Self { phase, status: head.status.as_u16(), facts };
        (Ok(Response::from_parts(head, Body::from(bytes))), outcome)
    }

    fn refused(problem: &Problem) -> Self {
        let mut facts = Map::new();
        facts.insert("code".into(), json!(code_name(problem.code)));
        if let Some(missing) = &problem.missing {
            facts.insert("missing".into(), clean(json!(missing)));
        }
        let phase = if problem.status < 500 { Phase::Refused } else { Phase::Failed };
        Self { phase, status: problem.status, facts }
    }

    /// Whose parts were taken.
    pub(super) fn accepted(&self) -> Vec<HolderName> {
        let accepted = self.facts.get("accepted").and_then(Json::as_array).into_iter().flatten();
        accepted.filter_map(|part| part.get("holder")?.as_str()?.parse().ok()).collect()
    }

    /// Adds what became of it.
    pub(super) fn onto(mut self, mut entry: Entry) -> Entry {
        let accepted = !self.accepted().is_empty();
        if let Some(Json::Array(rejected)) = self.facts.get_mut("rejected") {
            // The name is whatever was sent.
            for part in rejected.iter_mut().filter_map(Json::as_object_mut) {
                part.remove("name");
            }
            let more = rejected.len().saturating_sub(REJECTED_MAX);
            if !accepted && more > 0 {
                rejected.truncate(REJECTED_MAX);
                entry = entry.fact("rejected_more", more);
            }
        }
        for (name, value) in self.facts {
            entry = entry.fact(name, value);
        }
        entry.in_phase(self.phase).fact("status", self.status)
    }
}

fn phase(status: StatusCode, facts: &Map<String, Json>) -> Phase {
    let list = |name: &str| facts.get(name).and_then(Json::as_array).is_some_and(|list| !list.is_empty());
    match status.as_u16() {
        // One right part among wrong ones has changed something.
        400..500 if !list("accepted") => Phase::Refused,
        500.. => Phase::Failed,
        _ => Phase::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_fields_are_kept_and_what_looks_like_a_secret_is_not() {
        let body = json!({
            "operation": "stage",
            "parts": {"prod-keyPart-v9": "kmshare1qqq"},
            "witness": "km:v9:AQ",
            "plaintext": "secret",
            "reason": "he sent me\nKMSHARE1QQQ",
            "excuse": ["h1", "km_ooo", "x".repeat(1000)],
            "holders": [{"name": "h1", "recipient": "age1qq", "more": {"a": 1}}, {"recipient": "AGE-SECRET-KEY-1Q"}],
            "gone": ["old.table"],
            "highest": 12,
            "key": "tokens",
            "associated_data": "AAAA",
            "exclude": {"a": "b"},
        });
        let asked = asked(body.to_string().as_bytes());
        let left_out = "(left out: it looks like a secret)";
        assert_eq!(
            Json::Object(asked),
            json!({
                "operation": "stage",
                "reason": left_out,
                "excuse": ["h1", left_out, "x".repeat(64)],
                "holders": [{"name": "h1", "recipient": "age1qq"}, {"recipient": left_out}],
                "gone": ["old.table"],
                "highest": 12,
                "key": "tokens",
                "exclude": null,
            })
        );
        assert!(super::asked(b"[1]").is_empty() && super::asked(b"").is_empty());
    }

    #[tokio::test]
    async fn an_answer_passes_whole_and_its_packages_are_not_told() {
        let text = r#"{"version":9,"packages":[{"holder":"h1","package":"prod-keyPart-v9: kmshare1q"}]}"#;
        let (answer, outcome) = Outcome::of(Ok(Response::new(Body::from(text)))).await;
        let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, text);
        let line = serde_json::to_value(outcome.onto(Entry::new("init", Phase::Intent))).unwrap();
        assert_eq!(line["facts"], json!({"version": 9, "status": 200}));
        assert_eq!(line["phase"], "done");
    }
}
