//! One part is judged on arrival, alone, by what the manifest knows. A refusal changes nothing.

use keymoot_keyring::key_check::share_digest;
use keymoot_types::{
    HolderName, KeyVersion, Manifest, RefusalCode, Share, VersionState,
    manifest::{Holder, ShareSet, VersionRecord},
    part::PartName,
    share::ShareError,
};

/// A share that is exactly the one which was made for this holder.
#[derive(Debug)]
pub struct Matched {
    /// The share.
    pub share: Share,
    /// Whose it is.
    pub holder: HolderName,
    /// The share set that it belongs to.
    pub set: u32,
}

/// A part that was turned away. It holds nothing of the share but what is public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRefusal {
    /// The part's name as it was given.
    pub name: String,
    /// Why.
    pub code: RefusalCode,
    /// Why, for people, with what to do. Names no holder.
    pub detail: String,
    /// The version that the share speaks of, once it could be read.
    pub version: Option<KeyVersion>,
    /// Whose place it claims, once that is known.
    pub holder: Option<HolderName>,
}

impl PartRefusal {
    /// Whether the share itself was right, so that its holder may be named to whoever gave it.
    pub fn share_was_right(&self) -> bool {
        matches!(self.code, RefusalCode::AlreadyLoaded | RefusalCode::DuplicateShare | RefusalCode::KeyCheckFailed)
    }
}

/// What a part is given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To unlock: only shares in force count.
    Unlock,
    /// To prove possession: shares of the set to come count too.
    Prove,
    /// To consent: only shares in force, and only of this version. Another is `name_mismatch`, in its place in the
    /// order.
    Consent(KeyVersion),
}

/// Judges one named part, up to and including its digest.
pub fn judge(manifest: &Manifest, purpose: Purpose, name: &str, text: &str) -> Result<Matched, PartRefusal> {
    let share = parse(manifest, name, text)?;
    let version = share.version();
    let refuse = |code, detail: String| refused(name, Some(version), code, detail);
    if let Purpose::Consent(wanted) = purpose
        && wanted != version
    {
        let detail = format!("consent takes a share of v{wanted}, and this is one of v{version}");
        return Err(refuse(RefusalCode::NameMismatch, detail));
    }
    let record = manifest.version(version).ok_or_else(|| {
        refuse(RefusalCode::UnknownVersion, format!("the manifest has never heard of v{version}"))
    })?;
    match record.state {
        VersionState::Retired => {
            let hold_ended = record.retirement.as_ref().is_some_and(|retirement| retirement.hold_ended.is_some());
            let shares = if hold_ended { "destroy its shares" } else { "keep its shares until its hold is over" };
            return Err(refuse(RefusalCode::VersionRetired, format!("v{version} is retired; {shares}")));
        }
        VersionState::Aborted => {
            return Err(refuse(
                RefusalCode::VersionAborted,
                format!("v{version} was aborted; destroy its shares"),
            ));
        }
        VersionState::Staged | VersionState::Activating | VersionState::Primary | VersionState::DecryptOnly => {}
    }
    matched(manifest, record, purpose, share)
        .map_err(|(code, detail, holder)| PartRefusal { holder, ..refuse(code, detail) })
}

fn refused(name: &str, version: Option<KeyVersion>, code: RefusalCode, detail: String) -> PartRefusal {
    PartRefusal { name: name.into(), code, detail, version, holder: None }
}

/// Reads a named part: its shape, its checksum, whose keyring it is of, and that its name is the share's. What needs
/// no record.
pub(crate) fn parse(manifest: &Manifest, name: &str, text: &str) -> Result<Share, PartRefusal> {
    let refuse = |code, detail: String| refused(name, None, code, detail);
    let share = Share::parse(text).map_err(|error| match error {
        ShareError::Malformed(_) => refuse(RefusalCode::MalformedShare, format!("{error}")),
        ShareError::ChecksumFailed => {
            refuse(RefusalCode::ChecksumFailed, format!("{error}; copy it again from your parts file"))
        }
    })?;
    let version = share.version();
    let refuse = |code, detail: String| refused(name, Some(version), code, detail);

    if share.keyring_id() != manifest.keyring_id {
        return Err(refuse(
            RefusalCode::WrongKeyring,
            format!("it is of keyring {}, and this node serves {}", share.keyring_id(), manifest.keyring_id),
        ));
    }
    match name.parse::<PartName>() {
        Ok(part) if part.keyring == manifest.keyring && part.version == version => {}
        Ok(part) if part.keyring == manifest.keyring => {
            let detail = format!("it is named v{}, and the share is of v{version}", part.version);
            return Err(refuse(RefusalCode::NameMismatch, detail));
        }
        _ => {
            let right = PartName { keyring: manifest.keyring.clone(), version };
            return Err(refuse(RefusalCode::NameMismatch, format!("its name should be {right}")));
        }
    }
    Ok(share)
}

/// Whose share of this set it is, exactly.
pub(crate) fn holder_of<'a>(set: &'a ShareSet, share: &Share) -> Option<&'a Holder> {
    let digest = share_digest(share);
    set.holders.iter().find(|holder| (holder.x, holder.digest) == (share.x(), digest))
}

fn matched(
    manifest: &Manifest,
    record: &VersionRecord,
    purpose: Purpose,
    share: Share,
) -> Result<Matched, (RefusalCode, String, Option<HolderName>)> {
    let set = &record.share_set;
    let version = record.version;
    if let Some(holder) = holder_of(set, &share) {
        return Ok(Matched { holder: holder.name.clone(), set: set.set, share });
    }
    if let Some((pending, holder)) =
        set.pending.as_deref().and_then(|pending| Some((pending, holder_of(pending, &share)?)))
    {
        if purpose == Purpose::Prove {
            return Ok(Matched { holder: holder.name.clone(), set: pending.set, share });
        }
        let detail = format!(
            "it is of the share set to come: prove it with `keymoot holder prove`. Until {} holders have, the shares \
             of the set before count",
            enough(pending)
        );
        return Err((RefusalCode::ShareMismatch, detail, Some(holder.name.clone())));
    }
    let digest = share_digest(&share);
    // A digest says of which version and x it is. Where it stands under another, the record is wrong, not the share.
    let mut everywhere = manifest.versions.iter().flat_map(|record| &record.share_set.holders);
    if let Some(holder) = everywhere.find(|holder| holder.digest == digest) {
        let detail =
            format!("the manifest's record of v{version} is damaged: this share is in it in a wrong place");
        return Err((RefusalCode::KeyCheckFailed, detail, Some(holder.name.clone())));
    }
    let holder = set.holders.iter().find(|holder| holder.x == share.x());
    let name = holder.map(|holder| holder.name.clone());
    // Before the question whose place it takes: the set in force may have no such x any longer.
    if set.replaced.contains(&digest) {
        let detail = format!(
            "it is of an earlier share set of v{version} and counts no longer: destroy it, and use the newest package"
        );
        return Err((RefusalCode::ShareReplaced, detail, None));
    }
    if holder.is_none() {
        let detail = format!("v{version} has no share with x {}", share.x());
        return Err((RefusalCode::UnknownHolder, detail, None));
    }
    let detail = format!("it is not the share that was made for the holder with x {} of v{version}", share.x());
    Err((RefusalCode::ShareMismatch, detail, name))
}

/// How many holders must have proved a set before it counts: one more than can rebuild the key, so that one may be
/// lost on the next day.
pub fn enough(set: &ShareSet) -> usize {
    (usize::from(set.threshold) + 1).min(set.holders.len())
}
