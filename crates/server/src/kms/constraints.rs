//! What organization policies ask of keys, before the KMS is asked.
//!
//! Invariant: a name that cannot be read is refused as the method itself would. What is not there, or in no state to
//! be changed, is left to the KMS to refuse.

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, KeyRingName};
use claviger_core::{Caller, Result};
use claviger_kms::Kms;
use claviger_kms::model::VersionState;
use claviger_orgpolicy::Policies;
use claviger_proto::google::cloud::kms::v1 as pb;

use super::convert;

/// The level of keys whose template names none.
const LEVEL: pb::ProtectionLevel = pb::ProtectionLevel::Software;

/// The level that a template asks for. A number that is none is for the KMS to refuse.
fn level(template: Option<&pb::CryptoKeyVersionTemplate>) -> pb::ProtectionLevel {
    let asked = template.map(pb::CryptoKeyVersionTemplate::protection_level);
    asked.filter(|level| *level != pb::ProtectionLevel::Unspecified).unwrap_or(LEVEL)
}

/// The level of a key that is there.
fn level_of(kms: &Kms, key: &CryptoKeyName) -> &'static str {
    // Whatever the caller may see: the policy is the administrator's.
    let key = kms.get_crypto_key(&Caller::local_admin(), key);
    key.map_or(LEVEL.as_str_name(), |view| view.key.protection.as_str())
}

/// A new key's protection level and time before destruction.
pub(super) fn new_key(policies: &Policies, kms: &Kms, request: &pb::CreateCryptoKeyRequest) -> Result<()> {
    let parent = KeyRingName::parse(&request.parent)?;
    let key = request.crypto_key.as_ref();
    let level = level(key.and_then(|key| key.version_template.as_ref()));
    policies.protection_level(parent.project(), level.as_str_name(), "CreateCryptoKey")?;
    let duration = key.and_then(|key| key.destroy_scheduled_duration);
    let duration = duration.map(|asked| convert::duration_from("destroy_scheduled_duration", asked));
    let duration = duration.transpose()?.unwrap_or_else(|| kms.default_destroy_duration());
    policies.destroy_duration(parent.project(), duration, "CreateCryptoKey")
}

/// A new version's protection level.
pub(super) fn new_version(
    policies: &Policies,
    kms: &Kms,
    request: &pb::CreateCryptoKeyVersionRequest,
) -> Result<()> {
    let parent = CryptoKeyName::parse(&request.parent)?;
    policies.protection_level(parent.project(), level_of(kms, &parent), "CreateCryptoKeyVersion")
}

/// The protection level of what a job brings in.
pub(super) fn new_job(policies: &Policies, _: &Kms, request: &pb::CreateImportJobRequest) -> Result<()> {
    let parent = KeyRingName::parse(&request.parent)?;
    let asked = request.import_job.as_ref().map(pb::ImportJob::protection_level);
    let level = asked.filter(|level| *level != pb::ProtectionLevel::Unspecified).unwrap_or(LEVEL);
    policies.protection_level(parent.project(), level.as_str_name(), "CreateImportJob")
}

/// The protection level of an imported version, unless it was there.
pub(super) fn import(
    policies: &Policies,
    kms: &Kms,
    request: &pb::ImportCryptoKeyVersionRequest,
) -> Result<()> {
    let parent = CryptoKeyName::parse(&request.parent)?;
    if !request.crypto_key_version.is_empty() {
        return Ok(());
    }
    policies.protection_level(parent.project(), level_of(kms, &parent), "ImportCryptoKeyVersion")
}

/// The protection level of versions to come.
pub(super) fn changed_key(
    policies: &Policies,
    kms: &Kms,
    request: &pb::UpdateCryptoKeyRequest,
) -> Result<()> {
    let Some(key) = &request.crypto_key else { return Ok(()) };
    let name = CryptoKeyName::parse(&key.name)?;
    let mut paths = request.update_mask.iter().flat_map(|mask| &mask.paths);
    if !paths.any(|path| path.starts_with("version_template")) {
        return Ok(());
    }
    let asked = key.version_template.as_ref().map(pb::CryptoKeyVersionTemplate::protection_level);
    let level = match asked.filter(|level| *level != pb::ProtectionLevel::Unspecified) {
        Some(level) => level.as_str_name(),
        None => level_of(kms, &name),
    };
    policies.protection_level(name.project(), level, "UpdateCryptoKey")
}

/// Whether the version must be disabled first.
pub(super) fn destruction(
    policies: &Policies,
    kms: &Kms,
    request: &pb::DestroyCryptoKeyVersionRequest,
) -> Result<()> {
    let name = CryptoKeyVersionName::parse(&request.name)?;
    // Whatever the caller may see: the policy is the administrator's.
    match kms.get_version(&Caller::local_admin(), &name) {
        Ok(version) if version.state == VersionState::Enabled => {
            policies.destroy_in_use(name.project(), "ENABLED", "DestroyCryptoKeyVersion")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use claviger_core::{ManualClock, Timestamp};
    use claviger_crypto::SecretBytes;
    use claviger_kms::model::NewCryptoKey;
    use claviger_kms::{KmsConfig, RootSecret};
    use claviger_orgpolicy::{Constraint, PolicyName, Rule, Spec, Wish, WishedSpec};
    use object_store::memory::InMemory;

    use super::*;

    const RING: &str = "projects/p/locations/us-east1/keyRings/r";
    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";
    const DAY: i64 = 24 * 3600;

    async fn opened() -> (Arc<Kms>, Arc<Policies>) {
        let root = RootSecret::KeyFile(SecretBytes::new(vec![7; 32]));
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
        let config = KmsConfig { root, ..KmsConfig::default() };
        let kms = Kms::open(config, Arc::new(InMemory::new()), clock.clone()).await.unwrap();
        let policies = crate::orgpolicy::open(&kms, clock).await.unwrap();
        (kms, policies)
    }

    async fn set(policies: &Arc<Policies>, constraint: Constraint, rule: Rule) {
        let spec = Spec { rules: vec![rule], ..Spec::default() };
        let spec = Some(WishedSpec { spec, ..WishedSpec::default() });
        let name = PolicyName { project: "p".into(), constraint };
        policies.create(name, Wish { spec, ..Wish::default() }).await.unwrap();
    }

    fn allowed(value: &str) -> Rule {
        Rule::Values { allowed: vec![value.into()], denied: Vec::new() }
    }

    #[tokio::test]
    async fn every_way_to_a_new_version_asks_for_its_level() {
        let (kms, policies) = opened().await;
        let asked = || {
            let job = pb::CreateImportJobRequest { parent: RING.into(), ..Default::default() };
            let key = pb::CreateCryptoKeyRequest { parent: RING.into(), ..Default::default() };
            let version = pb::CreateCryptoKeyVersionRequest { parent: KEY.into(), ..Default::default() };
            let imported = pb::ImportCryptoKeyVersionRequest { parent: KEY.into(), ..Default::default() };
            let mut changed = pb::UpdateCryptoKeyRequest {
                crypto_key: Some(pb::CryptoKey { name: KEY.into(), ..Default::default() }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["labels".into()] }),
            };
            changed_key(&policies, &kms, &changed).unwrap();
            changed.update_mask = Some(prost_types::FieldMask { paths: vec!["version_template".into()] });
            [
                new_job(&policies, &kms, &job),
                new_key(&policies, &kms, &key),
                new_version(&policies, &kms, &version),
                import(&policies, &kms, &imported),
                changed_key(&policies, &kms, &changed),
            ]
        };
        assert!(asked().iter().all(Result::is_ok));
        set(&policies, Constraint::AllowedProtectionLevels, allowed("HSM")).await;
        for refused in asked() {
            let error = refused.unwrap_err();
            assert_eq!(error.violations()[0].kind, "constraints/cloudkms.allowedProtectionLevels");
        }
        let again = pb::ImportCryptoKeyVersionRequest {
            parent: KEY.into(),
            crypto_key_version: format!("{KEY}/cryptoKeyVersions/1"),
            ..Default::default()
        };
        import(&policies, &kms, &again).unwrap();
    }

    #[tokio::test]
    async fn a_new_key_that_names_no_time_has_the_servers_default() {
        let (kms, policies) = opened().await;
        let key = |seconds: Option<i64>| {
            let duration = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
            let key = pb::CryptoKey { destroy_scheduled_duration: duration, ..Default::default() };
            let request = pb::CreateCryptoKeyRequest {
                parent: RING.into(),
                crypto_key: Some(key),
                ..Default::default()
            };
            new_key(&policies, &kms, &request)
        };
        set(&policies, Constraint::MinimumDestroyScheduledDuration, allowed("in:60d")).await;
        key(Some(60 * DAY)).unwrap();
        key(Some(60 * DAY - 1)).unwrap_err();
        // Thirty days.
        key(None).unwrap_err();
    }

    #[tokio::test]
    async fn an_enabled_version_is_not_destroyed_and_a_missing_one_is_left_to_the_kms() {
        let (kms, policies) = opened().await;
        let admin = Caller::local_admin();
        let ring = KeyRingName::parse(RING).unwrap();
        let place = claviger_core::names::LocationName::new("p", "us-east1").unwrap();
        kms.create_key_ring(&admin, &place, "r").await.unwrap();
        kms.create_crypto_key(&admin, &ring, "k", NewCryptoKey::symmetric()).await.unwrap();
        set(&policies, Constraint::DisableBeforeDestroy, Rule::Enforce(true)).await;
        let version = |number: u32| pb::DestroyCryptoKeyVersionRequest {
            name: format!("{KEY}/cryptoKeyVersions/{number}"),
        };
        destruction(&policies, &kms, &version(1)).unwrap_err();
        destruction(&policies, &kms, &version(2)).unwrap();
        let name = CryptoKeyVersionName::parse(&version(1).name).unwrap();
        kms.update_version_state(&admin, &name, VersionState::Disabled).await.unwrap();
        destruction(&policies, &kms, &version(1)).unwrap();
    }
}
