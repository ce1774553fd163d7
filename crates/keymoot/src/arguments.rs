//! Arguments that several commands take.

use keymoot_api::{HumanDuration, init::HolderSpec, rotate::Exclusion};
use keymoot_types::{HolderName, KeyVersion};

/// `v9` or `9`.
pub(crate) fn version(text: &str) -> Result<KeyVersion, String> {
    text.strip_prefix('v')
        .unwrap_or(text)
        .parse()
        .map_err(|error: keymoot_types::key_version::KeyVersionError| error.to_string())
}

/// `NAME` or `NAME=AGE_RECIPIENT`.
pub(crate) fn holder(text: &str) -> Result<HolderSpec, String> {
    let (name, recipient) = match text.split_once('=') {
        Some((name, recipient)) => (name, Some(recipient.to_owned())),
        None => (text, None),
    };
    let name: HolderName = name.parse().map_err(|error: keymoot_types::name::NameError| error.to_string())?;
    if let Some(recipient) = &recipient {
        recipient
            .parse::<age::x25519::Recipient>()
            .map_err(|reason| format!("{name}: {recipient:?} is no age recipient ({reason})"))?;
    }
    Ok(HolderSpec { name, recipient })
}

/// `NODE=24h`.
pub(crate) fn exclusion(text: &str) -> Result<Exclusion, String> {
    let (node, duration) = text.split_once('=').ok_or("write NODE=DURATION, such as db2=24h")?;
    Ok(Exclusion {
        node: node.parse().map_err(|error: keymoot_types::name::NameError| error.to_string())?,
        duration: duration.parse().map_err(|error: keymoot_api::duration::DurationError| error.to_string())?,
    })
}

/// `2h`.
pub(crate) fn duration(text: &str) -> Result<HumanDuration, String> {
    text.parse().map_err(|error: keymoot_api::duration::DurationError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_with_or_without_its_v_and_in_no_third_way() {
        assert_eq!(version("v9").unwrap(), version("9").unwrap());
        for bad in ["v09", "v-9", "vv9", "V9", "v", "", "v4294967296", "v９"] {
            assert!(version(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_holder_may_have_a_recipient_and_it_must_be_one() {
        assert_eq!(holder("ann").unwrap().recipient, None);
        let recipient = age::x25519::Identity::generate().to_public().to_string();
        assert_eq!(holder(&format!("ann={recipient}")).unwrap().recipient, Some(recipient));
        assert!(holder("ann=age1nonsense").is_err());
        assert!(holder("").is_err());
    }

    #[test]
    fn an_exclusion_always_has_an_end() {
        assert_eq!(exclusion("db2=24h").unwrap().duration.to_string(), "1d");
        assert!(exclusion("db2").is_err());
    }
}
