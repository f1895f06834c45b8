//! Logs that run: what they sign, how they are checked, and what a changed or rolled back log shows.

use std::sync::Arc;

use claviger_core::{Caller, Clock, ErrorKind, ManualClock, Timestamp};
use claviger_sealed::Records;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::json;

use super::super::{HEAD, Head, PATH, entry_key};
use super::*;
use crate::Entry;
use crate::tlog::test_witness as witness;
use crate::tlog::{Evidence, Finding, Task, prove, verify, verify_hashes};

const NOW: i64 = 1_700_000_000;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(Timestamp(NOW * 1_000_000)))
}

async fn open(store: &Arc<InMemory>) -> AuditLog {
    AuditLog::open(store.clone() as Arc<dyn ObjectStore>, clock()).await.unwrap()
}

async fn append(log: &AuditLog, count: usize, method: &str) {
    let caller = Caller::new("user:ada").with("job", "7");
    let appends = (0..count).map(|_| log.append(Entry::new("cloudkms", method, "projects/p/k", &caller)));
    futures::future::try_join_all(appends).await.unwrap();
}

/// A store with a log of so many entries, which is open.
async fn filled(count: usize) -> (Arc<InMemory>, AuditLog) {
    let store = Arc::new(InMemory::new());
    let log = open(&store).await;
    append(&log, count, "Encrypt").await;
    (store, log)
}

async fn findings(log: &AuditLog, held: &[SignedCheckpoint]) -> Vec<Finding> {
    let task = Task { log: log.verifier(), held, witnesses: &[], earlier: None };
    verify(log, &task).await.unwrap().findings
}

/// Changes records of a log behind its back, as one who has the root key can.
async fn tamper(store: &Arc<InMemory>, changes: RecordBatch) {
    let records = Records::open(store.clone(), PATH).await.unwrap();
    records.write(changes).await.unwrap();
    records.close().await.unwrap();
}

#[tokio::test]
async fn a_log_proves_itself_at_every_size_and_goes_on_after_a_reopen() {
    let store = Arc::new(InMemory::new());
    let (mut log, mut held) = (open(&store).await, Vec::new());
    for more in [0, 1, 254, 1, 1, 300, 2_000] {
        append(&log, more, "Encrypt").await;
        held.push(log.checkpoint().await.unwrap());
        assert_eq!(findings(&log, &held).await, []);
        let before = log.verifier().clone();
        // Without a close: the process is gone.
        log = open(&store).await;
        assert_eq!(log.verifier(), &before);
        assert_eq!(&log.checkpoint().await.unwrap(), held.last().unwrap());
        assert_eq!(findings(&log, &held).await, []);
    }
    let sizes: Vec<_> = held.iter().map(|held| held.checkpoint.size).collect();
    assert_eq!(sizes, [0, 1, 255, 256, 257, 557, 2557]);
    let task = Task { log: log.verifier(), held: &held, witnesses: &[], earlier: None };
    assert_eq!(verify_hashes(&log, &task).await.unwrap().proven, 2557);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_proves_itself_while_it_grows() {
    let (_, log) = filled(200).await;
    let log = Arc::new(log);
    let growing = {
        let log = log.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                append(&log, 13, "Encrypt").await;
            }
        })
    };
    let mut held = Vec::new();
    while !growing.is_finished() || held.len() < 2 {
        held.push(log.checkpoint().await.unwrap());
        assert_eq!(findings(&log, &held).await, []);
    }
    growing.await.unwrap();
    held.push(log.checkpoint().await.unwrap());
    assert_eq!(held.last().unwrap().checkpoint.size, 1_500);
    assert_eq!(findings(&log, &held).await, []);
}

#[tokio::test]
async fn a_leaf_is_the_entry_as_it_is_stored() {
    let (_, log) = filled(3).await;
    let evidence = prove(&log, 1, &log.checkpoint().await.unwrap()).await.unwrap();
    evidence.check(log.verifier()).unwrap();
    let entry = json!({
        "time": NOW * 1_000_000, "service": "cloudkms", "method": "Encrypt", "resource": "projects/p/k",
        "principal": "user:ada", "context": {"job": "7"}, "code": "OK",
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&evidence.entry).unwrap(), entry);
    let read = log.read(Some(1), 1).await.unwrap().remove(0).1;
    assert_eq!(evidence.entry, serde_json::to_vec(&read).unwrap());
}

#[tokio::test]
async fn entries_from_before_the_tree_belong_to_it_as_they_were_stored() {
    for count in [1u64, 300, 70_000] {
        let store = Arc::new(InMemory::new());
        let mut changes = RecordBatch::new();
        for number in 1..=count {
            // In an order of fields of its own, with a field that nobody knows any more.
            let entry = json!({"was": number, "time": 5, "service": "s", "method": "m", "resource": "r", "principal": "p", "code": "OK"});
            changes = changes.put(&entry_key(number), &entry).unwrap();
        }
        let head = Head { last: count, time: Timestamp(5) };
        tamper(&store, changes.put(HEAD, &head).unwrap()).await;
        let log = open(&store).await;
        let held = [log.checkpoint().await.unwrap()];
        assert_eq!(held[0].checkpoint.size, count);
        assert_eq!(findings(&log, &held).await, []);
        let evidence = prove(&log, count - 1, &held[0]).await.unwrap();
        assert!(String::from_utf8_lossy(&evidence.entry).contains(&format!("\"was\":{count}")));
        evidence.check(log.verifier()).unwrap();
        append(&log, 3, "Encrypt").await;
        let log = open(&store).await;
        assert_eq!(findings(&log, &held).await, []);
    }
}

#[tokio::test]
async fn tiles_that_an_older_program_did_not_write_are_made_when_the_log_is_opened() {
    let (store, log) = filled(1_100).await;
    let held = [log.checkpoint().await.unwrap()];
    log.close().await.unwrap();
    let mut changes = RecordBatch::new().delete("t/01/00000000000000000000");
    for tile in 2..4 {
        changes = changes.delete(&format!("t/00/{tile:020}"));
    }
    tamper(&store, changes).await;
    let log = open(&store).await;
    assert_eq!(findings(&log, &held).await, []);
    assert_eq!(log.checkpoint().await.unwrap(), held[0]);
}

#[tokio::test]
async fn an_entry_that_was_altered_in_the_store_is_named() {
    let (store, log) = filled(600).await;
    let held = [log.checkpoint().await.unwrap()];
    let earlier = {
        let copy = Arc::new(store.fork());
        open(&copy).await
    };
    log.close().await.unwrap();
    let mut entry = log_entry(&store, 130).await;
    entry.principal = "user:nobody".into();
    tamper(&store, RecordBatch::new().put(&entry_key(130), &entry).unwrap()).await;
    assert_eq!(findings(&open(&store).await, &held).await, [Finding::Changed(130)]);

    // In the last, partial tile the hashes come from the entries: a copy of then is needed to name one.
    let mut entry = log_entry(&store, 590).await;
    entry.code = "PermissionDenied".into();
    let original = log_entry(&Arc::new(store.fork()), 131).await;
    let changes = RecordBatch::new().put(&entry_key(590), &entry).unwrap();
    tamper(&store, changes.put(&entry_key(130), &original).unwrap()).await;
    let log = open(&store).await;
    assert_eq!(findings(&log, &held).await, [Finding::ChangedAmong { first: 1, last: 600 }]);
    let task = Task { log: log.verifier(), held: &held, witnesses: &[], earlier: Some(&earlier) };
    assert_eq!(verify(&log, &task).await.unwrap().findings, [Finding::Changed(590)]);
}

async fn log_entry(store: &Arc<InMemory>, number: u64) -> Entry {
    let records = Records::open(store.clone(), PATH).await.unwrap();
    let entry = records.get(&entry_key(number)).await.unwrap().unwrap();
    records.close().await.unwrap();
    entry
}

#[tokio::test]
async fn entries_that_were_exchanged_cut_or_dropped_in_the_store_are_named() {
    let (store, log) = filled(300).await;
    append(&log, 300, "Decrypt").await;
    let held = [log.checkpoint().await.unwrap()];
    log.close().await.unwrap();
    let entry = async |number| log_entry(&Arc::new(store.fork()), number).await;

    let reordered = Arc::new(store.fork());
    let (first, second) = (entry(12).await, entry(401).await);
    let changes = RecordBatch::new().put(&entry_key(401), &first).unwrap();
    tamper(&reordered, changes.put(&entry_key(12), &second).unwrap()).await;
    assert_eq!(findings(&open(&reordered).await, &held).await, [Finding::Changed(12)]);

    // Cut: those behind move up, and the end says one less.
    let cut = Arc::new(store.fork());
    let mut changes = RecordBatch::new().delete(&entry_key(600));
    for number in 300..600 {
        changes = changes.put(&entry_key(number), &entry(number + 1).await).unwrap();
    }
    let time = entry(599).await.time;
    tamper(&cut, changes.put(HEAD, &Head { last: 599, time }).unwrap()).await;
    let expected = [Finding::Changed(300), Finding::Ends { last: 599, held: 600 }];
    assert_eq!(findings(&open(&cut).await, &held).await, expected);

    let dropped = Arc::new(store.fork());
    let mut changes = RecordBatch::new();
    for number in 551..=600 {
        changes = changes.delete(&entry_key(number));
    }
    tamper(&dropped, changes.put(HEAD, &Head { last: 550, time }).unwrap()).await;
    assert_eq!(findings(&open(&dropped).await, &held).await, [Finding::Ends { last: 550, held: 600 }]);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_caught_before_and_after_it_grew_again() {
    let (store, log) = filled(290).await;
    let then = Arc::new(store.fork());
    append(&log, 30, "Decrypt").await;
    let held = [log.checkpoint().await.unwrap()];
    let earlier = log;
    let log = open(&then).await;
    assert_eq!(findings(&log, &held).await, [Finding::Ends { last: 290, held: 320 }]);
    append(&log, 200, "Encrypt").await;
    assert_eq!(findings(&log, &held).await, [Finding::ChangedAmong { first: 1, last: 320 }]);
    let task = Task { log: log.verifier(), held: &held, witnesses: &[], earlier: Some(&earlier) };
    assert_eq!(verify(&log, &task).await.unwrap().findings, [Finding::Changed(291)]);
    let refused = log.cosign(held[0].note.to_string().as_bytes(), &witness("w", 3).verifier).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn cosignatures_are_kept_with_their_checkpoint_and_wrong_ones_are_not() {
    let (store, log) = filled(5).await;
    let (first, second) = (witness("w.example/1", 3), witness("w.example/2", 4));
    assert_eq!(log.cosigned_checkpoint().await.unwrap(), None);
    let note = log.checkpoint().await.unwrap().note.to_string();
    let time = u64::try_from(NOW).unwrap();
    append(&log, 300, "Encrypt").await;
    let signed = first.cosign(&note, time);
    log.cosign(signed.as_bytes(), &first.verifier).await.unwrap();
    // The same again, later, and another one beside it.
    log.cosign(first.cosign(&note, time + 60).as_bytes(), &first.verifier).await.unwrap();
    log.cosign(second.cosign(&note, time).as_bytes(), &second.verifier).await.unwrap();
    let log = {
        log.close().await.unwrap();
        open(&store).await
    };
    let kept = log.cosigned_checkpoint().await.unwrap().unwrap();
    assert_eq!((kept.checkpoint.size, kept.note.signatures.len()), (5, 3));
    assert_eq!(kept.cosigned(&first.verifier).unwrap().unwrap().1, time + 60);
    assert_eq!(kept.cosigned(&second.verifier).unwrap().unwrap().1, time);
    assert_eq!(log.checkpoint().await.unwrap().note.signatures.len(), 1);

    let newest = log.checkpoint().await.unwrap().note.to_string();
    let refused = async |note: &str, witness| log.cosign(note.as_bytes(), witness).await.unwrap_err();
    for (note, part) in [
        (newest.clone(), "has no cosignature of w.example/1"),
        (second.cosign(&newest, time), "has no cosignature of w.example/1"),
        (first.cosign(&newest, time + 3600), "of a time to come"),
        (first.cosign(&newest, u64::MAX), "of a time to come"),
        (first.cosign(&newest.replace("\n305\n", "\n304\n"), time), "is not of this text"),
        ("x".into(), "no signed note"),
    ] {
        let error = refused(&note, &first.verifier).await;
        assert!(error.message().contains(part), "{error}: {note}");
    }
    let swapped = format!("{newest}{}\n", signed.lines().last().unwrap());
    assert_eq!(refused(&swapped, &first.verifier).await.kind(), ErrorKind::DataLoss);
    assert!(refused(&newest, log.verifier()).await.message().contains("key of a log"));
    let (_, other) = filled(305).await;
    let foreign = first.cosign(&other.checkpoint().await.unwrap().note.to_string(), time);
    assert!(refused(&foreign, &first.verifier).await.message().contains("is of the log"));
}

#[tokio::test]
async fn a_checkpoint_takes_no_more_than_its_witnesses() {
    let (_, log) = filled(1).await;
    let note = log.checkpoint().await.unwrap().note.to_string();
    for number in 0..=MAX_WITNESSES {
        let witness = witness(&format!("w/{number}"), u8::try_from(number).unwrap());
        let kept = log.cosign(witness.cosign(&note, 1).as_bytes(), &witness.verifier).await;
        assert_eq!(
            kept.map_err(|e| e.kind()).err(),
            (number == MAX_WITNESSES).then_some(ErrorKind::ResourceExhausted)
        );
    }
}

#[tokio::test]
async fn files_beyond_the_log_and_paths_that_are_none_are_not_there() {
    let (_, log) = filled(300).await;
    for there in [
        "checkpoint",
        "tile/0/000",
        "tile/0/000.p/7",
        "tile/0/001.p/44",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "tile/entries/001.p/44",
    ] {
        assert!(log.get(there).await.unwrap().is_some(), "{there}");
    }
    for gone in [
        "",
        "tile",
        "tile/0/001",
        "tile/0/001.p/45",
        "tile/0/002.p/1",
        "tile/1/000",
        "tile/2/000.p/1",
        "tile/entries/001",
        "tile/0/x999/000",
    ] {
        assert!(log.get(gone).await.unwrap().is_none(), "{gone}");
    }
}

#[tokio::test]
async fn an_entry_that_fits_no_bundle_is_refused_and_the_largest_that_does_is_kept() {
    let (_, log) = filled(1).await;
    let sized = |bytes: usize| Entry::new("s", "x".repeat(bytes), "r", &Caller::new("p"));
    let refused = log.append(sized(70_000)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    log.append(sized(65_000)).await.unwrap();
    let escaped = Entry::new("s", "\u{1}".repeat(11_000), "r", &Caller::new("p"));
    assert!(log.append(escaped).await.is_err());
    let held = [log.checkpoint().await.unwrap()];
    assert_eq!(held[0].checkpoint.size, 2);
    assert_eq!(findings(&log, &held).await, []);
}

#[tokio::test]
async fn evidence_of_an_entry_of_a_running_log_survives_what_is_logged_later() {
    let (_, log) = filled(1_000).await;
    let checkpoint = log.checkpoint().await.unwrap();
    append(&log, 1_000, "Decrypt").await;
    let evidence = prove(&log, 700, &checkpoint).await.unwrap();
    let read = Evidence::parse(evidence.to_string().as_bytes()).unwrap();
    assert_eq!(read.check(log.verifier()).unwrap(), checkpoint);
}
