//! `keymoot decrypt`

use anyhow::bail;
use keymoot_types::{KeyName, Value, value::BINARY_PREFIX};

use super::value::{self, AssociatedData};
use crate::{cli::Context, exit::Exit, output::note};

/// Decrypt the value on stdin, in text or binary form, and print its plaintext byte for byte
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 1 means that the value is positively invalid; 3 that nothing can be said now: try again, log nobody out.

Examples:
  keymoot decrypt auth-token < token.km
  echo km:v9:AbC… | keymoot decrypt pii --associated-data customers/17
  keymoot decrypt auth-token --rewrap --output json < token.km | jq -r .rewrapped

The token comes from --token-file, KEYMOOT_TOKEN or the profile.")]
pub(crate) struct Args {
    /// Name of the key
    key: KeyName,
    #[command(flatten)]
    associated_data: AssociatedData,
    /// Also encrypt a value of an old version anew; shown with --output json
    #[arg(long)]
    rewrap: bool,
}

/// Decrypts stdin.
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let client = context.connect.settle()?.data()?;
    let associated_data = args.associated_data.read()?;
    let ciphertext = text_form(&value::stdin()?)?;
    let verdict = if args.rewrap {
        client.decrypt_and_rewrap(&args.key, ciphertext, associated_data).await
    } else {
        client.decrypt(&args.key, ciphertext, associated_data).await
    };
    let answer = value::valid(verdict)?;
    if context.out.is_json() {
        context.out.result(&answer, |_| String::new())?;
    } else {
        context.out.bytes(&answer.plaintext)?;
        if answer.rewrapped.is_some() {
            note("the value was of an old version; --output json shows it rewrapped");
        }
    }
    Ok(Exit::Done)
}

/// As the API takes it. What is malformed in text is the node's to say; what is no text can't even be sent.
fn text_form(input: &[u8]) -> anyhow::Result<String> {
    if input.starts_with(BINARY_PREFIX)
        && let Ok(value) = Value::parse_binary(input)
    {
        return Ok(value.to_text());
    }
    match std::str::from_utf8(input) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(_) => bail!("the input is neither a value in text nor one in binary form"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_sent_as_text() {
        let value = Value::from_parts("9".parse().unwrap(), [&[1][..], &[7; 40]].concat()).unwrap();
        assert_eq!(text_form(&value.to_binary()).unwrap(), value.to_text());
        assert_eq!(text_form(format!("{}\n", value.to_text()).as_bytes()).unwrap(), value.to_text());
        assert_eq!(text_form(b"junk").unwrap(), "junk");
        assert!(text_form(b"KM\x01\xff").is_err());
    }
}
