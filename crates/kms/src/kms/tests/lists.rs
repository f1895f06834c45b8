//! Lists, labels and lookups.

use super::*;
use crate::model::{CryptoKeyUpdate, PageRequest};
use std::collections::BTreeMap;

fn page(size: i32, token: &str) -> PageRequest {
    PageRequest { size, token: token.to_owned(), ..PageRequest::default() }
}

#[tokio::test]
async fn pages_follow_one_another_and_show_each_thing_once() {
    let world = World::with_key().await;
    for id in ["a", "b", "k-2", "z"] {
        world.kms.create_crypto_key(&admin(), &ring(), id, NewCryptoKey::symmetric()).await.unwrap();
    }
    world.kms.create_key_ring(&admin(), &location(), "r2").await.unwrap();
    let other = KeyRingName::new("p1", "us-east1", "r2").unwrap();
    world.kms.create_crypto_key(&admin(), &other, "elsewhere", NewCryptoKey::symmetric()).await.unwrap();
    let (mut token, mut ids, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = world.kms.list_crypto_keys(&admin(), &ring(), &page(2, &token)).unwrap();
        assert_eq!(page.total, 5);
        ids.extend(page.items.iter().map(|view| view.key.name.crypto_key().to_owned()));
        pages += 1;
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((ids, pages), (["a", "b", "k", "k-2", "z"].map(str::to_owned).to_vec(), 3));
    let rings = world.kms.list_key_rings(&admin(), &location(), &page(0, "")).unwrap();
    assert_eq!(rings.items.iter().map(|ring| ring.name.key_ring()).collect::<Vec<_>>(), ["r", "r2"]);
    let elsewhere = LocationName::new("p1", "us-east4").unwrap();
    assert!(world.kms.list_key_rings(&admin(), &elsewhere, &page(0, "")).unwrap().items.is_empty());
}

#[tokio::test]
async fn versions_are_listed_by_number() {
    let world = World::with_key().await;
    for _ in 0..11 {
        world.kms.create_version(&admin(), &key()).await.unwrap();
    }
    let first = world.kms.list_versions(&admin(), &key(), &page(9, "")).unwrap();
    let rest = world.kms.list_versions(&admin(), &key(), &page(9, &first.next_token)).unwrap();
    let numbers: Vec<_> = first.items.iter().chain(&rest.items).map(|version| version.number).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_list_cannot_do_is_refused() {
    let world = World::with_key().await;
    let list = |page| world.kms.list_key_rings(&admin(), &location(), &page).unwrap_err();
    for token in ["nonsense!", "bm9uZQ", "AAAAAG5vbmU"] {
        let error = list(page(0, token));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.fields()[0].field, "page_token", "{token}");
    }
    assert_eq!(list(page(-1, "")).fields()[0].field, "page_size");
    let filtered = PageRequest { filter: "state=ENABLED".into(), ..PageRequest::default() };
    let error = list(filtered);
    assert!(error.message().contains("no field 'state'"), "{error}");
    for (order, part) in [
        ("size", "no field 'size'"),
        ("name up", "'name up' is not"),
        ("name desc desc", "is not"),
        ("name,", "a field is missing"),
        ("name,name,name,name,name,name,name,name,name", "at most 8"),
    ] {
        let error = list(PageRequest { order_by: order.into(), ..PageRequest::default() });
        assert_eq!(error.fields()[0].field, "order_by");
        assert!(error.message().contains(part), "{order}: {error}");
    }
    let missing = KeyRingName::new("p1", "us-east1", "none").unwrap();
    let error = world.kms.list_crypto_keys(&admin(), &missing, &page(0, "")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Ten versions: those whose numbers three divides are disabled, and the fifth is destroyed.
async fn ten_versions() -> World {
    let world = World::with_key().await;
    for number in 2..=10_u64 {
        world.clock.advance(Duration::from_secs(60));
        world.kms.create_version(&admin(), &key()).await.unwrap();
        if number % 3 == 0 {
            world.set_state(number, VersionState::Disabled).await.unwrap();
        }
    }
    world.destroy(5).await.unwrap();
    world
}

fn numbers(world: &World, filter: &str, order: &str, size: i32) -> Vec<u64> {
    let (mut token, mut numbers, mut totals) = (String::new(), Vec::new(), Vec::new());
    loop {
        let request = PageRequest { size, token, filter: filter.into(), order_by: order.into() };
        let page = world.kms.list_versions(&admin(), &key(), &request).unwrap();
        numbers.extend(page.items.iter().map(|version| version.number));
        totals.push(page.total);
        token = page.next_token;
        if token.is_empty() {
            assert!(totals.iter().all(|total| *total == numbers.len()), "{totals:?} {numbers:?}");
            return numbers;
        }
    }
}

#[tokio::test]
async fn a_filter_leaves_what_it_accepts_on_pages_of_any_size() {
    let world = ten_versions().await;
    for size in [0, 1, 2, 3, 10] {
        assert_eq!(numbers(&world, "state=DISABLED", "", size), [3, 6, 9], "{size}");
        assert_eq!(numbers(&world, "state!=DISABLED AND NOT state:scheduled", "", size), [1, 2, 4, 7, 8, 10]);
        assert_eq!(numbers(&world, "name=7 OR name=3", "", size), [3, 7]);
        assert_eq!(numbers(&world, "destroyTime:*", "", size), [5]);
        assert_eq!(numbers(&world, "create_time>\"2023-11-14T22:19:20Z\"", "", size), [8, 9, 10]);
        assert_eq!(numbers(&world, "state=IMPORT_FAILED", "", size), [0; 0]);
    }
}

#[tokio::test]
async fn lists_come_in_the_order_that_is_asked_for() {
    let world = ten_versions().await;
    for size in [0, 3] {
        assert_eq!(numbers(&world, "", "name desc", size), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(numbers(&world, "", "create_time", size), (1..=10).collect::<Vec<_>>());
        assert_eq!(numbers(&world, "", "state, name desc", size), [5, 9, 6, 3, 10, 8, 7, 4, 2, 1]);
        assert_eq!(numbers(&world, "state=DISABLED", "name desc", size), [9, 6, 3]);
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_list_only_and_outlives_changes() {
    let world = ten_versions().await;
    let request = PageRequest { size: 2, filter: "state=DISABLED".into(), ..PageRequest::default() };
    let first = world.kms.list_versions(&admin(), &key(), &request).unwrap();
    let token = first.next_token;
    for other in [
        PageRequest { token: token.clone(), ..PageRequest::default() },
        PageRequest { token: token.clone(), filter: "state=ENABLED".into(), ..PageRequest::default() },
        PageRequest { token: token.clone(), order_by: "name".into(), ..request.clone() },
    ] {
        assert!(world.kms.list_versions(&admin(), &key(), &other).is_err(), "{other:?}");
    }
    // The item that the page ended with no longer fits the filter.
    world.set_state(6, VersionState::Enabled).await.unwrap();
    let rest = world.kms.list_versions(&admin(), &key(), &PageRequest { token, ..request }).unwrap();
    assert_eq!(rest.items.iter().map(|version| version.number).collect::<Vec<_>>(), [9]);
}

#[tokio::test]
async fn keys_are_found_by_labels_schedule_and_primary_version() {
    let world = World::with_key().await;
    let labels = BTreeMap::from([("team".to_owned(), "owls".to_owned())]);
    let new = NewCryptoKey {
        labels,
        rotation_period: Some(2 * DAY),
        next_rotation_time: Some(START.plus(DAY)),
        ..NewCryptoKey::symmetric()
    };
    world.kms.create_crypto_key(&admin(), &ring(), "rotating", new).await.unwrap();
    let bare = NewCryptoKey { skip_initial_version: true, ..NewCryptoKey::symmetric() };
    world.kms.create_crypto_key(&admin(), &ring(), "bare", bare).await.unwrap();
    let found = |filter: &str| {
        let request = PageRequest { filter: filter.into(), ..PageRequest::default() };
        let page = world.kms.list_crypto_keys(&admin(), &ring(), &request).unwrap();
        page.items.iter().map(|view| view.key.name.crypto_key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("labels.team=owls"), ["rotating"]);
    assert_eq!(found("NOT labels.team:*"), ["bare", "k"]);
    assert_eq!(found("rotation_period>86400s"), ["rotating"]);
    assert_eq!(found("nextRotationTime<2023-11-16T00:00:00Z"), ["rotating"]);
    assert_eq!(found("primary.state=ENABLED"), ["k", "rotating"]);
    assert_eq!(found("-primary.name:*"), ["bare"]);
    assert_eq!(found("name:ROTAT OR name=bare"), ["bare", "rotating"]);
    assert_eq!(found("purpose=ENCRYPT_DECRYPT import_only=false").len(), 3);
}

#[tokio::test]
async fn labels_are_replaced_and_kept() {
    let world = World::with_key().await;
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let update = |labels| CryptoKeyUpdate { labels: Some(labels), ..CryptoKeyUpdate::default() };
    let wanted = labels(&[("env", "prod"), ("team", "a")]);
    world.kms.update_crypto_key(&admin(), &key(), update(wanted.clone())).await.unwrap();
    let refused = world.kms.update_crypto_key(&admin(), &key(), update(labels(&[("Env", "x")]))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let world = world.restarted().await;
    assert_eq!(world.view().key.labels, wanted);
}

#[tokio::test]
async fn many_keys_are_there_after_a_restart() {
    let world = World::with_key().await;
    let made = (0..100).map(|i| {
        let kms = world.kms.clone();
        tokio::spawn(async move {
            kms.create_crypto_key(&admin(), &ring(), &format!("key-{i:03}"), NewCryptoKey::symmetric())
                .await
                .unwrap();
        })
    });
    for made in futures::future::join_all(made).await {
        made.unwrap();
    }
    let world = world.restarted().await;
    let page = world.kms.list_crypto_keys(&admin(), &ring(), &page(1000, "")).unwrap();
    assert_eq!(page.items.len(), 101);
    assert!(
        page.items.iter().all(|view| view.primary.as_ref().is_some_and(|v| v.state == VersionState::Enabled))
    );
}
