//! Merging neighbouring runs into one, when there are more than can be read at once.
//!
//! Invariant: the merged run takes the place of its neighbours in the order of arrival, and they go only
//! once it is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use claviger_core::Result;

use super::reader::{ShuffleReader, Step};
use super::run::Run;
use super::{Shuffle, Stage};
use crate::block::Builder;
use crate::extent::gone;

/// More runs than this in memory are merged as well: each adds to the work for each key.
const MAX_IN_MEMORY: usize = 1024;

impl Shuffle {
    /// Merges until few enough are left. Whoever calls this holds `work`.
    pub(super) async fn merge_runs(&self) -> Result<()> {
        let fan_in = self.space.budget().fan_in();
        loop {
            let runs = self.state().runs.clone();
            let stored = runs.iter().filter(|run| run.extent.is_stored()).count();
            let too_many = stored.saturating_sub(fan_in).max(runs.len().saturating_sub(MAX_IN_MEMORY));
            if too_many == 0 {
                return Ok(());
            }
            let count = (too_many + 1).clamp(2, fan_in);
            let first = cheapest(&runs, count);
            let group: Vec<_> = runs.into_iter().skip(first).take(count).collect();
            let merged = self.merge(&group).await?;
            let mut state = self.state();
            if state.stage == Stage::Deleted {
                return Err(gone());
            }
            state.runs.splice(first..first + group.len(), [Arc::new(merged)]);
        }
    }

    async fn merge(&self, runs: &[Arc<Run>]) -> Result<Run> {
        let _turn = self.space.budget().turn_to_store().await;
        let mut reader = ShuffleReader::new(self.space.clone(), runs, Run::all);
        let mut builder = Builder::new(self.partitions);
        let mut upload = self.space.upload();
        while reader.next_key().await?.is_some() {
            let (hash, key) = reader.key();
            let key = key.to_vec();
            loop {
                match reader.step()? {
                    Step::Value { sort, value } => {
                        builder.push(hash, &key, sort, value);
                        if let Some(piece) = builder.full_piece() {
                            upload.write(piece).await?;
                        }
                    }
                    Step::Wait => reader.fill().await?,
                    Step::EndOfKey => break,
                }
            }
        }
        let (piece, index) = builder.finish();
        if let Some(piece) = piece {
            upload.write(piece).await?;
        }
        self.space.counters.merged_bytes.fetch_add(index.len, Ordering::Relaxed);
        Ok(Run::stored(index, upload.finish().await?))
    }
}

/// The first of `count` neighbours with the fewest bytes.
fn cheapest(runs: &[Arc<Run>], count: usize) -> usize {
    let bytes = |window: &[Arc<Run>]| window.iter().map(|run| run.extent.len()).sum::<u64>();
    let windows = runs.windows(count).map(bytes).enumerate();
    windows.min_by_key(|(_, bytes)| *bytes).map_or(0, |(first, _)| first)
}
