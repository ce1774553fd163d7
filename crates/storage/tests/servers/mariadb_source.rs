//! Columns of MariaDB as sources: what every adapter promises, and faults.

use keymoot_storage::{
    conformance::{self, Cells, Dialect, Holds, IdKind, Tenants},
    open_source,
    source::{Row, Selection},
};

use crate::mariadb::App;

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_any_type_and_collation_is_a_source_as_promised() {
    for (token, cells) in [
        ("VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", Cells::Utf8),
        ("TEXT CHARACTER SET utf8mb3 COLLATE utf8mb3_bin", Cells::Utf8),
        ("MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_nopad_ci", Cells::Utf8),
        ("VARCHAR(100) CHARACTER SET latin1 COLLATE latin1_swedish_ci", Cells::Text),
        ("VARBINARY(100)", Cells::Bytes),
        ("LONGBLOB", Cells::Bytes),
    ] {
        let (tenant, tenants) = match cells {
            Cells::Bytes => ("BIGINT", Tenants::Integer),
            Cells::Text => ("VARCHAR(20) CHARACTER SET latin1", Tenants::Text),
            _ => ("VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", Tenants::Text),
        };
        let app = App::new();
        let source = app.people(token, tenant);
        conformance::source(&*source, &app, Holds { cells, tenants }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_every_row_of_tables_of_every_kind_is_visited_once() {
    let app = App::new();
    let dialect = Dialect {
        quote: '`',
        schema: Box::leak(app.database.clone().into_boxed_str()),
        id: |kind| match kind {
            IdKind::SmallInt => "SMALLINT",
            IdKind::Int => "INT",
            IdKind::BigInt => "BIGINT",
            IdKind::Text => "VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            IdKind::CaseBlind => "VARCHAR(50) CHARACTER SET latin1 COLLATE latin1_swedish_ci",
            IdKind::Uuid => "UUID",
            IdKind::Bytes => "VARBINARY(50)",
        },
        text: "VARCHAR(100) CHARACTER SET utf8mb4",
        bytes: ("x'", "'"),
    };
    for table in conformance::tables() {
        app.sql(&table.sql(&dialect).join("; "));
        let source = open_source(table.spec(&app.url(), dialect.schema)).unwrap();
        conformance::every_row_once(&*source, &table).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_42_long_ids_that_differ_at_their_end_alone_are_all_visited() {
    let app = App::new();
    for (name, id) in [
        ("hashed", "id TEXT CHARACTER SET latin1 NOT NULL, UNIQUE (id)"),
        ("begun", "id VARCHAR(1500) CHARACTER SET latin1 COLLATE latin1_bin, PRIMARY KEY (id(255))"),
    ] {
        // Two of a prefix would not be unique.
        let begin = if name == "hashed" { "REPEAT('x', 1100)" } else { "LPAD(seq MOD 7, 250, '0')" };
        app.sql(&format!(
            "CREATE TABLE {name} ({id}, tenant INT, token VARCHAR(100));
             INSERT INTO {name} SELECT CONCAT({begin}, LPAD(seq, 5, '0')), 1, CONCAT('km:v9:', seq) FROM seq_1_to_30"
        ));
        let mut spec = app.spec();
        spec.table = name.into();
        let source = open_source(spec).unwrap();
        assert_eq!(source.preflight().await.unwrap().blockers, Vec::<String>::new(), "{name}");
        for select in [Selection::Every, Selection::Prefixes(vec![b"km:v9:".to_vec()])] {
            let mut read: Vec<Row> = Vec::new();
            loop {
                let chunk = source.read(read.last().map(|row| &row.id), 4, &select).await.unwrap();
                if chunk.is_empty() || read.len() > 30 {
                    break;
                }
                read.extend(chunk);
            }
            let ids: std::collections::HashSet<_> = read.iter().map(|row| row.id.clone()).collect();
            assert_eq!((read.len(), ids.len()), (30, 30), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_pass_over_many_rows_of_mariadb_goes_in_bounded_steps() {
    // Of its own: so long a write would make the censuses of other tests inconclusive.
    let app = App::with(&[]);
    let source = app.people("VARCHAR(100) CHARACTER SET latin1", "VARCHAR(20)");
    app.sql(
        "INSERT INTO people SELECT seq, 'acme', CONCAT(IF(seq IN (77777, 77778, 199999), 'km:v9:', 'km:v10:'), seq)
         FROM seq_1_to_200000",
    );
    conformance::few_old_rows_among_many(&*source, 200_000, &[77_777, 77_778, 199_999]).await;
}
