//! The root of the command line: what every command takes, and the commands.
//!
//! Invariant: a command is here when it is built. Each group's own arguments live beside what they start.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::output::Format;

/// Where a server listens unless it was told otherwise.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:9700";
/// The project of names that do not say one. Any project is accepted by a server.
pub(crate) const DEFAULT_PROJECT: &str = "claviger";

const EXAMPLES: &str = "\
Examples:
  claviger serve
  claviger kms keyrings create ring --location us-east1
  claviger kms keys create k --keyring ring --location us-east1 --purpose encryption
  claviger kms keys authorize k --keyring ring --location us-east1 --service bigtable
  claviger bigtable instances create aviary --cluster aviary-c1 --zone us-east1-b --kms-key KEY
  claviger storage buckets create gs://flights --location us-east1 --default-kms-key KEY
  claviger storage cp flights.csv gs://flights/
  claviger dataflow jobs run delays --py-file delays.py --kms-key KEY
  claviger logging read 'severity>=ERROR'
  claviger audit verify --checkpoint held.txt --key VKEY
  claviger billing report --forecast
  claviger org-policies set-policy policy.yaml
  claviger seal add passphrase
  eval \"$(claviger env)\"      for gcloud, cbt and Google's libraries

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// A data platform whose keys the customer holds: the server, and the commands that talk to it.
#[derive(Debug, Parser)]
#[command(name = "claviger", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// The server
    #[arg(long, global = true, value_name = "URL", env = "CLAVIGER_ENDPOINT", default_value = DEFAULT_ENDPOINT)]
    pub(crate) endpoint: String,
    /// A file whose first line is shown to the server as a bearer token, read at each use
    #[arg(long, global = true, value_name = "FILE", env = "CLAVIGER_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The project of names that do not say one
    #[arg(long, global = true, value_name = "ID", env = "CLAVIGER_PROJECT", default_value = DEFAULT_PROJECT)]
    pub(crate) project: String,
    /// How results are written: JSON and YAML have the fields of the API, tables are for people
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Ask nothing, show no progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server
    Serve(Box<crate::serve::Options>),
    /// Print the environment that points official tools at the server
    Env(crate::env::Options),
    /// Keys: rings, keys, versions, who may use them
    #[command(subcommand)]
    Kms(crate::kms::Command),
    /// Instances, clusters, tables and rows
    #[command(subcommand)]
    Bigtable(crate::bigtable::Command),
    /// Buckets and objects, and copies between them and files
    #[command(subcommand)]
    Storage(crate::storage::Command),
    /// Jobs: pipelines that run, ran, or will run
    #[command(subcommand)]
    Dataflow(crate::dataflow::Command),
    /// The audit log: who used or changed which key
    #[command(subcommand)]
    Logging(crate::logging::Command),
    /// What keys cost, and will
    #[command(subcommand)]
    Billing(crate::billing::Command),
    /// Organization policies: what new resources of the project may be
    #[command(subcommand)]
    OrgPolicies(crate::org_policies::Command),
    /// The audit log as evidence: checkpoints, copies, proofs, and their checks
    #[command(subcommand)]
    Audit(crate::audit::Command),
    /// What opens the server's keys: passphrases, key files, shares, keys elsewhere
    #[command(subcommand)]
    Seal(crate::seal::Command),
    /// Open the keys of a server that started sealed
    Unseal(crate::seal::Unseal),
    /// Service accounts and the keys that they sign with
    #[command(subcommand)]
    Iam(crate::accounts::Iam),
    /// Tokens to show to a server
    #[command(subcommand)]
    Auth(crate::accounts::Auth),
    /// External keys: a key manager to keep them in, and its switches
    #[command(subcommand)]
    Ekm(crate::ekm::Command),
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_commands_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_taken_before_and_after_the_command() {
        for line in [
            "claviger --project p9 --format json kms keyrings list --location us-east1",
            "claviger kms keyrings list --location us-east1 --project p9 --format json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.project, "p9");
            assert_eq!(cli.global.format, Format::Json);
        }
    }

    #[test]
    fn wrong_usage_is_told_with_the_option_that_was_meant() {
        let error = Cli::try_parse_from("claviger bigtable tables list --instnace i".split(' ')).unwrap_err();
        assert!(error.to_string().contains("--instance"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments() {
                let named = argument.get_id().as_str();
                assert!(argument.get_help().is_some(), "{path} {named} has no help");
            }
            for child in command.get_subcommands() {
                check(child, &format!("{path} {}", child.get_name()));
            }
        }
        check(&Cli::command(), "claviger");
    }

    #[test]
    fn the_examples_of_every_help_are_understood() {
        fn collect(command: &clap::Command, lines: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let joined = help.replace("\\\n", " ");
            let examples = joined.lines().map(str::trim).filter(|line| line.starts_with("claviger "));
            lines.extend(examples.map(str::to_owned));
            command.get_subcommands().for_each(|child| collect(child, lines));
        }
        let mut lines = Vec::new();
        collect(&Cli::command(), &mut lines);
        assert!(lines.len() > 20, "{lines:#?}");
        for line in lines {
            // What the shell does with the output is not the command's.
            let line = line.split(['|', '>']).next().unwrap_or_default().replace('\'', "");
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}: {error}");
            }
        }
    }
}
