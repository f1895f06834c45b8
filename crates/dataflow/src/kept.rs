//! What is kept of a job under its own key: the pipeline and its options, and the story of its run.
//!
//! ```text
//! SCOPE/kept   description   written when the job is told to run
//!              story         written now and then while it runs, and at its end
//! SCOPE/work   staged files, shuffles and logs; gone when the job is over
//! ```
//!
//! Both are protobuf messages of our own with a `format`. `docs/formats-dataflow.md` has the fields.
//!
//! Invariant: what is not in the head is here, and here only.

use std::fmt;

use bytes::Bytes;
use claviger_beam_proto::pipeline::{MonitoringInfo, Pipeline};
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use prost_types::Struct;

use crate::exec::{Level, MetricsSnapshot};

/// The version of both messages.
pub(crate) const FORMAT: u32 = 1;
/// The names of the blobs.
pub(crate) const DESCRIPTION: &str = "description";
pub(crate) const STORY: &str = "story";
/// Messages that are kept; the least important and oldest go first.
pub(crate) const MESSAGES: usize = 5_000;
/// Their texts, bytes.
pub(crate) const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Stages and steps that are told of.
pub(crate) const PARTS: usize = 100_000;

/// The pipeline as it was submitted.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Description {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// The graph. None where it could not be fetched.
    #[prost(message, optional, tag = "2")]
    pub pipeline: Option<Pipeline>,
    /// The options, in the form that they came in.
    #[prost(message, optional, tag = "3")]
    pub options: Option<Struct>,
    /// The request, encoded, as the API knows it.
    #[prost(bytes = "bytes", tag = "4")]
    pub request: Bytes,
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description").field("request_len", &self.request.len()).finish_non_exhaustive()
    }
}

/// How important a message is, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Importance {
    /// For those who look for a fault.
    Debug = 0,
    /// For those who want to know more.
    Detailed = 1,
    /// For everyone.
    Basic = 2,
    /// Something may be wrong.
    Warning = 3,
    /// Something is wrong.
    Error = 4,
}

impl From<Level> for Importance {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Detailed => Self::Detailed,
            Level::Basic => Self::Basic,
            Level::Warning => Self::Warning,
            Level::Error => Self::Error,
        }
    }
}

/// Something that a job says to its user.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct JobMessage {
    /// Its place among the job's states and messages.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(int64, tag = "2")]
    pub(crate) time_micros: i64,
    #[prost(enumeration = "Importance", tag = "3")]
    pub(crate) importance: i32,
    /// The text.
    #[prost(string, tag = "4")]
    pub text: String,
}

impl JobMessage {
    pub(crate) fn new(sequence: u64, time: Timestamp, importance: Importance, text: String) -> Self {
        Self { sequence, time_micros: time.micros(), importance: importance.into(), text }
    }

    /// When it was said.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp(self.time_micros)
    }
}

impl fmt::Debug for JobMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobMessage").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// What a step or a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Work {
    /// Anything else.
    Unknown = 0,
    /// User code for each element.
    ParDo = 1,
    /// Grouping.
    GroupByKey = 2,
    /// Several collections as one.
    Flatten = 3,
    /// A source.
    Read = 4,
}

/// A leaf of the user's graph.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct StepInfo {
    /// The transform's id in the graph.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its unique name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What it does.
    #[prost(enumeration = "Work", tag = "3")]
    pub work: i32,
    /// The collections that it reads.
    #[prost(string, repeated, tag = "4")]
    pub inputs: Vec<String>,
    /// The collections that it makes.
    #[prost(string, repeated, tag = "5")]
    pub outputs: Vec<String>,
}

/// Where a stage is, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StageLife {
    /// It waits for others.
    Waiting = 0,
    /// Its bundles run.
    Running = 1,
    /// All its output is committed.
    Done = 2,
}

/// A stage.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct StageInfo {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number among the stages, from 1: `F7` in Dataflow's API.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// What it does.
    #[prost(enumeration = "Work", tag = "3")]
    pub work: i32,
    /// Where it is.
    #[prost(enumeration = "StageLife", tag = "4")]
    pub life: i32,
    #[prost(int64, tag = "5")]
    pub(crate) started_micros: i64,
    #[prost(int64, tag = "6")]
    pub(crate) changed_micros: i64,
    /// Elements in its input.
    #[prost(uint64, tag = "7")]
    pub elements: u64,
    /// Bytes in its input.
    #[prost(uint64, tag = "8")]
    pub bytes: u64,
    /// Bundles whose output is committed.
    #[prost(uint64, tag = "9")]
    pub bundles: u64,
    /// The unique names of its steps.
    #[prost(string, repeated, tag = "10")]
    pub steps: Vec<String>,
    /// The collections that it reads.
    #[prost(string, repeated, tag = "11")]
    pub inputs: Vec<String>,
    /// The collections that it makes.
    #[prost(string, repeated, tag = "12")]
    pub outputs: Vec<String>,
}

impl StageInfo {
    /// When it began, if it did.
    #[must_use]
    pub fn started(&self) -> Option<Timestamp> {
        (self.started_micros != 0).then_some(Timestamp(self.started_micros))
    }

    /// When it last changed where it is, if it did.
    #[must_use]
    pub fn changed(&self) -> Option<Timestamp> {
        (self.changed_micros != 0).then_some(Timestamp(self.changed_micros))
    }
}

/// What happened while a job ran.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Story {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// What it said, in order.
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<JobMessage>,
    /// Its stages.
    #[prost(message, repeated, tag = "3")]
    pub stages: Vec<StageInfo>,
    /// Its steps.
    #[prost(message, repeated, tag = "4")]
    pub steps: Vec<StepInfo>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attempted: Vec<MonitoringInfo>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) committed: Vec<MonitoringInfo>,
    /// Messages that had to go because there were too many.
    #[prost(uint64, tag = "7")]
    pub dropped: u64,
}

impl Story {
    /// What was measured.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot { attempted: self.attempted.clone(), committed: self.committed.clone() }
    }

    pub(crate) fn measure(&mut self, metrics: MetricsSnapshot) {
        self.attempted = metrics.attempted;
        self.committed = metrics.committed;
    }

    /// What the texts of the messages take, bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        self.messages.iter().map(|message| message.text.len()).sum()
    }

    /// Adds a message. When there are too many, a tenth goes: the least important first, of those the oldest.
    /// `bytes` is kept at [`Self::text_bytes`].
    pub(crate) fn say(&mut self, message: JobMessage, bytes: &mut usize) {
        *bytes += message.text.len();
        self.messages.push(message);
        if self.messages.len() <= MESSAGES && *bytes <= MESSAGE_BYTES {
            return;
        }
        // The newest stays, whatever it is.
        let mut order: Vec<usize> = (0..self.messages.len().saturating_sub(1)).collect();
        order.sort_by_key(|index| self.messages.get(*index).map(|message| (message.importance, *index)));
        let (fewer, smaller) = (MESSAGES - MESSAGES / 10, MESSAGE_BYTES - MESSAGE_BYTES / 10);
        let mut gone = vec![false; self.messages.len()];
        let mut count = self.messages.len();
        for index in order {
            if count <= fewer && *bytes <= smaller {
                break;
            }
            if let (Some(gone), Some(message)) = (gone.get_mut(index), self.messages.get(index)) {
                *gone = true;
                count -= 1;
                *bytes -= message.text.len();
                self.dropped += 1;
            }
        }
        let mut gone = gone.into_iter();
        self.messages.retain(|_| !gone.next().unwrap_or_default());
    }
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Story").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

/// Reads a message that was kept.
pub(crate) fn read<M: prost::Message + Default>(
    name: &str,
    bytes: Bytes,
    format: impl Fn(&M) -> u32,
) -> Result<M> {
    let lost = |what: &str| Error::new(ErrorKind::DataLoss, format!("the {name} of a job {what}"));
    let message = M::decode(bytes).map_err(|error| lost("cannot be read").because(error))?;
    if format(&message) != FORMAT {
        return Err(lost("has a format that this server does not know"));
    }
    Ok(message)
}

pub(crate) fn written(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64, importance: Importance, text: &str) -> JobMessage {
        JobMessage::new(sequence, Timestamp(7), importance, text.to_owned())
    }

    #[test]
    fn too_many_messages_lose_the_least_important_and_oldest() {
        let (mut story, mut bytes) = (Story::default(), 0);
        story.say(message(0, Importance::Error, "why"), &mut bytes);
        for sequence in 1..=MESSAGES as u64 {
            story.say(message(sequence, Importance::Debug, "log"), &mut bytes);
        }
        assert_eq!(story.messages.len(), MESSAGES - MESSAGES / 10);
        assert_eq!(story.messages.first().map(|m| m.text.as_str()), Some("why"));
        assert_eq!(story.messages.last().map(|m| m.sequence), Some(MESSAGES as u64));
        assert!(story.messages.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        assert_eq!(story.dropped, (MESSAGES / 10 + 1) as u64);
    }

    #[test]
    fn large_messages_are_bounded_by_their_bytes() {
        let (mut story, mut bytes) = (Story::default(), 0);
        let text = "x".repeat(MESSAGE_BYTES / 10);
        for sequence in 0..30 {
            story.say(message(sequence, Importance::Basic, &text), &mut bytes);
        }
        assert_eq!(bytes, story.text_bytes());
        assert!(bytes <= MESSAGE_BYTES, "{bytes}");
        assert_eq!(story.messages.last().map(|m| m.sequence), Some(29));
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let story = Story {
            format: FORMAT,
            messages: vec![message(3, Importance::Warning, "m")],
            dropped: 2,
            ..Story::default()
        };
        let golden = [8, 1, 18, 9, 8, 3, 16, 7, 24, 3, 34, 1, b'm', 56, 2];
        assert_eq!(&written(&story)[..], golden);
        let back: Story = read(STORY, Bytes::copy_from_slice(&golden), |s: &Story| s.format).unwrap();
        assert_eq!(back, story);
    }

    #[test]
    fn another_format_and_broken_bytes_are_data_loss() {
        for bytes in [&[8, 9][..], &[0xff], &[]] {
            let read: Result<Story> = read(STORY, Bytes::copy_from_slice(bytes), |s: &Story| s.format);
            assert_eq!(read.unwrap_err().kind(), ErrorKind::DataLoss);
        }
    }
}
