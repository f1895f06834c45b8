//! Garbage-collection rules in the spelling of `cbt` and `gcloud`: `maxversions=2||maxage=5d`.
//!
//! ```text
//! rule  = both *( ( "||" / "or" ) both )      any of them removes a cell
//! both  = one *( ( "&&" / "and" ) one )       all of them must
//! one   = "(" rule ")" / "maxversions=" N / "maxage=" DURATION / "never"
//! ```
//!
//! Invariant: `never` stands alone; it is the absence of a rule.

use claviger_proto::google::bigtable::admin::v2::gc_rule::{Intersection, Rule, Union};
use claviger_proto::google::bigtable::admin::v2::{ColumnFamily, GcRule};

use crate::flags;

/// The deepest nesting of parentheses.
const MAX_DEPTH: usize = 16;

/// A column family as a flag names it: `f` or `f:RULE`.
pub(super) type Family = (String, ColumnFamily);

/// Reads `NAME` or `NAME:RULE`.
///
/// # Errors
/// A sentence that names what is wrong.
pub(super) fn family(text: &str) -> Result<Family, String> {
    let (name, rule) = match text.split_once(':') {
        Some((name, rule)) => (name, parse(rule)?),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(format!("'{text}' names no column family"));
    }
    Ok((name.to_owned(), ColumnFamily { gc_rule: rule, ..Default::default() }))
}

/// Reads a rule; `never` and nothing are none.
///
/// # Errors
/// A sentence that names what is wrong.
fn parse(text: &str) -> Result<Option<GcRule>, String> {
    let text = text.trim();
    if text.is_empty() || text == "never" {
        return Ok(None);
    }
    let mut reader = Reader { rest: text, whole: text };
    let rule = reader.any(0)?;
    if reader.rest.is_empty() { Ok(Some(rule)) } else { Err(reader.wrong()) }
}

struct Reader<'a> {
    rest: &'a str,
    whole: &'a str,
}

impl Reader<'_> {
    fn wrong(&self) -> String {
        format!(
            "'{}' is not a rule at '{}': write maxversions=N, maxage=DURATION, never, and join them with || or &&",
            self.whole, self.rest
        )
    }

    /// Takes one of these signs, if the next is one.
    fn take(&mut self, signs: &[&str]) -> bool {
        let rest = self.rest.trim_start();
        for sign in signs {
            if let Some(after) = rest.strip_prefix(sign) {
                self.rest = after.trim_start();
                return true;
            }
        }
        false
    }

    fn any(&mut self, depth: usize) -> Result<GcRule, String> {
        let mut rules = vec![self.all(depth)?];
        while self.take(&["||", "or "]) {
            rules.push(self.all(depth)?);
        }
        Ok(match (rules.pop(), rules.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                rules.extend(last);
                GcRule { rule: Some(Rule::Union(Union { rules })) }
            }
        })
    }

    fn all(&mut self, depth: usize) -> Result<GcRule, String> {
        let mut rules = vec![self.one(depth)?];
        while self.take(&["&&", "and "]) {
            rules.push(self.one(depth)?);
        }
        Ok(match (rules.pop(), rules.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                rules.extend(last);
                GcRule { rule: Some(Rule::Intersection(Intersection { rules })) }
            }
        })
    }

    fn one(&mut self, depth: usize) -> Result<GcRule, String> {
        if depth > MAX_DEPTH {
            return Err(format!("'{}' is nested too deep", self.whole));
        }
        if self.take(&["("]) {
            let rule = self.any(depth + 1)?;
            return if self.take(&[")"]) { Ok(rule) } else { Err(self.wrong()) };
        }
        let at = self.rest;
        let rule = if self.take(&["maxversions="]) {
            let versions = self.word().parse().ok().filter(|versions: &i32| *versions > 0);
            Rule::MaxNumVersions(
                versions.ok_or_else(|| format!("'{at}': maxversions is a whole number above 0"))?,
            )
        } else if self.take(&["maxage="]) {
            Rule::MaxAge(flags::duration(self.word())?)
        } else {
            return Err(self.wrong());
        };
        Ok(GcRule { rule: Some(rule) })
    }

    /// The letters and digits that come next.
    fn word(&mut self) -> &str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }
}

/// A rule in the spelling that [`family`] reads.
pub(super) fn text(rule: Option<&GcRule>) -> String {
    match rule.and_then(|rule| rule.rule.as_ref()) {
        None => "never".to_owned(),
        Some(rule) => written(rule),
    }
}

fn written(rule: &Rule) -> String {
    let join = |rules: &[GcRule], sign: &str| {
        let parts: Vec<_> = rules.iter().map(|rule| text(Some(rule))).collect();
        format!("({})", parts.join(sign))
    };
    match rule {
        Rule::MaxNumVersions(versions) => format!("maxversions={versions}"),
        Rule::MaxAge(age) => format!("maxage={}", age_text(*age)),
        Rule::Union(union) => join(&union.rules, " || "),
        Rule::Intersection(intersection) => join(&intersection.rules, " && "),
    }
}

fn age_text(age: prost_types::Duration) -> String {
    let seconds = age.seconds;
    match (age.nanos, seconds) {
        (0, s) if s > 0 && s % 86_400 == 0 => format!("{}d", s / 86_400),
        (0, s) if s > 0 && s % 3_600 == 0 => format!("{}h", s / 3_600),
        (0, s) => format!("{s}s"),
        (nanos, s) => format!("{}ms", s.saturating_mul(1_000).saturating_add(i64::from(nanos) / 1_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rule: &str) -> String {
        text(family(&format!("f:{rule}")).unwrap().1.gc_rule.as_ref())
    }

    #[test]
    fn rules_are_read_as_cbt_spells_them() {
        for (spelled, meant) in [
            ("maxversions=1", "maxversions=1"),
            ("maxage=5d", "maxage=5d"),
            ("maxage=90s", "maxage=90s"),
            ("never", "never"),
            ("", "never"),
            ("maxversions=1||maxage=5d", "(maxversions=1 || maxage=5d)"),
            ("maxversions=1 or maxage=5d", "(maxversions=1 || maxage=5d)"),
            ("maxversions=1&&maxage=5d", "(maxversions=1 && maxage=5d)"),
            ("maxage=30d || (maxage=1d && maxversions=2)", "(maxage=30d || (maxage=1d && maxversions=2))"),
            ("maxage=30d || maxage=1d && maxversions=2", "(maxage=30d || (maxage=1d && maxversions=2))"),
            ("(maxversions=1||maxversions=2||maxage=1h)", "(maxversions=1 || maxversions=2 || maxage=1h)"),
        ] {
            assert_eq!(round(spelled), meant, "{spelled}");
            assert_eq!(round(meant), meant, "{meant}");
        }
    }

    #[test]
    fn a_family_without_a_rule_keeps_everything() {
        let (name, family) = family("f").unwrap();
        assert_eq!((name.as_str(), family.gc_rule), ("f", None));
    }

    #[test]
    fn wrong_rules_are_named() {
        let deep = format!("f:{}", "(".repeat(100));
        for text in [
            "f:maxversions=0",
            "f:maxversions=-1",
            "f:maxversions=x",
            "f:maxage=5",
            "f:sometimes",
            "f:(maxversions=1",
            "f:maxversions=1)",
            "f:maxversions=1||",
            "f:never||maxversions=1",
            ":maxversions=1",
            "",
            deep.as_str(),
        ] {
            assert!(family(text).is_err(), "{text}");
        }
    }
}
