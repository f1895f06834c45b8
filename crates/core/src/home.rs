//! Threads with a runtime of their own, and how they are woken once for much instead of often for little: a wake-up
//! from another thread is a system call, and cuts what the thread could do in one turn into many.
//!
//! Invariant: each answer is given exactly once, unless the runtime that it is for has ended with all that waited there.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::{Notify, mpsc, oneshot};

/// What a thread does for others. There is at most one on its way for each request.
type Job = Box<dyn FnOnce() + Send>;

/// A runtime with one thread.
#[derive(Clone)]
pub struct Home {
    runtime: Id,
    jobs: mpsc::UnboundedSender<Job>,
}

/// What a thread knows of itself.
struct Here {
    home: Home,
    /// Who is woken at the end of the turn.
    told: Vec<Arc<Notify>>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

impl Home {
    /// The runtime that this is called on; none if it has several threads, which are woken one by one.
    #[must_use]
    pub fn here() -> Option<Self> {
        with_here(|here| here.home.clone())
    }

    /// Does the job on the home's thread, after what is ready to run there; here and now if the home is no more.
    fn run(&self, job: Job) {
        if let Err(mpsc::error::SendError(job)) = self.jobs.send(job) {
            job();
        }
    }
}

fn with_here<T>(look: impl FnOnce(&mut Here) -> T) -> Option<T> {
    let runtime = Handle::try_current().ok()?;
    if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
        return None;
    }
    HERE.with_borrow_mut(|here| {
        let here = match here {
            Some(known) if known.home.runtime == runtime.id() => known,
            _ => here.insert(Here { home: start(&runtime), told: Vec::new() }),
        };
        Some(look(here))
    })
}

/// Starts the task that does the jobs of a runtime.
fn start(runtime: &Handle) -> Home {
    let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
    runtime.spawn(async move {
        while let Some(job) = waiting.recv().await {
            job();
        }
    });
    Home { runtime: runtime.id(), jobs }
}

/// Wakes somebody, on a runtime with one thread not before the tasks that are ready there have run: what they have to
/// say to the same one needs no wake-up of its own.
pub fn notify_after_turn(notify: &Arc<Notify>) {
    let first = with_here(|here| {
        if here.told.iter().any(|known| Arc::ptr_eq(known, notify)) {
            return None;
        }
        here.told.push(notify.clone());
        (here.told.len() == 1).then(|| here.home.clone())
    });
    match first {
        None => notify.notify_one(),
        Some(None) => {}
        Some(Some(home)) => home.run(Box::new(|| {
            for notify in with_here(|here| std::mem::take(&mut here.told)).unwrap_or_default() {
                notify.notify_one();
            }
        })),
    }
}

/// Who waits, each with a number.
type Queue<A> = Vec<(usize, oneshot::Sender<A>)>;

/// Those who wait for one piece of work that was done for all of them.
pub struct Answers<A> {
    elsewhere: Queue<A>,
    homes: Vec<(Home, Queue<A>)>,
    count: usize,
}

impl<A> Default for Answers<A> {
    fn default() -> Self {
        Self { elsewhere: Vec::new(), homes: Vec::new(), count: 0 }
    }
}

impl<A: Send + 'static> Answers<A> {
    /// Notes who waits, and where.
    pub fn add(&mut self, home: Option<Home>, waiting: oneshot::Sender<A>) {
        let waiting = (self.count, waiting);
        self.count += 1;
        let Some(home) = home else { return self.elsewhere.push(waiting) };
        match self.homes.iter_mut().find(|(known, _)| known.runtime == home.runtime) {
            Some((_, all)) => all.push(waiting),
            None => self.homes.push((home, vec![waiting])),
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Answers all of them; `answer` gives that of the one who was added as the so-manyth, from 0.
    pub fn send(self, mut answer: impl FnMut(usize) -> A) {
        for (index, waiting) in self.elsewhere {
            // Whoever asked may have left.
            let _ = waiting.send(answer(index));
        }
        for (home, waiting) in self.homes {
            let answers: Vec<_> =
                waiting.into_iter().map(|(index, waiting)| (waiting, answer(index))).collect();
            home.run(Box::new(|| {
                for (waiting, answer) in answers {
                    let _ = waiting.send(answer);
                }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};

    fn one_thread() -> Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn all_are_answered_on_threads_of_their_own_and_elsewhere() {
        let mut answers = Answers::default();
        let (sender, elsewhere) = oneshot::channel();
        answers.add(None, sender);
        let runtime = one_thread();
        let (sender, first) = oneshot::channel();
        let (other, second) = oneshot::channel();
        runtime.block_on(async {
            answers.add(Home::here(), sender);
            answers.add(Home::here(), other);
            assert_eq!(answers.homes.len(), 1, "one wake-up for both");
        });
        answers.send(|index| index);
        assert_eq!(elsewhere.blocking_recv().unwrap(), 0);
        runtime.block_on(async {
            assert_eq!(first.await.unwrap(), 1);
            assert_eq!(second.await.unwrap(), 2);
        });
    }

    #[test]
    fn a_thread_that_gets_another_runtime_gets_another_home() {
        let home = || {
            let runtime = one_thread();
            let home = runtime.block_on(async { Home::here() });
            drop(runtime);
            home.unwrap()
        };
        let (first, second) = (home(), home());
        assert_ne!(first.runtime, second.runtime);
        assert!(first.jobs.is_closed());
    }

    #[test]
    fn who_is_told_often_in_a_turn_is_woken_once_and_after_it() {
        let notify = Arc::new(Notify::new());
        let is_told = || async {
            tokio::select! { biased; () = notify.notified() => true, () = std::future::ready(()) => false }
        };
        one_thread().block_on(async {
            notify_after_turn(&notify);
            notify_after_turn(&notify);
            assert!(!is_told().await);
            tokio::task::yield_now().await;
            assert!(is_told().await);
            assert!(!is_told().await);
            notify_after_turn(&notify);
        });
        // What was not told when a runtime ended does not hold up the next one.
        one_thread().block_on(async {
            notify_after_turn(&notify);
            tokio::task::yield_now().await;
            assert!(is_told().await);
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_there_are_many_threads_nobody_waits_for_a_turn() {
        let notify = Arc::new(Notify::new());
        notify_after_turn(&notify);
        notify.notified().await;
        assert!(Home::here().is_none());
    }
}
