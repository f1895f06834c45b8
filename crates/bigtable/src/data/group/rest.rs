//! Memory that is written to a sorted file once nobody has written for a while: a file's filter says no sooner than a
//! large table in memory does, and an idle tablet should hold none.
//!
//! Invariant: little is not worth a file, so a tablet that gets a row now and then makes none by this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claviger_core::Clock;
use claviger_sealed::engine::Engine;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Bytes of rows that are worth a file.
pub(super) const WORTH_A_FILE: u64 = 1024 * 1024;
/// How long nobody writes until it is made.
pub(super) const REST: Duration = Duration::from_secs(2);

/// Counts what is written. The task that waits for the rest ends with it.
pub(super) struct AtRest {
    counted: Arc<Counted>,
    task: AbortHandle,
}

#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    /// Of them, those that are in files.
    filed: AtomicU64,
    enough: Notify,
}

impl Counted {
    fn waiting(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed) - self.filed.load(Ordering::Relaxed)
    }
}

impl AtRest {
    pub(super) fn start(engine: Arc<Engine>, clock: Arc<dyn Clock>) -> Self {
        let counted = Arc::new(Counted::default());
        let task = tokio::spawn(watch(engine, clock, counted.clone())).abort_handle();
        Self { counted, task }
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.counted.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.counted.waiting() >= WORTH_A_FILE {
            self.counted.enough.notify_one();
        }
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(engine: Arc<Engine>, clock: Arc<dyn Clock>, counted: Arc<Counted>) {
    loop {
        counted.enough.notified().await;
        while counted.waiting() >= WORTH_A_FILE {
            let seen = counted.bytes.load(Ordering::Relaxed);
            clock.sleep(REST).await;
            if counted.bytes.load(Ordering::Relaxed) != seen {
                continue;
            }
            if let Err(error) = engine.file_memory().await {
                // Whoever writes next is told; the log has all of it.
                tracing::debug!(%error, "memory was not written to a file");
                return;
            }
            counted.filed.store(seen, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use claviger_core::{ManualClock, Timestamp};
    use claviger_sealed::engine::EngineOptions;
    use object_store::memory::InMemory;

    use super::super::Committer;
    use super::*;

    async fn write(committer: &Committer, key: &'static [u8], bytes: usize) {
        let row = (Bytes::from_static(key), Bytes::from(vec![7; bytes]));
        committer.commit(vec![row], Vec::new()).await.unwrap();
    }

    /// Lets the others run until `done`, or long enough to say that it will not be.
    async fn soon(mut done: impl FnMut() -> bool) -> bool {
        for _ in 0..200 {
            if done() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    #[tokio::test]
    async fn much_is_filed_once_nobody_writes_and_little_stays_in_memory() {
        let clock = Arc::new(ManualClock::at(Timestamp::default()));
        let options = EngineOptions {
            merge_operator: Some(Arc::new(crate::model::RowMergeOperator)),
            ..EngineOptions::default()
        };
        let engine = Arc::new(Engine::open(Arc::new(InMemory::new()), "db", options).await.unwrap());
        let committer = Committer::start(engine.clone(), clock.clone());
        let little = usize::try_from(WORTH_A_FILE).unwrap() / 2;
        write(&committer, b"a", little).await;
        clock.advance(REST * 3);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(engine.files().is_empty(), "half of what is worth a file");
        write(&committer, b"b", little).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(engine.files().is_empty(), "nobody has rested yet");
        let rested = soon(|| {
            clock.advance(REST);
            engine.files().len() == 1
        });
        assert!(rested.await, "{:?}", engine.files());
        assert!(engine.get(b"a").await.unwrap().is_some());
        drop(committer);
        engine.close().await.unwrap();
    }
}
