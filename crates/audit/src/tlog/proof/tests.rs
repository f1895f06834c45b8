//! Proofs against known answers, and against RFC 6962's recursions written down as they stand there.

use proptest::prelude::*;

use super::super::tree::tests::{hex, known_leaves, plain_root};
use super::*;

/// PATH(m, D[n]) of RFC 6962, section 2.1.1.
fn plain_path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return vec![];
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    let (mut path, sibling) = if m < k {
        (plain_path(m, left), plain_root(right))
    } else {
        (plain_path(m - k, right), plain_root(left))
    };
    path.push(sibling);
    path
}

/// SUBPROOF(m, D[n], b) of RFC 6962, section 2.1.2.
fn plain_subproof(m: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if known { vec![] } else { vec![plain_root(leaves)] };
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if m <= k {
        (plain_subproof(m, left, known), plain_root(right))
    } else {
        (plain_subproof(m - k, right, false), plain_root(left))
    };
    proof.push(sibling);
    proof
}

fn made(ranges: Vec<Range<u64>>, leaves: &[Hash]) -> Proof {
    let at = |place: u64| usize::try_from(place).unwrap();
    Proof(ranges.into_iter().map(|range| plain_root(&leaves[at(range.start)..at(range.end)])).collect())
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|i| Hash::leaf(&i.to_be_bytes())).collect()
}

#[test]
fn proofs_are_those_that_certificate_transparency_tests_with() {
    let leaves = known_leaves();
    let shown = |proof: Proof| proof.0.into_iter().map(hex).collect::<Vec<_>>();
    let inclusion =
        |index: u64, size: usize| shown(made(inclusion_ranges(index, size as u64).unwrap(), &leaves[..size]));
    assert_eq!(
        inclusion(5, 8),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(inclusion(2, 3), ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]);
    assert_eq!(
        inclusion(1, 5),
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]
    );
    let consistency =
        |old: u64, new: usize| shown(made(consistency_ranges(old, new as u64).unwrap(), &leaves[..new]));
    assert_eq!(
        consistency(6, 8),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        consistency(2, 5),
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]
    );
}

#[test]
fn every_entry_and_every_pair_of_sizes_of_small_trees_is_proven() {
    let all = leaves(40);
    for size in 1..=all.len() {
        let (tree, root) = (&all[..size], plain_root(&all[..size]));
        for (index, leaf) in tree.iter().enumerate() {
            let proof = made(inclusion_ranges(index as u64, size as u64).unwrap(), tree);
            assert_eq!(proof.0, plain_path(index, tree));
            assert!(proof.includes(*leaf, index as u64, size as u64, root));
        }
        for old in 1..=size {
            let proof = made(consistency_ranges(old as u64, size as u64).unwrap(), tree);
            assert_eq!(proof.0, plain_subproof(old, tree, true), "{old} {size}");
            let old_root = plain_root(&all[..old]);
            assert!(proof.is_consistent((old as u64, old_root), (size as u64, root)), "{old} {size}");
        }
    }
}

#[test]
fn what_is_no_proof_proves_nothing() {
    let root = plain_root(&leaves(5));
    assert_eq!((inclusion_ranges(5, 5), inclusion_ranges(0, 0)), (None, None));
    assert_eq!((consistency_ranges(6, 5), consistency_ranges(0, 5)), (None, None));
    let none = Proof::default();
    assert!(none.is_consistent((0, Hash::empty()), (5, root)));
    assert!(!none.is_consistent((0, root), (5, root)));
    assert!(!none.is_consistent((3, root), (5, root)));
    assert!(!none.includes(root, 0, 5, root));
    assert!(none.includes(root, 0, 1, root));
    let endless = Proof(vec![root; 1000]);
    assert!(!endless.includes(root, 0, u64::MAX, root));
    assert!(!endless.is_consistent((1, root), (u64::MAX, root)));
    assert_eq!(inclusion_ranges(u64::MAX - 1, u64::MAX).unwrap().last(), Some(&(0..1 << 63)));
}

proptest! {
    #[test]
    fn a_proof_proves_its_entry_and_no_other(size in 1usize..400, at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), bit in 0usize..256) {
        let tree = leaves(size);
        let (index, root) = (at.index(size), plain_root(&tree));
        let mut proof = made(inclusion_ranges(index as u64, size as u64).unwrap(), &tree);
        prop_assert_eq!(&proof.0, &plain_path(index, &tree));
        let leaf = tree[index];
        prop_assert!(proof.includes(leaf, index as u64, size as u64, root));
        let wrong = other.index(size);
        prop_assert_eq!(proof.includes(leaf, wrong as u64, size as u64, root), wrong == index);
        prop_assert_eq!(proof.includes(tree[wrong], index as u64, size as u64, root), wrong == index);
        if !proof.0.is_empty() {
            let place = other.index(proof.0.len());
            proof.0[place].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!proof.includes(leaf, index as u64, size as u64, root));
            proof.0.remove(place);
            prop_assert!(!proof.includes(leaf, index as u64, size as u64, root));
        }
    }

    #[test]
    fn a_tree_is_consistent_with_its_beginnings_and_with_no_other(size in 2usize..400, at in any::<prop::sample::Index>(), changed in any::<prop::sample::Index>()) {
        let tree = leaves(size);
        let old = 1 + at.index(size - 1);
        let proof = made(consistency_ranges(old as u64, size as u64).unwrap(), &tree);
        prop_assert_eq!(&proof.0, &plain_subproof(old, &tree, true));
        let (old_root, root) = (plain_root(&tree[..old]), plain_root(&tree));
        prop_assert!(proof.is_consistent((old as u64, old_root), (size as u64, root)));
        // Another history of the same size has a proof of its own, which does not fit the old root.
        let mut forked = tree.clone();
        let place = changed.index(old);
        forked[place] = Hash::leaf(b"another");
        let forged = made(consistency_ranges(old as u64, size as u64).unwrap(), &forked);
        prop_assert!(!forged.is_consistent((old as u64, old_root), (size as u64, plain_root(&forked))));
        prop_assert!(!proof.is_consistent((old as u64, old_root), (size as u64, plain_root(&forked))));
    }
}
