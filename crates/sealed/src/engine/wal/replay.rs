//! The rows that a database has to take in again when it is opened.
//!
//! Invariant: frames come in order and without gaps; one that is missing is an error, not an end.

use async_trait::async_trait;
use slatedb::wal::{WalError, WalIterator, WalRows};

use super::rows::decode;
use super::wal_error;
use crate::error::permanent;
use crate::store::log::frame::Frame;
use crate::store::log::{Content, Log, Segment};

pub(super) struct Replay {
    log: Log,
    /// Files of SlateDB's own log, from before this one.
    before: Option<Box<dyn WalIterator>>,
    segments: std::vec::IntoIter<Segment>,
    /// The content of the last segment, which was read already.
    last: Option<Content>,
    /// The segment that comes after the one under way, and the frames of that.
    following: Option<Segment>,
    frames: std::vec::IntoIter<Frame>,
    replayed: u64,
}

impl Replay {
    pub(super) fn new(
        log: Log,
        before: Option<Box<dyn WalIterator>>,
        segments: Vec<Segment>,
        last: Option<Content>,
        replayed: u64,
    ) -> Self {
        let mut segments = segments.into_iter();
        let following = segments.next();
        Self { log, before, segments, last, following, frames: Vec::new().into_iter(), replayed }
    }

    /// Reads the next segment. False after the last one.
    async fn advance(&mut self) -> Result<bool, WalError> {
        let Some(segment) = self.following.take() else { return Ok(false) };
        self.following = self.segments.next();
        let content = match &self.following {
            None => self.last.take(),
            Some(_) => None,
        };
        let content = match content {
            Some(content) => content,
            None => self.log.read(&segment).await.map_err(wal_error)?,
        };
        if let Some(next) = &self.following
            && segment.next(&content) != next.first
        {
            return Err(wal_error(self.log.gap(&segment)));
        }
        self.frames = content.frames.into_iter();
        Ok(true)
    }
}

#[async_trait]
impl WalIterator for Replay {
    async fn next(&mut self) -> Result<Option<WalRows>, WalError> {
        if let Some(before) = &mut self.before {
            match before.next().await? {
                Some(rows) => return Ok(Some(rows)),
                None => self.before = None,
            }
        }
        loop {
            for frame in self.frames.by_ref() {
                if frame.number <= self.replayed {
                    continue;
                }
                // What was sealed is what was written, so this is a version that this one does not know.
                let rows = decode(&frame.body).ok_or_else(|| {
                    wal_error(permanent(
                        "sealed",
                        "a frame of the log has a form that this version does not know",
                    ))
                })?;
                return Ok(Some(WalRows { rows, last_consumed_wal_file_id: frame.number }));
            }
            if !self.advance().await? {
                return Ok(None);
            }
        }
    }
}
