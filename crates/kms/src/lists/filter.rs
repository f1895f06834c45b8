//! The filters of lists: Cloud KMS's public language.
//!
//! ```text
//! all        = any { ["AND"] any }
//! any        = term { "OR" term }
//! term       = { "NOT" | "-" } ( "(" all ")" | comparison )
//! comparison = field operator value
//! operator   = "=" "!=" "<" "<=" "=<" ">" ">=" "=>" ":"
//! value      = text in quotes | characters other than blanks and ")"
//! ```
//! `OR` binds closer than `AND`. `:` finds a part of a text, whatever its case; `:*` asks whether the field is set. A
//! resource's name equals its full name or its last part. A field that is not set fails every comparison but `!=`,
//! which means `NOT ... =`.
//!
//! Invariant: whatever the text, reading it ends with a [`Filter`] or an error that names the place. Recursion goes
//! one level per parenthesis and no deeper than the limit.

use std::cmp::Ordering;

use claviger_core::{Error, Result};

use super::fields::{FieldName, Fields, Kind, Listed, Value};

/// The longest filter, bytes.
const MAX_BYTES: usize = 4096;
/// The deepest nesting of parentheses.
const MAX_DEPTH: usize = 20;
/// The most comparisons.
const MAX_TERMS: usize = 100;
/// The longest text that is read as a time or a duration.
const MAX_TIME_BYTES: usize = 40;
/// Characters that end the name of a field.
const SPECIAL: &str = "=<>!:()\",'";

/// A filter that was read.
#[derive(Debug)]
pub(crate) struct Filter(Expression);

#[derive(Debug)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Comparison(FieldName, Test),
}

#[derive(Debug)]
enum Test {
    IsSet,
    /// Has this text, which is in lower case.
    Has(String),
    Is(Relation, Value),
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

/// Longer operators first, since shorter ones begin some of them.
const RELATIONS: [(&str, Relation); 8] = [
    ("!=", Relation::NotEqual),
    ("<=", Relation::LessOrEqual),
    ("=<", Relation::LessOrEqual),
    (">=", Relation::GreaterOrEqual),
    ("=>", Relation::GreaterOrEqual),
    ("=", Relation::Equal),
    ("<", Relation::Less),
    (">", Relation::Greater),
];

impl Filter {
    /// Reads a filter on things with these fields; an empty one accepts all.
    ///
    /// # Errors
    /// `InvalidArgument` with the place.
    pub(crate) fn parse(text: &str, fields: Fields) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::invalid_field("filter", format!("is longer than {MAX_BYTES} bytes")));
        }
        let mut parser = Parser { text, at: 0, depth: 0, terms: 0, fields };
        parser.blank();
        if parser.rest().is_empty() {
            return Ok(Self(Expression::All(Vec::new())));
        }
        let expression = parser.all()?;
        if parser.rest().is_empty() {
            Ok(Self(expression))
        } else {
            Err(parser.wrong("')' has no beginning"))
        }
    }

    /// Whether it accepts all.
    pub(crate) fn is_all(&self) -> bool {
        matches!(&self.0, Expression::All(parts) if parts.is_empty())
    }

    /// Whether it accepts a thing.
    pub(crate) fn matches(&self, thing: &impl Listed) -> bool {
        self.0.matches(thing)
    }
}

impl Expression {
    fn matches(&self, thing: &impl Listed) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(thing)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(thing)),
            Self::Not(part) => !part.matches(thing),
            Self::Comparison(field, test) => test.holds(field.kind, &field.of(thing)),
        }
    }
}

impl Test {
    fn holds(&self, kind: Kind, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(Relation::NotEqual, wanted), value) => {
                !Self::Is(Relation::Equal, wanted.clone()).holds(kind, value)
            }
            (_, Value::Missing) => false,
            (Self::IsSet, _) => true,
            (Self::Has(part), Value::Text(text)) => text.to_lowercase().contains(part),
            (Self::Is(relation, Value::Text(wanted)), Value::Text(text)) => {
                let is_id = kind == Kind::Name && !wanted.contains('/');
                let text = text.rsplit('/').next().filter(|_| is_id).unwrap_or(text);
                relation.holds(text.cmp(wanted))
            }
            (Self::Is(relation, wanted), value) => relation.holds(value.cmp(wanted)),
            (Self::Has(_), Value::Number(_)) => false,
        }
    }
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

struct Parser<'a> {
    text: &'a str,
    /// The byte that comes next.
    at: usize,
    depth: usize,
    terms: usize,
    fields: Fields,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, why: &str) -> Error {
        let before = self.text.get(..self.at).unwrap_or_default().chars().count();
        Error::invalid_field("filter", format!("unparseable at character {}: {why}", before + 1))
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    /// Takes a word of the language.
    fn take_word(&mut self, word: &str) -> bool {
        let after = self.rest().strip_prefix(word);
        let ends =
            after.is_some_and(|after| after.is_empty() || after.starts_with([' ', '\t', '\n', '\r', '(']));
        if ends {
            self.at += word.len();
            self.blank();
        }
        ends
    }

    fn all(&mut self) -> Result<Expression> {
        let mut parts = vec![self.any()?];
        loop {
            let joined = self.take_word("AND");
            if !joined && (self.rest().is_empty() || self.rest().starts_with(')')) {
                return Ok(one_or(parts, Expression::All));
            }
            parts.push(self.any()?);
        }
    }

    fn any(&mut self) -> Result<Expression> {
        let mut parts = vec![self.term()?];
        while self.take_word("OR") {
            parts.push(self.term()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn term(&mut self) -> Result<Expression> {
        let mut negated = false;
        while self.take_word("NOT") || self.take("-") {
            negated = !negated;
            self.blank();
        }
        let term = if self.take("(") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.wrong(&format!("more than {MAX_DEPTH} parentheses within one another")));
            }
            self.blank();
            let inner = self.all()?;
            if !self.take(")") {
                return Err(self.wrong("')' is missing"));
            }
            self.depth -= 1;
            self.blank();
            inner
        } else {
            self.comparison()?
        };
        Ok(if negated { Expression::Not(Box::new(term)) } else { term })
    }

    fn comparison(&mut self) -> Result<Expression> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(self.wrong(&format!("more than {MAX_TERMS} comparisons")));
        }
        let rest = self.rest();
        let name = rest.split(|c: char| c.is_whitespace() || SPECIAL.contains(c)).next().unwrap_or_default();
        if name.is_empty() || matches!(name, "AND" | "OR" | "NOT") {
            return Err(self.wrong("a field is missing"));
        }
        let field = FieldName::find(name, self.fields);
        let field = field.ok_or_else(|| self.wrong(&format!("there is no field '{name}' to filter by")))?;
        self.at += name.len();
        self.blank();
        let relation = RELATIONS.iter().find(|(sign, _)| self.take(sign)).map(|(_, relation)| *relation);
        let part = relation.is_none() && self.take(":");
        if relation.is_none() && !part {
            return Err(self.wrong("an operator is missing: = != < <= > >= or :"));
        }
        self.blank();
        let at = self.at;
        let (value, quoted) = self.value()?;
        let test = match relation {
            None if value == "*" && !quoted => Test::IsSet,
            None if matches!(field.kind, Kind::Name | Kind::Text | Kind::Map) => {
                Test::Has(value.to_lowercase())
            }
            None => return Err(self.wrong("':' finds a part of a text, and this field is none")),
            Some(relation) => {
                let read = read(field.kind, &value).ok_or_else(|| {
                    self.at = at;
                    self.wrong(&format!("'{value}' is not {}", describe(field.kind)))
                })?;
                Test::Is(relation, read)
            }
        };
        self.blank();
        Ok(Expression::Comparison(field, test))
    }

    /// A value, and whether it was in quotes.
    fn value(&mut self) -> Result<(String, bool)> {
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let end = self.rest().find(|c: char| c.is_whitespace() || c == ')').unwrap_or(self.rest().len());
            let value = self.rest().get(..end).unwrap_or_default().to_owned();
            if value.is_empty() {
                return Err(self.wrong("a value is missing"));
            }
            self.at += end;
            return Ok((value, false));
        };
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        loop {
            match chars.next() {
                Some((at, c)) if c == quote => {
                    self.at += at + c.len_utf8();
                    return Ok((value, true));
                }
                Some((_, '\\')) => match chars.next() {
                    Some((_, c @ ('"' | '\'' | '\\'))) => value.push(c),
                    _ => {
                        return Err(self.wrong("a '\\' in quotes must be followed by a quote or another one"));
                    }
                },
                Some((_, c)) => value.push(c),
                None => return Err(self.wrong("the closing quote is missing")),
            }
        }
    }
}

fn one_or(mut parts: Vec<Expression>, several: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            several(parts)
        }
    }
}

/// The value that a text means for a kind of field.
fn read(kind: Kind, text: &str) -> Option<Value> {
    if matches!(kind, Kind::Time | Kind::Span) && text.len() > MAX_TIME_BYTES {
        return None;
    }
    match kind {
        Kind::Name | Kind::Text | Kind::Map => Some(Value::Text(text.to_owned())),
        Kind::Flag => Some(Value::from(text.parse::<bool>().ok()?)),
        Kind::Time => {
            let time: prost_types::Timestamp = text.parse().ok()?;
            Some(Value::Number(i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos / 1000)))
        }
        Kind::Span => {
            let span: prost_types::Duration = text.parse().ok()?;
            Some(Value::Number(i128::from(span.seconds) * 1_000_000 + i128::from(span.nanos / 1000)))
        }
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Name | Kind::Text | Kind::Map => "a text",
        Kind::Flag => "true or false",
        Kind::Time => "a time as 2019-06-20T01:30:15Z",
        Kind::Span => "a duration as 86400s",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use claviger_core::ErrorKind;

    use super::*;

    const FIELDS: Fields = &[
        ("name", Kind::Name),
        ("state", Kind::Text),
        ("createTime", Kind::Time),
        ("destroyTime", Kind::Time),
        ("rotationPeriod", Kind::Span),
        ("importOnly", Kind::Flag),
        ("labels", Kind::Map),
    ];

    struct Thing(BTreeMap<&'static str, Value>);

    impl Listed for Thing {
        const FIELDS: Fields = FIELDS;

        fn field(&self, name: &str, key: &str) -> Value {
            let name = if key.is_empty() { name.to_owned() } else { format!("{name}.{key}") };
            self.0.get(name.as_str()).cloned().unwrap_or(Value::Missing)
        }
    }

    fn thing() -> Thing {
        Thing(BTreeMap::from([
            ("name", "projects/p/locations/l/keyRings/r/cryptoKeys/QuickStart".into()),
            ("state", "ENABLED".into()),
            // 2019-06-20T01:30:15Z
            ("createTime", Value::Number(1_560_994_215_000_000)),
            ("rotationPeriod", Value::Number(86_400_000_000)),
            ("importOnly", true.into()),
            ("labels.team", "alpha".into()),
            ("labels.cost-center", "a b".into()),
        ]))
    }

    fn holds(filter: &str) -> bool {
        let read = Filter::parse(filter, FIELDS).unwrap_or_else(|error| panic!("{filter}: {error}"));
        read.matches(&thing())
    }

    #[test]
    fn comparisons_that_hold() {
        for filter in [
            "",
            "  ",
            "state=ENABLED",
            "state = \"ENABLED\"",
            "state != DISABLED",
            "state:able",
            "state:*",
            "name=QuickStart",
            "name=\"projects/p/locations/l/keyRings/r/cryptoKeys/QuickStart\"",
            "name:quick",
            "name: \"KEYRINGS\"",
            "create_time=2019-06-20T01:30:15Z",
            "createTime>=\"2019-06-20T03:30:15+02:00\"",
            "createTime=>2019-06-20T01:30:15Z createTime=<2019-06-20T01:30:15Z",
            "createTime<2019-06-20T01:30:15.5Z",
            "rotationPeriod=86400s AND rotation_period>3600s",
            "importOnly=true",
            "import_only != false",
            "labels.team=alpha",
            "labels.cost-center=\"a b\"",
            "labels.cost-center:'B'",
            "labels.team:*",
            "labels.none!=x",
            "destroyTime!=2019-06-20T01:30:15Z",
            "NOT destroyTime:*",
            "-state=DISABLED",
            "- NOT state=ENABLED",
            "NOT(state=DISABLED)",
        ] {
            assert!(holds(filter), "{filter}");
        }
    }

    #[test]
    fn comparisons_that_do_not_hold() {
        for filter in [
            "state=enabled",
            "state!=ENABLED",
            "state:disabled",
            "name=quick",
            "name=r",
            "name=Start",
            "createTime>2019-06-20T01:30:15Z",
            "destroyTime<2100-01-01T00:00:00Z",
            "destroyTime:*",
            "rotationPeriod<86400s",
            "importOnly=false",
            "labels.team=beta",
            "labels.none=x",
            "labels.none:x",
            "labels.team:\"*\"",
        ] {
            assert!(!holds(filter), "{filter}");
        }
    }

    #[test]
    fn or_binds_closer_than_and_and_parentheses_closer_than_both() {
        let (yes, no) = ("state=ENABLED", "state=DISABLED");
        for (filter, expected) in [
            (format!("{yes} OR {no} AND {no}"), false),
            (format!("{yes} OR ({no} AND {no})"), true),
            (format!("{yes} {no} OR {yes}"), true),
            (format!("{no} {yes}"), false),
            (format!("NOT {no} OR {no}"), true),
            (format!("NOT ({no} OR {yes})"), false),
            (format!("(({yes}))"), true),
        ] {
            assert_eq!(holds(&filter), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        let deep = format!("{}state=A{}", "(".repeat(21), ")".repeat(21));
        let many = ["state=A"; 101].join(" ");
        for (filter, part) in [
            ("state", "character 6: an operator is missing"),
            ("state=", "character 7: a value is missing"),
            ("=x", "character 1: a field is missing"),
            ("thud=1", "no field 'thud'"),
            ("labels=1", "no field 'labels'"),
            ("labels.=1", "no field 'labels.'"),
            ("state=A AND", "a field is missing"),
            ("state=A OR AND state=B", "a field is missing"),
            ("(state=A", "')' is missing"),
            ("state=A)", "character 8: ')' has no beginning"),
            ("state=\"A", "closing quote"),
            ("state=\"A\\n\"", "'\\'"),
            ("createTime=yesterday", "character 12: 'yesterday' is not a time"),
            ("rotationPeriod=soon", "not a duration"),
            ("importOnly=maybe", "not true or false"),
            ("createTime:2019", "this field is none"),
            ("createTime=\"ü", "closing quote"),
            (&deep, "more than 20 parentheses"),
            (&many, "more than 100 comparisons"),
            (&"x".repeat(5000), "longer than 4096"),
        ] {
            let error = Filter::parse(filter, FIELDS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{filter}");
            assert!(error.message().contains(part), "{filter}: {error}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["state", "=", "(", ")", "NOT", "-", " ", "\"", "'", "\\", "ü", ":", "*", "OR", "AND", "\u{0}"];
        let mut seed = 7_u32;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..seed % 12 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(pieces[(seed >> 16) as usize % pieces.len()]);
            }
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let _ = Filter::parse(&text, FIELDS).map(|filter| filter.matches(&thing()));
        }
    }
}
