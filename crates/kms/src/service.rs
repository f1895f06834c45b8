//! What the other services use of a KMS, wherever it runs.
//!
//! Invariant: a caller of this trait cannot tell a KMS in its own process from one across a network.
//! A refusal (`PermissionDenied`, `FailedPrecondition`, `NotFound`) is an answer about the key;
//! silence is `Unavailable` and says nothing about it.

use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Caller, Result};
use claviger_crypto::SecretBytes;
use tokio::sync::broadcast;

/// What encryption under a key gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The ciphertext; it names its version itself.
    pub ciphertext: Vec<u8>,
    /// The version that encrypted: the primary one, unless another was asked for.
    pub version: CryptoKeyVersionName,
}

/// What decryption under a key gave.
#[derive(Debug)]
pub struct Decrypted {
    /// What was encrypted.
    pub plaintext: SecretBytes,
    /// Whether the version that the ciphertext was made under is the key's primary one now. When it is not, the key was
    /// rotated.
    pub used_primary: bool,
    /// How long an external key manager lets the plaintext be kept while it is silent, if it says.
    pub cache_for: Option<Duration>,
}

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// The state of a version, the primary version or the access to this key: ask about it again.
    Of(CryptoKeyName),
    /// Any key: changes may have been missed.
    OfAny,
    /// No key; a KMS that did not answer answers again: ask about the keys that it was silent about.
    Reachable,
}

/// The use of keys, in the name of a caller. Each use is in the audit log before it is answered.
#[async_trait]
pub trait KeyService: Send + Sync {
    /// Encrypts under the primary version of `key`, binding `aad`.
    ///
    /// # Errors
    /// - `PermissionDenied`: the caller has no grant, or the key is not there and the caller may not know.
    /// - `NotFound`: no such key.
    /// - `FailedPrecondition`: the key has no usable primary version; the violations name the version
    ///   with the kind `KEY_DISABLED`, `KEY_DESTROY_SCHEDULED` or `KEY_DESTROYED`; or an external key manager refused,
    ///   with a kind that begins with `EXTERNAL_`; or a policy of the key refuses the reason of the use.
    /// - `InvalidArgument`: plaintext or additional data over the limit.
    /// - `Unavailable`: silence, of the KMS or of an external key manager.
    async fn encrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        plaintext: &SecretBytes,
        aad: &[u8],
    ) -> Result<Encrypted>;

    /// Decrypts what [`KeyService::encrypt`] made under any version of `key` with the same `aad`.
    ///
    /// # Errors
    /// As for [`KeyService::encrypt`]; `InvalidArgument` also when the ciphertext is not of this key, was
    /// changed, or has other additional data.
    async fn decrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Decrypted>;

    /// Tells of changes from now on. A receiver that lags must ask about all of its keys again.
    fn changes(&self) -> broadcast::Receiver<KeyChange>;
}
