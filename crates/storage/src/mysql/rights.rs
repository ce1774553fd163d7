//! What the account may do: the smallest grants that the job needs, and which of them are missing.

use sqlx::{AssertSqlSafe, Row as _};

use super::{
    fault::Fault,
    older,
    pool::Session,
    sql::{Sql, quoted},
    table::Table,
};
use crate::source::{Preflight, SourceSpec};

/// The smallest grants, to copy. All columns must be seen, lest one move with every update unnoticed.
pub(super) async fn needed(session: &mut Session, spec: &SourceSpec, table: &Table) -> Result<Vec<String>, Fault> {
    let (account,): (String,) =
        sqlx::query_as("SELECT CAST(CURRENT_USER() AS CHAR)").fetch_one(&mut session.connection).await?;
    let (user, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
    let account = format!("{}@{}", quoted(user), quoted(host));
    let on = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let moving = table.columns.iter().filter(|column| column.moves_on_update).map(|column| &column.name);
    let written: Vec<String> = std::iter::once(&spec.column).chain(moving).map(|name| quoted(name)).collect();
    Ok(vec![
        format!("GRANT SELECT, TRIGGER, UPDATE ({}) ON {on} TO {account};", written.join(", ")),
        format!("{} TO {account};", older::right(session)),
    ])
}

/// What is missing of them, by trying it without doing it.
pub(super) async fn missing(
    session: &mut Session,
    sql: &Sql,
    table: &Table,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let grants = found.grants.join(" ");
    let blocked = |what: &str, reason: &str| format!("{what}: {reason}. Run: {grants}");
    if let Some(reason) = refused(session, &sql.every_column(), 0).await? {
        let what = "not all columns can be seen, and one that moves with every update would be missed";
        found.blockers.push(blocked(what, &reason));
    }
    // A row without ids, which no row has: as it is explained, nothing is looked for either.
    let write = format!("EXPLAIN {}", sql.write(1));
    if let Some(reason) = refused(session, &write, sql.write_parameters()).await? {
        found.blockers.push(blocked("the column can't be written", &reason));
    }
    if !sees_triggers(session, table).await? {
        found.blockers.push(blocked("triggers can't be seen", "the account has no right TRIGGER on the table"));
    }
    let transactions = "SELECT COUNT(*) FROM information_schema.INNODB_TRX";
    if let Some(reason) = refused(session, transactions, 0).await? {
        found.warnings.push(blocked("no census can be conclusive, as transactions can't be seen", &reason));
    }
    Ok(())
}

/// Why the server refuses a statement; all its parameters are NULL.
async fn refused(session: &mut Session, sql: &str, parameters: usize) -> Result<Option<String>, Fault> {
    let mut statement = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
    for _ in 0..parameters {
        statement = statement.bind(None::<&[u8]>);
    }
    match statement.fetch_all(&mut session.connection).await.map_err(Fault::from) {
        Ok(_) => Ok(None),
        Err(Fault::Mistaken(reason)) => Ok(Some(reason)),
        Err(fault) => Err(fault),
    }
}

/// The catalogue shows no trigger to an account without the right, and does not say so.
async fn sees_triggers(session: &mut Session, table: &Table) -> Result<bool, Fault> {
    let grants = sqlx::raw_sql("SHOW GRANTS").fetch_all(&mut session.connection).await?;
    for grant in grants {
        let grant: String = grant.try_get_unchecked(0)?;
        if allows(&grant, "TRIGGER", table) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a line of `SHOW GRANTS` gives a right on the table.
fn allows(grant: &str, right: &str, table: &Table) -> bool {
    let parts = grant.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON "));
    let Some((rights, rest)) = parts else { return false };
    let object = rest.split(" TO ").next().unwrap_or_default();
    let has = rights.split(", ").any(|one| one == right || one == "ALL PRIVILEGES");
    let on = match object.strip_suffix(".*") {
        Some("*") => true,
        Some(schema) => like(&unquoted(schema), &table.schema),
        None => object == format!("{}.{}", quoted(&table.schema), quoted(&table.name)),
    };
    has && on
}

fn unquoted(name: &str) -> String {
    name.trim_matches('`').replace("``", "`")
}

/// Grants on databases are patterns: `%` and `_` stand for others unless there is a `\` before.
fn like(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| name.get(at..).is_some_and(|end| like(rest.as_str(), end))),
        Some(sign) => {
            let (literal, rest) = match (sign, rest.as_str().chars().next()) {
                ('\\', Some(next)) => (Some(next), rest.as_str().get(next.len_utf8()..).unwrap_or_default()),
                ('_', _) => (None, rest.as_str()),
                _ => (Some(sign), rest.as_str()),
            };
            let mut name = name.chars();
            name.next().is_some_and(|first| literal.is_none_or(|sign| sign == first)) && like(rest, name.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_counts_where_it_covers_the_table() {
        let table = Table { schema: "my_app".into(), name: "t".into(), columns: vec![], indexes: vec![] };
        for covers in [
            "GRANT ALL PRIVILEGES ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*x' WITH GRANT OPTION",
            "GRANT SELECT, TRIGGER ON `my\\_app`.* TO `a`@`%`",
            "GRANT TRIGGER ON `my%`.* TO `a`@`%`",
            "GRANT SELECT (`c`, `id`), UPDATE (`c`), TRIGGER ON `my_app`.`t` TO `a`@`%`",
        ] {
            assert!(allows(covers, "TRIGGER", &table), "{covers}");
        }
        for other in [
            "GRANT SELECT ON *.* TO `a`@`%`",
            "GRANT TRIGGER ON `other`.* TO `a`@`%`",
            "GRANT TRIGGER ON `my\\_ap`.* TO `a`@`%`",
            "GRANT TRIGGER ON `my_app`.`other` TO `a`@`%`",
            "GRANT `role` TO `a`@`%`",
        ] {
            assert!(!allows(other, "TRIGGER", &table), "{other}");
        }
    }
}
