//! The ciphers of Claviger: one public construction for everything at rest, the derivation of a key
//! from a passphrase, the wrapping in which keys are brought in, and the types that secrets live in.
//!
//! Invariant: this is the only crate that names a cipher, and it does no I/O. Secrets leave it only
//! through a method called `expose`.

pub mod certificate;
pub mod cobblestone;
mod crc;
mod digest;
pub mod ed25519;
mod error;
pub mod es256;
mod random;
mod secret;

pub mod passphrase;
pub mod rs256;
pub mod tls;
pub mod verifying;
pub mod wrapping;

pub use crc::crc32c;
pub use digest::{SHA256_BYTES, sha256};
pub use error::{Error, ErrorKind, Result};
pub use random::fill_random;
pub use secret::{SecretBytes, SecretKey};
