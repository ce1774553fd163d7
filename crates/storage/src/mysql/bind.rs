//! Values between the server and us. Cells pass as bytes, whatever their character set.

use keymoot_types::associated_data::ColumnValue;
use sqlx::{
    Arguments as _, Row as _,
    mysql::{MySqlArguments, MySqlRow},
};

use super::{
    fault::Fault,
    sql::{Part, Sql},
    table::Kind,
};
use crate::source::{Cell, IdPart, Row, RowId};

/// Adds one parameter.
pub(super) fn add<'v, T>(arguments: &mut MySqlArguments, value: T) -> Result<(), Fault>
where
    T: sqlx::Encode<'v, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
{
    arguments.add(value).map_err(|_| Fault::Mistaken("a value can't be sent".into()))
}

/// Adds the columns `at` of an id.
pub(super) fn add_id(
    arguments: &mut MySqlArguments,
    id: &RowId,
    sql: &Sql,
    at: impl Iterator<Item = usize>,
) -> Result<(), Fault> {
    let (given, needed) = (id.0.len(), sql.ids.len());
    if given != needed {
        return Err(Fault::Mistaken(format!("an id has {needed} columns, {given} were given")));
    }
    for (value, part) in at.filter_map(|at| id.0.get(at).zip(sql.ids.get(at))) {
        match (value, &part.kind) {
            (IdPart::Integer(number), Kind::Integer) => add(arguments, *number)?,
            (IdPart::Text(text), Kind::Text { .. }) | (IdPart::Uuid(text), Kind::Uuid) => {
                add(arguments, text.as_str())?;
            }
            (IdPart::Bytes(bytes), Kind::Bytes) => add(arguments, bytes.as_slice())?,
            _ => return Err(Fault::Mistaken(format!("id column {} has another type than before", part.name))),
        }
    }
    Ok(())
}

/// Adds a cell that can be written or compared; a number holds no value and never is.
pub(super) fn add_cell(arguments: &mut MySqlArguments, cell: &Cell) -> Result<(), Fault> {
    match cell {
        Cell::Other(kind) => Err(Fault::Mistaken(format!("a cell of type {kind} is never swapped"))),
        cell => add(arguments, cell.bytes()),
    }
}

pub(super) fn to_cell(row: &MySqlRow, at: usize, kind: &Kind) -> Result<Cell, Fault> {
    let bytes: Option<Vec<u8>> = row.try_get_unchecked(at)?;
    Ok(match (bytes, kind) {
        (None, _) => Cell::Null,
        (Some(bytes), Kind::Text { .. }) => Cell::Text(bytes),
        (Some(bytes), Kind::Bytes) => Cell::Bytes(bytes),
        (Some(_), Kind::Integer) => Cell::Other("integer"),
        (Some(_), Kind::Uuid) => Cell::Other("uuid"),
        (Some(_), Kind::Other) => Cell::Other("other"),
    })
}

/// The id in a row, from the column `at` on.
pub(super) fn to_row_id(row: &MySqlRow, at: usize, sql: &Sql) -> Result<RowId, Fault> {
    let parts = (at..).zip(&sql.ids).map(|(at, part)| to_id(row, at, part));
    parts.collect::<Result<_, _>>().map(RowId)
}

/// A row as [`Sql`] selects it, from the column `at` on.
pub(super) fn to_row(row: &MySqlRow, at: usize, sql: &Sql) -> Result<Row, Fault> {
    let id = to_row_id(row, at, sql)?;
    let mut next = at + sql.ids.len()..;
    let mut next = || next.next().unwrap_or(usize::MAX);
    let cell = to_cell(row, next(), &sql.cell)?;
    let mut columns = Vec::with_capacity(sql.data.len());
    // A value that makes no associated data is left out, so that the template can't be filled from this row.
    for part in sql.data.iter().filter(|part| part.kind != Kind::Other) {
        if let Some(value) = to_column(row, next(), &part.kind)? {
            columns.push((part.name.clone(), value));
        }
    }
    Ok(Row { id, cell, columns })
}

/// An id that can't be told apart from others would be skipped in silence: it stops the pass instead.
fn to_id(row: &MySqlRow, at: usize, part: &Part) -> Result<IdPart, Fault> {
    let unfit = match to_column(row, at, &part.kind)? {
        Some(ColumnValue::Integer(number)) => return Ok(IdPart::Integer(number)),
        Some(ColumnValue::Text(text)) => return Ok(IdPart::Text(text)),
        Some(ColumnValue::Uuid(text)) => return Ok(IdPart::Uuid(text)),
        Some(ColumnValue::Bytes(bytes)) => return Ok(IdPart::Bytes(bytes)),
        Some(ColumnValue::Null) => "NULL",
        None => "above 9223372036854775807",
    };
    Err(Fault::Mistaken(format!("the id column {} of a row is {unfit}, which no id can be", part.name)))
}

fn to_column(row: &MySqlRow, at: usize, kind: &Kind) -> Result<Option<ColumnValue>, Fault> {
    let text = || -> Result<Option<String>, Fault> {
        let bytes: Option<Vec<u8>> = row.try_get_unchecked(at)?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_| Fault::Unreachable("the server's text is not UTF-8".into()))
    };
    let value = match kind {
        Kind::Integer if is_unsigned(row, at) => match row.try_get_unchecked::<Option<u64>, _>(at)? {
            Some(number) => return Ok(i64::try_from(number).ok().map(ColumnValue::Integer)),
            None => None,
        },
        Kind::Integer => row.try_get_unchecked::<Option<i64>, _>(at)?.map(ColumnValue::Integer),
        Kind::Text { .. } => text()?.map(ColumnValue::Text),
        Kind::Uuid => text()?.map(ColumnValue::Uuid),
        Kind::Bytes => row.try_get_unchecked::<Option<Vec<u8>>, _>(at)?.map(ColumnValue::Bytes),
        Kind::Other => return Ok(None),
    };
    Ok(Some(value.unwrap_or(ColumnValue::Null)))
}

fn is_unsigned(row: &MySqlRow, at: usize) -> bool {
    use sqlx::{Column as _, TypeInfo as _};
    row.columns().get(at).is_some_and(|column| column.type_info().name().ends_with("UNSIGNED"))
}
