//! `claviger billing`: what keys cost by the public price model, from the versions that there are and from the audit
//! log's uses of them.
//!
//! Invariant: every amount comes from a count and a price that the report shows. Refused operations are not counted.

mod account;
mod prices;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use claviger_core::{Clock, SystemClock, Timestamp};
use claviger_proto::google::cloud::kms::v1::{
    ListCryptoKeyVersionsRequest, ListCryptoKeysRequest, ListKeyRingsRequest,
};
use claviger_proto::google::cloud::location::ListLocationsRequest;
use claviger_proto::google::logging::v2::ListLogEntriesRequest;
use serde_json::Value;

use crate::client::Session;
use crate::failure::Failure;
use crate::kms::all_pages;
use crate::output::{self, Cell, Column, at, plain};
use crate::progress::Progress;
use account::{Account, Planned};
use prices::Prices;

/// Entries asked for at a time.
const PAGE: i32 = 1000;
/// What counts as an operation of a key.
const OPERATIONS: [&str; 10] = [
    "Encrypt",
    "Decrypt",
    "RawEncrypt",
    "RawDecrypt",
    "AsymmetricSign",
    "AsymmetricDecrypt",
    "MacSign",
    "MacVerify",
    "Decapsulate",
    "GetPublicKey",
];
const MICROS_PER_DAY: i64 = 86_400_000_000;

const COLUMNS: [Column; 8] = [
    Column::new("KEY", Cell::Path("key")),
    Column::new("LEVEL", Cell::Path("protectionLevel")),
    Column::new("SERVICE", Cell::Path("service")),
    Column::new("RESOURCE", Cell::Path("resource")),
    Column::new("VERSIONS", Cell::Path("activeVersions")),
    Column::new("VERSION MONTHS", Cell::Made(months)),
    Column::new("OPERATIONS", Cell::Path("operations")),
    Column::new("COST", Cell::Made(cost)),
];

const EXAMPLES: &str = "\
Examples:
  claviger billing report
  claviger billing report --days 7 --by resource
  claviger billing report --prices prices.json --format json
  claviger billing report --forecast
  claviger billing report --forecast --add-tables 200 --add-clusters 3

A file of prices names what differs from the public list prices:
  {\"currency\": \"EUR\", \"versionMonth\": {\"HSM\": 0.9}, \"per10000Operations\": {\"SOFTWARE\": 0.02}}";

/// `claviger billing ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Report what keys cost: active versions by the month, and operations
    #[command(after_help = EXAMPLES)]
    Report(Report),
}

/// `claviger billing report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The days before now that are reported
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3660))]
    days: u16,
    /// What a line is about
    #[arg(long, value_enum, default_value_t = By::Key)]
    by: By,
    /// Prices that differ from the public ones, as JSON or YAML
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// What the next month will cost if all goes on as in the time reported
    #[arg(long)]
    forecast: bool,
    /// And so many tables under a key of the customer more
    #[arg(long, value_name = "N", requires = "forecast", default_value_t = 0)]
    add_tables: u32,
    /// Each in so many clusters
    #[arg(long, value_name = "N", requires = "forecast", default_value_t = 1)]
    add_clusters: u32,
    /// The server's time between two checks of a key
    #[arg(long, value_name = "DURATION", requires = "forecast", default_value = "5m", value_parser = crate::flags::duration)]
    key_check_interval: prost_types::Duration,
}

/// What the lines of a report are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    // Plain comments: help lists the names on one line then.
    // A key, with all its uses.
    Key,
    // A service that uses a key.
    Service,
    // A resource that a key protects.
    Resource,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and a file of prices that cannot be read.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let Command::Report(report) = command;
    let prices = match &report.prices {
        Some(file) => Prices::read(file)?,
        None => Prices::default(),
    };
    let now = SystemClock::new().now();
    let since = Timestamp(now.micros().saturating_sub(i64::from(report.days) * MICROS_PER_DAY).max(0));
    let mut account = Account::new(since, now);
    {
        let _progress = Progress::spinner(session.quiet, "Reading keys and their uses");
        versions(session, &mut account).await?;
        operations(session, &mut account, since).await?;
    }
    let lines = if report.forecast {
        let interval = std::time::Duration::try_from(report.key_check_interval)
            .map_err(|_| Failure::usage("--key-check-interval must not be negative"))?;
        if interval.is_zero() {
            return Err(Failure::usage("--key-check-interval must not be zero"));
        }
        let scopes = u64::from(report.add_tables) * u64::from(report.add_clusters);
        account.forecast(report.by, &prices, &Planned { scopes, interval })
    } else {
        account.lines(report.by, &prices)
    };
    let total: f64 = lines.iter().filter_map(|line| line.get("cost").and_then(Value::as_f64)).sum();
    session.out.values(lines, &COLUMNS)?;
    let what = if report.forecast { "The next month".to_owned() } else { format!("{} days", report.days) };
    output::say(&format!("{what}: {total:.4} {} ({})", prices.currency, prices.source()));
    Ok(())
}

/// Adds all versions of all keys of the project.
async fn versions(session: &Session, account: &mut Account) -> Result<(), Failure> {
    let mut places = session.locations();
    let project = format!("projects/{}", session.project);
    let no_limit: Option<usize> = None;
    let locations = all_pages!(
        no_limit,
        |page_token, page_size| places.list_locations(ListLocationsRequest {
            name: project.clone(),
            page_token: page_token.clone(),
            page_size,
            ..Default::default()
        }),
        locations
    );
    let mut kms = session.kms();
    for location in locations {
        let rings = all_pages!(
            no_limit,
            |page_token, page_size| kms.list_key_rings(ListKeyRingsRequest {
                parent: location.name.clone(),
                page_token: page_token.clone(),
                page_size,
                ..Default::default()
            }),
            key_rings
        );
        for ring in rings {
            let keys = all_pages!(
                no_limit,
                |page_token, page_size| kms.list_crypto_keys(ListCryptoKeysRequest {
                    parent: ring.name.clone(),
                    page_token: page_token.clone(),
                    page_size,
                    ..Default::default()
                }),
                crypto_keys
            );
            for key in keys {
                let versions = all_pages!(
                    no_limit,
                    |page_token, page_size| kms.list_crypto_key_versions(ListCryptoKeyVersionsRequest {
                        parent: key.name.clone(),
                        page_token: page_token.clone(),
                        page_size,
                        ..Default::default()
                    }),
                    crypto_key_versions
                );
                versions.iter().for_each(|version| account.add_version(&key.name, version));
            }
        }
    }
    Ok(())
}

/// Adds all uses of the project's keys since a moment.
async fn operations(session: &Session, account: &mut Account, since: Timestamp) -> Result<(), Failure> {
    let methods: Vec<_> =
        OPERATIONS.iter().map(|method| format!("protoPayload.methodName=\"{method}\"")).collect();
    let (seconds, nanos) = since.seconds_and_nanos();
    let filter = format!(
        "({}) AND timestamp>=\"{}\"",
        methods.join(" OR "),
        prost_types::Timestamp { seconds, nanos }
    );
    let mut request = ListLogEntriesRequest {
        resource_names: vec![format!("projects/{}", session.project)],
        filter,
        order_by: "timestamp asc".to_owned(),
        page_size: PAGE,
        ..ListLogEntriesRequest::default()
    };
    let mut logging = session.logging();
    loop {
        let page = logging.list_log_entries(request.clone()).await?.into_inner();
        for entry in &page.entries {
            account.add_use(&output::value(entry)?);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}

fn months(line: &Value) -> String {
    at(line, "versionMonths").and_then(Value::as_f64).map(|months| format!("{months:.3}")).unwrap_or_default()
}

fn cost(line: &Value) -> String {
    let currency = at(line, "currency").map(plain).unwrap_or_default();
    at(line, "cost").and_then(Value::as_f64).map(|cost| format!("{cost:.4} {currency}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in [
            "report --days 0",
            "report --by colour",
            "report --add-tables 3",
            "report --forecast --key-check-interval soon",
            "",
        ] {
            let words = ["claviger", "billing"].into_iter().chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).map(|_| line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
