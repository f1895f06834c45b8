//! `claviger bigtable`: instances, clusters, tables, app profiles and rows. Shaped like `gcloud bigtable`, and
//! like `cbt` for rows.
//!
//! Invariant: a command that starts a long-running operation waits for it, unless it was given `--async`.

mod app_profiles;
mod clusters;
mod columns;
mod gc;
mod instances;
mod rows;
mod tables;
mod tables_update;

use clap::Subcommand;

use crate::client::Session;
use crate::failure::Failure;

/// `claviger bigtable ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Instances: what tables live in
    #[command(subcommand)]
    Instances(instances::Command),
    /// Clusters: the places of an instance, each with its key
    #[command(subcommand)]
    Clusters(clusters::Command),
    /// Tables
    #[command(subcommand)]
    Tables(tables::Command),
    /// App profiles: how requests are routed
    #[command(subcommand)]
    AppProfiles(app_profiles::Command),
    /// Rows: read, set, delete, count, import
    #[command(subcommand)]
    Rows(rows::Command),
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Instances(command) => instances::run(session, command).await,
        Command::Clusters(command) => clusters::run(session, command).await,
        Command::Tables(command) => tables::run(session, command).await,
        Command::AppProfiles(command) => app_profiles::run(session, command).await,
        Command::Rows(command) => rows::run(session, command).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "instances create i --display-name Birds --cluster-config id=c,zone=us-east1-b,kms-key=KEY,nodes=1",
            "instances create i --cluster c --zone us-east1-b --kms-key KEY --nodes 2",
            "instances create i --cluster-config=id=a,zone=us-east1-b --cluster-config=id=b,zone=us-east1-c --async",
            "instances list",
            "instances describe i",
            "instances update i --display-name Owls --update-labels a=b",
            "instances delete i --quiet",
            "clusters list --instances i",
            "clusters describe c --instance i",
            "clusters create c2 --instance i --zone us-east1-c --num-nodes 1 --kms-key KEY",
            "clusters create c2 --instance i --zone us-east1-c --kms-key k --kms-keyring r --kms-location us-east1",
            "clusters update c --instance i --num-nodes 3",
            "clusters update c --instance i --autoscaling-min-nodes 1 --autoscaling-max-nodes 5 --autoscaling-cpu-target 60",
            "clusters delete c --instance i",
            "tables create t --instance i --column-families f:maxversions=1||maxage=5d,g --splits a,b",
            "tables list --instance i",
            "tables describe t --instance i --view full",
            "tables update t --instance i --no-deletion-protection",
            "tables update t --instance i --add-families h:never --update-families f:maxversions=2 --drop-families g",
            "tables encryption t --instance i",
            "tables drop-rows t --instance i --prefix a",
            "tables drop-rows t --instance i --all",
            "tables delete t --instance i",
            "app-profiles list --instance i",
            "app-profiles describe default --instance i",
            "rows read t --instance i a b --limit 3 --family f --column f:q --cells-per-column 1",
            "rows read projects/p/instances/i/tables/t --prefix a --filter-regex a.* --reversed",
            "rows set t a f:q=v f:r=w@1000 --instance i",
            "rows delete t a --instance i --column f:q",
            "rows count t --instance i --start a --end b",
            "rows import t birds.csv --instance i --key-columns year,month --family f",
        ] {
            let line = line.replace("KEY", KEY);
            let words = ["claviger", "bigtable"].into_iter().chain(line.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in [
            "instances create i --cluster-config id=c,zone=z --cluster c",
            "instances create i --cluster c",
            "instances create i --cluster-config id=c,zone=z,colour=red",
            "instances create i --cluster-config id=c",
            "instances create i",
            "tables create t --instance i --column-families f:maxversions=0",
            "tables create t --instance i --column-families f:sometimes",
            "tables drop-rows t --instance i",
            "tables drop-rows t --instance i --all --prefix a",
            "rows read t --instance i --prefix a --start b",
            "rows read t --instance i a --prefix b",
            "rows read t --instance i --column nofamily",
            "rows set t a --instance i",
            "rows set t a f=v --instance i",
            "rows import t f.csv --instance i --family f",
        ] {
            let words = ["claviger", "bigtable"].into_iter().chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
