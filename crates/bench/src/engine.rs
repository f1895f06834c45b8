//! `engine`: what sealing costs, the storage engine over a local directory with and without it.
//!
//! Invariant: both sides run the same code on the same rows with the same settings, in turns; only the object
//! store differs. CPU time is that of the whole process, flushes and compactions included, and the least of
//! several turns counts, since everything else on the machine can only add to it.

mod run;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::failure::{Doing, Result};
use run::{Figure, PHASES, Side, Turn};

/// What to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Rows of the table
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 1000)]
    value_bytes: usize,
    /// Random gets of each phase
    #[arg(long, default_value_t = 100_000)]
    gets: u64,
    /// How often each side runs
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// One turn and a quarter of the rows
    #[arg(long)]
    quick: bool,
    /// A folder for the databases; a temporary one unless told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    rows: u64,
    value_bytes: usize,
    turns: usize,
    phases: Vec<Compared>,
}

/// One phase, without and with sealing.
#[derive(Serialize)]
struct Compared {
    phase: &'static str,
    plain_rate: f64,
    sealed_rate: f64,
    plain_cpu_us: f64,
    sealed_cpu_us: f64,
    cpu_more_percent: f64,
    goal_percent: f64,
    /// CPU of each turn, in microseconds per row: their spread is the noise of this machine.
    plain_turns_us: Vec<f64>,
    sealed_turns_us: Vec<f64>,
}

/// Runs both sides in turns.
///
/// # Errors
/// When the engine fails or gives a wrong value.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shrink = if options.quick { 4 } else { 1 };
    let turns = if options.quick { 1 } else { options.turns.max(1) };
    let turn =
        Turn { rows: options.rows / shrink, value_bytes: options.value_bytes, gets: options.gets / shrink };
    let parent = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .doing("no folder for the databases")?;
    let runtime = crate::runtime(2)?;
    let mut plain = Vec::new();
    let mut sealed = Vec::new();
    for number in 0..turns {
        let mut sides = [(Side::Plain, &mut plain), (Side::Sealed, &mut sealed)];
        if number % 2 == 1 {
            // Neither side is always the first, which finds the machine cooler or busier.
            sides.reverse();
        }
        for (side, figures) in sides {
            let folder = parent.path().join(format!("{side:?}-{number}"));
            let measured = runtime.block_on(turn.run(side, &folder)).doing(format!("{side:?}"))?;
            std::fs::remove_dir_all(&folder).doing("cannot remove a database")?;
            let shown: Vec<String> = PHASES
                .iter()
                .zip(&measured)
                .map(|((name, _), one)| format!("{name} {:.2} us", one.cpu_us))
                .collect();
            println!("turn {}, {side:?}: CPU per row: {}", number + 1, shown.join(", "));
            figures.push(measured);
        }
    }
    let phases = PHASES
        .iter()
        .enumerate()
        .map(|(index, &(phase, goal_percent))| {
            let all = |figures: &[Vec<Figure>], pick: fn(&Figure) -> f64| {
                figures.iter().filter_map(|turn| turn.get(index)).map(pick).collect::<Vec<f64>>()
            };
            let most = |values: Vec<f64>| values.into_iter().reduce(f64::max).unwrap_or_default();
            let least = |values: &[f64]| values.iter().copied().reduce(f64::min).unwrap_or_default();
            let plain_turns_us = all(&plain, |figure| figure.cpu_us);
            let sealed_turns_us = all(&sealed, |figure| figure.cpu_us);
            let (plain_cpu_us, sealed_cpu_us) = (least(&plain_turns_us), least(&sealed_turns_us));
            Compared {
                phase,
                plain_rate: most(all(&plain, |figure| figure.rate)),
                sealed_rate: most(all(&sealed, |figure| figure.rate)),
                plain_cpu_us,
                sealed_cpu_us,
                cpu_more_percent: (sealed_cpu_us / plain_cpu_us - 1.0) * 100.0,
                goal_percent,
                plain_turns_us,
                sealed_turns_us,
            }
        })
        .collect();
    let outcome = Outcome { rows: turn.rows, value_bytes: turn.value_bytes, turns, phases };
    crate::write_json(&outcome, options.json.as_deref())
}
