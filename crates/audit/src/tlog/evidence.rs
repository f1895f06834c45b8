//! One entry, with all that proves it: the entry, its proof and a checkpoint, in one file (C2SP tlog-proof). And the
//! making of proofs from the tiles of a log, wherever these are.
//!
//! Invariant: hashes that come from a source are believed only as far as they lead to a root that is known.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};

use super::note::{Note, VerifierKey};
use super::tree::{Hash, fold, peaks};
use super::{
    Bundle, Contents, LEAF_BYTES, MAX_NOTE_BYTES, Proof, SignedCheckpoint, TILE_WIDTH, Tile,
    inclusion_ranges, number,
};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A file of evidence, bytes at most: an entry in base64, hashes, a note.
const MAX_BYTES: usize = LEAF_BYTES * 4 / 3 + MAX_NOTE_BYTES + 8 * 1024;

/// Where the files of a log are: a server, a folder, the log itself.
#[async_trait]
pub trait Source: Send + Sync {
    /// The file at a path such as `tile/0/000`; none when it is not there.
    ///
    /// # Errors
    /// When it cannot be known whether it is there.
    async fn get(&self, path: &str) -> Result<Option<Bytes>>;

    /// A tile as full as it is asked for, be it cut from one that is fuller.
    ///
    /// # Errors
    /// As [`Source::get`].
    async fn tile(&self, tile: Tile) -> Result<Option<Bytes>> {
        match self.get(&tile.path()).await? {
            None if !tile.is_full() => self.get(&tile.filled().path()).await,
            found => Ok(found),
        }
    }
}

/// An entry with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The entry, as it was logged.
    pub entry: Bytes,
    /// The index in the tree: the entry's number less one.
    pub index: u64,
    /// The proof.
    pub proof: Proof,
    /// The checkpoint that it leads to, with its signatures.
    pub checkpoint: Note,
}

impl Evidence {
    /// Reads a file of evidence.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("this is no proof of an entry: {why}"));
        if file.len() > MAX_BYTES {
            return Err(wrong("it is too long"));
        }
        let text = std::str::from_utf8(file).map_err(|_| wrong("it is not UTF-8"))?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(|| wrong("it has no checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(wrong("its first line is another"));
        }
        let entry = lines.next().and_then(|line| line.strip_prefix("extra "));
        let entry = entry.and_then(|entry| BASE64.decode(entry).ok());
        let entry = entry.ok_or_else(|| wrong("its second line holds no entry"))?;
        let index = lines.next().and_then(|line| number(line.strip_prefix("index ")?));
        let index = index.ok_or_else(|| wrong("its third line holds no index"))?;
        let proof: Option<Vec<_>> = lines.map(Hash::parse).collect();
        let proof = Proof(proof.ok_or_else(|| wrong("a line of it is no hash"))?);
        Ok(Self { entry: entry.into(), index, proof, checkpoint: Note::parse(checkpoint.as_bytes())? })
    }

    /// Checks that the log of this key has the entry, and gives the checkpoint that says so.
    ///
    /// # Errors
    /// As [`SignedCheckpoint::open`]; `DataLoss` when the proof does not lead from the entry to the checkpoint.
    pub fn check(&self, log: &VerifierKey) -> Result<SignedCheckpoint> {
        let signed = SignedCheckpoint::open(self.checkpoint.to_string().as_bytes(), log)?;
        let leaf = Hash::leaf(&self.entry);
        if self.proof.includes(leaf, self.index, signed.checkpoint.size, signed.checkpoint.root) {
            return Ok(signed);
        }
        Err(Error::new(
            ErrorKind::DataLoss,
            format!("the proof does not hold: entry {} of the log is another", self.index.saturating_add(1)),
        ))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", BASE64.encode(&self.entry), self.index)?;
        self.proof.0.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Makes the evidence of an entry from a log's files. It is not checked yet.
///
/// # Errors
/// `OutOfRange` when the checkpoint has fewer entries; `DataLoss` when a file that it needs is missing or damaged.
pub async fn prove(source: &dyn Source, index: u64, checkpoint: &SignedCheckpoint) -> Result<Evidence> {
    let size = checkpoint.checkpoint.size;
    let beyond = || Error::new(ErrorKind::OutOfRange, format!("the log has {size} entries"));
    let ranges = inclusion_ranges(index, size).ok_or_else(beyond)?;
    let tile = Tile::at(Contents::Entries, index / TILE_WIDTH, size).ok_or_else(beyond)?;
    let bundle = source.tile(tile).await?.ok_or_else(|| damaged(tile, "is missing"))?;
    let place = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
    let entry = Bundle::decode(bundle).entries.into_iter().nth(place);
    let entry = entry.ok_or_else(|| damaged(tile, &format!("lacks entry {}", index + 1)))?;
    let proof = Proof(hashes(source, size, ranges).await?);
    Ok(Evidence { entry, index, proof, checkpoint: checkpoint.note.clone() })
}

/// The root of the first `at` entries, from the tiles of a tree of `size` entries.
///
/// # Errors
/// `DataLoss` when a tile is missing or damaged.
pub async fn root_at(source: &dyn Source, at: u64, size: u64) -> Result<Hash> {
    if at == 0 {
        return Ok(Hash::empty());
    }
    hash_of_range(source, size, 0..at, &mut HashMap::new()).await
}

/// The hashes of ranges of entries of a tree of `size` entries.
pub(super) async fn hashes(source: &dyn Source, size: u64, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>> {
    let (mut tiles, mut hashes) = (HashMap::new(), Vec::with_capacity(ranges.len()));
    for range in ranges {
        hashes.push(hash_of_range(source, size, range, &mut tiles).await?);
    }
    Ok(hashes)
}

/// The hash of a range of entries as RFC 6962 splits them, from the tiles of a tree of `size` entries; `tiles` are
/// those that were read before.
///
/// # Errors
/// `DataLoss` when a tile is missing or damaged.
async fn hash_of_range(
    source: &dyn Source,
    size: u64,
    range: Range<u64>,
    tiles: &mut HashMap<Tile, Vec<Hash>>,
) -> Result<Hash> {
    let mut subtrees = Vec::new();
    let mut start = range.start;
    while start < range.end {
        // The largest perfect subtree that begins here and lies within.
        let height = (range.end - start).ilog2();
        let level = height / TILE_WIDTH.ilog2();
        let contents = Contents::Hashes(u8::try_from(level).unwrap_or(u8::MAX));
        let first = contents.count(start);
        let tile = Tile::at(contents, first / TILE_WIDTH, size);
        let tile = tile.ok_or_else(|| Error::internal("a proof needs a tile beyond the tree"))?;
        if let Slot::Vacant(slot) = tiles.entry(tile) {
            let bytes = source.tile(tile).await?.ok_or_else(|| damaged(tile, "is missing"))?;
            slot.insert(tile_hashes(tile, &bytes).ok_or_else(|| damaged(tile, "is damaged"))?);
        }
        let place = usize::try_from(first % TILE_WIDTH).unwrap_or(usize::MAX);
        let count = 1usize << (height % TILE_WIDTH.ilog2());
        let hashes = tiles.get(&tile).and_then(|hashes| hashes.get(place..place.checked_add(count)?));
        subtrees.push(fold(&peaks(hashes.ok_or_else(|| damaged(tile, "is too short"))?)));
        start += 1 << height;
    }
    Ok(fold(&subtrees))
}

/// The hashes of a tile; it may be fuller than was asked for.
pub(super) fn tile_hashes(tile: Tile, bytes: &[u8]) -> Option<Vec<Hash>> {
    let mut hashes = Hash::split(bytes)?;
    let width = usize::from(tile.width);
    let fits = hashes.len() == width || hashes.len() == usize::from(tile.filled().width);
    hashes.truncate(width);
    fits.then_some(hashes)
}

fn damaged(tile: Tile, what: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("{} of the log {what}", tile.path()))
}
