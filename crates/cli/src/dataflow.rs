//! `claviger dataflow`: jobs of pipelines. Shaped like `gcloud dataflow`.
//!
//! Invariant: a command that starts a job waits for its end, unless it was given `--async`, and ends with 0 only
//! if the job did what it was to do.

mod follow;
mod jobs;
mod program;
mod run;
mod submit;

use clap::Subcommand;

use crate::client::Session;
use crate::failure::Failure;

/// `claviger dataflow ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Jobs: pipelines that run, ran, or will run
    #[command(subcommand)]
    Jobs(Box<jobs::Command>),
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Jobs(command) => Box::pin(jobs::run(session, *command)).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "list",
            "list --region us-east1 --status active --limit 3",
            "list --name delays --format json",
            "describe 2026-11-23_03_21_31-1234567890123456789",
            "describe delays --region us-east1 --full",
            "cancel delays other --quiet",
            "drain delays",
            "messages delays --importance debug",
            "metrics delays --source user --tentative",
            "wait delays",
            "run delays --py-file delays.py",
            "run delays --py-file delays.py --region us-east1 --kms-key KEY --temp-location gs://b/t -- --input x",
            "run delays --py-file delays.py --env process --python python3.11 --async",
            "run delays --py-file delays.py --runner dataflow --temp-location gs://b/t",
            "run delays --pipeline-pb p.pb --option a=b --option c=d --kms-key k --kms-keyring r --kms-location l",
        ] {
            let line = line.replace("KEY", "projects/p/locations/l/keyRings/r/cryptoKeys/k");
            let words = ["claviger", "dataflow", "jobs"].into_iter().chain(line.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in [
            "run",
            "run delays",
            "run delays --py-file a --pipeline-pb b",
            "run delays --pipeline-pb b --python python3",
            "run delays --py-file a --env cloud",
            "run delays --pipeline-pb b --option a",
            "list --status none",
            "cancel",
            "messages delays --importance loud",
        ] {
            let words = ["claviger", "dataflow", "jobs"].into_iter().chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).map(|_| line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
