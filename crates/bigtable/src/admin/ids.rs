//! The ids that a user may choose, by the rules of the public API.

use claviger_core::{Error, Result};

/// Checks an id: its length, its first character and the others.
fn check(
    field: &str,
    id: &str,
    chars: (usize, usize),
    first: fn(char) -> bool,
    rest: fn(char) -> bool,
    rule: &str,
) -> Result<()> {
    let fits = (chars.0..=chars.1).contains(&id.chars().count())
        && id.chars().next().is_some_and(first)
        && id.chars().all(rest);
    if fits { Ok(()) } else { Err(Error::invalid_field(field, format!("'{id}' is not valid: {rule}"))) }
}

fn lower(c: char) -> bool {
    c.is_ascii_lowercase()
}

fn lower_or_dash(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn word_or_dash(c: char) -> bool {
    word(c) || matches!(c, '-' | '.')
}

pub(super) fn instance(id: &str) -> Result<()> {
    check(
        "instance_id",
        id,
        (6, 33),
        lower,
        lower_or_dash,
        "6 to 33 lower-case letters, digits and dashes, a letter first",
    )
}

pub(super) fn cluster(id: &str) -> Result<()> {
    check(
        "cluster_id",
        id,
        (6, 30),
        lower,
        lower_or_dash,
        "6 to 30 lower-case letters, digits and dashes, a letter first",
    )
}

pub(super) fn table(id: &str) -> Result<()> {
    check(
        "table_id",
        id,
        (1, 50),
        word,
        word_or_dash,
        "1 to 50 letters, digits, '_', '-' and '.', a letter, digit or '_' first",
    )
}

pub(super) fn profile(id: &str) -> Result<()> {
    check(
        "app_profile_id",
        id,
        (1, 50),
        word,
        word_or_dash,
        "1 to 50 letters, digits, '_', '-' and '.', a letter, digit or '_' first",
    )
}

/// Labels of an instance: at most 64, keys of 1 to 63 and values of at most 63 characters.
pub(super) fn labels<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Result<()> {
    let mut count = 0;
    for (key, value) in labels {
        count += 1;
        let fits = |text: &str| {
            text.chars().count() <= 63
                && text.chars().all(|c| {
                    c.is_lowercase()
                        || c.is_numeric()
                        || matches!(c, '_' | '-')
                        || (c.is_alphabetic() && !c.is_uppercase())
                })
        };
        if key.is_empty() || !fits(key) || !fits(value) {
            return Err(Error::invalid_field(
                "instance.labels",
                format!(
                    "label '{key}': keys and values are at most 63 lower-case letters, digits, '_' and '-', and a key is not empty"
                ),
            ));
        }
    }
    if count > 64 {
        return Err(Error::invalid_field("instance.labels", "at most 64 labels"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_public_rules() {
        assert!(instance("flights").is_ok() && cluster("flights-c1").is_ok() && table("a.b-c_D").is_ok());
        for id in ["", "short", "Upper-case", "9lives-x", "has_underscore", &"x".repeat(34)] {
            assert!(instance(id).is_err(), "{id}");
        }
        for id in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(51)] {
            assert!(table(id).is_err(), "{id}");
        }
    }
}
