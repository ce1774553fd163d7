//! `keymoot certificate`

mod page;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use keymoot_types::{Digest, certificate::Certificate};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::{cli::Context, exit::Exit, files, output::printable};

const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Certificates of retirements: what was found, and what was not looked at
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them, each on a line of its own, as they were signed
    #[command(after_help = "Example:\n  keymoot certificate list | tail -n 1 > v9.json")]
    List,
    /// Verify a certificate under a public key that was pinned before
    #[command(after_help = "\
The public key of every version stands in the manifest (`keymoot inspect`); keep it where nobody can replace it.

Example:
  keymoot certificate verify v9.json --key 8f3c…")]
    Verify {
        /// File with one certificate
        file: PathBuf,
        /// Public key of the version that signed, as 64 hex digits or in base64
        #[arg(long, value_name = "PINNED", value_parser = public_key)]
        key: [u8; 32],
    },
    /// Make a page of a certificate, to print or to file: HTML that needs nothing else, on stdout
    #[command(after_help = "\
With the pinned key the page is made of a verified certificate only, and says so.

Example:
  keymoot certificate print v9.json --key 8f3c… > v9.html")]
    Print {
        /// File with one certificate
        file: PathBuf,
        /// Public key of the version that signed, as 64 hex digits or in base64
        #[arg(long, value_name = "PINNED", value_parser = public_key)]
        key: Option<[u8; 32]>,
    },
}

/// What is signed, beside its signature.
#[derive(Deserialize)]
struct Signed {
    certificate: Json,
    signature: String,
}

/// Lists or verifies.
pub(crate) async fn run(context: &Context, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::List => {
            let control = context.connect.settle()?.control()?;
            let answer = control.certificates().await.context("asking for the certificates")?;
            context.out.result(&answer, |answer| {
                answer.certificates.iter().map(|certificate| format!("{certificate}\n")).collect()
            })?;
        }
        Command::Print { file, key } => {
            let bytes = files::read(file, FILE_BYTES_MAX)?;
            let page = print(&bytes, key.as_ref()).with_context(|| file.display().to_string())?;
            context.out.raw(&page)?;
        }
        Command::Verify { file, key } => {
            let bytes = files::read(file, FILE_BYTES_MAX)?;
            let certificate = verify(&bytes, key).with_context(|| file.display().to_string())?;
            let result = json!({"valid": true, "certificate": certificate});
            context.out.result(&result, |_| {
                let field = |name: &str| printable(&certificate.get(name).unwrap_or(&Json::Null).to_string());
                format!(
                    "the signature is right: v{} of {} was retired at {}; not looked at: {}\n",
                    field("version"),
                    field("keyring"),
                    field("retired_at"),
                    field("not_looked_at")
                )
            })?;
        }
    }
    Ok(Exit::Done)
}

/// One certificate's page.
fn print(bytes: &[u8], key: Option<&[u8; 32]>) -> anyhow::Result<String> {
    let signed: Signed = serde_json::from_slice(bytes).context("it is no signed certificate")?;
    if let Some(key) = key {
        verify(bytes, key)?;
    }
    let certificate: Certificate =
        serde_json::from_value(signed.certificate.clone()).context("it is no certificate")?;
    page::page(&page::Signed {
        certificate: &certificate,
        as_signed: &signed.certificate,
        signature: &signed.signature,
        verified_by: key,
    })
}

/// The manifest has it in hex, a certificate in base64.
pub(crate) fn public_key(text: &str) -> Result<[u8; 32], String> {
    let from_base64 = || STANDARD.decode(text).ok()?.try_into().ok();
    let key = text.parse::<Digest>().ok().map(|digest| *digest.as_bytes()).or_else(from_base64);
    key.ok_or_else(|| "a public key is 32 bytes, as 64 lower-case hex digits or in base64".into())
}

fn verify(bytes: &[u8], key: &[u8; 32]) -> anyhow::Result<Json> {
    let signed: Signed = serde_json::from_slice(bytes).context("it is no signed certificate")?;
    let signature: [u8; 64] = STANDARD
        .decode(&signed.signature)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .context("its signature is not 64 bytes in base64")?;
    let canonical = serde_json_canonicalizer::to_vec(&signed.certificate)?;
    if !keymoot_keyring::verify_signature(key, &canonical, &signature) {
        bail!("the signature is wrong: another key signed it, or it was changed");
    }
    // The same key signs other things, such as the head of an audit log.
    let _shape: Certificate =
        serde_json::from_value(signed.certificate.clone()).context("what is signed is no certificate")?;
    Ok(signed.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_signed_is_not_shown() {
        let key = public_key(&"0".repeat(64)).unwrap();
        assert_eq!(public_key(&STANDARD.encode([0; 32])), Ok(key));
        assert!(verify(b"{}", &key).is_err());
        let unsigned = json!({"certificate": {"version": 9}, "signature": STANDARD.encode([0; 64])});
        assert!(verify(unsigned.to_string().as_bytes(), &key).is_err());
    }
}
