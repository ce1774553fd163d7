//! The metadata store in a SQLite file.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its assertions do")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use keymoot_storage::{
    conformance,
    metadata::{Existing, Metadata, MetadataError, Record},
    open_existing_metadata, open_metadata,
    sqlite::SqliteMetadata,
};
use rusqlite::Connection;

fn unavailable(answer: Result<Option<Record>, MetadataError>) -> String {
    match answer {
        Err(MetadataError::Unavailable(reason)) => reason,
        other => unreachable!("{other:?}"),
    }
}

fn damaged(answer: Result<Option<Record>, MetadataError>) -> String {
    match answer {
        Err(MetadataError::Damaged(reason)) => reason,
        other => unreachable!("{other:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_metadata_store_in_sqlite_keeps_the_promises() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/meta.db", directory.path().display());
    conformance::metadata(&*open_metadata(&url).unwrap()).await;
}

#[tokio::test]
async fn records_and_stamps_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let store = SqliteMetadata::open(&path);
    let kept = store.put("a", b"1").await.unwrap();
    let removed = store.put("b", b"1").await.unwrap();
    store.remove("b", removed).await.unwrap();
    drop(store);
    let store = SqliteMetadata::open(&path);
    assert_eq!(store.get("a").await.unwrap().unwrap().stamp, kept);
    assert!(store.swap("b", None, b"2").await.unwrap().0 > removed.0);
}

#[tokio::test]
async fn two_connections_never_both_win_a_swap() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let (one, two) = (SqliteMetadata::open(&path), SqliteMetadata::open(&path));
    let mut wins = 0;
    for _ in 0..50 {
        let expected = one.get("n").await.unwrap().map(|record| record.stamp);
        let (a, b) = tokio::join!(one.swap("n", expected, b"a"), two.swap("n", expected, b"b"));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        wins += 1;
    }
    assert_eq!(wins, 50);
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let store = SqliteMetadata::open(&path);
    store.put("a", b"1").await.unwrap();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        assert_eq!(mode(&directory.path().join(name)), 0o600, "{name}");
    }
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    SqliteMetadata::open(&path).get("a").await.unwrap().unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_missing_directory_is_unavailable_by_name_until_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("not-yet");
    let store = SqliteMetadata::open(inside.join("meta.db"));
    let reason = unavailable(store.get("a").await);
    assert!(reason.contains("not-yet does not exist; make it"), "{reason}");
    fs::create_dir(&inside).unwrap();
    assert_eq!(store.get("a").await, Ok(None));
}

#[tokio::test]
async fn a_file_deleted_under_the_store_is_never_made_again_and_serves_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join("meta.db"), directory.path().join("away.db"));
    let store = SqliteMetadata::open(&path);
    store.put("a", b"1").await.unwrap();
    // A whole copy, as a backup makes it.
    Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [away.to_str().unwrap()]).unwrap();
    let newest = store.put("a", b"2").await.unwrap();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    for _ in 0..2 {
        let reason = unavailable(store.get("a").await);
        assert!(reason.contains("deleted or moved away"), "{reason}");
        assert!(store.put("a", b"3").await.is_err());
        assert!(!path.exists());
    }
    fs::rename(&away, &path).unwrap();
    let restored = store.get("a").await.unwrap().unwrap();
    assert_eq!(restored.value, b"1");
    // The backup's counter is behind: no stamp from before may come again.
    assert!(store.swap("a", Some(restored.stamp), b"4").await.unwrap().0 > newest.0);
}

#[tokio::test]
async fn a_file_emptied_under_the_store_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (path, empty) = (directory.path().join("meta.db"), directory.path().join("empty.db"));
    let store = SqliteMetadata::open(&path);
    store.put("a", b"1").await.unwrap();
    fs::write(&empty, b"").unwrap();
    for name in ["meta.db-wal", "meta.db-shm"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    fs::rename(&empty, &path).unwrap();
    let reason = damaged(store.get("a").await);
    assert!(reason.contains("was emptied"), "{reason}");
}

#[tokio::test]
async fn a_newer_format_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    SqliteMetadata::open(&path).put("a", b"1").await.unwrap();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let before = fs::read(&path).unwrap();
    let reason = damaged(SqliteMetadata::open(&path).get("a").await);
    assert!(reason.contains("format 2") && reason.contains("knows 1 to 1"), "{reason}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn another_programs_file_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY)").unwrap();
    let before = fs::read(&path).unwrap();
    let reason = damaged(SqliteMetadata::open(&path).get("a").await);
    assert!(reason.contains("another program"), "{reason}");
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::write(&path, b"no database at all, but long enough to be taken for the header of one".repeat(20)).unwrap();
    damaged(SqliteMetadata::open(&path).get("a").await);
}

#[tokio::test]
async fn fault_29_a_flipped_bit_in_any_page_is_an_error_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let store = SqliteMetadata::open(&path);
    for n in 0..300 {
        store.put(&format!("record/{n:04}"), &[b'x'; 40]).await.unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let flipped = directory.path().join("flipped.db");
    let (mut detected, mut harmless) = (0, 0);
    for page in 0..whole.len() / 4096 {
        for offset in [0, 1, 4, 9] {
            let mut bytes = whole.clone();
            bytes[page * 4096 + offset] ^= 0x10;
            fs::write(&flipped, &bytes).unwrap();
            match SqliteMetadata::open(&flipped).list("record/").await {
                Ok(records) => {
                    assert_eq!(records.len(), 300, "page {page}, byte {offset}: rows are missing in silence");
                    harmless += 1;
                }
                Err(_) => detected += 1,
            }
            for name in ["flipped.db-wal", "flipped.db-shm"] {
                let _ = fs::remove_file(directory.path().join(name));
            }
        }
    }
    assert!(detected > harmless, "{detected} detected, {harmless} harmless");
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_is_unavailable_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let store = SqliteMetadata::open(&path);
    let stamp = store.put("a", b"1").await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = store.swap("a", Some(stamp), b"2").await;
    assert!(matches!(&answer, Err(MetadataError::Unavailable(reason)) if reason.contains("lock")), "{answer:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().stamp, stamp);
    store.swap("a", Some(stamp), b"2").await.unwrap();
}

#[tokio::test]
async fn a_list_over_another_connection_is_of_one_moment_while_the_store_is_filled_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let (one, two) = (SqliteMetadata::open(&path), SqliteMetadata::open(&path));
    let all = |value: u8| (0..500).map(|n| (format!("moment/{n:03}"), vec![value; 100])).collect::<Vec<_>>();
    one.fill(all(0), Existing::Refuse).await.unwrap();
    let filling = tokio::spawn(async move {
        for value in 1..30 {
            one.fill(all(value), Existing::Replace).await.unwrap();
        }
    });
    while !filling.is_finished() {
        let listed = two.list("").await.unwrap();
        assert_eq!(listed.len(), 500);
        assert!(listed.iter().all(|record| record.value == listed[0].value));
    }
    filling.await.unwrap();
}

#[tokio::test]
async fn a_store_that_must_exist_is_never_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let url = format!("sqlite://{}", path.display());
    let reason = unavailable(open_existing_metadata(&url).unwrap().get("a").await);
    assert!(reason.contains("meta.db") && !path.exists(), "{reason}");
    open_metadata(&url).unwrap().put("a", b"1").await.unwrap();
    assert!(open_existing_metadata(&url).unwrap().get("a").await.unwrap().is_some());
}
