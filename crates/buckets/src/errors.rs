//! The errors of Cloud Storage, word for word where Google documents or sends them.
//!
//! Invariant: an adapter finds the reason of an error in the kind of its first violation; all others
//! follow from the error's kind.

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, ErrorKind};

/// A condition of the request did not hold.
pub const CONDITION_NOT_MET: &str = "conditionNotMet";
/// The caller has this version already.
pub const NOT_MODIFIED: &str = "notModified";
/// A bucket with objects cannot be deleted.
pub const NOT_EMPTY: &str = "conflict";
/// A hold keeps the object.
pub const HELD: &str = "objectUnderActiveHold";
/// A retention policy keeps the object.
pub const RETAINED: &str = "retentionPolicyNotMet";
/// The key is in another place than the bucket.
pub const KEY_LOCATION: &str = "cloudKmsKeyLocationNotAllowed";
/// There is no such key.
pub const KEY_NOT_FOUND: &str = "cloudKmsEncryptionKeyNotFound";
/// The name is no key's.
pub const KEY_BAD: &str = "cloudKmsBadKey";
/// The service agent has no grant on the key.
pub const KEY_DENIED: &str = "cloudKmsPermissionDenied";
/// The key is disabled, destroyed or about to be.
pub const KEY_DISABLED: &str = "cloudKmsDisabledKey";
/// What was sent is not what its checksum says.
pub const BAD_CHECKSUM: &str = "invalid";
/// The upload was cancelled or is over.
pub const UPLOAD_GONE: &str = "gone";

fn tagged(kind: ErrorKind, reason: &str, subject: &str, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(kind, message.clone()).violating(reason, subject, message)
}

pub(crate) fn no_bucket() -> Error {
    Error::not_found("The specified bucket does not exist.")
}

pub(crate) fn no_object(bucket: &str, name: &str) -> Error {
    Error::not_found(format!("No such object: {bucket}/{name}"))
}

pub(crate) fn condition_not_met() -> Error {
    tagged(
        ErrorKind::FailedPrecondition,
        CONDITION_NOT_MET,
        "If-Match",
        "At least one of the pre-conditions you specified did not hold.",
    )
}

pub(crate) fn not_modified() -> Error {
    tagged(ErrorKind::FailedPrecondition, NOT_MODIFIED, "If-None-Match", "Not Modified")
}

pub(crate) fn not_empty() -> Error {
    tagged(ErrorKind::FailedPrecondition, NOT_EMPTY, "bucket", "The bucket you tried to delete is not empty.")
}

pub(crate) fn held(bucket: &str, name: &str) -> Error {
    let message = format!(
        "Object '{bucket}/{name}' is under active Temporary or Event-Based hold and cannot be deleted, overwritten or archived until the hold is removed."
    );
    tagged(ErrorKind::PermissionDenied, HELD, name, message)
}

pub(crate) fn retained(bucket: &str, name: &str) -> Error {
    let message = format!(
        "Object '{bucket}/{name}' is subject to bucket's retention policy and cannot be deleted, overwritten or archived until its retention is over."
    );
    tagged(ErrorKind::PermissionDenied, RETAINED, name, message)
}

pub(crate) fn key_location(key: &CryptoKeyName, bucket: &str, location: &str, wanted: &str) -> Error {
    let message = format!(
        "Cloud KMS key location not allowed. The key {key} is in {}; the bucket {bucket} is in {location} and needs a key in {wanted}.",
        key.location()
    );
    tagged(ErrorKind::InvalidArgument, KEY_LOCATION, key.as_str(), message)
}

pub(crate) fn key_denied(key: &CryptoKeyName, agent: &str, cause: Error) -> Error {
    let agent = agent.strip_prefix("serviceAccount:").unwrap_or(agent);
    let message = format!(
        "Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service account has been authorized to use this key. Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource '{key}' (or it may not exist): grant {agent} the role roles/cloudkms.cryptoKeyEncrypterDecrypter."
    );
    tagged(ErrorKind::PermissionDenied, KEY_DENIED, key.as_str(), message).because(cause)
}

pub(crate) fn key_not_found(key: &CryptoKeyName, cause: Error) -> Error {
    let message = format!("Cloud KMS encryption key not found: {key}");
    tagged(ErrorKind::InvalidArgument, KEY_NOT_FOUND, key.as_str(), message).because(cause)
}

pub(crate) fn key_disabled(key: &CryptoKeyName, cause: Error) -> Error {
    let message = format!(
        "Cloud KMS key is disabled, destroyed, or scheduled to be destroyed: {key}. {}",
        cause.message()
    );
    tagged(ErrorKind::FailedPrecondition, KEY_DISABLED, key.as_str(), message).because(cause)
}

pub(crate) fn bad_checksum(what: &str, sent: &str, found: &str) -> Error {
    let message = format!("Provided {what} \"{sent}\" doesn't match calculated {what} \"{found}\".");
    tagged(ErrorKind::InvalidArgument, BAD_CHECKSUM, what, message)
}

pub(crate) fn upload_gone() -> Error {
    tagged(ErrorKind::NotFound, UPLOAD_GONE, "upload_id", "The upload is over or was cancelled.")
}
