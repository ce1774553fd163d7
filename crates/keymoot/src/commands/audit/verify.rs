//! `keymoot audit verify`

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _},
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
/// How often a directory is listed in which new files are begun meanwhile.
const LISTINGS_MAX: usize = 100;

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
    let files = in_order(&args.files)?;
    let report = read(&files, args.from, &mut witness)?;
    let verdict = Verdict::of(files.into_iter().map(|opened| opened.path).collect(), &report, &witness);
    context.out.result(&verdict, Verdict::text)?;
    Ok(if verdict.whole() { Exit::Done } else { Exit::Failed })
}

fn read_head(path: &Path) -> anyhow::Result<SignedHead> {
    let bytes = files::read(path, HEAD_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| wrong_usage(format!("{}: it is no signed head: {error}", path.display())))
}

/// A file that stays what it is, whatever a running daemon does to its name.
struct Opened {
    path: PathBuf,
    file: File,
    /// Where it belongs.
    first_seq: u64,
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let first_seq = first_seq(path, &file)?;
        file.rewind()?;
        Ok(Self { path: path.into(), file, first_seq })
    }
}

/// Every file, directories taken apart, in the order of their first lines.
fn in_order(given: &[PathBuf]) -> anyhow::Result<Vec<Opened>> {
    let mut files = Vec::new();
    for path in given {
        let cant_read = || format!("can't read {}", path.display());
        if path.is_dir() {
            let of_directory = of_directory(path).with_context(cant_read)?;
            if of_directory.is_empty() {
                return Err(wrong_usage(format!("there is no audit*.jsonl in {}", path.display())));
            }
            files.extend(of_directory);
        } else {
            files.push(Opened::open(path).with_context(cant_read)?);
        }
    }
    files.sort_by(|one, other| (one.first_seq, &one.path).cmp(&(other.first_seq, &other.path)));
    Ok(files)
}

/// All files of a log, opened between two rotations of a daemon that may run: one in their midst would take a file out of
/// what is read, and its lines would seem to be lost.
fn of_directory(directory: &Path) -> io::Result<Vec<Opened>> {
    for _ in 0..LISTINGS_MAX {
        let names = names_in(directory)?;
        let opened: io::Result<Vec<_>> = names.iter().map(|path| Opened::open(path)).collect();
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened if names_in(directory)? == names => return opened,
            _ => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "new files are begun faster than they are opened"))
}

/// In the order of their names.
fn names_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_of_a_log =
        |path: &PathBuf| name_of(path).is_some_and(|name| name.starts_with("audit") && name.ends_with(".jsonl"));
    let paths: io::Result<Vec<_>> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    let mut names: Vec<_> = paths?.into_iter().filter(is_of_a_log).collect();
    names.sort();
    Ok(names)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Where a file belongs: a rotated one says so by its name, which a damaged first line can't spoil.
fn first_seq(path: &Path, file: &File) -> io::Result<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let of_name = || name_of(path)?.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok();
    if let Some(seq) = of_name() {
        return Ok(seq);
    }
    let mut line = Vec::new();
    BufReader::new(file).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).map_or(u64::MAX, |Numbered { seq }| seq))
}

fn read(files: &[Opened], from: u64, witness: &mut Witness<'_>) -> anyhow::Result<Report> {
    let mut verifier = Verifier::starting_at(from);
    let mut chunk = vec![0; CHUNK_BYTES];
    for (index, Opened { path, file, .. }) in files.iter().enumerate() {
        if index > 0 {
            verifier.next_file();
        }
        let mut feed = || -> io::Result<bool> {
            let mut file = file;
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
