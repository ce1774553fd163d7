//! All that can be known to be wrong with a source before the first write, each with its remedy.

use sqlx::PgConnection;

use super::{
    super::fault::Fault,
    checks, key, rights, rows,
    session::server,
    shape::{Relation, Shape, relation},
    sql::catalogue,
    width,
};
use crate::source::{Ahead, Preflight, SourceSpec};

/// The columns of `attribute`'s table that an update of the column `$2` writes, by number: those that are generated from it
/// are written too.
const WRITTEN: &str = "(SELECT w.attnum FROM pg_attribute AS w WHERE w.attrelid = attribute.attrelid \
    AND (w.attname = $2 OR w.attgenerated <> '' AND EXISTS (SELECT FROM pg_attrdef AS f JOIN pg_depend AS d \
        ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid \
        OR d.classid = 'pg_class'::regclass AND d.objid = f.adrelid AND d.objsubid = f.adnum \
        WHERE f.adrelid = w.attrelid AND f.adnum = w.attnum \
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = w.attrelid AND d.refobjsubid = attribute.attnum)))";

/// The table and its partitions, by oid: what a rewritten row may be in.
pub(super) const TREE: &str =
    "(SELECT $1::int8::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree($1::int8::oid::regclass))";

pub(super) async fn preflight(
    connection: &mut PgConnection,
    spec: &SourceSpec,
    ahead: Ahead,
) -> Result<Preflight, Fault> {
    let mut found = Preflight { server: server(connection).await?, ..Preflight::default() };
    rights::server(connection, &mut found).await?;
    let Some(relation) = relation(connection, &spec.table).await? else {
        missing(connection, spec, &mut found).await?;
        return Ok(found);
    };
    let shape = match relation.shape(spec) {
        Ok(shape) => shape,
        Err(reason) => {
            found.blockers.push(reason);
            return Ok(found);
        }
    };
    roles(spec, &shape, &mut found);
    rights::table(connection, &relation, &shape, &mut found).await?;
    key::check(connection, &relation, &shape, &mut found).await?;
    kin(connection, &relation, spec, &mut found).await?;
    constraints(connection, &relation, spec, &mut found).await?;
    effects(connection, &relation, spec, &mut found).await?;
    copies(connection, &relation, &mut found).await?;
    // Its rows can be looked at only by who may read them.
    if found.blockers.is_empty() {
        let version = width::rows(connection, &relation, &shape, ahead, &mut found).await?;
        checks::tried(connection, &relation, &shape, ahead.task, version, &mut found).await?;
        rows::try_swap(connection, &shape, &mut found).await?;
    }
    Ok(found)
}

async fn missing(connection: &mut PgConnection, spec: &SourceSpec, found: &mut Preflight) -> Result<(), Fault> {
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
         ORDER BY 1 LIMIT 20",
    )
    .fetch_all(connection)
    .await?;
    let names: Vec<String> = tables.into_iter().map(|(name,)| name).collect();
    let others = if names.is_empty() { "none".into() } else { names.join(", ") };
    found.blockers.push(format!(
        "there is no table {} that this role can see; the database's tables: {others}. Correct the source's table \
         (upper case counts), or GRANT USAGE on its schema",
        spec.table
    ));
    Ok(())
}

/// Each column in a role that it can have.
fn roles(spec: &SourceSpec, shape: &Shape, found: &mut Preflight) {
    if shape.column.generated {
        found.blockers.push(format!(
            "column {} is generated and can't be written; declare the column it is made from",
            spec.column
        ));
    }
    if spec.id.contains(&spec.column) || spec.associated_data.columns().contains(&spec.column.as_str()) {
        found.blockers.push(format!(
            "column {} can't be its own id or associated data; name another column for those",
            spec.column
        ));
    }
    if spec.id.iter().enumerate().any(|(n, id)| spec.id.iter().skip(n + 1).any(|other| id == other)) {
        found.blockers.push("the id names one column twice; name each once".into());
    }
}

/// Partitions that are on another server, where neither our transactions nor our snapshots reach.
async fn elsewhere(connection: &mut PgConnection, table: i64) -> Result<Vec<String>, Fault> {
    let foreign: Vec<(String,)> = sqlx::query_as(
        "SELECT relid::text FROM pg_partition_tree($1::int8::oid::regclass) \
         JOIN pg_class ON pg_class.oid = relid WHERE relkind = 'f'",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let named = |(partition,)| {
        format!("the partition {partition} is on another server; declare the other partitions, and that one there")
    };
    Ok(foreign.into_iter().map(named).collect())
}

/// Tables that belong together, and what kind they are.
async fn kin(
    connection: &mut PgConnection,
    relation: &Relation,
    spec: &SourceSpec,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let table = &spec.table;
    let (persistence, children): (String, bool) = sqlx::query_as(
        "SELECT relpersistence::text, relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = pg_class.oid) \
         FROM pg_class WHERE oid = $1::int8::oid",
    )
    .bind(relation.oid)
    .fetch_one(&mut *connection)
    .await?;
    if children {
        found.blockers.push(format!(
            "other tables inherit from {table}, whose ids may be the same; declare each table as a source, or make \
             partitions of them"
        ));
    }
    match persistence.as_str() {
        "t" => found.blockers.push(format!("{table} is a temporary table; declare the real table")),
        "u" => found.warnings.push(format!("{table} is unlogged: a crash of the server empties it")),
        _ => {}
    }
    found.blockers.extend(elsewhere(connection, relation.oid).await?);
    let (divides,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM pg_partition_ancestors($1::int8::oid::regclass) AS up \
             JOIN pg_partitioned_table ON partrelid = up.relid \
             JOIN pg_attribute ON attrelid = partrelid AND attnum = ANY (partattrs) WHERE attname = $2) \
         OR EXISTS (SELECT FROM pg_partition_tree($1::int8::oid::regclass) AS down \
             JOIN pg_partitioned_table ON partrelid = down.relid \
             JOIN pg_attribute ON attrelid = partrelid AND attnum = ANY (partattrs) WHERE attname = $2)",
    )
    .bind(relation.oid)
    .bind(&spec.column)
    .fetch_one(connection)
    .await?;
    if divides {
        found.blockers.push(format!(
            "column {} decides which partition a row is in, so that a new value would move it; partition by another",
            spec.column
        ));
    }
    Ok(())
}

/// A new value in one of two columns that must be equal breaks them apart.
async fn constraints(
    connection: &mut PgConnection,
    relation: &Relation,
    spec: &SourceSpec,
    found: &mut Preflight,
) -> Result<(), Fault> {
    // What a partition has from its parent is the parent's, and named once.
    let constraints = format!(
        "SELECT DISTINCT conname::text, contype::text, conrelid::regclass::text \
         FROM pg_constraint, pg_attribute AS attribute, LATERAL {WRITTEN} AS written \
         WHERE attribute.attname = $2 AND attribute.attrelid IN (SELECT oid FROM {TREE} AS tree) \
         AND (attribute.attrelid = $1::int8::oid OR conparentid = 0) \
         AND (conrelid = attribute.attrelid AND written.attnum = ANY (conkey) \
             OR confrelid = attribute.attrelid AND written.attnum = ANY (confkey)) \
         AND contype IN ('f', 'x') ORDER BY 1"
    );
    let constraints: Vec<(String, String, String)> =
        catalogue(constraints).bind(relation.oid).bind(&spec.column).fetch_all(connection).await?;
    for (name, kind, table) in constraints {
        match kind.as_str() {
            "f" => found.blockers.push(format!(
                "column {} is in the foreign key {name} of table {table}, which a new value would break; drop it",
                spec.column
            )),
            _ => found
                .warnings
                .push(format!("the constraint {name} compares every new value with those of other rows")),
        }
    }
    Ok(())
}

/// What an update fires or sets off, in the session as it is.
const ENABLED: &str =
    "IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)";

/// The triggers that an update of a column fires, in the quoted table and its partitions: those of the table that has the
/// name now.
pub(super) async fn triggers(
    connection: &mut PgConnection,
    table: &str,
    column: &str,
) -> Result<Vec<String>, Fault> {
    let fired = format!(
        "SELECT DISTINCT t.tgname::text FROM pg_trigger AS t JOIN (SELECT $1::text::regclass::oid AS oid UNION \
         SELECT relid::oid FROM pg_partition_tree($1::text::regclass)) AS tree ON tree.oid = t.tgrelid \
         JOIN pg_attribute AS attribute ON attribute.attrelid = t.tgrelid AND attribute.attname = $2 \
         WHERE NOT t.tgisinternal AND t.tgenabled {ENABLED} AND t.tgtype & 16 = 16 \
         AND (t.tgattr::text = '' OR EXISTS (SELECT FROM {WRITTEN} AS written WHERE written.attnum = ANY (t.tgattr))) \
         ORDER BY 1"
    );
    let fired: Vec<(String,)> = catalogue(fired).bind(table).bind(column).fetch_all(connection).await?;
    Ok(fired.into_iter().map(|(name,)| name).collect())
}

/// Triggers that an update of this column fires, and rules that stand in its way.
async fn effects(
    connection: &mut PgConnection,
    relation: &Relation,
    spec: &SourceSpec,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let fired = triggers(connection, &relation.quoted(), &spec.column).await?;
    let rules = format!(
        "SELECT r.rulename::text FROM pg_rewrite AS r JOIN {TREE} AS tree ON tree.oid = r.ev_class \
         WHERE r.ev_type = '2' AND r.ev_enabled {ENABLED} ORDER BY 1"
    );
    let rules: Vec<(String,)> = catalogue(rules).bind(relation.oid).fetch_all(connection).await?;
    for (name,) in rules {
        found.blockers.push(format!(
            "the rule {name} does something instead of an update or beside it, and the server refuses updates like ours \
             then; drop it, or make a trigger of it"
        ));
    }
    for name in &fired {
        if spec.accept_triggers.contains(name) {
            found.side_effects.push(format!("trigger {name} fires for every row that is written"));
        } else {
            found.blockers.push(format!(
                "trigger {name} fires for every row that is written, and may copy old values elsewhere; drop it, or look \
                 at what it does and name it in accept_triggers (a table it copies values to must be a source too)"
            ));
        }
    }
    for name in spec.accept_triggers.iter().filter(|name| !fired.contains(name)) {
        found.warnings.push(format!("accept_triggers names {name}, which no update of this column fires"));
    }
    Ok(())
}

/// Where old and new values go beside the table.
async fn copies(connection: &mut PgConnection, relation: &Relation, found: &mut Preflight) -> Result<(), Fault> {
    // A table of partitions is published by name or by its parts.
    let copies = format!(
        "SELECT coalesce(bool_or(relreplident = 'f'), false), coalesce(bool_or(updates \
             AND (relreplident = 'n' OR relreplident = 'd' \
             AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = oid AND indisprimary))), false), \
             string_agg(DISTINCT published, ', '), \
             (SELECT string_agg(DISTINCT srrelid::regclass::text, ', ') FROM (SELECT oid FROM {TREE} AS tree \
                 UNION SELECT relid::oid FROM pg_partition_ancestors($1::int8::oid::regclass)) AS kin \
                 JOIN pg_subscription_rel ON srrelid = oid) \
         FROM (SELECT c.oid, relreplident, (SELECT string_agg(pubname, ', ' ORDER BY pubname) \
             FROM pg_publication_tables WHERE schemaname = nspname AND tablename = relname) AS published, \
             EXISTS (SELECT FROM pg_publication_tables JOIN pg_publication USING (pubname) \
                 WHERE pubupdate AND schemaname = nspname AND tablename = relname) AS updates \
             FROM {TREE} AS tree JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = relnamespace) AS each"
    );
    let (full, nameless, published, followed): (bool, bool, Option<String>, Option<String>) =
        catalogue(copies).bind(relation.oid).fetch_one(connection).await?;
    if let Some(tables) = followed {
        found.blockers.push(format!(
            "{tables} is written by a subscription, which would overwrite new values; name the publisher in the source's \
             url, or drop the subscription"
        ));
    }
    if full {
        found.warnings.push("REPLICA IDENTITY FULL: every rewritten row is logged with its old value too".into());
    }
    if let Some(publications) = published.as_deref().filter(|_| nameless) {
        found.blockers.push(format!(
            "the table is published ({publications}) and has no replica identity, so that the server refuses every update of \
             it; ALTER TABLE {} REPLICA IDENTITY USING INDEX with a unique index, or give it a primary key",
            relation.quoted()
        ));
    }
    if let Some(publications) = published {
        found.warnings.push(format!(
            "the table is published ({publications}): subscribers get every rewritten row, and their copies are not \
             counted here"
        ));
    }
    Ok(())
}
