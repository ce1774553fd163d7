//! The fields of the configuration, and how they depend on one another.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use http::uri::Authority;
use jiff::Timestamp;
use keymoot_api::SecretText;
use keymoot_storage::source::SourceSpec;
use keymoot_types::{Digest, KeyName, KeyringName, NodeName, SourceName, associated_data::Template};
use toml::de::DeTable;

use super::{
    Audit, Cluster, Config, Key, Listen, Memory, Operation, Places, Report, Retire, Role, TlsFiles, Token,
    rekey::rekey,
    section::{At, Reading, Section},
};

/// The most tokens, keys, sources and members.
const LIST_MAX: usize = 1_000;
const AUDIT_BYTES: u64 = 64 * 1024 * 1024;
/// Room for one record of the longest.
const AUDIT_BYTES_LEAST: u64 = 64 * 1024;
const HOUR: Duration = Duration::from_secs(3_600);
const DATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8200);
const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8201);

/// Reads the text of a configuration: as much as can be read, and all that is wrong.
pub(super) fn parse(path: &Path, text: &str) -> (Option<Config>, Report) {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let reading = Reading::new(path, text);
    let mut places = Places::default();
    let config = root(&reading, document.get_ref(), &mut places);
    let (mut report, secret_files) = reading.finish();
    if !syntax.is_empty() {
        let reading = Reading::new(path, text);
        let lines: Vec<_> = syntax.iter().map(|error| error.span().map(|span| reading.line(span.start))).collect();
        // What was understood of a line that is no TOML means nothing.
        report.findings.retain(|finding| !lines.contains(&finding.line));
        for (error, line) in syntax.iter().zip(lines) {
            report.error(line, error.message());
        }
        report.sort();
    }
    let config = config.map(|config| Config { places: Places { secret_files, ..places }, ..config });
    (config, report)
}

fn root(reading: &Reading<'_>, table: &DeTable<'_>, places: &mut Places) -> Option<Config> {
    let root = Section::root(reading, table);
    let keyring = root.required("keyring", root.parsed::<KeyringName>("keyring"));
    let data_dir = root.required("data_dir", root.path("data_dir"));
    let allow_plain_packages = root.flag("allow_plain_packages").is_some_and(At::value);
    let listen = listen(root.section("listen"), places);
    let metadata_url = root.section("metadata").and_then(|section| metadata(section, places));
    let cluster = cluster(root.section("cluster"));
    let retire = retire(root.section("retire"));
    let memory = memory(root.section("memory"));
    let audit = audit(root.section("audit"));
    let rekey = rekey(root.section("rekey"));
    let keys = keys(&root);
    let tokens = tokens(&root, &keys, places);
    let sources = sources(&root, &keys, places);
    root.finish();
    let (keyring, data_dir) = (keyring?.value, data_dir?);
    places.data_dir = data_dir.line;
    let data_dir = data_dir.value;
    Some(Config {
        metadata_url: metadata_url.unwrap_or_else(|| {
            SecretText::new(format!("sqlite://{}", absolute(&data_dir).join("meta.db").display()))
        }),
        keyring,
        data_dir,
        allow_plain_packages,
        listen,
        cluster: cluster?,
        retire,
        memory,
        audit,
        rekey,
        tokens,
        keys: keys.into_iter().map(At::value).collect(),
        sources,
        places: Places::default(),
    })
}

/// A database's address needs an absolute path, whatever the configuration's own is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn listen(section: Option<Section<'_>>, places: &mut Places) -> Listen {
    let mut listen = Listen { data: DATA, control: CONTROL, tls: None, client_ca: None, metrics_token: false };
    let Some(section) = section else { return listen };
    let data = section.parsed::<SocketAddr>("data");
    let control = section.parsed::<SocketAddr>("control");
    let cert = section.path("tls_cert");
    let key = section.path("tls_key");
    let client_ca = section.path("client_ca");
    listen.metrics_token = section.flag("metrics_token").is_some_and(At::value);
    for address in [&data, &control].into_iter().flatten() {
        if cert.is_none() && !address.value.ip().is_loopback() {
            let text = "without `listen.tls_cert` and `listen.tls_key` a self-signed certificate is used, and that only on loopback";
            section.error(address.line, format!("{} is not a loopback address: {text}", address.value));
        }
    }
    listen.data = data.map_or(DATA, At::value);
    listen.control = control.as_ref().map_or(CONTROL, |control| control.value);
    if listen.data == listen.control && listen.data.port() != 0 {
        section
            .error(control.map_or(section.line, |control| control.line), "both listeners have the same address");
    }
    listen.tls = match (cert, key) {
        (Some(cert), Some(key)) => {
            places.tls = cert.line;
            Some(TlsFiles { cert: cert.value, key: key.value })
        }
        (Some(At { line, .. }), None) => {
            section.error(line, "`listen.tls_cert` needs `listen.tls_key` beside it");
            None
        }
        (None, Some(At { line, .. })) => {
            section.error(line, "`listen.tls_key` needs `listen.tls_cert` beside it");
            None
        }
        (None, None) => None,
    };
    places.client_ca = client_ca.as_ref().map_or(0, |ca| ca.line);
    listen.client_ca = client_ca.map(At::value);
    section.finish();
    listen
}

fn metadata(section: Section<'_>, places: &mut Places) -> Option<SecretText> {
    let url = address(&section, &["sqlite", "postgres", "etcd"], places);
    section.finish();
    url.map(At::value)
}

/// An address of one of these schemes; it may hold a password.
fn address(section: &Section<'_>, schemes: &[&str], places: &mut Places) -> Option<At<SecretText>> {
    let (url, inline) = section.required("url", section.secret("url"))?;
    let (scheme, rest) = url.value.split_once("://").unwrap_or_default();
    if !schemes.contains(&scheme) {
        let known: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://…")).collect();
        section.error(
            url.line,
            format!("{} has an unknown scheme; known here: {}", section.called("url"), known.join(", ")),
        );
        return None;
    }
    if scheme == "sqlite" && !rest.starts_with('/') {
        section
            .error(url.line, format!("{} needs an absolute path: sqlite:///absolute/path", section.called("url")));
        return None;
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if inline && (authority.contains('@') || rest.contains("password=")) {
        places.inline_secret = places.inline_secret.or(Some(url.line));
    }
    Some(url)
}

fn cluster(section: Option<Section<'_>>) -> Option<Cluster> {
    let node = section.as_ref().and_then(|section| section.parsed::<NodeName>("node"));
    let members = section.as_ref().and_then(|section| section.set::<NodeName>("members", false));
    let address = section.as_ref().and_then(|section| section.parsed::<Authority>("address"));
    if let (Some(section), Some(address)) = (&section, &address)
        && address.value.port_u16().is_none()
    {
        section.error(address.line, "`cluster.address` is a host and a port: \"db1.example.com:8201\"");
    }
    // "local" keeps to the rule of names, so this parses.
    let node = node.map(At::value).or_else(|| "local".parse().ok());
    if let (Some(section), Some(members), Some(node)) = (&section, &members, &node) {
        if members.value.is_empty() {
            section.error(members.line, "`cluster.members` is empty: this node is a member itself");
        } else if !members.value.contains(node) {
            section.error(members.line, format!("`cluster.members` lacks this node, {node}"));
        }
        if members.value.len() > LIST_MAX {
            section.error(members.line, format!("`cluster.members` has more than {LIST_MAX} names"));
        }
    }
    if let Some(section) = section {
        section.finish();
    }
    let node = node?;
    let address = address.map(|address| address.value.to_string());
    Some(Cluster { members: members.map_or_else(|| vec![node.clone()], At::value), node, address })
}

fn memory(section: Option<Section<'_>>) -> Memory {
    let Some(section) = section else { return Memory::default() };
    let require_lock = section.flag("require_lock").is_some_and(At::value);
    section.finish();
    Memory { require_lock }
}

fn audit(section: Option<Section<'_>>) -> Audit {
    let mut audit = Audit { max_bytes: AUDIT_BYTES };
    let Some(section) = section else { return audit };
    audit.max_bytes = section.bytes("max_bytes", AUDIT_BYTES_LEAST).map_or(AUDIT_BYTES, At::value);
    section.finish();
    audit
}

fn retire(section: Option<Section<'_>>) -> Retire {
    let mut retire = Retire { quiet: 24 * HOUR, max_write_delay: Duration::from_secs(600), hold: 90 * 24 * HOUR };
    let Some(section) = section else { return retire };
    retire.quiet = section.duration("quiet").map_or(retire.quiet, At::value);
    retire.max_write_delay = section.duration("max_write_delay").map_or(retire.max_write_delay, At::value);
    retire.hold = section.duration("hold").map_or(retire.hold, At::value);
    section.finish();
    retire
}

fn keys(root: &Section<'_>) -> Vec<At<Key>> {
    let mut keys: Vec<At<Key>> = Vec::new();
    for section in root.sections("key", LIST_MAX) {
        let name = section.required("name", section.parsed::<KeyName>("name"));
        let max_age = section.duration("max_age");
        let only_in_sources = section.flag("only_in_sources").is_some_and(At::value);
        if let (Some(max_age), true) = (&max_age, only_in_sources) {
            section.error(max_age.line, "`key.max_age` says that values live elsewhere, `key.only_in_sources` that they do not: give one of them");
        }
        if let Some(At { value: name, line }) = name {
            if max_age.is_none() && !only_in_sources {
                section.warning(
                    line,
                    format!(
                        "key {name} has neither `max_age` nor `only_in_sources = true`: no version can retire"
                    ),
                );
            }
            match keys.iter().find(|key| key.value.name == name) {
                Some(first) => {
                    section.error(line, format!("key {name} is declared twice, first on line {}", first.line))
                }
                None => {
                    keys.push(At { value: Key { name, max_age: max_age.map(At::value), only_in_sources }, line })
                }
            }
        }
        section.finish();
    }
    keys
}

fn tokens(root: &Section<'_>, keys: &[At<Key>], places: &mut Places) -> Vec<Token> {
    let mut tokens: Vec<At<Token>> = Vec::new();
    for section in root.sections("token", LIST_MAX) {
        places.token = places.token.or(Some(section.line));
        let line = section.line;
        let Some(token) = token(section, keys) else { continue };
        let same = |wanted: fn(&Token, &Token) -> bool| tokens.iter().find(|first| wanted(&first.value, &token));
        if let Some(first) = same(|a, b| a.name == b.name) {
            root.error(line, format!("token {} is declared twice, first on line {}", token.name, first.line));
        } else if let Some(first) = same(|a, b| a.sha256 == b.sha256) {
            root.error(
                line,
                format!("token {} has the same sha256 as {} on line {}", token.name, first.value.name, first.line),
            );
        } else {
            tokens.push(At { value: token, line });
        }
    }
    tokens.into_iter().map(At::value).collect()
}

fn token(section: Section<'_>, declared: &[At<Key>]) -> Option<Token> {
    let name = section.required("name", section.text("name"));
    let name = name.and_then(|At { value, line }| section.checked("name", line, caller_name(value)));
    let role = section.required("role", section.parsed::<Role>("role"));
    let sha256 = section.required("sha256", section.secret("sha256")).and_then(|(At { value, line }, _)| {
        let digest = value.parse::<Digest>();
        section.checked(
            "sha256",
            line,
            digest.map_err(|_| "it is 64 lower-case hex digits: the SHA-256 of the token's text".into()),
        )
    });
    let keys = section.set::<KeyName>("keys", false);
    let operations = section.set::<Operation>("operations", false);
    let expires = section.time("expires");
    if role.as_ref().is_some_and(|role| role.value == Role::Service) {
        section.required("keys", keys.as_ref());
        section.required("operations", operations.as_ref());
    }
    if let Some(At { value: keys, line }) = &keys {
        for key in keys.iter().filter(|key| !declared.iter().any(|declared| declared.value.name == **key)) {
            section.error(*line, format!("`token.keys`: key {key} is not declared"));
        }
    }
    if let Some(expires) = expires.as_ref().filter(|expires| expires.value <= now()) {
        section.warning(expires.line, format!("the token expired at {}", expires.value));
    }
    section.finish();
    Some(Token {
        name: name?.value,
        role: role?.value,
        sha256: sha256?.value,
        keys: keys.map(At::value).unwrap_or_default(),
        operations: operations.map(At::value).unwrap_or_default(),
        expires: expires.map(At::value),
    })
}

#[expect(clippy::disallowed_methods, reason = "a token's end is a date, and what is said of it a warning")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn caller_name(text: &str) -> Result<String, String> {
    // A caller is named in logs as nodes are.
    text.parse::<NodeName>().map(|name| name.to_string()).map_err(|error| format!("{text:?}: {}", error.rule))
}

fn sources(root: &Section<'_>, keys: &[At<Key>], places: &mut Places) -> Vec<SourceSpec> {
    let mut sources: Vec<At<SourceSpec>> = Vec::new();
    for section in root.sections("source", LIST_MAX) {
        let line = section.line;
        let Some(spec) = source(section, keys, places) else { continue };
        if let Some(first) = sources.iter().find(|first| first.value.name == spec.name) {
            root.error(line, format!("source {} is declared twice, first on line {}", spec.name, first.line));
            continue;
        }
        let column = |spec: &SourceSpec| (spec.url.clone(), spec.table.clone(), spec.column.clone());
        if let Some(first) = sources.iter().find(|first| column(&first.value) == column(&spec)) {
            root.error(
                line,
                format!("source {} is the same column as {} on line {}", spec.name, first.value.name, first.line),
            );
            continue;
        }
        sources.push(At { value: spec, line });
    }
    for changed in &sources {
        let binds = |other: &&At<SourceSpec>| {
            (&other.value.url, &other.value.table) == (&changed.value.url, &changed.value.table)
                && other.value.associated_data.columns().contains(&changed.value.column.as_str())
        };
        if let Some(bound) = sources.iter().filter(|other| other.value.name != changed.value.name).find(binds) {
            root.error(
                changed.line,
                format!(
                    "source {} would change column {}, which the values of {} are bound to: none of them would open again; \
                     bind them to another column",
                    changed.value.name, changed.value.column, bound.value.name
                ),
            );
        }
    }
    places.sources = sources.iter().map(|source| source.line).collect();
    sources.into_iter().map(At::value).collect()
}

fn source(section: Section<'_>, keys: &[At<Key>], places: &mut Places) -> Option<SourceSpec> {
    let name = section.required("name", section.parsed::<SourceName>("name"));
    let url = address(&section, &["sqlite", "postgres", "mysql"], places);
    let table = section.required("table", section.text("table"));
    let id = section.required("id", section.set::<String>("id", true));
    let column = section.required("column", section.text("column"));
    let key = section.required("key", section.parsed::<KeyName>("key"));
    let associated_data = section.parsed::<Template>("associated_data");
    let accept_triggers = section.set::<String>("accept_triggers", false);
    let throttle_query = section.text("throttle_query");
    let adopt = section.text("adopt");
    if let Some(adopt) = adopt.as_ref().filter(|adopt| adopt.value != "plaintext") {
        section.error(adopt.line, format!("`source.adopt`: {:?} is not \"plaintext\"", adopt.value));
    }
    if let Some(table) = table
        .as_ref()
        .filter(|table| table.value.split('.').count() > 2 || table.value.split('.').any(str::is_empty))
    {
        section
            .error(table.line, format!("`source.table`: {:?} is neither a table nor schema.table", table.value));
    }
    if let Some(id) = &id {
        if id.value.is_empty() || id.value.iter().any(String::is_empty) {
            section.error(id.line, "`source.id` is empty: name the columns of the primary key");
        }
        if column.as_ref().is_some_and(|column| id.value.iter().any(|part| part == column.value)) {
            section.error(id.line, "`source.id` and `source.column` name the same column");
        }
    }
    if let Some(key) = key.as_ref().filter(|key| !keys.iter().any(|declared| declared.value.name == key.value)) {
        section.error(key.line, format!("`source.key`: key {} is not declared", key.value));
    }
    section.finish();
    Some(SourceSpec {
        name: name?.value,
        url: url?.value.to_string(),
        table: table?.value.into(),
        id: id?.value,
        column: column?.value.into(),
        key: key?.value,
        associated_data: associated_data.map(At::value).unwrap_or_default(),
        accept_triggers: accept_triggers.map(At::value).unwrap_or_default(),
        adopt: adopt.is_some(),
        throttle_query: throttle_query.map(|query| query.value.to_owned()),
    })
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "service" => Ok(Self::Service),
            "operator" => Ok(Self::Operator),
            "auditor" => Ok(Self::Auditor),
            _ => Err(format!("{text:?} is none of service, operator, auditor")),
        }
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "encrypt" => Ok(Self::Encrypt),
            "decrypt" => Ok(Self::Decrypt),
            "rewrap" => Ok(Self::Rewrap),
            "datakey" => Ok(Self::DataKey),
            _ => Err(format!("{text:?} is none of encrypt, decrypt, rewrap, datakey")),
        }
    }
}
