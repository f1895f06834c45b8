//! What a service holds open under a scope: one at a time, none under a locked key.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use claviger_cmek::{Opened, Resident, Scope};
use claviger_core::{ErrorKind, Result};
use common::double::Double;
use common::{KeyAdmin as _, World, eventually, manual_clock, settle};

#[derive(Default)]
struct Counts {
    made: AtomicUsize,
    abandoned: AtomicUsize,
    closed: AtomicUsize,
}

impl Counts {
    fn all(&self) -> (usize, usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (of(&self.made), of(&self.abandoned), of(&self.closed))
    }
}

struct Thing {
    scope: Arc<Scope>,
    failed: AtomicBool,
    counts: Arc<Counts>,
}

impl Opened for Thing {
    fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    fn is_closed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    async fn abandon(&self) {
        self.counts.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    async fn close(&self) {
        self.counts.closed.fetch_add(1, Ordering::Relaxed);
    }
}

struct Place {
    world: World<Arc<Double>>,
    scope: Arc<Scope>,
    resident: Arc<Resident<Thing>>,
    counts: Arc<Counts>,
}

impl Place {
    async fn new() -> Self {
        let world = World::new(Double::new(), manual_clock()).await.running();
        let key = world.kms.make("k").await;
        let scope = world.scope("bigtable/a", &key).await;
        let resident = Resident::new(world.clock.clone());
        Self { world, scope, resident, counts: Arc::default() }
    }

    async fn open(&self) -> Result<Arc<Thing>> {
        let make = || async {
            self.counts.made.fetch_add(1, Ordering::Relaxed);
            // Others come while it is made.
            settle().await;
            let (scope, counts) = (self.scope.clone(), self.counts.clone());
            Ok(Thing { scope, failed: AtomicBool::new(false), counts })
        };
        self.resident.get_or_open(make).await
    }
}

#[tokio::test]
async fn many_who_come_at_once_get_the_same_one() {
    let place = Place::new().await;
    let all = futures::future::join_all((0..20).map(|_| place.open())).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|other| Arc::ptr_eq(first, other.as_ref().unwrap())));
    assert_eq!(place.counts.all(), (1, 0, 0));
}

#[tokio::test]
async fn a_lock_drops_it_and_nobody_gets_it_until_the_key_is_back() {
    let place = Place::new().await;
    let held = place.open().await.unwrap();
    place.world.kms.disable(place.scope.key(), 1).await;
    eventually("it is dropped", || place.counts.all() == (1, 1, 0)).await;
    assert!(!place.resident.is_open());
    assert_eq!(place.resident.get().map(|open| open.is_some()).ok(), Some(false));
    // Who still holds it has what was abandoned, and who opens it anew is refused.
    assert_eq!(held.scope().guard().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(place.open().await.map(drop).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    place.world.kms.enable(place.scope.key(), 1).await;
    eventually("the key is back", || place.scope.guard().is_ok()).await;
    assert!(!Arc::ptr_eq(&held, &place.open().await.unwrap()));
}

#[tokio::test]
async fn one_that_failed_is_abandoned_and_made_anew() {
    let place = Place::new().await;
    let first = place.open().await.unwrap();
    first.failed.store(true, Ordering::Relaxed);
    let second = place.open().await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(place.counts.all(), (2, 1, 0));
}

#[tokio::test]
async fn an_idle_one_is_closed_and_one_in_use_is_not() {
    let place = Place::new().await;
    let idle = Duration::from_secs(60);
    let held = place.open().await.unwrap();
    place.world.clock.advance(2 * idle);
    place.resident.close_if_idle(idle).await;
    assert!(place.resident.is_open(), "somebody holds it");
    drop(held);
    place.resident.close_if_idle(3 * idle).await;
    assert!(place.resident.is_open(), "it was used not long ago");
    place.resident.close_if_idle(idle).await;
    assert_eq!(place.counts.all(), (1, 0, 1));
    drop(place.open().await.unwrap());
    place.resident.discard().await;
    assert_eq!(place.counts.all(), (2, 1, 1));
    place.open().await.unwrap();
    place.resident.close().await;
    assert_eq!(place.counts.all(), (3, 1, 2));
}
