//! Whether a signed head is one of ours. Whoever can write to the metadata store can put any head there; only what a
//! version of this keyring signed says anything about the log.

use keymoot_keyring::verify_signature;
use keymoot_types::{Manifest, NodeName, audit::SignedHead};

/// No log gets there: from 2^53 on a number is no longer exact, and the log could not go on.
const SEQ_MAX: u64 = 1 << 50;

/// Reads what was kept as this node's signed head. The manifest has the public keys of all versions that ever were,
/// so that this needs no key in memory.
pub(crate) fn read_head(bytes: &[u8], node: &NodeName, manifest: &Manifest) -> Result<SignedHead, String> {
    let signed: SignedHead = serde_json::from_slice(bytes).map_err(|_| "it is no signed head".to_owned())?;
    let (head, version) = (&signed.head, signed.version);
    if head.node != *node || head.keyring_id != manifest.keyring_id {
        return Err("it is of another node or keyring".into());
    }
    if head.seq > SEQ_MAX {
        return Err("no log has so many lines".into());
    }
    let Some(record) = manifest.version(version) else {
        return Err(format!("this node's manifest knows no v{version}"));
    };
    let right = |canonical: Vec<u8>| verify_signature(record.public_key.as_bytes(), &canonical, &signed.signature);
    // Whoever reads it checks it by the key that it names.
    let named = signed.public_key == *record.public_key.as_bytes();
    if named && head.canonical().is_ok_and(right) {
        Ok(signed)
    } else {
        Err(format!("it was not signed by v{version}"))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use keymoot_keyring::stage;
    use keymoot_quorum::revise;
    use keymoot_types::{Digest, KeyVersion, VersionState, audit::Head};

    use super::*;

    #[test]
    fn a_head_is_believed_only_if_a_version_of_the_manifest_signed_it_for_this_node() {
        let node: NodeName = "local".parse().unwrap();
        let made = |version: &str| {
            let holders: Vec<_> = ["a", "b"].map(|name| (name.parse().unwrap(), None)).into();
            let keyring_id = stage::new_keyring_id().unwrap();
            (keyring_id, stage::stage(keyring_id, version.parse().unwrap(), 2, &holders).unwrap())
        };
        let ((keyring_id, ours), (_, strange)) = (made("9"), made("9"));
        let manifest = |state: VersionState| {
            let record = revise::record(&ours.validated, ours.share_set.clone(), state, Timestamp::UNIX_EPOCH);
            let manifest = serde_json::json!({
                "keyring": "prod", "keyring_id": keyring_id, "revision": 1, "previous": null, "members": ["local"],
                "primary": 9, "declared": {"keys": [], "sources": []}, "versions": [record], "canaries": [],
                "macs": [],
            });
            serde_json::from_value::<Manifest>(manifest).unwrap()
        };
        let head = |seq: u64| Head { keyring_id, node: node.clone(), seq, hash: Digest::new([7; 32]) };
        let signed = |head: Head, by: &keymoot_keyring::Validated| SignedHead {
            signature: by.sign(&head.canonical().unwrap()),
            version: by.version(),
            public_key: by.public_key(),
            head,
        };
        let read = |signed: &SignedHead, state: VersionState| {
            read_head(&serde_json::to_vec(signed).unwrap(), &node, &manifest(state))
        };
        let good = signed(head(120), &ours.validated);
        for state in [VersionState::Primary, VersionState::DecryptOnly, VersionState::Retired] {
            assert_eq!(read(&good, state).unwrap(), good, "{state}");
        }
        assert!(read(&signed(head(SEQ_MAX), &ours.validated), VersionState::Primary).is_ok());
        let other = Head { node: "db2".parse().unwrap(), ..head(120) };
        let keyring = Head { keyring_id: made("9").0, ..head(120) };
        let moved = SignedHead { head: head(121), ..good.clone() };
        let unknown = SignedHead { version: KeyVersion::new(10).unwrap(), ..good.clone() };
        for (bad, says) in [
            (signed(head(120), &strange.validated), "not signed by v9"),
            (
                SignedHead { public_key: ours.validated.public_key(), ..signed(head(120), &strange.validated) },
                "not signed",
            ),
            (SignedHead { public_key: strange.validated.public_key(), ..good.clone() }, "not signed by v9"),
            (moved, "not signed by v9"),
            (unknown, "knows no v10"),
            (signed(other, &ours.validated), "another node"),
            (signed(keyring, &ours.validated), "another node or keyring"),
            (signed(head(SEQ_MAX + 1), &ours.validated), "so many lines"),
            (signed(head(u64::MAX), &ours.validated), "so many lines"),
        ] {
            let refused = read(&bad, VersionState::Primary).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        assert!(read_head(b"{}", &node, &manifest(VersionState::Primary)).is_err());
    }
}
