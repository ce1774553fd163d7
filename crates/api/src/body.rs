//! The one place where the body of a request is parsed.
//!
//! A parser's own message quotes what stood in the body, and in a body stand shares and plaintexts. So what was
//! found is cut out of the message, and only the place and what was expected stay.

use std::{fmt, marker::PhantomData};

use keymoot_types::ErrorCode;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, value::MapAccessDeserializer},
};

use crate::Problem;

/// What must never be in a message: the beginnings of shares, tokens and identities, in lower case.
const SECRET_PREFIXES: [&str; 3] = ["kmshare1", "km_", "age-secret-key-"];

/// Reads a JSON body; an empty one is `{}`. Every error is `bad_request`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice::<Object<T>>(body).map(|object| object.0).map_err(|error| bad_request(&error))
}

/// A `T` that is written as an object. Serde would take a list of its fields' values as well.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// For `deserialize_with`: a list of objects.
pub(crate) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|object| object.0).collect())
}

/// For `deserialize_with`: a list of objects, or null.
pub(crate) fn optional_objects<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}

/// The problem for a body that could not be parsed, without anything that stood in it.
pub fn bad_request(error: &serde_json::Error) -> Problem {
    Problem::new(ErrorCode::BadRequest, harmless(&error.to_string()))
}

/// Whether a text has in it what looks like the beginning of a share, a token or an identity.
pub fn holds_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET_PREFIXES.iter().any(|prefix| text.contains(prefix))
}

fn harmless(message: &str) -> String {
    let shown = without_what_was_given(message);
    if holds_secret(&shown) {
        return "a name in the body is not one that belongs there (and looks like a secret, so it is not repeated)"
            .into();
    }
    shown
}

fn without_what_was_given(message: &str) -> String {
    // `invalid type: string "…", expected …`: the kind stays, what it was goes. The text may itself contain the
    // separator, hence the last one.
    for found in ["invalid type: ", "invalid value: ", "invalid length: "] {
        if let Some((before, rest)) = message.split_once(found)
            && let Some((unexpected, expected)) = rest.rsplit_once(", expected ")
        {
            let kind: String = unexpected.chars().take_while(|c| c.is_ascii_alphabetic() || *c == ' ').collect();
            return format!("{before}{found}{}, expected {expected}", kind.trim_end());
        }
    }
    message.into()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(default)]
        number: u32,
    }

    #[test]
    fn an_empty_body_is_an_empty_object() {
        for body in [&b""[..], b" \r\n", b"{}"] {
            assert_eq!(parse::<Body>(body).unwrap().number, 0);
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_what_stood_there_is_not() {
        for (body, says) in [
            (r#"{"number":"4111, expected 1111"}"#, "invalid type: string, expected u32"),
            (r#"{"number":-411111}"#, "invalid value: integer, expected u32"),
            (r#"{"number":1,"number":2}"#, "duplicate field `number`"),
            (r#"{"other":1}"#, "unknown field `other`"),
            (r#"{"kmshare1qqq":1}"#, "not repeated"),
            (r#"{"invalid type: a, expected kmshare1qqq":1}"#, "unknown field"),
            ("[1]", "invalid type: sequence, expected an object"),
            ("{", "EOF"),
            (r#"{"number":1} x"#, "trailing characters"),
        ] {
            let problem = parse::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.code, ErrorCode::BadRequest);
            assert!(problem.detail.contains(says), "{}", problem.detail);
            assert!(!problem.detail.contains("4111") && !problem.detail.contains("qqq"), "{}", problem.detail);
        }
    }
}
