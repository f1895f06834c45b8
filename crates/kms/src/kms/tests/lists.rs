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
    let list = |page| world.kms.list_key_rings(&admin(), &location(), &page).unwrap_err().kind();
    assert_eq!(list(page(-1, "")), ErrorKind::InvalidArgument);
    assert_eq!(list(page(0, "nonsense!")), ErrorKind::InvalidArgument);
    assert_eq!(list(page(0, "bm9uZQ")), ErrorKind::InvalidArgument);
    let filtered = PageRequest { filter: "name:x".into(), ..PageRequest::default() };
    assert_eq!(list(filtered), ErrorKind::Unimplemented);
    let ordered = PageRequest { order_by: "create_time".into(), ..PageRequest::default() };
    assert_eq!(list(ordered), ErrorKind::Unimplemented);
    let missing = KeyRingName::new("p1", "us-east1", "none").unwrap();
    let error = world.kms.list_crypto_keys(&admin(), &missing, &page(0, "")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
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
