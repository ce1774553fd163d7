//! Reading the log's files: a line by its number, a page, the tail. All of it bounded, whatever stands there.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use keymoot_types::audit::{Head, LINE_BYTES_MAX, Line, Tip, Verifier};
use serde::Deserialize;
use serde_json::Value as Json;

use super::{file::NAME, writer::GROUP_BYTES_MAX};

/// How often a page is read that new files were begun beside.
const READINGS_MAX: usize = 100;
/// Lines of one page.
const PAGE_LINES_MAX: usize = 500;
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is looked at of a file's end at a start: longer than any batch, and than all that may be unsettled.
const TAIL_BYTES: u64 = 1024 * 1024;
/// From here on a search goes on line by line.
const SEARCH_BYTES: u64 = 4 * LINE_BYTES_MAX as u64;

/// The end of a file.
pub(super) struct Tail {
    /// The last lines, ascending.
    pub(super) lines: Vec<Line>,
    /// Where the last whole line ends.
    pub(super) len: u64,
    /// Bytes behind it: what a kill leaves, or a power cut.
    pub(super) torn: u64,
    /// Number of the file's first line.
    pub(super) first_seq: Option<u64>,
    /// What is wrong with the last lines.
    pub(super) flaw: Option<String>,
}

/// How a signed head and the files agree.
pub(crate) enum Comparison {
    /// The line is there, as it was signed.
    Holds,
    /// The log was cut or rebuilt.
    Differs(String),
    /// The line is in a file that was taken away, or can't be read.
    Unknown(String),
}

/// A page of lines, as they stand in the log.
pub(super) struct Page {
    pub(super) entries: Vec<Json>,
    /// Number of the last.
    pub(super) last: u64,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// The files that were given away by a rotation, by the number of their first line, ascending.
pub(super) fn rotated(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let seq = name.strip_prefix("audit-").and_then(|name| name.strip_suffix(".jsonl"));
        if let Some(seq) = seq.filter(|seq| seq.len() == 20).and_then(|seq| seq.parse().ok()) {
            files.push((seq, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Every file that has a line, ascending.
fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = rotated(dir)?;
    let current = dir.join(NAME);
    match first_seq(&current) {
        Ok(Some(seq)) => files.push((seq, current)),
        Ok(None) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(files)
}

/// The next line without its line feed; none at the end, and none that is torn.
fn next_line(reader: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if line.pop() == Some(b'\n') {
        return Ok(Some(line));
    }
    if line.len() >= LINE_BYTES_MAX { Err(damaged("a line has no end")) } else { Ok(None) }
}

fn seq_of(line: &[u8]) -> io::Result<u64> {
    let numbered: Numbered = serde_json::from_slice(line).map_err(|_| damaged("a line has no number"))?;
    Ok(numbered.seq)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: `keymoot audit verify` names the first bad line"))
}

fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let first = next_line(&mut BufReader::new(File::open(path)?))?;
    first.map(|line| seq_of(&line)).transpose()
}

/// A reader that stands before the first line whose number is not below `seq`, as far as numbers ascend.
fn reader_at(path: &Path, seq: u64) -> io::Result<BufReader<File>> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut low, mut high) = (0, reader.get_ref().metadata()?.len());
    while high - low > SEARCH_BYTES {
        let middle = low + (high - low) / 2;
        reader.seek(SeekFrom::Start(middle))?;
        // To the end of whatever line this is in.
        let skipped = next_line(&mut reader)?.map_or(0, |line| line.len() as u64 + 1);
        match next_line(&mut reader)? {
            Some(line) if seq_of(&line)? < seq => low = middle + skipped,
            _ => high = middle,
        }
    }
    reader.seek(SeekFrom::Start(low))?;
    loop {
        let at = reader.stream_position()?;
        match next_line(&mut reader)? {
            Some(line) if seq_of(&line)? < seq => {}
            _ => {
                reader.seek(SeekFrom::Start(at))?;
                return Ok(reader);
            }
        }
    }
}

/// The files from the one on in which line `seq` stands.
fn files_from(dir: &Path, seq: u64) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = files(dir)?;
    let before = files.iter().filter(|(first, _)| *first <= seq).count();
    files.drain(..before.saturating_sub(1));
    Ok(files)
}

/// The lines behind `after`.
pub(super) fn page(dir: &Path, after: u64) -> io::Result<Page> {
    for _ in 0..READINGS_MAX {
        let before = rotated(dir)?;
        let page = page_of_files(dir, after);
        // A file that was given away in between stands under neither of its names in what was read.
        if rotated(dir)? == before {
            return page;
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "new files are begun faster than they are read; ask again"))
}

fn page_of_files(dir: &Path, after: u64) -> io::Result<Page> {
    let from = after.saturating_add(1);
    let mut page = Page { entries: Vec::new(), last: after };
    let mut bytes = 0;
    for (_, path) in files_from(dir, from)? {
        let mut reader = reader_at(&path, from)?;
        while let Some(line) = next_line(&mut reader)? {
            bytes += line.len();
            if page.entries.len() == PAGE_LINES_MAX || (bytes > PAGE_BYTES_MAX && !page.entries.is_empty()) {
                return Ok(page);
            }
            page.last = seq_of(&line)?;
            page.entries.push(serde_json::from_slice(&line)?);
        }
    }
    Ok(page)
}

/// Whether the files still hold what was signed.
pub(super) fn compare(dir: &Path, tip: Tip, signed: &Head) -> Comparison {
    compared(dir, tip, signed).unwrap_or_else(|error| Comparison::Unknown(error.to_string()))
}

fn compared(dir: &Path, tip: Tip, signed: &Head) -> io::Result<Comparison> {
    let Head { seq, hash, .. } = signed;
    if tip.seq < *seq {
        return Ok(Comparison::Differs(format!("the log ends at seq {}, and seq {seq} was signed", tip.seq)));
    }
    let files = files_from(dir, *seq)?;
    let gone = || Comparison::Unknown(format!("seq {seq}, which was signed, is in no file of {}", dir.display()));
    let Some((_, path)) = files.first().filter(|(first, _)| first <= seq) else { return Ok(gone()) };
    let line = next_line(&mut reader_at(path, *seq)?)?;
    Ok(match line.map(|line| Line::parse(&line)) {
        Some(Ok(line)) if line.seq() == *seq && line.hash() == *hash => Comparison::Holds,
        Some(Ok(line)) if line.seq() == *seq => {
            Comparison::Differs(format!("seq {seq} has another hash than the one that was signed"))
        }
        Some(Err(error)) => Comparison::Differs(format!("seq {seq}, which was signed: {error}")),
        // Behind the end of an old file: the one after it was taken away.
        None if !path.ends_with(NAME) => gone(),
        _ => Comparison::Differs(format!("seq {seq}, which was signed, is not there")),
    })
}

/// Reads the end of a file and holds its lines against each other.
pub(super) fn tail(path: &Path) -> io::Result<Tail> {
    let first_seq = match first_seq(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        other => other?,
    };
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let begin = size.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    // A power cut leaves zeros where a sector of the last write did not reach the disk, and no line holds one. What stands
    // behind it was never acknowledged: the sync of that write did not return.
    let zero = bytes.iter().position(|byte| *byte == 0).filter(|at| bytes.len() - at <= GROUP_BYTES_MAX);
    let mut written = bytes.iter().take(zero.unwrap_or(bytes.len()));
    let whole = written.rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let torn = (bytes.len() - whole) as u64;
    bytes.truncate(whole);
    let mut tail = Tail { lines: vec![], len: size - torn, torn, first_seq, flaw: None };
    if begin > 0 && whole == 0 {
        tail.flaw = Some("its last line has no end".into());
        return Ok(tail);
    }
    // The first one may be cut through by the window.
    let skipped =
        if begin == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) };
    let bytes = bytes.split_off(skipped);
    let Some(first) = bytes.split(|byte| *byte == b'\n').next().filter(|line| !line.is_empty()) else {
        return Ok(tail);
    };
    let mut verifier = Verifier::starting_at(seq_of(first).unwrap_or(1));
    let lines = &mut tail.lines;
    verifier.feed(&bytes, &mut |line| {
        lines.push(line.clone());
        Ok(())
    });
    if let Some(bad) = verifier.finish().first_bad {
        tail.flaw = Some(format!("seq {}: {}", bad.seq, bad.flaw));
        // What stands behind a bad line is gone on from, if it is a line.
        let last = bytes.strip_suffix(b"\n").unwrap_or(&bytes).rsplit(|byte| *byte == b'\n').next();
        tail.lines = last.and_then(|line| Line::parse(line).ok()).into_iter().collect();
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use keymoot_types::audit::{Chain, Entry, Phase, Tip};

    use super::*;
    use crate::{audit::file::LogFile, node::wall_clock};

    #[test]
    fn a_page_that_is_read_while_new_files_are_begun_leaves_no_line_out() {
        const LINES: u64 = 300;
        let dir = tempfile::tempdir().unwrap();
        let write = || {
            let mut log = LogFile::begin(dir.path()).unwrap();
            let mut chain = Chain::new("local".parse().unwrap(), "boot", Tip::START);
            for _ in 0..LINES {
                let made = chain.next(wall_clock(), &Entry::new("seal", Phase::Done)).unwrap();
                log.append(&made.bytes, made.tip.seq).unwrap();
                chain.advance(&made);
                log.rotate().unwrap();
            }
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(write);
            let mut last = 0;
            while last < LINES {
                let page = match page(dir.path(), last) {
                    Err(_) if !writer.is_finished() => continue,
                    page => page.unwrap(),
                };
                let numbers: Vec<u64> = page.entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
                assert_eq!(numbers, (last + 1..).take(numbers.len()).collect::<Vec<_>>());
                last = page.last;
            }
        });
    }
}
