//! Odd tables of MariaDB.

use keymoot_storage::{
    open_source,
    source::{Selection, SourceError, SourceSpec, Swap},
};

use crate::{
    mariadb::{App, swap},
    odd::{
        Ends::{self, Refused, Stopped, Whole},
        ends,
    },
};

/// A table that is declared, with what makes it.
type Odd = (&'static str, &'static str, &'static [&'static str], &'static str, Ends);

/// Those with the column `c`.
const TABLES: &[Odd] = &[
    (
        "CREATE TABLE t1 (k VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, c TEXT); INSERT INTO t1 VALUES ('a', 'km:v9:1'), \
      ('a ', 'km:v9:2'), ('A', 'km:v9:3'), ('', 'km:v9:4'), ('😀', 'km:v9:5'), ('😁', 'km:v9:6'), ('é', 'km:v9:7')",
        "t1",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t2 (k VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_ai_ci PRIMARY KEY, c VARCHAR(90) COLLATE utf8mb4_uca1400_ai_ci); \
      INSERT INTO t2 VALUES ('Ab', 'km:v9:1'), ('é', 'km:v9:2'), ('z ', 'km:v9:3'), ('ß', 'km:v9:4'), ('😀', 'km:v9:5')",
        "t2",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t3 (a UUID, b BINARY(16), d VARBINARY(9), c VARBINARY(90), PRIMARY KEY (a, b, d)); \
      INSERT INTO t3 SELECT UUID(), UNHEX(MD5(seq)), x'00ff', CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t3",
        &["a", "b", "d"],
        "{a}/{b}/{d}",
        Whole,
    ),
    (
        "CREATE TABLE t4 (a INT, b INT, c TEXT, PRIMARY KEY (a ASC, b DESC)); INSERT INTO t4 SELECT seq MOD 3, seq, CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t4",
        &["a", "b"],
        "{a}/{b}",
        Whole,
    ),
    (
        "CREATE TABLE t5 (k BIGINT UNSIGNED PRIMARY KEY, c TEXT); INSERT INTO t5 VALUES (9223372036854775807, 'km:v9:a'), (0, 'km:v9:b')",
        "t5",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t6 (k ENUM('a', 'b') PRIMARY KEY, c TEXT)",
        "t6",
        &["k"],
        "",
        Refused(&["id column k is enum"]),
    ),
    (
        "CREATE TABLE t7 (k DECIMAL(20) PRIMARY KEY, c TEXT)",
        "t7",
        &["k"],
        "",
        Refused(&["id column k is decimal"]),
    ),
    (
        "CREATE TABLE t8 (k CHAR(36) CHARACTER SET ascii PRIMARY KEY, c TEXT INVISIBLE, n INT INVISIBLE DEFAULT 3, g TEXT AS (UPPER(c)) VIRTUAL, KEY (g(9))); \
      INSERT INTO t8 (k, c) SELECT UUID(), CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t8",
        &["k"],
        "{k}/{n}",
        Whole,
    ),
    (
        "CREATE TABLE t9 (k INT ZEROFILL PRIMARY KEY, c TEXT COMPRESSED, d VARCHAR(300) COMPRESSED); INSERT INTO t9 SELECT seq, CONCAT('km:v9:', seq), 'x' FROM seq_1_to_9",
        "t9",
        &["k"],
        "{k}/{d}",
        Whole,
    ),
    (
        "CREATE TABLE t10 (k INT PRIMARY KEY, c TEXT CHECK (LENGTH(c) < 11)); INSERT INTO t10 VALUES (1, 'km:v9:1234')",
        "t10",
        &["k"],
        "",
        Refused(&["constraint c", "drop it"]),
    ),
    (
        "CREATE TABLE t11 (k INT PRIMARY KEY, `kind of` TEXT, c TEXT, CONSTRAINT of_kind CHECK (`kind of` <> 'v9' OR c LIKE 'km:v9:%')); \
      INSERT INTO t11 VALUES (1, 'v9', 'km:v9:a'), (2, 'any', 'km:v9:b')",
        "t11",
        &["k"],
        "",
        Refused(&["constraint of_kind"]),
    ),
    (
        "CREATE TABLE t12 (k INT PRIMARY KEY, c TEXT, CONSTRAINT fits CHECK (c REGEXP '^km:v[0-9]+:' AND LENGTH(c) < 99)); \
      INSERT INTO t12 SELECT seq, CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t12",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t13 (k INT, d INT, c TEXT, moved TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), PRIMARY KEY (k, d)) \
      PARTITION BY RANGE (k) SUBPARTITION BY HASH (d) SUBPARTITIONS 2 (PARTITION a VALUES LESS THAN (5), PARTITION b VALUES LESS THAN MAXVALUE); \
      INSERT INTO t13 (k, d, c) SELECT seq, seq, CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t13",
        &["d", "k"],
        "{k}/{d}",
        Whole,
    ),
    (
        "CREATE TABLE `select % ``q.uote? {x}` (`group` INT, `place` INT, c TEXT, n TEXT, k0 INT, PRIMARY KEY (`group`, `place`)); \
      INSERT INTO `select % ``q.uote? {x}` SELECT seq, -seq, CONCAT('km:v9:', seq), 'n', 1 FROM seq_1_to_9",
        "app0.select % `q.uote? {x}",
        &["group", "place"],
        "{n}/{place}",
        Whole,
    ),
    (
        "CREATE TABLE t15 (k VARCHAR(200) CHARACTER SET utf8mb4, c LONGTEXT CHARACTER SET ucs2, PRIMARY KEY (k(9)))",
        "t15",
        &["k"],
        "",
        Refused(&["ucs2", "use utf8mb4"]),
    ),
    (
        "CREATE TABLE t16 (k VARCHAR(200) CHARACTER SET utf8mb4, c LONGTEXT CHARACTER SET sjis, PRIMARY KEY (k(9))); INSERT INTO t16 SELECT CONCAT(seq, ' key'), CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t16",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t18 (k INT PRIMARY KEY, c TEXT); INSERT INTO t18 SELECT seq, CONCAT('km:v9:', seq) FROM seq_1_to_9; \
      CREATE TABLE t18f (k INT, FOREIGN KEY (k) REFERENCES t18 (k) ON UPDATE CASCADE ON DELETE CASCADE); INSERT INTO t18f SELECT k FROM t18",
        "t18",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE t19 (k INT PRIMARY KEY, c TEXT, n INT AS (SUBSTRING(c, 7)) STORED); INSERT INTO t19 (k, c) VALUES (1, 'km:v9:7')",
        "t19",
        &["k"],
        "",
        Stopped(&["generated column n"]),
    ),
    (
        "CREATE TABLE t20 (k INT PRIMARY KEY, n INT, c TEXT); INSERT INTO t20 VALUES (1, 1, 'km:v9:a'), (2, -1, 'km:v9:b'); \
      SET check_constraint_checks = 0; ALTER TABLE t20 ADD CONSTRAINT above CHECK (n > 0)",
        "t20",
        &["k"],
        "",
        Refused(&["constraint above", "1 rows or more", "drop it"]),
    ),
    (
        "CREATE TABLE t21 (k INT PRIMARY KEY, n INT, c TEXT); \
      INSERT INTO t21 VALUES (1, 1, 'km:v9:a'), (2, -1, NULL), (3, 1, 'plain'), (4, -1, 'km:v10:b'); \
      SET check_constraint_checks = 0; ALTER TABLE t21 ADD CHECK (n > 0), ADD CHECK (c LIKE 'km:%')",
        "t21",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t22 (k INT PRIMARY KEY, c TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, CHECK (c <> 'no' COLLATE utf8mb4_bin)); \
      INSERT INTO t22 VALUES (1, 'km:v9:a')",
        "t22",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t23 (k INT PRIMARY KEY, c TEXT CHARACTER SET utf8mb4, UNIQUE begin (c(12))); INSERT INTO t23 VALUES (1, 'km:v9:a')",
        "t23",
        &["k"],
        "",
        Refused(&["unique index begin", "12", "drop it or make it whole"]),
    ),
    (
        "CREATE TABLE t24 (k INT PRIMARY KEY, n INT, c BLOB, UNIQUE (n, c(15))); INSERT INTO t24 VALUES (1, 1, 'km:v9:a')",
        "t24",
        &["k"],
        "",
        Refused(&["unique index n", "15"]),
    ),
    (
        "CREATE TABLE t25 (k INT PRIMARY KEY, c TEXT CHARACTER SET utf8mb4, KEY (c(5)), UNIQUE (c(32)), UNIQUE (k, c(5))); \
      INSERT INTO t25 SELECT seq, CONCAT('km:v9:', seq) FROM seq_1_to_9",
        "t25",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE t26 (k INT PRIMARY KEY, c VARBINARY(90), CONSTRAINT nine CHECK (SUBSTRING(c, 4, 4) = x'00000009')); \
      INSERT INTO t26 VALUES (1, CONCAT(x'4b4d0100000009', REPEAT(x'01', 52)))",
        "t26",
        &["k"],
        "",
        Refused(&["constraint nine"]),
    ),
];

/// Plaintext that is adopted, in the column `c`.
const ADOPTED: &[Odd] = &[
    (
        "CREATE TABLE a1 (k INT PRIMARY KEY, c VARCHAR(75) CHARACTER SET utf8mb4); INSERT INTO a1 VALUES (1, '0123456789'), (2, NULL), (3, '')",
        "a1",
        &["k"],
        "",
        Whole,
    ),
    (
        "CREATE TABLE a2 (k INT PRIMARY KEY, c VARCHAR(74) CHARACTER SET utf8mb4 NOT NULL); INSERT INTO a2 VALUES (1, '0123456789')",
        "a2",
        &["k"],
        "",
        Refused(&["varchar(74)", "75 characters", "MODIFY `c` VARCHAR(83) CHARACTER SET utf8mb4", "NOT NULL"]),
    ),
    (
        "CREATE TABLE a3 (k INT PRIMARY KEY, c VARCHAR(77) CHARACTER SET utf8mb4); INSERT INTO a3 VALUES (1, 'üüüü😀')",
        "a3",
        &["k"],
        "",
        Refused(&["78 characters"]),
    ),
    (
        "CREATE TABLE a4 (k INT PRIMARY KEY, c VARBINARY(53)); INSERT INTO a4 VALUES (1, x'00ff'), (2, ''), (3, 'plain')",
        "a4",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE a5 (k INT PRIMARY KEY, c VARBINARY(52)); INSERT INTO a5 VALUES (3, 'plain')",
        "a5",
        &["k"],
        "{k}",
        Refused(&["53 bytes", "VARBINARY(61)"]),
    ),
    (
        "CREATE TABLE a6 (k INT PRIMARY KEY, c TINYTEXT CHARACTER SET utf8mb4); INSERT INTO a6 VALUES (1, REPEAT('x', 200))",
        "a6",
        &["k"],
        "",
        Refused(&["MODIFY `c` VARCHAR("]),
    ),
    (
        "CREATE TABLE a7 (k INT PRIMARY KEY, c TEXT CHARACTER SET utf8mb4); INSERT INTO a7 VALUES (1, REPEAT('x', 60000))",
        "a7",
        &["k"],
        "",
        Refused(&["MEDIUMTEXT"]),
    ),
    (
        "CREATE TABLE a8 (k INT PRIMARY KEY, c VARCHAR(400) CHARACTER SET latin1); INSERT INTO a8 VALUES (1, 'Müller')",
        "a8",
        &["k"],
        "",
        Refused(&["latin1", "CHARACTER SET utf8mb4"]),
    ),
    (
        "CREATE TABLE a9 (k INT PRIMARY KEY, c VARCHAR(400) CHARACTER SET utf8mb4 CHECK (c REGEXP '^[0-9-]+$')); INSERT INTO a9 VALUES (1, '123-45')",
        "a9",
        &["k"],
        "",
        Refused(&["constraint c"]),
    ),
    (
        "CREATE TABLE a10 (k INT PRIMARY KEY, c JSON); INSERT INTO a10 VALUES (1, '{}')",
        "a10",
        &["k"],
        "",
        Refused(&["constraint c"]),
    ),
    (
        "CREATE TABLE a11 (k INT PRIMARY KEY, c VARCHAR(300) CHARACTER SET utf8mb4, UNIQUE (c)); INSERT INTO a11 VALUES (1, 'one'), (2, 'three')",
        "a11",
        &["k"],
        "{k}",
        Whole,
    ),
    (
        "CREATE TABLE a12 (k INT PRIMARY KEY, c TEXT CHARACTER SET utf8mb4, n INT AS (c) STORED); INSERT INTO a12 (k, c) VALUES (1, '7')",
        "a12",
        &["k"],
        "",
        Stopped(&["generated column n"]),
    ),
];

async fn tried(app: &App, tables: &[Odd], adopt: bool) {
    let mut failed = Vec::new();
    for (made, table, id, data, end) in tables {
        app.sql(&format!("SET NAMES utf8mb4; {made}"));
        let spec = SourceSpec {
            table: table.replace("app0.", &format!("{}.", app.database)),
            id: id.iter().map(|id| (*id).to_owned()).collect(),
            column: "c".into(),
            associated_data: data.parse().unwrap(),
            adopt,
            ..app.spec()
        };
        let (made, end) = (*made, *end);
        if tokio::spawn(async move { ends(made, spec, end).await }).await.is_err() {
            failed.push(*table);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_table_of_mariadb_is_rewritten_whole_or_refused_with_the_remedy() {
    let app = App::with(&["--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"]);
    tried(&app, TABLES, false).await;
    tried(&app, ADOPTED, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_where_a_trigger_of_mariadb_changes_the_new_value() {
    let app = App::new();
    app.people("VARCHAR(100)", "VARCHAR(20)");
    app.fill(3);
    app.sql("CREATE TRIGGER low BEFORE UPDATE ON people FOR EACH ROW SET NEW.token = IF(NEW.id = 2, UPPER(NEW.token), NEW.token)");
    let source = open_source(SourceSpec { accept_triggers: vec!["low".into()], ..app.spec() }).unwrap();
    assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new());
    let rows = source.read(None, 9, &Selection::Every).await.unwrap();
    let batch: Vec<Swap> = rows.iter().map(swap).collect();
    let error = source.swap(&batch).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Mistaken { reason, .. } if reason.contains("change the trigger")),
        "{error}"
    );
    assert_eq!(app.sql("SELECT COUNT(*) FROM people WHERE token LIKE BINARY 'km:v9:%'"), "3");
}
