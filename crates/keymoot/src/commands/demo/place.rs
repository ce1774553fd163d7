//! The directory of a daemon that is tried out, and the configuration in it.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::{commands::token::new_token, exit::wrong_usage, files};

/// A daemon that was just killed may still hold the directory for moments.
const REMOVE_TRIES: u32 = 40;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// A directory for its owner alone: a temporary one goes with this value, one that was named stays.
pub(crate) struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Place {
    /// A new temporary directory.
    pub(crate) fn temporary(purpose: &str) -> anyhow::Result<Self> {
        let mut random = [0; 6];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("the kernel gives no randomness: {error}"))?;
        let dir = std::env::temp_dir().join(format!("keymoot-{purpose}-{}", hex::encode(random)));
        files::create_private_dir(&dir)?;
        Ok(Self { dir: fs::canonicalize(&dir)?, temporary: true })
    }

    /// The directory that was named; nothing that is there already is touched.
    pub(crate) fn named(dir: &Path) -> anyhow::Result<Self> {
        files::create_private_dir(dir)?;
        let dir = fs::canonicalize(dir).with_context(|| format!("can't use {}", dir.display()))?;
        if let Some(entry) = fs::read_dir(&dir)?.next() {
            let found = entry?.file_name();
            let (dir, found) = (dir.display(), found.to_string_lossy());
            return Err(wrong_usage(format!("{dir} is not empty ({found} is there): name a new directory")));
        }
        Ok(Self { dir, temporary: false })
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether it stays.
    pub(crate) fn stays(&self) -> bool {
        !self.temporary
    }

    /// Removes a temporary directory, once nobody writes into it any more.
    pub(crate) async fn remove(self) {
        for _ in 0..REMOVE_TRIES {
            if !self.temporary || fs::remove_dir_all(&self.dir).or_else(gone).is_ok() {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            fs::remove_dir_all(&self.dir).unwrap_or_default();
        }
    }
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A text as TOML writes it.
pub(crate) fn quoted(text: impl AsRef<str>) -> String {
    toml::Value::String(text.as_ref().into()).to_string()
}

/// Where a daemon listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// For services.
    pub(crate) data: SocketAddr,
    /// For people.
    pub(crate) control: SocketAddr,
}

impl Addresses {
    /// Loopback, on ports that the kernel chooses.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { data: any, control: any }
    }

    /// The section of the configuration.
    pub(crate) fn section(&self) -> String {
        format!("[listen]\ndata = \"{}\"\ncontrol = \"{}\"\n", self.data, self.control)
    }
}

/// A token made for this run; the configuration has only its digest.
pub(crate) struct Token {
    pub(crate) text: keymoot_api::SecretText,
    pub(crate) block: String,
}

impl Token {
    /// An operator's.
    pub(crate) fn operator(name: &str) -> anyhow::Result<Self> {
        Self::new(name, "operator", "")
    }

    /// A service's, for all operations of one key.
    pub(crate) fn service(name: &str, key: &str) -> anyhow::Result<Self> {
        let scope = format!(
            "keys = [{}]\noperations = [\"encrypt\", \"decrypt\", \"rewrap\", \"datakey\"]\n",
            quoted(key)
        );
        Self::new(name, "service", &scope)
    }

    fn new(name: &str, role: &str, scope: &str) -> anyhow::Result<Self> {
        let token = new_token()?;
        let sha256 = hex::encode(Sha256::digest(token.as_bytes()));
        let name = quoted(name);
        let block = format!("[[token]]\nname = {name}\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{scope}");
        Ok(Self { text: token.into(), block })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_goes_and_a_named_one_stays() {
        let temporary = Place::temporary("test").unwrap();
        let path = temporary.dir().to_owned();
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());

        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("named");
        drop(Place::named(&path).unwrap());
        assert!(path.is_dir());
        fs::write(path.join("app.db"), "somebody's").unwrap();
        assert!(Place::named(&path).is_err());
        assert_eq!(fs::read(path.join("app.db")).unwrap(), b"somebody's");
    }

    #[test]
    fn a_path_can_hold_quotes_and_the_configuration_stays_one() {
        assert_eq!(
            toml::from_str::<toml::Table>(&format!("a = {}", quoted("x\"\\y"))).unwrap()["a"].as_str(),
            Some("x\"\\y")
        );
    }
}
