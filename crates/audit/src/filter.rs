//! The Logging query language: which entries of a log are wanted.
//!
//! The language is that of Cloud Logging's public documentation: comparisons of fields, `NOT` before `OR` before
//! `AND`, two terms side by side meaning `AND`, words that are looked for in every field. Texts are compared without
//! regard to case, but not by regular expressions. A field that an entry does not have makes its comparison false; one
//! that every entry has counts as empty.
//!
//! Invariant: whatever the text, reading it ends with a [`Filter`] or an error that names the place, and asking a
//! filter takes bounded work: depth, comparisons and regular expressions have limits.

use std::cmp::Ordering;

use claviger_core::{Error, Result, Timestamp};
use regex::Regex;

mod parse;
mod schema;

/// The longest filter, characters. The public API's own limit.
pub(crate) const MAX_CHARS: usize = 20_000;
/// The deepest nesting of parentheses.
pub(crate) const MAX_DEPTH: usize = 50;
/// The most comparisons in a filter.
pub(crate) const MAX_TERMS: usize = 200;
/// The most regular expressions in a filter.
pub(crate) const MAX_REGEXES: usize = 20;
/// The most memory of a regular expression that was read, bytes.
pub(crate) const REGEX_BYTES: usize = 1024 * 1024;

/// The value of a field of an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// A severity, by its number.
    Severity(i32),
    /// A time.
    Time(Timestamp),
}

/// Something with the fields of a log entry.
pub trait Fields {
    /// Shows each field that is there: its path, as `["resource", "labels", "location"]`, and its value.
    fn visit(&self, see: &mut dyn FnMut(&[&str], Value<'_>));
}

/// A filter that was read; see the module's text.
#[derive(Debug)]
pub struct Filter(Expression);

#[derive(Debug)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    /// Text in any field, in lower case.
    Anywhere(String),
    Comparison(Comparison),
}

#[derive(Debug)]
struct Comparison {
    path: Vec<String>,
    /// The field is one of every entry: where it is not shown it is empty.
    always: bool,
    test: Test,
}

#[derive(Debug)]
enum Test {
    /// The field, or one within it, is there.
    Exists,
    /// The field, or one within it, has this text, which is in lower case.
    Has(String),
    /// The field is in a relation to this text, which is in lower case, or to the number that it is.
    Relation(Relation, String, Option<f64>),
    /// Nanoseconds since the epoch.
    Time(Relation, i128),
    Severity(Relation, i32),
    /// The field has a match of the expression, or none.
    Matches(Regex, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Filter {
    /// Reads a filter; an empty one accepts everything.
    ///
    /// # Errors
    /// `InvalidArgument` with line and column; `Unimplemented` for a function of the language that is not built.
    pub fn parse(text: &str) -> Result<Self> {
        parse::parse(text).map(Self)
    }

    /// Whether an entry is wanted.
    #[must_use]
    pub fn matches(&self, entry: &impl Fields) -> bool {
        self.0.matches(entry)
    }

    /// A span of time, its ends included, outside of which no entry is wanted.
    #[must_use]
    pub fn span(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let (mut since, mut until) = (None, None);
        let parts = match &self.0 {
            Expression::All(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        for part in parts {
            let Expression::Comparison(Comparison { path, test: Test::Time(relation, nanos), .. }) = part
            else {
                continue;
            };
            if path.as_slice() != ["timestamp"] {
                continue;
            }
            let Ok(micros) = i64::try_from(nanos.div_euclid(1000)) else { continue };
            let time = Timestamp(micros);
            if matches!(relation, Relation::Equal | Relation::Greater | Relation::GreaterOrEqual) {
                since = since.max(Some(time));
            }
            if matches!(relation, Relation::Equal | Relation::Less | Relation::LessOrEqual) {
                until = Some(until.map_or(time, |until: Timestamp| until.min(time)));
            }
        }
        (since, until)
    }
}

impl Expression {
    fn matches(&self, entry: &impl Fields) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(entry)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(entry)),
            Self::Not(part) => !part.matches(entry),
            Self::Anywhere(text) => {
                let mut found = false;
                entry.visit(&mut |_, value| found = found || has(value, text));
                found
            }
            Self::Comparison(comparison) => comparison.holds(entry),
        }
    }
}

impl Comparison {
    fn holds(&self, entry: &impl Fields) -> bool {
        let within = matches!(self.test, Test::Exists | Test::Has(_));
        let (mut there, mut holds) = (false, false);
        entry.visit(&mut |path, value| {
            let fits = if within { path.starts_with_path(&self.path) } else { path.is_path(&self.path) };
            if fits {
                there = true;
                holds = holds || self.test.holds(value);
            }
        });
        if !there && self.always && !within { self.test.holds(Value::Text("")) } else { holds }
    }
}

/// Paths as they are shown, against paths as they were read.
trait Path {
    fn is_path(&self, other: &[String]) -> bool;
    fn starts_with_path(&self, other: &[String]) -> bool;
}

impl Path for [&str] {
    fn is_path(&self, other: &[String]) -> bool {
        self.len() == other.len() && self.starts_with_path(other)
    }

    fn starts_with_path(&self, other: &[String]) -> bool {
        self.len() >= other.len() && self.iter().zip(other).all(|(a, b)| a == b)
    }
}

impl Test {
    fn holds(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Exists, _) => true,
            (Self::Has(text), value) => has(value, text),
            (Self::Relation(relation, text, _), Value::Text(value)) => {
                relation.holds(value.to_lowercase().as_str().cmp(text))
            }
            (Self::Relation(relation, _, Some(number)), Value::Number(value)) => {
                // Codes and counts are far below 2^53, so the conversion is exact.
                (value as f64).partial_cmp(number).is_some_and(|ordering| relation.holds(ordering))
            }
            (Self::Time(relation, nanos), Value::Time(time)) => {
                relation.holds((i128::from(time.micros()) * 1000).cmp(nanos))
            }
            (Self::Severity(relation, number), Value::Severity(value)) => relation.holds(value.cmp(number)),
            (Self::Matches(regex, wanted), Value::Text(value)) => regex.is_match(value) == *wanted,
            _ => false,
        }
    }
}

/// Whether a value has a text, which is in lower case.
fn has(value: Value<'_>, text: &str) -> bool {
    match value {
        Value::Text(value) => value.to_lowercase().contains(text),
        Value::Number(value) => value.to_string().contains(text),
        Value::Severity(value) => {
            schema::severity_name(value).is_some_and(|name| name.to_lowercase() == text)
        }
        Value::Time(_) => false,
    }
}

/// An error at a place of the text.
fn wrong(text: &str, at: usize, why: &str) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::invalid_field("filter", format!("unparseable at line {line}, column {column}: {why}"))
}

#[cfg(test)]
mod tests;
