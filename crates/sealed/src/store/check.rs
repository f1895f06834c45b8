//! Opening a store: the ledger against what is there.
//!
//! A file is as it should be when
//! - the ledger has it, alone at its path, with that length (its sequence is checked at first read), or
//! - its header is authentic and the ledger has that very version, or
//! - its header is authentic and its sequence was not given out yet when the ledger was stored: it
//!   was written after that, by a process that did not live to store the ledger again.
//!
//! Invariant: a process that dies between any two steps leaves only such files (see `write`, `flush`).
//! Any other file, and any that is missing, was changed by somebody else.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, Result};

use super::book::{MAX_UNNOTED, SKIP};
use super::header::{FRONT, object_len};
use super::ledger::{Entry, Ledger, UNKNOWN, Version};
use super::log::is_log;
use super::{LEDGER, Place, SealedOptions};
use crate::error::{Change, permanent};

/// Headers that are read at the same time.
const READS: usize = 16;

/// What an opened store starts with.
pub(super) struct Start {
    pub(super) ledger: Ledger,
    pub(super) etag: Option<String>,
}

struct Stored {
    len: u64,
}

pub(super) async fn check(place: &Place, options: &SealedOptions) -> Result<Start> {
    let (ledger, etag) = read_ledger(place).await?;
    let mut files: HashMap<Box<str>, Stored> = HashMap::new();
    let mut listed = place.inner.list(Some(&place.prefix));
    while let Some(meta) = listed.try_next().await? {
        if let Some(path) = place.relative(&meta.location)
            && path.as_ref() != LEDGER
        {
            files.insert(path.as_ref().into(), Stored { len: meta.size });
        }
    }
    let Some(mut ledger) = ledger else {
        if !files.is_empty() || options.must_exist {
            return Err(place.tampered(LEDGER, Change::LedgerMissing));
        }
        return Ok(Start { ledger: Ledger::default(), etag: None });
    };
    let mut doubtful = Vec::new();
    for (path, entry) in &mut ledger.entries {
        match (files.remove(path), entry.certain()) {
            (Some(stored), Some(version)) if stored.len == version.len => {}
            (Some(stored), _) => doubtful.push((path.clone(), stored, Some(entry.clone()))),
            (None, _) if entry.absence_fits() => *entry = Entry::default(),
            (None, _) => return Err(place.tampered(path, Change::Missing)),
        }
    }
    ledger.entries.retain(|_, entry| *entry != Entry::default());
    doubtful.extend(files.into_iter().map(|(path, stored)| (path, stored, None)));
    let next = ledger.next;
    let settled: Vec<_> = stream::iter(doubtful)
        .map(|(path, stored, entry)| async move {
            let version = examine(place, next, &path, &stored, entry.as_ref()).await?;
            Ok::<_, Error>((path, version))
        })
        .buffer_unordered(READS)
        .try_collect()
        .await?;
    for (path, version) in settled {
        let known = ledger.entries.get(&path);
        // A delete that began may still be under way: a store of this process that was let go, because its key went,
        // removes what its ledger says.
        let may_be_absent = known.is_some_and(|entry| entry.may_be_absent);
        let found = if is_log(&path) {
            segment(known, version)
        } else {
            Entry { settled: Some(version), ..Entry::default() }
        };
        ledger.entries.insert(path, Entry { may_be_absent, ..found });
    }
    Ok(Start { ledger, etag })
}

/// What is known of a log's segment: its length tells nothing while it may go on.
fn segment(entry: Option<&Entry>, found: Version) -> Entry {
    let Some(entry) = entry else { return Entry::growing(found.sequence, None) };
    let grows = |version: &Version| version.sequence == found.sequence && version.len == UNKNOWN;
    let settled = entry.settled.filter(|settled| settled.sequence == found.sequence);
    if settled.is_none() || entry.doubtful.iter().any(grows) {
        return Entry::growing(found.sequence, settled.map(|settled| settled.len));
    }
    Entry { settled, ..Entry::default() }
}

/// The version of a file that the ledger does not vouch for alone.
async fn examine(
    place: &Place,
    next: u64,
    path: &str,
    stored: &Stored,
    entry: Option<&Entry>,
) -> Result<Version> {
    let whole = if is_log(path) { stored.len >= FRONT as u64 } else { object_len(stored.len).is_some() };
    if !whole {
        return Err(place.tampered(path, Change::Length));
    }
    let front = place.inner.get_range(&place.full(path)?, 0..FRONT as u64).await?;
    let (header, _) = place.open_front(path, &front)?;
    let version = Version { sequence: header.sequence, len: stored.len };
    let limit = next.saturating_add(MAX_UNNOTED);
    if (next..limit).contains(&version.sequence) {
        return Ok(version);
    }
    if version.sequence >= limit {
        return Err(place.tampered(LEDGER, Change::LedgerOld));
    }
    match entry {
        Some(entry) if entry.versions().any(|known| known.fits(version.sequence, stored.len)) => Ok(version),
        Some(entry) if entry.versions().any(|known| known.sequence == version.sequence) => {
            Err(place.tampered(path, Change::Length))
        }
        _ => Err(place.tampered(path, Change::Old)),
    }
}

async fn read_ledger(place: &Place) -> Result<(Option<Ledger>, Option<String>)> {
    let found = match place.inner.get(&place.full(LEDGER)?).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok((None, None)),
        Err(error) => return Err(error),
    };
    let etag = found.meta.e_tag.clone();
    let file = found.bytes().await?;
    let (header, content) = place.open_whole(LEDGER, &file)?;
    let ledger = Ledger::decode(&content)
        .filter(|ledger| ledger.next > header.sequence && ledger.next < u64::MAX - 2 * SKIP)
        .ok_or_else(|| permanent("sealed", "the ledger has a form that this version does not know"))?;
    Ok((Some(ledger), etag))
}

impl Place {
    /// The path inside the store of a path in the store below.
    pub(super) fn relative(&self, full: &Path) -> Option<Path> {
        let rest = match self.prefix.as_ref() {
            "" => full.as_ref(),
            prefix => full.as_ref().strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Path::parse(rest).ok().filter(|path| !path.as_ref().is_empty())
    }
}
