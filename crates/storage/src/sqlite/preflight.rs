//! All that can be known to be wrong with a source before the first write, each with its remedy.

use keymoot_types::value::{begins_as_value, holds_embedded_value};
use rusqlite::{Connection, OptionalExtension as _, params, types::ValueRef};

use super::{
    fault::Fault,
    source::server,
    sql::{Sql, table_name},
    unique,
};
use crate::source::{Preflight, Selection, SourceSpec};

/// A column as the table declares it.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) not_null: bool,
    pub(super) primary: bool,
    generated: bool,
}

impl Column {
    /// As SQLite compares names: case-blind in ASCII.
    pub(super) fn find<'a>(columns: &'a [Self], name: &str) -> Option<&'a Self> {
        columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }
}

pub(super) fn preflight(connection: &Connection, spec: &SourceSpec, sql: &Sql) -> Result<Preflight, Fault> {
    let mut found = Preflight { server: server(), ..Preflight::default() };
    file(connection, &mut found)?;
    let Some(columns) = table(connection, spec, &mut found)? else { return Ok(found) };
    if !names(spec, &columns, &mut found) {
        return Ok(found);
    }
    foreign_keys(connection, spec, &mut found)?;
    found.blockers.extend(unique::why_not(connection, table_name(spec), &columns, &spec.id)?);
    for index in unique::indexes_with(connection, table_name(spec), &spec.column)? {
        found
            .warnings
            .push(format!("the index {index} holds column {}: every rewritten value moves it too", spec.column));
    }
    // What can't be compiled (a trigger on a missing table, an unknown collation) would fail at the first row.
    match order(connection, sql, &mut found).and_then(|()| triggers(connection, spec, sql, &mut found)) {
        Err(Fault::Mistaken(reason)) => {
            found.blockers.push(format!("SQLite can't compile what the job runs: {reason}; repair the schema"));
        }
        done => {
            done?;
            rows(connection, spec, &columns, sql, &mut found)?;
            if found.blockers.is_empty() {
                embedded(connection, spec, sql, &mut found)?;
            }
        }
    }
    Ok(found)
}

fn file(connection: &Connection, found: &mut Preflight) -> Result<(), Fault> {
    if connection.is_readonly("main")? {
        found
            .blockers
            .push("the file is read-only; give the user that Keymoot runs as the right to write it".into());
    }
    let text = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, String>(0));
    let encoding = text("PRAGMA encoding")?;
    if encoding != "UTF-8" {
        found.blockers.push(format!(
            "the database is in {encoding}, where values can't be compared as bytes; dump it into one in UTF-8"
        ));
    }
    let mode = text("PRAGMA journal_mode")?;
    if mode != "wal" {
        found.warnings.push(format!("journal_mode is {mode}: readers and writers block each other; consider WAL"));
    }
    Ok(())
}

/// The columns of the table; `None` where there is no table that could be a source.
fn table(connection: &Connection, spec: &SourceSpec, found: &mut Preflight) -> Result<Option<Vec<Column>>, Fault> {
    let table = table_name(spec);
    match unfit_kind(connection, table)? {
        Some(None) => {}
        None => {
            let tables: Vec<String> = connection
                .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 20")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let others = if tables.is_empty() { "none".into() } else { tables.join(", ") };
            found.blockers.push(format!(
                "there is no table {table}; the database's tables: {others}. Correct the source's table"
            ));
            return Ok(None);
        }
        Some(Some(reason)) => {
            found.blockers.push(reason);
            return Ok(None);
        }
    }
    let mut statement =
        connection.prepare("SELECT name, \"notnull\", pk > 0, hidden > 0 FROM pragma_table_xinfo(?1, 'main')")?;
    let columns = statement.query_map([table], |row| {
        Ok(Column { name: row.get(0)?, not_null: row.get(1)?, primary: row.get(2)?, generated: row.get(3)? })
    })?;
    Ok(Some(columns.collect::<Result<_, _>>()?))
}

/// Why a table is of no kind that could be a source, if there is one of this name.
pub(super) fn unfit_kind(connection: &Connection, table: &str) -> Result<Option<Option<String>>, Fault> {
    let kind: Option<String> = connection
        .query_row("SELECT type FROM pragma_table_list(?1) WHERE schema = 'main'", [table], |row| row.get(0))
        .optional()?;
    Ok(kind.map(|kind| {
        let what = match kind.as_str() {
            "table" => return None,
            "view" => "view",
            _ => "virtual table",
        };
        Some(format!("{table} is a {what}; declare the real table behind it as the source"))
    }))
}

/// Whether all columns are there, each in a role that it can have.
fn names(spec: &SourceSpec, columns: &[Column], found: &mut Preflight) -> bool {
    let before = found.blockers.len();
    let same = |name: &str| name.eq_ignore_ascii_case(&spec.column);
    let data = spec.associated_data.columns();
    let wanted = std::iter::once(("column", spec.column.as_str()))
        .chain(spec.id.iter().map(|id| ("id column", id.as_str())))
        .chain(data.iter().map(|name| ("associated_data column", *name)));
    for (role, name) in wanted {
        if Column::find(columns, name).is_none() {
            let all: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            found.blockers.push(format!("{role} {name} is missing; {} has: {}", table_name(spec), all.join(", ")));
        }
    }
    if Column::find(columns, &spec.column).is_some_and(|column| column.generated) {
        found.blockers.push(format!(
            "column {} is generated and can't be written; declare the column it is made from",
            spec.column
        ));
    }
    if spec.id.iter().any(|id| same(id)) || data.iter().any(|name| same(name)) {
        found.blockers.push(format!(
            "column {} can't be its own id or associated data; name another column for those",
            spec.column
        ));
    }
    if spec
        .id
        .iter()
        .enumerate()
        .any(|(n, id)| spec.id.iter().skip(n + 1).any(|other| id.eq_ignore_ascii_case(other)))
    {
        found.blockers.push("the id names one column twice; name each once".into());
    }
    found.blockers.len() == before
}

/// A new value in one of two columns that must be equal breaks them apart.
fn foreign_keys(connection: &Connection, spec: &SourceSpec, found: &mut Preflight) -> Result<(), Fault> {
    let mut statement = connection.prepare(
        "SELECT s.name FROM main.sqlite_schema AS s, pragma_foreign_key_list(s.name, 'main') AS f WHERE s.type = 'table' \
         AND ((s.name = ?1 COLLATE NOCASE AND f.\"from\" = ?2 COLLATE NOCASE) \
         OR (f.\"table\" = ?1 COLLATE NOCASE AND f.\"to\" = ?2 COLLATE NOCASE))",
    )?;
    for table in statement.query_map(params![table_name(spec), spec.column], |row| row.get::<_, String>(0))? {
        found.blockers.push(format!(
            "column {} is in a foreign key of table {}, which a new value would break; drop the foreign key",
            spec.column, table?
        ));
    }
    Ok(())
}

/// Which index gives the rows in the order of their ids, by SQLite's own plan.
fn order(connection: &Connection, sql: &Sql, found: &mut Preflight) -> Result<(), Fault> {
    let mut statement =
        connection.prepare(&format!("EXPLAIN QUERY PLAN {}", sql.read(true, false, &Selection::Every)))?;
    // Explained, and not run: its parameters need no values.
    let mut plan = statement.raw_query();
    while let Some(step) = plan.next()? {
        let step: String = step.get("detail")?;
        if step.contains("TEMP B-TREE") {
            found.warnings.push("no index gives the rows in the order of their ids, so every chunk sorts the table; make one on the id columns in their order".into());
        }
        if let Some((_, used)) = step.split_once(" USING ") {
            let name = used.split(" (").next().unwrap_or(used);
            found.index = Some(name.trim_start_matches("COVERING ").trim_start_matches("INDEX ").to_owned());
        }
    }
    Ok(())
}

/// The triggers that an update of this column fires, directly or through another, by SQLite's own program for
/// it: each is a subprogram that begins with `-- TRIGGER name`.
pub(super) fn fired(connection: &Connection, spec: &SourceSpec, sql: &Sql) -> Result<Vec<String>, Fault> {
    let update = sql.swap(spec.associated_data.columns().into_iter());
    let mut statement = connection.prepare(&format!("EXPLAIN {update}"))?;
    let mut program = statement.raw_query();
    let (mut fired, mut any): (Vec<String>, bool) = (Vec::new(), false);
    while let Some(step) = program.next()? {
        any |= step.get::<_, String>("opcode")? == "Program";
        if let ValueRef::Text(operand) = step.get_ref("p4")?
            && let Some(name) = String::from_utf8_lossy(operand).strip_prefix("-- TRIGGER ")
            && !fired.iter().any(|known| known == name)
        {
            fired.push(name.to_owned());
        }
    }
    if any && fired.is_empty() {
        return Err(Fault::Mistaken("an update fires a trigger that SQLite does not name; drop it".into()));
    }
    Ok(fired)
}

/// Whether somebody looked at what a trigger does.
pub(super) fn is_accepted(spec: &SourceSpec, trigger: &str) -> bool {
    spec.accept_triggers.iter().any(|accepted| accepted.eq_ignore_ascii_case(trigger))
}

fn triggers(connection: &Connection, spec: &SourceSpec, sql: &Sql, found: &mut Preflight) -> Result<(), Fault> {
    let fired = fired(connection, spec, sql)?;
    for name in &fired {
        if is_accepted(spec, name) {
            found.side_effects.push(format!("trigger {name} fires for every row that is written"));
        } else {
            found.blockers.push(format!(
                "trigger {name} fires for every row that is written, and may copy old values elsewhere; drop it, or look at \
                 what it does and name it in accept_triggers (a table it copies values to must be a source too)"
            ));
        }
    }
    let fires = |accepted: &String| fired.iter().any(|name| name.eq_ignore_ascii_case(accepted));
    for name in spec.accept_triggers.iter().filter(|accepted| !fires(accepted)) {
        found.warnings.push(format!("accept_triggers names {name}, which no update of this column fires"));
    }
    Ok(())
}

/// Reads the table once for ids and associated data that no row can be told by.
fn rows(
    connection: &Connection,
    spec: &SourceSpec,
    columns: &[Column],
    sql: &Sql,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let data = spec.associated_data.columns();
    let from_id = data.iter().all(|name| spec.id.iter().any(|id| id.eq_ignore_ascii_case(name)));
    if from_id && unique::id_is_rowid(connection, table_name(spec), columns, &spec.id)? {
        return Ok(());
    }
    let ids = spec.id.iter().flat_map(|id| {
        [
            format!(
                "rows have NULL in id column {id}, which no order reaches; give them ids and declare it NOT NULL"
            ),
            format!("rows have a REAL in id column {id}; ids are integers, text or blobs"),
        ]
    });
    let data = data
        .iter()
        .map(|name| format!("rows have a REAL in associated_data column {name}; store integers or text there"));
    connection.query_row(&sql.unfit(), [], |row| {
        for (n, text) in ids.chain(data).enumerate() {
            // NULL: there are no rows.
            if row.get::<_, Option<bool>>(n)? == Some(true) {
                found.blockers.push(text);
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Values that no rekey reaches, as a census counts them.
fn embedded(connection: &Connection, spec: &SourceSpec, sql: &Sql, found: &mut Preflight) -> Result<(), Fault> {
    let mut statement = connection.prepare(&sql.scan())?;
    let mut cells = statement.query([])?;
    let mut inside = 0_u64;
    while let Some(row) = cells.next()? {
        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(0)? {
            inside += u64::from(!begins_as_value(bytes) && holds_embedded_value(bytes));
        }
    }
    if inside > 0 {
        found.warnings.push(format!(
            "{inside} rows hold km:v<version>: within other text, such as JSON, where it is neither found nor rewritten: \
             column {} can't be called clean; move such values to a column of their own",
            spec.column
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::OpenFlags;

    use super::*;
    use crate::conformance;

    #[test]
    fn a_read_only_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, tenant, token)")
            .unwrap();
        // As SQLite opens a file that it may not write; root may write any, so rights can't show it.
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let spec = conformance::spec("sqlite:///unused");
        let found = preflight(&connection, &spec, &Sql::new(&spec)).unwrap();
        assert_eq!(found.blockers.len(), 1, "{:?}", found.blockers);
        assert!(found.blockers.concat().contains("read-only; give the user"));
    }
}
