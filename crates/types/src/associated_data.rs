//! Associated data made from a row: what binds a value to the row that it lies in.
//!
//! A template such as `customers/{id}` is filled from the row's columns. Each value is percent-encoded
//! (RFC 3986, all but unreserved characters) and between two placeholders stands a reserved character, so no
//! two rows make the same text.

use std::{fmt::Write as _, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// RFC 3986's reserved characters, which no encoded value contains, and so separate.
const RESERVED: &str = ":/?#[]@!$&'()*+,;=";

/// A checked template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Column(String),
}

/// A column's value, as far as associated data can be made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnValue {
    /// Decimal.
    Integer(i64),
    /// As stored.
    Text(String),
    /// Lower-case, with hyphens.
    Uuid(String),
    /// Lower-case hex.
    Bytes(Vec<u8>),
    /// Puts the row in quarantine.
    Null,
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` without `}`, or the reverse.
    #[error("a brace at character {0} has no partner; write {{{{ or }}}} for a brace itself")]
    Unbalanced(usize),
    /// `{}`
    #[error("a placeholder at character {0} names no column")]
    NoColumn(usize),
    /// `{a}{b}` or `{a}x{b}`: two rows could make the same text.
    #[error("between the placeholders {{{0}}} and {{{1}}} must stand a reserved character such as /")]
    NotSeparated(String, String),
}

/// Why a row makes no associated data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The row was read without that column.
    #[error("the row has no column {0}")]
    NoColumn(String),
    /// NULL binds to nothing.
    #[error("column {0} is NULL")]
    Null(String),
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().enumerate().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '{' | '}' if chars.next_if(|(_, next)| *next == c).is_some() => literal.push(c),
                '}' => return Err(TemplateError::Unbalanced(at + 1)),
                '{' => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    let mut column = String::new();
                    loop {
                        match chars.next() {
                            Some((_, '}')) => break,
                            Some((_, '{')) | None => return Err(TemplateError::Unbalanced(at + 1)),
                            Some((_, c)) => column.push(c),
                        }
                    }
                    if column.is_empty() {
                        return Err(TemplateError::NoColumn(at + 1));
                    }
                    pieces.push(Piece::Column(column));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        separated(&pieces)?;
        Ok(Self { pieces })
    }
}

fn separated(pieces: &[Piece]) -> Result<(), TemplateError> {
    let mut last: Option<(&str, bool)> = None;
    for piece in pieces {
        match piece {
            Piece::Literal(text) => {
                if let Some((_, separated)) = &mut last {
                    *separated |= text.chars().any(|c| RESERVED.contains(c));
                }
            }
            Piece::Column(column) => {
                if let Some((before, false)) = last {
                    return Err(TemplateError::NotSeparated(before.into(), column.clone()));
                }
                last = Some((column, false));
            }
        }
    }
    Ok(())
}

impl Template {
    /// The columns that it needs, each once, in order.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for piece in &self.pieces {
            if let Piece::Column(column) = piece
                && !columns.contains(&column.as_str())
            {
                columns.push(column);
            }
        }
        columns
    }

    /// The associated data of one row, as UTF-8 bytes.
    pub fn fill(&self, column: impl Fn(&str) -> Option<ColumnValue>) -> Result<Vec<u8>, FillError> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Column(name) => {
                    match column(name).ok_or_else(|| FillError::NoColumn(name.clone()))? {
                        // Writing to a string can't fail.
                        ColumnValue::Integer(number) => write!(text, "{number}").unwrap_or_default(),
                        ColumnValue::Text(value) | ColumnValue::Uuid(value) => {
                            text.extend(utf8_percent_encode(&value, ENCODED));
                        }
                        ColumnValue::Bytes(bytes) => text.push_str(&hex::encode(bytes)),
                        ColumnValue::Null => return Err(FillError::Null(name.clone())),
                    }
                }
            }
        }
        Ok(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_placeholders_need_a_reserved_character_between_them() {
        for good in ["", "a", "{a}", "{a}/{b}", "x{a}:y{b}z", "{{{a}}}", "{a}-/-{b}"] {
            assert!(good.parse::<Template>().is_ok(), "{good}");
        }
        for bad in ["{a}{b}", "{a}-{b}", "{a}x{b}", "{a}{{{b}", "{", "}", "{a", "a}", "{}", "{a{b}}"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }

    #[test]
    fn null_and_missing_columns_are_named() {
        let template: Template = "c/{id}".parse().unwrap();
        assert_eq!(template.fill(|_| Some(ColumnValue::Null)), Err(FillError::Null("id".into())));
        assert_eq!(template.fill(|_| None), Err(FillError::NoColumn("id".into())));
    }
}
