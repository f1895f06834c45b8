//! RE2 patterns over bytes, as Bigtable's filters use them: each byte is a Latin-1 character, and a
//! pattern must match the whole.
//!
//! Patterns are written in RE2's syntax, which differs from that of the `regex` crate in escapes (`\C`,
//! `\Q...\E`, octal, `\<`), in classes (no nesting, no set operations) and in what a lone `{` means. So a
//! pattern is read here and written anew in the crate's syntax, every literal as a plain letter or a hex
//! escape. Patterns without any operator, and prefixes, are compared as bytes and never compiled.
//!
//! Invariant: a pattern compiles within the memory it is given or is refused, and matching takes time
//! linear in the value.

use claviger_core::{Error, Result};
use regex::bytes::{Regex, RegexBuilder};

mod translate;

/// The most repetitions that RE2 takes in `x{n,m}`.
pub(super) const MOST_REPEATS: u32 = 1000;

/// A pattern's shape, so that simple ones need no automaton.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// These bytes and no others.
    Literal(Vec<u8>),
    /// These bytes and any others after them, a newline among them or not.
    Prefix {
        /// The bytes.
        prefix: Vec<u8>,
        /// Whether those after may be newlines: `\C*` rather than `.*`.
        newlines: bool,
    },
    /// Anything else, in the syntax of the `regex` crate.
    Regex(String),
}

/// A pattern ready to match.
#[derive(Clone, Debug)]
pub struct Pattern {
    syntax: Syntax,
    regex: Option<Regex>,
}

impl Pattern {
    /// Reads a pattern; its automaton may take `bytes` of memory, and as much again for its cache.
    ///
    /// # Errors
    /// `InvalidArgument` for a pattern that is not RE2 or takes more memory.
    pub fn compile(pattern: &[u8], bytes: usize) -> Result<Self> {
        let syntax = translate::translate(pattern)?;
        let regex = match &syntax {
            Syntax::Literal(_) | Syntax::Prefix { .. } => None,
            Syntax::Regex(text) => {
                let regex = RegexBuilder::new(text)
                    .unicode(false)
                    .size_limit(bytes)
                    .dfa_size_limit(bytes)
                    .nest_limit(200)
                    .build();
                // The crate's text would show the translation, which the user never wrote.
                Some(regex.map_err(|error| Error::invalid(reason(&error)))?)
            }
        };
        Ok(Self { syntax, regex })
    }

    /// The pattern's shape.
    #[must_use]
    pub fn syntax(&self) -> &Syntax {
        &self.syntax
    }

    /// Whether the pattern matches all of the bytes.
    #[must_use]
    #[inline]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        match (&self.syntax, &self.regex) {
            (Syntax::Literal(literal), _) => literal == bytes,
            (Syntax::Prefix { prefix, newlines }, _) => {
                bytes.strip_prefix(prefix.as_slice()).is_some_and(|rest| *newlines || !rest.contains(&b'\n'))
            }
            (Syntax::Regex(_), Some(regex)) => regex.is_match(bytes),
            (Syntax::Regex(_), None) => false,
        }
    }
}

fn reason(error: &regex::Error) -> &'static str {
    match error {
        regex::Error::CompiledTooBig(_) => "the pattern takes too much memory",
        _ => "the pattern is not a valid RE2 regular expression",
    }
}

#[cfg(test)]
mod tests;
