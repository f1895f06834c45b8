//! Adds up what workers measure: one cell for each metric and its labels.
//!
//! Invariant: a committed value counts each committed bundle once. Attempted is committed and what the
//! bundles under way reported last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use claviger_beam::urn::label::TRANSFORM;
use claviger_beam::urn::metric_type::{
    BOUNDED_TRIE, DISTRIBUTION_DOUBLE, DISTRIBUTION_INT64, HISTOGRAM, LATEST_DOUBLE, LATEST_INT64,
    SET_STRING, SUM_DOUBLE, SUM_INT64,
};
use claviger_beam_proto::pipeline::{BoundedTrie, BoundedTrieNode, HistogramValue, MonitoringInfo};
use claviger_core::Result;
use prost::Message as _;

use super::element::{put_varint, take, take_varint};
use super::limits::METRIC_CELLS;

/// A job's metrics at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Of all bundles, also those under way.
    pub attempted: Vec<MonitoringInfo>,
    /// Of committed bundles.
    pub committed: Vec<MonitoringInfo>,
}

/// A job's metrics as they grow.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    committed: Cells,
    /// The last report of each bundle under way.
    running: HashMap<u64, Vec<MonitoringInfo>>,
    next: u64,
}

type Key = (String, BTreeMap<String, String>);
type Cells = BTreeMap<Key, MonitoringInfo>;

impl Metrics {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a bundle under way.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// What a bundle under way reports.
    pub(super) fn report(&self, bundle: u64, infos: Vec<MonitoringInfo>) {
        self.state().running.insert(bundle, infos);
    }

    /// The bundle failed.
    pub(super) fn drop(&self, bundle: u64) {
        self.state().running.remove(&bundle);
    }

    /// The bundle is committed with these.
    pub(super) fn commit(&self, bundle: u64, infos: Vec<MonitoringInfo>) {
        let mut state = self.state();
        state.running.remove(&bundle);
        infos.into_iter().for_each(|info| add(&mut state.committed, info));
    }

    /// All as it is now.
    pub(super) fn snapshot(&self) -> MetricsSnapshot {
        let state = self.state();
        let committed = state.committed.values().cloned().collect();
        let mut attempted = state.committed.clone();
        for info in state.running.values().flatten() {
            add(&mut attempted, info.clone());
        }
        MetricsSnapshot { attempted: attempted.into_values().collect(), committed }
    }
}

/// Puts the user's step in the place of the transform's id in a descriptor.
pub(super) fn rename(infos: &mut [MonitoringInfo], names: &HashMap<String, String>) {
    for info in infos {
        if let Some(step) = info.labels.get_mut(TRANSFORM)
            && let Some(name) = names.get(step)
        {
            name.clone_into(step);
        }
    }
}

fn add(cells: &mut Cells, info: MonitoringInfo) {
    let key = (info.urn.clone(), info.labels.clone());
    if let Some(cell) = cells.get_mut(&key) {
        // What cannot be added is replaced: the last word of a worker.
        let sum = combine(&cell.r#type, &cell.payload, &info.payload);
        cell.payload = sum.ok().flatten().unwrap_or(info.payload);
    } else if cells.len() < METRIC_CELLS {
        cells.insert(key, info);
    }
}

/// Two values of a type as one; none for a type that has no sum.
fn combine(kind: &str, a: &[u8], b: &[u8]) -> Result<Option<Bytes>> {
    let (mut a, mut b) = (a, b);
    let mut out = Vec::new();
    match kind {
        SUM_INT64 => put_varint(&mut out, take_varint(&mut a)?.wrapping_add(take_varint(&mut b)?)),
        SUM_DOUBLE => out.extend((double(&mut a)? + double(&mut b)?).to_be_bytes()),
        DISTRIBUTION_INT64 => {
            let mut next = || Ok::<_, claviger_core::Error>((int(&mut a)?, int(&mut b)?));
            let (count, sum, min, max) = (next()?, next()?, next()?, next()?);
            let parts = [
                count.0.wrapping_add(count.1),
                sum.0.wrapping_add(sum.1),
                min.0.min(min.1),
                max.0.max(max.1),
            ];
            parts.iter().for_each(|part| put_varint(&mut out, part.cast_unsigned()));
        }
        DISTRIBUTION_DOUBLE => {
            let count = take_varint(&mut a)?.wrapping_add(take_varint(&mut b)?);
            let mut next = || Ok::<_, claviger_core::Error>((double(&mut a)?, double(&mut b)?));
            let (sum, min, max) = (next()?, next()?, next()?);
            put_varint(&mut out, count);
            for part in [sum.0 + sum.1, min.0.min(min.1), max.0.max(max.1)] {
                out.extend(part.to_be_bytes());
            }
        }
        LATEST_INT64 | LATEST_DOUBLE => {
            let (first, second) = (a, b);
            let later = int(&mut b)? >= int(&mut a)?;
            out.extend_from_slice(if later { second } else { first });
        }
        SET_STRING => {
            let mut all = BTreeSet::new();
            strings(&mut a, &mut all)?;
            strings(&mut b, &mut all)?;
            out.extend(u32::try_from(all.len()).unwrap_or(u32::MAX).to_be_bytes());
            for text in all {
                put_varint(&mut out, text.len() as u64);
                out.extend_from_slice(text);
            }
        }
        BOUNDED_TRIE => match (BoundedTrie::decode(a), BoundedTrie::decode(b)) {
            (Ok(a), Ok(b)) => out = merge_tries(a, b).encode_to_vec(),
            _ => return Ok(None),
        },
        HISTOGRAM => match (HistogramValue::decode(a), HistogramValue::decode(b)) {
            (Ok(mut a), Ok(b)) if a.bucket_options == b.bucket_options => {
                a.count = Some(a.count().wrapping_add(b.count()));
                a.bucket_counts.resize(a.bucket_counts.len().max(b.bucket_counts.len()), 0);
                for (sum, more) in a.bucket_counts.iter_mut().zip(&b.bucket_counts) {
                    *sum = sum.wrapping_add(*more);
                }
                out = a.encode_to_vec();
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }
    Ok(Some(out.into()))
}

fn int(input: &mut &[u8]) -> Result<i64> {
    Ok(take_varint(input)?.cast_signed())
}

fn double(input: &mut &[u8]) -> Result<f64> {
    let bytes: [u8; 8] = take(input, 8)?.try_into().unwrap_or_default();
    Ok(f64::from_be_bytes(bytes))
}

/// An iterable of texts: their number in four bytes, or minus one and then blocks with their numbers.
fn strings<'a>(input: &mut &'a [u8], all: &mut BTreeSet<&'a [u8]>) -> Result<()> {
    let count = i32::from_be_bytes(take(input, 4)?.try_into().unwrap_or_default());
    let mut left = if count < 0 { take_varint(input)? } else { u64::from(count.unsigned_abs()) };
    while left > 0 {
        for _ in 0..left {
            let length = usize::try_from(take_varint(input)?).unwrap_or(usize::MAX);
            all.insert(take(input, length)?);
        }
        left = if count < 0 { take_varint(input)? } else { 0 };
    }
    Ok(())
}

/// The union of two sets of paths, within the smaller bound.
fn merge_tries(a: BoundedTrie, b: BoundedTrie) -> BoundedTrie {
    let bound = if a.bound == 0 {
        b.bound
    } else if b.bound == 0 {
        a.bound
    } else {
        a.bound.min(b.bound)
    };
    let root = match (tree(&a), tree(&b)) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one),
        (Some(mut one), Some(other)) => {
            merge_nodes(&mut one, other);
            // The deepest paths are cut until what is left keeps the bound.
            while bound > 0 && leaves(&one) > usize::try_from(bound).unwrap_or(usize::MAX) && trim(&mut one) {
            }
            Some(one)
        }
    };
    BoundedTrie { bound, root, singleton: Vec::new() }
}

/// A set as a tree: a single path is kept as a list.
fn tree(trie: &BoundedTrie) -> Option<BoundedTrieNode> {
    if let Some(root) = &trie.root {
        return Some(root.clone());
    }
    if trie.singleton.is_empty() {
        return None;
    }
    let mut node = BoundedTrieNode::default();
    for segment in trie.singleton.iter().rev() {
        let children = BTreeMap::from([(segment.clone(), node)]);
        node = BoundedTrieNode { truncated: false, children };
    }
    Some(node)
}

fn merge_nodes(into: &mut BoundedTrieNode, from: BoundedTrieNode) {
    if into.truncated || from.truncated {
        *into = BoundedTrieNode { truncated: true, children: BTreeMap::new() };
        return;
    }
    for (segment, child) in from.children {
        match into.children.get_mut(&segment) {
            Some(known) => merge_nodes(known, child),
            None => {
                into.children.insert(segment, child);
            }
        }
    }
}

fn leaves(node: &BoundedTrieNode) -> usize {
    if node.children.is_empty() { 1 } else { node.children.values().map(leaves).sum() }
}

/// Cuts the children of the largest node whose children are all leaves; false if there is none.
fn trim(node: &mut BoundedTrieNode) -> bool {
    if node.children.is_empty() {
        return false;
    }
    if node.children.values().all(|child| child.children.is_empty()) {
        *node = BoundedTrieNode { truncated: true, children: BTreeMap::new() };
        return true;
    }
    node.children.values_mut().max_by_key(|child| leaves(child)).is_some_and(trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(parts: &[i64]) -> Bytes {
        let mut out = Vec::new();
        parts.iter().for_each(|part| put_varint(&mut out, part.cast_unsigned()));
        out.into()
    }

    fn info(kind: &str, payload: Bytes) -> MonitoringInfo {
        let labels = BTreeMap::from([(TRANSFORM.to_owned(), "t".to_owned())]);
        MonitoringInfo {
            urn: format!("urn-{kind}"),
            r#type: kind.to_owned(),
            payload,
            labels,
            start_time: None,
        }
    }

    fn committed(kind: &str, payloads: &[Bytes]) -> Bytes {
        let metrics = Metrics::default();
        for payload in payloads {
            let bundle = metrics.begin();
            metrics.commit(bundle, vec![info(kind, payload.clone())]);
        }
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.attempted, snapshot.committed);
        assert_eq!(snapshot.committed.len(), 1);
        snapshot.committed[0].payload.clone()
    }

    #[test]
    fn each_kind_of_metric_adds_up_in_its_way() {
        assert_eq!(committed(SUM_INT64, &[ints(&[5]), ints(&[-7]), ints(&[300])]), ints(&[298]));
        let sums = [ints(&[2, 10, -3, 9]), ints(&[1, -8, -8, -8])];
        assert_eq!(committed(DISTRIBUTION_INT64, &sums), ints(&[3, 2, -8, 9]));
        let gauges = [ints(&[20, 1]), ints(&[30, 2]), ints(&[10, 3])];
        assert_eq!(committed(LATEST_INT64, &gauges), ints(&[30, 2]));
        let sets = [&[0, 0, 0, 1, 1, b'b'][..], &[0, 0, 0, 2, 1, b'a', 1, b'b']].map(Bytes::copy_from_slice);
        assert_eq!(&committed(SET_STRING, &sets)[..], [0, 0, 0, 2, 1, b'a', 1, b'b']);
        let doubles = [1.5_f64, 2.25].map(|value| Bytes::copy_from_slice(&value.to_be_bytes()));
        assert_eq!(&committed(SUM_DOUBLE, &doubles)[..], 3.75_f64.to_be_bytes());
    }

    #[test]
    fn paths_become_one_tree_within_the_bound() {
        let single = |path: &[&str]| BoundedTrie {
            bound: 3,
            root: None,
            singleton: path.iter().map(|part| (*part).to_owned()).collect(),
        };
        let paths = [&["a", "b"][..], &["a", "c"], &["z"]].map(|path| single(path).encode_to_vec().into());
        let trie = BoundedTrie::decode(committed(BOUNDED_TRIE, &paths)).unwrap();
        let root = trie.root.unwrap();
        assert_eq!((leaves(&root), root.children.len(), root.children["a"].children.len()), (3, 2, 2));

        let more = [&["a", "b"][..], &["a", "c"], &["z"], &["y"]];
        let more = more.map(|path| single(path).encode_to_vec().into());
        let root = BoundedTrie::decode(committed(BOUNDED_TRIE, &more)).unwrap().root.unwrap();
        assert_eq!(leaves(&root), 3);
        assert!(root.children["a"].truncated);
    }

    #[test]
    fn a_bundle_under_way_counts_as_attempted_until_it_fails() {
        let metrics = Metrics::default();
        let (done, running) = (metrics.begin(), metrics.begin());
        metrics.commit(done, vec![info(SUM_INT64, ints(&[1]))]);
        metrics.report(running, vec![info(SUM_INT64, ints(&[10]))]);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.attempted[0].payload, ints(&[11]));
        assert_eq!(snapshot.committed[0].payload, ints(&[1]));
        metrics.drop(running);
        assert_eq!(metrics.snapshot().attempted[0].payload, ints(&[1]));
    }

    #[test]
    fn damaged_values_replace_and_never_panic() {
        for kind in [SUM_INT64, DISTRIBUTION_INT64, LATEST_INT64, SET_STRING, BOUNDED_TRIE, HISTOGRAM] {
            let damaged = Bytes::from_static(&[0xff]);
            assert_eq!(committed(kind, &[ints(&[0, 0, 0, 0]), damaged.clone()]), damaged, "{kind}");
        }
    }
}
