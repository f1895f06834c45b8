//! From what a request says to nodes that run: every rule and limit of a filter is checked here.
//!
//! Invariant: a filter that compiles is nested at most [`limits::FILTER_DEPTH`] deep, its patterns share
//! one budget of memory, and no sink stands within a condition.

use std::ops::Bound;

use bytes::Bytes;
use claviger_core::{Error, Result, limits};

use super::super::schema::{Families, check_family_name, family_not_found};
use super::FilterSpec;
use super::node::{CellTest, Node, RowTest};
use super::pattern::{Pattern, Syntax};

/// Memory that the patterns of one filter may take together, bytes; twice for their caches.
const PATTERNS_BYTES: usize = 16 << 20;
/// Memory that one pattern may take however many there are.
const LEAST_PATTERN_BYTES: usize = 8 << 10;
/// Memory that one pattern may take when it is alone.
const MOST_PATTERN_BYTES: usize = 2 << 20;
/// Characters of a label.
const LABEL_CHARS: usize = 15;

pub(super) fn compile(spec: &FilterSpec, families: &Families) -> Result<Node> {
    check_depth(spec, 1)?;
    let patterns = count_patterns(spec).max(1);
    let pattern_bytes = (PATTERNS_BYTES / patterns).clamp(LEAST_PATTERN_BYTES, MOST_PATTERN_BYTES);
    let mut compiler = Compiler { families, pattern_bytes, samples: 0 };
    compiler.node(spec, false)
}

/// The name of the filter's field in the API.
fn field(spec: &FilterSpec) -> &'static str {
    match spec {
        FilterSpec::Chain(_) => "chain",
        FilterSpec::Interleave(_) => "interleave",
        FilterSpec::Condition { .. } => "condition",
        FilterSpec::Sink => "sink",
        FilterSpec::PassAll => "pass_all_filter",
        FilterSpec::BlockAll => "block_all_filter",
        FilterSpec::RowKeyRegex(_) => "row_key_regex_filter",
        FilterSpec::RowSample(_) => "row_sample_filter",
        FilterSpec::FamilyNameRegex(_) => "family_name_regex_filter",
        FilterSpec::ColumnQualifierRegex(_) => "column_qualifier_regex_filter",
        FilterSpec::ColumnRange { .. } => "column_range_filter",
        FilterSpec::TimestampRange(_) => "timestamp_range_filter",
        FilterSpec::ValueRegex(_) => "value_regex_filter",
        FilterSpec::ValueRange { .. } => "value_range_filter",
        FilterSpec::ValueBitmask(_) => "value_bitmask_filter",
        FilterSpec::CellsPerRowOffset(_) => "cells_per_row_offset_filter",
        FilterSpec::CellsPerRowLimit(_) => "cells_per_row_limit_filter",
        FilterSpec::CellsPerColumnLimit(_) => "cells_per_column_limit_filter",
        FilterSpec::StripValue => "strip_value_transformer",
        FilterSpec::Label(_) => "apply_label_transformer",
    }
}

/// The filters directly within a filter.
fn parts(spec: &FilterSpec) -> impl Iterator<Item = &FilterSpec> {
    let (list, condition): (&[FilterSpec], _) = match spec {
        FilterSpec::Chain(filters) | FilterSpec::Interleave(filters) => (filters, [None, None, None]),
        FilterSpec::Condition { predicate, on_true, on_false } => {
            (&[], [Some(&**predicate), on_true.as_deref(), on_false.as_deref()])
        }
        _ => (&[], [None, None, None]),
    };
    list.iter().chain(condition.into_iter().flatten())
}

fn check_depth(spec: &FilterSpec, depth: usize) -> Result<()> {
    if depth > limits::FILTER_DEPTH {
        return Err(Error::invalid(format!(
            "Error in field 'filter' : filters nest deeper than {} levels",
            limits::FILTER_DEPTH
        )));
    }
    parts(spec).try_for_each(|part| check_depth(part, depth + 1))
}

fn count_patterns(spec: &FilterSpec) -> usize {
    let own = matches!(
        spec,
        FilterSpec::RowKeyRegex(_)
            | FilterSpec::FamilyNameRegex(_)
            | FilterSpec::ColumnQualifierRegex(_)
            | FilterSpec::ValueRegex(_)
    );
    usize::from(own) + parts(spec).map(count_patterns).sum::<usize>()
}

fn has_label(spec: &FilterSpec) -> bool {
    matches!(spec, FilterSpec::Label(_)) || parts(spec).any(has_label)
}

/// Puts the place of a filter before what is wrong with it.
fn within(place: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{place} : {error}"))
}

struct Compiler<'a> {
    families: &'a Families,
    pattern_bytes: usize,
    /// Row samples so far: each draws on its own.
    samples: u64,
}

impl Compiler<'_> {
    fn node(&mut self, spec: &FilterSpec, in_condition: bool) -> Result<Node> {
        self.inner(spec, in_condition)
            .map_err(|error| within(&format!("Error in field '{}'", field(spec)), &error))
    }

    fn inner(&mut self, spec: &FilterSpec, in_condition: bool) -> Result<Node> {
        Ok(match spec {
            FilterSpec::Chain(filters) => {
                if filters.len() < 2 {
                    return Err(Error::invalid("Chain must contain at least two RowFilters"));
                }
                if filters.iter().filter(|filter| has_label(filter)).count() > 1 {
                    return Err(Error::invalid("Chain may have one filter at most that applies a label"));
                }
                Node::chain(self.list(filters, in_condition)?)
            }
            FilterSpec::Interleave(filters) => {
                if filters.len() < 2 {
                    return Err(Error::invalid("Interleave must contain at least two RowFilters"));
                }
                Node::Interleave(self.list(filters, in_condition)?)
            }
            FilterSpec::Condition { predicate, on_true, on_false } => {
                let mut part = |name: &str, spec: &FilterSpec| {
                    let node = self.node(spec, true);
                    node.map_err(|error| within(&format!("Error in field '{name}'"), &error)).map(Box::new)
                };
                Node::Condition {
                    predicate: part("predicate_filter", predicate)?,
                    on_true: on_true.as_ref().map(|spec| part("true_filter", spec)).transpose()?,
                    on_false: on_false.as_ref().map(|spec| part("false_filter", spec)).transpose()?,
                }
            }
            FilterSpec::Sink if in_condition => {
                return Err(Error::invalid("A sink may not be used within a condition"));
            }
            FilterSpec::Sink => Node::Sink,
            FilterSpec::PassAll => Node::Pass,
            FilterSpec::BlockAll => Node::Block,
            FilterSpec::RowKeyRegex(pattern) if pattern.is_empty() => {
                return Err(Error::invalid(
                    "Error in field 'row_key_regex_filter' : argument must not be empty",
                ));
            }
            FilterSpec::RowKeyRegex(pattern) => Node::Row(RowTest::Key(self.pattern(pattern)?)),
            FilterSpec::RowSample(share) => {
                // Written so that a NaN is refused as well.
                if !(*share > 0.0 && *share < 1.0) {
                    return Err(Error::invalid(
                        "row_sample_filter argument must be between 0.0 and 1.0, ends excluded",
                    ));
                }
                self.samples += 1;
                Node::Row(RowTest::Sample { share: *share, number: self.samples })
            }
            FilterSpec::FamilyNameRegex(pattern) => self.family_regex(pattern)?,
            FilterSpec::ColumnQualifierRegex(pattern) => {
                Node::Cells(CellTest::Qualifier(self.pattern(pattern)?))
            }
            FilterSpec::ColumnRange { family, start, end } => {
                check_family_name(family)?;
                let rank = self.families.rank_of_name(family).ok_or_else(|| family_not_found(family))?;
                let (start, end) = checked_bounds(start, end, "qualifier")?;
                Node::Cells(CellTest::Columns { family: rank, start, end })
            }
            FilterSpec::TimestampRange(range) => Node::Cells(CellTest::Timestamps(range.check()?)),
            FilterSpec::ValueRegex(pattern) => Node::Cells(CellTest::Value(self.pattern(pattern)?)),
            FilterSpec::ValueRange { start, end } => {
                let (start, end) = checked_bounds(start, end, "value")?;
                Node::Cells(CellTest::Values { start, end })
            }
            FilterSpec::ValueBitmask(mask) => Node::Cells(CellTest::Bits(mask.clone())),
            FilterSpec::CellsPerRowOffset(count) => Node::Offset(not_negative(*count)?),
            FilterSpec::CellsPerRowLimit(count) => Node::Limit(not_negative(*count)?),
            FilterSpec::CellsPerColumnLimit(count) => Node::ColumnLimit(not_negative(*count)?),
            FilterSpec::StripValue => Node::Strip,
            FilterSpec::Label(label) => {
                check_label(label)?;
                Node::Label(label.as_str().into())
            }
        })
    }

    fn list(&mut self, filters: &[FilterSpec], in_condition: bool) -> Result<Vec<Node>> {
        let node = |(index, filter)| {
            let node = self.node(filter, in_condition);
            node.map_err(|error| within(&format!("Error in element #{index}"), &error))
        };
        filters.iter().enumerate().map(node).collect()
    }

    fn pattern(&self, pattern: &[u8]) -> Result<Pattern> {
        Pattern::compile(pattern, self.pattern_bytes)
    }

    /// Matches the pattern with the table's families once, so that cells need only their rank.
    fn family_regex(&self, pattern: &Bytes) -> Result<Node> {
        if pattern.contains(&b':') {
            return Err(Error::invalid("A family name pattern may not contain ':'"));
        }
        let pattern = self.pattern(pattern)?;
        if let Syntax::Literal(name) = pattern.syntax() {
            // A name rather than a pattern: a wrong one is said rather than answered with nothing.
            let named = std::str::from_utf8(name).ok().and_then(|name| self.families.rank_of_name(name));
            named.ok_or_else(|| family_not_found(&String::from_utf8_lossy(name)))?;
        }
        let matching: Vec<bool> =
            self.families.iter().map(|family| pattern.matches(family.name.as_bytes())).collect();
        Ok(if matching.iter().all(|matches| *matches) {
            Node::Pass
        } else {
            Node::Cells(CellTest::Families(matching))
        })
    }
}

fn not_negative(count: i32) -> Result<usize> {
    usize::try_from(count).map_err(|_| Error::invalid(format!("it may not be negative, but is {count}")))
}

fn checked_bounds(
    start: &Bound<Bytes>,
    end: &Bound<Bytes>,
    what: &str,
) -> Result<(Bound<Bytes>, Bound<Bytes>)> {
    if let (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) =
        (start, end)
        && low > high
    {
        return Err(Error::invalid(format!("start_{what} must be less than end_{what}")));
    }
    Ok((start.clone(), end.clone()))
}

fn check_label(label: &str) -> Result<()> {
    let fits = (1..=LABEL_CHARS).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(format!("a label must match [a-z0-9\\-]{{1,{LABEL_CHARS}}}")))
    }
}
