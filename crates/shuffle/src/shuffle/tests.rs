//! Shuffles against a model, under small budgets, locks, changes and failures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use claviger_core::{ErrorKind, Result};
use futures::FutureExt;

use super::{Shuffle, ShuffleReader, Step};
use crate::Budget;
use crate::budget::Holder;
use crate::testing::{Job, Random};

type Groups = BTreeMap<Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>>;

/// Puts the values of one sort in the order of their bundles, whose number they begin with; there is no
/// order among bundles. Within a bundle nothing is moved.
fn by_bundle(values: &mut [(Vec<u8>, Vec<u8>)]) {
    values.sort_by(|a, b| (&a.0, a.1.first()).cmp(&(&b.0, b.1.first())));
}

async fn read_partition(mut reader: ShuffleReader, groups: &mut Groups) -> Result<()> {
    while let Some(key) = reader.next_key().await? {
        let mut values = Vec::new();
        while let Some((sort, value)) = reader.next_value().await? {
            values.push((sort.to_vec(), value.to_vec()));
        }
        assert!(!values.is_empty());
        assert!(values.is_sorted_by_key(|(sort, _)| sort.clone()), "not in the order of the sorts");
        by_bundle(&mut values);
        assert!(groups.insert(key.to_vec(), values).is_none(), "a key came twice");
    }
    Ok(())
}

async fn read_all(shuffle: &Shuffle) -> Result<Groups> {
    let mut groups = Groups::new();
    for partition in 0..shuffle.partitions() {
        read_partition(shuffle.reader(partition)?, &mut groups).await?;
    }
    Ok(groups)
}

/// Writes random bundles and gives what a reader should find.
async fn fill(shuffle: &Arc<Shuffle>, seed: u64, bundles: u64, records: u64, keys: u64, most: u64) -> Groups {
    let mut random = Random::new(seed);
    let mut model = Groups::new();
    for bundle in 0..bundles {
        let mut writer = shuffle.writer();
        for _ in 0..random.below(records) {
            let key_len = random.below(20) as usize;
            let number = random.below(keys);
            let key = [
                &number.to_be_bytes()[..],
                &vec![number as u8; key_len * usize::from(number.is_multiple_of(3))],
            ]
            .concat();
            // Some keys have one sort, some a few that come in any order.
            let sort = match number % 4 {
                0 => Vec::new(),
                1 => b"w".to_vec(),
                _ => vec![b's', random.below(3) as u8],
            };
            let len = if random.below(50) == 0 { most * 20 } else { most };
            let len = random.below(len) as usize;
            let mut value = random.bytes(len);
            value.iter_mut().take(1).for_each(|first| *first = bundle as u8);
            writer.add(&key, &sort, &value).unwrap();
            model.entry(key).or_default().push((sort, value));
            if random.below(10) == 0 {
                writer.make_room().await.unwrap();
            }
        }
        writer.commit().await.unwrap();
    }
    model.values_mut().for_each(|values| by_bundle(values));
    model
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_was_written_grouped_and_in_order_at_any_budget() {
    // In memory only; a few spills; merges in several passes.
    for (memory, bundles, records, keys, most) in [
        (64 << 20, 5, 2000, 100, 50),
        (1 << 20, 8, 4000, 1000, 100),
        (64 << 10, 30, 2000, 5000, 100),
        (64 << 10, 12, 3000, 3, 60),
    ] {
        let job = Job::new(memory).await;
        let shuffle = job.space.shuffle("s", 7);
        let expected = fill(&shuffle, memory as u64, bundles, records, keys, most).await;
        shuffle.finish().await.unwrap();
        let found = read_all(&shuffle).await.unwrap();
        assert!(found == expected, "budget of {memory}");
        assert!(read_all(&shuffle).await.unwrap() == expected, "a second reading");
        let stats = job.space.stats();
        assert_eq!(stats.bytes_written == 0, memory == 64 << 20, "{stats:?}");
        assert!(stats.merged_bytes > 0 || memory > 64 << 10, "{stats:?}");
        assert_eq!(shuffle.records(), expected.values().map(|values| values.len() as u64).sum::<u64>());
        shuffle.delete().await.unwrap();
        drop(shuffle);
        assert_eq!(job.files().await, Vec::<String>::new());
        assert_eq!(job.space.budget().used(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_at_the_same_time_lose_nothing_and_the_memory_stays_near_the_cap() {
    let memory = 64 << 20;
    let job = Job::new(memory).await;
    let shuffle = job.space.shuffle("s", 16);
    let mut tasks = tokio::task::JoinSet::new();
    for bundle in 0..8u64 {
        let shuffle = shuffle.clone();
        tasks.spawn(async move {
            let mut writer = shuffle.writer();
            for number in 0..20_000u64 {
                writer.add(&(number % 997).to_le_bytes(), b"", &[bundle as u8; 1000]).unwrap();
                if writer.needs_room() {
                    writer.make_room().await.unwrap();
                }
            }
            writer.commit().await.unwrap();
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    shuffle.finish().await.unwrap();
    let groups = read_all(&shuffle).await.unwrap();
    assert_eq!(groups.len(), 997);
    for values in groups.values() {
        let mut of_bundles = [0; 8];
        values.iter().for_each(|(_, value)| of_bundles[usize::from(value[0])] += 1);
        assert!(of_bundles.iter().all(|count| (20..=21).contains(count)), "{of_bundles:?}");
    }
    assert!(job.space.stats().bytes_written > 50 << 20);
    assert!(job.space.budget().peak() < memory / 2 * 3, "{}", job.space.budget().peak());
}

#[tokio::test]
async fn the_steps_that_do_not_wait_give_the_same_as_those_that_do() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 1);
    let expected = fill(&shuffle, 5, 10, 2000, 50, 100).await;
    shuffle.finish().await.unwrap();
    let mut reader = shuffle.reader(0).unwrap();
    let (mut groups, mut waits) = (Groups::new(), 0);
    while let Some(key) = reader.next_key().await.unwrap() {
        let mut values = Vec::new();
        loop {
            match reader.step().unwrap() {
                Step::Value { sort, value } => values.push((sort.to_vec(), value.to_vec())),
                Step::EndOfKey => break,
                Step::Wait => {
                    waits += 1;
                    assert_eq!(reader.try_next_value().unwrap(), None);
                    reader.fill().await.unwrap();
                }
            }
        }
        by_bundle(&mut values);
        groups.insert(key.to_vec(), values);
    }
    assert!(groups == expected);
    assert!(waits > 3, "{waits}");
}

#[tokio::test]
async fn a_reader_may_leave_a_key_before_its_end() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 2);
    let expected = fill(&shuffle, 6, 10, 2000, 40, 200).await;
    shuffle.finish().await.unwrap();
    let mut firsts = BTreeMap::new();
    for partition in 0..2 {
        let mut reader = shuffle.reader(partition).unwrap();
        while let Some(key) = reader.next_key().await.unwrap() {
            if key.len() % 2 == 0 {
                let (sort, value) = reader.next_value().await.unwrap().unwrap();
                firsts.insert(key.to_vec(), Some((sort.to_vec(), value.to_vec())));
            } else {
                firsts.insert(key.to_vec(), None);
            }
        }
    }
    assert_eq!(firsts.len(), expected.len());
    for (key, first) in firsts {
        let least = &expected[&key][0].0;
        assert!(first.is_none_or(|first| first.0 == *least && expected[&key].contains(&first)));
    }
}

#[tokio::test]
async fn a_bundle_that_does_not_commit_leaves_nothing() {
    let job = Job::new(256 << 10).await;
    let shuffle = job.space.shuffle("s", 4);
    let mut writer = shuffle.writer();
    for number in 0..20_000u64 {
        writer.add(&number.to_le_bytes(), b"", &[1; 64]).unwrap();
        writer.make_room().await.unwrap();
    }
    assert!(!job.files().await.is_empty());
    drop(writer);
    assert_eq!(job.files().await, Vec::<String>::new());
    assert_eq!(job.space.budget().used(), 0);
    let mut again = shuffle.writer();
    again.add(b"k", b"", b"v").unwrap();
    again.commit().await.unwrap();
    shuffle.finish().await.unwrap();
    assert_eq!(read_all(&shuffle).await.unwrap().len(), 1);
    assert_eq!(shuffle.records(), 1);
}

#[tokio::test]
async fn nothing_is_read_before_the_finish_or_committed_after_it() {
    let job = Job::new(1 << 20).await;
    let shuffle = job.space.shuffle("s", 3);
    assert_eq!(shuffle.reader(0).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    let mut late = shuffle.writer();
    late.add(b"k", b"", b"v").unwrap();
    shuffle.finish().await.unwrap();
    shuffle.finish().await.unwrap();
    assert_eq!(late.commit().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(read_all(&shuffle).await.unwrap().is_empty());
    assert_eq!(shuffle.reader(3).unwrap_err().kind(), ErrorKind::Internal);
    shuffle.delete().await.unwrap();
    assert_eq!(shuffle.reader(0).unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn after_a_lock_nothing_is_stored_committed_or_handed_out() {
    let job = Job::new(256 << 10).await;
    let shuffle = job.space.shuffle("s", 1);
    fill(&shuffle, 9, 10, 2000, 500, 100).await;
    let mut open = shuffle.writer();
    open.add(b"k", b"", b"v").unwrap();
    job.locked.store(true, Ordering::Relaxed);
    let written = job.space.stats();
    let error = open.commit().await.unwrap_err();
    assert_eq!((error.message(), error.violations().len()), ("key k is disabled", 1));
    assert_eq!(shuffle.finish().await.unwrap_err().message(), "key k is disabled");
    let mut spilling = shuffle.writer();
    let mut refused = None;
    for number in 0..20_000u64 {
        spilling.add(&number.to_le_bytes(), b"", &[1; 64]).unwrap();
        if let Err(error) = spilling.make_room().await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused.unwrap().message(), "key k is disabled");
    assert_eq!(job.space.stats(), written);
    job.locked.store(false, Ordering::Relaxed);
    assert_eq!(spilling.commit().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);

    shuffle.finish().await.unwrap();
    let mut reader = shuffle.reader(0).unwrap();
    assert!(reader.next_key().await.unwrap().is_some());
    job.locked.store(true, Ordering::Relaxed);
    let mut rest = 0;
    let error = loop {
        match reader.next_key().await {
            Ok(key) => assert!(key.is_some()),
            Err(error) => break error,
        }
        rest += 1;
    };
    assert_eq!(error.message(), "key k is disabled");
    assert!(rest <= 128, "{rest} keys after the lock");
    assert!(shuffle.reader(0).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_at_any_moment_of_the_finish_can_be_tried_again() {
    for passes in 0.. {
        let job = Job::new(64 << 10).await;
        let shuffle = job.space.shuffle("s", 3);
        let expected = fill(&shuffle, 11, 12, 1500, 300, 60).await;
        *job.passes.lock().unwrap() = Some(passes * 3);
        let first = shuffle.finish().await;
        *job.passes.lock().unwrap() = None;
        if let Err(error) = &first {
            assert_eq!(error.message(), "key k is disabled");
        }
        shuffle.finish().await.unwrap();
        assert!(read_all(&shuffle).await.unwrap() == expected, "after {passes}");
        shuffle.delete().await.unwrap();
        assert_eq!(job.files().await, Vec::<String>::new());
        if first.is_ok() {
            assert!(passes > 3);
            break;
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_found_and_named() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 1);
    fill(&shuffle, 13, 5, 2000, 100, 100).await;
    shuffle.finish().await.unwrap();
    let path = job.files().await.remove(0);
    job.flip_all().await;
    let error = read_all(&shuffle).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.message().contains("job/shuffle/run/"), "{} {path}", error.message());
}

#[tokio::test]
async fn no_key_or_value_shows_in_what_is_stored() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("planted-name", 1);
    let mut writer = shuffle.writer();
    for number in 0..5000u32 {
        writer.add(format!("planted-key-{number}").as_bytes(), b"planted-sort", b"planted-value").unwrap();
        writer.make_room().await.unwrap();
    }
    writer.commit().await.unwrap();
    shuffle.finish().await.unwrap();
    let files = job.files().await;
    assert!(!files.is_empty());
    use object_store::ObjectStoreExt;
    for path in files {
        assert!(!path.contains("planted"));
        let bytes = job.disk.get(&path.as_str().into()).await.unwrap().bytes().await.unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"planted"));
    }
}

#[tokio::test]
async fn a_value_of_100_mb_comes_back() {
    for memory in [1 << 20, 1 << 30] {
        let job = Job::new(memory).await;
        let shuffle = job.space.shuffle("s", 4);
        let large = Bytes::from(vec![b'v'; 100 << 20]);
        let mut writer = shuffle.writer();
        writer.add(b"k", b"", b"v-before").unwrap();
        writer.add(b"k", b"", &large).unwrap();
        writer.make_room().await.unwrap();
        writer.add(b"k", b"", b"v-after").unwrap();
        writer.commit().await.unwrap();
        shuffle.finish().await.unwrap();
        let groups = read_all(&shuffle).await.unwrap();
        let lens: Vec<_> = groups[&b"k"[..]].iter().map(|(_, value)| value.len()).collect();
        assert_eq!(lens, [8, 100 << 20, 7]);
        assert!(groups[&b"k"[..]][1].1 == large);
    }
}

#[tokio::test]
async fn many_partitions_many_empty_ones_and_an_empty_shuffle() {
    let job = Job::new(256 << 10).await;
    let empty = job.space.shuffle("empty", 5);
    empty.finish().await.unwrap();
    assert!(read_all(&empty).await.unwrap().is_empty());
    let shuffle = job.space.shuffle("s", 1000);
    let expected = fill(&shuffle, 17, 6, 3000, 300, 40).await;
    shuffle.finish().await.unwrap();
    assert!(read_all(&shuffle).await.unwrap() == expected);
    let filled = (0..1000).filter(|partition| shuffle.partition_bytes(*partition) > 0).count();
    assert!((200..900).contains(&filled), "{filled} of 1000 for {} keys", expected.len());
    assert_eq!(empty.partition_bytes(0), 0);
}

#[tokio::test]
async fn memory_is_made_by_the_job_that_holds_most_and_its_lock_does_not_fail_another() {
    let budget = Budget::new(1 << 20);
    let (idle, busy) = (Job::sharing(budget.clone()).await, Job::sharing(budget.clone()).await);
    let write = async |shuffle: &Arc<Shuffle>, count: u64| {
        let mut writer = shuffle.writer();
        for number in 0..count {
            writer.add(&number.to_le_bytes(), b"", &[1; 80])?;
            writer.make_room().await?;
        }
        writer.commit().await
    };
    // Bundles that are all open at once take more than the share that is left to them.
    let crowd = async |shuffle: &Arc<Shuffle>| {
        let mut writers: Vec<_> = (0..8).map(|_| shuffle.writer()).collect();
        for number in 0..20_000u64 {
            let writer = &mut writers[number as usize % 8];
            writer.add(&number.to_le_bytes(), b"", &[1; 80]).unwrap();
            writer.make_room().await.unwrap();
        }
        for writer in writers {
            writer.commit().await.unwrap();
        }
    };
    let held = idle.space.shuffle("idle", 2);
    write(&held, 5000).await.unwrap();
    assert_eq!(idle.space.stats().bytes_written, 0);
    let other = busy.space.shuffle("busy", 2);
    crowd(&other).await;
    assert!(idle.space.stats().bytes_written > 0, "the idle job gave way");
    held.finish().await.unwrap();
    assert_eq!(read_all(&held).await.unwrap().len(), 5000);
    other.delete().await.unwrap();

    let again = idle.space.shuffle("again", 2);
    write(&again, 5000).await.unwrap();
    idle.locked.store(true, Ordering::Relaxed);
    let third = busy.space.shuffle("third", 2);
    crowd(&third).await;
    third.finish().await.unwrap();
    assert_eq!(read_all(&third).await.unwrap().len(), 20_000);
}

#[tokio::test]
async fn a_full_disk_fails_the_bundle_clearly_and_leaves_nothing_of_it() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 2);
    let expected = fill(&shuffle, 21, 6, 1000, 200, 60).await;
    let before = job.files().await;
    let mut writer = shuffle.writer();
    let mut failed = None;
    for number in 0..20_000u64 {
        writer.add(&number.to_le_bytes(), b"", &[1; 80]).unwrap();
        job.disk.set_full(number > 5000);
        if let Err(error) = writer.make_room().await {
            failed = Some(error);
            break;
        }
    }
    let failed = failed.unwrap();
    assert_eq!(
        (failed.kind(), failed.message()),
        (ErrorKind::ResourceExhausted, "no space left on the server's disk")
    );
    assert!(job.files().await.len() > before.len());
    assert_eq!(writer.commit().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    job.disk.set_full(false);
    // Others may have been stored meanwhile, so the files need not be the same, but all are of the shuffle.
    shuffle.finish().await.unwrap();
    assert!(read_all(&shuffle).await.unwrap() == expected);
    shuffle.delete().await.unwrap();
    assert_eq!(job.files().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_the_same_while_the_data_moves_from_memory_to_files() {
    let job = Job::new(16 << 20).await;
    let shuffle = job.space.shuffle("s", 1);
    let expected = fill(&shuffle, 23, 6, 3000, 400, 300).await;
    shuffle.finish().await.unwrap();
    assert_eq!(job.space.stats().files_written, 0);
    let mut reader = shuffle.reader(0).unwrap();
    let (mut groups, mut moved) = (Groups::new(), false);
    while let Some(key) = reader.next_key().await.unwrap() {
        if groups.len() == 20 {
            Holder::spill(shuffle.clone(), usize::MAX).await.unwrap();
            moved = job.space.stats().files_written > 0;
        }
        let mut values = Vec::new();
        while let Some((sort, value)) = reader.next_value().await.unwrap() {
            values.push((sort.to_vec(), value.to_vec()));
        }
        by_bundle(&mut values);
        groups.insert(key.to_vec(), values);
    }
    assert!(moved && groups == expected);
    assert!(read_all(&shuffle).await.unwrap() == expected);
}

#[tokio::test]
async fn a_bundle_that_was_given_up_in_the_middle_of_a_spill_cannot_commit() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 1);
    let mut writer = shuffle.writer();
    while !writer.needs_room() {
        writer.add(b"key", b"", &[1; 500]).unwrap();
    }
    assert!(writer.make_room().now_or_never().is_none(), "it is under way");
    assert_eq!(writer.commit().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    shuffle.finish().await.unwrap();
    assert!(read_all(&shuffle).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_space_that_is_removed_has_no_files_and_takes_none() {
    let job = Job::new(64 << 10).await;
    let shuffle = job.space.shuffle("s", 2);
    fill(&shuffle, 19, 5, 2000, 100, 100).await;
    let mut open = shuffle.writer();
    for number in 0..5000u64 {
        open.add(&number.to_le_bytes(), b"", &[1; 80]).unwrap();
        open.make_room().await.unwrap();
    }
    job.space.put_blob("graph", Bytes::from_static(b"graph")).await.unwrap();
    assert!(job.files().await.len() > 2);
    job.space.remove().await.unwrap();
    assert_eq!(job.files().await, Vec::<String>::new());
    assert_eq!(open.commit().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(shuffle.finish().await.is_err());
    assert!(job.space.put_blob("graph", Bytes::new()).await.is_err());
    assert_eq!(job.files().await, Vec::<String>::new());
    drop(shuffle);
    job.space.remove().await.unwrap();
    assert_eq!(job.space.budget().used(), 0);
}
