//! Following a job to its end: its messages as lines, its stages as a bar.
//!
//! Invariant: each message is shown once, in order, also the last ones.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use claviger_proto::google::dataflow::v1beta3::{
    ExecutionState, GetJobExecutionDetailsRequest, Job, JobMessageImportance, JobState, JobView,
};
use prost_types::Timestamp;
use prost_types::value::Kind;
use tonic::Code;

use super::jobs::{self, is_tentative};
use crate::client::Session;
use crate::failure::{Failure, advice_on};
use crate::output::{Format, say};
use crate::progress::Progress;

/// The wait between two looks at a job.
pub(super) const PAUSE: Duration = Duration::from_millis(300);
/// Every so many looks the elements are counted.
const COUNT_EVERY: u32 = 5;
/// The metric that counts elements.
const ELEMENTS: &str = "ElementCount";
/// Where a job says why it ended.
const REASON: &str = "state_reason";

/// Whether a state is a job's last.
pub(super) fn is_last(state: JobState) -> bool {
    use JobState::{Cancelled, Done, Drained, Failed, Updated};
    matches!(state, Done | Failed | Cancelled | Updated | Drained)
}

/// A look at a job, again and again.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    session: &'a Session,
    job: Job,
    progress: Rc<Progress>,
    /// The time of the last message, and which of that time were shown.
    seen: Option<Timestamp>,
    shown: HashSet<String>,
    looks: u32,
    elements: f64,
}

impl<'a> Follower<'a> {
    /// Follows a job.
    pub(super) fn new(session: &'a Session, job: Job, progress: Rc<Progress>) -> Self {
        Self { session, job, progress, seen: None, shown: HashSet::new(), looks: 0, elements: 0.0 }
    }

    /// Looks once; gives the job as it is now.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn look(&mut self) -> Result<&Job, Failure> {
        // State first: what it says after its last state is not to be missed.
        self.job = jobs::get(self.session, &self.job, JobView::Summary).await?;
        let over = is_last(self.job.current_state());
        self.tell().await?;
        if !over && !self.session.quiet {
            self.draw().await?;
        }
        self.looks += 1;
        Ok(&self.job)
    }

    async fn tell(&mut self) -> Result<(), Failure> {
        let importance = JobMessageImportance::JobMessageBasic;
        let found = jobs::messages(self.session, &self.job, importance, self.seen, None).await;
        let found = match found {
            Ok(found) => found,
            // Without its key a job says nothing, its state says why; one that is being made has no messages yet.
            Err(failure) if failure.is(Code::FailedPrecondition) || failure.is(Code::NotFound) => {
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        for message in found {
            if message.time != self.seen {
                self.seen = message.time;
                self.shown.clear();
            }
            if self.shown.insert(message.id.clone()) && !self.session.quiet {
                let time = message.time.map(|time| time.to_string()).unwrap_or_default();
                let mark = match message.message_importance() {
                    JobMessageImportance::JobMessageError => "error: ",
                    JobMessageImportance::JobMessageWarning => "warning: ",
                    _ => "",
                };
                self.progress.aside(|| say(&format!("{time} {mark}{}", message.message_text)));
            }
        }
        Ok(())
    }

    async fn draw(&mut self) -> Result<(), Failure> {
        if self.looks.is_multiple_of(COUNT_EVERY) {
            // A job that has just begun measures nothing; without its key nothing can be read.
            let metrics = jobs::metrics(self.session, &self.job).await.unwrap_or_default();
            let counts = metrics.iter().filter(|metric| {
                is_tentative(metric) && metric.name.as_ref().is_some_and(|name| name.name == ELEMENTS)
            });
            self.elements = counts
                .filter_map(|metric| match metric.scalar.as_ref()?.kind {
                    Some(Kind::NumberValue(number)) => Some(number),
                    _ => None,
                })
                .sum();
        }
        let request = GetJobExecutionDetailsRequest {
            project_id: self.job.project_id.clone(),
            job_id: self.job.id.clone(),
            location: self.job.location.clone(),
            ..GetJobExecutionDetailsRequest::default()
        };
        if let Ok(details) = self.session.job_metrics().get_job_execution_details(request).await {
            let stages = details.into_inner().stages;
            let done = stages.iter().filter(|stage| stage.state() == ExecutionState::Succeeded).count();
            self.progress.length(stages.len() as u64);
            self.progress.position(done as u64);
        }
        let state = state_word(self.job.current_state());
        let elements = indicatif::HumanCount(self.elements.max(0.0) as u64);
        self.progress.message(format!(
            "{} {}: {elements} elements, stages",
            self.job.name,
            state.to_lowercase()
        ));
        Ok(())
    }
}

/// The bar of a job that is followed.
pub(super) fn bar(session: &Session, name: &str) -> Rc<Progress> {
    Rc::new(Progress::steps(session.quiet, name.to_owned()))
}

/// A state as a word.
pub(super) fn state_word(state: JobState) -> String {
    let name = state.as_str_name();
    jobs::word(name.strip_prefix("JOB_STATE_").unwrap_or(name))
}

/// Follows a job to its end; gives it as it ended.
///
/// # Errors
/// What the server refuses.
pub(super) async fn to_end(session: &Session, job: &Job) -> Result<Job, Failure> {
    let mut follower = Follower::new(session, job.clone(), bar(session, &job.name));
    loop {
        let job = follower.look().await?;
        if is_last(job.current_state()) {
            return Ok(job.clone());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says how a job ended.
///
/// # Errors
/// When it did not do what it was to do.
pub(super) async fn outcome(session: &Session, job: &Job) -> Result<(), Failure> {
    if session.out.format != Format::Table {
        session.out.one(job)?;
    }
    let state = job.current_state();
    let ended = format!("{} [{}] ended as {}", job.name, job.id, state_word(state));
    if matches!(state, JobState::Done | JobState::Drained | JobState::Updated) {
        say(&format!("Job {ended}."));
        return Ok(());
    }
    let ended = format!("job {ended}");
    let told = match told_publicly(job) {
        Some(told) => Some(told.to_owned()),
        None => last_error(session, job).await,
    };
    let message = match &told {
        Some(reason) => format!("{ended}: {reason}"),
        None => ended,
    };
    let advice = told.as_deref().and_then(advice_on);
    let advice =
        advice.unwrap_or_else(|| format!("see what it said: claviger dataflow jobs messages {}", job.id));
    Err(Failure::advised(message, advice))
}

/// Why a job ended, where that says nothing of what its key protects.
fn told_publicly(job: &Job) -> Option<&str> {
    let shown = &job.job_metadata.as_ref()?.user_display_properties;
    shown.get(REASON).map(String::as_str)
}

/// The last error that a job told, in short.
async fn last_error(session: &Session, job: &Job) -> Option<String> {
    let found = jobs::messages(session, job, JobMessageImportance::JobMessageError, None, None).await;
    // It is no worse an end when even that cannot be read.
    Some(in_short(&found.ok()?.last()?.message_text))
}

/// The first and the last line of a text: of a Python traceback they say where and what.
fn in_short(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first} ... {last}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_not_in_the_list_goes_on() {
        for state in
            [JobState::Running, JobState::Pending, JobState::Cancelling, JobState::Queued, JobState::Unknown]
        {
            assert!(!is_last(state), "{state:?}");
        }
        for state in [JobState::Done, JobState::Failed, JobState::Cancelled, JobState::Drained] {
            assert!(is_last(state), "{state:?}");
        }
        assert_eq!(state_word(JobState::Done), "Done");
    }

    #[test]
    fn a_traceback_is_told_in_short() {
        let text = "The step Div failed: Traceback:\n  File x\n\nZeroDivisionError: by zero\n\n";
        assert_eq!(in_short(text), "The step Div failed: Traceback: ... ZeroDivisionError: by zero");
        assert_eq!((in_short("one line").as_str(), in_short("").as_str()), ("one line", ""));
    }
}
