//! `claviger dataflow jobs run`: starts a pipeline and follows it to its end.
//!
//! Invariant: who interrupts is told whether the job goes on.

use std::path::PathBuf;
use std::rc::Rc;

use clap::{ArgGroup, Args, ValueEnum};
use claviger_core::limits;
use claviger_proto::google::dataflow::v1beta3::{Job, JobState};

use super::follow::{self, Follower, PAUSE, is_last};
use super::jobs::{self, At, Status};
use super::program::{Ended, Program};
use super::submit;
use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::names::KeyOptions;
use crate::output::{Format, say, write_text};

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger dataflow jobs run delays --py-file delays.py -- --input gs://flights/may.csv
  claviger dataflow jobs run delays --py-file delays.py --env process \\
      --kms-key projects/p/locations/us-east1/keyRings/ring/cryptoKeys/k
  claviger dataflow jobs run delays --py-file delays.py --runner dataflow \\
      --temp-location gs://flights/tmp
  claviger dataflow jobs run delays --pipeline-pb delays.pb --option input=may.csv

The program gets the options of Apache Beam that lead to this server, and must take
them from its command line. The key must be in the region of the job, and Dataflow's
service agent must be allowed to use it:
  claviger kms keys authorize KEY --service dataflow";

/// The region of jobs that name none, for the runner that asks for one.
const REGION: &str = "us-central1";

/// `claviger dataflow jobs run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("pipeline").required(true).args(["py_file", "pipeline_pb"]))]
pub(crate) struct Options {
    /// The name of the job: lower-case letters, digits and dashes
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// The Python program that makes the pipeline
    #[arg(long, value_name = "FILE.py")]
    pub(super) py_file: Option<PathBuf>,
    /// The pipeline, as an encoded org.apache.beam.model.pipeline.v1.Pipeline
    #[arg(long, value_name = "FILE.pb", conflicts_with_all = ["python", "runner", "env", "staging_location"])]
    pipeline_pb: Option<PathBuf>,
    /// The region of the job [default: that of the key]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    #[command(flatten)]
    key: KeyOptions,
    /// Where temporary files go
    #[arg(long, value_name = "gs://BUCKET/PREFIX")]
    pub(super) temp_location: Option<String>,
    /// Where the program's packages go [default: below --temp-location]
    #[arg(long, value_name = "gs://BUCKET/PREFIX")]
    pub(super) staging_location: Option<String>,
    /// Which of Beam's runners submits it
    #[arg(long, value_enum, default_value_t = Runner::Portable)]
    pub(super) runner: Runner,
    /// Where the program's functions run
    #[arg(long, value_enum, default_value_t = Env::Loopback)]
    env: Env,
    /// The Python interpreter, with Apache Beam
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    pub(super) python: PathBuf,
    /// A further option of the pipeline; give it once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = flags::pair)]
    pub(super) option: Vec<(String, String)>,
    /// Do not wait for the job's end
    #[arg(long)]
    r#async: bool,
    /// What the program itself takes
    #[arg(last = true, value_name = "ARGUMENT", conflicts_with = "pipeline_pb")]
    pub(super) arguments: Vec<String>,
}

/// A runner of Apache Beam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Runner {
    /// PortableRunner: no bucket is needed
    Portable,
    /// DataflowRunner: packages go through a bucket, as in the cloud
    Dataflow,
}

/// Where functions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Env {
    /// In the program
    Loopback,
    /// In processes that the server starts
    Process,
}

/// A job that is to be, with its names made whole.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) options: &'a Options,
    pub(super) project: &'a str,
    /// The server: `http://HOST:PORT`.
    pub(super) url: &'a str,
    pub(super) region: Option<String>,
    pub(super) kms_key: Option<String>,
}

impl Request<'_> {
    /// Whether functions run in the program.
    pub(super) fn is_loopback(&self) -> bool {
        self.options.runner == Runner::Portable && self.options.env == Env::Loopback
    }

    /// Whether the program is not to wait for the job's end.
    pub(super) fn leaves(&self) -> bool {
        self.options.r#async
    }

    /// The region, where one must be told.
    pub(super) fn some_region(&self) -> &str {
        self.region.as_deref().unwrap_or(REGION)
    }
}

/// Starts a pipeline.
///
/// # Errors
/// What the server refuses; a program that fails; a job that does not do what it is to do.
pub(super) async fn run(session: &Session, options: &Options) -> Result<(), Failure> {
    let key = options.key.name(&session.project)?;
    let at_key = key.as_ref().map(|key| key.location().to_owned());
    let request = Request {
        options,
        project: &session.project,
        url: &session.url,
        region: options.region.clone().or(at_key),
        kms_key: key.map(|key| key.to_string()),
    };
    if let Some(file) = &options.pipeline_pb {
        let bytes = flags::read_file(file, limits::REQUEST_BYTES as u64)?;
        let id = submit::submit(session, &request, bytes.into()).await?;
        let job = Job { id, project_id: session.project.clone(), ..Job::default() };
        let job =
            jobs::get(session, &job, claviger_proto::google::dataflow::v1beta3::JobView::Summary).await?;
        say(&format!("Submitted job [{}] {}.", job.id, job.name));
        if options.r#async {
            return left(session, &job);
        }
        return follow_or_leave(session, &job).await;
    }
    if options.r#async && request.is_loopback() {
        return Err(Failure::usage(
            "--async needs --env process or --runner dataflow: the functions run in the program otherwise",
        ));
    }
    if options.runner == Runner::Dataflow && options.temp_location.is_none() {
        return Err(Failure::usage("--runner dataflow needs --temp-location gs://BUCKET/PREFIX"));
    }
    with_program(session, &request).await
}

/// Leaves a job to itself: its id is all that there is to show.
fn left(session: &Session, job: &Job) -> Result<(), Failure> {
    match session.out.format {
        Format::Table => write_text(&format!("{}\n", job.id)),
        _ => session.out.one(job),
    }
}

/// Follows a job until it ends or someone interrupts.
async fn follow_or_leave(session: &Session, job: &Job) -> Result<(), Failure> {
    tokio::select! {
        ended = follow::to_end(session, job) => follow::outcome(session, &ended?).await,
        _ = tokio::signal::ctrl_c() => Err(goes_on(job)),
    }
}

fn goes_on(job: &Job) -> Failure {
    Failure::advised(
        format!("interrupted: job {} [{}] goes on", job.name, job.id),
        format!(
            "stop it with 'claviger dataflow jobs cancel {0}', or wait with 'claviger dataflow jobs wait {0}'",
            job.id
        ),
    )
}

/// The newest job of a name.
async fn newest(session: &Session, name: &str) -> Result<Option<Job>, Failure> {
    Ok(jobs::list(session, &At::default(), Status::All, Some(name), Some(1)).await?.into_iter().next())
}

/// Runs the program, and follows the job that it submits.
async fn with_program(session: &Session, request: &Request<'_>) -> Result<(), Failure> {
    let name = request.options.name.as_str();
    let before = newest(session, name).await?.map(|job| job.id);
    let bar = follow::bar(session, name);
    bar.message(format!("{name}: the program starts"));
    let mut program = Program::start(request)?;
    // Results of a pipeline are for standard output, unless the job itself is written there.
    let mut pump = std::pin::pin!(program.pump(bar.clone(), session.out.format == Format::Table));
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut follower: Option<Follower<'_>> = None;
    let mut last_seen: Option<Job> = None;
    let mut ended: Option<Ended> = None;
    loop {
        tokio::select! {
            end = &mut pump, if ended.is_none() => ended = Some(end?),
            () = tokio::time::sleep(PAUSE) => {}
            _ = &mut interrupted => return Err(stopped(session, request, last_seen.as_ref()).await),
        }
        if follower.is_none()
            && let Some(job) = newest(session, name).await?.filter(|job| Some(&job.id) != before.as_ref())
        {
            bar.aside(|| say(&format!("Submitted job [{}] {}.", job.id, job.name)));
            follower = Some(Follower::new(session, job, Rc::clone(&bar)));
        }
        let Some(follower) = &mut follower else {
            if let Some(end) = &ended {
                return Err(end.without_job(name));
            }
            continue;
        };
        let job = follower.look().await?.clone();
        let over = is_last(job.current_state());
        if let Some(end) = &ended {
            if !over && request.is_loopback() || job.current_state() == JobState::Stopped {
                // Nobody is left to run it. It may have ended by itself just now.
                let _ = jobs::ask(session, &job, JobState::Cancelled).await;
                return Err(end.too_early(&job));
            }
            if over {
                bar.clear();
                follow::outcome(session, &job).await?;
                return end.well();
            }
            if request.leaves() {
                end.well()?;
                return left(session, &job);
            }
        }
        last_seen = Some(job);
    }
}

/// What an interrupt does to a job that a program submitted.
async fn stopped(session: &Session, request: &Request<'_>, job: Option<&Job>) -> Failure {
    match job {
        None => Failure::local("interrupted before a job was submitted"),
        Some(job) if request.is_loopback() => {
            let asked = jobs::ask(session, job, JobState::Cancelled).await;
            let how =
                if asked.is_ok() { "is cancelled" } else { "ends with the program that runs its functions" };
            Failure::local(format!("interrupted: job {} [{}] {how}", job.name, job.id))
        }
        Some(job) => goes_on(job),
    }
}
