//! Maintenance windows: who gets keys, and for how long.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect ends there")]

use std::time::Duration;

use keymoot_keyring::stage;
use keymoot_quorum::{
    revise,
    window::{NotGiven, WINDOW_MAX, Watch, may_receive},
};
use keymoot_types::{
    Digest, KeyVersion, Manifest,
    manifest::ManifestDocument,
    window::{Peer, Window},
};

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn window() -> Window {
    let peer = |n: u8| Peer {
        node: format!("db{n}").parse().unwrap(),
        address: Some(format!("db{n}:8201")),
        fingerprint: Digest::new([n; 32]),
    };
    let members = ["db1", "db2", "db4"].map(|name| name.parse().unwrap()).to_vec();
    Window { id: "r1".into(), members, for_s: 3600, peers: (1..=4).map(peer).collect() }
}

fn manifest() -> Manifest {
    let id = stage::new_keyring_id().unwrap();
    let holders = ["ann", "bob"].map(|name| (name.parse().unwrap(), None));
    let staged = stage::stage(id, KeyVersion::MIN, 2, &holders).unwrap();
    let members = ["db1", "db2", "db3"].map(|name| name.parse().unwrap()).to_vec();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut manifest = revise::first("prod".parse().unwrap(), id, members, &staged, now);
    manifest.window = Some(window());
    manifest
}

#[test]
fn a_window_ends_by_itself_and_is_not_open_where_its_beginning_is_unknown() {
    let (mut watch, window) = (Watch::default(), window());
    assert_eq!(watch.left(&window, second(0)), Err(NotGiven::Unknown));
    watch.granted(&window, second(100));
    assert_eq!(watch.left(&window, second(100)), Ok(second(3600)));
    assert_eq!(watch.left(&window, second(3699)), Ok(second(1)));
    assert_eq!(watch.left(&window, second(3700)), Err(NotGiven::Over));

    // A node that finds it in the manifest gives nothing, and still knows when it must be over.
    let mut late = Watch::default();
    late.seen(&window, second(10));
    assert_eq!(late.left(&window, second(20)), Err(NotGiven::Unknown));
    assert_eq!(late.spent(&window, second(20)), None, "a guess is told to nobody");
    assert_eq!(late.left(&window, second(3610)), Err(NotGiven::Over));
}

#[test]
fn of_what_members_know_the_longest_counts_and_another_window_has_a_time_of_its_own() {
    let (mut watch, window) = (Watch::default(), window());
    watch.seen(&window, second(0));
    watch.heard(&window, second(600), second(10));
    assert_eq!(watch.left(&window, second(10)), Ok(second(3000)));
    // Somebody who counts too little lengthens nothing.
    watch.heard(&window, second(5), second(20));
    watch.seen(&window, second(30));
    assert_eq!(watch.left(&window, second(30)), Ok(second(2980)));
    assert_eq!(watch.spent(&window, second(30)).unwrap().spent_ms, 620_000);
    let next = Window { id: "r2".into(), ..window.clone() };
    assert_eq!(watch.left(&next, second(30)), Err(NotGiven::Unknown));
    watch.granted(&next, second(40));
    assert_eq!(watch.left(&next, second(40)), Ok(second(3600)));
}

#[test]
fn an_operator_ends_a_window_at_once_and_the_others_hear_of_it() {
    let (mut here, mut there, window) = (Watch::default(), Watch::default(), window());
    here.granted(&window, second(0));
    there.heard(&window, second(0), second(0));
    here.end(&window, second(7));
    assert_eq!(here.left(&window, second(7)), Err(NotGiven::Over));
    let told = here.spent(&window, second(8)).unwrap();
    there.heard(&window, Duration::from_millis(told.spent_ms), second(9));
    assert_eq!(there.left(&window, second(9)), Err(NotGiven::Over));
}

#[test]
fn a_manifest_that_grants_more_than_some_hours_is_held_to_them() {
    let mut window = window();
    window.for_s = u64::MAX;
    let mut watch = Watch::default();
    watch.granted(&window, second(0));
    assert_eq!(watch.left(&window, second(0)), Ok(WINDOW_MAX));
    assert_eq!(watch.left(&window, WINDOW_MAX), Err(NotGiven::Over));
}

#[test]
fn keys_are_for_members_that_the_holders_named_by_the_certificate_that_was_recorded() {
    let mut manifest = manifest();
    let mut watch = Watch::default();
    let of = |n: u8| Digest::new([n; 32]);
    let asks = |manifest: &Manifest, watch: &Watch, n| {
        may_receive(manifest, watch, second(1), &of(n)).map(|(node, _)| node.to_string())
    };
    assert_eq!(asks(&manifest, &watch, 1), Err(NotGiven::Unknown));
    watch.granted(&window(), second(0));
    assert_eq!(asks(&manifest, &watch, 1).unwrap(), "db1");
    assert_eq!(asks(&manifest, &watch, 2).unwrap(), "db2");
    assert_eq!(asks(&manifest, &watch, 3), Err(NotGiven::NotNamed), "known, and not named");
    assert_eq!(asks(&manifest, &watch, 4), Err(NotGiven::NotNamed), "named, and a member no longer");
    assert_eq!(asks(&manifest, &watch, 9), Err(NotGiven::NotNamed), "nobody's");
    manifest.window = None;
    assert_eq!(asks(&manifest, &watch, 1), Err(NotGiven::NoWindow));
}

#[test]
fn a_window_is_under_the_macs_of_the_manifest_and_an_older_build_keeps_it() {
    let with = ManifestDocument::from_manifest(manifest()).unwrap();
    let mut without = with.manifest().clone();
    without.window = None;
    let without = ManifestDocument::from_manifest(without).unwrap();
    assert_ne!(with.canonical_without_macs(), without.canonical_without_macs());
    assert!(!String::from_utf8_lossy(without.canonical()).contains("window"));
    let again = ManifestDocument::parse(with.canonical()).unwrap();
    assert_eq!(again.manifest().window, Some(window()));
}
