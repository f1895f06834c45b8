//! `matchGlob` of listings: `*`, `**`, `?`, `[...]` and `{a,b}`, as Cloud Storage documents them.
//!
//! Invariant: a pattern costs time in proportion to the name, whatever it is.

use claviger_core::{Error, Result};
use regex::Regex;

/// The longest pattern, bytes.
const PATTERN_BYTES: usize = 1024;

/// A pattern for names of objects.
#[derive(Clone, Debug)]
pub(crate) struct Glob(Regex);

impl Glob {
    pub(crate) fn new(pattern: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("Invalid glob pattern: '{pattern}'"));
        if pattern.len() > PATTERN_BYTES {
            return Err(wrong());
        }
        let mut regex = String::from("(?s)^");
        let mut characters = pattern.chars().peekable();
        let mut braces = 0_usize;
        while let Some(character) = characters.next() {
            match character {
                '*' if characters.next_if_eq(&'*').is_some() => regex.push_str(".*"),
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                '{' => {
                    braces += 1;
                    regex.push_str("(?:");
                }
                '}' if braces > 0 => {
                    braces -= 1;
                    regex.push(')');
                }
                ',' if braces > 0 => regex.push('|'),
                '[' => {
                    regex.push('[');
                    if characters.next_if(|next| matches!(next, '!' | '^')).is_some() {
                        regex.push('^');
                    }
                    loop {
                        match characters.next().ok_or_else(wrong)? {
                            ']' => break,
                            '-' => regex.push('-'),
                            inside => regex.push_str(&regex::escape(&inside.to_string())),
                        }
                    }
                    regex.push(']');
                }
                '\\' => {
                    let escaped = characters.next().ok_or_else(wrong)?;
                    regex.push_str(&regex::escape(&escaped.to_string()));
                }
                other => regex.push_str(&regex::escape(&other.to_string())),
            }
        }
        regex.push('$');
        if braces > 0 {
            return Err(wrong());
        }
        Regex::new(&regex).map(Self).map_err(|_| wrong())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, name, matches) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("**.txt", "d/a.txt", true),
            ("**/b", "a/x/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("{foo,bar}*", "barn", true),
            ("{foo,bar}*", "baz", false),
            ("a+b(c)", "a+b(c)", true),
            ("\\*", "*", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), matches, "{pattern} {name}");
        }
        for wrong in ["{a", "[a", "\\"] {
            assert!(Glob::new(wrong).is_err(), "{wrong}");
        }
    }
}
