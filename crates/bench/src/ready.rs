//! The time from the start of a server's process to its ready line, on an empty directory each time.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::server::Plan;

/// What to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// The claviger binary
    #[arg(long)]
    claviger: PathBuf,
    /// How many starts
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    starts: usize,
    median_ms: f64,
    worst_ms: f64,
}

/// Starts servers one after the other.
///
/// # Errors
/// When one does not become ready.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut times = crate::runtime(1)?.block_on(async {
        let mut times = Vec::with_capacity(options.starts);
        for _ in 0..options.starts {
            let folder = tempfile::tempdir().doing("no temporary folder")?;
            let plan = Plan {
                claviger: options.claviger.clone(),
                folder: folder.path().to_owned(),
                flags: Vec::new(),
            };
            let running = plan.start()?.ready().await?;
            times.push(running.ready_after.as_secs_f64() * 1000.0);
            running.kill().await?;
        }
        Ok::<_, Failure>(times)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    let outcome = Outcome {
        starts: times.len(),
        median_ms: at(times.len() / 2),
        worst_ms: at(times.len().saturating_sub(1)),
    };
    crate::write_json(&outcome, options.json.as_deref())
}
