//! Odd tables of PostgreSQL.

use keymoot_storage::source::SourceSpec;

use super::{
    odd::{
        Ends::{self, Refused, Whole},
        ends,
    },
    postgres_source::spec,
    servers::Postgres,
};

/// A table that is declared, with what makes it.
type Odd = (&'static str, &'static str, &'static [&'static str], &'static str, Ends);

/// Those with the column `c`.
const TABLES: &[Odd] = &[
    (
        "CREATE TABLE t1 (k text PRIMARY KEY, c text); INSERT INTO t1 SELECT k, 'km:v9:' || n FROM \
      unnest(ARRAY['a', 'a ', 'a  ', 'A', '', ' ', '😀', '😁', E'\\t', 'é', E'e\\u0301']) WITH ORDINALITY AS u (k, n)",
        "t1",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t2 (k citext PRIMARY KEY, c citext); INSERT INTO t2 SELECT 'Key ' || n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t2",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t3 (a mood, b uuid, d bytea, c varchar(60), PRIMARY KEY (a, b, d)); INSERT INTO t3 SELECT 'ok', \
      gen_random_uuid(), decode(lpad(to_hex(n), 4, '0'), 'hex'), 'km:v9:' || n FROM generate_series(1, 9) n",
        "t3",
        &["a", "b", "d"],
        "{a}/{b}/{d}",
        Whole,
    ),
    (
        "CREATE TABLE t4 (a int, b int, c text, PRIMARY KEY (a, b)); CREATE UNIQUE INDEX t4_down ON t4 (b DESC, a DESC); \
      INSERT INTO t4 SELECT n % 3, n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t4",
        &["b", "a"],
        "{a}/{b}",
        Whole,
    ),
    (
        "CREATE TABLE t5 (k timestamptz PRIMARY KEY, c text)",
        "t5",
        &["k"],
        "",
        Refused(&["id column k is of type timestamptz"]),
    ),
    (
        "CREATE TABLE t6 (k numeric PRIMARY KEY, c text)",
        "t6",
        &["k"],
        "",
        Refused(&["id column k is of type numeric"]),
    ),
    ("CREATE TABLE t7 (k char(36) PRIMARY KEY, c text)", "t7", &["k"], "", Refused(&["id column k is of type"])),
    (
        "CREATE TABLE t8 (k key_no PRIMARY KEY, c secret NOT NULL); INSERT INTO t8 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t8",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t9 (k int PRIMARY KEY, c nine NOT NULL); INSERT INTO t9 VALUES (1, 'km:v9:a')",
        "t9",
        &["k"],
        "",
        Refused(&["domain public.nine", "let it allow them"]),
    ),
    (
        "CREATE TABLE t10 (k int PRIMARY KEY, c text, UNIQUE (c), CONSTRAINT short CHECK (length(c) < 11)); \
      INSERT INTO t10 VALUES (1, 'km:v9:1234')",
        "t10",
        &["k"],
        "",
        Refused(&["constraint short", "drop it"]),
    ),
    (
        "CREATE TABLE t11 (k int PRIMARY KEY, \"kind of\" text, c text, CONSTRAINT of_kind CHECK (\"kind of\" <> 'v9' OR c LIKE 'km:v9:%')); \
      INSERT INTO t11 VALUES (1, 'v9', 'km:v9:a'), (2, 'any', 'km:v9:b')",
        "t11",
        &["k"],
        "",
        Refused(&["constraint of_kind"]),
    ),
    (
        "CREATE TABLE t12 (k int PRIMARY KEY, c text, CONSTRAINT fits CHECK (c ~ '^km:v[0-9]+:' AND length(c) < 99)); \
      INSERT INTO t12 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t12",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t13 (k int PRIMARY KEY, c text, up text GENERATED ALWAYS AS (upper(c)) STORED); \
      INSERT INTO t13 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t13",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t14 (k int, c text, PRIMARY KEY (k)) PARTITION BY RANGE (k); CREATE TABLE t14a PARTITION OF t14 FOR VALUES FROM (0) TO (5) \
      PARTITION BY HASH (k); CREATE TABLE t14b PARTITION OF t14a FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE TABLE t14c PARTITION OF t14 DEFAULT; \
      INSERT INTO t14 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t14",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t15p (k int PRIMARY KEY, c text); CREATE TABLE t15 (PRIMARY KEY (k)) INHERITS (t15p); INSERT INTO t15 VALUES (1, 'km:v9:a')",
        "t15",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE UNLOGGED TABLE t16 (k int PRIMARY KEY, c text); INSERT INTO t16 VALUES (1, 'km:v9:a')",
        "t16",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE SCHEMA \"Or.der\"; CREATE SCHEMA \"select\"; CREATE TABLE \"select\".\"from % \"\"q.uote$1 {x}\" (\"group\" int, \"number\" int, c text, i0 text, \
      PRIMARY KEY (\"group\", \"number\")); INSERT INTO \"select\".\"from % \"\"q.uote$1 {x}\" SELECT n, -n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "select.from % \"q.uote$1 {x}",
        &["group", "number"],
        "{group}/{number}",
        Whole,
    ),
    (
        "CREATE TABLE t18 (t int PRIMARY KEY, n text NOT NULL, c text, before int, chunk int, sized int); INSERT INTO t18 SELECT n, n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t18",
        &["t"],
        "{n}/{t}",
        Whole,
    ),
    (
        "CREATE TABLE t19 (k int NOT NULL UNIQUE, c text); CREATE PUBLICATION p19 FOR TABLE t19; INSERT INTO t19 VALUES (1, 'km:v9:a')",
        "t19",
        &["k"],
        "",
        Refused(&["p19", "REPLICA IDENTITY"]),
    ),
    (
        "CREATE TABLE t20 (k int PRIMARY KEY, c text); CREATE RULE r AS ON UPDATE TO t20 DO INSTEAD NOTHING",
        "t20",
        &["k"],
        "",
        Refused(&["rule r"]),
    ),
    (
        "CREATE TABLE t21 (k text COLLATE blind PRIMARY KEY, c text COLLATE blind); INSERT INTO t21 SELECT 'K' || n, 'km:v9:' || n FROM generate_series(1, 9) n",
        "t21",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t22 (k int PRIMARY KEY, c text); CREATE TABLE t22f (c text); INSERT INTO t22 VALUES (1, 'km:v9:7'); \
      CREATE INDEX t22_number ON t22 ((substr(c, 7)::int))",
        "t22",
        &["k"],
        "",
        Refused(&["t22_number"]),
    ),
    (
        "CREATE TABLE t23 (k int PRIMARY KEY, c text, mark text GENERATED ALWAYS AS (md5(c)) STORED UNIQUE); \
      INSERT INTO t23 VALUES (1, 'km:v9:a'); CREATE TABLE t23_session (mark text REFERENCES t23 (mark) ON UPDATE SET NULL)",
        "t23",
        &["k"],
        "",
        Refused(&["foreign key t23_session_mark_fkey", "drop it"]),
    ),
    (
        "CREATE TABLE t24 (k int PRIMARY KEY, c text, CONSTRAINT two CHECK (c LIKE 'km:v9:%' OR c LIKE 'km:v10:%')); \
      INSERT INTO t24 VALUES (1, 'km:v9:a'), (2, 'km:v10:b')",
        "t24",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t25 (k int PRIMARY KEY, age int, c text); INSERT INTO t25 VALUES (1, -1, 'km:v9:a'), (2, 5, 'km:v9:b'); \
      ALTER TABLE t25 ADD CONSTRAINT of_age CHECK (age > 0) NOT VALID",
        "t25",
        &["k"],
        "",
        Refused(&["constraint of_age", "1 rows"]),
    ),
    (
        "CREATE TABLE t26 (k int PRIMARY KEY, age int, c text); \
      INSERT INTO t26 VALUES (1, -1, 'not encrypted yet'), (2, 5, 'km:v9:b'), (3, -1, 'km:v10:c'); \
      ALTER TABLE t26 ADD CONSTRAINT encrypted CHECK (c LIKE 'km:%') NOT VALID, ADD CONSTRAINT of_age CHECK (age > 0) NOT VALID",
        "t26",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t27 (k int PRIMARY KEY, c bytea, CONSTRAINT nine CHECK (get_byte(c, 6) = 9)); \
      INSERT INTO t27 VALUES (1, '\\x4b4d0100000009aabb')",
        "t27",
        &["k"],
        "",
        Refused(&["constraint nine"]),
    ),
    (
        "CREATE TABLE t28 (k int PRIMARY KEY, c bytea, CONSTRAINT short CHECK (length(c) < 8)); INSERT INTO t28 VALUES (1, 'km:v9:a')",
        "t28",
        &["k"],
        "",
        Refused(&["constraint short"]),
    ),
    (
        "CREATE FUNCTION nine(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS \
      'BEGIN IF $1 NOT LIKE ''km:v9:%'' THEN RAISE ''no''; END IF; RETURN true; END'; \
      CREATE TABLE t29 (k int PRIMARY KEY, c text, CONSTRAINT told CHECK (nine(c))); INSERT INTO t29 VALUES (1, 'km:v9:a')",
        "t29",
        &["k"],
        "",
        Refused(&["constraint told"]),
    ),
    (
        "CREATE TABLE t30 (k int PRIMARY KEY, c text) PARTITION BY RANGE (k); \
      CREATE TABLE \"t30 a\" PARTITION OF t30 FOR VALUES FROM (0) TO (5); CREATE TABLE t30b PARTITION OF t30 DEFAULT; \
      INSERT INTO t30 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n; \
      ALTER TABLE \"t30 a\" ADD CONSTRAINT nine CHECK (c LIKE 'km:v9:%')",
        "t30",
        &["k"],
        "",
        Refused(&["constraint nine", "4 rows"]),
    ),
    (
        "CREATE TABLE t31 (k int PRIMARY KEY, c text) PARTITION BY RANGE (k); \
      CREATE TABLE t31a PARTITION OF t31 FOR VALUES FROM (0) TO (50); CREATE UNIQUE INDEX ON t31a (c); \
      INSERT INTO t31 SELECT n, 'km:v9:' || n FROM generate_series(1, 9) n; \
      CREATE TABLE t31_child (c text REFERENCES t31a (c) ON UPDATE SET NULL)",
        "t31",
        &["k"],
        "",
        Refused(&["foreign key t31_child_c_fkey"]),
    ),
    (
        "CREATE TABLE t32 (k int NOT NULL UNIQUE, c text); INSERT INTO t32 VALUES (1, 'km:v9:a'); \
      CREATE PUBLICATION only_new FOR TABLE t32 WITH (publish = 'insert')",
        "t32",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t33 (k int PRIMARY KEY, c text); INSERT INTO t33 VALUES (1, 'km:v9:a'); CREATE PUBLICATION of_c FOR TABLE t33 (c)",
        "t33",
        &["k"],
        "",
        Refused(&["would not take a new value", "t33"]),
    ),
];

/// Plaintext that is adopted, in the column `c`.
const ADOPTED: &[Odd] = &[
    (
        "CREATE TABLE a1 (k int PRIMARY KEY, c varchar(75)); INSERT INTO a1 VALUES (1, '0123456789'), (2, NULL), (3, '')",
        "a1",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE a2 (k int PRIMARY KEY, c varchar(74)); INSERT INTO a2 VALUES (1, '0123456789')",
        "a2",
        &["k"],
        "",
        Refused(&[
            "varchar(74)",
            "need 75 characters",
            "ALTER TABLE \"public\".\"a2\" ALTER COLUMN \"c\" TYPE varchar(83), or text",
        ]),
    ),
    (
        "CREATE TABLE a3 (k int PRIMARY KEY, c varchar(77)); INSERT INTO a3 VALUES (1, 'üüüü😀')",
        "a3",
        &["k"],
        "",
        Refused(&["need 78 characters"]),
    ),
    (
        "CREATE TABLE a4 (k int PRIMARY KEY, c bytea); INSERT INTO a4 VALUES (1, '\\x00ff'), (2, ''), (3, 'plain')",
        "a4",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE a5 (k int PRIMARY KEY, c text CONSTRAINT ssn CHECK (c ~ '^[0-9-]+$')); INSERT INTO a5 VALUES (1, '123-45')",
        "a5",
        &["k"],
        "",
        Refused(&["constraint ssn"]),
    ),
    (
        "CREATE TABLE a6 (k int PRIMARY KEY, c mail); INSERT INTO a6 VALUES (1, 'a@b')",
        "a6",
        &["k"],
        "",
        Refused(&["domain", "mail"]),
    ),
    (
        "CREATE TABLE a7 (k int PRIMARY KEY, c text); CREATE INDEX a7_c ON a7 (c); INSERT INTO a7 VALUES (1, repeat('x', 2500))",
        "a7",
        &["k"],
        "",
        Refused(&["index a7_c", "drop it"]),
    ),
    (
        "CREATE TABLE a8 (k int PRIMARY KEY, c text, n int GENERATED ALWAYS AS (c::int) STORED); INSERT INTO a8 (k, c) VALUES (1, '7')",
        "a8",
        &["k"],
        "",
        Refused(&["generated column n"]),
    ),
    (
        "CREATE TABLE a9 (k int PRIMARY KEY, c text, r text GENERATED ALWAYS AS (right(c, 4)) STORED, CONSTRAINT of_r CHECK (r <> 'x')); \
      INSERT INTO a9 (k, c) VALUES (1, 'seven')",
        "a9",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE a10 (k int PRIMARY KEY, c text, CONSTRAINT has CHECK (c IS NOT NULL AND octet_length(c) BETWEEN 1 AND 70)); \
      INSERT INTO a10 VALUES (1, 'seven'), (2, '1234567')",
        "a10",
        &["k"],
        "",
        Refused(&["constraint has"]),
    ),
];

async fn tried(server: &Postgres, tables: &[Odd], adopt: bool) {
    let mut failed = Vec::new();
    for (made, table, id, data, end) in tables {
        server.sql(made);
        let spec = SourceSpec { adopt, ..spec(&server.url(), table, id, "c", data) };
        let (made, end) = (*made, *end);
        if tokio::spawn(async move { ends(made, spec, end).await }).await.is_err() {
            failed.push(*table);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn every_odd_table_of_postgresql_is_rewritten_whole_or_refused_with_the_remedy() {
    let server = Postgres::start();
    server.sql(
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN key_no AS bigint CHECK (VALUE > 0); \
         CREATE DOMAIN token AS varchar(80); CREATE DOMAIN secret AS token CHECK (VALUE LIKE 'km:%'); \
         CREATE DOMAIN nine AS text CHECK (VALUE LIKE 'km:v9:%'); CREATE DOMAIN mail AS text CHECK (VALUE ~ '@'); \
         CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    tried(&server, TABLES, false).await;
    tried(&server, ADOPTED, true).await;
}

#[tokio::test]
async fn nothing_is_committed_where_a_trigger_of_postgresql_changes_the_new_value() {
    use keymoot_storage::{
        open_source,
        source::{Selection, SourceError},
    };
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (k int PRIMARY KEY, c text); INSERT INTO t SELECT n, 'km:v9:Abc' FROM generate_series(1, 3) n;
         CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.k = 2 THEN new.c := lower(new.c); END IF; RETURN new; END';
         CREATE TRIGGER low BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION low()",
    );
    let spec = SourceSpec { accept_triggers: vec!["low".into()], ..spec(&server.url(), "t", &["k"], "c", "") };
    let source = open_source(spec).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    let rows = source.read(None, 9, &Selection::Every).await.unwrap();
    let batch: Vec<_> = rows.iter().map(|row| super::postgres_source::swap(row, "km:v10:Abc")).collect();
    let error = source.swap(&batch).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("change the trigger")),
        "{error}"
    );
    assert_eq!(server.sql("SELECT DISTINCT c FROM t"), "km:v9:Abc");
}
