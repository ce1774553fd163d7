//! A model of a disk whose power is cut: what a traced process did to its files, and what may be left of it.
//!
//! It reads the calls from a log of `strace -f -y -xx`. Certain is what was synced: a file's bytes by a sync of the file, a
//! name by a sync of its directory. Of the rest each 512 bytes, each length and each name may be on disk or not, in any
//! order. It is harder than file systems are, which keep some orders by themselves; it does not make bytes of its own, nor
//! lose what was synced. Mapped memory is not seen: what SQLite maps is rebuilt from its log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const SECTOR: usize = 512;

/// One thing that a process did to its files.
#[derive(Debug, Clone)]
enum Act {
    Write { file: usize, at: usize, bytes: Vec<u8> },
    Cut { file: usize, len: usize },
    Name { path: PathBuf, file: Option<usize> },
    Rename { from: PathBuf, to: PathBuf, file: usize },
    SyncFile { file: usize, of: usize },
    SyncDir { path: PathBuf, of: usize },
}

/// How much of what was not synced is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Everything,
    /// Each piece or not, by this seed.
    Some(u64),
}

/// What a process did, call by call.
#[derive(Debug, Default)]
pub struct Recording {
    /// Each with the place in the log where its call had returned.
    acts: Vec<(u64, Act)>,
    /// As they were before: by path.
    before: Image,
    /// Directories that it made.
    dirs: BTreeSet<PathBuf>,
}

pub type Image = BTreeMap<PathBuf, Vec<u8>>;

impl Recording {
    /// Reads the log of a process that began with these files; others than those below `root` are left out, and so are
    /// those that `ignored` names.
    pub fn read(log: &Path, root: &Path, before: Image, ignored: fn(&Path) -> bool) -> Self {
        let mut reader = Reader {
            root,
            ignored,
            recording: Self::default(),
            names: BTreeMap::new(),
            files: 0,
            open: BTreeMap::new(),
        };
        for path in before.keys() {
            reader.names.insert(path.clone(), reader.files);
            reader.files += 1;
        }
        reader.recording.before = before;
        let text = fs::read(log).unwrap();
        let mut at = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            at += line.len() as u64;
            reader.line(at, std::str::from_utf8(line).unwrap().trim_end());
        }
        reader.recording
    }

    /// How many cuts there are: before the first call, and behind each.
    pub fn cuts(&self) -> usize {
        self.acts.len() + 1
    }

    /// How long the log was at this cut.
    pub fn log_at(&self, cut: usize) -> u64 {
        cut.checked_sub(1).map_or(0, |last| self.acts[last].0)
    }

    /// What is on disk when the power is cut behind so many calls.
    pub fn image(&self, cut: usize, kept: Kept) -> Image {
        let acts: Vec<&Act> = self.acts[..cut].iter().map(|(_, act)| act).collect();
        let mut dice = Dice::of(kept, cut);
        let mut files: BTreeMap<usize, Vec<u8>> = self.before.values().cloned().enumerate().collect();
        let mut names: BTreeMap<PathBuf, usize> = self.before.keys().cloned().zip(0..).collect();
        // Until where each was synced: by the call that came last.
        let (mut synced_files, mut synced_dirs) = (BTreeMap::new(), BTreeMap::new());
        for act in &acts {
            match act {
                Act::SyncFile { file, of } => drop(synced_files.insert(*file, *of)),
                Act::SyncDir { path, of } => drop(synced_dirs.insert(path.clone(), *of)),
                _ => {}
            }
        }
        let synced = |file: &usize, at: usize| synced_files.get(file).is_some_and(|of| at < *of);
        let named =
            |path: &Path, at: usize| path.parent().and_then(|dir| synced_dirs.get(dir)).is_some_and(|of| at < *of);
        for (at, act) in acts.iter().enumerate() {
            match act {
                Act::Write { file, at: from, bytes } => {
                    let content = files.entry(*file).or_default();
                    if synced(file, at) {
                        write(content, *from, bytes);
                    } else {
                        for (from, piece) in pieces(*from, bytes) {
                            if dice.keeps() {
                                write(content, from, piece);
                            }
                        }
                    }
                }
                Act::Cut { file, len } if synced(file, at) || dice.keeps() => {
                    files.entry(*file).or_default().resize(*len, 0)
                }
                Act::Name { path, file } if named(path, at) || dice.keeps() => match file {
                    Some(file) => drop(names.insert(path.clone(), *file)),
                    None => drop(names.remove(path)),
                },
                Act::Rename { from, to, file } if named(to, at) || dice.keeps() => {
                    names.retain(|path, of| path != from || of != file);
                    names.insert(to.clone(), *file);
                }
                _ => {}
            }
        }
        // What stands in a directory that is gone is gone.
        let there = names.clone();
        names.retain(|path, _| {
            let above = path.parent().filter(|dir| self.dirs.contains(*dir));
            !self.dirs.contains(path) && above.is_none_or(|dir| there.contains_key(dir))
        });
        names.into_iter().map(|(path, file)| (path, files.get(&file).cloned().unwrap_or_default())).collect()
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Cut where the disk's sectors end.
fn pieces(mut at: usize, mut bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(SECTOR - at % SECTOR));
        pieces.push((at, piece));
        (at, bytes) = (at + piece.len(), rest);
    }
    pieces
}

/// Decides what is kept, the same in every run.
struct Dice(Kept, u64);

impl Dice {
    fn of(kept: Kept, cut: usize) -> Self {
        let seed = if let Kept::Some(seed) = kept { seed } else { 0 };
        Self(kept, (seed << 32 | cut as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn keeps(&mut self) -> bool {
        self.1 ^= self.1 << 13;
        self.1 ^= self.1 >> 7;
        self.1 ^= self.1 << 17;
        match self.0 {
            Kept::Nothing => false,
            Kept::Everything => true,
            Kept::Some(_) => self.1 >> 40 & 1 == 0,
        }
    }
}

struct Reader<'a> {
    root: &'a Path,
    ignored: fn(&Path) -> bool,
    recording: Recording,
    names: BTreeMap<PathBuf, usize>,
    files: usize,
    /// Calls of a thread that have not returned yet: their beginning, and how much was done before it.
    open: BTreeMap<String, (String, usize)>,
}

impl Reader<'_> {
    fn line(&mut self, log: u64, line: &str) {
        let Some((thread, rest)) = line.split_once(' ') else { return };
        let rest = rest.trim_start();
        let now = self.recording.acts.len();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.open.insert(thread.into(), (begun.into(), now));
        } else if rest.starts_with("<... ") {
            let (begun, of) = self.open.remove(thread).unwrap();
            let (_, end) = rest.split_once(" resumed>").unwrap();
            self.call(log, &format!("{begun}{end}"), of);
        } else {
            self.call(log, rest, now);
        }
    }

    /// `of` is how much was done when the call began, and so is covered by it if it is a sync.
    fn call(&mut self, log: u64, call: &str, of: usize) {
        let Some((name, rest)) = call.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        let result = result.trim();
        if result.starts_with(['-', '?']) {
            return;
        }
        let path = |number: usize| arguments.split('<').nth(number + 1)?.split('>').next().map(decoded);
        let texts: Vec<Vec<u8>> = arguments.split('"').skip(1).step_by(2).map(decoded).collect();
        let numbers =
            arguments.rsplit(", ").map_while(|text| text.trim().trim_end_matches(')').parse::<usize>().ok());
        let numbers: Vec<usize> = numbers.collect();
        let on = path(0).map(as_path).filter(|path| self.is_ours(path));
        match name {
            "openat" => {
                let opened = as_path(texts[0].clone());
                if self.is_ours(&opened) && arguments.contains("O_CREAT") && !self.names.contains_key(&opened) {
                    self.named(log, opened);
                } else if arguments.contains("O_TRUNC")
                    && let Some(file) = self.names.get(&opened)
                {
                    self.recording.acts.push((log, Act::Cut { file: *file, len: 0 }));
                }
            }
            "write" | "pwrite64" => {
                let Some(file) = on.and_then(|path| self.names.get(&path).copied()) else { return };
                let done: usize = result.parse().unwrap();
                let at = if name == "pwrite64" { numbers[0] } else { self.length(file) };
                self.recording.acts.push((log, Act::Write { file, at, bytes: texts[0][..done].to_vec() }));
            }
            "ftruncate" => {
                let Some(file) = on.and_then(|path| self.names.get(&path).copied()) else { return };
                self.recording.acts.push((log, Act::Cut { file, len: numbers[0] }));
            }
            "fsync" | "fdatasync" => {
                let Some(path) = on else { return };
                match self.names.get(&path).filter(|_| !self.recording.dirs.contains(&path)) {
                    Some(file) => self.recording.acts.push((log, Act::SyncFile { file: *file, of })),
                    None => self.recording.acts.push((log, Act::SyncDir { path, of })),
                }
            }
            "mkdir" => {
                let path = as_path(texts[0].clone());
                if self.is_ours(&path) {
                    self.recording.dirs.insert(path.clone());
                    self.named(log, path);
                }
            }
            "unlink" => {
                let path = as_path(texts[0].clone());
                if self.names.remove(&path).is_some() {
                    self.recording.acts.push((log, Act::Name { path, file: None }));
                }
            }
            "rename" => {
                let (from, to) = (as_path(texts[0].clone()), as_path(texts[1].clone()));
                let Some(file) = self.names.remove(&from) else { return };
                self.names.insert(to.clone(), file);
                self.recording.acts.push((log, Act::Rename { from, to, file }));
            }
            _ => {}
        }
    }

    fn named(&mut self, log: u64, path: PathBuf) {
        let file = self.files;
        self.files += 1;
        self.names.insert(path.clone(), file);
        self.recording.acts.push((log, Act::Name { path, file: Some(file) }));
    }

    fn is_ours(&self, path: &Path) -> bool {
        path.starts_with(self.root) && !(self.ignored)(path)
    }

    /// Where a file ends that is appended to.
    fn length(&self, file: usize) -> usize {
        let before = self.recording.before.values().nth(file).map_or(0, Vec::len);
        self.recording.acts.iter().fold(before, |len, (_, act)| match act {
            Act::Write { file: of, at, bytes } if *of == file => len.max(at + bytes.len()),
            Act::Cut { file: of, len } if *of == file => *len,
            _ => len,
        })
    }
}

/// `\x6d\x65` as bytes.
fn decoded(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}

fn as_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes).unwrap())
}
