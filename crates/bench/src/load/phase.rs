//! The phases, and the tasks that run them.
//!
//! Invariant: a phase ends at its time or when its batches are done, and all its tasks have ended by then;
//! a call that was under way at the end is waited for and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::target::{Job, Target};
use crate::failure::{Doing, Result};
use crate::random::Random;

/// Rows in one MutateRows call.
pub(super) const BATCH_ROWS: u64 = 100;
/// Rows in one range scan.
pub(super) const RANGE_ROWS: u64 = 100;
/// The part of the table that the second MutateRows phase writes again.
const AGAIN_PART: u64 = 4;

/// What the calls of a phase do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// MutateRows of 100, the whole table once.
    Load,
    /// MutateRows of 100, a quarter of the table again.
    LoadAgain,
    /// ReadRows of one key.
    Read,
    /// ReadRows of a key that is not there.
    Absent,
    /// ReadRows of 100 rows from a random key on.
    Range,
    /// ReadRows of the whole table.
    Scan,
    /// ReadRows of a sixteenth of the table, all parts at once.
    ScanParts,
    /// MutateRow that writes a row's cell again.
    MutateRow,
}

impl Kind {
    /// Whether its calls change rows.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Load | Self::LoadAgain | Self::MutateRow)
    }
}

/// One phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) tasks: u64,
    pub(super) unit: &'static str,
}

const fn phase(name: &'static str, kind: Kind, tasks: u64, unit: &'static str) -> Phase {
    Phase { name, kind, tasks, unit }
}

/// All phases, in their order: reads of rows written once, then changes, then reads of changed rows.
pub(super) const PLAN: [Phase; 13] = [
    phase("mutate-rows", Kind::Load, 16, "rows"),
    phase("read", Kind::Read, 16, "calls"),
    phase("read", Kind::Read, 64, "calls"),
    phase("absent", Kind::Absent, 16, "calls"),
    phase("absent", Kind::Absent, 64, "calls"),
    phase("range-100", Kind::Range, 16, "rows"),
    phase("scan", Kind::Scan, 1, "rows"),
    phase("scan-parts", Kind::ScanParts, 16, "rows"),
    phase("mutate-row", Kind::MutateRow, 16, "calls"),
    phase("mutate-row", Kind::MutateRow, 64, "calls"),
    phase("read-changed", Kind::Read, 16, "calls"),
    phase("scan-changed", Kind::Scan, 1, "rows"),
    phase("mutate-rows", Kind::LoadAgain, 64, "rows"),
];

/// What all tasks of a phase did together.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) units: u64,
    pub(super) took: Duration,
    pub(super) latencies_us: Vec<u32>,
}

/// Runs a phase to its end.
///
/// # Errors
/// The first failed call or wrong answer.
pub(super) async fn run(target: &Target, phase: Phase, length: Duration, seed: u64) -> Result<Done> {
    let batches = target.rows().count() / BATCH_ROWS;
    let jobs = match phase.kind {
        Kind::Load => batches,
        Kind::LoadAgain => batches / AGAIN_PART,
        _ => u64::MAX,
    };
    let timed = jobs == u64::MAX;
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let seeds = Random::new(seed ^ phase.tasks ^ (phase.kind as u64) << 32);
    for number in 0..phase.tasks {
        let (target, next, mut random) = (target.clone(), next.clone(), seeds.fork(number));
        tasks.spawn(async move {
            let (mut units, mut latencies) = (0, Vec::new());
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                // A scan takes long: it is done once at the least, whatever the time.
                if job >= jobs || (timed && started.elapsed() >= length && !latencies.is_empty()) {
                    return Ok::<_, crate::failure::Failure>((units, latencies));
                }
                let job = choose(&target, phase.kind, job, number, &mut random);
                let asked = Instant::now();
                units += target.call(number, job).await?;
                latencies.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        });
    }
    let mut done = Done { units: 0, took: Duration::ZERO, latencies_us: Vec::new() };
    while let Some(ended) = tasks.join_next().await {
        let (units, latencies) = ended.doing("a task ended badly")??;
        done.units += units;
        done.latencies_us.extend(latencies);
    }
    done.took = started.elapsed();
    Ok(done)
}

fn choose(target: &Target, kind: Kind, job: u64, task: u64, random: &mut Random) -> Job {
    let rows = target.rows().count();
    match kind {
        Kind::Load | Kind::LoadAgain => Job::MutateRows(job * BATCH_ROWS..(job + 1) * BATCH_ROWS),
        Kind::Read => Job::Read(random.below(rows)),
        Kind::Absent => Job::Absent(random.below(rows)),
        Kind::Range => {
            let first = random.below(rows.saturating_sub(RANGE_ROWS) + 1);
            Job::Range(first..first + RANGE_ROWS.min(rows))
        }
        Kind::Scan => Job::Scan,
        Kind::ScanParts => {
            let part = rows / super::SCAN_PARTS;
            Job::ScanPart(task * part..(task + 1) * part)
        }
        Kind::MutateRow => Job::MutateRow(random.below(rows)),
    }
}
