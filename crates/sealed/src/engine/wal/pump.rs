//! The task that writes the log of one database: it sleeps until somebody waits, and writes one frame at a
//! time.
//!
//! Before a frame is taken the task lets the others run that are ready to, so that their writes go with it:
//! on a busy machine frames grow, on an idle one nothing waits for them.
//!
//! Invariant: one append at a time, in order. After a failure nothing more is written.

use std::sync::Arc;

use object_store::Result;
use slatedb::wal::WalError;

use super::wal_error;
use super::writer::{Body, Core};
use crate::error::permanent;
use crate::store::log::{Log, Writer};

/// Runs until the log is closed.
pub(super) async fn run(core: Arc<Core>, log: Log, epoch: u64) {
    let _ended = Ended(core.clone());
    let mut segment = None;
    loop {
        core.wanted.notified().await;
        while let Some(body) = next(&core).await {
            match write(&core, &log, epoch, segment.take(), body).await {
                Ok((written, body)) => {
                    segment = Some(written);
                    core.written(body);
                }
                Err(error) => {
                    core.close(wal_error(error));
                    return;
                }
            }
        }
        match core.is_closed() {
            (false, _) => {}
            (true, clean) => {
                if let Some(segment) = segment.filter(|_| clean) {
                    finish(segment).await;
                }
                return;
            }
        }
    }
}

/// Notes the end also when the task is dropped with its runtime.
struct Ended(Arc<Core>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.close(WalError::Closed);
        self.0.end();
    }
}

async fn next(core: &Core) -> Option<Body> {
    if let Some(body) = core.take(true) {
        return Some(body);
    }
    tokio::task::yield_now().await;
    core.take(false)
}

/// Writes a frame, to a new segment if need be.
async fn write(
    core: &Core,
    log: &Log,
    epoch: u64,
    segment: Option<Writer>,
    body: Body,
) -> Result<(Writer, Body)> {
    let segment = match segment {
        Some(segment) if segment.is_full() => {
            blocking(move || segment.finish()).await?;
            None
        }
        segment => segment,
    };
    let mut segment = match segment {
        Some(segment) => segment,
        None => {
            let segment = log.create(body.number, epoch).await?;
            core.began(body.number);
            segment
        }
    };
    blocking(move || {
        segment.append(body.number, &body.bytes)?;
        Ok((segment, body))
    })
    .await
}

/// Ends the segment of a log that was closed. What is not ended now is when the log is opened again.
async fn finish(segment: Writer) {
    if let Err(error) = blocking(move || segment.finish()).await {
        tracing::debug!(%error, "the last segment of a log was left open");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(permanent("sealed", stopped)),
    }
}
