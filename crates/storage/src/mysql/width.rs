//! Whether new values fit into the column, by the longest that are in it.

use keymoot_types::{
    KeyVersion,
    value::{Form, direct_value_bytes},
};

use super::{
    sql::quoted,
    table::{Column, Kind, Table},
};
use crate::source::{Ahead, Task};

/// A `VARCHAR` shares the 65,535 bytes of a row with the other columns; what is longer is better a `TEXT`.
const VARCHAR_BYTES_MAX: u64 = 16_000;

/// The most that `max_allowed_packet` can be.
const PACKET_MAX: u64 = 1 << 30;

/// What is in the column, of what decides on the width of new values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Longest {
    /// Bytes of the longest value in text form, its version's digits not counted.
    pub(super) value_bytes: Option<u64>,
    /// The highest version of values in text form.
    pub(super) version: Option<u64>,
    /// Bytes of the longest cell that does not begin as a value does.
    pub(super) plaintext_bytes: Option<u64>,
}

impl Longest {
    /// How many bytes the longest cell is going to have; of values each is a character.
    fn becomes(self, ahead: Ahead, kind: &Kind) -> Option<u64> {
        let version = ahead.version_after(self.version);
        let rekeyed = self.value_bytes.map(|bytes| bytes + u64::from(version.ilog10()) + 1);
        let plaintext = self.plaintext_bytes.filter(|_| ahead.task == Task::Adopt);
        let adopted = plaintext.and_then(|bytes| {
            let form = if matches!(kind, Kind::Text { .. }) { Form::Text } else { Form::Binary };
            let version = KeyVersion::new(u32::try_from(version).ok()?).ok()?;
            u64::try_from(direct_value_bytes(form, version, usize::try_from(bytes).ok()?)).ok()
        });
        rekeyed.max(adopted)
    }
}

/// Why the column is too narrow, with the remedy; `None` where it is wide enough.
pub(super) fn why_not(table: &Table, column: &Column, longest: Longest, ahead: Ahead) -> Option<String> {
    let (needed, room) = (longest.becomes(ahead, &column.kind)?, column.characters_max?);
    (needed > room).then(|| {
        let unit = if matches!(column.kind, Kind::Text { .. }) { "characters" } else { "bytes" };
        format!(
            "column {} is {} and its longest value will have {needed} {unit}; widen it before: ALTER TABLE {}.{} MODIFY {} {}, \
             with its default and comment as they are",
            column.name,
            column.declared,
            quoted(&table.schema),
            quoted(&table.name),
            quoted(&column.name),
            wider(column, needed.saturating_add(8)),
        )
    })
}

/// In a packet with values there is the statement too, with the ids.
const PACKET_REST: u64 = 4096;

/// Why a row can't be sent, with the remedy: an update has its old and its new value, and as much again is room for what
/// the server makes of them. `value_bytes`: of the longest cell that begins as a value, in whatever form.
pub(super) fn no_packet(
    column: &Column,
    value_bytes: u64,
    longest: Longest,
    ahead: Ahead,
    packet_bytes: u64,
) -> Option<String> {
    let bytes = value_bytes.max(longest.becomes(ahead, &column.kind).unwrap_or_default());
    let needed = bytes.saturating_mul(3).saturating_add(PACKET_REST);
    (needed > packet_bytes).then(|| {
        let name = &column.name;
        if needed > PACKET_MAX {
            return format!("column {name} has values of {bytes} bytes, too long for any max_allowed_packet; shorten them");
        }
        format!(
            "max_allowed_packet is {packet_bytes}, and an update of column {name} with its longest value of {bytes} bytes \
             needs more: SET GLOBAL max_allowed_packet = {}, and the same in the server's configuration; then `keymoot reload`, \
             as connections keep the number that they began with",
            needed.next_power_of_two()
        )
    })
}

/// A type of the same kind with room for so many bytes.
fn wider(column: &Column, bytes: u64) -> String {
    let (short, long, charset) = match &column.kind {
        Kind::Text { charset, collation } => {
            ("VARCHAR", "TEXT", format!(" CHARACTER SET {charset} COLLATE {collation}"))
        }
        _ => ("VARBINARY", "BLOB", String::new()),
    };
    let wide = if bytes <= VARCHAR_BYTES_MAX {
        format!("{short}({bytes})")
    } else if bytes <= 65_535 {
        long.to_owned()
    } else if bytes <= 16_777_215 {
        format!("MEDIUM{long}")
    } else {
        format!("LONG{long}")
    };
    let not_null = if column.nullable { "" } else { " NOT NULL" };
    format!("{wide}{charset}{not_null}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Kind, room: u64, longest: Longest, task: Task) -> Option<String> {
        let column = Column {
            name: "c".into(),
            kind,
            declared: format!("varchar({room})"),
            characters_max: Some(room),
            nullable: false,
            generated: false,
            moves_on_update: false,
        };
        let table = Table { schema: "app".into(), name: "t".into(), columns: vec![], indexes: vec![] };
        why_not(&table, &column, longest, Ahead { task, version: None })
    }

    fn text() -> Kind {
        Kind::Text { charset: "utf8mb4".into(), collation: "utf8mb4_bin".into() }
    }

    #[test]
    fn a_digit_more_in_the_version_needs_a_character_more() {
        // `km:v9:` and ten characters.
        let mut longest = Longest { value_bytes: Some(15), version: Some(9), ..Longest::default() };
        let why = refused(text(), 16, longest, Task::Rekey).unwrap();
        assert!(why.contains("17 characters"), "{why}");
        assert!(why.contains("ALTER TABLE `app`.`t` MODIFY `c` VARCHAR(25) CHARACTER SET utf8mb4"), "{why}");
        assert_eq!(refused(text(), 17, longest, Task::Rekey), None);
        // `km:v10:` is there already, and v11 is no longer.
        longest.version = Some(10);
        assert_eq!(refused(text(), 17, longest, Task::Rekey), None);
        longest.version = Some(99);
        assert!(refused(text(), 17, longest, Task::Rekey).is_some());
        assert_eq!(refused(text(), 0, Longest::default(), Task::Adopt), None);
    }

    #[test]
    fn a_plaintext_that_is_adopted_needs_room_for_its_value() {
        let longest = Longest { plaintext_bytes: Some(11), ..Longest::default() };
        // 52 bytes of body are 70 characters of base64, behind `km:v10:`; in bytes they stand behind seven.
        for (kind, needed) in [(text(), 77), (Kind::Bytes, 59)] {
            assert_eq!(refused(kind.clone(), 12, longest, Task::Rekey), None);
            assert_eq!(refused(kind.clone(), 12, longest, Task::Release), None);
            let why = refused(kind.clone(), needed - 1, longest, Task::Adopt).unwrap();
            assert!(why.contains(&format!("{needed} ")) && why.contains("NOT NULL"), "{why}");
            assert_eq!(refused(kind, needed, longest, Task::Adopt), None);
        }
        let long = Longest { plaintext_bytes: Some(60_000), ..Longest::default() };
        assert!(refused(text(), 65_535, long, Task::Adopt).unwrap().contains(" MEDIUMTEXT "));
    }
}
