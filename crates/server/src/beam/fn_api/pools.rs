//! A client of the services that start workers: the worker pools of EXTERNAL environments, of which a SDK
//! in LOOPBACK mode is one.
//!
//! Invariant: a pool that does not answer costs its caller a bounded time.

use std::time::Duration;

use async_trait::async_trait;
use claviger_beam_proto::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use claviger_beam_proto::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::WorkerPoolClient;
use tonic::transport::{Channel, Endpoint};

/// How long a pool may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a pool may take to start a worker: a SDK's own wait for our control service is a minute.
const START: Duration = Duration::from_secs(90);
/// How long it may take to stop one.
const STOP: Duration = Duration::from_secs(15);

/// Calls worker pools over gRPC.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerPools;

impl WorkerPools {
    async fn connect(url: &str, patience: Duration) -> Result<BeamFnExternalWorkerPoolClient<Channel>> {
        let address = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let endpoint = Endpoint::from_shared(address).map_err(|error| {
            Error::invalid(format!("'{url}' is no address of a worker pool")).because(error)
        })?;
        let connected = endpoint.connect_timeout(CONNECT).timeout(patience).connect().await;
        let channel = connected.map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("the worker pool at {url} cannot be reached"))
                .because(error)
        })?;
        Ok(BeamFnExternalWorkerPoolClient::new(channel))
    }
}

/// What a pool answered, unless all went well.
fn refused(url: &str, error: &str) -> Result<()> {
    if error.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, format!("the worker pool at {url} failed: {error}")))
}

#[async_trait]
impl WorkerPoolClient for WorkerPools {
    async fn start_worker(&self, url: &str, request: StartWorkerRequest) -> Result<()> {
        let mut pool = Self::connect(url, START).await?;
        match pool.start_worker(request).await {
            Ok(response) => refused(url, &response.into_inner().error),
            Err(status) => refused(url, &format!("{:?}: {}", status.code(), status.message())),
        }
    }

    async fn stop_worker(&self, url: &str, request: StopWorkerRequest) -> Result<()> {
        let mut pool = Self::connect(url, STOP).await?;
        match pool.stop_worker(request).await {
            Ok(response) => refused(url, &response.into_inner().error),
            Err(status) => refused(url, &format!("{:?}: {}", status.code(), status.message())),
        }
    }
}
