//! What the schema hangs on the column, tried on what the new values will look like: nothing is written.

use sqlx::PgConnection;

use super::{
    super::fault::Fault,
    preflight::TREE,
    session::WHOLE_TABLE,
    shape::{Relation, Shape},
    sql::{catalogue, query},
};
use crate::{
    pool::Failure as _,
    source::{Preflight, Task},
};

/// The quoted table whose rows it is of, and that table's bare name; what it is called, its expression, whether that must
/// hold (else it must only have a result), whether every row is known to keep it, and the columns in it.
type Check = (String, String, String, String, bool, bool, Vec<String>);

/// Constraints, expressions of indexes and what generated columns are made from: the table's, and what its partitions have
/// beside that. `tree`: all of them, by oid, with both names.
const CHECKS: &str = "
    SELECT quoted, name, 'the constraint ' || conname, pg_get_expr(conbin, conrelid), true, convalidated,
        array(SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey))
    FROM pg_constraint AS k JOIN tree ON tree.oid = conrelid
    WHERE contype = 'c' AND (conrelid = $1::int8::oid OR coninhcount = 0)
    AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)
    UNION ALL
    SELECT quoted, name, 'the index ' || indexrelid::regclass::text, expression, false, true,
        array(SELECT attname::text FROM pg_depend AS d JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = indexrelid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = indrelid AND attnum > 0)
    FROM pg_index JOIN tree ON tree.oid = indrelid CROSS JOIN LATERAL (
        SELECT pg_get_indexdef(indexrelid, n, false) FROM generate_series(1, indnkeyatts) AS n WHERE indkey[n - 1] = 0
        UNION ALL SELECT pg_get_expr(indpred, indrelid) WHERE indpred IS NOT NULL) AS e (expression)
    WHERE indrelid = $1::int8::oid OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid)
    UNION ALL
    SELECT quoted, name, 'the generated column ' || a.attname, pg_get_expr(adbin, adrelid), false, true,
        array(SELECT used.attname::text FROM pg_depend AS d
            JOIN pg_attribute AS used ON used.attrelid = refobjid AND used.attnum = refobjsubid
            WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = adrelid AND used.attnum NOT IN (0, a.attnum))
    FROM pg_attrdef AS f JOIN tree ON tree.oid = adrelid
    JOIN pg_attribute AS a ON a.attrelid = adrelid AND a.attnum = adnum
    WHERE adrelid = $1::int8::oid AND a.attgenerated <> ''";

/// Tries every one of them. What can't be tried, such as by a role that may not read all that is in it, is a warning.
pub(super) async fn tried(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    task: Task,
    version: u64,
    found: &mut Preflight,
) -> Result<(), Fault> {
    // What comes out of a value nobody knows before.
    if task == Task::Release {
        return Ok(());
    }
    let checks = format!(
        "WITH tree AS (SELECT all_of_it.oid, format('%I.%I', nspname, relname) AS quoted, relname::text AS name FROM {TREE} AS all_of_it \
         JOIN pg_class USING (oid) JOIN pg_namespace AS n ON n.oid = relnamespace) {CHECKS}"
    );
    let checks: Vec<Check> = catalogue(checks).bind(relation.oid).fetch_all(&mut *connection).await?;
    let domain: Option<(String,)> = sqlx::query_as(
        "SELECT format('%I.%I', nspname, typname) FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid \
         JOIN pg_namespace ON pg_namespace.oid = typnamespace \
         WHERE attrelid = $1::int8::oid AND attname = $2 AND typtype = 'd'",
    )
    .bind(relation.oid)
    .bind(&shape.column.name)
    .fetch_optional(&mut *connection)
    .await?;
    for (table, bare, name, expression, must_hold, kept, columns) in checks {
        // The server asks every constraint again of a row that is written, whatever column is.
        if columns.contains(&shape.column.name) || !kept {
            let sql = shape.check((&table, &bare), task, version, (&expression, must_hold), &columns);
            verdict(&name, count(connection, sql).await?, found);
        }
    }
    if let Some((domain,)) = domain {
        let sql = shape.check_domain(task, version, &domain);
        verdict(&format!("the domain {domain}"), count(connection, sql).await?, found);
    }
    Ok(())
}

fn verdict(name: &str, tried: Result<i64, Fault>, found: &mut Preflight) {
    match tried {
        Ok(0) => {}
        Ok(rows) => found.blockers.push(format!(
            "{name} refuses {rows} rows or more as they will be written; correct them, drop it, or let it allow them"
        )),
        Err(fault) => found
            .warnings
            .push(format!("{name} is asked of every row that is written and could not be tried before: {}", fault.reason())),
    }
}

/// How many rows are refused; inside, why that could not be told.
async fn count(connection: &mut PgConnection, sql: String) -> Result<Result<i64, Fault>, Fault> {
    sqlx::raw_sql("BEGIN READ ONLY; SET LOCAL statement_timeout = '1700s'").execute(&mut *connection).await?;
    sqlx::raw_sql(WHOLE_TABLE).execute(&mut *connection).await?;
    let counted = query(sql).persistent(false).fetch_one(&mut *connection).await;
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    // The first row that a domain does not take, or that nothing can be computed from, ends the statement.
    let refused = |error: &sqlx::Error| {
        let code = error.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| ["22", "23", "P0"].iter().any(|class| code.starts_with(class)))
    };
    match counted {
        Ok(row) => Ok(Ok(sqlx::Row::try_get(&row, 0)?)),
        Err(error) if refused(&error) => Ok(Ok(1)),
        Err(error) => match Fault::from(error) {
            fault @ Fault::Unreachable(_) => Err(fault),
            fault => Ok(Err(fault)),
        },
    }
}
