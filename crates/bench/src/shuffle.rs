//! `shuffle`: what grouping by key costs in the runner alone, without a harness.
//!
//! Invariant: every record that was written is counted when it is read, by its key and by a sum over all
//! values; a wrong count fails the run. CPU time is that of the whole process, the cheap making of the
//! records included.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use claviger_core::SystemClock;
use claviger_crypto::SecretKey;
use claviger_sealed::{FixedKey, LocalStore, ScopeId, SealedOptions, SealedStore};
use claviger_shuffle::{Budget, Shuffle, Space, Step};
use object_store::ObjectStore;
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::random::mix;
use crate::usage::{Tree, own_cpu};

/// The least bytes of a value: its number.
const NUMBER_BYTES: usize = 8;
/// Records between two looks at the memory, as of a message of elements.
const MESSAGE_RECORDS: u64 = 256;

/// What to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Records that are grouped
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of each value, at least 8
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Different keys, of 8 bytes each
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    /// Bundles that the records are written in
    #[arg(long, default_value_t = 16)]
    bundles: u64,
    /// Partitions that they are read in
    #[arg(long, default_value_t = 16)]
    partitions: usize,
    /// Bundles at work at a time
    #[arg(long, default_value_t = 2)]
    tasks: u64,
    /// The cap of memory, in MiB
    #[arg(long, default_value_t = 512)]
    memory_mib: usize,
    /// How often
    #[arg(long, default_value_t = 1)]
    turns: usize,
    /// Do not seal: what the shuffle costs without its keys
    #[arg(long)]
    plain: bool,
    /// A folder for the files; a temporary one unless told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    records: u64,
    value_bytes: usize,
    keys: u64,
    memory_mib: usize,
    turns: Vec<Turn>,
}

#[derive(Serialize)]
struct Turn {
    write: Figure,
    read: Figure,
    /// Bytes of values for each second of CPU, written and read.
    mb_per_cpu_second: f64,
    stored_mb: f64,
    merged_mb: f64,
    files: u64,
    counted_peak_mb: f64,
    process_peak_mb: f64,
}

#[derive(Serialize)]
struct Figure {
    wall_seconds: f64,
    cpu_seconds: f64,
    /// Of this the kernel's: mostly the file system's copies, and memory that is wiped before its first use.
    system_seconds: f64,
    cpu_ns_per_record: f64,
}

struct Stopwatch {
    started: Instant,
    cpu: Duration,
    system: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { started: Instant::now(), cpu: own_cpu(), system: own_system() }
    }

    fn stop(&self, records: u64) -> Figure {
        let cpu_seconds = (own_cpu() - self.cpu).as_secs_f64();
        Figure {
            wall_seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds,
            system_seconds: (own_system() - self.system).as_secs_f64(),
            cpu_ns_per_record: cpu_seconds * 1e9 / records.max(1) as f64,
        }
    }
}

/// The kernel's part of this process's CPU time, to the clock tick; zero where it cannot be read.
fn own_system() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold blanks and parentheses; the fields start after the last one.
    let ticks =
        stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(12)?.parse::<u64>().ok());
    Duration::from_micros(ticks.unwrap_or(0) * 1_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Runs the turns.
///
/// # Errors
/// When a store fails, or when something that was written is not read.
pub(crate) fn run(options: &Options) -> Result<()> {
    let parent = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .doing("no folder for the files")?;
    let runtime = crate::runtime(2)?;
    let mut turns = Vec::new();
    for number in 0..options.turns.max(1) {
        let folder = parent.path().join(number.to_string());
        let turn = runtime.block_on(turn(options, &folder))?;
        println!(
            "write {:.0} ns, read {:.0} ns of CPU per record ({:.0}% the kernel's); {:.0} MB per second of CPU; \
             wall {:.2} s; peak {:.0} MB",
            turn.write.cpu_ns_per_record,
            turn.read.cpu_ns_per_record,
            (turn.write.system_seconds + turn.read.system_seconds) * 100.0
                / (turn.write.cpu_seconds + turn.read.cpu_seconds),
            turn.mb_per_cpu_second,
            turn.write.wall_seconds + turn.read.wall_seconds,
            turn.process_peak_mb,
        );
        turns.push(turn);
    }
    let outcome = Outcome {
        records: options.records,
        value_bytes: options.value_bytes.max(NUMBER_BYTES),
        keys: options.keys,
        memory_mib: options.memory_mib,
        turns,
    };
    crate::write_json(&outcome, options.json.as_deref())
}

async fn turn(options: &Options, folder: &std::path::Path) -> Result<Turn> {
    let local = LocalStore::open(folder).await.doing("cannot open the folder")?;
    let store: Arc<dyn ObjectStore> = if options.plain {
        Arc::new(local)
    } else {
        let secret = SecretKey::random().doing("no random key")?;
        let keys = Arc::new(FixedKey::new(ScopeId::new("bench"), secret));
        let clock = Arc::new(SystemClock::new());
        let sealed = SealedStore::open(Arc::new(local), "job".into(), keys, clock, SealedOptions::default());
        Arc::new(sealed.await.doing("cannot open the sealed store")?)
    };
    let budget = Budget::new(options.memory_mib << 20);
    let space = Space::new(store, "shuffle".into(), budget.clone(), Arc::new(|| Ok(())));
    let shuffle = space.shuffle("bench", options.partitions);
    let process = Tree::of(std::process::id());
    process.forget_peak();

    let watch = Stopwatch::start();
    write(options, &shuffle).await?;
    let written = watch.stop(options.records);
    let watch = Stopwatch::start();
    read(options, &shuffle).await?;
    let figure = watch.stop(options.records);

    let process_peak_mb = process.peak_bytes() as f64 / 1e6;
    let stats = space.stats();
    shuffle.delete().await.doing("cannot delete the shuffle")?;
    space.remove().await.doing("cannot remove the files")?;
    let bytes = options.records as f64 * options.value_bytes.max(NUMBER_BYTES) as f64;
    Ok(Turn {
        mb_per_cpu_second: bytes / 1e6 / (written.cpu_seconds + figure.cpu_seconds),
        write: written,
        read: figure,
        stored_mb: stats.bytes_written as f64 / 1e6,
        merged_mb: stats.merged_bytes as f64 / 1e6,
        files: stats.files_written,
        counted_peak_mb: budget.peak() as f64 / 1e6,
        process_peak_mb,
    })
}

async fn write(options: &Options, shuffle: &Arc<Shuffle>) -> Result<()> {
    let bundles = options.bundles.max(1);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..options.tasks.max(1) {
        let (next, shuffle) = (next.clone(), shuffle.clone());
        let (records, keys) = (options.records, options.keys.max(1));
        let mut value = vec![0x5a; options.value_bytes.max(NUMBER_BYTES)];
        tasks.spawn(async move {
            loop {
                let bundle = next.fetch_add(1, Ordering::Relaxed);
                if bundle >= bundles {
                    return Ok::<_, Failure>(());
                }
                let mut writer = shuffle.writer();
                for number in bundle * records / bundles..(bundle + 1) * records / bundles {
                    if let Some(first) = value.first_chunk_mut() {
                        *first = number.to_le_bytes();
                    }
                    let key = (mix(number) % keys).to_be_bytes();
                    if let Err(error) = writer.add(&key, b"", &value) {
                        return Err(error).doing("a record");
                    }
                    if number % MESSAGE_RECORDS == 0 {
                        writer.make_room().await.doing("cannot make room")?;
                    }
                }
                writer.commit().await.doing("cannot commit a bundle")?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.doing("a task ended badly")??;
    }
    shuffle.finish().await.doing("cannot finish the shuffle")
}

async fn read(options: &Options, shuffle: &Arc<Shuffle>) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..options.tasks.max(1) {
        let (next, shuffle) = (next.clone(), shuffle.clone());
        tasks.spawn(async move {
            let (mut keys, mut records, mut sum) = (0u64, 0u64, 0u64);
            loop {
                let partition = next.fetch_add(1, Ordering::Relaxed) as usize;
                if partition >= shuffle.partitions() {
                    return Ok::<_, Failure>((keys, records, sum));
                }
                let mut reader = shuffle.reader(partition).doing("cannot read a partition")?;
                while reader.next_key().await.doing("a key")?.is_some() {
                    keys += 1;
                    loop {
                        match reader.step() {
                            Err(error) => return Err(error).doing("a value"),
                            Ok(Step::Value { value, .. }) => {
                                let number = value.first_chunk().copied().map_or(0, u64::from_le_bytes);
                                records += 1;
                                sum = sum.wrapping_add(mix(number));
                            }
                            Ok(Step::Wait) => reader.fill().await.doing("a block")?,
                            Ok(Step::EndOfKey) => break,
                        }
                    }
                }
            }
        });
    }
    let (mut keys, mut records, mut sum) = (0, 0, 0u64);
    while let Some(ended) = tasks.join_next().await {
        let (more_keys, more_records, more) = ended.doing("a task ended badly")??;
        keys += more_keys;
        records += more_records;
        sum = sum.wrapping_add(more);
    }
    let expected = (0..options.records).fold(0u64, |sum, number| sum.wrapping_add(mix(number)));
    if (records, sum) != (options.records, expected) || keys > options.keys.max(1) {
        return Err(Failure::new(format!(
            "{records} of {} records came back under {keys} keys",
            options.records
        )));
    }
    Ok(())
}
