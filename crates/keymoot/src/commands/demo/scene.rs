//! What the demo has in its hands, and the configuration that it writes.

use std::{ffi::OsString, fs, path::Path};

use anyhow::Context as _;
use keymoot_client::{Control, Options};
use keymoot_types::{KeyName, KeyVersion, KeyringId};

use super::{
    clients::Clients,
    daemon::Daemon,
    database::{Database, Row},
    holders::Holders,
    place::{Addresses, Place, Token, quoted},
    story::Story,
};
use crate::files;

pub(crate) const KEYRING: &str = "demo";
pub(crate) const KEY: &str = "auth-token";
pub(crate) const LOG: &str = "keymoot.log";
pub(crate) const THRESHOLD: u8 = 2;
const CONFIG: &str = "keymoot.toml";
const DATABASE: &str = "app.db";

/// Everything that takes part.
pub(crate) struct Scene<'a> {
    pub(crate) place: &'a Place,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) options: Options,
    pub(crate) control: Control,
    pub(crate) key: KeyName,
    pub(crate) v9: KeyVersion,
    pub(crate) v10: KeyVersion,
    pub(crate) holders: Holders,
    pub(crate) database: Database,
    pub(crate) clients: Option<Clients>,
    pub(crate) records: u64,
    /// A token as it was at first, as if from a backup.
    pub(crate) old_copy: Option<Row>,
    pub(crate) keyring_id: Option<KeyringId>,
    pub(crate) replaced_by_worker: u64,
    pub(crate) conflicts: u64,
}

impl<'a> Scene<'a> {
    /// Writes the configuration and starts the daemon.
    pub(crate) async fn open(place: &'a Place, story: &mut Story) -> anyhow::Result<Self> {
        story.phase("start", "A daemon is started. It has no key yet.");
        // The users' database is there before any key.
        let database = Database::create(&place.path(DATABASE))?;
        let (service, operator) = (Token::service("web", KEY)?, Token::operator("ops")?);
        let config = place.path(CONFIG);
        files::write_private(&config, configuration(place, Addresses::any(), &service, &operator).as_bytes())?;
        let daemon = start(place).await?;
        // The ports that it was given, for the restart and for whoever reads the file later.
        let addresses = daemon.addresses();
        fs::write(&config, configuration(place, addresses, &service, &operator))?;
        let ca = fs::read(place.path("data/tls-cert.pem")).context("the daemon's certificate")?;
        let options = |address: std::net::SocketAddr, token: &Token| Options {
            token: Some(token.text.clone()),
            ca_pem: Some(ca.clone()),
            ..Options::new(format!("https://{address}"))
        };
        story.say(format!(
            "Process {} listens with TLS: services on {}, people on {}.",
            daemon.id(),
            addresses.data,
            addresses.control
        ));
        story.say(
            "For the demo an unused key may go after 2 s (retire.quiet, in production 24h), and a writer may hold",
        );
        story.say("a value for 1 s before it stores it (max_write_delay, in production 10m).");
        Ok(Self {
            place,
            options: options(addresses.data, &service),
            control: Control::new(&options(addresses.control, &operator))?,
            daemon: Some(daemon),
            key: KEY.parse()?,
            v9: KeyVersion::new(9)?,
            v10: KeyVersion::new(10)?,
            holders: Holders::new()?,
            database,
            clients: None,
            records: 0,
            old_copy: None,
            keyring_id: None,
            replaced_by_worker: 0,
            conflicts: 0,
        })
    }

    pub(crate) fn database_path(&self) -> std::path::PathBuf {
        self.place.path(DATABASE)
    }

    pub(crate) fn clients(&self) -> anyhow::Result<&Clients> {
        self.clients.as_ref().context("the services have not begun")
    }
}

/// Starts the daemon by its configuration, as anybody would.
pub(crate) async fn start(place: &Place) -> anyhow::Result<Daemon> {
    let arguments = [OsString::from("server"), "--config".into(), place.path(CONFIG).into()];
    Daemon::start(&arguments, &place.path(LOG)).await
}

fn configuration(place: &Place, addresses: Addresses, service: &Token, operator: &Token) -> String {
    let path = |path: &Path| quoted(path.to_string_lossy());
    format!(
        "# Written by `keymoot demo`.\n\
         keyring  = \"{KEYRING}\"\n\
         data_dir = {data_dir}\n\n\
         {listen}\n\
         [retire]\n\
         quiet           = \"2s\"    # in production 24h\n\
         max_write_delay = \"1s\"    # in production 10m\n\
         hold            = \"90d\"\n\n\
         {service}\n{operator}\n\
         [[key]]\n\
         name            = \"{KEY}\"\n\
         only_in_sources = true\n\n\
         [[source]]\n\
         name            = \"tokens\"\n\
         url             = {url}\n\
         table           = \"tokens\"\n\
         id              = \"id\"\n\
         column          = \"token\"\n\
         key             = \"{KEY}\"\n\
         associated_data = \"tokens/{{id}}\"\n",
        data_dir = path(&place.path("data")),
        listen = addresses.section(),
        service = service.block,
        operator = operator.block,
        url = quoted(format!("sqlite://{}", place.path(DATABASE).display())),
    )
}
