//! SlateDB's write-ahead log in a [`Log`] of ours: one sealed frame and one durable write for all that is
//! written at a time, where SlateDB itself would build, seal and name a file of its own.
//!
//! A frame is what SlateDB calls a WAL file: its number is the file's id. A segment goes when SlateDB needs
//! none of its frames.
//!
//! Invariant: SlateDB's rules for a log (`slatedb::wal`) hold. A writer that was taken over, whose key is
//! locked or whose disk failed writes nothing more and says so to all who wait.

mod collect;
mod pump;
mod replay;
pub mod rows;
mod writer;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use claviger_core::Result;
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::wal::{
    SlateDbWalReaderBuilder, WalError, WalReader, WriterInit, WriterInitResult, WriterManifest,
};
use tokio::runtime::Handle;

use crate::error::{from_store, is_taken_over, tamper};
use crate::store::log::{Content, Log, LogQuestion, Segment};

pub(super) use collect::Collector;
use replay::Replay;
pub(super) use writer::Core;
use writer::Writer;

/// SlateDB asks for a new sorted file when the log of what is in memory has more segments than this, so that
/// an open never replays more than 256 MiB and a frame.
const MAX_REPLAYED_SEGMENTS: usize = 16;

/// The log of the database at `path`, when the store can keep one. It is written on `writers`.
///
/// # Errors
/// What the store answers, when it has logs that it cannot go on with.
pub(super) async fn find(store: &Arc<dyn ObjectStore>, path: &str, writers: Handle) -> Result<Option<Init>> {
    let Some(logs) = LogQuestion::ask(store.as_ref()).await else { return Ok(None) };
    let Some(logs) = logs.map_err(from_store)? else { return Ok(None) };
    let log = logs.claim(path).await.map_err(from_store)?;
    Ok(Some(Init { log, store: store.clone(), path: Path::from(path), core: Arc::default(), writers }))
}

/// An error of the stores as SlateDB's.
fn wal_error(error: object_store::Error) -> WalError {
    if is_taken_over(&error) {
        return WalError::Fenced;
    }
    let changed = tamper(&error).is_some();
    let error = Arc::new(error);
    if changed { WalError::DataError(error) } else { WalError::Unavailable(error) }
}

/// Opens the log when SlateDB has made sure that it is the only writer.
pub(super) struct Init {
    log: Log,
    store: Arc<dyn ObjectStore>,
    path: Path,
    core: Arc<OnceLock<Arc<Core>>>,
    writers: Handle,
}

impl Init {
    /// Where the log's state can be had once it was opened.
    pub(super) fn core(&self) -> Arc<OnceLock<Arc<Core>>> {
        self.core.clone()
    }

    /// What removes the segments that are not needed any more.
    pub(super) fn collector(&self) -> Collector {
        Collector::new(self.log.clone(), self.store.clone(), &self.path)
    }

    /// The segments that hold frames after `replayed`, oldest first.
    async fn needed(&self, replayed: u64) -> object_store::Result<Vec<Segment>> {
        let mut segments = self.log.segments().await?;
        let first = segments.partition_point(|segment| segment.first <= replayed.saturating_add(1));
        Ok(segments.split_off(first.saturating_sub(1)))
    }

    /// Reads the last segment, and ends all that were not ended. The writers before this one are gone.
    async fn settle(&self, segments: &[Segment]) -> object_store::Result<Option<Content>> {
        let mut last = None;
        for (index, segment) in segments.iter().enumerate() {
            let next = segments.get(index + 1);
            if next.is_some() && segment.is_settled() {
                continue;
            }
            let content = self.log.read(segment).await?;
            if let Some(next) = next
                && segment.next(&content) != next.first
            {
                return Err(self.log.gap(segment));
            }
            self.log.settle(segment, &content).await?;
            last = Some(content);
        }
        Ok(last)
    }
}

#[async_trait]
impl WriterInit for Init {
    async fn fence_and_init(&self, manifest: &mut WriterManifest) -> Result<WriterInitResult, WalError> {
        let replayed = manifest.replay_after_wal_id();
        let noted = manifest.manifest().next_wal_sst_id().saturating_sub(1);
        let segments = self.needed(replayed).await.map_err(wal_error)?;
        let last = self.settle(&segments).await.map_err(wal_error)?;

        // A database that an earlier version wrote has files of SlateDB's own log before ours.
        let reader = SlateDbWalReaderBuilder::new()
            .with_path(self.path.clone())
            .with_object_store(self.store.clone())
            .build()
            .map_err(|error| WalError::InternalError(Arc::new(error)))?;
        let (own_first, last_id) = match (segments.first(), segments.last(), &last) {
            (Some(first), Some(segment), Some(content)) => {
                (first.first, segment.next(content).saturating_sub(1))
            }
            _ => {
                let last = reader.last_wal_file_id(replayed).await?.max(noted);
                (last.saturating_add(1), last)
            }
        };
        if last_id < noted {
            let cut = segments.last().map_or_else(|| self.log.missing(), |segment| self.log.gap(segment));
            return Err(wal_error(cut));
        }
        let before = if replayed.saturating_add(1) < own_first {
            Some(reader.iterator((replayed + 1..own_first).into()).await?)
        } else {
            None
        };
        let replay_iterator =
            Box::new(Replay::new(self.log.clone(), before, segments.clone(), last, replayed));
        let core = Arc::new(Core::new(last_id, segments.iter().map(|segment| segment.first)));
        // There is one call of this for each `Init`; a second one would make a log of its own.
        let _ = self.core.set(core.clone());
        self.writers.spawn(pump::run(core.clone(), self.log.clone(), manifest.epoch()));
        Ok(WriterInitResult { replay_iterator, wal_writer: Box::new(Writer::new(core)) })
    }
}

#[cfg(test)]
mod tests;
