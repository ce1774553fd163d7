//! A keyring's life, step by step: made, unlocked, rotated, a column rekeyed, rotated again. Whatever was acknowledged is
//! remembered, and each step is taken again where it was refused or its answer lost.

use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::harness::{Answer, OPERATOR, PATIENCE, SOURCE, World, make_table, trap};

/// More than one chunk of a job.
pub const ROWS: usize = 1200;
pub const HOLDERS: usize = 3;
const FIRST: u32 = 9;

/// The daemon is dead.
#[derive(Debug)]
pub struct Gone;

/// What the daemon acknowledged, and so must never forget.
#[derive(Debug, Clone, Default)]
pub struct Acked {
    pub keyring: Option<Json>,
    /// State by version.
    pub versions: BTreeMap<u32, String>,
    /// Holders that proved a version.
    pub proofs: Vec<(u32, String)>,
    /// The newest job, and its state.
    pub job: Option<(String, String)>,
    pub shares: Vec<(u32, String, String)>,
    pub rotations: usize,
    /// What is asked for and not answered yet may be done, or not: the version, and the states it may be in.
    pub doing: Option<(u32, &'static [&'static str])>,
}

pub struct Story {
    pub world: World,
    pub acked: Acked,
    /// What was acknowledged when the tracer's log was so long.
    pub marks: Vec<(u64, Acked)>,
    /// Answers that were no success, by their code.
    pub refused: BTreeMap<String, usize>,
}

pub fn plaintext(row: usize) -> String {
    format!("the plaintext of row {row}")
}

impl Story {
    pub fn new() -> Self {
        let world = World::new(SOURCE);
        Self { world, acked: Acked::default(), marks: vec![], refused: BTreeMap::new() }
    }

    /// Goes on until there were so many rotations, each with its rekey.
    pub fn go_on(&mut self, rotations: usize) -> Result<(), Gone> {
        self.made()?;
        self.unlocked()?;
        self.filled()?;
        while self.acked.rotations < rotations {
            self.rotated()?;
            self.rekeyed()?;
            self.acked.rotations += 1;
        }
        Ok(())
    }

    /// From here on it must never be forgotten.
    fn acknowledged(&mut self) {
        let log = std::fs::metadata(self.world.path("strace")).map_or(0, |facts| facts.len());
        self.marks.push((log, self.acked.clone()));
    }

    fn call(&self, url: &str, method: &str, token: Option<&str>, body: &Json) -> Result<Answer, Gone> {
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        for _ in 0..5 {
            match self.world.try_raw(url.to_owned(), method, token, body.clone()) {
                Ok(answer) => return Ok(answer),
                Err(_) if trap::dies(self.world.pid()) => return Err(Gone),
                Err(_) => {}
            }
        }
        panic!("no answer of a daemon that lives: {method} {url}");
    }

    /// A call that may be refused because something can't be stored, and for no other reason than these.
    pub fn control(&mut self, method: &str, path: &str, body: &Json, codes: &[&str]) -> Result<Answer, Gone> {
        let token = (!path.ends_with("/parts") && !path.ends_with("/consent")).then_some(OPERATOR);
        let answer = self.call(&format!("{}{path}", self.world.control_url()), method, token, body)?;
        if answer.status >= 300 {
            let code = answer.code().to_owned();
            let known = ["store_unavailable", "audit_unavailable"].contains(&code.as_str());
            assert!(known || codes.contains(&code.as_str()), "{method} {path}: {}", answer.json);
            *self.refused.entry(code).or_default() += 1;
            sleep(Duration::from_millis(100));
        }
        Ok(answer)
    }

    /// Until `done` says that it is.
    pub fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<Option<T>, Gone>,
    ) -> Result<T, Gone> {
        let began = Instant::now();
        loop {
            if let Some(found) = done(self)? {
                return Ok(found);
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}; {:?}\n{}", self.refused, self.log());
        }
    }

    fn log(&self) -> String {
        let log = self.world.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The beginning of it, without a table.
    pub fn made_and_unlocked(&mut self) -> Result<(), Gone> {
        self.made()?;
        self.unlocked()
    }

    fn made(&mut self) -> Result<(), Gone> {
        if self.acked.keyring.is_some() {
            return Ok(());
        }
        let holders: Vec<_> = (1..=HOLDERS).map(|n| json!({"name": format!("h{n}")})).collect();
        let body = json!({"keyring": "prod", "threshold": 2, "holders": holders, "first_version": FIRST});
        let made = self.until("there is a keyring", |story| {
            let answer = story.control("POST", "/v1/init", &body, &[])?;
            Ok((answer.status == 201).then_some(answer.json))
        })?;
        self.world.shares.clear();
        self.world.keep_packages(&made);
        self.acked.shares = self.world.shares.clone();
        self.acked.keyring = Some(made["keyring_id"].clone());
        self.settled(FIRST, "primary");
        Ok(())
    }

    /// Gives two shares of each version whose shares are out.
    pub fn unlocked(&mut self) -> Result<(), Gone> {
        let mut known: Vec<u32> = self.world.shares.iter().map(|(version, _, _)| *version).collect();
        known.dedup();
        known.retain(|version| self.acked.versions.get(version).is_none_or(|state| state != "aborted"));
        for version in known {
            self.loaded(version)?;
        }
        let status = self.control("GET", "/v1/status", &Json::Null, &[])?;
        assert_eq!(status.json["state"], "unlocked", "{}", status.json);
        Ok(())
    }

    fn loaded(&mut self, version: u32) -> Result<(), Gone> {
        for holder in [1, 2] {
            let body = json!({"parts": {format!("prod-keyPart-v{version}"): self.world.share(version, holder)}});
            self.until("a share is taken", |story| {
                let url = format!("{}/v1/unlock/parts", story.world.control_url());
                let answer = story.call(&url, "POST", None, &body)?;
                let already = answer.json["rejected"][0]["code"] == "already_loaded";
                assert!(already || [200, 503].contains(&answer.status), "{}", answer.json);
                Ok((already || answer.status == 200).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The application's table, of values of the first version.
    fn filled(&mut self) -> Result<(), Gone> {
        let table = self.world.path("app.db");
        if table.exists() {
            return Ok(());
        }
        let items: Vec<_> = (1..=ROWS).map(|row| json!({"plaintext": STANDARD.encode(plaintext(row))})).collect();
        let values = self.values("encrypt", json!({"items": items}), "ciphertext")?;
        drop(make_table(&table, &values));
        Ok(())
    }

    pub fn values(&mut self, operation: &str, body: Json, field: &str) -> Result<Vec<String>, Gone> {
        let url = format!("{}/v1/keys/{}/{operation}", self.world.data_url(), crate::harness::KEY);
        let answer = self.call(&url, "POST", Some(crate::harness::SERVICE), &body)?.expect(200);
        let text = |item: &Json| item[field].as_str().unwrap_or_else(|| panic!("{item}")).to_owned();
        Ok(answer["items"].as_array().unwrap().iter().map(text).collect())
    }

    pub fn versions(&mut self) -> Result<BTreeMap<u32, String>, Gone> {
        let answer = self.control("GET", "/v1/versions", &Json::Null, &[])?.expect(200);
        let state = |entry: &Json| {
            (
                u32::try_from(entry["version"].as_u64().unwrap()).unwrap(),
                entry["state"].as_str().unwrap().to_owned(),
            )
        };
        Ok(answer["versions"].as_array().unwrap().iter().map(state).collect())
    }

    fn primary(&self) -> u32 {
        *self.acked.versions.iter().find(|(_, state)| *state == "primary").unwrap().0
    }

    /// One version further.
    fn rotated(&mut self) -> Result<(), Gone> {
        let from = self.primary();
        self.until("another version is primary", |story| story.step(from))
    }

    /// The next step of a rotation from this version; whether it was the last.
    fn step(&mut self, from: u32) -> Result<Option<()>, Gone> {
        let new = self.versions()?.into_iter().find(|(version, state)| *version > from && state != "aborted");
        match new {
            None => self.staged(from)?,
            Some((version, _)) if self.world.shares.iter().any(|(of, _, _)| *of == version) => {
                return self.activated(from, version);
            }
            Some((version, _)) => self.packaged(version)?,
        }
        Ok(None)
    }

    /// Goes on until something can't be stored: whether that came before the end of a rotation.
    pub fn until_refused(&mut self) -> bool {
        let from = self.primary();
        (0..10).any(|_| self.step(from).unwrap().is_none() && !self.refused.is_empty())
    }

    fn staged(&mut self, from: u32) -> Result<(), Gone> {
        let request = self.control("POST", "/v1/requests", &json!({"operation": "stage"}), &[])?;
        if request.status != 202 {
            return Ok(());
        }
        let (id, digest) = (request.json["id"].as_str().unwrap().to_owned(), &request.json["digest"]);
        let next = self.acked.versions.keys().max().unwrap() + 1;
        for holder in [1, 2] {
            let name = format!("prod-keyPart-v{from}");
            let body = json!({"digest": digest, "parts": {name: self.world.share(from, holder)}});
            self.asks(next, &["staged"]);
            let answer = self.control("POST", &format!("/v1/requests/{id}/consent"), &body, &[])?;
            if answer.json["version"].is_u64() {
                self.settled(u32::try_from(answer.json["version"].as_u64().unwrap()).unwrap(), "staged");
            } else if answer.status != 200 {
                // One request at a time; what was consented to is seen in the list of versions.
                self.control("DELETE", &format!("/v1/requests/{id}"), &Json::Null, &["not_found"])?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The packages of a staged version, or it is given up where they went with the daemon that made them.
    fn packaged(&mut self, version: u32) -> Result<(), Gone> {
        let packages =
            self.control("GET", &format!("/v1/versions/{version}/packages"), &Json::Null, &["not_found"])?;
        if packages.status == 200 {
            self.world.keep_packages(&packages.json);
            self.acked.shares = self.world.shares.clone();
            self.acknowledged();
        } else if packages.code() == "not_found" {
            self.asks(version, &["staged", "aborted"]);
            if self.control("POST", &format!("/v1/versions/{version}/abort"), &json!({}), &[])?.status == 200 {
                self.settled(version, "aborted");
            }
        }
        Ok(())
    }

    fn activated(&mut self, from: u32, version: u32) -> Result<Option<()>, Gone> {
        for holder in 1..=HOLDERS {
            let body = json!({"parts": {format!("prod-keyPart-v{version}"): self.world.share(version, holder)}});
            if self.control("POST", "/v1/prove/parts", &body, &[])?.status == 200 {
                self.acked.proofs.push((version, format!("h{holder}")));
                self.acknowledged();
            }
        }
        self.loaded(version)?;
        // The new primary vouches for them anew: where it is killed before that, they are to be given again.
        self.acked.proofs.clear();
        self.asks(version, &["staged", "activating", "primary"]);
        let path = format!("/v1/versions/{version}/activate");
        let answer = self.control("POST", &path, &json!({}), &["gate_refused"])?;
        if answer.status != 200 {
            return Ok(None);
        }
        self.acked.versions.insert(from, "decrypt-only".into());
        self.settled(version, "primary");
        Ok(Some(()))
    }

    /// Until it is settled, it may be done or not.
    fn asks(&mut self, version: u32, states: &'static [&'static str]) {
        self.acked.doing = Some((version, states));
        self.acknowledged();
    }

    fn settled(&mut self, version: u32, state: &str) {
        self.acked.versions.insert(version, state.to_owned());
        self.acked.doing = None;
        self.acknowledged();
    }

    /// A job to its end.
    fn rekeyed(&mut self) -> Result<(), Gone> {
        let known = self.acked.job.clone();
        self.until("the job is done", |story| {
            let jobs = story.control("GET", "/v1/rekey", &Json::Null, &["not_found"])?;
            let newest = (jobs.status == 200).then_some(jobs.json);
            let over =
                known.as_ref().map(|(id, _)| id.as_str()).filter(|_| known.as_ref().unwrap().1 == "completed");
            let Some(job) = newest.filter(|job| job["id"].as_str() != over && job["state"] != "failed") else {
                let answer = story.control("POST", "/v1/rekey", &json!({}), &[])?;
                if answer.status == 202 {
                    story.acked.job = Some((answer.json["id"].as_str().unwrap().to_owned(), "running".into()));
                    story.acknowledged();
                }
                return Ok(None);
            };
            let id = job["id"].as_str().unwrap().to_owned();
            if job["state"] == "completed" {
                story.acked.job = Some((id, "completed".into()));
                story.acknowledged();
                return Ok(Some(()));
            }
            assert_eq!(job["state"], "running", "{job}");
            sleep(Duration::from_millis(20));
            Ok(None)
        })
    }
}
