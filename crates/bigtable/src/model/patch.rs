//! The stored form of a row, and of a change to one: a row patch.
//!
//! A patch says what to take away from an older row and what to add. Applied to a row, first its
//! deletions remove older cells, then its own cells are put, over older ones of the same column and
//! timestamp. A patch that is *complete* replaces the older row altogether: it is the whole row.
//!
//! ```text
//! +---------+-------+-----------------------+-------------------------+
//! | version | flags | deletions, if flag 2  | columns, to the end     |
//! |  1 byte | 1 byte|                       |                         |
//! +---------+-------+-----------------------+-------------------------+
//! flags      1 complete (then there are no deletions), 2 deletions follow; others are refused
//! deletions  count, count * family id                               whole families, ascending
//!            count, count * { family id, run qualifier,             ascending by both
//!                             count, count * { start, length } }    microseconds, ascending, apart;
//!                                                                   length 0: no end
//! columns    { family id, run qualifier,                            ascending by both
//!              count, count * { time, run value } }                 newest first, count > 0
//! run        length, that many bytes
//! time       a whole millisecond m: 2 * m; else, in microseconds u: 2 * u + 1
//! ```
//! Every number is an unsigned LEB128 varint in its shortest form.
//!
//! Invariant: the form is canonical. Equal patches have equal bytes, and [`RowPatch::decode`] refuses
//! bytes that [`RowPatch::encode`] would not have written, whatever they are, without a panic.

use bytes::Bytes;
use claviger_core::Result;

use super::merge::Builder;
use super::schema::FamilyId;
use super::wire::{Damaged, Reader, put_run, put_varint};

/// The first byte of every stored row of this format.
pub const VERSION: u8 = 1;

const COMPLETE: u8 = 1;
const DELETIONS: u8 = 2;

/// One stored cell, borrowed from the bytes of its patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellRef<'a> {
    /// The family.
    pub family: FamilyId,
    /// The column within the family.
    pub qualifier: &'a [u8],
    /// The version, microseconds since the epoch; never negative.
    pub timestamp_micros: i64,
    /// The value.
    pub value: &'a [u8],
}

/// Timestamps from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeRange {
    start: u64,
    end: u64,
}

impl TimeRange {
    /// Every timestamp.
    pub const ALL: Self = Self { start: 0, end: u64::MAX };

    /// Microseconds from `start` (below zero: from zero) up to and without `end`, or without an end.
    ///
    /// None when no timestamp lies between them.
    #[must_use]
    pub fn new(start: i64, end: Option<i64>) -> Option<Self> {
        let start = u64::try_from(start).unwrap_or(0);
        let end = end.map_or(u64::MAX, |end| u64::try_from(end).unwrap_or(0));
        (start < end).then_some(Self { start, end })
    }

    /// The range that holds `timestamp_micros` and everything older.
    #[must_use]
    pub fn up_to(timestamp_micros: i64) -> Self {
        Self { start: 0, end: u64::try_from(timestamp_micros).unwrap_or(0).saturating_add(1) }
    }

    /// Whether the timestamp lies within.
    #[must_use]
    pub fn contains(&self, timestamp_micros: i64) -> bool {
        u64::try_from(timestamp_micros).is_ok_and(|at| self.start <= at && at < self.end)
    }

    /// The first microsecond within.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The first microsecond past it; `u64::MAX`: no end.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Sorts ranges and joins those that touch.
    pub(crate) fn coalesce(ranges: &mut Vec<Self>) {
        ranges.sort_unstable();
        ranges.dedup_by(|next, joined| {
            let touches = next.start <= joined.end;
            if touches {
                joined.end = joined.end.max(next.end);
            }
            touches
        });
    }
}

/// Versions of one column that a patch deletes from older rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedColumn<'a> {
    /// The family.
    pub family: FamilyId,
    /// The column within the family.
    pub qualifier: &'a [u8],
    /// The versions: ascending and apart from one another.
    pub ranges: Vec<TimeRange>,
}

/// A change to a row, or a whole row; see the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowPatch<'a> {
    /// Whether it replaces whatever was there before.
    pub complete: bool,
    /// Families of which it deletes all older cells, ascending.
    pub deleted_families: Vec<FamilyId>,
    /// Columns of which it deletes older cells, ascending.
    pub deleted_columns: Vec<DeletedColumn<'a>>,
    /// The cells that it puts: by family, qualifier, newest first.
    pub cells: Vec<CellRef<'a>>,
}

impl<'a> RowPatch<'a> {
    /// Reads a patch and checks every byte of it.
    ///
    /// # Errors
    /// `DataLoss` when the bytes are not a patch in its canonical form.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let Head { complete, deleted_families, deleted_columns, cells } = Head::read(bytes)?;
        let cells = cells.collect::<Result<_, Damaged>>()?;
        Ok(Self { complete, deleted_families, deleted_columns, cells })
    }

    /// Writes the patch. The order of its parts does not matter, and of two cells of one column and
    /// timestamp the later one counts.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut builder = Builder::default();
        if self.complete {
            builder.delete_row();
        }
        for &family in &self.deleted_families {
            builder.delete_family(0, family);
        }
        for column in &self.deleted_columns {
            for &range in &column.ranges {
                builder.delete_column(0, column.family, column.qualifier, range);
            }
        }
        // One step for each cell, so that the later of two wins; above the deletions, so that they do not
        // reach the patch's own cells.
        for (step, &cell) in (1..).zip(&self.cells) {
            builder.put(step, cell);
        }
        builder.finish()
    }

    /// Whether it changes nothing, so that it may be left out.
    #[must_use]
    pub fn is_no_op(&self) -> bool {
        !self.complete
            && self.deleted_families.is_empty()
            && self.deleted_columns.is_empty()
            && self.cells.is_empty()
    }
}

/// Whether the bytes start as a complete patch does: older ones then have no say. Reads two bytes.
#[must_use]
pub fn is_complete(bytes: &[u8]) -> bool {
    matches!(bytes, [VERSION, flags, ..] if flags & COMPLETE != 0)
}

/// Whether the bytes are a complete patch without cells: a row that is not there. Reads three bytes.
#[must_use]
pub fn is_deleted_row(bytes: &[u8]) -> bool {
    bytes == [VERSION, COMPLETE]
}

/// A patch read up to its cells, which are read as they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) complete: bool,
    pub(crate) deleted_families: Vec<FamilyId>,
    pub(crate) deleted_columns: Vec<DeletedColumn<'a>>,
    pub(crate) cells: Cells<'a>,
}

impl<'a> Head<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != VERSION {
            return Err(Damaged("its version is not known"));
        }
        let flags = reader.byte()?;
        if flags & !(COMPLETE | DELETIONS) != 0 || flags == COMPLETE | DELETIONS {
            return Err(Damaged("its flags are wrong"));
        }
        let (mut deleted_families, mut deleted_columns) = (Vec::new(), Vec::new());
        if flags & DELETIONS != 0 {
            deleted_families = read_deleted_families(&mut reader)?;
            deleted_columns = read_deleted_columns(&mut reader, &deleted_families)?;
            if deleted_families.is_empty() && deleted_columns.is_empty() {
                return Err(Damaged("its deletions are empty"));
            }
        }
        let cells = Cells { reader, column: None, left: 0, last: 0 };
        Ok(Self { complete: flags & COMPLETE != 0, deleted_families, deleted_columns, cells })
    }
}

fn read_deleted_families(reader: &mut Reader<'_>) -> Result<Vec<FamilyId>, Damaged> {
    let mut families: Vec<FamilyId> = Vec::new();
    for _ in 0..reader.varint()? {
        let family = FamilyId(reader.varint_u32()?);
        if families.last().is_some_and(|last| *last >= family) {
            return Err(Damaged("its deleted families are out of order"));
        }
        families.push(family);
    }
    Ok(families)
}

fn read_deleted_columns<'a>(
    reader: &mut Reader<'a>,
    whole: &[FamilyId],
) -> Result<Vec<DeletedColumn<'a>>, Damaged> {
    let mut columns: Vec<DeletedColumn<'a>> = Vec::new();
    for _ in 0..reader.varint()? {
        let family = FamilyId(reader.varint_u32()?);
        let qualifier = reader.run()?;
        if columns.last().is_some_and(|last| (last.family, last.qualifier) >= (family, qualifier)) {
            return Err(Damaged("its deleted columns are out of order"));
        }
        if whole.binary_search(&family).is_ok() {
            return Err(Damaged("it deletes a column twice"));
        }
        let mut ranges: Vec<TimeRange> = Vec::new();
        for _ in 0..reader.varint()? {
            let (start, length) = (reader.varint()?, reader.varint()?);
            let end = if length == 0 { Some(u64::MAX) } else { start.checked_add(length) };
            let end = end.filter(|end| start < *end).ok_or(Damaged("a time is too large"))?;
            if ranges.last().is_some_and(|last| last.end >= start) {
                return Err(Damaged("its deleted versions are out of order"));
            }
            if length != 0 && end == u64::MAX {
                return Err(Damaged("a time is too large"));
            }
            ranges.push(TimeRange { start, end });
        }
        if ranges.is_empty() {
            return Err(Damaged("a deleted column has no versions"));
        }
        columns.push(DeletedColumn { family, qualifier, ranges });
    }
    Ok(columns)
}

/// The cells of a patch, checked as they are read. After an error it ends.
#[derive(Clone, Debug)]
pub(crate) struct Cells<'a> {
    reader: Reader<'a>,
    column: Option<(FamilyId, &'a [u8])>,
    left: u64,
    last: i64,
}

impl<'a> Cells<'a> {
    #[inline]
    fn read(&mut self) -> Result<CellRef<'a>, Damaged> {
        let first = self.left == 0;
        if first {
            let column = (FamilyId(self.reader.varint_u32()?), self.reader.run()?);
            if self.column.is_some_and(|last| last >= column) {
                return Err(Damaged("its columns are out of order"));
            }
            self.column = Some(column);
            self.left = self.reader.varint()?;
        }
        self.left = self.left.checked_sub(1).ok_or(Damaged("a column has no cells"))?;
        let (family, qualifier) = self.column.ok_or(Damaged("a column is missing"))?;
        let timestamp_micros = read_time(&mut self.reader)?;
        if !first && timestamp_micros >= self.last {
            return Err(Damaged("its versions are out of order"));
        }
        self.last = timestamp_micros;
        let value = self.reader.run()?;
        Ok(CellRef { family, qualifier, timestamp_micros, value })
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Result<CellRef<'a>, Damaged>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.reader.is_empty() {
            return None;
        }
        let cell = self.read();
        if cell.is_err() {
            (self.left, self.reader) = (0, Reader::new(&[]));
        }
        Some(cell)
    }
}

fn read_time(reader: &mut Reader<'_>) -> Result<i64, Damaged> {
    let code = reader.varint()?;
    // Half of any u64 fits an i64.
    let half = (code >> 1) as i64;
    if code & 1 == 0 {
        half.checked_mul(1000).ok_or(Damaged("a time is too large"))
    } else if half % 1000 == 0 {
        Err(Damaged("a time is not in its shortest form"))
    } else {
        Ok(half)
    }
}

fn put_time(out: &mut Vec<u8>, timestamp_micros: i64) {
    // Mutations refuse times below zero before they come here.
    let micros = u64::try_from(timestamp_micros).unwrap_or(0);
    put_varint(out, if micros % 1000 == 0 { (micros / 1000) << 1 } else { micros << 1 | 1 });
}

/// Writes the parts of a patch in their order. The caller has sorted and freed them of overlap.
#[derive(Debug)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(
        capacity: usize,
        complete: bool,
        families: &[FamilyId],
        columns: &[DeletedColumn<'_>],
    ) -> Self {
        let mut out = Vec::with_capacity(capacity);
        let none = families.is_empty() && columns.is_empty();
        let deletions = !(complete || none);
        let flags = if complete { COMPLETE } else { 0 } | if deletions { DELETIONS } else { 0 };
        out.extend_from_slice(&[VERSION, flags]);
        if deletions {
            put_varint(&mut out, families.len() as u64);
            families.iter().for_each(|family| put_varint(&mut out, u64::from(family.0)));
            put_varint(&mut out, columns.len() as u64);
            for column in columns {
                put_varint(&mut out, u64::from(column.family.0));
                put_run(&mut out, column.qualifier);
                put_varint(&mut out, column.ranges.len() as u64);
                for range in &column.ranges {
                    put_varint(&mut out, range.start);
                    put_varint(&mut out, if range.end == u64::MAX { 0 } else { range.end - range.start });
                }
            }
        }
        Self { out }
    }

    /// Appends the cells of one column, newest first.
    pub(crate) fn column(&mut self, cells: &[CellRef<'_>]) {
        let Some(first) = cells.first() else { return };
        put_varint(&mut self.out, u64::from(first.family.0));
        put_run(&mut self.out, first.qualifier);
        put_varint(&mut self.out, cells.len() as u64);
        for cell in cells {
            put_time(&mut self.out, cell.timestamp_micros);
            put_run(&mut self.out, cell.value);
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }
}

#[cfg(test)]
mod tests;
