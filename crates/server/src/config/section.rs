//! A table of the configuration as it is walked: every mistake is noted with its place and the walk goes on.
//!
//! `toml`'s spanned document is walked by hand rather than through serde, which ends at the first wrong type.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use jiff::Timestamp;
use keymoot_api::{HumanDuration, SecretText};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{report::Report, secret};

/// A century: a longer wait is a typing error.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A setting and the line on which it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

impl<T> At<T> {
    /// The value alone.
    pub(super) fn value(self) -> T {
        self.value
    }
}

/// The reading of one file.
pub(super) struct Reading<'t> {
    text: &'t str,
    /// What relative paths are relative to: the configuration's own directory, wherever the daemon is started.
    base: PathBuf,
    report: RefCell<Report>,
    /// Files that secrets came from, for the check of their modes.
    secret_files: RefCell<Vec<At<PathBuf>>>,
}

impl<'t> Reading<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        let base = file.parent().map(Path::to_owned).unwrap_or_default();
        Self { text, base, report: RefCell::new(Report::new(file)), secret_files: RefCell::default() }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn error(&self, line: usize, text: impl Into<String>) {
        self.report.borrow_mut().error(line, text);
    }

    pub(super) fn warning(&self, line: usize, text: impl Into<String>) {
        self.report.borrow_mut().warning(line, text);
    }

    pub(super) fn finish(self) -> (Report, Vec<At<PathBuf>>) {
        let mut report = self.report.into_inner();
        report.sort();
        (report, self.secret_files.into_inner())
    }

    fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }
}

/// One table.
pub(super) struct Section<'a> {
    reading: &'a Reading<'a>,
    table: &'a DeTable<'a>,
    /// What its fields are called before the dot; empty for the root.
    name: String,
    pub(super) line: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(reading: &'a Reading<'a>, table: &'a DeTable<'a>) -> Self {
        Self { reading, table, name: String::new(), line: 1, known: RefCell::default() }
    }

    pub(super) fn called(&self, field: &str) -> String {
        if self.name.is_empty() { format!("`{field}`") } else { format!("`{}.{field}`", self.name) }
    }

    pub(super) fn error(&self, line: usize, text: impl Into<String>) {
        self.reading.error(line, text);
    }

    pub(super) fn warning(&self, line: usize, text: impl Into<String>) {
        self.reading.warning(line, text);
    }

    fn field(&self, field: &'static str) -> Option<At<&'a DeValue<'a>>> {
        self.known.borrow_mut().push(field);
        let (key, value) = self.table.iter().find(|(key, _)| key.get_ref() == field)?;
        Some(At { value: value.get_ref(), line: self.reading.line(key.span().start) })
    }

    fn wrong_type(&self, line: usize, field: &str, wanted: &str, found: &DeValue<'_>) {
        self.error(line, format!("{} is {wanted}, not {}", self.called(field), article(found.type_str())));
    }

    /// A table inside this one; an empty one where it is not given.
    pub(super) fn section(&self, field: &'static str) -> Option<Section<'a>> {
        let At { value, line } = self.field(field)?;
        let DeValue::Table(table) = value else {
            self.wrong_type(line, field, &format!("a table, [{field}]"), value);
            return None;
        };
        Some(Section { reading: self.reading, table, name: field.into(), line, known: RefCell::default() })
    }

    /// The tables of `[[field]]`.
    pub(super) fn sections(&self, field: &'static str, count_max: usize) -> Vec<Section<'a>> {
        let Some(At { value, line }) = self.field(field) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.wrong_type(line, field, &format!("a list of tables, [[{field}]]"), value);
            return Vec::new();
        };
        if array.len() > count_max {
            self.error(
                line,
                format!("there are {} of [[{field}]], and at most {count_max} are allowed", array.len()),
            );
        }
        let mut sections = Vec::new();
        for item in array.iter().take(count_max) {
            let line = self.reading.line(item.span().start);
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section {
                    reading: self.reading,
                    table,
                    name: field.into(),
                    line,
                    known: RefCell::default(),
                }),
                other => self.wrong_type(line, field, &format!("a list of tables, [[{field}]]"), other),
            }
        }
        sections
    }

    /// Text.
    pub(super) fn text(&self, field: &'static str) -> Option<At<&'a str>> {
        let At { value, line } = self.field(field)?;
        match value {
            DeValue::String(text) if text.is_empty() => {
                self.error(line, format!("{} is empty", self.called(field)));
                None
            }
            DeValue::String(text) => Some(At { value: text, line }),
            other => {
                self.wrong_type(line, field, "text", other);
                None
            }
        }
    }

    /// What must be there.
    pub(super) fn required<T>(&self, field: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.table.iter().any(|(key, _)| key.get_ref() == field) {
            self.error(self.line, format!("{} is missing", self.called(field)));
        }
        value
    }

    /// Text of a checked type.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: &'static str) -> Option<At<T>> {
        let At { value, line } = self.text(field)?;
        self.checked(field, line, value.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// Notes why something is refused.
    pub(super) fn checked<T>(&self, field: &str, line: usize, result: Result<T, String>) -> Option<At<T>> {
        result
            .map(|value| At { value, line })
            .map_err(|error| self.error(line, format!("{}: {error}", self.called(field))))
            .ok()
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, field: &'static str) -> Option<At<bool>> {
        let At { value, line } = self.field(field)?;
        match value {
            DeValue::Boolean(value) => Some(At { value: *value, line }),
            other => {
                self.wrong_type(line, field, "true or false", other);
                None
            }
        }
    }

    /// A number of bytes, at least `least`.
    pub(super) fn bytes(&self, field: &'static str, least: u64) -> Option<At<u64>> {
        self.integer(field, "a number of bytes", least, u64::MAX)
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, field: &'static str, least: u64, most: u64) -> Option<At<u64>> {
        self.integer(field, "a number", least, most)
    }

    fn integer(&self, field: &'static str, what: &str, least: u64, most: u64) -> Option<At<u64>> {
        let At { value, line } = self.field(field)?;
        let DeValue::Integer(number) = value else {
            self.wrong_type(line, field, what, value);
            return None;
        };
        let at_most = if most == u64::MAX { String::new() } else { format!(" and at most {most}") };
        let parsed = u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|parsed| (least..=most).contains(parsed))
            .ok_or_else(|| format!("{number} is not {what}, at least {least}{at_most}"));
        self.checked(field, line, parsed)
    }

    /// Such as `24h`.
    pub(super) fn duration(&self, field: &'static str) -> Option<At<Duration>> {
        let At { value, line } = self.text(field)?;
        let duration = match value.parse::<HumanDuration>() {
            Ok(duration) if duration.get() <= DURATION_MAX => Ok(duration.get()),
            Ok(_) => Err(format!("{value:?} is longer than a century")),
            Err(error) => Err(format!("{value:?}: {error}")),
        };
        self.checked(field, line, duration)
    }

    /// RFC 3339, as text or as TOML's own date and time.
    pub(super) fn time(&self, field: &'static str) -> Option<At<Timestamp>> {
        let At { value, line } = self.field(field)?;
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            other => {
                self.wrong_type(line, field, "a time", other);
                return None;
            }
        };
        let time = text.parse().map_err(|_| format!("{text:?} is not a time such as \"2027-06-01T00:00:00Z\""));
        self.checked(field, line, time)
    }

    /// A path; a relative one is relative to the configuration's directory.
    pub(super) fn path(&self, field: &'static str) -> Option<At<PathBuf>> {
        self.text(field).map(|At { value, line }| At { value: self.reading.path(value), line })
    }

    /// A secret, wherever it is kept. `bool`: whether it stands in the configuration itself.
    pub(super) fn secret(&self, field: &'static str) -> Option<(At<SecretText>, bool)> {
        let At { value, line } = self.text(field)?;
        let (secret, inline) = if let Some(path) = value.strip_prefix("file:") {
            let path = self.reading.path(path);
            let secret = secret::read_file(&path);
            self.reading.secret_files.borrow_mut().push(At { value: path, line });
            (secret, false)
        } else if let Some(name) = value.strip_prefix("env:") {
            (secret::read_env(name), false)
        } else {
            (Ok(SecretText::new(value)), true)
        };
        Some((self.checked(field, line, secret)?, inline))
    }

    /// A list of texts; one text alone stands for a list of one where `alone` allows it.
    pub(super) fn texts(&self, field: &'static str, alone: bool) -> Option<At<Vec<At<&'a str>>>> {
        let At { value, line } = self.field(field)?;
        let wanted = if alone { "text or a list of texts" } else { "a list of texts" };
        match value {
            DeValue::String(text) if alone => Some(At { value: vec![At { value: text.as_ref(), line }], line }),
            DeValue::Array(array) => {
                let texts = array.iter().filter_map(|item| self.list_item(field, wanted, item)).collect();
                Some(At { value: texts, line })
            }
            other => {
                self.wrong_type(line, field, wanted, other);
                None
            }
        }
    }

    fn list_item(&self, field: &str, wanted: &str, item: &'a Spanned<DeValue<'a>>) -> Option<At<&'a str>> {
        let line = self.reading.line(item.span().start);
        match item.get_ref() {
            DeValue::String(text) => Some(At { value: text.as_ref(), line }),
            other => {
                self.wrong_type(line, field, wanted, other);
                None
            }
        }
    }

    /// A list whose members are of a checked type and given once each.
    pub(super) fn set<T: FromStr<Err: fmt::Display> + PartialEq>(
        &self,
        field: &'static str,
        alone: bool,
    ) -> Option<At<Vec<T>>> {
        let At { value, line } = self.texts(field, alone)?;
        let mut set = Vec::with_capacity(value.len());
        for At { value, line } in value {
            let parsed = value.parse::<T>().map_err(|error| error.to_string());
            let Some(At { value: member, .. }) = self.checked(field, line, parsed) else { continue };
            if set.contains(&member) {
                self.error(line, format!("{} names {value:?} twice", self.called(field)));
            } else {
                set.push(member);
            }
        }
        Some(At { value: set, line })
    }

    /// Notes every field that nobody asked for. To be called last.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let line = self.reading.line(key.span().start);
            let field: String = key.get_ref().chars().take(80).collect();
            self.error(line, format!("unknown field {}; known here: {}", self.called(&field), known.join(", ")));
        }
    }
}

fn article(kind: &str) -> String {
    match kind {
        "array" | "integer" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
