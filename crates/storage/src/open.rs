//! From an address to the adapter that serves it.

use std::{path::PathBuf, sync::Arc};

use crate::{
    etcd::EtcdMetadata,
    metadata::Metadata,
    mysql::MySqlSource,
    postgres::{PostgresMetadata, PostgresSource},
    source::{Source, SourceError, SourceSpec},
    sqlite::{SqliteMetadata, SqliteSource},
};

/// Addresses of metadata stores, and of sources.
const METADATA: &str = "sqlite:///absolute/path, postgres://host/database or etcd://host:2379,host:2379";
const SOURCES: &str = "sqlite:///absolute/path, postgres://host/database or mysql://host/database";

/// Why an address can't be opened by this build, whatever state the store is in. The address itself is not in
/// the text, as it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not begin with `scheme://`.
    #[error("the address has no scheme, such as in sqlite:///absolute/path")]
    NoScheme,
    /// No adapter is built for it.
    #[error("this build has no adapter for {scheme}://; it supports {supported}")]
    Unsupported {
        /// What was asked for.
        scheme: String,
        /// What there is.
        supported: &'static str,
    },
    /// The rest of it can't be understood.
    #[error("the address can't be used: {0}")]
    Mistaken(String),
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
    Ok(match scheme(url)?.0 {
        "postgres" => Arc::new(PostgresMetadata::open(url)?),
        "etcd" => Arc::new(EtcdMetadata::open(url)?),
        _ => Arc::new(SqliteMetadata::open(sqlite_path(url, METADATA)?)),
    })
}

/// The same store, which is never made where there is none: what is to be copied must be there.
///
/// # Errors
/// As [`open_metadata`].
pub fn open_existing_metadata(url: &str) -> Result<Arc<dyn Metadata>, OpenError> {
    Ok(match scheme(url)?.0 {
        "postgres" => Arc::new(PostgresMetadata::open_existing(url)?),
        "etcd" => Arc::new(EtcdMetadata::open_existing(url)?),
        _ => Arc::new(SqliteMetadata::open_existing(sqlite_path(url, METADATA)?)),
    })
}

/// The source that `spec` declares, opened at its first use.
///
/// # Errors
/// [`SourceError::Mistaken`] for an address that no adapter serves, and for a declaration without an id.
pub fn open_source(spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
    Ok(match scheme(&spec.url) {
        Ok(("postgres", _)) => Arc::new(PostgresSource::open(spec)?),
        Ok(("mysql", _)) => Arc::new(MySqlSource::open(spec)?),
        _ => Arc::new(SqliteSource::open(spec)?),
    })
}

fn scheme(url: &str) -> Result<(&str, &str), OpenError> {
    url.split_once("://").ok_or(OpenError::NoScheme)
}

/// The path of a source in `sqlite:///absolute/path`.
pub(crate) fn source_path(url: &str) -> Result<PathBuf, OpenError> {
    sqlite_path(url, SOURCES)
}

/// The path in `sqlite:///absolute/path`, taken as it is written: nothing is percent-decoded.
fn sqlite_path(url: &str, supported: &'static str) -> Result<PathBuf, OpenError> {
    let (scheme, path) = scheme(url)?;
    if scheme != "sqlite" {
        let printable = scheme.chars().filter(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c));
        return Err(OpenError::Unsupported { scheme: printable.take(32).collect(), supported });
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
            ("mysql://u:secret@h/db", OpenError::Unsupported { scheme: "mysql".into(), supported: METADATA }),
            ("sqlite://meta.db", OpenError::NotAbsolute),
        ] {
            assert!(!error.to_string().contains("secret"));
            assert!(error.to_string().contains("sqlite:///absolute/path"), "{error}");
            assert_eq!(open_metadata(url).err(), Some(error), "{url}");
        }
        for url in ["postgres://u:secret@h:port/db", "etcd://u:secret@h:port"] {
            let error = open_metadata(url).err().unwrap();
            assert!(
                matches!(&error, OpenError::Mistaken(_)) && !error.to_string().contains("secret"),
                "{error:?}"
            );
        }
        for url in ["postgres://u:secret@h/db", "etcd://h1:2379,h2:2379"] {
            assert!(open_metadata(url).is_ok() && open_existing_metadata(url).is_ok(), "{url}");
        }
        assert!(source_path("postgres://u:secret@h/db").is_err());
        assert_eq!(source_path("sqlite:///a b%20/c?d.db"), Ok("/a b%20/c?d.db".into()));
    }
}
