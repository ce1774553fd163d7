//! All that can be known to be wrong with a source before the first write, each with its remedy.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Row as _};

use super::{
    beside::{self, WIDE_CHARSETS},
    checks,
    fault::Fault,
    galera,
    pool::Session,
    replicas, rights,
    sql::Sql,
    table::{self, Kind, Table, same},
    width::{self, Longest},
};
use crate::source::{Ahead, Preflight, Selection, SourceSpec, Task, before_next};

pub(super) async fn preflight(session: &mut Session, spec: &SourceSpec, ahead: Ahead) -> Result<Preflight, Fault> {
    table::hold(&mut session.connection, spec).await?;
    let found = looked(session, spec, ahead).await?;
    sqlx::raw_sql("COMMIT").execute(&mut session.connection).await?;
    Ok(found)
}

async fn looked(session: &mut Session, spec: &SourceSpec, ahead: Ahead) -> Result<Preflight, Fault> {
    let mut found = Preflight { server: session.server.name(), ..Preflight::default() };
    let writable = server(session, &mut found).await?;
    let Some(table) = table(session, spec, &mut found).await? else { return Ok(found) };
    found.grants = rights::needed(session, spec, &table).await?;
    if !columns(spec, &table, &mut found) {
        return Ok(found);
    }
    if let Some(column) = table.column(&spec.column).filter(|_| ahead.task != Task::Rekey) {
        found.blockers.extend(not_utf8(column));
    }
    indexes(spec, &table, ahead, &mut found);
    foreign_keys(session, spec, &table, &mut found).await?;
    effects(session, spec, &table, &mut found).await?;
    let sql = Sql::new(spec, &table, session.server.mariadb)?;
    // A server that is read-only refuses to try a write.
    if writable {
        rights::missing(session, &sql, &table, &mut found).await?;
    }
    // Without a right neither the plan nor the rows can be had.
    if found.blockers.is_empty() {
        order(session, &sql, &mut found).await?;
        cells(session, spec, &sql, &table, ahead, &mut found).await?;
    }
    Ok(found)
}

async fn settings(session: &mut Session) -> Result<BTreeMap<String, String>, Fault> {
    let show = "SHOW VARIABLES WHERE Variable_name IN ('read_only', 'innodb_read_only', 'log_bin', 'binlog_format', \
                'innodb_flush_log_at_trx_commit', 'sync_binlog')";
    galera::shown(&mut session.connection, show).await
}

fn is(settings: &BTreeMap<String, String>, name: &str, value: &str) -> bool {
    settings.get(name).is_some_and(|set| set.eq_ignore_ascii_case(value))
}

fn read_only(settings: &BTreeMap<String, String>) -> Option<&'static str> {
    // Newer servers have more ways of it than ON.
    let read_only = ["read_only", "innodb_read_only"].iter().any(|name| !is(settings, name, "OFF"));
    read_only.then_some("the server is read-only, as replicas are; name the primary in the source's url")
}

/// What is to be known of the server; whether it can be written to.
async fn server(session: &mut Session, found: &mut Preflight) -> Result<bool, Fault> {
    let settings = settings(session).await?;
    let is = |name: &str, value: &str| is(&settings, name, value);
    let read_only = read_only(&settings);
    found.blockers.extend(read_only.map(str::to_owned));
    if replicas::replicates(session).await? {
        found.warnings.push(format!("no census can be conclusive: {}", replicas::REPLICA));
    }
    if is("log_bin", "ON") && is("binlog_format", "STATEMENT") {
        found.blockers.push(
            "binlog_format is STATEMENT, which is not safe for this and forbids READ COMMITTED; set it to ROW or MIXED"
                .into(),
        );
    }
    if !is("innodb_flush_log_at_trx_commit", "1") {
        found.warnings.push(
            "innodb_flush_log_at_trx_commit is not 1: rows that were written can be old again after a power cut, which \
             only the next census finds"
                .into(),
        );
    }
    // With a binary log it is that one's sync that a commit waits for.
    if is("log_bin", "ON") && !is("sync_binlog", "1") {
        found.warnings.push(
            "sync_binlog is not 1: rows that were written can be old again after a power cut, which only the next census \
             finds"
                .into(),
        );
    }
    Ok(read_only.is_none())
}

/// The table; `None` where there is none that could be a source.
async fn table(session: &mut Session, spec: &SourceSpec, found: &mut Preflight) -> Result<Option<Table>, Fault> {
    let Some(table) = Table::look_up(&mut session.connection, spec).await? else {
        let (schema, name) = table::names(spec);
        let tables: Vec<(String,)> = sqlx::query_as(
            "SELECT CAST(TABLE_NAME AS CHAR) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) ORDER BY TABLE_NAME LIMIT 20",
        )
        .bind(schema)
        .fetch_all(&mut session.connection)
        .await?;
        let tables: Vec<&str> = tables.iter().map(|(name,)| name.as_str()).collect();
        let others = if tables.is_empty() { "none".into() } else { tables.join(", ") };
        found.blockers.push(format!(
            "there is no table {name}, or no right to see it; the database's tables: {others}. Correct the source's table"
        ));
        return Ok(None);
    };
    let Some(blocker) = beside::no_table(session, &table.schema, &table.name).await? else {
        return Ok(Some(table));
    };
    found.blockers.push(blocker);
    Ok(None)
}

/// Whether all columns are there, each in a role that it can have.
fn columns(spec: &SourceSpec, table: &Table, found: &mut Preflight) -> bool {
    let before = found.blockers.len();
    let data = spec.associated_data.columns();
    let ids = spec.id.iter().map(|id| ("id column", id.as_str()));
    let wanted = ids.clone().chain(data.iter().map(|name| ("associated_data column", *name)));
    for (role, name) in std::iter::once(("column", spec.column.as_str())).chain(wanted.clone()) {
        if table.column(name).is_none() {
            let all: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            let all = all.join(", ");
            found.blockers.push(format!(
                "{role} {name} is missing; {} has: {all}. If it is there, it can't be seen. Run: {}",
                table.name,
                found.grants.join(" ")
            ));
        }
    }
    for (role, column) in wanted.filter_map(|(role, name)| Some((role, table.column(name)?))) {
        if column.kind == Kind::Other {
            found.blockers.push(format!(
                "{role} {} is {}; only integers, text, bytes and UUIDs tell rows apart",
                column.name, column.declared
            ));
        }
        if same(&column.name, &spec.column) {
            found.blockers.push(format!("column {} can't be its own {role}; name another", column.name));
        }
    }
    let names: Vec<&str> = ids.map(|(_, name)| name).collect();
    if names.iter().enumerate().any(|(n, id)| names.iter().skip(n + 1).any(|other| same(id, other))) {
        found.blockers.push("the id names one column twice; name each once".into());
    }
    if let Some(column) = table.column(&spec.column) {
        found.blockers.extend(unfit(column));
    }
    for column in table.columns.iter().filter(|column| column.moves_on_update) {
        let kept = format!("column {} has ON UPDATE CURRENT_TIMESTAMP; it is kept as it is", column.name);
        found.warnings.push(kept);
    }
    found.blockers.len() == before
}

/// Why a column can't hold values.
fn unfit(column: &table::Column) -> Option<String> {
    let (name, declared) = (&column.name, &column.declared);
    if column.generated {
        return Some(format!("column {name} is generated; declare the column that it is made from"));
    }
    match &column.kind {
        Kind::Text { charset, .. } if WIDE_CHARSETS.contains(&charset.as_str()) => {
            Some(format!("column {name} is in {charset}, where values are not found by their bytes; use utf8mb4"))
        }
        // Its end is cut off or filled up.
        Kind::Text { .. } | Kind::Bytes if declared.starts_with("char(") || declared.starts_with("binary(") => {
            Some(format!("column {name} is {declared}, which pads values; make it var{declared}"))
        }
        Kind::Text { .. } | Kind::Bytes => None,
        _ => Some(format!("column {name} is {declared}, and values are text or bytes; correct the declaration")),
    }
}

/// Plaintext is UTF-8 to all who encrypt and decrypt; in another character set other bytes stand for it.
fn not_utf8(column: &table::Column) -> Option<String> {
    match &column.kind {
        Kind::Text { charset, .. } if !["utf8mb4", "utf8mb3", "utf8", "ascii"].contains(&charset.as_str()) => {
            Some(format!(
                "column {} is in {charset}, and plaintext is to be UTF-8 there: whoever decrypts would read other letters. \
                 Convert it: ALTER TABLE … MODIFY … CHARACTER SET utf8mb4",
                column.name
            ))
        }
        _ => None,
    }
}

/// So much of a value tells it from all others of its version: some 80 random bits behind what they share.
const UNIQUE_BEGINNING: u64 = 24;

fn indexes(spec: &SourceSpec, table: &Table, ahead: Ahead, found: &mut Preflight) {
    match table.unique(&spec.id) {
        None => found.blockers.push(format!(
            "id ({}) is neither the primary key of {} nor a UNIQUE index on just these columns, all NOT NULL; name the \
             primary key as id",
            spec.id.join(", "),
            table.name
        )),
        Some(index) if index.of_prefixes => found.warnings.push(format!(
            "the index {} holds only the beginning of the id, or a hash of it, so every chunk sorts the table",
            index.name
        )),
        Some(_) => {}
    }
    let begins = table.unique_prefix(&spec.column, &spec.id).filter(|(_, prefix)| *prefix < UNIQUE_BEGINNING);
    // What a release writes begins as nobody knows before.
    if let Some((index, prefix)) = begins.filter(|_| ahead.task != Task::Release) {
        found.blockers.push(format!(
            "the unique index {} holds the first {prefix} of column {} alone, with which all values of one version begin, or \
             nearly so; drop it or make it whole",
            index.name, spec.column
        ));
    }
    for index in table.indexes.iter().filter(|i| i.columns.iter().any(|name| same(name, &spec.column))) {
        found.warnings.push(format!(
            "the index {} holds column {}: every rewritten value moves it too",
            index.name, spec.column
        ));
        if index.unique && ahead.task == Task::Adopt {
            found.warnings.push(format!(
                "the unique index {} keeps no plaintext from being there twice once it is encrypted: two values of one \
                 plaintext differ",
                index.name
            ));
        }
    }
}

/// A new value in one of two columns that must be equal breaks them apart, or is written to the other one as well.
async fn foreign_keys(
    session: &mut Session,
    spec: &SourceSpec,
    table: &Table,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let seen: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(CONSTRAINT_NAME AS CHAR), CAST(TABLE_NAME AS CHAR) FROM information_schema.KEY_COLUMN_USAGE \
         WHERE REFERENCED_TABLE_NAME IS NOT NULL AND ((TABLE_SCHEMA = ? AND TABLE_NAME = ? AND COLUMN_NAME = ?) \
         OR (REFERENCED_TABLE_SCHEMA = ? AND REFERENCED_TABLE_NAME = ? AND REFERENCED_COLUMN_NAME = ?))",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .bind(&spec.column)
    .bind(&table.schema)
    .bind(&table.name)
    .bind(&spec.column)
    .fetch_all(&mut session.connection)
    .await?;
    let mut keys = BTreeSet::from_iter(seen);
    keys.extend(unseen(session, spec, table).await?);
    for (key, of) in keys {
        found.blockers.push(format!(
            "column {} is in the foreign key {key} of table {of}, which a new value would break or cascade; drop it",
            spec.column
        ));
    }
    Ok(())
}

/// Those that refer to the column from tables which the account may not see, each with its table. The engine spells the
/// names of tables as it does those of files.
async fn unseen(session: &mut Session, spec: &SourceSpec, table: &Table) -> Result<Vec<(String, String)>, Fault> {
    if !session.server.mariadb {
        return Ok(Vec::new());
    }
    let keys = sqlx::query_as(
        "SELECT CAST(SUBSTRING(ID, LOCATE('/', ID) + 1) AS CHAR), \
         CONVERT(CONVERT(CAST(SUBSTRING_INDEX(FOR_NAME, '/', -1) AS BINARY) USING filename) USING utf8mb4), \
         CAST(REF_COL_NAME AS CHAR) \
         FROM information_schema.INNODB_SYS_FOREIGN JOIN information_schema.INNODB_SYS_FOREIGN_COLS USING (ID) \
         WHERE CAST(REF_NAME AS BINARY) = CONCAT(CAST(CONVERT(? USING filename) AS BINARY), '/', \
         CAST(CONVERT(? USING filename) AS BINARY))",
    )
    .bind(&table.schema)
    .bind(&table.name);
    let keys: Result<Vec<(String, String, String)>, sqlx::Error> = keys.fetch_all(&mut session.connection).await;
    match keys.map_err(Fault::from) {
        Ok(keys) => {
            let of_column = keys.into_iter().filter(|(.., column)| same(column, &spec.column));
            Ok(of_column.map(|(key, of, _)| (key, of)).collect())
        }
        // Without the right PROCESS, which a census needs as well and a warning asks for.
        Err(Fault::Mistaken(_)) => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

/// The triggers that an update of a table fires.
pub(super) async fn triggers(session: &mut Session, schema: &str, table: &str) -> Result<Vec<String>, Fault> {
    let fired: Vec<(String,)> = sqlx::query_as(
        "SELECT CAST(TRIGGER_NAME AS CHAR) FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = ? \
         AND EVENT_OBJECT_TABLE = ? AND CAST(EVENT_MANIPULATION AS CHAR) LIKE '%UPDATE%' ORDER BY TRIGGER_NAME",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(&mut session.connection)
    .await?;
    Ok(fired.into_iter().map(|(name,)| name).collect())
}

async fn effects(
    session: &mut Session,
    spec: &SourceSpec,
    table: &Table,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let fired = triggers(session, &table.schema, &table.name).await?;
    for name in &fired {
        if spec.accept_triggers.contains(name) {
            found.side_effects.push(format!("trigger {name} fires for every row that is written"));
        } else {
            found.blockers.push(format!(
                "trigger {name} fires for every row that is written, and may copy old values elsewhere; drop it, or look at \
                 what it does and name it in accept_triggers (a table it copies values to must be a source too)"
            ));
        }
    }
    for name in spec.accept_triggers.iter().filter(|name| !fired.contains(name)) {
        found.warnings.push(format!("accept_triggers names {name}, which no update of this table fires"));
    }
    Ok(())
}

/// Which index gives the rows in the order of their ids, by the server's own plan.
async fn order(session: &mut Session, sql: &Sql, found: &mut Preflight) -> Result<(), Fault> {
    let read = sql.read(false, false, &Selection::Every);
    let explain = format!("EXPLAIN {read}");
    let plan = sqlx::query(AssertSqlSafe(explain)).persistent(false).bind(1000_u64);
    let mut sorts = false;
    for step in plan.fetch_all(&mut session.connection).await? {
        let text = |name: &str| step.try_get_unchecked::<Option<String>, _>(name).map(Option::unwrap_or_default);
        if text("Extra")?.contains("filesort") {
            sorts = true;
            found.warnings.push(
                "no index gives the rows in the order of their ids, so every chunk sorts the table; make one on the id \
                 columns"
                    .into(),
            );
        }
        found.index = Some(text("key")?).filter(|key| !key.is_empty());
    }
    if sorts {
        let first = sqlx::query(AssertSqlSafe(read)).persistent(false).bind(1_u64);
        match first.fetch_all(&mut session.connection).await.map_err(Fault::from) {
            Err(Fault::Mistaken(reason)) => found.blockers.push(reason),
            read => drop(read?),
        }
    }
    Ok(())
}

/// Reads the table once for cells that are too long, or hold values in their midst, and for ids that are too large.
async fn cells(
    session: &mut Session,
    spec: &SourceSpec,
    sql: &Sql,
    table: &Table,
    ahead: Ahead,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let row = sqlx::query(AssertSqlSafe(sql.unfit())).persistent(false).fetch_one(&mut session.connection).await?;
    let number = |at: usize| row.try_get_unchecked::<Option<i64>, _>(at).map(|n| n.map(i64::unsigned_abs));
    let longest = Longest { value_bytes: number(0)?, version: number(1)?, plaintext_bytes: number(2)? };
    let value_bytes = number(4)?.unwrap_or_default();
    if let Some(column) = table.column(&spec.column) {
        match width::why_not(table, column, longest, ahead) {
            Some(blocker) => found.blockers.push(blocker),
            None => found.warnings.extend(width::why_not(table, column, longest, ahead.later()).map(before_next)),
        }
        found.blockers.extend(width::no_packet(column, value_bytes, longest, ahead, session.server.packet_bytes));
        checks::tried(session, sql, table, column, (ahead.task, ahead.version_after(longest.version)), found)
            .await?;
    }
    if let Some(cells @ 1..) = number(3)? {
        found.warnings.push(format!(
            "{cells} cells hold km:v<version>: behind their beginning, as JSON or text around a value does; those are not \
             rewritten, and the column can't be called clean. Move the values to a column of their own"
        ));
    }
    for (at, id) in spec.id.iter().enumerate() {
        if let Some(1..) = number(5 + at)? {
            found.blockers.push(match table.column(id).map(|column| &column.kind) {
                Some(Kind::Text { charset, .. }) => format!(
                    "ids in {id} have characters that {charset} has twice or Unicode has not, so that their rows could not be \
                     found again; convert the column to utf8mb4"
                ),
                _ => format!("ids in {id} are above 9223372036854775807, which none may be; change them"),
            });
        }
    }
    Ok(())
}
