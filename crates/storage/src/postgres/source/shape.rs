//! What the catalogue says of a source: its table's real name, and what its columns hold.

use sqlx::PgConnection;

use super::super::fault::Fault;
use crate::source::SourceSpec;

/// How values of a type pass between the server and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As `int8`.
    Integer,
    /// As `text`.
    Text,
    /// As `text`, and known to be a UUID.
    Uuid,
    /// As `bytea`.
    Bytes,
}

impl Kind {
    /// The type that values pass as.
    pub(super) fn wire(self) -> &'static str {
        match self {
            Self::Integer => "int8",
            Self::Text | Self::Uuid => "text",
            Self::Bytes => "bytea",
        }
    }
}

/// A column of the table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// The type behind all domains, quoted as SQL has it.
    pub(super) cast: String,
    /// Its name, as a person knows it.
    pub(super) type_name: String,
    /// `None`: a type that holds neither ids nor values nor associated data.
    pub(super) kind: Option<Kind>,
    /// An enumeration, which holds no value.
    pub(super) enumeration: bool,
    /// The n of `varchar(n)`.
    pub(super) characters_max: Option<i32>,
    pub(super) not_null: bool,
    pub(super) generated: bool,
}

/// A table as it was found.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) oid: i64,
    /// `r`, `p`, `v`, … as in `pg_class.relkind`.
    pub(super) kind: String,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

/// The columns that a source is made of, each of a type that it can have.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) table: String,
    pub(super) ids: Vec<(Column, Kind)>,
    pub(super) column: Column,
    pub(super) value: Kind,
    pub(super) data: Vec<(Column, Kind)>,
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Looks the table up: in the schema before the first dot, or where `search_path` leads.
pub(super) async fn relation(connection: &mut PgConnection, table: &str) -> Result<Option<Relation>, Fault> {
    let (schema, name) = table.split_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
    // Not by `to_regclass`, which fails where the schema can't be used, and so keeps us from saying what is missing.
    let found: Option<(i64, String, String, String)> = sqlx::query_as(
        "SELECT c.oid::int8, c.relkind::text, n.nspname::text, c.relname::text FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relname = $2 \
         AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (n.nspname = $1 OR $1 IS NULL AND pg_table_is_visible(c.oid))",
    )
    .bind(schema)
    .bind(name)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((oid, kind, schema, name)) = found else { return Ok(None) };
    let columns = columns(connection, oid).await?;
    Ok(Some(Relation { oid, kind, schema, name, columns }))
}

type Declared = (String, String, String, String, i32, bool, bool);

async fn columns(connection: &mut PgConnection, oid: i64) -> Result<Vec<Column>, Fault> {
    // Down to the type behind all domains, with the first limit of length on the way.
    let declared: Vec<Declared> = sqlx::query_as(
        "WITH RECURSIVE base AS ( \
             SELECT attnum, atttypid AS type, atttypmod AS limit_of FROM pg_attribute \
             WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped \
             UNION ALL \
             SELECT attnum, typbasetype, CASE WHEN limit_of >= 0 THEN limit_of ELSE typtypmod END \
             FROM base JOIN pg_type ON pg_type.oid = type WHERE typtype = 'd') \
         SELECT a.attname::text, t.typname::text, format('%I.%I', n.nspname, t.typname), t.typtype::text, \
             base.limit_of, a.attnotnull, a.attgenerated <> '' \
         FROM base JOIN pg_attribute AS a ON a.attrelid = $1::int8::oid AND a.attnum = base.attnum \
         JOIN pg_type AS t ON t.oid = base.type AND t.typtype <> 'd' JOIN pg_namespace AS n ON n.oid = t.typnamespace \
         ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?;
    Ok(declared.into_iter().map(column).collect())
}

fn column(declared: Declared) -> Column {
    let (name, type_name, quoted, of, limit, not_null, generated) = declared;
    let enumeration = of == "e";
    let kind = match type_name.as_str() {
        _ if enumeration => Some(Kind::Text),
        "int2" | "int4" | "int8" => Some(Kind::Integer),
        "text" | "varchar" | "citext" => Some(Kind::Text),
        "uuid" => Some(Kind::Uuid),
        "bytea" => Some(Kind::Bytes),
        _ => None,
    };
    // The length of the header is in it.
    let characters_max = (type_name == "varchar" && limit >= 4).then(|| limit - 4);
    // As parameters of text are compared by a varchar's own index.
    let cast = if type_name == "varchar" { "text".into() } else { quoted };
    Column { name, cast, type_name, kind, enumeration, characters_max, not_null, generated }
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// `"schema"."table"`
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// No view, and nothing that is elsewhere.
    fn is_a_table(&self, spec: &SourceSpec) -> Result<(), String> {
        match self.kind.as_str() {
            "r" | "p" => Ok(()),
            _ => Err(format!("{} is no table; declare the real table behind it as the source", spec.table)),
        }
    }

    /// What is needed to read and write, or why that can't be.
    pub(super) fn shape(&self, spec: &SourceSpec) -> Result<Shape, String> {
        self.is_a_table(spec)?;
        let find = |role: &str, name: &str| {
            let all = || self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
            let missing = || format!("{role} {name} is missing; {} has: {}", spec.table, all());
            self.column(name).cloned().ok_or_else(missing)
        };
        let typed = |role: &str, name: &str| {
            let column = find(role, name)?;
            let kind = column.kind.ok_or_else(|| {
                format!("{role} {name} is of type {}; an integer, text, uuid or bytea is needed", column.type_name)
            })?;
            Ok::<_, String>((column, kind))
        };
        let column = find("column", &spec.column)?;
        let value = match column.kind {
            Some(kind @ (Kind::Text | Kind::Bytes)) if !column.enumeration => kind,
            _ => {
                return Err(format!(
                    "column {} is of type {}, which holds no values; make it text or bytea",
                    spec.column, column.type_name
                ));
            }
        };
        let ids = spec.id.iter().map(|name| typed("id column", name)).collect::<Result<_, _>>()?;
        let data = spec.associated_data.columns().into_iter().map(|name| typed("associated_data column", name));
        let data = data.collect::<Result<_, _>>()?;
        Ok(Shape { table: self.quoted(), ids, column, value, data })
    }
}

/// The shape of a source, at its first use and after every fault.
pub(super) async fn look_up(connection: &mut PgConnection, spec: &SourceSpec) -> Result<Shape, Fault> {
    found(connection, spec).await?.shape(spec).map_err(Fault::Mistaken)
}

/// Refuses whatever may have come in the table's place.
pub(super) async fn refuse_other(connection: &mut PgConnection, spec: &SourceSpec) -> Result<(), Fault> {
    found(connection, spec).await?.is_a_table(spec).map_err(Fault::Mistaken)
}

async fn found(connection: &mut PgConnection, spec: &SourceSpec) -> Result<Relation, Fault> {
    let missing = || Fault::Mistaken(format!("there is no table {} that this role can see", spec.table));
    relation(connection, &spec.table).await?.ok_or_else(missing)
}
