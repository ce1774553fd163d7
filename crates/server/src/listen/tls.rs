//! Certificates and keys: from files, or a self-signed pair for a node on loopback.

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use keymoot_types::Wiped;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::{
    config::{Config, TlsFiles},
    durable,
};

/// Names of a node that nobody but itself talks to.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// A PEM file is a few pages.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why, without what is in it.
        why: String,
    },
    /// The certificate is for another key.
    #[error("the certificate {} does not match the key {}", .0.cert.display(), .0.key.display())]
    Mismatch(TlsFiles),
    /// A self-signed certificate convinces nobody beyond this machine.
    #[error("{0} is not a loopback address: it needs listen.tls_cert and listen.tls_key")]
    NotLoopback(std::net::SocketAddr),
    /// The TLS library refuses.
    #[error("TLS can't be set up: {0}")]
    Refused(String),
}

fn file_error(path: &Path, why: impl fmt::Display) -> TlsError {
    TlsError::File { path: path.into(), why: why.to_string() }
}

fn refused(error: impl fmt::Display) -> TlsError {
    TlsError::Refused(error.to_string())
}

/// TLS of the two listeners, from one reading of the files.
pub(super) struct TlsPair {
    /// May require client certificates.
    pub(super) data: Arc<ServerConfig>,
    /// Never does: keyholders come with shares.
    pub(super) control: Arc<ServerConfig>,
}

/// Reads, or makes, what the configuration asks for.
pub(super) fn load(config: &Config) -> Result<TlsPair, TlsError> {
    let key = match &config.listen.tls {
        Some(files) => read_pair(files)?,
        None => self_signed(config)?,
    };
    let data = match &config.listen.client_ca {
        Some(path) => server_config(&key, Some(client_verifier(path)?))?,
        None => server_config(&key, None)?,
    };
    Ok(TlsPair { data, control: server_config(&key, None)? })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(
    key: &Arc<CertifiedKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(refused)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_pem(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| file_error(path, "it is not PEM"))?;
    if certificates.is_empty() { Err(file_error(path, "there is no certificate in it")) } else { Ok(certificates) }
}

fn read_pem(path: &Path) -> Result<Wiped, TlsError> {
    let metadata = fs::metadata(path).map_err(|error| file_error(path, error))?;
    if metadata.len() > PEM_BYTES_MAX {
        return Err(file_error(path, "it has more than 1 MiB"));
    }
    fs::read(path).map(Wiped::from).map_err(|error| file_error(path, error))
}

/// A chain and the key that belongs to it.
pub(crate) fn read_pair(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = read_certificates(&files.cert)?;
    let pem = read_pem(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| file_error(&files.key, "there is no private key in it"))?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| file_error(&files.key, error))?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        // Where the library can't compare, the handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch(files.clone())),
        Err(error) => Err(file_error(&files.cert, error)),
    }
}

/// What requires a client certificate of one of these authorities.
pub(crate) fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| file_error(path, error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| file_error(path, error))
}

/// Where the pair of a node without certificates lies.
pub(crate) fn self_signed_files(data_dir: &Path) -> TlsFiles {
    TlsFiles { cert: data_dir.join("tls-cert.pem"), key: data_dir.join("tls-key.pem") }
}

fn self_signed(config: &Config) -> Result<Arc<CertifiedKey>, TlsError> {
    if let Some(address) =
        [config.listen.data, config.listen.control].into_iter().find(|address| !address.ip().is_loopback())
    {
        return Err(TlsError::NotLoopback(address));
    }
    let files = self_signed_files(&config.data_dir);
    if !files.cert.exists() {
        make_self_signed(&config.data_dir, &files)?;
    }
    tracing::warn!(cert = %files.cert.display(), "a self-signed certificate is in use: loopback only");
    read_pair(&files)
}

/// Makes a pair for loopback, in files of mode 0600.
pub(crate) fn make_self_signed(data_dir: &Path, files: &TlsFiles) -> Result<(), TlsError> {
    durable::create_dir(data_dir).map_err(|error| file_error(data_dir, error))?;
    let made = rcgen::generate_simple_self_signed(LOOPBACK_NAMES.map(String::from)).map_err(refused)?;
    // The key first: a crash in between leaves no certificate, and both are made again.
    let write = |path: &Path, bytes: &[u8]| {
        durable::replace(path, |file| file.write_all(bytes)).map_err(|error| file_error(path, error))
    };
    write(&files.key, Zeroizing::new(made.signing_key.serialize_pem()).as_bytes())?;
    write(&files.cert, made.cert.pem().as_bytes())
}
