//! Resumable uploads.

use std::time::Duration;

use bytes::Bytes;
use claviger_buckets::checksums::{Expected, encode_crc32c};
use claviger_buckets::model::{Conditions, Object};
use claviger_buckets::{Progress, UploadChunk, UploadSpec, errors};
use claviger_core::{Error, ErrorKind, Result};
use futures::StreamExt;

use crate::world::{World, body, pieces};

async fn start(world: &World, name: &str, total: Option<u64>) -> String {
    let spec = UploadSpec { bucket: "bucket".into(), name: name.into(), total, ..UploadSpec::default() };
    world.buckets.start_upload(spec).await.unwrap()
}

fn chunk(id: &str, offset: u64, last: bool, bytes: &Bytes) -> UploadChunk {
    UploadChunk {
        bucket: "bucket".into(),
        upload_id: id.into(),
        offset,
        total: None,
        expected: Expected::default(),
        last,
        body: body(bytes),
    }
}

fn incomplete(progress: Result<Progress>) -> u64 {
    match progress.unwrap() {
        Progress::Incomplete(received) => received,
        Progress::Done(object) => panic!("done: {object:?}"),
    }
}

fn done(progress: Result<Progress>) -> Object {
    match progress.unwrap() {
        Progress::Done(object) => *object,
        Progress::Incomplete(received) => panic!("only {received}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_make_an_object_over_a_restart() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let (all, _) = pieces(6_000_000);
    let id = start(&world, "a", Some(6_000_000)).await;
    let buckets = &world.buckets;
    assert_eq!(
        incomplete(buckets.upload_chunk(chunk(&id, 0, false, &all.slice(..2_000_000))).await),
        2_000_000
    );
    let world = world.crash().await;
    let buckets = &world.buckets;
    assert_eq!(incomplete(buckets.upload_progress("bucket", &id, None).await), 2_000_000);
    let gap = buckets.upload_chunk(chunk(&id, 3_000_000, false, &all.slice(3_000_000..4_000_000))).await;
    assert_eq!(incomplete(gap), 2_000_000, "bytes past a gap are not taken");
    // What overlaps is passed over.
    let next = buckets.upload_chunk(chunk(&id, 1_500_000, false, &all.slice(1_500_000..4_000_000))).await;
    assert_eq!(incomplete(next), 4_000_000);
    assert!(world.names("bucket").await.unwrap().is_empty());
    let mut last = chunk(&id, 4_000_000, true, &all.slice(4_000_000..));
    last.expected = Expected { crc32c: Some(encode_crc32c(claviger_crypto::crc32c(&all))), md5: None };
    let object = done(buckets.upload_chunk(last).await);
    assert_eq!((object.size, object.crc32c), (6_000_000, claviger_crypto::crc32c(&all)));
    assert_eq!(world.get("bucket", "a").await.unwrap(), all);
    // The reply was lost: the client asks again.
    assert_eq!(done(buckets.upload_progress("bucket", &id, None).await), object);
    world.buckets.sweep_dirty().await;
    assert_eq!(world.get("bucket", "a").await.unwrap(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_and_empty_objects_end_at_once() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let id = start(&world, "short", None).await;
    done(world.buckets.upload_chunk(chunk(&id, 0, true, &Bytes::from("text"))).await);
    let id = start(&world, "empty", None).await;
    done(world.buckets.upload_progress("bucket", &id, Some(0)).await);
    assert_eq!(world.get("bucket", "short").await.unwrap(), "text");
    assert_eq!(world.get("bucket", "empty").await.unwrap(), "");
    assert_eq!(world.object_files().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_breaks_off_keeps_what_came() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let (all, stream) = pieces(3_000_000);
    let id = start(&world, "a", Some(3_000_000)).await;
    let cut = stream.take(30).chain(futures::stream::once(async { Err(Error::invalid("cut")) }));
    let mut first = chunk(&id, 0, true, &Bytes::new());
    first.body = cut.boxed();
    assert_eq!(world.buckets.upload_chunk(first).await.unwrap_err().message(), "cut");
    let received = incomplete(world.buckets.upload_progress("bucket", &id, None).await);
    assert_eq!(received, 30 * 60_000);
    let rest = all.slice(usize::try_from(received).unwrap()..);
    let object = done(world.buckets.upload_chunk(chunk(&id, received, true, &rest)).await);
    assert_eq!(object.crc32c, claviger_crypto::crc32c(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_chunks_become_one_file() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let (all, _) = pieces(50 * 150_000);
    let id = start(&world, "a", None).await;
    for number in 0..50 {
        let part = all.slice(number * 150_000..(number + 1) * 150_000);
        let progress =
            world.buckets.upload_chunk(chunk(&id, number as u64 * 150_000, number == 49, &part)).await;
        assert_eq!(number == 49, matches!(progress.unwrap(), Progress::Done(_)));
    }
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 1);
    assert_eq!(world.get("bucket", "a").await.unwrap(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_and_expired_uploads_leave_nothing() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let (all, _) = pieces(1_000_000);
    let cancelled = start(&world, "a", None).await;
    world.buckets.upload_chunk(chunk(&cancelled, 0, false, &all)).await.unwrap();
    let left = start(&world, "b", None).await;
    world.buckets.upload_chunk(chunk(&left, 0, false, &all)).await.unwrap();
    assert_eq!(world.object_files().await, 2);
    world.buckets.cancel_upload("bucket", &cancelled).await.unwrap();
    let gone = world.buckets.upload_progress("bucket", &cancelled, None).await.unwrap_err();
    assert_eq!(gone.violations()[0].kind, errors::UPLOAD_GONE);
    world.buckets.sweep_dirty().await;
    assert_eq!(world.object_files().await, 1);
    world.clock.advance(Duration::from_secs(7 * 24 * 60 * 60 - 1));
    world.buckets.tour().await;
    assert_eq!(world.object_files().await, 1);
    world.clock.advance(Duration::from_secs(1));
    world.buckets.tour().await;
    assert_eq!(world.object_files().await, 0);
    assert_eq!(
        world.buckets.upload_progress("bucket", &left, None).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_checked_when_it_ends() {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    let spec = UploadSpec {
        bucket: "bucket".into(),
        name: "a".into(),
        conditions: Conditions { generation_match: Some(0), ..Conditions::default() },
        ..UploadSpec::default()
    };
    let id = world.buckets.start_upload(spec).await.unwrap();
    world.put("bucket", "a", "was quicker").await.unwrap();
    let late = world.buckets.upload_chunk(chunk(&id, 0, true, &Bytes::from("late"))).await.unwrap_err();
    assert_eq!(late.violations()[0].kind, errors::CONDITION_NOT_MET);
    let id = start(&world, "b", Some(10)).await;
    let more = world.buckets.upload_chunk(chunk(&id, 0, false, &Bytes::from("more than ten"))).await;
    assert_eq!(more.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let other = world.bucket("other", None).await;
    let stolen = world.buckets.upload_progress(&other.name, &id, None).await.unwrap_err();
    assert_eq!(stolen.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_under_a_new_default_key() {
    let world = World::new().await;
    let (one, two) = (world.key("one", "us-east1").await, world.key("two", "us-east1").await);
    world.bucket("bucket", Some(&one)).await;
    let (all, _) = pieces(1_000_000);
    let id = start(&world, "a", None).await;
    world.buckets.upload_chunk(chunk(&id, 0, false, &all.slice(..600_000))).await.unwrap();
    world.change("bucket", |config| config.kms_key = Some(two)).await;
    let object = done(world.buckets.upload_chunk(chunk(&id, 600_000, true, &all.slice(600_000..))).await);
    let versions = world.buckets.key_versions("bucket").await.unwrap();
    assert_eq!(versions[object.vault()], one.version_name(1).to_string(), "the key of its beginning");
    assert_eq!(world.get("bucket", "a").await.unwrap(), all);
}
