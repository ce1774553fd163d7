//! Secrets don't print, can't be copied and can't be serialized; an error never repeats what it refused.

mod common;

use std::fmt::Debug;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use common::{data_key_of, keyring, keyring_id, name, versions};
use keymoot_keyring::{
    DataKeyBits, Keyring, Rebuilt, Validated,
    derive::{Prk, RootKey},
    search::Found,
    shamir,
    stage::{Reshared, Staged, reshare, stage},
};
use keymoot_types::{Share, part::PartsFile};

/// Fails to compile where the type has the trait: two implementations then fit, and the compiler can't choose.
macro_rules! never {
    ($trait:path: $($type:ty),+) => {
        $(const _: fn() = || {
            trait Unless<Marker> {
                fn never() {}
            }
            impl<T: ?Sized> Unless<()> for T {}
            struct HasIt;
            impl<T: ?Sized + $trait> Unless<HasIt> for T {}
            let _ = <$type as Unless<_>>::never;
        };)+
    };
}

never!(Clone: RootKey, Prk, Rebuilt, Validated, Found, Share, Staged, Reshared, Keyring, PartsFile);
never!(Copy: RootKey, Prk, Rebuilt, Validated, Found, Share, Staged, Reshared, Keyring, PartsFile);
never!(serde::Serialize: RootKey, Prk, Rebuilt, Validated, Found, Share, Staged, Reshared, Keyring, PartsFile);
never!(std::fmt::Display: RootKey, Prk, Rebuilt, Validated, Found, Share, Staged, Reshared, Keyring, PartsFile);
never!(Debug: RootKey, Prk, Rebuilt, Staged, Reshared, PartsFile);
never!(PartialEq: RootKey, Prk, Rebuilt, Validated, Share, Keyring);
never!(AsRef<[u8]>: RootKey, Prk, Rebuilt, Validated, Share);

/// A share and a root key are wiped when they go.
const _: fn() = || {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<RootKey>();
    wiped::<Share>();
    wiped::<xaes_256_gcm::Xaes256Gcm>();
    wiped::<aes_gcm::Aes256Gcm>();
    wiped::<ed25519_dalek::SigningKey>();
};

/// Whether any 4 bytes of the secret stand in the text, in hex, base64 or as a list of numbers.
fn leaks(text: &str, secret: &[u8]) -> bool {
    let lower = text.to_lowercase();
    let numbers: String = text.split_whitespace().collect();
    let windows = secret.windows(4).any(|window| {
        let list: Vec<String> = window.iter().map(u8::to_string).collect();
        lower.contains(&hex::encode(window)) || numbers.contains(&format!("{},", list.join(",")))
    });
    // Base64 depends on where a byte stands in its group of three: all three places, six bytes at a time.
    windows
        || secret.windows(6).any(|window| {
            text.contains(&STANDARD_NO_PAD.encode(window)) || text.contains(&URL_SAFE_NO_PAD.encode(window))
        })
}

#[test]
fn the_search_for_secrets_finds_them() {
    let secret: Vec<u8> = (100..132).collect();
    let printed = [
        hex::encode(&secret),
        hex::encode_upper(&secret),
        STANDARD_NO_PAD.encode(&secret),
        URL_SAFE_NO_PAD.encode([b"xy", &secret[..]].concat()),
        format!("{secret:?}"),
        format!("{secret:#?}"),
    ];
    for text in printed {
        assert!(leaks(&text, &secret), "{text}");
    }
    assert!(!leaks("nothing of that kind", &secret));
}

#[test]
fn no_debug_form_tells_a_key_or_a_share() {
    let serving = keyring(Some(10));
    for version in versions() {
        let validated = version.validated();
        let mut forms = vec![
            format!("{validated:?} {validated:#?}"),
            format!("{serving:?} {serving:#?}"),
            format!("{:?}", version.rebuild().validate(version.key_id, &version.set)),
        ];
        forms.extend(version.shares.iter().map(|share| format!("{share:?} {share:#?}")));
        forms.push(format!("{:?}", Share::parse(&version.shares[0].to_text())));
        let mut secrets: Vec<Vec<u8>> = version.shares.iter().map(|share| share.y().to_vec()).collect();
        secrets.push(version.root.to_vec());
        for key in common::key_names() {
            secrets.push(data_key_of(&version.root, keyring_id(), &key).to_vec());
        }
        let key = RootKey::from_bytes(Box::new(version.root)).extract(keyring_id()).data_key(&name("pii"));
        assert_eq!(key.as_slice(), data_key_of(&version.root, keyring_id(), &name("pii")));
        forms.push(format!("{key:?} {key:#?}"));
        for form in &forms {
            assert!(!secrets.iter().any(|secret| leaks(form, secret)), "{form}");
            let texts = version.shares.iter().any(|share| form.contains(&share.to_text()[22..40]));
            assert!(!texts, "{form}");
        }
    }
}

#[test]
fn no_debug_form_tells_a_plaintext_or_a_data_key_that_is_handed_out() {
    let serving = keyring(Some(10));
    let (wrapped, data_key) = serving.wrap_data_key(&name("pii"), DataKeyBits::B512).unwrap();
    let opened = serving.unwrap_data_key(&name("pii"), &wrapped);
    let form = format!("{data_key:?} {data_key:#?} {opened:?}");
    assert!(!leaks(&form, &data_key), "{form}");
}

#[test]
fn no_refusal_repeats_a_share() {
    let version = common::version_of(9);
    let share = version.shares[3].to_text();
    let damaged = format!("{}b", &share[..87]);
    let mut refusals: Vec<String> = [damaged.as_str(), &share[..80], &format!("{} ", share.as_str()), "x"]
        .iter()
        .map(|text| Share::parse(text).unwrap_err())
        .map(|error| format!("{error} {error:?}"))
        .collect();
    for file in [share.as_str(), &format!("x\n{}", share.as_str()), &format!("{}:", share.as_str())] {
        let error = PartsFile::parse(file).err().unwrap();
        refusals.push(format!("{error} {error:?}"));
    }
    let pair = [&version.shares[3], &version.shares[3]];
    let error = shamir::rebuild(2, &pair).err().unwrap();
    refusals.push(format!("{error} {error:?}"));
    let wrong = common::share(keyring_id(), version.number, 4, [9; 32]);
    let rebuilt = shamir::rebuild(2, &[&version.shares[3], &common::copy(&version.shares[4])]).unwrap();
    refusals.push(format!("{:?}", rebuilt.validate(version.key_id, &common::version_of(10).set)));
    let rebuilt = shamir::rebuild(2, &[&wrong, &version.shares[4]]).unwrap();
    refusals.push(format!("{:?}", rebuilt.validate(version.key_id, &version.set)));
    for refusal in &refusals {
        assert!(!refusal.contains(&share[20..32]) && !leaks(refusal, version.shares[3].y()), "{refusal}");
    }
}

#[test]
fn what_is_staged_for_all_to_see_tells_nothing() {
    let holders: Vec<_> = (1..=5).map(|n| (format!("h{n}").parse().unwrap(), None)).collect();
    let staged = stage(keyring_id(), common::number(12), 3, &holders).unwrap();
    let root = common::interpolate(&staged.shares.iter().take(3).collect::<Vec<_>>());
    assert_eq!(common::key_id_of(&root, keyring_id()), staged.validated.key_id());
    let again = reshare(&staged.validated, 2, 3, &holders).unwrap();
    let public = format!(
        "{:?} {:?} {:?} {:?}",
        staged.share_set,
        again.share_set,
        staged.validated,
        staged.validated.public_key()
    );
    let json = serde_json::to_string(&[&staged.share_set, &again.share_set]).unwrap();
    for secret in staged.shares.iter().chain(&again.shares).map(|share| *share.y()).chain([root]) {
        assert!(!leaks(&public, &secret) && !leaks(&json, &secret));
    }
}
