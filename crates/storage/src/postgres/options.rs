//! An address of PostgreSQL: `postgres://user:password@host:port/database?sslmode=verify-full&…`

use std::str::FromStr as _;

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{
    OpenError,
    tls::{Tls, Trust, Words},
};

/// What may stand behind the `?`. The driver would log an unknown one with its value.
const PARAMETERS: [&str; 8] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "user", "password"];

const WORDS: Words =
    Words { full: "sslmode=verify-full", authority: "sslrootcert", files: &["sslrootcert", "sslcert", "sslkey"] };

/// Where a server is and how far it is trusted.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    pub(super) tls: Tls,
}

/// Reads an address. Its errors say nothing of what stands in it.
pub(super) fn parse(url: &str) -> Result<Address, OpenError> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter(|pair| !pair.is_empty());
    if names.map(|pair| pair.split('=').next().unwrap_or_default()).any(|name| !PARAMETERS.contains(&name)) {
        let known = PARAMETERS.join(", ");
        return Err(OpenError::Mistaken(format!("a parameter is unknown; known are {known}")));
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        let form = "postgres://user:password@host:5432/database?sslmode=verify-full";
        OpenError::Mistaken(format!("it is not of the form {form}, with other signs percent-encoded"))
    })?;
    let trust = match options.get_ssl_mode() {
        // The driver does not try TLS where it is only allowed.
        PgSslMode::Disable | PgSslMode::Allow => Trust::ClearText,
        PgSslMode::Prefer => Trust::Offered,
        PgSslMode::Require => Trust::Encrypted,
        PgSslMode::VerifyCa => Trust::Issuer,
        PgSslMode::VerifyFull => Trust::Name,
    };
    let tls = Tls::new(options.get_host(), options.get_socket().is_some(), trust, query, &WORDS)
        .map_err(OpenError::Mistaken)?;
    // Statements are the same few; a slow one is the caller's to tell.
    Ok(Address { options: options.application_name("keymoot").disable_statement_logging(), tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_a_mistake_in_it_repeats_no_secret() {
        let Address { options, .. } = parse("postgres://ann:p%40ss@db1:5433/meta?sslmode=verify-full").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db1", 5433));
        assert_eq!((options.get_username(), options.get_database()), ("ann", Some("meta")));
        for wrong in [
            "postgres://ann:hunter2@db1:port/meta",
            "postgres://ann:hunter2@db1/meta?sslmode=hunter2",
            "postgres://db1/meta?pasword=hunter2",
            "postgres://db1/meta?hunter2",
            "postgres://db1/meta?sslrootcert=/hunter2.pem",
            "postgres://db1/meta?sslmode=require&sslrootcert=/hunter2.pem",
        ] {
            let error = parse(wrong).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
