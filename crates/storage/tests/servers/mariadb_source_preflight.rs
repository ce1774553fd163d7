//! Columns of MariaDB as sources: what is refused before the first write, and the rights that are needed.

use keymoot_storage::{
    open_source,
    source::{Preflight, Selection, SourceSpec, Swap},
};

use crate::mariadb::{App, done, swap};

async fn preflight(spec: SourceSpec) -> Preflight {
    open_source(spec).unwrap().preflight().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_rekeyed_is_refused_with_the_remedy() {
    let app = App::new();
    let token = "VARCHAR(100) CHARACTER SET utf8mb4";
    let people = |token: &str| format!("CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token {token})");
    let plain = people(token);
    for (made, remedy) in [
        (people("VARCHAR(100)") + " ENGINE=MyISAM", "ALTER TABLE people ENGINE=InnoDB"),
        (people("CHAR(100)"), "make it varchar(100)"),
        (people("BINARY(100)"), "make it varbinary(100)"),
        (people("VARCHAR(100) CHARACTER SET utf16"), "use utf8mb4"),
        (people("INT"), "values are text or bytes"),
        (people("VARCHAR(100) AS (CONCAT('km:v9:', tenant)) STORED"), "declare the column that it is made from"),
        (format!("{plain} WITH SYSTEM VERSIONING"), "DROP SYSTEM VERSIONING"),
        (
            format!(
                "CREATE TABLE real_people (id INT, tenant INT, token {token}); CREATE VIEW people AS SELECT * FROM real_people"
            ),
            "declare the real table",
        ),
        (
            format!("CREATE TABLE people (id INT, tenant INT, token {token}, KEY (id))"),
            "name the primary key as id",
        ),
        (format!("CREATE TABLE people (id DATE PRIMARY KEY, tenant INT, token {token})"), "id column id is date"),
        (
            format!("CREATE TABLE people (id INT PRIMARY KEY, tenant FLOAT, token {token})"),
            "associated_data column tenant is float",
        ),
        (
            format!("CREATE TABLE people (id INT PRIMARY KEY, token {token})"),
            "associated_data column tenant is missing",
        ),
        ("CREATE TABLE persons (id INT)".into(), "the database's tables: persons. Correct the source's table"),
        (
            format!("{plain}; CREATE TRIGGER copy AFTER UPDATE ON people FOR EACH ROW SET @old = OLD.token"),
            "trigger copy fires",
        ),
        (
            format!(
                "CREATE TABLE people (id BIGINT UNSIGNED PRIMARY KEY, tenant INT, token {token}); INSERT INTO people VALUES (9223372036854775808, 1, NULL)"
            ),
            "above 9223372036854775807",
        ),
        (
            format!(
                "CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token {token}, UNIQUE (token)); CREATE TABLE others (token {token}, FOREIGN KEY (token) REFERENCES people (token) ON UPDATE CASCADE)"
            ),
            "foreign key others_ibfk_1 of table others",
        ),
    ] {
        app.sql(&format!("DROP DATABASE {0}; CREATE DATABASE {0}; USE {0}; {made}", app.database));
        let blockers = preflight(app.spec()).await.blockers;
        assert!(blockers.iter().any(|blocker| blocker.contains(remedy)), "{made}: {blockers:?}");
        assert!(blockers.concat().len() < 600, "{blockers:?}");
    }
    let made = format!("{plain}; INSERT INTO people VALUES (1, 1, '{{\"a\": \"km:v9:AAAA\"}}')");
    app.sql(&format!("DROP DATABASE {0}; CREATE DATABASE {0}; USE {0}; {made}", app.database));
    let warnings = preflight(app.spec()).await.warnings.concat();
    assert!(warnings.contains("1 cells hold km:v<version>:") && !warnings.contains("AAAA"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_ids_that_do_not_come_back_from_unicode_as_they_went_are_refused() {
    let app = App::new();
    app.sql(
        "CREATE TABLE people (id VARCHAR(9) CHARACTER SET cp932 PRIMARY KEY, tenant INT, token VARCHAR(50)); \
         INSERT INTO people VALUES ('plain', 1, 'km:v9:a')",
    );
    assert_eq!(preflight(app.spec()).await.blockers, Vec::<String>::new());
    // One of those that NEC and IBM both have.
    app.sql("INSERT INTO people VALUES (CONVERT(x'ED41' USING cp932), 1, 'km:v9:b')");
    app.sql("UPDATE people SET id = x'ED41' WHERE token = 'km:v9:b'");
    let blockers = preflight(app.spec()).await.blockers.concat();
    assert!(blockers.contains("ids in id have characters that cp932 has twice"), "{blockers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_should_know_is_a_warning_and_no_refusal() {
    let app = App::new();
    app.sql(
        "CREATE TABLE people (id INT, tenant VARCHAR(9), token VARCHAR(50), PRIMARY KEY (tenant, id), KEY seek (token)) \
         PARTITION BY HASH (id) PARTITIONS 3; \
         CREATE TRIGGER stamp BEFORE UPDATE ON people FOR EACH ROW SET @n = @n + 1; \
         INSERT INTO people SELECT seq, seq MOD 7, CONCAT('km:v9:', seq) FROM seq_1_to_100",
    );
    let mut spec = app.spec();
    spec.id = vec!["id".into(), "tenant".into()];
    spec.accept_triggers = vec!["stamp".into(), "gone".into()];
    let found = preflight(spec.clone()).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    assert_eq!(found.side_effects, ["trigger stamp fires for every row that is written"]);
    assert_eq!(found.index.as_deref(), Some("PRIMARY"));
    assert!(found.server.starts_with("MariaDB 1"), "{}", found.server);
    for warning in
        ["the index seek holds column token", "accept_triggers names gone", "innodb_flush_log_at_trx_commit"]
    {
        assert!(found.warnings.iter().any(|found| found.contains(warning)), "{warning}: {:?}", found.warnings);
    }
    let logged = App::with(&["--log-bin=binlog", "--innodb-flush-log-at-trx-commit=1"]);
    logged.people("VARCHAR(50)", "INT");
    let found = preflight(logged.spec()).await;
    assert!(found.warnings.iter().any(|found| found.contains("sync_binlog is not 1")), "{:?}", found.warnings);

    let source = open_source(spec.clone()).unwrap();
    let mut rows = Vec::new();
    loop {
        let chunk =
            source.read(rows.last().map(|row: &keymoot_storage::source::Row| &row.id), 7, &Selection::Every);
        let chunk = chunk.await.unwrap();
        if chunk.is_empty() {
            break;
        }
        rows.extend(chunk);
    }
    let batch: Vec<Swap> = rows.iter().map(swap).collect();
    assert_eq!(done(&source.swap(&batch).await.unwrap()), 100);
    app.sql("INSERT INTO people VALUES (1, 'x', '{\"a\": \"km:v9:AAAA\"}')");
    let found = preflight(spec).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    let embedded = found.warnings.iter().find(|warning| warning.contains("1 cells hold km:v<version>:"));
    assert!(embedded.is_some_and(|warning| !warning.contains("AAAA")), "{:?}", found.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_read_only_or_logs_statements_is_refused() {
    let app = App::with(&["--log-bin=binlog", "--binlog-format=STATEMENT", "--read-only=1"]);
    app.people("VARCHAR(100)", "INT");
    let blockers = preflight(app.spec()).await.blockers;
    for remedy in ["name the primary in the source's url", "set it to ROW or MIXED"] {
        assert!(blockers.iter().any(|blocker| blocker.contains(remedy)), "{blockers:?}");
    }
}

/// A source of `people` by an account with the printed grants and no more.
async fn least(app: &App) -> SourceSpec {
    let user = format!("least{}", app.database);
    let grants = preflight(app.spec()).await.grants.concat().replace("`keymoot`@`%`", &user);
    app.sql(&format!("CREATE USER {user} IDENTIFIED BY 'least'; {grants}"));
    SourceSpec { url: format!("mysql://{user}:least@{}/{}", app.server.address(), app.database), ..app.spec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_refused_and_a_default_of_the_account_is_not() {
    let app = App::with(&[]);
    app.people("VARCHAR(100)", "INT");
    app.sql("INSERT INTO people VALUES (1, 1, 'km:v9:a')");
    let spec = least(&app).await;
    app.sql("SET GLOBAL read_only = 1");
    let blockers = preflight(spec.clone()).await.blockers;
    assert!(blockers.iter().any(|blocker| blocker.contains("name the primary")), "{blockers:?}");

    app.sql("SET GLOBAL read_only = 0; SET GLOBAL tx_read_only = 1; SET GLOBAL wait_timeout = 60");
    let spec = SourceSpec { throttle_query: Some("SELECT @@wait_timeout".into()), ..spec };
    let source = open_source(spec).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    let rows = source.read(None, 9, &Selection::Every).await.unwrap();
    assert_eq!(done(&source.swap(&[swap(&rows[0])]).await.unwrap()), 1);
    // A census idles while other nodes count.
    assert_eq!(source.load().await.unwrap().throttle_query, Some(28_800.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_from_a_table_that_the_account_does_not_see_is_refused() {
    let app = App::new();
    let hidden = format!("hidden-ü{}", app.database);
    let token = "VARCHAR(100) CHARACTER SET utf8mb4";
    app.sql(&format!(
        "SET NAMES utf8mb4; CREATE TABLE `peo.ple ü` (id INT PRIMARY KEY, tenant INT, token {token}, UNIQUE (token)); \
         CREATE DATABASE `{hidden}`; CREATE TABLE `{hidden}`.`othe/rs é` \
         (token {token}, CONSTRAINT `of/other` FOREIGN KEY (token) REFERENCES `{}`.`peo.ple ü` (token)); \
         CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token {token})",
        app.database
    ));
    let spec = least(&app).await;
    assert_eq!(preflight(spec.clone()).await.blockers, Vec::<String>::new());
    app.sql(&format!(
        "SET NAMES utf8mb4; DROP TABLE people; GRANT SELECT, TRIGGER, UPDATE ON `peo.ple ü` TO least{}",
        app.database
    ));
    let spec = SourceSpec { table: "peo.ple ü".into(), ..spec };
    for url in [&app.url(), &spec.url] {
        let table = format!("{}.{}", app.database, spec.table);
        let blockers = preflight(SourceSpec { url: url.clone(), table, ..spec.clone() }).await.blockers;
        let named = |blocker: &&String| blocker.contains("foreign key of/other of table othe/rs é");
        assert_eq!(blockers.iter().filter(named).count(), 1, "{blockers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_which_two_do_not_fit_into_a_packet_are_refused_with_the_number_to_set() {
    let app = App::with(&["--max-allowed-packet=1M"]);
    for (token, begins) in [("LONGTEXT CHARACTER SET utf8mb4", "'km:v9:'"), ("LONGBLOB", "x'4b4d0100000009'")] {
        for (body, fits) in [(340_000, true), (400_000, false)] {
            app.sql(&format!(
                "DROP TABLE IF EXISTS people; CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token {token}); \
                 INSERT INTO people VALUES (1, 1, CONCAT({begins}, REPEAT('A', {body}))), \
                 (2, 1, REPEAT('-', 600000))"
            ));
            let blockers = preflight(app.spec()).await.blockers.concat();
            let remedy = "SET GLOBAL max_allowed_packet = 2097152";
            assert_eq!((blockers.is_empty(), blockers.contains(remedy)), (fits, !fits), "{token}: {blockers}");
            let source = open_source(app.spec()).unwrap();
            let row = source.read(None, 1, &Selection::Every).await.unwrap().remove(0);
            let new = row.cell.with_bytes([row.cell.bytes().unwrap(), b"A"].concat());
            let batch = [Swap { id: row.id, old: row.cell, new, columns: row.columns }];
            assert!(!fits || done(&source.swap(&batch).await.unwrap()) == 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_grants_are_enough_and_without_any_of_them_it_says_which_is_missing() {
    let app = App::new();
    let user = format!("least{}", app.database);
    app.sql(&format!(
        "CREATE TABLE people (id INT PRIMARY KEY, tenant INT, token VARCHAR(100), secret INT, \
         moved TIMESTAMP ON UPDATE CURRENT_TIMESTAMP); \
         INSERT INTO people (id, tenant, token) SELECT seq, 1, CONCAT('km:v9:', seq) FROM seq_1_to_10; \
         CREATE USER {user} IDENTIFIED BY 'least'; GRANT SELECT (id) ON people TO {user}"
    ));
    let mut spec = app.spec();
    spec.url = format!("mysql://{user}:least@{}/{}", app.server.address(), app.database);
    let all = format!("`{}`.`people` TO `{user}`@`%`", app.database);
    let rights = ["SELECT", "TRIGGER", "UPDATE (`token`, `moved`)"];
    let printed = preflight(SourceSpec { url: app.url(), ..spec.clone() }).await.grants;
    assert_eq!(
        printed[0],
        format!("GRANT {} ON `{}`.`people` TO `keymoot`@`%`;", rights.join(", "), app.database)
    );
    assert!(preflight(spec.clone()).await.blockers.concat().contains("it can't be seen"));
    for missing in rights {
        let others: Vec<&str> = rights.into_iter().filter(|right| *right != missing).collect();
        app.sql(&format!("REVOKE ALL, GRANT OPTION FROM {user}; GRANT {} ON {all}", others.join(", ")));
        let found = preflight(spec.clone()).await;
        let grants = found.grants.join(" ");
        assert!(grants.contains(missing), "{grants}");
        assert!(found.blockers.iter().any(|blocker| blocker.contains(&grants)), "{missing}: {:?}", found.blockers);
        // Without SELECT there are no columns to try it with.
        assert_eq!(found.warnings.concat().contains("PROCESS"), missing != "SELECT", "{:?}", found.warnings);
    }
    let grants = preflight(spec.clone()).await.grants;
    app.sql(&format!("REVOKE ALL, GRANT OPTION FROM {user}; {}", grants.concat()));
    let source = open_source(spec).unwrap();
    let found = source.preflight().await.unwrap();
    assert_eq!(found.blockers, Vec::<String>::new());
    assert!(!found.warnings.concat().contains("PROCESS"), "{:?}", found.warnings);
    let rows = source.read(None, 100, &Selection::Every).await.unwrap();
    let batch: Vec<Swap> = rows.iter().map(swap).collect();
    assert_eq!(done(&source.swap(&batch).await.unwrap()), 10);
    let census = source.census(&mut |_| ()).await.unwrap();
    assert_eq!((census.visited, census.counted), (10, 10));
    assert!(!census.not_conclusive.unwrap_or_default().contains("GRANT"));
    let by_hand = app.sql(&census.sql);
    assert_eq!(by_hand, "km:v10:\t10");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_busy_a_server_is_and_the_users_own_number_are_told() {
    let app = App::new();
    app.people("VARCHAR(100)", "INT");
    let mut spec = app.spec();
    spec.throttle_query = Some("SELECT COUNT(*) + 0.5 FROM people;".into());
    let load = open_source(spec.clone()).unwrap().load().await.unwrap();
    assert_eq!((load.throttle_query, load.replica_lag), (Some(0.5), None));
    assert!(load.active.is_some() && load.lock_waits.is_some());
    for wrong in ["DELETE FROM people", "SELECT 1, 2", "SELECT NULL", "SELECT SLEEP(60)", "SELECT 1; SELECT 2"] {
        spec.throttle_query = Some(wrong.into());
        assert!(open_source(spec.clone()).unwrap().load().await.is_err(), "{wrong}");
    }
}
