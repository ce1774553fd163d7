//! A node of a Galera cluster as a source: what every adapter promises, and what the cluster refuses.

use std::{collections::HashSet, sync::Arc, time::Instant};

use async_trait::async_trait;
use keymoot_storage::{
    conformance::{self, Application, Cells, Holds, Tenants},
    open_source,
    source::{Row, RowId, Selection, Source, SourceError, Swap, Swapped},
};

use crate::{
    PATIENCE,
    mariadb::{delete, replace, swap},
    nodes::Galera,
};

/// Runs a test on the cluster that all of them share.
pub fn on_cluster(test: impl AsyncFnOnce(&mut Galera)) {
    let mut shared = Galera::shared();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test(shared.as_mut().unwrap()));
}

/// The column `people.token`, by way of one node.
pub fn source(galera: &Galera, node: usize) -> Arc<dyn Source> {
    open_source(conformance::spec(&galera.url(node))).unwrap()
}

/// So many people, from id 1 on, with values of v9.
pub fn people(galera: &Galera, rows: usize) {
    galera.sql(0, "CREATE TABLE people (id BIGINT PRIMARY KEY, tenant VARCHAR(20), token VARCHAR(100))");
    if rows > 0 {
        galera
            .sql(0, &format!("INSERT INTO people SELECT seq, 'acme', CONCAT('km:v9:', seq) FROM seq_1_to_{rows}"));
    }
}

pub fn tokens(galera: &Galera, node: usize) -> Vec<String> {
    galera.sql(node, "SELECT token FROM people ORDER BY id").lines().map(str::to_owned).collect()
}

/// What is still old, as a later pass finds it.
pub async fn old(source: &dyn Source) -> Result<Vec<Row>, SourceError> {
    source.read(None, 1000, &Selection::Prefixes(vec![b"km:v9:".to_vec()])).await
}

pub fn is_unreachable<T>(answer: &Result<T, SourceError>) -> bool {
    matches!(answer, Err(SourceError::Unreachable { .. }))
}

/// An application on another node than the source's.
struct Elsewhere<'g>(&'g Galera);

#[async_trait]
impl Application for Elsewhere<'_> {
    async fn write(&self, row: &Row) {
        self.0.sql(1, &replace(row));
    }

    async fn delete(&self, id: &RowId) {
        self.0.sql(1, &delete(id));
    }
}

#[test]
fn a_column_on_a_node_is_a_source_as_promised_while_the_application_writes_on_another() {
    on_cluster(async |galera| {
        people(galera, 0);
        let holds = Holds { cells: Cells::Utf8, tenants: Tenants::Text };
        conformance::source(&*source(galera, 0), &Elsewhere(galera), holds).await;
    });
}

/// The application gives each of a few rows new values on one node while they are swapped on another. It returns what
/// was last acknowledged for each, and goes on until `enough` says so.
fn write_on(galera: &Galera, node: usize, rows: usize, enough: impl Fn() -> bool + Send + 'static) -> Writer {
    let mut connection = galera.connect(node);
    std::thread::spawn(move || {
        let mut last = vec![0; rows];
        for number in 1.. {
            let row = number % rows;
            let update = format!("UPDATE people SET token = 'km:v9:{number}' WHERE id = {}", row + 1);
            // It, too, may be refused: then it is not written.
            if connection.run(&format!("{update}; SELECT ROW_COUNT()")) == "1" {
                last[row] = number;
            }
            if enough() && number > 200 {
                break;
            }
        }
        last
    })
}

type Writer = std::thread::JoinHandle<Vec<usize>>;

#[test]
fn fault_46_what_the_cluster_refuses_at_commit_is_not_done_and_no_write_of_an_application_elsewhere_is_lost() {
    const ROWS: usize = 8;
    on_cluster(async |galera| {
        people(galera, ROWS);
        galera.sql(0, "UPDATE people SET token = 'km:v9:0'");
        let source = source(galera, 0);
        let (end, refused) = (Instant::now() + PATIENCE, Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let seen = Arc::clone(&refused);
        let enough = move || seen.load(std::sync::atomic::Ordering::SeqCst) > 2 || Instant::now() > end;
        let writer = write_on(galera, 1, ROWS, enough);
        let (mut done, mut unknown) = (HashSet::new(), HashSet::new());
        loop {
            let ended = writer.is_finished();
            let Ok(rows) = old(&*source).await else { continue };
            let batch: Vec<Swap> = rows.iter().map(swap).collect();
            let values = batch.iter().map(|swap| (swap.id.clone(), swap.new.bytes().unwrap().to_vec()));
            match source.swap(&batch).await {
                Ok(outcomes) => {
                    for (value, outcome) in values.zip(outcomes) {
                        let first = outcome != Swapped::Done || unknown.contains(&value) || done.insert(value);
                        assert!(first, "a value was swapped twice");
                    }
                }
                Err(error @ SourceError::Unreachable { .. }) => {
                    unknown.extend(values);
                    let reason = error.to_string();
                    if reason.contains("(1213)") {
                        refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                }
                Err(error) => unreachable!("{error}"),
            }
            assert!(Instant::now() < end + PATIENCE);
            if ended && rows.is_empty() {
                break;
            }
        }
        assert!(refused.load(std::sync::atomic::Ordering::SeqCst) > 0, "the two never met");
        let last = writer.join().unwrap();
        let expected: Vec<_> = last.iter().map(|number| format!("km:v10:{number}")).collect();
        for node in 0..3 {
            assert_eq!(tokens(galera, node), expected);
        }
    });
}

#[test]
fn fault_46_a_row_that_is_locked_and_a_node_that_lost_the_others_are_unreachable_and_nothing_is_written() {
    on_cluster(async |galera| {
        people(galera, 5);
        let cut = source(galera, 0);
        let rows = old(&*cut).await.unwrap();
        let batch: Vec<Swap> = rows.iter().map(swap).collect();
        let ids: Vec<RowId> = rows.iter().map(|row| row.id.clone()).collect();

        let mut holder = galera.connect(0);
        holder.run("BEGIN; SELECT token FROM people WHERE id = 3 FOR UPDATE");
        let Err(locked) = cut.swap(&batch).await else { unreachable!() };
        assert!(locked.to_string().contains("1205"), "{locked}");
        drop(holder);

        galera.isolate(0);
        // From the first moment on, when the node itself does not know yet, and behind it.
        for known in [false, true] {
            if known {
                galera.until(0, |status| status.contains("non-Primary"));
            }
            assert!(is_unreachable(&cut.swap(&batch).await));
            assert!(is_unreachable(&cut.read_again(&ids).await));
            assert!(is_unreachable(&old(&*cut).await));
            assert!(is_unreachable(&cut.total().await));
            assert!(is_unreachable(&cut.census(&mut |_| {}).await));
        }
        let whole = source(galera, 1);
        assert_eq!(old(&*whole).await.unwrap().len(), 5);
        assert!(whole.swap(&batch).await.unwrap().iter().all(|outcome| *outcome == Swapped::Done));
    });
}

#[test]
fn an_administrator_of_a_cluster_is_told_what_it_can_not_do_and_how_long_it_stood_still() {
    on_cluster(async |galera| {
        people(galera, 5);
        let source = source(galera, 0);
        let found = source.preflight().await.unwrap();
        assert!(found.blockers.is_empty(), "{found:?}");
        assert!(!found.warnings.iter().any(|warning| warning.contains("not be conclusive")), "{found:?}");

        let mut paused = galera.connect(2);
        paused.run("FLUSH TABLES WITH READ LOCK");
        galera.sql(0, "SET GLOBAL wsrep_max_ws_rows = 20");
        let found = source.preflight().await;
        galera.sql(0, "SET GLOBAL wsrep_max_ws_rows = DEFAULT");
        paused.run("UNLOCK TABLES");
        let found = found.unwrap();
        assert!(found.warnings.iter().any(|warning| warning.contains(&galera.address(2))), "{found:?}");
        assert!(found.blockers.iter().any(|blocker| blocker.contains("wsrep_max_ws_rows")), "{found:?}");
        assert!(source.load().await.unwrap().replica_lag.is_some());
    });
}
