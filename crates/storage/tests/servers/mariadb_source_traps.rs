//! A user's table in MariaDB that does more than it is told: triggers, and what they say.

use keymoot_storage::{
    open_source,
    source::{Selection, Source, SourceError, SourceSpec, Swap, Swapped},
};

use crate::mariadb::{App, swap};

const TOKEN: &str = "VARCHAR(100) CHARACTER SET utf8mb4";

async fn batch(source: &dyn Source) -> Vec<Swap> {
    source.read(None, 100, &Selection::Every).await.unwrap().iter().map(swap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_what_a_trigger_of_mariadb_alters_is_never_called_done_and_nothing_of_the_batch_is_written() {
    let app = App::new();
    app.people(TOKEN, "VARCHAR(20)");
    let accepted = ["meddles", "counts"].map(str::to_owned).to_vec();
    let source = open_source(SourceSpec { accept_triggers: accepted, ..app.spec() }).unwrap();
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
async fn fault_42_a_trigger_of_mariadb_that_came_since_the_preflight_is_refused_by_name() {
    let app = App::new();
    let source = app.people(TOKEN, "VARCHAR(20)");
    app.fill(2);
    let batch = batch(&*source).await;
    app.sql(
        "CREATE TABLE history (token TEXT); CREATE TRIGGER keeps AFTER UPDATE ON people FOR EACH ROW \
             INSERT INTO history VALUES (OLD.token)",
    );
    let Err(SourceError::Mistaken { reason, .. }) = source.swap(&batch).await else { unreachable!() };
    assert!(reason.contains("trigger keeps came since the preflight"), "{reason}");
    assert_eq!(app.sql("SELECT COUNT(*) FROM history"), "0");
    app.sql("DROP TRIGGER keeps");
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_mariadb_that_can_not_run_is_named_as_a_mistake_and_not_waited_for() {
    let app = App::new();
    app.people(TOKEN, "VARCHAR(20)");
    let source = open_source(SourceSpec { accept_triggers: vec!["runs".into()], ..app.spec() }).unwrap();
    app.fill(2);
    let batch = batch(&*source).await;
    for (body, number) in [
        ("SET @a = gone(1)", 1305),
        ("SET @a = (SELECT token FROM people)", 1242),
        ("SELECT token FROM people INTO @a", 1172),
        ("SET @a = ('a' COLLATE utf8mb4_bin = 'b' COLLATE utf8mb4_general_ci)", 1267),
    ] {
        app.sql(&format!(
            "SET NAMES utf8mb4; CREATE OR REPLACE TRIGGER runs BEFORE UPDATE ON people FOR EACH ROW {body}"
        ));
        let error = source.swap(&batch).await.unwrap_err();
        assert!(matches!(error, SourceError::Mistaken { .. }), "{body}: {error}");
        assert!(error.to_string().contains(&format!("({number})")), "{body}: {error}");
    }
    let definer = format!("gone{}", app.database);
    app.sql(&format!(
        "CREATE USER {definer}; CREATE OR REPLACE DEFINER = {definer} TRIGGER runs BEFORE UPDATE ON people \
                      FOR EACH ROW SET @a = 1; DROP USER {definer}"
    ));
    let error = source.swap(&batch).await.unwrap_err();
    assert!(matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains(&definer)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_57_what_mariadb_or_its_triggers_refuse_is_named_without_a_word_of_a_cell() {
    let app = App::new();
    app.people(TOKEN, "VARCHAR(20)");
    let source = open_source(SourceSpec { accept_triggers: vec!["tells".into()], ..app.spec() }).unwrap();
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
