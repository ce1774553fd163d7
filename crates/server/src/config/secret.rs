//! A setting that may be a secret: given as it is, or as `file:PATH` or `env:NAME`.

use std::{fmt, fs::File, io::Read as _, path::Path};

use keymoot_api::SecretText;
use zeroize::Zeroizing;

/// No password or digest is longer.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What stands in a file, without the line end that editors add. The error is a sentence.
pub(super) fn read_file(path: &Path) -> Result<SecretText, String> {
    let refuse = |why: &dyn fmt::Display| format!("the secret's file {} can't be read: {why}", path.display());
    let file = File::open(path).map_err(|error| refuse(&error))?;
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| refuse(&error))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(refuse(&"it has more than 64 KiB"));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(refuse(&"it is empty"));
    }
    Ok(SecretText::new(line))
}

/// What an environment variable holds. The error is a sentence.
pub(super) fn read_env(name: &str) -> Result<SecretText, String> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => Ok(SecretText::new(text)),
        Ok(_) => Err(format!("the environment variable {name} is empty")),
        Err(std::env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is not UTF-8")),
    }
}
