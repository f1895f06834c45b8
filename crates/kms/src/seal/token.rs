//! A root seal by a key in a PKCS #11 token: an AES key that is made there and never leaves it.
//!
//! ```text
//! wrapped = nonce (12 bytes, random) | what CKM_AES_GCM makes of it: the key's 32 bytes, encrypted, and a tag of 16
//! ```
//! The random nonces are few: one for each seal that is made.
//!
//! Invariant: the module is the one that the operator named, never one that a file beside the keys names. A PIN that the
//! token refused is not shown to it again, which could lock the token.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, SecretKey, fill_random};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Fault, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::secret::{RootWrap, WrapPlace};

const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;

/// A key in a token.
#[derive(Debug)]
pub struct Token(Arc<Inner>);

struct Inner {
    module: PathBuf,
    token: String,
    key: String,
    pin: SecretBytes,
    pin_refused: AtomicBool,
    /// Loaded at the first use: a module is initialised once in a process.
    loaded: Mutex<Option<Pkcs11>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("token", &self.token).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Token {
    /// The AES key of the label `key`, in the token of the label `token`, by a module.
    #[must_use]
    pub fn new(module: PathBuf, token: String, key: String, pin: SecretBytes) -> Self {
        let (pin_refused, loaded) = (AtomicBool::new(false), Mutex::new(None));
        Self(Arc::new(Inner { module, token, key, pin, pin_refused, loaded }))
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
        WrapPlace::Pkcs11 { token: self.0.token.clone(), key: self.0.key.clone() }
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
        let session = self.session(true)?;
        let handle = match self.find(&session)? {
            Some(handle) => handle,
            None => self.make(&session)?,
        };
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce).map_err(super::no_random)?;
        let mut wrapped = nonce.to_vec();
        let params = GcmParams::new(&mut nonce, aad, TAG_BITS.into()).map_err(|e| self.failed(e))?;
        let sealed = session.encrypt(&Mechanism::AesGcm(params), handle, key.expose());
        wrapped.extend(sealed.map_err(|e| self.failed(e))?);
        Ok(wrapped)
    }

    fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes> {
        let session = self.session(false)?;
        let handle = self.find(&session)?.ok_or_else(|| {
            Error::precondition(format!("the token {} has no AES key of the label {}", self.token, self.key))
        })?;
        let (nonce, sealed) = wrapped
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(|| super::file::damaged("holds a wrapped key that is too short"))?;
        let mut nonce = *nonce;
        let params = GcmParams::new(&mut nonce, aad, TAG_BITS.into()).map_err(|e| self.failed(e))?;
        let key = session.decrypt(&Mechanism::AesGcm(params), handle, sealed);
        key.map(SecretBytes::new).map_err(|e| self.failed(e))
    }

    fn session(&self, writes: bool) -> Result<Session> {
        let pin_refused = || {
            Error::precondition(format!("the token {} refuses the PIN: mend it and start again", self.token))
        };
        if self.pin_refused.load(Ordering::Relaxed) {
            return Err(pin_refused());
        }
        let module = self.module()?;
        let slots = module.get_slots_with_token().map_err(|e| self.failed(e))?;
        let is_ours = |info: cryptoki::slot::TokenInfo| info.label() == self.token;
        let slot = slots.into_iter().find(|slot| module.get_token_info(*slot).is_ok_and(is_ours));
        let slot = slot.ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!("no PKCS #11 token of the label {} is there", self.token),
            )
        })?;
        let session = if writes { module.open_rw_session(slot) } else { module.open_ro_session(slot) };
        let session = session.map_err(|e| self.failed(e))?;
        let pin = std::str::from_utf8(self.pin.expose())
            .map_err(|_| Error::precondition("the PIN of the PKCS #11 token is not text"))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            Ok(()) | Err(Fault::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Fault::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinLocked,
                _,
            )) => {
                self.pin_refused.store(true, Ordering::Relaxed);
                Err(pin_refused())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn module(&self) -> Result<Pkcs11> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.as_ref() {
            return Ok(module.clone());
        }
        let unloadable = |e: Fault| {
            let text = format!("the PKCS #11 module {} cannot be loaded", self.module.display());
            Error::precondition(text).because(e)
        };
        let module = Pkcs11::new(&self.module).map_err(unloadable)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Fault::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(unloadable(error)),
        }
        *loaded = Some(module.clone());
        Ok(module)
    }

    fn find(&self, session: &Session) -> Result<Option<ObjectHandle>> {
        let found = session.find_objects(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(self.key.clone().into_bytes()),
        ]);
        match found.map_err(|e| self.failed(e))?.as_slice() {
            [] => Ok(None),
            [handle] => Ok(Some(*handle)),
            _ => Err(Error::precondition(format!(
                "the token {} has several AES keys of the label {}",
                self.token, self.key
            ))),
        }
    }

    fn make(&self, session: &Session) -> Result<ObjectHandle> {
        let made = session.generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::ValueLen((SecretKey::LEN as u64).into()),
                Attribute::Label(self.key.clone().into_bytes()),
            ],
        );
        made.map_err(|e| self.failed(e))
    }

    /// What a token that does not answer, or one that refuses, makes of a request.
    fn failed(&self, fault: Fault) -> Error {
        let silent = matches!(
            fault,
            Fault::Pkcs11(
                RvError::DeviceError
                    | RvError::DeviceMemory
                    | RvError::DeviceRemoved
                    | RvError::TokenNotPresent
                    | RvError::SessionCount
                    | RvError::SessionHandleInvalid,
                _
            )
        );
        let (kind, what) = if silent {
            (ErrorKind::Unavailable, "does not answer")
        } else {
            (ErrorKind::FailedPrecondition, "refuses")
        };
        Error::new(kind, format!("the PKCS #11 token {} {what}: {fault}", self.token)).because(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_module_that_is_not_there_is_told_by_its_path_and_nothing_of_the_pin() {
        let pin = SecretBytes::new(b"20482048".to_vec());
        let token = Token::new("/no/such/module.so".into(), "t".into(), "k".into(), pin);
        let error = token.unwrap(&[0; 60], b"").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.message().contains("/no/such/module.so cannot be loaded"), "{error}");
        assert!(!format!("{error:?} {token:?}").contains("20482048"));
    }
}
