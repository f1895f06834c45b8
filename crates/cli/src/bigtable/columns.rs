//! Bytes as people type and read them, and columns as `family:qualifier`.
//!
//! Invariant: what is shown with escapes can be typed again with `--escaped` and means the same bytes.

use std::fmt::Write as _;

use bytes::Bytes;
use clap::Args;

use crate::failure::Failure;

/// How typed bytes are read.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Escapes {
    /// Read \xNN, \n, \t, \r and \\ in keys, qualifiers and values as the bytes that they stand for
    #[arg(long)]
    escaped: bool,
}

impl Escapes {
    /// The bytes that a text stands for.
    ///
    /// # Errors
    /// Usage: an escape that is none.
    pub(super) fn bytes(self, text: &str) -> Result<Bytes, Failure> {
        if self.escaped {
            unescaped(text).map(Bytes::from).map_err(Failure::Usage)
        } else {
            Ok(text.to_owned().into())
        }
    }
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let wrong = || format!("'\\{after}' starts with no escape: there are \\xNN, \\n, \\t, \\r and \\\\");
        let mut chars = after.chars();
        match chars.next().ok_or_else(wrong)? {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = chars.as_str().get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(wrong)?;
                bytes.push(byte);
                chars.next();
                chars.next();
            }
            _ => return Err(wrong()),
        }
        rest = chars.as_str();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Bytes on one line: text as it is, the rest as escapes.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(text, "\\x{byte:02x}");
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A column: `family:qualifier`. The qualifier may be empty and may hold further colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnName {
    pub(super) family: String,
    pub(super) qualifier: String,
}

/// Reads `family:qualifier`.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn column(text: &str) -> Result<ColumnName, String> {
    match text.split_once(':') {
        Some((family, qualifier)) if !family.is_empty() => {
            Ok(ColumnName { family: family.to_owned(), qualifier: qualifier.to_owned() })
        }
        _ => Err(format!("'{text}' is no column: write FAMILY:QUALIFIER")),
    }
}

/// A cell to write: `family:qualifier=value`, with `@MICROS` behind it when it has a time of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CellText {
    pub(super) column: ColumnName,
    pub(super) value: String,
    pub(super) timestamp_micros: Option<i64>,
}

/// Reads `family:qualifier=value[@micros]`. As `cbt` does, only digits behind the last `@` are a time.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn cell(text: &str) -> Result<CellText, String> {
    let wrong =
        || format!("'{text}' is no cell: write FAMILY:QUALIFIER=VALUE or FAMILY:QUALIFIER=VALUE@MICROS");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let column = column(name).map_err(|_| wrong())?;
    let is_time = |micros: &str| !micros.is_empty() && micros.bytes().all(|b| b.is_ascii_digit());
    let (value, timestamp_micros) = match value.rsplit_once('@') {
        Some((value, micros)) if is_time(micros) => (value, Some(micros.parse().map_err(|_| wrong())?)),
        _ => (value, None),
    };
    Ok(CellText { column, value: value.to_owned(), timestamp_micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_again() {
        for bytes in
            [&b"plain"[..], b"a\\x41", b"\x00\xff\n\t\r", "grüße \u{85}".as_bytes(), b"\xe2\x82", b""]
        {
            let text = shown(bytes);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(unescaped(&text).unwrap(), bytes, "{text}");
        }
        assert_eq!(shown(b"\xff\\"), "\\xff\\\\");
    }

    #[test]
    fn escapes_count_only_when_asked_for() {
        assert_eq!(Escapes { escaped: false }.bytes("a\\x41").unwrap(), &b"a\\x41"[..]);
        assert_eq!(Escapes { escaped: true }.bytes("a\\x41").unwrap(), &b"aA"[..]);
        for wrong in ["\\", "\\q", "\\x4", "\\xzz", "\\x+1", "\\xé"] {
            assert!(Escapes { escaped: true }.bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_and_cells_are_split_at_the_first_sign() {
        let name =
            |family: &str, qualifier: &str| ColumnName { family: family.into(), qualifier: qualifier.into() };
        assert_eq!(column("f:a:b").unwrap(), name("f", "a:b"));
        assert_eq!(column("f:").unwrap(), name("f", ""));
        assert!(column("f").is_err() && column(":q").is_err());
        let read = cell("f:q=a=b@c@12").unwrap();
        assert_eq!(
            (read.column, read.value.as_str(), read.timestamp_micros),
            (name("f", "q"), "a=b@c", Some(12))
        );
        assert_eq!(cell("f:q=ada@example").unwrap().value, "ada@example");
        assert_eq!(cell("f:q=").unwrap().value, "");
        for wrong in ["f:q", "f=v", "=v", "f:q=v@99999999999999999999"] {
            assert!(cell(wrong).is_err(), "{wrong}");
        }
    }
}
