//! What lies outside of the file and can be known to be wrong before a start or reload.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use keymoot_storage::{
    open_metadata, open_source,
    source::{Preflight, SourceError, SourceSpec},
};
use rustix::fs::{Access, access};

use super::{Config, Report, TlsFiles, report::Severity, section::At};
use crate::listen::tls;

/// A source that takes longer is called unreachable.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Sources looked at side by side.
const SOURCES_AT_ONCE: usize = 8;
/// A certificate is named this long before its end.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
const WRITABLE_BY_OTHERS: u32 = 0o022;
const READABLE_BY_OTHERS: u32 = 0o044;
const READABLE_BY_ALL: u32 = 0o004;

/// Everything that can be known to be wrong, all in one go. A source that can't be reached is a warning.
pub async fn check_file(path: &Path) -> Report {
    check(path, Severity::Error).await
}

/// The same before a reload, where a preflight that refuses jobs is a warning: what an administrator did to a database
/// keeps no token from being taken away.
pub async fn check_for_reload(path: &Path) -> Report {
    check(path, Severity::Warning).await
}

async fn check(path: &Path, blocked: Severity) -> Report {
    let (config, mut report) = Config::read(path);
    let Some(config) = config else { return report };
    modes(&config, &mut report);
    certificates(&config, &mut report);
    data_dir(&config, &mut report);
    if let Err(error) = open_metadata(&config.metadata_url) {
        report.error(None, format!("`metadata.url`: {error}"));
    }
    sources(&config, blocked, &mut report).await;
    report.sort();
    report
}

/// Which of a file's modes are too wide. `None`: it can't be looked at, which reading it has said already.
fn mode(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|metadata: Metadata| metadata.mode() & 0o777)
}

fn modes(config: &Config, report: &mut Report) {
    let file = report.file.clone();
    if let Some(mode) = mode(&file) {
        let weak = |why: &str| format!("weak mode {mode:04o}: {why}; chmod 600 {}", file.display());
        if mode & WRITABLE_BY_OTHERS != 0 {
            report.error(None, weak("others can change the configuration"));
        }
        match (config.places.inline_secret, config.places.token) {
            (Some(line), _) if mode & READABLE_BY_OTHERS != 0 => {
                report.error(line, weak("a password stands here and others can read the file"));
            }
            (None, Some(line)) if mode & READABLE_BY_ALL != 0 => {
                report.warning(line, weak("everybody can read the digests of tokens"));
            }
            _ => {}
        }
    }
    for At { value: path, line } in &config.places.secret_files {
        secret_mode(path, *line, report);
    }
}

/// Others must not read it; a group may (a key that a group of daemons shares), which is worth knowing.
fn secret_mode(path: &Path, line: impl Into<Option<usize>>, report: &mut Report) {
    let Some(mode) = mode(path) else { return };
    let weak = |who: &str| format!("weak mode {mode:04o}: {who}; chmod 600 {}", path.display());
    if mode & (READABLE_BY_ALL | WRITABLE_BY_OTHERS) != 0 {
        report.error(line, weak("others can read or change a secret"));
    } else if mode & READABLE_BY_OTHERS != 0 {
        report.warning(line, weak("the group can read a secret"));
    }
}

fn certificates(config: &Config, report: &mut Report) {
    let own = tls::self_signed_files(&config.data_dir);
    let (files, line): (&TlsFiles, Option<usize>) = match &config.listen.tls {
        Some(files) => (files, Some(config.places.tls)),
        // A pair that is not there yet will be made.
        None if !own.cert.exists() => return client_ca(config, report),
        None => (&own, None),
    };
    if let Err(error) = tls::read_pair(files) {
        report.error(line, error.to_string());
    }
    secret_mode(&files.key, line, report);
    validity(&files.cert, line, report);
    client_ca(config, report);
}

fn client_ca(config: &Config, report: &mut Report) {
    let Some(path) = &config.listen.client_ca else { return };
    let line = Some(config.places.client_ca);
    match tls::client_verifier(path) {
        Ok(_) => validity(path, line, report),
        Err(error) => report.error(line, error.to_string()),
    }
}

/// Expired, or not yet valid.
fn validity(path: &Path, line: Option<usize>, report: &mut Report) {
    let Ok(certificates) = tls::read_certificates(path) else { return };
    for der in &certificates {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
            report.error(line, format!("a certificate in {} can't be read", path.display()));
            continue;
        };
        let validity = certificate.validity();
        let left = validity.time_to_expiration().map(|left| left.unsigned_abs());
        let named = format!("the certificate {} in {}", certificate.subject(), path.display());
        if validity.not_before > x509_parser::time::ASN1Time::now() {
            report.error(line, format!("{named} is not valid before {}", validity.not_before));
        } else if left.is_none() {
            report.error(line, format!("{named} expired at {}", validity.not_after));
        } else if left.is_some_and(|left| left < EXPIRES_SOON) {
            report.warning(line, format!("{named} expires soon, at {}", validity.not_after));
        }
    }
}

fn data_dir(config: &Config, report: &mut Report) {
    let line = Some(config.places.data_dir);
    let path = &config.data_dir;
    // One that is not there yet will be made: what counts is the nearest directory that is.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let Some(there) = absolute.ancestors().find(|path| path.exists()).map(PathBuf::from) else { return };
    if !there.is_dir() {
        report.error(line, format!("`data_dir`: {} is no directory", there.display()));
    } else if access(&there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        report.error(line, format!("`data_dir`: {} is not writable", there.display()));
    } else if let Some(mode) = mode(path).filter(|mode| mode & WRITABLE_BY_OTHERS != 0) {
        report.error(
            line,
            format!("weak mode {mode:04o}: others can write to `data_dir`; chmod 700 {}", path.display()),
        );
    }
}

async fn sources(config: &Config, blocked: Severity, report: &mut Report) {
    let places: Vec<(SourceSpec, usize)> =
        config.sources.iter().cloned().zip(config.places.sources.iter().copied()).collect();
    let looked_at = stream::iter(places)
        .map(|(spec, line)| async move { (spec.name.clone(), line, look_at(spec).await) })
        .buffered(SOURCES_AT_ONCE);
    let mut looked_at = std::pin::pin!(looked_at);
    while let Some((name, line, found)) = looked_at.next().await {
        match found {
            Ok(Ok(preflight)) => {
                for blocker in preflight.blockers {
                    report.add(Some(line), blocked, format!("source {name}: {blocker}"));
                }
                for warning in preflight.warnings {
                    report.warning(line, format!("source {name}: {warning}"));
                }
            }
            Ok(Err(error @ SourceError::Mistaken { .. })) => report.add(Some(line), blocked, error.to_string()),
            Ok(Err(error @ SourceError::Unreachable { .. })) => report.warning(line, error.to_string()),
            // The declaration itself is wrong.
            Err(error) => report.error(line, error.to_string()),
        }
    }
}

/// The outer error: it can't even be opened.
async fn look_at(spec: SourceSpec) -> Result<Result<Preflight, SourceError>, SourceError> {
    let name = spec.name.clone();
    let source = open_source(spec)?;
    Ok(tokio::time::timeout(SOURCE_TIMEOUT, source.preflight()).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} seconds", SOURCE_TIMEOUT.as_secs());
        Err(SourceError::Unreachable { name, reason })
    }))
}
