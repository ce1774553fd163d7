//! A holder's age identity: a file that is itself encrypted under a passphrase, unless that was declined.

use std::path::Path;

use age::{
    scrypt,
    secrecy::{ExposeSecret as _, SecretString},
    x25519,
};
use anyhow::{Context as _, bail};
use keymoot_types::Wiped;
use zeroize::Zeroizing;

use crate::{exit::wrong_usage, files};

const VARIABLE: &str = "KEYMOOT_PASSPHRASE";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What every age file begins with, armored and not.
const ARMORED: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const BINARY: &[u8] = b"age-encryption.org/v1";
const SECRET_PREFIX: &str = "AGE-SECRET-KEY-1";

/// Whether bytes are an age file.
pub(crate) fn is_age_file(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    bytes.starts_with(ARMORED) || bytes.starts_with(BINARY)
}

/// Where a passphrase comes from, in this order: a file, the environment, a question.
pub(crate) fn passphrase(file: Option<&Path>, twice: bool) -> anyhow::Result<SecretString> {
    if let Some(file) = file {
        let bytes = files::read(file, FILE_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).context("the passphrase file is not text")?;
        return not_empty(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Ok(text) = std::env::var(VARIABLE) {
        return not_empty(text);
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new);
    let first = ask("Passphrase: ").map_err(|error| {
        wrong_usage(format!(
            "no passphrase: no terminal to ask on ({error}), and neither {VARIABLE} nor --passphrase-file"
        ))
    })?;
    if twice && *ask("Again: ")? != *first {
        bail!("the two passphrases differ: nothing was made, so try again");
    }
    not_empty(first.to_string())
}

fn not_empty(text: String) -> anyhow::Result<SecretString> {
    if text.is_empty() {
        return Err(wrong_usage("the passphrase is empty; --no-passphrase says that none is wanted"));
    }
    Ok(SecretString::from(text))
}

/// The text of an identity file.
pub(crate) fn write(
    identity: &x25519::Identity,
    passphrase: Option<SecretString>,
) -> anyhow::Result<Zeroizing<String>> {
    let recipient = identity.to_public();
    let secret = identity.to_string();
    let text = Zeroizing::new(format!("# public key: {recipient}\n{}\n", secret.expose_secret()));
    match passphrase {
        None => Ok(text),
        Some(passphrase) => {
            let recipient = scrypt::Recipient::new(passphrase);
            Ok(Zeroizing::new(age::encrypt_and_armor(&recipient, text.as_bytes())?))
        }
    }
}

/// Reads an identity file; `passphrase` is asked for only if it is encrypted.
pub(crate) fn read(
    path: &Path,
    passphrase: impl FnOnce() -> anyhow::Result<SecretString>,
) -> anyhow::Result<x25519::Identity> {
    let bytes = files::read(path, FILE_BYTES_MAX)?;
    let bytes = if is_age_file(&bytes) {
        let identity = scrypt::Identity::new(passphrase()?);
        let opened = age::decrypt(&identity, &bytes)
            .with_context(|| format!("{} does not open: a wrong passphrase, or another file", path.display()))?;
        Wiped::from(opened)
    } else {
        files::warn_if_readable_by_others(path);
        bytes
    };
    let text = std::str::from_utf8(&bytes).ok();
    let line = text.and_then(|text| text.lines().map(str::trim).find(|line| line.starts_with(SECRET_PREFIX)));
    // The parser's message is of no use to a person, and the line is secret.
    line.and_then(|line| line.parse().ok()).with_context(|| format!("{} is no age identity file", path.display()))
}

/// Opens a package, armored or not.
pub(crate) fn open(identity: &x25519::Identity, package: &[u8]) -> anyhow::Result<Wiped> {
    age::decrypt(identity, package)
        .map(Wiped::from)
        .context("the package does not open: it was made for another recipient, or is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_opens_what_was_sealed_to_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (x25519::Identity::generate(), x25519::Identity::generate());
        let path = dir.path().join("identity");
        files::write_private(&path, write(&ours, None).unwrap().as_bytes()).unwrap();
        let read_back = read(&path, || bail!("not encrypted")).unwrap();
        let package = age::encrypt_and_armor(&ours.to_public(), b"parts").unwrap();
        assert_eq!(&**open(&read_back, package.as_bytes()).unwrap(), b"parts");
        assert!(open(&other, package.as_bytes()).is_err());
    }

    #[test]
    fn a_passphrase_protects_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let identity = x25519::Identity::generate();
        let path = dir.path().join("identity");
        let text = write(&identity, Some(SecretString::from("right"))).unwrap();
        assert!(is_age_file(text.as_bytes()) && !text.contains(SECRET_PREFIX));
        files::write_private(&path, text.as_bytes()).unwrap();
        let read_back = read(&path, || Ok(SecretString::from("right"))).unwrap();
        assert_eq!(read_back.to_public().to_string(), identity.to_public().to_string());
        assert!(read(&path, || Ok(SecretString::from("wrong"))).is_err());
    }
}
