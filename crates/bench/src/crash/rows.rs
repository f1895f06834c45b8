//! Writers of rows in the crash harness.
//!
//! Invariant: a row belongs to one writer, and a writer has one call under way at a time. So after a crash a
//! row may be in its acknowledged state or in that of the one call, and all its cells must tell the same one.

use std::collections::BTreeMap;

use bytes::Bytes;
use claviger_proto::google::bigtable::v2::mutate_rows_request::Entry;
use claviger_proto::google::bigtable::v2::mutation::{self, DeleteFromColumn, DeleteFromRow, SetCell};
use claviger_proto::google::bigtable::v2::read_rows_response::cell_chunk::RowStatus;
use claviger_proto::google::bigtable::v2::{
    MutateRowRequest, MutateRowsRequest, MutateRowsResponse, Mutation, ReadRowsRequest, ReadRowsResponse,
};
use prost::Message;

use super::{Killed, UnderWay};
use crate::failure::{Doing, Failure, Result};
use crate::random::{Random, mix};
use crate::wire::{Connection, RpcPath, frame};

/// The table's families.
pub(super) const FAMILIES: [&str; 2] = ["f", "g"];
/// The cells of every row; each carries the row's sequence number.
const CELLS: [(&str, &str); 4] = [("f", "a"), ("f", "b"), ("f", "c"), ("g", "d")];
/// Rows of each writer.
const ROWS: u64 = 64;
/// Rows of one MutateRows call.
const BATCH: u64 = 5;
/// The time of every cell, so that a newer value takes the place of an older one.
const CELL_MICROS: i64 = 1000;
/// Bytes of each value.
const VALUE_BYTES: usize = 96;

/// What a row holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    /// All cells, of the write with this number.
    Written(u64),
}

#[derive(Clone, Debug, Default)]
struct Row {
    acknowledged: State,
    under_way: Option<State>,
}

/// The cells of a row as read: family, qualifier, value.
pub(super) type Cells = Vec<(String, Bytes, Bytes)>;

/// One writer, its rows and what it knows of them.
#[derive(Debug)]
pub(super) struct Writer {
    number: u64,
    table: String,
    random: Random,
    sequence: u64,
    rows: Vec<Row>,
    /// Row changes that the server acknowledged.
    pub(super) acknowledged: u64,
}

impl Writer {
    /// The `number`th writer, whose rows are not there yet.
    pub(super) fn new(number: u64, table: &str, random: Random) -> Self {
        let rows = vec![Row::default(); ROWS as usize];
        Self { number, table: table.to_owned(), random, sequence: 0, rows, acknowledged: 0 }
    }

    /// Writes until the server is gone.
    ///
    /// # Errors
    /// When a server that was not killed refuses.
    pub(super) async fn work(mut self, connection: Connection, killed: Killed) -> Result<Self> {
        let (one, many) = (
            RpcPath::new("/google.bigtable.v2.Bigtable/MutateRow"),
            RpcPath::new("/google.bigtable.v2.Bigtable/MutateRows"),
        );
        loop {
            let outcome = if self.random.below(10) < 7 {
                self.mutate_row(&connection, &one).await
            } else {
                self.mutate_rows(&connection, &many).await
            };
            match outcome {
                Ok(()) => {}
                Err(_) if killed.said() => return Ok(self),
                Err(failure) => {
                    return Err(Failure::new(format!("a living server failed a write: {failure}")));
                }
            }
        }
    }

    /// A change of a row: mostly all cells anew, at times with a deletion before, at times only that.
    fn change(&mut self, row: u64) -> (State, Vec<Mutation>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let mut mutations = Vec::with_capacity(CELLS.len() + 1);
        match self.random.below(10) {
            0 => {
                mutations.push(mutation::Mutation::DeleteFromRow(DeleteFromRow {}));
                return (State::Absent, wrap(mutations));
            }
            1 => mutations.push(mutation::Mutation::DeleteFromRow(DeleteFromRow {})),
            2 => mutations.push(mutation::Mutation::DeleteFromColumn(DeleteFromColumn {
                family_name: "f".to_owned(),
                column_qualifier: Bytes::from_static(b"b"),
                time_range: None,
            })),
            _ => {}
        }
        for (family, qualifier) in CELLS {
            mutations.push(mutation::Mutation::SetCell(SetCell {
                family_name: family.to_owned(),
                column_qualifier: Bytes::from_static(qualifier.as_bytes()),
                timestamp_micros: CELL_MICROS,
                value: value(self.number, row, sequence, qualifier),
            }));
        }
        (State::Written(sequence), wrap(mutations))
    }

    async fn mutate_row(&mut self, connection: &Connection, path: &RpcPath) -> Result<()> {
        let row = self.random.below(ROWS);
        let (state, mutations) = self.change(row);
        self.start(row, state)?;
        let request = MutateRowRequest {
            table_name: self.table.clone(),
            row_key: key(self.number, row),
            mutations,
            ..MutateRowRequest::default()
        };
        connection.unary(path, frame(&request)).await?;
        self.acknowledge(row)
    }

    async fn mutate_rows(&mut self, connection: &Connection, path: &RpcPath) -> Result<()> {
        let first = self.random.below(ROWS - BATCH + 1);
        let mut entries = Vec::with_capacity(BATCH as usize);
        for row in first..first + BATCH {
            let (state, mutations) = self.change(row);
            self.start(row, state)?;
            entries.push(Entry { row_key: key(self.number, row), mutations, ..Entry::default() });
        }
        let request =
            MutateRowsRequest { table_name: self.table.clone(), entries, ..MutateRowsRequest::default() };
        let mut answers = connection.call(path, frame(&request)).await?;
        let mut seen = 0;
        while let Some(answer) = answers.next().await? {
            for entry in MutateRowsResponse::decode(answer).doing("MutateRows' answer")?.entries {
                let status = entry.status.unwrap_or_default();
                if status.code != 0 {
                    return Err(Failure::new(format!("a row was refused: {}", status.message)));
                }
                self.acknowledge(first + u64::try_from(entry.index).unwrap_or(u64::MAX / 2))?;
                seen += 1;
            }
        }
        if seen == BATCH { Ok(()) } else { Err(Failure::new("rows without an answer")) }
    }

    fn row(&mut self, row: u64) -> Result<&mut Row> {
        self.rows.get_mut(row as usize).ok_or_else(|| Failure::new("a row that was not sent"))
    }

    fn start(&mut self, row: u64, state: State) -> Result<()> {
        self.row(row)?.under_way = Some(state);
        Ok(())
    }

    fn acknowledge(&mut self, row: u64) -> Result<()> {
        let row = self.row(row)?;
        row.acknowledged = row.under_way.take().ok_or_else(|| Failure::new("a row acknowledged twice"))?;
        self.acknowledged += 1;
        Ok(())
    }

    /// Compares the rows as they are with what they may be, and takes this writer's out of `found`.
    ///
    /// # Errors
    /// A lost, torn or strange row.
    pub(super) fn check(
        &mut self,
        found: &mut BTreeMap<Bytes, Cells>,
        under_way: &mut UnderWay,
    ) -> Result<()> {
        for number in 0..ROWS {
            let writer = self.number;
            let cells = found.remove(&key(writer, number));
            let state = match &cells {
                None => State::Absent,
                Some(cells) => state_of(writer, number, cells)?,
            };
            let row = self.row(number)?;
            if row.under_way == Some(state) && state != row.acknowledged {
                under_way.kept += 1;
            } else if state != row.acknowledged {
                return Err(Failure::new(format!(
                    "row {number} of writer {writer} is {state:?}, acknowledged was {:?}, under way {:?}",
                    row.acknowledged, row.under_way
                )));
            } else if row.under_way.is_some() {
                under_way.gone += 1;
            }
            *row = Row { acknowledged: state, under_way: None };
        }
        Ok(())
    }
}

/// The one write that all cells of a row come from.
fn state_of(writer: u64, row: u64, cells: &Cells) -> Result<State> {
    let torn = || {
        let shown: Vec<String> = cells
            .iter()
            .map(|(family, qualifier, value)| {
                format!("{family}:{} {:?}", String::from_utf8_lossy(qualifier), sequence_of(value))
            })
            .collect();
        Failure::new(format!("row {row} of writer {writer} is torn: {}", shown.join(", ")))
    };
    let sequence = cells.first().and_then(|(_, _, value)| sequence_of(value)).ok_or_else(torn)?;
    let expected = CELLS.map(|(family, name)| {
        (family.to_owned(), Bytes::from_static(name.as_bytes()), value(writer, row, sequence, name))
    });
    if cells[..] == expected { Ok(State::Written(sequence)) } else { Err(torn()) }
}

fn sequence_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

fn key(writer: u64, row: u64) -> Bytes {
    format!("w{writer:03}-r{row:04}").into()
}

/// The sequence number, and bytes that follow from all that the cell is.
fn value(writer: u64, row: u64, sequence: u64, qualifier: &str) -> Bytes {
    let mut random =
        Random::new(mix(writer << 40 ^ row << 20 ^ u64::from(qualifier.as_bytes()[0])) ^ sequence);
    let mut value = sequence.to_be_bytes().to_vec();
    while value.len() < VALUE_BYTES {
        value.extend_from_slice(&random.next().to_be_bytes());
    }
    value.into()
}

fn wrap(mutations: Vec<mutation::Mutation>) -> Vec<Mutation> {
    mutations.into_iter().map(|one| Mutation { mutation: Some(one), ..Mutation::default() }).collect()
}

/// Reads the whole table.
///
/// # Errors
/// When the scan fails.
pub(super) async fn scan(connection: &Connection, table: &str) -> Result<BTreeMap<Bytes, Cells>> {
    let path = RpcPath::new("/google.bigtable.v2.Bigtable/ReadRows");
    let request = ReadRowsRequest { table_name: table.to_owned(), ..ReadRowsRequest::default() };
    let mut answers = connection.call(&path, frame(&request)).await?;
    let mut rows = BTreeMap::new();
    let (mut key, mut cells, mut family, mut qualifier) =
        (Bytes::new(), Cells::new(), String::new(), Bytes::new());
    let mut value: Vec<u8> = Vec::new();
    while let Some(answer) = answers.next().await? {
        for chunk in ReadRowsResponse::decode(answer).doing("ReadRows' answer")?.chunks {
            if !chunk.row_key.is_empty() {
                (key, cells) = (chunk.row_key, Cells::new());
            }
            family = chunk.family_name.unwrap_or(family);
            qualifier = chunk.qualifier.unwrap_or(qualifier);
            value.extend_from_slice(&chunk.value);
            if chunk.value_size == 0 {
                cells.push((family.clone(), qualifier.clone(), std::mem::take(&mut value).into()));
            }
            if chunk.row_status == Some(RowStatus::CommitRow(true)) {
                rows.insert(key.clone(), std::mem::take(&mut cells));
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(sequences: [u64; 4]) -> Cells {
        CELLS
            .iter()
            .zip(sequences)
            .map(|(&(family, name), sequence)| {
                (family.to_owned(), Bytes::from(name), value(1, 2, sequence, name))
            })
            .collect()
    }

    fn writer(acknowledged: State, under_way: Option<State>) -> Writer {
        let mut writer = Writer::new(1, "t", Random::new(0));
        writer.rows[2] = Row { acknowledged, under_way };
        writer
    }

    fn check(writer: &mut Writer, row: Option<Cells>) -> Result<UnderWay> {
        let mut found = row.into_iter().map(|cells| (key(1, 2), cells)).collect();
        let mut under_way = UnderWay::default();
        writer.check(&mut found, &mut under_way).map(|()| under_way)
    }

    #[test]
    fn the_acknowledged_state_and_the_one_under_way_are_accepted() {
        let (one, two) = (State::Written(1), State::Written(2));
        assert_eq!(check(&mut writer(one, None), Some(cells([1; 4]))).unwrap().kept, 0);
        assert_eq!(check(&mut writer(one, Some(two)), Some(cells([1; 4]))).unwrap().gone, 1);
        let mut kept = writer(one, Some(two));
        assert_eq!(check(&mut kept, Some(cells([2; 4]))).unwrap().kept, 1);
        assert_eq!(kept.rows[2].acknowledged, two);
        assert_eq!(check(&mut writer(one, Some(State::Absent)), None).unwrap().kept, 1);
    }

    #[test]
    fn a_lost_write_an_older_one_and_a_torn_row_are_found() {
        let two = State::Written(2);
        assert!(check(&mut writer(two, None), None).is_err());
        assert!(check(&mut writer(two, Some(State::Written(3))), Some(cells([1; 4]))).is_err());
        let torn = check(&mut writer(two, Some(State::Written(3))), Some(cells([2, 3, 2, 2]))).unwrap_err();
        assert!(torn.to_string().contains("torn"), "{torn}");
        let mut short = cells([2; 4]);
        short.pop();
        assert!(check(&mut writer(two, None), Some(short)).is_err());
    }
}
