//! The statements that a source runs. All dynamic SQL of this adapter is made here, from quoted names; what they
//! compare is bound.

use sqlx::{
    AssertSqlSafe, FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::{Query, QueryAs},
};

use super::shape::{Column, Kind, Shape, quoted};
use crate::{behind_prefix, source::Task};

/// A statement of ours.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// What this module made is of quoted names alone.
pub(super) fn query<'q>(sql: String) -> Statement<'q> {
    sqlx::query(AssertSqlSafe(sql))
}

/// A look at the catalogue, of constant pieces.
pub(super) fn catalogue<T>(sql: String) -> QueryAs<'static, Postgres, T, PgArguments>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(AssertSqlSafe(sql))
}

/// The one number of the administrator's own query, from the configuration. No second statement can follow, as the
/// extended protocol takes one alone.
pub(super) fn one_number(query: &str) -> Statement<'static> {
    let query = query.trim().trim_end_matches(';');
    sqlx::query(AssertSqlSafe(format!("SELECT (SELECT * FROM ({query}) AS throttle)::float8"))).persistent(false)
}

/// One end of a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bound {
    Text(String),
    Bytes(Vec<u8>),
}

/// A statement that looks for rows, and the bounds that follow the parameters of the id.
pub(super) struct Read {
    pub(super) sql: String,
    pub(super) bounds: Vec<Bound>,
}

fn of_row(column: &Column) -> String {
    format!("t.{}", quoted(&column.name))
}

/// A column, to be compared as bytes and no other way.
fn exact(column: &Column, kind: Kind) -> String {
    match kind {
        Kind::Text => format!("{}::text COLLATE \"C\"", of_row(column)),
        Kind::Uuid => format!("{}::text", of_row(column)),
        Kind::Integer | Kind::Bytes => of_row(column),
    }
}

/// As it comes to us.
fn passed(column: &Column, kind: Kind) -> String {
    format!("{}::{}", of_row(column), kind.wire())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

impl Shape {
    /// Id, value, and what the associated data is made from, as they pass.
    fn columns(&self) -> String {
        let all = |columns: &[(Column, Kind)]| -> Vec<String> {
            columns.iter().map(|(column, kind)| passed(column, *kind)).collect()
        };
        [all(&self.ids), vec![passed(&self.column, self.value)], all(&self.data)].concat().join(", ")
    }

    /// The next rows in the order of their ids. Parameters: the id (if `after`).
    ///
    /// The number of rows is a literal: for a parameter the planner would expect a tenth of the table.
    pub(super) fn read(&self, after: bool, rows_max: usize) -> String {
        format!("SELECT {} FROM {} LIMIT {rows_max}", self.columns(), self.ordered(after))
    }

    /// The table in the order of its ids; behind the one that the first parameters are.
    fn ordered(&self, after: bool) -> String {
        let ids = list(self.ids.iter().map(|(id, _)| of_row(id)));
        let parameters = self.ids.iter().zip(1..).map(|((id, kind), n)| parameter(n, id, *kind));
        let behind = if after { format!(" WHERE ({ids}) > ({})", list(parameters)) } else { String::new() };
        format!("{} AS t{behind} ORDER BY {ids}", self.table)
    }

    /// Those of the next `looked_at` rows that begin with a prefix, at most `rows_max`; then the last that was looked at,
    /// with its id alone. Behind the columns of each stands whether it is that one. Parameters: the id (if `after`), then
    /// the bounds.
    ///
    /// What is looked at is remembered without the cells of other rows, so that little is held.
    pub(super) fn find(&self, after: bool, (rows_max, looked_at): (usize, usize), prefixes: &[Vec<u8>]) -> Read {
        let next = if after { self.ids.len() + 1 } else { 1 };
        let (condition, bounds) = self.begins_with(prefixes, next);
        let named = |letter, columns: &[(Column, Kind)]| -> Vec<String> {
            let named = columns.iter().enumerate();
            named.map(|(n, (column, _))| format!("{} AS {letter}{n}", of_row(column))).collect()
        };
        let wire = |letter, columns: &[(Column, Kind)]| -> Vec<String> {
            columns.iter().enumerate().map(|(n, (_, kind))| format!("{letter}{n}::{}", kind.wire())).collect()
        };
        let order = |descending| list((0..self.ids.len()).map(|n| format!("i{n}{descending}")));
        let cell = format!("CASE WHEN {condition} THEN {} END AS c", passed(&self.column, self.value));
        let looked = [named('i', &self.ids), vec![cell], named('d', &self.data)].concat().join(", ");
        let nothing = vec!["NULL".to_owned(); 1 + self.data.len()];
        let end = (0..self.ids.len()).map(|n| format!("i{n}")).chain(nothing);
        let end = list(end);
        let passed = [wire('i', &self.ids), vec!["c".into()], wire('d', &self.data)].concat().join(", ");
        let sql = format!(
            "WITH looked_at AS MATERIALIZED (SELECT {looked} FROM {ordered} LIMIT {looked_at}) \
             SELECT {passed}, is_end FROM ((SELECT *, false AS is_end FROM looked_at WHERE c IS NOT NULL \
             ORDER BY {ascending} LIMIT {rows_max}) UNION ALL \
             (SELECT {end}, true FROM looked_at ORDER BY {descending} LIMIT 1)) AS found ORDER BY found.is_end, {of_found}",
            ordered = self.ordered(after),
            ascending = order(""),
            descending = order(" DESC"),
            // Not what of them is answered, which is text of some and in another order.
            of_found = list((0..self.ids.len()).map(|n| format!("found.i{n}"))),
        );
        Read { sql, bounds }
    }

    /// Whether a cell begins with one of these, and the bounds that it is compared with, from parameter `next` on.
    fn begins_with(&self, prefixes: &[Vec<u8>], mut next: usize) -> (String, Vec<Bound>) {
        let (mut ranges, mut bounds) = (vec!["false".to_owned()], Vec::new());
        for prefix in prefixes {
            let behind = behind_prefix(prefix);
            let lower = self.bound(prefix);
            let upper = behind.as_deref().map(|behind| self.bound(behind));
            // Both ends of a range are of one type.
            let bytes = [Some(&lower), upper.as_ref()].into_iter().flatten().any(|b| matches!(b, Bound::Bytes(_)));
            let ends = [(">=", Some(prefix.as_slice())), ("<", behind.as_deref())];
            let mut range = Vec::new();
            for (operator, end) in ends.into_iter().filter_map(|(operator, end)| Some((operator, end?))) {
                let (cell, bound) = if bytes {
                    (self.bytes(), Bound::Bytes(end.to_vec()))
                } else {
                    (exact(&self.column, self.value), self.bound(end))
                };
                let wire = if matches!(bound, Bound::Bytes(_)) { "bytea" } else { "text" };
                range.push(format!("{cell} {operator} ${next}::{wire}"));
                bounds.push(bound);
                next += 1;
            }
            ranges.push(range.join(" AND "));
        }
        (ranges.join(" OR "), bounds)
    }

    /// The cell as bytes, whatever its type.
    fn bytes(&self) -> String {
        match self.value {
            Kind::Text => format!("convert_to({}::text, 'UTF8')", of_row(&self.column)),
            _ => of_row(&self.column),
        }
    }

    /// As text where text can hold it, which costs less.
    fn bound(&self, end: &[u8]) -> Bound {
        match std::str::from_utf8(end) {
            Ok(text) if self.value == Kind::Text && text.is_ascii() && !text.contains('\0') => {
                Bound::Text(text.to_owned())
            }
            _ => Bound::Bytes(end.to_vec()),
        }
    }

    /// Arrays with one element for each of a batch: the parts of the ids, then `more`.
    fn arrays(&self, more: &[(&str, Kind)]) -> (String, String) {
        let ids = self.ids.iter().enumerate().map(|(n, (_, kind))| (format!("i{n}"), *kind));
        let more = more.iter().map(|(name, kind)| ((*name).to_owned(), *kind));
        let all: Vec<(String, Kind)> = ids.chain(more).collect();
        let arrays = list(all.iter().zip(1..).map(|((_, kind), n)| format!("${n}::{}[]", kind.wire())));
        (arrays, list(all.into_iter().map(|(name, _)| name)))
    }

    fn id_is(&self) -> String {
        let equal =
            self.ids.iter().enumerate().map(|(n, (id, _))| format!("{} = n.i{n}::{}", of_row(id), id.cast));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The rows with these ids, each behind its number from 1. Parameters: an array for each part of the ids.
    pub(super) fn read_again(&self) -> String {
        let (arrays, names) = self.arrays(&[]);
        format!(
            "SELECT {}, n.number FROM unnest({arrays}) WITH ORDINALITY AS n ({names}, number) JOIN {} AS t ON {}",
            self.columns(),
            self.table,
            self.id_is()
        )
    }

    /// The compare-and-swap of a batch in which no id is twice. It answers with one array of the numbers, from 1, of
    /// those that were written, and whether every row is now as it was meant to be. Parameters: an array for each part of
    /// the ids, the old values, the new ones, and each of `data`.
    ///
    /// Everything but the id is compared byte by byte, as a collation takes different texts for equal.
    pub(super) fn swap(&self, data: &[&(Column, Kind)]) -> String {
        let names: Vec<String> = (0..data.len()).map(|n| format!("d{n}")).collect();
        let mut more = vec![("old", self.value), ("new", self.value)];
        more.extend(names.iter().map(String::as_str).zip(data.iter().map(|(_, kind)| *kind)));
        let (arrays, all) = self.arrays(&more);
        let cell = exact(&self.column, self.value);
        let same: String = names
            .iter()
            .zip(data)
            .map(|(name, (column, kind))| format!(" AND {} IS NOT DISTINCT FROM n.{name}", exact(column, *kind)))
            .collect();
        format!(
            "WITH written AS (UPDATE {} AS t SET {} = n.new FROM unnest({arrays}) WITH ORDINALITY AS n ({all}, number) \
             WHERE {} AND {cell} IS NOT DISTINCT FROM n.old{same} \
             RETURNING n.number, {cell} IS NOT DISTINCT FROM n.new{same} AS held) \
             SELECT array_agg(number), bool_and(held) FROM written",
            self.table,
            quoted(&self.column.name),
            self.id_is(),
        )
    }

    pub(super) fn count(&self) -> String {
        format!("SELECT count(*) FROM {} AS t", self.table)
    }

    /// The plan of reading all rows, in which the expected number stands.
    pub(super) fn explain(&self) -> String {
        format!("EXPLAIN SELECT FROM {} AS t", self.table)
    }

    /// Nothing; the table and its partitions stay what they are until the transaction ends.
    pub(super) fn lock(&self) -> String {
        format!("SELECT FROM {} LIMIT 0", self.table)
    }

    /// Every cell, and behind them in the second column how many the same snapshot counts.
    pub(super) fn scan(&self) -> String {
        format!(
            "SELECT {}::{}, NULL::int8 FROM {table} AS t UNION ALL SELECT NULL, count(*) FROM {table}",
            of_row(&self.column),
            self.value.wire(),
            table = self.table
        )
    }

    /// How many cells hold a value behind their beginning; how many bytes the longest value has without the digits of its
    /// version; the newest version; and how many bytes the longest cell has that does not begin as a value does.
    ///
    /// Cells are grouped by the version that they name: a regular expression for each of them would cost more than all
    /// the rest.
    pub(super) fn look_at_rows(&self) -> String {
        let (text, bytes) = match self.value {
            Kind::Text => (format!("{}::text", of_row(&self.column)), "convert_to(c, 'UTF8')"),
            _ => (format!("encode({}, 'escape')", of_row(&self.column)), "cell"),
        };
        format!(
            "SELECT coalesce(sum(inside), 0)::int8, max(longest - length(version)) FILTER (WHERE is_one)::int8, \
             max(CASE WHEN is_one THEN version::int8 END), max(plain)::int8 \
             FROM (SELECT *, version ~ '^[1-9][0-9]{{0,9}}$' AS is_one FROM (SELECT version, max(octet_length(c)) AS longest, \
             count(*) FILTER (WHERE strpos(c, 'km:v') > 1 AND c ~ '.km:v[1-9][0-9]*:') AS inside, \
             max(octet_length({bytes})) FILTER (WHERE left(c, 4) <> 'km:v' AND left(c, 6) <> 'KM\\001') AS plain \
             FROM (SELECT c, cell, CASE WHEN left(c, 4) = 'km:v' AND strpos(substr(c, 5, 11), ':') > 1 \
             THEN split_part(substr(c, 5, 11), ':', 1) END AS version \
             FROM (SELECT {text} COLLATE \"C\" AS c, {cell} AS cell FROM {table} AS t OFFSET 0) AS cells OFFSET 0) AS heads \
             GROUP BY version) AS each) AS versions",
            cell = of_row(&self.column),
            table = self.table,
        )
    }

    /// A cell as it will look: of this version and as long as it is going to be, with nothing in it.
    fn ahead(&self, task: Task, version: u64) -> String {
        let (cell, bytes) = (of_row(&self.column), self.bytes());
        let adopts = task == Task::Adopt;
        match self.value {
            Kind::Text => format!(
                "CASE WHEN {exact} ~ '^km:v[1-9][0-9]*:' \
                 THEN 'km:v{version}:' || substr({cell}::text, length(substring({exact} FROM '^km:v[0-9]+:')) + 1) \
                 WHEN {adopts} AND {exact} <> '' AND left({exact}, 4) <> 'km:v' \
                 THEN 'km:v{version}:' || repeat('A', (4 * (41 + octet_length({bytes})) + 2) / 3) ELSE {cell}::text END",
                exact = exact(&self.column, self.value),
            ),
            _ => format!(
                "CASE WHEN substr({cell}, 1, 3) = '\\x4b4d01' AND length({cell}) > 7 \
                 THEN '\\x4b4d01{version:08x}'::bytea || substr({cell}, 8) \
                 WHEN encode(substr({cell}, 1, 15), 'escape') ~ '^km:v[1-9][0-9]*:' \
                 THEN convert_to('km:v{version}:', 'UTF8') || substr({cell}, \
                 length(substring(encode(substr({cell}, 1, 15), 'escape') FROM '^km:v[0-9]+:')) + 1) \
                 WHEN {adopts} AND length({cell}) > 0 AND substr({cell}, 1, 3) <> '\\x4b4d01' \
                 AND substr({cell}, 1, 4) <> '\\x6b6d3a76' \
                 THEN '\\x4b4d01{version:08x}'::bytea || decode(repeat('01', 41 + length({cell})), 'hex') \
                 ELSE {cell} END"
            ),
        }
    }

    /// Of the rows that will be written: how a row's cell is going to differ.
    fn differs(&self, task: Task, version: u64) -> String {
        format!("({}) IS DISTINCT FROM {}", self.ahead(task, version), exact(&self.column, self.value))
    }

    /// How many rows that will be written this expression would refuse, of these columns of the table or of a partition;
    /// nothing, where it need not hold and has a result for each of them.
    pub(super) fn check(
        &self,
        (table, bare_name): (&str, &str),
        task: Task,
        version: u64,
        (expression, must_hold): (&str, bool),
        columns: &[String],
    ) -> String {
        let other = columns.iter().filter(|name| **name != self.column.name);
        let other = other.map(|name| format!("t.{}", quoted(name)));
        let cell =
            format!("({})::{} AS {}", self.ahead(task, version), self.column.cast, quoted(&self.column.name));
        let counted = if must_hold {
            format!("count(*) FILTER (WHERE NOT ({expression}))")
        } else {
            format!("count(({expression})) * 0")
        };
        format!(
            "SELECT {counted} FROM (SELECT {} FROM {table} AS t WHERE {}) AS {}",
            list(other.chain([cell])),
            self.differs(task, version),
            quoted(bare_name)
        )
    }

    /// Nothing, where new values are of the column's domain; else an error.
    pub(super) fn check_domain(&self, task: Task, version: u64, domain: &str) -> String {
        let cell = self.ahead(task, version);
        // Counted lest the planner leave it out.
        format!(
            "SELECT count(c) * 0 FROM (SELECT ({cell})::{domain} AS c FROM {} AS t WHERE {} OFFSET 0) AS cells",
            self.table,
            self.differs(task, version)
        )
    }

    /// What a person runs to count by version. It goes by the beginning of each value alone, and prints no more of
    /// it than `km:v9:`.
    pub(super) fn by_version(&self) -> String {
        let (cell, table) = (self.bytes(), &self.table);
        format!(
            "WITH cell AS (SELECT {cell} AS bytes FROM {table} AS t), \
             head AS (SELECT bytes, encode(substr(bytes, 1, 15), 'escape') AS text FROM cell) \
             SELECT class, count(*) AS rows FROM (\
             SELECT CASE WHEN bytes IS NULL THEN 'null' WHEN length(bytes) = 0 THEN 'empty' \
             WHEN text ~ '^km:v[1-9][0-9]*:' THEN substring(text FROM '^km:v[0-9]+:') \
             WHEN substr(bytes, 1, 3) = '\\x4b4d01' AND length(bytes) > 7 THEN 'KM 0x' || encode(substr(bytes, 4, 4), 'hex') \
             WHEN text LIKE 'km:v%' OR substr(bytes, 1, 3) = '\\x4b4d01' THEN 'unreadable' \
             ELSE 'foreign' END AS class FROM head) AS classes GROUP BY class ORDER BY length(class), class;"
        )
    }
}

fn parameter(n: usize, column: &Column, kind: Kind) -> String {
    format!("${n}::{}::{}", kind.wire(), column.cast)
}
