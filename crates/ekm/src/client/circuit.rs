//! When a manager that is silent is asked again.
//!
//! Invariant: after [`SILENCES`] in a row a manager is asked by one call at a time, and at most every [`PAUSE`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Silences in a row after which a manager is left alone.
const SILENCES: u32 = 5;
/// How long it is left alone.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    silences: u32,
    /// By the process's time.
    next: Duration,
}

impl Circuit {
    /// Whether a call may be made now.
    pub(super) fn admits(&self, now: Duration) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.silences < SILENCES {
            return true;
        }
        if now < state.next {
            return false;
        }
        // This call tries; the others wait for what it hears.
        state.next = now.saturating_add(PAUSE);
        true
    }

    /// Notes whether a call was answered.
    pub(super) fn heard(&self, answered: bool, now: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *state = State::default();
        } else {
            state.silences = state.silences.saturating_add(1);
            state.next = now.saturating_add(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_manager_is_tried_by_one_call_at_a_time_until_it_answers() {
        let (circuit, at) = (Circuit::default(), Duration::from_secs);
        for _ in 0..SILENCES {
            assert!(circuit.admits(at(0)));
            circuit.heard(false, at(0));
        }
        assert!(!circuit.admits(at(4)));
        assert!(circuit.admits(at(5)));
        assert!(!circuit.admits(at(6)), "another call is trying");
        circuit.heard(false, at(7));
        assert!(!circuit.admits(at(11)));
        assert!(circuit.admits(at(12)));
        circuit.heard(true, at(12));
        assert!(circuit.admits(at(12)) && circuit.admits(at(12)));
    }
}
