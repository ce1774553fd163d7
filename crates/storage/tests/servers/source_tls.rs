//! Sources over TLS: the server that the address describes is trusted and no other, and nothing falls back to clear text.

use std::path::Path;

use keymoot_storage::{
    open_source,
    source::{Preflight, SourceError, SourceSpec},
};

use crate::{
    authority::{Authority, Signed},
    mariadb::App,
    postgres_source::spec,
    servers::{PASSWORD, Postgres},
};

/// A name of loopback that might be anybody's: nobody looks up where a name leads.
const ANYBODY: &str = "0x7f000001";

async fn preflight(spec: SourceSpec) -> Preflight {
    let found = open_source(spec).unwrap().preflight().await.unwrap();
    assert!(found.blockers.is_empty(), "{:?}", found.blockers);
    found
}

/// Whatever is asked of the source, it is not reached, and says what to do.
#[track_caller]
fn says(refused: &SourceError, parts: &[&str]) {
    assert!(matches!(refused, SourceError::Unreachable { .. }), "{refused:?}");
    let text = refused.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert!(text.contains("no password was sent") && !text.contains(PASSWORD), "{text}");
}

async fn refused(spec: SourceSpec, parts: &[&str]) {
    let source = open_source(spec).unwrap();
    says(&source.preflight().await.unwrap_err(), parts);
    says(&source.load().await.unwrap_err(), &[]);
    says(&source.census(&mut |_| ()).await.unwrap_err(), &[]);
}

/// The warnings that are about the connection.
fn of_connection(found: &Preflight) -> String {
    let about = |warning: &&String| warning.contains("in the url");
    found.warnings.iter().filter(about).cloned().collect()
}

fn postgres(tls: Option<&Signed>) -> Postgres {
    let server = Postgres::start_with(tls.and_then(Signed::pair));
    server.sql("CREATE TABLE t (id int PRIMARY KEY, c text)");
    server
}

fn in_postgres(server: &Postgres, host: &str, query: &str) -> SourceSpec {
    spec(&format!("{}{query}", server.url().replace("127.0.0.1", host)), "t", &["id"], "c", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_in_postgresql_is_reached_over_tls_if_its_certificate_is_right_and_not_otherwise() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = postgres(Some(&authority.sign("127.0.0.1")));
    let full = |ca: &Path| format!("?sslmode=verify-full&sslrootcert={}", ca.display());
    let (right, wrong) = (full(&authority.file()), full(&other.file()));

    let source = open_source(in_postgres(&server, "127.0.0.1", &right)).unwrap();
    let found = source.preflight().await.unwrap();
    assert_eq!((found.blockers, found.warnings), (vec![], vec![]));
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'keymoot'";
    assert_eq!(server.sql(encrypted), "t");

    let issuer = ["by no authority that is trusted", "sslrootcert"];
    refused(in_postgres(&server, "127.0.0.1", &wrong), &issuer).await;
    refused(in_postgres(&server, "127.0.0.1", "?sslmode=verify-full"), &["none is named"]).await;
    refused(in_postgres(&server, "localhost", &right), &["not for localhost", "write the name that it is for"])
        .await;
    let missing = in_postgres(&server, "127.0.0.1", &full(Path::new("/nowhere/ca.pem")));
    let error = open_source(missing).unwrap().preflight().await.unwrap_err().to_string();
    assert!(error.contains("sslrootcert=/nowhere/ca.pem can't be read"), "{error}");
    let unverified = of_connection(&preflight(in_postgres(&server, ANYBODY, "")).await);
    assert!(unverified.contains("encrypted") && unverified.contains("not verified"), "{unverified}");
    assert_eq!(of_connection(&preflight(in_postgres(&server, "localhost", "")).await), "");

    let expired = postgres(Some(&authority.sign_expired("127.0.0.1")));
    refused(in_postgres(&expired, "127.0.0.1", &right), &["expired", "renew it"]).await;
    let plain = postgres(None);
    for query in [&right, "?sslmode=require"] {
        refused(in_postgres(&plain, "127.0.0.1", query), &["speaks no TLS", "switch TLS on"]).await;
    }
    let clear = of_connection(&preflight(in_postgres(&plain, ANYBODY, "")).await);
    assert!(clear.contains("clear text") && clear.contains("sslmode=verify-full"), "{clear}");
}

fn mariadb(tls: Option<&Signed>) -> App {
    let files = tls.map(|tls| {
        [format!("--ssl-cert={}", tls.cert_file.display()), format!("--ssl-key={}", tls.key_file.display())]
    });
    let options: Vec<&str> = files.iter().flatten().map(String::as_str).collect();
    let app = App::with(&options);
    app.people("VARCHAR(100)", "INT");
    app
}

fn in_mariadb(app: &App, host: &str, query: &str) -> SourceSpec {
    SourceSpec { url: format!("{}{query}", app.url().replace("127.0.0.1", host)), ..app.spec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_in_mariadb_is_reached_over_tls_if_its_certificate_is_right_and_not_otherwise() {
    let (authority, other) = (Authority::new(), Authority::new());
    let app = mariadb(Some(&authority.sign("127.0.0.1")));
    let full = |ca: &Path| format!("?ssl-mode=VERIFY_IDENTITY&ssl-ca={}", ca.display());
    let (right, wrong) = (full(&authority.file()), full(&other.file()));

    assert_eq!(of_connection(&preflight(in_mariadb(&app, "127.0.0.1", &right)).await), "");
    // The server lets a user in who must come over TLS.
    app.sql(&format!("CREATE USER safe IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT ALL ON *.* TO safe"));
    let mut safe = in_mariadb(&app, "127.0.0.1", &right);
    safe.url = safe.url.replace("keymoot:", "safe:");
    preflight(safe).await;

    let issuer = ["by no authority that is trusted", "ssl-ca"];
    refused(in_mariadb(&app, "127.0.0.1", &wrong), &issuer).await;
    refused(in_mariadb(&app, "127.0.0.1", "?ssl-mode=VERIFY_IDENTITY"), &["none is named"]).await;
    refused(in_mariadb(&app, "localhost", &right), &["not for localhost", "write the name that it is for"]).await;
    let unverified = of_connection(&preflight(in_mariadb(&app, ANYBODY, "")).await);
    assert!(unverified.contains("encrypted") && unverified.contains("not verified"), "{unverified}");

    let expired = mariadb(Some(&authority.sign_expired("127.0.0.1")));
    refused(in_mariadb(&expired, "127.0.0.1", &right), &["expired", "renew it"]).await;
    let plain = mariadb(None);
    for query in [&right, "?ssl-mode=REQUIRED"] {
        refused(in_mariadb(&plain, "127.0.0.1", query), &["speaks no TLS", "switch TLS on"]).await;
    }
    let clear = of_connection(&preflight(in_mariadb(&plain, ANYBODY, "")).await);
    assert!(clear.contains("clear text") && clear.contains("ssl-mode=VERIFY_IDENTITY"), "{clear}");
}
