//! What the preflight refuses in PostgreSQL, each with its remedy, before a row is touched.

use keymoot_storage::{
    open_source,
    source::{Preflight, Selection, SourceError, SourceSpec, Swapped},
};

use super::{
    postgres_source::{all, spec, swap},
    servers::Postgres,
};

async fn preflight(spec: SourceSpec) -> Preflight {
    open_source(spec).unwrap().preflight().await.unwrap()
}

/// The one blocker that there is.
async fn blocker(spec: SourceSpec) -> String {
    let blockers = preflight(spec).await.blockers;
    assert_eq!(blockers.len(), 1, "{blockers:?}");
    blockers.concat()
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_clean_table_in_postgresql_has_no_blocker_and_no_warning() {
    let server = Postgres::start();
    server.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE SCHEMA \"S\"; \
         CREATE TABLE \"S\".t (id int PRIMARY KEY, tenant mood, c varchar(100)); INSERT INTO \"S\".t VALUES (1, 'ok', 'km:v9:a')",
    );
    let found = preflight(spec(&server.url(), "S.t", &["id"], "c", "{tenant}/{id}")).await;
    assert_eq!((found.blockers, found.warnings, found.side_effects), (Vec::new(), Vec::new(), Vec::new()));
    assert_eq!(found.index.as_deref(), Some("t_pkey"));
    holds(&found.server, &["PostgreSQL 1"]);
    let grants = found.grants.join("\n");
    holds(
        &grants,
        &[
            "GRANT SELECT (\"id\", \"c\", \"tenant\") ON \"S\".\"t\"",
            "GRANT UPDATE (\"c\") ON",
            "pg_read_all_stats",
        ],
    );
}

#[tokio::test]
async fn what_postgresql_has_not_as_declared_is_named_with_what_it_has() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE people (id int PRIMARY KEY, token text, j jsonb, n numeric, fixed char(9), g text GENERATED ALWAYS AS (token) STORED);
         CREATE VIEW v AS SELECT * FROM people; CREATE MATERIALIZED VIEW m AS SELECT * FROM people;
         CREATE TABLE parent (id int PRIMARY KEY, c text); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE by_c (id int, c text, PRIMARY KEY (id, c)) PARTITION BY LIST (c)",
    );
    let url = server.url();
    let at = |table: &str, id: &[&str], column: &str, data: &str| spec(&url, table, id, column, data);
    holds(&blocker(at("persons", &["id"], "token", "")).await, &["no table persons", "public.people", "Correct"]);
    holds(&blocker(at("People", &["id"], "token", "")).await, &["no table People", "upper case"]);
    holds(&blocker(at("people", &["id"], "tokn", "")).await, &["column tokn is missing", "id, token"]);
    holds(&blocker(at("people", &["uid"], "token", "")).await, &["id column uid is missing"]);
    holds(&blocker(at("people", &["id"], "token", "{org}")).await, &["associated_data column org is missing"]);
    holds(&blocker(at("people", &["n"], "token", "")).await, &["id column n is of type numeric"]);
    for column in ["fixed", "j", "n", "id"] {
        holds(&blocker(at("people", &["id"], column, "")).await, &["holds no values", "text or bytea"]);
    }
    holds(&blocker(at("people", &["id"], "g", "")).await, &["is generated", "declare the column"]);
    holds(&blocker(at("people", &["id"], "token", "{token}")).await, &["its own id or associated data"]);
    for view in ["v", "m"] {
        holds(&blocker(at(view, &["id"], "token", "")).await, &["is no table", "real table"]);
    }
    holds(&blocker(at("parent", &["id"], "c", "")).await, &["inherit from parent"]);
    holds(&preflight(at("by_c", &["id", "c"], "c", "")).await.blockers.join("|"), &["decides which partition"]);
    let error = open_source(spec(&url, "people", &[], "token", "")).err().unwrap();
    assert!(matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("no id")), "{error}");
}

#[tokio::test]
async fn an_id_in_postgresql_must_tell_every_row_apart_and_have_an_index_in_its_order() {
    let server = Postgres::start();
    server.sql(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE t (a int NOT NULL, b text NOT NULL, d int UNIQUE, e int NOT NULL, f text NOT NULL, g int NOT NULL, c text, PRIMARY KEY (a, b));
         CREATE UNIQUE INDEX some_e ON t (e) WHERE e > 0; CREATE UNIQUE INDEX other_f ON t (f COLLATE blind);
         CREATE UNIQUE INDEX down ON t (g DESC, e); CREATE TABLE late (a int UNIQUE DEFERRABLE NOT NULL, c text)",
    );
    let url = server.url();
    let at = |table: &str, id: &[&str]| spec(&url, table, id, "c", "");
    assert_eq!(preflight(at("t", &["a", "b"])).await.index.as_deref(), Some("t_pkey"));
    for id in [&["a"][..], &["e"]] {
        holds(&blocker(at("t", id)).await, &["neither the primary key", "CREATE UNIQUE INDEX"]);
    }
    holds(&blocker(at("late", &["a"])).await, &["neither the primary key"]);
    holds(&blocker(at("t", &["b", "a"])).await, &["t_pkey orders the rows by (a, b)"]);
    holds(&blocker(at("t", &["f"])).await, &["other_f", "another collation"]);
    holds(&blocker(at("t", &["d"])).await, &["d may be NULL", "NOT NULL"]);
    holds(&blocker(at("t", &["g", "e"])).await, &["down is in part descending"]);
}

#[tokio::test]
async fn fault_42_triggers_of_postgresql_must_be_accepted_by_name_and_rules_never_are() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, c text, d text, updated_at timestamptz); CREATE TABLE history (c text);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO history VALUES (old.c); RETURN new; END';
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER \"keep old\" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION keep();
         CREATE TRIGGER of_c AFTER UPDATE OF c ON t FOR EACH STATEMENT EXECUTE FUNCTION nothing();
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE TRIGGER of_d AFTER UPDATE OF d ON t FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE TRIGGER inserts AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE TRIGGER off BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION keep(); ALTER TABLE t DISABLE TRIGGER off;
         CREATE TABLE r (id int PRIMARY KEY, c text); CREATE RULE never AS ON UPDATE TO r DO INSTEAD NOTHING;
         CREATE TABLE s (id int PRIMARY KEY, c text); INSERT INTO s VALUES (1, 'km:v9:a');
         CREATE RULE also AS ON UPDATE TO s DO ALSO INSERT INTO history VALUES (old.c)",
    );
    let mut declared = spec(&server.url(), "t", &["id"], "c", "");
    let mut blockers = preflight(declared.clone()).await.blockers;
    blockers.sort();
    assert_eq!(blockers.len(), 3, "{blockers:?}");
    for (text, name) in blockers.iter().zip(["keep old", "late", "of_c"]) {
        holds(text, &[&format!("trigger {name} fires"), "accept_triggers", "must be a source too"]);
    }
    declared.accept_triggers = ["keep old", "late", "of_c", "inserts"].map(String::from).into();
    let found = preflight(declared).await;
    assert_eq!((found.blockers, found.side_effects.len()), (Vec::new(), 3));
    holds(&found.warnings.concat(), &["inserts, which no update of this column fires"]);
    holds(&blocker(spec(&server.url(), "r", &["id"], "c", "")).await, &["rule never", "drop it"]);
    let mut declared = spec(&server.url(), "s", &["id"], "c", "");
    declared.accept_triggers = vec!["also".into()];
    holds(&blocker(declared.clone()).await, &["rule also", "drop it"]);
    // The server would refuse it without an end.
    let source = open_source(declared).unwrap();
    let rows = all(&*source, 10, &Selection::Every).await;
    assert!(source.swap(&[swap(&rows[0], "km:v10:a")]).await.is_err());

    // What only fires where changes are applied fires for a role that applies them.
    server.sql(
        "CREATE TABLE u (id int PRIMARY KEY, c text);
         CREATE TRIGGER applied BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION keep();
         ALTER TABLE u ENABLE REPLICA TRIGGER applied",
    );
    let declared = spec(&server.url(), "u", &["id"], "c", "");
    assert_eq!(preflight(declared.clone()).await.blockers, Vec::<String>::new());
    server.sql("ALTER ROLE keymoot SET session_replication_role = 'replica'");
    holds(&blocker(declared).await, &["trigger applied fires"]);
}

#[tokio::test]
async fn fault_42_an_id_that_is_compared_by_operators_that_are_not_searched_is_refused() {
    let server = Postgres::start();
    server.sql(
        "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
         CREATE TABLE t (id extensions.citext PRIMARY KEY, c text)",
    );
    let declared = spec(&server.url(), "t", &["id"], "c", "");
    holds(&blocker(declared.clone()).await, &["operators of schema extensions", "search_path"]);
    server.sql("ALTER ROLE keymoot SET search_path = public, extensions");
    assert_eq!(preflight(declared).await.blockers, Vec::<String>::new());
}

#[tokio::test]
async fn a_constraint_on_a_column_whose_collation_takes_texts_for_equal_is_tried_like_any_other() {
    let server = Postgres::start();
    server.sql(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE t (id int PRIMARY KEY, c text COLLATE blind CHECK (length(c) < 11)); INSERT INTO t VALUES (1, 'km:v9:abc')",
    );
    let declared = spec(&server.url(), "t", &["id"], "c", "");
    assert_eq!(preflight(declared.clone()).await.blockers, Vec::<String>::new());
    server.sql("UPDATE t SET c = 'km:v9:abcd'");
    holds(&blocker(declared).await, &["the constraint t_c_check refuses 1 rows"]);
}

#[tokio::test]
async fn fault_32_a_column_of_postgresql_that_is_too_narrow_for_the_next_version_is_refused_and_never_cut() {
    let server = Postgres::start();
    let value = "km:v9:0123456789";
    let fits = value.len() + 1;
    for width in value.len()..=fits + 3 {
        server.sql(&format!(
            "DROP TABLE IF EXISTS t; DROP DOMAIN IF EXISTS narrow; CREATE DOMAIN narrow AS varchar({width}); \
             CREATE TABLE t (id int PRIMARY KEY, c varchar({width}), d narrow); INSERT INTO t VALUES (1, '{value}', '{value}')"
        ));
        for column in ["c", "d"] {
            let declared = spec(&server.url(), "t", &["id"], column, "");
            let source = open_source(declared.clone()).unwrap();
            let blockers = source.preflight().await.unwrap().blockers;
            let rows = all(&*source, 10, &Selection::Every).await;
            let swapped = source.swap(&[swap(&rows[0], "km:v10:0123456789")]).await;
            if width >= fits {
                assert_eq!((blockers, swapped), (Vec::new(), Ok(vec![Swapped::Done])), "{width}");
            } else {
                holds(&blockers.concat(), &["need 17 characters", "ALTER TABLE \"public\".\"t\" ALTER COLUMN"]);
                let error = swapped.unwrap_err();
                assert!(matches!(error, SourceError::Mistaken { .. }), "{error}");
                holds(&error.to_string(), &["too narrow", "widen"]);
                assert_eq!(server.sql(&format!("SELECT {column} FROM t")), value);
            }
        }
    }
    server.sql("UPDATE t SET c = 'km:v99:0123456789abc'; ALTER TABLE t ALTER c TYPE varchar(20)");
    holds(&blocker(spec(&server.url(), "t", &["id"], "c", "")).await, &["need 21 characters"]);
}

#[tokio::test]
async fn values_within_other_text_keep_a_column_from_being_called_clean() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, c text, b bytea);
         INSERT INTO t VALUES (1, 'km:v9:a'), (2, '{\"token\": \"km:v9:a\"}'), (3, E'x\\nkm:v10:b'), (4, 'about km:vintage'), (5, NULL);
         UPDATE t SET b = convert_to(c, 'UTF8')",
    );
    for column in ["c", "b"] {
        let found = preflight(spec(&server.url(), "t", &["id"], column, "")).await;
        assert!(found.blockers.is_empty(), "{:?}", found.blockers);
        holds(&found.warnings.concat(), &["can't be called clean", "2 rows", "column of their own"]);
    }
}

#[tokio::test]
async fn a_role_of_postgresql_works_with_the_grants_that_are_printed_and_no_more() {
    let server = Postgres::start();
    server.sql(&format!(
        "CREATE ROLE worker LOGIN PASSWORD '{}'; CREATE SCHEMA shop;
         CREATE TABLE shop.t (id int PRIMARY KEY, tenant text, c text, other text); \
         INSERT INTO shop.t VALUES (1, 'a', 'km:v9:a', 'secret')",
        super::servers::PASSWORD
    ));
    let url = server.url().replace("keymoot:", "worker:");
    let declared = spec(&url, "shop.t", &["id"], "c", "{tenant}");
    let refused = preflight(declared.clone()).await.blockers.concat();
    holds(&refused, &["GRANT USAGE ON"]);
    let mut grants = vec!["GRANT USAGE ON SCHEMA \"shop\" TO worker".to_owned()];
    server.sql(&grants[0]);
    let found = preflight(declared.clone()).await;
    assert_eq!(found.blockers.len(), 2, "{:?}", found.blockers);
    holds(&found.warnings.concat(), &["GRANT pg_read_all_stats TO worker"]);
    let source = open_source(declared.clone()).unwrap();
    let error = source.read(None, 1, &Selection::Every).await.unwrap_err();
    assert!(matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("grant")), "{error}");
    grants = found.grants;
    let (last, rest) = grants.split_last().unwrap();
    for grant in rest {
        server.sql(grant);
    }
    let source = open_source(declared.clone()).unwrap();
    let why = source.census(&mut |_| ()).await.unwrap().not_conclusive.unwrap();
    holds(&why, &["GRANT pg_read_all_stats TO worker"]);
    server.sql(last);
    let found = source.preflight().await.unwrap();
    assert_eq!((found.blockers, found.warnings), (Vec::new(), Vec::new()));
    let rows = all(&*source, 10, &Selection::Every).await;
    assert_eq!(source.swap(&[swap(&rows[0], "km:v10:b")]).await, Ok(vec![Swapped::Done]));
    assert_eq!(source.read_again(&[rows[0].id.clone()]).await.unwrap().len(), 1);
    assert_eq!(source.census(&mut |_| ()).await.unwrap().not_conclusive, None);
    assert!(source.total().await.is_ok() && source.load().await.unwrap().active.is_some());
    // Row-level security: refused before, and an error where it comes later.
    server.sql("ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY");
    holds(&source.preflight().await.unwrap().blockers.concat(), &["row-level security", "BYPASSRLS"]);
    assert!(matches!(source.census(&mut |_| ()).await, Err(SourceError::Mistaken { .. })));
    server.sql("ALTER ROLE worker BYPASSRLS");
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
}

#[tokio::test]
async fn copies_indexes_and_constraints_of_a_column_in_postgresql_are_told() {
    let server = Postgres::start();
    server.sql(
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY, c text CONSTRAINT short CHECK (length(c) < 90));
         CREATE INDEX on_c ON t (lower(c)); ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE TABLE p (id int PRIMARY KEY, c text UNIQUE); CREATE TABLE child (id int PRIMARY KEY, r text REFERENCES p (c));
         CREATE PUBLICATION outside FOR TABLE p",
    );
    let found = preflight(spec(&server.url(), "t", &["id"], "c", "")).await;
    assert_eq!(found.blockers, Vec::<String>::new());
    holds(&found.warnings.join("|"), &["index on_c", "REPLICA IDENTITY FULL", "unlogged"]);
    for (table, column) in [("p", "c"), ("child", "r")] {
        holds(
            &blocker(spec(&server.url(), table, &["id"], column, "")).await,
            &["foreign key", "table child", "drop"],
        );
    }
    holds(
        &preflight(spec(&server.url(), "p", &["id"], "c", "")).await.warnings.join("|"),
        &["published (outside)"],
    );
}
