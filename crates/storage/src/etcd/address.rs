//! An address of etcd: `etcd://user:password@h1:2379,h2:2379,h3:2379/prefix?ca=FILE&cert=FILE&key=FILE`

use std::{collections::BTreeMap, path::Path, sync::Arc};

use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use zeroize::Zeroizing;

use crate::OpenError;

const PARAMETERS: [&str; 3] = ["ca", "cert", "key"];
const ENDPOINTS_MAX: usize = 16;
const PREFIX: &str = "keymoot";

/// What an address says.
pub(super) struct Address {
    pub(super) endpoints: Vec<Url>,
    /// What every key begins with, with a slash at both ends.
    pub(super) prefix: String,
    pub(super) login: Option<Login>,
    pub(super) tls: Option<ClientConfig>,
}

pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: Zeroizing<String>,
}

fn mistaken(text: impl Into<String>) -> OpenError {
    OpenError::Mistaken(text.into())
}

impl Address {
    /// Reads an address, and the files of certificates that it names. Its errors hold no password.
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let rest = url.strip_prefix("etcd://").unwrap_or(url);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(self::login(login)?), hosts),
            None => (None, authority),
        };
        let tls = tls(query)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints = hosts.split(',').map(|host| endpoint(scheme, host)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(mistaken(format!("it names more than {ENDPOINTS_MAX} members")));
        }
        let prefix = prefix.trim_matches('/');
        let prefix = format!("/{}/", if prefix.is_empty() { PREFIX } else { prefix });
        Ok(Self { endpoints, prefix, login, tls })
    }
}

fn decoded(text: &str) -> Result<String, OpenError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| mistaken("what is percent-encoded in it is not UTF-8"))
}

fn login(text: &str) -> Result<Login, OpenError> {
    let (name, password) =
        text.split_once(':').ok_or_else(|| mistaken("a user needs a password: user:password@"))?;
    Ok(Login { name: decoded(name)?, password: Zeroizing::new(decoded(password)?) })
}

fn endpoint(scheme: &str, host: &str) -> Result<Url, OpenError> {
    let url = Url::parse(&format!("{scheme}://{host}"));
    let url = url.ok().filter(|url| !host.is_empty() && url.port().is_some() && url.path() == "/");
    url.ok_or_else(|| mistaken("a member is not of the form host:2379; several are divided by commas"))
}

/// TLS is spoken where the address names a CA.
fn tls(query: &str) -> Result<Option<ClientConfig>, OpenError> {
    let mut files = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, file) = pair.split_once('=').unwrap_or((pair, ""));
        if !PARAMETERS.contains(&name) {
            return Err(mistaken(format!("a parameter is unknown; known are {}", PARAMETERS.join(", "))));
        }
        files.insert(name, decoded(file)?);
    }
    let Some(ca) = files.get("ca") else {
        return if files.is_empty() { Ok(None) } else { Err(mistaken("`cert` and `key` need `ca` beside them")) };
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| mistaken(format!("{ca}: {error}")))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| mistaken(error.to_string()))?
        .with_root_certificates(roots);
    Ok(Some(match (files.get("cert"), files.get("key")) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(Path::new(key));
            let private = private.map_err(|error| mistaken(format!("{key}: {error}")))?;
            let with_certificate = builder.with_client_auth_cert(certificates(cert)?, private);
            with_certificate.map_err(|error| mistaken(format!("{cert}: {error}")))?
        }
        _ => return Err(mistaken("`cert` and `key` need one another")),
    }))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = CertificateDer::pem_file_iter(Path::new(file)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| mistaken(format!("{file}: {error}")))?;
    if read.is_empty() { Err(mistaken(format!("{file} holds no certificate"))) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_members_a_prefix_and_who_asks() {
        let address = Address::parse("etcd://ann:p%40ss@h1:2379,[::1]:2380/team/prod/").unwrap();
        let endpoints: Vec<_> = address.endpoints.iter().map(Url::as_str).collect();
        assert_eq!(endpoints, ["http://h1:2379/", "http://[::1]:2380/"]);
        assert_eq!(address.prefix, "/team/prod/");
        let login = address.login.unwrap();
        assert_eq!((&*login.name, &**login.password), ("ann", "p@ss"));
        assert_eq!(Address::parse("etcd://h:2379").unwrap().prefix, "/keymoot/");
    }

    #[test]
    fn a_mistake_in_an_address_is_refused_and_repeats_no_password() {
        for wrong in [
            "etcd://",
            "etcd://h1",
            "etcd://h1:2379,,h2:2379",
            "etcd://hunter2@h1:2379",
            "etcd://ann:hunter2@h1:port",
            "etcd://ann:hunter2%ff@h1:2379",
            "etcd://h1:2379?password=hunter2",
            "etcd://h1:2379?cert=c.pem&key=k.pem",
            "etcd://ann:hunter2@h1:2379?ca=/nowhere/ca.pem",
        ] {
            let error = Address::parse(wrong).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{wrong}: {error}");
        }
    }
}
