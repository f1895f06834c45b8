//! Reads of objects, whole or a range.
//!
//! Invariant: the key of the bytes is asked before the first and between pieces.

use std::ops::Range;
use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result};

use crate::Buckets;
use crate::content::{self, ByteStream};
use crate::model::{Conditions, Object};

/// Which bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeWanted {
    /// All.
    #[default]
    All,
    /// From the first, up to and with the last, if there are so many.
    Between(u64, u64),
    /// From this one on.
    From(u64),
    /// The last so many.
    Last(u64),
}

impl RangeWanted {
    /// The range in an object of that size.
    fn within(self, size: u64) -> Result<Range<u64>> {
        let wrong = || Error::new(ErrorKind::OutOfRange, "The requested range cannot be satisfied.");
        match self {
            Self::All => Ok(0..size),
            Self::Between(first, last) if first < size && first <= last => {
                Ok(first..size.min(last.saturating_add(1)))
            }
            Self::From(first) if first < size => Ok(first..size),
            Self::Last(count) if count > 0 && size > 0 => Ok(size.saturating_sub(count)..size),
            _ => Err(wrong()),
        }
    }
}

/// A read.
#[derive(Clone, Debug, Default)]
pub struct ReadRequest {
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub name: String,
    /// Which version; none for the live one.
    pub generation: Option<i64>,
    /// What must hold.
    pub conditions: Conditions,
    /// Which bytes.
    pub range: RangeWanted,
}

/// An object under way to a reader.
pub struct ObjectRead {
    /// Its record.
    pub object: Object,
    /// Which bytes these are.
    pub range: Range<u64>,
    /// The bytes.
    pub body: ByteStream,
}

impl std::fmt::Debug for ObjectRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectRead").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Buckets {
    /// Reads an object.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, `OutOfRange`, the lock of the default key or of the
    /// object's own; the body's errors are of the same kinds.
    pub async fn read(self: &Arc<Self>, request: ReadRequest) -> Result<ObjectRead> {
        let ReadRequest { bucket, name, generation, conditions, range } = request;
        let object = self.object(&bucket, &name, generation, &conditions).await?;
        let range = range.within(object.size)?;
        let vault = self.open_vault(&*self.bucket(&bucket)?, &object.content.vault).await?;
        let body = content::read(vault, &object.content, range.clone()).await?;
        Ok(ObjectRead { object, range, body })
    }

    /// Opens the live version of an object for reading from its start.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub async fn open_object(self: &Arc<Self>, bucket: &str, name: &str) -> Result<(Object, ByteStream)> {
        let request =
            ReadRequest { bucket: bucket.to_owned(), name: name.to_owned(), ..ReadRequest::default() };
        let read = self.read(request).await?;
        Ok((read.object, read.body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(RangeWanted::All.within(0).unwrap(), 0..0);
        assert_eq!(RangeWanted::Between(0, 99).within(10).unwrap(), 0..10);
        assert_eq!(RangeWanted::Between(3, 5).within(10).unwrap(), 3..6);
        assert_eq!(RangeWanted::From(9).within(10).unwrap(), 9..10);
        assert_eq!(RangeWanted::Last(4).within(10).unwrap(), 6..10);
        assert_eq!(RangeWanted::Last(40).within(10).unwrap(), 0..10);
        for wrong in [RangeWanted::From(10), RangeWanted::Between(10, 12), RangeWanted::Last(0)] {
            assert_eq!(wrong.within(10).unwrap_err().kind(), ErrorKind::OutOfRange);
        }
        assert!(RangeWanted::From(0).within(0).is_err());
    }
}
