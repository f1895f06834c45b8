//! One turn of one side: load, reads that miss the block cache, warm reads, scans.
//!
//! Invariant: every value read is compared with what was written.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use claviger_core::SystemClock;
use claviger_crypto::SecretKey;
use claviger_sealed::engine::{BlockCache, Engine, EngineOptions, from_slatedb};
use claviger_sealed::{FixedKey, LocalStore, ScopeId, SealedOptions, SealedStore};
use object_store::ObjectStore;
use slatedb::WriteBatch;

use crate::failure::{Doing, Failure, Result};
use crate::load::Rows;
use crate::random::Random;
use crate::usage::own_cpu;

/// The phases and how much more CPU, in percent, sealing may cost there.
pub(super) const PHASES: [(&str, f64); 4] =
    [("load", 15.0), ("get, miss", 15.0), ("get, warm", 5.0), ("scan", 10.0)];
const TASKS: u64 = 16;
const BATCH_ROWS: u64 = 100;
/// Holds every block: warm reads.
const LARGE_CACHE_BYTES: u64 = 1 << 30;
/// Holds indexes and filters and next to no data: misses.
const SMALL_CACHE_BYTES: u64 = 8 << 20;
/// Scans of the whole table in one phase.
const SCANS: u64 = 3;
/// The compactor looks for work every 5 s; after this long without CPU time it has found none.
const REST: Duration = Duration::from_secs(6);
const REST_WITHIN: Duration = Duration::from_secs(60);
const REST_SHARE: f64 = 0.03;

/// Whether files are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// As the engine writes them.
    Plain,
    /// Sealed, as in the product.
    Sealed,
}

/// The size of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) rows: u64,
    pub(super) value_bytes: usize,
    pub(super) gets: u64,
}

/// One phase of one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) rate: f64,
    pub(super) cpu_us: f64,
}

struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { started: Instant::now(), cpu: own_cpu() }
    }

    /// The figures of `units`, `took` after the start; CPU time up to now.
    fn stop(&self, units: u64, took: Duration) -> Figure {
        let cpu = own_cpu() - self.cpu;
        Figure {
            rate: units as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / units.max(1) as f64,
        }
    }
}

impl Turn {
    /// Runs all phases on a new database under `folder`.
    pub(super) async fn run(self, side: Side, folder: &Path) -> Result<Vec<Figure>> {
        let rows = Arc::new(Rows::new(7, self.rows, self.value_bytes));
        let (store, sealed) = open_store(side, folder).await?;
        let mut figures = Vec::with_capacity(PHASES.len());

        let engine = open(&store, LARGE_CACHE_BYTES).await?;
        let watch = Stopwatch::start();
        self.load(&engine, &rows).await?;
        let took = watch.started.elapsed();
        rest().await;
        figures.push(watch.stop(self.rows, took));
        close(engine).await?;

        let engine = open(&store, SMALL_CACHE_BYTES).await?;
        self.gets(&engine, &rows, self.gets / 20).await?;
        let watch = Stopwatch::start();
        self.gets(&engine, &rows, self.gets).await?;
        figures.push(watch.stop(self.gets, watch.started.elapsed()));
        close(engine).await?;

        let engine = open(&store, LARGE_CACHE_BYTES).await?;
        scan(&engine, &rows).await?;
        self.gets(&engine, &rows, self.gets).await?;
        let watch = Stopwatch::start();
        self.gets(&engine, &rows, self.gets).await?;
        figures.push(watch.stop(self.gets, watch.started.elapsed()));
        close(engine).await?;

        let engine = open(&store, SMALL_CACHE_BYTES).await?;
        scan(&engine, &rows).await?;
        let watch = Stopwatch::start();
        for _ in 0..SCANS {
            scan(&engine, &rows).await?;
        }
        figures.push(watch.stop(SCANS * self.rows, watch.started.elapsed()));
        close(engine).await?;
        if let Some(sealed) = sealed {
            sealed.close().await.doing("cannot close the sealed store")?;
        }
        Ok(figures)
    }

    async fn load(self, engine: &Arc<Engine>, rows: &Arc<Rows>) -> Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let (engine, rows) = (engine.clone(), rows.clone());
            tasks.spawn(async move {
                let mut first = task * BATCH_ROWS;
                while first < rows.count() {
                    let mut batch = WriteBatch::new();
                    for number in rows.batch(first..(first + BATCH_ROWS).min(rows.count())) {
                        let key = rows.key(number);
                        batch.put(key, rows.value(key));
                    }
                    engine.commit(batch).await.doing("a commit")?;
                    first += TASKS * BATCH_ROWS;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.doing("a task ended badly")??;
        }
        Ok(())
    }

    async fn gets(self, engine: &Arc<Engine>, rows: &Arc<Rows>, count: u64) -> Result<()> {
        let seeds = Random::new(count);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let (engine, rows, mut random) = (engine.clone(), rows.clone(), seeds.fork(task));
            tasks.spawn(async move {
                for _ in 0..count / TASKS {
                    let key = rows.key(random.below(rows.count()));
                    let value = engine.get(key).await.doing("a get")?;
                    if value != Some(rows.value(key)) {
                        return Err(Failure::new("a get gave a wrong value"));
                    }
                }
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.doing("a task ended badly")??;
        }
        Ok(())
    }
}

/// The store that the engine works on, and the same as a sealed store where it is one.
async fn open_store(side: Side, folder: &Path) -> Result<(Arc<dyn ObjectStore>, Option<SealedStore>)> {
    let local = LocalStore::open(folder).await.doing("cannot open the folder")?;
    let local: Arc<dyn ObjectStore> = Arc::new(local);
    if side == Side::Plain {
        return Ok((local, None));
    }
    let secret = SecretKey::random().doing("no random key")?;
    let keys = Arc::new(FixedKey::new(ScopeId::new("bench"), secret));
    let clock = Arc::new(SystemClock::new());
    let sealed = SealedStore::open(local, "sealed".into(), keys, clock, SealedOptions::default()).await;
    let sealed = sealed.doing("cannot open the sealed store")?;
    Ok((Arc::new(sealed.clone()), Some(sealed)))
}

async fn open(store: &Arc<dyn ObjectStore>, cache_bytes: u64) -> Result<Arc<Engine>> {
    let cache = Some(Arc::new(BlockCache::new(cache_bytes)));
    let options = EngineOptions { cache, ..EngineOptions::default() };
    Ok(Arc::new(Engine::open(store.clone(), "db", options).await.doing("cannot open the database")?))
}

async fn close(engine: Arc<Engine>) -> Result<()> {
    engine.close().await.doing("cannot close the database")
}

async fn scan(engine: &Engine, rows: &Rows) -> Result<()> {
    let mut found = engine.scan_range(&[], None, false).await.doing("a scan")?;
    let mut number = 0;
    while let Some(entry) = found.next().await.map_err(from_slatedb).doing("a scan")? {
        let key: &Bytes = &entry.key;
        if key != rows.key(number) || entry.value != rows.value(key) {
            return Err(Failure::new("a scan gave a wrong row"));
        }
        number += 1;
    }
    if number == rows.count() { Ok(()) } else { Err(Failure::new(format!("a scan gave {number} rows"))) }
}

/// Waits until flushes and compactions are over.
async fn rest() {
    const WINDOW: Duration = Duration::from_millis(300);
    let started = Instant::now();
    let mut still_since = Instant::now();
    let mut before = own_cpu();
    while started.elapsed() < REST_WITHIN && still_since.elapsed() < REST {
        tokio::time::sleep(WINDOW).await;
        let now = own_cpu();
        if (now - before).as_secs_f64() > WINDOW.as_secs_f64() * REST_SHARE {
            still_since = Instant::now();
        }
        before = now;
    }
}
