//! Garbage collection of one stored row, as a compaction passes it.
//!
//! Invariant: nothing comes back that was hidden before. A patch may lie over older ones that the
//! compaction does not read, and a version that goes from it may have been written over an older value of the
//! same timestamp. So unless the patch is the whole row, a deletion of that and all older versions stays in
//! the cell's place; the rules let those go for the same reason. A version that a rule let go may show again,
//! until a compaction passes, when a client deletes newer ones: Bigtable promises no more.

use bytes::Bytes;
use claviger_core::{Result, Timestamp};

use super::merge::Builder;
use super::patch::{CellRef, Head, TimeRange};
use super::schema::{Families, FamilyId};
use super::wire::Damaged;

/// What a compaction does with a stored patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collected {
    /// Keep it as it is.
    Unchanged,
    /// Write this in its place.
    Changed(Bytes),
    /// The patch says nothing any more: leave it out, and what is older shows as before.
    NoOp,
    /// The row is gone: put the engine's own deletion in its place, for it may hide something older.
    RowGone,
}

/// Drops from a stored patch the versions that the rules let go, and families that are no more.
///
/// `whole_row`: nothing older lies below, so deletions are dropped too. A patch that is marked complete
/// counts as the whole row anyway.
///
/// # Errors
/// `DataLoss` when the bytes are not a row.
pub fn collect(stored: &Bytes, families: &Families, now: Timestamp, whole_row: bool) -> Result<Collected> {
    let head = Head::read(stored)?;
    let whole_row = whole_row || head.complete;
    let cells = head.cells.collect::<Result<Vec<_>, Damaged>>()?;
    let lives = |family: FamilyId| families.rank_of(family).is_some();

    let mut builder = Builder::with_capacity(stored.len());
    if whole_row {
        builder.delete_row();
    }
    let mut changed = false;
    let mut left = 0_usize;
    for &family in &head.deleted_families {
        if whole_row || !lives(family) {
            changed = true;
        } else {
            builder.delete_family(0, family);
            left += 1;
        }
    }
    for column in &head.deleted_columns {
        if whole_row || !lives(column.family) {
            changed = true;
        } else {
            for &range in &column.ranges {
                builder.delete_column(0, column.family, column.qualifier, range);
                left += 1;
            }
        }
    }
    for column in cells.chunk_by(|a, b| (a.family, a.qualifier) == (b.family, b.qualifier)) {
        let kept = kept(column, families, now);
        let (keep, drop) = column.split_at_checked(kept).unwrap_or((column, &[]));
        for &cell in keep {
            builder.put(1, cell);
            left += 1;
        }
        if let Some(newest) = drop.first() {
            changed = true;
            if !whole_row && lives(newest.family) {
                let range = TimeRange::up_to(newest.timestamp_micros);
                builder.delete_column(0, newest.family, newest.qualifier, range);
                left += 1;
            }
        }
    }
    Ok(match (left, whole_row, changed) {
        (0, true, _) => Collected::RowGone,
        (0, false, _) => Collected::NoOp,
        (_, _, false) => Collected::Unchanged,
        (_, _, true) => Collected::Changed(builder.finish()),
    })
}

/// How many of a column's versions stay.
fn kept(column: &[CellRef<'_>], families: &Families, now: Timestamp) -> usize {
    let Some(family) = column.first().and_then(|first| families.with_id(first.family)) else { return 0 };
    match &family.gc {
        Some(rule) => rule.kept(column, |cell| cell.timestamp_micros, now),
        None => column.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{DeletedColumn, Family, GcRule, RowPatch, merge, read_row};

    const NOW: Timestamp = Timestamp(100_000);

    fn families() -> Families {
        let family = |id, name: &str, gc| Family { id: FamilyId(id), name: name.into(), gc };
        Families::new(vec![
            family(1, "all", None),
            family(2, "two", Some(GcRule::MaxVersions(2))),
            family(3, "young", Some(GcRule::MaxAge(Duration::from_millis(50)))),
        ])
        .unwrap()
    }

    fn cell(family: u32, qualifier: &'static str, millis: i64, value: &'static [u8]) -> CellRef<'static> {
        CellRef {
            family: FamilyId(family),
            qualifier: qualifier.as_bytes(),
            timestamp_micros: millis * 1000,
            value,
        }
    }

    fn patch(cells: Vec<CellRef<'static>>) -> Bytes {
        RowPatch { cells, ..RowPatch::default() }.encode()
    }

    #[test]
    fn a_row_without_garbage_is_left_alone() {
        let row = patch(vec![
            cell(1, "a", 1, b""),
            cell(2, "a", 2, b""),
            cell(2, "a", 1, b""),
            cell(3, "a", 50, b""),
        ]);
        assert_eq!(collect(&row, &families(), NOW, false).unwrap(), Collected::Unchanged);
        assert_eq!(collect(&row, &families(), NOW, true).unwrap(), Collected::Unchanged);
    }

    #[test]
    fn garbage_goes_and_a_whole_row_keeps_no_deletions() {
        let row = RowPatch {
            deleted_families: vec![FamilyId(1), FamilyId(9)],
            deleted_columns: vec![DeletedColumn {
                family: FamilyId(2),
                qualifier: b"a",
                ranges: vec![TimeRange::ALL],
            }],
            cells: vec![
                cell(2, "a", 3, b"3"),
                cell(2, "a", 2, b"2"),
                cell(2, "a", 1, b"1"),
                cell(9, "a", 1, b""),
            ],
            ..RowPatch::default()
        }
        .encode();
        let Collected::Changed(whole) = collect(&row, &families(), NOW, true).unwrap() else {
            panic!("unchanged")
        };
        let whole = RowPatch::decode(&whole).unwrap();
        assert_eq!(whole.cells, [cell(2, "a", 3, b"3"), cell(2, "a", 2, b"2")]);
        assert!(whole.complete);
        let Collected::Changed(part) = collect(&row, &families(), NOW, false).unwrap() else {
            panic!("unchanged")
        };
        let part = RowPatch::decode(&part).unwrap();
        assert_eq!((part.complete, part.deleted_families), (false, vec![FamilyId(1)]));
        assert_eq!(part.cells, whole.cells);
    }

    #[test]
    fn an_overwritten_value_does_not_come_back_when_what_overwrote_it_is_collected() {
        let older = patch(vec![cell(2, "a", 1, b"old")]);
        let newer = patch(vec![cell(2, "a", 3, b"3"), cell(2, "a", 2, b"2"), cell(2, "a", 1, b"new")]);
        let Collected::Changed(newer) = collect(&newer, &families(), NOW, false).unwrap() else {
            panic!("unchanged")
        };
        let range = TimeRange::new(3000, None).unwrap();
        let deletion = DeletedColumn { family: FamilyId(2), qualifier: b"a", ranges: vec![range] };
        let later = RowPatch { deleted_columns: vec![deletion], ..RowPatch::default() }.encode();
        let row = merge(&merge(&older, &newer).unwrap(), &later).unwrap();
        let cells = read_row(&row, &families(), NOW).unwrap();
        assert_eq!(cells.iter().map(|c| &c.value[..]).collect::<Vec<_>>(), [b"2"]);
    }

    #[test]
    fn a_patch_with_nothing_left_is_left_out_or_is_a_row_gone() {
        let dropped = patch(vec![cell(9, "a", 1, b"")]);
        assert_eq!(collect(&dropped, &families(), NOW, false).unwrap(), Collected::NoOp);
        assert_eq!(collect(&dropped, &families(), NOW, true).unwrap(), Collected::RowGone);
        let expired = patch(vec![cell(3, "a", 49, b"")]);
        assert_eq!(collect(&expired, &families(), NOW, true).unwrap(), Collected::RowGone);
        let deleted = RowPatch { complete: true, ..RowPatch::default() }.encode();
        assert_eq!(collect(&deleted, &families(), NOW, false).unwrap(), Collected::RowGone);
    }

    #[test]
    fn collecting_any_part_of_a_history_changes_nothing_that_is_seen() {
        use rand::{Rng, SeedableRng};
        for seed in 0..2000 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let patches: Vec<Bytes> = (0..4)
                .map(|_| {
                    let mut row = RowPatch::default();
                    for _ in 0..rng.random_range(0..5) {
                        let value = [b"x".as_slice(), b"y", b"z"][rng.random_range(0..3)];
                        row.cells.push(cell(rng.random_range(1..5), "q", rng.random_range(48..54), value));
                    }
                    if rng.random_bool(0.2) {
                        row.deleted_families.push(FamilyId(rng.random_range(1..5)));
                    }
                    row.encode()
                })
                .collect();
            let fold = |patches: &[Bytes]| crate::model::merge_many(patches).unwrap();
            let want = read_row(&fold(&patches), &families(), NOW).unwrap();
            for at in 0..patches.len() {
                let mut collected = patches.clone();
                match collect(&patches[at], &families(), NOW, at == 0).unwrap() {
                    Collected::Unchanged => {}
                    Collected::Changed(bytes) => collected[at] = bytes,
                    Collected::NoOp | Collected::RowGone => drop(collected.remove(at)),
                }
                let got = read_row(&fold(&collected), &families(), NOW).unwrap();
                assert_eq!(got, want, "seed {seed}, patch {at}");
            }
        }
    }
}
