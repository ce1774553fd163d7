//! Encrypting and re-encrypting: fresh nonces, sizes, and what a rekey keeps. Faults 23 of `docs/track-record.md`.

mod common;

use std::{collections::HashSet, sync::Arc};

use aes_gcm::KeyInit;
use common::{bytes, data_key_of, keyring, keyring_id, list, name, number, text, version_of};
use keymoot_keyring::{DataKeyBits, Keyring, OpenError, RekeyError, SealError};
use keymoot_types::{
    Value,
    value::{BodyKind, NONCE_BYTES, PAYLOAD_NONCE_BYTES, WRAPPED_256_BYTES},
};
use xaes_256_gcm::{
    Xaes256Gcm,
    aead::{Aead, Payload},
};

const MIB: usize = 1 << 20;

fn nonce(value: &Value) -> [u8; NONCE_BYTES] {
    value.body()[1..=NONCE_BYTES].try_into().unwrap()
}

#[test]
fn fault_23_no_nonce_repeats_in_two_hundred_thousand_encryptions_of_one_plaintext() {
    const TIMES: usize = 200_000;
    let (keyring, key) = (keyring(Some(10)), name("pii"));
    let mut nonces = HashSet::with_capacity(TIMES);
    let mut ones = [0u32; NONCE_BYTES * 8];
    for _ in 0..TIMES {
        let nonce = nonce(&keyring.encrypt(&key, b"the same", b"row").unwrap());
        for (bit, ones) in ones.iter_mut().enumerate() {
            *ones += u32::from(nonce[bit / 8] >> (bit % 8) & 1);
        }
        assert!(nonces.insert(nonce));
    }
    // All 192 bits are drawn: each is one about half of the time (7 standard deviations of 224).
    assert!(ones.iter().all(|ones| ones.abs_diff(TIMES as u32 / 2) < 1_568), "{ones:?}");
}

#[test]
fn fault_23_no_nonce_and_no_key_repeats_in_envelopes_and_data_keys() {
    let (keyring, key) = (keyring(Some(10)), name("pii"));
    let envelope = envelopes().next().unwrap();
    let (mut wrap_nonces, mut payload_nonces, mut keys) = (HashSet::new(), HashSet::new(), HashSet::new());
    for _ in 0..20_000 {
        let rekeyed = keyring.rekey(&envelope.0, &envelope.1, &envelope.2).unwrap();
        assert!(wrap_nonces.insert(nonce(&rekeyed)));
        let payload = 1 + WRAPPED_256_BYTES;
        assert!(payload_nonces.insert(rekeyed.body()[payload..payload + PAYLOAD_NONCE_BYTES].to_vec()));
        for bits in [DataKeyBits::B256, DataKeyBits::B512] {
            let (wrapped, data_key) = keyring.wrap_data_key(&key, bits).unwrap();
            assert!(wrap_nonces.insert(nonce(&wrapped)));
            assert_eq!(data_key.len(), bits.bytes());
            assert!(keys.insert(data_key.to_vec()));
        }
    }
}

#[test]
fn every_length_up_to_four_mib_comes_back_and_one_byte_more_is_too_large() {
    let (keyring, key) = (keyring(Some(10)), name("pii"));
    for length in (0..=300).chain([65_535, 65_536, MIB, 4 * MIB - 1, 4 * MIB]) {
        let plaintext = vec![0x5a; length];
        let value = keyring.encrypt(&key, &plaintext, b"row").unwrap();
        assert_eq!(value.body().len(), 1 + NONCE_BYTES + length + 16);
        assert_eq!(*keyring.decrypt(&key, &value, b"row").unwrap(), plaintext);
        assert_eq!(*keyring.decrypt(&key, &Value::parse(&value.to_text()).unwrap(), b"row").unwrap(), plaintext);
    }
    for length in [4 * MIB + 1, 5 * MIB] {
        assert_eq!(keyring.encrypt(&key, &vec![0; length], b"row"), Err(SealError::TooLarge));
    }
}

#[test]
fn nothing_is_encrypted_without_a_primary_or_for_a_key_that_is_not_declared() {
    let key = name("pii");
    let sealed = keyring(None);
    assert_eq!(sealed.encrypt(&key, b"", b""), Err(SealError::NoPrimary));
    assert_eq!(sealed.wrap_data_key(&key, DataKeyBits::B256).err(), Some(SealError::NoPrimary));
    // A primary that is not loaded encrypts nothing either.
    assert_eq!(keyring(Some(12)).primary(), None);
    let unknown = name("typing-eror");
    let serving = keyring(Some(10));
    assert_eq!(serving.encrypt(&unknown, b"", b""), Err(SealError::UnknownKey(unknown.clone())));
    let value = serving.encrypt(&key, b"", b"").unwrap();
    assert_eq!(serving.decrypt(&unknown, &value, b""), Err(OpenError::UnknownKey(unknown)));
}

type Entry = (keymoot_types::KeyName, Value, Vec<u8>, Vec<u8>);

fn entries() -> impl Iterator<Item = Entry> {
    list("values").iter().map(|entry| {
        let value = Value::parse(text(entry, "text")).unwrap();
        (name(text(entry, "key")), value, bytes(entry, "associated_data"), bytes(entry, "plaintext"))
    })
}

fn envelopes() -> impl Iterator<Item = Entry> {
    entries().filter(|(_, value, ..)| value.kind() == BodyKind::Envelope)
}

/// Opens D with nothing of this crate: the data-encryption key of an envelope, or the data key.
fn unwrapped(value: &Value, key: &keymoot_types::KeyName) -> Vec<u8> {
    let version = version_of(value.version().get());
    let data_key = data_key_of(&version.root, keyring_id(), key);
    let wrapped = match value.kind() {
        BodyKind::Envelope => &value.body()[1..=WRAPPED_256_BYTES],
        _ => &value.body()[1..],
    };
    let (nonce, msg) = wrapped.split_at(NONCE_BYTES);
    let length = u8::try_from(key.as_str().len()).unwrap();
    let aad = [b"keymoot/v1/dek", &version.number.to_be_bytes()[..], &[length], key.as_str().as_bytes()].concat();
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().unwrap();
    Xaes256Gcm::new((&data_key).into()).decrypt(&nonce.into(), Payload { msg, aad: &aad }).unwrap()
}

#[test]
fn a_rekey_keeps_the_plaintext_and_the_kind_and_moves_to_the_primary() {
    let keyring = keyring(Some(10));
    for (key, value, associated_data, plaintext) in entries() {
        let rekeyed = keyring.rekey(&key, &value, &associated_data).unwrap();
        assert_eq!((rekeyed.version(), rekeyed.kind()), (number(10), value.kind()));
        assert_eq!(rekeyed.body().len(), value.body().len());
        assert_ne!(rekeyed.body()[1..], value.body()[1..], "also a value of the primary is made anew");
        assert_eq!(*keyring.decrypt(&key, &rekeyed, &associated_data).unwrap(), plaintext);
        let moved = [&associated_data[..], b"x"].concat();
        assert_eq!(keyring.decrypt(&key, &rekeyed, &moved), Err(OpenError::Authentication));
    }
}

#[test]
fn a_rekeyed_envelope_has_a_data_encryption_key_that_the_old_root_never_opened() {
    let keyring = keyring(Some(10));
    let mut seen = HashSet::new();
    for (key, value, associated_data, _) in envelopes().filter(|(_, value, ..)| value.version().get() != 100) {
        let rekeyed = keyring.rekey(&key, &value, &associated_data).unwrap();
        for dek in [unwrapped(&value, &key), unwrapped(&rekeyed, &key)] {
            assert_eq!(dek.len(), 32);
            assert!(seen.insert(dek));
        }
        let payload = 1 + WRAPPED_256_BYTES;
        assert_ne!(rekeyed.body()[payload..], value.body()[payload..]);
    }
}

#[test]
fn a_rekeyed_data_key_is_the_same_key_under_the_primary() {
    let keyring = keyring(Some(10));
    for entry in list("datakeys") {
        let (key, value) = (name(text(entry, "key")), Value::parse(text(entry, "text")).unwrap());
        let rekeyed = keyring.rekey(&key, &value, b"").unwrap();
        assert_eq!((rekeyed.version(), rekeyed.kind()), (number(10), BodyKind::DataKey));
        assert_ne!(nonce(&rekeyed), nonce(&value));
        assert_eq!(*keyring.unwrap_data_key(&key, &rekeyed).unwrap(), bytes(entry, "plaintext"));
        assert_eq!(unwrapped(&rekeyed, &key), bytes(entry, "plaintext"));
    }
}

#[test]
fn a_rekey_of_what_does_not_open_says_why_and_makes_nothing() {
    let serving = keyring(Some(10));
    let (key, value, associated_data, _) = entries().next().unwrap();
    let elsewhere = serving.rekey(&key, &value, b"another row");
    assert_eq!(elsewhere, Err(RekeyError::Open(OpenError::Authentication)));
    let unknown = name("typing-eror");
    let refused = serving.rekey(&unknown, &value, &associated_data);
    assert_eq!(refused, Err(RekeyError::Open(OpenError::UnknownKey(unknown))));
    let without_primary = keyring(None).rekey(&key, &value, &associated_data);
    assert_eq!(without_primary, Err(RekeyError::Seal(SealError::NoPrimary)));
    let only_ten =
        Keyring::new([Arc::new(version_of(10).validated())], Some(number(10)), std::slice::from_ref(&key));
    let not_loaded = only_ten.rekey(&key, &value, &associated_data);
    assert_eq!(not_loaded, Err(RekeyError::Open(OpenError::NotLoaded(value.version()))));
}

#[test]
fn a_canary_is_of_its_version_whatever_encrypts_now() {
    let keyring = keyring(Some(10));
    for (version, _) in keyring.versions() {
        let canary = keyring.seal_canary(version, &name("pii"), b"known text").unwrap();
        assert_eq!((canary.version(), canary.kind()), (version, BodyKind::Direct));
        assert_eq!(keyring.decrypt(&name("pii"), &canary, b"").unwrap().as_slice(), b"known text");
    }
    assert!(keyring.seal_canary(number(12), &name("pii"), b"").is_err());
}
