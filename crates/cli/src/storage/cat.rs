//! `claviger storage cat`.
//!
//! Invariant: bytes go to standard output as they are, checked against the object's checksum when all of them went.

use clap::Args;

use super::api::Storage;
use super::download::{Range, Reading};
use super::find::{Finder, Found, Versions};
use super::url::{self, CloudUrl};
use crate::failure::Failure;
use crate::output::{say, write_bytes};

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger storage cat gs://flights/may.csv
  claviger storage cat 'gs://flights/*.csv' --range 0-99
  claviger storage cat gs://flights/may.csv --range=-100";

/// `claviger storage cat`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The objects: gs://BUCKET/OBJECT, or patterns
    #[arg(value_name = "OBJECT", required = true, value_parser = url::object)]
    objects: Vec<CloudUrl>,
    /// Only these bytes: FIRST-LAST, FIRST- or, of the end, -COUNT
    #[arg(long, short, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    range: Option<Range>,
    /// Write each object's name before it
    #[arg(long, short)]
    display_url: bool,
}

fn range(text: &str) -> Result<Range, String> {
    let wrong = || format!("'{text}' is no range: write FIRST-LAST, FIRST- or -COUNT");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match (first, last) {
        ("", count) => number(count).map(Range::Last),
        (first, "") => number(first).map(Range::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last { Err(wrong()) } else { Ok(Range::Between(first, last)) }
        }
    }
}

/// Writes objects to standard output.
///
/// # Errors
/// What the server refuses; bytes that are not what the object's checksum says; when it cannot be written.
pub(super) async fn run(storage: &Storage, options: &Options) -> Result<(), Failure> {
    for url in &options.objects {
        let mut finder = Finder::new(storage, url, false, Versions::Live).await?;
        while let Some(found) = finder.next().await? {
            if options.display_url {
                say(&format!("==> {} <==", found.url));
            }
            one(storage, &found, options.range.unwrap_or(Range::From(0))).await?;
        }
    }
    Ok(())
}

/// Writes one object to standard output.
///
/// # Errors
/// As [`run`].
pub(super) async fn one(storage: &Storage, found: &Found, range: Range) -> Result<(), Failure> {
    let mut reading = Reading::new(storage, found, range);
    while let Some(bytes) = reading.next().await? {
        write_bytes(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_gcloud_spells_them() {
        assert_eq!(range("0-9"), Ok(Range::Between(0, 9)));
        assert_eq!(range("5-"), Ok(Range::From(5)));
        assert_eq!(range("-7"), Ok(Range::Last(7)));
        for wrong in ["", "-", "9-1", "a-b", "5"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
