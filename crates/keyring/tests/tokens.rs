//! Encrypted values under attack. Faults 19, 20 and 22 of `docs/track-record.md`.

mod common;

use std::sync::{Arc, OnceLock};

use common::{bytes, flipped, key_names, list, name, number, pairs, text, version_of};
use keymoot_keyring::{DataKeyBits, Keyring, OpenError};
use keymoot_types::{
    KeyName, Value,
    value::{BodyKind, NONCE_BYTES, PAYLOAD_NONCE_BYTES, TAG_BYTES, WRAPPED_256_BYTES},
};
use proptest::prelude::*;

fn serving() -> &'static Keyring {
    static KEYRING: OnceLock<Keyring> = OnceLock::new();
    KEYRING.get_or_init(|| common::keyring(Some(10)))
}

struct Token {
    key: KeyName,
    associated_data: Vec<u8>,
    value: Value,
}

impl Token {
    /// Whether anything at all opens this value where the token belongs.
    fn opens(&self, value: &Value) -> bool {
        serving().decrypt(&self.key, value, &self.associated_data).is_ok()
            || serving().unwrap_data_key(&self.key, value).is_ok()
            || serving().check(&self.key, value, &self.associated_data).is_ok()
            || serving().rekey(&self.key, value, &self.associated_data).is_ok()
    }

    /// Whether one attempt of the right kind opens it: for the long loops.
    fn opens_quickly(&self, value: &Value) -> bool {
        serving().check(&self.key, value, &self.associated_data).is_ok()
    }

    fn text_opens(&self, text: &[u8]) -> bool {
        let by_text = std::str::from_utf8(text).ok().and_then(|text| Value::parse(text).ok());
        let by_bytes = Value::parse_bytes(text).ok().map(|(value, _)| value);
        by_text.into_iter().chain(by_bytes).any(|value| self.opens_quickly(&value))
    }

    fn binary_opens(&self, binary: &[u8]) -> bool {
        Value::parse_binary(binary).is_ok_and(|value| self.opens_quickly(&value))
    }

    /// Where the fields of the body begin and end.
    fn fields(&self) -> Vec<std::ops::Range<usize>> {
        let end = self.value.body().len();
        let payload = 1 + WRAPPED_256_BYTES;
        let begins = match self.value.kind() {
            BodyKind::Envelope => vec![
                1,
                1 + NONCE_BYTES,
                payload - TAG_BYTES,
                payload,
                payload + PAYLOAD_NONCE_BYTES,
                end - TAG_BYTES,
            ],
            _ => vec![1, 1 + NONCE_BYTES, end - TAG_BYTES],
        };
        begins.iter().zip(begins.iter().skip(1).chain([&end])).map(|(from, to)| *from..*to).collect()
    }
}

fn token(entry: &serde_json::Value) -> Token {
    Token {
        key: name(text(entry, "key")),
        associated_data: entry["associated_data"]
            .as_str()
            .map(|hex| hex::decode(hex).unwrap())
            .unwrap_or_default(),
        value: Value::parse(text(entry, "text")).unwrap(),
    }
}

/// All values of the vectors but the 5 kB ones, the data keys, and fresh ones: a thousand.
fn tokens() -> Vec<Token> {
    let short = list("values").iter().filter(|entry| text(entry, "text").len() < 1_000);
    let mut tokens: Vec<Token> = short.chain(list("datakeys")).map(token).collect();
    let keys = key_names();
    for n in 0.. {
        if tokens.len() >= 1_000 {
            break;
        }
        let key = keys[n % keys.len()].clone();
        let associated_data = vec![b'a'; n % 7];
        let value = match n % 20 {
            0 => serving().wrap_data_key(&key, DataKeyBits::B256).unwrap().0,
            1 => serving().wrap_data_key(&key, DataKeyBits::B512).unwrap().0,
            _ => serving().encrypt(&key, &vec![b'p'; n % 40], &associated_data).unwrap(),
        };
        tokens.push(Token { key, associated_data, value });
    }
    tokens
}

#[test]
fn fault_19_no_token_with_one_bit_flipped_opens_in_text_or_in_binary() {
    let mut flips = 0u64;
    for token in &tokens() {
        let (text, binary) = (token.value.to_text(), token.value.to_binary());
        assert!(token.text_opens(text.as_bytes()) && token.binary_opens(&binary));
        for bit in 0..text.len() * 8 {
            assert!(!token.text_opens(&flipped(text.as_bytes(), bit)), "{text}, bit {bit}");
        }
        for bit in 0..binary.len() * 8 {
            assert!(!token.binary_opens(&flipped(&binary, bit)), "{text}, bit {bit}");
        }
        flips += (text.len() + binary.len()) as u64 * 8;
    }
    println!("{flips} flips");
    assert!(flips > 1_500_000, "{flips}");
}

#[test]
fn fault_19_no_truncated_or_extended_token_opens() {
    for token in tokens().iter().step_by(4) {
        let (text, binary) = (token.value.to_text(), token.value.to_binary());
        for cut in 0..text.len() {
            assert!(!token.text_opens(&text.as_bytes()[..cut]), "{text} cut to {cut}");
            assert!(!token.text_opens(&text.as_bytes()[text.len() - cut..]), "{text}: the last {cut}");
        }
        for cut in 0..binary.len() {
            assert!(!token.binary_opens(&binary[..cut]));
            assert!(!token.binary_opens(&binary[binary.len() - cut..]));
        }
        for byte in 0..=255 {
            for (longer_text, longer) in [
                ([text.as_bytes(), &[byte]].concat(), [&binary[..], &[byte]].concat()),
                ([&[byte], text.as_bytes()].concat(), [&[byte], &binary[..]].concat()),
            ] {
                assert!(!token.text_opens(&longer_text), "{text} and {byte}");
                assert!(!token.binary_opens(&longer), "{text} and {byte}");
            }
            let longer = Value::from_parts(token.value.version(), [token.value.body(), &[byte]].concat());
            assert!(!longer.is_ok_and(|value| token.opens(&value)));
        }
        for tail in [&[0; 16][..], &[0; 32], binary.as_slice(), token.value.body()] {
            assert!(!token.binary_opens(&[&binary, tail].concat()));
            assert!(!token.binary_opens(&[tail, &binary].concat()) || tail.is_empty());
        }
        assert!(!token.text_opens(text.repeat(2).as_bytes()));
    }
}

#[test]
fn fault_19_no_field_of_one_token_fits_into_another() {
    let all = tokens();
    for version in [9, 10] {
        for key in key_names() {
            for kind in [BodyKind::Direct, BodyKind::Envelope, BodyKind::DataKey] {
                let alike: Vec<&Token> = all
                    .iter()
                    .filter(|t| t.value.version().get() == version && t.key == key && t.value.kind() == kind)
                    .take(12)
                    .collect();
                for [a, b] in pairs(&alike) {
                    for (into, from) in [(*a, *b), (*b, *a)] {
                        swap_fields(into, from);
                    }
                }
            }
        }
    }
}

fn swap_fields(into: &Token, from: &Token) {
    for (at, (field, taken)) in into.fields().into_iter().zip(from.fields()).enumerate() {
        let (body, other) = (into.value.body(), &from.value.body()[taken]);
        if body[field.clone()] == *other {
            continue;
        }
        let swapped = [&body[..field.start], other, &body[field.end..]].concat();
        let value = Value::from_parts(into.value.version(), swapped).unwrap();
        assert!(!into.opens(&value) && !from.opens(&value), "field {at} of {}", into.value.to_text());
    }
    // A whole wrapped key: D of one envelope before the payload of another.
    if into.value.kind() == BodyKind::Envelope {
        let (d, payload) =
            (&from.value.body()[..1 + WRAPPED_256_BYTES], &into.value.body()[1 + WRAPPED_256_BYTES..]);
        let value = Value::from_parts(into.value.version(), [d, payload].concat()).unwrap();
        assert!(!into.opens(&value) && !from.opens(&value));
    }
}

#[test]
fn fault_19_no_token_opens_under_another_kind_of_body_or_another_version() {
    for token in &tokens() {
        for kind in 0..=255u8 {
            let body = [&[kind], &token.value.body()[1..]].concat();
            let value = Value::from_parts(token.value.version(), body);
            assert!(kind == token.value.kind().byte() || !value.is_ok_and(|value| token.opens(&value)));
        }
        for (version, _) in serving().versions().filter(|(version, _)| *version != token.value.version()) {
            let value = Value::from_parts(version, token.value.body().to_vec()).unwrap();
            assert!(!token.opens(&value));
            let checked = serving().check(&token.key, &value, &token.associated_data);
            assert_eq!(checked, Err(OpenError::Authentication));
        }
        for version in [3, 8, 12, 101, u32::MAX - 1] {
            let value = Value::from_parts(number(version), token.value.body().to_vec()).unwrap();
            let opened = serving().check(&token.key, &value, &token.associated_data);
            assert_eq!(opened, Err(OpenError::NotLoaded(number(version))));
        }
    }
}

#[test]
fn fault_20_short_and_huge_claims_are_typed_refusals() {
    let nines = "9".repeat(1 << 20);
    for version in ["0", "00", "4294967296", "100000000000000000000", nines.as_str()] {
        assert!(Value::parse(&format!("km:v{version}:AQ")).is_err());
    }
    // There is no length in the format that could be a lie: a gigabyte claimed is a gigabyte sent.
    let huge = "A".repeat(64 << 20);
    assert!(Value::parse(&format!("km:v9:{huge}")).is_err());
    let body = [&[1][..], &vec![0; 8 << 20]].concat();
    let value = Value::from_parts(number(9), body).unwrap();
    assert_eq!(serving().decrypt(&name("pii"), &value, b""), Err(OpenError::Authentication));
}

#[test]
fn fault_22_a_token_moved_to_another_key_or_other_associated_data_does_not_open() {
    for token in &tokens() {
        for key in key_names().iter().filter(|key| **key != token.key) {
            let opened = serving().check(key, &token.value, &token.associated_data);
            assert_eq!(opened, Err(OpenError::Authentication), "{key}");
        }
        if token.value.kind() == BodyKind::DataKey {
            continue;
        }
        let own = &token.associated_data;
        let mut moved = vec![[own.as_slice(), b"\0"].concat(), [b"\0", own.as_slice()].concat()];
        moved.extend((0..own.len() * 8).map(|bit| flipped(own, bit)));
        moved.extend((0..own.len()).flat_map(|at| [own[..at].to_vec(), own[at + 1..].to_vec()]));
        for elsewhere in moved.iter().filter(|elsewhere| *elsewhere != own) {
            let opened = serving().decrypt(&token.key, &token.value, elsewhere);
            assert_eq!(opened, Err(OpenError::Authentication));
        }
    }
}

#[test]
fn fault_22_a_name_and_its_associated_data_can_not_run_into_each_other() {
    let keys = [name("a"), name("ab"), name("abc")];
    let keyring = Keyring::new([Arc::new(version_of(9).validated())], Some(number(9)), &keys);
    let split = [("a", "bcd"), ("ab", "cd"), ("abc", "d")];
    for [(key, data), (other, other_data)] in pairs(&split) {
        let value = keyring.encrypt(&name(key), b"secret", data.as_bytes()).unwrap();
        assert!(keyring.decrypt(&name(key), &value, data.as_bytes()).is_ok());
        assert!(keyring.decrypt(&name(other), &value, other_data.as_bytes()).is_err());
        assert!(keyring.decrypt(&name(other), &value, data.as_bytes()).is_err());
    }
}

#[test]
fn fault_22_a_token_inside_a_token_comes_out_as_it_went_in() {
    let key = name("pii");
    for entry in list("values").iter().step_by(17) {
        let inner = text(entry, "text").as_bytes();
        let outer = serving().encrypt(&key, inner, b"row").unwrap();
        assert_eq!(serving().decrypt(&key, &outer, b"row").unwrap().as_slice(), inner, "opened only once");
        assert_ne!(bytes(entry, "plaintext"), inner);
    }
}

#[test]
fn a_wrapped_data_key_is_no_value_and_a_value_no_wrapped_data_key() {
    for token in &tokens() {
        let wrong = match token.value.kind() {
            BodyKind::DataKey => serving().decrypt(&token.key, &token.value, &token.associated_data),
            _ => serving().unwrap_data_key(&token.key, &token.value),
        };
        assert_eq!(wrong, Err(OpenError::WrongKind));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fault_19_a_body_made_of_anything_does_not_open(
        kind in 1u8..=3, rest in prop::collection::vec(any::<u8>(), 40..300), version in 9u32..=10,
    ) {
        if let Ok(value) = Value::from_parts(number(version), [&[kind], rest.as_slice()].concat()) {
            let opened = serving().check(&name("pii"), &value, b"");
            prop_assert_eq!(opened, Err(OpenError::Authentication));
        }
    }

    #[test]
    fn fault_20_arbitrary_bytes_behind_a_prefix_never_panic(
        prefix in prop::sample::select(vec![&b""[..], b"km:v", b"km:v9:", b"KM\x01", b"KM\x01\0\0\0\x09"]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok((value, _)) = Value::parse_bytes(&[prefix, rest.as_slice()].concat()) {
            prop_assert!(serving().check(&name("pii"), &value, b"").is_err());
        }
    }
}
