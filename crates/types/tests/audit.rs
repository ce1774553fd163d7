//! The audit log's chain. Faults 54 and 55 of `docs/track-record.md`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use keymoot_types::{
    Digest, KeyVersion, NodeName,
    audit::{
        Chain, Entry, EntryError, Flaw, Head, LINE_BYTES_MAX, Line, LineError, Phase, Report, SignedHead, Tip,
        Verifier,
    },
};
use serde_json::json;

const KEYRING: &str = "5479101ec1821850";

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn signed(head: Head) -> SignedHead {
    SignedHead { head, version: KeyVersion::new(9).unwrap(), public_key: [7; 32], signature: [8; 64] }
}

/// What a daemon might say as its line `seq`: every field now and then, and text that would break a line.
fn entry(chain: &Chain, seq: u64) -> Entry {
    match seq {
        seq if seq.is_multiple_of(10) => {
            Entry::checkpoint(&signed(chain.head(KEYRING.parse().unwrap()).unwrap())).unwrap()
        }
        seq if seq.is_multiple_of(3) => Entry::new("boot", Phase::Note),
        seq => Entry::new("unlock-part", if seq % 2 == 0 { Phase::Done } else { Phase::Refused })
            .who("ops\n{\"seq\":1}")
            .from("::ffff:10.0.0.7".parse().unwrap())
            .request(format!("r-{seq}"))
            .fact("holder", "ann")
            .fact("versions", json!([9, 10]))
            .fact("reason", "Zażółć \u{0}\r\n\u{2028}"),
    }
}

/// The lines of a log, each with its line feed, and where the chain stood before each.
struct Log {
    lines: Vec<Vec<u8>>,
    heads: Vec<Head>,
}

impl Log {
    fn new(name: &str, length: u64) -> Self {
        let mut chain = Chain::new(node(name), "8f0c2a52-6a0e-4a7e-9f39-1f2a6d2f9d11", Tip::START);
        let mut log = Self { lines: Vec::new(), heads: Vec::new() };
        for seq in 1..=length {
            let at = format!("2026-11-21T07:00:00.{seq:09}Z").parse().unwrap();
            let made = chain.next(at, &entry(&chain, seq)).unwrap();
            chain.advance(&made);
            log.lines.push(made.bytes);
            log.heads.push(chain.head(KEYRING.parse().unwrap()).unwrap());
        }
        log
    }

    /// A verifier that has taken everything before each line, and one that has taken all.
    fn verifiers(&self) -> Vec<Verifier> {
        let mut verifier = Verifier::new();
        let mut verifiers = vec![verifier.clone()];
        for line in &self.lines {
            assert!(verifier.feed(line, &mut |_| Ok(())));
            verifiers.push(verifier.clone());
        }
        verifiers
    }
}

fn verify(lines: &[impl AsRef<[u8]>]) -> Report {
    verify_from(Verifier::new(), lines)
}

fn verify_from(mut verifier: Verifier, lines: &[impl AsRef<[u8]>]) -> Report {
    for line in lines {
        if !verifier.feed(line.as_ref(), &mut |_| Ok(())) {
            break;
        }
    }
    verifier.finish()
}

/// The first bad line must be this one of the file, and the lines before it good.
#[track_caller]
fn assert_bad(report: &Report, line: usize, flaw: Option<&Flaw>) {
    let bad = report.first_bad.as_ref().unwrap();
    assert_eq!((bad.file, bad.line, report.lines), (0, line as u64 + 1, line as u64), "{bad:?}");
    if let Some(flaw) = flaw {
        assert_eq!(&bad.flaw, flaw);
    }
    assert!(!report.is_whole());
}

#[test]
fn a_log_is_whole_and_every_line_of_it_is_canonical_json() {
    let log = Log::new("db1", 100);
    let report = verify(&log.lines);
    assert!(report.is_whole());
    assert_eq!((report.lines, report.first_seq, report.checkpoints), (100, Some(1), 10));
    assert_eq!(report.tip.unwrap().hash, log.heads[99].hash);
    for (index, bytes) in log.lines.iter().enumerate() {
        let text = std::str::from_utf8(bytes).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let line = Line::parse(text.trim_end_matches('\n').as_bytes()).unwrap();
        assert_eq!((line.seq(), line.node().as_str()), (index as u64 + 1, "db1"));
        assert_eq!(line.checkpoint().is_some(), line.seq().is_multiple_of(10));
    }
    let line = Line::parse(log.lines[0].strip_suffix(b"\n").unwrap()).unwrap();
    assert_eq!(line.who(), Some("ops\n{\"seq\":1}"));
    assert_eq!(line.from(), "10.0.0.7".parse().ok());
    assert_eq!((line.phase(), line.request()), (Phase::Refused, Some("r-1")));
    assert_eq!(line.facts()["reason"], "Zażółć \u{0}\r\n\u{2028}");
    assert_eq!(line.previous(), Digest::new([0; 32]));
}

/// Exhaustive: every byte of several hundred lines, all eight single-bit changes. A line feed that is changed joins
/// two lines, a byte that becomes one splits its line: the line that was changed is named all the same. The last
/// line feed alone leaves a torn tail.
#[test]
fn fault_54_every_changed_byte_is_named_by_its_line() {
    let log = Log::new("db1", 300);
    let verifiers = log.verifiers();
    let mut changed = 0;
    for (index, line) in log.lines.iter().enumerate() {
        let next = log.lines.get(index + 1);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut bytes = line.clone();
                bytes[at] ^= 1 << bit;
                bytes.extend(next.into_iter().flatten());
                let report = verify_from(verifiers[index].clone(), &[bytes]);
                changed += 1;
                if next.is_none() && at == line.len() - 1 {
                    let torn = report.torn_tail.unwrap();
                    assert_eq!((torn.line, torn.bytes, &report.first_bad), (300, line.len(), &None));
                    assert!(!report.is_whole());
                } else {
                    assert_bad(&report, index, None);
                }
            }
        }
    }
    assert!(changed > 700_000, "{changed}");
}

#[test]
fn fault_54_a_line_removed_doubled_swapped_or_spliced_is_named_where_the_chain_breaks() {
    let log = Log::new("db1", 300);
    let of_another = Log::new("db2", 300);
    let verifiers = log.verifiers();
    let sequence = |expected: u64, found: u64| Flaw::Sequence { expected, found };
    for (index, this) in log.lines.iter().enumerate() {
        let seq = index as u64 + 1;
        let from = |lines: &[&Vec<u8>]| verify_from(verifiers[index].clone(), lines);
        let next = log.lines.get(index + 1);
        let other = &of_another.lines[index];

        // Named is the line that follows the doubled one, and itself the same.
        assert_bad(&from(&[this, this]), index + 1, Some(&sequence(seq + 1, seq)));
        // A line in the place of another is found by what the line behind it names; the first of a log, too.
        let report = if index == 0 { from(&[other, &log.lines[1]]) } else { from(&[other]) };
        assert_bad(&report, if index == 0 { 1 } else { index }, Some(&Flaw::Chain));
        let Some(next) = next else {
            // Without its last line a log is whole: fault 55 finds that.
            assert!(from(&[]).is_whole());
            continue;
        };
        assert_bad(&from(&[next]), index, Some(&sequence(seq, seq + 1)));
        assert_bad(&from(&[next, this]), index, Some(&sequence(seq, seq + 1)));
        // Put in between, with the number that belongs there.
        assert_bad(&from(&[this, &of_another.lines[index + 1], next]), index + 1, Some(&Flaw::Chain));
    }
}

/// A sample of every way to change 10,000 lines, spread over all of them.
#[test]
fn fault_54_ten_thousand_lines_keep_their_places() {
    let log = Log::new("db1", 10_000);
    let whole = log.lines.concat();
    // Cut anywhere, the bytes are the same log.
    assert!(verify(&whole.chunks(4093).collect::<Vec<_>>()).is_whole());
    let verifiers = log.verifiers();
    for index in (0..log.lines.len() - 1).step_by(7) {
        let (this, next) = (&log.lines[index], &log.lines[index + 1]);
        for at in (index % 11..this.len()).step_by(101) {
            let mut bytes = this.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes.extend_from_slice(next);
            assert_bad(&verify_from(verifiers[index].clone(), &[bytes]), index, None);
        }
        assert_bad(&verify_from(verifiers[index].clone(), &[next]), index, None);
        assert_bad(&verify_from(verifiers[index].clone(), &[this, this]), index + 1, None);
    }
    // From the first line on, as a person reads it.
    for index in [0, 4_999, 9_998] {
        let mut bytes = whole.clone();
        let at: usize = log.lines[..index].iter().map(Vec::len).sum();
        bytes[at + 10] ^= 1;
        assert_bad(&verify(&bytes.chunks(65_536).collect::<Vec<_>>()), index, None);
    }
}

/// What no chain can find is found by one head that was kept elsewhere.
#[test]
fn fault_55_a_cut_tail_and_a_rebuilt_log_differ_from_every_head_behind_the_change() {
    /// Which heads a log is compatible with: the line of the head's number must be there, and have its hash.
    fn holds(lines: &[Vec<u8>], heads: &[Head]) -> Vec<bool> {
        let mut seen = BTreeMap::new();
        let mut verifier = Verifier::new();
        verifier.feed(&lines.concat(), &mut |line| {
            seen.insert(line.seq(), line.hash());
            Ok(())
        });
        assert!(verifier.finish().first_bad.is_none());
        heads.iter().map(|head| seen.get(&head.seq) == Some(&head.hash)).collect()
    }
    let log = Log::new("db1", 120);
    for length in 0..=log.lines.len() {
        let expected: Vec<_> = (0..120).map(|index| index < length).collect();
        assert_eq!(holds(&log.lines[..length], &log.heads), expected);
    }
    // The same story told again, but for one fact or the time in it: a valid chain, and other hashes from there on.
    for rebuilt_from in [1, 2, 60, 119, 120] {
        let mut chain = Chain::new(node("db1"), "8f0c2a52-6a0e-4a7e-9f39-1f2a6d2f9d11", Tip::START);
        let mut rebuilt = Vec::new();
        for seq in 1..=120 {
            let at = format!("2026-11-21T07:00:00.{seq:09}Z").parse().unwrap();
            let mut entry = entry(&chain, seq);
            if seq == rebuilt_from {
                entry = Entry::new("boot", Phase::Note).fact("rebuilt", true);
            }
            let made = chain.next(at, &entry).unwrap();
            chain.advance(&made);
            rebuilt.push(made.bytes);
        }
        assert!(verify(&rebuilt).is_whole());
        let expected: Vec<_> = (1..=120).map(|seq| seq < rebuilt_from).collect();
        assert_eq!(holds(&rebuilt, &log.heads), expected);
    }
}

#[test]
fn a_torn_last_line_is_told_apart_from_a_bad_one() {
    let log = Log::new("db1", 12);
    for kept in 1..log.lines[11].len() {
        let mut lines = log.lines.clone();
        lines[11].truncate(kept);
        let report = verify(&lines);
        let torn = report.torn_tail.unwrap();
        assert_eq!((torn.line, torn.bytes, report.lines), (12, kept, 11));
        assert!(report.first_bad.is_none() && !report.is_whole());
        // With another file behind it, it is no tail.
        let mut verifier = Verifier::new();
        verifier.feed(&lines.concat(), &mut |_| Ok(()));
        verifier.next_file();
        let bad = verifier.finish().first_bad.unwrap();
        assert_eq!((bad.file, bad.line, bad.seq, bad.flaw), (0, 12, 12, Flaw::Torn));
    }
}

#[test]
fn a_chain_goes_on_in_the_next_file_and_a_later_beginning_is_only_taken_when_it_is_named() {
    let log = Log::new("db1", 30);
    for cut in 1..log.lines.len() {
        let mut verifier = Verifier::new();
        assert!(verifier.feed(&log.lines[..cut].concat(), &mut |_| Ok(())));
        verifier.next_file();
        assert!(verifier.feed(&log.lines[cut..].concat(), &mut |_| Ok(())));
        assert!(verifier.finish().is_whole());

        let later = &log.lines[cut..];
        let found = Flaw::Sequence { expected: 1, found: cut as u64 + 1 };
        assert_bad(&verify(later), 0, Some(&found));
        let report = verify_from(Verifier::starting_at(cut as u64 + 1), later);
        assert!(report.is_whole());
        assert_eq!(report.first_seq, Some(cut as u64 + 1));
    }
}

#[test]
fn a_declared_loss_keeps_the_numbers_and_is_never_whole() {
    let log = Log::new("db1", 20);
    let remembered = signed(log.heads[14].clone());
    let at = "2026-11-21T08:00:00Z".parse().unwrap();
    for kept in [0, 9, 15, 20] {
        let mut verifier = Verifier::new();
        verifier.feed(&log.lines[..kept].concat(), &mut |_| Ok(()));
        let tip = verifier.clone().finish().tip.unwrap_or(Tip::START);
        let mut chain = Chain::new(node("db1"), "b", tip);
        chain.declare_lost(remembered.head.seq);
        let made = chain.next(at, &Entry::log_lost(Some(&remembered), "it was cut").unwrap()).unwrap();
        chain.advance(&made);
        let after = chain.next(at, &Entry::new("boot", Phase::Note)).unwrap();
        assert!(verifier.feed(&[made.bytes, after.bytes].concat(), &mut |_| Ok(())));
        let report = verifier.finish();
        let first = (kept as u64).max(15) + 1;
        assert_eq!((report.losses, report.first_loss, report.tip.unwrap().seq), (1, Some(first), first + 1));
        assert!(report.first_bad.is_none() && !report.is_whole());
    }
    // No number is skipped without a head that says so.
    let mut chain = Chain::new(node("db1"), "b", Tip::START);
    chain.declare_lost(15);
    let made = chain.next(at, &Entry::log_lost(None, "nobody knows").unwrap()).unwrap();
    assert_bad(&verify(&[made.bytes]), 0, Some(&Flaw::Sequence { expected: 1, found: 16 }));
}

#[test]
fn a_checkpoint_is_of_the_line_before_it() {
    let log = Log::new("db1", 3);
    let at = "2026-11-21T08:00:00Z".parse().unwrap();
    let mut verifier = Verifier::new();
    verifier.feed(&log.lines.concat(), &mut |_| Ok(()));
    let chain = Chain::new(node("db1"), "b", verifier.clone().finish().tip.unwrap());
    let right = log.heads[2].clone();
    for (head, good) in [
        (right.clone(), true),
        (log.heads[1].clone(), false),
        (Head { hash: log.heads[1].hash, ..right.clone() }, false),
        (Head { node: node("db2"), ..right.clone() }, false),
        (Head { seq: u64::MAX >> 12, ..right }, false),
    ] {
        let made = chain.next(at, &Entry::checkpoint(&signed(head)).unwrap()).unwrap();
        let mut verifier = verifier.clone();
        verifier.feed(&made.bytes, &mut |_| Ok(()));
        assert_eq!(verifier.finish().first_bad.map(|bad| bad.flaw), (!good).then_some(Flaw::Checkpoint));
    }
    let made = chain.next(at, &Entry::new("checkpoint", Phase::Note)).unwrap();
    verifier.feed(&made.bytes, &mut |_| Ok(()));
    assert_bad(&verifier.finish(), 3, Some(&Flaw::Checkpoint));
}

/// Whatever means the same in other bytes is another line: else a hash could be kept while the bytes change.
#[test]
fn a_line_has_one_spelling() {
    let log = Log::new("db1", 1);
    let text = String::from_utf8(log.lines[0].clone()).unwrap();
    let text = text.trim_end();
    assert!(Line::parse(text.as_bytes()).is_ok());
    for (from, to) in [
        ("{", "{ "),
        ("\"seq\":1", "\"seq\": 1"),
        ("\"seq\":1", "\"seq\":1,\"new\":null,\"new\":null"),
        ("\"ann\"", "\"\\u0061nn\""),
        ("\\u0000", "\\U0000"),
        ("[9,10]", "[9,1e1]"),
        ("[9,10]", "[9.0,10]"),
        ("\"holder\":\"ann\"", "\"holder\":\"eve\",\"holder\":\"ann\""),
        ("Zażółć", "Za\\u017c\u{f3}\u{142}\u{107}"),
    ] {
        let spelt = text.replacen(from, to, 1);
        assert_ne!(spelt, text, "{from}");
        let error = Line::parse(spelt.as_bytes()).unwrap_err();
        assert!(matches!(error, LineError::NotCanonical | LineError::NotARecord(_)), "{spelt}: {error}");
    }
    let reversed: Vec<_> = text.trim_matches(['{', '}']).splitn(2, ',').collect();
    let reversed = format!("{{{},{}}}", reversed[1], reversed[0]);
    assert_eq!(Line::parse(reversed.as_bytes()).unwrap_err(), LineError::NotCanonical);
    for end in [" ", "\r", "\n", "\0", "{}"] {
        assert!(Line::parse(format!("{text}{end}").as_bytes()).is_err());
    }
}

#[test]
fn what_is_too_long_is_cut_or_refused_and_what_is_no_word_or_number_is_refused() {
    let chain = Chain::new(node("db1"), "b", Tip::START);
    let at = "2026-11-21T08:00:00Z".parse().unwrap();
    let next = |entry: Entry| chain.next(at, &entry);
    let event = || Entry::new("e", Phase::Note);

    let made =
        next(event().fact("reason", "ü".repeat(5000)).fact("deep", json!([{"a": "ü".repeat(5000)}]))).unwrap();
    let line = Line::parse(made.bytes.strip_suffix(b"\n").unwrap()).unwrap();
    for text in [&line.facts()["reason"], &line.facts()["deep"][0]["a"]] {
        let text = text.as_str().unwrap();
        assert!(text.len() <= 1024 && text.ends_with("ü…"), "{}", text.len());
    }
    let many: Vec<String> = (0..100).map(|_| "x".repeat(1000)).collect();
    assert!(matches!(next(event().fact("many", many)), Err(EntryError::TooLong(_))));
    for bad in ["", "A", "1", "a b", "a\n", "ä", &"a".repeat(65)] {
        assert!(matches!(next(Entry::new(bad, Phase::Note)), Err(EntryError::NotAWord(_))), "{bad:?}");
        assert!(matches!(next(event().fact(bad, 1)), Err(EntryError::NotAWord(_))), "{bad:?}");
    }
    assert!(matches!(next(event().fact("n", (1_u64 << 53) + 1)), Err(EntryError::NotExact)));

    let long = [vec![b'x'; LINE_BYTES_MAX + 1], b"\n".to_vec()].concat();
    for size in [1, 1000, long.len()] {
        assert_bad(&verify(&long.chunks(size).collect::<Vec<_>>()), 0, Some(&Flaw::Line(LineError::TooLong)));
    }
    assert_eq!(verify(&[vec![b'x'; 1 << 20]]).torn_tail.unwrap().bytes, LINE_BYTES_MAX + 1);
}
