//! Every entry of `tests/vectors/keymoot-v1.json`, which an independent implementation made.

use std::sync::Arc;

use keymoot_keyring::{Keyring, OpenError, Validated, key_check::share_digest, shamir};
use keymoot_types::{
    Digest, HolderName, KeyId, KeyName, KeyVersion, Share, Value,
    associated_data::{ColumnValue, Template},
    manifest::{Holder, ShareSet},
    value::{BodyKind, ValueError},
};
use serde_json::Value as Json;

fn vectors() -> Json {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keymoot-v1.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text<'a>(entry: &'a Json, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_else(|| panic!("{field} of {entry}"))
}

fn bytes(entry: &Json, field: &str) -> Vec<u8> {
    hex::decode(text(entry, field)).unwrap()
}

fn number(entry: &Json) -> KeyVersion {
    serde_json::from_value(entry["version"].clone()).unwrap()
}

fn shares(version: &Json) -> Vec<Share> {
    let shares = version["shares"].as_array().unwrap();
    shares.iter().map(|share| Share::parse(text(share, "text")).unwrap()).collect()
}

fn share_set(version: &Json) -> ShareSet {
    let holders = shares(version)
        .iter()
        .map(|share| Holder {
            name: format!("holder-{}", share.x()).parse::<HolderName>().unwrap(),
            x: share.x(),
            digest: share_digest(share),
            recipient: None,
        })
        .collect();
    ShareSet {
        set: 1,
        threshold: version["threshold"].as_u64().unwrap().try_into().unwrap(),
        key_check: text(version, "key_check").parse::<Digest>().unwrap(),
        holders,
        replaced: vec![],
        pending: None,
    }
}

fn validated(version: &Json) -> Validated {
    let shares = shares(version);
    let set = share_set(version);
    let key_id: KeyId = text(version, "key_id").parse().unwrap();
    shamir::rebuild(set.threshold, &shares.iter().collect::<Vec<_>>()).unwrap().validate(key_id, &set).unwrap()
}

fn keyring(vectors: &Json) -> Keyring {
    let versions = vectors["versions"].as_array().unwrap();
    let mut keys: Vec<KeyName> = ["values", "rejected", "datakeys"]
        .iter()
        .flat_map(|list| vectors[list].as_array().unwrap())
        .map(|entry| text(entry, "key").parse().unwrap())
        .collect();
    keys.sort();
    keys.dedup();
    Keyring::new(versions.iter().map(|version| Arc::new(validated(version))), None, &keys)
}

#[test]
fn every_share_digest_key_id_and_key_check_is_ours() {
    let vectors = vectors();
    for version in vectors["versions"].as_array().unwrap() {
        for (share, entry) in shares(version).iter().zip(version["shares"].as_array().unwrap()) {
            assert_eq!(share.version(), number(version));
            assert_eq!(share.keyring_id().to_string(), text(&vectors, "keyring_id"));
            assert_eq!(u64::from(share.x().get()), entry["x"].as_u64().unwrap());
            assert_eq!(hex::encode(share.y()), text(entry, "y"));
            assert_eq!(share.to_text().as_str(), text(entry, "text"));
            assert_eq!(share_digest(share).to_string(), text(entry, "digest"));
        }
        assert_eq!(validated(version).key_id().to_string(), text(version, "key_id"));
    }
}

#[test]
fn every_value_opens_in_text_and_in_binary_form() {
    let vectors = vectors();
    let keyring = keyring(&vectors);
    for entry in vectors["values"].as_array().unwrap() {
        let key = text(entry, "key").parse().unwrap();
        let in_text = Value::parse(text(entry, "text")).unwrap();
        let in_binary = Value::parse_binary(&bytes(entry, "binary")).unwrap();
        assert_eq!(in_text, in_binary);
        assert_eq!(in_text.version(), number(entry));
        let kind = if text(entry, "scheme") == "direct" { BodyKind::Direct } else { BodyKind::Envelope };
        assert_eq!(in_text.kind(), kind);
        let plaintext = keyring.decrypt(&key, &in_text, &bytes(entry, "associated_data")).unwrap();
        assert_eq!(*plaintext, bytes(entry, "plaintext"));
    }
}

#[test]
fn every_refusal_has_the_stated_reason() {
    let vectors = vectors();
    let keyring = keyring(&vectors);
    for entry in vectors["rejected"].as_array().unwrap() {
        let key = text(entry, "key").parse().unwrap();
        let reason = match Value::parse(text(entry, "text")) {
            Err(ValueError::UnsupportedFormat(_)) => "unsupported_format",
            Err(_) => "malformed",
            Ok(value) => match keyring.decrypt(&key, &value, &bytes(entry, "associated_data")) {
                Ok(_) => "opened",
                Err(OpenError::NotLoaded(_)) => "unknown_key_version",
                Err(OpenError::WrongKind) => "malformed",
                Err(OpenError::Authentication) => "authentication_failed",
                Err(OpenError::UnknownKey(_)) => "unknown_key",
            },
        };
        assert_eq!(reason, text(entry, "expect"), "{}", text(entry, "why"));
    }
}

#[test]
fn every_data_key_opens_and_never_as_a_value() {
    let vectors = vectors();
    let keyring = keyring(&vectors);
    for entry in vectors["datakeys"].as_array().unwrap() {
        let key = text(entry, "key").parse().unwrap();
        let value = Value::parse(text(entry, "text")).unwrap();
        assert_eq!(*keyring.unwrap_data_key(&key, &value).unwrap(), bytes(entry, "plaintext"));
        assert_eq!(keyring.decrypt(&key, &value, b""), Err(OpenError::WrongKind));
    }
}

#[test]
fn every_row_makes_its_associated_data() {
    for entry in vectors()["rows"].as_array().unwrap() {
        let template: Template = text(entry, "template").parse().unwrap();
        let made = template
            .fill(|column| {
                let value = entry["row"][column].as_str()?;
                Some(if column.ends_with("_int") {
                    ColumnValue::Integer(value.parse().unwrap())
                } else {
                    ColumnValue::Text(value.into())
                })
            })
            .unwrap();
        assert_eq!(hex::encode(made), text(entry, "associated_data"), "{entry}");
    }
}

#[test]
fn the_manifest_is_canonical_and_its_macs_are_right() {
    let vectors = vectors();
    let manifest = &vectors["manifest"];
    let canonical = text(manifest, "canonical_without_macs");
    let json: Json = serde_json::from_str(canonical).unwrap();
    assert_eq!(serde_json_canonicalizer::to_string(&json).unwrap(), canonical);
    for mac in manifest["macs"].as_array().unwrap() {
        let version =
            vectors["versions"].as_array().unwrap().iter().find(|version| number(version) == number(mac)).unwrap();
        assert_eq!(validated(version).manifest_mac_of(canonical.as_bytes()).to_string(), text(mac, "mac"));
    }
}
