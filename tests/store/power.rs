//! Fault 27 of `docs/track-record.md`: the power is cut behind any call that touched a stored file. Of what was not synced by
//! then nothing is left, or all, or some sectors and names of it.

use std::{collections::BTreeMap, fs, path::Path};

use keymoot_types::audit::Verifier;
use serde_json::Value as Json;

use crate::{
    at_once,
    harness::power_cut::{Image, Kept, Recording},
    story::{Acked, Story},
    traced, whole_sweep,
};

/// What SQLite keeps in memory that it shares, and what others write.
fn ignored(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("-shm") || ["strace", "log", "keymoot.toml", "lock"].contains(&name.as_ref())
}

/// The files of a world whose daemon is stopped, as they are below its directory.
fn stored(root: &Path) -> Image {
    let mut image = Image::new();
    for dir in [root.to_owned(), root.join("data")] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_file() && !ignored(&path) {
                image.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    image
}

/// A part of a story that was written down call by call.
struct Recorded {
    recording: Recording,
    marks: Vec<(u64, Acked)>,
    root: std::path::PathBuf,
}

impl Recorded {
    fn of(story: &mut Story, part: impl FnOnce(&mut Story)) -> Self {
        let root = story.world.dir.path().to_owned();
        let before = stored(&root);
        story.marks = vec![(0, story.acked.clone())];
        story.world.start_as(traced::recorded(&story.world));
        part(story);
        traced::kill(&mut story.world);
        let recording = Recording::read(&story.world.path("strace"), &root, before, ignored);
        Self { recording, marks: std::mem::take(&mut story.marks), root }
    }

    /// What was acknowledged before the call behind the cut returned.
    fn acked(&self, cut: usize) -> &Acked {
        let until = if cut + 1 < self.recording.cuts() { self.recording.log_at(cut + 1) } else { u64::MAX };
        &self.marks.iter().rev().find(|(at, _)| *at < until).unwrap().1
    }

    /// Puts what a cut left into an empty place.
    fn put(&self, cut: usize, kept: Kept, into: &Path) {
        for (path, bytes) in self.recording.image(cut, kept) {
            let path = into.join(path.strip_prefix(&self.root).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// The files alone: SQLite finds no fault with the store, the newest manifest in it says what was acknowledged, and the
    /// log is one chain up to where it was torn.
    fn check_files(&self, cut: usize, kept: Kept) {
        let dir = tempfile::tempdir_in(self.root.parent().unwrap()).unwrap();
        self.put(cut, kept, dir.path());
        let acked = self.acked(cut);
        let said = format!("cut {cut} of {}, {kept:?}", self.recording.cuts());
        let versions = versions(&dir.path().join("data/meta.db"), &said);
        for (version, state) in &acked.versions {
            let found =
                versions.get(version).unwrap_or_else(|| panic!("{said}: v{version} is gone: {versions:?}"));
            assert!(found == state || acked.doing.is_some(), "{said}: v{version} was {state}: {versions:?}");
        }
        let log = fs::read(dir.path().join("data/audit.jsonl")).unwrap_or_default();
        let mut verifier = Verifier::starting_at(1);
        let good = log
            .split_inclusive(|byte| *byte == b'\n')
            .take_while(|line| line.starts_with(b"{") && line.ends_with(b"}\n"));
        let good: Vec<u8> = good.flatten().copied().collect();
        let intents = String::from_utf8_lossy(&good).matches("\"intent\"").count();
        assert!(intents >= acked.versions.len(), "{said}: {intents} intents");
        if kept == Kept::Nothing && !good.is_empty() {
            verifier.feed(&good, &mut |_| Ok(()));
            assert!(verifier.finish().is_whole(), "{said}: {} good bytes of {}", good.len(), log.len());
        }
    }

    /// The daemon itself starts on what a cut left, and is held to what it acknowledged.
    fn check_daemon(&self, cut: usize, kept: Kept) {
        let mut story = Story::new();
        self.put(cut, kept, story.world.dir.path());
        story.acked = self.acked(cut).clone();
        story.world.shares = story.acked.shares.clone();
        story.world.start();
        story.check();
        story.go_on(0).unwrap();
    }
}

/// The versions of the newest manifest in a store.
fn versions(store: &Path, said: &str) -> BTreeMap<u32, String> {
    if fs::metadata(store).map_or(0, |facts| facts.len()) == 0 {
        return BTreeMap::new();
    }
    let store = rusqlite::Connection::open(store).unwrap();
    let verdict: String = store
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{said}: {error}"));
    assert_eq!(verdict, "ok", "{said}");
    let tables: i64 = store.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    if tables == 0 {
        return BTreeMap::new();
    }
    let newest = "SELECT value FROM records WHERE key LIKE 'manifest/%' ORDER BY key DESC LIMIT 1";
    let newest: Option<Vec<u8>> = store.query_row(newest, [], |row| row.get(0)).ok();
    let manifest: Json = newest.map_or(Json::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    let state = |version: &Json| {
        (
            u32::try_from(version["version"].as_u64().unwrap()).unwrap(),
            version["state"].as_str().unwrap().to_owned(),
        )
    };
    manifest["versions"].as_array().into_iter().flatten().map(state).collect()
}

#[test]
fn fault_27_whatever_a_power_cut_leaves_of_unsynced_bytes_and_names_what_was_acknowledged_is_there() {
    let mut story = Story::new();
    let made = Recorded::of(&mut story, |story| story.made_and_unlocked().unwrap());
    story.world.start();
    story.go_on(0).unwrap();
    story.world.kill();
    let rotated = Recorded::of(&mut story, |story| story.go_on(1).unwrap());
    let (mut images, mut started) = (Vec::new(), Vec::new());
    let seeds: u64 = if whole_sweep() { 20 } else { 2 };
    for recorded in [&made, &rotated] {
        let cuts = recorded.recording.cuts();
        for cut in 0..cuts {
            let kept = [Kept::Nothing, Kept::Everything].into_iter().chain((0..seeds).map(Kept::Some));
            images.extend(kept.map(|kept| (recorded, cut, kept)));
        }
        let step = if whole_sweep() { 1 } else { cuts / 12 };
        started.extend(
            (0..cuts)
                .step_by(step)
                .chain([cuts - 1])
                .flat_map(|cut| [Kept::Nothing, Kept::Some(cut as u64)].map(|kept| (recorded, cut, kept))),
        );
    }
    let counts = (images.len(), started.len());
    at_once(images, |(recorded, cut, kept)| recorded.check_files(cut, kept));
    at_once(started, |(recorded, cut, kept)| recorded.check_daemon(cut, kept));
    println!(
        "{} calls; {} images of their files were looked at, and a daemon started on {}",
        made.recording.cuts() + rotated.recording.cuts(),
        counts.0,
        counts.1
    );
}
