//! Import jobs: making, showing and ending them.
//!
//! ```text
//!  PENDING_GENERATION --- its key pair is made ---> ACTIVE --- 3 days after it was made ---> EXPIRED
//!           |                                                                                   ^
//!           '-------------------------------- 3 days after it was made -------------------------'
//! ```
//! Key pairs are made outside of the turn of changes, one at a time.
//!
//! Invariant: there are no other ways. The private key of a job that is active is durable; that of one that has
//! expired is gone.

use super::*;
use crate::agents::KMS_AGENT;
use crate::iam::Policy;
use crate::lists::paginate;
use crate::model::{ImportJob, ImportJobState, NewImportJob, Page, PageRequest};
use crate::validate;
use claviger_crypto::wrapping::{Method, WrappingKey};

/// How long an import job can be used; Cloud KMS's figure.
const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// Import jobs that may wait for their key pairs at a time.
const MAX_PENDING: usize = 64;

impl Kms {
    /// Makes an import job. Its key pair comes later: ask for the job until it is active.
    ///
    /// # Errors
    /// `NotFound` for the key ring, `AlreadyExists`, `InvalidArgument`, `Unimplemented` for kinds of jobs that are not
    /// built, `ResourceExhausted` while many others wait for their key pairs, `PermissionDenied`.
    pub async fn create_import_job(
        &self,
        caller: &Caller,
        parent: &KeyRingName,
        id: &str,
        new: NewImportJob,
    ) -> Result<ImportJob> {
        validate::id("import_job_id", id)?;
        let name = ImportJobName::new(parent.project(), parent.location(), parent.key_ring(), id)?;
        let (caller, parent) = (caller.clone(), parent.clone());
        let made = self.change(Call::new(&caller, "CreateImportJob", &name), move |index, now| {
            authorise(index, &caller, "cloudkms.importJobs.create", On::Ring(&parent))?;
            index.ring(&parent)?;
            if index.jobs.contains_key(name.as_str()) {
                return Err(texts::exists("ImportJob", name.as_str()));
            }
            validate::new_job(&new)?;
            if index.pending_jobs().count() >= MAX_PENDING {
                return Err(Error::new(
                    ErrorKind::ResourceExhausted,
                    format!("{MAX_PENDING} import jobs wait for their keys to be generated: try again later"),
                ));
            }
            let job = ImportJob {
                name,
                method: new.method,
                state: ImportJobState::PendingGeneration,
                create_time: now,
                expire_time: now.plus(LIFE),
                generate_time: None,
                expire_event_time: None,
                public_key: None,
                material: Uuid::new_v4(),
            };
            Ok(Plan::job(JobEntry { job: job.clone(), policy: Policy::default() }, job))
        });
        let made = made.await?;
        self.inner.generate.notify_one();
        Ok(made)
    }

    /// An import job.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_import_job(&self, caller: &Caller, name: &ImportJobName) -> Result<ImportJob> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.importJobs.get", On::Job(name))?;
        Ok(index.job(name)?.job.clone())
    }

    /// The import jobs of a key ring, in the order of their names.
    ///
    /// # Errors
    /// `NotFound` for the key ring, `InvalidArgument` for a page that was not asked for in this way,
    /// `PermissionDenied`.
    pub fn list_import_jobs(
        &self,
        caller: &Caller,
        parent: &KeyRingName,
        page: &PageRequest,
    ) -> Result<Page<ImportJob>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.importJobs.list", On::Ring(parent))?;
        index.ring(parent)?;
        let prefix = format!("{parent}/importJobs/");
        paginate(page, &prefix, Index::children(&index.jobs, &prefix), |entry| entry.job.clone())
    }

    /// Makes the key pairs of all import jobs that wait for theirs.
    ///
    /// # Errors
    /// `Internal` when a key pair could not be made; what the store answers.
    pub async fn generate_import_keys(&self) -> Result<()> {
        loop {
            let next = self.inner.index().pending_jobs().next().map(|job| (job.name.clone(), job.method));
            let Some((name, method)) = next else { return Ok(()) };
            let pair = tokio::task::spawn_blocking(move || generate(method));
            let (private, public) = pair.await.map_err(not_made)?.map_err(not_made)?;
            let caller = Caller::new(KMS_AGENT).with("reason", "the key pair was generated");
            self.change(Call::new(&caller, "GenerateImportJobKey", &name), move |index, now| {
                let mut entry = JobEntry::clone(index.job(&name)?);
                let job = &mut entry.job;
                if job.state != ImportJobState::PendingGeneration {
                    return Ok(Plan::reply(()));
                }
                job.state = ImportJobState::Active;
                job.generate_time = Some(now);
                job.public_key = Some(public);
                let create = Some(Created::ImportKey(job.material, private));
                Ok(Plan { create, ..Plan::job(entry, ()) })
            })
            .await?;
        }
    }
}

fn generate(method: Method) -> Result<(SecretBytes, String), claviger_crypto::Error> {
    let key = WrappingKey::generate(method)?;
    Ok((key.to_pkcs8()?, key.public_pem()?))
}

fn not_made(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the key pair of an import job could not be generated").because(error)
}

/// A job after its end.
pub(super) fn expired(entry: &JobEntry, now: Timestamp) -> JobEntry {
    let mut entry = entry.clone();
    entry.job.state = ImportJobState::Expired;
    entry.job.expire_event_time = Some(now);
    entry.job.public_key = None;
    entry
}
