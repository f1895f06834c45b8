//! What a reader sees of a stored row: its cells in order, without those that the rules let go.
//!
//! Invariant: a cell shows only if its family exists and the family's rule keeps it, whether or not a
//! compaction has removed it yet. Values and qualifiers are slices of the stored bytes.

use bytes::Bytes;
use claviger_core::{Result, Timestamp};

use super::patch::{Cells, Head};
use super::schema::{Cell, Families, FamilyId, FamilyRank};

/// Reads all cells of a stored row: families in the order of their names, columns by qualifier, newest
/// version first.
///
/// # Errors
/// `DataLoss` when the bytes are not a row.
pub fn read_row(stored: &Bytes, families: &Families, now: Timestamp) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    let mut family: Option<(FamilyId, Option<FamilyRank>)> = None;
    let mut column = 0;
    for stored_cell in head_cells(stored)? {
        let stored_cell = stored_cell?;
        let rank = match family {
            Some((id, rank)) if id == stored_cell.family => rank,
            _ => {
                let rank = families.rank_of(stored_cell.family);
                family = Some((stored_cell.family, rank));
                rank
            }
        };
        // Cells of a family that was dropped are there until a compaction passes.
        let Some(rank) = rank else { continue };
        let same_column = |last: &Cell| last.family == rank && last.qualifier == stored_cell.qualifier;
        let qualifier = match cells.last() {
            Some(last) if same_column(last) => last.qualifier.clone(),
            _ => {
                keep_by_rule(&mut cells, column, families, now);
                column = cells.len();
                stored.slice_ref(stored_cell.qualifier)
            }
        };
        cells.push(Cell {
            family: rank,
            qualifier,
            timestamp_micros: stored_cell.timestamp_micros,
            value: stored.slice_ref(stored_cell.value),
            label: None,
        });
    }
    keep_by_rule(&mut cells, column, families, now);
    if !families.ids_follow_names() {
        // Stable, and each family is one run already.
        cells.sort_by_key(|cell| cell.family);
    }
    Ok(cells)
}

fn head_cells(stored: &[u8]) -> Result<Cells<'_>> {
    Ok(Head::read(stored)?.cells)
}

/// Applies the family's rule to the column that begins at `from`.
fn keep_by_rule(cells: &mut Vec<Cell>, from: usize, families: &Families, now: Timestamp) {
    let Some(column) = cells.get(from..) else { return };
    let Some(first) = column.first() else { return };
    if let Some(rule) = families.at(first.family).and_then(|family| family.gc.as_ref()) {
        let kept = rule.kept(column, |cell| cell.timestamp_micros, now);
        cells.truncate(from + kept);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{CellRef, Family, GcRule, RowPatch};

    fn cell(family: u32, qualifier: &'static str, timestamp_micros: i64) -> CellRef<'static> {
        CellRef { family: FamilyId(family), qualifier: qualifier.as_bytes(), timestamp_micros, value: b"v" }
    }

    fn family(id: u32, name: &str, gc: Option<GcRule>) -> Family {
        Family { id: FamilyId(id), name: name.into(), gc }
    }

    fn shown(stored: &Bytes, families: &Families, now: i64) -> Vec<(String, String, i64)> {
        let cells = read_row(stored, families, Timestamp(now)).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let show = |c: &Cell| (families.name_at(c.family).to_owned(), text(&c.qualifier), c.timestamp_micros);
        cells.iter().map(show).collect()
    }

    fn row(family: &str, qualifier: &str, timestamp: i64) -> (String, String, i64) {
        (family.to_owned(), qualifier.to_owned(), timestamp)
    }

    #[test]
    fn cells_come_in_the_order_of_family_names_then_columns_then_newest_first() {
        let cells =
            vec![cell(1, "a", 1000), cell(1, "a", 2000), cell(1, "b", 0), cell(2, "a", 0), cell(3, "", 0)];
        let stored = RowPatch { cells, ..RowPatch::default() }.encode();
        let families =
            Families::new(vec![family(1, "m", None), family(2, "z", None), family(3, "a", None)]).unwrap();
        let want =
            [row("a", "", 0), row("m", "a", 2000), row("m", "a", 1000), row("m", "b", 0), row("z", "a", 0)];
        assert_eq!(shown(&stored, &families, 0), want);
    }

    #[test]
    fn cells_that_a_rule_lets_go_and_cells_of_dropped_families_do_not_show() {
        let cells = vec![
            cell(1, "a", 3000),
            cell(1, "a", 2000),
            cell(1, "b", 3000),
            cell(1, "b", 1000),
            cell(2, "a", 9000),
            cell(3, "a", 5000),
            cell(3, "a", 4000),
        ];
        let stored = RowPatch { cells, ..RowPatch::default() }.encode();
        let age = GcRule::MaxAge(Duration::from_micros(5000));
        let families =
            Families::new(vec![family(1, "one", Some(GcRule::MaxVersions(1))), family(3, "old", Some(age))])
                .unwrap();
        let want = [row("old", "a", 5000), row("one", "a", 3000), row("one", "b", 3000)];
        assert_eq!(shown(&stored, &families, 9500), want);
        assert_eq!(shown(&stored, &families, 20_000), want[1..]);
    }

    #[test]
    fn a_deleted_row_shows_nothing_and_damaged_bytes_are_an_error() {
        let families = Families::new(vec![family(1, "f", None)]).unwrap();
        let deleted = RowPatch { complete: true, ..RowPatch::default() }.encode();
        assert_eq!(read_row(&deleted, &families, Timestamp(0)).unwrap(), []);
        assert!(read_row(&Bytes::from_static(b"\x01\x00\x01"), &families, Timestamp(0)).is_err());
        assert!(read_row(&Bytes::new(), &families, Timestamp(0)).is_err());
    }
}
