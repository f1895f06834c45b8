//! `claviger bigtable rows`: what `cbt` does with rows.
//!
//! Invariant: rows stream; memory holds one row, however many there are.

mod chunks;
mod filter;
mod import;
mod read;
mod write;

use clap::Subcommand;

use crate::client::Session;
use crate::failure::Failure;

/// `claviger bigtable rows ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read rows: some by their keys, a range, or all
    #[command(after_help = read::EXAMPLES)]
    Read(Box<read::Read>),
    /// Write cells of a row
    #[command(after_help = write::EXAMPLES)]
    Set(write::Set),
    /// Delete a row, or some of its columns or families
    Delete(write::Delete),
    /// Count rows
    Count(Box<read::Count>),
    /// Write the lines of a CSV file as rows
    #[command(after_help = import::EXAMPLES)]
    Import(Box<import::Import>),
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Read(options) => read::run(session, &options).await,
        Command::Set(options) => write::set(session, &options).await,
        Command::Delete(options) => write::delete(session, &options).await,
        Command::Count(options) => read::count(session, &options).await,
        Command::Import(options) => import::run(session, &options).await,
    }
}
