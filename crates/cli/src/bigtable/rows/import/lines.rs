//! Lines of a CSV file as entries of MutateRows.
//!
//! Invariant: a line with too few or too many fields, or an empty key, is an error that names the line.

use std::io::Read;

use bytes::Bytes;
use claviger_proto::google::bigtable::v2::Mutation;
use claviger_proto::google::bigtable::v2::mutate_rows_request::Entry;
use claviger_proto::google::bigtable::v2::mutation::{Mutation as Kind, SetCell};
use csv::{ByteRecord, Reader, ReaderBuilder};

/// How large pieces of the file are read, bytes.
const BUFFER: usize = 256 * 1024;

/// What rows are made of lines.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// The columns of the key, in its order.
    pub(super) key_columns: &'a [String],
    /// What stands between them.
    pub(super) separator: &'a str,
    /// The family of the cells.
    pub(super) family: &'a str,
    /// The columns of the cells; none is all but the key's.
    pub(super) columns: &'a [String],
    /// The text that makes no cell.
    pub(super) null: Option<&'a str>,
    /// What parts fields.
    pub(super) delimiter: u8,
    /// The time of every cell.
    pub(super) timestamp_micros: i64,
}

/// A line as a row.
#[derive(Debug)]
pub(super) struct Line {
    /// The row; without mutations when all fields are empty.
    pub(super) entry: Entry,
    /// The line's number in the file, from 1.
    pub(super) number: u64,
    /// About how many bytes the row has.
    pub(super) bytes: usize,
}

/// The lines of a file behind its header.
pub(super) struct Lines {
    reader: Reader<Box<dyn Read>>,
    record: ByteRecord,
    key: Vec<usize>,
    cells: Vec<(usize, Bytes)>,
    separator: String,
    family: String,
    null: Option<String>,
    timestamp_micros: i64,
}

impl Lines {
    /// Reads the header and finds the columns.
    ///
    /// # Errors
    /// A sentence: no header, or a column that is not there or twice.
    pub(super) fn open(file: Box<dyn Read>, shape: &Shape<'_>) -> Result<Self, String> {
        let mut reader =
            ReaderBuilder::new().delimiter(shape.delimiter).buffer_capacity(BUFFER).from_reader(file);
        let header = reader.byte_headers().map_err(|error| error.to_string())?.clone();
        // Spreadsheets put a byte-order mark before the first name.
        let names: Vec<&[u8]> =
            header.iter().map(|name| name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name)).collect();
        if names.iter().all(|name| name.is_empty()) {
            return Err("the first line must name the columns".into());
        }
        let find = |wanted: &String| {
            let mut at = names.iter().enumerate().filter(|(_, name)| **name == wanted.as_bytes());
            match (at.next(), at.next()) {
                (Some((index, _)), None) => Ok(index),
                (Some(_), Some(_)) => Err(format!("two columns are named '{wanted}'")),
                (None, _) => {
                    let known: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
                    Err(format!("there is no column '{wanted}'; there are {}", known.join(", ")))
                }
            }
        };
        let key = shape.key_columns.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let chosen = if shape.columns.is_empty() {
            (0..names.len()).filter(|index| !key.contains(index)).collect()
        } else {
            shape.columns.iter().map(find).collect::<Result<Vec<_>, _>>()?
        };
        let cells = chosen
            .into_iter()
            .filter_map(|index| names.get(index).map(|name| (index, Bytes::copy_from_slice(name))))
            .collect();
        Ok(Self {
            reader,
            record: ByteRecord::new(),
            key,
            cells,
            separator: shape.separator.to_owned(),
            family: shape.family.to_owned(),
            null: shape.null.map(str::to_owned),
            timestamp_micros: shape.timestamp_micros,
        })
    }

    /// The next line.
    ///
    /// # Errors
    /// A sentence that names the line.
    pub(super) fn next(&mut self) -> Result<Option<Line>, String> {
        if !self.reader.read_byte_record(&mut self.record).map_err(|error| error.to_string())? {
            return Ok(None);
        }
        let number = self.record.position().map_or(0, csv::Position::line);
        let mut key = Vec::new();
        for (place, index) in self.key.iter().enumerate() {
            if place > 0 {
                key.extend_from_slice(self.separator.as_bytes());
            }
            key.extend_from_slice(self.record.get(*index).unwrap_or_default());
        }
        if key.is_empty() {
            return Err(format!("line {number}: the key columns are empty"));
        }
        let mut bytes = key.len();
        let mut mutations = Vec::with_capacity(self.cells.len());
        for (index, qualifier) in &self.cells {
            let value = self.record.get(*index).unwrap_or_default();
            if value.is_empty() || self.null.as_ref().is_some_and(|null| null.as_bytes() == value) {
                continue;
            }
            bytes += value.len() + qualifier.len() + self.family.len();
            let cell = SetCell {
                family_name: self.family.clone(),
                column_qualifier: qualifier.clone(),
                timestamp_micros: self.timestamp_micros,
                value: Bytes::copy_from_slice(value),
            };
            mutations.push(Mutation { mutation: Some(Kind::SetCell(cell)), ..Default::default() });
        }
        let entry = Entry { row_key: key.into(), mutations, ..Default::default() };
        Ok(Some(Line { entry, number, bytes }))
    }

    /// How many bytes of the file have been read.
    pub(super) fn position(&self) -> u64 {
        self.reader.position().byte()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(
        text: &'static str,
        key: &[&str],
        columns: &[&str],
        null: Option<&str>,
    ) -> Result<Lines, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (key_columns, columns) = (owned(key), owned(columns));
        let shape = Shape {
            key_columns: &key_columns,
            separator: "#",
            family: "f",
            columns: &columns,
            null,
            delimiter: b',',
            timestamp_micros: 1_000,
        };
        Lines::open(Box::new(text.as_bytes()), &shape)
    }

    fn told(line: &Line) -> String {
        let cells = line.entry.mutations.iter().filter_map(|mutation| match &mutation.mutation {
            Some(Kind::SetCell(cell)) => Some(format!(
                "{}:{}={}@{}",
                cell.family_name,
                String::from_utf8_lossy(&cell.column_qualifier),
                String::from_utf8_lossy(&cell.value),
                cell.timestamp_micros
            )),
            _ => None,
        });
        let key = String::from_utf8_lossy(&line.entry.row_key).into_owned();
        std::iter::once(key).chain(cells).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn key_columns_are_joined_and_the_others_are_cells() {
        let mut lines = lines(
            "\u{feff}bird,song,eggs,year\nwren,\"long, loud\",6,2026\nowl,NA,,2027\n",
            &["year", "bird"],
            &[],
            Some("NA"),
        )
        .unwrap();
        let first = lines.next().unwrap().unwrap();
        assert_eq!(told(&first), "2026#wren f:song=long, loud@1000 f:eggs=6@1000");
        let second = lines.next().unwrap().unwrap();
        assert_eq!((told(&second).as_str(), second.number), ("2027#owl", 3));
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn chosen_columns_are_the_only_cells() {
        let mut lines = lines("a,b,c\n1,2,3\n", &["a"], &["c", "a"], None).unwrap();
        assert_eq!(told(&lines.next().unwrap().unwrap()), "1 f:c=3@1000 f:a=1@1000");
    }

    #[test]
    fn wrong_files_are_named_by_column_or_line() {
        let why = |text, key: &[&str]| lines(text, key, &[], None).err().unwrap();
        assert!(why("a,b\n", &["z"]).contains("there is no column 'z'; there are a, b"));
        assert!(why("a,a\n", &["a"]).contains("two columns are named 'a'"));
        assert!(why("", &["a"]).contains("must name the columns"));
        let mut short = lines("a,b\n1,2\n3\n", &["a"], &[], None).unwrap();
        short.next().unwrap();
        assert!(short.next().unwrap_err().contains('3'));
        let mut empty = lines("a,b\n,2\n", &["a"], &[], None).unwrap();
        assert!(empty.next().unwrap_err().contains("line 2: the key columns are empty"));
    }
}
