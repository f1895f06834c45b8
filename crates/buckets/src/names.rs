//! Names of buckets and objects, and the places that buckets are in.
//!
//! Invariant: a name that passes here has no byte that the index or a header could not take.

use std::fmt;

use claviger_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The longest name of an object, bytes.
pub const OBJECT_NAME_BYTES: usize = 1024;
/// The longest name of a bucket without dots, and of each part of one with dots, characters.
const BUCKET_PART_CHARS: usize = 63;
/// The longest name of a bucket, characters.
const BUCKET_NAME_CHARS: usize = 222;
/// Places that span a continent, with the place of the keys that fit.
const MULTI_REGIONS: [(&str, &str); 3] = [("US", "us"), ("EU", "europe"), ("ASIA", "asia")];
/// Pairs of regions.
const DUAL_REGIONS: [&str; 6] = ["ASIA1", "EUR4", "EUR5", "EUR7", "EUR8", "NAM4"];

/// Checks the name of a new bucket.
///
/// # Errors
/// `InvalidArgument` that repeats the name.
pub fn check_bucket(name: &str) -> Result<()> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let characters =
        bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
    let parts = name.split('.').all(|part| (1..=BUCKET_PART_CHARS).contains(&part.len()));
    let address = name.split('.').count() == 4
        && name.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let fits = (3..=BUCKET_NAME_CHARS).contains(&bytes.len())
        && characters
        && parts
        && edge(bytes.first())
        && edge(bytes.last())
        && !address
        && !name.starts_with("goog");
    if fits { Ok(()) } else { Err(Error::invalid(format!("Invalid bucket name: '{name}'"))) }
}

/// Checks the name of a new object.
///
/// # Errors
/// `InvalidArgument` that says what is wrong with it.
pub fn check_object(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "Required"
    } else if name.len() > OBJECT_NAME_BYTES {
        "The specified object name is longer than 1024 bytes."
    } else if name.contains(['\r', '\n', '\0']) {
        "Disallowed unicode characters present in object name."
    } else if matches!(name, "." | "..") || name.starts_with(".well-known/acme-challenge/") {
        "Invalid object name."
    } else {
        return Ok(());
    };
    Err(Error::invalid(why))
}

/// Where a bucket is, in capitals as Cloud Storage shows it: `US-EAST1`, `EU`, `NAM4`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(String);

impl Location {
    /// Reads a place, in letters of any case. None given means the United States.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let upper = text.trim().to_ascii_uppercase();
        if upper.is_empty() {
            return Ok(Self("US".to_owned()));
        }
        let known = MULTI_REGIONS.iter().any(|(name, _)| *name == upper)
            || DUAL_REGIONS.contains(&upper.as_str())
            || is_region(&upper);
        if known {
            Ok(Self(upper))
        } else {
            Err(Error::invalid("The specified location constraint is not valid."))
        }
    }

    /// The place, in capitals.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `region`, `dual-region` or `multi-region`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if MULTI_REGIONS.iter().any(|(name, _)| *name == self.0) {
            "multi-region"
        } else if DUAL_REGIONS.contains(&self.0.as_str()) {
            "dual-region"
        } else {
            "region"
        }
    }

    /// The place that keys for this one must be in.
    #[must_use]
    pub fn key_location(&self) -> String {
        let multi = MULTI_REGIONS.iter().find(|(name, _)| *name == self.0);
        multi.map_or_else(|| self.0.to_ascii_lowercase(), |(_, key)| (*key).to_owned())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text has the shape of a region: `US-EAST1`.
fn is_region(upper: &str) -> bool {
    let Some((area, place)) = upper.split_once('-') else { return false };
    let letters = place.trim_end_matches(|c: char| c.is_ascii_digit());
    upper.len() <= 40
        && !area.is_empty()
        && !letters.is_empty()
        && letters.len() < place.len()
        && (area.bytes().chain(letters.bytes())).all(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_documented_rules() {
        for good in ["abc", "my-bucket_1", "a.b.c", "0ab", &"a".repeat(63), "1.2.3", "example.com"] {
            check_bucket(good).unwrap();
        }
        let long = "a".repeat(64);
        for bad in ["", "ab", "Abc", "-ab", "ab-", "a..b", "1.2.3.4", "goog-x", "a/b", "é-bucket", &long] {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn object_names_may_be_any_text_without_line_ends() {
        for good in ["a", "a/b//c", "naïve ☃/", &"x".repeat(1024)] {
            check_object(good).unwrap();
        }
        let long = "é".repeat(513);
        for bad in ["", ".", "..", "a\nb", "a\rb", "a\0b", ".well-known/acme-challenge/x", &long] {
            assert!(check_object(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_names_the_place_of_its_keys() {
        for (text, shown, kind, key) in [
            ("", "US", "multi-region", "us"),
            ("eu", "EU", "multi-region", "europe"),
            ("us-east1", "US-EAST1", "region", "us-east1"),
            ("NORTHAMERICA-NORTHEAST2", "NORTHAMERICA-NORTHEAST2", "region", "northamerica-northeast2"),
            ("nam4", "NAM4", "dual-region", "nam4"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!((location.as_str(), location.kind()), (shown, kind));
            assert_eq!(location.key_location(), key);
        }
        for bad in ["mars", "us-east", "us-east1-b", "us_east1", "-1"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }
}
