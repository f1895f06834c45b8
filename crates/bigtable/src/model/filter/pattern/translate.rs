//! From RE2's syntax to that of the `regex` crate, byte by byte.
//!
//! Invariant: what comes out has no character with a meaning that this file did not decide on, so that
//! nothing of the crate's own syntax can be reached from outside.

use claviger_core::{Error, Result};

use super::{MOST_REPEATS, Syntax};

/// What never matches: a character past Latin-1.
const NOTHING: &str = r"[^\x00-\xFF]";
/// Whitespace to RE2: without the vertical tab.
const SPACE: &str = r"\t\n\x0C\r\x20";
/// The names that RE2 knows within `[: :]`.
const CLASS_NAMES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

pub(super) fn translate(pattern: &[u8]) -> Result<Syntax> {
    let mut translator =
        Translator { rest: pattern, out: String::from(r"\A(?:"), depth: 0, plain: Some(Vec::new()) };
    if let Some(prefix) = translator.all()? {
        return Ok(prefix);
    }
    if let Some(literal) = translator.plain {
        return Ok(Syntax::Literal(literal));
    }
    translator.out.push_str(r")\z");
    Ok(Syntax::Regex(translator.out))
}

fn wrong(what: &str) -> Error {
    Error::invalid(format!("the pattern is not a valid RE2 regular expression: {what}"))
}

struct Translator<'a> {
    rest: &'a [u8],
    out: String,
    /// Groups that are open.
    depth: u32,
    /// The bytes so far, while the pattern has no operator.
    plain: Option<Vec<u8>>,
}

/// One escape: a byte, or something that stands for several.
enum Escape {
    Byte(u8),
    /// A character past Latin-1, which no byte is.
    Never,
    /// The content of a class, to stand within brackets.
    Class(String),
    /// An assertion or the any-byte, not allowed within a class.
    Operator(&'static str),
    /// `\Q`: literal text up to `\E`.
    Quote,
}

impl<'a> Translator<'a> {
    /// Reads the whole pattern. Gives a shape if it is a prefix.
    fn all(&mut self) -> Result<Option<Syntax>> {
        loop {
            // A literal start and then anything: clients ask for prefixes this way.
            if let (Some(prefix), Some(newlines)) = (&self.plain, anything(self.rest)) {
                return Ok(Some(Syntax::Prefix { prefix: prefix.clone(), newlines }));
            }
            let Some(byte) = self.next() else { break };
            match byte {
                b'\\' => self.escape()?,
                b'[' => self.class()?,
                b'(' => self.group()?,
                b')' => {
                    self.depth = self.depth.checked_sub(1).ok_or_else(|| wrong("unexpected )"))?;
                    self.operator(")");
                }
                b'*' => self.repeat("*")?,
                b'+' => self.repeat("+")?,
                b'?' => self.repeat("?")?,
                b'{' => match self.bounds()? {
                    Some(bounds) => self.repeat(&bounds)?,
                    None => self.literal(b'{'),
                },
                b'|' => self.operator("|"),
                b'.' => self.operator("."),
                b'^' => self.operator("^"),
                b'$' => self.operator("$"),
                other => self.literal(other),
            }
        }
        if self.depth > 0 {
            return Err(wrong("missing )"));
        }
        Ok(None)
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes the text if it comes next.
    fn take(&mut self, text: &[u8]) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, byte: u8) {
        if let Some(plain) = &mut self.plain {
            plain.push(byte);
        }
        push_byte(&mut self.out, byte);
    }

    fn operator(&mut self, text: &str) {
        self.plain = None;
        self.out.push_str(text);
    }

    fn repeat(&mut self, operator: &str) -> Result<()> {
        self.operator(operator);
        if self.take(b"?") {
            self.out.push('?');
        }
        let again = match self.rest.first() {
            Some(b'*' | b'+' | b'?') => true,
            Some(b'{') => bounds(self.rest.get(1..).unwrap_or_default()).is_some(),
            _ => false,
        };
        if again { Err(wrong("bad repetition operator")) } else { Ok(()) }
    }

    /// What follows `{`, if it makes a repetition; else the brace is a character.
    fn bounds(&mut self) -> Result<Option<String>> {
        let Some((text, rest)) = bounds(self.rest) else { return Ok(None) };
        let numbers = text.split(',').filter(|number| !number.is_empty());
        let too_many = |number: &str| number.parse::<u32>().map_or(true, |number| number > MOST_REPEATS);
        if numbers.clone().any(too_many) {
            return Err(wrong("a repetition is too large"));
        }
        self.rest = rest;
        Ok(Some(format!("{{{text}}}")))
    }

    fn group(&mut self) -> Result<()> {
        if !self.take(b"?") {
            self.depth += 1;
            self.operator("(?:");
            return Ok(());
        }
        if self.take(b"P<") || self.take(b"<") {
            let end = self
                .rest
                .iter()
                .position(|b| *b == b'>')
                .ok_or_else(|| wrong("a group's name does not end"))?;
            let (name, rest) = self.rest.split_at_checked(end).unwrap_or_default();
            if name.is_empty() || !name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
                return Err(wrong("a group's name is not a word"));
            }
            self.rest = rest.get(1..).unwrap_or_default();
            self.depth += 1;
            self.operator("(?:");
            return Ok(());
        }
        // Only RE2's flags: others would reach what is left of Unicode or comments in the crate's syntax.
        let mut flags = String::from("(?");
        loop {
            match self.next() {
                Some(flag @ (b'i' | b'm' | b's' | b'U' | b'-')) => flags.push(char::from(flag)),
                Some(b':') => {
                    flags.push(':');
                    self.depth += 1;
                    break;
                }
                Some(b')') => {
                    flags.push(')');
                    break;
                }
                _ => return Err(wrong("unknown flag or assertion after (?")),
            }
        }
        self.operator(&flags);
        Ok(())
    }

    fn escape(&mut self) -> Result<()> {
        match self.read_escape()? {
            Escape::Byte(byte) => self.literal(byte),
            Escape::Never => self.operator(NOTHING),
            Escape::Class(content) => {
                let class = format!("[{content}]");
                self.operator(&class);
            }
            Escape::Operator(text) => self.operator(text),
            Escape::Quote => {
                while !self.rest.is_empty() && !self.take(br"\E") {
                    if let Some(byte) = self.next() {
                        self.literal(byte);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what follows a backslash.
    fn read_escape(&mut self) -> Result<Escape> {
        let byte = self.next().ok_or_else(|| wrong("a backslash at the end"))?;
        Ok(match byte {
            b'A' => Escape::Operator(r"(?:\A)"),
            b'z' => Escape::Operator(r"(?:\z)"),
            b'b' => Escape::Operator(r"(?:\b)"),
            b'B' => Escape::Operator(r"(?:\B)"),
            b'C' => Escape::Operator("(?s:.)"),
            b'Q' => Escape::Quote,
            b'd' => Escape::Class("0-9".to_owned()),
            b'D' => Escape::Class("[^0-9]".to_owned()),
            b'w' => Escape::Class("0-9A-Za-z_".to_owned()),
            b'W' => Escape::Class("[^0-9A-Za-z_]".to_owned()),
            b's' => Escape::Class(SPACE.to_owned()),
            b'S' => Escape::Class(format!("[^{SPACE}]")),
            b'p' | b'P' => self.unicode_class(byte == b'P')?,
            b'a' => Escape::Byte(0x07),
            b'f' => Escape::Byte(0x0c),
            b't' => Escape::Byte(b'\t'),
            b'n' => Escape::Byte(b'\n'),
            b'r' => Escape::Byte(b'\r'),
            b'v' => Escape::Byte(0x0b),
            b'x' => code(self.hex()?),
            b'0'..=b'7' => {
                let is_octal = |b: &u8| (b'0'..=b'7').contains(b);
                if byte != b'0' && !self.rest.first().is_some_and(is_octal) {
                    return Err(wrong("there are no backreferences"));
                }
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = self.rest.first().filter(|b| is_octal(b)) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    self.next();
                }
                code(value)
            }
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => return Err(wrong("unknown escape")),
            other => Escape::Byte(other),
        })
    }

    fn hex(&mut self) -> Result<u32> {
        let digits = if self.take(b"{") {
            let end = self
                .rest
                .iter()
                .position(|b| *b == b'}')
                .ok_or_else(|| wrong("a hex escape does not end"))?;
            let (digits, rest) = self.rest.split_at_checked(end).unwrap_or_default();
            self.rest = rest.get(1..).unwrap_or_default();
            digits
        } else {
            let (digits, rest) =
                self.rest.split_at_checked(2).ok_or_else(|| wrong("a hex escape is too short"))?;
            self.rest = rest;
            digits
        };
        let value =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let value =
            value.and_then(|text| u32::from_str_radix(text, 16).ok()).filter(|value| *value <= 0x10_ffff);
        value.ok_or_else(|| wrong("a hex escape is not a character"))
    }

    /// Reads what follows `\p` or `\P`: the Latin-1 part of a Unicode class.
    fn unicode_class(&mut self, mut negated: bool) -> Result<Escape> {
        let unknown = || wrong("unknown Unicode class");
        let mut name = if self.take(b"{") {
            let end = self.rest.iter().position(|b| *b == b'}').ok_or_else(unknown)?;
            let (name, rest) = self.rest.split_at_checked(end).unwrap_or_default();
            self.rest = rest.get(1..).unwrap_or_default();
            name
        } else {
            let (name, rest) = self.rest.split_at_checked(1).ok_or_else(unknown)?;
            self.rest = rest;
            name
        };
        if let Some(inner) = name.strip_prefix(b"^") {
            (name, negated) = (inner, !negated);
        }
        if name.is_empty() || !name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            return Err(unknown());
        }
        let name = std::str::from_utf8(name).map_err(|_| unknown())?;
        let letter = if negated { 'P' } else { 'p' };
        let hir = regex_syntax::parse(&format!(r"\{letter}{{{name}}}")).map_err(|_| unknown())?;
        let content = match hir.kind() {
            regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
                let mut content = String::new();
                for range in class.iter() {
                    let (low, high) = (u32::from(range.start()), u32::from(range.end()).min(0xff));
                    if let (Ok(low), Ok(high), true) = (u8::try_from(low), u8::try_from(high), low <= high) {
                        push_hex(&mut content, low);
                        content.push('-');
                        push_hex(&mut content, high);
                    }
                }
                content
            }
            // A class of one character comes as that character.
            regex_syntax::hir::HirKind::Literal(literal) => {
                match std::str::from_utf8(&literal.0).map(|text| text.chars().next()) {
                    Ok(Some(c)) if u32::from(c) <= 0xff => {
                        let mut content = String::new();
                        push_hex(&mut content, u8::try_from(u32::from(c)).unwrap_or(0));
                        content
                    }
                    _ => String::new(),
                }
            }
            _ => return Err(unknown()),
        };
        Ok(if content.is_empty() { Escape::Never } else { Escape::Class(content) })
    }

    /// Reads what follows `[`.
    fn class(&mut self) -> Result<()> {
        let mut class = String::from(if self.take(b"^") { "[^" } else { "[" });
        let missing = || wrong("missing ]");
        let mut first = true;
        loop {
            let byte = self.next().ok_or_else(missing)?;
            if byte == b']' && !first {
                break;
            }
            first = false;
            if byte == b'[' && self.rest.first() == Some(&b':') && self.named_class(&mut class)? {
                continue;
            }
            let low = match byte {
                b'\\' => self.read_escape()?,
                literal => Escape::Byte(literal),
            };
            let Escape::Byte(low) = low else {
                match low {
                    Escape::Never => class.push_str(NOTHING),
                    Escape::Class(content) => class.push_str(&content),
                    _ => return Err(wrong("unknown escape in a class")),
                }
                continue;
            };
            push_hex(&mut class, low);
            // A dash before the closing bracket is a dash.
            if self.rest.first() == Some(&b'-') && self.rest.get(1).is_some_and(|next| *next != b']') {
                self.next();
                let high = match self.next().ok_or_else(missing)? {
                    b'\\' => self.read_escape()?,
                    literal => Escape::Byte(literal),
                };
                let high = match high {
                    Escape::Byte(high) => high,
                    // Up to a character past Latin-1: up to the last byte.
                    Escape::Never => 0xff,
                    _ => return Err(wrong("bad range in a class")),
                };
                if high < low {
                    return Err(wrong("bad range in a class"));
                }
                class.push('-');
                push_hex(&mut class, high);
            }
        }
        class.push(']');
        self.operator(&class);
        Ok(())
    }

    /// Reads `[:name:]` from its colon on; false: the bracket is a character.
    fn named_class(&mut self, class: &mut String) -> Result<bool> {
        let Some(end) = self.rest.windows(2).position(|pair| pair == b":]").filter(|end| *end > 0) else {
            return Ok(false);
        };
        let name = self.rest.get(1..end).unwrap_or_default();
        let (negation, name) = name.strip_prefix(b"^").map_or(("", name), |name| ("^", name));
        let known = CLASS_NAMES.iter().find(|known| known.as_bytes() == name);
        let known = known.ok_or_else(|| wrong("unknown class name"))?;
        class.push_str(&format!("[:{negation}{known}:]"));
        self.rest = self.rest.get(end + 2..).unwrap_or_default();
        Ok(true)
    }
}

fn code(value: u32) -> Escape {
    u8::try_from(value).map_or(Escape::Never, Escape::Byte)
}

/// Whether what is left of a pattern is anything at all: with newlines, or without.
fn anything(rest: &[u8]) -> Option<bool> {
    match rest {
        br"\C*" => Some(true),
        b".*" => Some(false),
        _ => None,
    }
}

/// Splits `n}`, `n,}` or `n,m}` off the text after a brace.
fn bounds(rest: &[u8]) -> Option<(&str, &[u8])> {
    let end = rest.iter().position(|b| *b == b'}')?;
    let (text, rest) = rest.split_at_checked(end)?;
    let text = std::str::from_utf8(text).ok()?;
    let (least, most) = text.split_once(',').unwrap_or((text, ""));
    let digits = |number: &str| number.bytes().all(|b| b.is_ascii_digit());
    (!least.is_empty() && digits(least) && digits(most)).then(|| (text, rest.get(1..).unwrap_or_default()))
}

/// Appends a byte with no meaning but itself.
fn push_byte(out: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() {
        out.push(char::from(byte));
    } else {
        push_hex(out, byte);
    }
}

fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push_str(r"\x");
    out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| DIGITS.get(usize::from(*digit))));
}
