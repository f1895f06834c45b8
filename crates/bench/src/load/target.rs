//! The calls: each sends one request and checks its answer against the rows.
//!
//! Invariant: a call counts its units only after the answer was found right.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_proto::google::bigtable::v2::mutate_rows_request::Entry;
use claviger_proto::google::bigtable::v2::mutation::{self, SetCell};
use claviger_proto::google::bigtable::v2::read_rows_response::cell_chunk::RowStatus;
use claviger_proto::google::bigtable::v2::row_range::{EndKey, StartKey};
use claviger_proto::google::bigtable::v2::{
    MutateRowRequest, MutateRowResponse, MutateRowsRequest, MutateRowsResponse, Mutation, ReadRowsRequest,
    ReadRowsResponse, RowRange, RowSet,
};
use prost::Message;

use super::rows::Rows;
use crate::failure::{Doing, Failure, Result};
use crate::wire::{Answers, Connection, RpcPath, frame};

/// The time of every cell: the same one, so that writing a cell again adds none.
const CELL_MICROS: i64 = 1_000_000;

/// One call to make; numbers are rows in key order.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Writes the rows at these places of the load's order.
    MutateRows(Range<u64>),
    /// Writes one row again.
    MutateRow(u64),
    /// Reads one row.
    Read(u64),
    /// Reads a key right behind a row's, which is not there.
    Absent(u64),
    /// Reads so many rows from a row on.
    Range(Range<u64>),
    /// Reads from one row up to another.
    ScanPart(Range<u64>),
    /// Reads all.
    Scan,
}

/// The table under load; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Target(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: String,
    rows: Rows,
    connections: Vec<Connection>,
    shape_only: bool,
    read_rows: RpcPath,
    mutate_row: RpcPath,
    mutate_rows: RpcPath,
}

impl Target {
    /// The table of that name, reached through these connections.
    pub(super) fn new(table: String, rows: Rows, connections: Vec<Connection>, shape_only: bool) -> Self {
        Self(Arc::new(Inner {
            table,
            rows,
            connections,
            shape_only,
            read_rows: RpcPath::new("/google.bigtable.v2.Bigtable/ReadRows"),
            mutate_row: RpcPath::new("/google.bigtable.v2.Bigtable/MutateRow"),
            mutate_rows: RpcPath::new("/google.bigtable.v2.Bigtable/MutateRows"),
        }))
    }

    /// The rows.
    pub(super) fn rows(&self) -> &Rows {
        &self.0.rows
    }

    /// Makes a call for a task and gives the units done: rows written or read, or one call.
    ///
    /// # Errors
    /// When it failed or its answer was wrong.
    pub(super) async fn call(&self, task: u64, job: Job) -> Result<u64> {
        let connections = &self.0.connections;
        let index = task as usize % connections.len().max(1);
        let connection = connections.get(index).ok_or_else(|| Failure::new("no connection"))?;
        match job {
            Job::MutateRows(places) => self.mutate_rows(connection, places).await,
            Job::MutateRow(row) => self.mutate_row(connection, row).await,
            Job::Read(row) => {
                let key = Bytes::copy_from_slice(self.0.rows.key(row));
                self.read(connection, keys(key), 0, row..row + 1).await
            }
            Job::Absent(row) => {
                let mut key = BytesMut::from(self.0.rows.key(row));
                key.extend_from_slice(b"-");
                self.read(connection, keys(key.freeze()), 0, 0..0).await?;
                Ok(1)
            }
            Job::Range(rows) => {
                let limit = rows.end - rows.start;
                // An end as well as a limit: Google's emulator first collects all rows of a range.
                let range = self.range(Some(rows.start), Some(rows.end));
                self.read(connection, ranges(range), limit, rows).await
            }
            Job::ScanPart(rows) => {
                let range = self.range(Some(rows.start), Some(rows.end));
                // The last part has an end too, so that all parts look alike to a server.
                let range =
                    RowRange { end_key: range.end_key.or(Some(EndKey::EndKeyOpen("v".into()))), ..range };
                self.read(connection, ranges(range), 0, rows).await
            }
            Job::Scan => self.read(connection, None, 0, 0..self.0.rows.count()).await,
        }
    }

    fn range(&self, from: Option<u64>, to: Option<u64>) -> RowRange {
        let key = |row: u64| Bytes::copy_from_slice(self.0.rows.key(row));
        let to = to.filter(|&row| row < self.0.rows.count());
        RowRange {
            start_key: from.map(|row| StartKey::StartKeyClosed(key(row))),
            end_key: to.map(|row| EndKey::EndKeyOpen(key(row))),
        }
    }

    fn set_cell(&self, key: &[u8]) -> Mutation {
        let cell = SetCell {
            family_name: "f".to_owned(),
            column_qualifier: Bytes::from_static(b"q"),
            timestamp_micros: CELL_MICROS,
            value: self.0.rows.value(key),
        };
        Mutation { mutation: Some(mutation::Mutation::SetCell(cell)), ..Mutation::default() }
    }

    async fn mutate_row(&self, connection: &Connection, row: u64) -> Result<u64> {
        let key = self.0.rows.key(row);
        let request = MutateRowRequest {
            table_name: self.0.table.clone(),
            row_key: Bytes::copy_from_slice(key),
            mutations: vec![self.set_cell(key)],
            ..MutateRowRequest::default()
        };
        let answer = connection.unary(&self.0.mutate_row, frame(&request)).await?;
        MutateRowResponse::decode(answer).doing("MutateRow's answer")?;
        Ok(1)
    }

    async fn mutate_rows(&self, connection: &Connection, places: Range<u64>) -> Result<u64> {
        let entries: Vec<Entry> = self
            .0
            .rows
            .batch(places)
            .map(|row| {
                let key = self.0.rows.key(row);
                let row_key = Bytes::copy_from_slice(key);
                Entry { row_key, mutations: vec![self.set_cell(key)], ..Entry::default() }
            })
            .collect();
        let mut acknowledged = vec![false; entries.len()];
        let request =
            MutateRowsRequest { table_name: self.0.table.clone(), entries, ..MutateRowsRequest::default() };
        let mut answers = connection.call(&self.0.mutate_rows, frame(&request)).await?;
        while let Some(answer) = answers.next().await? {
            for entry in MutateRowsResponse::decode(answer).doing("MutateRows' answer")?.entries {
                let status = entry.status.unwrap_or_default();
                if status.code != 0 {
                    return Err(Failure::new(format!("a row was refused: {}", status.message)));
                }
                let place = usize::try_from(entry.index).ok().and_then(|index| acknowledged.get_mut(index));
                *place.ok_or_else(|| Failure::new("an index that was not sent"))? = true;
            }
        }
        if acknowledged.iter().all(|&yes| yes) {
            Ok(acknowledged.len() as u64)
        } else {
            Err(Failure::new("rows without an answer"))
        }
    }

    async fn read(
        &self,
        connection: &Connection,
        rows: Option<RowSet>,
        limit: u64,
        expected: Range<u64>,
    ) -> Result<u64> {
        let request = ReadRowsRequest {
            table_name: self.0.table.clone(),
            rows,
            rows_limit: i64::try_from(limit).unwrap_or(0),
            ..ReadRowsRequest::default()
        };
        let answers = connection.call(&self.0.read_rows, frame(&request)).await?;
        self.check(answers, expected).await
    }

    /// Compares the rows that come with those that must: keys, order and values.
    async fn check(&self, mut answers: Answers, expected: Range<u64>) -> Result<u64> {
        let mut next = expected.start;
        let mut row = Assembly::default();
        while let Some(answer) = answers.next().await? {
            for chunk in ReadRowsResponse::decode(answer).doing("ReadRows' answer")?.chunks {
                if !chunk.row_key.is_empty() {
                    row = Assembly { key: chunk.row_key, value: Bytes::new() };
                }
                row.add(chunk.value);
                match chunk.row_status {
                    Some(RowStatus::CommitRow(true)) => {
                        if next >= expected.end {
                            return Err(Failure::new("more rows than there are"));
                        }
                        self.check_row(next, &row)?;
                        next += 1;
                    }
                    Some(RowStatus::ResetRow(true)) => row = Assembly::default(),
                    _ => {}
                }
            }
        }
        if next == expected.end {
            Ok(expected.end - expected.start)
        } else {
            Err(Failure::new(format!(
                "{} rows instead of {}",
                next - expected.start,
                expected.end - expected.start
            )))
        }
    }

    fn check_row(&self, number: u64, row: &Assembly) -> Result<()> {
        let rows = &self.0.rows;
        let right = if self.0.shape_only {
            row.value.len() == rows.value_bytes()
        } else {
            let key = rows.key(number);
            row.key == key && row.value == rows.value(key)
        };
        if right { Ok(()) } else { Err(Failure::new(format!("row {number} is wrong"))) }
    }
}

/// A row while its chunks come.
#[derive(Default)]
struct Assembly {
    key: Bytes,
    value: Bytes,
}

impl Assembly {
    fn add(&mut self, piece: Bytes) {
        if self.value.is_empty() {
            self.value = piece;
        } else if !piece.is_empty() {
            let mut joined = BytesMut::from(&self.value[..]);
            joined.extend_from_slice(&piece);
            self.value = joined.freeze();
        }
    }
}

fn keys(key: Bytes) -> Option<RowSet> {
    Some(RowSet { row_keys: vec![key], row_ranges: Vec::new() })
}

fn ranges(range: RowRange) -> Option<RowSet> {
    Some(RowSet { row_keys: Vec::new(), row_ranges: vec![range] })
}
