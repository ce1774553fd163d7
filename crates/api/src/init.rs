//! Making a keyring, and the packages that its holders get.

use keymoot_types::{HolderName, KeyVersion, KeyringId, KeyringName};
use serde::{Deserialize, Serialize};

use crate::{SecretText, body};

/// `{"keyring", "threshold": 2, "holders": [{"name", "recipient"?}], "first_version"?: 9}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Its name; must be the one of the node's configuration.
    pub keyring: KeyringName,
    /// Shares that rebuild a key, 2 to 255.
    pub threshold: u8,
    /// Who gets a share, in the order of their x.
    #[serde(deserialize_with = "body::objects")]
    pub holders: Vec<HolderSpec>,
    /// The first version's number, by default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_version: Option<KeyVersion>,
}

/// A holder who is to get a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HolderSpec {
    /// Who.
    pub name: HolderName,
    /// An age recipient, `age1…`. Without one the package is plain, where that is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
}

/// `{"keyring_id", "version", "packages": [{"holder", "x", "package"}]}`, 201.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitAnswer {
    /// The keyring's id, made just now.
    pub keyring_id: KeyringId,
    /// Its first version.
    pub version: KeyVersion,
    /// One a holder. They exist nowhere else.
    pub packages: Vec<Package>,
}

/// A holder's share of one version, ready to be handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Whose.
    pub holder: HolderName,
    /// Where the polynomial was evaluated, 1 to 255.
    pub x: u8,
    /// An armored age file; or, for a plain one, the parts file itself, which is secret.
    pub package: SecretText,
}

/// `{"version", "packages": […]}`: the packages of a staged version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackagesAnswer {
    /// Of which version.
    pub version: KeyVersion,
    /// Those that were not yet proved.
    pub packages: Vec<Package>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_read_as_strictly_as_the_rest() {
        let good = r#"{"keyring":"prod","threshold":2,"holders":[{"name":"ann"}],"first_version":9}"#;
        assert!(body::parse::<InitRequest>(good.as_bytes()).is_ok());
        for (from, to, says) in [
            (r#"{"name":"ann"}"#, r#"{"name":"ann","age":5}"#, "unknown field `age`"),
            (r#"{"name":"ann"}"#, r#"{"name":"ann","name":"bob"}"#, "duplicate field"),
            (r#"{"name":"ann"}"#, r#"["ann",null]"#, "expected an object"),
            ("9", "0", "1 to 4294967295"),
            ("9", "4294967296", "expected u32"),
            ("9", "-9", "expected u32"),
            ("9", "\"9\"", "expected u32"),
            ("9", "9.0", "expected u32"),
            ("2", "256", "expected u8"),
            ("prod", "Prod", "keyring name"),
        ] {
            let problem = body::parse::<InitRequest>(good.replace(from, to).as_bytes()).unwrap_err();
            assert!(problem.detail.contains(says), "{to}: {}", problem.detail);
        }
    }

    #[test]
    fn a_package_does_not_show_itself() {
        let package = Package { holder: "ann".parse().unwrap(), x: 1, package: SecretText::new("kmshare1x") };
        assert!(!format!("{package:?}").contains("kmshare1"));
    }
}
