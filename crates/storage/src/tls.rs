//! TLS with the servers of databases: how far an address trusts its server, and what to do where that trust is not met.

use std::{net::IpAddr, path::PathBuf};

use rustls::{CertificateError, Error as TlsError};

/// What an address wants to know of the server before anything is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Nothing: the connection is in clear text.
    ClearText,
    /// Nothing: TLS is used where the server offers it, and clear text where it, or somebody between, does not.
    Offered,
    /// That it speaks TLS, whoever it is.
    Encrypted,
    /// That its certificate is by an authority that is trusted, whoever it is for.
    Issuer,
    /// That its certificate is by an authority that is trusted, and for the name in the address.
    Name,
}

/// How an address says so.
#[derive(Debug)]
pub(crate) struct Words {
    /// `sslmode=verify-full`
    pub(crate) full: &'static str,
    /// `sslrootcert`
    pub(crate) authority: &'static str,
    /// The parameters that name files.
    pub(crate) files: &'static [&'static str],
}

/// What an address says of TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    host: String,
    /// Nobody else is between: loopback or a socket.
    local: bool,
    trust: Trust,
    words: &'static Words,
    /// The files that are named, by parameter.
    files: Vec<(String, PathBuf)>,
}

impl Tls {
    /// Of an address with this query. An authority that would not be looked at is a mistake: whoever names one wants the
    /// server verified.
    pub(crate) fn new(
        host: &str,
        socket: bool,
        trust: Trust,
        query: &str,
        words: &'static Words,
    ) -> Result<Self, String> {
        let files: Vec<(String, PathBuf)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| words.files.contains(name))
            .map(|(name, value)| (name.to_owned(), file(value)))
            .collect();
        if trust < Trust::Issuer && files.iter().any(|(name, _)| name == words.authority) {
            return Err(format!(
                "{} is named, and nothing is verified without {}; write that",
                words.authority, words.full
            ));
        }
        let local = socket || host.starts_with('/') || is_loopback(host);
        Ok(Self { host: host.to_owned(), local, trust, words, files })
    }

    /// The same for another server.
    pub(crate) fn at(&self, host: &str) -> Self {
        Self { host: host.to_owned(), local: is_loopback(host), ..self.clone() }
    }

    /// What an administrator should know of the connection, `encrypted` or not.
    pub(crate) fn warning(&self, encrypted: bool) -> Option<String> {
        let Words { full, authority, .. } = self.words;
        let host = &self.host;
        if self.local {
            return None;
        }
        let found = match (self.trust, encrypted) {
            (Trust::Name, _) => return None,
            (Trust::Issuer, _) => {
                format!(
                    "whose server answers at {host} is not verified: any that a trusted or a public authority knows passes"
                )
            }
            (_, true) => {
                format!("the connection with {host} is encrypted, and whose server answers there is not verified")
            }
            (_, false) => {
                format!(
                    "the connection with {host} is in clear text: what is read and written can be seen on the way"
                )
            }
        };
        Some(format!("{found}; write {full} in the url, with {authority}=FILE for an authority of your own"))
    }

    /// Why the server was not trusted, with the remedy; `None`: the error is of another kind.
    pub(crate) async fn refusal(&self, error: &sqlx::Error) -> Option<String> {
        if self.trust == Trust::ClearText {
            return None;
        }
        for (parameter, file) in &self.files {
            if let Err(error) = tokio::fs::read(file).await {
                return Some(format!("{parameter}={} can't be read: {error}; correct the url", file.display()));
            }
        }
        let host = &self.host;
        let why = match error {
            // Said by the driver where the server answers that it has none.
            sqlx::Error::Tls(reason) if reason.to_string().contains("does not support TLS") => {
                "it speaks no TLS; give it a certificate and switch TLS on".into()
            }
            sqlx::Error::Tls(reason) => format!("{reason}; look at the files that the url names"),
            sqlx::Error::Io(error) => match error.get_ref()?.downcast_ref::<TlsError>()? {
                TlsError::InvalidCertificate(certificate) => self.distrusted(certificate),
                other => format!("{other}; look at the server's settings of TLS"),
            },
            _ => return None,
        };
        Some(format!("the server at {host} is not trusted, and no password was sent to it: {why}"))
    }

    fn distrusted(&self, found: &CertificateError) -> String {
        use CertificateError as Found;
        let (authority, host) = (self.words.authority, &self.host);
        match found {
            Found::UnknownIssuer | Found::BadSignature => {
                let named = self.files.iter().find(|(name, _)| name == authority);
                let looked_at = named.map_or("none is named".into(), |(_, file)| file.display().to_string());
                format!(
                    "its certificate is by no authority that is trusted; name the right one in {authority} ({looked_at})"
                )
            }
            Found::NotValidForName | Found::NotValidForNameContext { .. } => format!(
                "its certificate is not for {host}; write the name that it is for in the url, or have one made for {host}"
            ),
            Found::Expired | Found::ExpiredContext { .. } => {
                "its certificate expired; renew it on the server".into()
            }
            Found::NotValidYet | Found::NotValidYetContext { .. } => {
                "its certificate is not valid yet; compare the clocks of both machines".into()
            }
            other => format!("its certificate is refused: {other}; have another one made"),
        }
    }
}

fn file(value: &str) -> PathBuf {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned().into()
}

/// Names are not looked up: one that leads here today may lead elsewhere tomorrow.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words =
        Words { full: "sslmode=verify-full", authority: "sslrootcert", files: &["sslrootcert", "sslkey"] };

    fn tls(host: &str, trust: Trust) -> Tls {
        Tls::new(host, false, trust, "", &WORDS).unwrap()
    }

    #[test]
    fn a_remote_server_that_nobody_verifies_is_warned_of_and_a_local_one_is_not() {
        let clear = tls("db1", Trust::Offered).warning(false).unwrap();
        assert!(clear.contains("clear text") && clear.contains("sslmode=verify-full"), "{clear}");
        for trust in [Trust::Offered, Trust::Encrypted] {
            let anybody = tls("db1", trust).warning(true).unwrap();
            assert!(anybody.contains("not verified") && anybody.contains("sslrootcert=FILE"), "{anybody}");
        }
        assert!(tls("10.0.0.7", Trust::Issuer).warning(true).unwrap().contains("not verified"));
        assert_eq!(tls("db1", Trust::Name).warning(true), None);
        for local in ["localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]", "/run/postgresql"] {
            assert_eq!(tls(local, Trust::ClearText).warning(false), None, "{local}");
        }
        assert_eq!(Tls::new("db1", true, Trust::ClearText, "", &WORDS).unwrap().warning(false), None);
    }

    #[test]
    fn an_authority_that_would_not_be_looked_at_is_a_mistake() {
        let named = |trust| Tls::new("db1", false, trust, "sslmode=x&sslrootcert=%2Fca.pem", &WORDS);
        for trust in [Trust::ClearText, Trust::Offered, Trust::Encrypted] {
            assert!(named(trust).unwrap_err().contains("sslmode=verify-full"));
        }
        assert_eq!(named(Trust::Name).unwrap().files, [("sslrootcert".to_owned(), "/ca.pem".into())]);
    }
}
