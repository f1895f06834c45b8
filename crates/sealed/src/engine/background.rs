//! Where databases compact: on threads of their own that yield to those who serve requests.
//!
//! Invariant: there is one set of such threads in a process, however many databases it has open.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

/// How nice the threads are, as `nice(1)` counts: they get a tenth of a busy core, and all of an idle one.
const NICE: i32 = 10;

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The runtime of the background, started at first use.
///
/// # Errors
/// When the system gives no threads.
pub(super) fn runtime() -> io::Result<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*runtime {
        return Ok(runtime.handle().clone());
    }
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let started = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("background")
        .on_thread_start(|| {
            // Linux keeps this for each thread. Where that fails, the work is only less polite.
            let _ = rustix::process::setpriority_process(None, NICE);
        })
        .enable_all()
        .build()?;
    Ok(runtime.insert(started).handle().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_background_is_nice_and_those_who_ask_for_it_are_not() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let there = runtime().unwrap().spawn(async move { niceness() }).await.unwrap();
        assert_eq!((niceness(), there), (before, NICE));
    }
}
