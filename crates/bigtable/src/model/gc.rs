//! Garbage-collection rules of a family: which versions of a column may be dropped.
//!
//! Invariant: whatever a rule lets go of is an oldest part of a column's versions. If a version may go,
//! so may every older one. So a rule comes down to how many of the newest are kept.

use std::time::Duration;

use claviger_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// How deep rules may nest. Google bounds only the encoded size, 500 bytes, which allows more than
/// anyone writes; each level costs two bytes there at least.
pub const MAX_DEPTH: usize = 100;

/// Says which versions of a column may be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GcRule {
    /// All but the newest so many; at least 1.
    MaxVersions(u32),
    /// Those older than this.
    MaxAge(Duration),
    /// Those that any of these lets go.
    Union(Vec<GcRule>),
    /// Those that all of these let go. Of none: nothing goes.
    Intersection(Vec<GcRule>),
}

impl GcRule {
    /// Checks a rule that a user gave.
    ///
    /// # Errors
    /// `InvalidArgument` for a count below 1, an age below a millisecond, or rules nested too deep.
    pub fn check(&self) -> Result<()> {
        self.check_at(1)
    }

    fn check_at(&self, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "Error in field 'gc_rule' : rules nest deeper than {MAX_DEPTH}"
            )));
        }
        match self {
            Self::MaxVersions(0) => {
                Err(Error::invalid("Error in field 'gc_rule' : max_num_versions must be at least 1"))
            }
            Self::MaxAge(age) if *age < Duration::from_millis(1) => {
                Err(Error::invalid("Error in field 'gc_rule' : max_age must be at least one millisecond"))
            }
            Self::MaxVersions(_) | Self::MaxAge(_) => Ok(()),
            Self::Union(rules) | Self::Intersection(rules) => {
                rules.iter().try_for_each(|rule| rule.check_at(depth + 1))
            }
        }
    }

    /// How many of a column's versions, given newest first, are kept; the rest may go.
    pub fn kept<T>(&self, versions: &[T], timestamp: impl Fn(&T) -> i64 + Copy, now: Timestamp) -> usize {
        match self {
            Self::MaxVersions(count) => versions.len().min(usize::try_from(*count).unwrap_or(usize::MAX)),
            Self::MaxAge(age) => {
                let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
                let oldest = now.micros().saturating_sub(age);
                versions.partition_point(|version| timestamp(version) >= oldest)
            }
            Self::Union(rules) => {
                rules.iter().map(|rule| rule.kept(versions, timestamp, now)).min().unwrap_or(versions.len())
            }
            Self::Intersection(rules) => {
                rules.iter().map(|rule| rule.kept(versions, timestamp, now)).max().unwrap_or(versions.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(100_000_000);

    fn kept(rule: &GcRule, timestamps: &[i64]) -> usize {
        rule.kept(timestamps, |at| *at, NOW)
    }

    fn age(seconds: u64) -> GcRule {
        GcRule::MaxAge(Duration::from_secs(seconds))
    }

    #[test]
    fn each_rule_keeps_the_newest_versions_that_it_should() {
        let versions = [99_000_000, 95_000_000, 90_000_000, 50_000_000];
        assert_eq!(kept(&GcRule::MaxVersions(2), &versions), 2);
        assert_eq!(kept(&GcRule::MaxVersions(9), &versions), 4);
        assert_eq!(kept(&age(10), &versions), 3, "exactly ten seconds old is not older than ten seconds");
        assert_eq!(kept(&age(1_000_000), &versions), 4);
        let rules = vec![GcRule::MaxVersions(1), age(20)];
        assert_eq!(kept(&GcRule::Union(rules.clone()), &versions), 1);
        assert_eq!(kept(&GcRule::Intersection(rules), &versions), 3);
        let nested = GcRule::Union(vec![age(60), GcRule::Intersection(vec![age(7), GcRule::MaxVersions(3)])]);
        assert_eq!(kept(&nested, &versions), 3);
    }

    #[test]
    fn rules_of_no_rules_let_nothing_go() {
        assert_eq!(kept(&GcRule::Union(vec![]), &[1000]), 1);
        assert_eq!(kept(&GcRule::Intersection(vec![]), &[1000]), 1);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for rule in [
            GcRule::MaxVersions(0),
            GcRule::MaxAge(Duration::ZERO),
            GcRule::MaxAge(Duration::from_micros(999)),
        ] {
            assert!(rule.check().is_err(), "{rule:?}");
            assert!(GcRule::Union(vec![GcRule::MaxVersions(1), rule]).check().is_err());
        }
        let deep = (0..MAX_DEPTH).fold(GcRule::MaxVersions(1), |rule, _| GcRule::Union(vec![rule]));
        assert!(deep.check().is_err());
        age(1).check().unwrap();
    }

    #[test]
    fn a_rule_survives_storage() {
        let rule = GcRule::Union(vec![
            GcRule::MaxVersions(3),
            GcRule::Intersection(vec![age(86_400), GcRule::MaxVersions(1)]),
        ]);
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<GcRule>(&text).unwrap(), rule);
    }
}
