//! Triggers, as a batch sees them: all elements of a window arrive, then time ends.
//!
//! ```text
//! elements       all are there; the watermark is at its start; what counts elements may fire (EARLY)
//! end of window  the watermark passes; what waits for it fires (ON_TIME)
//! closing        what no pane carried yet goes out, unless the trigger had finished (ON_TIME)
//! ```
//!
//! So a window has at most two panes, and each carries all its elements or none. Panes, indices and timings are
//! those of Beam's own batch runner, with these exceptions. It drops the elements of a trigger that does not fire
//! (three elements under "after five") and fires "never" early; we close the window with them, as Beam's model has
//! it. It cannot fire triggers of processing time, for want of a clock; we do so at closing. It marks a pane as the
//! last only if its trigger finished; we do so at the end of the window too, since nothing can follow. As there, a
//! strategy that asks for one more, empty pane at closing (`EMIT_ALWAYS`) does not get it.
//!
//! Invariant: what fires depends on the number of elements alone, and not on it beyond [`Trigger::distinct_counts`].

use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};
use pipeline::trigger::Trigger as Proto;

use crate::windowed::{Pane, Timing};

/// How deep triggers may nest.
pub const MAX_TRIGGER_DEPTH: usize = 32;

/// When a window fires.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// At the end of the window, and after each late element.
    Default,
    /// At the end of the window.
    AfterEndOfWindow {
        /// Before the end, again and again.
        early: Option<Box<Trigger>>,
        /// Whether something fires after the end.
        late: bool,
    },
    /// After a number of elements.
    ElementCount(u64),
    /// After a time of the clock on the wall; in a batch, no sooner than all else.
    ProcessingTime,
    /// At each chance.
    Always,
    /// Not at all; closing brings the elements out.
    Never,
    /// When all fired.
    All(Vec<Trigger>),
    /// When any fires.
    Any(Vec<Trigger>),
    /// One after another.
    Each(Vec<Trigger>),
    /// Again and again.
    Repeat(Box<Trigger>),
}

/// One pane of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The pane.
    pub pane: Pane,
    /// Whether it carries the window's elements, all of them, or none.
    pub with_elements: bool,
    /// Whether its time is the end of the window, whatever the strategy's output time.
    pub at_end_of_window: bool,
}

/// Where a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Elements,
    EndOfWindow,
}

/// What a trigger remembers; as the trigger's tree is, so is this.
#[derive(Debug, Default)]
struct State {
    count: u64,
    /// Of `Each`: whose turn it is.
    turn: usize,
    /// Of `AfterEndOfWindow`: the end has passed.
    late: bool,
    parts: Vec<State>,
}

impl State {
    fn part(&mut self, index: usize) -> &mut Self {
        if self.parts.len() <= index {
            self.parts.resize_with(index + 1, Self::default);
        }
        // There is one: it was just made.
        &mut self.parts[index]
    }
}

impl Trigger {
    /// The trigger of a strategy; none is the default one.
    ///
    /// # Errors
    /// `InvalidArgument`: a trigger without a kind, an element count below one, or too deep a nesting.
    pub fn from_proto(message: Option<&pipeline::Trigger>) -> Result<Self> {
        message.map_or(Ok(Self::Default), |message| Self::parse(message, 0))
    }

    fn parse(message: &pipeline::Trigger, depth: usize) -> Result<Self> {
        if depth > MAX_TRIGGER_DEPTH {
            return Err(Error::invalid(format!("triggers are nested more than {MAX_TRIGGER_DEPTH} deep")));
        }
        let one = |message: Option<&pipeline::Trigger>| {
            let message = message.ok_or_else(|| Error::invalid("a trigger lacks the trigger inside it"))?;
            Self::parse(message, depth + 1)
        };
        let many = |messages: &[pipeline::Trigger]| -> Result<Vec<Self>> {
            if messages.is_empty() {
                return Err(Error::invalid("a trigger lacks the triggers inside it"));
            }
            messages.iter().map(|message| Self::parse(message, depth + 1)).collect()
        };
        let kind = message.trigger.as_ref().ok_or_else(|| Error::invalid("a trigger is of no known kind"))?;
        Ok(match kind {
            Proto::Default(_) => Self::Default,
            Proto::AfterEndOfWindow(end) => Self::AfterEndOfWindow {
                early: end
                    .early_firings
                    .as_deref()
                    .map(|early| one(Some(early)).map(Box::new))
                    .transpose()?,
                late: end.late_firings.is_some(),
            },
            Proto::ElementCount(elements) => Self::ElementCount(
                u64::try_from(elements.element_count)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or_else(|| Error::invalid("a trigger counts fewer than one element"))?,
            ),
            Proto::AfterProcessingTime(_) | Proto::AfterSynchronizedProcessingTime(_) => Self::ProcessingTime,
            Proto::Always(_) => Self::Always,
            Proto::Never(_) => Self::Never,
            Proto::AfterAll(all) => Self::All(many(&all.subtriggers)?),
            Proto::AfterAny(any) => Self::Any(many(&any.subtriggers)?),
            Proto::AfterEach(each) => Self::Each(many(&each.subtriggers)?),
            Proto::Repeat(repeat) => Self::Repeat(Box::new(one(repeat.subtrigger.as_deref())?)),
            Proto::OrFinally(or) => Self::Any(vec![one(or.main.as_deref())?, one(or.finally.as_deref())?]),
        })
    }

    /// From this number of elements on, nothing new happens: windows with this many or more fire alike.
    #[must_use]
    pub fn distinct_counts(&self) -> u64 {
        match self {
            Self::ElementCount(count) => *count,
            Self::AfterEndOfWindow { early: Some(inner), .. } | Self::Repeat(inner) => {
                inner.distinct_counts()
            }
            Self::All(parts) | Self::Any(parts) | Self::Each(parts) => {
                parts.iter().map(Self::distinct_counts).max().unwrap_or(1)
            }
            _ => 1,
        }
    }

    /// The panes of a window with that many elements, in order. `accumulating`: a later pane repeats what earlier
    /// ones carried; `empty_on_time`: one at the end of the window comes even when nothing is new.
    #[must_use]
    pub fn firings(&self, elements: u64, accumulating: bool, empty_on_time: bool) -> Vec<Firing> {
        let mut firings = Vec::new();
        if elements == 0 {
            return firings;
        }
        let mut state = State::default();
        let waits_for_end = self.elements(&mut state, elements);
        let (mut unfired, mut finished, mut at_end_of_window) = (true, false, false);
        if self.should_fire(&mut state, Phase::Elements) {
            finished = self.fire(&mut state, Phase::Elements);
            let pane = Pane {
                first: true,
                last: finished,
                timing: Timing::Early,
                index: 0,
                nonspeculative_index: -1,
            };
            firings.push(Firing { pane, with_elements: true, at_end_of_window });
            unfired = false;
            at_end_of_window = !self.has_on_time_pane();
        }
        let at_end = !finished && waits_for_end && self.should_fire(&mut state, Phase::EndOfWindow);
        let closing = !finished && !at_end && unfired;
        let with_elements = unfired || accumulating;
        if closing || (at_end && (with_elements || empty_on_time)) {
            let index = i64::from(!firings.is_empty());
            let pane = Pane {
                first: index == 0,
                last: true,
                timing: Timing::OnTime,
                index,
                nonspeculative_index: 0,
            };
            firings.push(Firing { pane, with_elements, at_end_of_window });
        }
        firings
    }

    /// Takes in elements; whether the end of the window is waited for.
    fn elements(&self, state: &mut State, elements: u64) -> bool {
        match self {
            Self::Default => true,
            Self::AfterEndOfWindow { early, .. } => {
                if let Some(early) = early {
                    early.elements(state.part(0), elements);
                }
                true
            }
            Self::ElementCount(_) => {
                state.count += elements;
                false
            }
            Self::ProcessingTime | Self::Always | Self::Never => false,
            Self::All(parts) | Self::Any(parts) => parts
                .iter()
                .enumerate()
                .fold(false, |waits, (index, part)| part.elements(state.part(index), elements) | waits),
            Self::Each(parts) => {
                let turn = state.turn;
                parts.get(turn).is_some_and(|part| part.elements(state.part(turn), elements))
            }
            Self::Repeat(inner) => inner.elements(state.part(0), elements),
        }
    }

    fn should_fire(&self, state: &mut State, phase: Phase) -> bool {
        match self {
            Self::Default => phase == Phase::EndOfWindow,
            Self::AfterEndOfWindow { early, .. } => {
                !state.late
                    && (phase == Phase::EndOfWindow
                        || early.as_ref().is_some_and(|early| early.should_fire(state.part(0), phase)))
            }
            Self::ElementCount(count) => state.count >= *count,
            Self::Always => true,
            Self::ProcessingTime | Self::Never => false,
            Self::All(parts) => {
                parts.iter().enumerate().all(|(index, part)| part.should_fire(state.part(index), phase))
            }
            Self::Any(parts) => {
                parts.iter().enumerate().any(|(index, part)| part.should_fire(state.part(index), phase))
            }
            Self::Each(parts) => {
                let turn = state.turn;
                parts.get(turn).is_some_and(|part| part.should_fire(state.part(turn), phase))
            }
            Self::Repeat(inner) => inner.should_fire(state.part(0), phase),
        }
    }

    /// Fires; whether the trigger is finished with it.
    fn fire(&self, state: &mut State, phase: Phase) -> bool {
        match self {
            Self::Default | Self::Always => false,
            Self::ElementCount(_) | Self::ProcessingTime | Self::Never => true,
            Self::AfterEndOfWindow { early, late } => {
                if phase == Phase::EndOfWindow {
                    state.late = true;
                    return !late;
                }
                // What fires early is repeated, whether it says so or not.
                if let Some(early) = early
                    && early.fire(state.part(0), phase)
                {
                    *state.part(0) = State::default();
                }
                false
            }
            Self::All(parts) | Self::Any(parts) => {
                let mut finished = Vec::with_capacity(parts.len());
                for (index, part) in parts.iter().enumerate() {
                    if part.should_fire(state.part(index), phase) {
                        finished.push(part.fire(state.part(index), phase));
                    }
                }
                if matches!(self, Self::All(_)) {
                    finished.into_iter().all(|finished| finished)
                } else {
                    finished.into_iter().any(|finished| finished)
                }
            }
            Self::Each(parts) => {
                let turn = state.turn;
                if parts.get(turn).is_some_and(|part| part.fire(state.part(turn), phase)) {
                    state.turn += 1;
                }
                state.turn == parts.len()
            }
            Self::Repeat(inner) => {
                if inner.fire(state.part(0), phase) {
                    *state.part(0) = State::default();
                }
                false
            }
        }
    }

    /// Whether a pane comes at the end of the window even without elements; until then the earliest time is held.
    fn has_on_time_pane(&self) -> bool {
        match self {
            Self::Default | Self::AfterEndOfWindow { .. } => true,
            Self::All(parts) | Self::Any(parts) | Self::Each(parts) => {
                parts.iter().any(Self::has_on_time_pane)
            }
            Self::Repeat(inner) => inner.has_on_time_pane(),
            Self::ElementCount(_) | Self::ProcessingTime | Self::Always | Self::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u64) -> Trigger {
        Trigger::ElementCount(count)
    }

    fn repeat(inner: Trigger) -> Trigger {
        Trigger::Repeat(Box::new(inner))
    }

    fn end(early: Option<Trigger>, late: bool) -> Trigger {
        Trigger::AfterEndOfWindow { early: early.map(Box::new), late }
    }

    /// `F` first, `L` last, then `early` or `time`, the index, and `*` for a pane with elements.
    fn show(firings: &[Firing]) -> String {
        let one = |firing: &Firing| {
            let pane = firing.pane;
            let mut text = String::new();
            text.push_str(if pane.first { "F" } else { "" });
            text.push_str(if pane.last { "L" } else { "" });
            text.push_str(if pane.timing == Timing::Early { "early" } else { "time" });
            text.push_str(&pane.index.to_string());
            text.push_str(if firing.with_elements { "*" } else { "" });
            text.push_str(if firing.at_end_of_window { "@end" } else { "" });
            text
        };
        firings.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn triggers_fire_as_in_beams_batch_runner() {
        let cases = [
            (Trigger::Default, 3, "FLtime0*"),
            (Trigger::Never, 3, "FLtime0*"),
            (Trigger::Always, 3, "Fearly0*"),
            (end(None, false), 3, "FLtime0*"),
            (end(Some(count(1)), false), 3, "Fearly0* Ltime1"),
            (end(Some(count(4)), false), 3, "FLtime0*"),
            (end(Some(count(1)), true), 3, "Fearly0* Ltime1"),
            (end(Some(Trigger::ProcessingTime), false), 3, "FLtime0*"),
            (count(3), 3, "FLearly0*"),
            (repeat(count(2)), 3, "Fearly0*"),
            (repeat(Trigger::ProcessingTime), 3, "FLtime0*"),
            (Trigger::All(vec![count(1), count(3)]), 3, "FLearly0*"),
            (Trigger::All(vec![count(1), end(None, false)]), 3, "FLtime0*"),
            (Trigger::Any(vec![count(9), end(None, false)]), 3, "FLtime0*"),
            (Trigger::Any(vec![count(1), end(None, false)]), 3, "FLearly0*"),
            (Trigger::Any(vec![repeat(count(1)), end(None, false)]), 3, "Fearly0* Ltime1"),
            (Trigger::Each(vec![count(1), count(1)]), 3, "Fearly0*"),
            (Trigger::Each(vec![end(None, false), count(1)]), 3, "FLtime0*"),
            (Trigger::Each(vec![count(1), Trigger::Default]), 3, "Fearly0*"),
            (repeat(Trigger::Each(vec![count(1), count(1)])), 3, "Fearly0*"),
            (repeat(Trigger::All(vec![count(1), end(None, false)])), 3, "FLtime0*"),
            (repeat(Trigger::Any(vec![count(2), end(None, false)])), 3, "Fearly0* Ltime1"),
            (Trigger::Any(vec![repeat(count(1)), count(2)]), 3, "FLearly0*"),
            (repeat(end(Some(count(1)), false)), 3, "Fearly0* Ltime1"),
        ];
        for (trigger, elements, expected) in cases {
            assert_eq!(show(&trigger.firings(elements, false, true)), expected, "{trigger:?}");
        }
    }

    #[test]
    fn what_no_pane_carried_goes_out_when_the_window_closes() {
        assert_eq!(show(&count(4).firings(3, false, true)), "FLtime0*");
        assert_eq!(show(&repeat(count(4)).firings(3, false, true)), "FLtime0*");
        assert_eq!(show(&count(4).firings(0, false, true)), "");
    }

    #[test]
    fn accumulating_panes_repeat_the_elements_and_empty_ones_can_be_left_out() {
        let trigger = end(Some(count(1)), false);
        assert_eq!(show(&trigger.firings(3, true, false)), "Fearly0* Ltime1*");
        assert_eq!(show(&trigger.firings(3, false, false)), "Fearly0*");
        // Nothing holds the time for a trigger that does not wait for the end.
        let each = Trigger::Each(vec![count(1), Trigger::Default]);
        assert_eq!(show(&each.firings(3, true, true)), "Fearly0*");
    }

    #[test]
    fn counts_past_the_largest_in_the_trigger_change_nothing() {
        let trigger = Trigger::Any(vec![repeat(count(5)), end(Some(count(2)), false)]);
        assert_eq!(trigger.distinct_counts(), 5);
        for elements in [5, 6, 1000] {
            assert_eq!(trigger.firings(elements, false, true), trigger.firings(5, false, true));
        }
        assert_ne!(trigger.firings(1, false, true), trigger.firings(2, false, true));
    }

    #[test]
    fn hostile_triggers_are_refused() {
        let mut message = pipeline::Trigger {
            trigger: Some(Proto::ElementCount(pipeline::trigger::ElementCount { element_count: 0 })),
        };
        assert!(Trigger::from_proto(Some(&message)).is_err());
        assert!(Trigger::from_proto(Some(&pipeline::Trigger { trigger: None })).is_err());
        message.trigger = Some(Proto::Always(pipeline::trigger::Always {}));
        for _ in 0..MAX_TRIGGER_DEPTH {
            let inner = pipeline::trigger::Repeat { subtrigger: Some(Box::new(message)) };
            message = pipeline::Trigger { trigger: Some(Proto::Repeat(Box::new(inner))) };
        }
        assert!(Trigger::from_proto(Some(&message)).is_ok());
        let inner = pipeline::trigger::Repeat { subtrigger: Some(Box::new(message)) };
        message = pipeline::Trigger { trigger: Some(Proto::Repeat(Box::new(inner))) };
        assert!(Trigger::from_proto(Some(&message)).is_err());
        let none = pipeline::trigger::AfterAll { subtriggers: Vec::new() };
        assert!(
            Trigger::from_proto(Some(&pipeline::Trigger { trigger: Some(Proto::AfterAll(none)) })).is_err()
        );
    }
}
