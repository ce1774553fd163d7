//! A user's table in MariaDB that does more than it is told: triggers, and what they say.

use keymoot_storage::source::{Selection, Source, SourceError, Swap, Swapped};

use crate::mariadb::{App, swap};

const TOKEN: &str = "VARCHAR(100) CHARACTER SET utf8mb4";

async fn batch(source: &dyn Source) -> Vec<Swap> {
    source.read(None, 100, &Selection::Every).await.unwrap().iter().map(swap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_what_a_trigger_of_mariadb_alters_is_never_called_done_and_nothing_of_the_batch_is_written() {
    let app = App::new();
    let source = app.people(TOKEN, "VARCHAR(20)");
    app.fill(3);
    app.sql("UPDATE people SET token = CONCAT(token, 'A')");
    let batch = batch(&*source).await;
    for alters in [
        "NEW.token = IF(NEW.id = 2, LOWER(NEW.token), NEW.token)",
        "NEW.tenant = IF(NEW.id = 2, 'other', NEW.tenant)",
        "NEW.token = IF(NEW.id = 2, OLD.token, NEW.token)",
    ] {
        app.sql(&format!("CREATE TRIGGER meddles BEFORE UPDATE ON people FOR EACH ROW SET {alters}"));
        let Err(SourceError::Mistaken { reason, .. }) = source.swap(&batch).await else {
            unreachable!("{alters}")
        };
        for part in ["people did not hold what was written", "nothing was committed", "meddles"] {
            assert!(reason.contains(part), "{alters}: {reason}");
        }
        let held = app.sql("SELECT GROUP_CONCAT(tenant, token ORDER BY id) FROM people");
        assert_eq!(held, "acmekm:v9:1A,acmekm:v9:2A,acmekm:v9:3A", "{alters}");
        app.sql("DROP TRIGGER meddles");
    }
    app.sql("CREATE TRIGGER counts BEFORE UPDATE ON people FOR EACH ROW SET @updates = 1");
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_57_what_mariadb_or_its_triggers_refuse_is_named_without_a_word_of_a_cell() {
    let app = App::new();
    let source = app.people(TOKEN, "VARCHAR(20)");
    app.sql("INSERT INTO people VALUES (1, 'a', 'km:v9:secret'), (2, 'a', 'km:v10:secret')");
    let rows = source.read(None, 1, &Selection::Every).await.unwrap();
    let batch = [swap(&rows[0])];
    let refused = async |why: &str| {
        let error = source.swap(&batch).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{why}: {error}");
    };
    app.sql("ALTER TABLE people ADD UNIQUE (token)");
    refused("unique").await;
    app.sql("ALTER TABLE people DROP INDEX token, ADD CHECK (token <> 'km:v10:secret' OR id > 1)");
    refused("check").await;
    app.sql("ALTER TABLE people DROP CONSTRAINT CONSTRAINT_1");
    for (state, number) in
        [("45000", ""), ("45000", ", MYSQL_ERRNO = 1146"), ("HY000", ", MYSQL_ERRNO = 1205"), ("22001", "")]
    {
        app.sql(&format!(
            "\nDELIMITER //\nCREATE OR REPLACE TRIGGER tells BEFORE UPDATE ON people FOR EACH ROW BEGIN \
             DECLARE said TEXT DEFAULT CONCAT('it was ', OLD.token); \
             SIGNAL SQLSTATE '{state}' SET MESSAGE_TEXT = said{number}; END //\nDELIMITER ;\n"
        ));
        refused(number).await;
    }
}
