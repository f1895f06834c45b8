//! Files that grow, for logs: what a store can do beyond whole objects, and how it is asked for that.
//!
//! `ObjectStore` cannot append, and every layer holds the one below as a `dyn ObjectStore`. So the
//! question travels in the extensions of a `get`, which every store ignores that does not know it: an
//! object store in the cloud answers that there is no such object, and nothing is offered.
//!
//! Invariant: one writer at a time owns a directory of growing files. Once [`AppendStore::claim`] has
//! returned, nothing that an earlier owner does reaches the disk any more.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, Result};

/// No object is here: only the question matters.
const NOWHERE: &str = "_question";

/// A store that can append. Its calls wait for the disk: not for a thread that runs tasks.
pub trait AppendStore: Send + Sync + fmt::Debug {
    /// Takes the directory at `dir` for one writer; it is created with its first file. An earlier owner's
    /// append that is under way is waited for, its later ones fail.
    ///
    /// # Errors
    /// When `dir` cannot be a path of the store.
    fn claim(&self, dir: &Path) -> Result<Arc<dyn AppendDir>>;
}

/// A directory of growing files that was claimed.
pub trait AppendDir: Send + Sync + fmt::Debug {
    /// Creates a file that begins with `front`: it is there, durable with all of `front`, or not at all.
    ///
    /// # Errors
    /// `AlreadyExists`; [`TakenOver`] as the cause after another claim; what the disk answers.
    fn create(&self, name: &str, front: &[u8]) -> Result<Box<dyn AppendFile>>;

    /// Cuts a file that nobody appends to. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::create`]; `NotFound`.
    fn cut(&self, name: &str, len: u64) -> Result<()>;
}

/// A growing file. Beyond its end there may be zeroes, and nothing else.
pub trait AppendFile: Send + fmt::Debug {
    /// Appends, for the next [`Self::append`] to make durable: a part of what is too long for one buffer.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Appends. Durable when this returns, with all that was written before. After an error the file may hold
    /// any part of it, and must not be appended to again.
    ///
    /// # Errors
    /// [`TakenOver`] as the cause after another claim of the directory; what the disk answers.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the file where its last append ended.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn finish(&mut self) -> Result<()>;
}

/// Another writer claimed the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver;

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another writer took the log over")
    }
}

impl std::error::Error for TakenOver {}

/// A question to the stores below, which one of them may answer with a `T`.
pub struct Question<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Question<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Question<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

impl<T: Send + 'static> Question<T> {
    /// The question in the options of a `get`, if there is one.
    #[must_use]
    pub fn of(options: &GetOptions) -> Option<&Self> {
        options.extensions.get()
    }

    /// Answers it. The `get` itself should then say that there is no such object.
    pub fn answer(&self, with: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(with);
    }

    /// Asks `store` and what lies below it.
    pub async fn ask(store: &dyn ObjectStore) -> Option<T> {
        let question = Self(Arc::default());
        let mut options = GetOptions::new().with_head(true);
        options.extensions.insert(question.clone());
        // Whether there is an object does not matter, nor why there is none.
        let _ = store.get_opts(&Path::from(NOWHERE), options).await;
        question.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The store below that can append, when there is one.
pub type AppendQuestion = Question<Arc<dyn AppendStore>>;

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_store_that_does_not_know_the_question_offers_nothing() {
        assert!(AppendQuestion::ask(&InMemory::new()).await.is_none());
    }
}
