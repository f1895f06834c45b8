//! The state machine of a scope's key: pure, so that every transition is in one table of tests.
//!
//! Invariants: a refusal locks at once. Silence locks once the grace since the last success is over,
//! by the time of day or by the time that has passed in this process, whichever is stricter. Silence
//! never unlocks and never changes a refusal. A success always unlocks. After a start nothing is
//! unlocked until the KMS has answered, because keys are only in memory: so a restart cannot stretch
//! the grace.

use std::time::Duration;

use claviger_core::names::CryptoKeyVersionName;
use claviger_core::{Clock, Timestamp};
use serde::{Deserialize, Serialize};

/// Why a KMS refuses the use of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The version is disabled.
    Disabled,
    /// The version waits for its destruction and can still be restored.
    DestroyScheduled,
    /// The material of the version is gone.
    Destroyed,
    /// The service agent has no grant, or is not known any more.
    PermissionDenied,
    /// The KMS has no such key.
    NotFound,
    /// The KMS gave another key than the one in use: what it keeps was changed.
    Mismatch,
    /// Any other answer that is a decision about the key: a justification that was denied, a policy.
    Other,
}

/// A decision of the KMS, or of the key manager behind it, that a key may not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was decided.
    pub reason: Reason,
    /// The version that the KMS named, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<CryptoKeyVersionName>,
    /// The kinds of violation that the KMS gave, such as `KEY_DISABLED`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
    /// The KMS's own sentence.
    pub detail: String,
}

/// What is known about the key of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KeyState {
    /// Not asked yet. Locked, as there are no keys in memory.
    Unknown,
    /// The last answer of the KMS gave the key.
    Enabled,
    /// The KMS was silent when it was last asked.
    Unreachable {
        /// The last success, or the first silence when there was none.
        since: Timestamp,
        /// Whether the grace is over, or the keys never were in memory.
        locked: bool,
    },
    /// The KMS refused, in a way that can be undone.
    Disabled {
        /// What it answered.
        refusal: Refusal,
    },
    /// The key is gone.
    Destroyed {
        /// What the KMS answered.
        refusal: Refusal,
    },
}

impl KeyState {
    /// Whether data under the key must not be used in this state.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        match self {
            Self::Enabled => false,
            Self::Unreachable { locked, .. } => *locked,
            Self::Unknown | Self::Disabled { .. } | Self::Destroyed { .. } => true,
        }
    }
}

/// A moment by both kinds of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, which may jump.
    pub wall: Timestamp,
    /// The time since the process's start, which cannot.
    pub elapsed: Duration,
}

impl Moment {
    /// Now, by a clock.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), elapsed: clock.elapsed() }
    }
}

/// What can happen to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The KMS unwrapped the key; asked at the moment that is given with it.
    Success,
    /// The KMS refused.
    Refused(Refusal),
    /// The KMS did not answer, or its answer says nothing about the key.
    Silent,
    /// Time passed.
    Tick,
}

/// What must be done about the keys in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Drop them.
    Lock,
    /// They may be used again.
    Unlock,
    /// Leave them as they are.
    None,
}

/// The state of one scope's key and the moment of its last success.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    state: KeyState,
    last_success: Option<Timestamp>,
    /// `None` until the first success of this process.
    success_elapsed: Option<Duration>,
}

impl Lifecycle {
    /// The lifecycle of a scope that a former process left in `stored`. What was refused stays refused
    /// until the KMS answers otherwise; whatever else was known must be asked again.
    #[must_use]
    pub fn resume(stored: KeyState, last_success: Option<Timestamp>) -> Self {
        let state = match stored {
            KeyState::Disabled { .. } | KeyState::Destroyed { .. } => stored,
            KeyState::Unknown | KeyState::Enabled | KeyState::Unreachable { .. } => KeyState::Unknown,
        };
        Self { state, last_success, success_elapsed: None }
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> &KeyState {
        &self.state
    }

    /// When the KMS last gave the key, by the time of day at which it was asked.
    #[must_use]
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// When silence locks, by the process's time; only while a grace runs.
    #[must_use]
    pub fn deadline(&self, grace: Duration) -> Option<Duration> {
        match self.state {
            KeyState::Unreachable { locked: false, .. } => {
                Some(self.success_elapsed.map_or(Duration::ZERO, |at| at.saturating_add(grace)))
            }
            _ => None,
        }
    }

    /// Takes one input. `at` is the moment of the question for a success, which began before the answer,
    /// and the present for everything else.
    pub fn step(&mut self, at: Moment, input: Input, grace: Duration) -> Effect {
        let was_locked = self.state.is_locked();
        match input {
            Input::Success => {
                self.last_success = Some(at.wall);
                self.success_elapsed = Some(at.elapsed);
                self.state = KeyState::Enabled;
            }
            Input::Refused(refusal) if refusal.reason == Reason::Destroyed => {
                self.state = KeyState::Destroyed { refusal };
            }
            Input::Refused(refusal) => self.state = KeyState::Disabled { refusal },
            Input::Silent => match self.state {
                KeyState::Unknown => {
                    let since = self.last_success.unwrap_or(at.wall);
                    self.state = KeyState::Unreachable { since, locked: true };
                }
                KeyState::Enabled => {
                    let since = self.last_success.unwrap_or(at.wall);
                    self.state = KeyState::Unreachable { since, locked: self.grace_is_over(at, grace) };
                }
                KeyState::Unreachable { .. } => self.pass_time(at, grace),
                KeyState::Disabled { .. } | KeyState::Destroyed { .. } => {}
            },
            Input::Tick => self.pass_time(at, grace),
        }
        match (was_locked, self.state.is_locked()) {
            (false, true) => Effect::Lock,
            (true, false) => Effect::Unlock,
            _ => Effect::None,
        }
    }

    fn pass_time(&mut self, at: Moment, grace: Duration) {
        if let KeyState::Unreachable { since, locked: false } = self.state
            && self.grace_is_over(at, grace)
        {
            self.state = KeyState::Unreachable { since, locked: true };
        }
    }

    fn grace_is_over(&self, at: Moment, grace: Duration) -> bool {
        let (Some(wall), Some(elapsed)) = (self.last_success, self.success_elapsed) else { return true };
        at.wall.since(wall) >= grace || at.elapsed.saturating_sub(elapsed) >= grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Moment {
        Moment {
            wall: Timestamp(1_000_000_000).plus(Duration::from_secs(seconds)),
            elapsed: Duration::from_secs(seconds),
        }
    }

    fn refused(reason: Reason) -> Input {
        Input::Refused(refusal(reason))
    }

    fn refusal(reason: Reason) -> Refusal {
        Refusal { reason, version: None, violations: Vec::new(), detail: "no".to_owned() }
    }

    fn silent(locked: bool) -> KeyState {
        KeyState::Unreachable { since: at(0).wall, locked }
    }

    fn disabled() -> KeyState {
        KeyState::Disabled { refusal: refusal(Reason::Disabled) }
    }

    fn destroyed() -> KeyState {
        KeyState::Destroyed { refusal: refusal(Reason::Destroyed) }
    }

    /// A lifecycle in `state` whose last success was at second 0 of this process.
    fn in_state(state: KeyState) -> Lifecycle {
        Lifecycle { state, last_success: Some(at(0).wall), success_elapsed: Some(at(0).elapsed) }
    }

    #[test]
    fn every_state_takes_every_input_as_the_table_says() {
        use Effect::{Lock, None, Unlock};
        use KeyState::{Enabled, Unknown};
        let denied = || KeyState::Disabled { refusal: refusal(Reason::PermissionDenied) };
        let table = [
            (Unknown, 10, Input::Success, Enabled, Unlock),
            (Unknown, 10, refused(Reason::Disabled), disabled(), None),
            (Unknown, 10, refused(Reason::Destroyed), destroyed(), None),
            (Unknown, 10, Input::Silent, silent(true), None),
            (Unknown, 9_999, Input::Tick, Unknown, None),
            (Enabled, 10, Input::Success, Enabled, None),
            (Enabled, 10, refused(Reason::Disabled), disabled(), Lock),
            (Enabled, 10, refused(Reason::PermissionDenied), denied(), Lock),
            (Enabled, 10, refused(Reason::Destroyed), destroyed(), Lock),
            (Enabled, 10, Input::Silent, silent(false), None),
            (Enabled, 3_599, Input::Silent, silent(false), None),
            (Enabled, 3_600, Input::Silent, silent(true), Lock),
            (Enabled, 9_999, Input::Tick, Enabled, None),
            (silent(false), 10, Input::Success, Enabled, None),
            (silent(false), 10, refused(Reason::Disabled), disabled(), Lock),
            (silent(false), 3_599, Input::Silent, silent(false), None),
            (silent(false), 3_600, Input::Silent, silent(true), Lock),
            (silent(false), 3_599, Input::Tick, silent(false), None),
            (silent(false), 3_600, Input::Tick, silent(true), Lock),
            (silent(true), 9_999, Input::Success, Enabled, Unlock),
            (silent(true), 9_999, refused(Reason::Disabled), disabled(), None),
            (silent(true), 9_999, Input::Silent, silent(true), None),
            (silent(true), 9_999, Input::Tick, silent(true), None),
            (disabled(), 10, Input::Success, Enabled, Unlock),
            (disabled(), 10, refused(Reason::Destroyed), destroyed(), None),
            (disabled(), 10, refused(Reason::PermissionDenied), denied(), None),
            (disabled(), 9_999, Input::Silent, disabled(), None),
            (disabled(), 9_999, Input::Tick, disabled(), None),
            (destroyed(), 10, Input::Success, Enabled, Unlock),
            (destroyed(), 10, refused(Reason::Disabled), disabled(), None),
            (destroyed(), 9_999, Input::Silent, destroyed(), None),
            (destroyed(), 9_999, Input::Tick, destroyed(), None),
        ];
        for (from, second, input, to, effect) in table {
            let mut life = in_state(from.clone());
            let got = life.step(at(second), input.clone(), GRACE);
            assert_eq!((life.state(), got), (&to, effect), "{from:?} with {input:?} at {second}");
        }
    }

    #[test]
    fn a_jump_of_the_time_of_day_can_shorten_the_grace_but_not_stretch_it() {
        let mut life = in_state(silent(false));
        let back = Moment { wall: Timestamp(0), elapsed: Duration::from_secs(3_600) };
        assert_eq!(life.step(back, Input::Tick, GRACE), Effect::Lock);

        let mut life = in_state(silent(false));
        let forward = Moment { wall: at(3_600).wall, elapsed: Duration::from_secs(1) };
        assert_eq!(life.step(forward, Input::Silent, GRACE), Effect::Lock);
    }

    #[test]
    fn the_deadline_is_the_last_success_and_the_grace_and_there_only_while_it_runs() {
        let mut life = Lifecycle::resume(KeyState::Unknown, None);
        assert_eq!(life.deadline(GRACE), None);
        life.step(at(100), Input::Success, GRACE);
        assert_eq!(life.deadline(GRACE), None);
        life.step(at(200), Input::Silent, GRACE);
        assert_eq!(life.deadline(GRACE), Some(Duration::from_secs(3_700)));
        life.step(at(3_700), Input::Tick, GRACE);
        assert_eq!(life.deadline(GRACE), None);
    }

    #[test]
    fn a_restart_keeps_a_refusal_and_gives_no_new_grace() {
        let mut life = Lifecycle::resume(disabled(), Some(at(0).wall));
        assert_eq!(life.step(at(1), Input::Silent, GRACE), Effect::None);
        assert_eq!(life.state(), &disabled());

        let mut life = Lifecycle::resume(KeyState::Enabled, Some(at(0).wall));
        assert_eq!(life.state(), &KeyState::Unknown);
        assert_eq!(life.step(at(1), Input::Silent, GRACE), Effect::None);
        assert_eq!(life.state(), &silent(true));
    }

    #[test]
    fn a_grace_of_nothing_locks_at_the_first_silence() {
        let mut life = in_state(KeyState::Enabled);
        assert_eq!(life.step(at(0), Input::Silent, Duration::ZERO), Effect::Lock);
    }
}
