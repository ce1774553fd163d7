//! The seeds of every fuzz target, and what one small change makes of them, held against the same properties as
//! libFuzzer holds, with a stable compiler and on every commit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod properties;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use keymoot_api::data::{DecryptRequest, OneOrMany};
use keymoot_server::config::Config;
use keymoot_types::{
    Share, Value, associated_data::Template, audit::Line, manifest::ManifestDocument, part::PartsFile,
};

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 8] = [
    ("audit_line", properties::audit_line),
    ("value", properties::value),
    ("share", properties::share),
    ("parts_file", properties::parts_file),
    ("request_body", properties::request_body),
    ("configuration", properties::configuration),
    ("manifest", properties::manifest),
    ("template", properties::template),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz")
}

/// Name and content of each seed of a target.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// The bytes of an input go to the message: what is in these files is no secret.
fn hold(target: &str, seed: &str, property: Property, data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| property(data))).is_err() {
        panic!("{target}, from {seed}: {:?}", String::from_utf8_lossy(data));
    }
}

fn seeds_hold(target: &str) {
    let property = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let seeds = seeds(target);
    assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
    for (name, seed) in seeds {
        hold(target, &name, property, &seed);
        // Every place of short seeds, some of long ones; a prime, so that all eight bits have their turn.
        let step = 1 + seed.len() / 97;
        for at in (0..seed.len()).step_by(step) {
            hold(target, &name, property, &seed[..at]);
            let mut changed = seed.clone();
            changed[at] ^= 1 << (at % 8);
            hold(target, &name, property, &changed);
            changed.remove(at);
            hold(target, &name, property, &changed);
        }
    }
}

#[test]
fn every_seed_of_an_audit_line_holds() {
    seeds_hold("audit_line");
}

#[test]
fn every_seed_of_a_value_holds() {
    seeds_hold("value");
}

#[test]
fn every_seed_of_a_share_holds() {
    seeds_hold("share");
}

#[test]
fn every_seed_of_a_parts_file_holds() {
    seeds_hold("parts_file");
}

#[test]
fn every_seed_of_a_request_body_holds() {
    seeds_hold("request_body");
}

#[test]
fn every_seed_of_a_configuration_holds() {
    seeds_hold("configuration");
}

#[test]
fn every_seed_of_a_manifest_holds() {
    seeds_hold("manifest");
}

#[test]
fn every_seed_of_a_template_holds() {
    seeds_hold("template");
}

/// So that no target is built and never replayed, or the reverse.
#[test]
fn every_fuzz_target_has_a_property_a_program_and_seeds() {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let built: BTreeSet<&str> =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    let replayed: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(built, replayed);
    let seeded: BTreeSet<String> = fs::read_dir(folder().join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    assert!(seeded.iter().map(String::as_str).eq(replayed.iter().copied()), "{seeded:?}");
}

/// Whether at least two seeds of a target are `good`: the others may stop at the door.
fn some_are(target: &str, good: impl Fn(&[u8]) -> bool) {
    let number = seeds(target).iter().filter(|(_, seed)| good(seed)).count();
    assert!(number >= 2, "only {number} seeds of {target} are good");
}

#[test]
fn the_seeds_are_not_all_refused_at_the_door() {
    let text = |data: &[u8]| std::str::from_utf8(data).unwrap_or_default().to_owned();
    some_are("audit_line", |data| data.strip_suffix(b"\n").is_some_and(|line| Line::parse(line).is_ok()));
    some_are("value", |data| Value::parse_bytes(data).is_ok());
    some_are("share", |data| Share::parse(&text(data)).is_ok());
    some_are("share", |data| Share::from_payload(data).is_ok());
    some_are("parts_file", |data| PartsFile::parse(&text(data)).is_ok());
    some_are("request_body", |data| OneOrMany::<DecryptRequest>::parse(data).is_ok());
    some_are("manifest", |data| ManifestDocument::parse(data).is_ok());
    some_are("template", |data| text(data).split('\0').next().unwrap().parse::<Template>().is_ok());
    some_are("configuration", |data| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), data).unwrap();
        Config::load(file.path()).is_ok()
    });
}
