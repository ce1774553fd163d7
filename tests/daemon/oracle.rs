//! An independent implementation, `tests/oracle.py`, reads what the daemon writes and writes what it reads.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

pub use crate::harness::oracle::*;
use crate::harness::{KEY, SOURCE, World, make_table};
use crate::unlocked;

fn plaintexts() -> Vec<Vec<u8>> {
    vec![b"".into(), b"x".into(), "Zażółć gęślą jaźń".into(), (0..=255).collect(), vec![0; 4096]]
}

#[test]
fn a_second_implementation_opens_what_the_daemon_makes_from_any_two_shares() {
    let mut world = unlocked(5);
    let data = b"customers/7";
    let made: Vec<String> = plaintexts()
        .iter()
        .map(|text| {
            let body = json!({"plaintext": STANDARD.encode(text), "associated_data": STANDARD.encode(data)});
            world.data("encrypt", body).expect(200)["ciphertext"].as_str().unwrap().to_owned()
        })
        .collect();
    for pair in [[1, 2], [5, 3]] {
        let shares = pair.map(|holder| world.share(9, holder));
        let request = json!({"shares": shares, "key": KEY, "values": made, "associated_data": hex::encode(data)});
        let opened = answer("read", &request);
        assert_eq!(opened, plaintexts().iter().map(hex::encode).collect::<Json>());
        let unbound = ask("read", &json!({"shares": shares, "key": KEY, "values": made})).unwrap_err();
        assert!(unbound.contains("authentication_failed"), "{unbound}");
    }

    // The same of data keys, and of a second version that a ceremony made.
    assert_eq!(world.rotate(9), 10);
    let all = shares(&world, &[9, 10]);
    for (version, bits) in [(10, 256), (10, 512)] {
        let made = world.data("datakey", json!({"bits": bits})).expect(200);
        assert_eq!(made["version"], version);
        let opened = answer("read_data_keys", &json!({"shares": all, "key": KEY, "values": [made["ciphertext"]]}));
        let plaintext = STANDARD.decode(made["plaintext"].as_str().unwrap()).unwrap();
        assert_eq!(opened, json!([hex::encode(&plaintext)]));
        assert_eq!(plaintext.len(), bits / 8);
    }
    let ids = answer("key_ids", &json!({"shares": all}));
    for version in world.get("/v1/versions")["versions"].as_array().unwrap() {
        assert_eq!(version["key_id"], ids[version["version"].to_string()]);
    }
}

#[test]
fn the_daemon_opens_what_a_second_implementation_makes_in_both_bodies() {
    let world = unlocked(5);
    let request = json!({
        "shares": shares(&world, &[9]), "version": 9, "key": KEY, "associated_data": hex::encode("row/7"),
        "plaintexts": plaintexts().iter().map(hex::encode).collect::<Vec<_>>(),
    });
    let made = answer("make", &request);
    let made = made.as_array().unwrap();
    assert_eq!(made.len(), 2 * plaintexts().len());
    for value in made {
        let body = json!({"ciphertext": value["text"], "associated_data": STANDARD.encode("row/7")});
        let opened = world.data("decrypt", body.clone());
        assert_eq!(opened.verdict.as_deref(), Some("valid"));
        let plaintext = STANDARD.decode(opened.json["plaintext"].as_str().unwrap()).unwrap();
        assert_eq!(hex::encode(plaintext), value["plaintext"].as_str().unwrap());
        world.decrypt(value["text"].as_str().unwrap()).expect_problem(422, "authentication_failed", "invalid");
        world.data("rewrap", body).expect(200);
    }
}

/// Text and binary, direct and envelope, in a TEXT and a BLOB column: each is rekeyed in the form it was read.
#[test]
fn a_column_of_the_second_implementations_values_is_rekeyed_form_for_form() {
    let mut world = World::new(SOURCE);
    world.start();
    world.init(5, 9);
    world.unlock(&[(9, 1)]).expect(200);
    world.unlock(&[(9, 2)]).expect(200);
    let plain: Vec<String> = ["", "a", "twelve bytes", "Zażółć"].map(hex::encode).to_vec();
    let request = json!({"shares": shares(&world, &[9]), "version": 9, "key": KEY, "plaintexts": plain});
    let made = answer("make", &request);
    let table = make_table(&world.path("app.db"), &[]);
    let mut expected = Vec::new();
    for (id, value) in (0_i64..).step_by(2).zip(made.as_array().unwrap()) {
        table.execute("INSERT INTO tokens VALUES (?1, ?2)", (id, value["text"].as_str().unwrap())).unwrap();
        let binary = hex::decode(value["binary"].as_str().unwrap()).unwrap();
        table.execute("INSERT INTO tokens VALUES (?1, ?2)", (id + 1, binary)).unwrap();
        let plaintext = String::from_utf8(hex::decode(value["plaintext"].as_str().unwrap()).unwrap()).unwrap();
        expected.extend([id, id + 1].map(|id| json!([id, {"plaintext": plaintext}])));
    }
    world.rotate(9);
    assert_eq!(world.rekey()["state"], "completed");
    let checked = check_table(&world, &[9, 10], expected.clone());
    assert_eq!(checked, json!({"rows": 16, "versions": [[10, 16]]}));
    let forms: Vec<(String, String)> = table
        .prepare("SELECT typeof(token), hex(substr(token, 1, 5)) FROM tokens ORDER BY id")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for pair in forms.chunks(2) {
        assert_eq!((pair[0].0.as_str(), pair[0].1.as_str()), ("text", "6B6D3A7631"));
        assert_eq!((pair[1].0.as_str(), pair[1].1.as_str()), ("blob", "4B4D010000"));
    }

    // The oracle itself notices what it is there to notice.
    table.execute("UPDATE tokens SET token = (SELECT token FROM tokens WHERE id = 4) WHERE id = 12", ()).unwrap();
    table.execute("DELETE FROM tokens WHERE id = 0", ()).unwrap();
    let request = json!({
        "shares": shares(&world, &[10]), "db": world.path("app.db"), "key": KEY,
        "sql": "SELECT id, token FROM tokens", "expected": expected,
    });
    let wrong = ask("table", &request).unwrap_err();
    assert!(wrong.contains("row 0 is missing") && wrong.contains("2 wrong of 15 rows"), "{wrong}");
}
