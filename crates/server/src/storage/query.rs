//! Parameters of a request's URL.
//!
//! Invariant: a parameter that cannot be read is refused by its name; one that is not known is ignored, as
//! Cloud Storage does.

use std::collections::HashMap;

use claviger_buckets::model::Conditions;
use claviger_core::names::CryptoKeyName;
use percent_encoding::percent_decode_str;

use super::failure::Failure;

/// The most of a query, bytes.
const QUERY_BYTES: usize = 16 * 1024;

/// The parameters, decoded. Of one that is given twice the last counts, unless all are asked for.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(super) fn parse(query: &str) -> Result<Self, Failure> {
        if query.len() > QUERY_BYTES {
            return Err(Failure::too_large(QUERY_BYTES));
        }
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| Failure::parameter("?", pair))?;
            let value = decode(value).ok_or_else(|| Failure::parameter(&name, value))?;
            found.entry(name).or_default().push(value);
        }
        Ok(Self(found))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    pub(super) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// A parameter that says something.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| Failure::parameter(name, value))
    }

    pub(super) fn generation(&self) -> Result<Option<i64>, Failure> {
        self.number("generation")
    }

    pub(super) fn conditions(&self) -> Result<Conditions, Failure> {
        self.conditions_of("if")
    }

    /// The conditions whose parameters begin so: `if` or `ifSource`.
    pub(super) fn conditions_of(&self, prefix: &str) -> Result<Conditions, Failure> {
        let number = |what: &str| self.number(&format!("{prefix}{what}"));
        Ok(Conditions {
            generation_match: number("GenerationMatch")?,
            generation_not_match: number("GenerationNotMatch")?,
            metageneration_match: number("MetagenerationMatch")?,
            metageneration_not_match: number("MetagenerationNotMatch")?,
        })
    }

    pub(super) fn key(&self, name: &str) -> Result<Option<CryptoKeyName>, Failure> {
        self.text(name).map(|key| key_name(&key)).transpose()
    }
}

/// A key's name as users give it.
pub(super) fn key_name(text: &str) -> Result<CryptoKeyName, Failure> {
    CryptoKeyName::parse(text).map_err(|error| {
        let kind = claviger_buckets::errors::KEY_BAD;
        let message = format!("Bad Cloud KMS key. {}", error.message());
        claviger_core::Error::invalid(message.clone()).violating(kind, "kmsKeyName", message).into()
    })
}

/// Decodes a part of a form-encoded query.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_last_of_a_name_counts() {
        let query = Query::parse("a=1&a=2&prefix=d%2F%C3%A9+x&flag=true&empty=&bare").unwrap();
        assert_eq!(query.get("a"), Some("2"));
        assert_eq!(query.get("prefix"), Some("d/é x"));
        assert!(query.flag("flag") && !query.flag("a"));
        assert_eq!((query.text("empty"), query.get("bare")), (None, Some("")));
        assert!(Query::parse("a=%ff").is_err());
        assert!(query.number::<u32>("prefix").is_err());
    }

    #[test]
    fn conditions_of_source_and_target_are_apart() {
        let query = Query::parse("ifGenerationMatch=0&ifSourceMetagenerationNotMatch=3").unwrap();
        assert_eq!(query.conditions().unwrap().generation_match, Some(0));
        assert_eq!(query.conditions_of("ifSource").unwrap().metageneration_not_match, Some(3));
        assert_eq!(query.conditions_of("ifSource").unwrap().generation_match, None);
    }
}
