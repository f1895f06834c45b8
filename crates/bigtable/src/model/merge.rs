//! Folding patches of one row into one, oldest first, in a single pass over all of them.
//!
//! Invariant: merging is associative, so the engine may fold any neighbours first. Deletions are kept
//! until a patch is known to be complete, for what they delete may lie in an older patch not seen yet.
//!
//! Cost: n cells and m deletions in all patches take O((n + m) log (n + m)), however many patches; a
//! row with thousands of small changes is not folded pair by pair.

use std::collections::BinaryHeap;

use bytes::Bytes;
use claviger_core::{Error, Result};

use super::patch::{self, CellRef, DeletedColumn, Head, TimeRange, Writer};
use super::schema::FamilyId;
use super::wire::Damaged;

/// Merges two patches.
///
/// # Errors
/// `DataLoss` when one of them is not a patch.
pub fn merge(older: &Bytes, newer: &Bytes) -> Result<Bytes> {
    merge_refs(&[older, newer])
}

/// Merges patches, oldest first. One alone is given back unread.
///
/// # Errors
/// `DataLoss` when one that counts is not a patch; `Internal` when there are none.
pub fn merge_many(patches: &[Bytes]) -> Result<Bytes> {
    merge_refs(&patches.iter().collect::<Vec<_>>())
}

pub(crate) fn merge_refs(patches: &[&Bytes]) -> Result<Bytes> {
    // What a complete patch replaces needs no reading.
    let base = patches.iter().rposition(|bytes| patch::is_complete(bytes)).unwrap_or(0);
    let patches = patches.get(base..).unwrap_or_default();
    if let [only] = patches {
        return Ok((*only).clone());
    }
    if patches.is_empty() {
        return Err(Error::internal("There is nothing to merge."));
    }
    let mut builder = Builder::with_capacity(patches.iter().map(|bytes| bytes.len()).sum());
    for (step, bytes) in (0..).zip(patches) {
        builder.apply(step, Head::read(bytes)?)?;
    }
    Ok(builder.finish())
}

/// When a change came relative to others: deletions reach cells of lower steps only.
pub(crate) type Step = u32;

struct Deletion<'a> {
    family: FamilyId,
    qualifier: &'a [u8],
    range: TimeRange,
    step: Step,
}

/// Gathers changes, each at its step, and writes what is left of them as one patch.
#[derive(Default)]
pub(crate) struct Builder<'a> {
    complete: bool,
    cells: Vec<(CellRef<'a>, Step)>,
    families: Vec<(FamilyId, Step)>,
    columns: Vec<Deletion<'a>>,
    capacity: usize,
}

impl<'a> Builder<'a> {
    /// A builder that expects a patch of about so many bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    pub(crate) fn put(&mut self, step: Step, cell: CellRef<'a>) {
        self.cells.push((cell, step));
    }

    pub(crate) fn delete_column(
        &mut self,
        step: Step,
        family: FamilyId,
        qualifier: &'a [u8],
        range: TimeRange,
    ) {
        self.columns.push(Deletion { family, qualifier, range, step });
    }

    pub(crate) fn delete_family(&mut self, step: Step, family: FamilyId) {
        self.families.push((family, step));
    }

    /// Forgets all changes so far. Call it in the order of steps.
    pub(crate) fn delete_row(&mut self) {
        self.cells.clear();
        self.families.clear();
        self.columns.clear();
        self.complete = true;
    }

    fn apply(&mut self, step: Step, head: Head<'a>) -> Result<(), Damaged> {
        if head.complete {
            self.delete_row();
        }
        self.families.extend(head.deleted_families.into_iter().map(|family| (family, step)));
        for DeletedColumn { family, qualifier, ranges } in head.deleted_columns {
            let deletions = ranges.into_iter().map(|range| Deletion { family, qualifier, range, step });
            self.columns.extend(deletions);
        }
        for cell in head.cells {
            self.cells.push((cell?, step));
        }
        Ok(())
    }

    /// Sorts, drops what was overwritten or deleted, and writes the rest.
    pub(crate) fn finish(mut self) -> Bytes {
        // The patches are sorted runs, which the standard stable sort finds and merges.
        self.cells.sort_by(|(a, a_step), (b, b_step)| {
            (a.family.cmp(&b.family))
                .then_with(|| a.qualifier.cmp(b.qualifier))
                .then_with(|| b.timestamp_micros.cmp(&a.timestamp_micros))
                .then_with(|| b_step.cmp(a_step))
        });
        // The newest deletion of each family.
        self.families.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        self.families.dedup_by_key(|(family, _)| *family);
        // By column; within one, the ranges that reach furthest first, as cells come newest first.
        self.columns.sort_unstable_by(|a, b| {
            (a.family, a.qualifier).cmp(&(b.family, b.qualifier)).then(b.range.end().cmp(&a.range.end()))
        });

        let families: Vec<_> = self.families.iter().map(|(family, _)| *family).collect();
        let columns = if self.complete { Vec::new() } else { self.deleted_columns() };
        let values: usize =
            self.cells.iter().map(|(cell, _)| cell.value.len() + cell.qualifier.len() + 20).sum();
        let capacity = if self.capacity == 0 { values + 16 } else { self.capacity.min(values + 64) };
        let mut writer = Writer::new(capacity, self.complete, &families, &columns);

        let mut deletions = self.columns.as_slice();
        let mut kept = Vec::new();
        for column in self.cells.chunk_by(|(a, _), (b, _)| (a.family, a.qualifier) == (b.family, b.qualifier))
        {
            let Some((first, _)) = column.first() else { continue };
            let name = (first.family, first.qualifier);
            let skipped = deletions.partition_point(|d| (d.family, d.qualifier) < name);
            deletions = deletions.get(skipped..).unwrap_or_default();
            let count = deletions.partition_point(|d| (d.family, d.qualifier) == name);
            let own = deletions.get(..count).unwrap_or_default();
            let family_step = self.family_step(first.family);
            keep_living(column, family_step, own, &mut kept);
            writer.column(&kept);
            kept.clear();
        }
        writer.finish()
    }

    /// The step at which the whole family was last deleted.
    fn family_step(&self, family: FamilyId) -> Option<Step> {
        let at = self.families.binary_search_by_key(&family, |(family, _)| *family).ok()?;
        self.families.get(at).map(|(_, step)| *step)
    }

    /// The column deletions to write: joined, and without those of families deleted as a whole, since all
    /// that they can still reach is older than this patch.
    fn deleted_columns(&self) -> Vec<DeletedColumn<'a>> {
        let same = |a: &Deletion<'_>, b: &Deletion<'_>| (a.family, a.qualifier) == (b.family, b.qualifier);
        let mut columns = Vec::new();
        for group in self.columns.chunk_by(same) {
            let Some(first) = group.first() else { continue };
            if self.family_step(first.family).is_none() {
                let mut ranges: Vec<_> = group.iter().map(|deletion| deletion.range).collect();
                TimeRange::coalesce(&mut ranges);
                columns.push(DeletedColumn { family: first.family, qualifier: first.qualifier, ranges });
            }
        }
        columns
    }
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Counts only: a builder holds qualifiers and values.
        f.debug_struct("Builder")
            .field("complete", &self.complete)
            .field("cells", &self.cells.len())
            .field("deletions", &(self.families.len() + self.columns.len()))
            .finish()
    }
}

/// Appends to `kept` the cells of one column, newest version first, that no later change removed.
///
/// `deletions` are those of the column, the ones that reach furthest first. The heap holds those that
/// have begun, the latest step on top, so each enters and leaves once.
fn keep_living<'a>(
    column: &[(CellRef<'a>, Step)],
    family_step: Option<Step>,
    deletions: &[Deletion<'_>],
    kept: &mut Vec<CellRef<'a>>,
) {
    let mut waiting = deletions.iter().peekable();
    let mut begun: BinaryHeap<(Step, u64)> = BinaryHeap::new();
    let mut last = None;
    for (cell, step) in column {
        // Of one timestamp the newest write comes first, and whatever deletes it deletes the others too.
        if last.replace(cell.timestamp_micros) == Some(cell.timestamp_micros) {
            continue;
        }
        let at = u64::try_from(cell.timestamp_micros).unwrap_or(0);
        while let Some(deletion) = waiting.next_if(|deletion| at < deletion.range.end()) {
            begun.push((deletion.step, deletion.range.start()));
        }
        while begun.peek().is_some_and(|(_, start)| at < *start) {
            begun.pop();
        }
        let deleted = begun.peek().map(|(step, _)| *step).max(family_step);
        if deleted.is_none_or(|deleted| deleted <= *step) {
            kept.push(*cell);
        }
    }
}

#[cfg(test)]
mod tests;
