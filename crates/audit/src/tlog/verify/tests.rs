//! Copies of a log that were changed in every way, against checkpoints that someone holds.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::super::checkpoint::tests::{key, witness};
use super::super::{LogKey, encode_bundle, prove};
use super::*;

/// A copy of a log, as files.
#[derive(Clone, Default)]
struct Copy(BTreeMap<String, Bytes>);

#[async_trait]
impl Source for Copy {
    async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.0.get(path).cloned())
    }
}

fn entries(count: usize) -> Vec<Vec<u8>> {
    (1..=count).map(|number| format!("entry {number}").into_bytes()).collect()
}

fn edge(entries: &[Vec<u8>]) -> (Edge, Vec<FullTile>) {
    let (mut edge, mut full) = (Edge::default(), Vec::new());
    entries.iter().for_each(|entry| edge.push(Hash::leaf(entry), &mut full));
    (edge, full)
}

fn signed(key: &LogKey, entries: &[Vec<u8>]) -> SignedCheckpoint {
    key.sign(entries.len() as u64, edge(entries).0.root())
}

/// The faithful copy of a log of these entries.
fn copy(key: &LogKey, entries: &[Vec<u8>]) -> Copy {
    let mut files = Copy::default();
    files.0.insert(CHECKPOINT_PATH.into(), signed(key, entries).note.to_string().into());
    let (edge, full) = edge(entries);
    for tile in full {
        let place = Tile { contents: Contents::Hashes(tile.level), index: tile.index, width: 256 };
        files.0.insert(place.path(), Hash::join(&tile.hashes).into());
    }
    for (tile, hashes) in edge.partial_tiles() {
        files.0.insert(tile.path(), Hash::join(hashes).into());
    }
    files.put_entries(entries);
    files
}

impl Copy {
    /// Puts the bundles of these entries in, whatever the hashes are.
    fn put_entries(&mut self, entries: &[Vec<u8>]) {
        for (index, bundle) in entries.chunks(256).enumerate() {
            let tile = Tile {
                contents: Contents::Entries,
                index: index as u64,
                width: u16::try_from(bundle.len()).unwrap(),
            };
            let bundle = encode_bundle(bundle.iter().map(Vec::as_slice)).unwrap();
            self.0.insert(tile.path(), bundle.into());
        }
    }
}

async fn check(source: &Copy, held: &[SignedCheckpoint]) -> Report {
    let log = key(1);
    let task = Task { log: log.verifier(), held, witnesses: &[], earlier: None };
    verify(source, &task).await.unwrap()
}

#[tokio::test]
async fn a_faithful_copy_is_proven_whole_whatever_its_size() {
    for size in [0, 1, 2, 255, 256, 257, 700, 66_000] {
        let all = entries(size);
        let held: Vec<_> =
            [0, 1, size / 3, size].map(|at| signed(&key(1), &all[..at.min(size)])).into_iter().collect();
        let report = check(&copy(&key(1), &all), &held).await;
        assert_eq!((report.proven, &report.findings), (size as u64, &vec![]), "{size}");
        assert_eq!(report.newest.unwrap().size, size as u64);
        let log = key(1);
        let task = Task { log: log.verifier(), held: &held, witnesses: &[], earlier: None };
        let quick = verify_hashes(&copy(&key(1), &all), &task).await.unwrap();
        assert_eq!((quick.proven, quick.findings), (size as u64, vec![]), "{size}");
    }
}

#[tokio::test]
async fn an_altered_entry_is_named() {
    let all = entries(700);
    let held = [signed(&key(1), &all[..600]), signed(&key(1), &all)];
    for number in [1, 256, 257, 599, 600, 601, 700] {
        let mut changed = all.clone();
        changed[number - 1][0] ^= 1;
        let mut files = copy(&key(1), &all);
        files.put_entries(&changed);
        let report = check(&files, &held).await;
        assert_eq!(report.findings, [Finding::Changed(number as u64)]);
        assert_eq!(report.proven, if number > 600 { 600 } else { 0 });
    }
}

#[tokio::test]
async fn entries_that_were_cut_out_exchanged_or_put_in_are_named_by_the_first_that_differs() {
    let all = entries(700);
    let held = [signed(&key(1), &all)];
    let mut cut = all.clone();
    cut.remove(299);
    let mut reordered = all.clone();
    reordered.swap(299, 650);
    let mut more = all.clone();
    more.insert(299, b"entry 300 and a half".to_vec());
    more.pop();
    let mut moved = all.clone();
    let entry = moved.remove(299);
    moved.push(entry);
    for changed in [cut, reordered, more, moved] {
        let mut files = copy(&key(1), &all);
        files.0.retain(|path, _| !path.contains("entries"));
        files.put_entries(&changed);
        // The bundle at the end, be it shorter, is at the path that the checkpoint asks for.
        let last = files.0.iter().rfind(|(path, _)| path.starts_with("tile/entries/002")).unwrap();
        let (path, bytes) = (last.0.clone(), last.1.clone());
        files.0.remove(&path);
        files.0.insert("tile/entries/002.p/188".into(), bytes);
        let report = check(&files, &held).await;
        assert_eq!(report.findings, [Finding::Changed(300)]);
    }
}

#[tokio::test]
async fn a_tail_that_was_dropped_is_named_by_the_first_entry_that_lacks() {
    let all = entries(700);
    let held = [signed(&key(1), &all[..650])];
    // An older copy in place of this one, with the checkpoint of then.
    let older = check(&copy(&key(1), &all[..513]), &held).await;
    assert_eq!(older.findings, [Finding::Ends { last: 513, held: 650 }]);
    assert_eq!(older.proven, 0);
    assert!(older.findings[0].to_string().starts_with("entry 514 is missing"));
    // The bundle cut, in the middle of an entry and between two.
    let whole = copy(&key(1), &all);
    for (bytes, missing) in [(20, 514), (22, 515), (25, 515)] {
        let mut files = whole.clone();
        let path = "tile/entries/002.p/188";
        let cut = files.0[path].slice(..bytes);
        files.0.insert(path.into(), cut);
        assert_eq!(check(&files, &held).await.findings, [Finding::Missing(missing)], "{bytes}");
    }
    // Whole files gone.
    let mut files = whole.clone();
    files.0.remove("tile/entries/001");
    assert_eq!(check(&files, &held).await.findings, [Finding::Missing(257)]);
    let mut files = whole.clone();
    files.0.remove(CHECKPOINT_PATH);
    let newest = [signed(&key(1), &all)];
    assert!(matches!(check(&files, &newest).await.findings[..], [Finding::Checkpoint(_)]));
}

#[tokio::test]
async fn a_history_that_was_written_anew_is_caught_and_named_as_closely_as_what_is_held_allows() {
    let all = entries(700);
    let mut other = all.clone();
    other[399] = b"another".to_vec();
    // By whoever has the key: all is as the log would have made it.
    let forged = copy(&key(1), &other);
    let held = |sizes: &[usize]| sizes.iter().map(|at| signed(&key(1), &all[..*at])).collect::<Vec<_>>();
    let among = |first, last| vec![Finding::ChangedAmong { first, last }];
    assert_eq!(check(&forged, &held(&[650])).await.findings, among(1, 650));
    assert_eq!(check(&forged, &held(&[390, 405, 650])).await.findings, among(391, 405));
    assert_eq!(check(&forged, &held(&[399])).await.findings, []);
    let earlier = copy(&key(1), &all[..500]);
    let (log, held_then) = (key(1), held(&[500]));
    let task = Task { log: log.verifier(), held: &held_then, witnesses: &[], earlier: Some(&earlier) };
    assert_eq!(verify(&forged, &task).await.unwrap().findings, [Finding::Changed(400)]);
    assert_eq!(verify_hashes(&forged, &task).await.unwrap().findings, among(1, 500));
    // Rolled back and gone on, not yet as far as what is held.
    let gone_on = copy(&key(1), &[&all[..300], &other[399..410]].concat());
    let (earlier, held_then) = (copy(&key(1), &all), held(&[200, 650]));
    let ends = Finding::Ends { last: 311, held: 650 };
    let report = check(&gone_on, &held_then).await;
    assert_eq!((report.proven, report.findings), (200, vec![ends.clone()]));
    let task = Task { held: &held_then, earlier: Some(&earlier), ..task };
    assert_eq!(verify(&gone_on, &task).await.unwrap().findings, [Finding::Changed(301), ends.clone()]);
    let short = copy(&key(1), &all[..311]);
    assert_eq!(verify(&short, &task).await.unwrap().findings, [ends]);
    // An earlier copy that was forged too names nothing.
    let (earlier, held_then) = (copy(&key(1), &all[..500]), held(&[500]));
    let task = Task { held: &held_then, earlier: Some(&earlier), ..task };
    let forged_earlier = copy(&key(1), &other[..500]);
    let task = Task { earlier: Some(&forged_earlier), ..task };
    assert_eq!(verify(&forged, &task).await.unwrap().findings, among(1, 500));
    // By whoever has not: the checkpoint is not the log's.
    let findings = check(&copy(&key(2), &other), &held(&[650])).await.findings;
    assert!(
        matches!(findings[..], [Finding::ChangedAmong { first: 1, last: 650 }, Finding::Checkpoint(_)]),
        "{findings:?}"
    );
}

#[tokio::test]
async fn two_histories_of_one_size_are_not_both_proven() {
    let all = entries(20);
    let mut other = all.clone();
    other[3] = b"another".to_vec();
    let held = [signed(&key(1), &all), signed(&key(1), &other)];
    let report = check(&copy(&key(1), &all), &held).await;
    assert!(matches!(report.findings[..], [Finding::ChangedAmong { first: 1, last: 20 }]), "{report:?}");
}

#[tokio::test]
async fn hashes_that_are_not_made_of_the_entries_are_named_by_their_file() {
    let all = entries(700);
    let held = [signed(&key(1), &all)];
    for path in ["tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2"] {
        let mut changed = copy(&key(1), &all);
        let mut bytes = changed.0[path].to_vec();
        bytes[33] ^= 1;
        changed.0.insert(path.into(), bytes.into());
        let mut gone = copy(&key(1), &all);
        gone.0.remove(path);
        for files in [changed, gone] {
            let report = check(&files, &held).await;
            assert_eq!(report.findings, [Finding::Hashes(path.into())]);
            assert_eq!(report.proven, 700);
        }
    }
    let mut files = copy(&key(1), &all);
    let path = "tile/entries/002.p/188";
    let more = [&files.0[path][..], b"\0\x01x"].concat();
    files.0.insert(path.into(), more.into());
    assert_eq!(check(&files, &held).await.findings, [Finding::More(path.into())]);
}

#[tokio::test]
async fn a_fuller_tile_stands_in_for_a_partial_one() {
    let all = entries(300);
    let mut files = copy(&key(1), &all[..200]);
    let grown = copy(&key(1), &all);
    files.0.retain(|path, _| path == CHECKPOINT_PATH);
    files.0.extend(grown.0.into_iter().filter(|(path, _)| path != CHECKPOINT_PATH));
    assert_eq!(check(&files, &[signed(&key(1), &all[..100])]).await.findings, []);
}

#[tokio::test]
async fn a_held_checkpoint_must_have_the_witnesses_that_are_asked_for() {
    let (all, log, seen) = (entries(3), key(1), witness("w.example/1", 9));
    let plain = signed(&log, &all);
    let cosigned = seen.cosign(&plain.note.to_string(), 7);
    let cosigned = SignedCheckpoint::open(cosigned.as_bytes(), log.verifier()).unwrap();
    let witnesses = [seen.verifier.clone()];
    let files = copy(&log, &all);
    for (held, expected) in
        [(plain, vec![Finding::NotCosigned { size: 3, witness: "w.example/1".into() }]), (cosigned, vec![])]
    {
        let held = [held];
        let task = Task { log: log.verifier(), held: &held, witnesses: &witnesses, earlier: None };
        assert_eq!(verify(&files, &task).await.unwrap().findings, expected);
    }
}

#[tokio::test]
async fn evidence_of_one_entry_is_made_written_read_and_checked() {
    use super::super::Evidence;
    let (all, log) = (entries(70_000), key(1));
    let files = copy(&log, &all);
    for size in [1, 255, 256, 65_536, 65_537, 70_000] {
        // The files of a larger log prove the smaller one too.
        let checkpoint = signed(&log, &all[..size]);
        for index in [0, size / 2, size - 1] {
            let evidence = prove(&files, index as u64, &checkpoint).await.unwrap();
            assert_eq!(evidence.entry, all[index]);
            assert_eq!(evidence.check(log.verifier()).unwrap(), checkpoint);
            let written = evidence.to_string();
            assert_eq!(Evidence::parse(written.as_bytes()).unwrap(), evidence, "{written}");
            let other = Evidence { entry: Bytes::from_static(b"another"), ..evidence.clone() };
            assert_eq!(other.check(log.verifier()).unwrap_err().kind(), ErrorKind::DataLoss);
            let moved = Evidence { index: evidence.index + 1, ..evidence };
            assert!(moved.check(log.verifier()).is_err());
        }
        assert!(prove(&files, size as u64, &checkpoint).await.is_err());
    }
    for wrong in
        ["", "c2sp.org/tlog-proof@v1\nindex 0\n\nx\n", "c2sp.org/tlog-proof@v1\nextra eA==\nindex 00\n\n"]
    {
        assert!(Evidence::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
