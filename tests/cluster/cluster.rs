//! Three nodes, db1 to db3, unlocked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::harness::{OPERATOR, World, servers::directory};

/// Jobs do not step aside for decryptions that a busy machine makes slow: each time they would for half a minute.
pub const PATIENT: &str = "[rekey]\nmax_decrypt_latency = \"1h\"\n";

pub struct Cluster {
    pub nodes: Vec<World>,
    store: Option<TempDir>,
}

impl Cluster {
    /// On a SQLite file that they share; `more` is in each node's configuration.
    pub fn new(more: &str) -> Self {
        // A disk that stalls for three seconds is a store that is away, and then not all that was asked for is done.
        let store = directory(None);
        let url = format!("sqlite://{}", store.path().join("meta.db").display());
        Self { store: Some(store), ..Self::at([&url, &url, &url], more) }
    }

    /// On one store, to which each node has an address of its own.
    pub fn at(urls: [&str; 3], more: &str) -> Self {
        Self::started(urls, more, World::start)
    }

    /// The same, each node started in a way of one's own.
    pub fn started(urls: [&str; 3], more: &str, mut start: impl FnMut(&mut World)) -> Self {
        let nodes = (1..).zip(urls).map(|(n, url)| {
            let mut world = World::new(&format!(
                "{more}[cluster]\nnode = \"db{n}\"\nmembers = [\"db1\", \"db2\", \"db3\"]\n[metadata]\nurl = \"{url}\"\n"
            ));
            start(&mut world);
            world
        });
        let mut cluster = Self { nodes: nodes.collect(), store: None };
        cluster.nodes[0].init(5, 9);
        cluster.confirm_and_unlock();
        cluster
    }

    fn confirm_and_unlock(&mut self) {
        let revision = self.nodes[0].get("/v1/status")["revision"].clone();
        let shares = self.nodes[0].shares.clone();
        for node in &mut self.nodes {
            node.shares = shares.clone();
        }
        for node in &self.nodes[1..] {
            let need = node.until("the store's manifest is seen", || {
                let status = node.get("/v1/status");
                let needs = status["needs"].as_array().unwrap().clone();
                needs.into_iter().find(|need| need.as_str().unwrap().contains("no manifest of its own"))
            });
            let digest = need.as_str().unwrap().trim_end_matches('`').rsplit(' ').next().unwrap().to_owned();
            node.post("/v1/manifest/confirm", json!({"revision": revision, "digest": digest})).expect(200);
        }
        self.unlock_all(9);
        self.until_all_present();
    }

    /// The SQLite file that they share.
    pub fn store_file(&self) -> PathBuf {
        self.store.as_ref().unwrap().path().join("meta.db")
    }

    /// Stops a node of a cluster on a SQLite file.
    pub fn pause(&self, at: usize) {
        stop_between_locks(&self.nodes[at], &[&self.store_file()]);
    }

    pub fn unlock_all(&self, version: u32) {
        for node in &self.nodes {
            node.unlock_by(version, &[1, 2]);
        }
    }

    /// Every node hears both others.
    pub fn until_all_present(&self) {
        for node in &self.nodes {
            node.until("the others are heard of", || {
                let status = node.get("/v1/status");
                let peers = status["peers"].as_array().unwrap();
                (peers.len() == 2 && peers.iter().all(|peer| peer["present"] == true)).then_some(())
            });
        }
    }

    /// From their next start on the nodes listen where they do now, and the others know it.
    pub fn keep_addresses(&mut self) {
        for node in &mut self.nodes {
            node.keep_addresses();
        }
        for node in &self.nodes {
            node.until("the others say how they are reached", || {
                let status = node.get("/v1/status");
                let peers = status["peers"].as_array().unwrap();
                (peers.len() == 2 && peers.iter().all(|peer| peer["address"].is_string())).then_some(())
            });
        }
    }

    /// A maintenance window for these members, consented to; its id, once every node knows its time.
    #[track_caller]
    pub fn window(&self, consenting: u32, members: &[&str], granted_for: &str) -> String {
        let request = self.nodes[0].ask(json!({"operation": "window", "members": members, "for": granted_for}));
        for holder in [1, 2] {
            self.nodes[0].consent(&request, &[(consenting, holder)]).expect(200);
        }
        for node in &self.nodes {
            node.until("the window is open here", || {
                node.get("/v1/status")["window"]["left_seconds"].as_u64().map(drop)
            });
        }
        request["id"].as_str().unwrap().to_owned()
    }

    /// Staged on db1 and proved; the shares are at hand for every node.
    pub fn staged(&mut self, from: u32) -> u32 {
        let version = self.nodes[0].stage(from);
        self.nodes[0].prove(version);
        let shares = self.nodes[0].shares.clone();
        for node in &mut self.nodes {
            node.shares = shares.clone();
        }
        for node in &self.nodes {
            node.until("the staged version is known", || {
                let versions = node.get("/v1/versions");
                versions["versions"].as_array().unwrap().iter().any(|one| one["version"] == version).then_some(())
            });
        }
        version
    }

    /// Asks db1 for a rekey job of so many rows a second; its id. None is written before all nodes go by the limit.
    pub fn limited_rekey(&self, rows_per_second: u64) -> String {
        let switches: Vec<_> = self.nodes.iter().map(|node| node.data_dir().join("pause-rekey")).collect();
        switches.iter().for_each(|switch| std::fs::write(switch, "").unwrap());
        let db1 = &self.nodes[0];
        let id = db1.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
        let (path, limit) = (format!("/v1/rekey/{id}"), json!({"max_rows_per_second": rows_per_second}));
        db1.until("it is limited", || {
            (db1.control("PATCH", &path, Some(OPERATOR), limit.clone()).status == 200).then_some(())
        });
        for node in &self.nodes {
            node.until("the limit is known here", || {
                let job = node.try_get(&path)?;
                (job["limits"]["max_rows_per_second"] == rows_per_second).then_some(())
            });
        }
        switches.iter().for_each(|switch| std::fs::remove_file(switch).unwrap());
        id
    }

    pub fn activate(&self, version: u32, body: Json) -> crate::harness::Answer {
        self.nodes[0].post(&format!("/v1/versions/{version}/activate"), body)
    }
}

/// Stops a daemon where it holds no lock of a SQLite file: that would hold up everybody, lease or no lease.
pub fn stop_between_locks(node: &World, files: &[&Path]) {
    let is_free = |file: &Path| {
        let connection = Connection::open(file).unwrap();
        connection.busy_timeout(Duration::from_secs(1)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    };
    node.until("it is stopped and holds no lock", || {
        node.signal("-STOP");
        let free = files.iter().copied().all(is_free);
        if !free {
            node.signal("-CONT");
        }
        free.then_some(())
    });
}

/// What is missing, each as (code, who).
pub fn missing(refused: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let missing = refused["missing"].as_array().unwrap();
    missing.iter().map(|one| (text(&one["code"]), text(&one["who"]))).collect()
}
