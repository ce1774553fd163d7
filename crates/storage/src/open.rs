//! From an address to the adapter that serves it.

use std::{path::PathBuf, sync::Arc};

use crate::{
    metadata::Metadata,
    source::{Source, SourceError, SourceSpec},
    sqlite::{SqliteMetadata, SqliteSource},
};

/// Why an address can't be opened by this build, whatever state the store is in. The address itself is not in
/// the text, as it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not begin with `scheme://`.
    #[error("the address has no scheme; write sqlite:///absolute/path")]
    NoScheme,
    /// No adapter is built for it.
    #[error("this build has no adapter for {scheme}://; it supports sqlite:///absolute/path")]
    Unsupported {
        /// What was asked for.
        scheme: String,
    },
    /// A relative path would mean another file after a change of the working directory.
    #[error("a SQLite address needs an absolute path: sqlite:///absolute/path (three slashes)")]
    NotAbsolute,
}

/// The metadata store at `url`. It is opened at its first use, so a store that is down is no error here: its
/// calls answer [`Unavailable`](crate::metadata::MetadataError::Unavailable) until it is back.
///
/// # Errors
/// [`OpenError`], where trying again can't help.
pub fn open_metadata(url: &str) -> Result<Arc<dyn Metadata>, OpenError> {
    Ok(Arc::new(SqliteMetadata::open(sqlite_path(url)?)))
}

/// The same store, which is never made where there is none: what is to be copied must be there.
///
/// # Errors
/// As [`open_metadata`].
pub fn open_existing_metadata(url: &str) -> Result<Arc<dyn Metadata>, OpenError> {
    Ok(Arc::new(SqliteMetadata::open_existing(sqlite_path(url)?)))
}

/// The source that `spec` declares, opened at its first use.
///
/// # Errors
/// [`SourceError::Mistaken`] for an address that no adapter serves, and for a declaration without an id.
pub fn open_source(spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
    Ok(Arc::new(SqliteSource::open(spec)?))
}

/// The path in `sqlite:///absolute/path`, taken as it is written: nothing is percent-decoded.
pub(crate) fn sqlite_path(url: &str) -> Result<PathBuf, OpenError> {
    let (scheme, path) = url.split_once("://").ok_or(OpenError::NoScheme)?;
    if scheme != "sqlite" {
        let printable = scheme.chars().filter(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c));
        return Err(OpenError::Unsupported { scheme: printable.take(32).collect() });
    }
    if !path.starts_with('/') {
        return Err(OpenError::NotAbsolute);
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_adapter_serves_is_refused_with_what_is_supported() {
        for (url, error) in [
            ("/var/lib/keymoot/meta.db", OpenError::NoScheme),
            ("postgres://u:secret@h/db", OpenError::Unsupported { scheme: "postgres".into() }),
            ("etcd://h:2379", OpenError::Unsupported { scheme: "etcd".into() }),
            ("sqlite://meta.db", OpenError::NotAbsolute),
        ] {
            assert!(!error.to_string().contains("secret"));
            assert!(error.to_string().contains("sqlite:///absolute/path"), "{error}");
            assert_eq!(open_metadata(url).err(), Some(error), "{url}");
        }
        assert_eq!(sqlite_path("sqlite:///a b%20/c?d.db"), Ok("/a b%20/c?d.db".into()));
    }
}
