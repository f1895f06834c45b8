//! The ledger: which files are live, each with its sequence and length. It is how an old file put
//! back, or a missing one, is noticed: such a file is as authentic as the one that should be there.
//!
//! ```text
//! version   1 (one byte)
//! next      u64, little-endian: sequences from here on were not given out when this was written
//! count     varint
//! entries, by ascending path:
//!   shared    varint: bytes that the path shares with the one before
//!   rest      varint: length, then that many bytes of the path
//!   state     varint: bit 0 has a settled file, bit 1 may be absent, then the number of doubtful files
//!   files     the settled one, then the doubtful ones:
//!     sequence  varint, zigzag: difference to the file before
//!     length    varint: the file's length plus one; 0 when it is not known yet
//! ```
//!
//! Varints are LEB128 of at most 64 bits. The whole is the content of the sealed file `_ledger`.
//!
//! Invariant: decoding takes any bytes, never more memory than a few times their number, and gives only
//! what encodes to the same bytes again.

use std::collections::HashMap;

use crate::varint::{put_varint, take, take_varint};

const VERSION: u8 = 1;
const SETTLED: u64 = 1;
const MAY_BE_ABSENT: u64 = 2;
const DOUBTFUL_SHIFT: u32 = 2;
/// The length of a file that is still being written.
pub const UNKNOWN: u64 = u64::MAX;

/// One version of a file, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its sequence.
    pub sequence: u64,
    /// The length of the file, sealed; [`UNKNOWN`] while it is being written.
    pub len: u64,
}

impl Version {
    /// Whether a file of that sequence and length is this version.
    #[must_use]
    pub fn fits(&self, sequence: u64, len: u64) -> bool {
        self.sequence == sequence && (self.len == len || self.len == UNKNOWN)
    }
}

/// What may be found at a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The version that was last known to be there.
    pub settled: Option<Version>,
    /// Versions whose writing began and was not seen to end or to fail for sure.
    pub doubtful: Vec<Version>,
    /// Whether a delete began, so that nothing may be there.
    pub may_be_absent: bool,
}

impl Entry {
    /// The versions that may be found.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.settled.iter().chain(&self.doubtful)
    }

    /// Whether finding nothing is as it should be.
    #[must_use]
    pub fn absence_fits(&self) -> bool {
        self.settled.is_none() || self.may_be_absent
    }

    /// A log's segment that is still written: it is durable up to `len`, if that is known, and may go on.
    #[must_use]
    pub fn growing(sequence: u64, len: Option<u64>) -> Self {
        Self {
            settled: len.map(|len| Version { sequence, len }),
            doubtful: vec![Version { sequence, len: UNKNOWN }],
            may_be_absent: false,
        }
    }

    /// The one version that must be there, when there is no doubt.
    #[must_use]
    pub fn certain(&self) -> Option<Version> {
        self.settled.filter(|_| self.doubtful.is_empty() && !self.may_be_absent)
    }
}

/// The content of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Sequences from here on were not given out when it was written.
    pub next: u64,
    /// What may be found at each path.
    pub entries: HashMap<Box<str>, Entry>,
}

/// Encodes a ledger. `is_deleting` says which entries' files are being deleted.
pub(super) fn encode<'a>(next: u64, entries: impl Iterator<Item = (&'a str, &'a Entry, bool)>) -> Vec<u8> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by_key(|(path, ..)| *path);
    let mut bytes = Vec::with_capacity(16 + entries.len() * 24);
    bytes.push(VERSION);
    bytes.extend_from_slice(&next.to_le_bytes());
    put_varint(&mut bytes, entries.len() as u64);
    let (mut last_path, mut last_sequence) = ("", 0_u64);
    for (path, entry, deleting) in entries {
        let shared = path.bytes().zip(last_path.bytes()).take_while(|(a, b)| a == b).count();
        let rest = path.as_bytes().get(shared..).unwrap_or_default();
        put_varint(&mut bytes, shared as u64);
        put_varint(&mut bytes, rest.len() as u64);
        bytes.extend_from_slice(rest);
        let mut state = (entry.doubtful.len() as u64) << DOUBTFUL_SHIFT;
        state |= if entry.settled.is_some() { SETTLED } else { 0 };
        state |= if entry.may_be_absent || deleting { MAY_BE_ABSENT } else { 0 };
        put_varint(&mut bytes, state);
        for version in entry.versions() {
            let step = version.sequence.wrapping_sub(last_sequence).cast_signed();
            put_varint(&mut bytes, ((step << 1) ^ (step >> 63)).cast_unsigned());
            put_varint(&mut bytes, version.len.wrapping_add(1));
            last_sequence = version.sequence;
        }
        last_path = path;
    }
    bytes
}

impl Ledger {
    /// The bytes of this ledger.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.next, self.entries.iter().map(|(path, entry)| (path.as_ref(), entry, false)))
    }

    /// Reads a ledger; none when the bytes are not one of this version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        if take(&mut input, 1)? != [VERSION] {
            return None;
        }
        let next = u64::from_le_bytes(take(&mut input, 8)?.try_into().ok()?);
        let count = take_varint(&mut input)?;
        // An entry has at least three bytes: no promise is believed beyond that.
        let mut entries = HashMap::with_capacity(usize::try_from(count).ok()?.min(input.len() / 3));
        let (mut last_path, mut last_sequence) = (Vec::<u8>::new(), 0_u64);
        for index in 0..count {
            let shared = usize::try_from(take_varint(&mut input)?).ok()?;
            let rest = usize::try_from(take_varint(&mut input)?).ok()?;
            let rest = take(&mut input, rest)?;
            let tail = last_path.get(shared..)?;
            // Ascending, and no more repeated than needed: there is one encoding only.
            if index > 0 && (rest <= tail || rest.first() == tail.first() && !tail.is_empty()) {
                return None;
            }
            last_path.truncate(shared);
            last_path.extend_from_slice(rest);
            let path: Box<str> = std::str::from_utf8(&last_path).ok()?.into();
            let state = take_varint(&mut input)?;
            let mut version = || {
                let step = take_varint(&mut input)?;
                let step = (step >> 1).cast_signed() ^ -(step & 1).cast_signed();
                last_sequence = last_sequence.wrapping_add(step.cast_unsigned());
                Some(Version { sequence: last_sequence, len: take_varint(&mut input)?.wrapping_sub(1) })
            };
            let settled = if state & SETTLED != 0 { Some(version()?) } else { None };
            let mut doubtful = Vec::new();
            for _ in 0..state >> DOUBTFUL_SHIFT {
                doubtful.push(version()?);
            }
            entries.insert(path, Entry { settled, doubtful, may_be_absent: state & MAY_BE_ABSENT != 0 });
        }
        input.is_empty().then_some(Self { next, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(settled: Option<(u64, u64)>, doubtful: &[(u64, u64)], may_be_absent: bool) -> Entry {
        let version = |(sequence, len)| Version { sequence, len };
        Entry {
            settled: settled.map(version),
            doubtful: doubtful.iter().copied().map(version).collect(),
            may_be_absent,
        }
    }

    fn sample() -> Ledger {
        let entries = [
            ("wal/00000000000000000001.sst", entry(Some((5, 120)), &[], false)),
            ("wal/00000000000000000002.sst", entry(Some((1 << 40, 4_000_000)), &[(6, UNKNOWN)], true)),
            ("wal", entry(None, &[(u64::MAX, 0), (0, 1)], false)),
            ("", entry(None, &[], false)),
            ("walß", entry(Some((7, 7)), &[], true)),
        ];
        Ledger {
            next: u64::MAX,
            entries: entries.into_iter().map(|(path, entry)| (path.into(), entry)).collect(),
        }
    }

    #[test]
    fn a_ledger_reads_back() {
        for ledger in [Ledger::default(), sample()] {
            assert_eq!(Ledger::decode(&ledger.encode()), Some(ledger));
        }
    }

    #[test]
    fn no_cut_or_longer_bytes_are_a_ledger() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert_eq!(Ledger::decode(&bytes[..len]), None, "cut at {len}");
        }
        assert_eq!(Ledger::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes_whatever_was_changed() {
        let bytes = sample().encode();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[position] ^= 1 << bit;
                if let Some(ledger) = Ledger::decode(&changed) {
                    assert_eq!(ledger.encode(), changed, "byte {position}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_promise_of_many_entries_does_not_take_memory() {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&[0; 8]);
        put_varint(&mut bytes, u64::MAX);
        assert_eq!(Ledger::decode(&bytes), None);
    }

    #[test]
    fn a_log_of_many_files_takes_few_bytes_each() {
        let entries = (0..10_000_u64).map(|i| {
            (format!("wal/{i:020}.sst").into(), entry(Some(((1 << 33) + i * 3, 2_000 + i % 999)), &[], false))
        });
        let ledger = Ledger { next: 1 << 34, entries: entries.collect() };
        let len = ledger.encode().len();
        assert!(len < 10_000 * 14, "{len} bytes");
    }
}
