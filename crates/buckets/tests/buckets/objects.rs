//! Objects: contents, generations, conditions, versions, holds, copies.

use std::time::Duration;

use bytes::Bytes;
use claviger_buckets::checksums::{Expected, encode_crc32c};
use claviger_buckets::model::{Conditions, Retention};
use claviger_buckets::{ComposeRequest, ComposeSource, CopyRequest, ListRequest, RangeWanted, errors};
use claviger_core::{Clock, Error, ErrorKind};
use futures::StreamExt;

use crate::world::{World, body, collect, pieces, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_all_lengths_come_back_whole_and_in_ranges() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    for len in [0, 1, 128 * 1024, 128 * 1024 + 1, 3_000_000, 9_000_000] {
        let (all, stream) = pieces(len);
        let name = format!("object-{len}");
        let object = world.buckets.write(write("bucket", &name, stream)).await.unwrap();
        assert_eq!(object.size, len as u64);
        assert_eq!(object.crc32c, claviger_crypto::crc32c(&all));
        assert_eq!(world.get("bucket", &name).await.unwrap(), all);
        if len > 1000 {
            let part = world.get_range("bucket", &name, None, RangeWanted::Between(500, 1499)).await.unwrap();
            assert_eq!(part, all.slice(500..1500));
            let tail = world.get_range("bucket", &name, None, RangeWanted::Last(777)).await.unwrap();
            assert_eq!(tail, all.slice(len - 777..));
        }
    }
    assert_eq!(world.object_files().await, 3, "short contents need no file");
    let world = world.restart().await;
    let (all, _) = pieces(9_000_000);
    assert_eq!(world.get("bucket", "object-9000000").await.unwrap(), all);
    assert_eq!(world.get("bucket", "object-1").await.unwrap(), all.slice(..1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_checksum_or_a_broken_body_leaves_nothing() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    for len in [100, 5_000_000] {
        let (_, stream) = pieces(len);
        let mut request = write("bucket", "wrong", stream);
        request.expected = Expected { crc32c: Some(encode_crc32c(1)), md5: None };
        assert_eq!(world.buckets.write(request).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        let (_, stream) = pieces(len);
        let broken = stream.chain(futures::stream::once(async { Err(Error::invalid("the body broke off")) }));
        let error = world.buckets.write(write("bucket", "broken", broken.boxed())).await.unwrap_err();
        assert_eq!(error.message(), "the body broke off");
    }
    world.buckets.sweep_dirty().await;
    assert_eq!(world.names("bucket").await.unwrap(), Vec::<String>::new());
    assert_eq!(world.object_files().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_when_their_object_is_overwritten_or_deleted() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    for _ in 0..3 {
        let (_, stream) = pieces(1_000_000);
        world.buckets.write(write("bucket", "a", stream)).await.unwrap();
    }
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 1);
    world.buckets.delete_object("bucket", "a", None, &Conditions::default()).await.unwrap();
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 0);
    assert_eq!(world.get("bucket", "a").await.unwrap_err().message(), "No such object: bucket/a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_a_crash_left_without_an_object_go_at_the_next_open() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    world.put("bucket", "kept", "kept").await.unwrap();
    let (_, stream) = pieces(5_000_000);
    world.buckets.write(write("bucket", "big", stream)).await.unwrap();
    let (_, stream) = pieces(5_000_000);
    world.buckets.write(write("bucket", "big", stream)).await.unwrap();
    // The former bytes wait for the sweep: the process ends before it.
    assert_eq!(world.object_files().await, 2);
    let world = world.crash().await;
    assert_eq!(world.names("bucket").await.unwrap(), ["big", "kept"]);
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 1);
    assert_eq!(world.get("bucket", "big").await.unwrap().len(), 5_000_000);
    assert_eq!(world.get("bucket", "kept").await.unwrap(), "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_who_want_to_be_the_first_one_is() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let first = Conditions { generation_match: Some(0), ..Conditions::default() };
    let tries = (0..20).map(|number| {
        let mut request = write("bucket", "a", body(&Bytes::from(format!("{number}"))));
        request.conditions = first;
        let buckets = world.buckets.clone();
        tokio::spawn(async move { buckets.write(request).await })
    });
    let mut won = 0;
    for done in futures::future::join_all(tries).await {
        match done.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.violations()[0].kind, errors::CONDITION_NOT_MET),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_grow_and_metadata_changes_have_their_own_count() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let one = world.put("bucket", "a", "1").await.unwrap();
    let two = world.put("bucket", "a", "2").await.unwrap();
    assert!(two.generation > one.generation, "though the clock stands");
    let conditions = Conditions { metageneration_match: Some(1), ..Conditions::default() };
    let change = |metadata: &mut claviger_buckets::model::ObjectMetadata| {
        metadata.cache_control = Some("no-store".into());
        Ok(())
    };
    let changed = world.buckets.update_object("bucket", "a", None, &conditions, change).await.unwrap();
    assert_eq!((changed.generation, changed.metageneration), (two.generation, 2));
    let again = world.buckets.update_object("bucket", "a", None, &conditions, change).await.unwrap_err();
    assert_eq!(again.violations()[0].kind, errors::CONDITION_NOT_MET);
    let gone = world.buckets.object("bucket", "a", Some(one.generation), &Conditions::default()).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_versioning_what_was_there_stays_until_it_is_named() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    world.change("bucket", |config| config.versioning = true).await;
    let one = world.put("bucket", "a", "1").await.unwrap();
    let two = world.put("bucket", "a", "2").await.unwrap();
    let none = Conditions::default();
    world.buckets.delete_object("bucket", "a", None, &none).await.unwrap();
    assert_eq!(world.names("bucket").await.unwrap(), Vec::<String>::new());
    let all = ListRequest { bucket: "bucket".into(), versions: true, ..ListRequest::default() };
    let found = world.list(all.clone()).await.unwrap().objects;
    let found: Vec<_> = found.iter().map(|object| (object.generation, object.deleted.is_some())).collect();
    assert_eq!(found, [(one.generation, true), (two.generation, true)]);
    let first = world.get_range("bucket", "a", Some(one.generation), RangeWanted::All).await.unwrap();
    assert_eq!(first, "1");
    let not_empty = world.buckets.delete_bucket("bucket", &none).await.unwrap_err();
    assert_eq!(not_empty.violations()[0].kind, errors::NOT_EMPTY);
    for generation in [one.generation, two.generation] {
        world.buckets.delete_object("bucket", "a", Some(generation), &none).await.unwrap();
    }
    assert!(world.list(all).await.unwrap().objects.is_empty());
    world.buckets.delete_bucket("bucket", &none).await.unwrap();
    assert_eq!(world.buckets.bucket("bucket").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!world.on_disk(b"buckets/").await, "the files of the bucket are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_and_retention_keep_objects() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    world.put("bucket", "a", "1").await.unwrap();
    let none = Conditions::default();
    let hold = |on: bool| {
        move |metadata: &mut claviger_buckets::model::ObjectMetadata| {
            metadata.temporary_hold = on;
            Ok(())
        }
    };
    world.buckets.update_object("bucket", "a", None, &none, hold(true)).await.unwrap();
    for error in [
        world.buckets.delete_object("bucket", "a", None, &none).await.unwrap_err(),
        world.put("bucket", "a", "2").await.unwrap_err(),
    ] {
        assert_eq!(error.violations()[0].kind, errors::HELD);
    }
    world.buckets.update_object("bucket", "a", None, &none, hold(false)).await.unwrap();
    let effective = world.clock.now();
    let retention = Retention { period_seconds: 60, effective, locked: false };
    world.change("bucket", |config| config.retention = Some(retention)).await;
    let kept = world.buckets.delete_object("bucket", "a", None, &none).await.unwrap_err();
    assert_eq!(kept.violations()[0].kind, errors::RETAINED);
    world.buckets.lock_retention("bucket", &none).await.unwrap();
    let shorter = world.buckets.update_bucket("bucket", &none, |config| {
        config.retention = None;
        Ok(())
    });
    assert_eq!(shorter.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    world.clock.advance(Duration::from_secs(60));
    world.buckets.delete_object("bucket", "a", None, &none).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_compositions_have_the_bytes_of_their_sources() {
    let world = World::new().await;
    world.bucket("one", None).await;
    world.bucket("two", None).await;
    let (all, stream) = pieces(2_000_000);
    let mut request = write("one", "a", stream);
    request.metadata.metadata.insert("k".into(), "v".into());
    let source = world.buckets.write(request).await.unwrap();
    let copy = CopyRequest {
        source_bucket: "one".into(),
        source_name: "a".into(),
        bucket: "two".into(),
        name: "b".into(),
        ..CopyRequest::default()
    };
    let copied = world.buckets.copy(copy).await.unwrap();
    assert_eq!((copied.md5, &copied.metadata.metadata), (source.md5, &source.metadata.metadata));
    assert_eq!(world.get("two", "b").await.unwrap(), all);
    world.put("two", "c", "short").await.unwrap();
    let sources = ["b", "c", "c"].map(|name| ComposeSource { name: name.into(), ..Default::default() });
    let compose = ComposeRequest {
        bucket: "two".into(),
        name: "b".into(),
        sources: sources.to_vec(),
        ..ComposeRequest::default()
    };
    let composed = world.buckets.compose(compose.clone()).await.unwrap();
    assert_eq!((composed.md5, composed.component_count), (None, Some(3)));
    let (_, stream) = world.buckets.open_object("two", "b").await.unwrap();
    assert_eq!(collect(stream).await.unwrap(), [&all[..], b"shortshort"].concat());
    let again = world.buckets.compose(compose).await.unwrap();
    assert_eq!(again.component_count, Some(5));
    let none = ComposeRequest { bucket: "two".into(), name: "x".into(), ..ComposeRequest::default() };
    assert_eq!(world.buckets.compose(none).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifecycle_rules_remove_what_is_old_and_superseded() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let rules = serde_json::json!({"rule": [
        {"action": {"type": "Delete"}, "condition": {"age": 30, "matchesPrefix": ["tmp/"]}},
        {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 2}},
    ]});
    world.change("bucket", |config| (config.versioning, config.lifecycle) = (true, Some(rules))).await;
    for number in 0..5 {
        world.put("bucket", "kept", format!("{number}")).await.unwrap();
    }
    world.put("bucket", "tmp/old", "x").await.unwrap();
    world.clock.advance(Duration::from_secs(30 * 24 * 60 * 60));
    world.put("bucket", "tmp/new", "x").await.unwrap();
    world.buckets.tour().await;
    assert_eq!(world.names("bucket").await.unwrap(), ["kept", "tmp/new"]);
    let all = ListRequest { bucket: "bucket".into(), versions: true, ..ListRequest::default() };
    let kept = world.list(all).await.unwrap().objects;
    assert_eq!(kept.iter().filter(|object| object.name == "kept").count(), 2);
}
