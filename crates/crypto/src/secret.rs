//! Secrets in memory.
//!
//! Invariant: the bytes are overwritten when the value is dropped, never printed, and copied only
//! where `expose` is called. Neither type is `Clone` or `Serialize`.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::random::fill_random;

/// Secret bytes of any length, on the heap.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over. The vector must not have been grown since the secret was put in: a
    /// reallocation leaves a copy behind.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Random bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives none.
    pub fn random(len: usize) -> Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        fill_random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes: do not log, copy or keep them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// A 256-bit key.
pub struct SecretKey(Box<Zeroizing<[u8; Self::LEN]>>);

impl SecretKey {
    /// Bytes in a key.
    pub const LEN: usize = 32;

    /// A random key.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives no random bytes.
    pub fn random() -> Result<Self> {
        let mut key = Self::zeroed();
        fill_random(key.0.as_mut_slice())?;
        Ok(key)
    }

    /// A key of these bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] unless there are exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != Self::LEN {
            return Err(Error::new(ErrorKind::BadInput, "a key has 32 bytes"));
        }
        let mut key = Self::zeroed();
        key.0.copy_from_slice(bytes);
        Ok(key)
    }

    /// A key that `fill` writes in place.
    pub(crate) fn filled_by<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self::zeroed();
        fill(key.0.as_mut_slice())?;
        Ok(key)
    }

    fn zeroed() -> Self {
        // Boxed, so that moving the key leaves no copy on a stack.
        Self(Box::new(Zeroizing::new([0; Self::LEN])))
    }

    /// The bytes: do not log, copy or keep them.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl Zeroize for SecretKey {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_when_printed() {
        let key = SecretKey::from_slice(&[0x5a; 32]).unwrap();
        let bytes = SecretBytes::new(b"hunter2".to_vec());
        assert_eq!(format!("{key:?} {bytes:?}"), "SecretKey SecretBytes(7 bytes)");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for len in [0, 16, 31, 33] {
            assert_eq!(SecretKey::from_slice(&vec![0; len]).unwrap_err().kind(), ErrorKind::BadInput);
        }
    }

    #[test]
    fn random_secrets_differ() {
        assert_ne!(SecretKey::random().unwrap().expose(), SecretKey::random().unwrap().expose());
        assert_ne!(SecretBytes::random(16).unwrap().expose(), SecretBytes::random(16).unwrap().expose());
    }
}
