//! The worker pool: the service of an EXTERNAL environment, which the server asks to start workers.
//!
//! Invariant: the pool and its workers end with the value.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_beam_proto::fn_execution::beam_fn_external_worker_pool_server::{
    BeamFnExternalWorkerPool, BeamFnExternalWorkerPoolServer,
};
use claviger_beam_proto::fn_execution::{
    StartWorkerRequest, StartWorkerResponse, StopWorkerRequest, StopWorkerResponse,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::worker::{Told, Worker};
use crate::failure::{Doing, Result};

/// A pool that serves.
#[derive(Debug)]
pub(super) struct Pool {
    url: String,
    /// Dropped with the pool, and then it ends.
    _tasks: JoinSet<()>,
}

impl Pool {
    /// Serves on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn serve(told: Arc<Told>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.doing("no port for the worker pool")?;
        let url = listener.local_addr().doing("no address of the worker pool")?.to_string();
        let service = BeamFnExternalWorkerPoolServer::new(Service { told, workers: Mutex::default() });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("claviger-bench: the worker pool ended: {error}");
            }
        });
        Ok(Self { url, _tasks: tasks })
    }

    /// Where it is reached, as `HOST:PORT`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

struct Service {
    told: Arc<Told>,
    /// By id; a worker ends when its set of tasks is dropped.
    workers: Mutex<HashMap<String, JoinSet<()>>>,
}

impl Service {
    fn workers(&self) -> MutexGuard<'_, HashMap<String, JoinSet<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, request: StartWorkerRequest) -> Result<()> {
        let id = request.worker_id;
        let url = request.control_endpoint.unwrap_or_default().url;
        let worker = Worker::connect(&id, &url, self.told.clone()).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(failure) = worker.work().await {
                eprintln!("claviger-bench: a worker ended: {failure}");
            }
        });
        self.workers().insert(id, tasks);
        Ok(())
    }
}

#[tonic::async_trait]
impl BeamFnExternalWorkerPool for Service {
    async fn start_worker(
        &self,
        request: Request<StartWorkerRequest>,
    ) -> Result<Response<StartWorkerResponse>, Status> {
        let started = self.start(request.into_inner()).await;
        let error = started.err().map(|failure| failure.to_string()).unwrap_or_default();
        Ok(Response::new(StartWorkerResponse { error }))
    }

    async fn stop_worker(
        &self,
        request: Request<StopWorkerRequest>,
    ) -> Result<Response<StopWorkerResponse>, Status> {
        let stopped = self.workers().remove(&request.into_inner().worker_id);
        drop(stopped);
        Ok(Response::new(StopWorkerResponse::default()))
    }
}
