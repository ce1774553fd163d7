//! An address: `mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY&…`

use std::str::FromStr as _;

use sqlx::{
    ConnectOptions as _,
    mysql::{MySqlConnectOptions, MySqlSslMode},
};

use crate::{
    OpenError,
    tls::{Tls, Trust, Words},
};

/// What may stand behind the `?`. The driver would take an unknown one, such as a mistyped `ssl-mode`, in silence.
const PARAMETERS: [&str; 6] = ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket", "replica"];

/// Prepared statements a connection keeps on the server: more than a job has, so that none is given up for another.
const STATEMENTS: usize = 64;

const WORDS: Words =
    Words { full: "ssl-mode=VERIFY_IDENTITY", authority: "ssl-ca", files: &["ssl-ca", "ssl-cert", "ssl-key"] };

/// Where a server is and how far it is trusted.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: MySqlConnectOptions,
    pub(super) tls: Tls,
    /// Its replicas, `host:port`: a primary does not know how far they are behind.
    pub(super) replicas: Vec<String>,
}

impl Address {
    /// Another server, trusted as far and as the same user.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        Self { options: self.options.clone().host(host).port(port), tls: self.tls.at(host), replicas: Vec::new() }
    }
}

/// All of them are asked within a second.
const REPLICAS_MAX: usize = 16;

/// Reads an address. Its errors say nothing of what stands in it.
pub(super) fn parse(url: &str) -> Result<Address, OpenError> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter(|pair| !pair.is_empty());
    if names.map(|pair| pair.split('=').next().unwrap_or_default()).any(|name| !PARAMETERS.contains(&name)) {
        let known = PARAMETERS.join(", ");
        return Err(OpenError::Mistaken(format!("a parameter is unknown; known are {known}")));
    }
    let options = MySqlConnectOptions::from_str(url).map_err(|_| {
        let form = "mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY";
        OpenError::Mistaken(format!("it is not of the form {form}, with other signs percent-encoded"))
    })?;
    let trust = match options.get_ssl_mode() {
        MySqlSslMode::Disabled => Trust::ClearText,
        MySqlSslMode::Preferred => Trust::Offered,
        MySqlSslMode::Required => Trust::Encrypted,
        MySqlSslMode::VerifyCa => Trust::Issuer,
        MySqlSslMode::VerifyIdentity => Trust::Name,
    };
    let tls = Tls::new(options.get_host(), options.get_socket().is_some(), trust, query, &WORDS)
        .map_err(OpenError::Mistaken)?;
    // The session's own sql_mode is set whole.
    let options = options.pipes_as_concat(false).no_engine_substitution(false);
    let options = options.statement_cache_capacity(STATEMENTS).disable_statement_logging();
    Ok(Address { options, tls, replicas: replicas(query)? })
}

fn replicas(query: &str) -> Result<Vec<String>, OpenError> {
    let named = query.split('&').filter_map(|pair| pair.strip_prefix("replica="));
    let replicas: Vec<String> = named.map(str::to_owned).collect();
    let is_address = |replica: &String| {
        let parts = replica.rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if !replicas.iter().all(is_address) {
        return Err(OpenError::Mistaken("a replica is not of the form replica=host:port".into()));
    }
    if replicas.len() > REPLICAS_MAX {
        return Err(OpenError::Mistaken(format!("more than {REPLICAS_MAX} replicas are named; leave some out")));
    }
    Ok(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_a_mistake_in_it_repeats_no_secret() {
        let Address { options, .. } =
            parse("mysql://ann:p%40ss@db1:3307/app?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db1", 3307));
        assert_eq!((options.get_username(), options.get_database()), ("ann", Some("app")));
        assert!(matches!(options.get_ssl_mode(), MySqlSslMode::VerifyCa));
        let address = parse("mysql://db1/app?replica=db2:3306&replica=[::1]:3307").unwrap();
        assert_eq!(address.replicas, ["db2:3306", "[::1]:3307"]);
        let Address { options, .. } = parse("mysql://ann@localhost/app?socket=/run/mysqld/mysqld.sock").unwrap();
        assert_eq!(options.get_socket().map(|path| path.as_os_str().len()), Some(23));
        for wrong in [
            "mysql://ann:hunter2@db1:port/app",
            "mysql://ann:hunter2@db1/app?ssl-mode=hunter2",
            "mysql://db1/app?sslmod=hunter2",
            "mysql://db1/app?hunter2",
            "mysql://db1/app?replica=hunter2",
            "mysql://db1/app?ssl-ca=/hunter2.pem",
            "mysql://db1/app?ssl-mode=REQUIRED&ssl-ca=/hunter2.pem",
        ] {
            let error = parse(wrong).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
