//! `keymoot inspect`

use std::{io::Read as _, path::PathBuf};

use age::armor::ArmoredReader;
use anyhow::{Context as _, bail};
use keymoot_server::node::backup::{self, Backup};
use keymoot_types::{
    Share, Value,
    manifest::ManifestDocument,
    part::{PartName, PartsFile},
    value::{BINARY_PREFIX, Form, TEXT_PREFIX},
};
use serde_json::{Value as Json, json};

use crate::{cli::Context, exit::Exit, files, identity, output::printable};

/// The longest of them is a backup.
const BYTES_MAX: u64 = backup::BYTES_MAX;
const SHARE_PREFIX: &str = "kmshare1";

/// Say all that a value, share, parts file, package, manifest or backup tells without a key
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is secret in a share is never shown. Works offline.

Examples:
  echo km:v9:AbC… | keymoot inspect
  keymoot inspect ann.parts")]
pub(crate) struct Args {
    /// File; - is stdin
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Inspects the file.
pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let bytes = files::read(&args.file, BYTES_MAX)?;
    let found = inspect(&bytes)?;
    context.out.result(&found, |found| lines(found, ""))?;
    Ok(Exit::Done)
}

fn inspect(bytes: &[u8]) -> anyhow::Result<Json> {
    if identity::is_age_file(bytes) {
        return package(bytes);
    }
    if bytes.starts_with(BINARY_PREFIX) {
        return value(bytes);
    }
    if backup::is_backup(bytes) {
        return backup(bytes);
    }
    let text = std::str::from_utf8(bytes).context("neither a value nor text")?.trim();
    if text.starts_with(TEXT_PREFIX) {
        return value(text.as_bytes());
    }
    if text.starts_with('{') {
        return manifest(text.as_bytes());
    }
    if text.get(..SHARE_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(SHARE_PREFIX)) {
        return Ok(share(text, None));
    }
    match PartsFile::parse(text) {
        Ok(file) => {
            let parts: Vec<_> = file.lines.iter().map(|(name, text)| share(text, Some(name))).collect();
            Ok(json!({"kind": "parts file", "parts": parts}))
        }
        Err(_) => bail!("this is no value, share, parts file, package, manifest or backup of ours"),
    }
}

fn value(bytes: &[u8]) -> anyhow::Result<Json> {
    let (value, form) = Value::parse_bytes(bytes).context("it begins as a value does")?;
    let form = match form {
        Form::Text => "text",
        Form::Binary => "binary",
    };
    let body = format!("{:#04x} {:?}", value.kind().byte(), value.kind()).to_lowercase();
    Ok(json!({
        "kind": "value", "version": value.version(), "form": form, "body": body,
        "body_bytes": value.body().len(),
    }))
}

/// What a share tells but its `y`. A name in a parts file must agree with it.
fn share(text: &str, name: Option<&str>) -> Json {
    let mut found = match Share::parse(text) {
        Ok(share) => {
            let agrees =
                name.map(|name| name.parse::<PartName>().is_ok_and(|name| name.version == share.version()));
            let digest = keymoot_keyring::key_check::share_digest(&share);
            json!({
                "kind": "share", "version": share.version(), "keyring_id": share.keyring_id(), "x": share.x(),
                "digest": digest, "checksum": "right", "name_agrees": agrees,
            })
        }
        Err(error) => json!({"kind": "share", "error": error.to_string()}),
    };
    if let Some(fields) = found.as_object_mut() {
        match name {
            // A share may stand where a name belongs.
            Some(name) if !name.to_ascii_lowercase().contains(SHARE_PREFIX) => {
                fields.insert("name".into(), name.into());
            }
            _ => drop(fields.remove("name_agrees")),
        }
    }
    found
}

fn package(bytes: &[u8]) -> anyhow::Result<Json> {
    let mut binary = Vec::new();
    ArmoredReader::new(bytes).read_to_end(&mut binary).context("its armor is damaged")?;
    // The header is lines of text up to the one with its mac; each stanza begins with an arrow.
    let header: Vec<_> =
        binary.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"---")).collect();
    let recipients: Vec<_> = header
        .iter()
        .filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("-> "))
        .filter_map(|stanza| stanza.split(' ').next())
        .collect();
    Ok(json!({"kind": "age package", "recipients": recipients, "bytes": binary.len()}))
}

fn manifest(bytes: &[u8]) -> anyhow::Result<Json> {
    let document = ManifestDocument::parse(bytes)?;
    let manifest = document.manifest();
    let versions: Vec<_> = manifest
        .versions
        .iter()
        .map(|record| {
            let set = &record.share_set;
            let holders: Vec<_> = set.holders.iter().map(|holder| holder.name.as_str()).collect();
            json!({
                "version": record.version, "state": record.state, "key_id": record.key_id,
                "public_key": record.public_key, "threshold": set.threshold, "holders": holders,
            })
        })
        .collect();
    let sources: Vec<_> = manifest.declared.sources.iter().map(|source| source.name.as_str()).collect();
    let keys: Vec<_> = manifest.declared.keys.iter().map(|key| key.name.as_str()).collect();
    let macs: Vec<_> = manifest.macs.iter().map(|mac| mac.version).collect();
    Ok(json!({
        "kind": "manifest", "keyring": manifest.keyring, "keyring_id": manifest.keyring_id,
        "revision": manifest.revision, "digest": document.digest(), "previous": manifest.previous,
        "members": manifest.members, "primary": manifest.primary, "keys": keys, "sources": sources,
        "macs_of": macs, "versions": versions,
    }))
}

/// What a backup says of itself, once it is known to be whole.
fn backup(bytes: &[u8]) -> anyhow::Result<Json> {
    let Backup { header, last_good, records } = Backup::parse(bytes).context("it begins as a backup does")?;
    let last_good =
        last_good.map(|bytes| ManifestDocument::parse(&bytes)).transpose().context("its last good manifest")?;
    Ok(json!({
        "kind": "backup", "keyring": header.keyring, "keyring_id": header.keyring_id, "revision": header.revision,
        "digest": header.digest, "made_at": header.made_at, "node": header.node, "records": records.len(),
        "last_good_revision": last_good.map(|document| document.manifest().revision), "whole": true,
    }))
}

/// One field a line; lists of objects as blocks.
fn lines(found: &Json, indent: &str) -> String {
    let Json::Object(fields) = found else { return String::new() };
    let mut text = String::new();
    for (name, field) in fields {
        match field {
            Json::Null => {}
            Json::String(value) => text.push_str(&format!("{indent}{name}: {}\n", printable(value))),
            Json::Array(items) if items.iter().any(Json::is_object) => {
                text.push_str(&format!("{indent}{name}:\n"));
                for item in items {
                    text.push_str(&format!("{indent}  -\n{}", lines(item, &format!("{indent}    "))));
                }
            }
            other => text.push_str(&format!("{indent}{name}: {}\n", printable(&other.to_string()))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use keymoot_types::{KeyVersion, KeyringId};

    use super::*;

    #[test]
    fn a_share_tells_all_but_its_secret() {
        let y = Box::new([0xAB; 32]);
        let made = Share::new(KeyringId::new([7; 8]), KeyVersion::MIN, NonZeroU8::MIN, y);
        let text = made.to_text();
        let file = format!("prod-keyPart-v1: {}\nprod-keyPart-v2: {}\n", &*text, &*text);
        for input in [text.as_str(), &text.to_uppercase(), &file] {
            let found = inspect(input.as_bytes()).unwrap();
            let shown = found.to_string() + &lines(&found, "");
            assert!(shown.contains("0707070707070707"));
            assert!(!shown.contains("abab") && !shown.contains(&text[8..20]), "{shown}");
        }
        let found = inspect(file.as_bytes()).unwrap();
        assert_eq!(found["parts"][0]["name_agrees"], true);
        assert_eq!(found["parts"][1]["name_agrees"], false);
    }

    #[test]
    fn a_value_tells_its_version_and_form() {
        let made = Value::from_parts("9".parse().unwrap(), [&[1][..], &[7; 40]].concat()).unwrap();
        let found = inspect(format!("{}\n", made.to_text()).as_bytes()).unwrap();
        assert_eq!((&found["version"], &found["form"]), (&json!(9), &json!("text")));
        assert_eq!(inspect(&made.to_binary()).unwrap()["form"], "binary");
    }

    #[test]
    fn a_package_tells_how_many_can_open_it() {
        let recipient = age::x25519::Identity::generate().to_public();
        let made = age::encrypt_and_armor(&recipient, b"x").unwrap();
        let found = inspect(made.as_bytes()).unwrap();
        assert_eq!(found["kind"], "age package");
        assert_eq!(found["recipients"][0], "X25519");
    }

    #[test]
    fn what_is_none_of_ours_is_an_error_that_repeats_nothing() {
        let error = inspect(b"kmshareless secret").unwrap_err();
        assert!(!format!("{error:#}").contains("secret"));
    }
}
