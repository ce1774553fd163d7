//! The metadata store and sources on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as its assertions do"
)]
#![allow(missing_docs, reason = "shared with the daemon's tests")]

#[path = "../../../../tests/harness/authority.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod authority;
#[path = "../../../../tests/harness/databases.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod databases;
mod etcd;
mod galera;
mod galera_census;
mod mariadb;
mod mariadb_census;
mod mariadb_odd;
mod mariadb_source;
mod mariadb_source_faults;
mod mariadb_source_preflight;
mod mariadb_source_traps;
#[path = "../../../../tests/harness/network.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod network;
#[path = "../../../../tests/harness/galera.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod nodes;
mod odd;
mod postgres;
mod postgres_census;
mod postgres_odd;
mod postgres_source;
mod postgres_source_faults;
mod postgres_source_preflight;
mod postgres_source_traps;
#[path = "../../../../tests/harness/proxy.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod proxy;
#[path = "../../../../tests/harness/replicas.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod replicas;
#[path = "../../../../tests/harness/servers.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod servers;
mod source_replicas;
mod source_tls;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keymoot_storage::metadata::{Metadata, MetadataError, Stamp};

/// Longer than anything here takes; only a hang gets near it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far more than a store that is away takes to be known as such, and far less than the network would wait.
const QUICK: Duration = Duration::from_secs(60);

fn is_unavailable<T>(answer: &Result<T, MetadataError>) -> bool {
    matches!(answer, Err(MetadataError::Unavailable(_)))
}

/// A store that is away says so soon, and says nothing of the password.
async fn assert_away(store: &dyn Metadata) -> String {
    let asked = Instant::now();
    let answer = store.get("a").await;
    assert!(asked.elapsed() < QUICK, "it took {:?}", asked.elapsed());
    let Err(MetadataError::Unavailable(reason)) = answer else { unreachable!("{answer:?}") };
    assert!(!reason.contains(servers::PASSWORD), "{reason}");
    reason
}

/// The same, until it says this: on a busy machine it may be that the server takes too long to refuse us.
async fn until_away_for(store: &dyn Metadata, why: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let reason = assert_away(store).await;
        if reason.contains(why) {
            return reason;
        }
        assert!(Instant::now() < end, "{reason}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the store answers again, by itself.
async fn until_back(store: &dyn Metadata) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = store.get("a").await {
        assert!(matches!(error, MetadataError::Unavailable(_)) && Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Eight writers, over connections of their own, count to 200 together.
async fn no_update_is_lost(open: impl Fn() -> Arc<dyn Metadata>) {
    let store = open();
    store.put("count", b"0").await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let store = open();
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..25 {
                    loop {
                        let record = store.get("count").await.unwrap().unwrap();
                        let count: u32 = String::from_utf8(record.value).unwrap().parse().unwrap();
                        let next = (count + 1).to_string();
                        match store.swap("count", Some(record.stamp), next.as_bytes()).await {
                            Ok(_) => break,
                            Err(MetadataError::Changed { .. }) => conflicts += 1,
                            Err(error) => unreachable!("{error}"),
                        }
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    assert_eq!(store.get("count").await.unwrap().unwrap().value, b"200");
    assert!(conflicts > 0, "the writers never met");
}

/// A certificate for loopback, its key, and the file in which a client finds it.
struct Certificate {
    cert: String,
    key: String,
    file: tempfile::NamedTempFile,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), file }
    }

    fn pair(&self) -> Option<(&str, &str)> {
        Some((&self.cert, &self.key))
    }

    fn path(&self) -> std::path::Display<'_> {
        self.file.path().display()
    }
}

async fn stamp(store: &dyn Metadata, key: &str) -> Option<Stamp> {
    store.get(key).await.unwrap().map(|record| record.stamp)
}
