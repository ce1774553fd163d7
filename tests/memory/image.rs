//! All that a process has in memory, as `gcore` writes it.

use std::{fs, process::Command};

/// Bytes hashed together: every secret form that is looked for is at least so long.
const WINDOW: usize = 8;

pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    maps: String,
}

impl Image {
    /// Root may, whatever the process forbids: that is the worst case.
    pub(crate) fn of(process: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("image");
        let output = Command::new("gcore")
            // All mappings, also those that a process has asked to be left out of dumps.
            .arg("-a")
            .arg("-o")
            .arg(&prefix)
            .arg(process.to_string())
            .output()
            .expect("gcore is part of gdb: apt-get install gdb");
        let file = format!("{}.{process}", prefix.display());
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{error}: these tests need root: {output:?}"));
        assert!(bytes.len() > 100_000, "an image of {} bytes: {output:?}", bytes.len());
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        Self { bytes, maps }
    }

    /// In which mapping of the process a place in the file was: for whoever has to find out how it got there.
    pub(crate) fn mapping_of(&self, place: usize) -> String {
        let number = |at: usize, bytes: usize| {
            self.bytes[at..at + bytes].iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte))
        };
        // ELF64: program headers begin at e_phoff, e_phnum of them, 56 bytes each; PT_LOAD is 1.
        let (headers, count) = (number(32, 8), number(56, 2));
        let address = (0..count).map(|index| headers + 56 * index).find_map(|at| {
            let (kind, offset, address, size) =
                (number(at, 4), number(at + 8, 8), number(at + 16, 8), number(at + 32, 8));
            (kind == 1 && (offset..offset + size).contains(&place)).then(|| address + place - offset)
        });
        let Some(address) = address else { return "no mapping".into() };
        let mapping = self.maps.lines().find(|line| {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let end = |text| usize::from_str_radix(text, 16).unwrap();
            (end(from)..end(to)).contains(&address)
        });
        format!("{address:#x} in {}", mapping.unwrap_or("no mapping"))
    }

    /// Where each needle stands first. One pass over the image for all of them.
    pub(crate) fn search(&self, needles: &[Vec<u8>]) -> Vec<Option<usize>> {
        let mut found = vec![None; needles.len()];
        // The first two bytes decide whether anything is compared.
        let mut by_start: Vec<Vec<usize>> = vec![Vec::new(); 1 << 16];
        for (index, needle) in needles.iter().enumerate() {
            assert!(needle.len() >= WINDOW);
            by_start[usize::from(u16::from_be_bytes([needle[0], needle[1]]))].push(index);
        }
        for (at, pair) in self.bytes.windows(2).enumerate() {
            for index in &by_start[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                if found[*index].is_none() && self.bytes[at..].starts_with(&needles[*index]) {
                    found[*index] = Some(at);
                }
            }
        }
        found
    }
}
