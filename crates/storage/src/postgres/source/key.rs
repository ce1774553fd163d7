//! Whether the declared id tells every row from every other, and whether an index gives its order.

use sqlx::PgConnection;

use super::{
    super::fault::Fault,
    shape::{Relation, Shape},
};
use crate::source::Preflight;

/// A usable unique index: its columns in order, whether each compares as its column does and in one direction, and the
/// schemas of its operators that are not searched.
type Unique = (String, Vec<String>, bool, bool, Option<String>);

/// Valid, at once and of all rows; with the operators and collations that a comparison of the columns uses, and in one
/// direction.
const UNIQUE: &str = "
    SELECT c.relname::text, array_agg(a.attname::text ORDER BY k.n),
        bool_and(o.opcdefault AND (a.attcollation = 0 OR a.attcollation = i.indcollation[k.n - 1])),
        count(DISTINCT i.indoption[k.n - 1] & 1) = 1,
        string_agg(DISTINCT quote_ident(s.nspname), ', ') FILTER (WHERE s.nspname <> ALL (current_schemas(true)))
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
    CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) AS k (n)
    JOIN pg_opclass AS o ON o.oid = i.indclass[k.n - 1] JOIN pg_namespace AS s ON s.oid = o.opcnamespace
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] AND a.attnum > 0
    WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
        AND i.indpred IS NULL AND m.amname = 'btree'
    GROUP BY c.relname, i.indisprimary HAVING count(a.attname) = count(*) ORDER BY i.indisprimary DESC, 1";

pub(super) async fn check(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let uniques: Vec<Unique> = sqlx::query_as(UNIQUE).bind(relation.oid).fetch_all(&mut *connection).await?;
    let declared: Vec<&str> = shape.ids.iter().map(|(id, _)| id.name.as_str()).collect();
    let names = declared.join(", ");
    let same_columns = |columns: &[String]| {
        columns.len() == declared.len() && columns.iter().all(|column| declared.contains(&column.as_str()))
    };
    let same_order = |columns: &[String]| columns.iter().zip(&declared).all(|(one, other)| one == other);
    let fitting: Vec<&Unique> = uniques.iter().filter(|(_, columns, ..)| same_columns(columns)).collect();
    match fitting.iter().find(|(_, columns, ours, ..)| *ours && same_order(columns)).or(fitting.first()) {
        None => found.blockers.push(format!(
            "id ({names}) is neither the primary key of {} nor covered by a UNIQUE index on just these columns; name the \
             primary key as id, or CREATE UNIQUE INDEX on them",
            relation.name
        )),
        Some((index, _, _, _, Some(schemas))) => found.blockers.push(format!(
            "the index {index} compares by operators of schema {schemas}, which is not searched, so that a comparison would \
             use others and skip rows; add it to the role's search_path"
        )),
        Some((index, _, false, ..)) => found.blockers.push(format!(
            "the unique index {index} compares ({names}) by another collation or operators than the columns do; make one \
             with the columns' own"
        )),
        Some((index, columns, true, ..)) if !same_order(columns) => found.blockers.push(format!(
            "the index {index} orders the rows by ({}) and the id by ({names}), so that every chunk would sort the table; \
             name the id's columns in the order of the index",
            columns.join(", ")
        )),
        Some((index, _, true, false, _)) => found.blockers.push(format!(
            "the index {index} is in part descending, so that every chunk would sort the table; make one that ascends"
        )),
        Some((index, ..)) => found.index = Some(index.clone()),
    }
    for (id, _) in shape.ids.iter().filter(|(id, _)| !id.not_null) {
        found.blockers.push(format!(
            "id column {} may be NULL, and rows with NULL are not told apart; declare it NOT NULL or name the primary \
             key as id",
            id.name
        ));
    }
    collations(connection, relation, &declared, found).await?;
    with_column(connection, relation, shape, found).await
}

/// An index that was built by another version of its collation may have rows in places where they are not found.
async fn collations(
    connection: &mut PgConnection,
    relation: &Relation,
    ids: &[&str],
    found: &mut Preflight,
) -> Result<(), Fault> {
    let (number,): (i32,) =
        sqlx::query_as("SELECT current_setting('server_version_num')::int4").fetch_one(&mut *connection).await?;
    // Older servers don't note which version a database began with.
    let of_database = if number >= 150_000 {
        "(SELECT datcollversion <> pg_database_collation_actual_version(oid) FROM pg_database \
         WHERE datname = current_database())"
    } else {
        "false"
    };
    let changed = format!(
        "SELECT attname::text FROM pg_attribute JOIN pg_collation AS c ON c.oid = attcollation \
         WHERE attrelid = $1::int8::oid AND attname = ANY ($2) AND CASE WHEN collprovider = 'd' THEN {of_database} \
         ELSE collversion <> pg_collation_actual_version(c.oid) END ORDER BY 1"
    );
    let changed: Vec<(String,)> =
        super::sql::catalogue(changed).bind(relation.oid).bind(ids).fetch_all(connection).await?;
    for (id,) in changed {
        found.warnings.push(format!(
            "the collation of id column {id} has another version now than when it was first used: rows may be skipped, \
             until a census finds them; REINDEX TABLE {} and ALTER DATABASE or COLLATION … REFRESH VERSION",
            relation.quoted()
        ));
    }
    Ok(())
}

/// Indexes that hold the column, and so get an entry more with each of its new values.
async fn with_column(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let indexes: Vec<(String,)> = sqlx::query_as(
        "SELECT DISTINCT d.objid::regclass::text FROM pg_depend AS d JOIN pg_index AS i ON i.indexrelid = d.objid \
         JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
         AND d.refobjid = $1::int8::oid AND i.indrelid = d.refobjid AND a.attname = $2 \
         UNION SELECT i.indexrelid::regclass::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid \
         WHERE i.indrelid = $1::int8::oid AND a.attname = $2 AND a.attnum = ANY (i.indkey::int2[]) ORDER BY 1",
    )
    .bind(relation.oid)
    .bind(&shape.column.name)
    .fetch_all(connection)
    .await?;
    for (index,) in indexes {
        found.warnings.push(format!(
            "the index {index} holds column {}: every rewritten value is written there too, and in all other indexes",
            shape.column.name
        ));
    }
    Ok(())
}
