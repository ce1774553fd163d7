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

/// Names every refused part, on stderr.
pub(crate) fn note_rejected(rejected: &[RejectedPart]) {
    for part in rejected {
        let holder = part.holder.as_ref().map(|holder| format!(" of {holder}")).unwrap_or_default();
        note(format!(
            "refused: {}{holder}: {} ({})",
            printable(&part.name),
            printable(&part.detail),
            part.code.as_str()
        ));
    }
}

/// Whether a refusal means that the part has done its duty already.
pub(crate) fn is_harmless(part: &RejectedPart) -> bool {
    matches!(part.code, RefusalCode::AlreadyLoaded | RefusalCode::DuplicateShare)
}

/// How an unlock ends on one node, after its last answer and with all that was refused before.
pub(crate) fn exit_of_unlock(answer: &PartsAnswer, rejected: &[RejectedPart]) -> Exit {
    let unlocked = matches!(answer.state, NodeState::Unlocked | NodeState::Degraded);
    let refused = rejected.iter().any(|part| !is_harmless(part));
    // A version that shares were given for and that is not there yet, on an unlocked node a staged one.
    let waiting = answer.versions.iter().any(|version| version.have > 0 && !version.validated);
    match (unlocked, refused, waiting) {
        (_, true, _) => Exit::Failed,
        (true, false, false) => Exit::Done,
        (_, false, _) => Exit::TryAgain,
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

    fn rejected(code: RefusalCode) -> [RejectedPart; 1] {
        [RejectedPart { name: "x".into(), code, detail: "x".into(), version: None, holder: None }]
    }

    #[test]
    fn more_shares_needed_is_told_from_done_and_from_refused() {
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocking, 1), &[]), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocked, 2), &[]), Exit::Done);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocked, 1), &[]), Exit::TryAgain);
        let duplicate = rejected(RefusalCode::DuplicateShare);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocking, 1), &duplicate), Exit::TryAgain);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocked, 2), &duplicate), Exit::Done);
        let wrong = rejected(RefusalCode::ShareMismatch);
        assert_eq!(exit_of_unlock(&answer(NodeState::Unlocking, 1), &wrong), Exit::Failed);
    }
}
