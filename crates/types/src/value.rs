//! An encrypted value: its two spellings and its three bodies.
//!
//! ```text
//! text    "km:v" ‖ version ‖ ":" ‖ base64url-without-padding(body)
//! binary  "KM" ‖ 0x01 ‖ version u32 ‖ body
//! ```
//!
//! The text can be counted with plain SQL: `WHERE token LIKE 'km:v9:%'`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::KeyVersion;

/// What every value in text begins with.
pub const TEXT_PREFIX: &str = "km:v";
/// What every value in binary begins with.
pub const BINARY_PREFIX: &[u8] = b"KM\x01";

/// Bytes of an XAES-256-GCM nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of an AES-256-GCM nonce, in the payload of an envelope.
pub const PAYLOAD_NONCE_BYTES: usize = 12;
/// Bytes of a GCM tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of `D`, a wrapped 256-bit data-encryption key: nonce, 32 bytes of ciphertext, tag.
pub const WRAPPED_256_BYTES: usize = NONCE_BYTES + 32 + TAG_BYTES;
/// Bytes of `D` for a 512-bit key.
pub const WRAPPED_512_BYTES: usize = NONCE_BYTES + 64 + TAG_BYTES;

/// The first byte of a body: how the rest is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// `0x01 ‖ nonce[24] ‖ ciphertext ‖ tag[16]`
    Direct,
    /// `0x02 ‖ D[72] ‖ nonce[12] ‖ ciphertext ‖ tag[16]`
    Envelope,
    /// `0x03 ‖ D`, never a value itself
    DataKey,
}

impl BodyKind {
    /// The byte that stands for it.
    pub fn byte(self) -> u8 {
        match self {
            Self::Direct => 1,
            Self::Envelope => 2,
            Self::DataKey => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Direct, Self::Envelope, Self::DataKey].into_iter().find(|kind| kind.byte() == byte)
    }

    fn length_is_right(self, body_bytes: usize) -> bool {
        match self {
            Self::Direct => body_bytes > NONCE_BYTES + TAG_BYTES,
            Self::Envelope => body_bytes > WRAPPED_256_BYTES + PAYLOAD_NONCE_BYTES + TAG_BYTES,
            Self::DataKey => [1 + WRAPPED_256_BYTES, 1 + WRAPPED_512_BYTES].contains(&body_bytes),
        }
    }
}

/// How a value is spelt; a rewritten value keeps the spelling it was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `km:v9:…`
    Text,
    /// `KM\x01…`
    Binary,
}

/// A well-formed encrypted value. Whether it authenticates only a keyring can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    version: KeyVersion,
    kind: BodyKind,
    body: Vec<u8>,
}

/// Why bytes are not a value of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It does not begin with `km:v` (or, in binary, `KM` and 1).
    #[error("it does not begin as a value does")]
    NoPrefix,
    /// Version, colon or base64url is not in canonical form, or nothing follows.
    #[error("it is not in canonical form: {0}")]
    NotCanonical(&'static str),
    /// A body byte that this build does not know; a newer writer may have made it.
    #[error("it has a body of kind {0:#04x}, which this build does not know")]
    UnsupportedFormat(u8),
    /// Too short for its kind (or, for a data key, too long).
    #[error("it is too short for its kind")]
    WrongLength,
}

impl Value {
    /// Puts a value together; `body` begins with the byte of its kind.
    pub fn from_parts(version: KeyVersion, body: Vec<u8>) -> Result<Self, ValueError> {
        let byte = *body.first().ok_or(ValueError::NotCanonical("the body is empty"))?;
        let kind = BodyKind::from_byte(byte).ok_or(ValueError::UnsupportedFormat(byte))?;
        if !kind.length_is_right(body.len()) {
            return Err(ValueError::WrongLength);
        }
        Ok(Self { version, kind, body })
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let rest = text.strip_prefix(TEXT_PREFIX).ok_or(ValueError::NoPrefix)?;
        let (version, body) =
            rest.split_once(':').ok_or(ValueError::NotCanonical("no colon after the version"))?;
        let version = version.parse().map_err(|_| ValueError::NotCanonical("the version"))?;
        let body =
            URL_SAFE_NO_PAD.decode(body).map_err(|_| ValueError::NotCanonical("base64url without padding"))?;
        Self::from_parts(version, body)
    }

    /// Reads the binary form.
    pub fn parse_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        let rest = bytes.strip_prefix(BINARY_PREFIX).ok_or(ValueError::NoPrefix)?;
        let (version, body) = rest.split_first_chunk::<4>().ok_or(ValueError::NotCanonical("the version"))?;
        let version =
            KeyVersion::new(u32::from_be_bytes(*version)).map_err(|_| ValueError::NotCanonical("the version"))?;
        Self::from_parts(version, body.to_vec())
    }

    /// Reads whichever form the bytes are in, as a database column has them.
    pub fn parse_bytes(bytes: &[u8]) -> Result<(Self, Form), ValueError> {
        if bytes.starts_with(BINARY_PREFIX) {
            return Ok((Self::parse_binary(bytes)?, Form::Binary));
        }
        if !bytes.starts_with(TEXT_PREFIX.as_bytes()) {
            return Err(ValueError::NoPrefix);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ValueError::NotCanonical("not UTF-8"))?;
        Ok((Self::parse(text)?, Form::Text))
    }

    /// The version of the key that it was encrypted with, by its own word.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// How the body is laid out.
    pub fn kind(&self) -> BodyKind {
        self.kind
    }

    /// The body, its kind's byte included.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        let mut text = format!("{TEXT_PREFIX}{}:", self.version);
        URL_SAFE_NO_PAD.encode_string(&self.body, &mut text);
        text
    }

    /// The binary form.
    pub fn to_binary(&self) -> Vec<u8> {
        [BINARY_PREFIX, &self.version.to_be_bytes(), &self.body].concat()
    }

    /// The form asked for, as bytes.
    pub fn to_bytes(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Text => self.to_text().into_bytes(),
            Form::Binary => self.to_binary(),
        }
    }
}

/// What a column holds, by its form alone. Every row is in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// SQL's NULL.
    Null,
    /// No bytes.
    Empty,
    /// Does not begin as a value does.
    Foreign,
    /// A well-formed value of this version.
    Version(KeyVersion),
    /// Begins as a value does and is not one.
    Unreadable(ValueError),
}

impl Class {
    /// Classes what a column holds; `None` is NULL.
    pub fn of(cell: Option<&[u8]>) -> Self {
        match cell {
            None => Self::Null,
            Some([]) => Self::Empty,
            Some(bytes) => match Value::parse_bytes(bytes) {
                Ok((value, _)) => Self::Version(value.version),
                Err(ValueError::NoPrefix) => Self::Foreign,
                Err(error) => Self::Unreadable(error),
            },
        }
    }
}

/// Whether bytes begin as a value does, in text or in binary: these are never taken for plaintext.
pub fn begins_as_value(bytes: &[u8]) -> bool {
    bytes.starts_with(BINARY_PREFIX) || bytes.starts_with(TEXT_PREFIX.as_bytes())
}

/// Whether `km:v`, digits and a colon stand somewhere behind the beginning, or in another case anywhere: a value inside
/// other text, or one that something spelt anew, which no rekey reaches and which must not be taken for a clean column.
pub fn holds_embedded_value(bytes: &[u8]) -> bool {
    let prefix = TEXT_PREFIX.as_bytes();
    let names_a_version = |rest: &[u8]| {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && rest.get(digits) == Some(&b':')
    };
    let behind_prefix = |at: usize| {
        let (head, rest) = bytes.get(at..)?.split_at_checked(prefix.len())?;
        (head.eq_ignore_ascii_case(prefix) && (at > 0 || head != prefix)).then_some(rest)
    };
    (0..bytes.len()).filter_map(behind_prefix).any(names_a_version)
}

/// How long a value of body `0x01` is that holds so many bytes: what a column must have room for before its plaintext
/// is encrypted.
pub fn direct_value_bytes(form: Form, version: KeyVersion, plaintext_bytes: usize) -> usize {
    let body = plaintext_bytes.saturating_add(1 + NONCE_BYTES + TAG_BYTES);
    match form {
        Form::Binary => body.saturating_add(BINARY_PREFIX.len() + size_of::<u32>()),
        Form::Text => {
            // Four characters for three bytes, without padding.
            let text = body.saturating_mul(4).div_ceil(3);
            text.saturating_add(TEXT_PREFIX.len() + version.to_string().len() + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(version: u32) -> Value {
        let body = [&[1u8][..], &[7; NONCE_BYTES + TAG_BYTES]].concat();
        Value::from_parts(KeyVersion::new(version).unwrap(), body).unwrap()
    }

    #[test]
    fn both_forms_come_back_as_they_were() {
        for version in [1, 9, 10, u32::MAX] {
            let value = direct(version);
            assert_eq!(Value::parse(&value.to_text()), Ok(value.clone()));
            assert_eq!(Value::parse_binary(&value.to_binary()), Ok(value.clone()));
            for form in [Form::Text, Form::Binary] {
                assert_eq!(Value::parse_bytes(&value.to_bytes(form)), Ok((value.clone(), form)));
            }
        }
    }

    #[test]
    fn fault_21_one_value_has_one_spelling() {
        let text = direct(9).to_text();
        // 41 bytes leave two unused bits in the last character: `w` stands for zero ones.
        for last in ["x", "y", "z"] {
            let other = format!("{}{last}", &text[..text.len() - 1]);
            if other != text {
                assert!(Value::parse(&other).is_err(), "{other}");
            }
        }
        for other in [format!("{text}="), format!("{text}\n"), format!(" {text}"), text.replace("km:v9", "km:v09")]
        {
            assert!(Value::parse(&other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn every_cell_is_in_exactly_one_class() {
        let value = direct(9);
        assert_eq!(Class::of(None), Class::Null);
        assert_eq!(Class::of(Some(b"")), Class::Empty);
        assert_eq!(Class::of(Some(b"hello")), Class::Foreign);
        assert_eq!(Class::of(Some(&value.to_bytes(Form::Text))), Class::Version(value.version()));
        assert_eq!(Class::of(Some(&value.to_bytes(Form::Binary))), Class::Version(value.version()));
        assert!(matches!(Class::of(Some(b"km:vintage")), Class::Unreadable(_)));
        assert!(matches!(Class::of(Some(b"km:v9:")), Class::Unreadable(_)));
        assert!(matches!(Class::of(Some(b"km:v9:\xff")), Class::Unreadable(_)));
        assert!(matches!(Class::of(Some(b"KM\x01")), Class::Unreadable(_)));
    }

    #[test]
    fn a_value_inside_other_text_is_seen() {
        assert!(holds_embedded_value(b"{\"token\":\"km:v9:AA\"}"));
        assert!(!holds_embedded_value(b"km:v9:AA"));
        assert!(holds_embedded_value(b"xkm:v4294967295:"));
        assert!(holds_embedded_value(b"KM:V9:AA") && holds_embedded_value(b" Km:v9:"));
        for other in [&b"km:v"[..], b"see km:vintage", b"x km:v9", b"x km:v:", b"x km:v9 :"] {
            assert!(!holds_embedded_value(other));
        }
    }

    #[test]
    fn the_room_that_a_plaintext_needs_is_known_before_it_is_encrypted() {
        for (plaintext_bytes, version) in [(0, 1), (1, 9), (2, 10), (3, 99), (11, 100), (4096, u32::MAX)] {
            let body = [&[1u8][..], &vec![7; NONCE_BYTES + plaintext_bytes + TAG_BYTES]].concat();
            let version = KeyVersion::new(version).unwrap();
            let value = Value::from_parts(version, body).unwrap();
            for form in [Form::Text, Form::Binary] {
                assert_eq!(direct_value_bytes(form, version, plaintext_bytes), value.to_bytes(form).len());
            }
        }
    }

    #[test]
    fn an_unknown_body_byte_is_not_called_malformed() {
        let body = [0x7f; 100].to_vec();
        assert_eq!(Value::from_parts(KeyVersion::MIN, body), Err(ValueError::UnsupportedFormat(0x7f)));
    }
}
