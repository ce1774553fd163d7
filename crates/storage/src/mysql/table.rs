//! What a table is like, by the server's own catalogue.

use sqlx::{AssertSqlSafe, MySqlConnection, Row as _, mysql::MySqlDatabaseError};

use super::{fault::Fault, sql::quoted};
use crate::source::SourceSpec;

/// What a column holds, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// An integer, signed or not.
    Integer,
    /// Text in a character set, compared by a collation.
    Text { charset: String, collation: String },
    /// Bytes.
    Bytes,
    /// MariaDB's UUID.
    Uuid,
    /// What holds no value, and tells no row from another.
    Other,
}

/// A column as the table declares it.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// As in `varchar(40)`.
    pub(super) declared: String,
    /// How many characters fit, and bytes, where there is a limit.
    pub(super) characters_max: Option<u64>,
    pub(super) nullable: bool,
    pub(super) generated: bool,
    /// `ON UPDATE CURRENT_TIMESTAMP`
    pub(super) moves_on_update: bool,
}

/// An index, its columns in order.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    /// Of a column only the beginning is in it, or a hash: it gives no order.
    pub(super) of_prefixes: bool,
    pub(super) columns: Vec<String>,
    /// How many characters or bytes of each are in it, where not all are.
    pub(super) prefixes: Vec<Option<u64>>,
}

/// A table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    pub(super) indexes: Vec<Index>,
}

/// The database, if one is declared, and the table in it.
pub(super) fn names(spec: &SourceSpec) -> (Option<&str>, &str) {
    spec.table.split_once('.').map_or((None, &spec.table), |(schema, table)| (Some(schema), table))
}

/// As the server compares the names of columns.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

impl Table {
    /// The declared table; `None` where none is seen.
    pub(super) async fn look_up(
        connection: &mut MySqlConnection,
        spec: &SourceSpec,
    ) -> Result<Option<Self>, Fault> {
        let (schema, name) = names(spec);
        let schema = match schema {
            Some(schema) => schema.to_owned(),
            None => database(connection).await?,
        };
        let columns = columns(connection, &schema, name).await?;
        if columns.is_empty() {
            return is_missing(connection, &schema, name).await.map(|()| None);
        }
        let indexes = indexes(connection, &schema, name).await?;
        Ok(Some(Self { schema, name: name.to_owned(), columns, indexes }))
    }

    /// Of the column only so many characters or bytes are in a unique index, which with them alone tells rows apart.
    pub(super) fn unique_prefix(&self, column: &str, id: &[String]) -> Option<(&Index, u64)> {
        let by_id = |index: &Index| id.iter().all(|id| index.columns.iter().any(|name| same(name, id)));
        let unique = self.indexes.iter().filter(|index| index.unique && !by_id(index));
        let prefixes =
            unique.flat_map(|index| index.columns.iter().zip(&index.prefixes).map(move |part| (index, part)));
        let of_column = prefixes.filter(|(_, (name, _))| same(name, column));
        of_column.filter_map(|(index, (_, prefix))| Some((index, (*prefix)?))).min_by_key(|(_, prefix)| *prefix)
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| same(&column.name, name))
    }

    /// The unique index on just these columns, the primary key before others.
    pub(super) fn unique(&self, id: &[String]) -> Option<&Index> {
        let covers = |index: &&Index| {
            let named = |wanted: &String| index.columns.iter().any(|name| same(name, wanted));
            let never_null = |name: &String| self.column(name).is_some_and(|column| !column.nullable);
            index.unique
                && index.columns.len() == id.len()
                && id.iter().all(named)
                && index.columns.iter().all(never_null)
        };
        self.indexes.iter().filter(covers).min_by_key(|index| (index.name != "PRIMARY", index.of_prefixes))
    }
}

/// Begins a transaction in which the declared table can't be altered. While somebody else has one that is being altered
/// to himself, the catalogue says nothing of it, as if there were no index, no trigger and no constraint.
pub(super) async fn hold(connection: &mut MySqlConnection, spec: &SourceSpec) -> Result<(), Fault> {
    let (schema, name) = names(spec);
    let table = schema.map(|schema| format!("{}.", quoted(schema))).unwrap_or_default() + &quoted(name);
    sqlx::raw_sql("START TRANSACTION").execute(&mut *connection).await?;
    let held = sqlx::raw_sql(AssertSqlSafe(format!("SELECT 1 FROM {table} LIMIT 0"))).execute(connection).await;
    match held.map_err(Fault::from) {
        // There is none, or none for us, which is told where it is looked up.
        Ok(_) | Err(Fault::Mistaken(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Makes sure that a table is not there, or not for us: that its catalogue does not show it proves nothing of a node that
/// is joining a cluster, which says of itself that it is not prepared once the table is asked for.
async fn is_missing(connection: &mut MySqlConnection, schema: &str, name: &str) -> Result<(), Fault> {
    let sql = format!("SELECT 1 FROM {}.{} LIMIT 0", quoted(schema), quoted(name));
    let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await else {
        return Err(Fault::Unreachable(format!("the catalogue does not show {name}, which is there")));
    };
    let number = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
    match number.map(MySqlDatabaseError::number) {
        Some(1044 | 1049 | 1142 | 1146) => Ok(()),
        _ => Err(error.into()),
    }
}

async fn database(connection: &mut MySqlConnection) -> Result<String, Fault> {
    let (database,): (Option<String>,) =
        sqlx::query_as("SELECT CAST(DATABASE() AS CHAR)").fetch_one(connection).await?;
    database.ok_or_else(|| {
        Fault::Mistaken("neither the address nor the table names a database; write database.table".into())
    })
}

/// Text, whatever type the catalogue's own column has in this version.
fn text(column: &str) -> String {
    format!("CAST({column} AS CHAR)")
}

async fn columns(connection: &mut MySqlConnection, schema: &str, table: &str) -> Result<Vec<Column>, Fault> {
    let names = ["COLUMN_NAME", "DATA_TYPE", "COLUMN_TYPE", "EXTRA", "IS_NULLABLE"].map(text).join(", ");
    let charset = ["CHARACTER_SET_NAME", "COLLATION_NAME"].map(text).join(", ");
    let sql = format!(
        "SELECT {names}, {charset}, CAST(CHARACTER_MAXIMUM_LENGTH AS UNSIGNED) FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(schema).bind(table).fetch_all(connection).await?;
    let mut columns = Vec::with_capacity(found.len());
    for row in found {
        let (charset, collation): (Option<String>, Option<String>) = (row.try_get(5)?, row.try_get(6)?);
        let (data_type, extra): (String, String) = (row.try_get(1)?, row.try_get(3)?);
        let extra = extra.to_lowercase();
        columns.push(Column {
            name: row.try_get(0)?,
            kind: kind(&data_type.to_lowercase(), charset, collation)?,
            declared: row.try_get(2)?,
            characters_max: row.try_get(7)?,
            nullable: row.try_get::<String, _>(4)? != "NO",
            // `DEFAULT_GENERATED` is MySQL's word for a default that is an expression.
            generated: extra.replace("default_generated", "").contains("generated"),
            moves_on_update: extra.contains("on update"),
        });
    }
    Ok(columns)
}

fn kind(data_type: &str, charset: Option<String>, collation: Option<String>) -> Result<Kind, Fault> {
    Ok(match (data_type, charset, collation) {
        ("tinyint" | "smallint" | "mediumint" | "int" | "bigint", ..) => Kind::Integer,
        ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob", ..) => Kind::Bytes,
        ("uuid", ..) => Kind::Uuid,
        ("char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext", Some(charset), Some(collation)) => {
            // They are written into statements.
            let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !plain(&charset) || !plain(&collation) {
                return Err(Fault::Mistaken("a column has a character set of a strange name".into()));
            }
            Kind::Text { charset, collation }
        }
        _ => Kind::Other,
    })
}

async fn indexes(connection: &mut MySqlConnection, schema: &str, table: &str) -> Result<Vec<Index>, Fault> {
    let names = ["INDEX_NAME", "COLUMN_NAME"].map(text).join(", ");
    let sql = format!(
        "SELECT {names}, NON_UNIQUE = 0, SUB_PART IS NOT NULL OR INDEX_TYPE = 'HASH', CAST(SUB_PART AS UNSIGNED) \
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
         ORDER BY INDEX_NAME, SEQ_IN_INDEX"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(schema).bind(table).fetch_all(connection).await?;
    let mut indexes: Vec<Index> = Vec::new();
    for row in found {
        let (name, column): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let (unique, of_prefixes) = (row.try_get::<i64, _>(2)? == 1, row.try_get::<i64, _>(3)? == 1);
        // An expression has no name, and is no column of an id.
        let (column, prefix) = (column.unwrap_or_default(), row.try_get(4)?);
        match indexes.last_mut().filter(|last| last.name == name) {
            Some(last) => {
                last.of_prefixes |= of_prefixes;
                last.columns.push(column);
                last.prefixes.push(prefix);
            }
            None => {
                let (columns, prefixes) = (vec![column], vec![prefix]);
                indexes.push(Index { name, unique, of_prefixes, columns, prefixes });
            }
        }
    }
    Ok(indexes)
}
