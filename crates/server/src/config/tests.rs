use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn write(dir: &Path, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join("keymoot.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn report(text: impl AsRef<[u8]>) -> Report {
    let dir = tempfile::tempdir().unwrap();
    Config::load(&write(dir.path(), text)).unwrap_err()
}

/// Every mistake of the file stands in it as `#! text` at the end of its line, or, for one found at the head of
/// a table, at the end of the head.
#[test]
fn every_mistake_is_found_at_once_and_on_its_line() {
    let text = include_str!("mistakes.toml");
    let report = report(text);
    let found: Vec<_> =
        report.findings.iter().map(|finding| (finding.line.unwrap(), finding.text.as_str())).collect();
    let mut expected = 0;
    for (index, line) in text.lines().enumerate() {
        let Some((_, wanted)) = line.split_once("#! ") else { continue };
        for wanted in wanted.split(" & ") {
            expected += 1;
            let there = found.iter().any(|(line, text)| *line == index + 1 && text.contains(wanted));
            assert!(there, "line {}: {wanted:?} was not found in\n{report}", index + 1);
        }
    }
    assert_eq!(found.len(), expected, "{report}");
}

#[test]
fn a_file_that_is_no_text_has_one_clear_error() {
    let big = "#".repeat(100 * 1024 * 1024);
    for (bytes, line, says) in [
        (&b""[..], None, "blank"),
        (b" \n\t\n", None, "blank"),
        (b"\xef\xbb\xbfkeyring = \"prod\"\n", Some(1), "byte order mark"),
        (b"keyring = \"prod\"\ndata_dir = \"\xff\"\n", Some(2), "not UTF-8"),
        (b"keyring = \"a\"\nkeyring = \"b\"\ndata_dir = \"d\"\n", Some(2), "duplicate key"),
        (b"keyring = \"a\"\ndata_dir = \"d\n", Some(2), ""),
        (big.as_bytes(), None, "more than 1 MiB"),
    ] {
        let report = report(bytes);
        let [finding] = report.findings.as_slice() else { panic!("{report}") };
        assert_eq!(finding.line, line, "{report}");
        assert!(finding.text.contains(says), "{report}");
    }
    let missing = Config::load(Path::new("/nowhere/keymoot.toml")).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/keymoot.toml: error: the file can't be read"));
}

#[test]
fn two_fields_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config::load(&write(dir.path(), "keyring = \"prod\"\ndata_dir = \"/var/lib/keymoot\"\n")).unwrap();
    assert_eq!(config.listen.data.to_string(), "127.0.0.1:8200");
    assert_eq!(config.listen.control.to_string(), "127.0.0.1:8201");
    assert_eq!(&*config.metadata_url, "sqlite:///var/lib/keymoot/meta.db");
    assert_eq!((config.cluster.node.as_str(), config.cluster.members.len()), ("local", 1));
    assert_eq!(config.retire.quiet.as_secs(), 86_400);
    assert!(!config.allow_plain_packages && config.listen.tls.is_none());
}

#[test]
fn a_secret_may_lie_in_a_file_or_in_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("digest"), format!("{DIGEST}\n")).unwrap();
    let token = |secret: &str| {
        format!(
            "keyring = \"p\"\ndata_dir = \"d\"\n[[token]]\nname = \"ops\"\nrole = \"operator\"\nsha256 = \"{secret}\"\n"
        )
    };
    let config = Config::load(&write(dir.path(), token("file:digest"))).unwrap();
    assert_eq!(config.tokens[0].sha256.to_string(), DIGEST);
    assert!(config.data_dir.starts_with(dir.path()), "paths are relative to the file");
    for (secret, says) in
        [("file:gone", "can't be read"), ("env:KEYMOOT_NOT_SET", "is not set"), ("ABC", "64 lower-case hex")]
    {
        let report = Config::load(&write(dir.path(), token(secret))).unwrap_err();
        assert!(report.to_string().contains(":6: error: `token.sha256`: "), "{report}");
        assert!(report.to_string().contains(says) && !report.to_string().contains("ABC\""), "{report}");
    }
}

#[tokio::test]
async fn the_check_looks_at_modes_certificates_and_sources() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let now = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    fs::write(at("cert.pem"), now.cert.pem()).unwrap();
    fs::write(at("key.pem"), other.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(at("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let table = at("users.db");
    fs::write(&table, b"").unwrap();
    let text = format!(
        "keyring = \"p\"\ndata_dir = \"cert.pem/nowhere\"\n[listen]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n\
         [[key]]\nname = \"pii\"\nonly_in_sources = true\n\
         [[source]]\nname = \"a\"\nurl = \"sqlite://{}\"\ntable = \"customers\"\nid = \"id\"\ncolumn = \"ssn\"\nkey = \"pii\"\n\
         [[source]]\nname = \"b\"\nurl = \"sqlite:///nowhere/b.db\"\ntable = \"t\"\nid = \"id\"\ncolumn = \"c\"\nkey = \"pii\"\n\
         [[source]]\nname = \"c\"\nurl = \"postgres://u:p@h/d\"\ntable = \"t\"\nid = \"id\"\ncolumn = \"c\"\nkey = \"pii\"\n",
        table.display()
    );
    let path = write(dir.path(), text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let report = check_file(&path).await;
    let text = report.to_string();
    assert!(!report.is_ok());
    for says in [
        ":4: error: the certificate",
        ":4: error: weak mode 0644",
        ":9: error: source a",
        ":16: ",
        ":25: error: weak mode 0644",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    assert!(text.contains(":2: error: `data_dir`") && !text.contains("u:p@h"), "{text}");
    let b: Vec<_> = report.findings.iter().filter(|finding| finding.line == Some(16)).collect();
    assert!(b.iter().all(|finding| finding.severity == Severity::Warning), "unreachable is a warning\n{text}");
}

#[tokio::test]
async fn an_expired_certificate_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(dir.path().join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.path().join("k.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(dir.path().join("k.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = write(
        dir.path(),
        "keyring = \"p\"\ndata_dir = \"d\"\n[listen]\ntls_cert = \"c.pem\"\ntls_key = \"k.pem\"\n",
    );
    let report = check_file(&path).await;
    assert!(
        report.to_string().contains(":4: error: the certificate CN=") && report.to_string().contains("expired at"),
        "{report}"
    );
}

#[test]
fn a_column_that_other_values_are_bound_to_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str, column: &str, more: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\nurl = \"sqlite:///x.db\"\ntable = \"people\"\nid = \"id\"\n\
             column = \"{column}\"\nkey = \"pii\"\n{more}\n"
        )
    };
    let head = "keyring = \"p\"\ndata_dir = \"d\"\n[[key]]\nname = \"pii\"\nonly_in_sources = true\n";
    let bound = "associated_data = \"people/{email}\"";
    let text = head.to_owned() + &source("mail", "email", "adopt = \"plaintext\"") + &source("ssn", "ssn", bound);
    let report = Config::load(&write(dir.path(), text)).unwrap_err().to_string();
    assert!(
        report.contains("source mail would change column email, which the values of ssn are bound to"),
        "{report}"
    );
}
