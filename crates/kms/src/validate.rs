//! The rules for ids, labels and times that Cloud KMS documents.
//!
//! Invariant: what is stored has passed here.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::{Error, Result, Timestamp};

use crate::external::{AccessReason, ExternalKey, Resolver};
use crate::model::{
    Algorithm, CryptoKey, NewCryptoKey, NewImportJob, ProtectionLevel, Purpose, VersionTemplate,
};

/// Characters of an id, at most.
const MAX_ID_CHARS: usize = 63;
/// Labels of a key, at most.
const MAX_LABELS: usize = 64;
/// Characters of a label's key or value, at most.
const MAX_LABEL_CHARS: usize = 63;
/// Bytes of the place of an external key, at most.
const MAX_URI: usize = 2048;
/// Characters of a host, at most (RFC 1035).
const MAX_HOST: usize = 253;
/// Certificates of an external key manager, at most; Cloud KMS's figure.
const MAX_CERTIFICATES: usize = 10;
/// Bytes of one of them, at most.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
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
    let level = level(new);
    if level != ProtectionLevel::ExternalVpc && !new.crypto_key_backend.is_empty() {
        return Err(Error::unimplemented(
            "Keys in a crypto key backend are not built, but for those of EXTERNAL_VPC.",
        ));
    }
    justifications(new.justifications.as_deref())?;
    let asked = new.template.clone().unwrap_or_default();
    if !is_external(level) {
        if level == ProtectionLevel::HsmSingleTenant {
            return Err(Error::unimplemented(
                "Keys with the protection level HSM_SINGLE_TENANT are not built; HSM is.",
            ));
        }
        if level == ProtectionLevel::Hsm && new.import_only {
            return Err(hsm_imports());
        }
        return algorithm("version_template.algorithm", &asked.algorithm);
    }
    external_algorithm(&asked.algorithm)?;
    if new.import_only {
        return Err(Error::invalid_field(
            "import_only",
            "cannot be set for a key whose material is elsewhere",
        ));
    }
    if !new.skip_initial_version {
        return Err(Error::invalid_field(
            "skip_initial_version_creation",
            "must be set for an external key: each version names the key behind it",
        ));
    }
    if new.rotation_period.is_some() || new.next_rotation_time.is_some() {
        return Err(external_schedule());
    }
    Ok(())
}

/// The protection level that a new key asks for.
pub(crate) fn level(new: &NewCryptoKey) -> ProtectionLevel {
    match new.template.as_ref().map_or(ProtectionLevel::Unspecified, |template| template.protection_level) {
        ProtectionLevel::Unspecified => ProtectionLevel::Software,
        level => level,
    }
}

fn is_external(level: ProtectionLevel) -> bool {
    matches!(level, ProtectionLevel::External | ProtectionLevel::ExternalVpc)
}

/// What material for an HSM key is answered with.
pub(crate) fn hsm_imports() -> Error {
    Error::unimplemented("Imports into keys with the protection level HSM are not built.")
}

/// What a schedule of an external key is answered with.
pub(crate) fn external_schedule() -> Error {
    Error::invalid_field("next_rotation_time", "cannot be set for an external key: its manager rotates it")
}

fn external_algorithm(algorithm: &Algorithm) -> Result<()> {
    match algorithm {
        Algorithm::Unspecified | Algorithm::ExternalSymmetricEncryption => Ok(()),
        other => Err(Error::invalid_field(
            "version_template.algorithm",
            format!(
                "{} does not fit an external key, which takes EXTERNAL_SYMMETRIC_ENCRYPTION",
                other.as_str()
            ),
        )),
    }
}

/// Checks reasons for which a key may be used.
pub(crate) fn justifications(reasons: Option<&[AccessReason]>) -> Result<()> {
    if reasons.is_some_and(|reasons| reasons.contains(&AccessReason::Unspecified)) {
        return Err(Error::invalid_field(
            "key_access_justifications_policy.allowed_access_reasons",
            "must not have REASON_UNSPECIFIED",
        ));
    }
    Ok(())
}

/// Checks where the external key of a version is, if its key has such.
pub(crate) fn external(key: &CryptoKey, external: Option<&ExternalKey>) -> Result<()> {
    let wrong = |field: &str, why: &str| {
        Err(Error::invalid_field(
            format!("crypto_key_version.external_protection_level_options.{field}"),
            why,
        ))
    };
    match (key.protection, external) {
        (ProtectionLevel::External, Some(ExternalKey::Uri(uri))) => match uri.strip_prefix("https://") {
            Some(rest) if is_path(rest) && !rest.starts_with('/') && rest.contains('/') => Ok(()),
            _ => wrong("external_key_uri", "must be a URI as in https://ekm.example.com/v0/keys/k"),
        },
        (ProtectionLevel::ExternalVpc, Some(ExternalKey::Path(path))) => {
            if is_path(path) {
                Ok(())
            } else {
                wrong("ekm_connection_key_path", "must be a path as in v0/keys/k")
            }
        }
        (ProtectionLevel::External, _) => wrong("external_key_uri", "must be set for a key of EXTERNAL"),
        (ProtectionLevel::ExternalVpc, _) => {
            wrong("ekm_connection_key_path", "must be set for a key of EXTERNAL_VPC")
        }
        (_, None) => Ok(()),
        (_, Some(_)) => wrong("external_key_uri", "can be set for external keys only"),
    }
}

/// Whether a text can stand in a URI after its scheme: no query, fragment, user or blank.
fn is_path(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:/%[]".contains(&b);
    !text.is_empty() && text.len() <= MAX_URI && text.bytes().all(fits) && !text.contains("/../")
}

/// Checks where an external key manager is, and what it is trusted by.
pub(crate) fn resolver(resolver: &Resolver) -> Result<()> {
    let Resolver { hostname, certificates, service_directory_service, endpoint_filter } = resolver;
    let wrong = |field: &str, why: String| {
        Err(Error::invalid_field(format!("ekm_connection.service_resolvers.{field}"), why))
    };
    let (host, port) = hostname.split_once(':').unwrap_or((hostname, "443"));
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let named = !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(fits);
    if !named || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err() {
        return wrong("hostname", format!("'{hostname}' is not a host, or a host and a port"));
    }
    if certificates.is_empty() || certificates.len() > MAX_CERTIFICATES {
        let why = format!("must be given: at least one, at most {MAX_CERTIFICATES}");
        return wrong("server_certificates", why);
    }
    for der in certificates {
        if der.len() > MAX_CERTIFICATE_BYTES || claviger_crypto::certificate::details(der).is_err() {
            return wrong("server_certificates.raw_der", "is not an X.509 certificate in DER".to_owned());
        }
    }
    if service_directory_service.len() > MAX_URI || endpoint_filter.len() > MAX_URI {
        return wrong("endpoint_filter", format!("is longer than {MAX_URI} bytes"));
    }
    Ok(())
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
    let level = new.protection_level;
    if level != ProtectionLevel::Software {
        let level = level.as_str();
        return Err(Error::unimplemented(format!(
            "Import jobs with the protection level {level} are not built; SOFTWARE is."
        )));
    }
    if !new.crypto_key_backend.is_empty() {
        return Err(Error::unimplemented("Import jobs in a crypto key backend are not built."));
    }
    Ok(())
}

/// Refuses a template that is not what the key has.
pub(crate) fn template_of(key: &CryptoKey, template: &VersionTemplate) -> Result<()> {
    let level = template.protection_level;
    if level != ProtectionLevel::Unspecified && level != key.protection {
        return Err(Error::invalid_field("version_template.protection_level", "never changes"));
    }
    if key.is_external() {
        return external_algorithm(&template.algorithm);
    }
    algorithm("version_template.algorithm", &template.algorithm)
}

/// Refuses an algorithm that symmetric keys do not have.
pub(crate) fn algorithm(field: &str, algorithm: &Algorithm) -> Result<()> {
    match algorithm {
        Algorithm::Unspecified | Algorithm::GoogleSymmetricEncryption => Ok(()),
        other => Err(Error::invalid_field(
            field,
            format!(
                "{} does not fit the purpose ENCRYPT_DECRYPT, which takes GOOGLE_SYMMETRIC_ENCRYPTION",
                other.as_str()
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
