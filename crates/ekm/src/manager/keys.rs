//! The manager's keys, and what they wrap.
//!
//! ```text
//!  0        4         5                     7
//! +--------+---------+---------------------+----------------------+---------------------------------+
//! | "CVEB" | 1       | length of the key's | a data key, under    | Cobblestone-256 message of the  |
//! |        |         | ciphertext, u16     | the manager's key    | payload, under the data key     |
//! +--------+---------+---------------------+----------------------+---------------------------------+
//! ```
//! Numbers are big-endian. The message's context is three parts, each after its length as u64:
//! `claviger.ekm.blob.v1`, the key's id, the additional data.
//!
//! Invariant: a blob opens under the key that made it, with the same additional data, or not at all. Each use is in the
//! manager's audit log before it is answered.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use claviger_core::names::{CryptoKeyName, KeyRingName, LocationName};
use claviger_core::{Caller, Clock, Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, SecretKey, cobblestone};
use claviger_kms::model::{NewCryptoKey, PageRequest, VersionState};
use claviger_kms::{KeyService as _, Kms, KmsConfig, RootSecret};
use object_store::ObjectStore;
use serde::Serialize;

use super::KEY_PATH;
use crate::token::Claims;
use crate::wire::RequestContext;

const PROJECT: &str = "ekm";
const LOCATION: &str = "global";
const RING: &str = "keys";
const HEADER: &[u8; 5] = b"CVEB\x01";
const DOMAIN: &[u8] = b"claviger.ekm.blob.v1";
/// Keys that a list shows, at most.
const MAX_LISTED: i32 = 1000;

/// The keys of a manager.
pub struct Keys(Arc<Kms>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// A key as its operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its id.
    pub key: String,
    /// Its path, the end of a key URI.
    pub path: String,
    /// As `ENABLED`.
    pub state: &'static str,
}

impl Keys {
    /// Opens the keys of a store, or makes it one.
    ///
    /// # Errors
    /// `FailedPrecondition` when the root secret does not open them; what the store answers.
    pub async fn open(store: Arc<dyn ObjectStore>, root: RootSecret, clock: Arc<dyn Clock>) -> Result<Self> {
        let kms = Kms::open(KmsConfig { root, ..KmsConfig::default() }, store, clock).await?;
        let place = LocationName::new(PROJECT, LOCATION)?;
        match kms.create_key_ring(&Caller::local_admin(), &place, RING).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(kms)),
        }
    }

    /// Does what comes due, for as long as it is polled.
    pub(super) fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().run()
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    /// Makes a key.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    pub async fn create(&self, key: &str) -> Result<KeyInfo> {
        let ring = KeyRingName::new(PROJECT, LOCATION, RING)?;
        self.0.create_crypto_key(&Caller::local_admin(), &ring, key, NewCryptoKey::symmetric()).await?;
        Ok(info(key, VersionState::Enabled))
    }

    /// All keys, in the order of their ids.
    ///
    /// # Errors
    /// `Internal` when a key has no version.
    pub fn list(&self) -> Result<Vec<KeyInfo>> {
        let (admin, ring) = (Caller::local_admin(), KeyRingName::new(PROJECT, LOCATION, RING)?);
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = PageRequest { size: MAX_LISTED, token, ..PageRequest::default() };
            let page = self.0.list_crypto_keys(&admin, &ring, &page)?;
            for view in page.items {
                let version = view.primary.ok_or_else(|| Error::internal("a key has no version"))?;
                found.push(info(view.key.name.crypto_key(), version.state));
            }
            if page.next_token.is_empty() {
                return Ok(found);
            }
            token = page.next_token;
        }
    }

    /// Enables or disables a key.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is scheduled for destruction.
    pub async fn set_enabled(&self, key: &str, enabled: bool) -> Result<KeyInfo> {
        let state = if enabled { VersionState::Enabled } else { VersionState::Disabled };
        let version = name(key)?.version_name(1);
        let version = self.0.update_version_state(&Caller::local_admin(), &version, state).await?;
        Ok(info(key, version.state))
    }

    /// Schedules a key for destruction. It cannot be used from now on.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is scheduled or destroyed already.
    pub async fn destroy(&self, key: &str) -> Result<KeyInfo> {
        let version = name(key)?.version_name(1);
        let version = self.0.destroy_version(&Caller::local_admin(), &version).await?;
        Ok(info(key, version.state))
    }

    /// Wraps a payload.
    pub(super) async fn wrap(
        &self,
        key: &str,
        context: (&Claims, &RequestContext),
        payload: &SecretBytes,
        aad: &[u8],
    ) -> Result<Vec<u8>> {
        let data_key = SecretKey::random().map_err(|e| Error::internal("no random bytes").because(e))?;
        let plain = SecretBytes::new(data_key.expose().to_vec());
        let wrapped =
            self.0.encrypt(&user(context), &name(key)?, &plain, DOMAIN).await.map_err(|e| told(key, e))?;
        let message = cobblestone::seal(&data_key, &bound(key, aad), payload.expose())
            .map_err(|e| Error::internal("the payload could not be wrapped").because(e))?;
        let len = u16::try_from(wrapped.ciphertext.len())
            .map_err(|_| Error::internal("a wrapped key is too long"))?;
        Ok([HEADER.as_slice(), &len.to_be_bytes(), &wrapped.ciphertext, &message].concat())
    }

    /// Unwraps what [`Self::wrap`] gave.
    pub(super) async fn unwrap(
        &self,
        key: &str,
        context: (&Claims, &RequestContext),
        blob: &[u8],
        aad: &[u8],
    ) -> Result<SecretBytes> {
        let wrong = || Error::invalid(format!("the blob is none of the key {key}"));
        let parts = || {
            let (len, rest) = blob.strip_prefix(HEADER)?.split_first_chunk::<2>()?;
            rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
        };
        let (wrapped, message) = parts().ok_or_else(wrong)?;
        let data_key =
            self.0.decrypt(&user(context), &name(key)?, wrapped, DOMAIN).await.map_err(|e| told(key, e))?;
        let data_key = SecretKey::from_slice(data_key.plaintext.expose()).map_err(|e| wrong().because(e))?;
        cobblestone::open_secret(&data_key, &bound(key, aad), message).map_err(|e| wrong().because(e))
    }
}

fn name(key: &str) -> Result<CryptoKeyName> {
    CryptoKeyName::new(PROJECT, LOCATION, RING, key)
        .map_err(|e| Error::not_found(format!("there is no key {key}")).because(e))
}

fn info(key: &str, state: VersionState) -> KeyInfo {
    KeyInfo { key: key.to_owned(), path: format!("{KEY_PATH}{key}"), state: state.as_str() }
}

/// Who uses a key, for the audit log: the manager itself, in the name of whose token it was.
fn user((claims, context): (&Claims, &RequestContext)) -> Caller {
    Caller::local_admin()
        .with("caller", &claims.email)
        .with("resource", &context.relative_resource_name)
        .with(claviger_kms::external::ACCESS_REASON, &context.access_reason_context.reason)
}

/// An error without the names that are this manager's own.
fn told(key: &str, error: Error) -> Error {
    let text = match error.kind() {
        ErrorKind::NotFound => format!("there is no key {key}"),
        ErrorKind::FailedPrecondition => format!("the key {key} is not enabled"),
        ErrorKind::InvalidArgument => format!("the blob is none of the key {key}"),
        _ => format!("the key {key} cannot be used now"),
    };
    Error::new(error.kind(), text).because(error)
}

fn bound(key: &str, aad: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [DOMAIN, key.as_bytes(), aad] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
