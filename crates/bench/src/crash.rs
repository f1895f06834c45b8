//! `crash`: kills a server at random moments, under writes and key operations, and looks for all that it had
//! acknowledged.
//!
//! Invariant: after each restart every row and every key is in the state that was last acknowledged, or in
//! that of the one operation that was under way when the server died; anything else ends the run with the
//! folder kept. The seed is printed; it gives the same operations and the same moments, though not the same
//! interleaving.

mod keys;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::random::Random;
use crate::server::{Plan, Running};
use crate::setup::Admin;
use crate::wire::Connection;
use keys::Operator;
use rows::Writer;

const PROJECT: &str = "crash";
/// Tasks that change keys.
const OPERATORS: u64 = 2;
/// How long a server works before it is killed, at most.
const WORK_MILLIS: u64 = 400;
/// One in so many restarts is killed as well, before or right after it is ready.
const KILLED_STARTS: u64 = 6;
/// How long such a start is let run, at most.
const START_MILLIS: u64 = 150;

/// What to do.
#[derive(Args)]
pub(crate) struct Options {
    /// The claviger binary
    #[arg(long)]
    claviger: PathBuf,
    /// A folder for the server's data; emptied first, kept when something was wrong
    #[arg(long)]
    dir: PathBuf,
    /// How often the server is killed
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Tasks that write rows
    #[arg(long, default_value_t = 16)]
    writers: u64,
    /// Seed of the operations and moments; chosen by the clock unless told
    #[arg(long)]
    seed: Option<u64>,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was seen over all rounds.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    seed: u64,
    rounds: u64,
    killed_while_starting: u64,
    rows_acknowledged: u64,
    key_operations_acknowledged: u64,
    under_way_and_kept: u64,
    under_way_and_gone: u64,
    recovery_median_ms: f64,
    recovery_worst_ms: f64,
    seconds: f64,
}

/// Said before the kill: an error that comes before is the server's fault.
#[derive(Clone, Debug, Default)]
struct Killed(Arc<AtomicBool>);

impl Killed {
    fn say(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn said(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a check after a restart found of the operations that were under way.
#[derive(Debug, Default)]
struct UnderWay {
    kept: u64,
    gone: u64,
}

/// Kills and checks.
///
/// # Errors
/// The first acknowledged change that is missing, torn row, or refusal by a living server.
pub(crate) fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64
    });
    println!("seed {seed}");
    let outcome = crate::runtime(1)?
        .block_on(rounds(options, seed))
        .doing(format!("seed {seed}, data kept in {}", options.dir.display()))?;
    println!(
        "{} kills ({} more while starting): {} rows and {} key operations acknowledged, none lost, none torn",
        outcome.rounds,
        outcome.killed_while_starting,
        outcome.rows_acknowledged,
        outcome.key_operations_acknowledged
    );
    crate::write_json(&outcome, options.json.as_deref())?;
    std::fs::remove_dir_all(&options.dir).doing("cannot remove the folder")
}

async fn rounds(options: &Options, seed: u64) -> Result<Outcome> {
    crate::server::fresh_folder(&options.dir)?;
    let plan = Plan { claviger: options.claviger.clone(), folder: options.dir.clone(), flags: Vec::new() };
    let started = Instant::now();
    let mut random = Random::new(seed);
    let mut server = plan.start()?.ready().await?;
    let admin = Admin::connect(&server.authority).await?;
    let instance = admin.protected_instance(&options.claviger, PROJECT, "crash-test").await?;
    let table = admin.create_table(&instance, "t", &rows::FAMILIES).await?;
    let mut writers: Vec<Writer> =
        (0..options.writers).map(|number| Writer::new(number, &table, random.fork(number))).collect();
    let mut operators = Vec::new();
    for number in 0..OPERATORS {
        let ring = admin.create_key_ring(PROJECT, &format!("crash-{number}")).await?;
        operators.push(Operator::new(ring, random.fork(1000 + number)));
    }
    let mut outcome = Outcome { seed, ..Outcome::default() };
    let mut recoveries = Vec::new();
    for round in 1..=options.rounds {
        let moment = Duration::from_micros(random.below(WORK_MILLIS * 1000));
        (writers, operators) =
            work_and_kill(server, writers, operators, moment).await.doing(format!("round {round}"))?;
        if random.below(KILLED_STARTS) == 0 {
            let starting = plan.start()?;
            tokio::time::sleep(Duration::from_micros(random.below(START_MILLIS * 1000))).await;
            starting.kill().await?;
            outcome.killed_while_starting += 1;
        }
        server = plan.start()?.ready().await.doing(format!("restart of round {round}"))?;
        recoveries.push(server.ready_after.as_secs_f64() * 1000.0);
        let found = check(&server, &table, &mut writers, &mut operators)
            .await
            .doing(format!("after round {round}"))?;
        outcome.rounds = round;
        outcome.under_way_and_kept += found.kept;
        outcome.under_way_and_gone += found.gone;
        if round % 10 == 0 {
            println!("round {round} of {}: {:.1} s", options.rounds, started.elapsed().as_secs_f64());
        }
    }
    server.kill().await?;
    recoveries.sort_by(f64::total_cmp);
    outcome.recovery_median_ms = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
    outcome.recovery_worst_ms = recoveries.last().copied().unwrap_or_default();
    outcome.rows_acknowledged = writers.iter().map(|writer| writer.acknowledged).sum();
    outcome.key_operations_acknowledged = operators.iter().map(|operator| operator.acknowledged).sum();
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Lets all tasks work for a while, kills the server under them and gives the tasks back.
async fn work_and_kill(
    server: Running,
    writers: Vec<Writer>,
    operators: Vec<Operator>,
    moment: Duration,
) -> Result<(Vec<Writer>, Vec<Operator>)> {
    const CONNECTIONS: usize = 4;
    let killed = Killed::default();
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(&server.authority).await?);
    }
    let admin = Admin::connect(&server.authority).await?;
    let writing: Vec<_> = writers
        .into_iter()
        .zip(connections.iter().cycle())
        .map(|(writer, connection)| tokio::spawn(writer.work(connection.clone(), killed.clone())))
        .collect();
    let operating: Vec<_> = operators
        .into_iter()
        .map(|operator| tokio::spawn(operator.work(admin.channel(), killed.clone())))
        .collect();
    tokio::time::sleep(moment).await;
    killed.say();
    server.kill().await?;
    let mut back = (Vec::new(), Vec::new());
    for task in writing {
        back.0.push(task.await.doing("a writer ended badly")??);
    }
    for task in operating {
        back.1.push(task.await.doing("an operator ended badly")??);
    }
    Ok(back)
}

async fn check(
    server: &Running,
    table: &str,
    writers: &mut [Writer],
    operators: &mut [Operator],
) -> Result<UnderWay> {
    let connection = Connection::open(&server.authority).await?;
    let admin = Admin::connect(&server.authority).await?;
    let mut found = UnderWay::default();
    let mut rows = rows::scan(&connection, table).await?;
    for writer in writers {
        writer.check(&mut rows, &mut found)?;
    }
    if let Some(key) = rows.keys().next() {
        return Err(Failure::new(format!("a row that nobody wrote: {}", String::from_utf8_lossy(key))));
    }
    for operator in operators {
        operator.check(admin.channel(), &mut found).await?;
    }
    Ok(found)
}
