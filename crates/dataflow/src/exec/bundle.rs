//! One bundle on a worker: elements go in by one task while another takes what comes out.
//!
//! Invariant: both ways move at once, so neither side waits for the other for ever; what fails in one ends
//! the other. Outputs are only written here, never committed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::fn_execution::ProcessBundleResponse;
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::Bundle;
use tokio::task::JoinSet;

use super::sink::BundleOutputs;
use super::source::{Feed, Outlet};
use super::timers::Fired;

/// Why a bundle failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The worker was lost: the bundle may be tried again.
    Lost(Error),
    /// User code failed: the text is the worker's.
    User(Error),
    /// Anything else: the job fails.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl Failure {
    /// What the worker's side said.
    pub(super) fn of_worker(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable => Self::Lost(error),
            ErrorKind::InvalidArgument => Self::User(error),
            _ => Self::Fatal(error),
        }
    }
}

/// Timers that a bundle set, as they came: transform, family, encoded timers.
pub(super) type SetTimers = Vec<(String, String, Bytes)>;

/// Sends everything, takes everything, and returns the worker's answer.
pub(super) async fn run(
    bundle: &Arc<Bundle>,
    port: &str,
    feed: Box<dyn Feed>,
    timers: Fired,
    outputs: &mut BundleOutputs,
) -> Result<(ProcessBundleResponse, SetTimers), Failure> {
    // Dropped with this future, and then it stops.
    let mut sender = JoinSet::new();
    sender.spawn(send(bundle.clone(), port.to_owned(), feed, timers));
    let received = receive(bundle, outputs).await;
    let sent = match sender.join_next().await {
        Some(Ok(sent)) => sent,
        _ => Err(Failure::Fatal(Error::internal("The task that sends a bundle's elements ended early."))),
    };
    match (sent, received) {
        (Ok(()), Ok(set)) => {
            let response = bundle.result().await.map_err(Failure::of_worker)?;
            Ok((response, set))
        }
        // The other side only saw the bundle fail of it.
        (Err(failure @ Failure::Fatal(_)), _) | (_, Err(failure @ Failure::Fatal(_))) => Err(failure),
        (_, Err(failure)) | (Err(failure), _) => Err(failure),
    }
}

async fn send(
    bundle: Arc<Bundle>,
    port: String,
    mut feed: Box<dyn Feed>,
    timers: Fired,
) -> Result<(), Failure> {
    let mut outlet = ToBundle { bundle: &bundle, port: &port, failure: None };
    let fed = feed.feed(&mut outlet).await;
    if let Some(failure) = outlet.failure {
        return Err(failure);
    }
    if let Err(error) = fed {
        bundle.fail(error.clone());
        return Err(Failure::Fatal(error));
    }
    for (transform, family, data) in timers {
        bundle.send_timers(&transform, &family, data).await.map_err(Failure::of_worker)?;
    }
    bundle.close_inputs().await.map_err(Failure::of_worker)
}

async fn receive(bundle: &Bundle, outputs: &mut BundleOutputs) -> Result<SetTimers, Failure> {
    let mut set = SetTimers::new();
    while let Some(output) = bundle.next().await.map_err(Failure::of_worker)? {
        match output.timer_family {
            Some(family) => set.push((output.transform_id, family, output.data)),
            None => {
                if let Err(error) = outputs.write(&output.transform_id, output.data).await {
                    bundle.fail(error.clone());
                    return Err(Failure::Fatal(error));
                }
            }
        }
    }
    Ok(set)
}

/// Sends to a bundle, until it fails.
struct ToBundle<'a> {
    bundle: &'a Bundle,
    port: &'a str,
    failure: Option<Failure>,
}

#[async_trait]
impl Outlet for ToBundle<'_> {
    async fn put(&mut self, chunk: Bytes) -> Result<bool> {
        let sent = self.bundle.send(self.port, chunk).await;
        self.failure = sent.err().map(Failure::of_worker);
        Ok(self.failure.is_none())
    }
}
