//! Proofs that an entry is in a tree, and that one tree is the beginning of another.
//!
//! A proof is made from hashes of ranges of entries; which ranges, these functions say, so that whoever has the
//! hashes, in whatever form, can make one. Checking needs the proof, the sizes and the roots alone.
//!
//! Invariant: a check recomputes the roots as RFC 9162 (2.1.3.2, 2.1.4.2) says and takes nothing that is left over.

use std::ops::Range;

use super::tree::Hash;

/// Hashes in a proof, at most: a tree's height is at most 64, and a consistency proof has one more.
const MOST: usize = 65;

/// The hashes of a proof, from the lowest up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof(pub Vec<Hash>);

/// The largest power of two below `n`, which is 2 or more.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The ranges of entries whose hashes prove the entry of an index in a tree of `size`; none when it is not in it.
#[must_use]
pub fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let (mut low, mut high) = (0, size);
    let mut ranges = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// The ranges of entries whose hashes prove that the tree of `old` entries is the beginning of that of `new`; none
/// when it is larger or has no entries.
#[must_use]
pub fn consistency_ranges(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    if old == 0 || old > new {
        return None;
    }
    let (mut low, mut high) = (0, new);
    let mut ranges = Vec::new();
    // Until what is left is a perfect subtree that ends where the old tree does.
    while high != old {
        let middle = low + split(high - low);
        if old <= middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    // The checker has the old root, which is that of the range when it begins at 0.
    if low > 0 {
        ranges.push(low..high);
    }
    ranges.reverse();
    Some(ranges)
}

impl Proof {
    /// Whether it proves that the entry with this hash has this index in the tree.
    #[must_use]
    pub fn includes(&self, leaf: Hash, index: u64, size: u64, root: Hash) -> bool {
        if index >= size || self.0.len() > MOST {
            return false;
        }
        let (mut place, mut last, mut hash) = (index, size - 1, leaf);
        for sibling in &self.0 {
            if last == 0 {
                return false;
            }
            if place % 2 == 1 || place == last {
                hash = Hash::node(*sibling, hash);
                while place % 2 == 0 && place != 0 {
                    place /= 2;
                    last /= 2;
                }
            } else {
                hash = Hash::node(hash, *sibling);
            }
            place /= 2;
            last /= 2;
        }
        last == 0 && hash == root
    }

    /// Whether it proves that the tree of `old` entries is the beginning of that of `new`.
    #[must_use]
    pub fn is_consistent(&self, old: (u64, Hash), new: (u64, Hash)) -> bool {
        let ((old_size, old_root), (new_size, new_root)) = (old, new);
        if old_size > new_size || self.0.len() > MOST {
            return false;
        }
        if old_size == new_size {
            return self.0.is_empty() && old_root == new_root;
        }
        if old_size == 0 {
            return self.0.is_empty() && old_root == Hash::empty();
        }
        let mut hashes = self.0.iter().copied();
        let first = if old_size.is_power_of_two() { Some(old_root) } else { hashes.next() };
        let Some(first) = first else { return false };
        let (mut place, mut last) = (old_size - 1, new_size - 1);
        while place % 2 == 1 {
            place /= 2;
            last /= 2;
        }
        let (mut old_hash, mut new_hash) = (first, first);
        for sibling in hashes {
            if last == 0 {
                return false;
            }
            if place % 2 == 1 || place == last {
                old_hash = Hash::node(sibling, old_hash);
                new_hash = Hash::node(sibling, new_hash);
                while place % 2 == 0 && place != 0 {
                    place /= 2;
                    last /= 2;
                }
            } else {
                new_hash = Hash::node(new_hash, sibling);
            }
            place /= 2;
            last /= 2;
        }
        last == 0 && old_hash == old_root && new_hash == new_root
    }
}

#[cfg(test)]
mod tests;
