//! Lifecycle rules of a bucket: when objects are removed or change their class.
//!
//! Invariant: a rule that could not be read whole is refused when it is set; none is half applied.

use std::time::Duration;

use claviger_core::{Error, Result, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{Object, check_class};

/// The most rules of a bucket.
const MAX_RULES: usize = 100;
const DAY: u64 = 24 * 60 * 60;

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Removes the object, or makes it noncurrent.
    Delete,
    /// Changes its class.
    SetStorageClass(String),
}

/// One rule; all that it names must hold.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// None for a rule about multipart uploads of the XML API, of which there are none here.
    action: Option<Action>,
    condition: Condition,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Condition {
    age: Option<u64>,
    created_before: Option<String>,
    custom_time_before: Option<String>,
    days_since_custom_time: Option<u64>,
    days_since_noncurrent_time: Option<u64>,
    is_live: Option<bool>,
    matches_storage_class: Vec<String>,
    matches_prefix: Vec<String>,
    matches_suffix: Vec<String>,
    noncurrent_time_before: Option<String>,
    num_newer_versions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRules {
    #[serde(default)]
    rule: Vec<WireRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRule {
    action: WireAction,
    condition: Condition,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireAction {
    r#type: String,
    #[serde(default)]
    storage_class: Option<String>,
}

/// Reads the rules of a bucket from their JSON.
///
/// # Errors
/// `InvalidArgument` that says what cannot be read.
pub(crate) fn parse(rules: &Value) -> Result<Vec<Rule>> {
    let wire: WireRules = WireRules::deserialize(rules)
        .map_err(|e| Error::invalid(format!("The lifecycle configuration cannot be read: {e}")))?;
    if wire.rule.len() > MAX_RULES {
        return Err(Error::invalid(format!("A bucket has at most {MAX_RULES} lifecycle rules.")));
    }
    wire.rule.into_iter().map(Rule::read).collect()
}

impl Rule {
    fn read(wire: WireRule) -> Result<Self> {
        let action = match (wire.action.r#type.as_str(), wire.action.storage_class) {
            ("Delete", None) => Some(Action::Delete),
            ("SetStorageClass", Some(class)) => {
                check_class(&class)?;
                Some(Action::SetStorageClass(class))
            }
            ("AbortIncompleteMultipartUpload", None) => None,
            (other, _) => return Err(Error::invalid(format!("'{other}' is not a lifecycle action."))),
        };
        let condition = wire.condition;
        for date in
            [&condition.created_before, &condition.custom_time_before, &condition.noncurrent_time_before]
        {
            date.as_deref().map(day).transpose()?;
        }
        Ok(Self { action, condition })
    }

    fn holds(&self, object: &Object, newer: usize, now: Timestamp) -> bool {
        let condition = &self.condition;
        let days = |since: Timestamp, days: u64| now.since(since) >= Duration::from_secs(days * DAY);
        let before = |time: Option<Timestamp>, date: &Option<String>| match date {
            Some(date) => time.is_some_and(|time| day(date).is_ok_and(|day| time < day)),
            None => true,
        };
        let past = |time: Option<Timestamp>, wanted: Option<u64>| {
            wanted.is_none_or(|wanted| time.is_some_and(|time| days(time, wanted)))
        };
        let among = |wanted: &[String], fits: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|one| fits(one))
        };
        let class = object.metadata.storage_class.as_deref().unwrap_or_default();
        past(Some(object.created), condition.age)
            && before(Some(object.created), &condition.created_before)
            && before(object.metadata.custom_time, &condition.custom_time_before)
            && past(object.metadata.custom_time, condition.days_since_custom_time)
            && before(object.deleted, &condition.noncurrent_time_before)
            && past(object.deleted, condition.days_since_noncurrent_time)
            && condition.is_live.is_none_or(|live| live == object.deleted.is_none())
            && condition.num_newer_versions.is_none_or(|wanted| newer >= wanted)
            && among(&condition.matches_storage_class, &|wanted| wanted == class)
            && among(&condition.matches_prefix, &|prefix| object.name.starts_with(prefix))
            && among(&condition.matches_suffix, &|suffix| object.name.ends_with(suffix))
    }
}

/// What is to be done with a version that has so many newer ones. To remove comes before all else.
pub(crate) fn decide(rules: &[Rule], object: &Object, newer: usize, now: Timestamp) -> Option<Action> {
    let mut class = None;
    for rule in rules.iter().filter(|rule| rule.holds(object, newer, now)) {
        match &rule.action {
            Some(Action::Delete) => return Some(Action::Delete),
            Some(Action::SetStorageClass(to)) if object.metadata.storage_class.as_ref() != Some(to) => {
                class.get_or_insert_with(|| to.clone());
            }
            _ => {}
        }
    }
    class.map(Action::SetStorageClass)
}

/// The midnight at which a date begins, from `YYYY-MM-DD`.
fn day(date: &str) -> Result<Timestamp> {
    let wrong = || Error::invalid(format!("'{date}' is not a date."));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (Some(Some(year)), Some(Some(month)), Some(Some(day))) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(wrong());
    }
    // Days since the epoch, by the calendar that begins in March: its leap day is the last of the year.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, in_era) = (year.div_euclid(400), year.rem_euclid(400));
    let days =
        era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + (153 * month + 2) / 5 + day - 719_469;
    Ok(Timestamp(days * 86_400_000_000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Content, ObjectMetadata};

    fn object(name: &str, created: Timestamp, deleted: Option<Timestamp>) -> Object {
        Object {
            name: name.into(),
            generation: 1,
            metageneration: 1,
            size: 0,
            crc32c: 0,
            md5: None,
            component_count: None,
            metadata: ObjectMetadata { storage_class: Some("STANDARD".into()), ..Default::default() },
            created,
            updated: created,
            deleted,
            content: Content { vault: "v".into(), id: "c".into(), files: vec![] },
        }
    }

    #[test]
    fn dates_are_days_since_the_epoch() {
        for (date, days) in
            [("1970-01-01", 0), ("2000-02-29", 11_016), ("2000-03-01", 11_017), ("2026-11-23", 20_780)]
        {
            assert_eq!(day(date).unwrap(), Timestamp(days * 86_400_000_000), "{date}");
        }
        for wrong in ["", "2020", "2020-13-01", "x-y-z", "2020-1-1-1"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold_and_removal_wins() {
        let rules = parse(&json!({"rule": [
            {"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 1}},
            {"action": {"type": "Delete"}, "condition": {"age": 10, "matchesPrefix": ["tmp/"]}},
            {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 2, "isLive": false}},
        ]}))
        .unwrap();
        let made = day("2020-01-01").unwrap();
        let after = |days: u64| made.plus(Duration::from_secs(days * DAY));
        let decide = |object: &Object, newer, days| decide(&rules, object, newer, after(days));
        let kept = object("data/x", made, None);
        assert_eq!(decide(&kept, 0, 0), None);
        assert_eq!(decide(&kept, 0, 1), Some(Action::SetStorageClass("NEARLINE".into())));
        let temporary = object("tmp/x", made, None);
        assert_eq!(decide(&temporary, 0, 9), Some(Action::SetStorageClass("NEARLINE".into())));
        assert_eq!(decide(&temporary, 0, 10), Some(Action::Delete));
        let noncurrent = object("data/x", made, Some(made));
        assert_eq!(decide(&noncurrent, 1, 0), None);
        assert_eq!(decide(&noncurrent, 2, 0), Some(Action::Delete));
    }

    #[test]
    fn what_cannot_be_applied_is_refused_when_it_is_set() {
        for wrong in [
            json!({"rule": [{"action": {"type": "Explode"}, "condition": {}}]}),
            json!({"rule": [{"action": {"type": "Delete"}, "condition": {"moon": "full"}}]}),
            json!({"rule": [{"action": {"type": "Delete"}, "condition": {"createdBefore": "soon"}}]}),
            json!({"rules": []}),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
        parse(&json!({})).unwrap();
    }
}
