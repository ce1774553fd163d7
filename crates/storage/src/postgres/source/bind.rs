//! Values between PostgreSQL and us.

use keymoot_types::associated_data::ColumnValue;
use sqlx::{Row as _, ValueRef as _, postgres::PgRow};

use super::{
    super::fault::Fault,
    shape::{Column, Kind, Shape},
    sql::{Bound, Statement},
};
use crate::source::{Cell, IdPart, Row, RowId};

/// One array of a batch.
pub(super) enum Array<'a> {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<&'a str>>),
    Bytes(Vec<Option<&'a [u8]>>),
}

/// One value of it.
pub(super) enum Element<'a> {
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Null,
}

impl<'a> Array<'a> {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Integer => Self::Integers(Vec::new()),
            Kind::Text | Kind::Uuid => Self::Texts(Vec::new()),
            Kind::Bytes => Self::Bytes(Vec::new()),
        }
    }

    /// `None`: the column holds nothing of this type.
    pub(super) fn push(&mut self, element: Element<'a>) -> Option<()> {
        match (self, element) {
            (Self::Integers(all), Element::Integer(number)) => all.push(Some(number)),
            (Self::Texts(all), Element::Text(text)) => all.push(Some(text)),
            (Self::Bytes(all), Element::Bytes(bytes)) => all.push(Some(bytes)),
            (Self::Integers(all), Element::Null) => all.push(None),
            (Self::Texts(all), Element::Null) => all.push(None),
            (Self::Bytes(all), Element::Null) => all.push(None),
            _ => return None,
        }
        Some(())
    }

    pub(super) fn bind(self, statement: Statement<'_>) -> Statement<'_> {
        match self {
            Self::Integers(all) => statement.bind(all),
            Self::Texts(all) => statement.bind(all),
            Self::Bytes(all) => statement.bind(all),
        }
    }
}

impl<'a> Element<'a> {
    pub(super) fn of_id(part: &'a IdPart) -> Self {
        match part {
            IdPart::Integer(number) => Self::Integer(*number),
            IdPart::Text(text) | IdPart::Uuid(text) => Self::Text(text),
            IdPart::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    pub(super) fn of_column(value: &'a ColumnValue) -> Self {
        match value {
            ColumnValue::Integer(number) => Self::Integer(*number),
            ColumnValue::Text(text) | ColumnValue::Uuid(text) => Self::Text(text),
            ColumnValue::Bytes(bytes) => Self::Bytes(bytes),
            ColumnValue::Null => Self::Null,
        }
    }

    /// A cell of a column with values of `kind`; `None` where such a column can't hold it.
    pub(super) fn of_cell(cell: &'a Cell, kind: Kind) -> Option<Self> {
        match (cell, kind) {
            (Cell::Null, _) => Some(Self::Null),
            (Cell::Bytes(bytes), Kind::Bytes) => Some(Self::Bytes(bytes)),
            (Cell::Text(bytes), Kind::Text) => std::str::from_utf8(bytes).ok().map(Self::Text),
            _ => None,
        }
    }
}

impl Bound {
    pub(super) fn bind(self, statement: Statement<'_>) -> Statement<'_> {
        match self {
            Self::Text(text) => statement.bind(text),
            Self::Bytes(bytes) => statement.bind(bytes),
        }
    }
}

/// The parts of an id, as many and of such types as the source has columns for it.
pub(super) fn id<'a>(id: &'a RowId, shape: &Shape) -> Result<&'a [IdPart], Fault> {
    let (given, needed) = (id.0.len(), shape.ids.len());
    if given != needed {
        return Err(Fault::Mistaken(format!("an id has {needed} columns, {given} were given")));
    }
    Ok(&id.0)
}

/// An id that the column can't hold.
pub(super) fn unfit(column: &Column) -> Fault {
    Fault::Mistaken(format!("a value for column {} is not of its type {}", column.name, column.type_name))
}

/// Binds one id, part by part.
pub(super) fn bind_id<'q>(
    mut statement: Statement<'q>,
    of: &RowId,
    shape: &Shape,
) -> Result<Statement<'q>, Fault> {
    for (part, (column, kind)) in id(of, shape)?.iter().zip(&shape.ids) {
        statement = match (Element::of_id(part), kind) {
            (Element::Integer(number), Kind::Integer) => statement.bind(number),
            (Element::Text(text), Kind::Text | Kind::Uuid) => statement.bind(text),
            (Element::Bytes(bytes), Kind::Bytes) => statement.bind(bytes),
            _ => return Err(unfit(column)),
        };
    }
    Ok(statement)
}

/// An array for each part of the ids.
pub(super) fn ids<'a>(all: impl Iterator<Item = &'a RowId>, shape: &Shape) -> Result<Vec<Array<'a>>, Fault> {
    let mut arrays: Vec<Array<'_>> = shape.ids.iter().map(|(_, kind)| Array::new(*kind)).collect();
    for one in all {
        for ((array, part), (column, _)) in arrays.iter_mut().zip(id(one, shape)?).zip(&shape.ids) {
            array.push(Element::of_id(part)).ok_or_else(|| unfit(column))?;
        }
    }
    Ok(arrays)
}

/// The bytes of a column, as they came; `None` for NULL.
fn bytes(row: &PgRow, at: usize) -> Result<Option<Vec<u8>>, Fault> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(None);
    }
    let bytes = value.as_bytes().map_err(|error| Fault::Damaged(error.to_string()))?;
    Ok(Some(bytes.to_vec()))
}

pub(super) fn to_cell(row: &PgRow, at: usize, kind: Kind) -> Result<Cell, Fault> {
    Ok(match (bytes(row, at)?, kind) {
        (None, _) => Cell::Null,
        (Some(bytes), Kind::Bytes) => Cell::Bytes(bytes),
        (Some(bytes), _) => Cell::Text(bytes),
    })
}

/// The id that a row of a statement begins with.
pub(super) fn to_row_id(row: &PgRow, shape: &Shape) -> Result<RowId, Fault> {
    let mut id = Vec::with_capacity(shape.ids.len());
    for (at, (column, kind)) in shape.ids.iter().enumerate() {
        id.push(match to_column(row, at, *kind)? {
            ColumnValue::Integer(number) => IdPart::Integer(number),
            ColumnValue::Text(text) => IdPart::Text(text),
            ColumnValue::Uuid(text) => IdPart::Uuid(text),
            ColumnValue::Bytes(bytes) => IdPart::Bytes(bytes),
            // It would be skipped in silence: no order reaches it.
            ColumnValue::Null => {
                return Err(Fault::Mistaken(format!(
                    "id column {} of a row is NULL; declare it NOT NULL or name the primary key as id",
                    column.name
                )));
            }
        });
    }
    Ok(RowId(id))
}

/// A row as [`Shape`] selects it.
pub(super) fn to_row(row: &PgRow, shape: &Shape) -> Result<Row, Fault> {
    let id = to_row_id(row, shape)?;
    let mut at = shape.ids.len()..;
    let mut next = || at.next().unwrap_or(usize::MAX);
    let cell = to_cell(row, next(), shape.value)?;
    let mut columns = Vec::with_capacity(shape.data.len());
    for (column, kind) in &shape.data {
        columns.push((column.name.clone(), to_column(row, next(), *kind)?));
    }
    Ok(Row { id, cell, columns })
}

fn to_column(row: &PgRow, at: usize, kind: Kind) -> Result<ColumnValue, Fault> {
    Ok(match kind {
        Kind::Integer => row.try_get::<Option<i64>, _>(at)?.map_or(ColumnValue::Null, ColumnValue::Integer),
        Kind::Text => row.try_get::<Option<String>, _>(at)?.map_or(ColumnValue::Null, ColumnValue::Text),
        Kind::Uuid => row.try_get::<Option<String>, _>(at)?.map_or(ColumnValue::Null, ColumnValue::Uuid),
        Kind::Bytes => bytes(row, at)?.map_or(ColumnValue::Null, ColumnValue::Bytes),
    })
}
