//! What a batch wrote is read again before its commit: a trigger may have made something else of it.

use std::collections::HashMap;

use crate::source::{Row, RowId, Swap, Swapped};

/// Of each row the last of the swaps that wrote it.
pub(crate) fn last_written<'a>(batch: &'a [Swap], outcomes: &[Swapped]) -> Vec<&'a Swap> {
    let done = batch.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Swapped::Done);
    let last: HashMap<&RowId, &Swap> = done.map(|(swap, _)| (&swap.id, swap)).collect();
    last.into_values().collect()
}

/// Whether a row holds what a swap wrote, beside the associated data that the new value is bound to.
pub(crate) fn is_held(swap: &Swap, row: Option<&Row>) -> bool {
    row.is_some_and(|row| row.cell == swap.new && swap.columns.iter().all(|column| row.columns.contains(column)))
}

/// Why nothing of a batch was committed.
pub(crate) fn altered(table: &str, triggers: &[String]) -> String {
    let named = if triggers.is_empty() { "none was found".to_owned() } else { triggers.join(", ") };
    format!(
        "{table} did not hold what was written to it, so nothing was committed; drop or change the trigger that alters \
         the column, its id or its associated data (triggers of an update: {named})"
    )
}

/// Refuses a trigger that nobody looked at, of those that an update fires: it may have come since the preflight, and copy
/// old values elsewhere.
pub(crate) fn refuse_unaccepted(fired: &[String], is_accepted: impl Fn(&String) -> bool) -> Result<(), String> {
    let unaccepted = fired.iter().find(|name| !is_accepted(name));
    unaccepted.map_or(Ok(()), |name| {
        Err(format!(
            "trigger {name} came since the preflight and may copy old values elsewhere, so nothing was committed; drop it, or \
             look at what it does and name it in accept_triggers"
        ))
    })
}

#[cfg(test)]
mod tests {
    use keymoot_types::associated_data::ColumnValue;

    use super::*;
    use crate::source::{Cell, IdPart};

    #[test]
    fn a_row_is_held_by_its_last_swap_bytes_type_and_associated_data() {
        let tenant = |text: &str| vec![("tenant".to_owned(), ColumnValue::Text(text.into()))];
        let id = RowId(vec![IdPart::Integer(1)]);
        let swap = |old: &str, new: &str| Swap {
            id: id.clone(),
            old: Cell::Text(old.into()),
            new: Cell::Text(new.into()),
            columns: tenant("acme"),
        };
        let batch = [swap("a", "b"), swap("b", "c"), swap("b", "d")];
        let outcomes = [Swapped::Done, Swapped::Done, Swapped::Lost];
        let last = last_written(&batch, &outcomes);
        assert_eq!(last.iter().map(|swap| &swap.new).collect::<Vec<_>>(), [&Cell::Text(b"c".to_vec())]);
        let row = |cell, columns| Some(Row { id: id.clone(), cell, columns });
        let held = |row: Option<Row>| is_held(&batch[1], row.as_ref());
        assert!(held(row(Cell::Text(b"c".to_vec()), tenant("acme"))));
        assert!(!held(row(Cell::Text(b"C".to_vec()), tenant("acme"))));
        assert!(!held(row(Cell::Bytes(b"c".to_vec()), tenant("acme"))));
        assert!(!held(row(Cell::Text(b"c".to_vec()), tenant("Acme"))));
        assert!(!held(None));
    }
}
