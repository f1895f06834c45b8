//! The adapters over a KMS in memory: what a client sends and what it gets.

use claviger_core::{ManualClock, Timestamp};
use claviger_crypto::{SecretBytes, wrapping};
use claviger_kms::{KmsConfig, RootSecret};
use object_store::memory::InMemory;
use prost_types::FieldMask;
use tonic::Code;

use super::*;
use crate::auth::tests::asked;
use pb::crypto_key::{CryptoKeyPurpose, RotationSchedule};
use pb::crypto_key_version::{CryptoKeyVersionAlgorithm, CryptoKeyVersionState};

const PLACE: &str = "projects/p/locations/us-east1";
const RING: &str = "projects/p/locations/us-east1/keyRings/r";
const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";
const VERSION: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";

fn symmetric() -> pb::CryptoKey {
    pb::CryptoKey { purpose: CryptoKeyPurpose::EncryptDecrypt.into(), ..Default::default() }
}

fn creation(id: &str, key: pb::CryptoKey) -> Request<pb::CreateCryptoKeyRequest> {
    let (parent, crypto_key_id) = (RING.to_owned(), id.to_owned());
    asked(pb::CreateCryptoKeyRequest { parent, crypto_key_id, crypto_key: Some(key), ..Default::default() })
}

async fn api() -> KmsApi {
    let root = RootSecret::KeyFile(SecretBytes::new(vec![7; 32]));
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
    let config = KmsConfig { root, ..KmsConfig::default() };
    let kms = Kms::open(config, Arc::new(InMemory::new()), clock.clone()).await.unwrap();
    let policies = crate::orgpolicy::open(&kms, clock).await.unwrap();
    let api = KmsApi::new(kms, policies);
    let ring = pb::CreateKeyRingRequest { parent: PLACE.into(), key_ring_id: "r".into(), key_ring: None };
    let ring = api.create_key_ring(asked(ring)).await.unwrap().into_inner();
    assert_eq!((ring.name.as_str(), ring.create_time.unwrap().seconds), (RING, 1_700_000_000));
    api.create_crypto_key(creation("k", symmetric())).await.unwrap();
    api
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

async fn update(api: &KmsApi, key: pb::CryptoKey, paths: &[&str]) -> Result<pb::CryptoKey, Status> {
    let key = pb::CryptoKey { name: KEY.into(), ..key };
    let request = pb::UpdateCryptoKeyRequest { crypto_key: Some(key), update_mask: mask(paths) };
    api.update_crypto_key(asked(request)).await.map(Response::into_inner)
}

async fn set_state(api: &KmsApi, state: CryptoKeyVersionState) -> Result<pb::CryptoKeyVersion, Status> {
    let version = pb::CryptoKeyVersion { name: VERSION.into(), state: state.into(), ..Default::default() };
    let request = pb::UpdateCryptoKeyVersionRequest {
        crypto_key_version: Some(version),
        update_mask: mask(&["state"]),
    };
    api.update_crypto_key_version(asked(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_key_shows_as_in_cloud_kms() {
    let api = api().await;
    let key =
        api.get_crypto_key(asked(pb::GetCryptoKeyRequest { name: KEY.into() })).await.unwrap().into_inner();
    let primary = key.primary.clone().unwrap();
    assert_eq!((key.name.as_str(), primary.name.as_str()), (KEY, VERSION));
    assert_eq!(key.purpose(), CryptoKeyPurpose::EncryptDecrypt);
    assert_eq!(key.destroy_scheduled_duration.unwrap().seconds, 30 * 24 * 3600);
    assert_eq!(primary.state(), CryptoKeyVersionState::Enabled);
    assert_eq!(primary.algorithm(), CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption);
    assert_eq!(primary.protection_level(), pb::ProtectionLevel::Software);
    assert!(
        primary.create_time.is_some() && primary.generate_time.is_some() && primary.destroy_time.is_none()
    );
}

#[tokio::test]
async fn encrypt_and_decrypt_carry_names_checksums_and_flags() {
    let api = api().await;
    let request = pb::EncryptRequest {
        name: KEY.into(),
        plaintext: "text".into(),
        additional_authenticated_data: "aad".into(),
        plaintext_crc32c: Some(i64::from(claviger_crypto::crc32c(b"text"))),
        ..Default::default()
    };
    let sealed = api.encrypt(asked(request)).await.unwrap().into_inner();
    assert_eq!((sealed.name.as_str(), sealed.protection_level()), (VERSION, pb::ProtectionLevel::Software));
    assert!(sealed.verified_plaintext_crc32c && !sealed.verified_additional_authenticated_data_crc32c);
    assert_eq!(sealed.ciphertext_crc32c, Some(i64::from(claviger_crypto::crc32c(&sealed.ciphertext))));
    let request = |name: &str, aad: &'static str| pb::DecryptRequest {
        name: name.into(),
        ciphertext: sealed.ciphertext.clone(),
        additional_authenticated_data: aad.into(),
        ..Default::default()
    };
    let opened = api.decrypt(asked(request(KEY, "aad"))).await.unwrap().into_inner();
    assert_eq!((opened.plaintext.as_ref(), opened.used_primary), (&b"text"[..], true));
    assert_eq!(opened.plaintext_crc32c, Some(i64::from(claviger_crypto::crc32c(b"text"))));
    let wrong = api.decrypt(asked(request(KEY, "other"))).await.unwrap_err();
    assert_eq!(
        (wrong.code(), wrong.message()),
        (Code::InvalidArgument, "Decryption failed: the ciphertext is invalid.")
    );
    let version = api.decrypt(asked(request(VERSION, "aad"))).await.unwrap_err();
    assert_eq!(version.code(), Code::InvalidArgument, "Decrypt takes a key, not a version");
}

#[tokio::test]
async fn a_disabled_version_is_refused_with_the_documented_violation() {
    let api = api().await;
    let version = set_state(&api, CryptoKeyVersionState::Disabled).await.unwrap();
    assert_eq!(version.state(), CryptoKeyVersionState::Disabled);
    let request = pb::EncryptRequest { name: KEY.into(), plaintext: "x".into(), ..Default::default() };
    let refused = api.encrypt(asked(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), format!("{VERSION} is not enabled, current state is: DISABLED."));
    let details = refused.details();
    assert!(details.windows(12).any(|window| window == b"KEY_DISABLED"));
    let wrong = set_state(&api, CryptoKeyVersionState::PendingImport).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn destroy_and_restore_show_their_times() {
    let api = api().await;
    let destroy = pb::DestroyCryptoKeyVersionRequest { name: VERSION.into() };
    let version = api.destroy_crypto_key_version(asked(destroy)).await.unwrap().into_inner();
    assert_eq!(version.state(), CryptoKeyVersionState::DestroyScheduled);
    assert_eq!(version.destroy_time.unwrap().seconds, 1_700_000_000 + 30 * 24 * 3600);
    let restore = pb::RestoreCryptoKeyVersionRequest { name: VERSION.into() };
    let version = api.restore_crypto_key_version(asked(restore)).await.unwrap().into_inner();
    assert_eq!((version.state(), version.destroy_time), (CryptoKeyVersionState::Disabled, None));
}

#[tokio::test]
async fn a_mask_says_what_an_update_changes() {
    let api = api().await;
    let day = prost_types::Duration { seconds: 86_400, nanos: 0 };
    let next = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5_000 };
    let wanted = pb::CryptoKey {
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        rotation_schedule: Some(RotationSchedule::RotationPeriod(day)),
        next_rotation_time: Some(next),
        ..Default::default()
    };
    let key = update(&api, wanted.clone(), &["rotation_period", "next_rotation_time"]).await.unwrap();
    assert!(key.labels.is_empty(), "not in the mask");
    assert_eq!((key.rotation_schedule, key.next_rotation_time), (wanted.rotation_schedule, Some(next)));
    let key = update(&api, wanted, &["labels"]).await.unwrap();
    assert_eq!(key.labels["env"], "prod");
    let key =
        update(&api, pb::CryptoKey::default(), &["rotation_period", "next_rotation_time"]).await.unwrap();
    assert_eq!((key.rotation_schedule, key.next_rotation_time, key.labels.len()), (None, None, 1));
    for paths in [&[][..], &["purpose"], &["destroy_scheduled_duration"], &["labels.env"], &["nonsense"]] {
        let refused = update(&api, pb::CryptoKey::default(), paths).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{paths:?}");
    }
}

#[tokio::test]
async fn unbuilt_keys_are_unimplemented_and_nonsense_is_invalid() {
    let api = api().await;
    let hsm =
        pb::CryptoKeyVersionTemplate { protection_level: pb::ProtectionLevel::Hsm.into(), algorithm: 1 };
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let unknown_reason = pb::KeyAccessJustificationsPolicy { allowed_access_reasons: vec![99] };
    let late = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    for (key, code) in [
        (pb::CryptoKey { purpose: CryptoKeyPurpose::Mac.into(), ..Default::default() }, Code::Unimplemented),
        // Without a token.
        (pb::CryptoKey { version_template: Some(hsm), ..symmetric() }, Code::FailedPrecondition),
        (pb::CryptoKey { import_only: true, ..symmetric() }, Code::InvalidArgument),
        (
            pb::CryptoKey { key_access_justifications_policy: Some(unknown_reason), ..symmetric() },
            Code::InvalidArgument,
        ),
        (pb::CryptoKey { purpose: 99, ..Default::default() }, Code::InvalidArgument),
        (pb::CryptoKey::default(), Code::InvalidArgument),
        (pb::CryptoKey { destroy_scheduled_duration: Some(negative), ..symmetric() }, Code::InvalidArgument),
        (pb::CryptoKey { next_rotation_time: Some(late), ..symmetric() }, Code::InvalidArgument),
    ] {
        let refused = api.create_crypto_key(creation("new", key.clone())).await.unwrap_err();
        assert_eq!(refused.code(), code, "{key:?}");
        assert!(refused.message().len() > 10, "a sentence: {refused}");
    }
}

#[tokio::test]
async fn lists_have_pages_and_totals() {
    let api = api().await;
    api.create_crypto_key(creation("k2", symmetric())).await.unwrap();
    let list = pb::ListCryptoKeysRequest { parent: RING.into(), page_size: 1, ..Default::default() };
    let first = api.list_crypto_keys(asked(list.clone())).await.unwrap().into_inner();
    assert_eq!((first.crypto_keys.len(), first.total_size), (1, 2));
    let list = pb::ListCryptoKeysRequest { page_token: first.next_page_token, ..list };
    let second = api.list_crypto_keys(asked(list)).await.unwrap().into_inner();
    assert!(second.crypto_keys[0].name.ends_with("/k2") && second.next_page_token.is_empty());
    let rings = pb::ListKeyRingsRequest { parent: PLACE.into(), ..Default::default() };
    assert_eq!(api.list_key_rings(asked(rings)).await.unwrap().into_inner().key_rings.len(), 1);
    let versions = pb::ListCryptoKeyVersionsRequest { parent: KEY.into(), ..Default::default() };
    let versions = api.list_crypto_key_versions(asked(versions)).await.unwrap().into_inner();
    assert_eq!(versions.crypto_key_versions[0].name, VERSION);
}

#[tokio::test]
async fn a_key_is_imported_through_a_job() {
    use pb::import_job::{ImportJobState, ImportMethod};
    let api = api().await;
    let creation = |job: pb::ImportJob| {
        asked(pb::CreateImportJobRequest {
            parent: RING.into(),
            import_job_id: "j".into(),
            import_job: Some(job),
        })
    };
    let software = pb::ProtectionLevel::Software.into();
    let job = |method: ImportMethod| pb::ImportJob {
        import_method: method.into(),
        protection_level: software,
        ..Default::default()
    };
    for (wrong, code) in [
        (job(ImportMethod::Unspecified), Code::InvalidArgument),
        (pb::ImportJob { import_method: 99, ..Default::default() }, Code::InvalidArgument),
        (job(ImportMethod::HpkeKemXwingHkdfSha256Aes256Gcm), Code::Unimplemented),
        (
            pb::ImportJob { protection_level: 0, ..job(ImportMethod::RsaOaep3072Sha256) },
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(
            api.create_import_job(creation(wrong.clone())).await.unwrap_err().code(),
            code,
            "{wrong:?}"
        );
    }
    let made =
        api.create_import_job(creation(job(ImportMethod::RsaOaep3072Sha256))).await.unwrap().into_inner();
    assert_eq!((made.state(), made.public_key), (ImportJobState::PendingGeneration, None));
    assert_eq!(made.expire_time.unwrap().seconds, 1_700_000_000 + 3 * 24 * 3600);
    api.kms.generate_import_keys().await.unwrap();
    let get = async |format: i32| {
        let request = pb::GetImportJobRequest { name: made.name.clone(), public_key_format: format };
        api.get_import_job(asked(request)).await.map(Response::into_inner)
    };
    let active = get(0).await.unwrap();
    let pem = active.public_key.clone().unwrap().pem;
    assert_eq!(
        (active.state(), get(1).await.unwrap().public_key.unwrap().pem),
        (ImportJobState::Active, pem.clone())
    );
    let der = get(2).await.unwrap().public_key.unwrap();
    assert_eq!((der.pem.as_str(), der.data.as_ref()), ("", wrapping::public_der(&pem).unwrap().as_slice()));
    for format in [3, 4, 99] {
        assert_eq!(get(format).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let method = wrapping::Method::RsaOaep3072Sha256;
    let wrapped = wrapping::wrap(method, &pem, &SecretBytes::new(vec![5; 32])).unwrap();
    let request = pb::ImportCryptoKeyVersionRequest {
        parent: KEY.into(),
        algorithm: CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption.into(),
        import_job: active.name.clone(),
        wrapped_key: wrapped.clone().into(),
        ..Default::default()
    };
    let import =
        async |request| api.import_crypto_key_version(asked(request)).await.map(Response::into_inner);
    let version = import(request.clone()).await.unwrap();
    assert_eq!(
        (version.state(), version.import_job.as_str()),
        (CryptoKeyVersionState::Enabled, active.name.as_str())
    );
    assert!(version.import_time.is_some() && version.generate_time.is_none() && !version.reimport_eligible);
    let older = pb::import_crypto_key_version_request::WrappedKeyMaterial::RsaAesWrappedKey(wrapped.into());
    let both = pb::ImportCryptoKeyVersionRequest { wrapped_key_material: Some(older), ..request.clone() };
    assert_eq!(import(both.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    let older = pb::ImportCryptoKeyVersionRequest { wrapped_key: "".into(), ..both };
    assert_eq!(import(older).await.unwrap().state(), CryptoKeyVersionState::Enabled);
    let failed = pb::ImportCryptoKeyVersionRequest { wrapped_key: "x".into(), ..request.clone() };
    let failed = import(failed).await.unwrap();
    assert_eq!(
        (failed.state(), failed.import_failure_reason.as_str(), failed.reimport_eligible),
        (CryptoKeyVersionState::ImportFailed, "Wrapped key has invalid length", true)
    );
    let trusted = pb::ImportCryptoKeyVersionRequest { trusted_wrapping_enabled: true, ..request };
    assert_eq!(import(trusted).await.unwrap_err().code(), Code::Unimplemented);
    let list = pb::ListImportJobsRequest { parent: RING.into(), ..Default::default() };
    let listed = api.list_import_jobs(asked(list)).await.unwrap().into_inner();
    assert_eq!((listed.import_jobs, listed.total_size), (vec![active], 1));
}

#[tokio::test]
async fn a_version_is_created_enabled_or_disabled() {
    let api = api().await;
    let create = async |state: i32| {
        let version = pb::CryptoKeyVersion { state, ..Default::default() };
        let request =
            pb::CreateCryptoKeyVersionRequest { parent: KEY.into(), crypto_key_version: Some(version) };
        api.create_crypto_key_version(asked(request)).await.map(|reply| reply.into_inner().state())
    };
    assert_eq!(create(0).await.unwrap(), CryptoKeyVersionState::Enabled);
    assert_eq!(create(2).await.unwrap(), CryptoKeyVersionState::Disabled);
    for state in [3, 5, 99] {
        assert_eq!(create(state).await.unwrap_err().code(), Code::InvalidArgument, "{state}");
    }
}

#[tokio::test]
async fn policies_are_set_read_and_tested() {
    let api = api().await;
    let binding = iam::Binding {
        role: "roles/cloudkms.cryptoKeyEncrypterDecrypter".into(),
        members: vec!["user:ada@example.com".into()],
        condition: None,
    };
    let policy = iam::Policy { bindings: vec![binding.clone()], ..Default::default() };
    let set = |policy: iam::Policy| {
        asked(iam::SetIamPolicyRequest { resource: KEY.into(), policy: Some(policy), update_mask: None })
    };
    let kept = api.set_iam_policy(set(policy.clone())).await.unwrap().into_inner();
    let get = iam::GetIamPolicyRequest { resource: KEY.into(), options: None };
    assert_eq!(api.get_iam_policy(asked(get)).await.unwrap().into_inner(), kept);
    let stale = iam::Policy { etag: "stale".into(), ..policy.clone() };
    assert_eq!(api.set_iam_policy(set(stale)).await.unwrap_err().code(), Code::Aborted);
    let condition =
        Some(claviger_proto::google::r#type::Expr { expression: "true".into(), ..Default::default() });
    let conditional =
        iam::Policy { bindings: vec![iam::Binding { condition, ..binding }], ..Default::default() };
    assert_eq!(api.set_iam_policy(set(conditional)).await.unwrap_err().code(), Code::Unimplemented);
    let audited = iam::Policy { audit_configs: vec![Default::default()], ..policy };
    assert_eq!(api.set_iam_policy(set(audited)).await.unwrap_err().code(), Code::Unimplemented);
    let wanted = vec!["cloudkms.cryptoKeys.get".to_owned()];
    let test = iam::TestIamPermissionsRequest { resource: RING.into(), permissions: wanted.clone() };
    assert_eq!(api.test_iam_permissions(asked(test)).await.unwrap().into_inner().permissions, wanted);
    let other = iam::GetIamPolicyRequest { resource: "projects/p/instances/i".into(), options: None };
    assert_eq!(api.get_iam_policy(asked(other)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn locations_come_in_pages() {
    let api = api().await;
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let request = places::ListLocationsRequest {
            name: "projects/p".into(),
            page_size: 10,
            page_token: token,
            ..Default::default()
        };
        let page = api.list_locations(asked(request)).await.unwrap().into_inner();
        seen.extend(page.locations.into_iter().map(|location| location.location_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, claviger_kms::locations::LOCATIONS);
    let request = places::GetLocationRequest { name: "projects/p/locations/my-cellar".into() };
    assert_eq!(api.get_location(asked(request)).await.unwrap().into_inner().location_id, "my-cellar");
}
