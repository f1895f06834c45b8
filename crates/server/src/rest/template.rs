//! Path templates of `google.api.http` rules, as `/v1/{name=projects/*/keys/*}:encrypt`: parsed once, then
//! matched against the paths of requests.
//!
//! Invariant: what a variable binds is decoded text. A slash that a client wrote as `%2F` stays so in a
//! variable of several segments, so that one segment can never pass for two.

use std::fmt;

/// A template that cannot be parsed, and why.
#[derive(Debug)]
pub(super) struct BadTemplate(String);

impl fmt::Display for BadTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of a path between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: one segment.
    One,
    /// `**`: one segment or more. At most once in a template.
    Rest,
}

/// What a template binds: the path of a field, and the segments from and to which it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    field: String,
    from: usize,
    to: usize,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    verb: Option<String>,
}

/// The path of a request, cut at its slashes and at the verb.
pub(super) struct RequestPath<'a> {
    /// As the client wrote them; the verb is still in the last.
    raw: Vec<&'a str>,
    /// The last segment and its verb, when it has one.
    verb: Option<(&'a str, &'a str)>,
}

impl<'a> RequestPath<'a> {
    /// Cuts a path. `None` when it does not begin with a slash.
    pub(super) fn new(path: &'a str) -> Option<Self> {
        let raw: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let verb = raw.last().and_then(|last| last.rsplit_once(':'));
        Some(Self { raw, verb })
    }

    /// The verb at the end, without its colon.
    pub(super) fn verb(&self) -> Option<&'a str> {
        self.verb.map(|(_, verb)| verb)
    }

    /// The first segment: the version of the API.
    pub(super) fn first(&self) -> &'a str {
        self.raw.first().copied().unwrap_or_default()
    }
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// When it does not follow the grammar of `google.api.http`, or has two `**`.
    pub(super) fn parse(text: &str) -> Result<Self, BadTemplate> {
        let bad = |why: &str| BadTemplate(format!("the path template {text} {why}"));
        let mut rest = text.strip_prefix('/').ok_or_else(|| bad("does not begin with a slash"))?;
        let mut template = Self { segments: Vec::new(), variables: Vec::new(), verb: None };
        loop {
            if let Some(inner) = rest.strip_prefix('{') {
                let (inside, after) =
                    inner.split_once('}').ok_or_else(|| bad("has a brace that is not closed"))?;
                let (field, pattern) = inside.split_once('=').unwrap_or((inside, "*"));
                let from = template.segments.len();
                template.segments.extend(pattern.split('/').map(segment));
                let to = template.segments.len();
                template.variables.push(Variable { field: field.to_owned(), from, to });
                rest = after;
            } else {
                let end = rest.find(['/', ':']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                template.segments.push(segment(word));
                rest = after;
            }
            if let Some(after) = rest.strip_prefix('/') {
                rest = after;
            } else if let Some(verb) = rest.strip_prefix(':') {
                template.verb = Some(verb.to_owned());
                break;
            } else if rest.is_empty() {
                break;
            } else {
                return Err(bad("goes on after a brace"));
            }
        }
        if template.segments.iter().filter(|segment| **segment == Segment::Rest).count() > 1 {
            return Err(bad("has ** twice"));
        }
        if template.segments.contains(&Segment::Literal(String::new())) {
            return Err(bad("has an empty segment"));
        }
        Ok(template)
    }

    /// The fields that the template binds, in the order in which [`Template::bind`] gives their texts.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|variable| variable.field.as_str())
    }

    /// The first segment, when it is a literal: the version of the API.
    pub(super) fn first(&self) -> Option<&str> {
        match self.segments.first() {
            Some(Segment::Literal(word)) => Some(word),
            _ => None,
        }
    }

    /// How much the template pins down: of two that match, the one that says more is meant.
    pub(super) fn weight(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count()
    }

    /// Whether the template matches, without what it binds.
    pub(super) fn matches(&self, path: &RequestPath<'_>) -> bool {
        self.spread(path).is_some()
    }

    /// What each variable of the template binds in a path. `None` when the template does not match, or when
    /// the path has a percent sign that encodes nothing or bytes that are not UTF-8.
    pub(super) fn bind(&self, path: &RequestPath<'_>) -> Option<Vec<String>> {
        let (words, extra) = self.spread(path)?;
        let rest = self.segments.iter().position(|segment| *segment == Segment::Rest);
        // Segments after `**` lie further back in the path by as much as `**` took more than one.
        let place = |index: usize| if rest.is_some_and(|rest| index > rest) { index + extra } else { index };
        self.variables
            .iter()
            .map(|variable| {
                let words = words.get(place(variable.from)..place(variable.to))?;
                match words {
                    [word] => decode(word, Decode::Everything),
                    _ => {
                        let words: Option<Vec<String>> =
                            words.iter().map(|word| decode(word, Decode::AllButSlash)).collect();
                        Some(words?.join("/"))
                    }
                }
            })
            .collect()
    }

    /// The segments of a matching path without the verb, and how many more than one `**` took.
    fn spread<'a>(&self, path: &RequestPath<'a>) -> Option<(Vec<&'a str>, usize)> {
        let mut words = path.raw.clone();
        match (&self.verb, path.verb) {
            (None, None) => {}
            (Some(verb), Some((last, found))) if verb == found => *words.last_mut()? = last,
            // A verb that the template does not have is another method, not a part of a name.
            _ => return None,
        }
        let extra = words.len().checked_sub(self.segments.len())?;
        if (extra > 0 && !self.segments.contains(&Segment::Rest)) || words.contains(&"") {
            return None;
        }
        let mut next = 0;
        for segment in &self.segments {
            let word = words.get(next)?;
            match segment {
                Segment::Literal(literal) if decode(word, Decode::Everything)? == *literal => next += 1,
                Segment::Literal(_) => return None,
                Segment::One => next += 1,
                Segment::Rest => next += 1 + extra,
            }
        }
        Some((words, extra))
    }
}

/// A segment of a template.
fn segment(word: &str) -> Segment {
    match word {
        "*" => Segment::One,
        "**" => Segment::Rest,
        literal => Segment::Literal(literal.to_owned()),
    }
}

/// What [`decode`] undoes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decode {
    /// All of it.
    Everything,
    /// All but `%2F`, which stays as it is.
    AllButSlash,
    /// All of it, and a plus is a blank: for queries.
    Query,
}

/// Undoes percent-encoding. `None` when a percent sign encodes nothing, or the bytes are not UTF-8.
pub(super) fn decode(text: &str, how: Decode) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        match byte {
            b'%' => {
                let high = char::from(left.next()?).to_digit(16)?;
                let low = char::from(left.next()?).to_digit(16)?;
                let byte = u8::try_from(high * 16 + low).ok()?;
                if byte == b'/' && how == Decode::AllButSlash {
                    bytes.extend_from_slice(b"%2F");
                } else {
                    bytes.push(byte);
                }
            }
            b'+' if how == Decode::Query => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, path: &str, expect: Option<&[(&str, &str)]>) {
        let template = Template::parse(template).expect("a template");
        let path = RequestPath::new(path).expect("a path");
        let bound = template.bind(&path);
        let bound: Option<Vec<(&str, &str)>> =
            bound.as_ref().map(|texts| template.fields().zip(texts.iter().map(String::as_str)).collect());
        assert_eq!(bound.as_deref(), expect);
    }

    #[test]
    fn variables_bind_the_segments_that_they_span() {
        check(
            "/v1/{name=projects/*/keys/*}",
            "/v1/projects/p/keys/k",
            Some(&[("name", "projects/p/keys/k")]),
        );
        check("/v1/{parent=projects/*}/keys", "/v1/projects/p/keys", Some(&[("parent", "projects/p")]));
        check("/v1/{name}", "/v1/n", Some(&[("name", "n")]));
        check("/v2/{key.name=keys/*}", "/v2/keys/k", Some(&[("key.name", "keys/k")]));
        check("/v1/a", "/v1/a", Some(&[]));
    }

    #[test]
    fn a_double_star_takes_one_segment_or_more_wherever_it_stands() {
        check("/v2/{name=operations/**}", "/v2/operations/a/b/c", Some(&[("name", "operations/a/b/c")]));
        check("/v2/{name=operations/**}", "/v2/operations/a", Some(&[("name", "operations/a")]));
        check("/v2/{name=operations/**}", "/v2/operations", None);
        let list = "/v2/{name=operations/projects/**}/operations";
        check(list, "/v2/operations/projects/p/x/operations", Some(&[("name", "operations/projects/p/x")]));
        check(list, "/v2/operations/projects/operations", None);
        check("/v1/{r=**}:set", "/v1/projects/p:set", Some(&[("r", "projects/p")]));
        check("/{a=**}/x/{b=*}", "/1/2/x/3", Some(&[("a", "1/2"), ("b", "3")]));
    }

    #[test]
    fn verbs_must_agree() {
        let key = "/v1/{name=keys/*}";
        check(&format!("{key}:encrypt"), "/v1/keys/k:encrypt", Some(&[("name", "keys/k")]));
        check(&format!("{key}:encrypt"), "/v1/keys/k:decrypt", None);
        check(&format!("{key}:encrypt"), "/v1/keys/k", None);
        check(&format!("{key}:encrypt"), "/v1/keys/:encrypt", None);
        check(key, "/v1/keys/k:encrypt", None);
        check("/v1/{name=p/*}/keys", "/v1/p/example.com:p/keys", Some(&[("name", "p/example.com:p")]));
        check(key, "/v1/keys/a%3Ab", Some(&[("name", "keys/a:b")]));
    }

    #[test]
    fn percent_signs_are_decoded_and_never_make_a_new_segment() {
        check("/v1/{name=a/*}", "/v1/a/caf%C3%A9", Some(&[("name", "a/café")]));
        check("/v1/{name=a/*}", "/v1/a/x%2Fy", Some(&[("name", "a/x%2Fy")]));
        check("/v1/{name}", "/v1/x%2Fy", Some(&[("name", "x/y")]));
        check("/v1/{name=a/*}", "/v1/%61/x+y", Some(&[("name", "a/x+y")]));
        for path in ["/v1/a/%", "/v1/a/%4", "/v1/a/%zz", "/v1/a/%FF", "/v1/a/%+1"] {
            check("/v1/{name=a/*}", path, None);
        }
    }

    #[test]
    fn empty_segments_match_nothing() {
        for path in ["/v1/a/", "/v1//", "/v1/a", "/", "/v1/a//b", "//a/b"] {
            check("/v1/{name=a/*}", path, None);
        }
        assert!(RequestPath::new("*").is_none());
        assert!(RequestPath::new("").is_none());
    }

    #[test]
    fn templates_that_make_no_sense_are_refused() {
        for text in ["", "v1", "/v1/{name", "/v1/{name=a/**}/**", "/v1//a", "/v1/{name}x"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
