//! What a job says while it runs, in memory: messages, stages, metrics.
//!
//! Invariant: it is here only while the job's key is usable. It may hold texts of user code, so it is never
//! logged and leaves the process only by the job's own APIs.

use std::sync::Arc;

use claviger_beam_proto::fn_execution::log_entry::severity::Enum as Severity;
use claviger_core::Timestamp;
use claviger_fusion::{Node, Plan};
use claviger_harness::LogEntry;

use crate::exec::{JobEvents, Level, MetricsSnapshot, StageProgress, StageState};
use crate::job::Job;
use crate::kept::{Description, Importance, JobMessage, PARTS, StageInfo, StageLife, StepInfo, Story, Work};

/// The longest text of a message, bytes.
const TEXT_BYTES: usize = 64 * 1024;
const GROUP_BY_KEY: &str = "beam:transform:group_by_key:v1";
const FLATTEN: &str = "beam:transform:flatten:v1";
const IMPULSE: &str = "beam:transform:impulse:v1";

/// A job's description and story.
pub(crate) struct Journal {
    pub(crate) description: Arc<Description>,
    pub(crate) story: Story,
    bytes: usize,
    /// Whether the story was not written since it changed.
    pub(crate) changed: bool,
    /// Whether nothing may be added: its last form is written, or was read.
    pub(crate) closed: bool,
}

impl Journal {
    /// A journal whose story may go on.
    pub(crate) fn begun(description: Description) -> Self {
        let story = Story { format: crate::kept::FORMAT, ..Story::default() };
        Self { description: Arc::new(description), story, bytes: 0, changed: false, closed: false }
    }

    /// The journal of a job that is over.
    pub(crate) fn read(description: Description, story: Story) -> Self {
        let bytes = story.text_bytes();
        Self { description: Arc::new(description), story, bytes, changed: false, closed: true }
    }

    /// Adds a message, unless the journal is closed.
    pub(crate) fn say(&mut self, sequence: u64, time: Timestamp, importance: Importance, text: String) {
        if !self.closed {
            let message = JobMessage::new(sequence, time, importance, cut(text));
            self.story.say(message, &mut self.bytes);
            self.changed = true;
        }
    }

    fn plan(&mut self, plan: &Plan) {
        let work = |id: &str| {
            let spec = plan.components.transforms.get(id).and_then(|transform| transform.spec.as_ref());
            match spec.map(|spec| spec.urn.as_str()) {
                Some(GROUP_BY_KEY) => Work::GroupByKey,
                Some(FLATTEN) => Work::Flatten,
                Some(IMPULSE) => Work::Read,
                Some(_) => Work::ParDo,
                None => Work::Unknown,
            }
        };
        self.story.steps = plan
            .steps
            .iter()
            .take(PARTS)
            .map(|step| StepInfo {
                id: step.transform_id.clone(),
                name: step.unique_name.clone(),
                work: work(&step.transform_id).into(),
                inputs: step.inputs.clone(),
                outputs: step.outputs.clone(),
            })
            .collect();
        let stage = |(index, node): (usize, &Node)| {
            let (work, steps) = match node {
                Node::Impulse { name, .. } => (Work::Read, vec![name.clone()]),
                Node::GroupByKey { name, .. } => (Work::GroupByKey, vec![name.clone()]),
                Node::Flatten { name, .. } => (Work::Flatten, vec![name.clone()]),
                Node::Stage(stage) => {
                    (Work::ParDo, stage.transforms.iter().map(|(_, name)| name.clone()).collect())
                }
            };
            StageInfo {
                name: node.name().to_owned(),
                number: u32::try_from(index + 1).unwrap_or(u32::MAX),
                work: work.into(),
                steps,
                inputs: node.inputs().into_iter().map(|(input, _)| input.to_owned()).collect(),
                outputs: node.outputs().map(str::to_owned).collect(),
                ..StageInfo::default()
            }
        };
        self.story.stages = plan.nodes.iter().enumerate().take(PARTS).map(stage).collect();
        self.changed = true;
    }

    fn stage(&mut self, progress: &StageProgress, now: Timestamp) {
        let Some(stage) = self.story.stages.iter_mut().find(|stage| stage.name == progress.name) else {
            return;
        };
        let life = match progress.state {
            StageState::Running => StageLife::Running,
            StageState::Done => StageLife::Done,
        };
        if stage.life() != life {
            stage.changed_micros = now.micros();
        }
        if stage.started_micros == 0 {
            stage.started_micros = now.micros();
        }
        stage.set_life(life);
        (stage.elements, stage.bytes, stage.bundles) = (progress.elements, progress.bytes, progress.bundles);
        self.changed = true;
    }

    fn measure(&mut self, metrics: MetricsSnapshot) {
        self.story.measure(metrics);
        self.changed = true;
    }
}

/// At most so many bytes of a text: its beginning and, since errors end with what matters, its end.
fn cut(text: String) -> String {
    if text.len() <= TEXT_BYTES {
        return text;
    }
    let head = text.floor_char_boundary(TEXT_BYTES / 4);
    let tail = text.ceil_char_boundary(text.len() - TEXT_BYTES / 2);
    let (first, last) = (text.get(..head).unwrap_or_default(), text.get(tail..).unwrap_or_default());
    format!("{first}\n... {} bytes left out ...\n{last}", tail - head)
}

/// Writes what a run tells into its job's journal.
pub(crate) struct Recorder(pub(crate) Arc<Job>);

impl JobEvents for Recorder {
    fn planned(&self, plan: &Plan) {
        self.0.record(|journal, _| journal.plan(plan));
    }

    fn message(&self, level: Level, text: String) {
        self.0.say(level.into(), text);
    }

    fn stage(&self, progress: StageProgress) {
        self.0.record(|journal, now| journal.stage(&progress, now));
    }

    fn metrics(&self, snapshot: MetricsSnapshot) {
        self.0.record(|journal, _| journal.measure(snapshot));
    }

    fn harness_log(&self, entry: LogEntry) {
        let mut text = entry.message;
        if !entry.trace.is_empty() {
            text.push('\n');
            text.push_str(&entry.trace);
        }
        self.0.say(importance(entry.severity), text);
    }
}

/// How grave an entry of a worker's log is on the job's page.
fn importance(severity: Severity) -> Importance {
    match severity {
        Severity::Unspecified | Severity::Trace | Severity::Debug => Importance::Debug,
        Severity::Info => Importance::Detailed,
        Severity::Notice => Importance::Basic,
        Severity::Warn => Importance::Warning,
        Severity::Error | Severity::Critical => Importance::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let long = format!("first{}last", "é".repeat(TEXT_BYTES));
        let short = cut(long);
        assert!(short.len() < TEXT_BYTES && short.starts_with("first") && short.ends_with("last"));
        assert_eq!(cut("short".into()), "short");
    }

    #[test]
    fn a_closed_journal_takes_nothing() {
        let mut journal = Journal::begun(Description::default());
        journal.say(1, Timestamp(1), Importance::Basic, "a".into());
        journal.closed = true;
        journal.say(2, Timestamp(2), Importance::Error, "b".into());
        assert_eq!(journal.story.messages.len(), 1);
    }
}
