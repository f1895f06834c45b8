//! Which rows and which cells: row sets and filters from options.
//!
//! Invariant: an option narrows what comes; two options give what both let through.

use bytes::Bytes;
use clap::Args;
use claviger_proto::google::bigtable::v2::column_range::{EndQualifier, StartQualifier};
use claviger_proto::google::bigtable::v2::row_filter::{Chain, Filter, Interleave};
use claviger_proto::google::bigtable::v2::row_range::{EndKey, StartKey};
use claviger_proto::google::bigtable::v2::{ColumnRange, RowFilter, RowRange, RowSet, TimestampRange};

use crate::bigtable::columns::{self, ColumnName, Escapes};
use crate::failure::Failure;
use crate::flags;

/// Which rows.
#[derive(Debug, Default, Args)]
pub(crate) struct Which {
    /// The first key
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// The first key that is past the range
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// Keys that start with this
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// Keys that match this regular expression (RE2) as a whole
    #[arg(long, visible_alias = "regex", value_name = "REGEX")]
    filter_regex: Option<String>,
    #[command(flatten)]
    pub(super) escapes: Escapes,
}

/// Which cells of them.
#[derive(Debug, Default, Args)]
pub(crate) struct Cells {
    /// Cells of these column families, parted by commas
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    family: Vec<String>,
    /// Cells of these columns, as FAMILY:QUALIFIER,...
    #[arg(long, value_name = "FAMILY:QUALIFIER", value_parser = columns::column, value_delimiter = ',')]
    column: Vec<ColumnName>,
    /// Cells whose values match this regular expression (RE2) as a whole
    #[arg(long, value_name = "REGEX")]
    value_regex: Option<String>,
    /// Cells from this time on: RFC 3339 or a date
    #[arg(long, value_name = "TIME", value_parser = flags::moment)]
    from: Option<prost_types::Timestamp>,
    /// Cells before this time
    #[arg(long, value_name = "TIME", value_parser = flags::moment)]
    to: Option<prost_types::Timestamp>,
    /// The newest so many cells of each column
    #[arg(long, value_name = "N")]
    cells_per_column: Option<i32>,
    /// The first so many cells of each row
    #[arg(long, value_name = "N")]
    cells_per_row: Option<i32>,
    /// No values
    #[arg(long)]
    keys_only: bool,
}

impl Which {
    /// The row set: keys when there are any, else the range. None is every row.
    ///
    /// # Errors
    /// Usage: keys and a range together; an escape that is none.
    pub(super) fn rows(&self, keys: &[String]) -> Result<Option<RowSet>, Failure> {
        let ranged = self.start.is_some() || self.end.is_some() || self.prefix.is_some();
        if !keys.is_empty() && ranged {
            return Err(Failure::usage("keys and a range exclude each other"));
        }
        let bytes = |text: &String| self.escapes.bytes(text);
        if !keys.is_empty() {
            let row_keys = keys.iter().map(bytes).collect::<Result<_, _>>()?;
            return Ok(Some(RowSet { row_keys, row_ranges: Vec::new() }));
        }
        if !ranged {
            return Ok(None);
        }
        let (start, end) = match &self.prefix {
            Some(prefix) => {
                let prefix = bytes(prefix)?;
                (Some(prefix.clone()), after_prefix(&prefix))
            }
            None => (self.start.as_ref().map(bytes).transpose()?, self.end.as_ref().map(bytes).transpose()?),
        };
        let range = RowRange {
            start_key: start.filter(|key| !key.is_empty()).map(StartKey::StartKeyClosed),
            end_key: end.map(EndKey::EndKeyOpen),
        };
        Ok(Some(RowSet { row_keys: Vec::new(), row_ranges: vec![range] }))
    }

    /// The filter of keys.
    fn filters(&self) -> Result<Vec<Filter>, Failure> {
        let regex = self.filter_regex.as_ref().map(|regex| self.escapes.bytes(regex)).transpose()?;
        Ok(regex.map(Filter::RowKeyRegexFilter).into_iter().collect())
    }
}

impl Cells {
    fn filters(&self, escapes: Escapes) -> Result<Vec<Filter>, Failure> {
        let mut filters = Vec::new();
        if !self.family.is_empty() {
            let exact: Vec<_> = self.family.iter().map(|family| literal(family)).collect();
            filters.push(Filter::FamilyNameRegexFilter(exact.join("|")));
        }
        let mut columns = Vec::new();
        for column in &self.column {
            let qualifier = escapes.bytes(&column.qualifier)?;
            columns.push(Filter::ColumnRangeFilter(ColumnRange {
                family_name: column.family.clone(),
                start_qualifier: Some(StartQualifier::StartQualifierClosed(qualifier.clone())),
                end_qualifier: Some(EndQualifier::EndQualifierClosed(qualifier)),
            }));
        }
        if let Some(any) = joined(columns, |filters| Filter::Interleave(Interleave { filters })) {
            filters.push(any);
        }
        if self.from.is_some() || self.to.is_some() {
            let micros = |time: Option<prost_types::Timestamp>| {
                time.map_or(0, |time| {
                    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000)
                })
            };
            filters.push(Filter::TimestampRangeFilter(TimestampRange {
                start_timestamp_micros: micros(self.from),
                end_timestamp_micros: micros(self.to),
            }));
        }
        if let Some(regex) = &self.value_regex {
            filters.push(Filter::ValueRegexFilter(escapes.bytes(regex)?));
        }
        filters.extend(self.cells_per_column.map(Filter::CellsPerColumnLimitFilter));
        filters.extend(self.cells_per_row.map(Filter::CellsPerRowLimitFilter));
        if self.keys_only {
            filters.push(Filter::StripValueTransformer(true));
        }
        Ok(filters)
    }
}

/// The filter of a read; none lets everything through.
///
/// # Errors
/// Usage: an escape that is none.
pub(super) fn of_read(which: &Which, cells: &Cells) -> Result<Option<RowFilter>, Failure> {
    let filters = which.filters()?.into_iter().chain(cells.filters(which.escapes)?).collect();
    Ok(chained(filters))
}

/// The filter of a count: one cell of each row, without its value.
///
/// # Errors
/// Usage: an escape that is none.
pub(super) fn of_count(which: &Which) -> Result<Option<RowFilter>, Failure> {
    let mut filters = which.filters()?;
    filters.extend([Filter::CellsPerRowLimitFilter(1), Filter::StripValueTransformer(true)]);
    Ok(chained(filters))
}

fn chained(filters: Vec<Filter>) -> Option<RowFilter> {
    let filter = joined(filters, |filters| Filter::Chain(Chain { filters }))?;
    Some(RowFilter { filter: Some(filter) })
}

/// One filter as it is, more as what `join` makes of them.
fn joined(mut filters: Vec<Filter>, join: impl Fn(Vec<RowFilter>) -> Filter) -> Option<Filter> {
    if filters.len() < 2 {
        return filters.pop();
    }
    Some(join(filters.into_iter().map(|filter| RowFilter { filter: Some(filter) }).collect()))
}

/// The first key past all keys with a prefix; none when there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let cut = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=cut)?.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end.into())
}

/// A regular expression that matches the text alone.
fn literal(text: &str) -> String {
    let mut regex = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c != '_' {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(start: &str, end: &str, prefix: &str) -> Which {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Which { start: some(start), end: some(end), prefix: some(prefix), ..Default::default() }
    }

    #[test]
    fn a_prefix_is_the_range_up_to_the_next_key_without_it() {
        assert_eq!(after_prefix(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
        let set = which("", "", "ab").rows(&[]).unwrap().unwrap();
        assert_eq!(set.row_ranges[0].start_key, Some(StartKey::StartKeyClosed("ab".into())));
        assert_eq!(set.row_ranges[0].end_key, Some(EndKey::EndKeyOpen("ac".into())));
    }

    #[test]
    fn no_option_is_every_row_and_keys_are_taken_as_they_are() {
        assert_eq!(which("", "", "").rows(&[]).unwrap(), None);
        let set = which("", "", "").rows(&["b".into(), "a".into()]).unwrap().unwrap();
        assert_eq!(set.row_keys, ["b", "a"]);
        assert!(which("a", "", "").rows(&["b".into()]).is_err());
        let open = which("", "m", "").rows(&[]).unwrap().unwrap();
        assert_eq!(open.row_ranges[0].start_key, None);
    }

    #[test]
    fn several_options_are_a_chain_and_several_columns_an_interleave() {
        let cells = Cells {
            family: vec!["f".into(), "g.h-i".into()],
            column: vec![columns::column("f:a").unwrap(), columns::column("f:b").unwrap()],
            cells_per_column: Some(1),
            ..Default::default()
        };
        let Some(Filter::Chain(chain)) = of_read(&Which::default(), &cells).unwrap().unwrap().filter else {
            panic!("no chain")
        };
        let kinds: Vec<_> = chain.filters.into_iter().filter_map(|filter| filter.filter).collect();
        assert_eq!(kinds[0], Filter::FamilyNameRegexFilter("f|g\\.h\\-i".into()));
        assert!(matches!(&kinds[1], Filter::Interleave(columns) if columns.filters.len() == 2));
        assert_eq!(kinds[2], Filter::CellsPerColumnLimitFilter(1));
    }

    #[test]
    fn one_option_is_one_filter_and_none_is_none() {
        assert_eq!(of_read(&Which::default(), &Cells::default()).unwrap(), None);
        let cells = Cells { keys_only: true, ..Default::default() };
        let filter = of_read(&Which::default(), &cells).unwrap().unwrap().filter;
        assert_eq!(filter, Some(Filter::StripValueTransformer(true)));
    }
}
