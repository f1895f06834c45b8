//! The suites of pipelines: Beam's own tests from its wheel, and ours, by Beam's unmodified Python SDK.
//!
//! Invariant: what may be skipped or fail in Beam's own suites is in `clients/python/beam/suites/known.toml`, by
//! name and with the reason; anything else fails the suite.

use std::path::PathBuf;

use super::{Bench, Tally, counts};
use crate::failure::{Failure, Result};
use crate::process::{self, Watch};

/// Beam's modules with cases for all runners: those with the marker `it_validatesrunner`, without what is only for
/// Google's service.
const VALIDATES: [&str; 12] = [
    "apache_beam.metrics.metric_test",
    "apache_beam.ml.inference.base_test",
    "apache_beam.pipeline_test",
    "apache_beam.runners.portability.fn_api_runner.fn_runner_test",
    "apache_beam.runners.portability.fn_api_runner.translations_test",
    "apache_beam.transforms.combinefn_lifecycle_test",
    "apache_beam.transforms.combiners_test",
    "apache_beam.transforms.deduplicate_test",
    "apache_beam.transforms.dofn_lifecycle_test",
    "apache_beam.transforms.ptransform_test",
    "apache_beam.transforms.sideinputs_test",
    "apache_beam.transforms.util_test",
];

/// Beam's vectors of all coders that SDKs and runners share.
pub(super) fn coders(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let workspace = &bench.workspace;
    let mut find = bench.beam(watch)?.command();
    find.args(["-c", "import apache_beam as b, os; print(os.path.dirname(b.__file__))"]);
    let found = process::run(find, &workspace.log("beam-wheel"), watch)?;
    let package = found.text.lines().last().unwrap_or_default();
    let vectors = PathBuf::from(package).join("portability/api/standard_coders.yaml");
    if !vectors.is_file() {
        return Err(Failure::new("Beam's wheel has no standard_coders.yaml"));
    }
    let mut command = workspace.cargo();
    command.args(["test", "-p", "claviger-beam", "--lib", "standard_coders", "--", "--nocapture"]);
    command.env("CLAVIGER_STANDARD_CODERS", vectors);
    let done = process::run(command, &workspace.log("beam-coders"), watch)?;
    Ok(counts::vectors(&done))
}

/// Workers as processes: the server's own tests that need a Python with Beam.
pub(super) fn workers(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    // The whole workspace, as for the other unit tests: its features are built already.
    command.args([
        "test",
        "--workspace",
        "--lib",
        "--no-fail-fast",
        "--",
        "--ignored",
        "beam::fn_api::tests",
    ]);
    command.env("CLAVIGER_BEAM_PYTHON", &bench.beam(watch)?.program);
    let done = process::run(command, &bench.workspace.log("beam-workers"), watch)?;
    Ok(counts::cargo_test(&done))
}

/// Our own tests of jobs.
pub(super) fn dataflow(bench: &Bench, watch: &Watch) -> Result<Tally> {
    pytest(bench, watch, "dataflow", &["python/beam"], &[])
}

/// Beam's tests for runners behind its Job API, with the workers in the tests' process.
pub(super) fn portable(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let args = ["-p", "suites.plugin", "--known", "portable", "python/beam/suites/portable.py"];
    pytest(bench, watch, "beam-portable", &args, &[("BEAM_ENVIRONMENT", "LOOPBACK")])
}

/// The same tests, with workers in processes of their own, by the contract of Beam's containers.
pub(super) fn process(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let args = ["-p", "suites.plugin", "--known", "portable", "--known", "portable-process"];
    let args = [args.as_slice(), &["python/beam/suites/portable.py"]].concat();
    pytest(bench, watch, "beam-process", &args, &[("BEAM_ENVIRONMENT", "PROCESS")])
}

/// Beam's tests for all runners.
pub(super) fn validates(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let args =
        ["-p", "suites.plugin", "--known", "validates", "--serve", "-m", "it_validatesrunner", "--pyargs"];
    pytest(bench, watch, "beam-validates", &[args.as_slice(), &VALIDATES].concat(), &[])
}

fn pytest(bench: &Bench, watch: &Watch, name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Tally> {
    let clients = bench.workspace.root.join("clients");
    let path = std::env::join_paths([clients.clone(), clients.join("python/beam")])
        .map_err(|error| Failure::new(format!("the workspace's path cannot be in PYTHONPATH: {error}")))?;
    let mut command = bench.beam(watch)?.command();
    command.env("CLAVIGER_BIN", &bench.binaries(watch)?.claviger).env("PYTHONPATH", path);
    command.envs(env.iter().copied()).current_dir(&clients);
    command.args([
        "-m",
        "pytest",
        "-q",
        "-rsxfE",
        "--no-fold-skipped",
        "--tb=short",
        "--color=no",
        "-W",
        "ignore",
    ]);
    command.args(["-c", "pytest.ini", "--rootdir", "."]).args(args);
    let done = process::run(command, &bench.workspace.log(name), watch)?;
    Ok(counts::pytest(&done))
}
