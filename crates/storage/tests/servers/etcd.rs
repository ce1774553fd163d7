use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_storage::{
    conformance,
    metadata::{Existing, Metadata, MetadataError},
    open_existing_metadata, open_metadata,
};
use serde_json::json;

use super::{
    Certificate, assert_away, is_unavailable, no_update_is_lost,
    proxy::{Proxy, Rule},
    servers::{Etcd, PASSWORD},
    stamp, until_away_for, until_back,
};

/// A store whose three members are each behind a proxy.
fn proxied(server: &Etcd) -> (Vec<Proxy>, Arc<dyn Metadata>) {
    let proxies: Vec<_> = (0..3).map(|member| Proxy::new(server.address(member))).collect();
    let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
    (proxies, open_metadata(&Etcd::url_at(&addresses)).unwrap())
}

#[tokio::test]
async fn the_metadata_store_in_etcd_keeps_the_promises() {
    let server = Etcd::start();
    conformance::metadata(&*open_metadata(&server.url()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_of_one_record_in_etcd_lose_no_update() {
    let server = Etcd::start();
    no_update_is_lost(|| open_metadata(&server.url()).unwrap()).await;
}

#[tokio::test]
async fn an_etcd_works_without_any_one_member_and_is_away_without_two() {
    let mut server = Etcd::start();
    let store = open_metadata(&server.url()).unwrap();
    let mut last = store.put("a", b"0").await.unwrap();
    for member in 0..3 {
        server.kill(member);
        // Perhaps it was the leader: an election may take longer than a call.
        until_back(&*store).await;
        last = store.swap("a", Some(last), &[1]).await.unwrap();
        server.restart(&[member]);
    }
    server.pause(0);
    until_back(&*store).await;
    last = store.swap("a", Some(last), b"2").await.unwrap();
    server.go_on(0);

    server.kill(0);
    server.kill(1);
    assert_away(&*store).await;
    assert!(is_unavailable(&store.swap("a", Some(last), b"3").await));
    server.restart(&[0, 1]);
    until_back(&*store).await;
    assert_eq!(stamp(&*store, "a").await, Some(last));
    store.swap("a", Some(last), b"3").await.unwrap();
}

#[tokio::test]
async fn fault_31_an_answer_of_etcd_that_was_lost_is_found_out_and_never_reported_as_failed() {
    let server = Etcd::start();
    let (proxies, store) = proxied(&server);
    let direct = open_metadata(&server.url()).unwrap();
    let mut last = store.put("a", b"0").await.unwrap();
    let lose = |what: &str| proxies.iter().for_each(|proxy| proxy.set(Rule::LoseAnswerTo(what.into(), 1)));
    for n in 1..=5_u8 {
        lose("request_put");
        last = store.swap("a", Some(last), &[n]).await.unwrap();
        assert_eq!(stamp(&*direct, "a").await, Some(last));
    }
    lose("request_put");
    let new = store.swap("b", None, b"1").await.unwrap();
    lose("request_delete_range");
    store.remove("b", new).await.unwrap();
    assert_eq!(stamp(&*direct, "b").await, None);
    lose("request_put");
    store.fill(vec![("c".into(), b"1".to_vec())], Existing::Replace).await.unwrap();
    assert_eq!(direct.list("").await.unwrap().len(), 1);
    let lost: usize = proxies.iter().map(Proxy::lost).sum();
    assert!(lost >= 8, "{lost} answers were lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_31_an_answer_that_was_lost_is_found_out_also_where_others_wrote_since() {
    let server = Etcd::start();
    let (proxies, store) = proxied(&server);
    let direct = open_metadata(&server.url()).unwrap();
    let mut found = 0;
    for n in 0..20_u8 {
        let before = direct.put("a", b"0").await.unwrap();
        let lost_before: usize = proxies.iter().map(Proxy::lost).sum();
        proxies.iter().for_each(|proxy| proxy.set(Rule::LoseAnswerTo(b"request_put".to_vec(), 1)));
        // Whoever reads our value changes it at once.
        let overwrite = async {
            loop {
                let record = direct.get("a").await.unwrap().unwrap();
                if record.stamp != before {
                    return direct.swap("a", Some(record.stamp), b"theirs").await.unwrap();
                }
            }
        };
        let value = [n];
        let (ours, theirs) = tokio::join!(store.swap("a", Some(before), &value), overwrite);
        let ours = ours.unwrap();
        found += usize::from(stamp(&*direct, "a").await == Some(theirs) && ours != theirs);
        assert!(proxies.iter().map(Proxy::lost).sum::<usize>() > lost_before);
        proxies.iter().for_each(|proxy| proxy.set(Rule::Pass));
    }
    assert_eq!(found, 20);
}

#[tokio::test]
async fn an_etcd_that_was_away_at_the_start_or_says_nothing_is_used_when_it_is_back() {
    let mut server = Etcd::start();
    (0..3).for_each(|member| server.kill(member));
    let (proxies, store) = proxied(&server);
    assert_away(&*store).await;
    server.restart(&[0, 1, 2]);
    until_back(&*store).await;
    let kept = store.put("a", b"1").await.unwrap();
    for rule in [Rule::BlackHole, Rule::Refuse] {
        proxies.iter().for_each(|proxy| proxy.set(rule.clone()));
        assert_away(&*store).await;
        proxies.iter().for_each(|proxy| proxy.set(Rule::Pass));
        until_back(&*store).await;
        assert_eq!(stamp(&*store, "a").await, Some(kept));
    }
}

#[tokio::test]
async fn two_keyrings_share_an_etcd_by_prefixes_and_one_that_must_exist_is_never_made() {
    let server = Etcd::start();
    let at = |prefix: &str| format!("{}/{prefix}", server.url());
    let existing = open_existing_metadata(&at("one")).unwrap();
    assert!(is_unavailable(&existing.get("a").await));
    assert!(is_unavailable(&existing.put("a", b"1").await));
    let (one, two) = (open_metadata(&at("one")).unwrap(), open_metadata(&at("two")).unwrap());
    assert_eq!(one.get("a").await, Ok(None));
    let kept = one.put("a", b"1").await.unwrap();
    assert_eq!(stamp(&*existing, "a").await, Some(kept));
    assert_eq!(two.list("").await, Ok(Vec::new()));
    two.fill(vec![("b".into(), b"2".to_vec())], Existing::Refuse).await.unwrap();
    assert_eq!(one.list("").await.unwrap().len(), 1);
}

/// Says something to a member, as an operator would.
async fn say(server: &Etcd, path: &str, body: &serde_json::Value) {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = format!("http://{}{path}", server.address(0));
    let answer = reqwest::Client::new().post(url).body(body.to_string()).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
}

/// Writes `head` as another build would.
async fn write_head(server: &Etcd, text: &str) {
    let (key, value) = (STANDARD.encode("/keymoot/head"), STANDARD.encode(text));
    say(server, "/v3/kv/put", &json!({"key": key, "value": value})).await;
}

#[tokio::test]
async fn a_newer_format_in_etcd_is_refused_unread_unless_it_only_adds() {
    let server = Etcd::start();
    write_head(&server, r#"{"format":2,"oldest_build":1,"generation":"0f","more":true}"#).await;
    let store = open_metadata(&server.url()).unwrap();
    let kept = store.put("a", b"1").await.unwrap();
    assert_eq!(stamp(&*store, "a").await, Some(kept));
    write_head(&server, r#"{"format":3,"oldest_build":3,"generation":"0f"}"#).await;
    for store in [store, open_metadata(&server.url()).unwrap()] {
        let Err(MetadataError::Damaged(reason)) = store.get("a").await else { unreachable!() };
        assert!(reason.contains("format 3") && reason.contains("newer build"), "{reason}");
        assert!(store.put("a", b"2").await.is_err());
    }
}

#[tokio::test]
async fn an_etcd_with_users_is_logged_in_to_again_after_it_forgot_us() {
    let mut server = Etcd::start();
    say(&server, "/v3/auth/user/add", &json!({"name": "root", "password": PASSWORD})).await;
    say(&server, "/v3/auth/role/add", &json!({"name": "root"})).await;
    say(&server, "/v3/auth/user/grant", &json!({"user": "root", "role": "root"})).await;
    say(&server, "/v3/auth/enable", &json!({})).await;
    let with = |login: &str| server.url().replace("etcd://", &format!("etcd://{login}@"));
    let (right, wrong) = (with(&format!("root:{PASSWORD}")), with("root:hunter2hunter2"));
    let store = open_metadata(&right).unwrap();
    let kept = store.put("a", b"1").await.unwrap();
    let reason = until_away_for(&*open_metadata(&wrong).unwrap(), "password").await;
    assert!(!reason.contains("hunter2"), "{reason}");
    assert_away(&*open_metadata(&server.url()).unwrap()).await;
    // Its tokens are in its memory alone.
    server.restart(&[0, 1, 2]);
    until_back(&*store).await;
    assert_eq!(stamp(&*store, "a").await, Some(kept));
}

#[tokio::test]
async fn over_tls_only_an_etcd_that_the_ca_vouches_for_is_spoken_to() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let server = Etcd::start_with(certificate.pair());
    let at = |ca: &Certificate| format!("{}?ca={}", server.url(), ca.path());
    let store = open_metadata(&at(&certificate)).unwrap();
    until_back(&*store).await;
    store.put("a", b"1").await.unwrap();
    until_away_for(&*open_metadata(&at(&other)).unwrap(), "certificate").await;
    assert_away(&*open_metadata(&server.url()).unwrap()).await;
}
