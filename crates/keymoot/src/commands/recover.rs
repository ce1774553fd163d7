//! `keymoot recover`

mod search;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_keyring::{Keyring, OpenError, key_check::share_digest};
use keymoot_types::{
    KeyName, Share, Value, Wiped,
    manifest::ManifestDocument,
    part::PartName,
    value::{BINARY_PREFIX, BodyKind, TEXT_PREFIX, ValueError},
};
use serde::Serialize;
use zeroize::Zeroizing;

use self::search::{Found, Groups, NotFound, Witness, by_manifest, by_value};
use super::value::AssociatedData;
use crate::{
    cli::Context,
    exit::{Exit, wrong_usage},
    files,
    output::{note, printable},
};

/// The longest witness and the longest list of values.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Decrypt without a daemon, from enough shares and a witness that proves them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Works offline, without manifest or network, and never prints a key. The witness shows that the rebuilt root key is the
right one: a value taken from your database (with its key and associated data), or a manifest. Repeat --witness for
each version. Values come one a line, each optionally with a tab and its own associated data; each gives one line of
base64, or \"! reason\". Wrapped data keys are opened too. Without --key nothing is read: the shares are proved, no more.

Exit code 1: a value is positively invalid, or a share is damaged. 3: nothing can be said yet; more shares are needed.

Examples:
  keymoot recover --parts ann.parts --parts bob.parts --witness km:v9:AbC… --key auth-token < values.txt
  keymoot recover --parts ann.parts bob.parts --witness manifest.json
  echo km:v9:AbC… | keymoot recover --parts ann.parts bob.parts --witness manifest.json --key pii \\
      --associated-data customers/17 --raw")]
pub(crate) struct Args {
    /// Parts files, at least one; - is stdin
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    parts: Vec<PathBuf>,
    /// A genuine value (km:v9:…), or a file with one or with a manifest; repeat it for more versions
    #[arg(long = "witness", value_name = "VALUE|FILE", required = true)]
    witnesses: Vec<String>,
    /// Name of the values' key
    #[arg(long, value_name = "NAME")]
    key: Option<KeyName>,
    #[command(flatten)]
    associated_data: AssociatedData,
    /// The witness's key, where it is another
    #[arg(long, value_name = "NAME")]
    witness_key: Option<KeyName>,
    /// What the witness is bound to, where that is something else
    #[arg(long, value_name = "TEXT")]
    witness_associated_data: Option<String>,
    /// Values, one a line; - is stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    values: PathBuf,
    /// Prove the shares and read no values
    #[arg(long, conflicts_with = "values")]
    prove: bool,
    /// Print the plaintext of a single value byte for byte
    #[arg(long, conflicts_with = "prove")]
    raw: bool,
}

#[derive(Serialize)]
struct Recovered {
    versions: Vec<RecoveredVersion>,
    values: Vec<Line>,
}

#[derive(Serialize)]
struct RecoveredVersion {
    version: keymoot_types::KeyVersion,
    key_id: keymoot_types::KeyId,
    threshold: u8,
    /// The x of the shares that are proved.
    right: Vec<u8>,
    /// Of those that belong to another key or share set, or were altered.
    wrong: Vec<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<keymoot_types::HolderName>,
}

/// One value: its plaintext in base64, or why there is none.
#[derive(Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    plaintext: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

fn as_text<S: serde::Serializer>(text: &Option<Zeroizing<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_some(text.as_deref().map(String::as_str).unwrap_or_default())
}

/// Proves the shares and decrypts.
pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    check_usage(context, args)?;
    // Root keys are about to lie in this process.
    keymoot_server::memory::forbid_dumps()?;
    let own = args.associated_data.read()?;
    let associated_data: &[u8] = own.as_deref().unwrap_or_default();
    let (groups, mut exit) = read_parts(&args.parts)?;
    let (found, lacking) = prove(args, &groups, associated_data)?;
    if lacking {
        exit = worse(exit, Exit::TryAgain);
    }
    if found.is_empty() {
        return Ok(worse(exit, Exit::TryAgain));
    }
    let versions: Vec<_> = found.iter().map(describe).collect();
    for version in &versions {
        note(sentence(version));
    }
    let mut recovered = Recovered { versions, values: vec![] };
    if let (Some(key), false) = (&args.key, args.prove) {
        let keyring = Keyring::new(
            found.into_iter().map(|found| Arc::new(found.validated)),
            None,
            std::slice::from_ref(key),
        );
        let text = files::read(&args.values, FILE_BYTES_MAX)?;
        if args.raw {
            let plaintext = open_single(&keyring, key, &text, associated_data)?;
            return match plaintext {
                Ok(plaintext) => context.out.bytes(&plaintext).map(|()| exit),
                Err(line) => {
                    note(format!("error: {}", line.error.unwrap_or_default()));
                    Ok(line.exit)
                }
            };
        }
        for line in lines(&text) {
            let line = match open(&keyring, key, line, associated_data) {
                Ok(plaintext) => Line {
                    plaintext: Some(Zeroizing::new(STANDARD.encode(&*plaintext))),
                    error: None,
                    exit: Exit::Done,
                },
                Err(line) => line,
            };
            exit = worse(exit, line.exit);
            recovered.values.push(line);
        }
    }
    context.out.result(&recovered, |recovered| recovered.values.iter().map(text_of).collect())?;
    Ok(exit)
}

fn check_usage(context: &Context, args: &Args) -> anyhow::Result<()> {
    let stdin = Path::new("-");
    let reads_values = args.key.is_some() && !args.prove;
    let from_stdin = args.parts.iter().filter(|path| *path == stdin).count()
        + usize::from(reads_values && args.values == stdin)
        + args.witnesses.iter().filter(|witness| *witness == "-").count();
    if from_stdin > 1 {
        return Err(wrong_usage(
            "only one of parts, witness and values can come from stdin; use --values FILE or --prove",
        ));
    }
    if args.raw && (!reads_values || context.out.is_json()) {
        return Err(wrong_usage("--raw prints a single plaintext: it needs --key, and no --output json"));
    }
    Ok(())
}

/// The shares of all files, each once. A part that can't be used spoils no other.
fn read_parts(paths: &[PathBuf]) -> anyhow::Result<(Groups, Exit)> {
    let mut groups = Groups::new();
    let mut exit = Exit::Done;
    for path in paths {
        for (name, text) in &files::read_parts(path)?.parts.0 {
            // Only what is a name is repeated: with the two sides swapped it would be the share.
            let name = name.parse::<PartName>();
            let shown = name.as_ref().map_or_else(|_| "a part without a right name".into(), PartName::to_string);
            let share = match Share::parse(text) {
                Ok(share) if name.as_ref().is_ok_and(|name| name.version != share.version()) => {
                    Err(format!("the share is of v{}", share.version()))
                }
                Ok(share) => Ok(share),
                Err(error) => Err(error.to_string()),
            };
            match share {
                Ok(share) => {
                    let group = groups.entry((share.keyring_id(), share.version())).or_default();
                    if group.iter().all(|known| share_digest(known) != share_digest(&share)) {
                        group.push(share);
                    }
                }
                Err(reason) => {
                    note(format!("refused: {}: {shown}: {reason}", path.display()));
                    exit = Exit::Failed;
                }
            }
        }
    }
    Ok((groups, exit))
}

/// Every version that a witness vouches for, and whether one could not be rebuilt.
fn prove(args: &Args, groups: &Groups, associated_data: &[u8]) -> anyhow::Result<(Vec<Found>, bool)> {
    let mut found: Vec<Found> = Vec::new();
    let mut lacking = false;
    for witness in &args.witnesses {
        let results = match read_witness(witness)? {
            Evidence::Manifest(document) => {
                let results = by_manifest(groups, &document);
                if results.is_empty() {
                    note(format!("error: there is no share of keyring {}", document.manifest().keyring_id));
                    lacking = true;
                }
                for found in results.iter().flatten() {
                    if !found.validated.vouches_for(&document) {
                        let version = found.validated.version();
                        note(format!(
                            "warning: the manifest carries no right mac of v{version}: it may have been altered"
                        ));
                    }
                }
                results
            }
            Evidence::Value(value) => {
                let Some(key) = args.witness_key.as_ref().or(args.key.as_ref()) else {
                    return Err(wrong_usage(
                        "a value as witness needs the name of its key: --key or --witness-key",
                    ));
                };
                let own = args.witness_associated_data.as_deref().map(str::as_bytes);
                let witness = Witness { key, value: &value, associated_data: own.unwrap_or(associated_data) };
                vec![by_value(groups, &witness)]
            }
        };
        for result in results {
            match result {
                Ok(new) if found.iter().any(|known| known.validated.version() == new.validated.version()) => {}
                Ok(new) => found.push(new),
                Err(reason) => {
                    note(format!("error: {reason}"));
                    lacking |= !matches!(reason, NotFound::Record(_));
                }
            }
        }
    }
    found.sort_by_key(|found| found.validated.version());
    Ok((found, lacking))
}

enum Evidence {
    Value(Value),
    Manifest(Box<ManifestDocument>),
}

fn read_witness(witness: &str) -> anyhow::Result<Evidence> {
    let bytes = if witness.starts_with(TEXT_PREFIX) {
        Wiped::from(witness.as_bytes())
    } else {
        files::read(Path::new(witness), FILE_BYTES_MAX).map_err(|error| wrong_usage(format!("{error:#}")))?
    };
    let refuse = |reason: String| wrong_usage(format!("the witness is neither a value nor a manifest: {reason}"));
    if bytes.trim_ascii().starts_with(b"{") {
        let document = ManifestDocument::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
        return Ok(Evidence::Manifest(Box::new(document)));
    }
    // A value in binary may end in what looks like the end of a line.
    let bytes = if bytes.starts_with(BINARY_PREFIX) { bytes.as_slice() } else { bytes.trim_ascii() };
    let (value, _) = Value::parse_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
    Ok(Evidence::Value(value))
}

/// Lines that hold something. Blanks in them are kept: associated data may end in one.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

fn open_single(
    keyring: &Keyring,
    key: &KeyName,
    input: &[u8],
    associated_data: &[u8],
) -> anyhow::Result<Result<Wiped, Line>> {
    if input.starts_with(BINARY_PREFIX) {
        return Ok(open(keyring, key, input, associated_data));
    }
    let mut lines = lines(input);
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(open(keyring, key, line, associated_data)),
        _ => Err(wrong_usage("--raw prints a single plaintext: give exactly one value")),
    }
}

/// Opens `VALUE` or `VALUE<tab>ASSOCIATED DATA`.
fn open(keyring: &Keyring, key: &KeyName, line: &[u8], associated_data: &[u8]) -> Result<Wiped, Line> {
    let refuse = |exit, error: String| Line { plaintext: None, error: Some(error), exit };
    let (value, associated_data) = match line.iter().position(|byte| *byte == b'\t') {
        Some(at) if !line.starts_with(BINARY_PREFIX) => {
            (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default())
        }
        _ => (line, associated_data),
    };
    let (value, _) = Value::parse_bytes(value).map_err(|error| match error {
        ValueError::UnsupportedFormat(_) => refuse(Exit::TryAgain, error.to_string()),
        _ => refuse(Exit::Failed, error.to_string()),
    })?;
    let opened = match value.kind() {
        BodyKind::DataKey => keyring.unwrap_data_key(key, &value),
        BodyKind::Direct | BodyKind::Envelope => keyring.decrypt(key, &value, associated_data),
    };
    opened.map_err(|error| match error {
        OpenError::NotLoaded(version) => {
            refuse(Exit::TryAgain, format!("v{version} was not rebuilt: give its shares and a witness of it"))
        }
        _ => refuse(Exit::Failed, error.to_string()),
    })
}

fn describe(found: &Found) -> RecoveredVersion {
    RecoveredVersion {
        version: found.validated.version(),
        key_id: found.validated.key_id(),
        threshold: found.threshold,
        right: found.right.iter().map(|x| x.get()).collect(),
        wrong: found.wrong.iter().map(|x| x.get()).collect(),
        holders: found.holders.clone(),
    }
}

fn sentence(version: &RecoveredVersion) -> String {
    let list = |places: &[u8]| places.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "v{} (key id {}) is rebuilt and proved: {} shares are enough; right are those with x {}",
        version.version,
        version.key_id,
        version.threshold,
        list(&version.right)
    );
    if !version.wrong.is_empty() {
        text.push_str(&format!("; of another key or share set, or altered: x {}", list(&version.wrong)));
    }
    text
}

fn text_of(line: &Line) -> String {
    match (&line.plaintext, &line.error) {
        (Some(plaintext), _) => format!("{}\n", plaintext.as_str()),
        (None, error) => format!("! {}\n", printable(error.as_deref().unwrap_or_default())),
    }
}

/// What is positively wrong counts more than what can't be told.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::TryAgain => 1,
        _ => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}
