//! Everything of a version that must not be found, worked out from the formats and not with the daemon's own code.

use base64::engine::general_purpose;
use bech32::{Bech32m, Hrp};
use hmac::{Hmac, KeyInit as _, Mac as _};
use keymoot_types::Share;
use sha2::Sha256;

use crate::{
    harness::{KEY, World},
    image::Image,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    /// `y` of a share, or its text.
    Share,
    Prk,
    DataKey,
    CheckKey,
    ManifestKey,
    SigningSeed,
}

/// One secret in one spelling.
struct Needle {
    kind: Kind,
    holder: usize,
    form: &'static str,
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    holder: usize,
    pub(crate) form: &'static str,
    #[allow(dead_code, reason = "shown when a test fails")]
    mapping: String,
    #[allow(dead_code, reason = "shown when a test fails")]
    around: String,
}

impl Found {
    pub(crate) fn is(&self, kind: Kind, holder: usize) -> bool {
        self.kind == kind && self.holder == holder
    }
}

pub(crate) struct Secrets {
    pub(crate) version: u32,
    needles: Vec<Needle>,
}

impl Secrets {
    /// Of a version with a threshold of 2, and of the shares of these holders.
    pub(crate) fn of(world: &World, version: u32, holders: &[usize]) -> Self {
        let mut needles = Vec::new();
        let mut add = |kind, holder, form, bytes: &[u8]| {
            needles.push(Needle { kind, holder, form, bytes: bytes.to_vec() });
        };
        let mut points = Vec::new();
        let mut keyring_id = [0; 8];
        for holder in holders {
            let text = world.share(version, *holder);
            let share = Share::parse(&text).unwrap();
            // The checksum's end alone is no secret; the middle of the text is `y`.
            add(Kind::Share, *holder, "text", &text.as_bytes()[30..78]);
            add(Kind::Share, *holder, "text in capitals", &text.to_uppercase().as_bytes()[30..78]);
            add(Kind::Share, *holder, "5-bit groups", &groups_of_5_bits(&text)[24..70]);
            spellings(share.y(), &mut |form, bytes| add(Kind::Share, *holder, form, bytes));
            points.push((share.x().get(), *share.y()));
            keyring_id = *share.keyring_id().as_bytes();
        }
        let root = at_zero(&points[..2]);
        let prk = hmac(&keyring_id, &[&root]);
        let expand = |info: &str| hmac(&prk, &[info.as_bytes(), &[1]]);
        for (kind, secret) in [
            (Kind::Root, root),
            (Kind::Prk, prk),
            (Kind::DataKey, expand(&format!("keymoot/v1/data-key/{KEY}"))),
            (Kind::CheckKey, expand("keymoot/v1/key-check")),
            (Kind::ManifestKey, expand("keymoot/v1/manifest")),
            (Kind::SigningSeed, expand("keymoot/v1/signing")),
        ] {
            spellings(&secret, &mut |form, bytes| add(kind, 0, form, bytes));
        }
        Self { version, needles }
    }

    /// The forms that an environment variable can hold.
    pub(crate) fn in_text(&self) -> Vec<&str> {
        self.needles
            .iter()
            .filter_map(|needle| str::from_utf8(&needle.bytes).ok())
            .filter(|text| text.is_ascii() && !text.contains('\0'))
            .collect()
    }

    /// How many there are.
    pub(crate) fn forms(&self) -> usize {
        self.needles.len()
    }

    pub(crate) fn found_in(&self, image: &Image) -> Vec<Found> {
        let bytes: Vec<_> = self.needles.iter().map(|needle| needle.bytes.clone()).collect();
        let places = image.search(&bytes);
        self.needles
            .iter()
            .zip(places)
            .filter_map(|(needle, at)| {
                let at = at?;
                let around = &image.bytes[at.saturating_sub(64)..(at + 128).min(image.bytes.len())];
                let around = String::from_utf8_lossy(around).escape_debug().to_string();
                Some(Found {
                    kind: needle.kind,
                    holder: needle.holder,
                    form: needle.form,
                    mapping: image.mapping_of(at),
                    around,
                })
            })
            .collect()
    }
}

/// 32 bytes in every form in which they might be written. Half of one is as bad as the whole, so halves are looked
/// for; in base64 at each of the three places where it may begin within a longer text.
fn spellings(secret: &[u8; 32], add: &mut dyn FnMut(&'static str, &[u8])) {
    for half in secret.chunks(16) {
        add("raw", half);
        add("hex", hex::encode(half).as_bytes());
        add("HEX", hex::encode_upper(half).as_bytes());
        for (form, engine) in
            [("base64", &general_purpose::STANDARD_NO_PAD), ("base64url", &general_purpose::URL_SAFE_NO_PAD)]
        {
            for skipped in 0..3 {
                let text = base64::Engine::encode(engine, &half[skipped..skipped + 12]);
                add(form, text.as_bytes());
            }
        }
    }
    let text = bech32::encode::<Bech32m>(Hrp::parse("kmshare").unwrap(), secret).unwrap();
    add("bech32", &text.as_bytes()[8..56]);
    add("bech32 in capitals", &text.to_uppercase().as_bytes()[8..56]);
    let words: Vec<u8> = secret.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    add("words of the other byte order", &words[..16]);
}

fn groups_of_5_bits(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    text[8..].chars().map(|c| u8::try_from(ALPHABET.find(c).unwrap()).unwrap()).collect()
}

fn hmac(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in message {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Lagrange's polynomial at x = 0 over GF(2^8) with 0x11d.
fn at_zero(points: &[(u8, [u8; 32])]) -> [u8; 32] {
    let mut root = [0; 32];
    for (i, (x, y)) in points.iter().enumerate() {
        let mut weight = 1;
        for (_, (other, _)) in points.iter().enumerate().filter(|(j, _)| *j != i) {
            weight = multiply(weight, multiply(*other, inverse(other ^ x)));
        }
        for (to, from) in root.iter_mut().zip(y) {
            *to ^= multiply(weight, *from);
        }
    }
    root
}

fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= a;
        }
        a = if a & 0x80 == 0 { a << 1 } else { (a << 1) ^ 0x1d };
    }
    product
}

fn inverse(a: u8) -> u8 {
    (1..=255).find(|b| multiply(a, *b) == 1).unwrap()
}

#[test]
fn the_arithmetic_is_that_of_the_vectors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/keymoot-v1.json");
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut checked = 0;
    for version in vectors["versions"].as_array().unwrap().iter().filter(|version| version["threshold"] == 2) {
        let points: Vec<_> = version["shares"].as_array().unwrap()[..2]
            .iter()
            .map(|share| {
                let share = Share::parse(share["text"].as_str().unwrap()).unwrap();
                (share.x().get(), *share.y())
            })
            .collect();
        assert_eq!(hex::encode(at_zero(&points)), version["root"].as_str().unwrap());
        checked += 1;
    }
    assert!(checked > 1);
}
