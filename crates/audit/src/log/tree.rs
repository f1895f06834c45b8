//! The tree over the log's entries, as it is kept: full tiles as records, the rest in memory.
//!
//! Records: `t/`, the level in 2 digits and the index in 20 hold full tiles of hashes, in base64. They are written in
//! the batch of the entry that fills them. The partial tiles at the right edge come back from the entries when the log
//! is opened; tiles that are missing there, as those of a log that was written before there was a tree, are made then.
//!
//! Invariant: leaf `i` of the tree is the bytes of the record of entry `i + 1`, as they are stored.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_core::{Error, Result};
use claviger_sealed::{RecordBatch, Records};
use serde_json::value::RawValue;

use super::{ENTRIES, damaged, entry_key};
use crate::Entry;
use crate::tlog::{Contents, Edge, FullTile, Hash, TILE_WIDTH, fold, peaks};

/// What the keys of tiles begin with.
const TILES: &str = "t/";
/// Entries that are read at a time when tiles are made.
const CHUNK: usize = 4096;

/// The tree's edge as of the last durable entry, for whoever reads.
#[derive(Debug, Default)]
pub(super) struct Tree(RwLock<Arc<Edge>>);

impl Tree {
    pub(super) fn edge(&self) -> Arc<Edge> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, edge: &Edge) {
        let edge = Arc::new(edge.clone());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = edge;
    }
}

/// An entry as it is stored, and so as it is hashed.
pub(super) fn stored(entry: &Entry) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(entry)
        .map_err(|e| Error::internal("an entry of the audit log could not be encoded").because(e))
}

/// The hash of a stored entry.
pub(super) fn leaf(entry: &RawValue) -> Hash {
    Hash::leaf(entry.get().as_bytes())
}

/// At most `limit` stored entries with numbers above `after`, in order.
pub(super) async fn stored_after(records: &Records, after: u64, limit: usize) -> Result<Vec<Box<RawValue>>> {
    let rows = records.scan_after::<Box<RawValue>>(ENTRIES, Some(&entry_key(after)), limit).await?;
    let numbered = (after.saturating_add(1)..).zip(rows);
    numbered
        .map(|(number, (key, entry))| if key == entry_key(number) { Ok(entry) } else { Err(missing(number)) })
        .collect()
}

/// Adds tiles that became full to a batch.
pub(super) fn put(mut changes: RecordBatch, full: &[FullTile]) -> Result<RecordBatch> {
    for FullTile { level, index, hashes } in full {
        changes = changes.put(&tile_key(*level, *index), &BASE64.encode(Hash::join(hashes)))?;
    }
    Ok(changes)
}

/// A full tile's hashes.
pub(super) async fn full_tile(records: &Records, level: u8, index: u64) -> Result<Option<Vec<Hash>>> {
    let Some(text) = records.get::<String>(&tile_key(level, index)).await? else { return Ok(None) };
    let hashes = BASE64.decode(text).ok().and_then(|bytes| Hash::split(&bytes));
    let hashes = hashes.filter(|hashes| u64::try_from(hashes.len()) == Ok(TILE_WIDTH));
    hashes
        .map(Some)
        .ok_or_else(|| damaged(&format!("tile {index} of level {level} of the audit log is damaged")))
}

/// The edge of the tree of `size` entries. Makes the tiles that are missing.
pub(super) async fn load(records: &Records, size: u64) -> Result<Edge> {
    let there = full_tiles(records, size / TILE_WIDTH).await?;
    let mut edge = edge_after(records, there * TILE_WIDTH).await?;
    if there < size / TILE_WIDTH {
        tracing::info!(entries = size - edge.size(), "the audit log gets the tree of its entries");
    }
    while edge.size() < size {
        let left = usize::try_from(size - edge.size()).unwrap_or(usize::MAX);
        let entries = stored_after(records, edge.size(), left.min(CHUNK)).await?;
        if entries.is_empty() {
            return Err(missing(edge.size() + 1));
        }
        let mut full = Vec::new();
        entries.iter().for_each(|entry| edge.push(leaf(entry), &mut full));
        if !full.is_empty() {
            records.write(put(RecordBatch::new(), &full)?).await?;
        }
    }
    Ok(edge)
}

/// How many full tiles of level 0 are there, at most `most`. They are written in order, so halving finds the last.
async fn full_tiles(records: &Records, most: u64) -> Result<u64> {
    let (mut low, mut high) = (0, most);
    let mut probe = most.saturating_sub(1);
    while low < high {
        if full_tile(records, 0, probe).await?.is_some() {
            low = probe + 1
        } else {
            high = probe
        }
        probe = low + (high - low) / 2;
    }
    Ok(low)
}

/// The edge of a tree that ends with a full tile of level 0.
async fn edge_after(records: &Records, size: u64) -> Result<Edge> {
    let mut levels = vec![Vec::new()];
    for level in 1..=u8::MAX {
        let count = Contents::Hashes(level).count(size);
        if count == 0 {
            break;
        }
        let mut hashes = Vec::new();
        for index in count - count % TILE_WIDTH..count {
            let tile = full_tile(records, level - 1, index).await?;
            let tile = tile.ok_or_else(|| damaged("a tile of the audit log is missing"))?;
            hashes.push(fold(&peaks(&tile)));
        }
        levels.push(hashes);
    }
    Edge::new(size, levels).ok_or_else(|| Error::internal("the audit log's tree has another size"))
}

fn missing(number: u64) -> Error {
    damaged(&format!("entry {number} of the audit log is missing"))
}

fn tile_key(level: u8, index: u64) -> String {
    format!("{TILES}{level:02}/{index:020}")
}
