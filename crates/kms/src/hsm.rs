//! Keys of the protection level HSM: what the KMS asks of a token that keeps them.
//!
//! Invariant: a token that says nothing about a key is told apart from one that no longer has it. What a token is given
//! is sealed under our own material first, and what it gives back is of no use without that.

mod token;

use std::fmt;

use async_trait::async_trait;
use claviger_crypto::SecretBytes;
use uuid::Uuid;

pub use token::HsmToken;

/// A key in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HsmKey {
    /// The key that tells one KMS from others that share the token, and its token from others of the same label: it is
    /// made first, encrypts nothing, and is never removed.
    pub home: Uuid,
    /// The key itself.
    pub id: Uuid,
}

impl HsmKey {
    /// The id of its object in the token: both ids, 16 bytes each.
    #[must_use]
    pub fn object_id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        let (home, own) = id.split_at_mut(16);
        home.copy_from_slice(self.home.as_bytes());
        own.copy_from_slice(self.id.as_bytes());
        id
    }

    /// The home itself.
    pub(crate) fn of_home(self) -> Self {
        Self { home: self.home, id: self.home }
    }

    /// The object's label, for people who look into the token.
    pub(crate) fn label(&self, what: &str) -> String {
        let home = self.home.simple().to_string();
        format!("claviger {} {what}", home.get(..8).unwrap_or_default())
    }
}

/// Why a key in a token could not be used. The sentences are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HsmFailure {
    /// The token is there, holds keys of this KMS, and not this one.
    Missing,
    /// The bytes are not what the key made.
    Invalid,
    /// The token cannot do what was asked of it.
    Refused(String),
    /// The token is not there, does not answer, refuses its PIN or fails: this says nothing about the key.
    Silent(String),
}

/// A token that keeps keys.
#[async_trait]
pub trait HsmKeys: fmt::Debug + Send + Sync {
    /// Whether the token is there and has a key.
    ///
    /// # Errors
    /// What keeps it from being used.
    async fn check(&self, key: HsmKey) -> Result<(), HsmFailure>;

    /// Makes a key, which never leaves the token, and tries it. One that is there is left as it is.
    ///
    /// # Errors
    /// What keeps it from being made. After [`HsmFailure::Silent`] it may be there even so.
    async fn make(&self, key: HsmKey, label: &str) -> Result<(), HsmFailure>;

    /// Removes a key for good, if it is there.
    ///
    /// # Errors
    /// [`HsmFailure::Silent`], and when the token keeps it.
    async fn remove(&self, key: HsmKey) -> Result<(), HsmFailure>;

    /// Encrypts, binding `aad`.
    ///
    /// # Errors
    /// What keeps the key from being used.
    async fn encrypt(&self, key: HsmKey, aad: &[u8], message: &[u8]) -> Result<Vec<u8>, HsmFailure>;

    /// Decrypts what [`Self::encrypt`] gave.
    ///
    /// # Errors
    /// What keeps the key from being used; [`HsmFailure::Invalid`].
    async fn decrypt(&self, key: HsmKey, aad: &[u8], sealed: &[u8]) -> Result<SecretBytes, HsmFailure>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_ids_of_its_home_and_its_own_and_a_label_for_people() {
        let key = HsmKey { home: Uuid::from_u128(0x0102 << 112), id: Uuid::from_u128(7) };
        assert_eq!((key.object_id()[..2].to_vec(), key.object_id()[31]), (vec![1, 2], 7));
        assert_eq!(key.of_home().object_id()[16..], key.object_id()[..16]);
        assert_eq!(key.label("projects/p"), "claviger 01020000 projects/p");
    }
}
