//! What only the rows tell: whether a longer value fits, and whether values stand where nobody looks for them.

use keymoot_types::{
    KeyVersion,
    value::{Form, direct_value_bytes},
};
use sqlx::{PgConnection, Row as _};

use super::{
    super::fault::Fault,
    session::WHOLE_TABLE,
    shape::{Kind, Relation, Shape, quoted},
    sql::query,
};
use crate::source::{Ahead, Preflight, Task, before_next};

/// A B-tree's row has at most 2704 bytes, with the id of the row and the other columns in it.
const INDEXED_BYTES_MAX: u64 = 2600;

/// The longest that is in the column, of what decides on the width of new values.
#[derive(Debug, Default)]
struct Longest {
    /// Bytes of the longest value in text form, of which each is a character, its version's digits not counted.
    value: Option<u64>,
    /// The newest version of such values.
    version: Option<u64>,
    /// Bytes of the longest cell that does not begin as a value does.
    plaintext: Option<u64>,
}

impl Longest {
    /// How long the longest cell is going to be, and whether it is plaintext now.
    fn becomes(&self, ahead: Ahead, kind: Kind) -> Option<(u64, bool)> {
        let version = ahead.version_after(self.version);
        let rekeyed = self.value.map(|value| (value + u64::from(version.ilog10()) + 1, false));
        let plaintext = self.plaintext.filter(|_| ahead.task == Task::Adopt);
        let adopted = plaintext.and_then(|bytes| {
            let form = if kind == Kind::Text { Form::Text } else { Form::Binary };
            let version = KeyVersion::new(u32::try_from(version).ok()?).ok()?;
            let bytes = direct_value_bytes(form, version, usize::try_from(bytes).ok()?);
            Some((u64::try_from(bytes).ok()?, true))
        });
        rekeyed.into_iter().chain(adopted).max()
    }
}

/// Answers the version that was found room for.
pub(super) async fn rows(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    ahead: Ahead,
    found: &mut Preflight,
) -> Result<u64, Fault> {
    sqlx::raw_sql("BEGIN READ ONLY; SET LOCAL statement_timeout = '1700s'").execute(&mut *connection).await?;
    sqlx::raw_sql(WHOLE_TABLE).execute(&mut *connection).await?;
    let row = query(shape.look_at_rows()).persistent(false).fetch_one(&mut *connection).await?;
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    let inside: i64 = row.try_get(0)?;
    let number = |at: usize| row.try_get::<Option<i64>, _>(at).map(|number| number.map(i64::unsigned_abs));
    let longest = Longest { value: number(1)?, version: number(2)?, plaintext: number(3)? };
    let (column, table) = (&shape.column, relation.quoted());
    if inside > 0 {
        found.warnings.push(format!(
            "{inside} rows hold km:v<version>: within other text, such as JSON, where it is neither found nor rewritten: \
             column {} can't be called clean; move such values to a column of their own",
            column.name
        ));
    }
    let too_narrow = |ahead: Ahead| {
        let (needed, adopts) = longest.becomes(ahead, shape.value)?;
        let limit = column.characters_max.filter(|limit| needed > u64::from(limit.unsigned_abs()))?;
        let whose = if adopts { "the values that its plaintext becomes" } else { "new values" };
        Some(format!(
            "column {0} is varchar({limit}) and {whose} need {needed} characters; \
             ALTER TABLE {table} ALTER COLUMN {1} TYPE varchar({2}), or text",
            column.name,
            quoted(&column.name),
            needed.saturating_add(8)
        ))
    };
    match too_narrow(ahead) {
        Some(blocker) => found.blockers.push(blocker),
        None => found.warnings.extend(too_narrow(ahead.later()).map(before_next)),
    }
    if let Some((needed, true)) = longest.becomes(ahead, shape.value) {
        indexed(connection, relation, shape, needed, found).await?;
    }
    Ok(ahead.version_after(longest.version))
}

/// Indexes that hold whole cells of plaintext: what they did with it they can't do with values.
async fn indexed(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    needed: u64,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let indexes: Vec<(String, bool, bool)> = sqlx::query_as(
        "SELECT indexrelid::regclass::text, indisunique, amname = 'btree' FROM pg_index \
         JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam \
         JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey::int2[]) \
         WHERE indrelid = $1::int8::oid AND attname = $2 ORDER BY 1",
    )
    .bind(relation.oid)
    .bind(&shape.column.name)
    .fetch_all(connection)
    .await?;
    for (index, unique, tree) in indexes {
        if tree && needed > INDEXED_BYTES_MAX {
            found.blockers.push(format!(
                "the index {index} takes cells of at most {INDEXED_BYTES_MAX} bytes, and the values that the column's \
                 plaintext becomes have up to {needed}; drop it, as encrypted values are not looked up by it anyway"
            ));
        }
        if unique {
            found.warnings.push(format!(
                "the unique index {index} keeps no plaintext from being there twice once it is encrypted: two values of \
                 one plaintext differ"
            ));
        }
    }
    Ok(())
}
