//! Reading a filter.
//!
//! ```text
//! all        = any { ["AND"] any }
//! any        = term { "OR" term }
//! term       = { "NOT" | "-" } ( "(" all ")" | restriction )
//! restriction = path operator value | function | text
//! value      = text | "*" | "(" the same as `all`, with values for restrictions ")"
//! path       = part { "." part }
//! operator   = "=" "!=" "<" "<=" ">" ">=" ":" "=~" "!~"
//! ```
//!
//! Invariant: recursion goes one level per parenthesis and no deeper than the limit; signs of negation are counted in
//! a loop.

use claviger_core::{Error, Result};
use regex::RegexBuilder;

use super::schema::{self, Kind};
use super::{
    Comparison, Expression, MAX_CHARS, MAX_DEPTH, MAX_REGEXES, MAX_TERMS, REGEX_BYTES, Relation, Test, wrong,
};

/// The longest text that is read as a time.
const MAX_TIME_CHARS: usize = 40;
/// Functions of the language that are not built.
const FUNCTIONS: [&str; 6] = ["cast", "ip_in_net", "regexp_extract", "sample", "search", "source"];
/// Characters that end a text without quotes.
const SPECIAL: &str = "\"()=<>!:~,";

/// Reads a whole filter.
pub(super) fn parse(text: &str) -> Result<Expression> {
    if text.chars().count() > MAX_CHARS {
        return Err(Error::invalid_field("filter", format!("is longer than {MAX_CHARS} characters")));
    }
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0, regexes: 0 };
    parser.blank();
    if parser.rest().is_empty() {
        return Ok(Expression::All(Vec::new()));
    }
    let expression = parser.all(None)?;
    match parser.peek() {
        None => Ok(expression),
        Some(found) => Err(parser.wrong(&format!("'{found}' has no beginning"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// The byte that comes next.
    at: usize,
    depth: usize,
    terms: usize,
    regexes: usize,
}

/// A text as it stands in the filter.
struct Word {
    /// Where it begins.
    at: usize,
    /// Its parts between dots.
    parts: Vec<String>,
    /// It is one text in quotes.
    quoted: bool,
    /// All of it, without the quotes if it is quoted.
    whole: String,
}

/// The left side of a comparison.
struct Field {
    path: Vec<String>,
    kind: Kind,
    operator: Operator,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Relation(Relation),
    Has,
    Matches,
    MatchesNot,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn wrong(&self, why: &str) -> Error {
        wrong(self.text, self.at, why)
    }

    /// Takes a text if it comes next.
    fn take(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    /// Passes blanks and comments.
    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let mut skip = rest.len() - rest.trim_start().len();
            let after = rest.get(skip..).unwrap_or_default();
            if after.starts_with("--") {
                skip += after.find('\n').unwrap_or(after.len());
            }
            if skip == 0 {
                return;
            }
            self.at += skip;
        }
    }

    /// Whether a word of the language comes next.
    fn sees(&self, word: &str) -> bool {
        let after = self.rest().strip_prefix(word);
        after.is_some_and(|after| {
            after.chars().next().is_none_or(|c| c.is_whitespace() || SPECIAL.contains(c))
        })
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.sees(word);
        if found {
            self.at += word.len();
            self.blank();
        }
        found
    }

    /// Terms joined by AND; with a field, values for it.
    fn all(&mut self, field: Option<&Field>) -> Result<Expression> {
        let mut parts = vec![self.any(field)?];
        loop {
            let joined = self.take_word("AND");
            if !joined && matches!(self.peek(), None | Some(')')) {
                break;
            }
            parts.push(self.any(field)?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn any(&mut self, field: Option<&Field>) -> Result<Expression> {
        let mut parts = vec![self.term(field)?];
        while self.take_word("OR") {
            parts.push(self.term(field)?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn term(&mut self, field: Option<&Field>) -> Result<Expression> {
        let mut negated = false;
        // A sign before a value belongs to a number.
        while self.take_word("NOT") || (field.is_none() && self.take("-")) {
            self.blank();
            negated = !negated;
        }
        let inner = if self.take("(") {
            self.group(field)?
        } else if self.sees("AND") || self.sees("OR") {
            return Err(self.wrong("a term is missing before this word"));
        } else {
            self.terms += 1;
            if self.terms > MAX_TERMS {
                return Err(self.wrong(&format!("there are more than {MAX_TERMS} comparisons")));
            }
            match field {
                Some(field) => self.value(field)?,
                None => self.restriction()?,
            }
        };
        self.blank();
        Ok(if negated { Expression::Not(Box::new(inner)) } else { inner })
    }

    /// What is between parentheses; the first is taken.
    fn group(&mut self, field: Option<&Field>) -> Result<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(&format!("parentheses are nested deeper than {MAX_DEPTH}")));
        }
        self.blank();
        let inner = self.all(field)?;
        if !self.take(")") {
            return Err(self.wrong("a ')' is missing"));
        }
        self.depth -= 1;
        Ok(inner)
    }

    fn restriction(&mut self) -> Result<Expression> {
        let word = self.word("a field or a text")?;
        if !word.quoted && self.take("(") {
            return self.function(&word);
        }
        self.blank();
        let Some(operator) = self.operator() else {
            return Ok(Expression::Anywhere(word.whole.to_lowercase()));
        };
        if word.quoted {
            return Err(wrong(self.text, word.at, "a field's name has no quotes around it"));
        }
        let Some(kind) = schema::kind(&word.parts) else {
            return Err(wrong(self.text, word.at, &format!("a log entry has no field '{}'", word.whole)));
        };
        let field = Field { path: word.parts, kind, operator };
        self.blank();
        if self.take("(") { self.group(Some(&field)) } else { self.value(&field) }
    }

    fn operator(&mut self) -> Option<Operator> {
        use Relation::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        // The longer ones first.
        let operators = [
            ("=~", Operator::Matches),
            ("!~", Operator::MatchesNot),
            ("!=", Operator::Relation(NotEqual)),
            ("<=", Operator::Relation(LessOrEqual)),
            (">=", Operator::Relation(GreaterOrEqual)),
            ("=", Operator::Relation(Equal)),
            ("<", Operator::Relation(Less)),
            (">", Operator::Relation(Greater)),
            (":", Operator::Has),
        ];
        operators.into_iter().find(|(text, _)| self.take(text)).map(|(_, operator)| operator)
    }

    /// A function; its name and the parenthesis are taken.
    fn function(&mut self, name: &Word) -> Result<Expression> {
        if FUNCTIONS.contains(&name.whole.to_lowercase().as_str()) {
            return Err(Error::unimplemented(format!(
                "The function {} of filters is not built.",
                name.whole
            )));
        }
        if name.whole != "log_id" {
            return Err(wrong(self.text, name.at, &format!("there is no function '{}'", name.whole)));
        }
        self.blank();
        let id = self.word("the id of a log")?;
        self.blank();
        if !self.take(")") {
            return Err(self.wrong("a ')' is missing"));
        }
        // Ids stand in names with their slashes encoded.
        let ending = format!("/logs/{}", id.whole.replace('/', "%2F"));
        let regex = RegexBuilder::new(&format!("{}$", regex::escape(&ending)))
            .case_insensitive(true)
            .size_limit(REGEX_BYTES)
            .build()
            .map_err(|_| wrong(self.text, id.at, "is too long for the id of a log"))?;
        let (path, test) = (vec!["logName".to_owned()], Test::Matches(regex, true));
        Ok(Expression::Comparison(Comparison { path, always: true, test }))
    }

    fn value(&mut self, field: &Field) -> Result<Expression> {
        let word = self.word("a value")?;
        let test = self.test(field, &word)?;
        let always = matches!(field.kind, Kind::Plain);
        Ok(Expression::Comparison(Comparison { path: field.path.clone(), always, test }))
    }

    fn test(&mut self, field: &Field, word: &Word) -> Result<Test> {
        let Word { at, quoted, whole, .. } = word;
        let wrong = |why: &str| wrong(self.text, *at, why);
        let any = !quoted && whole == "*";
        if any && matches!(field.operator, Operator::Has | Operator::Relation(Relation::Equal)) {
            return Ok(Test::Exists);
        }
        let relation = match (field.operator, field.kind) {
            (Operator::Relation(_) | Operator::Matches | Operator::MatchesNot, Kind::Group) => {
                return Err(wrong(&format!(
                    "'{}' has no value of its own: name a field in it",
                    field.path.join(".")
                )));
            }
            (Operator::Matches | Operator::MatchesNot, Kind::Time | Kind::Severity) => {
                return Err(wrong("times and severities are no texts for regular expressions"));
            }
            (Operator::Matches | Operator::MatchesNot, _) => {
                if !quoted {
                    return Err(wrong("a regular expression stands in quotes"));
                }
                self.regexes += 1;
                if self.regexes > MAX_REGEXES {
                    return Err(wrong(&format!("there are more than {MAX_REGEXES} regular expressions")));
                }
                let regex =
                    RegexBuilder::new(whole).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
                let regex = regex.map_err(|_| wrong("is no regular expression, or too large a one"))?;
                return Ok(Test::Matches(regex, field.operator == Operator::Matches));
            }
            (Operator::Has, Kind::Plain | Kind::Open | Kind::Group) => {
                return Ok(Test::Has(whole.to_lowercase()));
            }
            (Operator::Has, Kind::Time | Kind::Severity) => Relation::Equal,
            (Operator::Relation(relation), _) => relation,
        };
        match field.kind {
            Kind::Time => {
                let nanos =
                    nanos(whole).ok_or_else(|| wrong("is no time: write \"2027-01-31T08:00:00Z\""))?;
                Ok(Test::Time(relation, nanos))
            }
            Kind::Severity => {
                let number = schema::severity(whole).ok_or_else(|| wrong("is no severity"))?;
                Ok(Test::Severity(relation, number))
            }
            _ => Ok(Test::Relation(relation, whole.to_lowercase(), whole.parse().ok())),
        }
    }

    /// A text in quotes or without, or a path of such.
    fn word(&mut self, wanted: &str) -> Result<Word> {
        let at = self.at;
        let mut parts = Vec::new();
        let mut only_quoted = true;
        loop {
            let quote = self.peek().filter(|c| matches!(c, '"' | '\''));
            if let Some(quote) = quote {
                parts.push(self.quoted(quote)?);
            } else {
                only_quoted = false;
                let rest = self.rest();
                let ends = |c: char| c == '.' || c.is_whitespace() || SPECIAL.contains(c);
                let part = rest.get(..rest.find(ends).unwrap_or(rest.len())).unwrap_or_default().to_owned();
                self.at += part.len();
                parts.push(part);
            }
            if !self.take(".") {
                break;
            }
        }
        if self.at == at {
            return Err(self.wrong(&format!("{wanted} is missing")));
        }
        let quoted = only_quoted && parts.len() == 1;
        let raw = self.text.get(at..self.at).unwrap_or_default();
        let whole = if quoted { parts.concat() } else { raw.to_owned() };
        Ok(Word { at, parts, quoted, whole })
    }

    /// A text in quotes, which come next.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let begin = self.at;
        self.at += quote.len_utf8();
        let mut text = String::new();
        loop {
            let Some(next) = self.peek() else { return Err(wrong(self.text, begin, "the quote has no end")) };
            self.at += next.len_utf8();
            match next {
                '\\' => text.push(self.escaped()?),
                _ if next == quote => return Ok(text),
                _ => text.push(next),
            }
        }
    }

    /// What a backslash, which is taken, and the characters after it mean.
    fn escaped(&mut self) -> Result<char> {
        let Some(next) = self.peek() else { return Err(self.wrong("nothing comes after the backslash")) };
        self.at += next.len_utf8();
        let (digits, radix) = match next {
            'a' => return Ok('\u{7}'),
            'b' => return Ok('\u{8}'),
            'f' => return Ok('\u{c}'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\u{b}'),
            '\\' | '"' | '\'' | '?' => return Ok(next),
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => {
                self.at -= 1;
                (3, 8)
            }
            _ => {
                self.at -= next.len_utf8();
                return Err(self.wrong(&format!("'\\{next}' means nothing; a backslash is written '\\\\'")));
            }
        };
        let code = self.rest().get(..digits).filter(|code| code.chars().all(|c| c.is_digit(radix)));
        let code = code.and_then(|code| u32::from_str_radix(code, radix).ok());
        let Some(found) = code.and_then(char::from_u32) else {
            return Err(self.wrong(&format!("{digits} digits of a character's number are missing")));
        };
        self.at += digits;
        Ok(found)
    }
}

fn one_or(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            parts.extend(last);
            join(parts)
        }
    }
}

/// Nanoseconds since the epoch of a time in RFC 3339 or a part of it.
fn nanos(text: &str) -> Option<i128> {
    let year_first =
        text.bytes().take(5).map(|byte| byte.is_ascii_digit()).eq([true, true, true, true, false]);
    if !year_first || text.len() > MAX_TIME_CHARS {
        return None;
    }
    let time: prost_types::Timestamp = text.parse().ok()?;
    Some(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}
