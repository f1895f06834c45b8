//! Encrypt and Decrypt: limits, checksums, the audit log.

use super::*;
use claviger_crypto::crc32c;

fn encrypt<'a>(plaintext: &'a SecretBytes, aad: &'a [u8]) -> EncryptRequest<'a> {
    let name = KeyOrVersion::Key(key());
    EncryptRequest { name, plaintext, aad, plaintext_crc32c: None, aad_crc32c: None }
}

fn decrypt<'a>(ciphertext: &'a [u8], aad: &'a [u8]) -> DecryptRequest<'a> {
    DecryptRequest { name: key(), ciphertext, aad, ciphertext_crc32c: None, aad_crc32c: None }
}

#[tokio::test]
async fn plaintext_and_additional_data_go_up_to_64_kib_each() {
    let world = World::with_key().await;
    let limit = 64 * 1024;
    for (plain, aad, fits) in
        [(0, 0, true), (limit, limit, true), (limit + 1, 0, false), (0, limit + 1, false)]
    {
        let (plaintext, aad) = (SecretBytes::new(vec![b'x'; plain]), vec![b'y'; aad]);
        match world.kms.encrypt_checked(&admin(), encrypt(&plaintext, &aad)).await {
            Ok(reply) => {
                assert!(fits);
                let opened =
                    world.kms.decrypt_checked(&admin(), decrypt(&reply.encrypted.ciphertext, &aad)).await;
                assert_eq!(opened.unwrap().decrypted.plaintext.expose(), plaintext.expose());
            }
            Err(error) => {
                assert!(!fits);
                assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            }
        }
    }
}

#[tokio::test]
async fn checksums_of_the_request_are_checked_and_those_of_the_reply_are_given() {
    let world = World::with_key().await;
    let text = secret("text");
    let (right, aad_right) = (i64::from(crc32c(b"text")), i64::from(crc32c(b"aad")));
    let with = |plaintext_crc32c, aad_crc32c| EncryptRequest {
        plaintext_crc32c,
        aad_crc32c,
        ..encrypt(&text, b"aad")
    };
    for (plain, aad, field) in [
        (Some(right + 1), None, "plaintext"),
        (None, Some(aad_right ^ 1), "additional_authenticated_data"),
        (Some(-1), Some(aad_right), "plaintext"),
    ] {
        let error = world.kms.encrypt_checked(&admin(), with(plain, aad)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let told = format!("The checksum in field {field}_crc32c did not match the data in field {field}.");
        assert!(error.message().contains(&told), "{error}");
    }
    let reply = world.kms.encrypt_checked(&admin(), with(Some(right), None)).await.unwrap();
    assert_eq!((reply.verified_plaintext_crc32c, reply.verified_aad_crc32c), (true, false));
    let ciphertext = &reply.encrypted.ciphertext;
    assert_eq!(reply.ciphertext_crc32c, crc32c(ciphertext));
    let wrong = DecryptRequest { ciphertext_crc32c: Some(0), ..decrypt(ciphertext, b"aad") };
    assert_eq!(
        world.kms.decrypt_checked(&admin(), wrong).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    let right = DecryptRequest {
        ciphertext_crc32c: Some(i64::from(reply.ciphertext_crc32c)),
        aad_crc32c: Some(aad_right),
        ..decrypt(ciphertext, b"aad")
    };
    assert_eq!(world.kms.decrypt_checked(&admin(), right).await.unwrap().plaintext_crc32c, crc32c(b"text"));
}

#[tokio::test]
async fn a_version_can_be_named_for_encryption() {
    let world = World::with_key().await;
    world.kms.create_version(&admin(), &key()).await.unwrap();
    let text = secret("text");
    let named =
        |name: &str| EncryptRequest { name: KeyOrVersion::parse(name).unwrap(), ..encrypt(&text, b"aad") };
    let second = key().version_name(2);
    let reply = world.kms.encrypt_checked(&admin(), named(second.as_str())).await.unwrap();
    assert_eq!(reply.encrypted.version, second);
    assert_eq!(world.decrypt(&reply.encrypted.ciphertext).await.unwrap(), "text");
    for missing in ["3", "02", "x"] {
        let name = format!("{}/cryptoKeyVersions/{missing}", key());
        let error = world.kms.encrypt_checked(&admin(), named(&name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}");
    }
    assert!(KeyOrVersion::parse("projects/p/locations/l/keyRings/r").is_err());
}

#[tokio::test]
async fn what_is_no_ciphertext_of_the_key_is_refused_in_the_same_words() {
    let world = World::with_key().await;
    world.kms.create_crypto_key(&admin(), &ring(), "k2", NewCryptoKey::symmetric()).await.unwrap();
    let good = world.encrypt("text").await.unwrap();
    let other = CryptoKeyName::new("p1", "us-east1", "r", "k2").unwrap();
    let foreign = world.kms.encrypt(&admin(), &other, &secret("x"), b"aad").await.unwrap().ciphertext;
    let mut unknown_version = good.clone();
    unknown_version[12] = 9;
    let huge = vec![0; 100_000];
    for wrong in [&[][..], b"CVKC", &foreign, &unknown_version, &good[1..], &huge] {
        let error = world.decrypt(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.message(), "Decryption failed: the ciphertext is invalid.");
    }
    let error = world.kms.decrypt(&admin(), &key(), &good, b"other").await.unwrap_err();
    assert_eq!(error.message(), "Decryption failed: the ciphertext is invalid.");
}

#[tokio::test]
async fn each_use_and_each_change_is_in_the_audit_log_with_who_and_what_came_of_it() {
    let world = World::with_key().await;
    let caller = Caller::local_admin().with("resource", "projects/p1/instances/i");
    let sealed = world.kms.encrypt(&caller, &key(), &secret("x"), b"").await.unwrap().ciphertext;
    world.kms.decrypt(&caller, &key(), &sealed, b"").await.unwrap();
    world.kms.decrypt(&caller, &key(), &sealed, b"wrong").await.unwrap_err();
    world.kms.encrypt(&Caller::new("user:eve@example.com"), &key(), &secret("x"), b"").await.unwrap_err();
    world.destroy(1).await.unwrap();
    world.destroy(1).await.unwrap_err();
    let (k, v) = (key().to_string(), key().version_name(1).to_string());
    let log = world.audited().await;
    let seen: Vec<_> = log
        .iter()
        .map(|e| (e.method.as_str(), e.resource.as_str(), e.key_version.as_deref(), e.code.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("CreateKeyRing", ring().as_str(), None, "OK"),
            ("CreateCryptoKey", k.as_str(), Some(v.as_str()), "OK"),
            ("Encrypt", &k, Some(v.as_str()), "OK"),
            ("Decrypt", &k, Some(v.as_str()), "OK"),
            ("Decrypt", &k, Some(v.as_str()), "InvalidArgument"),
            ("Encrypt", &k, None, "PermissionDenied"),
            ("DestroyCryptoKeyVersion", &v, Some(v.as_str()), "OK"),
            ("DestroyCryptoKeyVersion", &v, None, "FailedPrecondition"),
        ]
    );
    assert_eq!(log[2].context["resource"], "projects/p1/instances/i");
    assert_eq!(log[5].principal, "user:eve@example.com");
    assert!(log.iter().all(|e| e.service == "cloudkms.googleapis.com" && e.time == START));
}

#[tokio::test]
async fn without_an_audit_entry_there_is_neither_a_use_nor_a_change() {
    let world = World::with_key().await;
    let sealed = world.encrypt("x").await.unwrap();
    world.kms.audit_log().close().await.unwrap();
    assert_eq!(world.encrypt("x").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(world.decrypt(&sealed).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(world.set_state(1, VersionState::Disabled).await.is_err());
    assert_eq!(world.state(1), VersionState::Enabled);
    assert!(world.kms.create_version(&admin(), &key()).await.is_err());
    assert_eq!(world.materials().await, 1);
}

#[tokio::test]
async fn uses_at_the_same_time_do_not_wait_for_one_another() {
    let world = Arc::new(World::with_key().await);
    let uses = (0..200).map(|i| {
        let world = world.clone();
        tokio::spawn(async move {
            let sealed = world.encrypt(&format!("text {i}")).await.unwrap();
            assert_eq!(world.decrypt(&sealed).await.unwrap(), format!("text {i}"));
        })
    });
    for used in futures::future::join_all(uses).await {
        used.unwrap();
    }
    assert_eq!(world.audited().await.len(), 2 + 400);
}

#[tokio::test]
async fn a_use_under_way_when_its_version_is_disabled_gives_nothing_out() {
    use crate::kms::versions::destroyed;
    use futures::FutureExt as _;
    let world = World::with_key().await;
    let sealed = world.encrypt("x").await.unwrap();
    let mut used = Box::pin(world.decrypt(&sealed));
    assert!((&mut used).now_or_never().is_none(), "it waits for its audit entry");
    {
        let mut index = world.kms.inner.index_mut();
        let entry = destroyed(index.key(&key()).unwrap(), 1, START);
        index.put_key(entry);
    }
    let refused = used.await.unwrap_err();
    assert_eq!(refused.violations()[0].kind, "KEY_DESTROYED");
    let codes: Vec<_> = world.audited().await.into_iter().skip(3).map(|entry| entry.code).collect();
    assert_eq!(codes, ["OK", "FailedPrecondition"]);
}

#[tokio::test]
async fn a_closed_kms_refuses_changes() {
    let world = World::with_key().await;
    world.kms.close().await.unwrap();
    world.kms.close().await.unwrap();
    assert_eq!(world.set_state(1, VersionState::Disabled).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(world.kms.project_number("p").await.unwrap_err().kind(), ErrorKind::Unavailable);
}
