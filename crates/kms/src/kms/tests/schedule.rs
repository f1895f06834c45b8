//! Due rotations and due destructions, on a clock that the test moves.

use super::*;
use crate::KeyChange;
use crate::model::CryptoKeyUpdate;

async fn scheduled(period: Duration, first: Timestamp) -> World {
    let world = World::with_key().await;
    let update = CryptoKeyUpdate {
        rotation_period: Some(Some(period)),
        next_rotation_time: Some(Some(first)),
        ..CryptoKeyUpdate::default()
    };
    world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap();
    world
}

#[tokio::test]
async fn a_version_is_destroyed_when_its_time_is_up_and_not_before() {
    let world = World::with_key().await;
    let sealed = world.encrypt("text").await.unwrap();
    let version = world.destroy(1).await.unwrap();
    assert_eq!(version.destroy_time, Some(START.plus(30 * DAY)));
    assert_eq!(world.kms.tick().await.unwrap(), version.destroy_time);
    world.clock.advance(30 * DAY - Duration::from_micros(1));
    world.kms.tick().await.unwrap();
    assert_eq!((world.state(1), world.materials().await), (VersionState::DestroyScheduled, 1));
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(world.kms.tick().await.unwrap(), None);
    let version = world.version(1);
    assert_eq!(
        (version.state, version.destroy_event_time),
        (VersionState::Destroyed, Some(world.clock.now()))
    );
    assert_eq!(world.materials().await, 0, "the material is really gone");
    let log = world.audited().await;
    let last = log.last().unwrap();
    assert_eq!(
        (last.method.as_str(), last.principal.as_str()),
        ("DestroyCryptoKeyVersion", agents::KMS_AGENT)
    );
    let world = world.restarted().await;
    assert_eq!(world.state(1), VersionState::Destroyed);
    assert!(world.decrypt(&sealed).await.is_err());
}

#[tokio::test]
async fn a_version_whose_time_is_up_cannot_be_restored_any_more() {
    let world = World::with_key().await;
    world.destroy(1).await.unwrap();
    world.clock.advance(30 * DAY);
    assert_eq!(world.restore(1).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn a_key_has_its_own_time_before_destruction() {
    let world = World::with_key().await;
    let new = NewCryptoKey { destroy_scheduled_duration: Some(2 * DAY), ..NewCryptoKey::symmetric() };
    let view = world.kms.create_crypto_key(&admin(), &ring(), "k2", new).await.unwrap();
    let version = world.kms.destroy_version(&admin(), &view.primary.unwrap().name).await.unwrap();
    assert_eq!(version.destroy_time, Some(START.plus(2 * DAY)));
}

#[tokio::test]
async fn a_destruction_that_came_due_while_the_server_was_down_is_made_up_for() {
    let world = World::with_key().await;
    world.destroy(1).await.unwrap();
    world.clock.advance(31 * DAY);
    let world = world.restarted().await;
    world.kms.tick().await.unwrap();
    assert_eq!((world.state(1), world.materials().await), (VersionState::Destroyed, 0));
}

#[tokio::test]
async fn a_due_rotation_makes_a_new_primary_and_moves_the_schedule_on() {
    let world = scheduled(DAY, START.plus(DAY)).await;
    let sealed = world.encrypt("old").await.unwrap();
    let mut changes = world.kms.changes();
    world.kms.tick().await.unwrap();
    assert_eq!(world.view().primary.unwrap().number, 1);
    world.clock.advance(DAY);
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(2 * DAY)));
    let view = world.view();
    assert_eq!((view.primary.unwrap().number, view.key.next_rotation_time), (2, Some(START.plus(2 * DAY))));
    assert_eq!(changes.try_recv().unwrap(), KeyChange::Of(key()));
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "old");
    // Three periods pass while nobody looks: one rotation, and the schedule is kept.
    world.clock.advance(3 * DAY + Duration::from_secs(5));
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(5 * DAY)));
    assert_eq!(world.view().primary.unwrap().number, 3);
}

#[tokio::test]
async fn rotations_that_were_missed_while_the_server_was_down_are_made_up_for_by_one() {
    let world = scheduled(DAY, START.plus(DAY)).await;
    world.clock.advance(10 * DAY + Duration::from_secs(5));
    let world = world.restarted().await;
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(11 * DAY)));
    let view = world.view();
    assert_eq!((view.primary.unwrap().number, view.key.next_version), (2, 3));
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(11 * DAY)));
    assert_eq!(world.view().key.next_version, 3);
}

#[tokio::test]
async fn a_changed_schedule_holds_from_then_on() {
    let world = scheduled(DAY, START.plus(DAY)).await;
    let update = CryptoKeyUpdate {
        rotation_period: Some(Some(3 * DAY)),
        next_rotation_time: Some(Some(START.plus(2 * DAY))),
        ..CryptoKeyUpdate::default()
    };
    world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap();
    world.clock.advance(DAY);
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(2 * DAY)));
    assert_eq!(world.view().primary.unwrap().number, 1);
    world.clock.advance(DAY);
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(5 * DAY)));
    assert_eq!(world.view().primary.unwrap().number, 2);
}

#[tokio::test]
async fn without_a_period_a_key_rotates_once() {
    let world = World::with_key().await;
    let next_rotation_time = Some(Some(START.plus(DAY)));
    let update = CryptoKeyUpdate { next_rotation_time, ..CryptoKeyUpdate::default() };
    world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap();
    world.clock.advance(40 * DAY);
    assert_eq!(world.kms.tick().await.unwrap(), None);
    let view = world.view();
    assert_eq!((view.primary.unwrap().number, view.key.next_rotation_time), (2, None));
}

#[tokio::test]
async fn a_rotation_gives_no_access_back_that_was_taken_away() {
    let world = scheduled(DAY, START.plus(DAY)).await;
    world.set_state(1, VersionState::Disabled).await.unwrap();
    world.clock.advance(DAY);
    assert_eq!(world.kms.tick().await.unwrap(), Some(START.plus(2 * DAY)));
    assert_eq!(world.view().primary.unwrap().number, 1);
    assert!(world.encrypt("x").await.is_err());
    let log = world.audited().await;
    let skipped = log.iter().find(|entry| entry.principal == agents::KMS_AGENT).unwrap();
    assert_eq!((skipped.method.as_str(), skipped.is_ok()), ("CreateCryptoKeyVersion", false));
    assert!(skipped.message.contains("is not enabled"), "{}", skipped.message);
}

#[tokio::test]
async fn schedules_are_checked_as_a_whole_and_can_be_removed() {
    let world = scheduled(DAY, START.plus(DAY)).await;
    let update = async |period, next| {
        let update = CryptoKeyUpdate {
            rotation_period: period,
            next_rotation_time: next,
            ..CryptoKeyUpdate::default()
        };
        world.kms.update_crypto_key(&admin(), &key(), update).await
    };
    let hour = Duration::from_secs(3600);
    for (period, next) in [(Some(Some(hour)), None), (None, Some(None)), (None, Some(Some(Timestamp(0))))] {
        assert_eq!(update(period, next).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    update(Some(Some(7 * DAY)), None).await.unwrap();
    let view = update(Some(None), Some(None)).await.unwrap();
    assert_eq!((view.key.rotation_period, view.key.next_rotation_time), (None, None));
    assert_eq!(world.kms.tick().await.unwrap(), None);
}

#[tokio::test]
async fn the_loop_sleeps_until_something_is_due_and_hears_of_changes() {
    let world = World::with_key().await;
    let running = tokio::spawn(world.kms.clone().run());
    let mut changes = world.kms.changes();
    world.destroy(1).await.unwrap();
    changes.recv().await.unwrap();
    // The loop waits an hour at a stretch, so the clock goes on in steps until it is through.
    let mut hours = 0;
    while world.state(1) == VersionState::DestroyScheduled {
        hours += 1;
        world.clock.advance(Duration::from_secs(3600));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(hours < 24 * 40, "the version was not destroyed");
    }
    assert!(hours >= 24 * 30);
    changes.recv().await.unwrap();
    running.abort();
}
