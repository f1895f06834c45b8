//! Changes to a row as a client asks for them, and their translation into one row patch.
//!
//! Invariant: the patch does what the mutations would do one after another, and nothing is in it that a
//! limit forbids. Timestamps are whole milliseconds from here on, the granularity of every table.

use bytes::Bytes;
use claviger_core::{Error, Result, Timestamp, limits};

use super::merge::Builder;
use super::patch::{CellRef, TimeRange};
use super::schema::FamilyId;

/// The timestamp of a [`Mutation::SetCell`] that asks for the server's time.
pub const SERVER_TIME: i64 = -1;

/// Microseconds in a table's unit of time, a millisecond.
pub(crate) const GRANULARITY_MICROS: i64 = 1000;

/// One change to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Puts a cell, over one of the same timestamp.
    SetCell {
        /// The family.
        family: FamilyId,
        /// The column within the family.
        qualifier: Bytes,
        /// The version, a whole number of milliseconds, or [`SERVER_TIME`].
        timestamp_micros: i64,
        /// The value.
        value: Bytes,
    },
    /// Deletes versions of a column.
    DeleteFromColumn {
        /// The family.
        family: FamilyId,
        /// The column within the family.
        qualifier: Bytes,
        /// Which versions.
        range: TimestampRange,
    },
    /// Deletes all cells of a family.
    DeleteFromFamily {
        /// The family.
        family: FamilyId,
    },
    /// Deletes all cells of the row.
    DeleteFromRow,
}

/// Versions from `start_micros` up to and without `end_micros`, as a client gives them; 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimestampRange {
    /// The first, microseconds since the epoch.
    pub start_micros: i64,
    /// The first that is not within; 0: no end.
    pub end_micros: i64,
}

impl TimestampRange {
    /// Checks the bounds.
    ///
    /// # Errors
    /// `InvalidArgument` for a bound below zero or within a millisecond, or a start that is not before the
    /// end.
    pub fn check(&self) -> Result<TimeRange> {
        for bound in [self.start_micros, self.end_micros] {
            check_timestamp(bound)?;
        }
        let end = (self.end_micros != 0).then_some(self.end_micros);
        TimeRange::new(self.start_micros, end)
            .ok_or_else(|| Error::invalid("start_timestamp_micros must be less than end_timestamp_micros"))
    }
}

/// Refuses a timestamp below zero or within a millisecond.
fn check_timestamp(micros: i64) -> Result<()> {
    if micros < 0 {
        return Err(Error::invalid(format!("Timestamps may not be negative, but got {micros}.")));
    }
    if micros % GRANULARITY_MICROS != 0 {
        return Err(Error::invalid(format!(
            "Timestamp granularity mismatch. Expected a multiple of {GRANULARITY_MICROS} (millisecond granularity), but got {micros}."
        )));
    }
    Ok(())
}

/// Checks the key of a row.
///
/// # Errors
/// `InvalidArgument` for an empty key or one of more than 4 KiB.
pub fn check_row_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("Row keys must be non-empty"));
    }
    at_most("row_key", key, limits::ROW_KEY_BYTES)
}

pub(crate) fn at_most(field: &str, bytes: &[u8], limit: usize) -> Result<()> {
    if bytes.len() > limit {
        return Err(Error::invalid(format!(
            "Error in field '{field}' : it has {} bytes, but may have {limit} at most",
            bytes.len()
        )));
    }
    Ok(())
}

/// `now` in the table's unit of time.
pub(crate) fn server_time(now: Timestamp) -> i64 {
    let now = now.micros().max(0);
    now - now % GRANULARITY_MICROS
}

/// Translates mutations of one row, in their order, into one patch.
///
/// # Errors
/// `InvalidArgument` when there are none or too many, and for a wrong timestamp, column or value, with
/// the index of the mutation.
pub fn encode_patch(mutations: &[Mutation], now: Timestamp) -> Result<Bytes> {
    if mutations.is_empty() {
        return Err(Error::invalid("No mutations provided"));
    }
    if mutations.len() > limits::MUTATIONS_PER_REQUEST {
        return Err(Error::invalid(format!(
            "Error in field 'Mutation list' : it has {} mutations, but may have {} at most",
            mutations.len(),
            limits::MUTATIONS_PER_REQUEST
        )));
    }
    let mut builder = Builder::default();
    for (step, mutation) in (0..).zip(mutations) {
        add(&mut builder, step, mutation, now).map_err(|error| {
            let message = format!("Error in field 'Mutation list' : Error in element #{step} : {error}");
            Error::new(error.kind(), message)
        })?;
    }
    Ok(builder.finish())
}

fn add<'a>(builder: &mut Builder<'a>, step: u32, mutation: &'a Mutation, now: Timestamp) -> Result<()> {
    match mutation {
        Mutation::SetCell { family, qualifier, timestamp_micros, value } => {
            at_most("column_qualifier", qualifier, limits::QUALIFIER_BYTES)?;
            at_most("value", value, limits::CELL_VALUE_BYTES)?;
            let timestamp_micros = match *timestamp_micros {
                SERVER_TIME => server_time(now),
                given => check_timestamp(given).map(|()| given)?,
            };
            builder.put(step, CellRef { family: *family, qualifier, timestamp_micros, value });
        }
        Mutation::DeleteFromColumn { family, qualifier, range } => {
            at_most("column_qualifier", qualifier, limits::QUALIFIER_BYTES)?;
            builder.delete_column(step, *family, qualifier, range.check()?);
        }
        Mutation::DeleteFromFamily { family } => builder.delete_family(step, *family),
        Mutation::DeleteFromRow => builder.delete_row(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RowPatch;

    const NOW: Timestamp = Timestamp(1_234_567);
    const F: FamilyId = FamilyId(1);

    fn set(qualifier: &'static str, timestamp_micros: i64, value: &'static str) -> Mutation {
        Mutation::SetCell { family: F, qualifier: qualifier.into(), timestamp_micros, value: value.into() }
    }

    fn delete(qualifier: &'static str, start_micros: i64, end_micros: i64) -> Mutation {
        let range = TimestampRange { start_micros, end_micros };
        Mutation::DeleteFromColumn { family: F, qualifier: qualifier.into(), range }
    }

    fn cells(mutations: &[Mutation]) -> Vec<(String, i64, String)> {
        let patch = encode_patch(mutations, NOW).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let patch = RowPatch::decode(&patch).unwrap();
        patch.cells.iter().map(|c| (text(c.qualifier), c.timestamp_micros, text(c.value))).collect()
    }

    fn cell(qualifier: &str, timestamp_micros: i64, value: &str) -> (String, i64, String) {
        (qualifier.to_owned(), timestamp_micros, value.to_owned())
    }

    #[test]
    fn mutations_take_effect_in_their_order() {
        let got = cells(&[
            set("a", 1000, "gone"),
            delete("a", 0, 0),
            set("a", 1000, "kept"),
            set("b", 2000, "overwritten"),
            set("b", 2000, "last"),
            set("b", 3000, "newer"),
        ]);
        assert_eq!(got, [cell("a", 1000, "kept"), cell("b", 3000, "newer"), cell("b", 2000, "last")]);
        let got =
            cells(&[set("a", 1000, "x"), Mutation::DeleteFromFamily { family: F }, set("b", 1000, "y")]);
        assert_eq!(got, [cell("b", 1000, "y")]);
        let got = cells(&[set("a", 1000, "x"), Mutation::DeleteFromRow, set("c", 1000, "z")]);
        assert_eq!(got, [cell("c", 1000, "z")]);
    }

    #[test]
    fn a_deleted_row_makes_the_patch_complete_and_needs_no_other_deletion() {
        let mutations = [delete("a", 0, 0), Mutation::DeleteFromRow, delete("b", 0, 0)];
        let patch = encode_patch(&mutations, NOW).unwrap();
        assert!(super::super::patch::is_deleted_row(&patch));
        assert_eq!(RowPatch::decode(&patch).unwrap(), RowPatch { complete: true, ..RowPatch::default() });
    }

    #[test]
    fn the_servers_time_is_cut_to_the_millisecond() {
        assert_eq!(cells(&[set("a", SERVER_TIME, "x")]), [cell("a", 1_234_000, "x")]);
    }

    #[test]
    fn a_deletion_of_a_range_spares_its_end() {
        let got =
            cells(&[set("a", 1000, "1"), set("a", 2000, "2"), set("a", 3000, "3"), delete("a", 1000, 3000)]);
        assert_eq!(got, [cell("a", 3000, "3")]);
    }

    #[test]
    fn wrong_mutations_are_refused_with_their_index() {
        let long = Bytes::from(vec![b'q'; limits::QUALIFIER_BYTES + 1]);
        let wrong = [
            (
                set("a", 1001, "x"),
                "Timestamp granularity mismatch. Expected a multiple of 1000 (millisecond granularity), but got 1001.",
            ),
            (set("a", -2, "x"), "negative"),
            (delete("a", 2000, 2000), "must be less than"),
            (delete("a", 2000, 1000), "must be less than"),
            (delete("a", 0, 1500), "granularity"),
            (
                Mutation::SetCell {
                    family: F,
                    qualifier: long.clone(),
                    timestamp_micros: 0,
                    value: Bytes::new(),
                },
                "'column_qualifier'",
            ),
            (
                Mutation::DeleteFromColumn { family: F, qualifier: long, range: TimestampRange::default() },
                "'column_qualifier'",
            ),
        ];
        for (mutation, text) in wrong {
            let error = encode_patch(&[set("a", 0, "fine"), mutation], NOW).unwrap_err();
            assert!(
                error.message().starts_with("Error in field 'Mutation list' : Error in element #1 : "),
                "{error}"
            );
            assert!(error.message().contains(text), "{error}");
        }
        assert!(encode_patch(&[], NOW).is_err());
        assert!(
            encode_patch(&vec![Mutation::DeleteFromRow; limits::MUTATIONS_PER_REQUEST + 1], NOW).is_err()
        );
        let value = Bytes::from(vec![0; limits::CELL_VALUE_BYTES + 1]);
        let big = Mutation::SetCell { family: F, qualifier: "q".into(), timestamp_micros: 0, value };
        assert!(encode_patch(&[big], NOW).unwrap_err().message().contains("'value'"));
    }

    #[test]
    fn row_keys_are_checked() {
        assert_eq!(check_row_key(b"").unwrap_err().message(), "Row keys must be non-empty");
        check_row_key(&[0; limits::ROW_KEY_BYTES]).unwrap();
        assert!(check_row_key(&[0; limits::ROW_KEY_BYTES + 1]).is_err());
    }
}
