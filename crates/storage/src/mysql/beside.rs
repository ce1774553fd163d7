//! Rows that belong to a source and that no count of its table on this server shows.

use super::{fault::Fault, pool::Session, replicas, sql::Sql, table::Kind};

/// Character sets whose characters have two or four bytes, so that `km:v9:` has other bytes in them.
pub(super) const WIDE_CHARSETS: [&str; 4] = ["utf16", "utf16le", "ucs2", "utf32"];

/// Why a count proves nothing, whatever it finds.
pub(super) async fn look(session: &mut Session, sql: &Sql) -> Result<Option<String>, Fault> {
    if let Some(reason) = no_table(session, &sql.schema, &sql.name).await? {
        return Ok(Some(reason));
    }
    if let Kind::Text { charset, .. } = &sql.cell
        && WIDE_CHARSETS.contains(&charset.as_str())
    {
        return Ok(Some(format!("the column's character set {charset} spells values otherwise; make it utf8mb4")));
    }
    replicas::doubt(session).await
}

/// Why it is no table that can be rekeyed and counted.
pub(super) async fn no_table(session: &mut Session, schema: &str, name: &str) -> Result<Option<String>, Fault> {
    let (kind, engine): (String, Option<String>) = sqlx::query_as(
        "SELECT CAST(TABLE_TYPE AS CHAR), CAST(ENGINE AS CHAR) FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
    )
    .bind(schema)
    .bind(name)
    .fetch_one(&mut session.connection)
    .await?;
    Ok(match (kind.as_str(), engine.as_deref()) {
        ("BASE TABLE", Some("InnoDB")) => None,
        ("BASE TABLE", engine) => Some(format!(
            "{name} is stored by {}, which has no transactions; ALTER TABLE {name} ENGINE=InnoDB",
            engine.unwrap_or("an unknown engine")
        )),
        ("SYSTEM VERSIONED", _) => Some(format!(
            "{name} is system-versioned: its history would keep every old value, and can't be rewritten; ALTER TABLE {name} \
             DROP SYSTEM VERSIONING, or let the old version live as long as the history"
        )),
        (kind, _) => Some(format!("{name} is a {}; declare the real table behind it", kind.to_lowercase())),
    })
}
