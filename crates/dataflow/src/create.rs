//! New jobs: what they may be, and what is there once one was made.
//!
//! Invariant: a request that is wrong in itself is refused and made nothing. A job whose key cannot be used is
//! made and has failed, as in Dataflow; nothing of it is kept but its head.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::pipeline::Pipeline;
use claviger_cmek::ScopeSpec;
use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Error, ErrorKind, Result};
use claviger_sealed::scope::ScopeId;

use crate::files::CloudName;
use crate::id::JobId;
use crate::job::{Input, Job, record_key};
use crate::kept::{self, Description};
use crate::model::{Api, FORMAT, Head, JobState, Sdk, StateChange};
use crate::options::Options;
use crate::vault::remove_files;
use crate::{Dataflow, JOBS, PREPARED, SCOPES, Shared, keys, lock};

/// The label under which audit entries carry the job's id.
const JOB_LABEL: &str = "job_id";
/// The longest name of a job, and of a request.
const NAME_CHARS: usize = 1024;

/// What a new job is to be.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Its name.
    pub name: String,
    /// The project that it belongs to.
    pub project: String,
    /// Its region.
    pub region: String,
    /// The customer's key that protects it.
    pub kms_key: Option<String>,
    /// Where its temporary files go, as `gs://BUCKET/PREFIX`.
    pub temp_location: Option<String>,
    /// The pipeline's options.
    pub options: Options,
    /// The SDK that made it.
    pub sdk: Sdk,
    /// How it came, with its pipeline.
    pub origin: Origin,
}

/// How a job came, with its pipeline.
#[derive(Clone, Debug)]
pub enum Origin {
    /// By Beam's Job API.
    Portable {
        /// The graph.
        pipeline: Box<Pipeline>,
    },
    /// By the Dataflow API.
    Dataflow {
        /// Where the graph is.
        graph: Graph,
        /// The request as it came, encoded.
        request: Bytes,
        /// The same id again is the same job.
        client_request_id: String,
    },
}

/// A graph in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// As `gs://BUCKET/OBJECT`.
    pub url: String,
    /// In hexadecimal; may be empty.
    pub sha256: String,
}

impl Dataflow {
    /// Makes a job, which [`Job::run`] then runs. The same request of the Dataflow API again gives the same job.
    ///
    /// # Errors
    /// `InvalidArgument` for names, options and a key that cannot be right; `AlreadyExists` for the name of a job
    /// that runs; `Unimplemented` for a streaming job; `FailedPrecondition` when a policy of the project refuses the
    /// key, or that there is none; `ResourceExhausted` for a full disk; `Unavailable` when the key service is silent.
    /// A refused key is no error here: the job has failed.
    pub async fn create(&self, spec: JobSpec) -> Result<Arc<Job>> {
        let kms_key = check(&spec)?;
        self.shared.config.directory.admit(&spec.project, kms_key.as_ref(), "CreateJob").await?;
        (self.shared.config.room)()?;
        let (job, fresh) = self.admit(spec, kms_key.clone())?;
        if !fresh {
            return Ok(job);
        }
        match self.shared.give_scope(&job, kms_key).await {
            Ok(()) => {}
            Err(error) => {
                lock(&self.shared.jobs).remove(job.id());
                if let Err(error) = self.shared.config.records.delete(&record_key(job.id())).await {
                    tracing::warn!(job = %job.id(), %error, "the record of a job that was not made is left");
                }
                return Err(error);
            }
        }
        self.shared.clone().make_room();
        Ok(job)
    }

    /// A token by which the files of a prepared job can be staged.
    pub fn staging_token(&self, job: &Job) -> String {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let mut tokens = lock(&self.shared.tokens);
        let jobs = lock(&self.shared.jobs);
        tokens.retain(|_, id| jobs.get(id).is_some_and(|job| job.state() == JobState::Stopped));
        tokens.insert(token.clone(), job.id().clone());
        token
    }

    /// Takes a job among the jobs, unless its request was made before.
    fn admit(&self, spec: JobSpec, kms_key: Option<CryptoKeyName>) -> Result<(Arc<Job>, bool)> {
        let now = self.shared.config.clock.now();
        let mut jobs = lock(&self.shared.jobs);
        if let Origin::Dataflow { client_request_id, .. } = &spec.origin {
            let same_place = |head: &Head| {
                head.api == Api::Dataflow && head.project == spec.project && head.location == spec.region
            };
            for job in jobs.values() {
                let head = job.head();
                if !same_place(&head) {
                    continue;
                }
                if !client_request_id.is_empty() && head.client_request_id == *client_request_id {
                    return Ok((job.clone(), false));
                }
                if head.name == spec.name && !head.state().is_terminal() {
                    return Err(Error::already_exists(format!(
                        "The workflow could not be created. Causes: There is already an active job named {}. If you want to submit a second job, try again by setting a different name.",
                        spec.name
                    )));
                }
            }
        }
        let (api, request_id, pipeline, graph, request) = match spec.origin {
            Origin::Portable { pipeline } => {
                (Api::Portable, String::new(), Some(*pipeline), None, Bytes::new())
            }
            Origin::Dataflow { graph, request, client_request_id } => {
                (Api::Dataflow, client_request_id, None, Some(graph), request)
            }
        };
        let head = Head {
            format: FORMAT,
            id: JobId::new(now),
            name: spec.name,
            project: spec.project,
            location: spec.region,
            api,
            created: now,
            started: None,
            history: vec![StateChange { sequence: 0, state: JobState::Stopped, time: now }],
            kms_key,
            scope: Some(format!("{SCOPES}/{}", uuid::Uuid::new_v4().simple())),
            kept: false,
            client_request_id: request_id,
            sdk: spec.sdk,
            reason: None,
            lock_reason: None,
        };
        let description = Description {
            format: kept::FORMAT,
            pipeline: pipeline.clone(),
            options: Some(spec.options.inner().clone()),
            request,
        };
        let input = Input { pipeline, graph, options: spec.options, temp_location: spec.temp_location };
        let job = Job::new(self.shared.clone(), head, Some((description, input)));
        jobs.insert(job.id().clone(), job.clone());
        Ok((job, true))
    }
}

impl Shared {
    /// Makes the scope of a job and its record, at the same time: a restart finds both by the record.
    async fn give_scope(&self, job: &Arc<Job>, kms_key: Option<CryptoKeyName>) -> Result<()> {
        let head = job.head();
        let directory = &self.config.directory;
        let agent = directory.agent(&head.project).await?;
        let (key, caller) = match &kms_key {
            Some(key) => (key.clone(), agent.clone()),
            None => directory.managed_key(&head.location).await?,
        };
        let spec = ScopeSpec {
            id: ScopeId::new(head.scope.clone().unwrap_or_default()),
            key,
            customer_managed: kms_key.is_some(),
            caller: caller.with(JOB_LABEL, job.id().as_str()),
            resource: head.resource(),
        };
        let (made, saved) = tokio::join!(self.config.keys.create_scope(spec), job.save());
        saved?;
        match (made, kms_key) {
            (Ok(scope), _) => {
                job.set_scope(scope);
                Ok(())
            }
            (Err(error), Some(key)) => {
                let text = keys::refused(&key, &agent.principal, &error).ok_or(error)?;
                job.change_head(|head| {
                    head.scope = None;
                    head.lock_reason = Some(text);
                });
                job.unload();
                job.finish(Err(Error::precondition("The job's key was refused."))).await;
                Ok(())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Removes the oldest jobs that ended, and the oldest that were never told to run, beyond their limits.
    fn make_room(self: Arc<Self>) {
        let surplus = {
            let jobs = lock(&self.jobs);
            let mut prepared: VecDeque<_> =
                jobs.values().filter(|job| job.state() == JobState::Stopped).cloned().collect();
            let mut over: VecDeque<_> =
                jobs.values().filter(|job| job.state().is_terminal()).cloned().collect();
            let mut surplus = Vec::new();
            while prepared.len() > PREPARED {
                surplus.extend(prepared.pop_front());
            }
            while jobs.len().saturating_sub(surplus.len()) > JOBS && !over.is_empty() {
                surplus.extend(over.pop_front());
            }
            surplus
        };
        for job in surplus {
            let shared = self.clone();
            self.tasks.spawn(async move {
                if let Err(error) = shared.remove(&job).await {
                    tracing::warn!(job = %job.id(), %error, "an old job could not be removed");
                }
            });
        }
    }

    /// Removes a job and all that was kept of it.
    async fn remove(&self, job: &Arc<Job>) -> Result<()> {
        if job.state() == JobState::Stopped {
            job.finish(Err(Error::precondition("The job was never told to run."))).await;
        }
        lock(&self.jobs).remove(job.id());
        lock(&self.loaded).retain(|loaded| !Arc::ptr_eq(loaded, job));
        job.close_kept().await;
        self.config.records.delete(&record_key(job.id())).await?;
        match job.head().scope {
            Some(scope) => self.shred(&scope).await,
            None => Ok(()),
        }
    }

    /// Forgets the key of a scope and removes its files. The key goes first: what is left opens to nobody.
    pub(crate) async fn shred(&self, scope: &str) -> Result<()> {
        match self.config.keys.delete_scope(&ScopeId::new(scope)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        remove_files(&self.config, scope).await;
        Ok(())
    }
}

/// Refuses what can be seen to be wrong; gives the key.
fn check(spec: &JobSpec) -> Result<Option<CryptoKeyName>> {
    LocationName::new(&spec.project, &spec.region)
        .map_err(|_| Error::invalid_field("location", "a job needs a project and a region"))?;
    let dataflow = matches!(spec.origin, Origin::Dataflow { .. });
    if dataflow {
        check_name(&spec.name)?;
    } else if spec.name.is_empty() || spec.name.chars().count() > NAME_CHARS {
        return Err(Error::invalid_field("job_name", format!("must have 1 to {NAME_CHARS} characters")));
    }
    if spec.options.switch("streaming") {
        return Err(Error::unimplemented(
            "Streaming jobs are not built yet: this server runs batch pipelines.",
        ));
    }
    let key = spec.kms_key.as_deref().filter(|key| !key.is_empty());
    let key = key.map(|key| keys::parse(key, &spec.region)).transpose()?;
    if let Origin::Dataflow { graph, client_request_id, .. } = &spec.origin {
        if client_request_id.len() > NAME_CHARS {
            return Err(Error::invalid_field("job.client_request_id", "is too long"));
        }
        CloudName::file(&graph.url)?;
        let temp = spec.temp_location.as_deref().unwrap_or_default();
        if key.is_some() && CloudName::parse(temp).is_none() {
            return Err(Error::invalid_field(
                "job.environment.temp_storage_prefix",
                "The workflow could not be created. Causes: a job with a Cloud KMS key needs a temp location in Cloud Storage (gs://BUCKET/PREFIX).",
            ));
        }
    }
    Ok(key)
}

/// Dataflow's rule for names.
fn check_name(name: &str) -> Result<()> {
    let letter = |c: char| c.is_ascii_lowercase();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = name.starts_with(letter)
        && name.chars().all(inner)
        && !name.ends_with('-')
        && name.len() <= NAME_CHARS;
    if fits {
        return Ok(());
    }
    Err(Error::invalid_field(
        "job.name",
        "The workflow could not be created. Causes: invalid job name; a name matches the expression [a-z]([-a-z0-9]{0,1022}[a-z0-9])?.",
    ))
}
