//! Logs: order, parts, budgets, locks, and what is left behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use claviger_core::{ErrorKind, Result};

use super::Log;
use crate::testing::{Job, Random};

async fn read(log: &Arc<Log>, of: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for part in 0..of {
        let mut reader = log.reader(part, of)?;
        while let Some(chunk) = reader.next().await? {
            assert!(!chunk.is_empty());
            all.extend_from_slice(&chunk);
        }
        assert_eq!(reader.left(), 0);
    }
    Ok(all)
}

async fn fill(log: &Arc<Log>, seed: u64, bundles: u64, chunks: u64, most: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    for _ in 0..bundles {
        let mut writer = log.writer();
        for _ in 0..random.below(chunks) {
            let len = random.below(most) as usize;
            let chunk = random.bytes(len);
            all.extend_from_slice(&chunk);
            writer.write(chunk.into(), 1).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
    all
}

#[tokio::test]
async fn what_is_read_is_what_was_written_in_order_in_any_number_of_parts_at_any_budget() {
    for (memory, bundles, chunks, most) in [
        (64 << 20, 4, 100, 5000),
        (512 << 10, 20, 50, 10_000),
        (64 << 10, 5, 10, 700_000),
        (64 << 10, 600, 5, 300),
    ] {
        let job = Job::new(memory).await;
        let log = job.space.log("l");
        let all = fill(&log, most, bundles, chunks, most).await;
        for of in [1, 3, 16] {
            assert!(read(&log, of).await.unwrap() == all, "{memory} in {of} parts");
        }
        assert_eq!(log.bytes(), all.len() as u64);
        assert_eq!(job.space.stats().bytes_written > 0, memory < 1 << 20);
        log.delete().await.unwrap();
        assert_eq!(log.reader(0, 1).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        assert_eq!(job.files().await, Vec::<String>::new());
        assert_eq!(job.space.budget().used(), 0);
    }
}

#[tokio::test]
async fn chunks_are_never_cut_and_small_ones_come_together() {
    let job = Job::new(64 << 20).await;
    let log = job.space.log("l");
    for bundle in 0..1000u32 {
        let mut writer = log.writer();
        writer.write(Bytes::from(vec![bundle as u8; 1000]), 10).await.unwrap();
        writer.commit().await.unwrap();
    }
    let mut writer = log.writer();
    writer.write(Bytes::from(vec![1; 3 << 20]), 1).await.unwrap();
    writer.commit().await.unwrap();
    let mut reader = log.reader(0, 1).unwrap();
    let mut lens = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        lens.push(chunk.len());
    }
    assert_eq!(lens, [1_000_000, 3 << 20]);
    assert_eq!(log.elements(), 10_001);
    assert!(log.state().extents.len() < 300);
}

#[tokio::test]
async fn parts_have_about_the_same_size() {
    let job = Job::new(256 << 10).await;
    let log = job.space.log("l");
    fill(&log, 3, 40, 60, 50_000).await;
    let lens: Vec<_> = (0..4).map(|part| log.reader(part, 4).unwrap().left()).collect();
    let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
    assert!(most - least < 2 << 20, "{lens:?}");
}

#[tokio::test]
async fn a_bundle_that_does_not_commit_leaves_nothing_and_a_lock_stops_writing_and_reading() {
    let job = Job::new(256 << 10).await;
    let log = job.space.log("l");
    let mut writer = log.writer();
    for _ in 0..100 {
        writer.write(Bytes::from(vec![7; 50_000]), 1).await.unwrap();
    }
    assert!(!job.files().await.is_empty());
    drop(writer);
    assert_eq!(job.files().await, Vec::<String>::new());
    assert_eq!((log.bytes(), job.space.budget().used()), (0, 0));

    let all = fill(&log, 5, 10, 100, 20_000).await;
    let mut reader = log.reader(0, 1).unwrap();
    let first = reader.next().await.unwrap().unwrap();
    assert!(all.starts_with(&first));
    let mut open = log.writer();
    open.write(Bytes::from_static(b"x"), 1).await.unwrap();
    job.locked.store(true, Ordering::Relaxed);
    assert_eq!(reader.next().await.unwrap_err().message(), "key k is disabled");
    assert_eq!(log.reader(0, 1).unwrap_err().message(), "key k is disabled");
    assert_eq!(open.commit().await.unwrap_err().message(), "key k is disabled");
    job.locked.store(false, Ordering::Relaxed);
    assert!(read(&log, 2).await.unwrap() == all);
}

#[tokio::test]
async fn a_changed_file_is_found_and_named() {
    let job = Job::new(64 << 10).await;
    let log = job.space.log("l");
    fill(&log, 7, 5, 50, 20_000).await;
    job.flip_all().await;
    let error = read(&log, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.message().contains("job/shuffle/run/"), "{}", error.message());
}

#[tokio::test]
async fn blobs_come_back_are_listed_and_survive_a_sweep_that_removes_old_runs() {
    let job = Job::new(64 << 10).await;
    let log = job.space.log("l");
    let all = fill(&log, 9, 5, 50, 20_000).await;
    let large = Bytes::from(Random::new(1).bytes(20 << 20));
    job.space.put_blob("artifact/1", Bytes::from_static(b"first")).await.unwrap();
    let mut writer = job.space.blob_writer("artifact/2").unwrap();
    for piece in large.chunks(1 << 20) {
        writer.write(large.slice_ref(piece)).await.unwrap();
    }
    drop(job.space.blob_writer("artifact/3").unwrap());
    assert_eq!(writer.commit().await.unwrap(), 20 << 20);
    assert_eq!(job.space.blob("artifact/2").await.unwrap(), large);
    let names: Vec<_> =
        job.space.blobs().await.unwrap().into_iter().map(|blob| (blob.name, blob.len)).collect();
    assert_eq!(names, [("artifact/1".to_owned(), 5), ("artifact/2".to_owned(), 20 << 20)]);
    assert_eq!(job.space.blob("artifact/4").await.unwrap_err().kind(), ErrorKind::NotFound);
    for name in ["", "a/../b", "A", "a b", "/a", "a//b"] {
        assert_eq!(job.space.blob_writer(name).unwrap_err().kind(), ErrorKind::Internal, "{name}");
    }

    let next = crate::Space::new(
        Arc::new(job.sealed.clone()),
        "shuffle".into(),
        job.space.budget().clone(),
        Arc::new(|| Ok(())),
    );
    job.space.sweep().await.unwrap();
    assert!(read(&log, 1).await.unwrap() == all, "its own files stay");
    next.sweep().await.unwrap();
    assert!(read(&log, 1).await.is_err());
    let left = job.files().await;
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(next.blob("artifact/1").await.unwrap(), &b"first"[..]);
    next.delete_blob("artifact/1").await.unwrap();
    next.delete_blob("artifact/1").await.unwrap();
    assert_eq!(job.files().await.len(), 1);
}
