//! The errors of Cloud KMS, word for word where Google documents or sends them: clients match on them.

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, ImportJobName, KeyRingName};
use claviger_core::{Error, ErrorKind};

use crate::external::{AccessReason, EkmConnectionName, ExternalFailure};
use crate::hsm::HsmFailure;
use crate::model::{ImportJobState, VersionState};

/// The caller lacks a permission, or must not know that the resource is missing.
pub(crate) fn denied(permission: &str, resource: &str) -> Error {
    Error::permission_denied(format!(
        "Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    ))
}

pub(crate) fn no_key_ring(name: &KeyRingName) -> Error {
    Error::not_found(format!("KeyRing {name} not found."))
}

pub(crate) fn no_key(name: &CryptoKeyName) -> Error {
    Error::not_found(format!("CryptoKey {name} not found."))
}

pub(crate) fn no_version(name: &CryptoKeyVersionName) -> Error {
    Error::not_found(format!("CryptoKeyVersion {name} not found."))
}

pub(crate) fn no_job(name: &ImportJobName) -> Error {
    Error::not_found(format!("ImportJob {name} not found."))
}

pub(crate) fn no_connection(name: &EkmConnectionName) -> Error {
    Error::not_found(format!("EkmConnection {name} not found."))
}

/// An external key that cannot be used. The key's own state is named first; then what the manager said, or that it
/// said nothing.
pub(crate) fn external(
    name: &CryptoKeyVersionName,
    reason: AccessReason,
    failure: &ExternalFailure,
) -> Error {
    let enabled = format!("{name} is enabled.");
    let reason = reason.as_str();
    let (error, kind, message) = match failure {
        ExternalFailure::Refused { kind, detail } => {
            let text = format!("The external key manager refused the use of {name} for {reason}: {detail}");
            (Error::precondition(&text), kind, text)
        }
        ExternalFailure::Silent { kind, detail } => {
            let text = format!("The external key manager of {name} does not answer: {detail}");
            (Error::new(ErrorKind::Unavailable, &text), kind, text)
        }
    };
    error.violating("KEY_ENABLED", name.as_str(), enabled).violating(kind, name.as_str(), message)
}

/// An HSM key that cannot be used. The key's own state is named first; then what is the matter with its token.
pub(crate) fn hsm(name: &CryptoKeyVersionName, failure: &HsmFailure) -> Error {
    let (kind, violation, text) = match failure {
        HsmFailure::Invalid => return bad_ciphertext(),
        HsmFailure::Missing => (
            ErrorKind::FailedPrecondition,
            "HSM_KEY_MISSING",
            format!("The token no longer has the key of {name}: somebody removed it there."),
        ),
        // That a token cannot do what it did before says nothing about the key.
        HsmFailure::Refused(detail) | HsmFailure::Silent(detail) => (
            ErrorKind::Unavailable,
            "HSM_UNREACHABLE",
            format!("The token of {name} cannot be used: {detail}."),
        ),
    };
    let error =
        Error::new(kind, &text).violating("KEY_ENABLED", name.as_str(), format!("{name} is enabled."));
    error.violating(violation, name.as_str(), text)
}

/// A token in which nothing can be made or removed.
pub(crate) fn token(failure: &HsmFailure) -> Error {
    let text = |detail: &str| format!("The token of HSM keys cannot be used: {detail}.");
    match failure {
        HsmFailure::Silent(detail) => Error::new(ErrorKind::Unavailable, text(detail)),
        HsmFailure::Refused(detail) => Error::precondition(text(detail)),
        HsmFailure::Missing => Error::precondition(text("it does not have the key")),
        HsmFailure::Invalid => Error::precondition(text("it gives bytes back that were not encrypted")),
    }
}

/// An HSM key without a token to make it in.
pub(crate) fn no_token() -> Error {
    Error::precondition(
        "This server has no token for keys with the protection level HSM: start it with --hsm-module, --hsm-token and --hsm-pin-file.",
    )
}

/// A use of a key for a reason that its policy does not have.
pub(crate) fn not_justified(name: &CryptoKeyName, reason: AccessReason) -> Error {
    let message = format!(
        "The use of {name} for {} is not allowed by its key access justifications policy.",
        reason.as_str()
    );
    Error::precondition(&message).violating("KEY_ACCESS_JUSTIFICATION_DENIED", name.as_str(), message)
}

pub(crate) fn exists(kind: &str, name: &str) -> Error {
    Error::already_exists(format!("{kind} {name} already exists."))
}

/// A version that must be enabled for what was asked.
pub(crate) fn not_enabled(name: &CryptoKeyVersionName, state: VersionState) -> Error {
    let message = format!("{name} is not enabled, current state is: {}.", state.as_str());
    Error::precondition(&message).violating(violation(state), name.as_str(), message)
}

/// A version that is not in the state that a change of state starts from.
pub(crate) fn wrong_state(name: &CryptoKeyVersionName, state: VersionState) -> Error {
    let message = format!(
        "The request cannot be fulfilled. Resource {name} has value {} in field crypto_key_version.state.",
        state.as_str()
    );
    Error::precondition(&message).violating(violation(state), name.as_str(), message)
}

/// An import job that cannot be used, or not yet.
pub(crate) fn not_active(name: &ImportJobName, state: ImportJobState) -> Error {
    let message = format!("{name} is not active, current state is: {}.", state.as_str());
    let kind = match state {
        ImportJobState::PendingGeneration => "IMPORT_JOB_PENDING_GENERATION",
        ImportJobState::Active => "IMPORT_JOB_ACTIVE",
        ImportJobState::Expired => "IMPORT_JOB_EXPIRED",
    };
    Error::precondition(&message).violating(kind, name.as_str(), message)
}

/// A version that material cannot be imported into.
pub(crate) fn not_reimportable(name: &CryptoKeyVersionName, state: VersionState, imported: bool) -> Error {
    let why = if imported {
        format!("its state is {}, and must be DESTROYED or IMPORT_FAILED", state.as_str())
    } else {
        "its material was not imported before".to_owned()
    };
    let message = format!("{name} is not eligible for reimport: {why}.");
    Error::precondition(&message).violating("NOT_REIMPORT_ELIGIBLE", name.as_str(), message)
}

/// A key that takes material from elsewhere only.
pub(crate) fn import_only(name: &CryptoKeyName) -> Error {
    let message = format!("{name} is import-only: its versions are imported, not generated.");
    Error::precondition(&message).violating("KEY_IMPORT_ONLY", name.as_str(), message)
}

/// A key whose versions are there but none of which is the primary one.
pub(crate) fn no_primary(name: &CryptoKeyName) -> Error {
    let message = format!("CryptoKey {name} has no primary version.");
    Error::precondition(&message).violating("KEY_HAS_NO_PRIMARY_VERSION", name.as_str(), message)
}

/// What is returned for each wrong ciphertext, so that a caller learns nothing of which part is wrong.
pub(crate) fn bad_ciphertext() -> Error {
    Error::invalid("Decryption failed: the ciphertext is invalid.")
}

/// A checksum of the request that does not fit its field.
pub(crate) fn bad_checksum(field: &str) -> Error {
    let description =
        format!("The checksum in field {field}_crc32c did not match the data in field {field}.");
    Error::invalid_field(format!("{field}_crc32c"), description)
}

fn violation(state: VersionState) -> &'static str {
    match state {
        VersionState::Enabled => "KEY_ENABLED",
        VersionState::Disabled => "KEY_DISABLED",
        VersionState::DestroyScheduled => "KEY_DESTROY_SCHEDULED",
        VersionState::Destroyed => "KEY_DESTROYED",
        VersionState::ImportFailed => "KEY_IMPORT_FAILED",
    }
}
