//! `dataflow`: the same pipelines on Beam's Python LocalJobService and on ours, with the same harness, and one with
//! the way in which each starts a worker's process; then ours with a harness that does nothing, and the shuffle alone.
//!
//! Invariant: each pipeline gets a new process of each runner, so that peaks of memory are its own. The elements
//! are counted at a pipeline's end; a wrong count fails the run.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{args, measure, number};
use crate::failure::{Failure, Result};
use crate::process::{self, Watch};
use crate::python::Python;
use crate::report;
use crate::server::{Folders, Server};
use crate::workspace::{Binaries, Workspace};

/// The most memory that the server may take while the large group goes through.
const LARGE_MEMORY_GOAL: f64 = 1e9;
/// What the runner must group on a core, sealed, written and read, MB/s: with a harness that does nothing, and so all
/// the more the shuffle alone.
const GROUPED_GOAL: f64 = 300.0;

/// How often values are grouped without a SDK; the first time pays for the process's memory.
const TURNS: &str = "3";

/// Where the worker of a pipeline runs.
#[derive(Clone, Copy)]
enum Worker {
    /// In the process that submits.
    Loopback,
    /// In a process that the runner starts, in the way that is usual for it.
    Own,
}

impl Worker {
    /// What `pipelines.py` calls it.
    fn environment(self, ours: bool) -> &'static str {
        match (self, ours) {
            (Self::Loopback, _) => "loopback",
            (Self::Own, true) => "image",
            (Self::Own, false) => "subprocess",
        }
    }
}

/// A pipeline.
struct Job {
    name: &'static str,
    args: &'static [&'static str],
    worker: Worker,
    /// Elements, or none for what is not counted in them.
    elements: u64,
    /// The most runner CPU and wall time, as parts of LocalJobService's.
    cpu_goal: Option<f64>,
    wall_goal: Option<f64>,
}

const JOBS: [Job; 6] = [
    Job {
        name: "tiny job",
        args: &["--kind", "tiny", "--repeat", "7"],
        worker: Worker::Loopback,
        elements: 0,
        cpu_goal: None,
        wall_goal: None,
    },
    Job {
        name: "tiny job, own process",
        // The pause is that of someone who looks at a result before the next job.
        args: &["--kind", "tiny", "--repeat", "7", "--pause", "4"],
        worker: Worker::Own,
        elements: 0,
        cpu_goal: None,
        wall_goal: Some(0.5),
    },
    Job {
        name: "group 1 KB values",
        args: &["--kind", "group", "--value-bytes", "1024"],
        worker: Worker::Loopback,
        elements: 1_000_000,
        cpu_goal: Some(0.25),
        wall_goal: Some(1.0),
    },
    Job {
        name: "group numbers",
        args: &["--kind", "group"],
        worker: Worker::Loopback,
        elements: 5_000_000,
        cpu_goal: Some(0.35),
        wall_goal: Some(1.0),
    },
    Job {
        name: "combine numbers",
        args: &["--kind", "combine"],
        worker: Worker::Loopback,
        elements: 5_000_000,
        cpu_goal: None,
        wall_goal: Some(1.0),
    },
    Job {
        name: "reshuffle numbers",
        args: &["--kind", "reshuffle"],
        worker: Worker::Loopback,
        elements: 1_000_000,
        cpu_goal: None,
        wall_goal: Some(1.0),
    },
];

/// What goes through the server alone, which the peer cannot hold: 10 GB.
const LARGE: Job = Job {
    name: "group 10 GB",
    args: &["--kind", "group", "--value-bytes", "1024", "--keys", "100000"],
    worker: Worker::Loopback,
    elements: 10_000_000,
    cpu_goal: None,
    wall_goal: None,
};

/// Runs it all; a tenth of the elements, and nothing large, when it must be quick.
pub(super) fn run(workspace: &Workspace, binaries: &Binaries, quick: bool) -> Result<Value> {
    let watch = Watch::new("Apache Beam");
    let python = Python::prepare_beam(workspace, &watch)?;
    watch.done();
    let bench = Runs { workspace, binaries, python, part: if quick { 10 } else { 1 } };
    let mut jobs = Vec::new();
    for job in &JOBS {
        let theirs = bench.run(job, false)?;
        let ours = bench.run(job, true)?;
        jobs.push(json!({ "job": job.name, "elements": job.elements / bench.part, "local_job_service": theirs, "claviger": ours }));
    }
    show(&jobs);
    let mut large = Value::Null;
    if !quick {
        large = bench.run(&LARGE, true)?;
        let peak = number(&large, "runner_peak_bytes");
        println!(
            "{} in {:.0} s: peak memory of the server {} (goal: <= 1 GB, {}), its CPU {:.1} s",
            LARGE.name,
            number(&large, "wall_s"),
            report::bytes(peak as u64),
            verdict(peak <= LARGE_MEMORY_GOAL),
            number(&large, "runner_cpu_s"),
        );
    }
    let null_harness = null_harness(workspace, binaries, quick)?;
    let title = "the shuffle alone";
    let records = if quick { "200000" } else { "2000000" };
    let list = args(&["shuffle", "--records", records, "--turns", TURNS]);
    let shuffle = measure(workspace, binaries, title, &list)?;
    show_rate(title, &shuffle);
    Ok(json!({ "jobs": jobs, "large": large, "null_harness": null_harness, "shuffle": shuffle }))
}

/// Groups 1 KB values on a new server, with a worker in Rust that does nothing.
fn null_harness(workspace: &Workspace, binaries: &Binaries, quick: bool) -> Result<Value> {
    let folders = Folders::anew(&workspace.target.join("xtask/bench-dataflow"))?;
    let log = workspace.log("bench-dataflow-runner");
    let mut server = Server::start(&binaries.claviger, &folders, &[], &log)?;
    let records = if quick { "200000" } else { "1000000" };
    let pid = server.pid().to_string();
    let title = "a harness that does nothing";
    let list = [
        "null-harness",
        "--endpoint",
        &server.endpoint,
        "--pid",
        &pid,
        "--records",
        records,
        "--turns",
        TURNS,
    ];
    let result = measure(workspace, binaries, title, &args(&list))?;
    server.stop()?;
    show_rate(title, &result);
    Ok(result)
}

/// Prints what the turns of a grouping did, by the one in the middle.
fn show_rate(title: &str, result: &Value) {
    let turns = result.get("turns").and_then(Value::as_array).into_iter().flatten();
    let mut rates: Vec<f64> = turns.map(|turn| number(turn, "mb_per_cpu_second")).collect();
    rates.sort_by(f64::total_cmp);
    let rate = rates.get(rates.len() / 2).copied().unwrap_or_default();
    println!(
        "{title}: {rate:.0} MB of values per second of CPU, sealed, each written and read (goal: >= {GROUPED_GOAL:.0}, {})",
        verdict(rate >= GROUPED_GOAL)
    );
}

fn verdict(held: bool) -> &'static str {
    if held { "ok" } else { "MISSED" }
}

struct Runs<'a> {
    workspace: &'a Workspace,
    binaries: &'a Binaries,
    python: Python,
    /// One in so many elements.
    part: u64,
}

impl Runs<'_> {
    fn script(&self, name: &str) -> std::path::PathBuf {
        self.workspace.root.join("clients/python/beam/bench").join(name)
    }

    /// Runs a pipeline on a new process of a runner.
    fn run(&self, job: &Job, ours: bool) -> Result<Value> {
        let runner = if ours { "claviger" } else { "LocalJobService" };
        let watch = Watch::new(&format!("{} on {runner}", job.name));
        let log = self.workspace.log("bench-dataflow-runner");
        let mut server = if ours {
            let folders = Folders::anew(&self.workspace.target.join("xtask/bench-dataflow"))?;
            let python = self.python.program.to_string_lossy();
            Server::start(&self.binaries.claviger, &folders, &["--beam-python", &python], &log)?
        } else {
            let mut command = self.python.command();
            command.arg(self.script("local_job_service.py"));
            Server::spawn(command, &log)?
        };
        let mut command = self.python.command();
        command.arg(self.script("pipelines.py")).args(job.args);
        command.args(["--environment", job.worker.environment(ours)]);
        command.args(["--elements", &(job.elements / self.part).to_string()]);
        command.args(["--pid", &server.pid().to_string(), "--endpoint", server.address()]);
        let found = self.figures(command, &self.workspace.log("bench-dataflow"), &watch);
        watch.done();
        if ours {
            server.stop()?;
        }
        found.map_err(|failure| Failure::new(format!("{} on {runner}: {failure}", job.name)))
    }

    fn figures(&self, command: Command, log: &Path, watch: &Watch) -> Result<Value> {
        let done = process::run(command, log, watch)?;
        let line = done.text.lines().rev().find(|line| line.starts_with('{'));
        match line {
            Some(line) if done.success => Ok(serde_json::from_str(line)?),
            _ => Err(Failure::new(done.tail(20))),
        }
    }
}

fn show(jobs: &[Value]) {
    let heading = [
        "pipeline",
        "elements",
        "wall s L|c",
        "ratio",
        "goal",
        "runner CPU s L|c",
        "ratio",
        "goal",
        "peak L|c",
    ];
    let mut rows = vec![args(&heading)];
    for (job, found) in JOBS.iter().zip(jobs) {
        let both = |field: &str| {
            let of = |runner: &str| found.get(runner).map_or(0.0, |figures| number(figures, field));
            (of("local_job_service"), of("claviger"))
        };
        let judged = |(theirs, ours): (f64, f64), goal: Option<f64>| {
            let ratio = ours / theirs;
            let goal = goal.map(|goal| format!("<= {goal} {}", verdict(ratio <= goal)));
            (format!("{ratio:.2}x"), goal.unwrap_or_default())
        };
        let (wall, cpu, peak) = (both("wall_s"), both("runner_cpu_s"), both("runner_peak_bytes"));
        let (wall_ratio, wall_goal) = judged(wall, job.wall_goal);
        let (cpu_ratio, cpu_goal) = judged(cpu, job.cpu_goal);
        let elements = found.get("elements").and_then(Value::as_u64).unwrap_or_default();
        rows.push(vec![
            job.name.to_owned(),
            report::count(elements),
            format!("{:.2} | {:.2}", wall.0, wall.1),
            wall_ratio,
            wall_goal,
            format!("{:.2} | {:.2}", cpu.0, cpu.1),
            cpu_ratio,
            cpu_goal,
            format!("{} | {}", report::bytes(peak.0 as u64), report::bytes(peak.1 as u64)),
        ]);
    }
    print!("{}", report::table(&rows));
    for (job, found) in JOBS.iter().zip(jobs).filter(|(job, _)| job.elements == 0) {
        let after = |runner: &str| found.get(runner).map_or(0.0, |figures| number(figures, "submitted_s"));
        println!(
            "the {} after its submission: L {:.2} s, c {:.2} s; the rest of its wall time is the SDK's own",
            job.name,
            after("local_job_service"),
            after("claviger")
        );
    }
    println!(
        "L: Beam's Python LocalJobService, all in memory and in clear; c: claviger, sealed; same harness, LOOPBACK, but for 'own process': there L starts a process for each job (its subprocess environment), and c takes the one that it has kept ready since the last job (DOCKER with the name of Beam's image)"
    );
}
