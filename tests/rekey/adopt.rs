//! A column of plaintext is taken over and given back while its application writes, the daemon killed in the midst of both.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value as Json, json};

use crate::{
    database::{Client, Database},
    harness::{Background, OPERATOR, World, oracle},
    unlock,
};

const ROWS: i64 = 3_000;
/// Rows that the application writes values to: each has some that are bound to it.
const VALUES: i64 = 200;
const DECLARED: &str = "associated_data = \"tokens/{id}\"\nadopt = \"plaintext\"\n";

/// Rows that are not taken over, beside NULL and the empty one.
const LOOK_ALIKES: [(i64, &str, &str); 2] =
    [(50_003, "km:vintage", "malformed_ciphertext"), (50_004, "see km:v9:AAAA", "embedded_value")];
const NULL: i64 = 50_001;
const EMPTY: i64 = 50_002;
/// A wrapped data key, which is a value of the column and never becomes plaintext.
const DATA_KEY: i64 = 50_005;

type Known = BTreeMap<i64, String>;

/// The column of one kind of database.
struct Column {
    database: Database,
    /// Its type.
    of: &'static str,
    binary: bool,
}

impl Column {
    fn literal(&self, bytes: &[u8]) -> String {
        let hex = hex::encode(bytes);
        match (&self.database, self.binary) {
            (Database::Postgres(_), true) => format!("'\\x{hex}'::bytea"),
            (Database::Postgres(_), false) => format!("convert_from('\\x{hex}', 'UTF8')"),
            _ => format!("x'{hex}'"),
        }
    }

    /// Every row, in bytes, as a plain client reads it.
    fn rows(&self) -> BTreeMap<i64, Option<Vec<u8>>> {
        let token = match (&self.database, self.binary) {
            (Database::Postgres(_), true) => "encode(token, 'hex')",
            (Database::Postgres(_), false) => "encode(convert_to(token, 'UTF8'), 'hex')",
            _ => "HEX(token)",
        };
        let exported =
            self.database.rows_of(&format!("SELECT id, COALESCE({token}, '<null>') FROM tokens ORDER BY id"));
        let row = |row: &Json| (row[0].as_i64().unwrap(), row[1].as_str().map(|hex| hex::decode(hex).unwrap()));
        exported.as_array().unwrap().iter().map(row).collect()
    }

    /// A value as the column has it.
    fn value(&self, text: &str) -> Vec<u8> {
        if !self.binary {
            return text.as_bytes().to_vec();
        }
        let (version, body) = text.strip_prefix("km:v").unwrap().split_once(':').unwrap();
        let version: u32 = version.parse().unwrap();
        [b"KM\x01", &version.to_be_bytes()[..], &URL_SAFE_NO_PAD.decode(body).unwrap()].concat()
    }

    /// The oracle opens every row that is in `known`; the others are as they were.
    fn check(&self, world: &World, known: &Known, as_they_were: &[(i64, Option<Vec<u8>>)]) {
        let spelt = |bytes: &[u8]| {
            if self.binary { hex::encode(bytes) } else { String::from_utf8(bytes.to_vec()).unwrap() }
        };
        let rows: Vec<Json> = self.rows().iter().map(|(id, row)| json!([id, row.as_deref().map(spelt)])).collect();
        let mut expected: Vec<Json> = known.iter().map(|(id, text)| json!([id, {"plaintext": text}])).collect();
        for (id, row) in as_they_were {
            expected.push(match row {
                Some(row) => json!([id, {"as_is": spelt(row), "blob": self.binary}]),
                None => json!([id, {"as_is": null}]),
            });
        }
        oracle::answer(
            "table",
            &json!({
                "shares": oracle::shares(world, &[9]), "rows": rows, "binary": self.binary, "key": crate::harness::KEY,
                "associated_data": "tokens/{id}", "expected": expected,
            }),
        );
    }
}

/// Some plaintext for a row: of any length up to some hundreds of bytes, and of any letters.
fn plaintext(name: &str, n: i64) -> String {
    let more = usize::try_from(n % 37).unwrap() * 7;
    format!("{name} {n} ü😀'\"\\{}", "x".repeat(more))
}

/// Values that are bound to these rows.
fn values(world: &World, name: &str, ids: impl Iterator<Item = i64>) -> Vec<(i64, String, String)> {
    let rows: Vec<(i64, String)> = ids.map(|id| (id, plaintext(name, id))).collect();
    let item = |(id, text): &(i64, String)| json!({"plaintext": STANDARD.encode(text), "associated_data": STANDARD.encode(format!("tokens/{id}"))});
    let items: Vec<Json> = rows.iter().map(item).collect();
    let answer = world.data("encrypt", json!({"items": items})).expect(200);
    let made =
        answer["items"].as_array().unwrap().iter().map(|item| item["ciphertext"].as_str().unwrap().to_owned());
    rows.into_iter().zip(made).map(|((id, text), value)| (id, text, value)).collect()
}

/// The application. As long as it lags behind it writes plaintext too.
struct Application {
    lags: Arc<AtomicBool>,
    writes: Arc<AtomicU32>,
    background: Background<Known>,
}

impl Application {
    /// `values`: what it writes beside plaintext.
    fn start(column: &Column, mut known: Known, values: Vec<(i64, String, String)>, name: &'static str) -> Self {
        let lags = Arc::new(AtomicBool::new(true));
        let lags_in = lags.clone();
        let writes = Arc::new(AtomicU32::new(0));
        let written_in = writes.clone();
        let mut client: Client = column.database.connect();
        let values: Vec<_> = values
            .into_iter()
            .map(|(id, text, value)| (id, text, column.literal(&column.value(&value))))
            .collect();
        let quoted: Vec<(String, String)> =
            (0..500).map(|n| plaintext(name, n)).map(|text| (column.literal(text.as_bytes()), text)).collect();
        let background = Background::start(move |stop| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let at = usize::try_from(n).unwrap();
                let (literal, text) = &quoted[at % quoted.len()];
                let ids: Vec<i64> = known.keys().copied().collect();
                let id = ids[at * 7919 % ids.len()];
                let lags = lags_in.load(Ordering::Relaxed);
                let written = match n % 4 {
                    0 if lags => {
                        let sql = format!("INSERT INTO tokens (id, token) VALUES ({}, {literal})", 100_000 + n);
                        client.write(&sql).then(|| known.insert(100_000 + n, text.clone()))
                    }
                    1 if lags => client
                        .write(&format!("UPDATE tokens SET token = {literal} WHERE id = {id}"))
                        .then(|| known.insert(id, text.clone())),
                    2 if n % 16 == 2 => {
                        client.write(&format!("DELETE FROM tokens WHERE id = {id}")).then(|| known.remove(&id))
                    }
                    _ if values.is_empty() => None,
                    _ => {
                        let (id, text, literal) = &values[at % values.len()];
                        let sql = if known.contains_key(id) {
                            format!("UPDATE tokens SET token = {literal} WHERE id = {id}")
                        } else {
                            format!("INSERT INTO tokens (id, token) VALUES ({id}, {literal})")
                        };
                        client.write(&sql).then(|| known.insert(*id, text.clone()))
                    }
                };
                written_in.fetch_add(written.is_some().into(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
            known
        });
        Self { lags, writes, background }
    }

    fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// From now on it writes no plaintext, and none is under way.
    fn catch_up(&self, world: &World) {
        self.lags.store(false, Ordering::Relaxed);
        let before = self.writes();
        world.until("the application writes", || (self.writes() > before).then_some(()));
    }

    fn end(self) -> Known {
        self.background.end()
    }
}

/// Lets a job that waits at the kill switch begin slowly, and kills the daemon in the midst of it, with more than
/// so many of the application's writes in it; it goes on by itself.
fn killed_in_the_midst(world: &mut World, id: &str, application: &Application, writes: u32) {
    let writes = application.writes() + writes;
    let limit = |world: &World, rows: Json| {
        let limit = json!({"max_rows_per_second": rows});
        world.control("PATCH", &format!("/v1/rekey/{id}"), Some(OPERATOR), limit).expect(200);
    };
    // Half a minute for the table: the midst of it is not over when this test or its application stands still.
    limit(world, json!(100));
    std::fs::remove_file(world.data_dir().join("pause-rekey")).unwrap();
    let source = world.until("some rows are written", || {
        let source = world.get(&format!("/v1/rekey/{id}"))["sources"][0].clone();
        (source["rekeyed"].as_u64().unwrap() > 200 && application.writes() > writes).then_some(source)
    });
    assert!(source["scanned"].as_u64().unwrap() < u64::try_from(ROWS).unwrap(), "{source}");
    world.kill();
    world.start();
    unlock(world, &[9]);
    limit(world, Json::Null);
}

fn pause(world: &World) {
    std::fs::write(world.data_dir().join("pause-rekey"), "").unwrap();
}

#[test]
fn a_text_column_of_postgresql_is_adopted_and_released_under_live_writers_and_kills() {
    there_and_back(&Column { database: Database::postgres(), of: "TEXT", binary: false });
}

#[test]
fn a_bytea_column_of_postgresql_is_adopted_and_released_under_live_writers_and_kills() {
    there_and_back(&Column { database: Database::postgres(), of: "BYTEA", binary: true });
}

#[test]
fn a_varchar_column_of_mariadb_is_adopted_and_released_under_live_writers_and_kills() {
    let of = "VARCHAR(600) CHARACTER SET utf8mb4";
    there_and_back(&Column { database: Database::mariadb(), of, binary: false });
}

#[test]
fn a_varbinary_column_of_mariadb_is_adopted_and_released_under_live_writers_and_kills() {
    there_and_back(&Column { database: Database::mariadb(), of: "VARBINARY(600)", binary: true });
}

#[test]
fn a_text_column_of_galera_is_adopted_and_released_under_writers_on_another_node_and_kills() {
    let of = "VARCHAR(600) CHARACTER SET utf8mb4";
    there_and_back(&Column { database: Database::galera(), of, binary: false });
}

fn there_and_back(column: &Column) {
    let mut world = World::new("");
    world.add_config(&column.database.source_of("tokens", "id", DECLARED));
    world.start();
    world.init(5, 9);
    unlock(&world, &[9]);
    let mut table = column.database.connect();
    table.run(&format!("CREATE TABLE tokens (id BIGINT PRIMARY KEY, token {})", column.of));
    let known: Known = (1..=ROWS).map(|id| (id, plaintext("first", id))).collect();
    let rows: Vec<(i64, String)> = known.iter().map(|(id, text)| (*id, column.literal(text.as_bytes()))).collect();
    for chunk in rows.chunks(500) {
        let rows: Vec<String> = chunk.iter().map(|(id, literal)| format!("({id}, {literal})")).collect();
        table.run(&format!("INSERT INTO tokens (id, token) VALUES {}", rows.join(", ")));
    }
    let data_key = world.data("datakey", json!({"plaintext": false})).expect(200);
    let data_key = column.value(data_key["ciphertext"].as_str().unwrap());
    let mut as_they_are = vec![(NULL, None), (EMPTY, Some(vec![])), (DATA_KEY, Some(data_key))];
    as_they_are.extend(LOOK_ALIKES.map(|(id, text, _)| (id, Some(text.as_bytes().to_vec()))));
    for (id, row) in &as_they_are {
        let literal = row.as_ref().map_or("NULL".to_owned(), |row| column.literal(row));
        assert!(table.write(&format!("INSERT INTO tokens (id, token) VALUES ({id}, {literal})")));
    }

    // A rehearsal counts and writes nothing.
    let before = column.rows();
    let job = world.post("/v1/rekey", json!({"dry_run": true})).expect(202);
    let rehearsed = world.job_end(job["id"].as_str().unwrap());
    let source = &rehearsed["sources"][0];
    assert_eq!((&source["adopted"], &source["quarantined"]), (&json!(ROWS), &json!(2)), "{rehearsed}");
    assert_eq!((&source["null"], &source["empty"]), (&json!(1), &json!(1)), "{rehearsed}");
    assert_eq!(column.rows(), before, "a rehearsal writes nothing");

    // There, with an application that writes plaintext for a while.
    let mut ready = values(&world, "value", 1..=VALUES);
    ready.extend(values(&world, "new", 60_000..60_000 + VALUES));
    let application = Application::start(column, known, ready, "late");
    pause(&world);
    let job = world.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    killed_in_the_midst(&mut world, &job, &application, 100);
    application.catch_up(&world);
    let ended = world.job_end(&job);
    assert_eq!(ended["state"], "completed_with_quarantine", "{ended}");
    let (writes, known) = (application.writes(), application.end());
    let listed = world.get(&format!("/v1/rekey/{job}/quarantine"));
    let expected =
        LOOK_ALIKES.map(|(id, _, reason)| json!({"source": "tokens.token", "id": id, "reason": reason}));
    assert_eq!(listed["rows"], json!(expected));
    column.check(&world, &known, &as_they_are);
    println!("{} rows opened by the oracle; {writes} writes of the application", known.len());

    // And back, with an application that writes plaintext again.
    for (id, ..) in LOOK_ALIKES {
        assert!(table.write(&format!("DELETE FROM tokens WHERE id = {id}")));
    }
    as_they_are.retain(|(id, _)| !LOOK_ALIKES.iter().any(|(gone, ..)| gone == id));
    pause(&world);
    let encrypted = column.rows();
    let request = world.ask(json!({"operation": "release", "source": "tokens.token"}));
    world.consent(&request, &[(9, 1)]).expect(200);
    world.consent(&request, &[(9, 2)]).expect(200);
    assert_eq!(column.rows(), encrypted);
    let job = world.until("the release is a job", || {
        let newest = world.get("/v1/rekey")["id"].as_str().unwrap().to_owned();
        (newest != job).then_some(newest)
    });
    let application = Application::start(column, known, vec![], "clear");
    killed_in_the_midst(&mut world, &job, &application, 50);
    let ended = world.job_end(&job);
    let known = application.end();
    assert_eq!(ended["state"], "completed_with_quarantine", "{ended}");
    let listed = world.get(&format!("/v1/rekey/{job}/quarantine"));
    assert_eq!(
        listed["rows"],
        json!([{"source": "tokens.token", "id": DATA_KEY, "version": 9, "reason": "data_key"}])
    );
    let mut clear: BTreeMap<i64, Option<Vec<u8>>> =
        known.into_iter().map(|(id, text)| (id, Some(text.into_bytes()))).collect();
    clear.extend(as_they_are);
    let rows = column.rows();
    let wrong: Vec<&i64> = clear.iter().filter(|(id, row)| rows.get(id) != Some(row)).map(|(id, _)| id).collect();
    assert!(
        wrong.is_empty() && rows.len() == clear.len(),
        "{} rows are not {}: {wrong:?}",
        rows.len(),
        clear.len()
    );
}
