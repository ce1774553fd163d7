//! What must hold for any bytes whatever. A function for each fuzz target; it returns, or panics with the property
//! that was broken. libFuzzer (`targets/`) and the plain test (`replay.rs`) call the same functions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken property is told by a panic"
)]

use std::{
    collections::BTreeSet,
    fmt::Debug,
    io::Write as _,
    path::Path,
    sync::{Arc, OnceLock},
};

use keymoot_api::{
    Problem, body,
    census::CensusRequest,
    data::{DataKeyDecryptRequest, DataKeyRequest, DecryptRequest, EncryptRequest, OneOrMany, RewrapRequest},
    init::InitRequest,
    rekey::{LimitsRequest, PauseRequest, RekeyRequest},
    rotate::{ConsentRequest, RetireRequest, StageRequest, WindowRequest},
    unlock::{DegradedRequest, PartsRequest},
};
use keymoot_keyring::{Keyring, key_check::share_digest, shamir};
use keymoot_server::config::Config;
use keymoot_types::{
    KeyName, KeyVersion, Share, Value,
    associated_data::{ColumnValue, Template},
    audit::{Line, Verifier},
    manifest::{Holder, Manifest, ManifestDocument, ShareSet},
    part::{PartName, PartsFile},
    value::{Class, Form},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

/// A value: one spelling in each form, and no bytes open but those that were sealed.
pub fn value(data: &[u8]) {
    let class = Class::of(Some(data));
    let Ok((value, form)) = Value::parse_bytes(data) else {
        assert!(!matches!(class, Class::Version(_)), "{class:?}");
        return;
    };
    assert_eq!(class, Class::Version(value.version()));
    assert_eq!(value.to_bytes(form), data, "a value has one spelling in each form");
    for form in [Form::Text, Form::Binary] {
        assert_eq!(Value::parse_bytes(&value.to_bytes(form)), Ok((value.clone(), form)));
    }
    for (key, keyring) in keyring().0.iter().map(|key| (key, &keyring().1)) {
        let Ok(rekeyed) = keyring.rekey(key, &value, b"") else {
            assert!(keyring.check(key, &value, b"").is_err(), "what opens can be rekeyed");
            continue;
        };
        assert!(sealed().contains(&value.to_text()), "a value opened that nobody sealed");
        assert_eq!((Some(rekeyed.version()), rekeyed.kind()), (keyring.primary(), value.kind()));
        keyring.check(key, &rekeyed, b"").unwrap();
    }
}

/// A share: its text and its payload say the same, and no character of the text may change.
pub fn share(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(share) = Share::parse(text)
    {
        assert!(share.to_text().eq_ignore_ascii_case(text), "a share has one spelling but for its case");
    }
    let Ok(share) = Share::from_payload(data) else { return };
    let text = share.to_text();
    let again = Share::parse(&text).unwrap();
    assert_eq!(
        (again.keyring_id(), again.version(), again.x(), again.y()),
        (share.keyring_id(), share.version(), share.x(), share.y())
    );
    // One place, and one other character there, chosen by the data.
    let chosen: usize = data.iter().map(|byte| usize::from(*byte)).sum();
    let mut changed = text.as_bytes().to_vec();
    let place = chosen % changed.len();
    changed[place] = if changed[place] == b'q' { b'p' } else { b'q' };
    assert!(Share::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "a changed character was not noticed");
}

/// A parts file: what was read can be written and read again, in the same order.
pub fn parts_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<PartName>() {
        assert_eq!(name.to_string(), text, "a part's name has one spelling");
    }
    let file = match PartsFile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            let said = error.to_string().to_ascii_lowercase();
            return assert!(
                !said.replace("kmshare1…", "").contains("kmshare1"),
                "a message repeats a share: {said}"
            );
        }
    };
    let names: BTreeSet<&str> = file.lines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), file.lines.len(), "a name stands there twice");
    let written: String = file.lines.iter().map(|(name, share)| format!("{name}: {}\n", share.as_str())).collect();
    assert!(PartsFile::parse(&written).unwrap().lines == file.lines, "what was written reads differently");
}

/// A body, read as every request that there is: what was read can be written and read again, and no message repeats
/// a secret.
pub fn request_body(data: &[u8]) {
    fn comes_back<T: Serialize + PartialEq + Debug>(data: &[u8], parse: impl Fn(&[u8]) -> Result<T, Problem>) {
        match parse(data) {
            Ok(read) => {
                let written = serde_json::to_vec(&read).unwrap();
                assert_eq!(parse(&written).unwrap(), read, "{}", String::from_utf8_lossy(&written));
            }
            Err(problem) => {
                let said = problem.detail.to_ascii_lowercase();
                for secret in ["kmshare1", "km_", "age-secret-key-"] {
                    assert!(!said.contains(secret), "a message repeats a secret: {said}");
                }
            }
        }
    }
    fn plain<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
        comes_back::<T>(data, body::parse);
    }
    comes_back(data, OneOrMany::<EncryptRequest>::parse);
    comes_back(data, OneOrMany::<DecryptRequest>::parse);
    comes_back(data, OneOrMany::<RewrapRequest>::parse);
    plain::<DataKeyRequest>(data);
    plain::<DataKeyDecryptRequest>(data);
    plain::<InitRequest>(data);
    plain::<PartsRequest>(data);
    plain::<DegradedRequest>(data);
    plain::<ConsentRequest>(data);
    plain::<StageRequest>(data);
    plain::<RetireRequest>(data);
    plain::<WindowRequest>(data);
    plain::<CensusRequest>(data);
    plain::<RekeyRequest>(data);
    plain::<PauseRequest>(data);
    plain::<LimitsRequest>(data);
}

/// A configuration: it is read the same way twice, and a refused one has a mistake on one of its lines.
pub fn configuration(data: &[u8]) {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let mut file = tempfile::NamedTempFile::new_in(place).unwrap();
    file.write_all(data).unwrap();
    let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
    match (Config::load(file.path()), Config::load(file.path())) {
        (Ok(first), Ok(second)) => {
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
            for source in first.source_specs() {
                assert!(
                    first.keys.iter().any(|key| key.name == source.key),
                    "a source of a key that is not declared"
                );
            }
        }
        (Err(first), Err(second)) => {
            assert_eq!(first, second);
            assert!(!first.is_ok() && !first.findings.is_empty());
            let wrong =
                first.findings.iter().filter_map(|finding| finding.line).find(|line| !(1..=lines).contains(line));
            assert_eq!(wrong, None, "a finding on a line that the file does not have");
        }
        (first, second) => panic!("read twice, and differently: {} {}", first.is_ok(), second.is_ok()),
    }
}

/// A manifest: its canonical form is its own, and says the same.
pub fn manifest(data: &[u8]) {
    let Ok(document) = ManifestDocument::parse(data) else { return };
    let again = ManifestDocument::parse(document.canonical()).unwrap();
    assert_eq!(again.canonical(), document.canonical(), "the canonical form of a canonical form");
    assert_eq!(again.canonical_without_macs(), document.canonical_without_macs());
    assert_eq!(known(&again), known(&document), "what is signed is not what was read");
    let made = ManifestDocument::from_manifest(document.manifest().clone()).unwrap();
    assert_eq!(known(&ManifestDocument::parse(made.canonical()).unwrap()), known(&document));
}

/// The fields that this build knows. Of the others only the canonical form counts, in which 2.0 is 2.
fn known(document: &ManifestDocument) -> Manifest {
    let mut manifest = document.manifest().clone();
    manifest.unknown.clear();
    for record in &mut manifest.versions {
        record.unknown.clear();
    }
    manifest
}

/// A log: cut anywhere it is the same log, its good lines follow one another, and none has a second spelling.
pub fn audit_line(data: &[u8]) {
    let first = data.split(|byte| *byte == b'\n').next().and_then(|line| Line::parse(line).ok());
    let from = first.map_or(1, |line| line.seq());
    let report = |size: usize| {
        let (mut verifier, mut good) = (Verifier::starting_at(from), Vec::new());
        for piece in data.chunks(size) {
            let goes_on = verifier.feed(piece, &mut |line| {
                good.push(line.digest());
                Ok(())
            });
            if !goes_on {
                break;
            }
        }
        (verifier.finish(), good)
    };
    let (whole, good) = report(data.len().max(1));
    for size in [1, 7] {
        assert_eq!(report(size), (whole.clone(), good.clone()), "read in pieces of {size}");
    }
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    assert_eq!(usize::try_from(whole.lines).unwrap(), good.len());
    for (line, digest) in lines.iter().zip(&good) {
        assert_eq!(Line::parse(line).unwrap().digest(), *digest);
        // In a line that is good every byte counts; which ones are tried is the line's own to say.
        for at in digest.as_bytes().iter().map(|byte| usize::from(*byte) * line.len() / 256) {
            let mut changed = line.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert!(Line::parse(&changed).is_err(), "a second spelling, at {at}");
        }
    }
    let ended = usize::from(whole.first_bad.is_some());
    assert!(
        whole.first_bad.is_some() || whole.torn_tail.is_some() == lines.last().is_some_and(|end| !end.is_empty())
    );
    assert!(good.len() + ended <= lines.len(), "more lines than there are");
}

/// A template and, behind zero bytes, what stands in the columns of two rows: no two rows make the same text.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut pieces = text.split('\0');
    let Ok(template) = pieces.next().unwrap_or_default().parse::<Template>() else { return };
    let columns = template.columns();
    let distinct: BTreeSet<&str> = columns.iter().copied().collect();
    assert_eq!(distinct.len(), columns.len(), "a column is named twice");
    let cells: Vec<&str> = pieces.collect();
    let cell = |row: usize, column: &str| {
        let at = columns.iter().position(|name| *name == column).unwrap();
        cells.get(row * columns.len() + at).copied().unwrap_or_default().to_owned()
    };
    let fill = |row: usize| template.fill(|column| Some(ColumnValue::Text(cell(row, column)))).unwrap();
    if columns.iter().any(|column| cell(0, column) != cell(1, column)) {
        assert_ne!(fill(0), fill(1), "two rows make the same associated data");
    } else {
        assert_eq!(fill(0), fill(1));
    }
    if let Some(first) = columns.first() {
        let null = template
            .fill(|column| Some(if column == *first { ColumnValue::Null } else { ColumnValue::Integer(1) }));
        assert!(null.is_err(), "NULL binds to nothing");
    }
}

fn vectors() -> &'static Json {
    static VECTORS: OnceLock<Json> = OnceLock::new();
    VECTORS.get_or_init(|| serde_json::from_str(include_str!("../vectors/keymoot-v1.json")).unwrap())
}

/// Every value of the vectors: nothing else was sealed under their keys.
fn sealed() -> &'static BTreeSet<String> {
    static SEALED: OnceLock<BTreeSet<String>> = OnceLock::new();
    SEALED.get_or_init(|| {
        let entries = ["values", "datakeys"].into_iter().flat_map(|list| vectors()[list].as_array().unwrap());
        entries.map(|entry| entry["text"].as_str().unwrap().to_owned()).collect()
    })
}

/// The keyring of the vectors, rebuilt from its shares, and the names of its keys.
fn keyring() -> &'static (Vec<KeyName>, Keyring) {
    static KEYRING: OnceLock<(Vec<KeyName>, Keyring)> = OnceLock::new();
    KEYRING.get_or_init(|| {
        let entries = ["values", "datakeys"].into_iter().flat_map(|list| vectors()[list].as_array().unwrap());
        let keys: BTreeSet<KeyName> =
            entries.map(|entry| entry["key"].as_str().unwrap().parse().unwrap()).collect();
        let keys: Vec<KeyName> = keys.into_iter().collect();
        let versions = vectors()["versions"].as_array().unwrap().iter().map(|entry| {
            let shares = entry["shares"].as_array().unwrap().iter();
            let shares: Vec<Share> =
                shares.map(|share| Share::parse(share["text"].as_str().unwrap()).unwrap()).collect();
            let holders = shares.iter().map(|share| Holder {
                name: format!("holder-{}", share.x()).parse().unwrap(),
                x: share.x(),
                digest: share_digest(share),
                recipient: None,
            });
            let threshold = u8::try_from(entry["threshold"].as_u64().unwrap()).unwrap();
            let key_check = entry["key_check"].as_str().unwrap().parse().unwrap();
            let set = ShareSet {
                set: 1,
                threshold,
                key_check,
                holders: holders.collect(),
                replaced: vec![],
                pending: None,
            };
            let rebuilt = shamir::rebuild(threshold, &shares.iter().collect::<Vec<_>>()).unwrap();
            Arc::new(rebuilt.validate(entry["key_id"].as_str().unwrap().parse().unwrap(), &set).unwrap())
        });
        let keyring = Keyring::new(versions, KeyVersion::new(10).ok(), &keys);
        assert!(keyring.primary().is_some());
        (keys, keyring)
    })
}
