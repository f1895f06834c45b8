//! Import jobs, and key material that comes from elsewhere.

use super::*;
use crate::iam::Policy;
use crate::model::{CryptoKeyUpdate, PageRequest};

const METHOD: Method = Method::RsaOaep3072Sha256Aes256;
const MATERIAL: [u8; 32] = [0x51; 32];
const HOUR: Duration = Duration::from_secs(3600);

/// A KMS with an import-only key and a job that is active.
async fn importing() -> (World, ImportJob) {
    let world = World::empty().await;
    world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
    let new = NewCryptoKey {
        import_only: true,
        skip_initial_version: true,
        destroy_scheduled_duration: Some(HOUR),
        ..NewCryptoKey::symmetric()
    };
    world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap();
    let job = world.job("j", METHOD).await;
    (world, job)
}

#[tokio::test]
async fn material_is_imported_by_every_method_and_used() {
    for method in Method::ALL {
        let (world, _) = importing().await;
        let job = world.job("other", method).await;
        assert_eq!((job.state, job.generate_time), (ImportJobState::Active, Some(START)));
        assert_eq!(job.expire_time, START.plus(3 * DAY));
        let version = world.import(&job, &MATERIAL, None).await.unwrap();
        assert_eq!((version.number, version.state), (1, VersionState::Enabled), "{method:?}");
        let import = version.import.clone().unwrap();
        assert_eq!((&import.job, import.time, import.failure), (&job.name, Some(START), None));
        assert!(!version.reimport_eligible());
        assert_eq!(world.view().primary, None, "it does not become primary by itself");
        world.kms.update_primary_version(&admin(), &key(), "1").await.unwrap();
        let sealed = world.encrypt("text").await.unwrap();
        // The ciphertext is under the very material that was brought in.
        let material = claviger_crypto::SecretKey::from_slice(&MATERIAL).unwrap();
        let parsed = crate::ciphertext::parse(&sealed).unwrap();
        let opened =
            crate::ciphertext::open(parsed.kind, &material, &key(), parsed.version, b"aad", parsed.message)
                .unwrap();
        assert_eq!(opened.expose(), b"text");
        let world = world.restarted().await;
        assert_eq!(world.decrypt(&sealed).await.unwrap(), "text");
    }
}

#[tokio::test]
async fn a_job_waits_for_its_key_is_active_for_three_days_and_expires_for_good() {
    let (world, _) = importing().await;
    let new = NewImportJob::software(METHOD);
    let job = world.kms.create_import_job(&admin(), &ring(), "slow", new).await.unwrap();
    let get = |world: &World| world.kms.get_import_job(&admin(), &job.name).unwrap();
    assert_eq!((job.state, job.public_key.clone()), (ImportJobState::PendingGeneration, None));
    let error = world.import_wrapped(&job, vec![1; 424], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.violations()[0].kind, "IMPORT_JOB_PENDING_GENERATION");
    assert!(error.message().ends_with("current state is: PENDING_GENERATION."), "{error}");
    // A job that was still pending when the server stopped gets its key after the start.
    let world = world.restarted().await;
    world.kms.generate_import_keys().await.unwrap();
    let active = get(&world);
    assert_eq!(active.state, ImportJobState::Active);
    let world = world.restarted().await;
    assert_eq!(get(&world), active);
    world.import(&active, &MATERIAL, None).await.unwrap();
    assert_eq!(world.materials().await, 3, "a version and the keys of two jobs");

    world.clock.advance(3 * DAY);
    let error = world.import(&active, &MATERIAL, None).await.unwrap_err();
    assert_eq!(error.violations()[0].kind, "IMPORT_JOB_EXPIRED", "also before its end was recorded");
    assert_eq!(world.kms.tick().await.unwrap(), None);
    let ended = get(&world);
    assert_eq!((ended.state, ended.public_key.clone()), (ImportJobState::Expired, None));
    assert_eq!(ended.expire_event_time, Some(world.clock.now()));
    assert_eq!(world.materials().await, 1, "the private keys are really gone");
    let world = world.restarted().await;
    assert_eq!(get(&world), ended);
    let error = world.import(&active, &MATERIAL, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let methods: Vec<_> = world.audited().await.into_iter().map(|entry| entry.method).collect();
    for method in ["CreateImportJob", "GenerateImportJobKey", "ImportCryptoKeyVersion", "ExpireImportJob"] {
        assert!(methods.iter().any(|logged| logged == method), "{method} in {methods:?}");
    }
}

#[tokio::test]
async fn the_loop_makes_the_keys_of_jobs_by_itself() {
    let (world, _) = importing().await;
    let running = tokio::spawn(world.kms.clone().run());
    let new = NewImportJob::software(METHOD);
    let job = world.kms.create_import_job(&admin(), &ring(), "j2", new).await.unwrap();
    while world.kms.get_import_job(&admin(), &job.name).unwrap().state != ImportJobState::Active {
        tokio::task::yield_now().await;
    }
    running.abort();
}

#[tokio::test]
async fn jobs_are_named_once_listed_and_refused_when_they_are_not_built() {
    let (world, job) = importing().await;
    let create = async |id: &str, new| world.kms.create_import_job(&admin(), &ring(), id, new).await;
    let again = create("j", NewImportJob::software(METHOD)).await.unwrap_err();
    assert_eq!(
        (again.kind(), again.message().to_owned()),
        (ErrorKind::AlreadyExists, format!("ImportJob {} already exists.", job.name))
    );
    assert_eq!(
        create("a.b", NewImportJob::software(METHOD)).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    use crate::model::ProtectionLevel;
    for (level, backend, kind) in [
        (ProtectionLevel::Unspecified, "", ErrorKind::InvalidArgument),
        (ProtectionLevel::Hsm, "", ErrorKind::Unimplemented),
        (ProtectionLevel::Software, "b", ErrorKind::Unimplemented),
    ] {
        let new =
            NewImportJob { method: METHOD, protection_level: level, crypto_key_backend: backend.into() };
        assert_eq!(create("new", new).await.unwrap_err().kind(), kind, "{level:?} {backend}");
    }
    create("pending", NewImportJob::software(Method::RsaOaep4096Sha256)).await.unwrap();
    let list = |filter: &str| {
        let page = PageRequest { filter: filter.into(), ..PageRequest::default() };
        let page = world.kms.list_import_jobs(&admin(), &ring(), &page).unwrap();
        page.items.iter().map(|job| job.name.import_job().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(""), ["j", "pending"]);
    assert_eq!(list("state=ACTIVE"), ["j"]);
    assert_eq!(list("importMethod:4096 AND expireTime>2023-11-14T00:00:00Z"), ["pending"]);
    let missing = ImportJobName::new("p1", "us-east1", "r", "none").unwrap();
    assert_eq!(world.kms.get_import_job(&admin(), &missing).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn only_so_many_jobs_wait_for_their_keys() {
    let (world, _) = importing().await;
    let create = async |number: u32| {
        let new = NewImportJob::software(METHOD);
        world.kms.create_import_job(&admin(), &ring(), &format!("p{number}"), new).await
    };
    for number in 0..64 {
        create(number).await.unwrap();
    }
    assert_eq!(create(64).await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    world.clock.advance(3 * DAY);
    world.kms.tick().await.unwrap();
    create(65).await.unwrap();
}

#[tokio::test]
async fn material_that_is_no_good_leaves_a_failed_version_with_the_reason() {
    let (world, job) = importing().await;
    let pem = job.public_key.clone().unwrap();
    let wrap = |material: &[u8]| wrapping::wrap(METHOD, &pem, &SecretBytes::new(material.to_vec())).unwrap();
    let good = wrap(&MATERIAL);
    let mut changed = good.clone();
    changed[400] ^= 1;
    let mut changed_rsa = good.clone();
    changed_rsa[4] ^= 1;
    let malformed =
        "The key material in the import request couldn't be unwrapped or wasn't formatted correctly";
    for (number, wrapped, reason) in [
        (1, good[..383].to_vec(), "Wrapped key is too short"),
        (2, good[..392].to_vec(), "Wrapped key is too short"),
        (3, good[..423].to_vec(), "Wrapped key does not consist of 64-bit blocks"),
        (4, changed, malformed),
        (5, changed_rsa, malformed),
        (6, wrap(&[1; 16]), malformed),
        (7, wrap(&[1; 33]), malformed),
        (8, good[..416].to_vec(), malformed),
    ] {
        let version = world.import_wrapped(&job, wrapped, None).await.unwrap();
        assert_eq!((version.number, version.state), (number, VersionState::ImportFailed), "{reason}");
        let import = version.import.as_ref().unwrap();
        assert_eq!((import.failure.as_deref(), import.time), (Some(reason), None), "version {number}");
        assert!(version.reimport_eligible());
    }
    let plain = world.job("plain", Method::RsaOaep3072Sha256).await;
    let version = world.import_wrapped(&plain, vec![1; 385], None).await.unwrap();
    assert_eq!(version.import.unwrap().failure.as_deref(), Some("Wrapped key has invalid length"));
    assert_eq!(world.materials().await, 2, "the keys of two jobs, and no version's material");
    // What failed is neither used nor changed, but by a further import.
    for change in [
        world.set_state(1, VersionState::Enabled).await,
        world.destroy(1).await,
        world.restore(1).await,
        world.kms.update_primary_version(&admin(), &key(), "1").await.map(|view| view.primary.unwrap()),
    ] {
        let error = change.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(error.violations()[0].kind, "KEY_IMPORT_FAILED");
    }
    let world = world.restarted().await;
    assert_eq!(world.state(1), VersionState::ImportFailed);
    let version = world.import_wrapped(&job, good, Some(1)).await.unwrap();
    assert_eq!((version.number, version.state), (1, VersionState::Enabled));
    assert_eq!(version.import.unwrap().failure, None);
}

#[tokio::test]
async fn a_destroyed_version_takes_the_same_material_again_and_no_other() {
    let (world, job) = importing().await;
    world.import(&job, &MATERIAL, None).await.unwrap();
    world.kms.update_primary_version(&admin(), &key(), "1").await.unwrap();
    let sealed = world.encrypt("text").await.unwrap();
    let early = world.import(&job, &MATERIAL, Some(1)).await.unwrap_err();
    assert_eq!(early.violations()[0].kind, "NOT_REIMPORT_ELIGIBLE");
    assert!(early.message().contains("its state is ENABLED"), "{early}");
    world.destroy(1).await.unwrap();
    assert!(world.import(&job, &MATERIAL, Some(1)).await.is_err(), "it is scheduled and can be restored");
    world.clock.advance(HOUR);
    world.kms.tick().await.unwrap();
    assert_eq!((world.state(1), world.materials().await), (VersionState::Destroyed, 1));
    assert!(world.version(1).reimport_eligible());
    let world = world.restarted().await;

    let other = world.import(&job, &[7; 32], Some(1)).await.unwrap();
    assert_eq!(other.state, VersionState::ImportFailed);
    let import = other.import.clone().unwrap();
    assert_eq!(
        import.failure.as_deref(),
        Some("The key material is not the one that this version held before")
    );
    assert_eq!((import.time, other.destroy_event_time), (Some(START), None), "the last material's own time");
    assert!(world.decrypt(&sealed).await.is_err());

    let again = world.import(&job, &MATERIAL, Some(1)).await.unwrap();
    assert_eq!((again.state, again.number), (VersionState::Enabled, 1));
    assert_eq!(again.import.unwrap().time, Some(world.clock.now()));
    let world = world.restarted().await;
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "text");
    assert_eq!(world.view().key.next_version, 2);
}

#[tokio::test]
async fn what_was_generated_here_cannot_be_imported_into() {
    let world = World::with_key().await;
    let job = world.job("j", METHOD).await;
    world.destroy(1).await.unwrap();
    world.clock.advance(2 * DAY);
    let fresh = world.import(&job, &MATERIAL, None).await.unwrap();
    assert_eq!((fresh.number, fresh.state), (2, VersionState::Enabled), "a key may hold both kinds");
    let refused = world.import(&job, &MATERIAL, Some(1)).await.unwrap_err();
    assert!(refused.message().contains("was not imported before"), "{refused}");
    assert_eq!(world.import(&job, &MATERIAL, Some(9)).await.unwrap_err().kind(), ErrorKind::NotFound);
    world.kms.create_version(&admin(), &key()).await.unwrap();
}

#[tokio::test]
async fn an_import_only_key_generates_nothing_and_does_not_rotate() {
    let (world, _) = importing().await;
    let refused = world.kms.create_version(&admin(), &key()).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.violations()[0].kind.as_str()),
        (ErrorKind::FailedPrecondition, "KEY_IMPORT_ONLY")
    );
    for update in [
        CryptoKeyUpdate { next_rotation_time: Some(Some(START.plus(DAY))), ..CryptoKeyUpdate::default() },
        CryptoKeyUpdate { rotation_period: Some(Some(DAY)), ..CryptoKeyUpdate::default() },
    ] {
        let refused = world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    }
    let create = async |new| world.kms.create_crypto_key(&admin(), &ring(), "k2", new).await;
    let only = || NewCryptoKey { import_only: true, skip_initial_version: true, ..NewCryptoKey::symmetric() };
    for new in [
        NewCryptoKey { skip_initial_version: false, ..only() },
        NewCryptoKey { next_rotation_time: Some(START.plus(DAY)), ..only() },
        NewCryptoKey { destroy_scheduled_duration: Some(121 * DAY), ..only() },
    ] {
        assert_eq!(create(new).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    // Only what can be imported again may be destroyed at once.
    let at_once = NewCryptoKey { destroy_scheduled_duration: Some(Duration::ZERO), ..only() };
    assert!(create(at_once).await.unwrap().key.import_only);
    assert!(world.restarted().await.view().key.import_only);
}

#[tokio::test]
async fn a_request_that_no_job_could_serve_is_refused_and_makes_no_version() {
    let (world, job) = importing().await;
    let good = ImportRequest {
        key: key(),
        version: None,
        algorithm: Algorithm::GoogleSymmetricEncryption,
        job: job.name.clone(),
        wrapped: vec![1; 424],
    };
    let elsewhere = LocationName::new("p1", "us-east4").unwrap();
    world.kms.create_key_ring(&admin(), &elsewhere, "r").await.unwrap();
    let far = KeyRingName::new("p1", "us-east4", "r").unwrap();
    let new = NewImportJob::software(METHOD);
    let far = world.kms.create_import_job(&admin(), &far, "j", new).await.unwrap();
    let other = CryptoKeyName::new("p1", "us-east1", "r", "other").unwrap();
    for (request, kind, part) in [
        (ImportRequest { wrapped: vec![], ..good.clone() }, ErrorKind::InvalidArgument, "wrapped_key"),
        (
            ImportRequest { wrapped: vec![1; 65_537], ..good.clone() },
            ErrorKind::InvalidArgument,
            "wrapped_key",
        ),
        (
            ImportRequest { algorithm: Algorithm::Unspecified, ..good.clone() },
            ErrorKind::InvalidArgument,
            "algorithm",
        ),
        (
            ImportRequest { algorithm: Algorithm::Other("HMAC_SHA256".into()), ..good.clone() },
            ErrorKind::InvalidArgument,
            "HMAC_SHA256",
        ),
        (ImportRequest { job: far.name, ..good.clone() }, ErrorKind::InvalidArgument, "import_job"),
        (
            ImportRequest { version: Some(other.version_name(1)), ..good.clone() },
            ErrorKind::InvalidArgument,
            "crypto_key_version",
        ),
        (ImportRequest { key: other, ..good.clone() }, ErrorKind::NotFound, "CryptoKey"),
        (
            ImportRequest { job: ImportJobName::new("p1", "us-east1", "r", "no").unwrap(), ..good.clone() },
            ErrorKind::NotFound,
            "ImportJob",
        ),
    ] {
        let error = world.kms.import_version(&admin(), request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{part}: {error}");
    }
    assert_eq!(world.view().key.next_version, 1);
}

#[tokio::test]
async fn importing_takes_the_use_of_the_job_and_the_making_of_versions() {
    let (world, job) = importing().await;
    let ada = Caller::new("user:ada@example.com");
    let grant = async |resource: PolicyResource, role: &str| {
        world.kms.set_iam_policy(&admin(), &resource, Policy::granting(role, &ada.principal)).await.unwrap();
    };
    let import = async || {
        let wrapped =
            wrapping::wrap(METHOD, job.public_key.as_deref().unwrap(), &SecretBytes::new(MATERIAL.to_vec()));
        let request = ImportRequest {
            key: key(),
            version: None,
            algorithm: Algorithm::GoogleSymmetricEncryption,
            job: job.name.clone(),
            wrapped: wrapped.unwrap(),
        };
        world.kms.import_version(&ada, request).await
    };
    let get = || world.kms.get_import_job(&ada, &job.name);
    assert!(get().unwrap_err().message().contains("cloudkms.importJobs.get"));
    let on_job = PolicyResource::Job(job.name.clone());
    grant(on_job.clone(), "roles/cloudkms.importer").await;
    get().unwrap();
    let refused = import().await.unwrap_err();
    assert!(refused.message().contains("cloudkms.cryptoKeyVersions.create"), "{refused}");
    grant(PolicyResource::Key(key()), "roles/cloudkms.admin").await;
    assert_eq!(import().await.unwrap().state, VersionState::Enabled);
    grant(on_job.clone(), "roles/cloudkms.viewer").await;
    let refused = import().await.unwrap_err();
    assert!(refused.message().contains(iam::USE_TO_IMPORT), "{refused}");
    let world = world.restarted().await;
    let kept = world.kms.get_iam_policy(&admin(), &on_job).unwrap();
    assert_eq!(kept.bindings[0].role, "roles/cloudkms.viewer");
    let asked = ["cloudkms.importJobs.get".to_owned(), iam::USE_TO_IMPORT.to_owned()];
    assert_eq!(world.kms.test_iam_permissions(&ada, &on_job, &asked).unwrap(), [asked[0].clone()]);
}
