//! `claviger-bench`: the load generator that drives any Bigtable endpoint, its limit, the cost of sealing, the
//! rate of a KMS, the time to be ready, the crash harness, and what pipelines cost: the shuffle alone, and all but
//! the SDK.
//!
//! Invariant: an answer is checked before it is counted; a wrong one fails the run. `cargo xtask bench` and
//! `cargo xtask test crash` run these commands with the peers beside them.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures the real time")]
#![expect(clippy::print_stdout, reason = "a command line tool talks to the terminal")]

mod constant;
mod crash;
mod encrypt;
mod engine;
mod failure;
mod harness;
mod load;
mod random;
mod ready;
mod server;
mod setup;
mod shuffle;
mod usage;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::{Doing, Result};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "Claviger's load generator, crash harness and benchmarks")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drives a Bigtable endpoint and measures rates, latencies, the server's CPU and memory
    Load(load::Options),
    /// Answers the same requests from constants: the limit of gRPC on this machine
    Constant(constant::Options),
    /// Measures the storage engine with and without sealing
    Engine(engine::Options),
    /// Drives Encrypt of 1 KiB on a KMS and measures rates, latencies and the server's CPU
    Encrypt(encrypt::Options),
    /// Answers Encrypt with what it gets: the limit of gRPC on this machine
    EncryptEcho(encrypt::EchoOptions),
    /// Kills a server at random moments and looks for what it had acknowledged
    Crash(crash::Options),
    /// Measures the time from the start of a server to its ready line
    Ready(ready::Options),
    /// Measures the shuffle of pipelines alone: sealed, written and read under a cap of memory
    Shuffle(shuffle::Options),
    /// Measures a whole grouping pipeline on a running server, with a worker that does nothing
    NullHarness(harness::Options),
}

/// Requests make and drop many small buffers on several threads; see docs/adr/0006.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Load(options) => load::run(&options),
        Command::Constant(options) => constant::run(&options),
        Command::Engine(options) => engine::run(&options),
        Command::Encrypt(options) => encrypt::run(&options),
        Command::EncryptEcho(options) => encrypt::echo(&options),
        Command::Crash(options) => crash::run(&options),
        Command::Ready(options) => ready::run(&options),
        Command::Shuffle(options) => shuffle::run(&options),
        Command::NullHarness(options) => harness::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("claviger-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime with so many threads; one thread means the current one.
///
/// # Errors
/// When the threads cannot be started.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().doing("cannot start the runtime")
}

/// What such a share of the sorted figures does not exceed; 0 where there are none.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Writes a result as JSON to a file, or to the terminal.
///
/// # Errors
/// When the file cannot be written.
fn write_json(result: &impl Serialize, file: Option<&Path>) -> Result<()> {
    let text = serde_json::to_string_pretty(result).doing("cannot encode the result")?;
    match file {
        Some(file) => std::fs::write(file, text + "\n").doing(format!("cannot write {}", file.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}
