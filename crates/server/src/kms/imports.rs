//! One function for each method of `KeyManagementService` that is about import jobs.
//!
//! Invariant: names are parsed before anything else is looked at.

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, ImportJobName, KeyRingName};
use claviger_core::{Caller, Error, Result};
use claviger_crypto::wrapping::{Method, public_der};
use claviger_kms::model::{ImportJob, ImportJobState, NewImportJob};
use claviger_kms::{ImportRequest, Kms};
use claviger_proto::google::cloud::kms::v1 as pb;
use pb::import_crypto_key_version_request::WrappedKeyMaterial;
use pb::import_job::{ImportJobState as PbState, ImportMethod, WrappingPublicKey};
use pb::public_key::PublicKeyFormat;

use super::convert::{self, time};
use super::handlers::{page, total};

pub(super) async fn list_import_jobs(
    kms: &Kms,
    caller: &Caller,
    request: pb::ListImportJobsRequest,
) -> Result<pb::ListImportJobsResponse> {
    let pb::ListImportJobsRequest { parent, page_size, page_token, filter, order_by } = request;
    let parent = KeyRingName::parse(&parent)?;
    let jobs = kms.list_import_jobs(caller, &parent, &page(page_size, page_token, filter, order_by))?;
    Ok(pb::ListImportJobsResponse {
        total_size: total(&jobs),
        import_jobs: jobs.items.into_iter().map(import_job).collect(),
        next_page_token: jobs.next_token,
    })
}

pub(super) async fn get_import_job(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetImportJobRequest,
) -> Result<pb::ImportJob> {
    let name = ImportJobName::parse(&request.name)?;
    let wrong = |why| Error::invalid_field("public_key_format", why);
    let format =
        PublicKeyFormat::try_from(request.public_key_format).map_err(|_| wrong("is not a format"))?;
    let is_der = match format {
        PublicKeyFormat::Unspecified | PublicKeyFormat::Pem => false,
        PublicKeyFormat::Der => true,
        PublicKeyFormat::NistPqc | PublicKeyFormat::XwingRawBytes => {
            return Err(wrong("must be PEM or DER for a key of RSA"));
        }
    };
    let mut job = import_job(kms.get_import_job(caller, &name)?);
    job.public_key_format = format.into();
    if let Some(key) = job.public_key.as_mut().filter(|_| is_der) {
        let der = public_der(&key.pem)
            .map_err(|e| Error::internal("a public key could not be converted").because(e))?;
        *key = WrappingPublicKey { pem: String::new(), data: der.into() };
    }
    Ok(job)
}

pub(super) async fn create_import_job(
    kms: &Kms,
    caller: &Caller,
    request: pb::CreateImportJobRequest,
) -> Result<pb::ImportJob> {
    let parent = KeyRingName::parse(&request.parent)?;
    let job = request.import_job.ok_or_else(|| Error::invalid_field("import_job", "must be set"))?;
    let new = NewImportJob {
        method: method_from(job.import_method)?,
        protection_level: convert::level_from("import_job.protection_level", job.protection_level)?,
        crypto_key_backend: job.crypto_key_backend,
    };
    kms.create_import_job(caller, &parent, &request.import_job_id, new).await.map(import_job)
}

pub(super) async fn import_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::ImportCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    let key = CryptoKeyName::parse(&request.parent)?;
    let version = match request.crypto_key_version.as_str() {
        "" => None,
        name => Some(CryptoKeyVersionName::parse(name)?),
    };
    let job = ImportJobName::parse(&request.import_job)?;
    if request.trusted_wrapping_enabled {
        return Err(Error::unimplemented("Trusted wrapping is not built."));
    }
    let wrapped = match request.wrapped_key_material {
        None => request.wrapped_key,
        Some(WrappedKeyMaterial::RsaAesWrappedKey(wrapped)) if request.wrapped_key.is_empty() => wrapped,
        Some(_) => {
            return Err(Error::invalid_field("wrapped_key", "and rsa_aes_wrapped_key cannot both be set"));
        }
    };
    let algorithm = convert::algorithm_from("algorithm", request.algorithm)?;
    let wanted = ImportRequest { key, version, algorithm, job, wrapped: wrapped.into() };
    kms.import_version(caller, wanted).await.map(convert::version)
}

fn method_from(method: i32) -> Result<Method> {
    let wrong = |why| Error::invalid_field("import_job.import_method", why);
    match ImportMethod::try_from(method) {
        Ok(ImportMethod::Unspecified) => Err(wrong("must be set")),
        Ok(method) => Method::parse(method.as_str_name()).ok_or_else(|| {
            Error::unimplemented(format!(
                "Imports by {} are not built; those by RSA are.",
                method.as_str_name()
            ))
        }),
        Err(_) => Err(wrong("is not an import method")),
    }
}

fn import_job(job: ImportJob) -> pb::ImportJob {
    let method = match job.method {
        Method::RsaOaep3072Sha1Aes256 => ImportMethod::RsaOaep3072Sha1Aes256,
        Method::RsaOaep4096Sha1Aes256 => ImportMethod::RsaOaep4096Sha1Aes256,
        Method::RsaOaep3072Sha256Aes256 => ImportMethod::RsaOaep3072Sha256Aes256,
        Method::RsaOaep4096Sha256Aes256 => ImportMethod::RsaOaep4096Sha256Aes256,
        Method::RsaOaep3072Sha256 => ImportMethod::RsaOaep3072Sha256,
        Method::RsaOaep4096Sha256 => ImportMethod::RsaOaep4096Sha256,
    };
    let state = match job.state {
        ImportJobState::PendingGeneration => PbState::PendingGeneration,
        ImportJobState::Active => PbState::Active,
        ImportJobState::Expired => PbState::Expired,
    };
    pb::ImportJob {
        name: job.name.into(),
        import_method: method.into(),
        protection_level: pb::ProtectionLevel::Software.into(),
        create_time: Some(time(job.create_time)),
        generate_time: job.generate_time.map(time),
        expire_time: Some(time(job.expire_time)),
        expire_event_time: job.expire_event_time.map(time),
        state: state.into(),
        public_key: job.public_key.map(|pem| WrappingPublicKey { pem, ..Default::default() }),
        ..Default::default()
    }
}
