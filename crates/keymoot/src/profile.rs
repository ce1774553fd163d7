//! Where to connect: flags, then the environment, then the profile file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use keymoot_api::SecretText;
use keymoot_client::{Client, Control, Options};
use keymoot_types::KeyringId;
use serde::Deserialize;

use crate::{exit::wrong_usage, files};

const DATA_ADDR: &str = "https://127.0.0.1:8200";
const CONTROL_ADDR: &str = "https://127.0.0.1:8201";
const TOKEN_VARIABLE: &str = "KEYMOOT_TOKEN";

/// Where to connect. What is not given here or in the environment comes from the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// Address of the data API [default: https://127.0.0.1:8200]
    #[arg(long, env = "KEYMOOT_ADDR", value_name = "URL", global = true)]
    pub(crate) addr: Option<String>,
    /// Address of the control API [default: https://127.0.0.1:8201]
    #[arg(long, env = "KEYMOOT_CONTROL_ADDR", value_name = "URL", global = true)]
    pub(crate) control_addr: Option<String>,
    /// File with the token; otherwise KEYMOOT_TOKEN is used. A token is never an argument
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Keyring id that commands are meant for, as `keymoot status` shows it; a node of another keyring refuses them
    #[arg(long, env = "KEYMOOT_KEYRING_ID", value_name = "ID", global = true)]
    pub(crate) keyring_id: Option<KeyringId>,
    /// PEM file of the certificates to trust, such as the node's data_dir/tls-cert.pem [default: the system's]
    #[arg(long, env = "KEYMOOT_CA", value_name = "FILE", global = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Profile: TOML with addr, control_addr, token_file, keyring_id, ca, nodes [default: ~/.config/keymoot/profile.toml]
    #[arg(long, env = "KEYMOOT_PROFILE", value_name = "FILE", global = true)]
    pub(crate) profile: Option<PathBuf>,
}

/// The profile file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    addr: Option<String>,
    control_addr: Option<String>,
    token_file: Option<PathBuf>,
    keyring_id: Option<KeyringId>,
    ca: Option<PathBuf>,
    #[serde(default)]
    nodes: Vec<String>,
}

/// Where to connect, settled.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    addr: String,
    control_addr: String,
    token: Option<SecretText>,
    keyring_id: Option<KeyringId>,
    ca_pem: Option<Vec<u8>>,
    nodes: Vec<String>,
}

impl ConnectArgs {
    /// Settles where to connect.
    pub(crate) fn settle(&self) -> anyhow::Result<Connection> {
        let profile = self.read_profile()?;
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()).map(SecretText::new);
        self.settle_with(profile, token)
    }

    fn settle_with(&self, profile: Profile, from_env: Option<SecretText>) -> anyhow::Result<Connection> {
        let token = match (&self.token_file, from_env, &profile.token_file) {
            (Some(file), _, _) => Some(read_token(file)?),
            (None, Some(token), _) => Some(token),
            (None, None, Some(file)) => Some(read_token(file)?),
            (None, None, None) => None,
        };
        let ca_pem = match self.ca.as_ref().or(profile.ca.as_ref()) {
            Some(file) => Some(files::read(file, files::CONFIGURATION_BYTES_MAX).map_err(configuration)?.to_vec()),
            None => None,
        };
        // A control address on the command line or in the environment means that node and no other.
        let nodes = if self.control_addr.is_some() { vec![] } else { profile.nodes };
        let control_addr = self
            .control_addr
            .clone()
            .or(profile.control_addr)
            .or_else(|| nodes.first().cloned())
            .unwrap_or_else(|| CONTROL_ADDR.into());
        let addr = self.addr.clone().or(profile.addr).unwrap_or_else(|| DATA_ADDR.into());
        let keyring_id = self.keyring_id.or(profile.keyring_id);
        Ok(Connection { addr, control_addr, token, keyring_id, ca_pem, nodes })
    }

    fn read_profile(&self) -> anyhow::Result<Profile> {
        let (path, must_exist) = match &self.profile {
            Some(path) => (path.clone(), true),
            None => match home_profile() {
                Some(path) => (path, false),
                None => return Ok(Profile::default()),
            },
        };
        if !must_exist && !path.exists() {
            return Ok(Profile::default());
        }
        let bytes = files::read(&path, files::CONFIGURATION_BYTES_MAX).map_err(configuration)?;
        let parse = || -> anyhow::Result<Profile> { Ok(toml::from_str(std::str::from_utf8(&bytes)?)?) };
        parse().map_err(|error| wrong_usage(format!("{}: {error:#}", path.display())))
    }
}

impl Connection {
    /// The data API.
    pub(crate) fn data(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&self.options(&self.addr))?)
    }

    /// The control API of the one node.
    pub(crate) fn control(&self) -> anyhow::Result<Control> {
        self.control_of(&self.control_addr)
    }

    /// The control API of a named node.
    pub(crate) fn control_of(&self, addr: &str) -> anyhow::Result<Control> {
        Ok(Control::new(&self.options(addr))?)
    }

    /// Every node that a ceremony goes to, once: those named, else those of the profile, else the one.
    pub(crate) fn nodes(&self, named: &[String]) -> Vec<String> {
        let nodes = match (named, self.nodes.as_slice()) {
            ([], []) => std::slice::from_ref(&self.control_addr),
            ([], nodes) => nodes,
            (named, _) => named,
        };
        let mut once: Vec<String> = Vec::new();
        for node in nodes.iter().filter(|node| !node.is_empty()) {
            if !once.contains(node) {
                once.push(node.clone());
            }
        }
        once
    }

    fn options(&self, addr: &str) -> Options {
        Options {
            token: self.token.clone(),
            keyring_id: self.keyring_id,
            ca_pem: self.ca_pem.clone(),
            ..Options::new(addr)
        }
    }
}

fn home_profile() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("keymoot").join("profile.toml"))
}

fn read_token(file: &Path) -> anyhow::Result<SecretText> {
    let bytes = files::read(file, files::CONFIGURATION_BYTES_MAX).map_err(configuration)?;
    let text = std::str::from_utf8(&bytes)
        .context("it is not text")
        .map_err(|error| wrong_usage(format!("{}: {error:#}", file.display())))?
        .trim();
    if text.is_empty() {
        return Err(wrong_usage(format!("{}: there is no token in it", file.display())));
    }
    files::warn_if_readable_by_others(file);
    Ok(SecretText::new(text))
}

fn configuration(error: anyhow::Error) -> anyhow::Error {
    wrong_usage(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        toml::from_str(
            "addr = \"https://p:1\"\ncontrol_addr = \"https://p:2\"\nnodes = [\"https://a\", \"https://b\"]",
        )
        .unwrap()
    }

    #[test]
    fn flags_and_environment_come_before_the_profile_and_the_profile_before_the_default() {
        let settled = ConnectArgs::default().settle_with(Profile::default(), None).unwrap();
        assert_eq!((settled.addr.as_str(), settled.control_addr.as_str()), (DATA_ADDR, CONTROL_ADDR));
        let settled = ConnectArgs::default().settle_with(profile(), None).unwrap();
        assert_eq!((settled.addr.as_str(), settled.control_addr.as_str()), ("https://p:1", "https://p:2"));
        let arguments = ConnectArgs { addr: Some("https://f:1".into()), ..ConnectArgs::default() };
        let settled = arguments.settle_with(profile(), None).unwrap();
        assert_eq!((settled.addr.as_str(), settled.control_addr.as_str()), ("https://f:1", "https://p:2"));
    }

    #[test]
    fn a_keyring_id_given_comes_before_the_profiles() {
        let profile: Profile = toml::from_str("keyring_id = \"5479101ec1821850\"").unwrap();
        let settled = |arguments: ConnectArgs| arguments.settle_with(profile.clone(), None).unwrap().keyring_id;
        assert_eq!(
            settled(ConnectArgs::default()),
            Some(KeyringId::new([0x54, 0x79, 0x10, 0x1e, 0xc1, 0x82, 0x18, 0x50]))
        );
        let given = Some(KeyringId::new([7; 8]));
        assert_eq!(settled(ConnectArgs { keyring_id: given, ..ConnectArgs::default() }), given);
    }

    #[test]
    fn a_token_file_comes_before_the_environment_and_that_before_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("km_{name}\n")).unwrap();
            path
        };
        let flag = ConnectArgs { token_file: Some(write("flag")), ..ConnectArgs::default() };
        let profile = Profile { token_file: Some(write("profile")), ..Profile::default() };
        let token = |arguments: &ConnectArgs, env: Option<&str>| {
            let settled = arguments.settle_with(profile.clone(), env.map(SecretText::new)).unwrap();
            settled.token.unwrap().to_string()
        };
        assert_eq!(token(&flag, Some("km_env")), "km_flag");
        assert_eq!(token(&ConnectArgs::default(), Some("km_env")), "km_env");
        assert_eq!(token(&ConnectArgs::default(), None), "km_profile");
    }

    #[test]
    fn a_ceremony_goes_to_the_nodes_named_else_the_profiles_else_the_one() {
        let named = ["https://n".to_owned(), "https://n".to_owned()];
        let settled = ConnectArgs::default().settle_with(profile(), None).unwrap();
        assert_eq!(settled.nodes(&named), ["https://n"]);
        assert_eq!(settled.nodes(&[]), ["https://a", "https://b"]);
        let one = ConnectArgs { control_addr: Some("https://c".into()), ..ConnectArgs::default() };
        assert_eq!(one.settle_with(profile(), None).unwrap().nodes(&[]), ["https://c"]);
    }

    #[test]
    fn a_profile_with_a_field_that_does_not_exist_is_refused() {
        assert!(toml::from_str::<Profile>("address = \"x\"").is_err());
    }
}
