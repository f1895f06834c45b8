//! The `claviger` binary: reads the command line, runs one command, ends with 0 (done), 1 (failed) or
//! 2 (wrong usage).
//!
//! Invariant: standard output carries results only; sentences, progress and errors go to standard error.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments of arguments are help texts, where brackets mean optional"
)]

mod accounts;
mod args;
mod audit;
mod bigtable;
mod billing;
mod client;
mod dataflow;
mod ekm;
mod env;
mod failure;
mod flags;
mod kms;
mod logging;
mod names;
mod org_policies;
mod output;
mod plain;
mod progress;
mod seal;
mod serve;
mod storage;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::client::Session;
use crate::failure::Failure;

/// Requests make and drop many small buffers on several threads; see docs/adr/0006.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(options) => serve::run(&options),
        Command::Ekm(command) => ekm::run(&cli.global, command),
        Command::Iam(command) => accounts::iam(&cli.global, command),
        Command::Auth(command) => accounts::auth(&cli.global, &command),
        Command::Env(options) => env::run(&cli.global, &options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "claviger", &mut script);
            output::write_bytes(&script)
        }
        Command::Kms(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            kms::run(&session, command).await
        }),
        Command::Seal(command) => ask(Box::pin(seal::run(cli.global, command))),
        Command::Unseal(given) => ask(Box::pin(seal::unseal(cli.global, given))),
        Command::Audit(command) => ask(Box::pin(audit::run(cli.global, command))),
        Command::Billing(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            billing::run(&session, command).await
        }),
        Command::Bigtable(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            bigtable::run(&session, command).await
        }),
        Command::Storage(command) => ask(Box::pin(storage::run(cli.global, command))),
        Command::Dataflow(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            dataflow::run(&session, command).await
        }),
        Command::Logging(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            logging::run(&session, command).await
        }),
        Command::OrgPolicies(command) => ask(async move {
            let session = Session::connect(cli.global).await?;
            org_policies::run(&session, command).await
        }),
    }
}

/// Runs a command that talks to a server. One thread is enough for it, and starts faster.
fn ask(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("no runtime: {error}")))?;
    runtime.block_on(Box::pin(command))
}
