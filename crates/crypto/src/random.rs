//! Random bytes from the cipher library's generator, which is seeded by the machine and safe across
//! a fork.
//!
//! Invariant: nothing else in the workspace draws bytes that a secret depends on.

use crate::error::{Error, ErrorKind, Result};

/// Fills `bytes` with random ones.
///
/// # Errors
/// [`ErrorKind::Random`] when the machine gives none.
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes)
        .map_err(|_| Error::new(ErrorKind::Random, "no random bytes from the machine"))
}
