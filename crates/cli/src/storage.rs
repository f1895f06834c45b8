//! `claviger storage`: buckets, objects, and copies between them and files. Shaped like `gcloud storage`.
//!
//! Invariant: objects pass through in pieces; memory does not grow with their size.

mod api;
mod buckets;
mod cat;
mod copy;
mod download;
mod find;
mod list;
mod objects;
mod remove;
mod upload;
mod url;
mod walk;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Format, write_text};

use api::Storage;

/// `claviger storage ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Buckets: what objects live in, each with its default key
    #[command(subcommand)]
    Buckets(Box<buckets::Command>),
    /// Objects: their metadata
    #[command(subcommand)]
    Objects(Box<objects::Command>),
    /// Copy files and objects
    #[command(after_help = copy::CP_EXAMPLES)]
    Cp(Box<copy::Options>),
    /// Move files and objects: copy them, then delete what was copied
    #[command(after_help = copy::MV_EXAMPLES)]
    Mv(Box<copy::Options>),
    /// Write objects to standard output
    #[command(after_help = cat::EXAMPLES)]
    Cat(cat::Options),
    /// List buckets, or what is in one
    #[command(after_help = list::EXAMPLES)]
    Ls(list::Options),
    /// Delete objects, or a bucket with all that is in it
    #[command(after_help = remove::EXAMPLES)]
    Rm(remove::Options),
    /// Show the service agent of a project: the identity that uses the keys of its buckets
    ServiceAgent,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(global: Global, command: Command) -> Result<(), Failure> {
    let storage = Storage::new(global)?;
    match command {
        Command::Buckets(command) => buckets::run(&storage, *command).await,
        Command::Objects(command) => objects::run(&storage, *command).await,
        Command::Cp(options) => copy::run(&storage, &options, false).await,
        Command::Mv(options) => copy::run(&storage, &options, true).await,
        Command::Cat(options) => cat::run(&storage, &options).await,
        Command::Ls(options) => list::run(&storage, &options).await,
        Command::Rm(options) => remove::run(&storage, &options).await,
        Command::ServiceAgent => {
            let account = storage.service_account().await?;
            match storage.out.format {
                Format::Table => {
                    let email = account.get("email_address").map(crate::output::plain).unwrap_or_default();
                    write_text(&format!("{email}\n"))
                }
                _ => storage.out.one_value(&account),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "buckets create gs://b --location us-east1 --default-kms-key KEY --labels a=b,c=d --versioning",
            "buckets create gs://b gs://c --default-encryption-key k --kms-keyring r --kms-location us-east1",
            "buckets list --limit 3",
            "buckets describe gs://b",
            "buckets update gs://b --clear-default-kms-key --no-versioning --update-labels a=b",
            "buckets update gs://b --default-kms-key KEY",
            "buckets delete gs://b --quiet",
            "objects list gs://b/d/** --all-versions --limit 5",
            "objects describe gs://b/o#17",
            "objects update gs://b/o --content-type text/plain --update-custom-metadata a=b --cache-control no-store",
            "objects update gs://b/o --kms-key KEY",
            "objects compose gs://b/1 gs://b/2 gs://b/all",
            "objects delete gs://b/o gs://b/*.tmp",
            "cp a b gs://b/d/",
            "cp -r d gs://b --kms-key KEY --no-clobber",
            "cp gs://b/o -",
            "cp - gs://b/o --content-type text/csv",
            "mv gs://b/o gs://c/o",
            "cat gs://b/o --range 0-9",
            "ls",
            "ls -l gs://b/d/",
            "ls -ra gs://b",
            "rm gs://b/o",
            "rm -r gs://b/d gs://c",
            "service-agent --project p",
        ] {
            let line = line.replace("KEY", "projects/p/locations/l/keyRings/r/cryptoKeys/k");
            let words = ["claviger", "storage"].into_iter().chain(line.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in [
            "buckets create",
            "buckets create gs://b/o",
            "buckets describe gs://",
            "buckets create gs://b --kms-keyring r",
            "buckets update gs://b --versioning --no-versioning",
            "buckets update gs://b --default-kms-key k --clear-default-kms-key",
            "objects describe gs://b",
            "objects describe here",
            "objects update gs://b/o --content-type",
            "cp a",
            "cat here",
            "cat gs://b/o --range 9-1",
            "rm gs://b/o --recursively",
        ] {
            let words = ["claviger", "storage"].into_iter().chain(line.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            assert_eq!(parsed.map(|_| line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
