//! The rows of the benchmark: random keys, and values that follow from them.
//!
//! Invariant: the same seed gives the same rows, and a row's value can be told from its key alone, so that
//! every answer can be checked without keeping 200 MB.

use std::ops::Range;

use bytes::Bytes;

use crate::random::{Random, mix};

/// Length of every key: `user` and sixteen hexadecimal digits.
pub(crate) const KEY_BYTES: usize = 20;
/// Bytes from which all values are cut.
const POOL_BYTES: usize = 1 << 20;

/// The table's rows, in the order of their keys.
#[derive(Debug)]
pub(crate) struct Rows {
    keys: Vec<[u8; KEY_BYTES]>,
    /// Row numbers in the order in which they are loaded.
    order: Vec<u32>,
    pool: Bytes,
    value_bytes: usize,
}

impl Rows {
    /// Makes `count` rows.
    pub(crate) fn new(seed: u64, count: u64, value_bytes: usize) -> Self {
        let mut random = Random::new(seed);
        let mut pool = Vec::with_capacity(POOL_BYTES + value_bytes);
        while pool.len() < POOL_BYTES + value_bytes {
            pool.extend_from_slice(&random.next().to_le_bytes());
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // `mix` is one to one, so no two keys are the same.
        let salt = random.next();
        let mut keys: Vec<[u8; KEY_BYTES]> =
            (0..count).map(|number| key(mix(u64::from(number) ^ salt))).collect();
        keys.sort_unstable();
        let mut order: Vec<u32> = (0..count).collect();
        random.shuffle(&mut order);
        Self { keys, order, pool: pool.into(), value_bytes }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.keys.len() as u64
    }

    /// The key of the `number`th row in key order.
    pub(crate) fn key(&self, number: u64) -> &[u8] {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.keys.get(number))
            .map_or(&[], |key| key.as_slice())
    }

    /// The numbers of the rows of a batch, in the order of the load.
    pub(crate) fn batch(&self, numbers: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let range = numbers.start as usize..numbers.end as usize;
        self.order.get(range).unwrap_or_default().iter().map(|&number| u64::from(number))
    }

    /// The value of the row with this key.
    pub(crate) fn value(&self, key: &[u8]) -> Bytes {
        let digest = key.chunks(8).fold(0, |digest, part| {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            mix(digest ^ u64::from_le_bytes(word))
        });
        let from = digest as usize % POOL_BYTES;
        self.pool.slice(from..from + self.value_bytes)
    }

    /// Bytes of each value.
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }
}

fn key(number: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut key = *b"user0000000000000000";
    for (at, place) in key.iter_mut().skip(4).enumerate() {
        let digit = (number >> (60 - 4 * at)) & 15;
        *place = DIGITS.get(digit as usize).copied().unwrap_or(b'0');
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_distinct_and_the_same_for_a_seed() {
        let rows = Rows::new(1, 5000, 100);
        assert!((1..5000).all(|number| rows.key(number - 1) < rows.key(number)));
        let again = Rows::new(1, 5000, 100);
        assert_eq!(rows.keys, again.keys);
        assert_eq!(rows.value(rows.key(7)), again.value(again.key(7)));
        assert_ne!(rows.value(rows.key(7)), rows.value(rows.key(8)));
        assert_ne!(rows.keys, Rows::new(2, 5000, 100).keys);
        let mut loaded: Vec<u64> = rows.batch(0..2500).chain(rows.batch(2500..5000)).collect();
        loaded.sort_unstable();
        assert_eq!(loaded, (0..5000).collect::<Vec<_>>());
    }

    #[test]
    fn a_key_is_its_number_in_hexadecimal() {
        assert_eq!(&key(0x0123_4567_89ab_cdef), b"user0123456789abcdef");
    }
}
