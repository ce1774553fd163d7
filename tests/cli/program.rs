//! The real command line, as a person calls it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Somebody's machine: where their files are, and which certificates they trust.
pub struct Program {
    pub home: PathBuf,
    pub ca: PathBuf,
}

impl Program {
    pub fn output(&self, arguments: &[&str], token: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymoot"));
        command.env_clear().env("HOME", &self.home).env("KEYMOOT_CA", &self.ca).current_dir(&self.home);
        if let Some(token) = token {
            command.env("KEYMOOT_TOKEN", token);
        }
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The exit code and all that was said; no secret is among it.
    pub fn run(&self, arguments: &[&str], token: Option<&str>) -> (i32, String) {
        let output = self.output(arguments, token);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for secret in ["kmshare1", "km_", "AGE-SECRET-KEY"] {
            assert!(!said.contains(secret), "{said}");
        }
        (output.status.code().unwrap(), said)
    }
}
