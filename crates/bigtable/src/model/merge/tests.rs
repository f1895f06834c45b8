//! Tests of merging against a naive model of a row: a map, and changes made to it one by one.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::RowPatch;

/// A row as a plain map, newest version first within a column.
type Naive = BTreeMap<(u32, Vec<u8>, std::cmp::Reverse<i64>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Change {
    Put(u32, Vec<u8>, i64, Vec<u8>),
    DeleteColumn(u32, Vec<u8>, TimeRange),
    DeleteFamily(u32),
    DeleteRow,
}

fn change(rng: &mut StdRng) -> Change {
    let family = rng.random_range(1..4);
    let qualifier = vec![b'a' + rng.random_range(0..3); rng.random_range(0..3)];
    let timestamp = rng.random_range(0..8) * 1000 + rng.random_range(0..5) / 4;
    match rng.random_range(0..20) {
        0 => Change::DeleteRow,
        1..3 => Change::DeleteFamily(family),
        3..7 => {
            let end = rng.random_bool(0.7).then(|| timestamp + rng.random_range(1..4000));
            Change::DeleteColumn(family, qualifier, TimeRange::new(timestamp, end).unwrap())
        }
        _ => Change::Put(family, qualifier, timestamp, rng.random::<[u8; 2]>().to_vec()),
    }
}

fn apply(row: &mut Naive, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(family, qualifier, at, value) => {
                row.insert((*family, qualifier.clone(), std::cmp::Reverse(*at)), value.clone());
            }
            Change::DeleteColumn(family, qualifier, range) => {
                row.retain(|(f, q, at), _| f != family || q != qualifier || !range.contains(at.0));
            }
            Change::DeleteFamily(family) => row.retain(|(f, ..), _| f != family),
            Change::DeleteRow => row.clear(),
        }
    }
}

fn encode(changes: &[Change]) -> Bytes {
    let mut builder = Builder::default();
    for (step, change) in (0..).zip(changes) {
        match change {
            Change::Put(family, qualifier, timestamp_micros, value) => {
                let (family, timestamp_micros) = (FamilyId(*family), *timestamp_micros);
                builder.put(step, CellRef { family, qualifier, timestamp_micros, value });
            }
            Change::DeleteColumn(family, qualifier, range) => {
                builder.delete_column(step, FamilyId(*family), qualifier, *range);
            }
            Change::DeleteFamily(family) => builder.delete_family(step, FamilyId(*family)),
            Change::DeleteRow => builder.delete_row(),
        }
    }
    builder.finish()
}

fn contents(bytes: &Bytes) -> Naive {
    let patch = RowPatch::decode(bytes).unwrap();
    let key = |c: &CellRef<'_>| (c.family.0, c.qualifier.to_vec(), std::cmp::Reverse(c.timestamp_micros));
    patch.cells.iter().map(|cell| (key(cell), cell.value.to_vec())).collect()
}

#[test]
fn merged_patches_are_the_row_that_the_changes_make_and_the_grouping_does_not_matter() {
    for seed in 0..3000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let batches: Vec<Vec<Change>> = (0..rng.random_range(1..8))
            .map(|_| (0..rng.random_range(1..6)).map(|_| change(&mut rng)).collect())
            .collect();
        let mut row = Naive::new();
        batches.iter().for_each(|batch| apply(&mut row, batch));
        let patches: Vec<Bytes> = batches.iter().map(|batch| encode(batch)).collect();

        let all = merge_many(&patches).unwrap();
        assert_eq!(contents(&all), row, "seed {seed}");
        let left =
            patches.iter().skip(1).fold(patches[0].clone(), |older, newer| merge(&older, newer).unwrap());
        assert_eq!(left, all, "folded from the left, seed {seed}");
        let last = patches[patches.len() - 1].clone();
        let right = patches.iter().rev().skip(1).fold(last, |newer, older| merge(older, &newer).unwrap());
        assert_eq!(right, all, "folded from the right, seed {seed}");
        let cut = rng.random_range(0..patches.len());
        if cut > 0 {
            let (a, b) = patches.split_at(cut);
            let halves = merge(&merge_many(a).unwrap(), &merge_many(b).unwrap()).unwrap();
            assert_eq!(halves, all, "folded in two parts, seed {seed}");
        }
        let one = encode(&batches.concat());
        assert_eq!(one, all, "one patch of all changes, seed {seed}");
    }
}

#[test]
fn a_complete_patch_hides_older_bytes_without_reading_them() {
    let complete = RowPatch { complete: true, ..RowPatch::default() }.encode();
    let damaged = Bytes::from_static(b"not a row");
    assert_eq!(merge(&damaged, &complete).unwrap(), complete);
    assert!(merge(&complete, &damaged).is_err());
    assert!(merge_many(&[]).is_err());
}

#[test]
fn deletions_of_one_column_are_joined() {
    let delete = |start, end| {
        let range = TimeRange::new(start, Some(end)).unwrap();
        encode(&[Change::DeleteColumn(1, b"q".to_vec(), range)])
    };
    let merged =
        merge_many(&[delete(0, 1000), delete(5000, 6000), delete(1000, 2000), delete(1500, 5500)]).unwrap();
    let merged = RowPatch::decode(&merged).unwrap();
    assert_eq!(merged.deleted_columns[0].ranges, [TimeRange::new(0, Some(6000)).unwrap()]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it bounds the time that a merge takes")]
fn a_hot_row_of_many_operands_takes_no_quadratic_time() {
    // Each operand deletes the column and sets it anew, as clients that want one version do.
    let patches: Vec<Bytes> = (0..50_000)
        .map(|n| {
            encode(&[
                Change::DeleteColumn(1, b"counter".to_vec(), TimeRange::new(0, Some(n * 1000 + 1)).unwrap()),
                Change::Put(1, b"counter".to_vec(), n * 1000, vec![0; 8]),
            ])
        })
        .collect();
    let start = std::time::Instant::now();
    let merged = merge_many(&patches).unwrap();
    let took = start.elapsed();
    assert_eq!(RowPatch::decode(&merged).unwrap().cells.len(), 1);
    // Pair by pair it would be 1.25 billion comparisons; in one pass it is some milliseconds.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}
