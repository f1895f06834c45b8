//! Looking through the log in either order, within a span of time.
//!
//! Entries have dense numbers and rising times, so a span of time is a range of numbers, and both ends are found by
//! halving.
//!
//! Invariant: a look that stops early says after which number to go on; going on from there shows every entry of the
//! range once.

use std::ops::ControlFlow;

use claviger_core::{Result, Timestamp};
use claviger_sealed::Records;

use super::{AuditLog, HEAD, Head, MAX_PAGE, damaged, entry_key};
use crate::Entry;

/// Entries read at a time.
const CHUNK: u64 = 500;
const _: () = assert!(CHUNK <= MAX_PAGE as u64);

/// In which order entries are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By rising numbers.
    #[default]
    OldestFirst,
    /// By falling numbers.
    NewestFirst,
}

/// Which entries to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The order.
    pub order: Order,
    /// Only what comes after this number in that order.
    pub past: Option<u64>,
    /// Only entries of this time and later.
    pub since: Option<Timestamp>,
    /// Only entries of this time and earlier.
    pub until: Option<Timestamp>,
    /// Entries to look at, at most.
    pub most: usize,
}

impl AuditLog {
    /// Shows entries to `see` until that has enough, `scan.most` were shown or the range is at its end. Gives the
    /// number to go on past, or none at the end of the range.
    ///
    /// # Errors
    /// `DataLoss` when the entries are not what was written.
    pub async fn scan(
        &self,
        scan: &Scan,
        mut see: impl FnMut(u64, Entry) -> ControlFlow<()> + Send,
    ) -> Result<Option<u64>> {
        let records = self.database.records().await;
        let end = records.get::<Head>(HEAD).await?.unwrap_or_default().last;
        let mut low = match scan.since {
            Some(since) => first(&records, end, |time| time >= since).await?,
            None => 1,
        };
        let mut high = match scan.until {
            Some(until) => first(&records, end, |time| time > until).await? - 1,
            None => end,
        };
        match (scan.order, scan.past) {
            (_, None) => {}
            (Order::OldestFirst, Some(past)) => low = low.max(past.saturating_add(1)),
            (Order::NewestFirst, Some(past)) => high = high.min(past.saturating_sub(1)),
        }
        let mut left = u64::try_from(scan.most).unwrap_or(u64::MAX);
        while low <= high {
            let count = CHUNK.min(high - low + 1);
            let below = match scan.order {
                Order::OldestFirst => low - 1,
                Order::NewestFirst => high - count,
            };
            let mut entries = self.read(Some(below), usize::try_from(count).unwrap_or(MAX_PAGE)).await?;
            if u64::try_from(entries.len()) != Ok(count) {
                return Err(damaged("the audit log ends before its last entry"));
            }
            if scan.order == Order::NewestFirst {
                entries.reverse();
            }
            for (number, entry) in entries {
                match scan.order {
                    Order::OldestFirst => low = number + 1,
                    Order::NewestFirst => high = number - 1,
                }
                left = left.saturating_sub(1);
                if see(number, entry).is_break() || left == 0 {
                    return Ok((low <= high).then_some(number));
                }
            }
        }
        Ok(None)
    }
}

/// The first number up to `end` whose time is `late`, or the one after `end`. Times rise along the numbers.
async fn first(records: &Records, end: u64, late: impl Fn(Timestamp) -> bool) -> Result<u64> {
    let (mut low, mut high) = (1, end + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = records.get::<Entry>(&entry_key(middle)).await?;
        let entry = entry.ok_or_else(|| damaged(&format!("entry {middle} of the audit log is missing")))?;
        if late(entry.time) { high = middle } else { low = middle + 1 }
    }
    Ok(low)
}
