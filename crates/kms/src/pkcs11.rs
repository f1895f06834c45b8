//! Tokens behind PKCS #11 modules: finding one by its label, logging in, and the few operations on AES keys that root
//! seals and HSM keys need.
//!
//! Invariant: the module is the one that the operator named. A PIN that the token refused is not shown to it again,
//! which could lock the token. Nothing here waits but for the module: it is for threads that may block.

mod module;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claviger_core::{Clock, Error, ErrorKind};
use claviger_crypto::{SecretBytes, SecretKey};
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as Fault, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use module::Module;
pub(crate) use module::Open;

/// Bytes of a nonce of AES-GCM.
pub(crate) const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;

/// Why a token did not do what was asked of it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The module cannot be loaded, or does not begin its work.
    Module(Fault),
    /// No token of the label is there.
    Absent,
    /// One is there, and does not hold what this KMS keeps in its token.
    Stranger,
    /// The token refused the PIN, now or before.
    Pin,
    /// The module or the token gave an error.
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Failure {
    /// Whether it is about what was asked, so that asking again changes nothing.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Fault(Fault::Pkcs11(
                RvError::ActionProhibited
                    | RvError::ArgumentsBad
                    | RvError::AttributeReadOnly
                    | RvError::AttributeTypeInvalid
                    | RvError::AttributeValueInvalid
                    | RvError::DataInvalid
                    | RvError::DataLenRange
                    | RvError::EncryptedDataInvalid
                    | RvError::EncryptedDataLenRange
                    | RvError::FunctionNotSupported
                    | RvError::KeyFunctionNotPermitted
                    | RvError::KeySizeRange
                    | RvError::KeyTypeInconsistent
                    | RvError::MechanismInvalid
                    | RvError::MechanismParamInvalid
                    | RvError::TemplateIncomplete
                    | RvError::TemplateInconsistent
                    | RvError::TokenWriteProtected,
                _
            ))
        )
    }

    /// Whether a module that begins anew might help.
    fn is_loss(&self) -> bool {
        !matches!(self, Self::Pin) && !self.is_refusal()
    }
}

/// A token, as the operator named it.
pub(crate) struct Device {
    module: PathBuf,
    token: String,
    pin: SecretBytes,
    pin_refused: AtomicBool,
    /// Whether sessions are kept for the next use.
    keeps: bool,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Device {
    /// The token of a label, by a module. Nothing is loaded yet.
    pub(crate) fn new(module: PathBuf, token: String, pin: SecretBytes, clock: Arc<dyn Clock>) -> Self {
        Self { module, token, pin, pin_refused: AtomicBool::new(false), keeps: false, clock }
    }

    /// The same, with sessions that are kept for the next use.
    pub(crate) fn keeping_sessions(self) -> Self {
        Self { keeps: true, ..self }
    }

    /// The token's label.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Does `work` in a session that is logged in. It is done again when the token was lost meanwhile, so it must be
    /// such that twice is as good as once.
    ///
    /// # Errors
    /// The failure of the work, or why there is no session.
    pub(crate) fn with<T>(
        &self,
        writes: bool,
        work: impl Fn(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = self.attempt(writes, &work);
        match done {
            Err(failure) if failure.is_loss() && self.revive() => self.attempt(writes, &work),
            done => done,
        }
    }

    fn attempt<T>(
        &self,
        writes: bool,
        work: &impl Fn(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.pin_refused.load(Ordering::Relaxed) {
            return Err(Failure::Pin);
        }
        let module = Module::load(&self.module).map_err(Failure::Module)?;
        let running = module.running().map_err(Failure::Module)?;
        if let Some(mut open) = running.take(&self.token, writes) {
            match work(&mut open) {
                // It was of before the loss: those beside it are as well.
                Err(failure) if failure.is_loss() => running.forget(&self.token),
                done => {
                    running.keep(&self.token, writes, open);
                    return done;
                }
            }
        }
        let mut open = Open::new(self.login(running.context(), writes)?);
        let done = work(&mut open);
        if self.keeps && done.is_ok() {
            running.keep(&self.token, writes, open);
        }
        done
    }

    fn revive(&self) -> bool {
        Module::load(&self.module).is_ok_and(|module| module.revive(self.clock.elapsed()))
    }

    fn login(&self, module: &Pkcs11, writes: bool) -> Result<Session, Failure> {
        let is_ours = |info: cryptoki::slot::TokenInfo| info.label() == self.token;
        let slots = module.get_slots_with_token()?;
        let slot = slots.into_iter().find(|slot| module.get_token_info(*slot).is_ok_and(is_ours));
        let slot = slot.ok_or(Failure::Absent)?;
        let session = if writes { module.open_rw_session(slot) } else { module.open_ro_session(slot) }?;
        let pin = std::str::from_utf8(self.pin.expose()).map_err(|_| Failure::Pin)?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            Ok(()) | Err(Fault::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Fault::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinLocked
                | RvError::PinExpired
                | RvError::UserPinNotInitialized,
                _,
            )) => {
                self.pin_refused.store(true, Ordering::Relaxed);
                Err(Failure::Pin)
            }
            Err(fault) => Err(Failure::Fault(fault)),
        }
    }

    /// What a failure means to whoever needs the token now: a token that does not answer is told from one that refuses.
    pub(crate) fn error(&self, failure: Failure) -> Error {
        let token = &self.token;
        match failure {
            Failure::Module(fault) => {
                Error::precondition(format!("the PKCS #11 module {} cannot be loaded", self.module.display()))
                    .because(fault)
            }
            Failure::Absent | Failure::Stranger => {
                Error::new(ErrorKind::Unavailable, format!("no PKCS #11 token of the label {token} is there"))
            }
            Failure::Pin => {
                Error::precondition(format!("the token {token} refuses the PIN: mend it and start again"))
            }
            Failure::Fault(fault) => {
                let (kind, what) = if is_silent(&fault) {
                    (ErrorKind::Unavailable, "does not answer")
                } else {
                    (ErrorKind::FailedPrecondition, "refuses")
                };
                Error::new(kind, format!("the PKCS #11 token {token} {what}: {fault}")).because(fault)
            }
        }
    }
}

fn is_silent(fault: &Fault) -> bool {
    matches!(
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
    )
}

/// The AES keys in the token that have an attribute.
pub(crate) fn find(session: &Session, by: Attribute) -> Result<Vec<ObjectHandle>, Failure> {
    Ok(session.find_objects(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        by,
    ])?)
}

/// Makes an AES-256 key in the token, which never leaves it.
pub(crate) fn make(session: &Session, label: &str, id: Option<&[u8]>) -> Result<ObjectHandle, Failure> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen((SecretKey::LEN as u64).into()),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    template.extend(id.map(|id| Attribute::Id(id.to_vec())));
    Ok(session.generate_key(&Mechanism::AesKeyGen, &template)?)
}

/// Encrypts in the token by AES-GCM: the nonce, then ciphertext and tag.
pub(crate) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    nonce: [u8; NONCE_BYTES],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Failure> {
    // The module may write there.
    let mut own = nonce;
    let params = GcmParams::new(&mut own, aad, TAG_BITS.into())?;
    let sealed = session.encrypt(&Mechanism::AesGcm(params), key, plaintext)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// Decrypts in the token what [`encrypt`] gave.
pub(crate) fn decrypt(
    session: &Session,
    key: ObjectHandle,
    nonce: [u8; NONCE_BYTES],
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, Failure> {
    let mut own = nonce;
    let params = GcmParams::new(&mut own, aad, TAG_BITS.into())?;
    Ok(session.decrypt(&Mechanism::AesGcm(params), key, sealed).map(SecretBytes::new)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::{ManualClock, Timestamp};

    fn fault(error: RvError) -> Failure {
        Failure::Fault(Fault::Pkcs11(error, cryptoki::context::Function::Encrypt))
    }

    #[test]
    fn what_is_about_the_request_is_told_from_what_is_about_the_token() {
        for lost in [RvError::GeneralError, RvError::DeviceRemoved, RvError::KeyHandleInvalid] {
            assert!(fault(lost).is_loss() && !fault(lost).is_refusal(), "{lost:?}");
        }
        for refused in [RvError::MechanismInvalid, RvError::DataLenRange, RvError::TokenWriteProtected] {
            assert!(fault(refused).is_refusal() && !fault(refused).is_loss(), "{refused:?}");
        }
        assert!(Failure::Absent.is_loss() && Failure::Stranger.is_loss() && !Failure::Pin.is_loss());
    }

    #[test]
    fn failures_say_whether_the_token_was_silent_or_refused() {
        let pin = SecretBytes::new(b"20482048".to_vec());
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let device = Device::new("/no/such/module.so".into(), "t".into(), pin, clock);
        assert_eq!(device.error(fault(RvError::DeviceRemoved)).kind(), ErrorKind::Unavailable);
        assert_eq!(device.error(fault(RvError::MechanismInvalid)).kind(), ErrorKind::FailedPrecondition);
        assert_eq!(device.error(Failure::Absent).kind(), ErrorKind::Unavailable);
        let failure = device.with(false, |_| Ok(())).unwrap_err();
        assert!(matches!(failure, Failure::Module(_)), "{failure:?}");
        assert!(!format!("{device:?} {failure:?}").contains("20482048"));
    }
}
