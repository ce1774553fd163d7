//! What `encrypt` and `decrypt` share: reading stdin, associated data, and how a verdict ends.

use std::path::{Path, PathBuf};

use keymoot_api::{Base64Bytes, data::PLAINTEXT_BYTES_MAX};
use keymoot_client::Verdict;

use keymoot_types::Wiped;

use crate::{exit::wrong_usage, files};

/// A value in text is longer than its plaintext by a third and by its frame.
const VALUE_BYTES_MAX: u64 = 2 * PLAINTEXT_BYTES_MAX as u64;

/// What a value is bound to.
#[derive(Debug, clap::Args)]
pub(crate) struct AssociatedData {
    /// What the value is bound to, such as customers/17
    #[arg(long, value_name = "TEXT")]
    associated_data: Option<String>,
    /// The same, as the bytes of a file
    #[arg(long, value_name = "FILE", conflicts_with = "associated_data")]
    associated_data_file: Option<PathBuf>,
}

impl AssociatedData {
    /// Its bytes.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Base64Bytes>> {
        if let Some(file) = &self.associated_data_file {
            let bytes = files::read(file, PLAINTEXT_BYTES_MAX as u64);
            return bytes
                .map(|bytes| Some(Base64Bytes::new(bytes)))
                .map_err(|error| wrong_usage(format!("{error:#}")));
        }
        Ok(self.associated_data.as_ref().map(|text| Base64Bytes::new(text.as_bytes().to_vec())))
    }
}

/// All of stdin. That it can't be read says nothing about a value, hence wrong usage.
pub(crate) fn stdin() -> anyhow::Result<Wiped> {
    files::read(Path::new("-"), VALUE_BYTES_MAX).map_err(|error| wrong_usage(format!("{error:#}")))
}

/// The answer, or the problem or trouble as an error.
pub(crate) fn valid<T>(verdict: Verdict<T>) -> anyhow::Result<T> {
    match verdict {
        Verdict::Valid(answer) => Ok(answer),
        Verdict::Invalid(problem) => Err(anyhow::Error::from(problem).context("the value is invalid")),
        Verdict::Undetermined(trouble) => {
            Err(anyhow::Error::from(trouble).context("undetermined: this says nothing about the value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use keymoot_api::Problem;
    use keymoot_types::ErrorCode;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn an_invalid_value_ends_with_one_and_trouble_never_does() {
        let problem = Problem::new(ErrorCode::AuthenticationFailed, "x");
        let error = valid::<()>(Verdict::Invalid(problem)).unwrap_err();
        assert_eq!(Exit::of_error(&error), Exit::Failed);
        let trouble = keymoot_client::Trouble::NotAnAnswer { status: 422, reason: "x".into() };
        let error = valid::<()>(Verdict::Undetermined(trouble)).unwrap_err();
        assert_eq!(Exit::of_error(&error), Exit::TryAgain);
    }
}
