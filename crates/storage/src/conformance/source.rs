use async_trait::async_trait;
use keymoot_types::associated_data::ColumnValue;

use super::done;
use crate::source::{Cell, Chunk, IdPart, Most, Row, RowId, Selection, Source, SourceSpec, Swap, Swapped};

/// The program whose table it is: it writes behind the source's back.
#[async_trait]
pub trait Application: Send + Sync {
    /// Writes a row over whatever has its id.
    async fn write(&self, row: &Row);

    /// Deletes a row.
    async fn delete(&self, id: &RowId);
}

/// What a column of cells can hold: most databases have types, SQLite's columns hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// Any text and any bytes.
    Anything,
    /// Text whose bytes may be any.
    Text,
    /// Text in UTF-8 without NUL characters.
    Utf8,
    /// Bytes alone.
    Bytes,
}

/// What the `tenant` of the associated data can hold, beside NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenants {
    /// Text and integers.
    Anything,
    /// Text alone.
    Text,
    /// Integers alone.
    Integer,
}

/// What the columns of `people` can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// `token`
    pub cells: Cells,
    /// `tenant`
    pub tenants: Tenants,
}

impl Holds {
    /// Columns without a type.
    pub const ANYTHING: Self = Self { cells: Cells::Anything, tenants: Tenants::Anything };

    /// The row as such a table can have it; `None` where its cell has no form there.
    fn fit(self, row: Row) -> Option<Row> {
        let cell = match (self.cells, row.cell) {
            (Cells::Bytes, Cell::Text(bytes)) => Cell::Bytes(bytes),
            (Cells::Text, Cell::Bytes(bytes)) => Cell::Text(bytes),
            (Cells::Utf8, Cell::Text(bytes) | Cell::Bytes(bytes)) => {
                let fits = !bytes.contains(&0) && std::str::from_utf8(&bytes).is_ok();
                if fits { Cell::Text(bytes) } else { return None }
            }
            (_, cell) => cell,
        };
        let tenant = |value: ColumnValue| match (self.tenants, value) {
            (Tenants::Text, ColumnValue::Integer(number)) => ColumnValue::Text(number.to_string()),
            (Tenants::Integer, ColumnValue::Text(text)) => {
                ColumnValue::Integer(text.bytes().fold(0, |sum, byte| sum * 256 + i64::from(byte)))
            }
            (_, value) => value,
        };
        let columns = row.columns.into_iter();
        let columns =
            columns.map(|(name, value)| if name == "tenant" { (name, tenant(value)) } else { (name, value) });
        Some(Row { id: row.id, cell, columns: columns.collect() })
    }

    /// A new value, of signs that are no UTF-8 where the column can hold them.
    fn new_value(self) -> &'static [u8] {
        if self.cells == Cells::Utf8 { b"km:v11:new" } else { b"km:v11:new\xff" }
    }
}

/// The declaration that the suite is for: a table `people` with an integer `id`, a `tenant` that may be NULL,
/// text or integer, and a `token` that holds text or bytes, as far as [`Holds`] says.
///
/// # Panics
/// Never, as its names are constants that the tests have seen.
pub fn spec(url: &str) -> SourceSpec {
    SourceSpec {
        name: done("people.token".parse()),
        url: url.to_owned(),
        table: "people".into(),
        id: vec!["id".into()],
        column: "token".into(),
        key: done("token".parse()),
        associated_data: done("people/{tenant}/{id}".parse()),
        accept_triggers: Vec::new(),
        adopt: false,
        throttle_query: None,
    }
}

/// What [`Source`] promises. The table must be empty; the source must be opened with [`spec`].
///
/// # Panics
/// Where a promise is broken.
pub async fn source(source: &dyn Source, application: &dyn Application, holds: Holds) {
    an_empty_table_is_an_answer(source).await;
    let rows: Vec<Row> = table().into_iter().filter_map(|row| holds.fit(row)).collect();
    for row in rows.iter().rev() {
        application.write(row).await;
    }
    every_row_is_read_once_in_order_whatever_the_chunk(source, &rows).await;
    a_selection_takes_what_begins_so_as_text_and_as_bytes(source, &rows).await;
    a_census_shows_every_row(source, &rows).await;
    rows_are_read_again_in_the_order_asked_for(source, &rows).await;
    a_swap_writes_and_keeps_the_type(source, &rows, holds).await;
    a_swap_of_anything_that_changed_is_lost(source, application, holds).await;
    one_row_twice_in_a_batch_is_written_in_turn(source, application, holds).await;
    assert_eq!(source.swap(&[]).await, Ok(Vec::new()));
}

fn row(id: i64, tenant: ColumnValue, cell: Cell) -> Row {
    let columns = vec![("tenant".into(), tenant), ("id".into(), ColumnValue::Integer(id))];
    Row { id: RowId(vec![IdPart::Integer(id)]), cell, columns }
}

/// A row that every table can have, in the form of this one.
fn person(id: i64, tenant: ColumnValue, value: &[u8], holds: Holds) -> Row {
    let fit = holds.fit(row(id, tenant, Cell::Text(value.to_vec())));
    done(fit.ok_or("it does not fit"))
}

/// Negative and gapped ids; every kind of cell.
fn table() -> Vec<Row> {
    let text = |text: &[u8]| Cell::Text(text.to_vec());
    let bytes = |bytes: &[u8]| Cell::Bytes(bytes.to_vec());
    let tenant = || ColumnValue::Text("acme".into());
    vec![
        row(i64::MIN, tenant(), text(b"km:v9:first")),
        row(-7, tenant(), text(b"km:v10:ten")),
        row(0, ColumnValue::Null, text(b"km:v1:one")),
        row(1, ColumnValue::Integer(5), Cell::Null),
        row(2, tenant(), text(b"")),
        row(3, tenant(), bytes(b"")),
        row(50, tenant(), bytes(b"km:v9:bytes")),
        row(51, tenant(), bytes(b"KM\x01\0\0\0\x09\xff")),
        row(52, tenant(), text(b"KM:V9:upper")),
        row(53, ColumnValue::Text("Acme".into()), text("plain é".as_bytes())),
        row(i64::MAX, tenant(), text(b"km:v9:last")),
    ]
}

async fn an_empty_table_is_an_answer(source: &dyn Source) {
    assert_eq!(source.read(None, 10, &Selection::Every).await, Ok(Vec::new()));
    assert_eq!(done(source.total().await).rows, 0);
    let id = RowId(vec![IdPart::Integer(1)]);
    assert_eq!(source.read_again(&[id]).await, Ok(vec![None]));
    let mut seen = 0;
    let census = done(source.census(&mut |_| seen += 1).await);
    assert_eq!((seen, census.visited, census.counted, census.not_conclusive), (0, 0, 0, None));
    let preflight = done(source.preflight().await);
    assert_eq!(preflight.blockers, Vec::<String>::new());
}

pub(super) async fn all(source: &dyn Source, rows_max: usize, select: &Selection) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.id.clone());
        let chunk = done(source.read(after.as_ref(), rows_max, select).await);
        assert!(chunk.len() <= rows_max);
        if chunk.is_empty() {
            return rows;
        }
        rows.extend(chunk);
    }
}

async fn every_row_is_read_once_in_order_whatever_the_chunk(source: &dyn Source, rows: &[Row]) {
    for rows_max in [1, 2, 3, rows.len(), 1000] {
        assert_eq!(all(source, rows_max, &Selection::Every).await, rows, "{rows_max} rows a chunk");
    }
    assert_eq!(done(source.total().await).rows, rows.len() as u64);
}

async fn a_selection_takes_what_begins_so_as_text_and_as_bytes(source: &dyn Source, rows: &[Row]) {
    for prefixes in [
        vec![&b"km:v9:"[..]],
        vec![b"km:v1:", b"km:v10:"],
        vec![b"km:v9:", b"km:v9:f", b"KM\x01\0\0\0\x09"],
        vec![b"KM\x01\0\0\0\x09\xff"],
        vec![b"\xff"],
        vec![b""],
        vec![],
    ] {
        let begins =
            |row: &&Row| row.cell.bytes().is_some_and(|cell| prefixes.iter().any(|p| cell.starts_with(p)));
        let expected: Vec<Row> = rows.iter().filter(begins).cloned().collect();
        let select = Selection::Prefixes(prefixes.iter().map(|prefix| prefix.to_vec()).collect());
        assert_eq!(all(source, 2, &select).await, expected, "{prefixes:?}");
        for (rows_max, looked_at) in [(1, 1), (100, 1), (1, 3), (2, 4), (100, 100)] {
            let most = Most { rows: rows_max, looked_at };
            let (found, _) = looked_through(source, most, &select).await;
            assert_eq!(found, expected, "{prefixes:?}, {most:?}");
        }
    }
}

/// All selected rows, in chunks that look at so much; and how many chunks it took.
pub(super) async fn looked_through(source: &dyn Source, most: Most, select: &Selection) -> (Vec<Row>, usize) {
    let (mut rows, mut chunks, mut after) = (Vec::new(), 0, None);
    loop {
        let chunk: Chunk = done(source.chunk(after.as_ref(), most, select).await);
        assert!(chunk.rows.len() <= most.rows.min(most.looked_at), "{} rows, {most:?}", chunk.rows.len());
        if chunk.last.is_none() {
            assert_eq!(chunk.rows, Vec::new(), "rows behind the end of the table");
            return (rows, chunks);
        }
        assert_ne!(chunk.last, after, "it goes round in a circle");
        rows.extend(chunk.rows);
        (after, chunks) = (chunk.last, chunks + 1);
    }
}

/// What a later pass finds: of a table with the ids from 1 to `rows`, those rows whose values are of v9 have `old` ids.
/// Each statement looks at some of the rows, whether it finds one or not.
///
/// # Panics
/// Where a promise is broken.
pub async fn few_old_rows_among_many(source: &dyn Source, rows: i64, old: &[i64]) {
    const LOOKED_AT: usize = 10_000;
    let select = Selection::Prefixes(vec![b"km:v9:".to_vec()]);
    let ids: Vec<RowId> = old.iter().map(|id| RowId(vec![IdPart::Integer(*id)])).collect();
    let most = Most { rows: 500, looked_at: LOOKED_AT };
    let (found, chunks) = looked_through(source, most, &select).await;
    assert_eq!(found.into_iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    assert_eq!(chunks, done(usize::try_from(rows)).div_ceil(LOOKED_AT));
    // It is not told beforehand how far a chunk goes where more rows are found than were asked for.
    let (found, chunks) = looked_through(source, Most { rows: 1, ..most }, &select).await;
    assert_eq!(found.into_iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    assert!(chunks <= done(usize::try_from(rows)).div_ceil(LOOKED_AT) + old.len(), "{chunks} chunks");
    let rows = done(source.read(None, 500, &select).await);
    assert_eq!(rows.first().map(|row| &row.id), ids.first(), "a row is found however far it is");
}

async fn a_census_shows_every_row(source: &dyn Source, rows: &[Row]) {
    let mut seen = Vec::new();
    let census = done(source.census(&mut |cell| seen.push(cell.clone())).await);
    let number = rows.len() as u64;
    assert_eq!((census.visited, census.counted, census.not_conclusive), (number, number, None));
    assert!(!census.sql.is_empty() && !census.server.is_empty());
    for row in rows {
        let at = seen.iter().position(|cell| *cell == row.cell);
        assert!(at.is_some(), "the census did not show {row:?}");
        at.map(|at| seen.swap_remove(at));
    }
    assert!(seen.is_empty());
}

async fn rows_are_read_again_in_the_order_asked_for(source: &dyn Source, rows: &[Row]) {
    let mut ids: Vec<RowId> = rows.iter().rev().map(|row| row.id.clone()).collect();
    ids.push(RowId(vec![IdPart::Integer(-1000)]));
    let expected: Vec<Option<Row>> = rows.iter().rev().cloned().map(Some).chain([None]).collect();
    assert_eq!(source.read_again(&ids).await, Ok(expected));
}

pub(super) fn swap(row: &Row, new: &[u8]) -> Swap {
    let new = row.cell.with_bytes(new.to_vec());
    Swap { id: row.id.clone(), old: row.cell.clone(), new, columns: row.columns.clone() }
}

async fn a_swap_writes_and_keeps_the_type(source: &dyn Source, rows: &[Row], holds: Holds) {
    let old: Vec<&Row> =
        rows.iter().filter(|row| row.cell.bytes().is_some_and(|cell| cell.starts_with(b"km:v"))).collect();
    let batch: Vec<Swap> = old.iter().map(|row| swap(row, holds.new_value())).collect();
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; batch.len()]));
    // Doing it twice does no harm.
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Lost; batch.len()]));
    let ids: Vec<RowId> = batch.iter().map(|swap| swap.id.clone()).collect();
    let now = done(source.read_again(&ids).await);
    assert_eq!(now.len(), batch.len());
    for (now, swap) in now.iter().zip(&batch) {
        assert_eq!(now.as_ref().map(|row| (&row.cell, &row.columns)), Some((&swap.new, &swap.columns)));
    }
    let written = all(source, 100, &Selection::Prefixes(vec![b"km:v11:".to_vec()])).await;
    assert_eq!(written.len(), batch.len());
}

async fn a_swap_of_anything_that_changed_is_lost(
    source: &dyn Source,
    application: &dyn Application,
    holds: Holds,
) {
    let tenant = |text: &str| ColumnValue::Text(text.into());
    let read = person(100, tenant("acme"), b"km:v9:read", holds);
    let changed = [
        row(100, tenant("acme"), Cell::Text(b"km:v9:other".to_vec())),
        row(100, tenant("acme"), Cell::Text(b"km:v9:READ".to_vec())),
        row(100, tenant("acme"), Cell::Text(b"km:v9:read ".to_vec())),
        row(100, tenant("acme"), Cell::Bytes(b"km:v9:read".to_vec())),
        row(100, tenant("acme"), Cell::Null),
        row(100, tenant("acme"), Cell::Text(Vec::new())),
        row(100, tenant("Acme"), Cell::Text(b"km:v9:read".to_vec())),
        row(100, ColumnValue::Null, Cell::Text(b"km:v9:read".to_vec())),
    ];
    // Where a column has one type, the cell of the other one is what was read.
    for now in changed.into_iter().filter_map(|row| holds.fit(row)).filter(|row| *row != read) {
        application.write(&now).await;
        assert_eq!(source.swap(&[swap(&read, b"km:v10:new")]).await, Ok(vec![Swapped::Lost]), "{now:?}");
        assert_eq!(source.read_again(std::slice::from_ref(&read.id)).await, Ok(vec![Some(now)]));
    }
    // One that is lost does not take the others with it.
    let other = person(101, tenant("acme"), b"km:v9:b", holds);
    application.write(&other).await;
    application.delete(&read.id).await;
    let batch = [swap(&read, b"x"), swap(&other, b"km:v10:b"), swap(&read, b"x")];
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Lost, Swapped::Done, Swapped::Lost]));
    assert_eq!(
        source.read_again(std::slice::from_ref(&read.id)).await,
        Ok(vec![None]),
        "a deleted row stays deleted"
    );
}

async fn one_row_twice_in_a_batch_is_written_in_turn(
    source: &dyn Source,
    application: &dyn Application,
    holds: Holds,
) {
    let first = person(102, ColumnValue::Text("acme".into()), b"km:v9:first", holds);
    application.write(&first).await;
    let second = Row { cell: first.cell.with_bytes(b"km:v10:second".to_vec()), ..first.clone() };
    let batch = [swap(&first, b"km:v10:second"), swap(&first, b"km:v10:never"), swap(&second, b"km:v11:third")];
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done, Swapped::Lost, Swapped::Done]));
    let now = done(source.read_again(std::slice::from_ref(&first.id)).await);
    assert_eq!(now, [Some(Row { cell: first.cell.with_bytes(b"km:v11:third".to_vec()), ..first })]);
}
