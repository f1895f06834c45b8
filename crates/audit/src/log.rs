//! The log itself: one writer task that numbers entries and writes all that wait in one batch.
//!
//! Records: `e/` and the number in 20 digits hold the entries; `head` holds the last number and time
//! and is written in the same batch, so that opening finds the end without reading the log. `tree` and `evidence` have
//! records of their own.
//!
//! Invariant: only the writer task gives numbers, one batch at a time. After a failed batch nobody
//! knows what reached the disk, so the database is opened anew before the next one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use claviger_core::gather::{Entrance, Exit, gather};
use claviger_core::home::{Answers, Home};
use claviger_core::{Clock, Error, ErrorKind, Result, Timestamp};
use claviger_sealed::{RecordBatch, Records};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, oneshot};
use tokio::task::JoinHandle;

use self::tree::Tree;
use crate::Entry;
use crate::tlog::{Edge, LEAF_BYTES, LogKey};

mod evidence;
mod key;
mod scan;
mod tree;

pub use scan::{Order, Scan};

/// Where the log's database lies in its store.
const PATH: &str = "log";
/// The record of the log's end.
const HEAD: &str = "head";
/// What the keys of entries begin with.
const ENTRIES: &str = "e/";
/// Entries written in one batch, at most.
const MAX_BATCH: usize = 512;
/// Entries that one read gives, at most.
pub const MAX_PAGE: usize = 1000;

/// The end of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    last: u64,
    time: Timestamp,
}

/// The end of the log and of the tree over it.
struct End {
    head: Head,
    edge: Edge,
}

struct Waiting {
    entry: Entry,
    done: oneshot::Sender<Result<u64>>,
    home: Option<Home>,
}

/// An open audit log; see the crate's text.
pub struct AuditLog {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    key: LogKey,
    tree: Arc<Tree>,
    /// Held while a cosignature is put beside others.
    cosigning: tokio::sync::Mutex<()>,
    entrance: Mutex<Option<Entrance<Waiting>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditLog")
    }
}

impl AuditLog {
    /// Opens or creates the log of a store of its own. A log that was written before there was a tree over its
    /// entries gets it now.
    ///
    /// # Errors
    /// `DataLoss` when the end of the log is not what was written; what the store answers.
    pub async fn open(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Result<Self> {
        let key = key::open(&store).await?;
        let records = Records::open(store.clone(), PATH).await?;
        let end = find_end(&records).await?;
        let tree = Arc::new(Tree::default());
        tree.publish(&end.edge);
        let writers = records.writers().clone();
        let database = Arc::new(Database { store, records: RwLock::new(Arc::new(records)) });
        let (entrance, waiting) = gather();
        let writer =
            Writer { database: database.clone(), clock: clock.clone(), tree: tree.clone(), end: Some(end) };
        let writer = writers.spawn(writer.run(waiting));
        Ok(Self {
            database,
            clock,
            key,
            tree,
            cosigning: tokio::sync::Mutex::new(()),
            entrance: Mutex::new(Some(entrance)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Writes an entry and gives its number. It is durable then; appends at the same time share a
    /// flush. The log sets the entry's time. An append that is given up may be written all the same.
    ///
    /// # Errors
    /// When it could not be made durable, or the log is closed; `ResourceExhausted` when it is too large for the tree.
    pub async fn append(&self, entry: Entry) -> Result<u64> {
        if !entry.fits_leaf() {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "an entry of the audit log has at most {LEAF_BYTES} bytes: say less with the request"
                ),
            ));
        }
        let (done, result) = oneshot::channel();
        let waiting = Waiting { entry, done, home: Home::here() };
        lock(&self.entrance).as_ref().ok_or_else(closed)?.enter(waiting).map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    /// At most `limit` (and [`MAX_PAGE`]) entries with numbers above `after`, in order.
    ///
    /// # Errors
    /// `DataLoss` when the entries are not what was written.
    pub async fn read(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Entry)>> {
        let after = after.unwrap_or(0);
        let limit = limit.min(MAX_PAGE);
        let rows = self
            .database
            .records()
            .await
            .scan_after::<Entry>(ENTRIES, Some(&entry_key(after)), limit)
            .await?;
        let mut entries = Vec::with_capacity(rows.len());
        for (number, (key, entry)) in (after.saturating_add(1)..).zip(rows) {
            if key != entry_key(number) {
                return Err(damaged(&format!("entry {number} of the audit log is missing")));
            }
            entries.push((number, entry));
        }
        Ok(entries)
    }

    /// Writes what waits and closes. Appends fail from now on.
    ///
    /// # Errors
    /// When the database could not be closed; all acknowledged entries are durable even so.
    pub async fn close(&self) -> Result<()> {
        drop(lock(&self.entrance).take());
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            writer.await.map_err(|e| Error::internal("the writer of the audit log failed").because(e))?;
        }
        self.database.records().await.close().await
    }
}

/// The log's records, which are opened anew after a failure.
struct Database {
    store: Arc<dyn ObjectStore>,
    records: RwLock<Arc<Records>>,
}

impl Database {
    async fn records(&self) -> Arc<Records> {
        self.records.read().await.clone()
    }

    async fn reopen(&self) -> Result<Arc<Records>> {
        let mut records = self.records.write().await;
        if let Err(error) = records.close().await {
            tracing::debug!(%error, "the failed audit log could not be closed");
        }
        *records = Arc::new(Records::open(self.store.clone(), PATH).await?);
        Ok(records.clone())
    }
}

struct Writer {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    tree: Arc<Tree>,
    /// The end of the log; unknown after a failure.
    end: Option<End>,
}

impl Writer {
    async fn run(mut self, mut waiting: Exit<Waiting>) {
        while let Some(mut group) = waiting.take().await {
            while !group.is_empty() {
                let rest = group.split_off(group.len().min(MAX_BATCH));
                let mut answers = Answers::default();
                let mut entries = Vec::with_capacity(group.len());
                for Waiting { entry, done, home } in std::mem::replace(&mut group, rest) {
                    entries.push(entry);
                    answers.add(home, done);
                }
                match self.write(entries).await {
                    Ok(first) => answers.send(|index| Ok(first + index as u64)),
                    Err(error) => {
                        tracing::error!(%error, entries = answers.len(), "the audit log cannot be written");
                        answers.send(|_| Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Writes entries under the next numbers and gives the first of these.
    async fn write(&mut self, entries: Vec<Entry>) -> Result<u64> {
        let (records, End { mut head, mut edge }) = match self.end.take() {
            Some(end) => (self.database.records().await, end),
            None => {
                let records = self.database.reopen().await?;
                let end = find_end(&records).await?;
                (records, end)
            }
        };
        let first = head.last + 1;
        head.time = head.time.max(self.clock.now());
        let mut changes = RecordBatch::new();
        let mut full = Vec::new();
        for mut entry in entries {
            entry.time = head.time;
            head.last += 1;
            let stored = tree::stored(&entry)?;
            edge.push(tree::leaf(&stored), &mut full);
            changes = changes.put(&entry_key(head.last), &stored)?;
        }
        records.write(tree::put(changes, &full)?.put(HEAD, &head)?).await?;
        self.tree.publish(&edge);
        self.end = Some(End { head, edge });
        Ok(first)
    }
}

/// The end of the log and of its tree, with a look that the entries agree with it.
async fn find_end(records: &Records) -> Result<End> {
    let head: Head = records.get(HEAD).await?.unwrap_or_default();
    let past = records.scan_after::<Entry>(ENTRIES, Some(&entry_key(head.last)), 1).await?;
    let last_is_there = head.last == 0 || records.get::<Entry>(&entry_key(head.last)).await?.is_some();
    if past.is_empty() && last_is_there {
        Ok(End { edge: tree::load(records, head.last).await?, head })
    } else {
        Err(damaged("the end of the audit log is not where it was written"))
    }
}

fn entry_key(number: u64) -> String {
    format!("{ENTRIES}{number:020}")
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the audit log is closed")
}

fn damaged(message: &str) -> Error {
    Error::new(ErrorKind::DataLoss, message)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
