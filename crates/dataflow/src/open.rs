//! The start of a server: what became of the jobs of the last one.
//!
//! Invariant: when this is over no job is shown as running that does not run, and nothing lies under the jobs'
//! directory but what a job has kept.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use claviger_core::Result;
use claviger_sealed::RecordBatch;
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::job::{Job, record_key};
use crate::keys;
use crate::model::{Api, Head, JobState, Reason, StateChange};
use crate::vault::{Part, folders, remove_files};
use crate::{Config, Dataflow, RUNNING_AT_ONCE, SCOPES, Shared, lock};

/// Why a job that ran at a restart has failed.
const RESTARTED: &str = "The server restarted while the job ran.";
/// Added to the places of messages, which are not read at the start: what is said now comes after them.
const AFTER_RESTART: u64 = 1 << 40;
/// Folders that are removed at the same time.
const REMOVED_AT_ONCE: usize = 16;

impl Dataflow {
    /// Reads which jobs there are. Those that ran have failed, those that were prepared only are gone, and what
    /// all of them worked with is removed.
    ///
    /// # Errors
    /// `DataLoss` when a record is not what was written; what the store and the records answer.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let heads: Vec<(String, Head)> = config.records.scan("dataflow/job/").await?;
        let shared = Arc::new(Shared {
            config,
            jobs: Mutex::new(BTreeMap::new()),
            tokens: Mutex::new(HashMap::new()),
            loaded: Mutex::new(VecDeque::new()),
            turns: Arc::new(Semaphore::new(RUNNING_AT_ONCE)),
            tasks: TaskTracker::new(),
        });
        let now = shared.config.clock.now();
        let mut batch = RecordBatch::new();
        let mut unused = Vec::new();
        let mut changes = false;
        for (_, mut head) in heads {
            match head.state() {
                JobState::Stopped => {
                    batch = batch.delete(&record_key(&head.id));
                    changes = true;
                    unused.extend(head.scope);
                    continue;
                }
                state if state.is_terminal() => {}
                _ => {
                    let sequence = head.next_sequence() + AFTER_RESTART;
                    let text = match head.api {
                        Api::Dataflow => format!("{}{RESTARTED}", keys::FAILED),
                        Api::Portable => RESTARTED.to_owned(),
                    };
                    head.reason = Some(Reason { sequence, time: now, text });
                    let failed = StateChange { sequence: sequence + 1, state: JobState::Failed, time: now };
                    head.history.push(failed);
                    batch = batch.put(&record_key(&head.id), &head)?;
                    changes = true;
                    tracing::info!(job = %head.id, "a job ran when the server stopped and has failed");
                }
            }
            let job = Job::new(shared.clone(), head, None);
            lock(&shared.jobs).insert(job.id().clone(), job);
        }
        if changes {
            shared.config.records.write(batch).await?;
        }
        for scope in unused {
            shared.shred(&scope).await?;
        }
        shared.remove_leftovers().await?;
        Ok(Arc::new(Self { shared }))
    }
}

impl Shared {
    /// Removes scopes that no job has, and what jobs worked with.
    async fn remove_leftovers(&self) -> Result<()> {
        let known: HashSet<String> = lock(&self.jobs).values().filter_map(|job| job.head().scope).collect();
        let mut work = Vec::new();
        for scope in folders(&self.config, SCOPES).await? {
            if known.contains(&scope) {
                work.push(Part::Work.prefix(&scope));
            } else {
                tracing::info!(scope, "removing what is left of a job that is not there");
                self.shred(&scope).await?;
            }
        }
        let removed = futures::stream::iter(work);
        removed
            .for_each_concurrent(REMOVED_AT_ONCE, async |prefix| remove_files(&self.config, &prefix).await)
            .await;
        Ok(())
    }
}
