//! A root seal by a key in a PKCS #11 token: an AES key that is made there and never leaves it.
//!
//! ```text
//! wrapped = nonce (12 bytes, random) | what CKM_AES_GCM makes of it: the key's 32 bytes, encrypted, and a tag of 16
//! ```
//! The random nonces are few: one for each seal that is made.
//!
//! Invariant: the module is the one that the operator named, never one that a file beside the keys names. No session
//! stays open: the token is needed once.

use std::path::PathBuf;
use std::sync::Arc;

use claviger_core::{Clock, Error, Result};
use claviger_crypto::{SecretBytes, fill_random};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use super::secret::{RootWrap, WrapPlace};
use crate::pkcs11::{self, Device, Failure, NONCE_BYTES};

/// A key in a token.
#[derive(Debug)]
pub struct Token(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    key: String,
}

impl Token {
    /// The AES key of the label `key`, in the token of the label `token`, by a module.
    #[must_use]
    pub fn new(module: PathBuf, token: String, key: String, pin: SecretBytes, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { device: Device::new(module, token, pin, clock), key }))
    }

    /// Tokens may take their time: not on a thread that serves others.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|e| Error::internal("the work with the PKCS #11 token failed").because(e))?
    }
}

#[async_trait::async_trait]
impl RootWrap for Token {
    fn place(&self) -> WrapPlace {
        WrapPlace::Pkcs11 { token: self.0.device.token().to_owned(), key: self.0.key.clone() }
    }

    async fn wrap(&self, key: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>> {
        let (key, aad) = (SecretBytes::new(key.expose().to_vec()), aad.to_vec());
        self.with(move |inner| inner.wrap(&key, &aad)).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes> {
        let (wrapped, aad) = (wrapped.to_vec(), aad.to_vec());
        self.with(move |inner| inner.unwrap(&wrapped, &aad)).await
    }
}

impl Inner {
    fn wrap(&self, key: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce).map_err(super::no_random)?;
        let wrapped = self.device.with(true, |open| {
            let handle = match self.find(&open.session)? {
                Ok(Some(handle)) => handle,
                Ok(None) => pkcs11::make(&open.session, &self.key, None)?,
                Err(several) => return Ok(Err(several)),
            };
            pkcs11::encrypt(&open.session, handle, nonce, aad, key.expose()).map(Ok)
        });
        wrapped.map_err(|failure| self.device.error(failure))?
    }

    fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes> {
        let (nonce, sealed) = wrapped
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| super::file::damaged("holds a wrapped key that is too short"))?;
        let key = self.device.with(false, |open| match self.find(&open.session)? {
            Ok(Some(handle)) => pkcs11::decrypt(&open.session, handle, *nonce, aad, sealed).map(Ok),
            Ok(None) => Ok(Err(Error::precondition(format!(
                "the token {} has no AES key of the label {}",
                self.device.token(),
                self.key
            )))),
            Err(several) => Ok(Err(several)),
        });
        key.map_err(|failure| self.device.error(failure))?
    }

    /// The key, if it is there and the only one of its label.
    fn find(&self, session: &Session) -> Result<Result<Option<ObjectHandle>>, Failure> {
        let found = pkcs11::find(session, Attribute::Label(self.key.clone().into_bytes()))?;
        Ok(match found.as_slice() {
            [] => Ok(None),
            [handle] => Ok(Some(*handle)),
            _ => Err(Error::precondition(format!(
                "the token {} has several AES keys of the label {}",
                self.device.token(),
                self.key
            ))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::{ErrorKind, ManualClock, Timestamp};

    #[tokio::test]
    async fn a_module_that_is_not_there_is_told_by_its_path_and_nothing_of_the_pin() {
        let pin = SecretBytes::new(b"20482048".to_vec());
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let token = Token::new("/no/such/module.so".into(), "t".into(), "k".into(), pin, clock);
        let error = token.unwrap(&[0; 60], b"").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.message().contains("/no/such/module.so cannot be loaded"), "{error}");
        assert!(!format!("{error:?} {token:?}").contains("20482048"));
    }
}
