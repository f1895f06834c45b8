//! `load`: drives any Bigtable endpoint, phase by phase, and measures it.
//!
//! Invariant: every answer is compared with what was written; the first wrong one ends the run. What a server
//! does after a phase (flushes, compactions) is waited for and counted with that phase.

mod phase;
mod rows;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::setup::Admin;
use crate::usage::{self, Tree};
use crate::wire::Connection;
use phase::{Kind, PLAN, Phase};
use target::Target;

pub(crate) use rows::{KEY_BYTES, Rows};

/// Parts into which a parallel scan is cut.
pub(crate) const SCAN_PARTS: u64 = 16;

/// How long the server must be at rest before the next phase.
const REST_AFTER_READS: Duration = Duration::from_millis(300);
/// How long it must be at rest after writes: a store that compacts looks for work every few seconds.
const REST_AFTER_WRITES: Duration = Duration::from_secs(9);

/// What makes the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protect {
    /// Nothing: the endpoint takes any instance's name, as the emulator does
    None,
    /// The load generator, with the server's own keys
    Default,
    /// The load generator, with a customer's key
    Cmek,
}

/// What to drive and how.
#[derive(Args)]
pub(crate) struct Options {
    /// The endpoint, as http://host:port
    #[arg(long)]
    endpoint: String,
    /// What to call it in the result
    #[arg(long, default_value = "server")]
    name: String,
    /// The server's process, for its CPU and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Rows of the table
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 1000)]
    value_bytes: usize,
    /// Seconds of each phase that has no natural end
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// HTTP/2 connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seed of keys, values and choices
    #[arg(long, default_value_t = 2013)]
    seed: u64,
    /// Only these phases, besides the load itself
    #[arg(long, value_delimiter = ',')]
    phases: Vec<String>,
    /// How the instance is made
    #[arg(long, value_enum, default_value_t = Protect::None)]
    protect: Protect,
    /// The claviger binary, for the grant of a customer's key
    #[arg(long, required_if_eq("protect", "cmek"))]
    claviger: Option<PathBuf>,
    /// Check counts and sizes only, for the constant server, which has no table to make either
    #[arg(long)]
    shape_only: bool,
    /// A quarter of the rows and shorter phases
    #[arg(long)]
    quick: bool,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    name: String,
    rows: u64,
    value_bytes: usize,
    connections: usize,
    seed: u64,
    peak_bytes: Option<u64>,
    phases: Vec<Measured>,
}

/// One phase's figures; a unit is a row or a call, as `unit` says.
#[derive(Serialize)]
struct Measured {
    phase: &'static str,
    tasks: u64,
    unit: &'static str,
    calls: u64,
    units: u64,
    seconds: f64,
    rate: f64,
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    /// The server's CPU time, what it did after the phase included.
    cpu_seconds: Option<f64>,
    cpu_us_per_unit: Option<f64>,
    /// How much of that came after the last answer.
    afterwards_cpu_seconds: Option<f64>,
    /// Largest memory since the load began.
    peak_bytes: Option<u64>,
    /// The load generator's own CPU time per unit.
    client_us_per_unit: f64,
}

/// Runs the phases.
///
/// # Errors
/// When the endpoint fails or gives a wrong answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let rows = if options.quick { options.rows / 4 } else { options.rows };
    let seconds = if options.quick { options.seconds / 2.5 } else { options.seconds };
    let outcome = crate::runtime(options.threads)?.block_on(async {
        let authority = options.endpoint.trim_start_matches("http://").trim_end_matches('/');
        let table = prepare(options, authority).await?;
        let rows = Rows::new(options.seed, rows, options.value_bytes);
        let mut connections = Vec::new();
        for _ in 0..options.connections.max(1) {
            connections.push(Connection::open(authority).await?);
        }
        let target = Target::new(table, rows, connections, options.shape_only);
        drive(options, target, Duration::from_secs_f64(seconds)).await
    })?;
    crate::write_json(&outcome, options.json.as_deref())
}

async fn prepare(options: &Options, authority: &str) -> Result<String> {
    const PROJECT: &str = "bench";
    const INSTANCE: &str = "load-test";
    let instance = format!("projects/{PROJECT}/instances/{INSTANCE}");
    if options.shape_only {
        return Ok(format!("{instance}/tables/t"));
    }
    let admin = Admin::connect(authority).await?;
    match (options.protect, &options.claviger) {
        (Protect::None, _) => {}
        (Protect::Default, _) => admin.create_instance(PROJECT, INSTANCE, None).await?,
        (Protect::Cmek, Some(claviger)) => {
            admin.protected_instance(claviger, PROJECT, INSTANCE).await?;
        }
        (Protect::Cmek, None) => return Err(Failure::new("--protect cmek needs --claviger")),
    }
    admin.create_table(&instance, "t", &["f"]).await
}

async fn drive(options: &Options, target: Target, length: Duration) -> Result<Outcome> {
    let tree = options.pid.map(Tree::of);
    let mut measured = Vec::new();
    if let Some(tree) = tree {
        usage::rest(tree, REST_AFTER_READS).await;
        tree.forget_peak();
    }
    for phase in PLAN {
        let wanted = options.phases.is_empty() || options.phases.iter().any(|name| name == phase.name);
        if !wanted && phase.kind != Kind::Load {
            continue;
        }
        let one = measure(&target, phase, length, options.seed, tree)
            .await
            .doing(format!("{} with {} tasks", phase.name, phase.tasks))?;
        println!(
            "{:<12} {:>3} tasks {:>10.0} {}/s   p50 {:>6} us   p99 {:>6} us   server {:>7.1} us/{}   client {:>5.1} us",
            one.phase,
            one.tasks,
            one.rate,
            one.unit,
            one.p50_us,
            one.p99_us,
            one.cpu_us_per_unit.unwrap_or_default(),
            one.unit.trim_end_matches('s'),
            one.client_us_per_unit
        );
        measured.push(one);
    }
    Ok(Outcome {
        name: options.name.clone(),
        rows: target.rows().count(),
        value_bytes: options.value_bytes,
        connections: options.connections,
        seed: options.seed,
        peak_bytes: tree.map(Tree::peak_bytes),
        phases: measured,
    })
}

async fn measure(
    target: &Target,
    phase: Phase,
    length: Duration,
    seed: u64,
    tree: Option<Tree>,
) -> Result<Measured> {
    let before = tree.map(Tree::cpu);
    let own_before = usage::own_cpu();
    let mut done = phase::run(target, phase, length, seed).await?;
    let own = usage::own_cpu() - own_before;
    let at_end = tree.map(Tree::cpu);
    if let Some(tree) = tree {
        usage::rest(tree, if phase.kind.writes() { REST_AFTER_WRITES } else { REST_AFTER_READS }).await;
    }
    let after = tree.map(Tree::cpu);
    done.latencies_us.sort_unstable();
    let percentile = |share: f64| crate::percentile(&done.latencies_us, share);
    let units = done.units.max(1) as f64;
    let span = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?).as_secs_f64());
    let cpu_seconds = span(before, after);
    Ok(Measured {
        phase: phase.name,
        tasks: phase.tasks,
        unit: phase.unit,
        calls: done.latencies_us.len() as u64,
        units: done.units,
        seconds: done.took.as_secs_f64(),
        rate: done.units as f64 / done.took.as_secs_f64(),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        max_us: percentile(1.0),
        cpu_seconds,
        cpu_us_per_unit: cpu_seconds.map(|seconds| seconds * 1e6 / units),
        afterwards_cpu_seconds: span(at_end, after),
        peak_bytes: tree.map(Tree::peak_bytes),
        client_us_per_unit: own.as_secs_f64() * 1e6 / units,
    })
}
