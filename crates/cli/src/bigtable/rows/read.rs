//! `claviger bigtable rows read` and `rows count`.
//!
//! Invariant: rows are written as they come. JSON and YAML are lists of `google.bigtable.v2.Row`, where bytes
//! are base64.

use std::fmt::Write as _;

use clap::Args;
use claviger_proto::google::bigtable::v2::{ReadRowsRequest, Row};
use tonic::Streaming;

use super::chunks::Rows;
use super::filter::{self, Cells, Which};
use crate::bigtable::columns::shown;
use crate::bigtable::tables;
use crate::client::Session;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::progress::Progress;

/// The line between rows, as `cbt` draws it.
const LINE: &str = "----------------------------------------\n";
/// How wide a column's name is before its time.
const NAME_CHARS: usize = 40;
/// Text is collected to this size before it is written, bytes.
const BUFFER: usize = 32 * 1024;
/// A count is shown after so many rows.
const COUNT_STEP: u64 = 1_000;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger bigtable rows read sightings wren robin --instance aviary
  claviger bigtable rows read sightings --instance aviary --prefix wr --limit 10
  claviger bigtable rows read sightings --instance aviary --start a --end m \\
      --column f:song --cells-per-column 1 --format json";

/// `claviger bigtable rows read`.
#[derive(Debug, Args)]
pub(crate) struct Read {
    /// The table: an id, or its full name
    #[arg(value_name = "TABLE")]
    table: String,
    /// The keys of the rows; none is a range, or all
    #[arg(value_name = "KEY", conflicts_with_all = ["start", "end", "prefix"])]
    keys: Vec<String>,
    #[command(flatten)]
    at: crate::names::InInstance,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    cells: Cells,
    /// Read at most so many rows
    #[arg(long, visible_alias = "count", value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    limit: Option<i64>,
    /// From the last key to the first
    #[arg(long)]
    reversed: bool,
    /// The app profile that the request goes through
    #[arg(long, value_name = "ID")]
    app_profile: Option<String>,
}

/// `claviger bigtable rows count`.
#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    one: tables::One,
    #[command(flatten)]
    which: Which,
}

/// A stream of rows.
struct Reader {
    stream: Streaming<claviger_proto::google::bigtable::v2::ReadRowsResponse>,
    rows: Rows,
    ready: std::collections::VecDeque<Row>,
}

impl Reader {
    async fn open(session: &Session, request: ReadRowsRequest) -> Result<Self, Failure> {
        let stream = session.rows().read_rows(request).await?.into_inner();
        Ok(Self { stream, rows: Rows::default(), ready: std::collections::VecDeque::new() })
    }

    async fn next(&mut self) -> Result<Option<Row>, Failure> {
        let wrong = |why: String| Failure::local(format!("the server's reply cannot be understood: {why}"));
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some(reply) = self.stream.message().await? else {
                return self.rows.end().map(|()| None).map_err(wrong);
            };
            for chunk in reply.chunks {
                self.ready.extend(self.rows.push(chunk).map_err(wrong)?);
            }
        }
    }
}

/// Reads rows.
///
/// # Errors
/// What the server refuses; standard output that cannot be written.
pub(super) async fn run(session: &Session, options: &Read) -> Result<(), Failure> {
    let request = ReadRowsRequest {
        table_name: options.at.table(&session.project, &options.table)?.to_string(),
        app_profile_id: options.app_profile.clone().unwrap_or_default(),
        rows: options.which.rows(&options.keys)?,
        filter: filter::of_read(&options.which, &options.cells)?,
        rows_limit: options.limit.unwrap_or_default(),
        reversed: options.reversed,
        ..Default::default()
    };
    let mut reader = Reader::open(session, request).await?;
    let mut writer = Writer::new(session.out.format);
    while let Some(row) = reader.next().await? {
        writer.row(&row)?;
    }
    writer.end()
}

/// Counts rows.
///
/// # Errors
/// As [`run`].
pub(super) async fn count(session: &Session, options: &Count) -> Result<(), Failure> {
    let request = ReadRowsRequest {
        table_name: options.one.name(session)?.to_string(),
        rows: options.which.rows(&[])?,
        filter: filter::of_count(&options.which)?,
        ..Default::default()
    };
    let progress = Progress::spinner(session.quiet, "Counting");
    let mut reader = Reader::open(session, request).await?;
    let mut count: u64 = 0;
    while reader.next().await?.is_some() {
        count += 1;
        if count.is_multiple_of(COUNT_STEP) {
            progress.message(format!("Counting: {count} rows"));
        }
    }
    drop(progress);
    output::write_text(&format!("{count}\n"))
}

/// Writes rows in a format, a buffer at a time.
struct Writer {
    format: Format,
    text: String,
    rows: u64,
}

impl Writer {
    fn new(format: Format) -> Self {
        Self { format, text: String::new(), rows: 0 }
    }

    fn row(&mut self, row: &Row) -> Result<(), Failure> {
        match self.format {
            Format::Table => {
                self.text.push_str(LINE);
                plain(row, &mut self.text);
            }
            Format::Json => {
                let json = output::json(&output::value(row)?);
                self.text.push_str(if self.rows == 0 { "[\n" } else { ",\n" });
                let indented: Vec<_> = json.lines().map(|line| format!("  {line}")).collect();
                self.text.push_str(&indented.join("\n"));
            }
            Format::Yaml => {
                let value = serde_json::Value::Array(vec![output::value(row)?]);
                self.text.push_str(&output::yaml(&value)?);
            }
        }
        self.rows += 1;
        if self.text.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), Failure> {
        match (self.format, self.rows) {
            (Format::Json | Format::Yaml, 0) => self.text.push_str("[]\n"),
            (Format::Json, _) => self.text.push_str("\n]\n"),
            _ => {}
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Failure> {
        output::write_text(&std::mem::take(&mut self.text))
    }
}

/// A row for people.
fn plain(row: &Row, text: &mut String) {
    let _ = writeln!(text, "{}", shown(&row.key));
    for family in &row.families {
        for column in &family.columns {
            for cell in &column.cells {
                let name = format!("{}:{}", family.name, shown(&column.qualifier));
                let _ = write!(text, "  {name:<NAME_CHARS$} @ {}", time(cell.timestamp_micros));
                if !cell.labels.is_empty() {
                    let _ = write!(text, " [{}]", cell.labels.join(", "));
                }
                let _ = writeln!(text, "\n    \"{}\"", shown(&cell.value).replace('"', "\\\""));
            }
        }
    }
}

fn time(micros: i64) -> String {
    let (seconds, nanos) = claviger_core::Timestamp(micros).seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }.to_string()
}

#[cfg(test)]
mod tests {
    use claviger_proto::google::bigtable::v2::{Cell, Column, Family};

    use super::*;

    fn row(key: &str) -> Row {
        let cell =
            Cell { timestamp_micros: 1_700_000_000_000_000, value: "a\"b\u{0}".into(), ..Default::default() };
        let column = Column { qualifier: "q".into(), cells: vec![cell] };
        Row { key: key.to_owned().into(), families: vec![Family { name: "f".into(), columns: vec![column] }] }
    }

    fn written(format: Format, rows: &[Row]) -> String {
        let mut writer = Writer::new(format);
        for row in rows {
            writer.row(row).unwrap();
        }
        match (format, writer.rows) {
            (Format::Json | Format::Yaml, 0) => "[]\n".to_owned(),
            (Format::Json, _) => format!("{}\n]\n", writer.text),
            _ => writer.text,
        }
    }

    #[test]
    fn rows_for_people_look_as_cbt_writes_them() {
        let text = written(Format::Table, &[row("wren")]);
        let spaces = " ".repeat(NAME_CHARS - 3);
        assert_eq!(text, format!("{LINE}wren\n  f:q{spaces} @ 2023-11-14T22:13:20Z\n    \"a\\\"b\\x00\"\n"));
    }

    #[test]
    fn streamed_json_and_yaml_are_lists_of_rows() {
        for rows in [vec![], vec![row("a")], vec![row("a"), row("b")]] {
            let json: Vec<serde_json::Value> = serde_json::from_str(&written(Format::Json, &rows)).unwrap();
            let yaml: Vec<serde_json::Value> =
                serde_yaml_ng::from_str(&written(Format::Yaml, &rows)).unwrap();
            assert_eq!(json, yaml);
            assert_eq!(json.len(), rows.len());
        }
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json, &[row("wren")])).unwrap();
        assert_eq!(json[0]["key"], "d3Jlbg==");
        assert_eq!(json[0]["families"][0]["columns"][0]["cells"][0]["timestampMicros"], "1700000000000000");
    }
}
