//! What to compact: under load what SlateDB's size tiers say, at rest all that is worth it, down to one run.
//!
//! A point read pays for each sorted file that it must ask, and a table that was loaded once would keep as many
//! as the size tiers let be. So once no file was added for a while, the newest files go into the run below them,
//! and on into the next, as long as that one is at most [`REACH`] times as large: for each level a byte is written
//! again at most so often, however the writes come. Under load more files may wait than with SlateDB's own
//! settings, because what is merged in the middle of a rush is merged again after it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use slatedb::VersionedManifest;
use slatedb::compactor::{
    CompactionRequest, CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactorStateView,
    SizeTieredCompactionSchedulerSupplier, SourceId,
};
use slatedb::config::{CompactorOptions, SizeTieredCompactionSchedulerOptions};
use slatedb::manifest::{SsTableHandle, SsTableId, SsTableView};
use slatedb_common::clock::{DefaultSystemClock, SystemClock};
use tokio::sync::mpsc::UnboundedSender;

/// For how many milliseconds at least no file must have been added.
const SHORTEST_REST: i64 = 2_000;
/// After how many it is a rest in any case.
const LONGEST_REST: i64 = 10_000;
/// Files that may wait for the size tiers to merge them.
const NEW_FILES: usize = 6;
/// Files at which writers wait.
pub(super) const MAX_NEW_FILES: usize = 12;
/// How many times as large as all above it a run may be to be written again with them.
const REACH: u64 = 4;
/// Bytes from which it is worth a compaction.
pub(super) const WORTH: u64 = 1024 * 1024;

/// The settings of the size tiers.
pub(super) fn tiers() -> HashMap<String, String> {
    SizeTieredCompactionSchedulerOptions { min_compaction_sources: NEW_FILES, ..Default::default() }.into()
}

/// A look at the database, every [`super::COMPACT_POLL`]: the files that were merged away since the one before.
pub(super) type Look = Vec<SsTableHandle>;

pub(super) struct Tidy {
    /// Who wants to know of looks, if somebody does.
    pub(super) looks: Option<UnboundedSender<Look>>,
}

impl CompactionSchedulerSupplier for Tidy {
    fn compaction_scheduler(&self, options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        let tiers = SizeTieredCompactionSchedulerSupplier::new().compaction_scheduler(options);
        Box::new(Scheduler {
            tiers,
            clock: DefaultSystemClock::new(),
            looks: self.looks.clone(),
            files: Mutex::default(),
        })
    }
}

struct Scheduler {
    tiers: Box<dyn CompactionScheduler + Send + Sync>,
    /// The one that files get their ids from.
    clock: DefaultSystemClock,
    looks: Option<UnboundedSender<Look>>,
    /// The files at the last look.
    files: Mutex<HashMap<SsTableId, SsTableHandle>>,
}

impl Scheduler {
    /// Tells of the files that were there at the last look and are not any more.
    fn look(&self, manifest: &VersionedManifest) {
        let Some(looks) = &self.looks else { return };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let now: HashMap<_, _> = views(manifest).map(|view| (view.sst.id, view.sst.clone())).collect();
        let before = std::mem::replace(&mut *files, now);
        let merged = before.into_values().filter(|file| !files.contains_key(&file.id)).collect();
        // Nobody listens once the database is closed.
        let _ = looks.send(merged);
    }
}

/// All sorted files of a database, newest level first.
pub(super) fn views(manifest: &VersionedManifest) -> impl Iterator<Item = &SsTableView> {
    let runs = manifest.compacted().iter().flat_map(|run| run.sst_views().iter());
    manifest.l0().iter().chain(runs)
}

impl CompactionScheduler for Scheduler {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        self.look(state.manifest());
        let wanted = self.tiers.propose(state);
        let busy = state.compactions().is_some_and(|all| all.recent_compactions().any(|one| one.active()));
        if busy || !wanted.is_empty() || !is_at_rest(state.manifest(), self.clock.now().timestamp_millis()) {
            return wanted;
        }
        merge(state.manifest()).into_iter().collect()
    }

    fn validate(&self, state: &CompactorStateView, spec: &CompactionSpec) -> Result<(), slatedb::Error> {
        self.tiers.validate(state, spec)
    }

    fn generate(
        &self,
        state: &CompactorStateView,
        request: &CompactionRequest,
    ) -> Result<Vec<CompactionSpec>, slatedb::Error> {
        self.tiers.generate(state, request)
    }
}

/// Whether the newest file is old enough. Its id has the time, in milliseconds as `now`.
fn is_at_rest(manifest: &VersionedManifest, now: i64) -> bool {
    let mut added = manifest.l0().iter().map(|file| file.id.timestamp_ms());
    let Some(newest) = added.next() else { return true };
    is_rest(now.saturating_sub_unsigned(newest), added.next().map(|second| newest.saturating_sub(second)))
}

/// Whether a file of that age is a rest, when it came so long after the one before it: a pause is one that is longer
/// than those of a steady load.
fn is_rest(age: i64, gap: Option<u64>) -> bool {
    let gap = gap.map_or(0, |gap| i64::try_from(gap).unwrap_or(i64::MAX));
    let rest = gap.saturating_mul(2).clamp(SHORTEST_REST, LONGEST_REST);
    // A clock that was set back must not keep a database as it is until it has caught up.
    !(0..rest).contains(&age)
}

/// The compaction that is worth it, if one is.
fn merge(manifest: &VersionedManifest) -> Option<CompactionSpec> {
    let files = manifest.l0().iter().map(|file| (SourceId::SstView(file.id), file.estimate_size()));
    let runs = manifest.compacted().iter().map(|run| (SourceId::SortedRun(run.id), run.estimate_size()));
    let files: Vec<_> = files.collect();
    let (new, sources) = (files.len(), files.into_iter().chain(runs).collect::<Vec<_>>());
    let sizes: Vec<_> = sources.iter().map(|(_, bytes)| *bytes).collect();
    let count = reach(&sizes, new)?;
    let sources: Vec<_> = sources.into_iter().take(count).map(|(source, _)| source).collect();
    let run = |source: &SourceId| match source {
        SourceId::SortedRun(id) => Some(*id),
        SourceId::SstView(_) => None,
    };
    let above = manifest.compacted().iter().map(|run| run.id.saturating_add(1)).max().unwrap_or(0);
    let destination = sources.iter().filter_map(run).min().unwrap_or(above);
    Some(CompactionSpec::new(sources, destination))
}

/// How many of the files and runs, newest first, to make one of; none if it is not worth it. The first `new` are
/// files that overlap, and go together.
fn reach(sizes: &[u64], new: usize) -> Option<usize> {
    let mut count = new.max(1);
    let mut bytes: u64 = sizes.iter().take(count).sum();
    while let Some(next) = sizes.get(count)
        && *next <= bytes.saturating_mul(REACH)
    {
        bytes = bytes.saturating_add(*next);
        count += 1;
    }
    // One source, be it a run or a file, is what it would become.
    (count >= 2 && bytes >= WORTH).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn what_is_new_goes_into_the_runs_below_as_far_as_they_are_not_much_larger() {
        assert_eq!(reach(&[60 * MIB, 60 * MIB, 60 * MIB], 3), Some(3));
        assert_eq!(reach(&[60 * MIB, 60 * MIB, 480 * MIB], 2), Some(3));
        assert_eq!(reach(&[60 * MIB, 241 * MIB, MIB], 1), None, "nor does it reach over a large run");
        assert_eq!(reach(&[60 * MIB, 60 * MIB, 481 * MIB], 2), Some(2));
        assert_eq!(reach(&[10 * MIB, 40 * MIB, 200 * MIB, 1001 * MIB], 0), Some(3));
    }

    #[test]
    fn a_rest_is_longer_than_the_pauses_of_a_steady_load() {
        assert!(!is_rest(1_999, None) && is_rest(2_000, None));
        assert!(!is_rest(1_999, Some(10)) && is_rest(2_000, Some(10)));
        assert!(!is_rest(5_999, Some(3_000)) && is_rest(6_000, Some(3_000)));
        assert!(!is_rest(9_999, Some(u64::MAX)) && is_rest(10_000, Some(u64::MAX)));
        assert!(is_rest(-1, Some(10)), "the clock was set back");
    }

    #[test]
    fn one_run_stays_and_so_does_what_is_small() {
        assert_eq!(reach(&[], 0), None);
        assert_eq!(reach(&[60 * MIB], 1), None);
        assert_eq!(reach(&[60 * MIB], 0), None);
        assert_eq!(reach(&[MIB / 4, MIB / 2], 2), None);
        assert_eq!(reach(&[MIB / 2, MIB / 2], 2), Some(2));
    }
}
