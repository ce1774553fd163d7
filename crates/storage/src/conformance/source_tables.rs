//! Tables of every shape of id, as the application makes them: fault 42.

use std::collections::BTreeSet;

use super::{
    done,
    source::{all, looked_through, swap},
};
use crate::source::{Cell, IdPart, Most, Row, RowId, Selection, Source, SourceSpec, Swap, Swapped};

/// What an id column is declared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// 16 bits.
    SmallInt,
    /// 32 bits.
    Int,
    /// 64 bits.
    BigInt,
    /// Text that is compared byte by byte.
    Text,
    /// Text under a collation that takes upper and lower case for equal, or at least for neighbours.
    CaseBlind,
    /// A UUID, or text where the database has no such type.
    Uuid,
    /// Bytes.
    Bytes,
}

/// A table of the matrix.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its own name, which may need quotes.
    pub name: &'static str,
    /// Whether it is declared as `schema.table`.
    pub qualified: bool,
    /// The columns of its id, in order.
    pub id: Vec<(&'static str, IdKind)>,
    /// The column of text with the values.
    pub column: &'static str,
    /// Its rows, in no order.
    pub rows: Vec<(RowId, Cell)>,
}

/// How a database writes what [`Table::sql`] needs.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// What stands around names.
    pub quote: char,
    /// The schema of the tables.
    pub schema: &'static str,
    /// The type of an id column, with its collation.
    pub id: fn(IdKind) -> &'static str,
    /// The type of the column with the values.
    pub text: &'static str,
    /// What stands around hexadecimal digits, to make bytes of them.
    pub bytes: (&'static str, &'static str),
}

impl Dialect {
    fn name(&self, name: &str) -> String {
        let quote = self.quote.to_string();
        format!("{quote}{}{quote}", name.replace(self.quote, &quote.repeat(2)))
    }

    fn literal(&self, part: &IdPart) -> String {
        match part {
            IdPart::Integer(number) => number.to_string(),
            IdPart::Text(text) | IdPart::Uuid(text) => format!("'{}'", text.replace('\'', "''")),
            IdPart::Bytes(bytes) => format!("{}{}{}", self.bytes.0, hex::encode(bytes), self.bytes.1),
        }
    }
}

impl Table {
    /// The statements that make and fill it.
    pub fn sql(&self, dialect: &Dialect) -> Vec<String> {
        let table = format!("{}.{}", dialect.name(dialect.schema), dialect.name(self.name));
        let declared: String = self
            .id
            .iter()
            .map(|(name, kind)| format!("{} {} NOT NULL, ", dialect.name(name), (dialect.id)(*kind)))
            .collect();
        let id: Vec<String> = self.id.iter().map(|(name, _)| dialect.name(name)).collect();
        let (column, text, key) = (dialect.name(self.column), dialect.text, id.join(", "));
        let mut statements =
            vec![format!("CREATE TABLE {table} ({declared}{column} {text}, PRIMARY KEY ({key}))")];
        for rows in self.rows.chunks(1000) {
            let rows: Vec<String> = rows
                .iter()
                .map(|(id, cell)| {
                    let mut parts: Vec<String> = id.0.iter().map(|part| dialect.literal(part)).collect();
                    parts.push(cell.bytes().map_or("NULL".into(), |text| format!("'{}'", text.escape_ascii())));
                    format!("({})", parts.join(", "))
                })
                .collect();
            statements.push(format!("INSERT INTO {table} VALUES {}", rows.join(", ")));
        }
        statements
    }

    /// The declaration of a source on it.
    pub fn spec(&self, url: &str, schema: &str) -> SourceSpec {
        let data: Vec<String> = self.id.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        SourceSpec {
            table: if self.qualified { format!("{schema}.{}", self.name) } else { self.name.to_owned() },
            id: self.id.iter().map(|(name, _)| (*name).to_owned()).collect(),
            column: self.column.to_owned(),
            associated_data: done(data.join("/").parse()),
            ..super::spec(url)
        }
    }
}

/// A table with these ids, each of one column; most of its cells are values, some NULL or empty.
fn table(name: &'static str, id: &[(&'static str, IdKind)], rows: Vec<Vec<IdPart>>) -> Table {
    let cell = |n: usize| match n % 5 {
        3 => Cell::Null,
        4 => Cell::Text(Vec::new()),
        _ => Cell::Text(format!("km:v9:{n}").into_bytes()),
    };
    let rows = rows.into_iter().enumerate().map(|(n, id)| (RowId(id), cell(n))).collect();
    Table { name, qualified: false, id: id.to_vec(), column: "token", rows }
}

fn integers(numbers: &[i64]) -> Vec<Vec<IdPart>> {
    numbers.iter().map(|number| vec![IdPart::Integer(*number)]).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<IdPart>> {
    texts.iter().map(|text| vec![IdPart::Text((*text).to_owned())]).collect()
}

/// The matrix of tables that every adapter is at home in.
pub fn tables() -> Vec<Table> {
    use IdKind::*;
    let uuid = |n: u8| IdPart::Uuid(format!("{n:02x}0b8a3e-7c11-4d2e-9f00-0000000000{:02x}", 255 - n));
    let bytes = |bytes: &[u8]| IdPart::Bytes(bytes.to_vec());
    let text = |text: &str| IdPart::Text(text.to_owned());
    let odd = "or\"der; `by`";
    let mixed = [("n", Int), ("a", CaseBlind), ("d", Bytes)];
    let in_schema = |table: Table| Table { qualified: true, ..table };
    vec![
        table("small", &[("id", SmallInt)], integers(&[i16::MIN.into(), -1, 0, 1, 300, i16::MAX.into()])),
        table("plain", &[("id", Int)], integers(&[50, i32::MIN.into(), 0, -7, 7, 1000, i32::MAX.into()])),
        table("big", &[("id", BigInt)], integers(&[i64::MIN, i64::MAX, -7, 0, 1 << 40, -(1 << 53) - 1, 3])),
        table("text", &[("id", Text)], texts(&["", "a", "A", "é", "z'\"", "10", "9", "_", "%", "a b", "é%"])),
        table("blind", &[("id", CaseBlind)], texts(&["b", "A", "_", "C", "É", "z", "10", "9", "aa", "Ab"])),
        table("uuid", &[("id", Uuid)], [9, 0, 255, 128, 127, 16].map(|n| vec![uuid(n)]).into()),
        table(
            "bytes",
            &[("id", Bytes)],
            [&b""[..], b"\0", b"\xff", b"\xff\0", b"a", b"\x7f\x80"].map(|id| vec![bytes(id)]).into(),
        ),
        table(
            "mixed",
            &mixed,
            [
                (1, "a", &b"\0"[..]),
                (1, "a", b"\x01"),
                (1, "B", b"\0"),
                (-1, "a", b"\xff"),
                (2, "b", b""),
                (2, "c", b""),
            ]
            .map(|(n, a, d)| vec![IdPart::Integer(n), text(a), bytes(d)])
            .into(),
        ),
        table(
            "of_uuid",
            &[("tenant", Uuid), ("n", BigInt)],
            [(3, -1), (3, 0), (1, 9), (1, 10), (2, 5)].map(|(u, n)| vec![uuid(u), IdPart::Integer(n)]).into(),
        ),
        in_schema(Table {
            column: "select",
            ..table(
                odd,
                &[("I d", Int), ("x'y", Text)],
                [(1, "a"), (1, "b"), (-4, "a")].map(|(n, a)| vec![IdPart::Integer(n), text(a)]).into(),
            )
        }),
        in_schema(Table { column: "Token", ..table("Upper", &[("ID", BigInt)], integers(&[3, 1, 2])) }),
        table("none", &[("id", Int)], Vec::new()),
        table("one", &[("id", Int)], integers(&[-3])),
        table("thousands", &[("id", BigInt)], (0..3000).map(|n| vec![IdPart::Integer(n * 7 - 10_000)]).collect()),
        table("thousand_texts", &[("id", CaseBlind)], (0..1500).map(|n| vec![text(&format!("{n:x}"))]).collect()),
    ]
}

/// A UUID is text where the database has no such type.
fn as_text(id: &RowId) -> RowId {
    let parts = id.0.iter().cloned().map(|part| match part {
        IdPart::Uuid(text) => IdPart::Text(text),
        part => part,
    });
    RowId(parts.collect())
}

/// What [`Source`] promises of a table of the matrix. It must be filled as [`Table::sql`] does.
///
/// # Panics
/// Where a promise is broken.
pub async fn every_row_once(source: &dyn Source, table: &Table) {
    let name = table.name;
    assert_eq!(done(source.preflight().await).blockers, Vec::<String>::new(), "{name}");
    let mut expected: Vec<(RowId, Cell)> =
        table.rows.iter().map(|(id, cell)| (as_text(id), cell.clone())).collect();
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    let few = expected.len() < 20;
    let mut read = Vec::new();
    for rows_max in if few { [1, 2, 3, 1000] } else { [97, 1000, 1499, 100_000] } {
        read = all(source, rows_max, &Selection::Every).await;
        assert!(read.iter().all(|row| row.columns.len() == table.id.len()), "{name}");
        let mut seen: Vec<(RowId, Cell)> = read.iter().map(|row| (as_text(&row.id), row.cell.clone())).collect();
        seen.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(seen, expected, "{name}, {rows_max} rows a chunk");
    }
    let ids: Vec<RowId> = read.iter().rev().map(|row| row.id.clone()).collect();
    let again: Vec<Option<Row>> = read.iter().rev().cloned().map(Some).collect();
    assert_eq!(source.read_again(&ids).await, Ok(again), "{name}");

    let select = Selection::Prefixes(vec![b"km:v9:".to_vec()]);
    let old = all(source, if few { 2 } else { 700 }, &select).await;
    let holds_value = |row: &&Row| row.cell.bytes().is_some_and(|cell| !cell.is_empty());
    assert_eq!(old, read.iter().filter(holds_value).cloned().collect::<Vec<_>>(), "{name}");
    for (rows_max, looked_at) in if few { [(1, 1), (2, 3), (9, 2)] } else { [(7, 700), (700, 70), (700, 9999)] } {
        let most = Most { rows: rows_max, looked_at };
        assert_eq!(looked_through(source, most, &select).await.0, old, "{name}, {most:?}");
    }
    let batch: Vec<Swap> = old.iter().map(|row| swap(row, b"km:v10:new")).collect();
    assert_eq!(source.swap(&batch).await, Ok(vec![Swapped::Done; batch.len()]), "{name}");
    assert_eq!(all(source, 100, &select).await, Vec::new(), "{name}");
    let unmoved: BTreeSet<RowId> =
        all(source, 1000, &Selection::Every).await.into_iter().map(|row| row.id).collect();
    assert_eq!(unmoved.len(), expected.len(), "{name}");

    let (mut new, mut shown) = (0, 0);
    let mut visit = |cell: &Cell| {
        shown += 1;
        new += usize::from(cell.bytes() == Some(b"km:v10:new"));
    };
    let census = done(source.census(&mut visit).await);
    let rows = expected.len() as u64;
    assert_eq!((shown, census.visited, census.counted, new), (rows, rows, rows, batch.len()), "{name}");
    assert_eq!(census.not_conclusive, None, "{name}");
}
