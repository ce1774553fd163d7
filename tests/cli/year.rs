//! A keyholder's whole year in a real terminal, `tests/cli/year.py`, and the pages in `docs/ceremonies` held against it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::process::Command;

/// It needs Python 3.9 or later, and `libfaketime` for a clock that runs ahead.
#[test]
fn a_keyholders_whole_year_goes_as_the_pages_say() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let python = std::env::var_os("KEYMOOT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(&python)
        .arg(format!("{root}/tests/cli/year.py"))
        .arg(env!("CARGO_BIN_EXE_keymoot"))
        .arg(format!("{root}/docs/ceremonies"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap_or_else(|error| {
            panic!("{python:?} did not start ({error}): install python3, or name it in KEYMOOT_TEST_PYTHON")
        });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
