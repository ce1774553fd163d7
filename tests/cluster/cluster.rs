//! Three nodes, db1 to db3, unlocked.

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::harness::World;

pub struct Cluster {
    pub nodes: Vec<World>,
    _store: Option<TempDir>,
}

impl Cluster {
    /// On a SQLite file that they share; `more` is in each node's configuration.
    pub fn new(more: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", store.path().join("meta.db").display());
        Self { _store: Some(store), ..Self::at([&url, &url, &url], more) }
    }

    /// On one store, to which each node has an address of its own.
    pub fn at(urls: [&str; 3], more: &str) -> Self {
        let nodes = (1..).zip(urls).map(|(n, url)| {
            let mut world = World::new(&format!(
                "{more}[cluster]\nnode = \"db{n}\"\nmembers = [\"db1\", \"db2\", \"db3\"]\n[metadata]\nurl = \"{url}\"\n"
            ));
            world.start();
            world
        });
        let mut cluster = Self { nodes: nodes.collect(), _store: None };
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

    pub fn activate(&self, version: u32, body: Json) -> crate::harness::Answer {
        self.nodes[0].post(&format!("/v1/versions/{version}/activate"), body)
    }
}

/// What is missing, each as (code, who).
pub fn missing(refused: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let missing = refused["missing"].as_array().unwrap();
    missing.iter().map(|one| (text(&one["code"]), text(&one["who"]))).collect()
}
