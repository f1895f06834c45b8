//! What a specification allows.
//!
//! Rules hold together: a value is allowed when no rule denies it and, where any rule lists allowed values, one of
//! them lists it.
//!
//! Invariant: pure; a specification that was checked always has an answer.

use std::time::Duration;

use crate::{Constraint, Kind, Rule, Spec};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The times that `cloudkms.minimumDestroyScheduledDuration` takes, days.
const DAYS: [u32; 7] = [1, 7, 15, 30, 60, 90, 120];

/// A listed value without the word before its colon, where that changes nothing: with projects alone, what is under
/// one is that project.
pub(crate) fn bare(listed: &str) -> &str {
    listed.strip_prefix("is:").or_else(|| listed.strip_prefix("under:")).unwrap_or(listed)
}

/// The days of `in:7d`.
fn days(listed: &str) -> Option<u32> {
    let days = listed.strip_prefix("in:")?.strip_suffix('d')?;
    DAYS.into_iter().find(|known| known.to_string() == days)
}

/// The duration of `in:7d`.
pub(crate) fn minimum(listed: &str) -> Option<Duration> {
    days(listed).map(|days| DAY * days)
}

impl Spec {
    /// Whether a list constraint allows a value.
    pub(crate) fn allows(&self, value: &str) -> bool {
        let lists = |listed: &[String]| listed.iter().any(|listed| bare(listed) == value);
        let (mut restricted, mut allowed) = (false, false);
        for rule in &self.rules {
            match rule {
                Rule::DenyAll => return false,
                Rule::AllowAll => allowed = true,
                Rule::Values { denied, .. } if lists(denied) => return false,
                Rule::Values { allowed: some, .. } => {
                    restricted |= !some.is_empty();
                    allowed |= lists(some);
                }
                Rule::Enforce(_) => {}
            }
        }
        allowed || !restricted
    }

    /// Whether a boolean constraint is enforced.
    pub(crate) fn enforces(&self) -> bool {
        self.rules.contains(&Rule::Enforce(true))
    }

    /// Whether keys may have such a time before destruction.
    pub(crate) fn allows_duration(&self, duration: Duration) -> bool {
        match self.rules.first() {
            Some(Rule::DenyAll) => false,
            Some(Rule::Values { allowed, .. }) => {
                allowed.iter().filter_map(|listed| minimum(listed)).all(|least| duration >= least)
            }
            _ => true,
        }
    }

    /// What a specification, if there is one, comes to.
    pub(crate) fn effective(constraint: Constraint, spec: Option<&Self>) -> Self {
        let rule = match constraint.kind() {
            Kind::Boolean => Rule::Enforce(spec.is_some_and(Self::enforces)),
            Kind::List { .. } => spec.map_or(Rule::AllowAll, |spec| merged(constraint, &spec.rules)),
        };
        Self { rules: vec![rule], ..Self::default() }
    }
}

/// The rules of a list constraint as one, its values without what can be left out.
fn merged(constraint: Constraint, rules: &[Rule]) -> Rule {
    let (mut allow_all, mut allowed, mut denied) = (false, Vec::new(), Vec::new());
    for rule in rules {
        match rule {
            Rule::DenyAll => return Rule::DenyAll,
            Rule::AllowAll => allow_all = true,
            Rule::Values { allowed: some, denied: others } => {
                allowed.extend(some.iter().flat_map(|listed| shown(constraint, listed)));
                denied.extend(others.iter().flat_map(|listed| shown(constraint, listed)));
            }
            Rule::Enforce(_) => {}
        }
    }
    if allow_all {
        allowed.clear();
    }
    for values in [&mut allowed, &mut denied] {
        let mut seen = std::collections::HashSet::new();
        values.retain(|value| seen.insert(value.clone()));
    }
    if allowed.is_empty() && denied.is_empty() { Rule::AllowAll } else { Rule::Values { allowed, denied } }
}

/// A value of an effective policy: groups are opened.
fn shown(constraint: Constraint, listed: &str) -> Vec<String> {
    if constraint == Constraint::MinimumDestroyScheduledDuration {
        let least = days(listed).unwrap_or_default();
        return DAYS.into_iter().filter(|days| *days >= least).map(|days| format!("{days}d")).collect();
    }
    vec![listed.strip_prefix("is:").unwrap_or(listed).to_owned()]
}
