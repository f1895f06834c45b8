//! The errors of Cloud KMS, word for word where Google documents or sends them: clients match on them.

use claviger_core::Error;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, KeyRingName};

use crate::model::VersionState;

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
    }
}
