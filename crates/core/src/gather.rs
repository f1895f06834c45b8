//! A way in for many to one task, which takes all that came meanwhile at once.
//!
//! Invariant: what was let in is taken, in the order in which it came, unless the task has ended; then it is dropped, and
//! nothing more is let in.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::home::notify_after_turn;

struct Room<T> {
    waiting: Mutex<Waiting<T>>,
    wanted: Arc<Notify>,
}

struct Waiting<T> {
    items: Vec<T>,
    open: bool,
}

impl<T> Room<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way in. No more comes once it is dropped.
pub struct Entrance<T>(Arc<Room<T>>);

/// Where all is taken out.
pub struct Exit<T>(Arc<Room<T>>);

/// Makes a way in and the place where it leads to.
#[must_use]
pub fn gather<T>() -> (Entrance<T>, Exit<T>) {
    let waiting = Mutex::new(Waiting { items: Vec::new(), open: true });
    let room = Arc::new(Room { waiting, wanted: Arc::default() });
    (Entrance(room.clone()), Exit(room))
}

impl<T> fmt::Debug for Entrance<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entrance")
    }
}

impl<T> fmt::Debug for Exit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exit")
    }
}

impl<T> Entrance<T> {
    /// Lets one in. It may be taken before those who are ready on this thread were let in, and usually is not.
    ///
    /// # Errors
    /// The item, when the task has ended.
    pub fn enter(&self, item: T) -> Result<(), T> {
        let mut waiting = self.0.lock();
        if !waiting.open {
            return Err(item);
        }
        waiting.items.push(item);
        drop(waiting);
        notify_after_turn(&self.0.wanted);
        Ok(())
    }
}

impl<T> Drop for Entrance<T> {
    fn drop(&mut self) {
        self.0.lock().open = false;
        self.0.wanted.notify_one();
    }
}

impl<T> Exit<T> {
    /// Waits for some, and takes all that came; none once the way in is closed and nobody is left. A wait that is given
    /// up loses nothing.
    pub async fn take(&mut self) -> Option<Vec<T>> {
        loop {
            let (items, open) = self.take_now();
            if !items.is_empty() {
                return Some(items);
            }
            if !open {
                return None;
            }
            self.0.wanted.notified().await;
        }
    }

    /// All that came, and whether more may come.
    fn take_now(&self) -> (Vec<T>, bool) {
        let mut waiting = self.0.lock();
        (std::mem::take(&mut waiting.items), waiting.open)
    }
}

impl<T> Drop for Exit<T> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.open = false;
        let left = std::mem::take(&mut waiting.items);
        drop(waiting);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_in_one_turn_is_taken_together_and_all_of_it_before_the_end() {
        let (entrance, mut exit) = gather();
        let taker = tokio::spawn(async move {
            let mut groups = Vec::new();
            while let Some(group) = exit.take().await {
                groups.push(group);
            }
            groups
        });
        tokio::task::yield_now().await;
        let entrance = Arc::new(entrance);
        for item in 0..3 {
            let entrance = entrance.clone();
            tokio::spawn(async move { entrance.enter(item) });
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        entrance.enter(3).unwrap();
        drop(entrance);
        assert_eq!(taker.await.unwrap(), [vec![0, 1, 2], vec![3]]);
    }

    #[tokio::test]
    async fn nobody_is_let_in_when_the_task_has_ended() {
        let (entrance, exit) = gather();
        let item = Arc::new(());
        entrance.enter(item.clone()).unwrap();
        drop(exit);
        assert_eq!(Arc::strong_count(&item), 1, "what waited is dropped");
        assert!(entrance.enter(item).is_err());
    }
}
