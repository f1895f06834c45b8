//! Row filters: what a client asks to see of a row, checked once and applied to each row.
//!
//! A [`FilterSpec`] is what a request says. [`Filter::compile`] checks it against the limits and the
//! table's families and makes a [`Filter`], which is applied row by row.
//!
//! Invariant: a filter's result is in a row's order (family, column, newest first), equal cells side by
//! side, and it is the same for equal rows: a row sample depends on the request's seed and the key alone.

use std::ops::Bound;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};

use super::mutation::TimestampRange;
use super::schema::{Cell, Families};

mod compile;
mod node;
pub mod pattern;

use node::{Node, Run};

/// A filter as a request gives it, one for each of Bigtable's kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterSpec {
    /// Each filter sees what the one before let through.
    Chain(Vec<FilterSpec>),
    /// Each filter sees the whole input; the results are put together, and duplicates stay.
    Interleave(Vec<FilterSpec>),
    /// Applies one of two filters to the input, by whether a third lets anything through.
    Condition {
        /// What decides.
        predicate: Box<FilterSpec>,
        /// Applied when the predicate lets a cell through; none: nothing passes.
        on_true: Option<Box<FilterSpec>>,
        /// Applied when it does not; none: nothing passes.
        on_false: Option<Box<FilterSpec>>,
    },
    /// Sends every cell straight to the result, past all other filters.
    Sink,
    /// Lets everything through.
    PassAll,
    /// Lets nothing through.
    BlockAll,
    /// Rows whose key matches an RE2 pattern.
    RowKeyRegex(Bytes),
    /// A random share of the rows, between 0 and 1.
    RowSample(f64),
    /// Cells of the families whose name matches.
    FamilyNameRegex(Bytes),
    /// Cells of the columns whose qualifier matches.
    ColumnQualifierRegex(Bytes),
    /// Cells of the columns in a range of one family.
    ColumnRange {
        /// The family's name.
        family: String,
        /// The lower bound.
        start: Bound<Bytes>,
        /// The upper bound.
        end: Bound<Bytes>,
    },
    /// Cells of versions in a range.
    TimestampRange(TimestampRange),
    /// Cells whose value matches.
    ValueRegex(Bytes),
    /// Cells whose value is in a range.
    ValueRange {
        /// The lower bound.
        start: Bound<Bytes>,
        /// The upper bound.
        end: Bound<Bytes>,
    },
    /// Cells whose value is as long as the mask and has all of its bits.
    ValueBitmask(Bytes),
    /// All but the first so many cells of a row.
    CellsPerRowOffset(i32),
    /// The first so many cells of a row.
    CellsPerRowLimit(i32),
    /// The first so many cells of each column.
    CellsPerColumnLimit(i32),
    /// Empties every value.
    StripValue,
    /// Gives every cell a label.
    Label(String),
}

/// A filter ready to be applied to rows of one table.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Node,
    seed: u64,
    has_sink: bool,
}

impl Filter {
    /// The filter that lets everything through.
    #[must_use]
    pub fn pass_all() -> Self {
        Self { root: Node::Pass, seed: 0, has_sink: false }
    }

    /// Checks a filter and makes it ready. `seed` decides which rows a row sample takes: draw one for each
    /// request.
    ///
    /// # Errors
    /// `InvalidArgument` that names the filter's place for one that breaks a rule or a limit; `NotFound` for a
    /// family that the table does not have.
    pub fn compile(spec: &FilterSpec, families: &Families, seed: u64) -> Result<Self> {
        let root = compile::compile(spec, families)?;
        let has_sink = root.has_sink();
        Ok(Self { root, seed, has_sink })
    }

    /// Whether it lets everything through unchanged.
    #[must_use]
    pub fn is_pass_all(&self) -> bool {
        matches!(self.root, Node::Pass)
    }

    /// Whether it lets nothing of that row through, whatever the row holds; such a row need not be decoded. May
    /// be false for a row of which nothing passes either.
    #[must_use]
    pub fn rejects_row(&self, row_key: &[u8]) -> bool {
        self.root.rejects_row(row_key, self.seed)
    }

    /// Applies the filter to a row's cells, which are in order.
    ///
    /// # Errors
    /// `ResourceExhausted` when interleaved filters multiply the cells of the row beyond reason.
    pub fn apply(&self, row_key: &[u8], cells: Vec<Cell>) -> Result<Vec<Cell>> {
        if self.is_pass_all() || cells.is_empty() {
            return Ok(cells);
        }
        let mut run = Run::new(row_key, self.seed, cells.len());
        let passed = self.root.run(&mut run, cells)?;
        Ok(run.with_sunk(passed))
    }

    /// Whether the filter lets any of the cells through, as a predicate on the row.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn matches(&self, row_key: &[u8], cells: &[Cell]) -> Result<bool> {
        if self.has_sink {
            return Ok(!self.apply(row_key, cells.to_vec())?.is_empty());
        }
        self.root.any(&mut Run::new(row_key, self.seed, cells.len()), cells)
    }
}

/// The error of a row that a filter blows up.
fn too_many_cells() -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        "The filter makes too many copies of one row's cells: use fewer interleaved filters.",
    )
}

#[cfg(test)]
mod tests;
