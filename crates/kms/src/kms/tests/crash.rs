//! The machine fails at each change of its disk in turn, and what was acknowledged is there afterwards.

use super::store::Failing;
use super::*;
use crate::agents::Service;
use crate::iam::Policy;

/// What was acknowledged before the failure.
#[derive(Debug, Default)]
struct Acknowledged {
    key: bool,
    states: Vec<VersionState>,
    /// What a change under way when the machine failed would have made of a version.
    unsure: Option<(u64, VersionState)>,
    primary: Option<u64>,
    unsure_primary: Option<u64>,
    sealed: Vec<(u64, Vec<u8>)>,
    number: Option<u64>,
    entries: usize,
}

/// Makes changes of every kind until one fails.
async fn work(world: &World, done: &mut Acknowledged) -> Result<()> {
    use VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled};
    let kms = &world.kms;
    kms.create_key_ring(&admin(), &location(), "r").await?;
    kms.create_crypto_key(&admin(), &ring(), "k", NewCryptoKey::symmetric()).await?;
    (done.key, done.states, done.primary) = (true, vec![Enabled], Some(1));
    done.sealed.push((1, world.encrypt("one").await?));
    done.number = Some(kms.project_number("p1").await?);
    kms.create_version(&admin(), &key()).await?;
    done.states.push(Enabled);
    done.unsure_primary = Some(2);
    kms.update_primary_version(&admin(), &key(), "2").await?;
    done.primary = Some(2);
    done.sealed.push((2, world.encrypt("two").await?));
    for state in [Disabled, Enabled, DestroyScheduled, Disabled, DestroyScheduled, Destroyed] {
        done.unsure = Some((1, state));
        match (done.states[0], state) {
            (_, DestroyScheduled) => drop(world.destroy(1).await?),
            (DestroyScheduled, Disabled) => drop(world.restore(1).await?),
            (_, Destroyed) => {
                world.clock.advance(30 * DAY);
                kms.tick().await?;
            }
            _ => drop(world.set_state(1, state).await?),
        }
        done.states[0] = state;
    }
    done.unsure = None;
    let policy = Policy::granting("roles/cloudkms.viewer", "user:a@b");
    kms.set_iam_policy(&admin(), &PolicyResource::Key(key()), policy).await?;
    kms.managed_key(Service::Bigtable, "us-east1").await?;
    done.entries = world.audited().await.len();
    kms.close().await
}

/// Looks at a KMS that was opened after the failure.
async fn check(world: &World, done: &Acknowledged, at: &str) {
    if !done.key {
        return;
    }
    let view = world.view();
    let primary = view.primary.map(|version| version.number);
    assert!(primary == done.primary || primary == done.unsure_primary, "{at}: {primary:?} {done:?}");
    for (number, state) in (1..).zip(&done.states) {
        let found = world.state(number);
        let unsure = done.unsure.filter(|(of, _)| *of == number).map(|(_, state)| state);
        assert!(found == *state || Some(found) == unsure, "{at}: version {number} is {found:?}, {done:?}");
    }
    let page = crate::model::PageRequest::default();
    let versions = world.kms.list_versions(&admin(), &key(), &page).unwrap().items;
    let mut materials = 0;
    for version in &versions {
        if version.state != VersionState::Destroyed {
            materials += 1;
            // Also what was not acknowledged is whole: its material is there.
            let loaded = world.kms.inner.material.load(version.material).await;
            assert!(loaded.is_ok(), "{at}: {} has no material", version.name);
        }
    }
    let managed = world.kms.inner.index().keys.len() - 1;
    assert_eq!(world.materials().await, materials + managed, "{at}: orphaned material");
    for (number, sealed) in &done.sealed {
        match world.state(*number) {
            VersionState::Enabled => assert!(world.decrypt(sealed).await.is_ok(), "{at}: version {number}"),
            _ => assert!(world.decrypt(sealed).await.is_err(), "{at}: version {number}"),
        }
    }
    if let Some(number) = done.number {
        assert_eq!(world.kms.project_number("p1").await.unwrap(), number, "{at}");
    }
    // It is in working order.
    world.kms.create_version(&admin(), &key()).await.unwrap();
    world.kms.audit_log().read(None, 1000).await.unwrap();
}

async fn crash_at(change: i64, applied: bool) -> bool {
    let at = format!("change {change}, applied {applied}");
    let disk = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::at(START));
    let failing = Arc::new(Failing::after(disk.clone(), change, applied));
    let mut done = Acknowledged::default();
    let finished = match World::on(failing.clone(), clock.clone()).await {
        Ok(world) => {
            let worked = work(&world, &mut done).await;
            assert!(worked.is_ok() || failing.has_failed(), "{at}: {worked:?}");
            worked.is_ok()
        }
        Err(_) => false,
    };
    let world = World::on(disk, clock).await.unwrap_or_else(|e| panic!("{at}: does not open: {e:?}"));
    check(&world, &done, &at).await;
    world.kms.close().await.unwrap();
    finished && !failing.has_failed()
}

#[tokio::test]
async fn whatever_change_of_the_disk_is_the_last_one_nothing_acknowledged_is_lost() {
    for applied in [false, true] {
        let mut change = 0;
        while !crash_at(change, applied).await {
            change += 1;
            assert!(change < 500, "the work never ends");
        }
        assert!(change > 20, "{change} changes are too few for this work");
    }
}

#[tokio::test]
async fn the_kms_goes_on_after_a_disk_that_failed_for_a_while() {
    for allowed in 0..6 {
        let disk = Arc::new(InMemory::new());
        let failing = Arc::new(Failing::after(disk, i64::MAX, false));
        let world = World::on(failing.clone(), Arc::new(ManualClock::at(START))).await.unwrap();
        world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
        world.kms.create_crypto_key(&admin(), &ring(), "k", NewCryptoKey::symmetric()).await.unwrap();
        let sealed = world.encrypt("x").await.unwrap();
        failing.allow(allowed);
        while world.kms.create_version(&admin(), &key()).await.is_ok() {}
        failing.allow(i64::MAX);
        assert_eq!(world.decrypt(&sealed).await.unwrap(), "x", "{allowed}");
        world.set_state(1, VersionState::Disabled).await.unwrap();
        let made = world.kms.create_version(&admin(), &key()).await.unwrap().number;
        let world = world.restarted().await;
        assert_eq!(world.state(1), VersionState::Disabled, "{allowed}");
        let page = crate::model::PageRequest::default();
        let versions = world.kms.list_versions(&admin(), &key(), &page).unwrap().total;
        assert_eq!(versions as u64, made, "{allowed}");
        assert_eq!(world.materials().await, versions, "{allowed}");
    }
}

/// What the work of [`import_work`] has come to, and what it may have come to besides.
#[derive(Debug)]
struct Imported {
    state: Option<VersionState>,
    unsure: Option<VersionState>,
    sealed: Option<Vec<u8>>,
}

/// An import, a destruction and an import of the same material again, until one fails.
async fn import_work(world: &World, job: &ImportJob, done: &mut Imported) -> Result<()> {
    use VersionState::{DestroyScheduled, Destroyed, Enabled};
    for state in [Enabled, DestroyScheduled, Destroyed, Enabled] {
        done.unsure = Some(state);
        match state {
            DestroyScheduled => drop(world.destroy(2).await?),
            Destroyed => {
                world.clock.advance(2 * DAY);
                world.kms.tick().await?;
            }
            _ => drop(world.import(job, &[5; 32], done.state.map(|_| 2)).await?),
        }
        done.state = Some(state);
        if done.sealed.is_none() {
            world.kms.update_primary_version(&admin(), &key(), "2").await?;
            done.sealed = Some(world.encrypt("text").await?);
        }
    }
    done.unsure = None;
    world.clock.advance(DAY);
    world.kms.tick().await?;
    world.kms.close().await
}

async fn check_import(world: &World, job: &ImportJob, done: &Imported, at: &str) {
    let page = crate::model::PageRequest::default();
    let versions = world.kms.list_versions(&admin(), &key(), &page).unwrap().items;
    let found = versions.get(1).map(|version| version.state);
    assert!(found == done.state || found == done.unsure, "{at}: {found:?}, {done:?}");
    let job = world.kms.get_import_job(&admin(), &job.name).unwrap();
    let held = versions.iter().filter(|version| version.state != VersionState::Destroyed).count();
    assert_eq!(
        world.materials().await,
        held + usize::from(job.public_key.is_some()),
        "{at}: orphaned material"
    );
    for version in versions.iter().filter(|version| version.state != VersionState::Destroyed) {
        let loaded = world.kms.inner.material.load(version.material).await;
        assert!(loaded.is_ok(), "{at}: {} has no material", version.name);
    }
    if let Some(sealed) = &done.sealed {
        let opens = world.decrypt(sealed).await.is_ok();
        assert_eq!(opens, found == Some(VersionState::Enabled), "{at}");
    }
}

#[tokio::test]
async fn whatever_change_is_the_last_one_an_import_is_whole_or_not_there() {
    let disk = Arc::new(InMemory::new());
    let world = World::on(disk.clone(), Arc::new(ManualClock::at(START))).await.unwrap();
    world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
    let new = NewCryptoKey { destroy_scheduled_duration: Some(2 * DAY), ..NewCryptoKey::symmetric() };
    world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap();
    let job = world.job("j", Method::RsaOaep3072Sha256).await;
    world.kms.close().await.unwrap();
    for applied in [false, true] {
        for change in 0.. {
            assert!(change < 500, "the work never ends");
            let at = format!("change {change}, applied {applied}");
            let (copy, clock) = (Arc::new(disk.fork()), Arc::new(ManualClock::at(START)));
            let failing = Arc::new(Failing::after(copy.clone(), change, applied));
            let mut done = Imported { state: None, unsure: None, sealed: None };
            let worked = match World::on(failing.clone(), clock.clone()).await {
                Ok(world) => import_work(&world, &job, &mut done).await.is_ok(),
                Err(_) => false,
            };
            let world = World::on(copy, clock).await.unwrap_or_else(|e| panic!("{at}: does not open: {e:?}"));
            check_import(&world, &job, &done, &at).await;
            if worked && !failing.has_failed() {
                assert!(change > 10, "{change} changes are too few for this work");
                break;
            }
        }
    }
}
