//! What is known of a job without its key: its head, a record of the platform.
//!
//! Invariant: a head holds nothing that the user's key protects: no options, no names of steps, no texts of
//! user code. It is a record on disk; a field is added with a default and none is renamed.

use claviger_core::Timestamp;
use claviger_core::names::CryptoKeyName;
use serde::{Deserialize, Serialize};

use crate::id::JobId;

/// The version of the record.
pub(crate) const FORMAT: u32 = 1;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Prepared; its files may come. It does not survive a restart.
    Stopped,
    /// Told to run: its graph and files are fetched, or it waits for others.
    Pending,
    /// Its bundles run.
    Running,
    /// Told to stop, and not stopped yet.
    Cancelling,
    /// All its output is there.
    Done,
    /// It ended early; a message says why.
    Failed,
    /// Its user stopped it.
    Cancelled,
}

impl JobState {
    /// Whether nothing follows.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The API that a job came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Beam's Job API.
    Portable,
    /// The Dataflow API.
    Dataflow,
}

/// A state and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// Its place among the job's states and messages.
    pub sequence: u64,
    /// The state.
    pub state: JobState,
    /// When it began.
    pub time: Timestamp,
}

/// Why a job ended, where that can be said without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Its place among the job's states and messages.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// A sentence.
    pub text: String,
}

/// The SDK that made the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sdk {
    /// Such as `Apache Beam Python 3.11 SDK`.
    pub name: String,
    /// Such as `2.77.0`.
    pub version: String,
}

/// What is known of a job without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the record.
    pub format: u32,
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// The project that it belongs to.
    pub project: String,
    /// Its region.
    pub location: String,
    /// The API that it came by.
    pub api: Api,
    /// When it was made.
    pub created: Timestamp,
    /// When its bundles began to run.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// Its states so far; never empty.
    pub history: Vec<StateChange>,
    /// The customer's key that protects it.
    #[serde(default)]
    pub kms_key: Option<CryptoKeyName>,
    /// The scope that its data are sealed under. None: no key could be used, and nothing was kept.
    #[serde(default)]
    pub scope: Option<String>,
    /// Whether sealed files must be there.
    #[serde(default)]
    pub kept: bool,
    /// What its creator calls the request.
    #[serde(default)]
    pub client_request_id: String,
    /// The SDK that made it.
    #[serde(default)]
    pub sdk: Sdk,
    /// Why it ended, where that can be said without its key.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Why its key cannot be used, noted before it ends of that.
    #[serde(skip)]
    pub(crate) lock_reason: Option<String>,
}

impl Head {
    /// The state and since when it is that.
    #[must_use]
    pub fn now(&self) -> StateChange {
        let made = StateChange { sequence: 0, state: JobState::Stopped, time: self.created };
        self.history.last().copied().unwrap_or(made)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.now().state
    }

    /// The job as users know it, for audit entries and errors.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("projects/{}/locations/{}/jobs/{}", self.project, self.location, self.id)
    }

    /// A number that no state and no message of the head has.
    pub(crate) fn next_sequence(&self) -> u64 {
        let reason = self.reason.as_ref().map_or(0, |reason| reason.sequence + 1);
        self.history.iter().map(|change| change.sequence + 1).max().unwrap_or(0).max(reason)
    }
}
