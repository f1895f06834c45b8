//! Tests of the row format: a golden row, what comes back, and what is refused.

use super::*;

const F: FamilyId = FamilyId(3);

fn cell(
    family: u32,
    qualifier: &'static str,
    timestamp_micros: i64,
    value: &'static str,
) -> CellRef<'static> {
    let (qualifier, value) = (qualifier.as_bytes(), value.as_bytes());
    CellRef { family: FamilyId(family), qualifier, timestamp_micros, value }
}

fn sample() -> RowPatch<'static> {
    let ranges = vec![TimeRange::new(0, Some(5)).unwrap(), TimeRange::new(1000, None).unwrap()];
    RowPatch {
        complete: false,
        deleted_families: vec![FamilyId(1), FamilyId(300)],
        deleted_columns: vec![DeletedColumn { family: F, qualifier: b"q", ranges }],
        cells: vec![
            cell(3, "", 7000, "seven"),
            cell(3, "q", 2001, ""),
            cell(3, "q", 2000, "x"),
            cell(4, "q", 0, "y"),
        ],
    }
}

#[test]
fn the_bytes_of_version_1_stay_what_they_are() {
    let golden: &[u8] = &[
        1, 2, // version, flags: deletions
        2, 1, 0xac, 2, // families 1 and 300
        1, 3, 1, b'q', 2, 0, 5, 0xe8, 7, 0, // family 3, "q", [0, 5) and [1000, ...)
        3, 0, 1, 14, 5, b's', b'e', b'v', b'e', b'n', // family 3, "", 7 ms
        3, 1, b'q', 2, 0xa3, 31, 0, 4, 1, b'x', // family 3, "q", 2001 us and 2 ms
        4, 1, b'q', 1, 0, 1, b'y', // family 4, "q", 0
    ];
    assert_eq!(sample().encode(), golden);
    assert_eq!(RowPatch::decode(golden).unwrap(), sample());
}

#[test]
fn a_patch_comes_back_and_borrows_its_values() {
    let encoded = sample().encode();
    let decoded = RowPatch::decode(&encoded).unwrap();
    assert_eq!(decoded, sample());
    let value = decoded.cells[0].value;
    assert!(encoded.as_ptr_range().contains(&value.as_ptr()), "the value is a slice of the patch");
}

#[test]
fn encode_brings_a_patch_into_its_canonical_form() {
    let mut patch = sample();
    patch.cells.reverse();
    patch.cells.insert(0, cell(4, "q", 0, "overwritten"));
    patch.deleted_families = vec![FamilyId(300), FamilyId(1), FamilyId(1)];
    patch.deleted_columns.push(DeletedColumn {
        family: FamilyId(1),
        qualifier: b"z",
        ranges: vec![TimeRange::ALL],
    });
    assert_eq!(patch.encode(), sample().encode());
    patch.complete = true;
    let complete = patch.encode();
    let complete = RowPatch::decode(&complete).unwrap();
    assert!(complete.complete && complete.deleted_families.is_empty() && complete.deleted_columns.is_empty());
    assert_eq!(complete.cells, sample().cells);
}

#[test]
fn the_whole_range_of_timestamps_is_kept() {
    for timestamp in [0, 1, 999, 1000, 1_700_000_000_123_000, i64::MAX - 7, i64::MAX] {
        let range = TimeRange::new(timestamp.saturating_sub(1), None).unwrap();
        let cells = vec![CellRef { timestamp_micros: timestamp, ..cell(1, "a", 0, "b") }];
        let deleted_columns = vec![DeletedColumn { family: F, qualifier: b"q", ranges: vec![range] }];
        let patch = RowPatch { cells, deleted_columns, ..RowPatch::default() };
        assert_eq!(RowPatch::decode(&patch.encode()).unwrap(), patch, "{timestamp}");
    }
}

#[test]
fn flags_are_read_without_decoding() {
    let deleted = RowPatch { complete: true, ..RowPatch::default() }.encode();
    assert!(is_complete(&deleted) && is_deleted_row(&deleted));
    let row = RowPatch { complete: true, cells: sample().cells, ..RowPatch::default() }.encode();
    assert!(is_complete(&row) && !is_deleted_row(&row));
    assert!(!is_complete(&sample().encode()) && !is_complete(b"") && !is_complete(&[9, 1]));
    assert!(RowPatch::default().is_no_op() && !sample().is_no_op());
}

#[test]
fn a_cut_row_is_refused_or_is_a_shorter_row() {
    let encoded = sample().encode();
    for len in 0..encoded.len() {
        // A cut between two columns cannot be told from a row of fewer columns; sealing guards that.
        if let Ok(patch) = RowPatch::decode(&encoded[..len]) {
            assert!(patch.cells.len() < sample().cells.len());
            assert_eq!(patch.encode(), encoded[..len]);
        }
    }
}

#[test]
fn bytes_that_encode_would_not_write_are_refused() {
    let wrong: &[(&str, &[u8])] = &[
        ("nothing", &[]),
        ("no flags", &[1]),
        ("an unknown version", &[2, 0]),
        ("an unknown flag", &[1, 4]),
        ("complete with deletions", &[1, 3, 1, 1, 0]),
        ("empty deletions", &[1, 2, 0, 0]),
        ("families out of order", &[1, 2, 2, 2, 1, 0]),
        ("a family id past 32 bits", &[1, 2, 1, 0xff, 0xff, 0xff, 0xff, 0x1f, 0]),
        ("a column of a deleted family", &[1, 2, 1, 1, 1, 1, 0, 1, 0, 0]),
        ("a deleted column without versions", &[1, 2, 0, 1, 1, 0, 0]),
        ("ranges that touch", &[1, 2, 0, 1, 1, 0, 2, 0, 5, 5, 1]),
        ("a range after one without end", &[1, 2, 0, 1, 1, 0, 2, 0, 0, 5, 1]),
        ("a column without cells", &[1, 0, 1, 0, 0]),
        ("columns out of order", &[1, 0, 2, 0, 1, 0, 0, 1, 0, 1, 0, 0]),
        ("the same column twice", &[1, 0, 1, 0, 1, 4, 0, 1, 0, 1, 2, 0]),
        ("versions out of order", &[1, 0, 1, 0, 2, 2, 0, 4, 0]),
        ("a version twice", &[1, 0, 1, 0, 2, 2, 0, 2, 0]),
        ("a millisecond in microseconds", &[1, 0, 1, 0, 1, 0xd1, 15, 0]),
        ("a time past 63 bits", &[1, 0, 1, 0, 1, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0]),
        ("a value past the end", &[1, 0, 1, 0, 1, 2, 9, 1]),
        ("a count past the end", &[1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 15, 2, 0]),
    ];
    for (what, bytes) in wrong {
        let error = RowPatch::decode(bytes).expect_err(what);
        assert_eq!(error.kind(), claviger_core::ErrorKind::DataLoss, "{what}");
    }
}

#[test]
fn any_bytes_are_refused_or_are_canonical() {
    use rand::{Rng, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let good = sample().encode();
    let mut read = 0;
    for round in 0..200_000 {
        let mut bytes: Vec<u8> = if round % 2 == 0 {
            (0..rng.random_range(0..24)).map(|_| rng.random_range(0..6)).collect()
        } else {
            good.to_vec()
        };
        for _ in 0..rng.random_range(0..3) {
            if !bytes.is_empty() {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        if round % 2 == 0 && bytes.len() > 2 {
            (bytes[0], bytes[1]) = (1, rng.random_range(0..3));
        }
        if let Ok(patch) = RowPatch::decode(&bytes) {
            read += 1;
            assert_eq!(patch.encode(), bytes, "decoded bytes are those that encode writes");
        }
    }
    assert!(read > 1000, "the generator makes rows that decode: {read}");
}
