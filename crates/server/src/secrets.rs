//! Files of secrets that an operator names.
//!
//! Invariant: what is read is zeroized when it is dropped, and no message holds it.

use std::path::Path;

use claviger_core::{Error, Result};
use claviger_crypto::SecretBytes;

/// A file of a secret, bytes at most.
const SECRET_BYTES: u64 = 64 * 1024;

/// The contents of a file that holds a secret.
///
/// # Errors
/// `FailedPrecondition` when it cannot be read or is too long.
pub(crate) fn secret(file: &Path) -> Result<SecretBytes> {
    let told = |e: std::io::Error| Error::precondition(format!("cannot read {}: {e}", file.display()));
    let length = std::fs::metadata(file).map_err(told)?.len();
    if length > SECRET_BYTES {
        return Err(Error::precondition(format!("{} is longer than {SECRET_BYTES} bytes", file.display())));
    }
    std::fs::read(file).map(SecretBytes::new).map_err(told)
}

/// The first line of a secret.
pub(crate) fn first_line(secret: &SecretBytes) -> SecretBytes {
    let line = secret.expose().split(|byte| *byte == b'\n').next().unwrap_or_default();
    SecretBytes::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
