//! Values between SQLite and us. Text passes as bytes, as SQLite lets it be any bytes.

use keymoot_types::associated_data::ColumnValue;
use rusqlite::{
    Row as SqlRow, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::fault::Fault;
use crate::source::{Cell, IdPart, Row, RowId, SourceSpec};

/// A parameter, borrowed.
pub(super) struct Parameter<'a>(pub(super) ValueRef<'a>);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// The parts of an id, as many as the source has columns for it.
pub(super) fn id<'a>(id: &'a RowId, spec: &SourceSpec) -> Result<impl Iterator<Item = Parameter<'a>>, Fault> {
    let (given, needed) = (id.0.len(), spec.id.len());
    if given != needed {
        return Err(Fault::Mistaken(format!("an id has {needed} columns, {given} were given")));
    }
    let parts = id.0.iter().map(|part| match part {
        IdPart::Integer(number) => ValueRef::Integer(*number),
        IdPart::Text(text) | IdPart::Uuid(text) => ValueRef::Text(text.as_bytes()),
        IdPart::Bytes(bytes) => ValueRef::Blob(bytes),
    });
    Ok(parts.map(Parameter))
}

/// A cell that can be written or compared; a number holds no value and never is.
pub(super) fn cell(cell: &Cell) -> Result<Parameter<'_>, Fault> {
    match cell {
        Cell::Null => Ok(Parameter(ValueRef::Null)),
        Cell::Text(bytes) => Ok(Parameter(ValueRef::Text(bytes))),
        Cell::Bytes(bytes) => Ok(Parameter(ValueRef::Blob(bytes))),
        Cell::Other(kind) => {
            Err(Fault::Mistaken(format!("a cell of type {kind} holds no value and is never swapped")))
        }
    }
}

pub(super) fn column(value: &ColumnValue) -> Parameter<'_> {
    Parameter(match value {
        ColumnValue::Integer(number) => ValueRef::Integer(*number),
        ColumnValue::Text(text) | ColumnValue::Uuid(text) => ValueRef::Text(text.as_bytes()),
        ColumnValue::Bytes(bytes) => ValueRef::Blob(bytes),
        ColumnValue::Null => ValueRef::Null,
    })
}

pub(super) fn to_cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Text(bytes) => Cell::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Integer(_) => Cell::Other("integer"),
        ValueRef::Real(_) => Cell::Other("real"),
    }
}

/// The id that a row of a statement begins with.
pub(super) fn to_row_id(row: &SqlRow<'_>, spec: &SourceSpec) -> Result<RowId, Fault> {
    let parts = spec.id.iter().enumerate().map(|(at, name)| to_id(row.get_ref(at)?, name));
    parts.collect::<Result<_, _>>().map(RowId)
}

/// A row as [`Sql`](super::sql::Sql) selects it.
pub(super) fn to_row(row: &SqlRow<'_>, spec: &SourceSpec) -> Result<Row, Fault> {
    let id = to_row_id(row, spec)?;
    let mut at = spec.id.len()..;
    let mut next = || row.get_ref(at.next().unwrap_or(usize::MAX));
    let cell = to_cell(next()?);
    let mut columns = Vec::new();
    for name in spec.associated_data.columns() {
        // A value that makes no associated data is left out, so that the template can't be filled from this row.
        if let Some(value) = to_column(next()?) {
            columns.push((name.to_owned(), value));
        }
    }
    Ok(Row { id, cell, columns })
}

/// An id that can't be told apart from others would be skipped in silence: it stops the pass instead.
fn to_id(value: ValueRef<'_>, column: &str) -> Result<IdPart, Fault> {
    let unfit = match value {
        ValueRef::Integer(number) => return Ok(IdPart::Integer(number)),
        ValueRef::Blob(bytes) => return Ok(IdPart::Bytes(bytes.to_vec())),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(IdPart::Text(text.to_owned())),
            Err(_) => "text that is not UTF-8",
        },
        ValueRef::Null => "NULL",
        ValueRef::Real(_) => "REAL",
    };
    Err(Fault::Mistaken(format!(
        "the id column {column} of a row is {unfit}; ids are integers, UTF-8 text or blobs"
    )))
}

fn to_column(value: ValueRef<'_>) -> Option<ColumnValue> {
    match value {
        ValueRef::Null => Some(ColumnValue::Null),
        ValueRef::Integer(number) => Some(ColumnValue::Integer(number)),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(|text| ColumnValue::Text(text.to_owned())),
        ValueRef::Blob(bytes) => Some(ColumnValue::Bytes(bytes.to_vec())),
        ValueRef::Real(_) => None,
    }
}
