//! `keymoot dev`

mod ready;

use std::{
    ffi::OsString,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use keymoot_api::{
    Base64Bytes,
    init::{HolderSpec, InitRequest},
    rotate::{ActivateRequest, ConsentRequest, RequestBody, StageRequest},
    unlock::{DegradedRequest, Parts, PartsRequest},
};
use keymoot_client::{Client, Control, Options, Verdict};
use keymoot_server::http::fault::Fault as ServerFault;
use keymoot_types::{KeyVersion, NodeState, part::PartsFile};
use serde::Serialize;

use self::ready::{Ready, shell};
use super::demo::{
    Stopped,
    daemon::{Daemon, end_with_parent},
    place::{Addresses, Place, Token, quoted},
};
use crate::{cli, exit::Exit, files, output::note};

const KEYRING: &str = "dev";
const KEY: &str = "auth-token";
const HOLDERS: [&str; 3] = ["ann", "bob", "eve"];
/// The story's number: one digit, and a rotation away from two.
const FIRST: u32 = 9;
const DATA_PORT: u16 = 8200;
const CONTROL_PORT: u16 = 8201;
const CONFIG: &str = "keymoot.toml";
const LOG: &str = "keymoot.log";
const HEADER: &str = "service.header";

/// Run an initialised, unlocked daemon to try things on, until Ctrl-C; nothing of it stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --fault it answers services as a daemon in trouble does, so that a team can test its own code: none of these \
answers is a reason to log anybody out.

Examples:
  keymoot dev
  keymoot dev --fault missing-v9
  keymoot dev --output json")]
pub(crate) struct Args {
    /// Answer as in trouble
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Be the daemon of this configuration: how `dev` starts itself
    #[arg(long, value_name = "FILE", hide = true, requires = "parent")]
    serve: Option<PathBuf>,
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// v10 encrypts, and v9 is not loaded: its values are 503 key_version_unavailable
    #[value(name = "missing-v9")]
    #[serde(rename = "missing-v9")]
    MissingV9,
    /// Every answer is 503 sealed
    Sealed,
    /// Every answer is 503 overloaded, with Retry-After
    Overloaded,
    /// Every answer is right and takes 5 seconds
    Slow,
}

impl Fault {
    /// What the daemon itself is told; the others are states that it is brought into.
    fn of_server(self) -> Option<ServerFault> {
        match self {
            Self::Overloaded => Some(ServerFault::Overloaded),
            Self::Slow => Some(ServerFault::Slow),
            Self::MissingV9 | Self::Sealed => None,
        }
    }

    fn expect(self) -> &'static str {
        match self {
            Self::MissingV9 => {
                "Values of v9 are answered 503 key_version_unavailable, undetermined: the version exists, and this node has \
                 not loaded it. New values are v10 and work."
            }
            Self::Sealed => {
                "Everything is answered 503 sealed, undetermined. `keymoot unlock` with two parts files ends it."
            }
            Self::Overloaded => {
                "Everything is answered 503 overloaded, undetermined, with a Retry-After of 1 to 3 seconds."
            }
            Self::Slow => "Every answer is right, and takes 5 seconds: longer than many a client waits.",
        }
    }
}

/// Runs until Ctrl-C.
pub(crate) fn run(context: &cli::Context, args: &Args) -> anyhow::Result<Exit> {
    if let (Some(config), Some(parent)) = (&args.serve, args.parent) {
        end_with_parent(parent)?;
        keymoot_server::run_with(config, args.fault.and_then(Fault::of_server))?;
        return Ok(Exit::Done);
    }
    // The future stays on this thread: the daemon is tied to the life of the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(try_out(context, args.fault))
}

async fn try_out(context: &cli::Context, fault: Option<Fault>) -> anyhow::Result<Exit> {
    let mut stopped = Stopped::new()?;
    let place = Place::temporary("dev")?;
    let outcome = tokio::select! {
        outcome = serve(context, &place, fault) => outcome,
        () = stopped.wait() => Ok(()),
    };
    place.remove().await;
    outcome.map(|()| Exit::Done)
}

/// Prepares everything with a daemon that is well, and goes on with one that is as it was asked for.
async fn serve(context: &cli::Context, place: &Place, fault: Option<Fault>) -> anyhow::Result<()> {
    let tokens = Tokens { service: Token::service("dev", KEY)?, operator: Token::operator("dev-operator")? };
    let first = start_somewhere(place, &tokens).await?;
    let dev = Dev::new(place, tokens, first.addresses())?;
    let samples = dev.prepare(fault).await?;
    let mut daemon = match fault {
        Some(Fault::MissingV9 | Fault::Overloaded | Fault::Slow) => {
            first.stop().await?;
            let daemon = dev.start(fault).await?;
            dev.unlock_again(fault).await?;
            daemon
        }
        Some(Fault::Sealed) => {
            dev.control.seal().await?;
            first
        }
        None => first,
    };
    let ready = dev.ready(fault, samples);
    context.out.result(&ready, Ready::text)?;
    note("Ctrl-C ends it and removes its files.");
    Err(daemon.ended().await)
}

/// The usual ports, or others where those are taken.
async fn start_somewhere(place: &Place, tokens: &Tokens) -> anyhow::Result<Daemon> {
    let usual = [DATA_PORT, CONTROL_PORT].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free = usual.iter().all(|address| TcpListener::bind(address).is_ok());
    let [data, control] = usual;
    if free {
        tokens.write_config(place, Addresses { data, control })?;
        // Somebody else may have been faster.
        if let Ok(daemon) = start(place, None).await {
            return Ok(daemon);
        }
    }
    note(format!("Port {DATA_PORT} or {CONTROL_PORT} is taken: others are used."));
    tokens.write_config(place, Addresses::any())?;
    let daemon = start(place, None).await?;
    tokens.write_config(place, daemon.addresses())?;
    Ok(daemon)
}

async fn start(place: &Place, fault: Option<Fault>) -> anyhow::Result<Daemon> {
    let mut arguments = vec![OsString::from("dev"), "--serve".into(), place.path(CONFIG).into()];
    if let Some(name) = fault.and_then(|fault| fault.to_possible_value()) {
        arguments.extend(["--fault".into(), name.get_name().into()]);
    }
    Daemon::start(&arguments, &place.path(LOG)).await
}

struct Tokens {
    service: Token,
    operator: Token,
}

impl Tokens {
    fn write_config(&self, place: &Place, addresses: Addresses) -> anyhow::Result<()> {
        let config = format!(
            "# Written by `keymoot dev`.\nkeyring = \"{KEYRING}\"\ndata_dir = {}\nallow_plain_packages = true\n\n{}\n{}\n{}\n\
             [[key]]\nname = \"{KEY}\"\nmax_age = \"30d\"\n",
            quoted(place.path("data").to_string_lossy()),
            addresses.section(),
            self.service.block,
            self.operator.block,
        );
        let path = place.path(CONFIG);
        if path.exists() {
            return fs::write(&path, config).context("writing the configuration");
        }
        files::write_private(&path, config.as_bytes())
    }
}

/// What is known once the first daemon listens.
struct Dev<'a> {
    place: &'a Place,
    tokens: Tokens,
    addresses: Addresses,
    options: Options,
    control: Control,
}

impl<'a> Dev<'a> {
    fn new(place: &'a Place, tokens: Tokens, addresses: Addresses) -> anyhow::Result<Self> {
        let ca_pem = Some(fs::read(place.path("data/tls-cert.pem")).context("the daemon's certificate")?);
        let options = |address: SocketAddr, token: &Token| Options {
            token: Some(token.text.clone()),
            ca_pem: ca_pem.clone(),
            ..Options::new(format!("https://{address}"))
        };
        let header = zeroize::Zeroizing::new(format!("Authorization: Bearer {}\n", &*tokens.service.text));
        files::write_private(&place.path(HEADER), header.as_bytes())?;
        Ok(Self {
            control: Control::new(&options(addresses.control, &tokens.operator))?,
            options: options(addresses.data, &tokens.service),
            place,
            tokens,
            addresses,
        })
    }

    async fn start(&self, fault: Option<Fault>) -> anyhow::Result<Daemon> {
        start(self.place, fault).await
    }

    /// Makes the keyring, unlocks, makes a sample; for a missing v9 also v10.
    async fn prepare(&self, fault: Option<Fault>) -> anyhow::Result<Vec<String>> {
        let mut holders = Vec::new();
        for name in HOLDERS {
            holders.push(HolderSpec { name: name.parse()?, recipient: None });
        }
        let request = InitRequest {
            keyring: KEYRING.parse()?,
            threshold: 2,
            holders,
            first_version: Some(KeyVersion::new(FIRST)?),
        };
        let made = self.control.init(&request).await?;
        files::create_private_dir(&self.place.path("packages"))?;
        for package in &made.packages {
            files::write_private(
                &self.parts_path(package.holder.as_str(), made.version),
                package.package.as_bytes(),
            )?;
        }
        self.unlock(&[made.version]).await?;
        let mut samples = vec![self.sample("a token").await?];
        if fault == Some(Fault::MissingV9) {
            self.rotate(made.version).await?;
            samples.push(self.sample("a token").await?);
        }
        Ok(samples)
    }

    /// v10 is made, proved, loaded and activated.
    async fn rotate(&self, before: KeyVersion) -> anyhow::Result<()> {
        let asked = self.control.request(&RequestBody::Stage(StageRequest::default())).await?;
        let mut made = None;
        for holder in HOLDERS.iter().take(2) {
            let parts = self.parts(holder, &[before])?.parts;
            made = self.control.consent(&asked.id, &ConsentRequest { digest: asked.digest, parts }).await?.version;
        }
        let version = made.context("two consents made no version")?;
        for package in &self.control.packages(version).await?.packages {
            let path = self.parts_path(package.holder.as_str(), version);
            files::write_private(&path, package.package.as_bytes())?;
        }
        for holder in HOLDERS {
            self.control.prove(&self.parts(holder, &[version])?).await?;
        }
        self.unlock(&[version]).await?;
        self.control.activate(version, &ActivateRequest::default()).await?;
        Ok(())
    }

    /// After the daemon was started again: as it was, or without v9.
    async fn unlock_again(&self, fault: Option<Fault>) -> anyhow::Result<()> {
        if fault != Some(Fault::MissingV9) {
            return self.unlock(&[KeyVersion::new(FIRST)?]).await;
        }
        let (v9, v10) = (KeyVersion::new(FIRST)?, KeyVersion::new(FIRST + 1)?);
        self.control.unlock_degraded(&DegradedRequest { missing: vec![v9] }).await?;
        self.unlock(&[v10]).await?;
        // Degraded it encrypts nothing until somebody says that this is meant.
        let override_reason = Some("keymoot dev --fault missing-v9".to_owned());
        self.control.activate(v10, &ActivateRequest { override_reason, ..ActivateRequest::default() }).await?;
        Ok(())
    }

    async fn unlock(&self, versions: &[KeyVersion]) -> anyhow::Result<()> {
        let mut state = NodeState::Sealed;
        for holder in HOLDERS.iter().take(2) {
            let answer = self.control.unlock(&self.parts(holder, versions)?).await?;
            if let Some(refused) = answer.rejected.first() {
                bail!("a share of {holder} was refused: {}", refused.detail);
            }
            state = answer.state;
        }
        if !matches!(state, NodeState::Unlocked | NodeState::Degraded) {
            bail!("the daemon is {state} after two shares");
        }
        Ok(())
    }

    fn parts_path(&self, holder: &str, version: KeyVersion) -> PathBuf {
        self.place.path("packages").join(format!("{holder}-v{version}.parts"))
    }

    fn parts(&self, holder: &str, versions: &[KeyVersion]) -> anyhow::Result<PartsRequest> {
        let mut parts = Vec::new();
        for version in versions {
            let bytes = files::read(&self.parts_path(holder, *version), PartsFile::BYTES_MAX as u64)?;
            parts.extend(PartsFile::parse(std::str::from_utf8(&bytes)?)?.lines);
        }
        Ok(PartsRequest { parts: Parts(parts) })
    }

    async fn sample(&self, text: &str) -> anyhow::Result<String> {
        let client = Client::new(&self.options)?;
        match client.encrypt(&KEY.parse()?, Base64Bytes::new(text.as_bytes().to_vec()), None).await {
            Verdict::Valid(made) => Ok(made.ciphertext),
            Verdict::Invalid(problem) => bail!("no sample was encrypted: {problem}"),
            Verdict::Undetermined(trouble) => bail!("no sample was encrypted: {trouble}"),
        }
    }

    fn ready(&self, fault: Option<Fault>, samples: Vec<String>) -> Ready {
        let [addr, control_addr] =
            [self.addresses.data, self.addresses.control].map(|address| format!("https://{address}"));
        let ca = self.place.path("data/tls-cert.pem");
        let curl = |operation: &str, field: &str, value: &str| {
            format!(
                "curl -s -i --cacert {} -H @{} {addr}/v1/keys/{KEY}/{operation} -d '{{\"{field}\":\"{value}\"}}'",
                shell(&ca),
                shell(&self.place.path(HEADER)),
            )
        };
        Ready {
            // "a token"
            curl_encrypt: curl("encrypt", "plaintext", "YSB0b2tlbg=="),
            curl_decrypt: samples.iter().map(|sample| curl("decrypt", "ciphertext", sample)).collect(),
            addr,
            control_addr,
            ca,
            key: KEY,
            service_token: self.tokens.service.text.clone(),
            operator_token: self.tokens.operator.text.clone(),
            packages: self.place.path("packages"),
            log: self.place.path(LOG),
            fault,
            expect: fault.map(Fault::expect),
            samples,
        }
    }
}
