//! What a member is known by to the others: a key pair of its own, which never leaves its data directory.
//!
//! The certificate of the listeners would not do: it may be one for all nodes, and it changes when it is renewed.

use std::{path::Path, sync::Arc};

use keymoot_types::Digest;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::{
    config::TlsFiles,
    listen::tls::{TlsError, make_self_signed, read_pair},
};

/// A member's certificate and its private key.
pub(crate) struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) fingerprint: Digest,
}

impl Identity {
    /// Reads the pair, or makes it at the first start.
    pub(crate) fn load(data_dir: &Path) -> Result<Self, TlsError> {
        let files = TlsFiles { cert: data_dir.join("peer-cert.pem"), key: data_dir.join("peer-key.pem") };
        if !files.cert.exists() {
            make_self_signed(data_dir, &files)?;
        }
        let key = read_pair(&files)?;
        let first = key.cert.first().map(fingerprint);
        // `read_pair` takes no empty chain.
        let fingerprint = first.ok_or(TlsError::Mismatch(files))?;
        Ok(Self { key, fingerprint })
    }
}

/// SHA-256 of a certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    Digest::new(Sha256::digest(certificate).into())
}
