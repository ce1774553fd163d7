use async_trait::async_trait;
use keymoot_types::associated_data::ColumnValue;

use super::done;
use crate::source::{Cell, IdPart, Row, RowId, Selection, Source, SourceSpec, Swap, Swapped};

/// The program whose table it is: it writes behind the source's back.
#[async_trait]
pub trait Application: Send + Sync {
    /// Writes a row over whatever has its id.
    async fn write(&self, row: &Row);

    /// Deletes a row.
    async fn delete(&self, id: &RowId);
}

/// The declaration that the suite is for: a table `people` with an integer `id`, a `tenant` that may be NULL,
/// text or integer, and a `token` that holds text or bytes.
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
    }
}

/// What [`Source`] promises. The table must be empty; the source must be opened with [`spec`].
///
/// # Panics
/// Where a promise is broken.
pub async fn source(source: &dyn Source, application: &dyn Application) {
    an_empty_table_is_an_answer(source).await;
    let rows = table();
    for row in rows.iter().rev() {
        application.write(row).await;
    }
    every_row_is_read_once_in_order_whatever_the_chunk(source, &rows).await;
    a_selection_takes_what_begins_so_as_text_and_as_bytes(source, &rows).await;
    a_census_shows_every_row(source, &rows).await;
    rows_are_read_again_in_the_order_asked_for(source, &rows).await;
    a_swap_writes_and_keeps_the_type(source, &rows).await;
    a_swap_of_anything_that_changed_is_lost(source, application).await;
    assert_eq!(source.swap(&[]).await, Ok(Vec::new()));
}

fn row(id: i64, tenant: ColumnValue, cell: Cell) -> Row {
    let columns = vec![("tenant".into(), tenant), ("id".into(), ColumnValue::Integer(id))];
    Row { id: RowId(vec![IdPart::Integer(id)]), cell, columns }
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

async fn all(source: &dyn Source, rows_max: usize, select: &Selection) -> Vec<Row> {
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
    }
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

fn swap(row: &Row, new: &[u8]) -> Swap {
    let new = row.cell.with_bytes(new.to_vec());
    Swap { id: row.id.clone(), old: row.cell.clone(), new, columns: row.columns.clone() }
}

async fn a_swap_writes_and_keeps_the_type(source: &dyn Source, rows: &[Row]) {
    let old: Vec<&Row> =
        rows.iter().filter(|row| row.cell.bytes().is_some_and(|cell| cell.starts_with(b"km:v"))).collect();
    let batch: Vec<Swap> = old.iter().map(|row| swap(row, b"km:v11:new\xff")).collect();
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

async fn a_swap_of_anything_that_changed_is_lost(source: &dyn Source, application: &dyn Application) {
    let tenant = |text: &str| ColumnValue::Text(text.into());
    let read = row(100, tenant("acme"), Cell::Text(b"km:v9:read".to_vec()));
    for now in [
        row(100, tenant("acme"), Cell::Text(b"km:v9:other".to_vec())),
        row(100, tenant("acme"), Cell::Text(b"km:v9:READ".to_vec())),
        row(100, tenant("acme"), Cell::Text(b"km:v9:read ".to_vec())),
        row(100, tenant("acme"), Cell::Bytes(b"km:v9:read".to_vec())),
        row(100, tenant("acme"), Cell::Null),
        row(100, tenant("acme"), Cell::Text(Vec::new())),
        row(100, tenant("Acme"), read.cell.clone()),
        row(100, ColumnValue::Null, read.cell.clone()),
    ] {
        application.write(&now).await;
        assert_eq!(source.swap(&[swap(&read, b"km:v10:new")]).await, Ok(vec![Swapped::Lost]), "{now:?}");
        assert_eq!(source.read_again(std::slice::from_ref(&read.id)).await, Ok(vec![Some(now)]));
    }
    // One that is lost does not take the others with it.
    let other = row(101, tenant("acme"), Cell::Text(b"km:v9:b".to_vec()));
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
