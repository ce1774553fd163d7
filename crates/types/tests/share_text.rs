//! The text of a share under attack: every typing error is refused before anything is combined.
//! Faults 1 and 2 of `docs/track-record.md`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::OnceLock;

use bech32::{Bech32, Bech32m, Hrp};
use keymoot_types::{Share, share::ShareError};
use proptest::prelude::*;

const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// What people and programs put in place of a character, beside all of ASCII.
const LOOK_ALIKES: &str =
    "аесорхукѕіјԛԝɡοıⅼｑｐ０１９²¹ᵃ\u{a0}\u{ad}\u{200b}\u{200d}\u{2011}\u{2028}\u{3000}\u{feff}\u{fffd}ÀéßK🔑";

/// All 90 shares of all eight versions.
fn shares() -> &'static [String] {
    static SHARES: OnceLock<Vec<String>> = OnceLock::new();
    SHARES.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keymoot-v1.json");
        let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let versions = vectors["versions"].as_array().unwrap();
        let shares = versions.iter().flat_map(|version| version["shares"].as_array().unwrap());
        shares.map(|share| share["text"].as_str().unwrap().to_owned()).collect()
    })
}

/// One share of each version, for the loops that are long.
fn samples() -> Vec<&'static str> {
    let mut samples: Vec<(u32, &str)> =
        shares().iter().map(|text| (Share::parse(text).unwrap().version().get(), text.as_str())).collect();
    samples.dedup_by_key(|(version, _)| *version);
    samples.into_iter().map(|(_, text)| text).collect()
}

fn refused(text: &str) {
    if let Ok(share) = Share::parse(text) {
        panic!("{text:?} was taken for {share:?}");
    }
}

fn payload(text: &str) -> Vec<u8> {
    bech32::decode(text).unwrap().1
}

#[test]
fn the_shares_themselves_are_accepted_in_both_cases_and_nothing_else_about_them_changes() {
    assert_eq!(shares().len(), 90);
    for text in shares() {
        for spelling in [text.clone(), text.to_ascii_uppercase()] {
            let share = Share::parse(&spelling).unwrap();
            assert_eq!(share.to_text().as_str(), text);
        }
    }
}

#[test]
fn fault_01_every_bit_flip_of_a_shares_text_is_refused_alone() {
    let (mut flips, mut not_text) = (0, 0);
    for text in shares() {
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            flips += 1;
            match std::str::from_utf8(&bytes) {
                Ok(damaged) => refused(damaged),
                Err(_) => not_text += 1,
            }
        }
    }
    assert_eq!((flips, not_text), (90 * 88 * 8, 90 * 88));
}

#[test]
fn fault_01_every_double_bit_flip_of_one_share_a_version_is_refused() {
    for text in samples() {
        let bits: Vec<usize> = (0..text.len() * 8).filter(|bit| bit % 8 != 7).collect();
        for (at, first) in bits.iter().enumerate() {
            for second in &bits[at + 1..] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[first / 8] ^= 1 << (first % 8);
                bytes[second / 8] ^= 1 << (second % 8);
                refused(std::str::from_utf8(&bytes).unwrap());
            }
        }
    }
}

#[test]
fn fault_02_every_substitution_of_one_character_is_refused() {
    let replacements: Vec<char> = (0..128).map(char::from).chain(LOOK_ALIKES.chars()).collect();
    for text in shares() {
        for spelling in [text.clone(), text.to_ascii_uppercase()] {
            for (at, own) in spelling.char_indices() {
                for other in replacements.iter().filter(|other| **other != own) {
                    refused(&format!("{}{other}{}", &spelling[..at], &spelling[at + 1..]));
                }
            }
        }
    }
}

#[test]
fn fault_02_every_deletion_and_insertion_of_one_character_is_refused() {
    let insertions: Vec<char> = (0..128).map(char::from).chain(LOOK_ALIKES.chars()).collect();
    for text in shares() {
        for at in 0..=text.len() {
            for other in &insertions {
                refused(&format!("{}{other}{}", &text[..at], &text[at..]));
            }
            if at < text.len() {
                refused(&format!("{}{}", &text[..at], &text[at + 1..]));
            }
        }
    }
}

#[test]
fn fault_02_a_character_lost_here_and_one_too_many_there_is_refused() {
    // The length is right again: only the checksum sees it.
    for text in samples() {
        for lost in 0..text.len() {
            let shorter = format!("{}{}", &text[..lost], &text[lost + 1..]);
            for at in 0..=shorter.len() {
                for other in ALPHABET.chars() {
                    let damaged = format!("{}{other}{}", &shorter[..at], &shorter[at..]);
                    if damaged != text {
                        refused(&damaged);
                    }
                }
            }
        }
    }
}

#[test]
fn fault_02_every_swap_of_two_characters_is_refused() {
    for text in shares() {
        for first in 0..text.len() {
            for second in first + 1..text.len() {
                let mut bytes = text.as_bytes().to_vec();
                bytes.swap(first, second);
                if bytes != text.as_bytes() {
                    refused(std::str::from_utf8(&bytes).unwrap());
                }
            }
        }
    }
}

#[test]
fn fault_02_every_change_of_case_but_the_whole_is_refused() {
    for text in shares() {
        let upper = text.to_ascii_uppercase();
        for at in 1..text.len() {
            // A prefix or a suffix in the other case; a part without letters changes nothing.
            for (a, b) in [(text, &upper), (&upper, text)] {
                let mixed = format!("{}{}", &a[..at], &b[at..]);
                if mixed != *text && mixed != upper {
                    refused(&mixed);
                }
            }
        }
        for at in text.char_indices().filter(|(_, c)| c.is_ascii_alphabetic()).map(|(at, _)| at) {
            refused(&format!("{}{}{}", &text[..at], &upper[at..=at], &text[at + 1..]));
            refused(&format!("{}{}{}", &upper[..at], &text[at..=at], &upper[at + 1..]));
        }
    }
}

#[test]
fn fault_02_nothing_may_stand_before_or_behind_a_share() {
    let around = [
        "\n", "\r\n", "\r", " ", "\t", "\0", "\u{b}", "\u{c}", "\u{85}", "\u{a0}", "\u{feff}", "\u{200b}",
        "\u{2028}", "\u{3000}", "\"", "'", "#", ".", ",", ";", ":", "=", "-", "q", "1", "kmshare1",
    ];
    for text in shares() {
        for extra in around {
            refused(&format!("{extra}{text}"));
            refused(&format!("{text}{extra}"));
            refused(&format!("{extra}{text}{extra}"));
            // In the place of the last or the first character, so that the length may be right.
            for replaced in [format!("{}{extra}", &text[..87]), format!("{extra}{}", &text[1..])] {
                if replaced != *text {
                    refused(&replaced);
                }
            }
        }
        // As a mail program breaks it, or a form prints it.
        refused(&format!("{}\n{}", &text[..44], &text[44..]));
        refused(&text.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" "));
        refused(&format!("prod-keyPart-v9: {text}"));
        refused(&text.repeat(2));
    }
    for text in ["", "k", "kmshare", "kmshare1", "1", "kmshare1qqqqqq"] {
        refused(text);
    }
}

#[test]
fn fault_02_one_payload_has_one_spelling() {
    let human = |prefix: &str| Hrp::parse(prefix).unwrap();
    for text in shares() {
        let payload = payload(text);
        assert_eq!(bech32::encode::<Bech32m>(human("kmshare"), &payload).unwrap(), *text);
        refused(&bech32::encode::<Bech32>(human("kmshare"), &payload).unwrap());
        for prefix in ["kmshar", "kmshares", "kmsharf", "bc", "lnshare", "kmshare1"] {
            refused(&bech32::encode::<Bech32m>(human(prefix), &payload).unwrap());
        }
        for wrong in [&payload[..45], &[&payload[..], &[0]].concat(), &payload[1..], &[]] {
            refused(&bech32::encode::<Bech32m>(human("kmshare"), wrong).unwrap());
        }
        for (at, value) in [(0, 0), (0, 2), (13, 0)] {
            let mut wrong = payload.clone();
            wrong[at] = value;
            refused(&bech32::encode::<Bech32m>(human("kmshare"), &wrong).unwrap());
        }
        let mut no_version = payload.clone();
        no_version[9..13].fill(0);
        refused(&bech32::encode::<Bech32m>(human("kmshare"), &no_version).unwrap());
    }
}

#[test]
fn fault_02_unused_bits_that_are_not_zero_are_refused_under_a_right_checksum() {
    use bech32::{Fe32, primitives::iter::Fe32IterExt};
    let prefix = Hrp::parse("kmshare").unwrap();
    for text in shares() {
        // 46 bytes are 368 bits, 74 characters are 370: the last two bits have no use.
        let data: Vec<Fe32> = text[8..82].chars().map(|c| Fe32::from_char(c).unwrap()).collect();
        let encode =
            |data: &[Fe32]| -> String { data.iter().copied().with_checksum::<Bech32m>(&prefix).chars().collect() };
        assert_eq!(encode(&data), *text);
        for bits in 1..4 {
            let mut other = data.clone();
            other[73] = Fe32::try_from(data[73].to_u8() | bits).unwrap();
            let spelling = encode(&other);
            assert_eq!(spelling.len(), 88);
            assert!(matches!(Share::parse(&spelling), Err(ShareError::Malformed(_))), "{spelling}");
        }
    }
}

#[test]
fn a_changed_character_is_called_that_and_another_thing_is_not() {
    let text = &shares()[0];
    let other = if text.ends_with('q') { "p" } else { "q" };
    let changed = format!("{}{other}", &text[..87]);
    assert_eq!(Share::parse(&changed).unwrap_err(), ShareError::ChecksumFailed);
    for malformed in ["", "hello", &text[..87], &text.replace("kmshare1", "kmsharf1"), &text.replacen('k', "K", 1)]
    {
        assert!(matches!(Share::parse(malformed).unwrap_err(), ShareError::Malformed(_)), "{malformed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fault_02_any_two_to_four_typing_errors_are_found(
        share in 0usize..90, errors in prop::collection::btree_map(8usize..88, 1usize..32, 2..=4),
    ) {
        let mut bytes = shares()[share].clone().into_bytes();
        for (at, step) in errors {
            let own = ALPHABET.bytes().position(|c| c == bytes[at]).unwrap();
            bytes[at] = ALPHABET.as_bytes()[(own + step) % 32];
        }
        let damaged = String::from_utf8(bytes).unwrap();
        prop_assert_eq!(Share::parse(&damaged).unwrap_err(), ShareError::ChecksumFailed);
    }
}
