//! What happens to a job before it is through: a node that stands still, and another rotation.

use std::{thread::sleep, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    application::facts,
    database::Database,
    faults::{all_of_v10, at_v10, limit, start_slowly, until_under_way},
    harness::oracle,
    unlock,
};

const ROWS: i64 = 8_000;
/// MariaDB shows its transactions as they were when they were last asked for, if that is less than 0.1 s ago.
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

#[test]
fn fault_39_a_node_that_stands_still_within_a_transaction_gives_the_rows_of_postgresql_back() {
    stands_still(
        &Database::postgres(),
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keymoot%' AND wait_event_type = 'Lock'",
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keymoot%' AND state = 'idle in transaction'",
    );
}

#[test]
fn fault_39_a_node_that_stands_still_within_a_transaction_gives_the_rows_of_mariadb_back() {
    stands_still(
        &Database::mariadb(),
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'",
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'RUNNING' AND trx_rows_locked > 1",
    );
}

/// The daemon is stopped where the application is in its way, which then lets it pass: the server has a transaction with a
/// chunk's locks, and nobody to end it.
fn stands_still(database: &Database, waits: &str, idle: &str) {
    let (world, known) = at_v10(database, ROWS);
    let (mut application, mut looks) = (database.connect(), database.connect());
    let id = start_slowly(&world);
    world.until("it is stopped with locks in its hands", || {
        application.run("BEGIN");
        application.run("SELECT id FROM tokens WHERE token LIKE 'km:v9:%' ORDER BY id DESC LIMIT 4000 FOR UPDATE");
        let waiting = (0..25).any(|_| {
            sleep(BETWEEN_LOOKS);
            looks.number(waits) > 0
        });
        world.signal("-STOP");
        application.run("ROLLBACK");
        sleep(BETWEEN_LOOKS);
        let holds = waiting && looks.number(idle) > 0;
        if !holds {
            world.signal("-CONT");
        }
        holds.then_some(())
    });
    world.until("the server has ended it", || {
        sleep(BETWEEN_LOOKS);
        (looks.number(idle) == 0).then_some(())
    });
    application.run("UPDATE tokens SET token = token WHERE id > 4000");
    world.signal("-CONT");
    // It closes the connections that said nothing meanwhile.
    world.until("it answers again", || world.try_get("/v1/rekey").map(drop));
    limit(&world, &id, Json::Null);
    all_of_v10(&world, database, &id, &known);
}

#[test]
fn fault_41_another_rotation_in_the_midst_of_a_job_takes_every_row_with_it_through_a_restart() {
    for database in [Database::postgres(), Database::mariadb()] {
        let (mut world, known) = at_v10(&database, ROWS);
        let id = start_slowly(&world);
        until_under_way(&world);
        assert_eq!(world.rotate(10), 11);
        let before = world.get(&format!("/v1/rekey/{id}"));
        assert_eq!(before["state"], "running", "{before}");
        world.kill();
        world.start();
        unlock(&world, &[9, 10, 11]);
        limit(&world, &id, Json::Null);
        let job = world.job_end(&id);
        assert_eq!(job["state"], "completed", "{job}");
        let checked = oracle::check_rows(&world, &[9, 10, 11], &database.rows(), facts(&known));
        assert_eq!(checked["versions"], json!([[11, known.len()]]));
    }
}
