//! Removing what SlateDB does not need any more: segments, and files of its own log from before.
//!
//! Invariant: the newest segment stays, and so does each that holds a frame which is referred to.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::wal::{WalError, WalFileRange, WalGc};

use super::wal_error;
use crate::store::log::{Log, Segment};

pub(in crate::engine) struct Collector {
    log: Log,
    store: Arc<dyn ObjectStore>,
    /// Where SlateDB's own log lies.
    earlier: Path,
    /// Whether there may be files of it.
    has_earlier: AtomicBool,
}

impl Collector {
    pub(super) fn new(log: Log, store: Arc<dyn ObjectStore>, database: &Path) -> Self {
        let earlier = database.clone().join("wal");
        Self { log, store, earlier, has_earlier: AtomicBool::new(true) }
    }

    async fn collect_earlier(&self, referenced: &[WalFileRange]) -> object_store::Result<()> {
        let mut left = false;
        let mut files = self.store.list(Some(&self.earlier));
        while let Some(file) = files.try_next().await? {
            let name = file.location.filename().unwrap_or_default();
            let number = name.strip_suffix(".sst").and_then(|number| number.parse().ok());
            match number {
                Some(number) if !is_referenced(referenced, number, number) => {
                    self.store.delete(&file.location).await?;
                }
                _ => left = true,
            }
        }
        self.has_earlier.store(left, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a number from `first` to `last`, both included, is in one of the ranges.
fn is_referenced(ranges: &[WalFileRange], first: u64, last: u64) -> bool {
    ranges.iter().any(|range| {
        let begins = match range.0 {
            Bound::Included(start) => last >= start,
            Bound::Excluded(start) => last > start,
            Bound::Unbounded => true,
        };
        let ends = match range.1 {
            Bound::Included(end) => first <= end,
            Bound::Excluded(end) => first < end,
            Bound::Unbounded => true,
        };
        begins && ends
    })
}

/// The segments that hold no frame of the ranges.
fn unneeded(segments: &[Segment], referenced: &[WalFileRange]) -> Vec<Segment> {
    let unneeded = segments.windows(2).filter_map(|pair| match pair {
        // One without frames is never needed.
        [one, next] => {
            (one.first == next.first || !is_referenced(referenced, one.first, next.first - 1)).then_some(one)
        }
        _ => None,
    });
    unneeded.cloned().collect()
}

#[async_trait]
impl WalGc for Collector {
    async fn collect(
        &self,
        referenced_ranges: Vec<WalFileRange>,
        _min_age: Duration,
        dry_run: bool,
    ) -> Result<(), WalError> {
        if dry_run {
            return Ok(());
        }
        let segments = self.log.segments().await.map_err(wal_error)?;
        self.log.remove(&unneeded(&segments, &referenced_ranges));
        if self.has_earlier.load(Ordering::Relaxed) {
            self.collect_earlier(&referenced_ranges).await.map_err(wal_error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_needed_when_a_range_touches_it() {
        let from = |start| WalFileRange(Bound::Included(start), Bound::Unbounded);
        assert!(!is_referenced(&[from(8)], 3, 7));
        assert!(is_referenced(&[from(7)], 3, 7));
        assert!(is_referenced(&[from(1)], 3, 7));
        let checkpoint = WalFileRange(Bound::Excluded(2), Bound::Excluded(6));
        assert!(is_referenced(std::slice::from_ref(&checkpoint), 5, 9));
        assert!(!is_referenced(std::slice::from_ref(&checkpoint), 6, 9));
        assert!(!is_referenced(&[checkpoint], 1, 2));
    }
}
