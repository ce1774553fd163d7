//! `keymoot token`

use anyhow::anyhow;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use keymoot_types::KeyName;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    cli::Context,
    exit::{Exit, wrong_usage},
};

const PREFIX: &str = "km_";
const RANDOM_BYTES: usize = 32;

/// Tokens for services, operators and auditors
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token: print it once, and the block for the configuration, which has only its digest
    #[command(after_help = "\
Examples:
  keymoot token create --name billing --role service --key auth-token --operation encrypt --operation decrypt
  keymoot token create --name ops --role operator")]
    Create(Create),
}

/// What the token is for.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Name of the caller, as it stands in the audit log
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: Role,
    /// A key that a service may use; repeat it for each
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<KeyName>,
    /// What a service may do with its keys; repeat it for each [default: encrypt and decrypt]
    #[arg(long = "operation", value_enum, value_name = "OPERATION")]
    operations: Vec<Operation>,
    /// When it ends, such as 2027-06-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Service,
    Operator,
    Auditor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Encrypt,
    Decrypt,
    Rewrap,
    /// Makes and opens data keys; whoever may open them may open the envelopes of that key too
    #[value(name = "datakey")]
    DataKey,
}

/// A `[[token]]` block.
#[derive(Serialize)]
struct Block {
    name: String,
    role: Role,
    sha256: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<KeyName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

#[derive(Serialize)]
struct Document<'a> {
    token: &'a str,
    config: &'a Block,
    toml: &'a str,
}

/// Makes a token. Nothing is sent anywhere.
pub(crate) fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let Command::Create(create) = command;
    let service = create.role == Role::Service;
    if service == create.keys.is_empty() {
        let what = if service { "a service needs --key" } else { "--key is for services only" };
        return Err(wrong_usage(what));
    }
    if !service && !create.operations.is_empty() {
        return Err(wrong_usage("--operation is for services only"));
    }
    let operations = match (service, create.operations.is_empty()) {
        (true, true) => vec![Operation::Encrypt, Operation::Decrypt],
        _ => create.operations,
    };
    let token = new_token()?;
    let sha256 = hex::encode(Sha256::digest(token.as_bytes()));
    let block = Block {
        name: create.name,
        role: create.role,
        sha256,
        keys: create.keys,
        operations,
        expires: create.expires,
    };
    let toml = format!("[[token]]\n{}", toml::to_string(&block)?);
    let document = Document { token: &token, config: &block, toml: &toml };
    context.out.result(&document, |document| {
        format!(
            "# Shown once; give it to {} and keep it nowhere else:\n{}\n\n# For the configuration, then reload:\n{}",
            document.config.name, document.token, document.toml
        )
    })?;
    Ok(Exit::Done)
}

/// `km_` and 43 base64url characters.
pub(crate) fn new_token() -> anyhow::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(bytes.as_mut()).map_err(|error| anyhow!("the kernel gives no randomness: {error}"))?;
    let mut token = Zeroizing::new(PREFIX.to_owned());
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut token);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_km_and_43_characters_and_never_the_same() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(one.len(), 3 + 43);
        assert!(one.starts_with("km_") && one != other);
    }
}
