//! `keymoot encrypt`

use keymoot_api::Base64Bytes;
use keymoot_types::KeyName;

use super::value::{self, AssociatedData};
use crate::{cli::Context, exit::Exit};

/// Encrypt stdin, byte for byte, and print the value
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  printf 4111111111111111 | keymoot encrypt pii --associated-data customers/17
  keymoot encrypt auth-token < token.bin > token.km")]
pub(crate) struct Args {
    /// Name of the key
    key: KeyName,
    #[command(flatten)]
    associated_data: AssociatedData,
}

/// Encrypts stdin.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let client = context.connect.settle()?.data()?;
    let associated_data = args.associated_data.read()?;
    let plaintext = Base64Bytes::new(value::stdin()?);
    let answer = value::valid(client.encrypt(&args.key, plaintext, associated_data).await)?;
    context.out.result(&answer, |answer| answer.ciphertext.clone())?;
    Ok(Exit::Done)
}
