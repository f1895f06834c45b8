//! `claviger logging`: the audit log of keys. Shaped like `gcloud logging`.
//!
//! Invariant: a page without entries is not the end of a list; only a missing token is.

use clap::{Args, Subcommand, ValueEnum};
use claviger_core::{Clock, SystemClock};
use claviger_proto::google::logging::v2::{ListLogEntriesRequest, ListLogsRequest, LogEntry};
use serde_json::Value;

use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::output::{self, Cell, Column, at, plain};
use crate::progress::Progress;

/// Entries asked for at a time.
const PAGE: usize = 1000;
/// Entries that are written, at most, when no limit is given: they are held in memory until then.
const MOST: usize = 100_000;
/// The field whose mention in a filter stands in for `--freshness`.
const TIME: &str = "timestamp";

const COLUMNS: [Column; 6] = [
    Column::new("TIME", Cell::Path("timestamp")),
    Column::new("SEVERITY", Cell::Path("severity")),
    Column::new("METHOD", Cell::Path("protoPayload.methodName")),
    Column::new("RESOURCE", Cell::Path("protoPayload.resourceName")),
    Column::new("PRINCIPAL", Cell::Path("protoPayload.authenticationInfo.principalEmail")),
    Column::new("FOR", Cell::Made(purpose)),
];

const LOG_COLUMNS: [Column; 1] = [Column::new("NAME", Cell::Path("name"))];

const EXAMPLES: &str = "\
Examples:
  claviger logging read
  claviger logging read 'labels.job_id=2026-11-23_03_21_31-1234' --format json
  claviger logging read 'severity>=ERROR' --freshness 7d --limit 20
  claviger logging read 'protoPayload.methodName=Decrypt' --order asc
  claviger logging logs list";

/// `claviger logging ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read entries: who used or changed which key, for what, and what came of it
    #[command(after_help = EXAMPLES)]
    Read(Read),
    /// Logs
    #[command(subcommand)]
    Logs(Logs),
}

/// `claviger logging logs ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Logs {
    /// List the logs of a project that have entries
    List,
}

/// `claviger logging read`.
#[derive(Debug, Args)]
pub(crate) struct Read {
    /// Which entries, in the Logging query language; all when it is left out
    #[arg(value_name = "FILTER", default_value = "")]
    filter: String,
    /// Read at most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The newest first, or the oldest first
    #[arg(long, value_enum, default_value_t = Order::Desc)]
    order: Order,
    /// No older entries than this; counts with --order desc and a filter that does not name timestamp
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = flags::duration)]
    freshness: prost_types::Duration,
}

/// An order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    // Plain comments: help lists the two names on one line then.
    // The newest first.
    Desc,
    // The oldest first.
    Asc,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Read(read) => {
            let entries = entries(session, &read, &SystemClock::new()).await?;
            session.out.list(&entries, &COLUMNS)
        }
        Command::Logs(Logs::List) => logs(session).await,
    }
}

async fn entries(session: &Session, read: &Read, clock: &dyn Clock) -> Result<Vec<LogEntry>, Failure> {
    let _progress = Progress::spinner(session.quiet, "Reading the audit log");
    let most = read.limit.unwrap_or(MOST);
    let mut request = ListLogEntriesRequest {
        resource_names: vec![format!("projects/{}", session.project)],
        filter: filter(read, clock)?,
        order_by: match read.order {
            Order::Desc => "timestamp desc".to_owned(),
            Order::Asc => "timestamp asc".to_owned(),
        },
        ..ListLogEntriesRequest::default()
    };
    let mut logging = session.logging();
    let mut entries = Vec::new();
    while entries.len() < most {
        request.page_size = i32::try_from((most - entries.len()).min(PAGE)).unwrap_or(i32::MAX);
        let page = logging.list_log_entries(request.clone()).await?.into_inner();
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(entries);
        }
    }
    entries.truncate(most);
    if read.limit.is_none() {
        output::say(&format!("These are the first {MOST} entries; there may be more. Narrow the filter."));
    }
    Ok(entries)
}

/// The filter with its bound on age, if one applies.
fn filter(read: &Read, clock: &dyn Clock) -> Result<String, Failure> {
    if read.order == Order::Asc || read.filter.contains(TIME) {
        return Ok(read.filter.clone());
    }
    let age = std::time::Duration::try_from(read.freshness)
        .map_err(|_| Failure::usage("--freshness must not be negative"))?;
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let oldest = claviger_core::Timestamp(clock.now().micros().saturating_sub(age).max(0));
    let (seconds, nanos) = oldest.seconds_and_nanos();
    let bound = format!("{TIME}>=\"{}\"", prost_types::Timestamp { seconds, nanos });
    if read.filter.trim().is_empty() {
        return Ok(bound);
    }
    // After the filter, so that places in errors are those of the filter; on a line of its own, as the filter may end
    // with a comment. AND binds least, so no parentheses are needed.
    Ok(format!("{}\nAND {bound}", read.filter))
}

async fn logs(session: &Session) -> Result<(), Failure> {
    let mut request =
        ListLogsRequest { parent: format!("projects/{}", session.project), ..ListLogsRequest::default() };
    let mut logging = session.logging();
    let mut names = Vec::new();
    loop {
        let page = logging.list_logs(request.clone()).await?.into_inner();
        names.extend(page.log_names);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    names.sort_unstable();
    let values = names.into_iter().map(|name| serde_json::json!({ "name": name })).collect();
    session.out.values(values, &LOG_COLUMNS)
}

/// Why a call was refused, or what the key was used for.
fn purpose(entry: &Value) -> String {
    let field = |path: &str| at(entry, path).map(plain).filter(|text| !text.is_empty());
    field("protoPayload.status.message")
        .or_else(|| field("protoPayload.metadata.resource"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use claviger_core::{ManualClock, Timestamp};

    use super::*;
    use crate::args::{self, Cli};

    fn read(words: &[&str]) -> Read {
        let words = ["claviger", "logging", "read"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            args::Command::Logging(Command::Read(read)) => read,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn age_is_bounded_unless_the_filter_or_the_order_says_otherwise() {
        let clock = ManualClock::at(Timestamp(1_700_000_000_500_000));
        let filter = |words: &[&str]| filter(&read(words), &clock).unwrap();
        assert_eq!(filter(&[]), "timestamp>=\"2023-11-13T22:13:20.500Z\"");
        let bounded = filter(&["a OR b -- why", "--freshness", "1h"]);
        assert_eq!(bounded, "a OR b -- why\nAND timestamp>=\"2023-11-14T21:13:20.500Z\"");
        assert_eq!(filter(&["a", "--order", "asc"]), "a");
        assert_eq!(filter(&["timestamp<\"2020-01-01\""]), "timestamp<\"2020-01-01\"");
        assert_eq!(filter(&["", "--freshness", "40000w"]), "timestamp>=\"1970-01-01T00:00:00Z\"");
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in ["read a b", "read --order up", "read --freshness soon", "read --limit -1", "logs", ""] {
            let words = ["claviger", "logging"].into_iter().chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).map(|_| line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
