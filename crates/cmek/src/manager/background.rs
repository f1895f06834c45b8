//! When scopes are asked about: at once on a push, else at an interval, with one timer for all.
//!
//! Invariants: the loop never waits for the KMS or a disk itself, so that the end of a grace is never
//! late. Checks are spread over the interval by the scope's name. Nothing ticks while nothing is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use claviger_kms::KeyChange;
use claviger_sealed::scope::ScopeId;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use super::Manager;
use crate::lifecycle::{KeyState, Moment};
use crate::scope::Scope;

/// Into how many moments the interval is divided.
const PHASES: u32 = 1024;

/// What is due when. An entry counts only while its scope's plan names its time.
#[derive(Default)]
pub(super) struct Schedule {
    entries: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// Told when an entry is due before all others.
    earlier: Notify,
}

struct Entry {
    at: Duration,
    scope: Weak<Scope>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Schedule {
    fn add(&self, at: Duration, scope: &Arc<Scope>) {
        let mut entries = self.lock();
        let first = entries.peek().is_none_or(|Reverse(entry)| at < entry.at);
        entries.push(Reverse(Entry { at, scope: Arc::downgrade(scope) }));
        if first {
            self.earlier.notify_one();
        }
    }

    /// The scopes whose time has come.
    fn take_due(&self, now: Duration) -> Vec<Arc<Scope>> {
        let mut entries = self.lock();
        let mut due = Vec::new();
        while entries.peek().is_some_and(|Reverse(entry)| entry.at <= now) {
            let Some(Reverse(entry)) = entries.pop() else { break };
            let Some(scope) = entry.scope.upgrade() else { continue };
            let counts = scope.plan(|plan| plan.due.take_if(|due| *due == entry.at).is_some());
            if counts {
                due.push(scope);
            }
        }
        due
    }

    fn next(&self) -> Option<Duration> {
        self.lock().peek().map(|Reverse(entry)| entry.at)
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a check is over, also when it panicked or was dropped.
struct Queued(Arc<Scope>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.plan(|plan| plan.queued = false);
    }
}

impl Manager {
    /// Checks scopes at pushes and at the interval, locks when a grace is over, and writes the times of
    /// last successes. Runs until it is dropped; one such call for a manager.
    pub async fn run(self: Arc<Self>) {
        let taken = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut changes = taken.unwrap_or_else(|| self.kms.changes());
        let mut pushes = true;
        let mut jobs = JoinSet::new();
        loop {
            let wait = self.start_due(&mut jobs);
            tokio::select! {
                change = changes.recv(), if pushes => match change {
                    Ok(KeyChange::Of(key)) => {
                        let manager = self.clone();
                        jobs.spawn(async move { manager.check_key(&key).await });
                    }
                    Ok(KeyChange::OfAny) => {
                        let manager = self.clone();
                        jobs.spawn(async move { manager.check_all().await });
                    }
                    Ok(KeyChange::Reachable) => {
                        let manager = self.clone();
                        jobs.spawn(async move { manager.check_silent().await });
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "changes of keys came too fast; all scopes are checked");
                        let manager = self.clone();
                        jobs.spawn(async move { manager.check_all().await });
                    }
                    Err(broadcast::error::RecvError::Closed) => pushes = false,
                },
                () = self.schedule.earlier.notified() => {}
                () = self.clock.sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                Some(done) = jobs.join_next(), if !jobs.is_empty() => {
                    if let Err(error) = done {
                        tracing::error!(%error, "a check of a key failed");
                    }
                }
            }
        }
    }

    /// Starts all that is due; returns the time until the next.
    fn start_due(self: &Arc<Self>, jobs: &mut JoinSet<()>) -> Option<Duration> {
        let now = Moment::now(self.clock.as_ref());
        for scope in self.schedule.take_due(now.elapsed) {
            if scope.is_deleted() {
                continue;
            }
            let expired = scope.expire(now, self.config.grace);
            let check = scope.plan(|plan| {
                let due = plan.next_check <= now.elapsed;
                if due {
                    plan.next_check = now.elapsed + self.config.check_interval;
                }
                let start = due && !plan.queued;
                plan.queued |= start;
                start
            });
            self.arm(&scope);
            if check {
                let (manager, queued) = (self.clone(), Queued(scope));
                jobs.spawn(async move { manager.check_in_turn(queued.0.clone()).await });
            } else if expired {
                let manager = self.clone();
                jobs.spawn(async move { manager.settle(&scope, None).await });
            }
        }
        if self.seen.take_due(now.elapsed) {
            let manager = self.clone();
            jobs.spawn(async move {
                if let Err(error) = manager.flush_seen().await {
                    tracing::error!(%error, "the times of last successes could not be written");
                }
            });
        }
        let next = [self.schedule.next(), self.seen.due()].into_iter().flatten().min()?;
        Some(next.saturating_sub(self.clock.elapsed()))
    }

    /// Plans a scope's next check after an answer.
    pub(super) fn plan_next(&self, scope: &Arc<Scope>) {
        if matches!(scope.state(), KeyState::Unreachable { .. }) {
            let retry = self.clock.elapsed() + self.config.retry_interval;
            scope.plan(|plan| plan.next_check = plan.next_check.min(retry));
        } else if let Some(allowed) = scope.cache_for() {
            // The keys are to be fresh when the time for which they may be kept is over; but no check runs hot.
            let due = self.clock.elapsed() + allowed.max(self.config.retry_interval);
            scope.plan(|plan| plan.next_check = plan.next_check.min(due));
        }
        self.arm(scope);
    }

    /// Puts the moment at which a scope is next due into the schedule.
    pub(super) fn arm(&self, scope: &Arc<Scope>) {
        let deadline = scope.deadline(self.config.grace);
        let changed = scope.plan(|plan| {
            let due = deadline.map_or(plan.next_check, |deadline| deadline.min(plan.next_check));
            (plan.due.replace(due) != Some(due)).then_some(due)
        });
        if let Some(due) = changed {
            self.schedule.add(due, scope);
        }
    }

    /// How long after its loading a scope is first checked again: by its name, so that scopes that are
    /// loaded together are not all checked together.
    pub(super) fn phase(&self, id: &ScopeId) -> Duration {
        // FNV-1a: any spread will do, and it is the same after a restart.
        let hash = id
            .as_str()
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        self.config.check_interval / PHASES * (hash % PHASES + 1)
    }
}
