//! Versions and the ways between their states.

use super::VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled};
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Enable,
    Disable,
    Destroy,
    Restore,
    EnableTo(VersionState),
}

/// A version brought into a state.
async fn in_state(state: VersionState) -> World {
    let world = World::with_key().await;
    match state {
        Enabled => {}
        Disabled => drop(world.set_state(1, Disabled).await.unwrap()),
        DestroyScheduled => drop(world.destroy(1).await.unwrap()),
        Destroyed => {
            world.destroy(1).await.unwrap();
            world.clock.advance(30 * DAY);
            world.kms.tick().await.unwrap();
        }
        VersionState::ImportFailed => unreachable!("the first version is made here"),
    }
    assert_eq!(world.state(1), state);
    world
}

async fn take(world: &World, step: Step) -> Result<VersionState> {
    let version = match step {
        Step::Enable => world.set_state(1, Enabled).await,
        Step::Disable => world.set_state(1, Disabled).await,
        Step::Destroy => world.destroy(1).await,
        Step::Restore => world.restore(1).await,
        Step::EnableTo(state) => world.set_state(1, state).await,
    };
    version.map(|version| version.state)
}

#[tokio::test]
async fn there_are_the_documented_ways_between_states_and_no_others() {
    use ErrorKind::{FailedPrecondition, InvalidArgument};
    use Step::{Destroy, Disable, Enable, EnableTo, Restore};
    for (from, step, to) in [
        (Enabled, Enable, Ok(Enabled)),
        (Enabled, Disable, Ok(Disabled)),
        (Enabled, Destroy, Ok(DestroyScheduled)),
        (Enabled, Restore, Err(FailedPrecondition)),
        (Disabled, Enable, Ok(Enabled)),
        (Disabled, Disable, Ok(Disabled)),
        (Disabled, Destroy, Ok(DestroyScheduled)),
        (Disabled, Restore, Err(FailedPrecondition)),
        (DestroyScheduled, Enable, Err(FailedPrecondition)),
        (DestroyScheduled, Disable, Err(FailedPrecondition)),
        (DestroyScheduled, Destroy, Err(FailedPrecondition)),
        (DestroyScheduled, Restore, Ok(Disabled)),
        (Destroyed, Enable, Err(FailedPrecondition)),
        (Destroyed, Disable, Err(FailedPrecondition)),
        (Destroyed, Destroy, Err(FailedPrecondition)),
        (Destroyed, Restore, Err(FailedPrecondition)),
        (Enabled, EnableTo(Destroyed), Err(InvalidArgument)),
        (Disabled, EnableTo(DestroyScheduled), Err(InvalidArgument)),
    ] {
        let world = in_state(from).await;
        let got = take(&world, step).await;
        assert_eq!(got.as_ref().map_err(Error::kind).copied(), to, "{step:?} from {from:?}");
        let now = *to.as_ref().unwrap_or(&from);
        assert_eq!(world.state(1), now, "{step:?} from {from:?}");
        let world = world.restarted().await;
        assert_eq!(world.state(1), now, "{step:?} from {from:?} after a restart");
    }
}

#[tokio::test]
async fn a_version_that_is_not_enabled_neither_encrypts_nor_decrypts_and_says_why() {
    for (state, kind) in [
        (Disabled, "KEY_DISABLED"),
        (DestroyScheduled, "KEY_DESTROY_SCHEDULED"),
        (Destroyed, "KEY_DESTROYED"),
    ] {
        let sealed = World::with_key().await.encrypt("text").await.unwrap();
        let world = in_state(state).await;
        for error in [world.encrypt("x").await.unwrap_err(), world.decrypt(&sealed).await.unwrap_err()] {
            let name = key().version_name(1);
            let expected = format!("{name} is not enabled, current state is: {}.", state.as_str());
            assert_eq!((error.kind(), error.message()), (ErrorKind::FailedPrecondition, expected.as_str()));
            let violation = error.violations().first().unwrap();
            assert_eq!((violation.kind.as_str(), violation.subject.as_str()), (kind, name.as_str()));
        }
    }
}

#[tokio::test]
async fn what_was_encrypted_before_opens_again_once_the_version_is_enabled() {
    let world = World::with_key().await;
    let sealed = world.encrypt("text").await.unwrap();
    world.set_state(1, Disabled).await.unwrap();
    assert!(world.decrypt(&sealed).await.is_err());
    world.set_state(1, Enabled).await.unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "text");
    world.destroy(1).await.unwrap();
    world.restore(1).await.unwrap();
    world.set_state(1, Enabled).await.unwrap();
    let world = world.restarted().await;
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "text");
}

#[tokio::test]
async fn material_is_in_memory_only_while_its_version_is_enabled() {
    let world = World::with_key().await;
    let held = |world: &World| {
        let index = world.kms.inner.index();
        index.key(&key()).unwrap().versions[&1].material.initialized()
    };
    world.encrypt("text").await.unwrap();
    assert!(held(&world));
    world.set_state(1, Disabled).await.unwrap();
    assert!(!held(&world));
    world.set_state(1, Enabled).await.unwrap();
    assert!(!held(&world));
    world.encrypt("text").await.unwrap();
    assert!(held(&world));
    world.destroy(1).await.unwrap();
    assert!(!held(&world));
}

#[tokio::test]
async fn a_further_version_gets_the_next_number_and_becomes_primary_only_when_told() {
    let world = World::with_key().await;
    let first = world.encrypt("one").await.unwrap();
    let version = world.kms.create_version(&admin(), &key()).await.unwrap();
    assert_eq!((version.number, version.state), (2, Enabled));
    assert_eq!(world.view().primary.unwrap().number, 1);
    let view = world.kms.update_primary_version(&admin(), &key(), "2").await.unwrap();
    assert_eq!(view.primary.unwrap().number, 2);
    let reply = world.kms.encrypt(&admin(), &key(), &secret("two"), b"aad").await.unwrap();
    assert_eq!(reply.version, key().version_name(2));
    for (sealed, used_primary) in [(&first, false), (&reply.ciphertext, true)] {
        let opened = world.kms.decrypt(&admin(), &key(), sealed, b"aad").await.unwrap();
        assert_eq!(opened.used_primary, used_primary);
    }
    let world = world.restarted().await;
    assert_eq!(world.view().primary.unwrap().number, 2);
    assert_eq!(world.decrypt(&first).await.unwrap(), "one");
}

#[tokio::test]
async fn only_an_enabled_version_becomes_primary() {
    let world = World::with_key().await;
    world.kms.create_version(&admin(), &key()).await.unwrap();
    world.set_state(2, Disabled).await.unwrap();
    let primary = async |id| world.kms.update_primary_version(&admin(), &key(), id).await.unwrap_err().kind();
    assert_eq!(primary("2").await, ErrorKind::FailedPrecondition);
    assert_eq!(primary("3").await, ErrorKind::NotFound);
    assert_eq!(primary("first").await, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_key_without_a_version_has_no_primary_and_does_not_encrypt() {
    let world = World::empty().await;
    world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
    let new = NewCryptoKey { skip_initial_version: true, ..NewCryptoKey::symmetric() };
    let view = world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap();
    assert_eq!(view.primary, None);
    let error = world.encrypt("x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(world.kms.create_version(&admin(), &key()).await.unwrap().number, 1);
    assert_eq!(world.view().primary, None);
}

#[tokio::test]
async fn names_are_taken_once_and_ids_follow_the_rules() {
    let world = World::with_key().await;
    let kms = &world.kms;
    let again = kms.create_key_ring(&admin(), &location(), "r").await.unwrap_err();
    assert_eq!(
        (again.kind(), again.message().to_owned()),
        (ErrorKind::AlreadyExists, format!("KeyRing {} already exists.", ring()))
    );
    let again = kms.create_crypto_key(&admin(), &ring(), "k", NewCryptoKey::symmetric()).await.unwrap_err();
    assert_eq!(
        (again.kind(), again.message().to_owned()),
        (ErrorKind::AlreadyExists, format!("CryptoKey {} already exists.", key()))
    );
    for id in ["", "a.b", "a b", &"x".repeat(64)] {
        let error = kms.create_key_ring(&admin(), &location(), id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{id}");
    }
    let missing = KeyRingName::new("p1", "us-east1", "none").unwrap();
    let error = kms.create_crypto_key(&admin(), &missing, "k", NewCryptoKey::symmetric()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message().to_owned()),
        (ErrorKind::NotFound, format!("KeyRing {missing} not found."))
    );
}

#[tokio::test]
async fn kinds_of_keys_that_are_not_built_are_refused_with_a_sentence() {
    use crate::model::{Algorithm, ProtectionLevel, Purpose, VersionTemplate};
    let world = World::with_key().await;
    let template = |protection_level, algorithm| Some(VersionTemplate { protection_level, algorithm });
    let symmetric = NewCryptoKey::symmetric;
    let unbuilt = ErrorKind::Unimplemented;
    for (new, kind) in [
        (NewCryptoKey::default(), ErrorKind::InvalidArgument),
        (NewCryptoKey { purpose: Purpose::Mac, ..symmetric() }, unbuilt),
        (NewCryptoKey { purpose: Purpose::AsymmetricSign, ..symmetric() }, unbuilt),
        (NewCryptoKey { purpose: Purpose::RawEncryptDecrypt, ..symmetric() }, unbuilt),
        (
            NewCryptoKey { template: template(ProtectionLevel::Hsm, Algorithm::Unspecified), ..symmetric() },
            // Without a token.
            ErrorKind::FailedPrecondition,
        ),
        (
            NewCryptoKey {
                template: template(ProtectionLevel::HsmSingleTenant, Algorithm::Unspecified),
                ..symmetric()
            },
            unbuilt,
        ),
        (
            NewCryptoKey {
                template: template(ProtectionLevel::External, Algorithm::Unspecified),
                ..symmetric()
            },
            // Without a first version it is built.
            ErrorKind::InvalidArgument,
        ),
        (NewCryptoKey { import_only: true, ..symmetric() }, ErrorKind::InvalidArgument),
        (NewCryptoKey { crypto_key_backend: "b".into(), ..symmetric() }, unbuilt),
        (
            NewCryptoKey {
                template: template(ProtectionLevel::Software, Algorithm::Other("HMAC_SHA256".into())),
                ..symmetric()
            },
            ErrorKind::InvalidArgument,
        ),
        (
            NewCryptoKey { destroy_scheduled_duration: Some(DAY - Duration::from_secs(1)), ..symmetric() },
            ErrorKind::InvalidArgument,
        ),
        (
            NewCryptoKey { destroy_scheduled_duration: Some(121 * DAY), ..symmetric() },
            ErrorKind::InvalidArgument,
        ),
        (NewCryptoKey { rotation_period: Some(DAY), ..symmetric() }, ErrorKind::InvalidArgument),
    ] {
        let error = world.kms.create_crypto_key(&admin(), &ring(), "new", new.clone()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{new:?}: {error}");
    }
    assert!(
        world
            .kms
            .get_crypto_key(&admin(), &CryptoKeyName::new("p1", "us-east1", "r", "new").unwrap())
            .is_err()
    );
    assert_eq!(world.materials().await, 1, "a refused key leaves no material");
}
