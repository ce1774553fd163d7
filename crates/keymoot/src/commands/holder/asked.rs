//! What the holders are asked for, as a holder sees it: shown from the very object that the digest is over.

use anyhow::{Context as _, bail};
use keymoot_api::{
    init::HolderSpec,
    rotate::{RequestDetail, VersionDetail, VersionHolder},
};
use keymoot_types::{Digest, KeyVersion, KeyringId, VersionState};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use crate::{commands::changes, output::printable};

/// A request that says of itself what its digest says.
pub(super) struct Asked {
    fields: Map<String, Json>,
    /// Worked out here.
    pub(super) digest: Digest,
    pub(super) keyring_id: KeyringId,
    pub(super) operation: String,
    pub(super) version: Option<KeyVersion>,
    holders: Vec<HolderSpec>,
}

impl Asked {
    /// Takes what the node shows, and works out its digest. Nothing else of the answer is believed.
    pub(super) fn read(id: &str, detail: &RequestDetail) -> anyhow::Result<Self> {
        let canonical = serde_json_canonicalizer::to_vec(&detail.asked).context("it has no canonical form")?;
        let digest = Digest::new(Sha256::digest(&canonical).into());
        if digest != detail.digest {
            bail!(
                "the node shows one request and wants consent to another: what it shows has digest {digest}, and it \
                 says {}. No share was sent; tell the other holders",
                detail.digest
            );
        }
        let Json::Object(fields) = &detail.asked else {
            bail!("what is asked for is no object; no share was sent")
        };
        let text = |name: &str| fields.get(name).and_then(Json::as_str);
        if text("id") != Some(id) {
            bail!("the node shows another request than {id}; no share was sent");
        }
        Ok(Self {
            digest,
            keyring_id: text("keyring_id").and_then(|id| id.parse().ok()).context("it names no keyring")?,
            operation: text("operation").context("it names no operation")?.into(),
            version: read_field(fields, "version")?,
            holders: read_field(fields, "holders")?.unwrap_or_default(),
            fields: fields.clone(),
        })
    }

    /// Every field of it, then what changes against the present holders, if those may be known.
    pub(super) fn describe(&self, detail: &RequestDetail, present: Option<&[VersionDetail]>) -> String {
        let mut text = format!("{}\n", self.sentence());
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "holders") {
            text.push_str(&format!("{}: {}\n", printable(name), shown(name, value)));
        }
        text.push_str(&format!("digest, worked out here: {}\n", self.digest));
        if let Some(by) = &detail.requested_by {
            text.push_str(&format!("asked by: {}\n", printable(by)));
        }
        if let Some(at) = detail.expires_at {
            text.push_str(&format!("open until: {at:.0}\n"));
        }
        text.push_str(&format!("consents: {} of {}\n", detail.have, detail.needed));
        if !self.holders.is_empty() {
            let now = self.now(present);
            text.push_str(&changes::show(&self.holders, now));
            if now.is_none() {
                text.push_str("who holds it now is shown to an operator's or auditor's token only\n");
            }
        }
        text
    }

    /// The operation in words.
    fn sentence(&self) -> String {
        let version = self.version.map_or_else(|| "a version".into(), |version| format!("v{version}"));
        match self.operation.as_str() {
            "stage" => "You are asked to let a new key version be made, for the holders below.".into(),
            "reshare" => format!("You are asked to let {version} be shared out anew, to the holders below."),
            "replace" => {
                format!("You are asked to let {version} be shared out anew, because shares of it are lost.")
            }
            "import" => format!("You are asked to bring {version} back, which the store has forgotten."),
            "retire-override" => {
                format!("You are asked to let {version} be thrown away WITHOUT EVIDENCE that nothing needs it.")
            }
            "release" => format!(
                "You are asked to let the values of {} be written IN CLEAR into their database, for all who can read it.",
                self.fields.get("source").map_or_else(|| "a source".into(), |source| shown("source", source))
            ),
            "window" => "You are asked to let the members below, when they are restarted, get ALL KEYS from an unlocked \
                         one without the holders, for the time below. Whoever has control of one of these machines \
                         in that time gets the keys too."
                .into(),
            other => format!("You are asked for `{}`.", printable(other)),
        }
    }

    /// The present holders of the version that is shared out; a new version is compared with the primary.
    fn now<'v>(&self, present: Option<&'v [VersionDetail]>) -> Option<&'v [VersionHolder]> {
        let of = |version: &&VersionDetail| match self.version {
            Some(wanted) => version.version == wanted,
            None => version.state == VersionState::Primary,
        };
        Some(present?.iter().find(of)?.holders.as_slice())
    }
}

/// Read strictly: what this program would not show must not be consented to.
fn read_field<T: DeserializeOwned>(fields: &Map<String, Json>, name: &str) -> anyhow::Result<Option<T>> {
    let read = |value: &Json| serde_json::from_value(value.clone());
    fields.get(name).map(read).transpose().with_context(|| format!("its {name} can't be read; no share was sent"))
}

fn shown(name: &str, value: &Json) -> String {
    let text = match value {
        Json::String(text) => text.clone(),
        Json::Number(number) if name == "version" || name == "highest" => format!("v{number}"),
        other => other.to_string(),
    };
    printable(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn detail(asked: Json) -> RequestDetail {
        let digest = Digest::new(Sha256::digest(serde_json_canonicalizer::to_vec(&asked).unwrap()).into());
        serde_json::from_value(json!({
            "id": "r1", "digest": digest, "operation": "stage", "version": null, "needed": 2, "have": 0,
            "asked": asked,
        }))
        .unwrap()
    }

    fn stage() -> Json {
        json!({
            "id": "r1", "operation": "stage", "keyring_id": "0102030405060708", "threshold": 2, "something": [1, 2],
            "holders": [{"name": "ann", "recipient": "age1a"}, {"name": "eve", "recipient": "age1e"}, {"name": "joe"}],
        })
    }

    fn present() -> Vec<VersionDetail> {
        let holders = json!([
            {"name": "ann", "x": 1, "recipient": "age1a"},
            {"name": "bob", "x": 2},
            {"name": "eve", "x": 3, "recipient": "age1other"},
        ]);
        let version = json!({
            "version": 9, "key_id": "00".repeat(16), "state": "primary", "created": "2026-01-01T00:00:00Z",
            "required": true, "validated": true, "threshold": 2, "holders": holders,
        });
        vec![serde_json::from_value(version).unwrap()]
    }

    #[test]
    fn everything_that_the_digest_is_over_is_shown() {
        let detail = detail(stage());
        let text = Asked::read("r1", &detail).unwrap().describe(&detail, Some(&present()));
        for line in
            ["operation: stage", "threshold: 2", "something: [1,2]", "keyring_id: 0102030405060708", "bob\tgoes\t"]
        {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        for row in ["ann\tstays\tage1a", "eve\tOTHER RECIPIENT\tage1e", "joe\tcomes\tNONE"] {
            assert!(text.contains(row), "{row}: {text}");
        }
        assert!(text.contains(&detail.digest.to_string()));
        let unknown = Asked::read("r1", &detail).unwrap().describe(&detail, None);
        assert!(unknown.contains("ann\t?\tage1a"), "{unknown}");
    }

    #[test]
    fn a_release_is_called_what_it_is_and_shows_the_column() {
        let detail = detail(json!({
            "id": "r1", "operation": "release", "keyring_id": "0102030405060708", "source": "shop.note",
            "table": "orders", "column": "note", "key": "pii", "declaration": "00".repeat(32),
        }));
        let text = Asked::read("r1", &detail).unwrap().describe(&detail, None);
        assert!(text.starts_with("You are asked to let the values of shop.note be written IN CLEAR"), "{text}");
        for line in ["table: orders", "column: note", "key: pii"] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }

    #[test]
    fn what_is_shown_and_what_is_consented_to_are_one() {
        let mut other = detail(stage());
        other.asked["holders"][0]["recipient"] = json!("age1mallory");
        assert!(Asked::read("r1", &other).is_err());
        let mut other = detail(stage());
        other.digest = Digest::new([7; 32]);
        assert!(Asked::read("r1", &other).is_err());
        assert!(Asked::read("r2", &detail(stage())).is_err());
        assert!(Asked::read("r1", &detail(json!(["r1"]))).is_err());
        let mut hidden = stage();
        hidden["holders"][0]["also"] = json!("age1mallory");
        assert!(Asked::read("r1", &detail(hidden)).is_err());
    }
}
