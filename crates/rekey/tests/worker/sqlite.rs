//! The same worker on real files: an SQLite table, an SQLite metadata store.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use keymoot_rekey::{Jobs, Setup, Sources, Start, census::census};
use keymoot_storage::{
    open_metadata, open_source,
    source::{Source, SourceSpec},
};
use keymoot_types::SourceName;
use tokio_util::sync::CancellationToken;

use crate::support::*;

struct One(Arc<dyn Source>);

impl Sources for One {
    fn names(&self) -> Vec<SourceName> {
        vec![self.0.spec().name.clone()]
    }
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>> {
        (self.0.spec().name == *name).then(|| self.0.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_user_is_rekeyed_and_counted() {
    let rows: i64 = std::env::var("KEYMOOT_TEST_ROWS").ok().map_or(3000, |rows| rows.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.db");
    let keys = TestKeys::new();
    let ring = keys.ring(&[9], 9);
    {
        let mut db = rusqlite::Connection::open(&file).unwrap();
        db.execute_batch("CREATE TABLE customers (id INTEGER PRIMARY KEY, ssn TEXT)").unwrap();
        let all = db.transaction().unwrap();
        for n in 1..=rows {
            let value = ring.encrypt(&key(), b"078-05-1120", format!("customers/{n}").as_bytes()).unwrap();
            all.execute("INSERT INTO customers VALUES (?, ?)", (n, value.to_text())).unwrap();
        }
        all.commit().unwrap();
    }
    let url = format!("sqlite://{}", file.display());
    let source = open_source(SourceSpec { url, ..spec("customers.ssn") }).unwrap();
    let jobs = Jobs::new(Setup {
        holder: holder("db1"),
        metadata: open_metadata(&format!("sqlite://{}", dir.path().join("meta.db").display())).unwrap(),
        keys: keys.clone(),
        sources: Arc::new(One(source.clone())),
        kill_switch: dir.path().join("pause-rekey"),
        brake: None,
        shutdown: CancellationToken::new(),
        runtime: tokio::runtime::Handle::current(),
    });
    let began = Instant::now();
    let job = jobs.start(Start::default()).await.unwrap().id;
    let view = ended(&jobs, job).await;
    println!("{} rows in {:?}", rows, began.elapsed());
    completed(&view);
    adds_up(&view);
    let counted = census(source.as_ref(), |_| true, Timestamp::UNIX_EPOCH).await;
    println!("census {:?}", counted);
    assert!(counted.conclusive && counted.clean_of(v(9)), "{counted:?}");
    assert_eq!(counted.rows_of(v(10)), u64::try_from(rows).unwrap());
}
