//! Filters at work on one row.
//!
//! Invariant: cells come in a row's order and leave in it. Each kind of filter is one small case, and
//! the cheap ones thin the cells out in place.

use std::hash::Hasher;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use claviger_core::Result;

use super::super::patch::TimeRange;
use super::super::schema::{Cell, FamilyRank};
use super::pattern::Pattern;
use super::too_many_cells;

/// Cells that interleaved filters may make of one row, unless the row itself has more.
const MOST_CELLS: usize = 4_000_000;

/// One filter of a tree.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Pass,
    Block,
    Sink,
    Row(RowTest),
    Cells(CellTest),
    Offset(usize),
    Limit(usize),
    ColumnLimit(usize),
    Strip,
    Label(Arc<str>),
    Chain(Vec<Node>),
    Interleave(Vec<Node>),
    Condition { predicate: Box<Node>, on_true: Option<Box<Node>>, on_false: Option<Box<Node>> },
}

/// A test of a row's key alone.
#[derive(Clone, Debug)]
pub(super) enum RowTest {
    Key(Pattern),
    Sample { share: f64, number: u64 },
}

impl RowTest {
    fn passes(&self, row_key: &[u8], seed: u64) -> bool {
        match self {
            Self::Key(pattern) => pattern.matches(row_key),
            Self::Sample { share, number } => {
                // Fixed keys: the same row gives the same answer anywhere in a request.
                let mut hasher = std::hash::DefaultHasher::new();
                hasher.write_u64(seed);
                hasher.write_u64(*number);
                hasher.write(row_key);
                // The top 53 bits, which a double holds exactly, as a number from 0 up to 1.
                let drawn = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
                drawn < *share
            }
        }
    }
}

/// A test of each cell by itself.
#[derive(Clone, Debug)]
pub(super) enum CellTest {
    /// By rank.
    Families(Vec<bool>),
    Qualifier(Pattern),
    Columns {
        family: FamilyRank,
        start: Bound<Bytes>,
        end: Bound<Bytes>,
    },
    Timestamps(TimeRange),
    Value(Pattern),
    Values {
        start: Bound<Bytes>,
        end: Bound<Bytes>,
    },
    Bits(Bytes),
}

impl CellTest {
    #[inline]
    fn passes(&self, cell: &Cell) -> bool {
        match self {
            Self::Families(matching) => matching.get(cell.family.0 as usize).is_some_and(|matches| *matches),
            Self::Qualifier(pattern) => pattern.matches(&cell.qualifier),
            Self::Columns { family, start, end } => {
                cell.family == *family && is_between(&cell.qualifier, start, end)
            }
            Self::Timestamps(range) => range.contains(cell.timestamp_micros),
            Self::Value(pattern) => pattern.matches(&cell.value),
            Self::Values { start, end } => is_between(&cell.value, start, end),
            Self::Bits(mask) => {
                cell.value.len() == mask.len()
                    && cell.value.iter().zip(mask).all(|(byte, mask)| byte & mask == *mask)
            }
        }
    }
}

fn is_between(bytes: &[u8], start: &Bound<Bytes>, end: &Bound<Bytes>) -> bool {
    let starts = match start {
        Bound::Included(start) => *bytes >= **start,
        Bound::Excluded(start) => *bytes > **start,
        Bound::Unbounded => true,
    };
    starts
        && match end {
            Bound::Included(end) => *bytes <= **end,
            Bound::Excluded(end) => *bytes < **end,
            Bound::Unbounded => true,
        }
}

/// One row's way through a filter.
pub(super) struct Run<'a> {
    row_key: &'a [u8],
    seed: u64,
    most_cells: usize,
    sunk: Vec<Cell>,
}

impl<'a> Run<'a> {
    pub(super) fn new(row_key: &'a [u8], seed: u64, cells: usize) -> Self {
        Self { row_key, seed, most_cells: MOST_CELLS.max(cells), sunk: Vec::new() }
    }

    /// The cells that passed, and those that a sink sent past the other filters.
    pub(super) fn with_sunk(self, mut passed: Vec<Cell>) -> Vec<Cell> {
        if !self.sunk.is_empty() {
            passed.extend(self.sunk);
            in_order(&mut passed);
        }
        passed
    }
}

/// Sorts results of several filters, which keeps equal cells side by side.
fn in_order(cells: &mut [Cell]) {
    if !cells.is_sorted_by(|a, b| a.order(b).is_le()) {
        cells.sort_by(Cell::order);
    }
}

/// Keeps the first `limit` cells of each column.
fn limit_columns(cells: &mut Vec<Cell>, limit: usize) {
    if limit == 0 {
        cells.clear();
    } else if limit == 1 {
        cells.dedup_by(|next, kept| next.same_column(kept));
    } else {
        let mut column: Option<(FamilyRank, Bytes)> = None;
        let mut seen = 0;
        cells.retain(|cell| {
            if column
                .as_ref()
                .is_some_and(|(family, qualifier)| *family == cell.family && *qualifier == cell.qualifier)
            {
                seen += 1;
            } else {
                column = Some((cell.family, cell.qualifier.clone()));
                seen = 1;
            }
            seen <= limit
        });
    }
}

impl Node {
    /// A chain of nodes, without those that do nothing.
    pub(super) fn chain(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| !matches!(node, Self::Pass));
        match nodes.pop() {
            None => Self::Pass,
            Some(only) if nodes.is_empty() => only,
            Some(last) => {
                nodes.push(last);
                Self::Chain(nodes)
            }
        }
    }

    pub(super) fn has_sink(&self) -> bool {
        match self {
            Self::Sink => true,
            Self::Chain(nodes) | Self::Interleave(nodes) => nodes.iter().any(Self::has_sink),
            _ => false,
        }
    }

    pub(super) fn rejects_row(&self, row_key: &[u8], seed: u64) -> bool {
        match self {
            Self::Block => true,
            Self::Row(test) => !test.passes(row_key, seed),
            // What a sink took out before cannot be rejected any more.
            Self::Chain(nodes) => {
                nodes.iter().take_while(|node| !node.has_sink()).any(|node| node.rejects_row(row_key, seed))
            }
            Self::Interleave(nodes) => nodes.iter().all(|node| node.rejects_row(row_key, seed)),
            _ => false,
        }
    }

    /// Applies the filter to cells that nobody else needs.
    pub(super) fn run(&self, run: &mut Run<'_>, mut cells: Vec<Cell>) -> Result<Vec<Cell>> {
        if cells.is_empty() {
            return Ok(cells);
        }
        match self {
            Self::Pass => {}
            Self::Block => cells.clear(),
            Self::Sink => {
                if run.sunk.len() + cells.len() > run.most_cells {
                    return Err(too_many_cells());
                }
                run.sunk.append(&mut cells);
            }
            Self::Row(test) => {
                if !test.passes(run.row_key, run.seed) {
                    cells.clear();
                }
            }
            Self::Cells(test) => cells.retain(|cell| test.passes(cell)),
            Self::Offset(count) => drop(cells.drain(..(*count).min(cells.len()))),
            Self::Limit(count) => cells.truncate(*count),
            Self::ColumnLimit(count) => limit_columns(&mut cells, *count),
            Self::Strip => cells.iter_mut().for_each(|cell| cell.value = Bytes::new()),
            Self::Label(label) => cells.iter_mut().for_each(|cell| cell.label = Some(label.clone())),
            Self::Chain(nodes) => {
                for node in nodes {
                    cells = node.run(run, cells)?;
                }
            }
            Self::Interleave(nodes) => return Self::interleave(nodes, run, &cells),
            Self::Condition { predicate, on_true, on_false } => {
                let branch = if predicate.any(run, &cells)? { on_true } else { on_false };
                match branch {
                    Some(branch) => return branch.run(run, cells),
                    None => cells.clear(),
                }
            }
        }
        Ok(cells)
    }

    fn interleave(nodes: &[Node], run: &mut Run<'_>, cells: &[Cell]) -> Result<Vec<Cell>> {
        let mut results = Vec::new();
        for node in nodes {
            let mut result = node.run_on(run, cells)?;
            if results.len() + result.len() > run.most_cells {
                return Err(too_many_cells());
            }
            if results.is_empty() {
                results = result;
            } else {
                results.append(&mut result);
            }
        }
        in_order(&mut results);
        Ok(results)
    }

    /// Applies the filter to cells that others need too: copies no more of them than pass the first test.
    fn run_on(&self, run: &mut Run<'_>, cells: &[Cell]) -> Result<Vec<Cell>> {
        match self {
            Self::Block => Ok(Vec::new()),
            Self::Row(test) if !test.passes(run.row_key, run.seed) => Ok(Vec::new()),
            Self::Cells(test) => Ok(cells.iter().filter(|cell| test.passes(cell)).cloned().collect()),
            Self::Offset(count) => Ok(cells.get(*count..).unwrap_or_default().to_vec()),
            Self::Limit(count) => Ok(cells.get(..*count).unwrap_or(cells).to_vec()),
            Self::Interleave(nodes) => Self::interleave(nodes, run, cells),
            Self::Chain(nodes) => {
                let Some((first, rest)) = nodes.split_first() else { return Ok(cells.to_vec()) };
                let mut passed = first.run_on(run, cells)?;
                for node in rest {
                    passed = node.run(run, passed)?;
                }
                Ok(passed)
            }
            _ => self.run(run, cells.to_vec()),
        }
    }

    /// Whether anything passes. Not for a filter with a sink.
    pub(super) fn any(&self, run: &mut Run<'_>, cells: &[Cell]) -> Result<bool> {
        Ok(match self {
            Self::Block | Self::Sink => false,
            Self::Row(test) => !cells.is_empty() && test.passes(run.row_key, run.seed),
            Self::Cells(test) => cells.iter().any(|cell| test.passes(cell)),
            Self::Offset(count) => cells.len() > *count,
            Self::Limit(count) | Self::ColumnLimit(count) => *count > 0 && !cells.is_empty(),
            Self::Pass | Self::Strip | Self::Label(_) => !cells.is_empty(),
            Self::Interleave(nodes) => {
                for node in nodes {
                    if node.any(run, cells)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Condition { predicate, on_true, on_false } => {
                let branch = if predicate.any(run, cells)? { on_true } else { on_false };
                match branch {
                    Some(branch) => branch.any(run, cells)?,
                    None => false,
                }
            }
            Self::Chain(_) => !self.run_on(run, cells)?.is_empty(),
        })
    }
}
