//! The records of a run, as bytes: sorted by key, each key and sort written once while it repeats.
//!
//! ```text
//! run     = block ...           in the order of (hash of key, key, sort, arrival)
//! block   = record ...          whole records of one partition; the first one has its key
//! record  = head | [key length | key] | [sort length | sort] | value
//! head    = varint: value length * 4 + (2 if a sort follows) + (1 if a key follows)
//! lengths = varint (LEB128, at most 10 bytes)
//! ```
//!
//! A record without a key has that of the one before it. A key that follows makes the sort empty until
//! one follows. Where blocks begin is not in the bytes: the writer keeps it (see `extent`).
//!
//! Invariant: reading never panics and never goes past its buffer, whatever the bytes are.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use bytes::Bytes;
use foldhash::quality::FixedState;

/// A block ends at the first record that makes it at least this long.
pub const BLOCK: usize = 64 * 1024;
/// A piece ends, at the end of a block, at about this length: how much is handed on at once. Small enough
/// that the memory of one is used again for the next.
pub(crate) const PIECE: usize = 256 * 1024;

const HAS_KEY: u64 = 1;
const HAS_SORT: u64 = 2;
const FLAG_BITS: u32 = 2;
const SEED: u64 = 0x636c_6176_6967_6572;

/// Bytes that are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The hash that orders keys. The same within a process; not kept anywhere.
#[inline]
pub(crate) fn hash(key: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(SEED).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// The partition of a hash: partitions are ranges of hashes, so a sorted run has them in order.
#[inline]
pub(crate) fn partition(hash: u64, partitions: usize) -> usize {
    ((u128::from(hash) * partitions as u128) >> 64) as usize
}

/// Whether two slices are equal. Most sorts are empty: comparing nothing by a call costs more than all else,
/// since an empty vector points nowhere.
#[inline]
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a varint at `at`; gives it and the position after it.
#[inline]
pub(crate) fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for (byte, shift) in bytes.get(at + 1..)?.iter().zip((7u32..64).step_by(7)) {
        let bits = u64::from(byte & 0x7f);
        if bits.leading_zeros() < shift {
            return None;
        }
        value |= bits << shift;
        if *byte < 0x80 {
            return Some((value, at + 2 + (shift as usize - 7) / 7));
        }
    }
    None
}

/// Where the blocks of a run begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The first byte of each block.
    pub(crate) blocks: Vec<u64>,
    /// The first block of each partition, and at last the number of blocks.
    pub(crate) partitions: Vec<usize>,
    /// Bytes of the run.
    pub(crate) len: u64,
}

/// Writes sorted records as pieces of a run.
#[derive(Debug)]
pub(crate) struct Builder {
    partitions: usize,
    index: Index,
    /// Bytes of all pieces before this one.
    before: u64,
    piece: Vec<u8>,
    block: usize,
    /// Whether the next record begins a block.
    fresh: bool,
    hash: u64,
    key: Vec<u8>,
    sort: Vec<u8>,
}

impl Builder {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            partitions,
            index: Index::default(),
            before: 0,
            piece: Vec::new(),
            block: 0,
            fresh: true,
            hash: 0,
            key: Vec::new(),
            sort: Vec::new(),
        }
    }

    /// Adds the next record in the order of runs.
    #[inline]
    pub(crate) fn push(&mut self, hash: u64, key: &[u8], sort: &[u8], value: &[u8]) {
        let other = self.fresh || hash != self.hash || !same(key, &self.key);
        let mut head = (value.len() as u64) << FLAG_BITS;
        if other {
            self.begin_key(hash, key);
            head |= HAS_KEY;
        }
        if !same(sort, &self.sort) {
            self.sort.clear();
            self.sort.extend_from_slice(sort);
            head |= HAS_SORT;
        }
        let out = &mut self.piece;
        put_varint(out, head);
        if other {
            put_varint(out, key.len() as u64);
            out.extend_from_slice(key);
        }
        if head & HAS_SORT != 0 {
            put_varint(out, sort.len() as u64);
            out.extend_from_slice(sort);
        }
        out.extend_from_slice(value);
        self.fresh = self.piece.len() - self.block >= BLOCK;
    }

    #[inline]
    fn begin_key(&mut self, hash: u64, key: &[u8]) {
        let partition = partition(hash, self.partitions);
        let first = self.index.blocks.len();
        if self.fresh || partition >= self.index.partitions.len() {
            if self.piece.capacity() == 0 {
                self.piece.reserve(PIECE + BLOCK);
            }
            if partition >= self.index.partitions.len() {
                self.index.partitions.resize(partition + 1, first);
            }
            self.index.blocks.push(self.before + self.piece.len() as u64);
            self.block = self.piece.len();
        }
        self.hash = hash;
        self.key.clear();
        self.key.extend_from_slice(key);
        self.sort.clear();
    }

    /// Gives the piece out when it is long enough.
    pub(crate) fn full_piece(&mut self) -> Option<Bytes> {
        (self.piece.len() >= PIECE).then(|| self.cut())
    }

    fn cut(&mut self) -> Bytes {
        self.before += self.piece.len() as u64;
        self.block = 0;
        self.fresh = true;
        // After a whole piece comes another one most of the time; one that grows is copied again and again.
        let whole = self.piece.len() >= PIECE;
        let next = if whole { Vec::with_capacity(PIECE + PIECE / 8) } else { Vec::new() };
        std::mem::replace(&mut self.piece, next).into()
    }

    /// The rest, and the index of all pieces.
    pub(crate) fn finish(mut self) -> (Option<Bytes>, Index) {
        self.piece.shrink_to_fit();
        let last = (!self.piece.is_empty()).then(|| self.cut());
        self.index.partitions.resize(self.partitions + 1, self.index.blocks.len());
        self.index.len = self.before;
        (last, self.index)
    }
}

/// Reads the records of whole blocks.
#[derive(Clone, Debug, Default)]
pub struct Records {
    buffer: Bytes,
    at: usize,
    key: Range<usize>,
    sort: Range<usize>,
    value: Range<usize>,
}

impl Records {
    /// The records of some blocks that follow one another.
    #[must_use]
    pub fn new(blocks: Bytes) -> Self {
        Self { buffer: blocks, ..Self::default() }
    }

    /// Goes to the next record; none at the end. Says whether a key was written with it, which then may
    /// still be that of the block before.
    ///
    /// # Errors
    /// When the bytes are no records.
    #[inline]
    pub fn advance(&mut self) -> Result<Option<bool>, Malformed> {
        let bytes = self.buffer.as_ref();
        if self.at == bytes.len() {
            return Ok(None);
        }
        let (head, mut at) = varint(bytes, self.at).ok_or(Malformed)?;
        let has_key = head & HAS_KEY != 0;
        if has_key {
            self.key = sized(bytes, at).ok_or(Malformed)?;
            at = self.key.end;
            self.sort = 0..0;
        } else if self.at == 0 {
            return Err(Malformed);
        }
        if head & HAS_SORT != 0 {
            self.sort = sized(bytes, at).ok_or(Malformed)?;
            at = self.sort.end;
        }
        self.value = range(bytes, at, head >> FLAG_BITS).ok_or(Malformed)?;
        self.at = self.value.end;
        Ok(Some(has_key))
    }

    /// The key of the record.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.buffer.get(self.key.clone()).unwrap_or_default()
    }

    /// What orders the record among those of its key.
    #[inline]
    #[must_use]
    pub fn sort(&self) -> &[u8] {
        self.buffer.get(self.sort.clone()).unwrap_or_default()
    }

    /// The record's value.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.buffer.get(self.value.clone()).unwrap_or_default()
    }

    pub(crate) fn key_bytes(&self) -> Bytes {
        self.buffer.slice(self.key.clone())
    }

    pub(crate) fn sort_bytes(&self) -> Bytes {
        self.buffer.slice(self.sort.clone())
    }

    pub(crate) fn value_bytes(&self) -> Bytes {
        self.buffer.slice(self.value.clone())
    }
}

#[inline]
fn sized(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (len, at) = varint(bytes, at)?;
    range(bytes, at, len)
}

#[inline]
fn range(bytes: &[u8], at: usize, len: u64) -> Option<Range<usize>> {
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    (end <= bytes.len()).then_some(at..end)
}

/// Encodes records as one partition, for tests and fuzzing: they must be in the order of their keys.
#[must_use]
pub fn encode<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut builder = Builder::new(1);
    let mut out = Vec::new();
    for (key, sort, value) in records {
        builder.push(hash(key), key, sort, value);
        out.extend(builder.full_piece().into_iter().flatten());
    }
    out.extend(builder.finish().0.into_iter().flatten());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn decode(bytes: Vec<u8>) -> Result<Vec<Owned>, Malformed> {
        let mut records = Records::new(bytes.into());
        let mut found = Vec::new();
        while records.advance()?.is_some() {
            found.push((records.key().to_vec(), records.sort().to_vec(), records.value().to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn varints_of_every_length_come_back_and_overlong_ones_are_refused() {
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, u64::MAX - (1 << bit)]) {
            let mut out = vec![7];
            put_varint(&mut out, value);
            assert_eq!(varint(&out, 1), Some((value, out.len())), "{value}");
            assert_eq!(varint(&out[..out.len() - 1], 1), None);
        }
        assert_eq!(varint(&[0xff; 10], 0), None);
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], 0), None);
    }

    #[test]
    fn a_repeated_key_and_sort_are_written_once() {
        let records: [(&[u8], &[u8], &[u8]); 4] =
            [(b"key", b"w1", b"a"), (b"key", b"w1", b"b"), (b"key", b"w2", b""), (b"kez", b"", b"c")];
        let bytes = encode(records);
        assert_eq!(
            bytes,
            [&[7, 3][..], b"key", &[2], b"w1a", &[4], b"b", &[2, 2], b"w2", &[5, 3], b"kezc"].concat()
        );
        let owned = records.map(|(key, sort, value)| (key.to_vec(), sort.to_vec(), value.to_vec()));
        assert_eq!(decode(bytes).unwrap(), owned);
    }

    #[test]
    fn every_cut_and_every_flip_is_read_without_a_panic() {
        let key = vec![b'k'; 200];
        let bytes =
            encode([(&key[..], &b"sort"[..], &[9; 300][..]), (&key, b"sort", b""), (b"k2", b"", b"x")]);
        for cut in 0..bytes.len() {
            let _ = decode(bytes[..cut].to_vec());
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let _ = decode(changed);
            }
        }
        assert_eq!(decode(vec![4, b'a']), Err(Malformed), "the first record has no key");
    }

    #[test]
    fn what_any_bytes_are_read_as_is_written_and_read_again_the_same() {
        let mut random = crate::testing::Random::new(3);
        let mut whole = 0;
        for _ in 0..20_000 {
            let len = random.below(24) as usize;
            let mut bytes = random.bytes(len);
            // Small lengths, or hardly anything would be a record.
            bytes.iter_mut().for_each(|byte| *byte &= if *byte & 0x40 == 0 { 0x07 } else { 0xff });
            let mut records = Records::new(bytes.into());
            let mut found = Vec::new();
            while let Ok(Some(_)) = records.advance() {
                found.push((records.key().to_vec(), records.sort().to_vec(), records.value().to_vec()));
            }
            whole += usize::from(found.len() > 1);
            let again = encode(found.iter().map(|(key, sort, value)| (&key[..], &sort[..], &value[..])));
            assert_eq!(decode(again).unwrap(), found);
        }
        assert!(whole > 100, "{whole}");
    }

    #[test]
    fn an_index_has_a_start_for_each_partition_also_for_empty_ones() {
        let mut keys: Vec<Vec<u8>> = (0..40u32).map(|n| n.to_le_bytes().to_vec()).collect();
        keys.sort_by_key(|key| (hash(key), key.clone()));
        let mut builder = Builder::new(64);
        for key in &keys {
            builder.push(hash(key), key, b"", &[1; 100]);
        }
        let (piece, index) = builder.finish();
        let piece = piece.unwrap();
        assert_eq!(index.partitions.len(), 65);
        assert_eq!(index.len, piece.len() as u64);
        let mut found = 0;
        for part in 0..64 {
            let (first, end) = (index.partitions[part], index.partitions[part + 1]);
            let at = |block: usize| index.blocks.get(block).copied().unwrap_or(index.len) as usize;
            let mut records = Records::new(piece.slice(at(first)..at(end)));
            while records.advance().unwrap().is_some() {
                assert_eq!(partition(hash(records.key()), 64), part);
                found += 1;
            }
        }
        assert_eq!(found, keys.len());
    }
}
