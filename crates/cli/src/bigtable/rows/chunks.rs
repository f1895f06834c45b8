//! Puts rows together from the chunks of ReadRows.
//!
//! Invariant: only committed rows come out; a stream that breaks the rules is an error, never a wrong row.
//!
//! ```text
//! row   = 1*cell commit / 1*cell reset        what a reset follows never was
//! cell  = chunk *chunk                        value_size > 0: the value goes on in the next chunk
//! chunk : a key starts a row; a family starts with a qualifier; what is left out is as before
//! ```

use bytes::{Bytes, BytesMut};
use claviger_proto::google::bigtable::v2::read_rows_response::CellChunk;
use claviger_proto::google::bigtable::v2::read_rows_response::cell_chunk::RowStatus;
use claviger_proto::google::bigtable::v2::{Cell, Column, Family, Row};

/// The row under way.
#[derive(Debug, Default)]
pub(super) struct Rows {
    row: Option<Row>,
    /// The cell whose value goes on.
    open: Option<(Cell, BytesMut)>,
}

impl Rows {
    /// Takes the next chunk; gives a row when it was the last of one.
    ///
    /// # Errors
    /// A sentence, when the chunk cannot follow what came before.
    pub(super) fn push(&mut self, chunk: CellChunk) -> Result<Option<Row>, String> {
        if matches!(chunk.row_status, Some(RowStatus::ResetRow(true))) {
            *self = Self::default();
            return Ok(None);
        }
        if !chunk.row_key.is_empty() {
            match &self.row {
                None => self.row = Some(Row { key: chunk.row_key, families: Vec::new() }),
                Some(row) if row.key == chunk.row_key => {}
                Some(_) => return Err("a row started before the one before it was committed".into()),
            }
        }
        let row = self.row.as_mut().ok_or("a cell came without a row key")?;
        let (cell, mut value) = match self.open.take() {
            Some(open) => open,
            None => {
                start(row, chunk.family_name, chunk.qualifier)?;
                let cell = Cell {
                    timestamp_micros: chunk.timestamp_micros,
                    labels: chunk.labels,
                    value: Bytes::new(),
                };
                (cell, BytesMut::new())
            }
        };
        if chunk.value_size > 0 {
            if matches!(chunk.row_status, Some(RowStatus::CommitRow(true))) {
                return Err("a row was committed in the middle of a value".into());
            }
            value.extend_from_slice(&chunk.value);
            self.open = Some((cell, value));
            return Ok(None);
        }
        let value = if value.is_empty() {
            chunk.value
        } else {
            value.extend_from_slice(&chunk.value);
            value.freeze()
        };
        let column = row.families.last_mut().and_then(|family| family.columns.last_mut());
        column.ok_or("a cell came without a column")?.cells.push(Cell { value, ..cell });
        if matches!(chunk.row_status, Some(RowStatus::CommitRow(true))) {
            Ok(self.row.take())
        } else {
            Ok(None)
        }
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// A sentence, when it ended within a row.
    pub(super) fn end(&self) -> Result<(), String> {
        if self.row.is_some() { Err("the stream ended in the middle of a row".into()) } else { Ok(()) }
    }
}

/// Opens the family and the column of a new cell.
fn start(row: &mut Row, family: Option<String>, qualifier: Option<Bytes>) -> Result<(), String> {
    let new_family = family.is_some();
    if new_family && qualifier.is_none() {
        return Err("a family came without a qualifier".into());
    }
    if let Some(name) = family
        && row.families.last().is_none_or(|last| last.name != name)
    {
        row.families.push(Family { name, columns: Vec::new() });
    }
    let columns = &mut row.families.last_mut().ok_or("a cell came without a family")?.columns;
    if let Some(qualifier) = qualifier
        && columns.last().is_none_or(|last| last.qualifier != qualifier)
    {
        columns.push(Column { qualifier, cells: Vec::new() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(key: &str, column: Option<(&str, &str)>, value: &str) -> CellChunk {
        CellChunk {
            row_key: key.to_owned().into(),
            family_name: column.map(|(family, _)| family.to_owned()),
            qualifier: column.map(|(_, qualifier)| qualifier.to_owned().into()),
            timestamp_micros: 1_000,
            value: value.to_owned().into(),
            ..Default::default()
        }
    }

    fn committed(mut chunk: CellChunk) -> CellChunk {
        chunk.row_status = Some(RowStatus::CommitRow(true));
        chunk
    }

    fn goes_on(mut chunk: CellChunk) -> CellChunk {
        chunk.value_size = 6;
        chunk
    }

    #[test]
    fn a_row_has_its_families_columns_and_cells_in_order() {
        let mut rows = Rows::default();
        assert_eq!(rows.push(chunk("k", Some(("f", "a")), "1")), Ok(None));
        assert_eq!(rows.push(chunk("", None, "0")), Ok(None));
        let mut same_family = chunk("", Some(("f", "b")), "2");
        same_family.family_name = None;
        assert_eq!(rows.push(same_family), Ok(None));
        let row = rows.push(committed(chunk("", Some(("g", "a")), "3"))).unwrap().unwrap();
        let told: Vec<_> = row
            .families
            .iter()
            .flat_map(|f| f.columns.iter().map(move |c| (f.name.as_str(), &c.qualifier[..], c.cells.len())))
            .collect();
        assert_eq!(told, [("f", &b"a"[..], 2), ("f", b"b", 1), ("g", b"a", 1)]);
        assert!(rows.end().is_ok());
    }

    #[test]
    fn a_value_in_pieces_is_one_value() {
        let mut rows = Rows::default();
        assert_eq!(rows.push(goes_on(chunk("k", Some(("f", "a")), "ab"))), Ok(None));
        assert_eq!(rows.push(goes_on(chunk("", None, "cd"))), Ok(None));
        let row = rows.push(committed(chunk("", None, "ef"))).unwrap().unwrap();
        assert_eq!(row.families[0].columns[0].cells[0].value, "abcdef");
        assert_eq!(row.families[0].columns[0].cells[0].timestamp_micros, 1_000);
    }

    #[test]
    fn a_reset_row_never_was() {
        let mut rows = Rows::default();
        rows.push(goes_on(chunk("k", Some(("f", "a")), "ab"))).unwrap();
        let reset = CellChunk { row_status: Some(RowStatus::ResetRow(true)), ..Default::default() };
        assert_eq!(rows.push(reset), Ok(None));
        let row = rows.push(committed(chunk("k", Some(("f", "a")), "x"))).unwrap().unwrap();
        assert_eq!(row.families[0].columns[0].cells[0].value, "x");
    }

    #[test]
    fn a_stream_that_breaks_the_rules_is_no_row() {
        let mut rows = Rows::default();
        assert!(rows.push(chunk("", None, "v")).is_err());
        rows.push(chunk("k", Some(("f", "a")), "v")).unwrap();
        assert!(rows.end().is_err());
        assert!(rows.push(chunk("other", Some(("f", "a")), "v")).is_err());
        let mut no_qualifier = chunk("k", Some(("g", "a")), "v");
        no_qualifier.qualifier = None;
        assert!(rows.push(no_qualifier).is_err());
        assert!(Rows::default().push(committed(goes_on(chunk("k", Some(("f", "a")), "v")))).is_err());
    }
}
