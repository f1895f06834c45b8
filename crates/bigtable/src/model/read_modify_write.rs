//! ReadModifyWriteRow: new cells made from the newest ones of a row, as one patch.
//!
//! Invariant: the caller holds the row, from the read of `row` until the patch is written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use claviger_core::{Error, Result, Timestamp, limits};

use super::merge::Builder;
use super::mutation::{at_most, server_time};
use super::patch::CellRef;
use super::schema::{Cell, Families, FamilyId, FamilyRank};

/// What becomes of a column's newest value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// Bytes are put behind it; nothing there counts as no bytes.
    Append(Bytes),
    /// It counts up, as a signed 64-bit big-endian number that wraps; nothing there counts as zero.
    Increment(i64),
}

/// One step of a read-modify-write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The family.
    pub family: FamilyId,
    /// The column within the family.
    pub qualifier: Bytes,
    /// What to do.
    pub change: RuleChange,
}

/// What a read-modify-write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modified {
    /// The change to write.
    pub patch: Bytes,
    /// The new cells, in a row's order, for the answer.
    pub cells: Vec<Cell>,
}

/// Applies rules in their order to a row's cells, as [`super::read_row`] gives them. A rule sees what those
/// before it did. A new cell's timestamp is the newest one's, or `now` if that is later.
///
/// # Errors
/// `InvalidArgument` without rules, with too many, or past a limit; `NotFound` when a family was dropped;
/// `FailedPrecondition` for an increment of a value that is not 8 bytes.
pub fn read_modify_write(
    rules: &[Rule],
    row: &[Cell],
    families: &Families,
    now: Timestamp,
) -> Result<Modified> {
    if rules.is_empty() {
        return Err(Error::invalid("No rules provided"));
    }
    if rules.len() > limits::MUTATIONS_PER_REQUEST {
        return Err(Error::invalid(format!(
            "Error in field 'rules' : it has {} rules, but may have {} at most",
            rules.len(),
            limits::MUTATIONS_PER_REQUEST
        )));
    }
    let mut columns: BTreeMap<(FamilyRank, &Bytes), Column> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        apply(&mut columns, rule, row, families, now).map_err(|error| {
            Error::new(error.kind(), format!("Error in field 'rules' : Error in element #{index} : {error}"))
        })?;
    }
    let cells: Vec<Cell> = columns
        .into_iter()
        .map(|((family, qualifier), column)| Cell {
            family,
            qualifier: qualifier.clone(),
            timestamp_micros: column.timestamp_micros,
            value: column.value.into(),
            label: None,
        })
        .collect();
    let mut builder = Builder::default();
    for cell in &cells {
        let family = families.at(cell.family).map(|family| family.id);
        let family = family.ok_or_else(|| Error::internal("A cell's family is not in its schema."))?;
        let Cell { qualifier, timestamp_micros, value, .. } = cell;
        builder.put(0, CellRef { family, qualifier, timestamp_micros: *timestamp_micros, value });
    }
    let patch = builder.finish();
    Ok(Modified { patch, cells })
}

/// A column's newest cell as the rules so far leave it.
struct Column {
    timestamp_micros: i64,
    value: Vec<u8>,
    /// Whether there is a cell: an empty value is not the same as none.
    exists: bool,
}

fn apply<'a>(
    columns: &mut BTreeMap<(FamilyRank, &'a Bytes), Column>,
    rule: &'a Rule,
    row: &[Cell],
    families: &Families,
    now: Timestamp,
) -> Result<()> {
    at_most("column_qualifier", &rule.qualifier, limits::QUALIFIER_BYTES)?;
    let rank = families.rank_of(rule.family);
    let rank = rank.ok_or_else(|| Error::not_found("Requested column family not found."))?;
    let column = match columns.entry((rank, &rule.qualifier)) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let newest = newest(row, rank, &rule.qualifier);
            let at = newest.map_or(i64::MIN, |cell| cell.timestamp_micros);
            entry.insert(Column {
                timestamp_micros: at.max(server_time(now)),
                value: newest.map(|cell| cell.value.to_vec()).unwrap_or_default(),
                exists: newest.is_some(),
            })
        }
    };
    match &rule.change {
        RuleChange::Append(bytes) => {
            if column.value.len().saturating_add(bytes.len()) > limits::CELL_VALUE_BYTES {
                return Err(Error::invalid(format!(
                    "Error in field 'append_value' : the value would have more than {} bytes",
                    limits::CELL_VALUE_BYTES
                )));
            }
            column.value.extend_from_slice(bytes);
        }
        RuleChange::Increment(amount) => {
            let old = if column.exists { counter(&column.value)? } else { 0 };
            column.value = old.wrapping_add(*amount).to_be_bytes().to_vec();
        }
    }
    column.exists = true;
    Ok(())
}

fn counter(value: &[u8]) -> Result<i64> {
    let bytes: [u8; 8] = value.try_into().map_err(|_| {
        Error::precondition(format!(
            "Only a value of 8 bytes, a 64-bit big-endian signed integer, can be incremented; this one has {}.",
            value.len()
        ))
    })?;
    Ok(i64::from_be_bytes(bytes))
}

/// The newest version of a column in a row's ordered cells.
fn newest<'a>(row: &'a [Cell], family: FamilyRank, qualifier: &Bytes) -> Option<&'a Cell> {
    let at = row.partition_point(|cell| (cell.family, &cell.qualifier) < (family, qualifier));
    row.get(at).filter(|cell| (cell.family, &cell.qualifier) == (family, qualifier))
}

#[cfg(test)]
mod tests {
    use claviger_core::ErrorKind;

    use super::*;
    use crate::model::{Family, RowPatch, merge, read_row};

    const NOW: Timestamp = Timestamp(5_000_999);

    fn families() -> Families {
        // The order of names is not that of ids.
        let family = |id, name: &str| Family { id: FamilyId(id), name: name.into(), gc: None };
        Families::new(vec![family(1, "z"), family(2, "a")]).unwrap()
    }

    fn stored(cells: &[(u32, &'static str, i64, &'static [u8])]) -> Bytes {
        let cells = cells.iter().map(|&(family, qualifier, timestamp_micros, value)| CellRef {
            family: FamilyId(family),
            qualifier: qualifier.as_bytes(),
            timestamp_micros,
            value,
        });
        RowPatch { cells: cells.collect(), ..RowPatch::default() }.encode()
    }

    fn rule(family: u32, qualifier: &'static str, change: RuleChange) -> Rule {
        Rule { family: FamilyId(family), qualifier: qualifier.into(), change }
    }

    fn append(family: u32, qualifier: &'static str, bytes: &'static str) -> Rule {
        rule(family, qualifier, RuleChange::Append(bytes.into()))
    }

    fn run(stored: &Bytes, rules: &[Rule]) -> Result<Modified> {
        read_modify_write(rules, &read_row(stored, &families(), NOW)?, &families(), NOW)
    }

    #[test]
    fn rules_see_what_those_before_them_did_and_the_row_ends_up_as_answered() {
        let before = stored(&[
            (1, "log", 1000, b"old "),
            (1, "n", 1000, &[0, 0, 0, 0, 0, 0, 0, 41]),
            (2, "log", 0, b""),
        ]);
        let rules = [
            append(1, "log", "a"),
            append(1, "log", "b"),
            rule(1, "n", RuleChange::Increment(2)),
            rule(1, "n", RuleChange::Increment(-1)),
            rule(2, "fresh", RuleChange::Increment(-1)),
            append(2, "log", "c"),
        ];
        let modified = run(&before, &rules).unwrap();
        let shown: Vec<_> = modified
            .cells
            .iter()
            .map(|c| (c.family.0, &c.qualifier[..], c.timestamp_micros, &c.value[..]))
            .collect();
        let want: [(u32, &[u8], i64, &[u8]); 4] = [
            (0, b"fresh", 5_000_000, &[0xff; 8]),
            (0, b"log", 5_000_000, b"c"),
            (1, b"log", 5_000_000, b"old ab"),
            (1, b"n", 5_000_000, &[0, 0, 0, 0, 0, 0, 0, 42]),
        ];
        assert_eq!(shown, want);
        let after = read_row(&merge(&before, &modified.patch).unwrap(), &families(), NOW).unwrap();
        for cell in &modified.cells {
            assert_eq!(newest(&after, cell.family, &cell.qualifier), Some(cell));
        }
        assert_eq!(after.len(), 7, "the old versions stay, where the timestamp moved on");
    }

    #[test]
    fn a_cell_from_the_future_keeps_its_timestamp() {
        let modified = run(&stored(&[(1, "q", 9_000_000, b"x")]), &[append(1, "q", "y")]).unwrap();
        assert_eq!(
            (modified.cells[0].timestamp_micros, &modified.cells[0].value[..]),
            (9_000_000, &b"xy"[..])
        );
    }

    #[test]
    fn counters_wrap_and_other_values_are_not_counted() {
        let top = stored(&[(1, "n", 0, &[0x7f, 255, 255, 255, 255, 255, 255, 255])]);
        let wrapped = run(&top, &[rule(1, "n", RuleChange::Increment(1))]).unwrap();
        assert_eq!(wrapped.cells[0].value[..], i64::MIN.to_be_bytes());
        for value in [b"".as_slice(), b"1234567", b"123456789"] {
            let error =
                run(&stored(&[(1, "n", 0, value)]), &[rule(1, "n", RuleChange::Increment(1))]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            assert!(error.message().contains("element #0"), "{error}");
        }
        let appended = [append(1, "n", "x"), rule(1, "n", RuleChange::Increment(1))];
        assert!(run(&stored(&[]), &appended).unwrap_err().message().contains("element #1"));
    }

    #[test]
    fn wrong_rules_are_refused() {
        let row = stored(&[(1, "q", 0, b"")]);
        assert_eq!(run(&row, &[]).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(run(&row, &[append(7, "q", "x")]).unwrap_err().kind(), ErrorKind::NotFound);
        let long = Bytes::from(vec![0; limits::QUALIFIER_BYTES + 1]);
        let long = Rule { family: FamilyId(1), qualifier: long, change: RuleChange::Increment(1) };
        assert_eq!(run(&row, &[long]).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let half = Bytes::from(vec![0; limits::CELL_VALUE_BYTES / 2 + 1]);
        let half = rule(1, "q", RuleChange::Append(half));
        assert!(run(&row, &[half.clone(), half]).unwrap_err().message().contains("'append_value'"));
    }
}
