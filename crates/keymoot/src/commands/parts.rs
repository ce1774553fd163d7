//! What became of parts, for people, and how a ceremony with them ends.

use keymoot_api::unlock::{PartsAnswer, RejectedPart, VersionProgress};
use keymoot_types::{NodeState, RefusalCode};

use crate::{
    exit::Exit,
    output::{note, printable, table, yes_no},
};

/// Where the versions stand.
pub(crate) fn versions_table(versions: &[VersionProgress]) -> String {
    let rows = versions.iter().map(|version| {
        let holders = version.holders.as_deref().unwrap_or_default();
        let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
        [
            format!("v{}", version.version),
            version.state.to_string(),
            yes_no(version.required),
            format!("{} of {}", version.have, version.threshold),
            yes_no(version.validated),
            holders.join(" "),
        ]
    });
    table(["version", "state", "required", "shares", "validated", "given by"], rows)
}

/// How far one version is.
pub(crate) fn progress(version: &VersionProgress) -> String {
    let (have, threshold) = (version.have, version.threshold);
    if version.validated {
        "validated".into()
    } else {
        format!("{have} of {threshold}: {} more", threshold.saturating_sub(have))
    }
}

/// Whether shares of a version are still asked for: what unlocking requires, and what somebody has begun to give.
pub(crate) fn is_wanted(version: &VersionProgress) -> bool {
    (version.required || version.have > 0) && !version.validated
}

/// Names every refused part and what to do about it, on stderr. `place` says who refused, and which file it came from.
pub(crate) fn note_rejected(place: &str, rejected: &[RejectedPart]) {
    for part in rejected {
        let holder = part.holder.as_ref().map(|holder| format!(" of {holder}")).unwrap_or_default();
        // Nobody is to be alarmed by having done more than was needed.
        let became = if is_harmless(part) { "not needed" } else { "refused" };
        note(format!(
            "{}: {became}: {}{holder}: {} ({}). {}",
            printable(place),
            printable(&part.name),
            printable(&part.detail),
            part.code.as_str(),
            advice(part.code)
        ));
    }
}

/// What the person does whose part was refused.
fn advice(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::MalformedShare => "Copy the whole line again from your parts file",
        RefusalCode::ChecksumFailed => "A typing error: compare it with the original, character by character",
        RefusalCode::WrongKeyring => "Take the parts file of this keyring, or the address of the other one",
        RefusalCode::NameMismatch => "Write the line as it was issued: its name, a colon, the share",
        RefusalCode::UnknownVersion => "Ask the operator: the wrong node, or a store from a backup",
        RefusalCode::VersionRetired => "Nothing is to be done; if it is needed after all, an operator restores it",
        RefusalCode::VersionAborted => "Destroy this share; the version was never used",
        RefusalCode::UnknownHolder => "Look which version the share is of, and tell the operator",
        RefusalCode::ShareReplaced => "Use your newest parts file, and destroy this share",
        RefusalCode::ShareMismatch => {
            "If it is of the set to come, as said before, prove it; else look for the right file and tell the operator of this one"
        }
        RefusalCode::AlreadyLoaded => "Nothing is to be done: the version is loaded",
        RefusalCode::DuplicateShare => "Nothing is to be done: you have given, and another holder is next",
        RefusalCode::KeyCheckFailed => {
            "Tell the operator: the shares are right and the manifest's record is damaged"
        }
    }
}

/// Whether a refusal means that the part has done its duty already.
pub(crate) fn is_harmless(part: &RejectedPart) -> bool {
    matches!(part.code, RefusalCode::AlreadyLoaded | RefusalCode::DuplicateShare)
}

/// How an unlock ends on one node, after its last answer and with all that was refused on the way.
pub(crate) fn exit_of_unlock(answer: &PartsAnswer) -> Exit {
    let wanted = match answer.state {
        NodeState::Unlocked => answer.versions.iter().any(is_wanted),
        // What is required and missing was declared lost; only what was begun is waited for.
        NodeState::Degraded => answer.versions.iter().any(|version| version.have > 0 && !version.validated),
        NodeState::Uninitialised | NodeState::Sealed | NodeState::Unlocking => true,
    };
    if answer.rejected.iter().any(|part| !is_harmless(part)) {
        Exit::Failed
    } else if wanted {
        Exit::TryAgain
    } else {
        Exit::Done
    }
}

#[cfg(test)]
mod tests {
    use keymoot_types::{KeyId, KeyVersion, VersionState};

    use super::*;

    fn answer(state: NodeState, have: u8) -> PartsAnswer {
        let version = VersionProgress {
            version: KeyVersion::MIN,
            state: VersionState::Primary,
            key_id: KeyId::new([0; 16]),
            required: true,
            threshold: 2,
            have,
            validated: have == 2,
            holders: None,
        };
        PartsAnswer {
            accepted: vec![],
            rejected: vec![],
            versions: vec![version],
            node: "db1".parse().unwrap(),
            state,
        }
    }

    fn with(mut answer: PartsAnswer, code: RefusalCode) -> PartsAnswer {
        answer.rejected =
            vec![RejectedPart { name: "x".into(), code, detail: "x".into(), version: None, holder: None }];
        answer
    }

    #[test]
    fn more_shares_needed_is_told_from_done_and_from_refused() {
        let (waiting, unlocked) = (|| answer(NodeState::Unlocking, 1), || answer(NodeState::Unlocked, 2));
        assert_eq!(exit_of_unlock(&waiting()), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&unlocked()), Exit::Done);
        assert_eq!(exit_of_unlock(&with(waiting(), RefusalCode::DuplicateShare)), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&with(unlocked(), RefusalCode::AlreadyLoaded)), Exit::Done);
        assert_eq!(exit_of_unlock(&with(waiting(), RefusalCode::ShareMismatch)), Exit::Failed);
    }

    #[test]
    fn a_node_that_calls_itself_unlocked_without_what_is_required_is_not_believed() {
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocked, 1)), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocked, 0)), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&answer(NodeState::Degraded, 0)), Exit::Done);
    }
}
