//! Fault 39 of `docs/track-record.md`: nodes share a rekey job by leases, and a holder that was stopped comes back late.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, params};
use serde_json::{Value as Json, json};

use crate::{
    cluster::{Cluster, stop_between_locks},
    harness::{
        Background, PATIENCE, SOURCE, World, make_table, oracle,
        servers::{Postgres, directory},
    },
};

const ROWS: u64 = 4_000;
/// So slow that a stop is sure to come in the middle.
const ROWS_PER_SECOND: u64 = 60;
const TAKEN: &str = "this node works on the source";
const LOST: &str = "another node goes on with this source";

/// What the application has acknowledged: the plaintext of every row.
type Known = BTreeMap<i64, String>;

/// The application: it writes by its own compare-and-swap, one row in eight a new one.
struct Application {
    writes: Arc<AtomicU32>,
    background: Background<Known>,
}

impl Application {
    fn start(path: &Path, mut known: Known, values: Vec<(String, String)>) -> Self {
        let writes = Arc::new(AtomicU32::new(0));
        let (path, written) = (path.to_owned(), writes.clone());
        let background = Background::start(move |stop| {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(PATIENCE).unwrap();
            let ids: Vec<i64> = known.keys().copied().collect();
            let (mut next, mut new) = (0, 1_000_000);
            for (plaintext, value) in values.into_iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                next = (next + 1_237) % ids.len();
                if next % 8 == 0 {
                    new += 1;
                    connection.execute("INSERT INTO tokens VALUES (?1, ?2)", params![new, value]).unwrap();
                    known.insert(new, plaintext);
                } else {
                    let id = ids[next];
                    let read: String = connection
                        .query_row("SELECT token FROM tokens WHERE id = ?1", [id], |row| row.get(0))
                        .unwrap();
                    let sql = "UPDATE tokens SET token = ?1 WHERE id = ?2 AND token = ?3";
                    // Where a worker was faster, this write is lost, and said to be.
                    if connection.execute(sql, params![value, id, read]).unwrap() == 1 {
                        known.insert(id, plaintext);
                    }
                }
                written.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            known
        });
        Self { writes, background }
    }

    fn end(self) -> Known {
        self.background.end()
    }
}

fn source(node: &World, id: &str) -> Json {
    node.get(&format!("/v1/rekey/{id}"))["sources"][0].clone()
}

fn times(node: &World, line: &str) -> usize {
    node.log().matches(line).count()
}

/// Waits until one of `others` has taken the source over and got further with it; which.
fn relieved(others: &[&World], id: &str, taken: usize, scanned: u64) -> usize {
    others[0].until("another node goes on", || {
        let new = others.iter().position(|node| times(node, TAKEN) > taken)?;
        (source(others[new], id)["scanned"].as_u64().unwrap() > scanned).then_some(new)
    })
}

#[test]
fn fault_39_two_nodes_share_a_job_and_a_stopped_holder_harms_nothing() {
    let dir = directory(None);
    let (db, meta) = (dir.path().join("app.db"), dir.path().join("meta.db"));
    let url = format!("sqlite://{}", meta.display());
    let declared = SOURCE.replace("{dir}", dir.path().to_str().unwrap());
    let mut cluster = Cluster::at([&url, &url, &url], &declared);
    let plaintexts: Vec<String> = (1..=ROWS).map(|id| format!("first {id}")).collect();
    make_table(&db, &cluster.nodes[0].encrypt_all(&plaintexts));
    let v10 = cluster.staged(9);
    cluster.unlock_all(v10);
    cluster.nodes[0]
        .until("v10 is the primary", || (cluster.activate(v10, json!({})).status == 200).then_some(()));
    let pool: Vec<String> = (0..2_000).map(|n| format!("new {n}")).collect();
    let values = cluster.nodes[0].encrypt_all(&pool);
    let known = (1..).zip(plaintexts).collect();
    let application = Application::start(&db, known, pool.into_iter().zip(values).collect());

    // Asked for on db1, held back by the kill switches until it has its limit; db1 takes it first.
    let [db1, db2, db3] = &cluster.nodes[..] else { unreachable!() };
    let switches = [db1, db2, db3].map(|node| node.data_dir().join("pause-rekey"));
    switches.iter().for_each(|switch| std::fs::write(switch, "").unwrap());
    let id = db1.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    let job = format!("/v1/rekey/{id}");
    let limit = |node: &World, rows: Json| {
        node.control("PATCH", &job, Some(crate::harness::OPERATOR), json!({"max_rows_per_second": rows}))
            .expect(200)
    };
    limit(db1, json!(ROWS_PER_SECOND));
    std::fs::remove_file(&switches[0]).unwrap();
    db1.until("db1 works", || (source(db1, &id)["scanned"].as_u64()? > ROWS_PER_SECOND).then_some(()));
    switches[1..].iter().for_each(|switch| std::fs::remove_file(switch).unwrap());

    // The others follow and leave it alone, until it is stopped for longer than its lease.
    let seen = source(db2, &id)["scanned"].as_u64().unwrap();
    db2.until("db2 sees what db1 does", || (source(db2, &id)["scanned"].as_u64()? > seen).then_some(()));
    assert_eq!((times(db2, TAKEN), times(db3, TAKEN)), (0, 0));
    stop_between_locks(db1, &[&db, &meta]);
    let scanned = source(db2, &id)["scanned"].as_u64().unwrap();
    let others = [db2, db3];
    let holder = others[relieved(&others, &id, 0, scanned + ROWS_PER_SECOND)];

    // It goes on in the middle of the other's work, finds its fence lost and does no more.
    let lost = times(db1, LOST);
    db1.signal("-CONT");
    db1.until("db1 finds its lease lost", || (times(db1, LOST) > lost).then_some(()));
    let scanned = source(holder, &id)["scanned"].as_u64().unwrap();
    db1.until("db1 sees what the holder does", || {
        (source(db1, &id)["scanned"].as_u64()? > scanned + ROWS_PER_SECOND).then_some(())
    });
    assert_eq!(times(db1, TAKEN), 1, "db1 took the source back from a holder that lives");

    // The second holder is stopped too, and now the job comes to its end before it goes on.
    stop_between_locks(holder, &[&db, &meta]);
    let last = if std::ptr::eq(holder, db2) { db3 } else { db2 };
    db1.until("a third holder", || (times(db1, TAKEN) > 1 || times(last, TAKEN) > 0).then_some(()));
    limit(db1, Json::Null);
    let ended = db1.job_end(&id);
    let writes = application.writes.load(Ordering::Relaxed);
    holder.signal("-CONT");
    holder.until("the second holder sees the end", || (holder.get(&job)["state"] == "completed").then_some(()));
    assert_eq!(ended["state"], "completed", "{ended}");
    holder.until("the application writes on", || {
        (application.writes.load(Ordering::Relaxed) > writes).then_some(())
    });
    let known = application.end();

    // Each row was counted once, whoever did it; what was read again was of the primary already.
    let source = &ended["sources"][0];
    let of = |name: &str| source[name].as_u64().unwrap();
    assert_eq!(of("rekeyed") + of("current"), of("scanned"), "{source}");
    let all = u64::try_from(known.len()).unwrap();
    assert!((ROWS..=all).contains(&of("scanned")), "{source}, {all} rows");
    assert!(of("rekeyed") <= ROWS, "{source}");
    // And opens to what the application last acknowledged.
    let facts = known.iter().map(|(id, text)| json!([id, {"plaintext": text}])).collect();
    let checked = oracle::check_table_at(&db, &oracle::shares(db1, &[9, v10]), facts);
    assert_eq!(checked["versions"], json!([[v10, all]]));
    println!("{all} rows opened by the oracle; {source}");
}

#[test]
fn every_node_shows_which_one_waits_for_what_and_since_when() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE brake (n INT); INSERT INTO brake VALUES (4);
         CREATE TABLE tokens (id BIGINT PRIMARY KEY, token TEXT)",
    );
    let declared = format!(
        "[[source]]\nname = \"tokens.token\"\nurl = \"{}\"\ntable = \"tokens\"\nid = \"id\"\ncolumn = \"token\"\n\
         key = \"auth-token\"\nthrottle_query = \"SELECT n FROM brake\"\n",
        server.url()
    );
    let cluster = Cluster::new(&declared);
    let [db1, db2, db3] = &cluster.nodes[..] else { unreachable!() };
    server.sql(&format!("INSERT INTO tokens VALUES (1, '{}')", db1.encrypt(b"one")));
    let id = db2.post("/v1/rekey", json!({})).expect(202)["id"].as_str().unwrap().to_owned();
    let waits = |node: &World| {
        let source = source(node, &id);
        // A server that takes long to answer is waited for too, in other words.
        let shown = source["throttled"] == "throttle query 4 > 0";
        shown.then(|| ["throttled_by", "throttled_since"].map(|name| source[name].as_str().unwrap().to_owned()))
    };
    let [by, _] = db1.until("the same wait is shown everywhere", || {
        let wait = waits(db1)?;
        [db2, db3].iter().all(|node| waits(node).as_ref() == Some(&wait)).then_some(wait)
    });
    let holder = (1..).zip(&cluster.nodes).find(|(n, _)| by == format!("db{n}")).unwrap().1;
    holder.until("who waits has said that it works", || (times(holder, TAKEN) > 0).then_some(()));

    server.sql("UPDATE brake SET n = 0");
    for node in [db1, db2, db3] {
        let ended = node.job_end(&id);
        assert_eq!(
            (&ended["state"], &ended["sources"][0]["throttled"]),
            (&json!("completed"), &Json::Null),
            "{ended}"
        );
    }
}
