//! `claviger dataflow jobs`: list, describe, stop, and what jobs say and measure.
//!
//! Invariant: a name stands for the newest job of that name; what is stopped was named by its id or is running.

use clap::{Args, Subcommand, ValueEnum};
use claviger_proto::google::dataflow::v1beta3::list_jobs_request::Filter;
use claviger_proto::google::dataflow::v1beta3::{
    GetJobMetricsRequest, GetJobRequest, Job, JobMessageImportance, JobState, JobView,
    ListJobMessagesRequest, ListJobsRequest, MetricUpdate, UpdateJobRequest,
};
use serde_json::Value;

use super::{follow, run as start};
use crate::client::Session;
use crate::failure::Failure;
use crate::output::{Cell, Column, Format, at, confirm, plain, value};

/// Jobs and messages asked for at a time.
const PAGE: usize = 500;

const COLUMNS: [Column; 6] = [
    Column::new("JOB_ID", Cell::Path("id")),
    Column::new("NAME", Cell::Path("name")),
    Column::new("TYPE", Cell::Made(|job| in_words(job, "type", "JOB_TYPE_"))),
    Column::new("CREATION_TIME", Cell::Path("createTime")),
    Column::new("STATE", Cell::Made(|job| in_words(job, "currentState", "JOB_STATE_"))),
    Column::new("REGION", Cell::Path("location")),
];

const MESSAGE_COLUMNS: [Column; 3] = [
    Column::new("TIME", Cell::Path("time")),
    Column::new("IMPORTANCE", Cell::Made(|message| in_words(message, "messageImportance", "JOB_MESSAGE_"))),
    Column::new("TEXT", Cell::Path("messageText")),
];

const METRIC_COLUMNS: [Column; 5] = [
    Column::new("ORIGIN", Cell::Path("name.origin")),
    Column::new("NAME", Cell::Path("name.name")),
    Column::new("OF", Cell::Made(of)),
    Column::new("KIND", Cell::Path("kind")),
    Column::new("VALUE", Cell::Made(measure)),
];

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  claviger dataflow jobs describe delays
  claviger dataflow jobs describe 2026-11-23_03_21_31-1234567890123456789 --full --format json

The key that protects a job is environment.serviceKmsKeyName.";

/// `claviger dataflow jobs ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a pipeline and wait for its end
    #[command(after_help = start::EXAMPLES)]
    Run(Box<start::Options>),
    /// List jobs, the newest first
    List {
        #[command(flatten)]
        at: At,
        /// Only jobs in such a state
        #[arg(long, value_enum, default_value_t = Status::All)]
        status: Status,
        /// Only jobs of this name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a job: its state, its key, and with --full its options and steps
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe {
        #[command(flatten)]
        one: One,
        /// Its options and steps too
        #[arg(long)]
        full: bool,
    },
    /// Stop jobs; what they have written so far stays
    Cancel(Many),
    /// Let streaming jobs finish what they have begun
    Drain(Many),
    /// Show what a job says
    Messages {
        #[command(flatten)]
        one: One,
        /// Only messages that are at least so important
        #[arg(long, value_enum, default_value_t = Importance::Basic)]
        importance: Importance,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show what a job measures
    Metrics {
        #[command(flatten)]
        one: One,
        /// Only metrics of the pipeline's own, or only the service's
        #[arg(long, value_enum, default_value_t = Origin::All)]
        source: Origin,
        /// What was measured of attempts too, whether or not they were committed
        #[arg(long)]
        tentative: bool,
    },
    /// Wait for a job's end, and end as it does
    Wait(One),
}

/// Where jobs are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct At {
    /// The region of the job [default: any]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
}

/// A job.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The job: its id, or the name of the newest
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    at: At,
}

/// Jobs.
#[derive(Debug, Args)]
pub(crate) struct Many {
    /// The jobs: their ids, or the names of those that run
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// Jobs in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    /// Running or about to
    Active,
    /// Ended
    Terminated,
    /// Any
    All,
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Importance {
    /// For those who look for a fault
    Debug,
    /// For those who want to know more
    Detailed,
    /// For everyone
    Basic,
    /// Something is not as it should be
    Warning,
    /// Something failed
    Error,
}

/// Whose metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Origin {
    /// The pipeline's own
    User,
    /// The service's
    Service,
    /// Both
    All,
}

impl From<Importance> for JobMessageImportance {
    fn from(importance: Importance) -> Self {
        match importance {
            Importance::Debug => Self::JobMessageDebug,
            Importance::Detailed => Self::JobMessageDetailed,
            Importance::Basic => Self::JobMessageBasic,
            Importance::Warning => Self::JobMessageWarning,
            Importance::Error => Self::JobMessageError,
        }
    }
}

/// An enum's value as a word: `Running` of `JOB_STATE_RUNNING`.
fn in_words(value: &Value, field: &str, prefix: &str) -> String {
    let name = at(value, field).map(plain).unwrap_or_default();
    word(name.strip_prefix(prefix).unwrap_or(&name))
}

/// `CANCELLING` as `Cancelling`.
pub(super) fn word(name: &str) -> String {
    let lower = name.to_lowercase().replace('_', " ");
    let mut chars = lower.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The step or collection that a metric is of.
fn of(metric: &Value) -> String {
    let context = |key: &str| at(metric, "name.context").and_then(|context| context.get(key)).map(plain);
    let step = context("step").or_else(|| context("output_user_name")).unwrap_or_default();
    match context("namespace") {
        Some(namespace) => format!("{step} ({namespace})"),
        None => step,
    }
}

/// A metric's value on one line.
fn measure(metric: &Value) -> String {
    let number = |value: &Value| match value.as_f64() {
        // Counts come as floating point.
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => format!("{number:.0}"),
        _ => plain(value),
    };
    if let Some(scalar) = at(metric, "scalar") {
        return number(scalar);
    }
    if let Some(distribution) = at(metric, "distribution").and_then(Value::as_object) {
        let part = |name: &str| distribution.get(name).map(|value| format!("{name}={}", number(value)));
        return ["count", "sum", "min", "max"].into_iter().filter_map(part).collect::<Vec<_>>().join(" ");
    }
    if let Some(gauge) = at(metric, "gauge.value") {
        return number(gauge);
    }
    at(metric, "set").map(plain).unwrap_or_default()
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(super) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(options) => Box::pin(start::run(session, &options)).await,
        Command::List { at, status, name, limit } => {
            session.out.list(&list(session, &at, status, name.as_deref(), limit).await?, &COLUMNS)
        }
        Command::Describe { one, full } => {
            let job = one.find(session).await?;
            let view = if full { JobView::All } else { JobView::Description };
            let mut job = get(session, &job, view).await?;
            if session.out.format == Format::Table && !full {
                // Each stage has many lines, and its state is no news of the job's.
                job.pipeline_description = None;
                job.stage_states.clear();
            }
            session.out.one(&job)
        }
        Command::Cancel(jobs) => stop(session, &jobs, JobState::Cancelled).await,
        Command::Drain(jobs) => stop(session, &jobs, JobState::Drained).await,
        Command::Messages { one, importance, limit } => {
            let job = one.find(session).await?;
            let found = messages(session, &job, importance.into(), None, limit).await?;
            session.out.list(&found, &MESSAGE_COLUMNS)
        }
        Command::Metrics { one, source, tentative } => {
            let job = one.find(session).await?;
            let shown = |metric: &MetricUpdate| is_shown(metric, source, tentative);
            let metrics: Vec<_> = metrics(session, &job).await?.into_iter().filter(shown).collect();
            session.out.values(metrics.iter().map(value).collect::<Result<_, _>>()?, &METRIC_COLUMNS)
        }
        Command::Wait(one) => {
            let job = one.find(session).await?;
            let ended = follow::to_end(session, &job).await?;
            follow::outcome(session, &ended).await
        }
    }
}

impl One {
    async fn find(&self, session: &Session) -> Result<Job, Failure> {
        find(session, &self.job, &self.at, Status::All).await
    }
}

/// Whether a text has the form of a job's id, which no name has.
fn is_id(text: &str) -> bool {
    text.contains('_') && text.starts_with(|first: char| first.is_ascii_digit())
}

/// A job by its id, or the newest of a name.
async fn find(session: &Session, text: &str, at: &At, status: Status) -> Result<Job, Failure> {
    if is_id(text) {
        let location = at.region.clone().unwrap_or_default();
        let job =
            Job { id: text.to_owned(), project_id: session.project.clone(), location, ..Job::default() };
        return get(session, &job, JobView::Summary).await;
    }
    let newest = list(session, at, status, Some(text), Some(1)).await?.into_iter().next();
    newest.ok_or_else(|| {
        let kind = if status == Status::Active { "job that runs" } else { "job" };
        Failure::advised(
            format!("there is no {kind} of the name {text} in project {}", session.project),
            "list them: claviger dataflow jobs list",
        )
    })
}

/// Jobs, the newest first.
///
/// # Errors
/// What the server refuses.
pub(super) async fn list(
    session: &Session,
    at: &At,
    status: Status,
    name: Option<&str>,
    limit: Option<usize>,
) -> Result<Vec<Job>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let filter = match status {
        Status::Active => Filter::Active,
        Status::Terminated => Filter::Terminated,
        Status::All => Filter::All,
    };
    let mut request = ListJobsRequest {
        filter: filter.into(),
        project_id: session.project.clone(),
        location: at.region.clone().unwrap_or_default(),
        name: name.map(str::to_owned),
        ..ListJobsRequest::default()
    };
    let mut jobs = Vec::new();
    while jobs.len() < limit {
        request.page_size = i32::try_from((limit - jobs.len()).min(PAGE)).unwrap_or(i32::MAX);
        let page = match at.region {
            Some(_) => session.jobs().list_jobs(request.clone()).await?,
            None => session.jobs().aggregated_list_jobs(request.clone()).await?,
        };
        let page = page.into_inner();
        jobs.extend(page.jobs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    jobs.truncate(limit);
    Ok(jobs)
}

/// A job as it is now.
///
/// # Errors
/// What the server refuses.
pub(super) async fn get(session: &Session, job: &Job, view: JobView) -> Result<Job, Failure> {
    let request = GetJobRequest {
        project_id: job.project_id.clone(),
        job_id: job.id.clone(),
        view: view.into(),
        location: job.location.clone(),
    };
    Ok(session.jobs().get_job(request).await?.into_inner())
}

/// Asks for a job to become something else.
///
/// # Errors
/// What the server refuses.
pub(super) async fn ask(session: &Session, job: &Job, state: JobState) -> Result<Job, Failure> {
    let request = UpdateJobRequest {
        project_id: job.project_id.clone(),
        job_id: job.id.clone(),
        job: Some(Job { requested_state: state.into(), ..Job::default() }),
        location: job.location.clone(),
        update_mask: None,
    };
    Ok(session.jobs().update_job(request).await?.into_inner())
}

async fn stop(session: &Session, many: &Many, state: JobState) -> Result<(), Failure> {
    let (verb, doing) =
        if state == JobState::Cancelled { ("Cancel", "Cancelling") } else { ("Drain", "Draining") };
    confirm(session.quiet, &format!("{verb} {}?", many.jobs.join(", ")))?;
    for text in &many.jobs {
        let job = find(session, text, &many.at, Status::Active).await?;
        let asked = ask(session, &job, state).await?;
        session.out.done(&asked, &format!("{doing} job [{}] {}.", job.id, job.name))?;
    }
    Ok(())
}

/// What a job says, the oldest first, from a time on.
///
/// # Errors
/// What the server refuses.
pub(super) async fn messages(
    session: &Session,
    job: &Job,
    importance: JobMessageImportance,
    from: Option<prost_types::Timestamp>,
    limit: Option<usize>,
) -> Result<Vec<claviger_proto::google::dataflow::v1beta3::JobMessage>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut request = ListJobMessagesRequest {
        project_id: job.project_id.clone(),
        job_id: job.id.clone(),
        minimum_importance: importance.into(),
        start_time: from,
        location: job.location.clone(),
        ..ListJobMessagesRequest::default()
    };
    let mut found = Vec::new();
    while found.len() < limit {
        request.page_size = i32::try_from((limit - found.len()).min(PAGE)).unwrap_or(i32::MAX);
        let page = session.job_messages().list_job_messages(request.clone()).await?.into_inner();
        found.extend(page.job_messages);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// What a job measures.
///
/// # Errors
/// What the server refuses.
pub(super) async fn metrics(session: &Session, job: &Job) -> Result<Vec<MetricUpdate>, Failure> {
    let request = GetJobMetricsRequest {
        project_id: job.project_id.clone(),
        job_id: job.id.clone(),
        start_time: None,
        location: job.location.clone(),
    };
    Ok(session.job_metrics().get_job_metrics(request).await?.into_inner().metrics)
}

/// Whether a metric is of attempts, not of what was committed.
pub(super) fn is_tentative(metric: &MetricUpdate) -> bool {
    let context = metric.name.as_ref().and_then(|name| name.context.get("tentative"));
    context.is_some_and(|told| told == "true")
}

fn is_shown(metric: &MetricUpdate, source: Origin, tentative: bool) -> bool {
    let is_user = metric.name.as_ref().is_some_and(|name| name.origin == "user");
    let wanted = match source {
        Origin::User => is_user,
        Origin::Service => !is_user,
        Origin::All => true,
    };
    // What was never committed has an empty twin.
    wanted && !metric.kind.is_empty() && (tentative || !is_tentative(metric))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_told_from_names() {
        assert!(is_id("2026-11-23_03_21_31-1234567890123456789"));
        for name in ["delays", "delays-2026", "7up", "my_job"] {
            assert!(!is_id(name), "{name}");
        }
    }

    #[test]
    fn states_and_types_are_words() {
        let job = json!({"currentState": "JOB_STATE_RESOURCE_CLEANING_UP", "type": "JOB_TYPE_BATCH"});
        assert_eq!(in_words(&job, "currentState", "JOB_STATE_"), "Resource cleaning up");
        assert_eq!(in_words(&job, "type", "JOB_TYPE_"), "Batch");
        assert_eq!(in_words(&json!({}), "type", "JOB_TYPE_"), "");
    }

    #[test]
    fn a_metric_fits_on_a_line() {
        let context = json!({"context": {"step": "Count", "namespace": "n"}});
        let metric = |field: &str, value: Value| json!({"name": context, field: value});
        assert_eq!(of(&metric("scalar", json!(1.0))), "Count (n)");
        assert_eq!(measure(&metric("scalar", json!(3.0))), "3");
        assert_eq!(measure(&metric("scalar", json!(0.5))), "0.5");
        let distribution = json!({"sum": 6.0, "count": 3.0, "min": 1.0, "max": 3.0});
        assert_eq!(measure(&metric("distribution", distribution)), "count=3 sum=6 min=1 max=3");
        assert_eq!(measure(&metric("gauge", json!({"value": 4.0}))), "4");
        assert_eq!(measure(&metric("set", json!(["a", "b"]))), "a,b");
    }
}
