//! Keys in a PKCS #11 token.
//!
//! ```text
//! sealed = nonce (12 bytes, random) | what CKM_AES_GCM makes of it: the message, encrypted, and a tag of 16
//! ```
//! The object of a key is an AES-256 secret key: sensitive, not extractable, CKA_ID as [`HsmKey::object_id`].
//!
//! Invariants: that a key is missing is believed only beside the home of its KMS: a token that lost its files, or
//! another of the same label, is silent. A call is answered within [`LIMIT`]; one that does not come back keeps its
//! place, so that there are never more than [`MAX_CALLS`] of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::Clock;
use claviger_crypto::{SecretBytes, fill_random};
use cryptoki::error::Error as Fault;
use cryptoki::object::{Attribute, ObjectHandle};
use tokio::sync::Semaphore;

use super::{HsmFailure, HsmKey, HsmKeys};
use crate::pkcs11::{self, Device, Failure, NONCE_BYTES, Open};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Calls under way at a time.
const MAX_CALLS: usize = 16;
/// What a key is tried with.
const TRIAL: &[u8] = b"claviger trial of a key";

/// A token, as the operator named it.
#[derive(Debug)]
pub struct HsmToken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    clock: Arc<dyn Clock>,
    calls: Arc<Semaphore>,
    /// Whether the last call found the token silent: that is told once.
    silent: AtomicBool,
}

/// What a call to the token found.
type Found<T> = Result<T, HsmFailure>;

impl HsmToken {
    /// The token of a label, by a module. Nothing is loaded before the first use.
    #[must_use]
    pub fn new(module: PathBuf, token: String, pin: SecretBytes, clock: Arc<dyn Clock>) -> Self {
        let device = Device::new(module, token, pin, clock.clone()).keeping_sessions();
        let (calls, silent) = (Arc::new(Semaphore::new(MAX_CALLS)), AtomicBool::new(false));
        Self(Arc::new(Inner { device, clock, calls, silent }))
    }

    /// Does work with the token, on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Open) -> Result<Found<T>, Failure> + Send + 'static,
    ) -> Found<T> {
        let inner = self.0.clone();
        let done = async {
            // The semaphore is never closed.
            let place = inner.calls.clone().acquire_owned().await;
            let inner = inner.clone();
            let done = tokio::task::spawn_blocking(move || {
                let _place = place;
                inner.device.with(true, work).unwrap_or_else(|failure| Err(told(failure)))
            });
            done.await.unwrap_or_else(|_| Err(HsmFailure::Silent("the work with it failed".to_owned())))
        };
        let found = tokio::select! {
            biased;
            found = done => found,
            () = inner.clock.sleep(LIMIT) => {
                Err(HsmFailure::Silent(format!("it did not answer within {LIMIT:?}")))
            }
        };
        inner.note(&found);
        found
    }
}

#[async_trait]
impl HsmKeys for HsmToken {
    async fn check(&self, key: HsmKey) -> Found<()> {
        self.call(move |open| Ok(handle(open, key)?.map(drop))).await
    }

    async fn make(&self, key: HsmKey, label: &str) -> Found<()> {
        let label = label.to_owned();
        self.call(move |open| {
            if find(open, key)?.is_empty() {
                if key != key.of_home() && find(open, key.of_home())?.is_empty() {
                    return Err(Failure::Stranger);
                }
                pkcs11::make(&open.session, &label, Some(&key.object_id()))?;
            }
            match handle(open, key)? {
                Ok(handle) => trial(open, handle).map(Ok),
                Err(failure) => Ok(Err(failure)),
            }
        })
        .await
    }

    async fn remove(&self, key: HsmKey) -> Found<()> {
        self.call(move |open| {
            open.forget(&key.object_id());
            let found = find(open, key)?;
            if found.is_empty() && key != key.of_home() && find(open, key.of_home())?.is_empty() {
                return Err(Failure::Stranger);
            }
            for handle in found {
                open.session.destroy_object(handle)?;
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn encrypt(&self, key: HsmKey, aad: &[u8], message: &[u8]) -> Found<Vec<u8>> {
        let Some(nonce) = nonce() else { return Err(no_random()) };
        let (aad, message) = (aad.to_vec(), message.to_vec());
        self.call(move |open| match handle(open, key)? {
            Ok(handle) => pkcs11::encrypt(&open.session, handle, nonce, &aad, &message).map(Ok),
            Err(failure) => Ok(Err(failure)),
        })
        .await
    }

    async fn decrypt(&self, key: HsmKey, aad: &[u8], sealed: &[u8]) -> Found<SecretBytes> {
        let Some((nonce, sealed)) = sealed.split_first_chunk::<NONCE_BYTES>() else {
            return Err(HsmFailure::Invalid);
        };
        let (nonce, aad, sealed) = (*nonce, aad.to_vec(), sealed.to_vec());
        self.call(move |open| {
            let handle = match handle(open, key)? {
                Ok(handle) => handle,
                Err(failure) => return Ok(Err(failure)),
            };
            match pkcs11::decrypt(&open.session, handle, nonce, &aad, &sealed) {
                Ok(opened) => Ok(Ok(opened)),
                // Modules tell changed bytes in many ways, some as a fault of their own: so the key is tried.
                Err(_) if trial(open, handle).is_ok() => Ok(Err(HsmFailure::Invalid)),
                Err(failure) => Err(failure),
            }
        })
        .await
    }
}

impl Inner {
    /// Tells the log when the token falls silent and when it is back.
    fn note<T>(&self, found: &Found<T>) {
        let token = self.device.token();
        match found {
            Err(HsmFailure::Silent(reason)) => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!(token, reason, "the token of HSM keys cannot be used");
                }
            }
            _ => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    tracing::info!(token, "the token of HSM keys is back");
                }
            }
        }
    }
}

/// The objects of a key.
fn find(open: &Open, key: HsmKey) -> Result<Vec<ObjectHandle>, Failure> {
    pkcs11::find(&open.session, Attribute::Id(key.object_id().to_vec()))
}

/// The object of a key.
fn handle(open: &mut Open, key: HsmKey) -> Result<Found<ObjectHandle>, Failure> {
    let id = key.object_id();
    if let Some(handle) = open.known(&id) {
        return Ok(Ok(handle));
    }
    match find(open, key)?.first() {
        Some(handle) => {
            open.remember(&id, *handle);
            Ok(Ok(*handle))
        }
        None if key != key.of_home() && !find(open, key.of_home())?.is_empty() => {
            Ok(Err(HsmFailure::Missing))
        }
        None => Err(Failure::Stranger),
    }
}

/// Tries whether a key does what is needed of it.
fn trial(open: &Open, handle: ObjectHandle) -> Result<(), Failure> {
    let nonce = nonce().ok_or(Failure::Fault(Fault::InvalidValue))?;
    let sealed = pkcs11::encrypt(&open.session, handle, nonce, b"", TRIAL)?;
    let sealed = sealed.get(NONCE_BYTES..).unwrap_or_default();
    let opened = pkcs11::decrypt(&open.session, handle, nonce, b"", sealed)?;
    if opened.expose() == TRIAL { Ok(()) } else { Err(Failure::Fault(Fault::InvalidValue)) }
}

fn nonce() -> Option<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    fill_random(&mut nonce).ok().map(|()| nonce)
}

fn no_random() -> HsmFailure {
    HsmFailure::Silent("this machine gives no random bytes".to_owned())
}

/// A failure in words. None has a path of this machine: the words go to callers.
fn told(failure: Failure) -> HsmFailure {
    let refusal = failure.is_refusal();
    let text = match failure {
        Failure::Module(fault) => {
            tracing::debug!(%fault, "the PKCS #11 module of HSM keys");
            "its PKCS #11 module cannot be loaded, or does not begin its work".to_owned()
        }
        Failure::Absent => "no token of its label is there".to_owned(),
        Failure::Stranger => "the token of its label does not hold the keys of this KMS".to_owned(),
        Failure::Pin => {
            "it refused the PIN, which is not shown to it again: mend the PIN and start again".to_owned()
        }
        Failure::Fault(Fault::Pkcs11(error, function)) => format!("{function:?} answered {error:?}"),
        Failure::Fault(fault) => fault.to_string(),
    };
    if refusal { HsmFailure::Refused(text) } else { HsmFailure::Silent(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::{ManualClock, Timestamp};
    use uuid::Uuid;

    #[tokio::test]
    async fn a_module_that_is_not_there_is_silence_and_neither_path_nor_pin_is_told() {
        let pin = SecretBytes::new(b"20482048".to_vec());
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let token = HsmToken::new("/no/such/module.so".into(), "t".into(), pin, clock);
        let key = HsmKey { home: Uuid::from_u128(1), id: Uuid::from_u128(2) };
        for failure in [
            token.check(key).await.unwrap_err(),
            token.make(key, "label").await.unwrap_err(),
            token.remove(key).await.unwrap_err(),
            token.encrypt(key, b"", b"x").await.unwrap_err(),
            token.decrypt(key, b"", &[0; 40]).await.map(drop).unwrap_err(),
        ] {
            let HsmFailure::Silent(text) = &failure else { panic!("{failure:?}") };
            assert!(text.contains("cannot be loaded") && !text.contains("/no/such"), "{text}");
        }
        assert_eq!(token.decrypt(key, b"", &[0; 5]).await.map(drop).unwrap_err(), HsmFailure::Invalid);
        assert!(!format!("{token:?}").contains("20482048"));
    }
}
