//! The states of a node, of a key version and of a rekey job.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a node can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// There is no keyring yet.
    Uninitialised,
    /// No key is in memory and no part was given.
    Sealed,
    /// At least one part or one validated version is held, and not all that is required.
    Unlocking,
    /// Every required version is validated.
    Unlocked,
    /// Unlocked without a version that an operator named as lost, for this boot.
    Degraded,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uninitialised => "uninitialised",
            Self::Sealed => "sealed",
            Self::Unlocking => "unlocking",
            Self::Unlocked => "unlocked",
            Self::Degraded => "degraded",
        })
    }
}

/// What a key version may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionState {
    /// Made and shared out, used for nothing yet.
    Staged,
    /// Required by every unlock, decrypts, does not encrypt yet.
    Activating,
    /// The one that encrypts.
    Primary,
    /// Decrypts and is required; encrypts nothing.
    DecryptOnly,
    /// Out of use. Within the hold its shares bring it back.
    Retired,
    /// Given up before it was ever used. For ever.
    Aborted,
}

impl VersionState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Staged, Self::Activating, Self::Primary, Self::DecryptOnly, Self::Retired, Self::Aborted];

    /// Whether new values may be made with it.
    pub fn encrypts(self) -> bool {
        self == Self::Primary
    }

    /// Whether values of it are opened.
    pub fn decrypts(self) -> bool {
        matches!(self, Self::Activating | Self::Primary | Self::DecryptOnly)
    }

    /// Whether no node may call itself unlocked without it.
    pub fn required(self) -> bool {
        self.decrypts()
    }

    /// Whether the step from this state to `to` exists at all. The table is the whole lifecycle.
    pub fn may_become(self, to: Self) -> bool {
        use VersionState::{Aborted, Activating, DecryptOnly, Primary, Retired, Staged};
        matches!(
            (self, to),
            (Staged, Activating | Aborted)
                | (Activating, Primary | Staged)
                | (Primary, DecryptOnly)
                | (DecryptOnly, Primary | Retired)
                | (Retired, DecryptOnly)
        )
    }
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Primary => "primary",
            Self::DecryptOnly => "decrypt-only",
            Self::Retired => "retired",
            Self::Aborted => "aborted",
        })
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At work, or going on by itself after a restart and unlock.
    Running,
    /// By an operator, or because it ended its node ten times.
    Paused,
    /// Nothing old is left.
    Completed,
    /// Nothing old is left but rows that could not be read.
    CompletedWithQuarantine,
    /// It can't go on; what was done stays done.
    Failed,
    /// By an operator; what was done stays done.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Running | Self::Paused)
    }

    /// The word of the interfaces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::CompletedWithQuarantine => "completed_with_quarantine",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{VersionState::*, *};

    #[test]
    fn the_table_of_uses_is_the_design() {
        let uses = |state: VersionState| (state.encrypts(), state.decrypts(), state.required());
        assert_eq!(uses(Staged), (false, false, false));
        assert_eq!(uses(Activating), (false, true, true));
        assert_eq!(uses(Primary), (true, true, true));
        assert_eq!(uses(DecryptOnly), (false, true, true));
        assert_eq!(uses(Retired), (false, false, false));
        assert_eq!(uses(Aborted), (false, false, false));
    }

    #[test]
    fn every_step_between_states_is_decided() {
        let steps: Vec<_> = VersionState::ALL
            .into_iter()
            .flat_map(|from| VersionState::ALL.into_iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        assert_eq!(
            steps,
            [
                (Staged, Activating),
                (Staged, Aborted),
                (Activating, Staged),
                (Activating, Primary),
                (Primary, DecryptOnly),
                (DecryptOnly, Primary),
                (DecryptOnly, Retired),
                (Retired, DecryptOnly),
            ]
        );
    }
}
