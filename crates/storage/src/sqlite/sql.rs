//! The statements that a source runs. All dynamic SQL of this adapter is made here, from quoted names.
//!
//! Columns are always written as `t."name"`: SQLite takes a bare `"name"` that it can't find for a string.

use std::fmt::Write as _;

use crate::source::{Selection, SourceSpec};

/// The quoted names of a source.
pub(super) struct Sql {
    table: String,
    ids: Vec<String>,
    column: String,
    assigned: String,
    data: Vec<String>,
}

/// The table's own name: only the main database of a file can be a source.
pub(super) fn table_name(spec: &SourceSpec) -> &str {
    spec.table.strip_prefix("main.").unwrap_or(&spec.table)
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn of_row(name: &str) -> String {
    format!("t.{}", quoted(name))
}

/// `?4, ?5, ?6`
fn parameters(first: usize, number: usize) -> String {
    (first..first + number).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}

impl Sql {
    pub(super) fn new(spec: &SourceSpec) -> Self {
        Self {
            table: format!("main.{} AS t", quoted(table_name(spec))),
            ids: spec.id.iter().map(|name| of_row(name)).collect(),
            column: of_row(&spec.column),
            assigned: quoted(&spec.column),
            data: spec.associated_data.columns().into_iter().map(of_row).collect(),
        }
    }

    /// Id, value, and what the associated data is made from.
    fn select(&self) -> String {
        let columns: Vec<&str> =
            self.ids.iter().chain([&self.column]).chain(&self.data).map(String::as_str).collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.table)
    }

    /// The id of the last of the next rows. Parameters: the id (if `after`) and the number of rows.
    pub(super) fn end(&self, after: bool) -> String {
        let ids = self.ids.join(", ");
        let (behind, rows) = match after {
            true => (format!(" WHERE ({ids}) > ({})", parameters(1, self.ids.len())), self.ids.len() + 1),
            false => (String::new(), 1),
        };
        let descending: Vec<String> = self.ids.iter().map(|id| format!("{id} DESC")).collect();
        let descending = descending.join(", ");
        let table = &self.table;
        format!(
            "SELECT {ids} FROM (SELECT {ids} FROM {table}{behind} ORDER BY {ids} LIMIT ?{rows}) AS t \
             ORDER BY {descending} LIMIT 1"
        )
    }

    /// The next rows in the order of their ids. Parameters: the id (if `after`), the last one's (if `end`), two bounds
    /// for every prefix that something is behind and one for the others, and the number of rows.
    pub(super) fn read(&self, after: bool, end: bool, select: &Selection) -> String {
        let ids = self.ids.join(", ");
        let mut next = 1;
        let mut conditions = Vec::new();
        for sign in [after.then_some(">"), end.then_some("<=")].into_iter().flatten() {
            let parameters = parameters(next, self.ids.len());
            next += self.ids.len();
            conditions.push(format!("({ids}) {sign} ({parameters})"));
        }
        if let Selection::Prefixes(prefixes) = select {
            let bytes = format!("CAST({} AS BLOB)", self.column);
            let mut ranges = vec!["0".to_owned()];
            for prefix in prefixes {
                let mut range = format!("{bytes} >= ?{next}");
                next += 1;
                if crate::behind_prefix(prefix).is_some() {
                    let _ = write!(range, " AND {bytes} < ?{next}");
                    next += 1;
                }
                ranges.push(range);
            }
            conditions.push(format!("typeof({}) IN ('text', 'blob')", self.column));
            conditions.push(format!("({})", ranges.join(" OR ")));
        }
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("{}{conditions} ORDER BY {ids} LIMIT ?{next}", self.select())
    }

    /// One row. Parameters: its id.
    pub(super) fn read_again(&self) -> String {
        format!("{} WHERE {}", self.select(), self.id_is(1))
    }

    /// The compare-and-swap of one row. Parameters: the new value, the id, the old value, and the value of each of
    /// `columns`. Everything is compared by type and bytes, as a collation takes different texts for equal.
    pub(super) fn swap<'a>(&self, columns: impl Iterator<Item = &'a str>) -> String {
        let old = 2 + self.ids.len();
        let mut sql = format!("UPDATE {} SET {} = ?1 WHERE {}", self.table, self.assigned, self.id_is(2));
        let compared = std::iter::once(self.column.clone()).chain(columns.map(of_row));
        for (n, column) in (old..).zip(compared) {
            let _ = write!(
                sql,
                " AND typeof({column}) = typeof(?{n}) AND CAST({column} AS BLOB) IS CAST(?{n} AS BLOB)"
            );
        }
        sql
    }

    fn id_is(&self, first: usize) -> String {
        let equal = (first..).zip(&self.ids).map(|(n, id)| format!("{id} = ?{n}"));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    pub(super) fn count(&self) -> String {
        format!("SELECT COUNT(*) FROM {}", self.table)
    }

    /// Every row's value, from the table itself: a damaged index must not hide rows from a census.
    pub(super) fn scan(&self) -> String {
        format!("SELECT {} FROM {} NOT INDEXED", self.column, self.table)
    }

    /// For each id: whether one is NULL, whether one is a REAL; for each column of the associated data: whether
    /// one is a REAL.
    pub(super) fn unfit(&self) -> String {
        let real = |column: &String| format!("max(typeof({column}) = 'real')");
        let ids = self.ids.iter().flat_map(|id| [format!("max({id} IS NULL)"), real(id)]);
        let tests: Vec<String> = ids.chain(self.data.iter().map(real)).collect();
        format!("SELECT {} FROM {}", tests.join(", "), self.table)
    }

    /// What a person runs to count by version. It goes by the beginning of each value alone, and prints no more
    /// of it than `km:v9:`.
    pub(super) fn by_version(&self) -> String {
        let Self { column, table, .. } = self;
        format!(
            "WITH cell AS (SELECT typeof({column}) AS type, CAST({column} AS BLOB) AS bytes FROM {table}), \
             head AS (SELECT type, bytes, CAST(substr(bytes, 1, 15) AS TEXT) AS text FROM cell), \
             cut AS (SELECT *, substr(text, 5, instr(substr(text, 5), ':') - 1) AS version FROM head) \
             SELECT CASE WHEN type = 'null' THEN 'null' \
             WHEN type IN ('integer', 'real') THEN 'foreign' \
             WHEN length(bytes) = 0 THEN 'empty' \
             WHEN text GLOB 'km:v[1-9]*:*' AND version NOT GLOB '*[^0-9]*' THEN 'km:v' || version || ':' \
             WHEN substr(bytes, 1, 3) = x'4b4d01' AND length(bytes) > 7 THEN 'KM 0x' || hex(substr(bytes, 4, 4)) \
             WHEN text GLOB 'km:v*' OR substr(bytes, 1, 3) = x'4b4d01' THEN 'unreadable' \
             ELSE 'foreign' END AS class, COUNT(*) AS rows FROM cut GROUP BY class ORDER BY length(class), class;"
        )
    }
}
