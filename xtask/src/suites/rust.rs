//! The suites that cargo runs: format, lints, unit tests, and our protos against the official ones.

use super::{Bench, Tally, counts};
use crate::failure::Result;
use crate::process::{self, Watch};

/// Where the script is that dumps the official descriptors.
const DUMP: &str = "clients/python/descriptors/dump.py";

pub(super) fn fmt(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["fmt", "--all", "--", "--check", "--color", "never"]);
    let done = process::run(command, &bench.workspace.log("fmt"), watch)?;
    Ok(Tally::one(done.success, || done.tail(40)))
}

pub(super) fn clippy(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let done = process::run(command, &bench.workspace.log("clippy"), watch)?;
    Ok(Tally::one(done.success, || done.tail(60)))
}

pub(super) fn unit(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    let done = process::run(command, &bench.workspace.log("unit"), watch)?;
    Ok(counts::cargo_test(&done))
}

pub(super) fn descriptors(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let workspace = &bench.workspace;
    let script = workspace.root.join(DUMP);
    if !script.is_file() {
        return Ok(Tally::skip(format!("{DUMP} is not there")));
    }
    let official = workspace.target.join("xtask/official-descriptors.bin");
    let mut dump = bench.python(watch)?.command();
    dump.arg(script).arg(&official);
    let done = process::run(dump, &workspace.log("descriptors-dump"), watch)?;
    if !done.success {
        return Ok(Tally::one(false, || done.tail(40)));
    }
    let mut command = workspace.cargo();
    command.args(["test", "-p", "claviger-proto", "--test", "official_descriptors", "--", "--ignored"]);
    command.env("CLAVIGER_OFFICIAL_DESCRIPTORS", &official);
    let done = process::run(command, &workspace.log("descriptors"), watch)?;
    Ok(counts::cargo_test(&done))
}
