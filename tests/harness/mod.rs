//! A real daemon on free loopback ports, spoken to over TLS as any outside program would.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the harness")]

mod answer;
pub mod authority;
mod background;
pub mod databases;
pub mod galera;
mod network;
pub mod oracle;
mod outside;
pub mod power_cut;
pub mod proxy;
pub mod replicas;
pub mod servers;
pub mod trap;
mod values;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use reqwest::blocking::Client;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub use self::{
    answer::Answer,
    background::Background,
    outside::{SOURCE, client, client_of, make_table},
};

pub const KEY: &str = "auth-token";
/// Tokens of a fixed text: tests need no secrets.
pub const OPERATOR: &str = "km_ooooooooooooooooooooooooooooooooooooooooooo";
pub const SERVICE: &str = "km_sssssssssssssssssssssssssssssssssssssssssss";
pub const AUDITOR: &str = "km_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Longer than anything here takes, such as thirty beats of a member that is held down, each of which may take seconds
/// on a busy machine; only a hang gets near it.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A directory with a configuration, and the daemon that runs on it.
pub struct World {
    pub dir: TempDir,
    pub shares: Vec<(u32, String, String)>,
    more: String,
    /// Of the data and of the control listener.
    listen: [String; 2],
    daemon: Option<Daemon>,
}

struct Daemon {
    child: Child,
    http: Client,
    data: String,
    control: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl World {
    /// `more` is appended to the configuration; `{dir}` in it is the directory.
    pub fn new(more: &str) -> Self {
        // A disk that stands still for three seconds is a store that is away, which is no part of these tests; a bench
        // measures the disk.
        let dir = if cfg!(test) { servers::directory(None) } else { tempfile::tempdir().unwrap() };
        let more = more.replace("{dir}", dir.path().to_str().unwrap());
        let world = Self {
            dir,
            shares: vec![],
            more,
            listen: ["127.0.0.1:0", "127.0.0.1:0"].map(Into::into),
            daemon: None,
        };
        world.write_config(&world.more);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config_file(&self) -> PathBuf {
        self.path("keymoot.toml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn write_config(&self, more: &str) {
        let token = |name: &str, role: &str, token: &str, rest: &str| {
            let sha256 = hex::encode(Sha256::digest(token));
            format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{rest}\n")
        };
        let scope =
            format!("keys = [\"{KEY}\"]\noperations = [\"encrypt\", \"decrypt\", \"rewrap\", \"datakey\"]\n");
        let retire = if more.contains("[retire]") {
            ""
        } else {
            "[retire]\nquiet = \"1s\"\nmax_write_delay = \"1s\"\nhold = \"1h\"\n"
        };
        let text = format!(
            "keyring = \"prod\"\ndata_dir = \"{}\"\nallow_plain_packages = true\n\
             [listen]\ndata = \"{}\"\ncontrol = \"{}\"\n{retire}\
             {}{}{}[[key]]\nname = \"{KEY}\"\nonly_in_sources = true\n{}",
            self.data_dir().display(),
            self.listen[0],
            self.listen[1],
            token("ops", "operator", OPERATOR, ""),
            token("web", "service", SERVICE, &scope),
            token("audit", "auditor", AUDITOR, ""),
            more.replace("{dir}", self.dir.path().to_str().unwrap()),
        );
        fs::write(self.config_file(), text).unwrap();
        fs::set_permissions(self.config_file(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Puts more into the configuration; a reload takes it up.
    pub fn add_config(&mut self, more: &str) {
        self.more.push_str(more);
        self.write_config(&self.more);
    }

    /// Calls the node otherwise from its next start on.
    pub fn rename_node(&mut self, from: &str, to: &str) {
        self.more = self.more.replace(&format!("node = \"{from}\""), &format!("node = \"{to}\""));
        self.write_config(&self.more);
    }

    /// Tells the others, from now on, that it is reached there.
    pub fn announce(&mut self, address: std::net::SocketAddr) {
        self.more = self.more.replacen("[cluster]\n", &format!("[cluster]\naddress = \"{address}\"\n"), 1);
        self.write_config(&self.more);
        self.post("/v1/reload", Json::Null).expect(200);
    }

    /// Listens where it does now from its next start on.
    pub fn keep_addresses(&mut self) {
        self.listen = [self.data_url(), self.control_url()].map(|url| url.replace("https://", ""));
        self.write_config(&self.more);
        self.post("/v1/reload", Json::Null).expect(200);
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none());
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
        command.arg("server").arg("--config").arg(self.config_file());
        self.start_as(command);
    }

    /// The same with a command of one's own, such as the daemon under `strace`.
    #[track_caller]
    pub fn start_as(&mut self, command: Command) {
        if let Err(status) = self.try_start_as(command) {
            panic!("the daemon did not start ({status}):\n{}", self.log());
        }
    }

    /// The same of a daemon that may end before it listens: how it ended then.
    pub fn try_start_as(&mut self, mut command: Command) -> Result<(), ExitStatus> {
        if !command.get_envs().any(|(name, _)| name == "KEYMOOT_LOG") {
            command.env("KEYMOOT_LOG", "info");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let told = outside::written_down(child.stderr.take().unwrap(), self.path("log"));
        let began = Instant::now();
        let (data, control) = loop {
            match told.recv_timeout(Duration::from_millis(50)) {
                Ok(addresses) => break addresses,
                // A tracer keeps the log open beyond the daemon's end.
                Err(mpsc::RecvTimeoutError::Timeout)
                    if !trap::is_dead(child.id()) && began.elapsed() < PATIENCE => {}
                Err(_) => {
                    trap::release(child.id());
                    let _gone = child.kill();
                    let status = child.wait().unwrap();
                    // What it said last is in the log once its reader has come to the end.
                    while told.recv_timeout(PATIENCE).is_ok() {}
                    return Err(status);
                }
            }
        };
        let http = client(&self.data_dir().join("tls-cert.pem"));
        self.daemon = Some(Daemon { child, http, data, control });
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        drop(self.daemon.take());
    }

    /// SIGTERM, and that it ends in order.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let pid = daemon.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = daemon.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.end_of_log());
    }

    /// Waits for its end, and how it ended.
    pub fn until_ended(&mut self) -> ExitStatus {
        self.daemon.take().unwrap().child.wait().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().child.id()
    }

    pub fn data_url(&self) -> &str {
        &self.daemon.as_ref().unwrap().data
    }

    pub fn control_url(&self) -> &str {
        &self.daemon.as_ref().unwrap().control
    }

    pub fn http(&self) -> Client {
        self.daemon.as_ref().unwrap().http.clone()
    }

    /// Any request with a body as it stands.
    #[track_caller]
    pub fn raw(&self, url: String, method: &str, token: Option<&str>, body: Vec<u8>) -> Answer {
        self.try_raw(url, method, token, body).unwrap()
    }

    /// The same of a daemon that may be gone.
    pub fn try_raw(
        &self,
        url: String,
        method: &str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.http().request(method.parse().unwrap(), url).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send()?;
        let verdict = response.headers().get("keymoot-verdict").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let bytes = response.bytes()?;
        Ok(Answer { status, verdict, json: serde_json::from_slice(&bytes).unwrap_or(Json::Null) })
    }

    /// What a running daemon answers, and nothing of one that is gone.
    pub fn try_get(&self, path: &str) -> Option<Json> {
        let answer = self.try_raw(format!("{}{path}", self.control_url()), "GET", Some(OPERATOR), vec![]).ok()?;
        (answer.status == 200).then_some(answer.json)
    }

    /// What was refused as its record took longer than is waited for was not done, and is asked again: disks stall.
    #[track_caller]
    pub fn control(&self, method: &str, path: &str, token: Option<&str>, body: Json) -> Answer {
        let late = ["its record took too long", "has not come back"];
        self.until("its record is written", || {
            let answer = self.once(method, path, token, body.clone());
            let detail = answer.json["detail"].as_str().unwrap_or_default();
            let again = answer.code() == "audit_unavailable" && late.iter().any(|words| detail.contains(words));
            (!again).then_some(answer)
        })
    }

    /// The same, whatever is answered.
    pub fn once(&self, method: &str, path: &str, token: Option<&str>, body: Json) -> Answer {
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        self.raw(format!("{}{path}", self.control_url()), method, token, body)
    }

    pub fn get(&self, path: &str) -> Json {
        let ask = || self.try_raw(format!("{}{path}", self.control_url()), "GET", Some(OPERATOR), vec![]);
        // A daemon that was stopped gives up the connections that it had: that is found out by the next question.
        let answer = self.until("the store answers in time", || {
            let answer = ask().or_else(|_| ask()).unwrap();
            (answer.code() != "store_unavailable").then_some(answer)
        });
        answer.expect(200)
    }

    pub fn post(&self, path: &str, body: Json) -> Answer {
        self.control("POST", path, Some(OPERATOR), body)
    }

    pub fn data(&self, operation: &str, body: Json) -> Answer {
        let url = format!("{}/v1/keys/{KEY}/{operation}", self.data_url());
        self.raw(url, "POST", Some(SERVICE), body.to_string().into_bytes())
    }

    /// Makes the keyring with holders h1, h2, … and keeps their shares.
    pub fn init(&mut self, holders: usize, first_version: u32) {
        let holders: Vec<_> = (1..=holders).map(|n| json!({"name": format!("h{n}")})).collect();
        let made = self
            .post(
                "/v1/init",
                json!({"keyring": "prod", "threshold": 2, "holders": holders, "first_version": first_version}),
            )
            .expect(201);
        self.shares.clear();
        self.keep_packages(&made);
    }

    pub fn keep_packages(&mut self, answer: &Json) {
        let version = u32::try_from(answer["version"].as_u64().unwrap()).unwrap();
        for package in answer["packages"].as_array().unwrap() {
            let (_, share) = package["package"].as_str().unwrap().trim().split_once(": ").unwrap();
            let holder = package["holder"].as_str().unwrap().to_owned();
            self.shares.push((version, holder, share.to_owned()));
        }
    }

    /// The share of holder `h<n>`.
    pub fn share(&self, version: u32, holder: usize) -> String {
        let holder = format!("h{holder}");
        let found = self.shares.iter().find(|(of, name, _)| *of == version && *name == holder);
        found.unwrap().2.clone()
    }

    /// `{"prod-keyPart-v10": "kmshare1…", …}` with the names in exactly this order.
    pub fn parts(&self, parts: &[(u32, usize)]) -> String {
        let parts: Vec<_> = parts
            .iter()
            .map(|(version, holder)| format!("\"prod-keyPart-v{version}\":\"{}\"", self.share(*version, *holder)))
            .collect();
        format!("{{\"parts\":{{{}}}}}", parts.join(","))
    }

    pub fn submit(&self, path: &str, parts: &[(u32, usize)]) -> Answer {
        self.raw(format!("{}{path}", self.control_url()), "POST", None, self.parts(parts).into_bytes())
    }

    pub fn unlock(&self, parts: &[(u32, usize)]) -> Answer {
        self.submit("/v1/unlock/parts", parts)
    }

    /// Each of these holders gives a share of the version; what the last one was answered.
    #[track_caller]
    pub fn unlock_by(&self, version: u32, holders: &[usize]) -> Json {
        let mut last = Json::Null;
        for holder in holders {
            last = self.unlock(&[(version, *holder)]).expect(200);
        }
        last
    }

    pub fn state(&self) -> String {
        self.get("/v1/status")["state"].as_str().unwrap().to_owned()
    }

    pub fn state_of(&self, version: u32) -> String {
        let versions = self.get("/v1/versions");
        let found = versions["versions"].as_array().unwrap().iter().find(|entry| entry["version"] == version);
        found.unwrap()["state"].as_str().unwrap().to_owned()
    }

    /// Opens a request.
    #[track_caller]
    pub fn ask(&self, request: Json) -> Json {
        self.post("/v1/requests", request).expect(202)
    }

    /// One holder's consent to it.
    pub fn consent(&self, request: &Json, parts: &[(u32, usize)]) -> Answer {
        let parts: Json = serde_json::from_str(&self.parts(parts)).unwrap();
        let body = json!({"digest": request["digest"], "parts": parts["parts"]});
        self.control("POST", &format!("/v1/requests/{}/consent", request["id"].as_str().unwrap()), None, body)
    }

    /// Takes the packages of a version, and forgets the shares of it that were here.
    pub fn take_packages(&mut self, version: u32) -> Vec<(u32, String, String)> {
        let path = format!("/v1/versions/{version}/packages");
        let packages = self.control("GET", &path, Some(OPERATOR), Json::Null).expect(200);
        let (old, others) = std::mem::take(&mut self.shares).into_iter().partition(|(of, _, _)| *of == version);
        self.shares = others;
        self.keep_packages(&packages);
        old
    }

    /// Request, two consents, packages: the next version is staged and its shares are kept.
    pub fn stage(&mut self, consenting: u32) -> u32 {
        self.stage_as(consenting, json!({"operation": "stage"}))
    }

    /// The same with a request of one's own.
    #[track_caller]
    pub fn stage_as(&mut self, consenting: u32, request: Json) -> u32 {
        let request = self.ask(request);
        let mut version = 0;
        for holder in [1, 2] {
            let answer = self.consent(&request, &[(consenting, holder)]).expect(200);
            version = answer["version"].as_u64().unwrap_or(0);
        }
        let version = u32::try_from(version).unwrap();
        self.take_packages(version);
        version
    }

    /// Every holder proves the version.
    pub fn prove(&self, version: u32) {
        let holders: Vec<usize> = self
            .shares
            .iter()
            .filter(|(of, _, _)| *of == version)
            .map(|(_, name, _)| name[1..].parse().unwrap())
            .collect();
        for holder in holders {
            self.submit("/v1/prove/parts", &[(version, holder)]).expect(200);
        }
    }

    /// Stage, prove, load, activate.
    pub fn rotate(&mut self, from: u32) -> u32 {
        let to = self.stage(from);
        self.prove(to);
        self.unlock(&[(to, 1)]).expect(200);
        self.unlock(&[(to, 2)]).expect(200);
        self.post(&format!("/v1/versions/{to}/activate"), Json::Null).expect(200);
        to
    }

    /// Asks until `done` says so.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = done() {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}\n{}", self.end_of_log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a job and waits for its end.
    pub fn rekey(&self) -> Json {
        let job = self.post("/v1/rekey", json!({})).expect(202);
        self.job_end(job["id"].as_str().unwrap())
    }

    pub fn job_end(&self, id: &str) -> Json {
        self.until("the job ends", || {
            let job = self.get(&format!("/v1/rekey/{id}"));
            (job["state"] != "running").then_some(job)
        })
    }

    /// Asks for a retirement until the gate lets it through.
    pub fn retire(&self, version: u32) -> Json {
        self.until("the version is retired", || {
            let answer = self.post(&format!("/v1/versions/{version}/retire"), json!({}));
            if answer.status == 409 || answer.code() == "store_unavailable" {
                None
            } else {
                Some(answer.expect(200))
            }
        })
    }
}
