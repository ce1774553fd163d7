//! What the role may do, and the smallest grants that let it do the job.

use sqlx::PgConnection;

use super::{
    super::fault::Fault,
    beside::STANDBY,
    shape::{Relation, Shape, quoted},
};
use crate::source::Preflight;

/// The server as a whole.
pub(super) async fn server(connection: &mut PgConnection, found: &mut Preflight) -> Result<(), Fault> {
    let (standby, read_only, encoding): (bool, bool, String) = sqlx::query_as(
        "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool, \
         current_setting('server_encoding')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if standby {
        found.blockers.push(STANDBY.into());
    } else if read_only {
        found.warnings.push("default_transaction_read_only is on; what is written here says READ WRITE".into());
    }
    if encoding == "SQL_ASCII" {
        found.blockers.push(
            "the database has the encoding SQL_ASCII, where text may be any bytes; dump it into one with UTF8"
                .into(),
        );
    }
    Ok(())
}

/// The table and its columns. Fills in the grants to copy.
pub(super) async fn table(
    connection: &mut PgConnection,
    relation: &Relation,
    shape: &Shape,
    found: &mut Preflight,
) -> Result<(), Fault> {
    let mut names: Vec<&str> = Vec::new();
    let all =
        shape.ids.iter().map(|(id, _)| id).chain([&shape.column]).chain(shape.data.iter().map(|(data, _)| data));
    for column in all {
        if !names.contains(&column.name.as_str()) {
            names.push(&column.name);
        }
    }
    let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (role, usage, select, update, sees, hidden): (String, bool, bool, bool, bool, bool) = sqlx::query_as(
        "SELECT quote_ident(current_user), \
         has_schema_privilege((SELECT relnamespace FROM pg_class WHERE oid = $1::int8::oid), 'USAGE'), \
         (SELECT bool_and(has_column_privilege($1::int8::oid, name, 'SELECT')) FROM unnest($2::text[]) AS name), \
         has_column_privilege($1::int8::oid, $3, 'UPDATE'), \
         pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), row_security_active($1::int8::oid)",
    )
    .bind(relation.oid)
    .bind(owned)
    .bind(&shape.column.name)
    .fetch_one(connection)
    .await?;
    let read = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let table = relation.quoted();
    let usage_grant = format!("GRANT USAGE ON SCHEMA {} TO {role};", quoted(&relation.schema));
    let select_grant = format!("GRANT SELECT ({read}) ON {table} TO {role};");
    let update_grant = format!("GRANT UPDATE ({}) ON {table} TO {role};", quoted(&shape.column.name));
    let stats_grant = format!("GRANT pg_read_all_stats TO {role};");
    for (has, grant) in [(usage, &usage_grant), (select, &select_grant), (update, &update_grant)] {
        if !has {
            found.blockers.push(format!("the role {role} lacks a right: {grant}"));
        }
    }
    if !sees {
        found.warnings.push(format!(
            "a census can't see whether older transactions may still write, and so concludes nothing: {stats_grant}"
        ));
    }
    if hidden {
        found.blockers.push(format!(
            "row-level security hides rows from the role {role}, which no census may overlook: ALTER ROLE {role} BYPASSRLS;"
        ));
    }
    found.grants = vec![usage_grant, select_grant, update_grant, stats_grant];
    Ok(())
}
