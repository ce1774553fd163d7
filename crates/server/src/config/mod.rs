//! The configuration: TOML, read strictly, all mistakes at once.
//!
//! # Layout
//!
//! [`Config`] is what was read. `section` walks a table and notes mistakes, `parse` and `rekey` know the fields,
//! [`report`] is what was found, `check` looks at what lies outside of the file: modes, certificates, sources.

mod check;
mod parse;
mod rekey;
pub mod report;
mod secret;
mod section;

use std::{
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use keymoot_api::SecretText;
use keymoot_rekey::Manners;
use keymoot_storage::source::SourceSpec;
use keymoot_types::{Digest, KeyName, KeyringName, NodeName};

pub use self::{
    check::{check_file, check_for_reload},
    report::{Finding, Report, Severity},
};

/// A configuration is a few pages. 100 times too big is a mistake, and is not read into memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The keyring that this daemon serves.
    pub keyring: KeyringName,
    /// Last good manifest, audit log, embedded metadata store.
    pub data_dir: PathBuf,
    /// Whether a holder without a recipient gets the parts file itself.
    pub allow_plain_packages: bool,
    /// The two listeners.
    pub listen: Listen,
    /// The metadata store's address; may hold a password.
    pub metadata_url: SecretText,
    /// This node and its fellows.
    pub cluster: Cluster,
    /// What a retirement waits for.
    pub retire: Retire,
    /// What is asked of the daemon's own memory.
    pub memory: Memory,
    /// The audit log's file.
    pub audit: Audit,
    /// How considerate the jobs of this node are.
    pub rekey: Manners,
    /// Who may call.
    pub tokens: Vec<Token>,
    /// The declared keys.
    pub keys: Vec<Key>,
    sources: Vec<SourceSpec>,
    places: Places,
}

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// For services.
    pub data: SocketAddr,
    /// For keyholders, operators and probes.
    pub control: SocketAddr,
    /// Certificate chain and key; none: a self-signed pair in the data directory.
    pub tls: Option<TlsFiles>,
    /// Whose client certificates the data listener requires.
    pub client_ca: Option<PathBuf>,
    /// Whether `/metrics` needs a token.
    pub metrics_token: bool,
}

/// A pair of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the node's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// This node and its fellows.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// This node's name.
    pub node: NodeName,
    /// Every member, this node included: for `init` only.
    pub members: Vec<NodeName>,
    /// Where the others reach its control listener, host:port; by default the address that it listens on.
    pub address: Option<String>,
}

/// What a retirement waits for.
#[derive(Debug, Clone, Copy)]
pub struct Retire {
    /// No authenticated use for so long.
    pub quiet: Duration,
    /// The longest that a writer holds a value before it stores it.
    pub max_write_delay: Duration,
    /// At least as long as database backups live.
    pub hold: Duration,
}

/// What is asked of the daemon's own memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Whether the daemon refuses to start where its pages can't be locked, rather than warn.
    pub require_lock: bool,
}

/// The audit log's file.
#[derive(Debug, Clone, Copy)]
pub struct Audit {
    /// From this size on a new file is begun; the old one is kept.
    pub max_bytes: u64,
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The data API.
    Service,
    /// Ceremonies, jobs, settings.
    Operator,
    /// Looking.
    Auditor,
}

/// What a service may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Encrypts values.
    Encrypt,
    /// Decrypts values.
    Decrypt,
    /// Encrypts values anew.
    Rewrap,
    /// Makes and opens data keys.
    DataKey,
}

/// Who may call. Only the digest of the token is known here.
#[derive(Debug, Clone)]
pub struct Token {
    /// What the caller is called in logs and in the audit.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
    /// SHA-256 of the token's text.
    pub sha256: Digest,
    /// The keys whose values it may ask about.
    pub keys: Vec<KeyName>,
    /// What it may ask for.
    pub operations: Vec<Operation>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
}

/// A declared key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name.
    pub name: KeyName,
    /// How long its values live outside the sources.
    pub max_age: Option<Duration>,
    /// Whether all its values lie in declared sources.
    pub only_in_sources: bool,
}

/// The lines of what `check_file` looks at outside of the file.
#[derive(Debug, Clone, Default)]
struct Places {
    data_dir: usize,
    tls: usize,
    client_ca: usize,
    sources: Vec<usize>,
    secret_files: Vec<section::At<PathBuf>>,
    inline_secret: Option<usize>,
    token: Option<usize>,
}

impl Config {
    /// Reads a file. Either everything is right (there may be warnings in the log), or all mistakes are named.
    pub fn load(path: &Path) -> Result<Self, Report> {
        let (config, report) = Self::read(path);
        match config {
            Some(config) if report.is_ok() => {
                for Finding { line, text, .. } in &report.findings {
                    tracing::warn!(line, "configuration: {text}");
                }
                Ok(config)
            }
            _ => Err(report),
        }
    }

    /// What is in the users' databases.
    pub fn source_specs(&self) -> &[SourceSpec] {
        &self.sources
    }

    /// The names of the declared keys.
    pub fn key_names(&self) -> Vec<KeyName> {
        self.keys.iter().map(|key| key.name.clone()).collect()
    }

    /// The configuration, as far as it could be read, and what was found.
    fn read(path: &Path) -> (Option<Self>, Report) {
        match read_text(path) {
            Ok(text) => parse::parse(path, &text),
            Err((line, error)) => {
                let mut report = Report::new(path);
                report.error(line, error);
                (None, report)
            }
        }
    }
}

fn read_text(path: &Path) -> Result<String, (Option<usize>, String)> {
    let unreadable = |error: io::Error| (None, format!("the file can't be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err((None, "the file has more than 1 MiB: this is no configuration".into()));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err((Some(1), "the file begins with a byte order mark: save it as UTF-8 without one".into()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        (Some(line), "the file is not UTF-8".to_owned())
    })?;
    if text.trim().is_empty() {
        return Err((None, "the file is blank: `keyring` and `data_dir` must be there".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
