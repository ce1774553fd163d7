//! Lines held against the chain, one after another.

use super::{LINE_BYTES_MAX, Line, LineError, Tip};
use crate::Digest;

/// Takes the bytes of a log, file after file, and keeps no more of them than one line. It stops at the first bad
/// line: what stands behind it can't be told from what was put there.
#[derive(Debug, Clone)]
pub struct Verifier {
    tip: Tip,
    /// Whether the next line's `previous` is known.
    anchored: bool,
    file: usize,
    line: u64,
    partial: Vec<u8>,
    report: Report,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whole lines before the first bad one.
    pub lines: u64,
    /// Number of the first.
    pub first_seq: Option<u64>,
    /// The last good line.
    pub tip: Option<Tip>,
    /// Checkpoints among them. Their signatures are not checked here.
    pub checkpoints: u64,
    /// Lines among them that declare a loss.
    pub losses: u64,
    /// Number of the first of those.
    pub first_loss: Option<u64>,
    /// The first bad line.
    pub first_bad: Option<Bad>,
    /// A last line without line feed: what a kill leaves.
    pub torn_tail: Option<TornTail>,
}

impl Report {
    /// Lines there are, and none is bad, torn or declared lost.
    pub fn is_whole(&self) -> bool {
        self.lines > 0 && self.first_bad.is_none() && self.torn_tail.is_none() && self.losses == 0
    }
}

/// A line that is not what it should be, or not where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// In which of the files, counted from 0.
    pub file: usize,
    /// Its line there, counted from 1.
    pub line: u64,
    /// The number of the line that belongs there.
    pub seq: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// In itself.
    #[error(transparent)]
    Line(#[from] LineError),
    /// By its number: one was removed, doubled, moved or put in.
    #[error("seq {found} stands where seq {expected} belongs")]
    Sequence {
        /// The number that belongs there.
        expected: u64,
        /// The number that it has.
        found: u64,
    },
    /// By what it follows: it was put in, or the line before it was replaced.
    #[error("it does not follow the line before it, which was replaced, or it comes from another log")]
    Chain,
    /// A checkpoint of something else.
    #[error("the checkpoint is not of the line before it")]
    Checkpoint,
    /// A loss that is declared, and can't be read.
    #[error("the loss that it declares can't be read")]
    Loss,
    /// A file that is not the last ends within a line.
    #[error("the file ends within the line")]
    Torn,
    /// By what the caller knows.
    #[error("{0}")]
    Refused(String),
}

/// The bytes behind the last line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// In which of the files, counted from 0.
    pub file: usize,
    /// Which line there, counted from 1.
    pub line: u64,
    /// How many bytes; at most one more than a line may have.
    pub bytes: usize,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// From the first line that ever was.
    pub fn new() -> Self {
        Self { tip: Tip::START, anchored: true, file: 0, line: 0, partial: Vec::new(), report: Report::default() }
    }

    /// From line `seq`: those before it are kept elsewhere, or nowhere, and are not vouched for.
    pub fn starting_at(seq: u64) -> Self {
        let mut verifier = Self::new();
        verifier.tip.seq = seq.saturating_sub(1);
        verifier.anchored = seq <= 1;
        verifier
    }

    /// Takes the next bytes, cut anywhere. `each` is shown every good line, and may find a flaw of its own, as in a
    /// signature. Returns whether more is wanted.
    pub fn feed(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&Line) -> Result<(), Flaw>) -> bool {
        while self.report.first_bad.is_none() {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                // One byte more than a line may have is enough to know.
                let room = (LINE_BYTES_MAX + 1).saturating_sub(self.partial.len());
                self.partial.extend(bytes.iter().take(room));
                return true;
            };
            let (head, tail) = bytes.split_at(end);
            bytes = tail.get(1..).unwrap_or_default();
            self.line += 1;
            let judged = if self.partial.is_empty() {
                self.judge(head)
            } else if self.partial.len() + head.len() > LINE_BYTES_MAX {
                Err(LineError::TooLong.into())
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(head);
                self.judge(&whole)
            };
            match judged.and_then(|line| each(&line).map(|()| line)) {
                Ok(line) => self.take(&line),
                Err(flaw) => self.refuse(self.line, flaw),
            }
        }
        false
    }

    /// The file ends here and another one goes on.
    pub fn next_file(&mut self) {
        if !self.partial.is_empty() && self.report.first_bad.is_none() {
            self.refuse(self.line + 1, Flaw::Torn);
        }
        self.partial.clear();
        self.file += 1;
        self.line = 0;
    }

    /// The log ends here.
    pub fn finish(mut self) -> Report {
        if !self.partial.is_empty() && self.report.first_bad.is_none() {
            let (file, line, bytes) = (self.file, self.line + 1, self.partial.len());
            self.report.torn_tail = Some(TornTail { file, line, bytes });
        }
        self.report
    }

    fn judge(&self, bytes: &[u8]) -> Result<Line, Flaw> {
        let line = Line::parse(bytes)?;
        let remembered = line.remembered().transpose().map_err(|_| Flaw::Loss)?;
        let expected = self.expected();
        // A declared loss skips the numbers that it remembers.
        let after_loss = remembered.and_then(|signed| signed.head.seq.checked_add(1));
        if line.seq() != after_loss.map_or(expected, |after| after.max(expected)) {
            return Err(Flaw::Sequence { expected, found: line.seq() });
        }
        if self.anchored && line.previous() != self.tip.digest {
            return Err(Flaw::Chain);
        }
        match line.checkpoint().transpose() {
            Ok(None) => {}
            Ok(Some(signed))
                if signed.head.seq.checked_add(1) == Some(line.seq())
                    && signed.head.node == *line.node()
                    && self.hash_before().is_none_or(|hash| signed.head.hash == hash) => {}
            _ => return Err(Flaw::Checkpoint),
        }
        Ok(line)
    }

    /// The `hash` of the line before, where that line was seen.
    fn hash_before(&self) -> Option<Digest> {
        self.anchored.then_some(self.tip.hash)
    }

    fn expected(&self) -> u64 {
        self.tip.seq.saturating_add(1)
    }

    fn take(&mut self, line: &Line) {
        self.tip = Tip::after(line);
        self.anchored = true;
        self.report.lines += 1;
        self.report.tip = Some(self.tip);
        self.report.first_seq.get_or_insert(line.seq());
        match line.event() {
            super::CHECKPOINT => self.report.checkpoints += 1,
            super::LOG_LOST => {
                self.report.losses += 1;
                self.report.first_loss.get_or_insert(line.seq());
            }
            _ => {}
        }
    }

    fn refuse(&mut self, line: u64, flaw: Flaw) {
        self.report.first_bad = Some(Bad { file: self.file, line, seq: self.expected(), flaw });
    }
}
