//! The statements that a source runs. All dynamic SQL of this adapter is made here, from quoted names.
//!
//! Values are compared as bytes: a collation takes different texts for equal, and pads them. Ids are compared by their
//! column's own collation, for it is by that that they are unique, and that the index has them in order.

use std::fmt::Write as _;

use sqlx::MySqlConnection;

use super::{
    fault::Fault,
    table::{Index, Kind, Table, same},
};
use crate::{
    behind_prefix,
    source::{Selection, SourceSpec, Task},
};

/// A column that is read: its name as declared, and what is in it.
#[derive(PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Part {
    fn column(&self) -> String {
        of_row(&self.name)
    }

    fn select(&self) -> String {
        match self.kind {
            Kind::Text { .. } => format!("CONVERT({} USING utf8mb4)", self.column()),
            Kind::Uuid => format!("CAST({} AS CHAR)", self.column()),
            _ => self.column(),
        }
    }

    /// A parameter that is before or behind a row as the column's index has it. A UUID's type may be that of an older
    /// server, which orders otherwise than a new one's: as text it becomes the column's own.
    fn bound(&self) -> String {
        if self.kind == Kind::Uuid { "?".into() } else { self.parameter() }
    }

    /// A parameter that an index on the column can be searched for.
    fn parameter(&self) -> String {
        match &self.kind {
            Kind::Text { charset, collation } => format!("CONVERT(? USING {charset}) COLLATE {collation}"),
            Kind::Uuid => "CAST(? AS UUID)".into(),
            Kind::Bytes => "CAST(? AS BINARY)".into(),
            Kind::Integer | Kind::Other => "CAST(? AS SIGNED)".into(),
        }
    }
}

/// The quoted names of a source, and what its columns are.
#[derive(PartialEq, Eq)]
pub(super) struct Sql {
    /// The columns of the id, as declared.
    pub(super) ids: Vec<Part>,
    /// Which of them come first in the index.
    pub(super) order: Vec<usize>,
    /// What the column with the values is.
    pub(super) cell: Kind,
    /// The columns that the associated data is made from.
    pub(super) data: Vec<Part>,
    pub(super) schema: String,
    pub(super) name: String,
    table: String,
    /// There are indexes, of which none need be the id's.
    indexed: bool,
    index: Option<String>,
    column: String,
    cell_name: String,
    /// Columns that would move by themselves with an update.
    kept: Vec<String>,
    /// The server tells whether a transaction is open, as MariaDB does.
    tells_transaction: bool,
}

pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Character sets of which every text comes back from `utf8mb4` as it went.
const UNICODE: [&str; 9] = ["utf8mb4", "utf8mb3", "utf8", "utf16", "utf16le", "utf32", "ucs2", "ascii", "latin1"];

fn of_row(name: &str) -> String {
    format!("t.{}", quoted(name))
}

/// `rows` rows of parameters under the name `n`, each made by `row`.
fn derived(rows: usize, row: impl Fn(usize) -> String) -> String {
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("({}) AS n", rows.join(" UNION ALL "))
}

/// So many parameters.
fn list(length: usize) -> String {
    vec!["?"; length].join(", ")
}

impl Sql {
    /// The statements of the declared source on its table as it is.
    pub(super) async fn look_up(
        connection: &mut MySqlConnection,
        spec: &SourceSpec,
        mariadb: bool,
    ) -> Result<Self, Fault> {
        match Table::look_up(connection, spec).await? {
            Some(table) => Self::new(spec, &table, mariadb),
            None => Err(Fault::Mistaken(format!(
                "there is no table {}, or no right to see it; the preflight says what there is",
                spec.table
            ))),
        }
    }

    pub(super) fn new(spec: &SourceSpec, table: &Table, mariadb: bool) -> Result<Self, Fault> {
        let part = |name: &str| match table.column(name) {
            Some(column) => Ok(Part { name: name.to_owned(), kind: column.kind.clone() }),
            None => Err(Fault::Mistaken(format!("{} has no column {name}, or no right to see it", spec.table))),
        };
        let ids = spec.id.iter().map(|name| part(name)).collect::<Result<Vec<_>, _>>()?;
        if let Some(id) = ids.iter().find(|id| id.kind == Kind::Other) {
            let text = format!("id column {} is neither integer, text, bytes nor UUID; name another id", id.name);
            return Err(Fault::Mistaken(text));
        }
        let index = table.unique(&spec.id);
        let mut order: Vec<usize> = (0..ids.len()).collect();
        if let Some(index) = index {
            let rank = |at: &usize| {
                ids.get(*at).and_then(|id| index.columns.iter().position(|name| same(name, &id.name)))
            };
            order.sort_by_key(rank);
        }
        let data = spec.associated_data.columns();
        Ok(Self {
            order,
            cell: part(&spec.column)?.kind,
            data: data.into_iter().map(part).collect::<Result<_, _>>()?,
            schema: table.schema.clone(),
            name: table.name.clone(),
            table: format!("{}.{} AS t", quoted(&table.schema), quoted(&table.name)),
            indexed: !table.indexes.is_empty(),
            // One of prefixes is in another order than its columns.
            index: index.filter(|index| !index.of_prefixes).map(|Index { name, .. }| quoted(name)),
            column: of_row(&spec.column),
            cell_name: spec.column.clone(),
            kept: table.columns.iter().filter(|c| c.moves_on_update).map(|c| of_row(&c.name)).collect(),
            tells_transaction: mariadb,
            ids,
        })
    }

    fn bytes(&self) -> String {
        format!("CAST({} AS BINARY)", self.column)
    }

    /// Id, value, and what the associated data is made from.
    fn columns(&self) -> String {
        let data = self.data.iter().filter(|part| part.kind != Kind::Other);
        let columns = self.ids.iter().map(Part::select).chain([self.bytes()]).chain(data.map(Part::select));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The table, in the order of its ids.
    fn ordered(&self) -> String {
        let hint = self.index.as_ref().map(|index| format!(" FORCE INDEX ({index})")).unwrap_or_default();
        format!("{}{hint}", self.table)
    }

    fn in_order(&self) -> impl Iterator<Item = &Part> {
        self.order.iter().filter_map(|at| self.ids.get(*at))
    }

    /// Which columns of the id the parameters of [`Sql::read`] are, for `after` and for `end`.
    pub(super) fn bounds(&self) -> Vec<usize> {
        (1..=self.order.len()).flat_map(|length| self.order.iter().take(length).copied()).collect()
    }

    fn behind(&self) -> String {
        self.compared(">", ">")
    }

    fn up_to(&self) -> String {
        self.compared("<", "<=")
    }

    /// `a > ? OR a = ? AND b > ?`, with another sign for the last column: a comparison of whole rows would not be
    /// searched for in the index.
    fn compared(&self, sign: &str, last_sign: &str) -> String {
        let parts: Vec<&Part> = self.in_order().collect();
        let alternatives = (0..parts.len()).map(|last| {
            let compared = parts.iter().take(last + 1).enumerate().map(|(at, part)| {
                let sign = match (at == last, at + 1 == parts.len()) {
                    (false, _) => "=",
                    (true, false) => sign,
                    (true, true) => last_sign,
                };
                format!("{} {sign} {}", part.column(), part.bound())
            });
            compared.collect::<Vec<_>>().join(" AND ")
        });
        format!("({})", alternatives.collect::<Vec<_>>().join(" OR "))
    }

    /// The id of the last of the next rows. Parameters: those of [`Sql::bounds`] (if `after`) and the number of rows.
    pub(super) fn end(&self, after: bool) -> String {
        let list = |items: Vec<String>| items.join(", ");
        let columns = list(self.ids.iter().map(Part::column).collect());
        let order = list(self.in_order().map(Part::column).collect());
        let descending = list(self.in_order().map(|part| format!("{} DESC", part.column())).collect());
        let passed = list(self.ids.iter().map(Part::select).collect());
        let behind = if after { format!(" WHERE {}", self.behind()) } else { String::new() };
        let table = self.ordered();
        format!(
            "SELECT {passed} FROM (SELECT {columns} FROM {table}{behind} ORDER BY {order} LIMIT ?) AS t \
             ORDER BY {descending} LIMIT 1"
        )
    }

    /// The next rows in the order of their ids. Parameters: those of [`Sql::bounds`] (if `after`), and for the last one's
    /// id (if `end`), two bounds for every prefix that something is behind and one for the others, and the number of
    /// rows.
    pub(super) fn read(&self, after: bool, end: bool, select: &Selection) -> String {
        let mut conditions = Vec::new();
        if after {
            conditions.push(self.behind());
        }
        if end {
            conditions.push(self.up_to());
        }
        if let Selection::Prefixes(prefixes) = select {
            // So much of each tells how it compares, and is not the whole cell copied twice.
            let bounds =
                prefixes.iter().map(|prefix| prefix.len().max(behind_prefix(prefix).map_or(0, |b| b.len())));
            let bytes = format!("CAST(LEFT({}, {}) AS BINARY)", self.column, bounds.max().unwrap_or(0));
            let mut ranges = vec!["FALSE".to_owned()];
            for prefix in prefixes {
                let mut range = format!("{bytes} >= CAST(? AS BINARY)");
                if crate::behind_prefix(prefix).is_some() {
                    let _ = write!(range, " AND {bytes} < CAST(? AS BINARY)");
                }
                ranges.push(range);
            }
            conditions.push(format!("({})", ranges.join(" OR ")));
        }
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let order: Vec<String> = self.in_order().map(Part::column).collect();
        let (columns, table, order) = (self.columns(), self.ordered(), order.join(", "));
        format!("SELECT {columns} FROM {table}{conditions} ORDER BY {order} LIMIT ?")
    }

    fn parameters(&self) -> String {
        let ids = self.ids.iter().enumerate().map(|(at, id)| format!("{} AS k{at}", id.parameter()));
        ids.collect::<Vec<_>>().join(", ")
    }

    fn is_row(&self) -> String {
        let equal = self.ids.iter().enumerate().map(|(at, id)| format!("{} = n.k{at}", id.column()));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The one integer that the id is. Such rows are found and written by a list of their ids, which costs the server half
    /// of what a join with them does; others are compared by their columns' own collations, in that join.
    fn one_integer(&self) -> Option<&Part> {
        match self.ids.as_slice() {
            [id] if id.kind == Kind::Integer => Some(id),
            _ => None,
        }
    }

    /// Whether [`Sql::find`] and [`Sql::write`] go by a list.
    pub(super) fn by_list(&self) -> bool {
        self.one_integer().is_some()
    }

    /// Rows by their ids, which are the parameters; `lock`ed until the commit. Not by a list, each comes behind its place
    /// among them.
    pub(super) fn find(&self, rows: usize, lock: bool) -> String {
        let lock = if lock { " FOR UPDATE" } else { "" };
        let (columns, table, row) = (self.columns(), self.ordered(), self.is_row());
        if let Some(id) = self.one_integer() {
            return format!("SELECT {columns} FROM {table} WHERE {} IN ({}){lock}", id.column(), list(rows));
        }
        let parameters = self.parameters();
        let ids = derived(rows, |at| format!("SELECT {at} AS place, {parameters}"));
        format!("SELECT n.place, {columns} FROM {ids} STRAIGHT_JOIN {table} ON {row}{lock}")
    }

    /// Writes rows whose value is what it was, if the transaction that locked them is still open. Parameters for each: its
    /// id, the old and the new value. By a list: all ids and new values, all ids, and all ids and old values.
    ///
    /// A node of a cluster that rolls a transaction back for another node's write should say so to the next statement. Where
    /// that one is prepared first, MariaDB 10.11 may not, and it would be a transaction of its own.
    pub(super) fn write(&self, rows: usize) -> String {
        let open = if self.tells_transaction { " AND @@in_transaction = 1" } else { "" };
        let (table, is_row, bytes) = (self.ordered(), self.is_row(), self.bytes());
        let kept: String = self.kept.iter().map(|column| format!(", {column} = {column}")).collect();
        if let Some(id) = self.one_integer() {
            let (id, list) = (id.column(), list(rows));
            let of_id = format!("ELT(FIELD({id}, {list}), {list})");
            return format!(
                "UPDATE {table} SET {} = {of_id}{kept} WHERE {id} IN ({list}) AND {bytes} <=> {of_id}{open}",
                self.column
            );
        }
        let parameters = self.parameters();
        let row = format!("SELECT {parameters}, CAST(? AS BINARY) AS was, CAST(? AS BINARY) AS becomes");
        let values = derived(rows, |_| row.clone());
        format!(
            "UPDATE {values} STRAIGHT_JOIN {table} ON {is_row} SET {} = n.becomes{kept} WHERE {bytes} <=> n.was{open}",
            self.column
        )
    }

    /// Parameters of [`Sql::write`] for each row.
    pub(super) fn write_parameters(&self) -> usize {
        if self.by_list() { 5 } else { self.ids.len() + 2 }
    }

    pub(super) fn count(&self) -> String {
        format!("SELECT CAST(COUNT(*) AS SIGNED) FROM {}", self.table)
    }

    /// The table itself and no index beside it: a damaged one must not hide rows from a census.
    fn itself(&self) -> String {
        format!("{}{}", self.table, if self.indexed { " USE INDEX ()" } else { "" })
    }

    /// Every row's value.
    pub(super) fn scan(&self) -> String {
        format!("SELECT {} FROM {}", self.bytes(), self.itself())
    }

    /// Nothing, where every column can be seen; else an error.
    pub(super) fn every_column(&self) -> String {
        format!("SELECT t.* FROM {} LIMIT 0", self.table)
    }

    /// A cell as it will look: of this version and as long as it is going to be, with nothing in it.
    fn ahead(&self, task: Task, version: u64) -> String {
        let (bytes, head) = (self.bytes(), self.head());
        let (prefix, body, binary) = match self.cell {
            Kind::Text { .. } => (
                format!("'km:v{version}:'"),
                format!("REPEAT('A', (4 * (41 + LENGTH({bytes})) + 2) DIV 3)"),
                String::new(),
            ),
            _ => {
                let prefix = format!("x'4b4d01{version:08x}'");
                let binary = format!(
                    "WHEN LEFT({bytes}, 3) = x'4b4d01' AND LENGTH({bytes}) > 7 \
                     THEN CONCAT({prefix}, SUBSTRING({bytes}, 8)) "
                );
                (prefix, format!("REPEAT(x'01', 41 + LENGTH({bytes}))"), binary)
            }
        };
        let adopts = if task == Task::Adopt { "TRUE" } else { "FALSE" };
        let cell = format!(
            "CASE WHEN {head} REGEXP '^km:v[1-9][0-9]*:' \
             THEN CONCAT('km:v{version}:', SUBSTRING({bytes}, LOCATE(':', {head}, 5) + 1)) \
             {binary}WHEN {adopts} AND LENGTH({bytes}) > 0 AND NOT {} THEN CONCAT({prefix}, {body}) ELSE {bytes} END",
            self.begins_as_value()
        );
        match &self.cell {
            Kind::Text { charset, collation } => format!("CONVERT({cell} USING {charset}) COLLATE {collation}"),
            _ => format!("CAST({cell} AS BINARY)"),
        }
    }

    /// How many of the rows that will be written this condition, of the catalogue, would refuse. `others`: the table's other
    /// columns.
    pub(super) fn check(&self, task: Task, version: u64, condition: &str, others: &[&str]) -> String {
        let others = others.iter().map(|name| of_row(name));
        let cell = format!("{} AS {}", self.ahead(task, version), quoted(&self.cell_name));
        let columns: Vec<String> = others.chain([cell]).collect();
        format!(
            "SELECT CAST(COALESCE(SUM(NOT ({condition})), 0) AS SIGNED) \
             FROM (SELECT {} FROM {} WHERE NOT (CAST({} AS BINARY) <=> {})) AS {}",
            columns.join(", "),
            self.table,
            self.ahead(task, version),
            self.bytes(),
            quoted(&self.name)
        )
    }

    fn begins_as_value(&self) -> String {
        let bytes = self.bytes();
        format!("(LEFT({bytes}, 4) = x'6b6d3a76' OR LEFT({bytes}, 3) = x'4b4d01')")
    }

    /// Of values in text form: the longest's bytes without its version's digits, and the highest version. Of what does not
    /// begin as a value: the longest's bytes. How many cells hold the beginning of a value behind their own. Of what begins
    /// as a value, in any form: the longest's bytes. For each id: whether one is too large, or would not come back from us as
    /// it went.
    pub(super) fn unfit(&self) -> String {
        let (bytes, head) = (self.bytes(), self.head());
        let value = format!("{head} REGEXP '^km:v[1-9][0-9]*:'");
        let version = format!("SUBSTRING_INDEX(SUBSTRING({head}, 5), ':', 1)");
        let inside = format!(
            "LOCATE(CAST('km:v' AS BINARY), {bytes}, 2) > 0 \
             AND CONVERT(SUBSTRING({bytes}, 2) USING latin1) COLLATE latin1_bin REGEXP 'km:v[0-9]+:'"
        );
        let found = [
            format!("MAX(IF({value}, LENGTH({bytes}) - LENGTH({version}), NULL))"),
            format!("MAX(IF({value}, CAST({version} AS UNSIGNED), NULL))"),
            format!("MAX(IF({}, NULL, LENGTH({bytes})))", self.begins_as_value()),
            format!("SUM({inside})"),
            format!("MAX(IF({}, LENGTH({bytes}), NULL))", self.begins_as_value()),
        ];
        let ids = self.ids.iter().map(|id| match &id.kind {
            Kind::Integer => format!("MAX({} > 9223372036854775807)", id.column()),
            Kind::Text { charset, .. } if !UNICODE.contains(&charset.as_str()) => {
                let back = format!("CONVERT(CONVERT({} USING utf8mb4) USING {charset})", id.column());
                format!("MAX(CAST({back} AS BINARY) <> CAST({} AS BINARY))", id.column())
            }
            _ => "0".into(),
        });
        let found: Vec<String> =
            found.into_iter().chain(ids).map(|sum| format!("CAST({sum} AS SIGNED)")).collect();
        format!("SELECT {} FROM {}", found.join(", "), self.table)
    }

    /// The beginning of the cell as text that is compared byte by byte.
    fn head(&self) -> String {
        format!("CONVERT(LEFT({}, 15) USING latin1) COLLATE latin1_bin", self.bytes())
    }

    /// What a person runs to count by version. It goes by the beginning of each value alone, and prints no more of it
    /// than `km:v9:`.
    pub(super) fn by_version(&self) -> String {
        let (bytes, head, table) = (self.bytes(), self.head(), self.itself());
        format!(
            "SELECT CASE WHEN bytes IS NULL THEN 'null' WHEN LENGTH(bytes) = 0 THEN 'empty' \
             WHEN head REGEXP '^km:v[1-9][0-9]*:' THEN CONCAT(SUBSTRING_INDEX(head, ':', 2), ':') \
             WHEN LEFT(bytes, 3) = x'4b4d01' AND LENGTH(bytes) > 7 THEN CONCAT('KM 0x', HEX(SUBSTRING(bytes, 4, 4))) \
             WHEN head LIKE 'km:v%' OR LEFT(bytes, 3) = x'4b4d01' THEN 'unreadable' ELSE 'foreign' END AS class, \
             COUNT(*) AS number FROM (SELECT {bytes} AS bytes, {head} AS head FROM {table}) AS cell \
             GROUP BY class ORDER BY LENGTH(class), class;"
        )
    }
}
