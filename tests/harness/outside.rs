//! What stands outside of the daemon: whom a client trusts, and an application's table.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::ChildStderr,
    sync::mpsc,
};

use reqwest::blocking::Client;
use serde_json::Value as Json;

use super::PATIENCE;

/// Writes down what a daemon says, and tells the addresses of its data and of its control listener.
pub fn written_down(said: ChildStderr, log: PathBuf) -> mpsc::Receiver<(String, String)> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            writeln!(file, "{line}").unwrap();
            if let Ok(json) = serde_json::from_str::<Json>(&line)
                && json["message"] == "listening"
            {
                let address = |name: &str| format!("https://{}", json[name].as_str().unwrap());
                let _gone = tell.send((address("data"), address("control")));
            }
        }
    });
    told
}

/// A client that trusts exactly this certificate.
pub fn client(cert: &Path) -> Client {
    client_of(&[cert])
}

/// A client that trusts these certificates alone.
pub fn client_of(certs: &[&Path]) -> Client {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = |cert: &&Path| reqwest::Certificate::from_pem(&fs::read(cert).unwrap()).unwrap();
    let certificates: Vec<_> = certs.iter().map(certificate).collect();
    Client::builder().tls_certs_only(certificates).timeout(PATIENCE).no_proxy().build().unwrap()
}

/// The configuration of one source: `tokens(id, token)` in `{dir}/app.db`.
pub const SOURCE: &str = "[[source]]\nname = \"tokens.token\"\nurl = \"sqlite://{dir}/app.db\"\ntable = \"tokens\"\n\
                          id = \"id\"\ncolumn = \"token\"\nkey = \"auth-token\"\n";

/// Makes that database, with these rows from 1 upwards.
pub fn make_table(path: &Path, tokens: &[String]) -> rusqlite::Connection {
    let mut connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch("CREATE TABLE tokens (id INTEGER PRIMARY KEY, token TEXT)").unwrap();
    let transaction = connection.transaction().unwrap();
    for (id, token) in (1..).zip(tokens) {
        transaction.execute("INSERT INTO tokens VALUES (?1, ?2)", rusqlite::params![id, token]).unwrap();
    }
    transaction.commit().unwrap();
    connection
}
