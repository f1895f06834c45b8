//! `cargo xtask`: the project's chores, each doing all its own set-up.
//!
//! Invariant: nothing here needs a hand-installed thing beyond Rust, a C compiler and Python 3.11; what a
//! chore cannot do on this machine it skips by name, with the reason. Everything made lies in the target
//! directory, and every process started is stopped.

#![expect(clippy::disallowed_methods, reason = "a chore measures the real time")]
#![expect(clippy::print_stdout, reason = "a chore talks to the terminal")]

mod bench;
mod demo;
mod failure;
mod process;
mod python;
mod report;
mod server;
mod suites;
mod workspace;

use std::process::ExitCode;

use failure::{Failure, Result};

const HELP: &str = "\
Claviger's chores.

  cargo xtask demo [--keep]
      Shows the main job on real data: 336,776 flights in a store that only your key can open.
      --keep leaves the server running, with data to look at.

  cargo xtask test [SUITE...]
      Runs every test that needs no special hardware. Suites: fmt clippy unit descriptors python cbt
      gcloud beam-coders dataflow beam-portable beam-process beam-validates crash docs. The last line is `N passed, N failed, N skipped`.

  cargo xtask bench [NAME...] [--json FILE] [--quick]
      Runs the benchmarks, each with its peer and the ratio. Names: ready load engine kms
      dataflow.

Variables: CARGO_TARGET_DIR (where everything is built), CLAVIGER_PYTHON (a Python of 3.11 or newer),
CLAVIGER_CRASH_ROUNDS (rounds of the crash suite, 200 unless told).
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chore; `false` when it ran and something in it did not hold.
fn run(args: Vec<String>) -> Result<bool> {
    let mut args = args.into_iter();
    let chore = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match chore.as_str() {
        "demo" => demo::run(&demo::Options::parse(&rest)?),
        "test" => suites::run(&rest),
        "bench" => bench::run(&bench::Options::parse(&rest)?),
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(true)
        }
        other => Err(Failure::new(format!("there is no chore '{other}'; `cargo xtask help` lists them"))),
    }
}
