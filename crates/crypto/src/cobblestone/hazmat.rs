//! Sealing under a salt of the caller's choice. Two messages under one key, context and salt betray
//! each other: this is for fixtures whose bytes must stay the same, and for nothing else.

use super::{MessageKey, PREFIX, SALT, seal_message};
use crate::error::Result;
use crate::secret::SecretKey;

/// As [`super::seal`], with a given salt.
///
/// # Errors
/// As [`super::seal`].
pub fn seal_with_salt(
    key: &SecretKey,
    context: &[u8],
    salt: &[u8; SALT],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let (message, prefix) = message_key(key, context, salt)?;
    seal_message(&message, &prefix, plaintext)
}

/// As [`MessageKey::generate`], with a given salt.
///
/// # Errors
/// As [`MessageKey::generate`].
pub fn message_key(key: &SecretKey, context: &[u8], salt: &[u8; SALT]) -> Result<(MessageKey, [u8; PREFIX])> {
    MessageKey::with_salt(key, context, salt)
}
