//! A census of a Galera cluster: conclusive if every node agrees, and what a crash of all of them takes back is found.

use std::time::Duration;

use keymoot_storage::source::{Snapshot, Source, Swap};

use crate::{
    galera::{old, on_cluster, people, source},
    mariadb::{done, swap},
    nodes::Galera,
};

/// What a census says, and how many values of v9 it saw.
async fn count(source: &dyn Source) -> (Snapshot, usize) {
    let mut old = 0;
    let seen = |cell: &keymoot_storage::source::Cell| {
        old += usize::from(cell.bytes().is_some_and(|bytes| bytes.starts_with(b"km:v9:")));
    };
    let mut seen = seen;
    let snapshot = source.census(&mut seen).await.unwrap();
    (snapshot, old)
}

async fn conclusive(galera: &Galera) -> bool {
    count(&*source(galera, 0)).await.0.not_conclusive.is_none()
}

/// Why a census by way of the first node proves nothing: it names the third.
async fn doubt(galera: &Galera) -> String {
    let doubt = count(&*source(galera, 0)).await.0.not_conclusive.unwrap();
    assert!(doubt.contains(&galera.address(2)), "{doubt}");
    doubt
}

#[test]
fn fault_47_a_census_is_conclusive_only_if_every_node_takes_part() {
    on_cluster(async |galera| {
        people(galera, 100);
        let (snapshot, old) = count(&*source(galera, 0)).await;
        assert_eq!((snapshot.not_conclusive, snapshot.visited, snapshot.counted, old), (None, 100, 100, 100));

        let mut paused = galera.connect(2);
        paused.run("FLUSH TABLES WITH READ LOCK");
        assert!(doubt(galera).await.contains("Donor/Desynced"));
        paused.run("UNLOCK TABLES");
        galera.until_whole();
        assert!(conclusive(galera).await);

        galera.pause(2);
        doubt(galera).await;
        galera.go_on(2);
        galera.until_whole();
        assert!(conclusive(galera).await);
    });
}

#[test]
fn fault_47_a_transaction_that_is_open_on_another_node_is_seen() {
    on_cluster(async |galera| {
        people(galera, 10);
        let mut open = galera.connect(2);
        open.run("BEGIN; INSERT INTO people VALUES (11, 'acme', 'km:v9:11')");
        let doubt = doubt(galera).await;
        assert!(doubt.contains("older than the census"), "{doubt}");
        open.run("COMMIT");
        let (snapshot, old) = count(&*source(galera, 0)).await;
        assert_eq!((snapshot.not_conclusive, old), (None, 11));
    });
}

#[test]
fn fault_47_a_node_that_keeps_its_writes_for_itself_or_follows_another_server_proves_nothing() {
    on_cluster(async |galera| {
        people(galera, 10);
        galera.sql(2, "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='nobody'");
        let doubt = doubt(galera).await;
        assert!(doubt.contains("replicates from another"), "{doubt}");
        galera.sql(2, "RESET SLAVE ALL");
        assert!(conclusive(galera).await);

        galera.sql(0, "SET GLOBAL wsrep_on = OFF");
        let alone = source(galera, 0).census(&mut |_| ()).await;
        galera.sql(0, "SET GLOBAL wsrep_on = ON");
        let alone = alone.unwrap_err().to_string();
        assert!(alone.contains("wsrep_on is OFF"), "{alone}");
        assert!(conclusive(galera).await);
    });
}

#[test]
fn fault_47_an_old_value_that_only_another_node_has_is_seen() {
    on_cluster(async |galera| {
        people(galera, 10);
        galera.sql(0, "UPDATE people SET token = CONCAT('km:v10:', id)");
        assert!(conclusive(galera).await);
        galera.sql(2, "SET SESSION wsrep_on = OFF; UPDATE people SET token = 'km:v9:7' WHERE id = 7");
        let doubt = doubt(galera).await;
        assert!(doubt.contains("1 rows of class km:v9: instead of 0"), "{doubt}");
        galera.sql(2, "SET SESSION wsrep_on = OFF; UPDATE people SET token = 'km:v10:7' WHERE id = 7");
        assert!(conclusive(galera).await);
    });
}

#[test]
fn a_census_is_conclusive_while_the_application_writes_on_every_node() {
    on_cluster(async |galera| {
        people(galera, 100);
        galera.sql(0, "UPDATE people SET token = CONCAT('km:v10:', id)");
        let mut writers: Vec<_> = (0..3).map(|node| galera.connect(node)).collect();
        for (node, writer) in writers.iter_mut().enumerate() {
            let first = 1000 * (node + 1);
            let writes =
                (first..first + 300).map(|id| format!("INSERT INTO people VALUES ({id}, 'a', 'km:v10:x')"));
            writer.send(&writes.collect::<Vec<_>>().join("; "));
        }
        let (snapshot, old) = count(&*source(galera, 0)).await;
        assert_eq!((snapshot.not_conclusive, old, snapshot.visited), (None, 0, snapshot.counted));
    });
}

#[test]
fn fault_45_rows_that_a_crash_of_all_nodes_took_back_are_found_and_swapped_again() {
    // A node may write its log before its time: then a crash takes nothing back.
    const ROUNDS: usize = 6;
    on_cluster(async |galera| {
        people(galera, 50);
        for round in 1..=ROUNDS {
            // The nodes' logs reach their files once a second: what was before is there, and the swaps will not be, however
            // long it takes until all three nodes are killed.
            tokio::time::sleep(Duration::from_secs(2)).await;
            (0..3).for_each(|node| drop(galera.sql(node, "SET GLOBAL innodb_flush_log_at_timeout = 600")));
            let before = source(galera, 0);
            let batch: Vec<Swap> = old(&*before).await.unwrap().iter().map(swap).collect();
            assert_eq!(done(&before.swap(&batch).await.unwrap()), 50);
            galera.kill_all();
            galera.recover();
            let again = source(galera, 0);
            let (snapshot, lost) = count(&*again).await;
            assert_eq!((snapshot.not_conclusive, snapshot.visited), (None, 50));
            let batch: Vec<Swap> = old(&*again).await.unwrap().iter().map(swap).collect();
            assert_eq!(batch.len(), lost);
            assert_eq!(done(&again.swap(&batch).await.unwrap()), lost);
            let (snapshot, left) = count(&*again).await;
            assert_eq!((snapshot.not_conclusive, left), (None, 0));
            if lost > 0 {
                return;
            }
            assert!(round < ROUNDS, "no crash took anything back");
            galera.sql(0, "UPDATE people SET token = CONCAT('km:v9:', id)");
        }
    });
}
