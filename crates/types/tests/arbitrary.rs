//! Arbitrary bytes for every parser, and the one spelling that each value has. Faults 16 and 20 to 22 of `docs/track-record.md`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use keymoot_types::{
    KeyVersion, Manifest, Share, Value,
    associated_data::{ColumnValue, Template},
    manifest::ManifestDocument,
    part::{PartName, PartsFile},
    value::{Class, Form, ValueError, holds_embedded_value},
};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn value(version: u32, length: usize) -> Value {
    let body = [&[1][..], &vec![0xa5; 40 + length]].concat();
    Value::from_parts(KeyVersion::new(version).unwrap(), body).unwrap()
}

fn manifest() -> Json {
    let digest = "11".repeat(32);
    let holder = |x: u8| json!({"name": format!("h{x}"), "x": x, "digest": digest});
    json!({
        "keyring": "prod", "keyring_id": "5479101ec1821850", "revision": 1, "previous": null, "members": ["a"],
        "primary": 9, "declared": {"keys": [], "sources": []}, "canaries": [], "macs": [],
        "versions": [{
            "version": 9, "key_id": "22".repeat(16), "state": "primary", "created": "2026-01-01T00:00:00Z",
            "public_key": digest,
            "share_set": {"set": 1, "threshold": 2, "key_check": digest, "holders": [holder(1), holder(2), holder(3)]},
        }],
    })
}

fn parse(json: &Json) -> Option<ManifestDocument> {
    ManifestDocument::parse(json.to_string().as_bytes()).ok()
}

/// All the parsers at once. What they answer is another test's; here they only have to answer.
fn feed(bytes: &[u8]) {
    let _ = Value::parse_binary(bytes);
    let _ = Value::parse_bytes(bytes);
    let _ = Class::of(Some(bytes));
    let _ = holds_embedded_value(bytes);
    let _ = Share::from_payload(bytes);
    let _ = ManifestDocument::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = Value::parse(&text);
    let _ = Share::parse(&text);
    let _ = PartsFile::parse(&text);
    let _ = text.parse::<PartName>();
    let _ = text.parse::<KeyVersion>();
    if let Ok(template) = text.parse::<Template>() {
        let _ = template.columns();
        let _ = template.fill(|_| Some(ColumnValue::Text("x".into())));
    }
}

#[test]
fn fault_20_every_short_input_and_every_prefix_of_a_good_one_is_answered() {
    for a in 0..=255u8 {
        feed(&[a]);
        for b in 0..=255u8 {
            feed(&[a, b]);
        }
    }
    let manifest = manifest().to_string();
    let token = value(9, 20);
    let share = "kmshare1q928jyq7cxpps5qqqqqqzqda08ghhpcygnal0j8n3spzs3j73ma2ps5u93g5e4emq2pukqtxxvz9w6el";
    let parts = format!("# mine\r\nprod-keyPart-v9: {share}\n");
    let good = [manifest.as_bytes(), &token.to_bytes(Form::Text), &token.to_bytes(Form::Binary), parts.as_bytes()];
    for good in good {
        for cut in 0..good.len() {
            feed(&good[..cut]);
            for byte in [0, b'\n', b'{', b'9', 0x7f, 0xff] {
                let mut damaged = good.to_vec();
                damaged[cut] = byte;
                feed(&damaged);
            }
        }
    }
}

/// What this thread has had of a processor: on a busy machine time passes without it.
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // In hundredths of a second. The name in parentheses may hold anything.
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

#[test]
fn fault_20_large_claims_and_deep_nesting_are_answered_in_time() {
    let began = worked();
    let million = 1 << 20;
    for unit in
        ["{", "}", "[", "{a}/", "km:v9:", "km:v", "KM\u{1}", "q", "9", "a: b\n", ":", "#\n", "\\", "\"", "é"]
    {
        let text = unit.repeat(million / unit.len());
        let _ = Value::parse(&text);
        let _ = Value::parse(&format!("km:v{text}"));
        let _ = Share::parse(&text);
        let _ = ManifestDocument::parse(text.as_bytes());
        let _ = holds_embedded_value(text.as_bytes());
        let _ = PartsFile::parse(&text[..text.floor_char_boundary(PartsFile::BYTES_MAX)]);
        let _ = unit.repeat(10_000).parse::<Template>();
    }
    // A parts file as long as one may be, every line of another name.
    let lines: String = (0..).map(|n| format!("{n:x}:b\n")).take(PartsFile::BYTES_MAX / 7).collect();
    assert!(PartsFile::parse(&lines).is_ok());
    for number in ["100000000000000000000", "1e400", "-1", "0", "1.5", "4294967296"] {
        for field in
            ["\"revision\":1", "\"version\":9", "\"primary\":9", "\"threshold\":2", "\"x\":1", "\"set\":1"]
        {
            let name = field.split_once(':').unwrap().0;
            let text = manifest().to_string().replacen(field, &format!("{name}:{number}"), 1);
            let parsed = ManifestDocument::parse(text.as_bytes());
            let set_number = field.starts_with("\"set\"") && number == "0";
            assert!(parsed.is_err() || set_number || number == "4294967296", "{text}");
        }
    }
    let took = worked() - began;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    assert!(parse(&manifest()).is_some());
    let refused = |pointer: &str, value: Json| {
        let mut json = manifest();
        *json.pointer_mut(pointer).unwrap() = value;
        assert!(parse(&json).is_none(), "{json}");
    };
    refused("/revision", json!(0));
    refused("/primary", json!(10));
    refused("/versions", json!([]));
    refused("/versions/0/state", json!("staged"));
    refused("/versions/0/share_set/threshold", json!(0));
    refused("/versions/0/share_set/threshold", json!(1));
    refused("/versions/0/share_set/threshold", json!(4));
    refused("/versions/0/share_set/holders", json!([]));
    refused("/versions/0/share_set/holders/1/x", json!(1));
    refused("/versions/0/share_set/holders/0/x", json!(0));
    refused("/versions/0/share_set/holders/2/x", json!(256));
    refused("/keyring_id", json!("5479101EC1821850"));
    let first = manifest()["versions"][0].clone();
    refused("/versions", json!([first, first]));
    refused("/versions/0/share_set/holders/1/name", json!("h1"));
}

#[test]
fn a_set_to_come_is_held_to_what_a_set_in_force_is() {
    let with_pending = |change: &dyn Fn(&mut Json)| {
        let mut json = manifest();
        let mut pending = json["versions"][0]["share_set"].clone();
        pending["set"] = json!(2);
        change(&mut pending);
        json["versions"][0]["share_set"]["pending"] = pending;
        parse(&json)
    };
    let document = with_pending(&|_| {}).unwrap();
    let pending = document.manifest().versions[0].share_set.pending.as_deref().unwrap();
    assert_eq!((pending.set, pending.holders.len()), (2, 3));
    assert!(with_pending(&|pending| pending["threshold"] = json!(1)).is_none());
    assert!(with_pending(&|pending| pending["threshold"] = json!(4)).is_none());
    assert!(with_pending(&|pending| pending["holders"][1]["x"] = json!(1)).is_none());
    assert!(with_pending(&|pending| pending["holders"][1]["name"] = json!("h1")).is_none());
}

#[test]
fn what_is_exposed_stands_ascending_by_set_and_comes_back_as_it_was() {
    let with_exposed = |exposed: Json| {
        let mut json = manifest();
        json["versions"][0]["exposed"] = exposed;
        parse(&json)
    };
    let one = |set: u32| json!({"set": set, "threshold": 2, "replaced": ["h1", "h2", "h3"], "lost": ["h1"], "left": ["h2"]});
    let document = with_exposed(json!([one(1), one(2), one(10)])).unwrap();
    let sets = &document.manifest().versions[0].exposed;
    assert_eq!(sets.iter().map(|set| set.set).collect::<Vec<_>>(), [1, 2, 10]);
    let [lost, left, plain] = [&sets[0].lost, &sets[0].left, &sets[0].plain];
    assert_eq!((lost[0].as_str(), left[0].as_str(), plain.len(), sets[0].replaced.len()), ("h1", "h2", 0, 3));
    let made = ManifestDocument::from_manifest(document.manifest().clone()).unwrap();
    assert_eq!(made.canonical(), document.canonical());
    for wrong in [json!([one(2), one(1)]), json!([one(1), one(1)]), json!([one(10), one(9)]), json!({"1": one(1)})]
    {
        assert!(with_exposed(wrong).is_none());
    }
    // A set of which nobody lost anything is written without names, and a manifest that has none without the field.
    let little = with_exposed(json!([{"set": 1, "threshold": 2}])).unwrap();
    let again = ManifestDocument::from_manifest(little.manifest().clone()).unwrap();
    let text = String::from_utf8_lossy(again.canonical()).into_owned();
    assert!(text.contains(r#""exposed":[{"set":1,"threshold":2}]"#), "{text}");
    let none = ManifestDocument::from_manifest(parse(&manifest()).unwrap().manifest().clone()).unwrap();
    assert!(!String::from_utf8_lossy(none.canonical()).contains("exposed"));
}

#[test]
fn a_manifest_keeps_what_a_newer_build_wrote_wherever_it_stands() {
    let paths = ["", "/declared", "/versions/0", "/versions/0/share_set", "/versions/0/share_set/holders/1"];
    for path in paths {
        let mut json = manifest();
        let object = json.pointer_mut(path).unwrap().as_object_mut().unwrap();
        object.insert("of_the_future".into(), json!({"a": [1, null]}));
        let document = parse(&json).unwrap();
        for canonical in [document.canonical(), document.canonical_without_macs()] {
            assert!(String::from_utf8_lossy(canonical).contains("\"of_the_future\":{\"a\":[1,null]}"), "{path}");
        }
        assert_ne!(document.digest(), parse(&manifest()).unwrap().digest());
    }
}

#[test]
fn fault_16_versions_are_ordered_as_numbers_wherever_they_are_written() {
    let order = [1, 2, 9, 10, 11, 99, 100, 199, 200, 1_000, u32::MAX - 1, u32::MAX];
    let mut names: Vec<PartName> =
        order.iter().rev().map(|n| format!("prod-keyPart-v{n}").parse().unwrap()).collect();
    names.sort();
    assert_eq!(names.iter().map(|name| name.version.get()).collect::<Vec<_>>(), order);
    for n in (1..=200).chain(order) {
        let version: KeyVersion = n.to_string().parse().unwrap();
        assert_eq!((version.get(), version.to_string()), (n, n.to_string()));
        assert_eq!(serde_json::to_string(&version).unwrap(), n.to_string());
        assert_eq!(value(n, 3).to_text().split(':').nth(1).unwrap(), format!("v{n}"));
    }
    let canonical = json!([9, 10, u32::MAX]);
    let versions: Vec<KeyVersion> = serde_json::from_value(canonical.clone()).unwrap();
    assert_eq!(serde_json::to_value(&versions).unwrap(), canonical);
}

#[test]
fn fault_16_no_other_spelling_of_a_version_parses_anywhere() {
    let token = value(9, 3).to_text();
    for spelling in [
        "",
        "0",
        "09",
        "009",
        "+9",
        "-9",
        " 9",
        "9 ",
        "\t9",
        "9\n",
        "9.0",
        "9e0",
        "0x9",
        "９",
        "٩",
        "९",
        "9\u{200b}",
        "9_0",
        "1,0",
        "4294967296",
        "4294967305",
        "18446744073709551625",
        "100000000000000000000",
        "v9",
        "IX",
    ] {
        assert!(spelling.parse::<KeyVersion>().is_err(), "{spelling:?}");
        assert!(format!("prod-keyPart-v{spelling}").parse::<PartName>().is_err(), "{spelling:?}");
        assert!(Value::parse(&token.replacen("v9", &format!("v{spelling}"), 1)).is_err(), "{spelling:?}");
    }
    for json in ["0", "-1", "9.0", "9e0", "\"9\"", "null", "true", "[9]", "4294967296", "1e400"] {
        assert!(serde_json::from_str::<KeyVersion>(json).is_err(), "{json}");
    }
    assert!(Value::parse_binary(b"KM\x01\0\0\0\0\x01").is_err());
}

#[test]
fn fault_21_every_other_spelling_of_a_value_is_refused() {
    for length in 0..70 {
        for version in [9, 10] {
            let good = value(version, length);
            let text = good.to_text();
            assert_eq!(Value::parse(&text).as_ref(), Ok(&good));
            let prefix = &text[..text.rfind(':').unwrap() + 1];
            // Every last character: only the one whose unused bits are zero is a spelling of this value.
            for last in 0..=127u8 {
                let other = format!("{}{}", &text[..text.len() - 1], char::from(last));
                assert!(other == text || Value::parse(&other).as_ref() != Ok(&good), "{other}");
            }
            for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                let other = format!("{prefix}{}", engine.encode(good.body()));
                assert!(other == text || Value::parse(&other).is_err(), "{other}");
            }
            for at in prefix.len()..=text.len() {
                for extra in ["\n", "\r\n", " ", "=", "==", "\t", "\0", "\u{feff}", "+", "/", ".", "%3D"] {
                    let other = format!("{}{extra}{}", &text[..at], &text[at..]);
                    assert!(Value::parse(&other).is_err(), "{other:?}");
                    assert!(Value::parse_bytes(other.as_bytes()).is_err(), "{other:?}");
                }
            }
            for other in [text.to_uppercase(), text.replacen("km", "Km", 1), text.replacen(':', "：", 1)] {
                assert!(Value::parse(&other).is_err(), "{other}");
            }
        }
    }
}

#[test]
fn fault_22_look_alikes_are_never_taken_for_values() {
    for text in ["km:v", "km:vintage", "km:v9", "km:v9:", "km:v9:hello", "km:v9:AA", "km:v09:AQ", "km:v9:AQ=="] {
        assert!(matches!(Class::of(Some(text.as_bytes())), Class::Unreadable(_)), "{text}");
    }
    let token = value(9, 3).to_text();
    for text in [format!(" {token}"), format!("\u{feff}{token}"), token.to_uppercase(), format!("\"{token}\"")] {
        assert_eq!(Class::of(Some(text.as_bytes())), Class::Foreign, "{text}");
    }
    for text in [format!("{token} "), format!("{token}\n"), format!("{token},{token}"), format!("km:v9:{token}")] {
        assert!(matches!(Class::of(Some(text.as_bytes())), Class::Unreadable(_)), "{text}");
    }
    for text in [format!("x{token}"), format!("{token},{token}"), format!("{{\"a\":\"{token}\"}}")] {
        assert!(holds_embedded_value(text.as_bytes()), "{text}");
    }
    assert!(!holds_embedded_value(token.as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fault_20_arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
    }

    #[test]
    fn fault_20_arbitrary_text_behind_a_right_beginning_never_panics(
        beginning in prop::sample::select(vec![
            "km:v", "km:v9:", "km:v9:AQ", "kmshare1", "prod-keyPart-v", "prod-keyPart-v9: kmshare1", "{\"", "{", "{a}/{",
        ]),
        rest in "\\PC{0,100}",
    ) {
        feed(format!("{beginning}{rest}").as_bytes());
    }

    #[test]
    fn fault_20_a_manifest_with_one_field_of_any_kind_never_panics(
        at in any::<prop::sample::Index>(),
        other in prop::sample::select(vec![
            json!(null), json!(0), json!(-1), json!(1.5), json!(1u64 << 53), json!(""), json!("9"), json!([]), json!({}),
        ]),
    ) {
        let mut paths = Vec::new();
        collect("", &manifest(), &mut paths);
        let mut json = manifest();
        *json.pointer_mut(at.get::<String>(&paths)).unwrap() = other;
        if let Some(document) = parse(&json) {
            let again = ManifestDocument::parse(document.canonical()).unwrap();
            prop_assert_eq!(again.canonical(), document.canonical());
            let written: Manifest = document.manifest().clone();
            prop_assert!(ManifestDocument::from_manifest(written).is_ok());
        }
    }

    #[test]
    fn fault_21_what_parses_is_written_again_as_it_was(body in prop::collection::vec(any::<u8>(), 41..200)) {
        let text = format!("km:v9:{}", URL_SAFE_NO_PAD.encode(&body));
        match Value::parse(&text) {
            Ok(value) => prop_assert_eq!(value.to_text(), text),
            Err(error) => prop_assert!(matches!(error, ValueError::UnsupportedFormat(_) | ValueError::WrongLength)),
        }
    }

    #[test]
    fn fault_22_no_two_rows_make_the_same_associated_data(a: [String; 2], b: [String; 2], bytes: [Vec<u8>; 2]) {
        let template: Template = "t/{a}/{b}:{c}".parse().unwrap();
        let fill = |texts: &[String; 2], bytes: &[u8]| {
            template
                .fill(|column| Some(match column {
                    "a" => ColumnValue::Text(texts[0].clone()),
                    "b" => ColumnValue::Text(texts[1].clone()),
                    _ => ColumnValue::Bytes(bytes.to_vec()),
                }))
                .unwrap()
        };
        let rows_differ = (&a, &bytes[0]) != (&b, &bytes[1]);
        prop_assert_eq!(fill(&a, &bytes[0]) != fill(&b, &bytes[1]), rows_differ);
        // What would run together without an encoding.
        let shifted = [format!("{}/{}", a[0], a[1]), String::new()];
        prop_assert_eq!(fill(&a, b"") == fill(&shifted, b""), a == shifted);
    }
}

fn collect(path: &str, json: &Json, paths: &mut Vec<String>) {
    let children: Vec<(String, &Json)> = match json {
        Json::Object(object) => object.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Json::Array(array) => array.iter().enumerate().map(|(at, child)| (at.to_string(), child)).collect(),
        _ => vec![],
    };
    for (name, child) in children {
        let path = format!("{path}/{name}");
        collect(&path, child, paths);
        paths.push(path);
    }
}
