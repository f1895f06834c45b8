//! Environments: where user code runs, and how a worker comes to be there.
//!
//! Invariant: an environment that is not run here is refused by name, with a sentence, before anything
//! starts. What was started is stopped again, whatever happens in between.

mod image;
mod process;
mod python;
mod running;
mod scratch;
mod spare;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use claviger_beam::urn::environment::{ANYOF, DOCKER, EXTERNAL, PROCESS};
use claviger_beam_proto::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use claviger_beam_proto::pipeline::{
    AnyOfEnvironmentPayload, DockerPayload, Environment, ExternalPayload, ProcessPayload,
};
use claviger_core::{Clock, Error, Result};
use prost::Message;

use crate::descriptor::service;
use crate::limits;
use crate::worker::Core;
use image::Image;
use process::{Command, Process};
use python::Python;
use scratch::Scratch;
use spare::{Images, Refill};

/// Asks a service that starts workers, as a SDK's LOOPBACK mode runs one.
#[async_trait]
pub trait WorkerPoolClient: Send + Sync {
    /// Has a worker started by the pool at `url`.
    ///
    /// # Errors
    /// `Unavailable` when the pool does not answer; what it answered else.
    async fn start_worker(&self, url: &str, request: StartWorkerRequest) -> Result<()>;

    /// Has it stopped.
    ///
    /// # Errors
    /// As [`WorkerPoolClient::start_worker`].
    async fn stop_worker(&self, url: &str, request: StopWorkerRequest) -> Result<()>;
}

/// How local processes are run.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// A directory for the files of running workers, among them staged files in clear. None: a directory in
    /// the machine's memory, and a refusal where there is none.
    pub scratch: Option<PathBuf>,
    /// Tells the directories of one server from those of others on the machine: its data directory.
    pub owner: String,
    /// Where the Python environments go that are made for Beam's images, one for each version. Only public
    /// packages are in them. One server at a time.
    pub python_cache: PathBuf,
    /// A Python interpreter that has Apache Beam and is to be used as it is, in place of those.
    pub beam_python: Option<PathBuf>,
    /// Variables of all local processes: where they find the services of this server.
    pub variables: BTreeMap<String, String>,
    /// Processes of Beam's images that are started before there is a worker for them to be:
    /// `limits::SPARE_WORKERS` at most.
    pub spare_workers: usize,
}

/// Whether an environment can be run here, without running it.
///
/// # Errors
/// `InvalidArgument` for a payload that cannot be read; `Unimplemented` for what is not run here.
pub fn check(environment: &Environment) -> Result<()> {
    Kind::of(environment).map(drop)
}

/// An environment that we know.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    Pool { url: String, params: BTreeMap<String, String> },
    Command { command: String, env: BTreeMap<String, String> },
    Python(Image),
}

impl Kind {
    /// Reads an environment.
    ///
    /// # Errors
    /// As [`check`].
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        Self::at_depth(environment, 0)
    }

    fn at_depth(environment: &Environment, depth: usize) -> Result<Self> {
        match environment.urn.as_str() {
            EXTERNAL => {
                let payload: ExternalPayload = payload(environment)?;
                let url = payload.endpoint.unwrap_or_default().url;
                if url.is_empty() {
                    return Err(Error::invalid("an EXTERNAL environment names no endpoint"));
                }
                Ok(Self::Pool { url, params: payload.params })
            }
            PROCESS => {
                let payload: ProcessPayload = payload(environment)?;
                if payload.command.is_empty() {
                    return Err(Error::invalid("a PROCESS environment names no command"));
                }
                Ok(Self::Command { command: payload.command, env: payload.env })
            }
            DOCKER => {
                let payload: DockerPayload = payload(environment)?;
                Image::parse(&payload.container_image).map(Self::Python)
            }
            ANYOF if depth < limits::ENVIRONMENT_DEPTH => {
                let payload: AnyOfEnvironmentPayload = payload(environment)?;
                let mut refused = Error::invalid("an environment offers a choice of nothing");
                for choice in &payload.environments {
                    match Self::at_depth(choice, depth + 1) {
                        Ok(kind) => return Ok(kind),
                        Err(error) => refused = error,
                    }
                }
                Err(refused)
            }
            urn => Err(Error::unimplemented(format!(
                "the environment '{urn}' is not run here: there are EXTERNAL (LOOPBACK), PROCESS and DOCKER"
            ))),
        }
    }
}

fn payload<M: Message + Default>(environment: &Environment) -> Result<M> {
    M::decode(environment.payload.clone()).map_err(|error| {
        Error::invalid(format!("the payload of the environment '{}' cannot be read", environment.urn))
            .because(error)
    })
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { url, .. } => write!(f, "the EXTERNAL environment at {url}"),
            Self::Command { command, .. } => write!(f, "the PROCESS environment {command}"),
            Self::Python(image) => write!(f, "the DOCKER environment {image}"),
        }
    }
}

/// Starts workers.
pub(crate) struct Launcher {
    pools: Arc<dyn WorkerPoolClient>,
    scratch: Arc<Scratch>,
    python: Python,
    images: Arc<Images>,
    variables: BTreeMap<String, String>,
}

/// What is left to do for a worker once all that takes long is done.
pub(crate) enum Prepared {
    Pool { pools: Arc<dyn WorkerPoolClient>, url: String, params: BTreeMap<String, String> },
    Process(Command),
    Python { images: Arc<Images>, program: PathBuf, beam: String },
}

/// A worker that runs somewhere.
pub(crate) enum Started {
    Pool { pools: Arc<dyn WorkerPoolClient>, url: String, worker_id: String },
    Process { process: Box<Process>, refill: Option<Refill> },
}

impl Launcher {
    pub(crate) fn new(
        pools: Arc<dyn WorkerPoolClient>,
        config: ProcessConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let scratch = Arc::new(Scratch::new(config.scratch, &config.owner));
        scratch.clear();
        let python = Python::new(config.python_cache, config.beam_python);
        let variables = config.variables;
        let images = Images::new(scratch.clone(), variables.clone(), clock, config.spare_workers);
        Self { pools, scratch, python, images, variables }
    }

    /// Does what may take minutes once: makes the environment's interpreter.
    ///
    /// # Errors
    /// `FailedPrecondition` when the machine lacks what it needs.
    pub(crate) async fn prepare(&self, kind: Kind, core: &Core) -> Result<Prepared> {
        match kind {
            Kind::Pool { url, params } => Ok(Prepared::Pool { pools: self.pools.clone(), url, params }),
            Kind::Command { command, env } => {
                let mut variables = self.variables.clone();
                variables.extend(env);
                let dir = self.scratch.dir(&core.id)?;
                Ok(Prepared::Process(Command { program: command.into(), env: variables, dir }))
            }
            Kind::Python(image) => {
                let program = self.python.interpreter(&image, core).await?;
                Ok(Prepared::Python { images: self.images.clone(), program, beam: image.beam })
            }
        }
    }
}

impl Prepared {
    /// Starts the worker.
    ///
    /// # Errors
    /// Those of the pool; `FailedPrecondition` for a command that cannot be run.
    pub(crate) async fn start(self, core: &Arc<Core>) -> Result<Started> {
        match self {
            Self::Pool { pools, url, params } => {
                let endpoint = Some(service(&core.endpoint));
                let request = StartWorkerRequest {
                    worker_id: core.id.clone(),
                    control_endpoint: endpoint.clone(),
                    logging_endpoint: endpoint.clone(),
                    artifact_endpoint: endpoint.clone(),
                    provision_endpoint: endpoint,
                    params,
                };
                pools.start_worker(&url, request).await?;
                Ok(Started::Pool { pools, url, worker_id: core.id.clone() })
            }
            Self::Process(command) => {
                Ok(Started::Process { process: Box::new(command.start(core)?), refill: None })
            }
            Self::Python { images, program, beam } => {
                let (process, refill) = images.start(program, &beam, core).await?;
                Ok(Started::Process { process: Box::new(process), refill: Some(refill) })
            }
        }
    }
}

impl Started {
    /// Returns when the worker's process is gone, with the reason. A pool's worker shows it by its streams.
    pub(crate) async fn exited(&mut self) -> Error {
        match self {
            Self::Pool { .. } => std::future::pending().await,
            Self::Process { process, .. } => process.exited().await,
        }
    }

    /// Adds what is known here to the reason for which a connection is gone.
    pub(crate) async fn explain(&mut self, why: Error) -> Error {
        match self {
            Self::Pool { .. } => why,
            Self::Process { process, .. } => process.explain(why).await,
        }
    }

    /// Stops it, for good. Gives what starts a spare for the next one like it.
    pub(crate) async fn stop(self) -> Option<Refill> {
        match self {
            Self::Pool { pools, url, worker_id } => {
                if let Err(error) = pools.stop_worker(&url, StopWorkerRequest { worker_id }).await {
                    // A pool of a program that is gone, as that of a LOOPBACK job, took its worker along.
                    tracing::debug!(%error, "a worker pool did not stop its worker");
                }
                None
            }
            Self::Process { process, refill } => {
                process.stop().await;
                refill
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(urn: &str, payload: &impl Message) -> Environment {
        let payload = payload.encode_to_vec().into();
        Environment { urn: urn.into(), payload, ..Environment::default() }
    }

    #[test]
    fn a_choice_of_environments_takes_the_first_that_is_known() {
        let docker = DockerPayload { container_image: "busybox".into() };
        let process = ProcessPayload { command: "/boot".into(), ..ProcessPayload::default() };
        let environments = vec![environment(DOCKER, &docker), environment(PROCESS, &process)];
        let choice = environment(ANYOF, &AnyOfEnvironmentPayload { environments });
        let kind = Kind::of(&choice).expect("a kind");
        assert_eq!(kind, Kind::Command { command: "/boot".into(), env: BTreeMap::new() });
    }

    #[test]
    fn environments_in_environments_end_somewhere() {
        let mut nested = environment(ANYOF, &AnyOfEnvironmentPayload::default());
        for _ in 0..40 {
            nested = environment(ANYOF, &AnyOfEnvironmentPayload { environments: vec![nested] });
        }
        assert!(Kind::of(&nested).is_err());
    }

    #[test]
    fn what_is_not_run_here_is_refused_by_name() {
        let unknown = Environment { urn: "beam:env:wasm:v9".into(), ..Environment::default() };
        assert!(check(&unknown).expect_err("refused").message().contains("beam:env:wasm:v9"));
        let empty = environment(EXTERNAL, &ExternalPayload::default());
        assert!(check(&empty).is_err());
        let torn = Environment { urn: DOCKER.into(), payload: vec![0xff].into(), ..Environment::default() };
        assert!(check(&torn).is_err());
    }
}
