//! The checks of a job's key, and what users are told of them, in Dataflow's words.
//!
//! Invariant: what can be seen in the request alone is refused at once; what has to be asked of the key ends
//! the job that was made, since that is where Dataflow says it.

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, ErrorKind, Result};

use crate::files::BucketInfo;

/// How the message of a failed job begins.
pub(crate) const FAILED: &str = "Workflow failed. Causes: ";
const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

/// Reads the name of a key for a job in a region.
///
/// # Errors
/// `InvalidArgument` for a name of another form, or a key of another place.
pub(crate) fn parse(name: &str, region: &str) -> Result<CryptoKeyName> {
    let field = "job.environment.service_kms_key_name";
    let key = CryptoKeyName::parse(name).map_err(|_| {
        Error::invalid_field(
            field,
            format!(
                "The workflow could not be created. Causes: Cloud KMS key {name} cannot be validated: a key's name has the form {}.",
                CryptoKeyName::SHAPE
            ),
        )
    })?;
    if key.location() != region {
        return Err(Error::invalid_field(
            field,
            format!(
                "The workflow could not be created. Causes: Cloud KMS key {key} can't protect resources for this job: its location is {}, and the job's region is {region}. The key has to be in the region of the job.",
                key.location()
            ),
        ));
    }
    Ok(key)
}

/// What a job that could not use its key is told. None: the key service was silent, which says nothing.
pub(crate) fn refused(key: &CryptoKeyName, agent: &str, error: &Error) -> Option<String> {
    let agent = agent.split_once(':').map_or(agent, |(_, email)| email);
    let why = match error.kind() {
        ErrorKind::PermissionDenied => {
            let denied = "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied";
            let detail = if error.message().contains("cloudkms.") {
                error.message().to_owned()
            } else {
                format!("{denied} on resource '{key}' (or it may not exist).")
            };
            format!("{detail} Grant {agent} the role {ROLE} on the key.")
        }
        ErrorKind::NotFound | ErrorKind::FailedPrecondition | ErrorKind::InvalidArgument => {
            error.message().to_owned()
        }
        _ => return None,
    };
    Some(format!("{FAILED}Cloud KMS key {key} cannot be validated. {why}"))
}

/// Checks a bucket of a job that has a key: what it keeps there is to be in the job's own place.
///
/// # Errors
/// `FailedPrecondition` when the bucket's key is in another place.
pub(crate) fn check_bucket(name: &str, bucket: &BucketInfo, region: &str) -> Result<()> {
    let Some(key) = &bucket.kms_key else { return Ok(()) };
    if covers(key.location(), region) {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "The bucket gs://{name} is protected by the Cloud KMS key {key}, which is in {} and can't protect resources for a job in {region}. Use a bucket in the region of the job.",
        key.location()
    )))
}

/// Whether a place of keys is the region, or a multi-region around it.
fn covers(location: &str, region: &str) -> bool {
    let continent = |name: &str| match name {
        "eu" | "europe" => Some("europe-"),
        "us" | "nam4" | "nam3" => Some("us-"),
        "asia" | "asia1" => Some("asia-"),
        _ => None,
    };
    location == region || continent(location).is_some_and(|prefix| region.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    #[test]
    fn a_key_is_refused_for_its_form_and_for_its_place() {
        assert_eq!(parse(KEY, "us-east1").unwrap().as_str(), KEY);
        for (name, region, part) in [
            ("k", "us-east1", "cannot be validated"),
            (KEY, "us-east4", "can't protect resources for this job"),
            ("projects/p/locations/global/keyRings/r/cryptoKeys/k", "us-east1", "its location is global"),
        ] {
            let error = parse(name, region).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn a_missing_grant_names_key_permission_agent_and_role() {
        let key = CryptoKeyName::parse(KEY).unwrap();
        let told = refused(&key, "serviceAccount:a@b", &Error::permission_denied("no")).unwrap();
        for part in [
            "Workflow failed. Causes: Cloud KMS key",
            "cannot be validated",
            "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied",
            "Grant a@b the role roles/cloudkms",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let silent = Error::new(ErrorKind::Unavailable, "no answer");
        assert_eq!(refused(&key, "a", &silent), None);
    }

    #[test]
    fn a_bucket_of_another_regions_key_is_refused() {
        let bucket = |location: &str| BucketInfo {
            location: location.into(),
            kms_key: Some(CryptoKeyName::new("p", location, "r", "k").unwrap()),
        };
        assert!(check_bucket("b", &bucket("us-east1"), "us-east1").is_ok());
        assert!(check_bucket("b", &bucket("us"), "us-east1").is_ok());
        assert!(check_bucket("b", &bucket("europe"), "us-east1").is_err());
        let error = check_bucket("b", &bucket("europe-west4"), "us-east1").unwrap_err();
        assert!(error.message().contains("gs://b") && error.message().contains("europe-west4"), "{error}");
        let plain = BucketInfo { location: "europe-west4".into(), kms_key: None };
        assert!(check_bucket("b", &plain, "us-east1").is_ok());
    }
}
