//! A column of plaintext is taken over, and by the holders' consent given back.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rusqlite::Connection;
use serde_json::{Value as Json, json};

use crate::{
    harness::{OPERATOR, SOURCE, World, make_table},
    unlock,
};

const ROWS: u32 = 1200;

fn world() -> (World, Connection) {
    let adopt = "adopt = \"plaintext\"\nassociated_data = \"tokens/{id}\"\n";
    let mut world = World::new(&format!("{SOURCE}{adopt}"));
    world.start();
    world.init(5, 9);
    unlock(&world, &[9]);
    let plaintexts: Vec<String> = (1..=ROWS).map(|n| format!("secret {n}")).collect();
    let table = make_table(&world.path("app.db"), &plaintexts);
    table
        .execute_batch(
            "UPDATE tokens SET token = NULL WHERE id = 2; UPDATE tokens SET token = '' WHERE id = 3;
             UPDATE tokens SET token = 'km:vintage' WHERE id = 4;
             UPDATE tokens SET token = 'see km:v9:AAAA' WHERE id = 5",
        )
        .unwrap();
    (world, table)
}

fn rows(table: &Connection) -> Vec<(u32, Option<String>)> {
    let mut statement = table.prepare("SELECT id, token FROM tokens ORDER BY id").unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// What a row holds in clear.
fn plain(n: u32) -> Option<String> {
    match n {
        2 => None,
        3 => Some(String::new()),
        _ => Some(format!("secret {n}")),
    }
}

fn census(world: &World) -> Json {
    world.post("/v1/census", json!({})).expect(202);
    world.until("the census is taken", || {
        let census = world.get("/v1/census");
        (census["running"] == false).then(|| census["sources"][0].clone())
    })
}

/// Opens a value that is bound to its row.
fn opens(world: &World, id: u32, value: &str) -> String {
    let associated_data = STANDARD.encode(format!("tokens/{id}"));
    let body = json!({"ciphertext": value, "associated_data": associated_data});
    let plaintext = world.data("decrypt", body).expect(200)["plaintext"].as_str().unwrap().to_owned();
    String::from_utf8(STANDARD.decode(plaintext).unwrap()).unwrap()
}

/// Takes the column over, the look-alikes repaired on the way.
fn adopted() -> (World, Connection) {
    let (world, table) = world();
    let before = rows(&table);
    let rehearsed =
        world.post("/v1/rekey", json!({"dry_run": true})).expect(202)["id"].as_str().unwrap().to_owned();
    let rehearsed = world.job_end(&rehearsed);
    let source = &rehearsed["sources"][0];
    assert_eq!((&source["adopted"], &source["quarantined"]), (&json!(ROWS - 4), &json!(2)), "{rehearsed}");
    assert_eq!(rows(&table), before, "a dry run writes nothing");

    let job = world.rekey();
    assert_eq!(job["state"], "completed_with_quarantine", "{job}");
    let listed = world.get(&format!("/v1/rekey/{}/quarantine", job["id"].as_str().unwrap()));
    assert_eq!(
        listed["rows"],
        json!([
            {"source": "tokens.token", "id": 4, "reason": "malformed_ciphertext"},
            {"source": "tokens.token", "id": 5, "reason": "embedded_value"},
        ])
    );
    let counted = census(&world);
    assert_eq!(
        (&counted["foreign"], &counted["embedded"], &counted["unreadable"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!((&counted["adopts"], &counted["conclusive"]), (&json!(true), &json!(false)), "{counted}");
    table.execute_batch("UPDATE tokens SET token = 'secret ' || id WHERE id IN (4, 5)").unwrap();
    assert_eq!(census(&world)["foreign"], 2, "plaintext again, and not encrypted yet");
    let job = world.get(&format!("/v1/rekey/{}", job["id"].as_str().unwrap()));
    assert_eq!((&job["state"], &job["sources"][0]["quarantined"]), (&json!("completed"), &json!(0)), "{job}");
    let again = world.rekey();
    assert_eq!((&again["state"], &again["sources"][0]["adopted"]), (&json!("completed"), &json!(2)), "{again}");
    let counted = census(&world);
    assert_eq!((&counted["foreign"], &counted["null"], &counted["empty"]), (&json!(0), &json!(1), &json!(1)));
    assert_eq!(counted["conclusive"], true, "{counted}");
    (world, table)
}

#[test]
fn a_column_of_plaintext_is_adopted_once_and_each_value_is_bound_to_its_row() {
    let (world, table) = adopted();
    for (id, cell) in rows(&table).into_iter().take(40) {
        match cell {
            Some(value) if !value.is_empty() => assert_eq!(Some(opens(&world, id, &value)), plain(id)),
            other => assert_eq!(other, plain(id)),
        }
    }
    let before = rows(&table);
    let again = world.rekey();
    assert_eq!((&again["sources"][0]["rekeyed"], &again["sources"][0]["current"]), (&json!(0), &json!(ROWS - 2)));
    assert_eq!(rows(&table), before, "nothing is encrypted twice");
}

#[test]
fn a_column_is_released_by_the_holders_consent_alone_and_is_not_adopted_again() {
    let (mut world, table) = adopted();
    let release = json!({"operation": "release", "source": "tokens.token"});
    let unknown = world.post("/v1/requests", json!({"operation": "release", "source": "no.such"}));
    assert_eq!((unknown.status, unknown.code()), (400, "bad_request"));

    // While a job works on the source it is for something else.
    std::fs::write(world.data_dir().join("pause-rekey"), "").unwrap();
    let job = world.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    let busy = world.post("/v1/requests", release.clone());
    assert_eq!((busy.status, busy.code()), (409, "conflict"), "{}", busy.json);
    world.post(&format!("/v1/rekey/{job}/cancel"), json!({})).expect(200);
    std::fs::remove_file(world.data_dir().join("pause-rekey")).unwrap();

    let request = world.ask(release.clone());
    assert_eq!((&request["operation"], &request["version"]), (&json!("release"), &Json::Null));
    let path = format!("/v1/requests/{}", request["id"].as_str().unwrap());
    let asked = world.control("GET", &path, None, Json::Null).expect(200);
    assert_eq!((&asked["source"], &asked["asked"]["source"]), (&json!("tokens.token"), &json!("tokens.token")));
    let encrypted = rows(&table);
    world.consent(&request, &[(9, 1)]).expect(200);
    assert_eq!(world.get("/v1/status")["released"], json!([]));
    assert_eq!(rows(&table), encrypted, "one holder alone releases nothing");
    let done = world.consent(&request, &[(9, 2)]).expect(200);
    assert_eq!((&done["have"], &done["version"]), (&json!(2), &Json::Null), "{done}");
    let newest = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
    assert_ne!(newest, job);
    let job = world.job_end(&newest);
    assert_eq!((&job["state"], &job["sources"][0]["rekeyed"]), (&json!("completed"), &json!(ROWS - 2)), "{job}");
    let clear: Vec<_> = (1..=ROWS).map(|n| (n, plain(n))).collect();
    assert_eq!(rows(&table), clear);

    // It stays so: for later jobs, which also decrypt what is written meanwhile, and after a restart.
    let status = world.get("/v1/status");
    assert_eq!(status["released"][0]["source"], "tokens.token");
    assert!(status["needs"].to_string().contains("still says `adopt`"), "{status}");
    let hidden = world.control("GET", "/v1/status", None, Json::Null).expect(200);
    assert!(!hidden.to_string().contains("tokens.token"), "{hidden}");
    assert_eq!(world.post("/v1/requests", release).code(), "conflict");
    world.kill();
    world.start();
    unlock(&world, &[9]);
    let bound = json!({"plaintext": STANDARD.encode("secret 7"), "associated_data": STANDARD.encode("tokens/7")});
    let value = world.data("encrypt", bound).expect(200)["ciphertext"].as_str().unwrap().to_owned();
    table.execute("UPDATE tokens SET token = ?1 WHERE id = 7", [&value]).unwrap();
    let job = world.rekey();
    assert_eq!((&job["state"], &job["sources"][0]["rekeyed"]), (&json!("completed"), &json!(1)), "{job}");
    assert_eq!(rows(&table), clear);
    let counted = census(&world);
    assert_eq!((&counted["adopts"], &counted["foreign"]), (&Json::Null, &json!(ROWS - 2)));
    let audit = world.control("GET", "/v1/audit?after=0", Some(OPERATOR), Json::Null).expect(200).to_string();
    assert!(audit.contains("tokens.token") && !audit.contains("secret 1"));
}
