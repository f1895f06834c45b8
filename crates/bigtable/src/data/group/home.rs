//! Where those who wait for a group live, and how they get to know of its end.
//!
//! Invariant: each is answered exactly once. A thread with a runtime of its own is woken once for all of its
//! answers, not once for each: a wake-up from another thread is a system call, and cuts what the thread could
//! answer with one write into many.

use std::cell::RefCell;

use claviger_core::Result;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};

/// Who waits for one write.
type Waiting = oneshot::Sender<Result<()>>;

/// The answers for one thread. There are at most as many on their way as there are writes.
type Deliveries = mpsc::UnboundedSender<(Vec<Waiting>, Result<()>)>;

/// A runtime with one thread.
#[derive(Clone)]
pub(crate) struct Home {
    runtime: Id,
    deliveries: Deliveries,
}

thread_local! {
    static HERE: RefCell<Option<Home>> = const { RefCell::new(None) };
}

impl Home {
    /// The runtime that this is called on; none if it has several threads, which are woken one by one.
    pub(crate) fn here() -> Option<Self> {
        let runtime = Handle::current();
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        HERE.with_borrow_mut(|here| {
            let home = match here.take() {
                Some(home) if home.runtime == runtime.id() => home,
                _ => Self { runtime: runtime.id(), deliveries: deliver_on(&runtime) },
            };
            Some(here.insert(home).clone())
        })
    }
}

/// Starts the task that hands answers to those who wait for them.
fn deliver_on(runtime: &Handle) -> Deliveries {
    let (sender, mut deliveries) = mpsc::unbounded_channel::<(Vec<Waiting>, Result<()>)>();
    runtime.spawn(async move {
        while let Some((waiting, done)) = deliveries.recv().await {
            answer(waiting, &done);
        }
    });
    sender
}

fn answer(waiting: Vec<Waiting>, done: &Result<()>) {
    for one in waiting {
        // Whoever asked may have left.
        let _ = one.send(done.clone());
    }
}

/// Those who wait for one group.
#[derive(Default)]
pub(crate) struct Answers {
    elsewhere: Vec<Waiting>,
    homes: Vec<(Home, Vec<Waiting>)>,
}

impl Answers {
    /// Notes who waits, and where.
    pub(crate) fn add(&mut self, home: Option<Home>, waiting: Waiting) {
        let Some(home) = home else { return self.elsewhere.push(waiting) };
        match self.homes.iter_mut().find(|(known, _)| known.runtime == home.runtime) {
            Some((_, all)) => all.push(waiting),
            None => self.homes.push((home, vec![waiting])),
        }
    }

    /// Answers all of them.
    pub(crate) fn send(self, done: &Result<()>) {
        answer(self.elsewhere, done);
        for (home, waiting) in self.homes {
            if let Err(mpsc::error::SendError((waiting, done))) =
                home.deliveries.send((waiting, done.clone()))
            {
                // The runtime is being dropped, and so is whoever waits on it.
                answer(waiting, &done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_answered_on_threads_of_their_own_and_elsewhere() {
        let mut answers = Answers::default();
        let (sender, elsewhere) = oneshot::channel();
        answers.add(None, sender);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (sender, first) = oneshot::channel();
        let (other, second) = oneshot::channel();
        runtime.block_on(async {
            answers.add(Home::here(), sender);
            answers.add(Home::here(), other);
            assert_eq!(answers.homes.len(), 1, "one wake-up for both");
        });
        answers.send(&Ok(()));
        assert!(elsewhere.blocking_recv().unwrap().is_ok());
        runtime.block_on(async {
            assert!(first.await.unwrap().is_ok());
            assert!(second.await.unwrap().is_ok());
        });
    }

    #[test]
    fn a_thread_that_gets_another_runtime_gets_another_home() {
        let home = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let home = runtime.block_on(async { Home::here() });
            drop(runtime);
            home.unwrap()
        };
        let (first, second) = (home(), home());
        assert_ne!(first.runtime, second.runtime);
        assert!(first.deliveries.is_closed());
    }
}
