//! ReadRows: spans of keys, each row decoded, collected, filtered and cut into chunks.
//!
//! Invariant: rows come in the order of their keys, each whole or not at all, and none after the key of
//! the table was locked. Memory does not grow with the result: a slow client slows the scan.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::names::TableName;
use claviger_core::{Error, Result, Timestamp};
use claviger_sealed::engine::from_slatedb;
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::Bigtable;
use crate::model::Families;
use crate::model::chunk::{Chunk, Chunker};
use crate::model::filter::Filter;
use crate::model::row::read_row;
use crate::model::row_set::{RowSet, Span};
use crate::tablet::OpenTablet;

/// Messages that wait for a slow client.
const MESSAGES_AHEAD: usize = 4;
/// Single rows that are read at the same time.
const KEYS_AHEAD: usize = 16;
/// Rows that a filter may swallow before the client is told how far the scan is.
const ROWS_PER_HEARTBEAT: u64 = 10_000;
/// Rows between two looks at the key's state.
const ROWS_PER_GUARD: u64 = 64;
/// Single rows up to which an answer is made in one go, without a task of its own.
const SMALL: usize = 8;

/// What to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The families that the filter was made for, and that the answer names.
    pub families: Arc<Families>,
    /// Which rows.
    pub rows: RowSet,
    /// What of them.
    pub filter: Option<Arc<Filter>>,
    /// At most so many rows; 0 for all.
    pub limit: u64,
    /// From the last to the first.
    pub reversed: bool,
}

/// A part of the answer.
#[derive(Clone, Debug)]
pub enum ReadEvent {
    /// Pieces of rows.
    Chunks(Vec<Chunk>),
    /// No row up to this key is still to come.
    Scanned(Bytes),
    /// The last event.
    Done(ReadStats),
}

/// What a read did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Rows looked at.
    pub rows_seen: u64,
    /// Rows in the answer.
    pub rows_returned: u64,
    /// Cells looked at.
    pub cells_seen: u64,
    /// Cells in the answer.
    pub cells_returned: u64,
}

/// The answer: at once, or as it comes.
#[derive(Debug)]
pub enum ReadAnswer {
    /// All of it.
    Whole(Vec<ReadEvent>),
    /// Parts, the last of them [`ReadEvent::Done`] or an error.
    Parts(mpsc::Receiver<Result<ReadEvent>>),
}

/// Where rows go from the scan.
struct Sink {
    families: Arc<Families>,
    filter: Option<Arc<Filter>>,
    now: Timestamp,
    limit: u64,
    chunker: Chunker,
    stats: ReadStats,
    /// Rows since the last one that the client gets, or since it last heard of the scan.
    quiet: u64,
}

impl Sink {
    fn new(request: &ReadRequest, now: Timestamp) -> Self {
        Self {
            chunker: Chunker::new(request.families.clone()),
            families: request.families.clone(),
            filter: request.filter.clone(),
            now,
            limit: if request.limit == 0 { u64::MAX } else { request.limit },
            stats: ReadStats::default(),
            quiet: 0,
        }
    }

    /// Takes a stored row.
    fn push(&mut self, key: &Bytes, stored: &Bytes) -> Result<()> {
        self.stats.rows_seen += 1;
        self.quiet += 1;
        if self.filter.as_deref().is_some_and(|filter| filter.rejects_row(key)) {
            return Ok(());
        }
        let mut cells = read_row(stored, &self.families, self.now)?;
        self.stats.cells_seen += cells.len() as u64;
        if let Some(filter) = &self.filter {
            cells = filter.apply(key, cells)?;
        }
        if !cells.is_empty() {
            self.quiet = 0;
            self.stats.rows_returned += 1;
            self.stats.cells_returned += cells.len() as u64;
            self.chunker.push(key.clone(), cells);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.stats.rows_returned >= self.limit
    }

    fn events(&mut self) -> Vec<ReadEvent> {
        self.chunker.take_full().into_iter().map(ReadEvent::Chunks).collect()
    }

    fn last_events(&mut self) -> Vec<ReadEvent> {
        let mut events = self.events();
        events.extend(self.chunker.take_rest().map(ReadEvent::Chunks));
        events.push(ReadEvent::Done(self.stats));
        events
    }
}

impl Bigtable {
    /// Reads rows. Few single rows are answered in one go; a scan goes on in a task of its own, which
    /// ends when the receiver is dropped.
    ///
    /// # Errors
    /// `NotFound` for the table; `FailedPrecondition` when its key is not usable, also in the course of
    /// the answer.
    pub async fn read_rows(&self, table: &TableName, request: ReadRequest) -> Result<ReadAnswer> {
        let tablet = self.tablet(table)?;
        let open = tablet.open().await?;
        let mut sink = Sink::new(&request, self.shared.clock.now());
        let mut spans = request.rows.into_spans(request.reversed);
        if spans.len() <= SMALL && spans.as_slice().iter().all(|span| matches!(span, Span::Key(_))) {
            for span in spans {
                if sink.is_full() {
                    break;
                }
                let key = span.start();
                if let Some(stored) = open.engine.get(key).await.map_err(|e| open.explain(e))? {
                    sink.push(key, &stored)?;
                }
            }
            open.guard()?;
            return Ok(ReadAnswer::Whole(sink.last_events()));
        }
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        self.shared.runtime.spawn(async move {
            let mut scan = Scan { open, sink, sender, reversed: request.reversed };
            match scan.run(&mut spans).await {
                Ok(()) | Err(Ended::Client) => {}
                // The receiver may be gone: then nobody wants to know.
                Err(Ended::Failed(error)) => drop(scan.sender.send(Err(scan.open.explain(error))).await),
            }
        });
        Ok(ReadAnswer::Parts(receiver))
    }
}

/// Why a scan ended early.
enum Ended {
    /// The client left.
    Client,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Scan {
    open: Arc<OpenTablet>,
    sink: Sink,
    sender: mpsc::Sender<Result<ReadEvent>>,
    reversed: bool,
}

impl Scan {
    async fn run(&mut self, spans: &mut std::vec::IntoIter<Span>) -> Result<(), Ended> {
        let mut keys = Vec::new();
        loop {
            let span = if self.sink.is_full() { None } else { spans.next() };
            match span {
                Some(Span::Key(key)) => keys.push(key),
                Some(Span::Range { start, end }) => {
                    self.read_keys(&mut keys).await?;
                    self.read_range(start, end).await?;
                }
                None => {
                    self.read_keys(&mut keys).await?;
                    self.open.guard()?;
                    let events = self.sink.last_events();
                    return self.send(events).await;
                }
            }
            if keys.len() >= KEYS_AHEAD * 4 {
                self.read_keys(&mut keys).await?;
            }
        }
    }

    /// Reads single rows, several at the same time, in their order.
    async fn read_keys(&mut self, keys: &mut Vec<Bytes>) -> Result<(), Ended> {
        let open = self.open.clone();
        let mut found = futures::stream::iter(keys.drain(..))
            .map(|key| {
                let open = open.clone();
                async move { open.engine.get(&key).await.map(|stored| (key, stored)) }
            })
            .buffered(KEYS_AHEAD);
        while let Some(read) = found.next().await {
            let (key, stored) = read?;
            if self.sink.is_full() {
                break;
            }
            if let Some(stored) = stored {
                self.sink.push(&key, &stored)?;
                self.after_row(&key).await?;
            }
        }
        Ok(())
    }

    async fn read_range(&mut self, start: Bytes, end: Option<Bytes>) -> Result<(), Ended> {
        if self.sink.is_full() {
            return Ok(());
        }
        let mut rows = self.open.engine.scan_range(&start, end.as_deref(), self.reversed).await?;
        while let Some(row) = rows.next().await.map_err(from_slatedb)? {
            self.sink.push(&row.key, &row.value)?;
            self.after_row(&row.key).await?;
            if self.sink.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Sends what is full, and looks at the key's state now and then.
    async fn after_row(&mut self, key: &Bytes) -> Result<(), Ended> {
        if self.sink.stats.rows_seen.is_multiple_of(ROWS_PER_GUARD) {
            self.open.guard()?;
            // A scan of cached blocks never waits; let others run.
            tokio::task::coop::consume_budget().await;
        }
        if self.sink.chunker.has_full() {
            // Asked once more: what was decrypted before a lock is not sent after it.
            self.open.guard()?;
            let events = self.sink.events();
            return self.send(events).await;
        }
        if self.sink.quiet >= ROWS_PER_HEARTBEAT {
            self.sink.quiet = 0;
            let mut events: Vec<_> =
                self.sink.chunker.take_rest().map(ReadEvent::Chunks).into_iter().collect();
            events.push(ReadEvent::Scanned(key.clone()));
            return self.send(events).await;
        }
        Ok(())
    }

    async fn send(&self, events: Vec<ReadEvent>) -> Result<(), Ended> {
        for event in events {
            self.sender.send(Ok(event)).await.map_err(|_| Ended::Client)?;
        }
        Ok(())
    }
}
