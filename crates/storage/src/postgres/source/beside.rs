//! Rows that belong to a source and that no count of its table on this server shows.

use sqlx::PgConnection;

use super::super::fault::Fault;

/// What a standby shows may be older than what was committed, and nothing is written to it.
pub(super) const STANDBY: &str =
    "the server is a standby, which can't be written and may be behind; name the primary in the source's url";

/// Whether others write where this server only follows; the tables that a name without a schema may mean; what of the
/// table's rows is on another server; partitions that are on their way out, which a scan leaves aside already; and what
/// follows another server's tables.
const BESIDE: &str = "
    WITH RECURSIVE tree AS (
        SELECT $2::text::regclass::oid AS oid, false AS leaving
        UNION
        SELECT inhrelid, coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false)
        FROM pg_inherits AS i JOIN tree ON inhparent = tree.oid)
    SELECT pg_is_in_recovery(),
        (SELECT string_agg(format('%I.%I', nspname, relname), ', ' ORDER BY nspname)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
            WHERE relname = $1 AND relkind IN ('r', 'p', 'v', 'm', 'f')
            AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' HAVING count(*) > 1),
        (SELECT string_agg(oid::regclass::text, ', ') FROM tree JOIN pg_class USING (oid) WHERE relkind = 'f'),
        (SELECT string_agg(oid::regclass::text, ', ') FROM tree WHERE leaving),
        (SELECT string_agg(DISTINCT oid::regclass::text, ', ')
            FROM (SELECT oid FROM tree UNION SELECT relid FROM pg_partition_ancestors($2::text::regclass)) AS kin
            JOIN pg_catalog.pg_subscription_rel ON srrelid = oid)";

type Found = (bool, Option<String>, Option<String>, Option<String>, Option<String>);

/// Why a count of the quoted `table`, which was `declared` so, proves nothing.
pub(super) async fn look(
    connection: &mut PgConnection,
    declared: &str,
    table: &str,
) -> Result<Option<String>, Fault> {
    let (standby, namesakes, foreign, leaving, followed): Found =
        sqlx::query_as(BESIDE).bind(declared).bind(table).fetch_one(connection).await?;
    Ok(if standby {
        Some(STANDBY.into())
    } else if let Some(tables) = namesakes {
        // Of a name with a schema there is no other.
        Some(format!("{declared} may mean any of {tables}; write the schema in the source's table"))
    } else if let Some(tables) = foreign {
        Some(format!(
            "rows of {declared} are on another server ({tables}); declare those tables there, as sources"
        ))
    } else if let Some(tables) = followed {
        Some(format!(
            "{tables} is written by a subscription, whose publisher's old values may still come; name the publisher in the \
             source's url, or drop the subscription, and count again"
        ))
    } else {
        leaving.map(|tables| {
            format!("{tables} is being detached from {declared}; ALTER TABLE … DETACH PARTITION … FINALIZE, and count again")
        })
    })
}
