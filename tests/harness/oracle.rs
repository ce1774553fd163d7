//! An independent implementation, `tests/oracle.py`, beside the daemon.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value as Json, json};

use super::{KEY, World};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/oracle.py");

/// Asks the oracle. It needs Python 3.9 or later and nothing else.
pub fn ask(command: &str, request: &Json) -> Result<Json, String> {
    let python = std::env::var_os("KEYMOOT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut child = Command::new(&python)
        .arg(SCRIPT)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{python:?} did not start ({error}): install python3, or name it in KEYMOOT_TEST_PYTHON")
        });
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[track_caller]
pub fn answer(command: &str, request: &Json) -> Json {
    ask(command, request).unwrap_or_else(|error| panic!("the oracle says: {error}"))
}

/// Two shares of each of these versions: enough to open everything.
pub fn shares(world: &World, versions: &[u32]) -> Json {
    versions.iter().flat_map(|version| [1, 2].map(|holder| world.share(*version, holder))).collect()
}

/// Everything that is derived from the root keys of these versions, each with its name.
pub fn secrets(world: &World, versions: &[u32], all_shares: &[&String]) -> Vec<(String, Vec<u8>)> {
    let request = json!({"shares": shares(world, versions), "all_shares": all_shares, "keys": [KEY]});
    let derived = answer("secrets", &request);
    let derived = derived.as_object().unwrap().iter();
    derived.map(|(name, secret)| (name.clone(), hex::decode(secret.as_str().unwrap()).unwrap())).collect()
}

/// Share texts with a right checksum and any content.
pub fn crafted(shares: &Json) -> Vec<String> {
    serde_json::from_value(answer("shares", shares)).unwrap()
}

/// Opens every row of `tokens` in the world's table by two shares a version and compares with what is known.
#[track_caller]
pub fn check_table(world: &World, versions: &[u32], expected: Vec<Json>) -> Json {
    check_table_at(&world.path("app.db"), &shares(world, versions), expected)
}

/// The same of a table anywhere.
#[track_caller]
pub fn check_table_at(db: &Path, shares: &Json, expected: Vec<Json>) -> Json {
    answer(
        "table",
        &json!({
            "shares": shares, "db": db, "key": KEY,
            "sql": "SELECT id, token FROM tokens", "expected": expected,
        }),
    )
}

/// The same of rows that somebody else has read: `[[id, text or null], …]`.
#[track_caller]
pub fn check_rows(world: &World, versions: &[u32], rows: &Json, expected: Vec<Json>) -> Json {
    let shares = shares(world, versions);
    answer("table", &json!({"shares": shares, "rows": rows, "key": KEY, "expected": expected}))
}
