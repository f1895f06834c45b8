//! `claviger bigtable rows import`: the lines of a CSV file become rows.
//!
//! Invariant: a line whose write was not acknowledged is counted as failed. Cells carry one time, that of the
//! import's start, so that a batch that is sent again writes the same cells and no further versions.

mod lines;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use claviger_core::{Clock, SystemClock};
use claviger_proto::google::bigtable::v2::MutateRowsRequest;
use claviger_proto::google::bigtable::v2::mutate_rows_request::Entry;
use claviger_proto::google::rpc::Status;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tonic::Code;

use self::lines::{Lines, Shape};
use crate::bigtable::tables;
use crate::client::Session;
use crate::failure::{Failure, code_name_of};
use crate::output::say;
use crate::progress::Progress;

/// How often a batch is sent when its rows meet a passing failure.
const ATTEMPTS: u32 = 6;
/// The wait before a batch is sent again; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The most mutations of one MutateRows; the API takes no more.
const MAX_MUTATIONS: usize = 100_000;
/// The most bytes of one batch.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// How many failures are told in words.
const TOLD_FAILURES: usize = 5;
/// After so many failures the rest of the file is not tried.
const MAX_FAILURES: u64 = 1_000;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger bigtable rows import flights flights.csv --instance aviary \\
      --key-columns carrier,flight --family f
  zcat flights.csv.gz | claviger bigtable rows import flights - --instance aviary \\
      --key-columns year,month,day --separator '#' --family f --null NA

The first line names the columns. A row's key is its key columns, joined; every
other column becomes a cell FAMILY:COLUMN. Empty fields make no cell.";

/// `claviger bigtable rows import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    one: tables::One,
    /// The CSV file; '-' is standard input
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// The columns that make the row's key, parted by commas
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', required = true)]
    key_columns: Vec<String>,
    /// What stands between them in the key
    #[arg(long, value_name = "TEXT", default_value = "#")]
    separator: String,
    /// The column family of the cells
    #[arg(long, value_name = "FAMILY")]
    family: String,
    /// Only these columns become cells, parted by commas [default: all but the key's]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
    /// Fields with this text make no cell, as empty ones
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// What parts the fields
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// Rows in one request
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// The app profile that the requests go through
    #[arg(long, value_name = "ID")]
    app_profile: Option<String>,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err(format!("'{text}' is not one ASCII character")),
    }
}

/// What has come of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    rows: u64,
    cells: u64,
    failed: u64,
    /// The first failures, in the order of their lines.
    told: Vec<(u64, Status)>,
}

/// What came of one batch.
struct Outcome {
    rows: u64,
    cells: u64,
    /// The status of each row that failed, with the line it was on.
    failed: Vec<(u64, Status)>,
}

/// Rows on their way, with their lines in the file.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<Entry>,
    lines: Vec<u64>,
    mutations: usize,
    bytes: usize,
}

/// Imports the file.
///
/// # Errors
/// A file that is no such CSV; what the server refuses; rows that failed.
pub(super) async fn run(session: &Session, options: &Import) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let table = options.one.name(session)?.to_string();
    let (file, length) = open(&options.file)?;
    // Bigtable keeps milliseconds.
    let timestamp_micros = clock.now().micros() / 1_000 * 1_000;
    let shape = Shape {
        key_columns: &options.key_columns,
        separator: &options.separator,
        family: &options.family,
        columns: &options.columns,
        null: options.null.as_deref(),
        delimiter: options.delimiter,
        timestamp_micros,
    };
    let mut lines = Lines::open(file, &shape).map_err(|why| named(&options.file, &why))?;
    let name = options.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let progress = match length {
        Some(length) => Progress::bytes(session.quiet, length, format!("Importing {name}")),
        None => Progress::spinner(session.quiet, "Importing"),
    };
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    let mut more = true;
    while more {
        let batch;
        (batch, more) = next_batch(&mut lines, options).map_err(|why| named(&options.file, &why))?;
        more = more && tally.failed < MAX_FAILURES;
        if !batch.entries.is_empty() {
            let request = MutateRowsRequest {
                table_name: table.clone(),
                app_profile_id: options.app_profile.clone().unwrap_or_default(),
                entries: batch.entries,
                ..Default::default()
            };
            under_way.push(Box::pin(send(session, &clock, request, batch.lines)));
        }
        while under_way.len() >= options.parallel as usize || (!more && !under_way.is_empty()) {
            if let Some(outcome) = under_way.next().await {
                match outcome {
                    Ok(outcome) => tally.add(outcome),
                    Err(failure) => {
                        drop(progress);
                        say(&format!("Stopped: {} rows were written before this.", tally.rows));
                        return Err(failure);
                    }
                }
            }
        }
        progress.position(lines.position());
        if length.is_none() {
            progress.message(format!("Importing: {} rows", tally.rows));
        }
    }
    drop(progress);
    tally.report(clock.elapsed(), &table)
}

fn open(path: &Path) -> Result<(Box<dyn std::io::Read>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let unreadable = |error| Failure::local(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    Ok((Box::new(file), Some(length)))
}

fn named(path: &Path, why: &str) -> Failure {
    Failure::local(format!("{}: {why}", path.display()))
}

/// The rows of the next request, and whether there are more lines.
fn next_batch(lines: &mut Lines, options: &Import) -> Result<(Batch, bool), String> {
    let mut batch = Batch::default();
    while batch.entries.len() < options.batch as usize
        && batch.mutations < MAX_MUTATIONS / 2
        && batch.bytes < MAX_BATCH_BYTES
    {
        let Some(line) = lines.next()? else { return Ok((batch, false)) };
        if line.entry.mutations.len() > MAX_MUTATIONS / 2 {
            return Err(format!("line {} has more than {} cells", line.number, MAX_MUTATIONS / 2));
        }
        if !line.entry.mutations.is_empty() {
            batch.mutations += line.entry.mutations.len();
            batch.bytes += line.bytes;
            batch.entries.push(line.entry);
            batch.lines.push(line.number);
        }
    }
    Ok((batch, true))
}

/// Whether a failure may pass by itself.
fn passes(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Aborted | Code::DeadlineExceeded)
}

/// Sends a batch, and again what met a passing failure.
async fn send(
    session: &Session,
    clock: &SystemClock,
    mut request: MutateRowsRequest,
    mut lines: Vec<u64>,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome { rows: 0, cells: 0, failed: Vec::new() };
    let mut pause = FIRST_WAIT;
    for attempt in 1.. {
        let last = attempt == ATTEMPTS;
        let statuses = match statuses(session, &request).await {
            Ok(statuses) => statuses,
            Err(status) if passes(status.code()) && !last => {
                clock.sleep(pause).await;
                pause *= 2;
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        let mut again = (Vec::new(), Vec::new());
        for ((entry, line), status) in
            std::mem::take(&mut request.entries).into_iter().zip(lines).zip(statuses)
        {
            match status {
                status if status.code == Code::Ok as i32 => {
                    outcome.rows += 1;
                    outcome.cells += entry.mutations.len() as u64;
                }
                status if passes(Code::from_i32(status.code)) && !last => {
                    again.0.push(entry);
                    again.1.push(line);
                }
                status => outcome.failed.push((line, status)),
            }
        }
        (request.entries, lines) = again;
        if request.entries.is_empty() {
            break;
        }
        clock.sleep(pause).await;
        pause *= 2;
    }
    Ok(outcome)
}

/// The status of each entry. One that the server says nothing of has failed in passing.
async fn statuses(session: &Session, request: &MutateRowsRequest) -> Result<Vec<Status>, tonic::Status> {
    let silent = Status {
        code: Code::Unavailable as i32,
        message: "the server did not say what became of the row".into(),
        details: Vec::new(),
    };
    let mut statuses = vec![silent; request.entries.len()];
    let mut stream = session.rows().mutate_rows(request.clone()).await?.into_inner();
    while let Some(reply) = stream.message().await? {
        for entry in reply.entries {
            let slot = usize::try_from(entry.index).ok().and_then(|index| statuses.get_mut(index));
            if let Some(slot) = slot {
                *slot = entry.status.unwrap_or_default();
            }
        }
    }
    Ok(statuses)
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.rows += outcome.rows;
        self.cells += outcome.cells;
        self.failed += outcome.failed.len() as u64;
        self.told.extend(outcome.failed);
        self.told.sort_by_key(|(line, _)| *line);
        self.told.truncate(TOLD_FAILURES);
    }

    fn report(&self, elapsed: Duration, table: &str) -> Result<(), Failure> {
        let seconds = elapsed.as_secs_f64();
        if self.failed == 0 {
            say(&format!(
                "Wrote {} rows with {} cells to [{table}] in {seconds:.1} s.",
                self.rows, self.cells
            ));
            return Ok(());
        }
        let mut text = format!("{} rows were not written, {} were:", self.failed, self.rows);
        for (line, status) in &self.told {
            let _ = write!(text, "\n  line {line}: {} ({})", status.message, code_name_of(status.code));
        }
        if self.failed > self.told.len() as u64 {
            text.push_str("\n  ...");
        }
        if self.failed >= MAX_FAILURES {
            text.push_str("\n  the rest of the file was not tried");
        }
        Err(Failure::advised(
            text,
            "mend what is wrong and import again: rows that were written are written as before",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_are_told_with_their_lines_and_the_rest_counted() {
        let status = |message: &str| Status { code: 3, message: message.into(), details: Vec::new() };
        let mut tally = Tally::default();
        tally.add(Outcome {
            rows: 4,
            cells: 8,
            failed: (1..=7).rev().map(|line| (line, status("no family"))).collect(),
        });
        let text = tally.report(Duration::from_secs(1), "t").unwrap_err().text();
        assert!(
            text.starts_with(
                "error: 7 rows were not written, 4 were:\n  line 1: no family (INVALID_ARGUMENT)\n"
            ),
            "{text}"
        );
        assert!(text.contains("line 5: ") && !text.contains("line 6: "), "{text}");
        assert!(text.contains("  ...\n"));
        assert!(Tally::default().report(Duration::ZERO, "t").is_ok());
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!(delimiter(";"), Ok(b';'));
        assert_eq!(delimiter("\\t"), Ok(b'\t'));
        assert!(delimiter("").is_err() && delimiter("ab").is_err() && delimiter("é").is_err());
    }
}
