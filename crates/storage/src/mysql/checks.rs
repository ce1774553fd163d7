//! Conditions that the schema puts on the column, tried on what the new values will look like: nothing is written.

use sqlx::{AssertSqlSafe, Row as _};

use super::{
    fault::Fault,
    pool::Session,
    sql::{Sql, quoted},
    table::{Column, Table, same},
};
use crate::source::{Preflight, Task};

pub(super) async fn tried(
    session: &mut Session,
    sql: &Sql,
    table: &Table,
    column: &Column,
    (task, version): (Task, u64),
    found: &mut Preflight,
) -> Result<(), Fault> {
    // What comes out of a value nobody knows before.
    if task == Task::Release {
        return Ok(());
    }
    let others: Vec<&str> =
        table.columns.iter().map(|other| other.name.as_str()).filter(|name| !same(name, &column.name)).collect();
    let mentions = |text: &str| text.to_lowercase().contains(&quoted(&column.name).to_lowercase());
    // What a server makes of a value in a SELECT says nothing of what it takes in a strict UPDATE.
    for (name, expression) in generated(session, table).await? {
        if mentions(&expression) {
            found.warnings.push(format!(
                "the generated column {name} is made from column {}: where it can't be made from a value, no row can be \
                 written",
                column.name
            ));
        }
    }
    // The server asks every one again of a row that is written, whatever column is: one that was added without a check of
    // the rows may have been broken all along, and nothing tells which were.
    let checks = checks(session, table).await?;
    if checks.is_empty() {
        return Ok(());
    }
    // Most tables keep all of them, which one look tells.
    let together: Vec<String> = checks.iter().map(|(_, condition)| format!("({condition})")).collect();
    let together = sql.check(task, version, &together.join(" AND "), &others);
    let together = sqlx::query(AssertSqlSafe(together)).persistent(false).fetch_one(&mut session.connection).await;
    if together.is_ok_and(|row| row.try_get_unchecked::<i64, _>(0).is_ok_and(|rows| rows == 0)) {
        return Ok(());
    }
    for (name, condition) in checks {
        let statement = sql.check(task, version, &condition, &others);
        let tried =
            sqlx::query(AssertSqlSafe(statement)).persistent(false).fetch_one(&mut session.connection).await;
        match tried.map(|row| row.try_get_unchecked::<i64, _>(0)) {
            Ok(rows) => match rows? {
                0 => {}
                rows => found.blockers.push(format!(
                    "the constraint {name} refuses {rows} rows or more as they will be written; correct them, drop it, or \
                     let it allow them"
                )),
            },
            Err(error) => match Fault::from(error) {
                Fault::Mistaken(reason) => found.warnings.push(format!(
                    "the constraint {name} is asked of every row that is written and could not be tried before: {reason}"
                )),
                fault => return Err(fault),
            },
        }
    }
    Ok(())
}

/// The table's conditions, each with its name. A column's own has the name of its column.
async fn checks(session: &mut Session, table: &Table) -> Result<Vec<(String, String)>, Fault> {
    let of_table = if session.server.mariadb {
        "information_schema.CHECK_CONSTRAINTS AS c WHERE c.CONSTRAINT_SCHEMA = ? AND c.TABLE_NAME = ?"
    } else {
        "information_schema.CHECK_CONSTRAINTS AS c JOIN information_schema.TABLE_CONSTRAINTS AS t \
         USING (CONSTRAINT_SCHEMA, CONSTRAINT_NAME) WHERE t.CONSTRAINT_SCHEMA = ? AND t.TABLE_NAME = ? AND t.ENFORCED = 'YES'"
    };
    let sql = format!("SELECT CAST(c.CONSTRAINT_NAME AS CHAR), CAST(c.CHECK_CLAUSE AS CHAR) FROM {of_table}");
    let found = sqlx::query_as(AssertSqlSafe(sql)).bind(&table.schema).bind(&table.name);
    Ok(found.fetch_all(&mut session.connection).await?)
}

/// Generated columns, each with what it is made from.
async fn generated(session: &mut Session, table: &Table) -> Result<Vec<(String, String)>, Fault> {
    let found = sqlx::query_as(
        "SELECT CAST(COLUMN_NAME AS CHAR), CAST(GENERATION_EXPRESSION AS CHAR) FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND GENERATION_EXPRESSION <> ''",
    )
    .bind(&table.schema)
    .bind(&table.name);
    Ok(found.fetch_all(&mut session.connection).await?)
}
