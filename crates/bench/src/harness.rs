//! `null-harness`: what grouping by key costs in the whole runner, with a worker that does nothing.
//!
//! A portable pipeline is submitted by the Job API; this process is its EXTERNAL worker pool and its worker. The
//! worker sends records that are made once and patched, and counts the groups that come back, so that what is
//! measured is the server: its Fn API, its shuffle, its seal.
//!
//! Invariant: every record that was made is counted once, under its key, when its group comes back, and once in the
//! metrics that the server committed; anything else fails the run. CPU time is the server's process alone, from the
//! submission until it is at rest again.

mod elements;
mod jobs;
mod pipeline;
mod pool;
mod stage;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::usage::{self, Tree, own_cpu};
use elements::{NUMBER_BYTES, Shape, Tally};
use pool::Pool;
use worker::Told;

/// How long the server must use no CPU before and after a turn.
const REST: Duration = Duration::from_millis(300);

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// The server, as http://host:port
    #[arg(long)]
    endpoint: String,
    /// The server's process, for its CPU and memory
    #[arg(long)]
    pid: u32,
    /// Records that are grouped
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of each value, at least 8
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Different keys, of 8 bytes each
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Sources of the pipeline: the bundles that the records come from
    #[arg(long, default_value_t = 16)]
    sources: u64,
    /// Bytes of a message of elements to the server, in KiB: SDKs send 1 to 10 MiB
    #[arg(long, default_value_t = 1024)]
    message_kib: usize,
    /// How often
    #[arg(long, default_value_t = 1)]
    turns: usize,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    records: u64,
    value_bytes: usize,
    keys: u64,
    sources: u64,
    message_kib: usize,
    turns: Vec<Turn>,
}

#[derive(Serialize)]
struct Turn {
    /// From the submission to the first bundle that reads groups.
    write: Figure,
    /// From there to the job's end, and until the server is at rest.
    read: Figure,
    /// Bytes of values, each counted once, for each second of the server's CPU: written and read.
    mb_per_cpu_second: f64,
    /// The same for each second on the clock, which the worker shares.
    mb_per_second: f64,
    /// This process's, most of it the worker's.
    harness_cpu_seconds: f64,
    server_peak_mb: f64,
}

#[derive(Serialize)]
struct Figure {
    wall_seconds: f64,
    server_cpu_seconds: f64,
    server_cpu_ns_per_record: f64,
}

/// A moment of a turn, with the CPU time of the server so far.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    cpu: Duration,
}

impl Moment {
    fn now(server: Tree) -> Self {
        Self { at: Instant::now(), cpu: server.cpu() }
    }

    /// Up to a later moment.
    fn until(&self, later: &Self, records: u64) -> Figure {
        let cpu = later.cpu.saturating_sub(self.cpu).as_secs_f64();
        Figure {
            wall_seconds: later.at.saturating_duration_since(self.at).as_secs_f64(),
            server_cpu_seconds: cpu,
            server_cpu_ns_per_record: cpu * 1e9 / records.max(1) as f64,
        }
    }
}

/// Runs the turns.
///
/// # Errors
/// When the job fails, or when records are missing or wrong at its end.
pub(crate) fn run(options: &Options) -> Result<()> {
    let outcome = crate::runtime(2)?.block_on(drive(options))?;
    crate::write_json(&outcome, options.json.as_deref())
}

async fn drive(options: &Options) -> Result<Outcome> {
    let authority = options.endpoint.trim_start_matches("http://").trim_end_matches('/');
    let shape = Shape {
        records: options.records,
        value_bytes: options.value_bytes.max(NUMBER_BYTES),
        keys: options.keys.max(1),
    };
    let mut turns = Vec::new();
    for _ in 0..options.turns.max(1) {
        let turn = turn(options, shape, authority).await?;
        println!(
            "write {:.0} ns, read {:.0} ns of the server's CPU per record; {:.0} MB per second of CPU; wall {:.2} s; \
             the harness's CPU {:.2} s; peak {:.0} MB",
            turn.write.server_cpu_ns_per_record,
            turn.read.server_cpu_ns_per_record,
            turn.mb_per_cpu_second,
            turn.write.wall_seconds + turn.read.wall_seconds,
            turn.harness_cpu_seconds,
            turn.server_peak_mb,
        );
        turns.push(turn);
    }
    Ok(Outcome {
        records: shape.records,
        value_bytes: shape.value_bytes,
        keys: shape.keys,
        sources: options.sources.max(1),
        message_kib: options.message_kib,
        turns,
    })
}

async fn turn(options: &Options, shape: Shape, authority: &str) -> Result<Turn> {
    let server = Tree::of(options.pid);
    let told = Arc::new(Told::new(shape, options.message_kib << 10, server));
    let pool = Pool::serve(told.clone()).await?;
    let pipeline = pipeline::build(shape, options.sources.max(1), pool.url())?;
    let mut jobs = jobs::Jobs::connect(authority).await?;
    usage::rest(server, REST).await;
    server.forget_peak();

    let own = own_cpu();
    let submitted = Moment::now(server);
    let job = jobs.run(pipeline).await?;
    let ended = Moment::now(server);
    let harness_cpu_seconds = (own_cpu() - own).as_secs_f64();
    usage::rest(server, REST).await;
    // The clock stops with the job; CPU that came after still counts.
    let ended = Moment { cpu: server.cpu(), ..ended };

    check(shape, &told.drained(), &jobs.counters(&job).await?)?;
    let reading = told.reading().unwrap_or(ended);
    let (write, read) = (submitted.until(&reading, shape.records), reading.until(&ended, shape.records));
    let bytes = shape.records as f64 * shape.value_bytes as f64;
    Ok(Turn {
        mb_per_cpu_second: bytes / 1e6 / (write.server_cpu_seconds + read.server_cpu_seconds),
        mb_per_second: bytes / 1e6 / (write.wall_seconds + read.wall_seconds),
        write,
        read,
        harness_cpu_seconds,
        server_peak_mb: server.peak_bytes() as f64 / 1e6,
    })
}

/// Compares what came back with what was made.
fn check(shape: Shape, drained: &Tally, counters: &jobs::Counters) -> Result<()> {
    let expected = Tally::of_all(shape);
    if (drained.records, drained.sum) != (expected.records, expected.sum) || drained.groups > shape.keys {
        return Err(Failure::new(format!(
            "{} of {} records came back in {} groups, with a wrong sum or not all",
            drained.records, shape.records, drained.groups
        )));
    }
    for name in [stage::MADE, stage::DRAINED] {
        let committed = counters.get(name).copied().unwrap_or_default();
        if committed != shape.records {
            return Err(Failure::new(format!(
                "the server committed a count '{name}' of {committed} for {} records",
                shape.records
            )));
        }
    }
    Ok(())
}

/// A connection whose windows never make the server wait.
///
/// # Errors
/// When nobody listens there.
async fn connect(authority: &str) -> Result<tonic::transport::Channel> {
    tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
        .doing("a bad address")?
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(64 << 20)
        .connect()
        .await
        .doing(format!("cannot connect to {authority}"))
}
