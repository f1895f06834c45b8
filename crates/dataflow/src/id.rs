//! The ids of jobs, in Dataflow's form: `2026-11-23_03_21_31-1234567890123456789`.
//!
//! Invariant: ids that are made later sort later, to the second; no two are the same.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use claviger_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest id that is read.
const MAX_CHARS: usize = 64;

/// A job's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// An id that was not there before.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let seconds = u64::try_from(now.seconds_and_nanos().0).unwrap_or(0);
        // The year 9999 is the last that has a form.
        let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
        let time = humantime::format_rfc3339_seconds(time).to_string();
        let time = time.trim_end_matches('Z').replace(['T', ':'], "_");
        let number = rand::random_range(1_000_000_000_000_000_000_u64..10_000_000_000_000_000_000);
        Self(format!("{time}-{number}"))
    }

    /// Reads an id.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be one.
    pub fn parse(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > MAX_CHARS || !text.bytes().all(allowed) {
            return Err(Error::invalid_field("job_id", "is not the id of a job"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for JobId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_dataflows_form_and_sort_by_time() {
        let first = JobId::new(Timestamp(1_795_404_091_000_000));
        let later = JobId::new(Timestamp(1_795_404_092_000_000));
        let (time, number) = first.as_str().split_at(20);
        assert_eq!(time, "2026-11-23_03_21_31-");
        assert!(number.len() == 19 && number.bytes().all(|b| b.is_ascii_digit()), "{number}");
        assert!(first < later);
        assert_eq!(JobId::parse(first.as_str()).unwrap(), first);
    }

    #[test]
    fn what_cannot_be_an_id_is_refused() {
        for text in ["", "a/b", "..", "a b", &"x".repeat(65)] {
            assert!(JobId::parse(text).is_err(), "{text}");
        }
    }
}
