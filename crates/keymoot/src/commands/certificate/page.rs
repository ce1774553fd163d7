//! A certificate as a page to print: no script, nothing fetched, and every text of it escaped.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_types::{
    census::SourceCensus,
    certificate::{Certificate, CertifiedCensus},
};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

/// The only style; the page's own policy names it by its digest and allows nothing else.
const STYLE: &str = "body{font:11pt/1.45 serif;max-width:62em;margin:2em auto;padding:0 1em;color:#000;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.6em}table{border-collapse:collapse;width:100%}\
th,td{border:1px solid #999;padding:.25em .5em;text-align:left;vertical-align:top}\
code,pre{font:9pt/1.4 monospace;white-space:pre-wrap;overflow-wrap:anywhere}.unverified{border:3px solid #000;padding:.5em}";

/// What the page is made of.
pub(super) struct Signed<'a> {
    pub(super) certificate: &'a Certificate,
    /// With every field, those that this program does not know included.
    pub(super) as_signed: &'a Json,
    pub(super) signature: &'a str,
    /// The pinned key that it was verified with.
    pub(super) verified_by: Option<&'a [u8; 32]>,
}

/// The whole page.
pub(super) fn page(signed: &Signed<'_>) -> anyhow::Result<String> {
    let certificate = signed.certificate;
    let title = format!("Retirement of v{} of {}", certificate.version, certificate.keyring);
    let mut body = format!("<h1>{}</h1>\n{}", escaped(&title), verdict(signed));
    body.push_str(&facts(certificate));
    for (at, census) in (1..).zip(&certificate.censuses) {
        body.push_str(&counts(at, census));
    }
    body.push_str(&not_looked_at(certificate));
    body.push_str("<h2>To count again</h2>\n");
    for again in &certificate.count_again {
        let server = if again.server.is_empty() { String::new() } else { format!(" on {}", again.server) };
        body.push_str(&format!(
            "<p>{}</p><pre>{}</pre>\n",
            escaped(&format!("{}{server}", again.source)),
            escaped(&again.sql)
        ));
    }
    body.push_str(&format!(
        "<h2>As it was signed</h2>\n<pre>{}</pre>\n<p>Signature by v{}: <code>{}</code></p>\n",
        escaped(&serde_json::to_string_pretty(signed.as_signed)?),
        certificate.by,
        escaped(signed.signature)
    ));
    let style = STANDARD.encode(Sha256::digest(STYLE));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{style}'\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escaped(&title)
    ))
}

fn verdict(signed: &Signed<'_>) -> String {
    match signed.verified_by {
        Some(key) => format!(
            "<p>The signature was verified when this page was made, with the pinned public key <code>{}</code>.</p>\n",
            hex::encode(key)
        ),
        None => {
            "<p class=\"unverified\"><strong>The signature was NOT verified when this page was made.</strong> \
                 Verify the file itself: <code>keymoot certificate verify FILE --key PINNED</code></p>\n"
                .into()
        }
    }
}

fn facts(certificate: &Certificate) -> String {
    let names = |names: &[keymoot_types::SourceName]| match names {
        [] => "none".into(),
        names => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let lives = certificate.max_ages.iter().map(|life| match life.max_age_s {
        Some(seconds) => format!("{}: {seconds} s, which have passed", life.key),
        None => format!("{}: nowhere else", life.key),
    });
    let rows = [
        ("keyring", format!("{} ({})", certificate.keyring, certificate.keyring_id)),
        ("version", format!("v{}, key id {}", certificate.version, certificate.key_id)),
        ("retired at", certificate.retired_at.to_string()),
        ("asked for by", certificate.asked_by.clone()),
        ("counted and signed on", certificate.node.to_string()),
        ("signed by", format!("v{}", certificate.by)),
        ("manifest revision", certificate.revision.to_string()),
        ("sources counted", names(&certificate.sources)),
        ("sources declared gone, not counted", names(&certificate.gone)),
        ("sources in clear again", names(&certificate.released)),
        ("values outside the sources", lives.collect::<Vec<_>>().join("; ")),
        ("authenticated nothing for", format!("{} s", certificate.quiet_s)),
    ];
    let rows = rows.map(|(name, value)| row("th", &[name]) + &row("td", &[&value]));
    let rows: String = rows.iter().map(|cells| format!("<tr>{cells}</tr>\n")).collect();
    format!("<table>\n{rows}</table>\n")
}

fn counts(at: usize, census: &CertifiedCensus) -> String {
    let heading = ["source", "values", "null", "empty", "foreign", "unreadable", "rows", "taken at", "server"];
    let rows: String = census.sources.iter().map(|source| format!("<tr>{}</tr>\n", counted(source))).collect();
    format!(
        "<h2>Census {at}, begun at {}</h2>\n<table>\n<tr>{}</tr>\n{rows}</table>\n",
        escaped(&census.begun_at.to_string()),
        row("th", &heading)
    )
}

fn counted(source: &SourceCensus) -> String {
    let values: Vec<_> =
        source.versions.iter().map(|count| format!("v{}: {}", count.version, count.count)).collect();
    let [null, empty, foreign, unreadable, rows] =
        [source.null, source.empty, source.foreign, source.unreadable, source.rows].map(|count| count.to_string());
    let name = source.name.to_string();
    let (values, taken_at) = (values.join(", "), source.taken_at.to_string());
    row("td", &[&name, &values, &null, &empty, &foreign, &unreadable, &rows, &taken_at, &source.server])
}

fn not_looked_at(certificate: &Certificate) -> String {
    let items: String =
        certificate.not_looked_at.iter().map(|what| format!("<li>{}</li>\n", escaped(what))).collect();
    format!(
        "<h2>What nobody looked at</h2>\n<p>Values of v{} may still lie in:</p>\n<ul>\n{items}</ul>\n",
        certificate.version
    )
}

/// Cells of a row, each escaped.
fn row(tag: &str, cells: &[&str]) -> String {
    cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
}

/// Text that is nothing but text, in an element and in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(text: &str) -> Json {
        let source = json!({
            "name": "customers.ssn", "versions": [{"version": 10, "count": 7}], "null": 1, "empty": 2, "foreign": 3,
            "unreadable": 0, "rows": 13, "conclusive": true, "taken_at": "2026-01-02T00:00:00Z", "sql": text,
            "server": text,
        });
        json!({
            "keyring": "prod", "keyring_id": "0102030405060708", "version": 9, "key_id": "00".repeat(16),
            "retired_at": "2026-01-03T00:00:00Z", "asked_by": text, "node": "db1", "by": 10, "revision": 5,
            "sources": ["customers.ssn"], "gone": ["old.cards"], "max_ages": [{"key": "pii", "max_age_s": null}],
            "quiet_s": 86400, "not_looked_at": [text, "backups"], "from_a_newer_build": text,
            "censuses": [{"begun_at": "2026-01-02T00:00:00Z", "sources": [source]}],
            "count_again": [{"source": "customers.ssn", "sql": text, "server": text}],
        })
    }

    fn of(as_signed: &Json, verified_by: Option<&[u8; 32]>) -> String {
        let certificate = serde_json::from_value(as_signed.clone()).unwrap();
        page(&Signed { certificate: &certificate, as_signed, signature: "\"><script>", verified_by }).unwrap()
    }

    #[test]
    fn no_text_of_a_certificate_becomes_anything_but_text() {
        let hostile = "</pre><script src=//x>alert(1)</script><img onerror=\"x\" src='y'>&lt;\u{1b}[31m";
        let page = of(&certificate(hostile), None);
        for tag in ["<script", "<img", "\u{1b}", "=//x>", "</pre><"] {
            assert!(!page.contains(tag), "{tag}");
        }
        assert!(page.contains("&lt;script src=//x&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("&amp;lt;"));
    }

    #[test]
    fn a_page_needs_nothing_else_and_runs_nothing() {
        let page = of(&certificate("SELECT 1"), None);
        let (head, _) = page.split_once("</head>").unwrap();
        let style = STANDARD.encode(Sha256::digest(STYLE));
        assert!(head.contains(&format!("content=\"default-src 'none'; style-src 'sha256-{style}'\"")));
        assert!(head.contains(&format!("<style>{STYLE}</style>")));
        for outside in ["http://", "https://", "src=", "href=", "url(", "@import", " style=", " on"] {
            let body = page.replace("retired on", "").replace("signed on", "").replace(" on SELECT", "");
            assert!(!body.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_page_says_what_was_counted_what_was_not_and_whether_it_was_verified() {
        let signed = certificate("SELECT 1");
        let page = of(&signed, None);
        for said in [
            "Retirement of v9 of prod",
            "NOT verified",
            "<td>v10: 7</td>",
            "<td>old.cards</td>",
            "<li>backups</li>",
            "<pre>SELECT 1</pre>",
            "from_a_newer_build",
            "Census 1, begun at 2026-01-02T00:00:00Z",
        ] {
            assert!(page.contains(said), "{said}");
        }
        let verified = of(&signed, Some(&[7; 32]));
        assert!(verified.contains(&"07".repeat(32)) && !verified.contains("NOT verified"));
    }
}
