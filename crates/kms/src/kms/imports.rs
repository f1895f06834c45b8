//! ImportCryptoKeyVersion: key material from elsewhere, as a new version or into one that had it before.
//!
//! Material that is no good makes a version (or leaves the one that was named) in IMPORT_FAILED, with the reason, as
//! in Cloud KMS. A version that ever held material takes the same again and no other: it keeps a fingerprint, an empty
//! Cobblestone message under the material, which opens under that material only and is of no other use.
//!
//! Invariant: unwrapped material is in memory only, and durable before the version that has it. Nothing tells which
//! part of wrapped bytes was wrong.

use super::*;
use crate::ciphertext::length_prefixed;
use crate::model::{Algorithm, CryptoKeyVersion, Import, ImportJob, ImportJobState, VersionState};
use crate::validate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_crypto::wrapping::WrappingKey;
use claviger_crypto::{SecretKey, cobblestone};

/// Bytes of wrapped key material, at most.
const MAX_WRAPPED: usize = 64 * 1024;
/// Bytes that AES-KWP makes of the shortest key material.
const SHORTEST_KWP: usize = 16;
/// AES-KWP works on blocks of so many bytes.
const KWP_BLOCK: usize = 8;

const FINGERPRINT: &[u8] = b"claviger.kms.import-fingerprint.v1";

const TOO_SHORT: &str = "Wrapped key is too short";
const NO_BLOCKS: &str = "Wrapped key does not consist of 64-bit blocks";
const WRONG_LENGTH: &str = "Wrapped key has invalid length";
const NOT_OPENED: &str =
    "The key material in the import request couldn't be unwrapped or wasn't formatted correctly";
const NOT_THE_SAME: &str = "The key material is not the one that this version held before";

/// A call of ImportCryptoKeyVersion.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The key.
    pub key: CryptoKeyName,
    /// The version to import into again; none for a new one.
    pub version: Option<CryptoKeyVersionName>,
    /// What the version is to do.
    pub algorithm: Algorithm,
    /// The job whose public key the material is wrapped to.
    pub job: ImportJobName,
    /// The wrapped material.
    pub wrapped: Vec<u8>,
}

/// What was unwrapped, or why it could not be.
type Unwrapped = Result<SecretKey, &'static str>;

impl Kms {
    /// Imports key material. The version is enabled then, or says that the import failed; it does not become the
    /// primary one.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a request that no job could serve; `FailedPrecondition` when the job is not
    /// active or the version is not eligible; `Aborted` when either changed meanwhile; `PermissionDenied`.
    pub async fn import_version(&self, caller: &Caller, request: ImportRequest) -> Result<CryptoKeyVersion> {
        let subject = request.version.as_ref().map_or(request.key.as_str(), CryptoKeyVersionName::as_str);
        let call = Call::new(caller, "ImportCryptoKeyVersion", &subject);
        let now = self.inner.clock.now();
        let job = check(&self.inner.index(), caller, &request, now).ok().cloned();
        let unwrapped = match job {
            Some(job) => Some(self.inner.unwrap(job, request.wrapped.clone()).await?),
            None => None,
        };
        let caller = caller.clone();
        self.change(call, move |index, now| {
            check(index, &caller, &request, now)?;
            let unwrapped = unwrapped.ok_or_else(|| {
                Error::new(ErrorKind::Aborted, "the import job or the version changed meanwhile: try again")
            })?;
            import(KeyEntry::clone(index.key(&request.key)?), &request, unwrapped, now)
        })
        .await
    }
}

/// Whether a request can be served now; its job then.
fn check<'a>(
    index: &'a Index,
    caller: &Caller,
    request: &ImportRequest,
    now: Timestamp,
) -> Result<&'a ImportJob> {
    let ImportRequest { key, version, algorithm, job, wrapped } = request;
    match version {
        None => authorise(index, caller, "cloudkms.cryptoKeyVersions.create", On::Key(key))?,
        Some(version) => {
            authorise(index, caller, "cloudkms.cryptoKeyVersions.update", On::Version(version))?;
        }
    }
    authorise(index, caller, iam::USE_TO_IMPORT, On::Job(job))?;
    let entry = index.key(key)?;
    let job = &index.job(job)?.job;
    if entry.record.key.is_external() {
        return Err(Error::invalid_field("parent", "has external keys: no material can be imported into it"));
    }
    if entry.record.key.is_hsm() {
        return Err(validate::hsm_imports());
    }
    if *algorithm == Algorithm::Unspecified {
        return Err(Error::invalid_field("algorithm", "must be set"));
    }
    validate::algorithm("algorithm", algorithm)?;
    if wrapped.is_empty() || wrapped.len() > MAX_WRAPPED {
        return Err(Error::invalid_field(
            "wrapped_key",
            format!("must have at least one byte and at most {MAX_WRAPPED}"),
        ));
    }
    if job.name.key_ring_name().location_name() != key.key_ring_name().location_name() {
        return Err(Error::invalid_field("import_job", "must be in the project and location of the key"));
    }
    if let Some(version) = version {
        if version.crypto_key_name() != *key {
            return Err(Error::invalid_field("crypto_key_version", "must be a version of the parent"));
        }
        let there = &versions::version_of(entry, version)?.version;
        if !there.reimport_eligible() {
            return Err(texts::not_reimportable(version, there.state, there.import.is_some()));
        }
    }
    // Once its time is over its key may be gone, also when the record could not be written yet.
    let state = if job.expire_time <= now { ImportJobState::Expired } else { job.state };
    match state {
        ImportJobState::Active => Ok(job),
        state => Err(texts::not_active(&job.name, state)),
    }
}

impl Inner {
    /// Unwraps material with the private key of a job.
    async fn unwrap(&self, job: ImportJob, wrapped: Vec<u8>) -> Result<Unwrapped> {
        if let Err(reason) = check_length(&job, wrapped.len()) {
            return Ok(Err(reason));
        }
        let private = self.material.load_import_key(job.material).await?;
        let unwrapped = tokio::task::spawn_blocking(move || {
            let key = WrappingKey::from_pkcs8(job.method, &private)?;
            let opened = key.unwrap(&wrapped).ok();
            Ok(opened.and_then(|opened| SecretKey::from_slice(opened.expose()).ok()).ok_or(NOT_OPENED))
        });
        let unwrapped = unwrapped.await.map_err(|e| Error::internal("an import failed").because(e))?;
        unwrapped.map_err(|e: claviger_crypto::Error| {
            Error::new(ErrorKind::DataLoss, "the private key of the import job cannot be used").because(e)
        })
    }
}

/// Why wrapped material of that length cannot be any.
fn check_length(job: &ImportJob, len: usize) -> Result<(), &'static str> {
    match len.checked_sub(job.method.rsa_bytes()) {
        Some(0) if !job.method.has_aes() => Ok(()),
        _ if !job.method.has_aes() => Err(WRONG_LENGTH),
        Some(by_aes) if by_aes >= SHORTEST_KWP && by_aes.is_multiple_of(KWP_BLOCK) => Ok(()),
        Some(by_aes) if by_aes >= SHORTEST_KWP => Err(NO_BLOCKS),
        _ => Err(TOO_SHORT),
    }
}

/// Plans the version that an import makes or changes.
fn import(
    mut entry: KeyEntry,
    request: &ImportRequest,
    unwrapped: Unwrapped,
    now: Timestamp,
) -> Result<Plan<CryptoKeyVersion>> {
    let old = match &request.version {
        Some(name) => Some(versions::version_of(&entry, name)?.version.clone()),
        None => None,
    };
    let mut version = old.unwrap_or_else(|| {
        let number = entry.record.key.next_version;
        CryptoKeyVersion {
            name: entry.name().version_name(number),
            number,
            state: VersionState::ImportFailed,
            create_time: now,
            destroy_time: None,
            destroy_event_time: None,
            import: None,
            external: None,
            hsm: false,
            material: Uuid::nil(),
        }
    });
    entry.record.key.next_version = entry.record.key.next_version.max(version.number + 1);
    let before = version.import.take();
    let fingerprint = before.as_ref().and_then(|import| import.fingerprint.clone());
    let unwrapped = match (unwrapped, &fingerprint) {
        (Ok(material), Some(old)) if !is_same(&version.name, &material, old)? => Err(NOT_THE_SAME),
        (unwrapped, _) => unwrapped,
    };
    // A name of its own each time, so that a change half made leaves an orphan and no version its material.
    version.material = Uuid::new_v4();
    version.destroy_event_time = None;
    let job = request.job.clone();
    let new = match unwrapped {
        Ok(material) => {
            version.state = VersionState::Enabled;
            let fingerprint = fingerprint.map_or_else(|| take(&version.name, &material), Ok)?;
            version.import =
                Some(Import { job, time: Some(now), failure: None, fingerprint: Some(fingerprint) });
            Some(VersionEntry::with_material(version.clone(), material))
        }
        Err(reason) => {
            version.state = VersionState::ImportFailed;
            let time = before.and_then(|import| import.time);
            version.import = Some(Import { job, time, failure: Some(reason.to_owned()), fingerprint });
            None
        }
    };
    let kept = new.clone().unwrap_or_else(|| VersionEntry::new(version.clone()));
    entry.versions.insert(version.number, kept);
    let (name, create) = (version.name.clone(), new.map(Created::Version));
    Ok(Plan { create, version: Some(name), ..Plan::key(entry, vec![version.number], version) })
}

fn context(version: &CryptoKeyVersionName) -> Vec<u8> {
    length_prefixed(&[FINGERPRINT, version.as_str().as_bytes()])
}

/// The fingerprint of material.
fn take(version: &CryptoKeyVersionName, material: &SecretKey) -> Result<String> {
    let sealed = cobblestone::seal(material, &context(version), b"");
    sealed
        .map(|sealed| BASE64.encode(sealed))
        .map_err(|e| Error::internal("the machine gives no random bytes").because(e))
}

/// Whether a fingerprint is that of this material.
fn is_same(version: &CryptoKeyVersionName, material: &SecretKey, fingerprint: &str) -> Result<bool> {
    let damaged =
        || Error::new(ErrorKind::DataLoss, format!("the record of {version} is not what was written"));
    let sealed = BASE64.decode(fingerprint).map_err(|e| damaged().because(e))?;
    Ok(cobblestone::open(material, &context(version), &sealed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by another implementation of the format.
    const GOLDEN: &str =
        "MjM0NTY3ODk6Ozw9Pj9AQUJDREVGR0hJJaUwP1GMGUUQkgS0tPMB7dyyLHEPc/csxbXRCqvnxL79czpWtZ+n+CQBLXrPLGkF";

    #[test]
    fn a_fingerprint_is_that_of_its_material_and_version_alone() {
        let key = CryptoKeyName::new("p", "us-east1", "r", "k").unwrap();
        let material = |byte| SecretKey::from_slice(&[byte; 32]).unwrap();
        let own = take(&key.version_name(3), &material(0x51)).unwrap();
        for fingerprint in [GOLDEN, &own] {
            let same =
                |number, byte| is_same(&key.version_name(number), &material(byte), fingerprint).unwrap();
            assert!(same(3, 0x51) && !same(3, 0x52) && !same(4, 0x51), "{fingerprint}");
        }
        assert_ne!(own, take(&key.version_name(3), &material(0x51)).unwrap(), "it is salted");
        let broken = is_same(&key.version_name(3), &material(0x51), "no base64").unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::DataLoss);
    }
}
