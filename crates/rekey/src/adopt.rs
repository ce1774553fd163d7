//! The two ways between plaintext and values: a column is adopted, and a column is released again.
//!
//! What begins as a value does is never taken for plaintext, and nothing is written that would begin so: else a wrong
//! key looked like plaintext, or plaintext like a value. A value inside other text is not hidden in a new one.

use keymoot_storage::source::{Cell, Row};
use keymoot_types::{
    Value,
    value::{BodyKind, Form, begins_as_value, holds_embedded_value},
};

use crate::judge::{Judge, Reason, Stays};

/// What a cell holds, and the form of the value that it becomes: text as text, bytes as bytes.
fn plaintext(cell: &Cell) -> Option<(&[u8], Form)> {
    match cell {
        Cell::Text(plaintext) => Some((plaintext, Form::Text)),
        Cell::Bytes(plaintext) => Some((plaintext, Form::Binary)),
        Cell::Null | Cell::Other(_) => None,
    }
}

impl Judge {
    /// Encrypts what is no value, bound to its row.
    pub(crate) fn adopted(&self, row: &Row) -> Result<Cell, Stays> {
        let (plaintext, form) = plaintext(&row.cell).ok_or(Reason::NotTextOrBytes)?;
        if holds_embedded_value(plaintext) {
            return Err(Reason::EmbeddedValue.into());
        }
        let associated_data = self.associated_data(row)?;
        let value = self.service.ring.adopt(&self.source.spec().key, plaintext, &associated_data);
        let value = value.map_err(|error| self.not_rekeyed(error))?;
        Ok(row.cell.with_bytes(value.to_bytes(form)))
    }

    /// What a value holds, if nobody could take it for a value.
    pub(crate) fn released(&self, cell: &Cell, value: &Value, associated_data: &[u8]) -> Result<Cell, Stays> {
        if value.kind() == BodyKind::DataKey {
            return Err(Reason::DataKey.into());
        }
        let opened = self.service.ring.decrypt(&self.source.spec().key, value, associated_data);
        let plaintext = opened.map_err(|error| self.not_opened(error))?;
        if begins_as_value(&plaintext) {
            return Err(Reason::LooksLikeValue.into());
        }
        // No database takes a NUL in text, and most take nothing but UTF-8.
        let is_text = || !plaintext.contains(&0) && std::str::from_utf8(&plaintext).is_ok();
        if matches!(cell, Cell::Text(_)) && !is_text() {
            return Err(Reason::NotText.into());
        }
        Ok(cell.with_bytes(plaintext.to_vec()))
    }
}
