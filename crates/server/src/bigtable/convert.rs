//! Between the messages of Bigtable and the store's own types.
//!
//! Invariant: what the store does not know is refused, never left out. Nesting is bounded before it is
//! followed.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use claviger_bigtable::model::read_modify_write::{Rule, RuleChange};
use claviger_bigtable::model::schema::check_family_name;
use claviger_bigtable::model::{
    Families, Family, FilterSpec, GcRule, KeyRange, Mutation, RowSet, TimestampRange,
};
use claviger_core::{Error, Result, limits};
use claviger_proto::google::bigtable::admin::v2 as admin;
use claviger_proto::google::bigtable::v2 as pb;
use prost::Message;

/// Puts the place of a part before what is wrong with it, as Google's messages do.
fn within(place: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{place} : {error}"))
}

fn in_field(field: &str) -> impl Fn(Error) -> Error {
    move |error| within(&format!("Error in field '{field}'"), &error)
}

fn in_element(index: usize) -> impl Fn(Error) -> Error {
    move |error| within(&format!("Error in element #{index}"), &error)
}

/// The filter of a request. One that says nothing lets everything through.
pub(super) fn filter(filter: pb::RowFilter) -> Result<FilterSpec> {
    if filter.filter.is_none() {
        return Ok(FilterSpec::PassAll);
    }
    filter_at(filter, 1)
}

fn filter_at(filter: pb::RowFilter, depth: usize) -> Result<FilterSpec> {
    use pb::row_filter::Filter;
    if depth > limits::FILTER_DEPTH {
        return Err(Error::invalid(format!("filters nest deeper than {} levels", limits::FILTER_DEPTH)));
    }
    let filter =
        filter.filter.ok_or_else(|| Error::invalid("a filter within another must say what it does"))?;
    Ok(match filter {
        Filter::Chain(chain) => FilterSpec::Chain(filters(chain.filters, depth).map_err(in_field("chain"))?),
        Filter::Interleave(interleave) => {
            FilterSpec::Interleave(filters(interleave.filters, depth).map_err(in_field("interleave"))?)
        }
        Filter::Condition(condition) => filter_condition(*condition, depth).map_err(in_field("condition"))?,
        Filter::Sink(on) => switch("sink", on, FilterSpec::Sink)?,
        Filter::PassAllFilter(on) => switch("pass_all_filter", on, FilterSpec::PassAll)?,
        Filter::BlockAllFilter(on) => switch("block_all_filter", on, FilterSpec::BlockAll)?,
        Filter::RowKeyRegexFilter(pattern) => FilterSpec::RowKeyRegex(pattern),
        Filter::RowSampleFilter(share) => FilterSpec::RowSample(share),
        Filter::FamilyNameRegexFilter(pattern) => FilterSpec::FamilyNameRegex(pattern.into()),
        Filter::ColumnQualifierRegexFilter(pattern) => FilterSpec::ColumnQualifierRegex(pattern),
        Filter::ColumnRangeFilter(range) => column_range(range),
        Filter::TimestampRangeFilter(range) => FilterSpec::TimestampRange(timestamp_range(range)),
        Filter::ValueRegexFilter(pattern) => FilterSpec::ValueRegex(pattern),
        Filter::ValueRangeFilter(range) => value_range(range),
        Filter::CellsPerRowOffsetFilter(count) => FilterSpec::CellsPerRowOffset(count),
        Filter::CellsPerRowLimitFilter(count) => FilterSpec::CellsPerRowLimit(count),
        Filter::CellsPerColumnLimitFilter(count) => FilterSpec::CellsPerColumnLimit(count),
        Filter::StripValueTransformer(on) => switch("strip_value_transformer", on, FilterSpec::StripValue)?,
        Filter::ApplyLabelTransformer(label) => FilterSpec::Label(label),
        Filter::ValueBitmaskFilter(bitmask) => FilterSpec::ValueBitmask(bitmask.mask),
    })
}

fn filters(filters: Vec<pb::RowFilter>, depth: usize) -> Result<Vec<FilterSpec>> {
    let convert = |(index, filter)| filter_at(filter, depth + 1).map_err(in_element(index));
    filters.into_iter().enumerate().map(convert).collect()
}

fn filter_condition(condition: pb::row_filter::Condition, depth: usize) -> Result<FilterSpec> {
    let part = |name: &str, filter: Option<Box<pb::RowFilter>>| {
        filter.map(|filter| filter_at(*filter, depth + 1).map(Box::new).map_err(in_field(name))).transpose()
    };
    let predicate = part("predicate_filter", condition.predicate_filter)?;
    Ok(FilterSpec::Condition {
        predicate: predicate.ok_or_else(|| Error::invalid("predicate_filter must be set"))?,
        on_true: part("true_filter", condition.true_filter)?,
        on_false: part("false_filter", condition.false_filter)?,
    })
}

/// A filter that is a switch: to set it to false means nothing.
fn switch(field: &str, on: bool, filter: FilterSpec) -> Result<FilterSpec> {
    if on {
        Ok(filter)
    } else {
        Err(Error::invalid(format!("{field} must be true if set"))).map_err(in_field(field))
    }
}

fn column_range(range: pb::ColumnRange) -> FilterSpec {
    use pb::column_range::{EndQualifier, StartQualifier};
    let start = match range.start_qualifier {
        Some(StartQualifier::StartQualifierClosed(bound)) => Bound::Included(bound),
        Some(StartQualifier::StartQualifierOpen(bound)) => Bound::Excluded(bound),
        None => Bound::Unbounded,
    };
    let end = match range.end_qualifier {
        Some(EndQualifier::EndQualifierClosed(bound)) => Bound::Included(bound),
        Some(EndQualifier::EndQualifierOpen(bound)) => Bound::Excluded(bound),
        None => Bound::Unbounded,
    };
    FilterSpec::ColumnRange { family: range.family_name, start, end: open_ended(end) }
}

fn value_range(range: pb::ValueRange) -> FilterSpec {
    use pb::value_range::{EndValue, StartValue};
    let start = match range.start_value {
        Some(StartValue::StartValueClosed(bound)) => Bound::Included(bound),
        Some(StartValue::StartValueOpen(bound)) => Bound::Excluded(bound),
        None => Bound::Unbounded,
    };
    let end = match range.end_value {
        Some(EndValue::EndValueClosed(bound)) => Bound::Included(bound),
        Some(EndValue::EndValueOpen(bound)) => Bound::Excluded(bound),
        None => Bound::Unbounded,
    };
    FilterSpec::ValueRange { start, end: open_ended(end) }
}

/// An end before the empty string would hold nothing: clients that set it mean no end.
fn open_ended(end: Bound<Bytes>) -> Bound<Bytes> {
    match end {
        Bound::Excluded(bound) if bound.is_empty() => Bound::Unbounded,
        other => other,
    }
}

fn timestamp_range(range: pb::TimestampRange) -> TimestampRange {
    TimestampRange { start_micros: range.start_timestamp_micros, end_micros: range.end_timestamp_micros }
}

/// The rows that a request reads; none given: all.
pub(super) fn row_set(rows: Option<pb::RowSet>) -> Result<RowSet> {
    use pb::row_range::{EndKey, StartKey};
    let Some(rows) = rows else { return Ok(RowSet::all()) };
    let ranges = rows.row_ranges.into_iter().map(|range| KeyRange {
        start: match range.start_key {
            Some(StartKey::StartKeyClosed(key)) => Bound::Included(key),
            Some(StartKey::StartKeyOpen(key)) => Bound::Excluded(key),
            None => Bound::Unbounded,
        },
        end: match range.end_key {
            Some(EndKey::EndKeyClosed(key)) => Bound::Included(key),
            Some(EndKey::EndKeyOpen(key)) => Bound::Excluded(key),
            None => Bound::Unbounded,
        },
    });
    RowSet::new(rows.row_keys, ranges.collect())
}

/// The mutations of a row, their families looked up.
pub(super) fn mutations(mutations: Vec<pb::Mutation>, families: &Families) -> Result<Vec<Mutation>> {
    let convert = |(index, change)| {
        mutation(change, families).map_err(in_element(index)).map_err(in_field("Mutation list"))
    };
    mutations.into_iter().enumerate().map(convert).collect()
}

fn mutation(mutation: pb::Mutation, families: &Families) -> Result<Mutation> {
    use pb::mutation::Mutation as Change;
    Ok(match mutation.mutation {
        Some(Change::SetCell(set)) => Mutation::SetCell {
            family: families.id_of(&set.family_name)?,
            qualifier: set.column_qualifier,
            timestamp_micros: set.timestamp_micros,
            value: set.value,
        },
        Some(Change::DeleteFromColumn(delete)) => Mutation::DeleteFromColumn {
            family: families.id_of(&delete.family_name)?,
            qualifier: delete.column_qualifier,
            range: delete.time_range.map(timestamp_range).unwrap_or_default(),
        },
        Some(Change::DeleteFromFamily(delete)) => {
            Mutation::DeleteFromFamily { family: families.id_of(&delete.family_name)? }
        }
        Some(Change::DeleteFromRow(_)) => Mutation::DeleteFromRow,
        Some(Change::AddToCell(_)) => return Err(Error::unimplemented("AddToCell is not built yet.")),
        Some(Change::MergeToCell(_)) => return Err(Error::unimplemented("MergeToCell is not built yet.")),
        None => return Err(Error::invalid("a mutation must say what it does")),
    })
}

/// The rules of a ReadModifyWriteRow, their families looked up.
pub(super) fn rules(rules: Vec<pb::ReadModifyWriteRule>, families: &Families) -> Result<Vec<Rule>> {
    let convert = |(index, step)| rule(step, families).map_err(in_element(index)).map_err(in_field("rules"));
    rules.into_iter().enumerate().map(convert).collect()
}

fn rule(rule: pb::ReadModifyWriteRule, families: &Families) -> Result<Rule> {
    use pb::read_modify_write_rule::Rule as Change;
    Ok(Rule {
        family: families.id_of(&rule.family_name)?,
        qualifier: rule.column_qualifier,
        change: match rule.rule {
            Some(Change::AppendValue(bytes)) => RuleChange::Append(bytes),
            Some(Change::IncrementAmount(amount)) => RuleChange::Increment(amount),
            None => return Err(Error::invalid("a rule must say what it does")),
        },
    })
}

/// A family's garbage-collection rule, from the settings of a family to create or change.
pub(super) fn family_from_pb(name: &str, family: admin::ColumnFamily) -> Result<Option<GcRule>> {
    check_family_name(name)?;
    let convert = || {
        if family.value_type.as_ref().is_some_and(|value_type| value_type.kind.is_some()) {
            return Err(Error::unimplemented(
                "Column families with a value type, such as aggregates, are not built yet.",
            ));
        }
        gc_rule(family.gc_rule)
    };
    convert().map_err(in_field(&format!("column_families[{name}]")))
}

/// A garbage-collection rule; one that says nothing keeps everything.
pub(super) fn gc_rule(rule: Option<admin::GcRule>) -> Result<Option<GcRule>> {
    let Some(rule) = rule.filter(|rule| rule.rule.is_some()) else { return Ok(None) };
    let bytes = rule.encoded_len();
    if bytes > limits::GC_RULE_BYTES {
        return Err(Error::invalid(format!(
            "Error in field 'gc_rule' : it has {bytes} bytes, but may have {} at most",
            limits::GC_RULE_BYTES
        )));
    }
    // The size bounds the depth: each level takes two bytes.
    let rule = gc_rule_from(rule).map_err(in_field("gc_rule"))?;
    rule.check()?;
    Ok(Some(rule))
}

fn gc_rule_from(rule: admin::GcRule) -> Result<GcRule> {
    use admin::gc_rule::Rule as Kind;
    let all = |rules: Vec<admin::GcRule>| {
        let convert = |(index, rule)| gc_rule_from(rule).map_err(in_element(index));
        rules.into_iter().enumerate().map(convert).collect::<Result<Vec<_>>>()
    };
    Ok(match rule.rule {
        Some(Kind::MaxNumVersions(count)) => {
            GcRule::MaxVersions(u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                Error::invalid(format!("max_num_versions must be at least 1, but is {count}"))
            })?)
        }
        Some(Kind::MaxAge(age)) => GcRule::MaxAge(max_age(age)?),
        Some(Kind::Union(union)) => GcRule::Union(all(union.rules).map_err(in_field("union"))?),
        Some(Kind::Intersection(intersection)) => {
            GcRule::Intersection(all(intersection.rules).map_err(in_field("intersection"))?)
        }
        None => return Err(Error::invalid("a rule within another must say what it lets go")),
    })
}

fn max_age(age: prost_types::Duration) -> Result<Duration> {
    let nanos = u32::try_from(age.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let (Ok(seconds), Some(nanos)) = (u64::try_from(age.seconds), nanos) else {
        return Err(Error::invalid("max_age must be at least one millisecond"));
    };
    Ok(Duration::new(seconds, nanos))
}

/// A family's settings.
pub(super) fn family_to_pb(family: &Family) -> admin::ColumnFamily {
    admin::ColumnFamily { gc_rule: family.gc.as_ref().map(gc_rule_to_pb), ..Default::default() }
}

fn gc_rule_to_pb(rule: &GcRule) -> admin::GcRule {
    use admin::gc_rule::{Intersection, Rule as Kind, Union};
    let rule = match rule {
        GcRule::MaxVersions(count) => Kind::MaxNumVersions(i32::try_from(*count).unwrap_or(i32::MAX)),
        GcRule::MaxAge(age) => Kind::MaxAge(prost_types::Duration {
            seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(age.subsec_nanos()).unwrap_or(0),
        }),
        GcRule::Union(rules) => Kind::Union(Union { rules: rules.iter().map(gc_rule_to_pb).collect() }),
        GcRule::Intersection(rules) => {
            Kind::Intersection(Intersection { rules: rules.iter().map(gc_rule_to_pb).collect() })
        }
    };
    admin::GcRule { rule: Some(rule) }
}

#[cfg(test)]
mod tests;
