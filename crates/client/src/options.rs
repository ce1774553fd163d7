//! Where a node is, and how to talk to it.

use std::{sync::Arc, time::Duration};

use keymoot_api::SecretText;
use keymoot_types::KeyringId;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Where a node is, which token to show, which roots to trust, how long to wait.
#[derive(Debug, Clone)]
pub struct Options {
    /// `https://host:port`; without a scheme, `https` is meant. Nothing else is spoken.
    pub addr: String,
    /// Shown as a bearer token.
    pub token: Option<SecretText>,
    /// The keyring that requests other than GET are meant for: a node of another one refuses them. `None`: whichever it is.
    pub keyring_id: Option<KeyringId>,
    /// The PEM text of the certificates to trust, and no others. Without it the system's are trusted.
    pub ca_pem: Option<Vec<u8>>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long one attempt of the data API may take, its body included.
    pub timeout: Duration,
    /// How often the data API is asked again when the trouble may pass.
    pub retries_max: usize,
}

/// Why no connection can be prepared.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// `http://` and others.
    #[error("the address {0} does not begin with https://, and shares and tokens travel in TLS only")]
    NotHttps(String),
    /// The CA file has no certificate in it, or one that can't be read.
    #[error("the CA file can't be used: {0}")]
    Ca(String),
    /// A token with characters that no header can carry.
    #[error("the token has characters that no token has")]
    Token,
    /// TLS or the HTTP client could not be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

impl Options {
    /// Ordinary waits, no token, the system's roots.
    pub fn new(addr: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            token: None,
            keyring_id: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(10),
            retries_max: 3,
        }
    }

    /// The address with its scheme and without a slash at its end.
    pub(crate) fn base_url(&self) -> Result<String, OptionsError> {
        let addr = self.addr.trim_end_matches('/');
        match addr.split_once("://") {
            None => Ok(format!("https://{addr}")),
            Some(("https", _)) => Ok(addr.to_owned()),
            Some(_) => Err(OptionsError::NotHttps(addr.to_owned())),
        }
    }

    pub(crate) fn tls(&self) -> Result<Option<ClientConfig>, OptionsError> {
        let Some(pem) = &self.ca_pem else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| OptionsError::Ca(error.to_string()))?;
            roots.add(certificate).map_err(|error| OptionsError::Ca(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(OptionsError::Ca("there is no certificate in it".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| OptionsError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_tls_is_spoken() {
        assert_eq!(Options::new("db1:8200").base_url().unwrap(), "https://db1:8200");
        assert_eq!(Options::new("https://db1:8200/").base_url().unwrap(), "https://db1:8200");
        assert!(matches!(Options::new("http://db1:8200").base_url(), Err(OptionsError::NotHttps(_))));
    }

    #[test]
    fn a_ca_file_without_a_certificate_trusts_nobody_and_is_an_error() {
        let options = Options { ca_pem: Some(b"nothing".to_vec()), ..Options::new("db1:8200") };
        assert!(matches!(options.tls(), Err(OptionsError::Ca(_))));
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let options = Options { token: Some(SecretText::new("km_secret")), ..Options::new("db1:8200") };
        assert!(!format!("{options:?}").contains("km_secret"));
    }
}
