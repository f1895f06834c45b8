//! The start: which of the configured secrets opens the KMS, or that it waits to be unsealed.
//!
//! Invariant: a passphrase or a key file that was named and opens nothing ends the start, before anything is changed;
//! a key elsewhere that does not answer only makes the server wait, since other seals may open it.

use std::path::PathBuf;
use std::sync::Arc;

use claviger_core::{Clock, Error, Result};
use claviger_crypto::SecretBytes;
use claviger_crypto::passphrase::Params;
use claviger_kms::hsm::{HsmKeys, HsmToken};
use claviger_kms::{OpenedRoot, RootSecret, RootWrap, SealedRoot, Token, open_or_make};
use claviger_sealed::LocalStore;
use object_store::ObjectStore;

use super::remote::RemoteKms;
use crate::config::{HsmTokenConfig, RootToken, ServeConfig};
use crate::run::open_dir;
use crate::secrets::{first_line, secret};

/// The directory of the KMS and what is known of its seal.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) store: Arc<LocalStore>,
    pub(crate) wraps: Vec<Arc<dyn RootWrap>>,
    pub(crate) root: Root,
    pub(crate) hsm: Option<Arc<dyn HsmKeys>>,
}

/// The root of the KMS.
#[derive(Debug)]
pub(crate) enum Root {
    Opened(Box<OpenedRoot>),
    Sealed(SealedRoot),
}

/// Takes the directory of the KMS into use, and opens its root with what is configured.
///
/// # Errors
/// When the directory is in use, or a secret that was named does not open it.
pub(crate) async fn begin(config: &ServeConfig, clock: &Arc<dyn Clock>) -> Result<Begin> {
    let named = match (&config.root_key_file, &config.root_passphrase_file) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("give a root key file or a passphrase file, not both"));
        }
        (Some(file), None) => Some(RootSecret::KeyFile(secret(file)?)),
        (None, Some(file)) => Some(RootSecret::Passphrase(first_line(&secret(file)?))),
        (None, None) => None,
    };
    let mut wraps: Vec<Arc<dyn RootWrap>> = Vec::new();
    if let Some(remote) = &config.root_kms {
        wraps.push(Arc::new(RemoteKms::new(remote)?));
    }
    if let Some(token) = &config.root_pkcs11 {
        let RootToken { module, token, key, pin_file } = token.clone();
        let pin = pin("--root-pkcs11", pin_file)?;
        wraps.push(Arc::new(Token::new(module, token, key, pin, clock.clone())));
    }
    let hsm = match &config.hsm {
        None => None,
        Some(HsmTokenConfig { module, token, pin_file }) => {
            let pin = pin("--hsm", pin_file.clone())?;
            let token = HsmToken::new(module.clone(), token.clone(), pin, clock.clone());
            Some(Arc::new(token) as Arc<dyn HsmKeys>)
        }
    };
    let store = Arc::new(open_dir(&config.kms_dir()).await?);
    let files: Arc<dyn ObjectStore> = store.clone();
    let root = match SealedRoot::read(files.clone()).await? {
        Some(sealed) => open(sealed, named, &wraps).await?,
        None => {
            let first = named.or_else(|| wraps.first().cloned().map(RootSecret::Wrapped));
            let first = first.unwrap_or(RootSecret::Local);
            Root::Opened(Box::new(open_or_make(&files, &first, Params::RECOMMENDED, clock.now()).await?))
        }
    };
    Ok(Begin { store, wraps, root, hsm })
}

async fn open(sealed: SealedRoot, named: Option<RootSecret>, wraps: &[Arc<dyn RootWrap>]) -> Result<Root> {
    let by_itself = sealed.opens_itself().then_some(RootSecret::Local);
    let must_open = named.is_some() || (by_itself.is_some() && sealed.seals().len() == 1);
    let wrapped = wraps.iter().cloned().map(RootSecret::Wrapped);
    let mut failure = None;
    for secret in named.into_iter().chain(wrapped).chain(by_itself) {
        match sealed.open(&secret, Params::RECOMMENDED).await {
            Ok(root) => return Ok(Root::Opened(Box::new(root))),
            Err(error) => {
                tracing::warn!(reason = error.message(), "a configured root secret does not open the KMS");
                failure = failure.or(Some(error));
            }
        }
    }
    match failure {
        Some(error) if must_open => Err(error),
        _ => Ok(Root::Sealed(sealed)),
    }
}

/// The PIN of a token, which the flags of that beginning name.
fn pin(flags: &str, file: Option<PathBuf>) -> Result<SecretBytes> {
    let none = || Error::precondition(format!("{flags}-module needs {flags}-pin-file"));
    Ok(first_line(&secret(&file.ok_or_else(none)?)?))
}
