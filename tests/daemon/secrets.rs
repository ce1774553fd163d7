//! No log and no file of the daemon ever holds a key, a share, a token or a plaintext.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::{Value as Json, json};

use crate::{
    harness::{AUDITOR, OPERATOR, SERVICE, SOURCE, World, make_table},
    oracle,
};

/// The ways in which bytes may stand in a file: raw, hex, and base64 at each of its three alignments.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![secret.to_vec(), hex::encode(secret).into_bytes(), hex::encode_upper(secret).into_bytes()];
    for before in 0..3 {
        let padded = [&vec![0; before], secret].concat();
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            // The characters that depend on the secret alone.
            let begin = if before == 0 { 0 } else { before + 1 };
            let end = text.len() - usize::from(!padded.len().is_multiple_of(3));
            all.push(text[begin..end].into());
        }
    }
    all.sort();
    all.dedup();
    all
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // The first byte by memchr's speed: these are megabytes.
    haystack.windows(needle.len()).any(|window| window[0] == needle[0] && window == needle)
}

/// A piece of a secret is a hit as the whole is: 16 bytes of 32 are half a key.
const PIECE: usize = 16;

pub fn hits(bytes: &[u8], secrets: &[(String, Vec<u8>)]) -> Vec<String> {
    let found = secrets.iter().filter(|(_, secret)| {
        let mut pieces = secret.chunks_exact(PIECE).flat_map(spellings);
        pieces.any(|needle| contains(bytes, &needle))
    });
    found.map(|(name, _)| name.clone()).collect()
}

#[test]
fn no_key_share_token_or_plaintext_stands_in_any_file_or_log() {
    let mut world = World::new(SOURCE);
    let chatty = |world: &World| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
        command.arg("server").arg("--config").arg(world.config_file()).env("KEYMOOT_LOG", "debug");
        command
    };
    world.start_as(chatty(&world));
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let plaintexts = ["plaintext-of-the-story-1", "plaintext-of-the-story-2"].map(String::from);
    let mut values = world.encrypt_all(&plaintexts);
    // What is wrong is reported, and still not repeated.
    values.push(format!("km:v9:{}", URL_SAFE_NO_PAD.encode("plaintext-of-the-story-3")));
    values.push("plaintext-of-the-story-4".into());
    let table = make_table(&world.path("app.db"), &values);
    let made = world.data("datakey", json!({})).expect(200);
    let data_key = STANDARD.decode(made["plaintext"].as_str().unwrap()).unwrap();
    world.data("decrypt", json!({"ciphertext": "plaintext-of-the-story-5"})).expect(422);
    world.data("encrypt", json!({"plaintext": "plaintext-of-the-story-6"})).expect(400);
    let misplaced = world.share(9, 3);
    for body in [
        json!({"parts": {misplaced.clone(): "x"}}),
        json!({"parts": {"prod-keyPart-v10": misplaced}}),
        json!({"parts": {"prod-keyPart-v9": format!("{misplaced}q")}}),
        json!({"parts": [misplaced]}),
        json!({misplaced.clone(): 1}),
    ] {
        let answer = world.control("POST", "/v1/unlock/parts", None, body);
        assert!(!answer.json.to_string().contains(&misplaced), "{}", answer.json);
    }
    world.control("GET", &format!("/v1/requests/{misplaced}"), Some(OPERATOR), Json::Null);
    world.data("decrypt", json!({"ciphertext": misplaced})).expect(422);
    world.rotate(9);
    assert_eq!(world.rekey()["state"], "completed_with_quarantine");
    table.execute("DELETE FROM tokens WHERE id = 3", ()).unwrap();
    assert_eq!(world.rekey()["state"], "completed");
    world.kill();
    world.start_as(chatty(&world));
    for version in [10, 9] {
        world.unlock(&[(version, 1)]).expect(200);
        world.unlock(&[(version, 2)]).expect(200);
    }
    world.retire(9);
    world.post("/v1/seal", Json::Null);

    let all: Vec<&String> = world.shares.iter().map(|(_, _, text)| text).collect();
    let mut secrets = oracle::secrets(&world, &[9, 10], &all);
    assert_eq!(secrets.len(), 2 * 6 + 10);
    secrets
        .extend(all.iter().map(|share| (format!("a share, {}", &share[..12]), share.as_bytes()[14..].to_vec())));
    secrets.extend(
        [("operator", OPERATOR), ("service", SERVICE), ("auditor", AUDITOR)]
            .map(|(name, token)| (name.into(), token.into())),
    );
    secrets.push(("a data key".into(), data_key));
    secrets.push(("a plaintext".into(), b"plaintext-of-the-story-".to_vec()));

    // The search itself finds what is there, however it is spelt.
    for (name, secret) in &secrets {
        for spelt in [
            secret.clone(),
            hex::encode(secret).into(),
            STANDARD.encode([b"x", secret.as_slice(), b"yz"].concat()).into(),
            URL_SAFE_NO_PAD.encode([b"xy", secret.as_slice()].concat()).into(),
        ] {
            assert!(
                hits(&[b"before".to_vec(), spelt, b"after".to_vec()].concat(), &secrets).contains(name),
                "{name}"
            );
        }
    }
    world.until("the log is there", || {
        let log = world.log();
        (log.lines().count() > 50 && log.contains("version retired and wiped")).then_some(())
    });
    let mut searched = files(&world.data_dir());
    searched.push(world.path("log"));
    let names: Vec<_> =
        searched.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    for name in ["meta.db", "manifest.json", "log"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    for path in searched {
        let found = hits(&fs::read(&path).unwrap(), &secrets);
        assert!(found.is_empty(), "{} holds {found:?}", path.display());
    }
}
