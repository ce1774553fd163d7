//! `keymoot audit verify`

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use keymoot_types::audit::{LINE_BYTES_MAX, Report, SignedHead, Verifier};

use super::{verdict::Verdict, witness::Witness};
use crate::{
    cli::Context,
    commands::certificate::public_key,
    exit::{Exit, wrong_usage},
    files,
};

const HEAD_BYTES_MAX: u64 = 64 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// Verify the files of an audit log, offline, and name the first bad line
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The chain finds every line that was altered, removed, doubled, moved or put in. It can't find a tail that was cut off
or a log that was rebuilt from its start: for that give a head that was signed and kept elsewhere (--head), or ask the
node (--against-node), and pin the keys (--key; every version's public key stands in the manifest).

Examples:
  keymoot audit verify /var/lib/keymoot --key 8f3c…
  keymoot audit verify audit.jsonl audit-00000000000000000001.jsonl --head db1.head
  keymoot audit verify /var/lib/keymoot --against-node --output json

Exit code 1: something is wrong with the log, and the first bad line is named.")]
pub(crate) struct Args {
    /// Files of one node's log, in any order, or the directory that they are in
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Public key of a version that may have signed checkpoints, as 64 hex digits or in base64; repeat it for each
    #[arg(long = "key", value_name = "PINNED", value_parser = public_key)]
    keys: Vec<[u8; 32]>,
    /// File with a signed head, as `keymoot audit head` prints it, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "against_node")]
    head: Option<PathBuf>,
    /// Ask the node for its newest signed head
    #[arg(long)]
    against_node: bool,
    /// Accept that the log begins with this line, as the files before it are elsewhere
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    from: u64,
}

/// Verifies and says what it found.
pub(crate) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let signed = match &args.head {
        Some(path) => Some(read_head(path)?),
        None if args.against_node => {
            let head = super::signed_head(&context.connect.settle()?.control()?).await?;
            Some(head.context("the node has no signed head: there is nothing to compare the log with")?)
        }
        None => None,
    };
    let mut witness = Witness { pinned: &args.keys, signed, compared: None, vouched: None, node: None };
    if let Some(signed) = &witness.signed {
        witness.check(signed).map_err(|reason| anyhow::anyhow!("the signed head: {reason}"))?;
    }
    let paths = in_order(&args.files)?;
    let report = read(&paths, args.from, &mut witness)?;
    let verdict = Verdict::of(paths, &report, &witness);
    context.out.result(&verdict, Verdict::text)?;
    Ok(if verdict.whole() { Exit::Done } else { Exit::Failed })
}

fn read_head(path: &Path) -> anyhow::Result<SignedHead> {
    let bytes = files::read(path, HEAD_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| wrong_usage(format!("{}: it is no signed head: {error}", path.display())))
}

/// Every file, directories taken apart, in the order of their first lines.
fn in_order(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push((first_seq(path)?, path.clone()));
            continue;
        }
        let before = files.len();
        let cant_read = || format!("can't read {}", path.display());
        for entry in fs::read_dir(path).with_context(cant_read)? {
            let path = entry.with_context(cant_read)?.path();
            if name_of(&path).is_some_and(|name| name.starts_with("audit") && name.ends_with(".jsonl")) {
                files.push((first_seq(&path)?, path));
            }
        }
        if files.len() == before {
            return Err(wrong_usage(format!("there is no audit*.jsonl in {}", path.display())));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Where a file belongs: a rotated one says so by its name, which a damaged first line can't spoil.
fn first_seq(path: &Path) -> anyhow::Result<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let of_name = || name_of(path)?.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok();
    if let Some(seq) = of_name() {
        return Ok(seq);
    }
    let mut line = Vec::new();
    let first = |line: &mut Vec<u8>| -> io::Result<usize> {
        BufReader::new(File::open(path)?).take(LINE_BYTES_MAX as u64).read_until(b'\n', line)
    };
    first(&mut line).with_context(|| format!("can't read {}", path.display()))?;
    Ok(serde_json::from_slice(&line).map_or(u64::MAX, |Numbered { seq }| seq))
}

fn read(paths: &[PathBuf], from: u64, witness: &mut Witness<'_>) -> anyhow::Result<Report> {
    let mut verifier = Verifier::starting_at(from);
    let mut chunk = vec![0; CHUNK_BYTES];
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            verifier.next_file();
        }
        let mut feed = || -> io::Result<bool> {
            let mut file = File::open(path)?;
            loop {
                let read = file.read(&mut chunk)?;
                let bytes = chunk.get(..read).unwrap_or_default();
                if read == 0 || !verifier.feed(bytes, &mut |line| witness.judge(line)) {
                    return Ok(read == 0);
                }
            }
        };
        if !feed().with_context(|| format!("can't read {}", path.display()))? {
            break;
        }
    }
    Ok(verifier.finish())
}
