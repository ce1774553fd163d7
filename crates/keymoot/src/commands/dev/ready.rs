//! What somebody needs to begin, as it is printed.

use std::path::{Path, PathBuf};

use keymoot_api::SecretText;
use serde::Serialize;

use super::{Fault, HOLDERS};
use crate::output::printable;

/// A path as a shell takes it.
pub(super) fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What somebody needs to begin.
#[derive(Serialize)]
pub(super) struct Ready {
    pub(super) addr: String,
    pub(super) control_addr: String,
    pub(super) ca: PathBuf,
    pub(super) key: &'static str,
    pub(super) service_token: SecretText,
    pub(super) operator_token: SecretText,
    /// The parts files of three holders, two of whom unlock.
    pub(super) packages: PathBuf,
    pub(super) log: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expect: Option<&'static str>,
    /// Values of "a token", oldest version first.
    pub(super) samples: Vec<String>,
    pub(super) curl_encrypt: String,
    pub(super) curl_decrypt: Vec<String>,
}

impl Ready {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(expect) = self.expect {
            text.push_str(&format!("This daemon is in trouble on purpose. {expect}\n\n"));
        }
        text.push_str(&format!(
            "services   {}   key {}   token {}\npeople     {}   operator token {}\nCA         {}\nshares     {} (any two \
             of {})\nlog        {}\n\n",
            self.addr,
            self.key,
            &*self.service_token,
            self.control_addr,
            &*self.operator_token,
            self.ca.display(),
            self.packages.display(),
            HOLDERS.join(", "),
            self.log.display(),
        ));
        text.push_str(&format!("Encrypt:\n{}\n", self.curl_encrypt));
        for (sample, curl) in self.samples.iter().zip(&self.curl_decrypt) {
            let version = sample.split(':').nth(1).unwrap_or_default();
            text.push_str(&format!("Decrypt a value of {}:\n{curl}\n", printable(version)));
        }
        text.push_str(&format!(
            "\nThe other commands, in another shell:\nexport KEYMOOT_ADDR={} KEYMOOT_CONTROL_ADDR={} KEYMOOT_CA={} \
             KEYMOOT_TOKEN={}\nkeymoot status      # `encrypt` and `decrypt` want the service's token instead\n",
            self.addr,
            self.control_addr,
            shell(&self.ca),
            &*self.operator_token,
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_is_quoted_for_the_shell() {
        assert_eq!(shell(Path::new("/tmp/a-b_c.d")), "/tmp/a-b_c.d");
        assert_eq!(shell(Path::new("/tmp/a b'c")), "'/tmp/a b'\\''c'");
    }
}
