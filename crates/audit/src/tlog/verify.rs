//! Whether the files of a log are those of checkpoints that someone holds, and if not, where they begin to differ.
//!
//! Every entry is read and hashed. The roots at the sizes of the held checkpoints then say whether all entries up to
//! there are what was logged. If not, the log's own hashes of entries, or those of an earlier copy, tell which entry is
//! the first that differs, provided that they lead to the held root themselves: hashes that were forged along with the
//! entries do not.
//!
//! Invariant: without a finding, each entry up to the newest checkpoint is the one that the roots are made of. Nothing
//! is believed that a source says of itself.

use std::fmt;

use bytes::Bytes;
use claviger_core::{ErrorKind, Result};
use futures::{StreamExt, TryStreamExt, stream};

use super::evidence::{hashes, tile_hashes};
use super::{
    Bundle, CHECKPOINT_PATH, Checkpoint, Contents, Edge, FullTile, Hash, Note, Proof, SignedCheckpoint,
    Source, TILE_WIDTH, Tile, VerifierKey, consistency_ranges,
};

/// Tiles that are fetched ahead.
const AHEAD: usize = 8;
/// Wrong files that are named, at most.
const MOST_FILES: usize = 16;

/// What a log is checked against.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The key of the log.
    pub log: &'a VerifierKey,
    /// Checkpoints from elsewhere, opened with that key.
    pub held: &'a [SignedCheckpoint],
    /// Witnesses that each of these must have cosigned.
    pub witnesses: &'a [VerifierKey],
    /// A copy of earlier, to name a changed entry when the log's own hashes were forged with it.
    pub earlier: Option<&'a dyn Source>,
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("held", &self.held).finish_non_exhaustive()
    }
}

/// Something that is not as it should be. Entries are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A held checkpoint lacks the cosignature of a witness.
    NotCosigned {
        /// Its size.
        size: u64,
        /// The witness.
        witness: String,
    },
    /// The log has no checkpoint of its own that its key signed.
    Checkpoint(String),
    /// By its own checkpoint, the log ends before a held one.
    Ends {
        /// Its last entry.
        last: u64,
        /// The last entry of the held checkpoint.
        held: u64,
    },
    /// An entry is not there, or cannot be read.
    Missing(u64),
    /// The first entry that is not what was logged: altered, moved, put in, or next to one that was taken out.
    Changed(u64),
    /// One of these entries, it cannot be told which, is not what was logged.
    ChangedAmong {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// The entries are right, but this file of hashes is not made of them.
    Hashes(String),
    /// The entries of this file are right, but it holds more than these.
    More(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCosigned { size, witness } => {
                write!(f, "the held checkpoint of {size} entries is not cosigned by {witness}")
            }
            Self::Checkpoint(why) => write!(f, "the log's own checkpoint cannot be believed: {why}"),
            Self::Ends { last, held } => write!(
                f,
                "entry {} is missing: the log ends at entry {last}, and the held checkpoint has {held} entries",
                last + 1
            ),
            Self::Missing(number) => write!(f, "entry {number} is missing or cannot be read"),
            Self::Changed(number) => write!(f, "entry {number} is not what was logged"),
            Self::ChangedAmong { first, last } => write!(
                f,
                "an entry from {first} to {last} is not what was logged, and the log's hashes were changed with it"
            ),
            Self::Hashes(path) => {
                write!(f, "the entries are right, but the hashes in {path} are not made of them")
            }
            Self::More(path) => write!(f, "{path} holds more than the entries that were logged"),
        }
    }
}

/// What a check showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The log's own newest checkpoint, if it has one that its key signed.
    pub newest: Option<Checkpoint>,
    /// Up to this entry, all are proven to be what was logged.
    pub proven: u64,
    /// What is wrong; the first entry that is wrong comes first.
    pub findings: Vec<Finding>,
}

/// Reads all entries of a log and checks them.
///
/// # Errors
/// When the log cannot be read; that it is wrong is a finding and no error.
pub async fn verify(source: &dyn Source, task: &Task<'_>) -> Result<Report> {
    let Begin { mut report, size, laid_out } = begin(source, task).await?;
    let mark =
        |held: bool| move |checkpoint: &Checkpoint| Mark { at: checkpoint.size, root: checkpoint.root, held };
    let held = task.held.iter().map(|held| &held.checkpoint).map(mark(true));
    let mut marks: Vec<_> = held.chain(report.newest.iter().map(mark(false))).collect();
    marks.sort_unstable_by_key(|mark| mark.at);
    let earlier = match task.earlier {
        Some(source) => Some((source, checkpoint_of(source, task.log).await?.checkpoint.size)),
        None => None,
    };
    let mut walk = Walk::new(source, &marks, size);
    let tiles = (0..size.div_ceil(TILE_WIDTH)).map(|index| fetch(source, earlier, index, laid_out));
    let mut tiles = stream::iter(tiles).buffered(AHEAD);
    while let Some(fetched) = tiles.try_next().await? {
        walk.take(fetched).await?;
    }
    if size == laid_out {
        walk.look_at_last_tiles().await?;
    }
    if let Some((earlier, had)) = earlier {
        walk.go_on_beyond(earlier, had).await?;
    }
    walk.conclude(&mut report);
    Ok(report)
}

/// Checks by the hashes of a log alone that the held checkpoints are beginnings of the newest one. No entry is read.
///
/// # Errors
/// When the log cannot be read, or hashes that are needed are missing.
pub async fn verify_hashes(source: &dyn Source, task: &Task<'_>) -> Result<Report> {
    let Begin { mut report, size, .. } = begin(source, task).await?;
    let Some(newest) = report.newest.clone() else { return Ok(report) };
    for held in task.held.iter().map(|held| &held.checkpoint).filter(|held| held.size <= size) {
        let ranges = consistency_ranges(held.size, size).unwrap_or_default();
        let proof = Proof(hashes(source, size, ranges).await?);
        if proof.is_consistent((held.size, held.root), (size, newest.root)) {
            report.proven = report.proven.max(held.size);
        } else {
            report.findings.push(Finding::ChangedAmong { first: 1, last: held.size });
        }
    }
    Ok(report)
}

/// What the checkpoints say.
struct Begin {
    report: Report,
    /// How many entries are to be looked at.
    size: u64,
    /// For how many entries the files are named.
    laid_out: u64,
}

/// Looks at the checkpoints.
async fn begin(source: &dyn Source, task: &Task<'_>) -> Result<Begin> {
    let mut report = Report::default();
    for held in task.held {
        for witness in task.witnesses {
            if held.cosigned(witness)?.is_none() {
                let (size, witness) = (held.checkpoint.size, witness.name().to_owned());
                report.findings.push(Finding::NotCosigned { size, witness });
            }
        }
    }
    let longest = task.held.iter().map(|held| held.checkpoint.size).max().unwrap_or(0);
    match checkpoint_of(source, task.log).await {
        Ok(newest) => {
            let last = newest.checkpoint.size;
            if last < longest {
                report.findings.push(Finding::Ends { last, held: longest });
            }
            report.newest = Some(newest.checkpoint);
            Ok(Begin { report, size: last, laid_out: last })
        }
        Err(error) if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::DataLoss) => {
            report.findings.push(Finding::Checkpoint(error.message().to_owned()));
            // Not believed, but it tells how the files are named.
            let note = source.get(CHECKPOINT_PATH).await?.and_then(|note| Note::parse(&note).ok());
            let said = note.and_then(|note| Checkpoint::parse(&note.text).ok());
            let laid_out = said.map_or(longest, |said| said.size.max(longest));
            Ok(Begin { report, size: longest, laid_out })
        }
        Err(error) => Err(error),
    }
}

async fn checkpoint_of(source: &dyn Source, log: &VerifierKey) -> Result<SignedCheckpoint> {
    let note = source.get(CHECKPOINT_PATH).await?;
    let note = note.ok_or_else(|| claviger_core::Error::invalid("there is none"))?;
    SignedCheckpoint::open(&note, log)
}

/// 256 entries, and what hashes say of them.
struct Fetched {
    tile: Tile,
    entries: Option<Bytes>,
    hashes: Option<Bytes>,
    earlier: Vec<Hash>,
}

async fn fetch(
    source: &dyn Source,
    earlier: Option<(&dyn Source, u64)>,
    index: u64,
    size: u64,
) -> Result<Fetched> {
    let at = |contents, size| Tile::at(contents, index, size);
    let missing = || claviger_core::Error::internal("a tile was asked for beyond the tree");
    let tile = at(Contents::Entries, size).ok_or_else(missing)?;
    let leaves = Tile { contents: Contents::Hashes(0), ..tile };
    let (entries, hashes) = tokio::try_join!(source.tile(tile), source.tile(leaves))?;
    let mut before = Vec::new();
    if let Some((source, size)) = earlier
        && let Some(tile) = at(Contents::Hashes(0), size)
        && let Some(bytes) = source.tile(tile).await?
    {
        before = tile_hashes(tile, &bytes).unwrap_or_default();
    }
    Ok(Fetched { tile, entries, hashes, earlier: before })
}

/// Hashes that someone says are those of the entries.
#[derive(Default)]
struct Claims {
    edge: Edge,
    ended: bool,
    /// The first entry that has another hash.
    differs: Option<u64>,
    /// Their roots at the marks.
    roots: Vec<Option<Hash>>,
}

impl Claims {
    fn take(&mut self, number: u64, claimed: Option<Hash>, found: Option<Hash>) {
        match claimed {
            Some(claimed) if !self.ended => {
                self.edge.push(claimed, &mut Vec::new());
                if found != Some(claimed) {
                    self.differs.get_or_insert(number);
                }
            }
            _ => self.ended = true,
        }
    }

    fn mark(&mut self) {
        self.roots.push((!self.ended).then(|| self.edge.root()));
    }

    /// The first entry that differs, if these hashes lead to the root of a mark.
    fn name(&self, mark: usize, root: Hash) -> Option<u64> {
        self.differs.filter(|_| self.roots.get(mark).copied().flatten() == Some(root))
    }
}

/// A size at which the root is known.
struct Mark {
    at: u64,
    root: Hash,
    /// By whoever checks, not by the log's own newest checkpoint.
    held: bool,
}

/// The way along all entries.
struct Walk<'a> {
    source: &'a dyn Source,
    marks: &'a [Mark],
    /// The tree of the entries that are there.
    found: Edge,
    /// The first entry that is not there.
    missing: Option<u64>,
    size: u64,
    roots: Vec<Option<Hash>>,
    own: Claims,
    earlier: Claims,
    number: u64,
    /// Files that are not made of the entries.
    wrong: Vec<Finding>,
}

impl<'a> Walk<'a> {
    fn new(source: &'a dyn Source, marks: &'a [Mark], size: u64) -> Self {
        let mut walk = Self {
            source,
            marks,
            found: Edge::default(),
            missing: None,
            size,
            roots: Vec::new(),
            own: Claims::default(),
            earlier: Claims::default(),
            number: 0,
            wrong: Vec::new(),
        };
        walk.pass_marks();
        walk
    }

    /// Notes the roots at the marks that are reached.
    fn pass_marks(&mut self) {
        while self.marks.get(self.roots.len()).is_some_and(|mark| mark.at == self.number) {
            self.roots.push(self.missing.is_none().then(|| self.found.root()));
            self.own.mark();
            self.earlier.mark();
        }
    }

    async fn take(&mut self, fetched: Fetched) -> Result<()> {
        let Fetched { tile, entries, hashes, earlier } = fetched;
        let leaves = Tile { contents: Contents::Hashes(0), ..tile };
        let own = hashes.and_then(|bytes| tile_hashes(leaves, &bytes)).unwrap_or_default();
        let bundle = Bundle::decode(entries.unwrap_or_default());
        let mut full = Vec::new();
        let mut agree = true;
        let width = usize::from(tile.width);
        for place in 0..width {
            if self.number == self.size {
                break;
            }
            self.number += 1;
            let found = bundle.entries.get(place).map(|entry| Hash::leaf(entry));
            agree &= found == own.get(place).copied();
            match found {
                Some(hash) if self.missing.is_none() => self.found.push(hash, &mut full),
                Some(_) => {}
                None => {
                    self.missing.get_or_insert(self.number);
                }
            }
            self.own.take(self.number, own.get(place).copied(), found);
            self.earlier.take(self.number, earlier.get(place).copied(), found);
            self.pass_marks();
        }
        if !agree {
            self.note(Finding::Hashes(leaves.path()));
        }
        let count = bundle.entries.len();
        let fits = count == width || count == usize::from(tile.filled().width);
        if count >= width && !(bundle.whole && fits) {
            self.note(Finding::More(tile.path()));
        }
        for FullTile { level, index, hashes } in full.into_iter().filter(|tile| tile.level > 0) {
            let tile = Tile { contents: Contents::Hashes(level), index, width: 0 }.filled();
            self.compare(tile, &hashes).await?;
        }
        Ok(())
    }

    fn note(&mut self, finding: Finding) {
        if self.wrong.len() < MOST_FILES {
            self.wrong.push(finding);
        }
    }

    /// Beyond the end of the log, along an earlier copy of so many entries: its hashes count if they lead to the root
    /// of a mark there.
    async fn go_on_beyond(&mut self, earlier: &dyn Source, had: u64) -> Result<()> {
        let end = self.marks.last().map_or(0, |mark| mark.at).min(had);
        while self.number < end {
            let tile = Tile::at(Contents::Hashes(0), self.number / TILE_WIDTH, had);
            let Some(tile) = tile else { return Ok(()) };
            let bytes = earlier.tile(tile).await?;
            let hashes = bytes.and_then(|bytes| tile_hashes(tile, &bytes)).unwrap_or_default();
            let known = usize::try_from(self.number - tile.start()).unwrap_or(usize::MAX);
            if hashes.len() <= known {
                return Ok(());
            }
            for hash in hashes.into_iter().skip(known) {
                self.number += 1;
                self.missing.get_or_insert(self.number);
                self.own.take(self.number, None, None);
                self.earlier.take(self.number, Some(hash), None);
                self.pass_marks();
            }
        }
        Ok(())
    }

    async fn look_at_last_tiles(&mut self) -> Result<()> {
        if self.missing.is_some() {
            return Ok(());
        }
        let edge = std::mem::take(&mut self.found);
        // Those of the entries themselves were looked at on the way.
        for (tile, hashes) in edge.partial_tiles().filter(|(tile, _)| tile.contents > Contents::Hashes(0)) {
            self.compare(tile, hashes).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, tile: Tile, hashes: &[Hash]) -> Result<()> {
        let bytes = self.source.tile(tile).await?;
        if bytes.and_then(|bytes| tile_hashes(tile, &bytes)).as_deref() != Some(hashes) {
            self.note(Finding::Hashes(tile.path()));
        }
        Ok(())
    }

    fn conclude(self, report: &mut Report) {
        let right = |mark: &(usize, &Mark)| self.roots.get(mark.0).copied().flatten() == Some(mark.1.root);
        let broken = self.marks.iter().enumerate().find(|mark| !right(mark));
        // What the log says of itself is tied to what is held only if it goes as far as that.
        let ends = self.marks.last().is_some_and(|mark| mark.at > self.size);
        let proven = self.marks.iter().enumerate().take_while(right).filter(|(_, mark)| mark.held || !ends);
        report.proven = proven.last().map_or(0, |(_, mark)| mark.at);
        let missing = self.missing.filter(|number| *number <= self.size);
        let named = broken.and_then(|(place, mark)| {
            let own = self.own.name(place, mark.root);
            own.or_else(|| self.earlier.name(place, mark.root)).filter(|number| *number <= self.size)
        });
        let mut found = Vec::new();
        match (broken, named) {
            (_, Some(changed)) if missing.is_none_or(|missing| changed < missing) => {
                found.push(Finding::Changed(changed));
            }
            (Some((_, mark)), None) if mark.at <= self.size => {
                // Two roots of one size: the log signed two histories, and neither is proven.
                let proven = if report.proven < mark.at { report.proven } else { 0 };
                found.push(Finding::ChangedAmong { first: proven + 1, last: mark.at });
                found.extend(missing.map(Finding::Missing));
            }
            (Some(_), Some(_)) => found.extend(missing.map(Finding::Missing)),
            _ => {
                found.extend(missing.map(Finding::Missing));
                found.extend(self.wrong);
            }
        }
        found.append(&mut report.findings);
        report.findings = found;
    }
}

#[cfg(test)]
mod tests;
