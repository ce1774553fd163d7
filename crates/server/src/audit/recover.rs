//! Finding the chain's end: at a start, and when a file is back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use keymoot_types::audit::{Line, Phase, Tip};

use super::{
    file::{LogFile, NAME},
    read::{self, Tail},
};
use crate::node::wall_clock;

/// The newest file that has a line.
pub(super) struct Newest {
    pub(super) tail: Tail,
    /// Whether it is the one that is written to.
    pub(super) current: bool,
}

impl Newest {
    pub(super) fn tip(&self) -> Tip {
        self.tail.lines.last().map_or(Tip::START, Tip::after)
    }
}

/// What a start finds.
pub(super) struct Found {
    pub(super) log: LogFile,
    pub(super) tip: Tip,
    /// Bytes of a last line that a kill left, which were cut off.
    pub(super) torn: u64,
    /// What is wrong with the last lines.
    pub(super) flaw: Option<String>,
    /// Intents without an outcome, and of what.
    pub(super) unsettled: Vec<(u64, String)>,
}

/// Finds the newest file that has a line.
pub(super) fn newest(dir: &Path) -> Result<Option<Newest>, String> {
    let path = dir.join(NAME);
    match fs::metadata(&path) {
        Ok(_) => {
            let tail = read::tail(&path).map_err(|error| said(&path, &error))?;
            if tail.len > 0 {
                return Ok(Some(Newest { tail, current: true }));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(said(&path, &error)),
    }
    let rotated = read::rotated(dir).map_err(|error| said(dir, &error))?;
    let Some((_, path)) = rotated.last() else { return Ok(None) };
    let tail = read::tail(path).map_err(|error| said(path, &error))?;
    Ok(Some(Newest { tail, current: false }))
}

/// Opens the log at a start, whatever was left of it.
pub(super) fn recover(dir: &Path) -> Result<Found, String> {
    let found = newest(dir)?;
    let path = dir.join(NAME);
    let (mut flaw, mut unsettled, mut tip) = (None, vec![], Tip::START);
    let mut good = None;
    if let Some(found) = found {
        tip = found.tip();
        unsettled = unsettled_of(before(dir, &found)?.iter().chain(&found.tail.lines));
        flaw = found.tail.flaw.clone();
        if found.current && tip != Tip::START {
            good = Some((found.tail.len, found.tail.first_seq));
        } else if found.current {
            // No line can follow what is none: it is kept, under another name.
            let aside = aside(&path);
            fs::rename(&path, &aside).map_err(|error| said(&path, &error))?;
            let reason = flaw.unwrap_or_default();
            flaw = Some(format!("{reason}; the file is kept as {}", aside.display()));
            tip = newest(dir)?.map_or(Tip::START, |before| before.tip());
        }
    }
    let (len, first_seq) = good.unwrap_or((0, None));
    let torn = match fs::metadata(&path) {
        Ok(facts) => facts.len().saturating_sub(len),
        Err(_) => 0,
    };
    let log = if path.exists() { LogFile::open(dir, len, first_seq)? } else { LogFile::begin(dir)? };
    if torn > 0 {
        log.cut().map_err(|error| said(&path, &error))?;
    }
    Ok(Found { log, tip, torn, flaw, unsettled })
}

/// The deeds that were about to be done, and of which nobody knows what became.
fn unsettled_of<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<(u64, String)> {
    let mut open = BTreeMap::new();
    for line in lines {
        if line.phase() == Phase::Intent {
            open.insert(line.seq(), line.event().to_owned());
        } else if let Some(intent) = line.facts().get("intent").and_then(serde_json::Value::as_u64) {
            open.remove(&intent);
        }
    }
    open.into_iter().collect()
}

/// The last lines of the file before the newest one, where that was looked at from its first line on: an intent may
/// stand there, and its outcome would have come in the newest.
fn before(dir: &Path, newest: &Newest) -> Result<Vec<Line>, String> {
    let first = newest.tail.lines.first().map(Line::seq);
    if first.is_none() || first != newest.tail.first_seq {
        return Ok(vec![]);
    }
    let rotated = read::rotated(dir).map_err(|error| said(dir, &error))?;
    let Some((_, path)) = rotated.iter().rev().find(|(seq, _)| Some(*seq) < first) else { return Ok(vec![]) };
    Ok(read::tail(path).map_err(|error| said(path, &error))?.lines)
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension(format!("jsonl.damaged-{}", wall_clock().as_millisecond()))
}

fn said(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use keymoot_types::audit::{Chain, Entry};

    use super::*;

    #[test]
    fn fault_27_sectors_that_a_power_cut_left_out_of_the_last_write_are_cut_off_with_what_is_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain::new("local".parse().unwrap(), "boot", Tip::START);
        let mut ends = vec![0];
        let mut bytes = Vec::new();
        for _ in 0..8 {
            let made = chain.next(wall_clock(), &Entry::new("seal", Phase::Done)).unwrap();
            chain.advance(&made);
            bytes.extend_from_slice(&made.bytes);
            ends.push(bytes.len());
        }
        // Of the lines from the fourth on each sector is there or not.
        for missing in (ends[3]..bytes.len()).step_by(100) {
            let mut torn = bytes.clone();
            torn[missing..(missing + 512).min(bytes.len())].fill(0);
            fs::write(dir.path().join(NAME), &torn).unwrap();
            let found = recover(dir.path()).unwrap();
            let good = ends.iter().rposition(|end| *end <= missing).unwrap();
            assert_eq!((found.tip.seq, found.flaw), (good as u64, None), "{missing}");
            assert_eq!(found.torn, (bytes.len() - ends[good]) as u64);
            assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), bytes[..ends[good]]);
        }
    }

    #[test]
    fn an_intent_before_a_rotation_is_settled_by_the_start_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain::new("local".parse().unwrap(), "boot", Tip::START);
        let mut write = |name: &str, entries: &[Entry]| {
            let mut bytes = Vec::new();
            for entry in entries {
                let made = chain.next(wall_clock(), entry).unwrap();
                chain.advance(&made);
                bytes.extend_from_slice(&made.bytes);
            }
            fs::write(dir.path().join(name), bytes).unwrap();
        };
        let intent = |event: &str| Entry::new(event, Phase::Intent);
        let done = |event: &str, seq: u64| Entry::new(event, Phase::Done).fact("intent", seq);
        write(
            "audit-00000000000000000001.jsonl",
            &[intent("init"), done("init", 1), intent("retire"), intent("abort")],
        );
        let unsettled = || recover(dir.path()).unwrap().unsettled;
        // Killed between the two steps of a rotation.
        assert_eq!(unsettled(), [(3, "retire".into()), (4, "abort".into())]);
        write(NAME, &[done("retire", 3), intent("activate")]);
        assert_eq!(unsettled(), [(4, "abort".into()), (6, "activate".into())]);
    }
}
