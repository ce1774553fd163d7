use std::sync::Arc;

use jiff::Timestamp;
use keymoot_keyring::{Validated, stage::stage};
use keymoot_types::{HolderName, KeyringId, Verdict};

use super::*;

fn version(number: u32) -> KeyVersion {
    KeyVersion::new(number).unwrap()
}

fn key() -> KeyName {
    "pii".parse().unwrap()
}

fn made(number: u32) -> Arc<Validated> {
    let holders: Vec<(HolderName, _)> = ["a", "b"].map(|name| (name.parse().unwrap(), None)).into();
    stage(KeyringId::new([7; 8]), version(number), 2, &holders).unwrap().validated
}

fn retirement(by_override: bool, hold_ended: bool) -> Option<Retirement> {
    let at = Timestamp::UNIX_EPOCH;
    Some(Retirement {
        at,
        override_reason: by_override.then(|| "lost".into()),
        hold_ended: hold_ended.then_some(at),
    })
}

/// v9 decrypt-only, v10 primary, both loaded and proved; v11 staged and loaded; v1 to v5 out of use.
pub(crate) struct World {
    pub(crate) serving: Serving,
    /// A value of each loaded version, made while it was primary.
    pub(crate) old: String,
    new: String,
    staged: String,
    data_key: String,
}

pub(crate) fn world() -> World {
    let versions = [made(9), made(10), made(11)];
    let sealed_by = |number| {
        let keyring = Keyring::new(versions.clone(), Some(version(number)), &[key()]);
        keyring.encrypt(&key(), b"4111", b"row 1").unwrap().to_text()
    };
    let (old, new, staged) = (sealed_by(9), sealed_by(10), sealed_by(11));
    let keyring = Keyring::new(versions.clone(), Some(version(10)), &[key()]);
    let data_key = keyring.wrap_data_key(&key(), DataKeyBits::B256).unwrap().0.to_text();
    let facts = |number: u32, state, retirement| VersionFacts {
        version: version(number),
        key_id: KeyId::new([0; 16]),
        state,
        retirement,
    };
    use VersionState::*;
    let serving = Serving {
        state: NodeState::Unlocked,
        keyring: Some(Arc::new(keyring)),
        keyring_id: None,
        revision: 1,
        primary: Some(version(10)),
        versions: vec![
            facts(1, Aborted, None),
            facts(2, Retired, retirement(false, false)),
            facts(3, Retired, retirement(false, true)),
            facts(4, Retired, retirement(true, true)),
            facts(5, Retired, None),
            facts(8, DecryptOnly, None),
            facts(9, DecryptOnly, None),
            facts(10, Primary, None),
            facts(11, Staged, None),
        ],
        keys: vec![key()],
        released: vec![],
        proved: vec![version(9), version(10)],
        lacking: Vec::new(),
        last_use: Arc::default(),
    };
    World { serving, old, new, staged, data_key }
}

/// The same value under another number.
fn relabelled(text: &str, number: u32) -> String {
    format!("km:v{number}:{}", text.rsplit(':').next().unwrap())
}

fn with_body(number: u32, body: &[u8]) -> String {
    use base64url::encode;
    format!("km:v{number}:{}", encode(body))
}

mod base64url {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits =
                chunk.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
            for at in 0..=chunk.len() {
                text.push(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize] as char);
            }
        }
        text
    }
}

#[test]
fn every_verdict_on_a_value_is_the_tables() {
    use ErrorCode::*;
    let World { serving, old, new, staged, data_key } = world();
    let rows: &[(&str, String, ErrorCode, Option<u32>)] = &[
        ("not ours", "hello".into(), MalformedCiphertext, None),
        ("nothing", String::new(), MalformedCiphertext, None),
        ("version with a zero", new.replace("km:v10", "km:v010"), MalformedCiphertext, None),
        ("version over 32 bits", new.replace("km:v10", "km:v4294967296"), MalformedCiphertext, None),
        ("padding", format!("{new}="), MalformedCiphertext, None),
        ("no body", "km:v10:".into(), MalformedCiphertext, None),
        ("unknown body byte", with_body(10, &[0x7f; 60]), UnsupportedFormat, None),
        ("unknown body byte before unknown version", with_body(99, &[0x7f; 60]), UnsupportedFormat, None),
        ("too short", with_body(10, &[1; 40]), MalformedCiphertext, None),
        ("too short before unknown version", with_body(99, &[1; 40]), MalformedCiphertext, None),
        ("a data key", data_key.clone(), MalformedCiphertext, None),
        ("never heard of", relabelled(&new, 99), UnknownKeyVersion, Some(99)),
        ("aborted", relabelled(&new, 1), KeyVersionUnavailable, Some(1)),
        ("retired within its hold", relabelled(&new, 2), KeyVersionUnavailable, Some(2)),
        ("retired and the hold over", relabelled(&new, 3), KeyVersionRetired, Some(3)),
        ("retired by override, for ever", relabelled(&new, 4), KeyVersionUnavailable, Some(4)),
        ("retired without a record", relabelled(&new, 5), KeyVersionUnavailable, Some(5)),
        ("required and not loaded", relabelled(&new, 8), KeyVersionUnavailable, Some(8)),
        ("staged, although loaded", staged, KeyVersionUnavailable, Some(11)),
        ("another version's value", relabelled(&new, 9), AuthenticationFailed, Some(9)),
        ("the reverse", relabelled(&old, 10), AuthenticationFailed, Some(10)),
    ];
    for (what, text, code, number) in rows {
        let problem = serving.decrypt(&key(), text, b"row 1").unwrap_err();
        assert_eq!((problem.code, problem.version.map(KeyVersion::get)), (*code, *number), "{what}");
        assert_eq!(serving.decrypt_and_rewrap(&key(), text, b"row 1").unwrap_err(), problem, "{what}");
        if *what != "a data key" {
            assert_eq!(serving.rewrap(&key(), text, b"row 1").unwrap_err().code, *code, "{what}");
        }
        assert!(!problem.detail.contains(text.as_str()) || text.is_empty(), "{what}");
    }
    for wrong in [&b"row 2"[..], b""] {
        assert_eq!(serving.decrypt(&key(), &old, wrong).unwrap_err().code, AuthenticationFailed);
    }
    for value in [&old, &new] {
        assert_eq!(serving.datakey_decrypt(&key(), value).unwrap_err().code, MalformedCiphertext);
    }
    assert!(serving.last_use.snapshot().is_empty(), "nothing authenticated");
}

#[test]
fn without_a_decrypting_canary_nothing_is_called_inauthentic() {
    let World { mut serving, old, .. } = world();
    serving.proved = vec![version(10)];
    let problem = serving.decrypt(&key(), &old, b"another row").unwrap_err();
    assert_eq!((problem.code, problem.verdict), (ErrorCode::KeyVersionUnavailable, Verdict::Undetermined));
}

#[test]
fn a_sealed_node_says_so_whatever_was_sent() {
    for state in [NodeState::Uninitialised, NodeState::Sealed, NodeState::Unlocking] {
        let World { mut serving, .. } = world();
        serving.state = state;
        assert_eq!(serving.decrypt(&key(), "junk", b"").unwrap_err().code, ErrorCode::Sealed);
        assert_eq!(serving.encrypt(&key(), b"", b"").unwrap_err().code, ErrorCode::Sealed);
        assert_eq!(serving.datakey(&key(), DataKeyBits::B256).unwrap_err().code, ErrorCode::Sealed);
    }
    let World { mut serving, .. } = world();
    serving.keyring = None;
    assert_eq!(serving.rewrap(&key(), "junk", b"").unwrap_err().code, ErrorCode::Sealed);
}

#[test]
fn a_degraded_node_reads_and_encrypts_nothing() {
    let World { mut serving, old, data_key, .. } = world();
    serving.state = NodeState::Degraded;
    let full = serving.keyring.take().unwrap();
    serving.keyring = Some(Arc::new(Keyring::new(full.validated().cloned(), None, &serving.keys)));
    let refused = [
        serving.encrypt(&key(), b"x", b"").unwrap_err(),
        serving.rewrap(&key(), &old, b"row 1").unwrap_err(),
        serving.datakey(&key(), DataKeyBits::B512).unwrap_err(),
    ];
    for problem in refused {
        assert_eq!((problem.code, problem.version), (ErrorCode::KeyVersionUnavailable, Some(version(10))));
    }
    assert_eq!(serving.rewrap(&key(), "junk", b"").unwrap_err().code, ErrorCode::MalformedCiphertext);
    assert_eq!(serving.decrypt(&key(), &old, b"row 1").unwrap().0.as_slice(), b"4111");
    assert_eq!(serving.datakey_decrypt(&key(), &data_key).unwrap().0.len(), 32);
    // What could not be encrypted anew is still given out.
    let (plaintext, _, rewrapped) = serving.decrypt_and_rewrap(&key(), &old, b"row 1").unwrap();
    assert_eq!((plaintext.as_slice(), rewrapped), (&b"4111"[..], None));
}

#[test]
fn a_key_that_is_not_declared_is_named_as_that() {
    let World { serving, new, .. } = world();
    assert_eq!(serving.key("piii").unwrap_err().code, ErrorCode::UnknownKey);
    let other = "other".parse().unwrap();
    assert_eq!(serving.decrypt(&other, &new, b"row 1").unwrap_err().code, ErrorCode::UnknownKey);
    assert_eq!(serving.encrypt(&other, b"", b"").unwrap_err().code, ErrorCode::UnknownKey);
}

#[test]
fn good_values_come_back_and_their_versions_count_as_used() {
    let World { serving, old, new, data_key, .. } = world();
    let (plaintext, of) = serving.decrypt(&key(), &old, b"row 1").unwrap();
    assert_eq!((plaintext.as_slice(), of), (&b"4111"[..], version(9)));
    assert_eq!(serving.last_use.snapshot().iter().map(|(version, _)| version.get()).collect::<Vec<_>>(), [9]);

    let (_, of, rewrapped) = serving.decrypt_and_rewrap(&key(), &old, b"row 1").unwrap();
    assert_eq!(of, version(9));
    assert_eq!(serving.decrypt(&key(), &rewrapped.unwrap(), b"row 1").unwrap().1, version(10));
    assert_eq!(serving.decrypt_and_rewrap(&key(), &new, b"row 1").unwrap().2, None);

    let (rewrapped, to) = serving.rewrap(&key(), &old, b"row 1").unwrap();
    assert_eq!(to, version(10));
    assert_eq!(serving.decrypt(&key(), &rewrapped, b"row 1").unwrap().0.as_slice(), b"4111");

    let (empty, _) = serving.encrypt(&key(), b"", b"").unwrap();
    assert!(serving.decrypt(&key(), &empty, b"").unwrap().0.is_empty());

    let (wrapped, secret, _) = serving.datakey(&key(), DataKeyBits::B512).unwrap();
    assert_eq!(serving.datakey_decrypt(&key(), &wrapped).unwrap().0, secret);
    let (again, _) = serving.rewrap(&key(), &data_key, b"").unwrap();
    assert_eq!(
        serving.datakey_decrypt(&key(), &again).unwrap().0,
        serving.datakey_decrypt(&key(), &data_key).unwrap().0
    );
    assert_eq!(serving.last_use.snapshot().len(), 2);
}

#[test]
fn the_noted_last_use_never_lies_before_the_real_one() {
    let last_use = LastUse::default();
    last_use.used(version(9));
    std::thread::sleep(std::time::Duration::from_millis(5));
    let real = Instant::now();
    // Within the grain of the first: not noted by itself.
    last_use.used(version(9));
    assert!(last_use.snapshot()[0].1 >= real);
}
