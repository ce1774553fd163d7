//! What may be said about a value, and the codes in which it is said.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The header that carries the verdict. An answer without it is undetermined.
pub const VERDICT_HEADER: &str = "keymoot-verdict";

/// What is known about a value. Absence of knowledge is [`Verdict::Undetermined`], never [`Verdict::Invalid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It authenticated.
    Valid,
    /// It is positively known to be no good value.
    Invalid,
    /// Nothing can be said here and now. Never a reason to log anyone out.
    Undetermined,
    /// A batch whose items differ.
    Mixed,
}

impl Verdict {
    /// The word of the header and of the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Undetermined => "undetermined",
            Self::Mixed => "mixed",
        }
    }

    /// One verdict for a batch: the common one, or mixed. An empty batch says nothing about any value.
    pub fn of_batch(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts
            .into_iter()
            .reduce(|all, next| if all == next { all } else { Self::Mixed })
            .unwrap_or(Self::Undetermined)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The code of a problem (RFC 9457).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a value of this format.
    MalformedCiphertext,
    /// The version is loaded, its canary decrypts, and the value does not authenticate.
    AuthenticationFailed,
    /// Retired with all evidence, and the hold is over.
    KeyVersionRetired,
    /// The version exists and is not loaded here, or is retired within its hold or by override.
    KeyVersionUnavailable,
    /// Nothing here has heard of that version.
    UnknownKeyVersion,
    /// A body byte of a newer writer, or junk.
    UnsupportedFormat,
    /// Too many values of this key and caller stopped authenticating at once.
    InDoubt,
    /// No key is in memory.
    Sealed,
    /// More work than can be done; shed at once.
    Overloaded,
    /// This caller asks too often.
    RateLimited,
    /// A key that is not declared.
    UnknownKey,
    /// The request is wrong, not the value.
    BadRequest,
    /// No such thing under this address.
    NotFound,
    /// The method is not one of this address's.
    MethodNotAllowed,
    /// A body, plaintext or batch over its limit.
    TooLarge,
    /// No token, or none that is known.
    Unauthenticated,
    /// The token's role or keys do not allow it.
    Forbidden,
    /// A gate lacks evidence; what is missing is listed.
    GateRefused,
    /// It contradicts the present state.
    Conflict,
    /// The metadata store does not answer, so nothing can be recorded.
    StoreUnavailable,
    /// The audit log can't be written, so nothing that makes, moves or destroys keys is done.
    AuditUnavailable,
    /// A defect of ours.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 22] = [
        Self::MalformedCiphertext,
        Self::AuthenticationFailed,
        Self::KeyVersionRetired,
        Self::KeyVersionUnavailable,
        Self::UnknownKeyVersion,
        Self::UnsupportedFormat,
        Self::InDoubt,
        Self::Sealed,
        Self::Overloaded,
        Self::RateLimited,
        Self::UnknownKey,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::GateRefused,
        Self::Conflict,
        Self::StoreUnavailable,
        Self::AuditUnavailable,
        Self::Internal,
    ];

    /// The HTTP status. Only 422 and 410 are verdicts on a value: a caller who looks at nothing else is safe.
    pub fn status(self) -> u16 {
        match self {
            Self::MalformedCiphertext | Self::AuthenticationFailed => 422,
            Self::KeyVersionRetired => 410,
            Self::KeyVersionUnavailable
            | Self::UnknownKeyVersion
            | Self::UnsupportedFormat
            | Self::InDoubt
            | Self::Sealed
            | Self::Overloaded
            | Self::StoreUnavailable
            | Self::AuditUnavailable => 503,
            Self::RateLimited => 429,
            Self::UnknownKey | Self::NotFound => 404,
            Self::BadRequest => 400,
            Self::MethodNotAllowed => 405,
            Self::TooLarge => 413,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::GateRefused | Self::Conflict => 409,
            Self::Internal => 500,
        }
    }

    /// What the code says about the value that was asked about.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::MalformedCiphertext | Self::AuthenticationFailed | Self::KeyVersionRetired => Verdict::Invalid,
            _ => Verdict::Undetermined,
        }
    }

    /// A short title for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::MalformedCiphertext => "Not a value of this format",
            Self::AuthenticationFailed => "The value does not authenticate",
            Self::KeyVersionRetired => "The key version is retired and its hold is over",
            Self::KeyVersionUnavailable => "The key version is not loaded here",
            Self::UnknownKeyVersion => "Nothing here has heard of that key version",
            Self::UnsupportedFormat => "A form of value that this build does not know",
            Self::InDoubt => "Too many values stopped authenticating at once",
            Self::Sealed => "The node is sealed",
            Self::Overloaded => "More work than can be done now",
            Self::RateLimited => "Too many requests",
            Self::UnknownKey => "The key is not declared",
            Self::BadRequest => "The request is wrong",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Not a method of this address",
            Self::TooLarge => "Too large",
            Self::Unauthenticated => "No known token was given",
            Self::Forbidden => "The token does not allow this",
            Self::GateRefused => "Evidence is missing",
            Self::Conflict => "It contradicts the present state",
            Self::StoreUnavailable => "The metadata store does not answer",
            Self::AuditUnavailable => "The audit log can't be written",
            Self::Internal => "A defect in Keymoot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_422_and_410_are_verdicts_on_a_value() {
        for code in ErrorCode::ALL {
            assert_eq!(code.verdict() == Verdict::Invalid, [422, 410].contains(&code.status()), "{code:?}");
        }
    }

    #[test]
    fn a_batch_has_one_verdict_only_where_its_items_agree() {
        use Verdict::*;
        assert_eq!(Verdict::of_batch([Valid, Valid]), Valid);
        assert_eq!(Verdict::of_batch([Valid, Invalid]), Mixed);
        assert_eq!(Verdict::of_batch([Undetermined, Undetermined]), Undetermined);
        assert_eq!(Verdict::of_batch([]), Undetermined);
    }
}
