//! Between the messages of Cloud KMS and the KMS's own types.
//!
//! Invariant: a value that the KMS does not know is refused, never taken for another.

use std::time::Duration;

use claviger_core::{Error, Result, Timestamp};
use claviger_kms::external::{AccessReason, ExternalKey};
use claviger_kms::model::{
    Algorithm, CryptoKeyVersion, KeyRing, KeyView, NewCryptoKey, ProtectionLevel, Purpose, VersionState,
    VersionTemplate,
};
use claviger_proto::google::cloud::kms::v1 as pb;
use pb::crypto_key::{CryptoKeyPurpose, RotationSchedule};
use pb::crypto_key_version::{CryptoKeyVersionAlgorithm, CryptoKeyVersionState};

pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

pub(super) fn time_from(field: &str, at: prost_types::Timestamp) -> Result<Timestamp> {
    let micros =
        at.seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(at.nanos) / 1_000));
    let valid = (0..1_000_000_000).contains(&at.nanos);
    micros.filter(|_| valid).map(Timestamp).ok_or_else(|| Error::invalid_field(field, "is not a time"))
}

fn duration(duration: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos }
}

pub(super) fn duration_from(field: &str, duration: prost_types::Duration) -> Result<Duration> {
    match (u64::try_from(duration.seconds), u32::try_from(duration.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Error::invalid_field(field, "must be a duration that is not negative")),
    }
}

pub(super) fn key_ring(ring: KeyRing) -> pb::KeyRing {
    pb::KeyRing { name: ring.name.into(), create_time: Some(time(ring.create_time)) }
}

pub(super) fn crypto_key(view: KeyView) -> pb::CryptoKey {
    let key = view.key;
    let algorithm = algorithm(&key.algorithm());
    pb::CryptoKey {
        name: key.name.into(),
        primary: view.primary.map(version),
        purpose: CryptoKeyPurpose::EncryptDecrypt.into(),
        create_time: Some(time(key.create_time)),
        next_rotation_time: key.next_rotation_time.map(time),
        rotation_schedule: key
            .rotation_period
            .map(|period| RotationSchedule::RotationPeriod(duration(period))),
        version_template: Some(pb::CryptoKeyVersionTemplate {
            protection_level: level(key.protection).into(),
            algorithm: algorithm.into(),
        }),
        crypto_key_backend: key.backend.map(String::from).unwrap_or_default(),
        key_access_justifications_policy: key.justifications.map(justifications),
        labels: key.labels.into_iter().collect(),
        destroy_scheduled_duration: Some(duration(key.destroy_scheduled_duration)),
        import_only: key.import_only,
    }
}

pub(super) fn version(version: CryptoKeyVersion) -> pb::CryptoKeyVersion {
    let state = match version.state {
        VersionState::Enabled => CryptoKeyVersionState::Enabled,
        VersionState::Disabled => CryptoKeyVersionState::Disabled,
        VersionState::DestroyScheduled => CryptoKeyVersionState::DestroyScheduled,
        VersionState::Destroyed => CryptoKeyVersionState::Destroyed,
        VersionState::ImportFailed => CryptoKeyVersionState::ImportFailed,
    };
    let reimport_eligible = version.reimport_eligible();
    let (protection_level, algorithm) = (level(version.protection()), algorithm(&version.algorithm()));
    let generate_time = version.import.is_none().then(|| time(version.create_time));
    let (import_job, import_time, failure) = match version.import {
        Some(import) => (import.job.into(), import.time, import.failure.unwrap_or_default()),
        None => (String::new(), None, String::new()),
    };
    pb::CryptoKeyVersion {
        name: version.name.into(),
        state: state.into(),
        protection_level: protection_level.into(),
        algorithm: algorithm.into(),
        external_protection_level_options: version.external.map(external),
        create_time: Some(time(version.create_time)),
        generate_time,
        destroy_time: version.destroy_time.map(time),
        destroy_event_time: version.destroy_event_time.map(time),
        import_job,
        import_time: import_time.map(time),
        import_failure_reason: failure,
        reimport_eligible,
        ..Default::default()
    }
}

pub(super) fn level(level: ProtectionLevel) -> pb::ProtectionLevel {
    match level {
        ProtectionLevel::Unspecified => pb::ProtectionLevel::Unspecified,
        ProtectionLevel::Software => pb::ProtectionLevel::Software,
        ProtectionLevel::Hsm => pb::ProtectionLevel::Hsm,
        ProtectionLevel::External => pb::ProtectionLevel::External,
        ProtectionLevel::ExternalVpc => pb::ProtectionLevel::ExternalVpc,
        ProtectionLevel::HsmSingleTenant => pb::ProtectionLevel::HsmSingleTenant,
    }
}

fn algorithm(algorithm: &Algorithm) -> CryptoKeyVersionAlgorithm {
    CryptoKeyVersionAlgorithm::from_str_name(algorithm.as_str()).unwrap_or_default()
}

fn external(key: ExternalKey) -> pb::ExternalProtectionLevelOptions {
    match key {
        ExternalKey::Uri(uri) => {
            pb::ExternalProtectionLevelOptions { external_key_uri: uri, ..Default::default() }
        }
        ExternalKey::Path(path) => {
            pb::ExternalProtectionLevelOptions { ekm_connection_key_path: path, ..Default::default() }
        }
    }
}

/// Where the external key of a version is to be; nowhere when nothing is set.
pub(super) fn external_from(options: pb::ExternalProtectionLevelOptions) -> Result<Option<ExternalKey>> {
    let field = "crypto_key_version.external_protection_level_options";
    if !options.ekm_connection_backend_override.is_empty() {
        return Err(Error::unimplemented("A version in another backend than its key's is not built."));
    }
    match (options.external_key_uri, options.ekm_connection_key_path) {
        (uri, path) if uri.is_empty() && path.is_empty() => Ok(None),
        (uri, path) if path.is_empty() => Ok(Some(ExternalKey::Uri(uri))),
        (uri, path) if uri.is_empty() => Ok(Some(ExternalKey::Path(path))),
        _ => Err(Error::invalid_field(field, "has a URI and a path: give one")),
    }
}

fn justifications(reasons: Vec<AccessReason>) -> pb::KeyAccessJustificationsPolicy {
    let number =
        |reason: AccessReason| pb::AccessReason::from_str_name(reason.as_str()).unwrap_or_default().into();
    pb::KeyAccessJustificationsPolicy { allowed_access_reasons: reasons.into_iter().map(number).collect() }
}

/// The reasons that a policy allows; all when there is no policy.
pub(super) fn justifications_from(
    policy: Option<pb::KeyAccessJustificationsPolicy>,
) -> Result<Option<Vec<AccessReason>>> {
    let Some(policy) = policy else { return Ok(None) };
    let reason = |number: i32| {
        let known = pb::AccessReason::try_from(number).ok();
        known.and_then(|reason| AccessReason::parse(reason.as_str_name())).ok_or_else(|| {
            Error::invalid_field(
                "key_access_justifications_policy.allowed_access_reasons",
                format!("{number} is not a reason"),
            )
        })
    };
    policy.allowed_access_reasons.into_iter().map(reason).collect::<Result<_>>().map(Some)
}

/// The state that a request asks for.
pub(super) fn state_from(state: i32) -> Result<VersionState> {
    match CryptoKeyVersionState::try_from(state) {
        Ok(CryptoKeyVersionState::Enabled) => Ok(VersionState::Enabled),
        Ok(CryptoKeyVersionState::Disabled) => Ok(VersionState::Disabled),
        Ok(CryptoKeyVersionState::Destroyed) => Ok(VersionState::Destroyed),
        Ok(CryptoKeyVersionState::DestroyScheduled) => Ok(VersionState::DestroyScheduled),
        _ => Err(Error::invalid_field("crypto_key_version.state", "can be set to ENABLED and DISABLED only")),
    }
}

pub(super) fn template_from(template: pb::CryptoKeyVersionTemplate) -> Result<VersionTemplate> {
    let protection_level = level_from("version_template.protection_level", template.protection_level)?;
    let algorithm = algorithm_from("version_template.algorithm", template.algorithm)?;
    Ok(VersionTemplate { protection_level, algorithm })
}

pub(super) fn level_from(field: &str, level: i32) -> Result<ProtectionLevel> {
    Ok(match pb::ProtectionLevel::try_from(level) {
        Ok(pb::ProtectionLevel::Unspecified) => ProtectionLevel::Unspecified,
        Ok(pb::ProtectionLevel::Software) => ProtectionLevel::Software,
        Ok(pb::ProtectionLevel::Hsm) => ProtectionLevel::Hsm,
        Ok(pb::ProtectionLevel::External) => ProtectionLevel::External,
        Ok(pb::ProtectionLevel::ExternalVpc) => ProtectionLevel::ExternalVpc,
        Ok(pb::ProtectionLevel::HsmSingleTenant) => ProtectionLevel::HsmSingleTenant,
        Err(_) => return Err(Error::invalid_field(field, "is not a protection level")),
    })
}

pub(super) fn algorithm_from(field: &str, algorithm: i32) -> Result<Algorithm> {
    Ok(match CryptoKeyVersionAlgorithm::try_from(algorithm) {
        Ok(CryptoKeyVersionAlgorithm::Unspecified) => Algorithm::Unspecified,
        Ok(CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption) => Algorithm::GoogleSymmetricEncryption,
        Ok(CryptoKeyVersionAlgorithm::ExternalSymmetricEncryption) => Algorithm::ExternalSymmetricEncryption,
        Ok(other) => Algorithm::Other(other.as_str_name().to_owned()),
        Err(_) => return Err(Error::invalid_field(field, "is not an algorithm")),
    })
}

pub(super) fn rotation_from(schedule: Option<RotationSchedule>) -> Result<Option<Duration>> {
    let period =
        schedule.map(|RotationSchedule::RotationPeriod(period)| duration_from("rotation_period", period));
    period.transpose()
}

/// What a request to make a key asks for.
pub(super) fn new_key(request: pb::CreateCryptoKeyRequest) -> Result<NewCryptoKey> {
    let key = request.crypto_key.unwrap_or_default();
    let purpose = match CryptoKeyPurpose::try_from(key.purpose) {
        Ok(CryptoKeyPurpose::Unspecified) => Purpose::Unspecified,
        Ok(CryptoKeyPurpose::EncryptDecrypt) => Purpose::EncryptDecrypt,
        Ok(CryptoKeyPurpose::AsymmetricSign) => Purpose::AsymmetricSign,
        Ok(CryptoKeyPurpose::AsymmetricDecrypt) => Purpose::AsymmetricDecrypt,
        Ok(CryptoKeyPurpose::RawEncryptDecrypt) => Purpose::RawEncryptDecrypt,
        Ok(CryptoKeyPurpose::Mac) => Purpose::Mac,
        Ok(CryptoKeyPurpose::KeyEncapsulation) => Purpose::KeyEncapsulation,
        Ok(CryptoKeyPurpose::AesWrapping) => Purpose::AesWrapping,
        Err(_) => return Err(Error::invalid_field("crypto_key.purpose", "is not a purpose")),
    };
    if request.trusted_wrapping_enabled {
        return Err(Error::unimplemented("Trusted wrapping is not built."));
    }
    Ok(NewCryptoKey {
        purpose,
        template: key.version_template.map(template_from).transpose()?,
        labels: key.labels.into_iter().collect(),
        rotation_period: rotation_from(key.rotation_schedule)?,
        next_rotation_time: key
            .next_rotation_time
            .map(|at| time_from("next_rotation_time", at))
            .transpose()?,
        destroy_scheduled_duration: key
            .destroy_scheduled_duration
            .map(|duration| duration_from("destroy_scheduled_duration", duration))
            .transpose()?,
        import_only: key.import_only,
        crypto_key_backend: key.crypto_key_backend,
        skip_initial_version: request.skip_initial_version_creation,
        justifications: justifications_from(key.key_access_justifications_policy)?,
    })
}
