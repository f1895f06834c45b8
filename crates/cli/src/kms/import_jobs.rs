//! `claviger kms import-jobs`.
//!
//! Invariant: an import job is never deleted; neither is there a command for it.

use clap::{Args, Subcommand};
use claviger_core::names::ImportJobName;
use claviger_crypto::wrapping::Method;
use claviger_proto::google::cloud::kms::v1::import_job::{ImportJobState, ImportMethod};
use claviger_proto::google::cloud::kms::v1::{
    CreateImportJobRequest, GetImportJobRequest, ImportJob, ListImportJobsRequest, ProtectionLevel,
};

use super::{all_pages, iam};
use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::names::InRing;
use crate::output::{Cell, Column};

const COLUMNS: [Column; 4] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("IMPORT_METHOD", Cell::Path("importMethod")),
    Column::new("EXPIRES", Cell::Path("expireTime")),
];

const CREATE_EXAMPLES: &str = "\
Example:
  claviger kms import-jobs create j --keyring ring --location us-east1 \\
      --import-method rsa-oaep-3072-sha256-aes-256

The key pair of the job is made in the background: it is there when the state is ACTIVE.";

/// `claviger kms import-jobs ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a job through which keys can be imported for three days
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        #[command(flatten)]
        one: One,
        /// How keys are wrapped, as in rsa-oaep-3072-sha256-aes-256
        #[arg(long, value_name = "METHOD", value_parser = method)]
        import_method: Method,
    },
    /// List the import jobs of a key ring
    List {
        #[command(flatten)]
        at: InRing,
        /// List those that the filter accepts, as in state=ACTIVE
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show an import job and its public key
    Describe(One),
    /// Show who may do what with an import job
    GetIamPolicy(One),
    /// Replace the whole policy of an import job by one in a JSON or YAML file
    SetIamPolicy {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        file: iam::PolicyFile,
    },
    /// Give someone a role on an import job
    AddIamPolicyBinding {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        grant: iam::Grant,
    },
    /// Take a role away
    RemoveIamPolicyBinding {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        grant: iam::Grant,
    },
}

/// One import job.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The import job: an id, or its full name
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    at: InRing,
}

impl One {
    fn name(&self, session: &Session) -> Result<ImportJobName, Failure> {
        self.at.import_job(&session.project, &self.job)
    }
}

fn method(text: &str) -> Result<Method, String> {
    Method::parse(&flags::enum_name(text)).ok_or_else(|| {
        let known = Method::ALL.map(|method| method.as_str().to_lowercase().replace('_', "-"));
        format!("there is no import method '{text}'; there are {}", known.join(", "))
    })
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { one, import_method } => create(session, &one, import_method).await,
        Command::List { at, filter, limit } => {
            let parent = at.parent(&session.project)?.to_string();
            let mut kms = session.kms();
            let jobs = all_pages!(
                limit,
                |page_token, page_size| kms.list_import_jobs(ListImportJobsRequest {
                    parent: parent.clone(),
                    page_token: page_token.clone(),
                    page_size,
                    filter: filter.clone().unwrap_or_default(),
                    ..Default::default()
                }),
                import_jobs
            );
            session.out.list(&jobs, &COLUMNS)
        }
        Command::Describe(one) => session.out.one(&get(session, &one.name(session)?).await?),
        Command::GetIamPolicy(one) => iam::show(session, one.name(session)?.to_string()).await,
        Command::SetIamPolicy { one, file } => {
            iam::replace(session, one.name(session)?.to_string(), &file).await
        }
        Command::AddIamPolicyBinding { one, grant } => {
            iam::add(session, one.name(session)?.to_string(), &grant).await
        }
        Command::RemoveIamPolicyBinding { one, grant } => {
            iam::remove(session, one.name(session)?.to_string(), &grant).await
        }
    }
}

async fn create(session: &Session, one: &One, method: Method) -> Result<(), Failure> {
    let name = one.name(session)?;
    let import_method = ImportMethod::from_str_name(method.as_str()).unwrap_or_default();
    let job = ImportJob {
        import_method: import_method.into(),
        protection_level: ProtectionLevel::Software.into(),
        ..Default::default()
    };
    let request = CreateImportJobRequest {
        parent: name.key_ring_name().to_string(),
        import_job_id: name.import_job().to_owned(),
        import_job: Some(job),
    };
    let job = session.kms().create_import_job(request).await?.into_inner();
    session.out.done(&job, &format!("Created import job [{}]; its key is being made.", job.name))
}

async fn get(session: &Session, name: &ImportJobName) -> Result<ImportJob, Failure> {
    let request = GetImportJobRequest { name: name.to_string(), ..Default::default() };
    Ok(session.kms().get_import_job(request).await?.into_inner())
}

/// How a job wraps, and its public key in PEM.
///
/// # Errors
/// What the server refuses; a job that is not active.
pub(super) async fn public_key(session: &Session, name: &ImportJobName) -> Result<(Method, String), Failure> {
    let job = get(session, name).await?;
    if job.state() != ImportJobState::Active {
        return Err(Failure::advised(
            format!("import job [{name}] is not active; its state is {}", job.state().as_str_name()),
            "wait until its key is made, or create another one: a job lives for three days",
        ));
    }
    let method = Method::parse(job.import_method().as_str_name());
    let method = method.ok_or_else(|| {
        Failure::local(format!("keys cannot be wrapped by {}", job.import_method().as_str_name()))
    })?;
    Ok((method, job.public_key.unwrap_or_default().pem))
}
