//! Work that splittable functions put off: elements that go back to their stage, some of them later.
//!
//! Invariant: what is put off is held once, and counted against the stage's limit until it is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use claviger_beam_proto::fn_execution::DelayedBundleApplication;
use claviger_core::{Error, ErrorKind, Result};

/// An element to process again, and how long to wait first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Residual {
    pub(super) element: Bytes,
    pub(super) delay: Duration,
}

/// Reads a worker's list.
pub(super) fn residuals(roots: Vec<DelayedBundleApplication>) -> Vec<Residual> {
    let residual = |root: DelayedBundleApplication| {
        let delay =
            root.requested_time_delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or_default();
        Some(Residual { element: root.application?.element, delay })
    };
    roots.into_iter().filter_map(residual).collect()
}

/// Elements by the time when they are due, on the clock's `elapsed`.
#[derive(Debug)]
pub(super) struct Agenda {
    due: BTreeMap<Duration, Vec<Bytes>>,
    bytes: usize,
    limit: usize,
}

impl Agenda {
    pub(super) fn new(limit: usize) -> Self {
        Self { due: BTreeMap::new(), bytes: 0, limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Notes residuals.
    pub(super) fn add(&mut self, now: Duration, residuals: Vec<Residual>) -> Result<()> {
        for residual in residuals {
            self.bytes += residual.element.len();
            self.due.entry(now.saturating_add(residual.delay)).or_default().push(residual.element);
        }
        if self.bytes > self.limit {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("A splittable step put off more than {} bytes of restrictions.", self.limit),
            ));
        }
        Ok(())
    }

    /// How long until the next is due.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.due.keys().next().map(|due| due.saturating_sub(now))
    }

    /// Takes all that are due, in their order.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while let Some(entry) = self.due.first_entry() {
            if *entry.key() > now {
                break;
            }
            taken.append(&mut entry.remove());
        }
        self.bytes -= taken.iter().map(Bytes::len).sum::<usize>();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residual(element: &'static str, millis: u64) -> Residual {
        Residual { element: Bytes::from_static(element.as_bytes()), delay: Duration::from_millis(millis) }
    }

    #[test]
    fn elements_come_back_when_they_are_due_and_in_their_order() {
        let mut agenda = Agenda::new(100);
        let start = Duration::from_secs(5);
        agenda
            .add(start, vec![residual("late", 20), residual("a", 0), residual("b", 0), residual("soon", 10)])
            .unwrap();
        assert_eq!(agenda.wait(start), Some(Duration::ZERO));
        assert_eq!(agenda.take(start), ["a", "b"]);
        assert_eq!(agenda.wait(start), Some(Duration::from_millis(10)));
        assert_eq!(agenda.take(start + Duration::from_millis(25)), ["soon", "late"]);
        assert!(agenda.is_empty());
        assert_eq!(agenda.bytes, 0);
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let error = Agenda::new(3).add(Duration::ZERO, vec![residual("four", 0)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }
}
