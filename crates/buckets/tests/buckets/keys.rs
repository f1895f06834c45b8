//! Keys: where they may be, who may use them, and what happens when they go.

use claviger_buckets::model::Conditions;
use claviger_buckets::{CopyRequest, ListRequest, UploadChunk, UploadSpec, errors};
use claviger_core::ErrorKind;

use crate::world::{World, body, pieces, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_refused_in_another_place_without_a_grant_or_disabled() {
    let world = World::new().await;
    let elsewhere = world.key("k", "us-west1").await;
    let error = world.try_bucket("bucket", "us-east1", Some(&elsewhere)).await.unwrap_err();
    assert_eq!(error.violations()[0].kind, errors::KEY_LOCATION);
    let ungranted = world.key_without_grant("k", "us-east1").await;
    let error = world.try_bucket("bucket", "us-east1", Some(&ungranted)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.violations()[0].kind.as_str()),
        (ErrorKind::PermissionDenied, errors::KEY_DENIED)
    );
    assert!(error.message().contains("Permission denied on Cloud KMS key."), "{error}");
    world.grant(&ungranted, true).await;
    world.set_enabled(&ungranted, false).await;
    let error = world.try_bucket("bucket", "us-east1", Some(&ungranted)).await.unwrap_err();
    assert_eq!(error.violations()[0].kind, errors::KEY_DISABLED);
    assert!(world.buckets.buckets("p").is_empty());
    let multi = world.key("k", "europe").await;
    world.try_bucket("bucket", "EU", Some(&multi)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_default_key_locks_contents_names_and_writes() {
    let world = World::new().await;
    let key = world.key("k", "us-east1").await;
    world.bucket("bucket", Some(&key)).await;
    world.put("bucket", "short", "text").await.unwrap();
    let (all, stream) = pieces(1_000_000);
    world.buckets.write(write("bucket", "long", stream)).await.unwrap();
    world.set_enabled(&key, false).await;
    for error in [
        world.get("bucket", "short").await.unwrap_err(),
        world.get("bucket", "long").await.unwrap_err(),
        world.names("bucket").await.unwrap_err(),
        world.put("bucket", "new", "x").await.unwrap_err(),
        world.buckets.delete_object("bucket", "short", None, &Conditions::default()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(error.violations()[0].kind, "KEY_DISABLED");
        assert!(error.message().contains("projects/_/buckets/bucket is disabled"), "{error}");
    }
    world.set_enabled(&key, true).await;
    assert_eq!(world.names("bucket").await.unwrap(), ["long", "short"]);
    assert_eq!(world.get("bucket", "long").await.unwrap(), all);
    assert_eq!(world.get("bucket", "short").await.unwrap(), "text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_under_way_stops_when_its_key_goes() {
    use futures::StreamExt;
    let world = World::new().await;
    let key = world.key("k", "us-east1").await;
    world.bucket("bucket", Some(&key)).await;
    let id = world.buckets.start_upload(UploadSpec {
        bucket: "bucket".into(),
        name: "long".into(),
        ..UploadSpec::default()
    });
    let id = id.await.unwrap();
    for number in 0..4 {
        let chunk = UploadChunk {
            bucket: "bucket".into(),
            upload_id: id.clone(),
            offset: number * 9_000_000,
            total: None,
            expected: Default::default(),
            last: number == 3,
            body: pieces(9_000_000).1,
        };
        world.buckets.upload_chunk(chunk).await.unwrap();
    }
    let (_, mut stream) = world.buckets.open_object("bucket", "long").await.unwrap();
    stream.next().await.unwrap().unwrap();
    world.set_enabled(&key, false).await;
    let mut read = 9_000_000;
    let error = loop {
        match stream.next().await.expect("the end does not come") {
            Ok(bytes) => read += bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.violations()[0].kind, "KEY_DISABLED");
    assert!(read < 36_000_000, "{read}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_under_a_key_of_its_own_is_locked_alone() {
    let world = World::new().await;
    let own = world.key("own", "us-east1").await;
    world.bucket("bucket", None).await;
    let mut objects = Vec::new();
    for (name, len) in [("short", 10), ("long", 1_000_000)] {
        let (_, stream) = pieces(len);
        let mut request = write("bucket", name, stream);
        request.kms_key = Some(own.clone());
        objects.push(world.buckets.write(request).await.unwrap());
    }
    world.put("bucket", "other", "x").await.unwrap();
    let versions = world.buckets.key_versions("bucket").await.unwrap();
    assert_eq!(versions[objects[0].vault()], own.version_name(1).to_string());
    world.set_enabled(&own, false).await;
    for name in ["short", "long"] {
        assert_eq!(world.get("bucket", name).await.unwrap_err().violations()[0].kind, "KEY_DISABLED");
    }
    assert_eq!(world.get("bucket", "other").await.unwrap(), "x");
    assert_eq!(world.names("bucket").await.unwrap(), ["long", "other", "short"]);
    for name in ["short", "long"] {
        world.buckets.delete_object("bucket", name, None, &Conditions::default()).await.unwrap();
    }
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 1, "the bytes wait until their key is back");
    world.set_enabled(&own, true).await;
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_default_key_protects_new_objects_and_all_names() {
    let world = World::new().await;
    let (one, two) = (world.key("one", "us-east1").await, world.key("two", "us-east1").await);
    world.bucket("bucket", Some(&one)).await;
    for number in 0..50 {
        world.put("bucket", &format!("old-{number:02}"), "old").await.unwrap();
    }
    let new_key = two.clone();
    world.change("bucket", |config| config.kms_key = Some(new_key)).await;
    world.put("bucket", "new", "new").await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.names("bucket").await.unwrap().len(), 51);
    world.set_enabled(&one, false).await;
    assert_eq!(world.names("bucket").await.unwrap().len(), 51, "names are under the new key");
    assert_eq!(world.get("bucket", "new").await.unwrap(), "new");
    let old = world.get("bucket", "old-07").await.unwrap_err();
    assert!(old.violations()[0].subject.starts_with(one.as_str()), "{old:?}");
    world.set_enabled(&one, true).await;
    let rewrite = CopyRequest {
        source_bucket: "bucket".into(),
        source_name: "old-07".into(),
        bucket: "bucket".into(),
        name: "old-07".into(),
        ..CopyRequest::default()
    };
    world.buckets.copy(rewrite).await.unwrap();
    world.set_enabled(&one, false).await;
    assert_eq!(world.get("bucket", "old-07").await.unwrap(), "old", "rewritten under the new key");
    world.set_enabled(&two, false).await;
    let error = world.names("bucket").await.unwrap_err();
    assert!(error.violations()[0].subject.starts_with(two.as_str()), "{error:?}");
    world.set_enabled(&one, true).await;
    world.set_enabled(&two, true).await;
    world.change("bucket", |config| config.kms_key = None).await;
    world.set_enabled(&one, false).await;
    world.set_enabled(&two, false).await;
    assert_eq!(world.names("bucket").await.unwrap().len(), 51);
    world.put("bucket", "managed", "x").await.unwrap();
    assert_eq!(world.get("bucket", "managed").await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_grant_acts_like_a_disabled_key() {
    let world = World::new().await;
    let key = world.key("k", "us-east1").await;
    world.bucket("bucket", Some(&key)).await;
    world.put("bucket", "a", "x").await.unwrap();
    world.grant(&key, false).await;
    world.until_locked(&key, true).await;
    let error = world.get("bucket", "a").await.unwrap_err();
    assert_eq!(error.violations()[0].kind, "KEY_PERMISSION_DENIED");
    world.grant(&key, true).await;
    world.until_locked(&key, false).await;
    assert_eq!(world.get("bucket", "a").await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_metadata_or_content_is_on_the_disk_in_clear() {
    let world = World::new().await;
    world.bucket("bucket-planted", None).await;
    let content = bytes::Bytes::from("PLANTED-CONTENT ".repeat(20_000));
    let mut request = write("bucket-planted", "PLANTED-NAME", body(&content));
    request.metadata.metadata.insert("PLANTED-KEY".into(), "PLANTED-VALUE".into());
    request.metadata.content_type = Some("text/PLANTED".into());
    world.buckets.write(request).await.unwrap();
    world.put("bucket-planted", "PLANTED-SHORT", "PLANTED-TEXT").await.unwrap();
    world.list(ListRequest { bucket: "bucket-planted".into(), ..Default::default() }).await.unwrap();
    assert!(!world.on_disk(b"PLANTED").await);
    assert!(!world.on_disk(b"bucket-planted").await);
    let world = world.restart().await;
    assert_eq!(world.names("bucket-planted").await.unwrap().len(), 2);
    assert!(!world.on_disk(b"PLANTED").await);
}
