//! The rules for ids, labels and times that Cloud KMS documents.
//!
//! Invariant: what is stored has passed here.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::{Error, Result, Timestamp};

use crate::model::{Algorithm, NewCryptoKey, NewImportJob, ProtectionLevel, Purpose, VersionTemplate};

/// Characters of an id, at most.
const MAX_ID_CHARS: usize = 63;
/// Labels of a key, at most.
const MAX_LABELS: usize = 64;
/// Characters of a label's key or value, at most.
const MAX_LABEL_CHARS: usize = 63;
/// The longest rotation period.
const MAX_ROTATION: Duration = Duration::from_secs(876_000 * 3600);
/// The longest time that a version stays scheduled for destruction.
const MAX_DESTROY: Duration = Duration::from_secs(120 * 24 * 3600);

/// Checks the id of a key ring or key to be made.
pub(crate) fn id(field: &str, id: &str) -> Result<()> {
    let fits = !id.is_empty()
        && id.len() <= MAX_ID_CHARS
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if fits {
        Ok(())
    } else {
        Err(Error::invalid_field(field, format!("'{id}' must match [a-zA-Z0-9_-]{{1,63}}")))
    }
}

/// Checks labels: at most 64, keys beginning with a lowercase letter, no uppercase anywhere.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let fits = |text: &str| {
        text.chars().count() <= MAX_LABEL_CHARS
            && text.chars().all(|c| (c.is_alphanumeric() && !c.is_uppercase()) || matches!(c, '_' | '-'))
    };
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid_field("labels", format!("at most {MAX_LABELS} labels are allowed")));
    }
    for (key, value) in labels {
        if !fits(key) || !key.starts_with(|c: char| c.is_alphabetic()) {
            return Err(Error::invalid_field(
                "labels",
                format!(
                    "'{key}' is not a label key: up to 63 lowercase letters, digits, _ and -, beginning with a letter"
                ),
            ));
        }
        if !fits(value) {
            return Err(Error::invalid_field(
                "labels",
                format!("'{value}' is not a label value: up to 63 lowercase letters, digits, _ and -"),
            ));
        }
    }
    Ok(())
}

/// Checks a rotation schedule as a whole.
pub(crate) fn rotation(period: Option<Duration>, next: Option<Timestamp>, shortest: Duration) -> Result<()> {
    let Some(period) = period else { return Ok(()) };
    if period < shortest || period > MAX_ROTATION {
        return Err(Error::invalid_field(
            "rotation_period",
            format!("must be at least {} s and at most {} s", shortest.as_secs_f64(), MAX_ROTATION.as_secs()),
        ));
    }
    if next.is_none() {
        return Err(Error::invalid_field("next_rotation_time", "must be set when rotation_period is set"));
    }
    Ok(())
}

/// Checks a time of the next rotation that a user gave.
pub(crate) fn next_rotation(next: Option<Timestamp>, now: Timestamp) -> Result<()> {
    match next {
        Some(next) if next < now => {
            Err(Error::invalid_field("next_rotation_time", "must not be in the past"))
        }
        _ => Ok(()),
    }
}

/// Checks how long versions stay scheduled for destruction.
pub(crate) fn destroy_duration(duration: Duration, shortest: Duration) -> Result<()> {
    if duration < shortest || duration > MAX_DESTROY {
        return Err(Error::invalid_field(
            "destroy_scheduled_duration",
            format!("must be at least {} s and at most {} s", shortest.as_secs_f64(), MAX_DESTROY.as_secs()),
        ));
    }
    Ok(())
}

/// Refuses what a new key may ask for and is not built.
pub(crate) fn new_key(new: &NewCryptoKey) -> Result<()> {
    let purpose = match new.purpose {
        Purpose::EncryptDecrypt => None,
        Purpose::Unspecified => return Err(Error::invalid_field("crypto_key.purpose", "must be set")),
        Purpose::AsymmetricSign => Some("ASYMMETRIC_SIGN"),
        Purpose::AsymmetricDecrypt => Some("ASYMMETRIC_DECRYPT"),
        Purpose::RawEncryptDecrypt => Some("RAW_ENCRYPT_DECRYPT"),
        Purpose::Mac => Some("MAC"),
        Purpose::KeyEncapsulation => Some("KEY_ENCAPSULATION"),
        Purpose::AesWrapping => Some("AES_WRAPPING"),
    };
    if let Some(purpose) = purpose {
        return Err(Error::unimplemented(format!(
            "Keys with the purpose {purpose} are not built; ENCRYPT_DECRYPT is."
        )));
    }
    if new.import_only && !new.skip_initial_version {
        return Err(Error::invalid_field(
            "skip_initial_version_creation",
            "must be set for a key that is import-only: nothing can be generated in it",
        ));
    }
    if new.import_only && (new.rotation_period.is_some() || new.next_rotation_time.is_some()) {
        return Err(import_only_schedule());
    }
    if !new.crypto_key_backend.is_empty() {
        return Err(Error::unimplemented("Keys in a crypto key backend are not built."));
    }
    template(&new.template.clone().unwrap_or_default())
}

/// What a schedule of a key that is import-only is answered with.
pub(crate) fn import_only_schedule() -> Error {
    Error::invalid_field("next_rotation_time", "cannot be set for a key that is import-only")
}

/// Refuses what a new import job may ask for and is not built.
pub(crate) fn new_job(new: &NewImportJob) -> Result<()> {
    if new.protection_level == ProtectionLevel::Unspecified {
        return Err(Error::invalid_field("import_job.protection_level", "must be set"));
    }
    software(new.protection_level, "Import jobs")?;
    if !new.crypto_key_backend.is_empty() {
        return Err(Error::unimplemented("Import jobs in a crypto key backend are not built."));
    }
    Ok(())
}

fn software(level: ProtectionLevel, what: &str) -> Result<()> {
    let level = match level {
        ProtectionLevel::Unspecified | ProtectionLevel::Software => return Ok(()),
        ProtectionLevel::Hsm => "HSM",
        ProtectionLevel::External => "EXTERNAL",
        ProtectionLevel::ExternalVpc => "EXTERNAL_VPC",
        ProtectionLevel::HsmSingleTenant => "HSM_SINGLE_TENANT",
    };
    Err(Error::unimplemented(format!("{what} with the protection level {level} are not built; SOFTWARE is.")))
}

/// Refuses a template that is not for symmetric software keys.
pub(crate) fn template(template: &VersionTemplate) -> Result<()> {
    software(template.protection_level, "Keys")?;
    algorithm("version_template.algorithm", &template.algorithm)
}

/// Refuses an algorithm that symmetric keys do not have.
pub(crate) fn algorithm(field: &str, algorithm: &Algorithm) -> Result<()> {
    match algorithm {
        Algorithm::Unspecified | Algorithm::GoogleSymmetricEncryption => Ok(()),
        Algorithm::Other(name) => Err(Error::invalid_field(
            field,
            format!(
                "{name} does not fit the purpose ENCRYPT_DECRYPT, which takes GOOGLE_SYMMETRIC_ENCRYPTION"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_documented_pattern() {
        for good in ["a", "A-b_9", &"x".repeat(63)] {
            assert!(id("key_ring_id", good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a:b", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert!(id("key_ring_id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_follow_the_documented_rules() {
        let one = |k: &str, v: &str| labels(&BTreeMap::from([(k.to_owned(), v.to_owned())]));
        for (k, v) in [("env", "prod"), ("a-b_9", ""), ("é", "ü1"), (&"k".repeat(63), &"v".repeat(63))] {
            assert!(one(k, v).is_ok(), "{k}={v}");
        }
        for (k, v) in [
            ("", "v"),
            ("Env", "v"),
            ("9a", "v"),
            ("k", "V"),
            ("k", "a b"),
            ("_k", "v"),
            (&"k".repeat(64), "v"),
        ] {
            assert!(one(k, v).is_err(), "{k}={v}");
        }
        let many = (0..65).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(labels(&many).is_err());
    }

    #[test]
    fn a_rotation_period_lies_in_its_bounds_and_needs_a_first_time() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        assert!(rotation(Some(day), Some(Timestamp(1)), day).is_ok());
        assert!(rotation(None, Some(Timestamp(1)), day).is_ok());
        assert!(rotation(Some(876_000 * hour), Some(Timestamp(1)), day).is_ok());
        assert!(rotation(Some(day), None, day).is_err());
        assert!(rotation(Some(day - Duration::from_secs(1)), Some(Timestamp(1)), day).is_err());
        assert!(rotation(Some(876_001 * hour), Some(Timestamp(1)), day).is_err());
    }
}
