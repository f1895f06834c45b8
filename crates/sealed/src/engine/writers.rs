//! Where databases take writes: threads with a runtime of one thread each, so that what a write goes through (the
//! gathering of a group, the memtable, the log) is a switch of tasks and not a wake-up of a thread.
//!
//! Invariant: a database has one such thread for as long as it is open. The threads run until the process ends.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};

/// The threads' runtimes, and which of them the next database gets.
static THREADS: Mutex<(Vec<Handle>, usize)> = Mutex::new((Vec::new(), 0));

/// The runtime for one more database; the threads are started at first use.
///
/// # Errors
/// When the system gives no threads.
pub(super) fn handle() -> io::Result<Handle> {
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let (started, next) = &mut *threads;
    if started.is_empty() {
        // The other half of the cores has enough to do for the clients.
        let count = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        for number in 0..count {
            started.push(start(number)?);
        }
    }
    let handle = started[*next % started.len()].clone();
    *next = next.wrapping_add(1);
    Ok(handle)
}

fn start(number: usize) -> io::Result<Handle> {
    // Without a driver for sockets: that would cost a system call at each wake-up.
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name(format!("writers-{number}"))
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_share_the_threads_in_turn() {
        let name = |handle: Handle| async move {
            let name = handle.spawn(async { std::thread::current().name().map(ToOwned::to_owned) });
            name.await.unwrap().unwrap()
        };
        let cores = std::thread::available_parallelism().unwrap().get();
        let mut names = Vec::new();
        for _ in 0..cores {
            names.push(name(handle().unwrap()).await);
        }
        assert!(names.iter().all(|name| name.starts_with("writers-")), "{names:?}");
        names.sort();
        names.dedup();
        assert!(names.len() <= cores.div_ceil(2), "{names:?}");
    }
}
