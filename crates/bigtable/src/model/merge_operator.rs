//! The engine's view of merging: a [`slatedb::MergeOperator`] over row patches.
//!
//! Invariant: it goes by the patches' own flags alone. Without an existing value the engine may be
//! folding a few operands in the middle of a row's history, so a deletion is never dropped here.

use bytes::Bytes;
use slatedb::{MergeOperator, MergeOperatorError};

use super::merge::merge_refs;

/// Folds row patches; see [`mod@super::merge`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RowMergeOperator;

impl RowMergeOperator {
    fn fold(patches: &[&Bytes]) -> Result<Bytes, MergeOperatorError> {
        if patches.is_empty() {
            return Err(MergeOperatorError::EmptyBatch);
        }
        merge_refs(patches)
            .map_err(|error| MergeOperatorError::Callback { message: error.message().to_owned() })
    }
}

impl MergeOperator for RowMergeOperator {
    fn merge(
        &self,
        _key: &Bytes,
        existing: Option<Bytes>,
        operand: Bytes,
    ) -> Result<Bytes, MergeOperatorError> {
        match &existing {
            Some(existing) => Self::fold(&[existing, &operand]),
            None => Ok(operand),
        }
    }

    fn merge_batch(
        &self,
        _key: &Bytes,
        existing: Option<Bytes>,
        operands: &[Bytes],
    ) -> Result<Bytes, MergeOperatorError> {
        Self::fold(&existing.iter().chain(operands).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CellRef, FamilyId, RowPatch};

    fn patch(complete: bool, timestamp_micros: i64, value: &[u8]) -> Bytes {
        let cell = CellRef { family: FamilyId(1), qualifier: b"q", timestamp_micros, value };
        RowPatch { complete, cells: vec![cell], ..RowPatch::default() }.encode()
    }

    #[test]
    fn operands_fold_over_the_existing_value_oldest_first() {
        let key = Bytes::from_static(b"row");
        let operands = [patch(false, 2000, b"b"), patch(false, 1000, b"c")];
        let merged = RowMergeOperator.merge_batch(&key, Some(patch(true, 1000, b"a")), &operands).unwrap();
        let merged = RowPatch::decode(&merged).unwrap();
        let cells: Vec<_> = merged.cells.iter().map(|c| (c.timestamp_micros, c.value)).collect();
        assert!(merged.complete);
        assert_eq!(cells, [(2000, &b"b"[..]), (1000, b"c")]);
    }

    #[test]
    fn a_partial_fold_keeps_deletions() {
        let key = Bytes::from_static(b"row");
        let delete = RowPatch { deleted_families: vec![FamilyId(1)], ..RowPatch::default() }.encode();
        let folded = RowMergeOperator.merge_batch(&key, None, &[delete, patch(false, 1000, b"a")]).unwrap();
        let whole = RowMergeOperator.merge(&key, Some(patch(false, 5000, b"old")), folded).unwrap();
        assert_eq!(RowPatch::decode(&whole).unwrap().cells.len(), 1);
    }

    #[test]
    fn nothing_to_fold_and_damaged_bytes_are_errors() {
        let key = Bytes::from_static(b"row");
        assert!(RowMergeOperator.merge_batch(&key, None, &[]).is_err());
        let damaged = Bytes::from_static(b"\xff\xff");
        assert!(RowMergeOperator.merge(&key, Some(patch(false, 1000, b"a")), damaged).is_err());
    }
}
