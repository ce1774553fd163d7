//! Whether the declared id tells every row from every other.

use rusqlite::{Connection, params};

use super::{fault::Fault, preflight::Column};

struct Index {
    name: String,
    primary: bool,
    /// Each column with the collation that the index compares it by; `None` for an expression.
    columns: Vec<(Option<String>, String)>,
}

/// Why `id` is not unique, with the remedy; `None` where it is. `columns` are those of the table.
pub(super) fn why_not(
    connection: &Connection,
    table: &str,
    columns: &[Column],
    id: &[String],
) -> Result<Option<String>, Fault> {
    let names = id.join(", ");
    let indexes = unique_indexes(connection, table)?;
    if is_rowid(columns, &indexes, id) {
        return Ok(None);
    }
    let Some(index) = indexes.iter().find(|index| covers(index, id)) else {
        return Ok(Some(format!(
            "id ({names}) is neither the primary key of {table} nor covered by a UNIQUE index on just these columns; \
             name the primary key as id, or CREATE UNIQUE INDEX on them{}",
            if names.eq_ignore_ascii_case("rowid") {
                " (VACUUM gives other rowids to a table without one)"
            } else {
                ""
            }
        )));
    };
    for (name, collation) in &index.columns {
        let Some(column) = name.as_deref().and_then(|name| Column::find(columns, name)) else { continue };
        let name = &column.name;
        let own = collation_of(connection, table, name)?;
        if !own.eq_ignore_ascii_case(collation) {
            return Ok(Some(format!(
                "column {name} compares by {own} and the unique index {} by {collation}, so different ids can look \
                 the same; make a UNIQUE index with the column's own collation",
                index.name
            )));
        }
        if !index.primary && !column.not_null {
            return Ok(Some(format!(
                "id column {name} may be NULL, and rows with NULL are not told apart; declare it NOT NULL or name the \
                 primary key as id"
            )));
        }
    }
    Ok(None)
}

/// Whether the id is the `INTEGER PRIMARY KEY`, SQLite's own row number: never NULL and always an integer.
pub(super) fn id_is_rowid(
    connection: &Connection,
    table: &str,
    columns: &[Column],
    id: &[String],
) -> Result<bool, Fault> {
    Ok(is_rowid(columns, &unique_indexes(connection, table)?, id))
}

fn is_rowid(columns: &[Column], indexes: &[Index], id: &[String]) -> bool {
    let mut primary = columns.iter().filter(|column| column.primary);
    let (Some(only), None, [id]) = (primary.next(), primary.next(), id) else { return false };
    // `INTEGER PRIMARY KEY` alone needs no index; `INTEGER PRIMARY KEY DESC` and other types have one.
    only.name.eq_ignore_ascii_case(id) && !indexes.iter().any(|index| index.primary)
}

fn covers(index: &Index, id: &[String]) -> bool {
    let named = |wanted: &str| {
        index.columns.iter().any(|(name, _)| name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(wanted)))
    };
    index.columns.len() == id.len() && id.iter().all(|id| named(id))
}

fn unique_indexes(connection: &Connection, table: &str) -> Result<Vec<Index>, Fault> {
    let mut statement = connection.prepare(
        "SELECT name, origin = 'pk' FROM pragma_index_list(?1, 'main') WHERE \"unique\" = 1 AND partial = 0",
    )?;
    let named = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut indexes = Vec::new();
    for index in named {
        let (name, primary): (String, bool) = index?;
        let mut statement = connection
            .prepare("SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key = 1 ORDER BY seqno")?;
        let columns =
            statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        indexes.push(Index { name, primary, columns });
    }
    Ok(indexes)
}

fn collation_of(connection: &Connection, table: &str, column: &str) -> Result<String, Fault> {
    let (_, collation, ..) = connection.column_metadata(Some("main"), table, column)?;
    Ok(collation.map_or_else(|| "BINARY".into(), |name| name.to_string_lossy().into_owned()))
}

/// The indexes that hold the column, and so are rewritten with each of its values.
pub(super) fn indexes_with(connection: &Connection, table: &str, column: &str) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare(
        "SELECT DISTINCT l.name FROM pragma_index_list(?1, 'main') AS l, pragma_index_xinfo(l.name, 'main') AS x \
         WHERE x.key = 1 AND x.name = ?2 COLLATE NOCASE ORDER BY l.name",
    )?;
    Ok(statement.query_map(params![table, column], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
