//! Encrypt and Decrypt.
//!
//! Invariant: a result is released only after its audit entry is durable, and only if the version is
//! still enabled and the caller and the reason still permitted then. Both run at the same time as any other use;
//! nothing here waits for a change.

use async_trait::async_trait;
use claviger_core::limits::{KMS_HSM_BYTES, KMS_PLAINTEXT_BYTES};
use claviger_crypto::{SecretBytes, SecretKey, crc32c};

use super::*;
use crate::ciphertext::{self, Kind};
use crate::model::{CryptoKeyVersion, ProtectionLevel, VersionState};
use crate::service::{Decrypted, Encrypted, KeyService};

/// What Encrypt takes: a key means its primary version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrVersion {
    /// A key.
    Key(CryptoKeyName),
    /// A version.
    Version(CryptoKeyVersionName),
}

impl KeyOrVersion {
    /// Reads the name of a key or version.
    ///
    /// # Errors
    /// `InvalidArgument` when it is neither.
    pub fn parse(name: &str) -> Result<Self> {
        match CryptoKeyVersionName::parse(name) {
            Ok(version) => Ok(Self::Version(version)),
            Err(_) => CryptoKeyName::parse(name).map(Self::Key),
        }
    }

    fn key(&self) -> CryptoKeyName {
        match self {
            Self::Key(key) => key.clone(),
            Self::Version(version) => version.crypto_key_name(),
        }
    }
}

/// A call of Encrypt.
#[derive(Debug)]
pub struct EncryptRequest<'a> {
    /// The key or version.
    pub name: KeyOrVersion,
    /// What to encrypt.
    pub plaintext: &'a SecretBytes,
    /// What to bind to it.
    pub aad: &'a [u8],
    /// The checksum of the plaintext as the caller sees it.
    pub plaintext_crc32c: Option<i64>,
    /// The checksum of the additional data as the caller sees it.
    pub aad_crc32c: Option<i64>,
}

/// The answer of Encrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptReply {
    /// Ciphertext and version.
    pub encrypted: Encrypted,
    /// The checksum of the ciphertext.
    pub ciphertext_crc32c: u32,
    /// Whether the caller's checksum of the plaintext was there and checked.
    pub verified_plaintext_crc32c: bool,
    /// Whether the caller's checksum of the additional data was there and checked.
    pub verified_aad_crc32c: bool,
    /// Where the version's material lives.
    pub protection: ProtectionLevel,
}

/// A call of Decrypt.
#[derive(Debug)]
pub struct DecryptRequest<'a> {
    /// The key; the ciphertext knows its version.
    pub name: CryptoKeyName,
    /// What Encrypt gave.
    pub ciphertext: &'a [u8],
    /// What was bound to it.
    pub aad: &'a [u8],
    /// The checksum of the ciphertext as the caller sees it.
    pub ciphertext_crc32c: Option<i64>,
    /// The checksum of the additional data as the caller sees it.
    pub aad_crc32c: Option<i64>,
}

/// The answer of Decrypt.
#[derive(Debug)]
pub struct DecryptReply {
    /// Plaintext, and what is said with it.
    pub decrypted: Decrypted,
    /// The checksum of the plaintext.
    pub plaintext_crc32c: u32,
    /// Where the version's material lives.
    pub protection: ProtectionLevel,
}

impl Kms {
    /// Encrypts, with the checksums of the API.
    ///
    /// # Errors
    /// As [`KeyService::encrypt`]; `InvalidArgument` for a checksum that does not fit.
    pub async fn encrypt_checked(
        &self,
        caller: &Caller,
        request: EncryptRequest<'_>,
    ) -> Result<EncryptReply> {
        let EncryptRequest { name, plaintext, aad, plaintext_crc32c, aad_crc32c } = request;
        let key = name.key();
        let select = |index: &Index| {
            authorise(index, caller, iam::USE_TO_ENCRYPT, On::Key(&key))?;
            let entry = index.key(&key)?;
            justified(entry, caller)?;
            let version = match &name {
                KeyOrVersion::Version(version) => versions::version_of(entry, version)?,
                KeyOrVersion::Key(_) => {
                    let primary = entry.record.key.primary.and_then(|number| entry.versions.get(&number));
                    primary.ok_or_else(|| texts::no_primary(&key))?
                }
            };
            enabled(version)
        };
        let call = Call::new(caller, "Encrypt", &key);
        let version = self.inner.begin(&call, &select).await?;
        let seal = || {
            limit("plaintext", plaintext.len())?;
            limit("additional_authenticated_data", aad.len())?;
            if version.version.hsm {
                limit_in_token(plaintext.len(), aad.len())?;
            }
            check("plaintext", plaintext_crc32c, plaintext.expose())?;
            check("additional_authenticated_data", aad_crc32c, aad)?;
            let kind = kind_of(&version);
            ciphertext::seal(kind, material(&version)?, &key, version.version.number, aad, plaintext)
        };
        let sealed = match (seal(), kind_of(&version)) {
            (Ok(sealed), Kind::External) => self
                .wrap_externally(caller, &version.version, &sealed, aad)
                .await
                .and_then(|wrapped| fitting(&version, wrapped)),
            (Ok(sealed), Kind::Hsm) => self.inner.wrap_in_token(&version.version, &sealed).await,
            (sealed, _) => sealed,
        };
        let sealed = self.inner.finish(&call, &select, &version, sealed).await?;
        let ciphertext = ciphertext::frame(kind_of(&version), version.version.number, &sealed);
        Ok(EncryptReply {
            ciphertext_crc32c: crc32c(&ciphertext),
            encrypted: Encrypted { ciphertext, version: version.version.name.clone() },
            verified_plaintext_crc32c: plaintext_crc32c.is_some(),
            verified_aad_crc32c: aad_crc32c.is_some(),
            protection: version.version.protection(),
        })
    }

    /// Decrypts, with the checksums of the API.
    ///
    /// # Errors
    /// As [`KeyService::decrypt`]; `InvalidArgument` for a checksum that does not fit.
    pub async fn decrypt_checked(
        &self,
        caller: &Caller,
        request: DecryptRequest<'_>,
    ) -> Result<DecryptReply> {
        let DecryptRequest { name: key, ciphertext, aad, ciphertext_crc32c, aad_crc32c } = request;
        let select = |index: &Index| {
            authorise(index, caller, iam::USE_TO_DECRYPT, On::Key(&key))?;
            let entry = index.key(&key)?;
            justified(entry, caller)?;
            limit("additional_authenticated_data", aad.len())?;
            check("ciphertext", ciphertext_crc32c, ciphertext)?;
            check("additional_authenticated_data", aad_crc32c, aad)?;
            let parsed = ciphertext::parse(ciphertext)?;
            let version = entry.versions.get(&parsed.version).ok_or_else(texts::bad_ciphertext)?;
            let version = enabled(version)?;
            if parsed.kind == kind_of(&version) { Ok(version) } else { Err(texts::bad_ciphertext()) }
        };
        let call = Call::new(caller, "Decrypt", &key);
        let version = self.inner.begin(&call, &select).await?;
        let open = |message: &[u8]| {
            ciphertext::open(
                kind_of(&version),
                material(&version)?,
                &key,
                version.version.number,
                aad,
                message,
            )
        };
        let opened = async {
            let message = ciphertext::parse(ciphertext)?.message;
            match kind_of(&version) {
                Kind::Own => Ok((open(message)?, None)),
                Kind::External => {
                    let unwrapped = self.unwrap_externally(caller, &version.version, message, aad).await?;
                    Ok((open(unwrapped.payload.expose())?, unwrapped.cache_for))
                }
                Kind::Hsm => {
                    let decrypted = self.inner.unwrap_in_token(&version.version, message).await?;
                    Ok((open(decrypted.expose())?, None))
                }
            }
        };
        let opened = opened.await;
        let (plaintext, cache_for) = self.inner.finish(&call, &select, &version, opened).await?;
        let primary = self.inner.index().key(&key)?.record.key.primary;
        Ok(DecryptReply {
            plaintext_crc32c: crc32c(plaintext.expose()),
            protection: version.version.protection(),
            decrypted: Decrypted {
                plaintext,
                used_primary: primary == Some(version.version.number),
                cache_for,
            },
        })
    }
}

#[async_trait]
impl KeyService for Kms {
    async fn encrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        plaintext: &SecretBytes,
        aad: &[u8],
    ) -> Result<Encrypted> {
        let name = KeyOrVersion::Key(key.clone());
        let request = EncryptRequest { name, plaintext, aad, plaintext_crc32c: None, aad_crc32c: None };
        Ok(self.encrypt_checked(caller, request).await?.encrypted)
    }

    async fn decrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Decrypted> {
        let request =
            DecryptRequest { name: key.clone(), ciphertext, aad, ciphertext_crc32c: None, aad_crc32c: None };
        Ok(self.decrypt_checked(caller, request).await?.decrypted)
    }

    fn changes(&self) -> broadcast::Receiver<KeyChange> {
        self.inner.changes.subscribe()
    }
}

impl Inner {
    /// The version that `select` finds, with its material in memory.
    async fn begin(
        &self,
        call: &Call,
        select: &(impl Fn(&Index) -> Result<Arc<VersionEntry>> + Sync),
    ) -> Result<Arc<VersionEntry>> {
        let selected = select(&self.index());
        let version = match selected {
            Ok(version) => version,
            Err(error) => return Err(self.refuse(call, None, error).await),
        };
        let loaded = version.material.get_or_try_init(|| self.load_material(&version.version)).await;
        if let Err(error) = loaded {
            return Err(self.refuse(call, Some(&version.version.name), error).await);
        }
        Ok(version)
    }

    async fn load_material(&self, version: &CryptoKeyVersion) -> Result<SecretKey> {
        if version.hsm {
            self.material.load_half(version.material).await
        } else {
            self.material.load(version.material).await
        }
    }

    /// Tells the audit log what came of a use, and gives it out if the version may still be used.
    async fn finish<T: Send>(
        &self,
        call: &Call,
        select: &(impl Fn(&Index) -> Result<Arc<VersionEntry>> + Sync),
        version: &VersionEntry,
        result: Result<T>,
    ) -> Result<T> {
        let name = &version.version.name;
        let result = match result {
            Ok(result) => result,
            Err(error) => return Err(self.refuse(call, Some(name), error).await),
        };
        self.audit(call, Some(name), Ok::<_, &Error>(&())).await?;
        let still = select(&self.index());
        match still {
            Ok(_) => Ok(result),
            Err(error) => Err(self.refuse(call, Some(name), error).await),
        }
    }

    /// Tells the audit log of a refusal, and gives the error to answer.
    pub(super) async fn refuse(
        &self,
        call: &Call,
        version: Option<&CryptoKeyVersionName>,
        error: Error,
    ) -> Error {
        match self.audit(call, version, Err::<&(), _>(&error)).await {
            Ok(()) => error,
            Err(unheard) => unheard,
        }
    }
}

/// Refuses a use for a reason that the key's policy does not have.
fn justified(entry: &KeyEntry, caller: &Caller) -> Result<()> {
    let reason = AccessReason::of(caller);
    match &entry.record.key.justifications {
        Some(allowed) if !allowed.contains(&reason) => Err(texts::not_justified(entry.name(), reason)),
        _ => Ok(()),
    }
}

fn kind_of(version: &VersionEntry) -> Kind {
    match &version.version {
        version if version.external.is_some() => Kind::External,
        version if version.hsm => Kind::Hsm,
        _ => Kind::Own,
    }
}

/// The material of a version that was begun with.
fn material(version: &VersionEntry) -> Result<&SecretKey> {
    version.material.get().ok_or_else(|| Error::internal("a version in use has no material"))
}

/// Refuses what an external manager wrapped and no ciphertext can hold: it would never be decrypted.
fn fitting(version: &VersionEntry, wrapped: Vec<u8>) -> Result<Vec<u8>> {
    if ciphertext::fitting(Kind::External, &wrapped) {
        return Ok(wrapped);
    }
    Err(Error::precondition(format!(
        "The external key manager of {} gave more bytes than a ciphertext may have.",
        version.version.name
    )))
}

fn enabled(entry: &Arc<VersionEntry>) -> Result<Arc<VersionEntry>> {
    match entry.version.state {
        VersionState::Enabled => Ok(entry.clone()),
        state => Err(texts::not_enabled(&entry.version.name, state)),
    }
}

fn limit(field: &str, len: usize) -> Result<()> {
    if len <= KMS_PLAINTEXT_BYTES {
        return Ok(());
    }
    Err(Error::invalid_field(field, format!("has {len} bytes; at most {KMS_PLAINTEXT_BYTES} are allowed")))
}

/// Tokens take less than we do; Cloud KMS has the same limit.
fn limit_in_token(plaintext: usize, aad: usize) -> Result<()> {
    let len = plaintext.saturating_add(aad);
    if len <= KMS_HSM_BYTES {
        return Ok(());
    }
    Err(Error::invalid_field(
        "plaintext",
        format!(
            "has {len} bytes together with additional_authenticated_data; under an HSM key at most {KMS_HSM_BYTES} are allowed"
        ),
    ))
}

fn check(field: &str, claimed: Option<i64>, bytes: &[u8]) -> Result<()> {
    match claimed {
        Some(claimed) if claimed != i64::from(crc32c(bytes)) => Err(texts::bad_checksum(field)),
        _ => Ok(()),
    }
}
