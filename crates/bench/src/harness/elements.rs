//! What the null harness sends and what it counts, as Beam's standard coders write it.
//!
//! ```text
//! record   header | 8, key | length, value              value: the record's number (8 bytes), then filler
//! group    header | 8, key | n (4 bytes) | n values     each with its length
//! header   time (8) | 1 window (4) | pane (1)           the global window itself has no bytes
//! ```
//!
//! Invariant: a record's key follows from its number, so each value tells under which key it belongs.

use std::ops::{AddAssign, Range};

use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};

use crate::failure::{Doing, Failure, Result};
use crate::random::mix;

/// The least bytes of a value: its number.
pub(super) const NUMBER_BYTES: usize = 8;
/// Bytes of a header whose pane has no indices.
const HEADER_BYTES: usize = 13;
/// Where in a header the number of windows is.
const WINDOWS_AT: usize = 8;
const KEY_BYTES: usize = 8;
/// From this on a pane has indices.
const PANE_WITH_INDICES: u8 = 0x10;
const FILLER: u8 = 0x5a;

/// How many records there are, and of what size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) records: u64,
    /// At least [`NUMBER_BYTES`].
    pub(super) value_bytes: usize,
    /// At least 1.
    pub(super) keys: u64,
}

impl Shape {
    fn key(self, number: u64) -> [u8; KEY_BYTES] {
        (mix(number) % self.keys).to_be_bytes()
    }
}

/// A message of records, made once.
#[derive(Debug)]
pub(super) struct Template {
    shape: Shape,
    records: Vec<u8>,
    record_bytes: usize,
    key_at: usize,
    number_at: usize,
}

impl Template {
    /// A message of about so many bytes, its records with the time, window and pane of `input`.
    ///
    /// # Errors
    /// When `input` does not begin with a header.
    pub(super) fn new(shape: Shape, message_bytes: usize, input: &[u8]) -> Result<Self> {
        let mut rest = input;
        let mut record = header(&mut rest)?.to_vec();
        encode_varint(KEY_BYTES as u64, &mut record);
        let key_at = record.len();
        record.extend([0; KEY_BYTES]);
        encode_varint(shape.value_bytes as u64, &mut record);
        let number_at = record.len();
        record.resize(number_at + shape.value_bytes, FILLER);
        let record_bytes = record.len();
        let records = record.repeat((message_bytes / record_bytes).max(1));
        Ok(Self { shape, records, record_bytes, key_at, number_at })
    }

    /// How many records a message holds.
    pub(super) fn capacity(&self) -> u64 {
        (self.records.len() / self.record_bytes) as u64
    }

    /// The records of these numbers, or as many of them as a message holds.
    pub(super) fn message(&self, numbers: Range<u64>) -> Bytes {
        let count = numbers.end.saturating_sub(numbers.start).min(self.capacity());
        let bytes = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(self.record_bytes);
        let mut message = self.records.get(..bytes).unwrap_or(&self.records).to_vec();
        for (record, number) in message.chunks_exact_mut(self.record_bytes).zip(numbers) {
            patch(record, self.key_at, self.shape.key(number));
            patch(record, self.number_at, number.to_le_bytes());
        }
        message.into()
    }
}

fn patch(record: &mut [u8], at: usize, bytes: [u8; 8]) {
    if let Some(place) = record.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = bytes;
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) groups: u64,
    pub(super) records: u64,
    /// Over the numbers of all records, mixed: two wrong ones do not cancel out.
    pub(super) sum: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.groups += more.groups;
        self.records += more.records;
        self.sum = self.sum.wrapping_add(more.sum);
    }
}

impl Tally {
    /// Of all records, in one group.
    pub(super) fn of_all(shape: Shape) -> Self {
        let sum = (0..shape.records).fold(0, |sum: u64, number| sum.wrapping_add(mix(number)));
        Self { groups: 1, records: shape.records, sum }
    }

    /// Counts a chunk of whole groups.
    ///
    /// # Errors
    /// When it is none, or when a value is under a key that is not its own.
    pub(super) fn count(&mut self, shape: Shape, mut chunk: &[u8]) -> Result<()> {
        while !chunk.is_empty() {
            header(&mut chunk)?;
            let key = prefixed(&mut chunk)?;
            let (&count, rest) = chunk.split_first_chunk().ok_or_else(cut_short)?;
            chunk = rest;
            for _ in 0..u32::from_be_bytes(count) {
                let value = prefixed(&mut chunk)?;
                let number = u64::from_le_bytes(*value.first_chunk().ok_or_else(cut_short)?);
                if value.len() != shape.value_bytes || shape.key(number) != key {
                    return Err(Failure::new("a value came back changed, or under another's key"));
                }
                self.records += 1;
                self.sum = self.sum.wrapping_add(mix(number));
            }
            self.groups += 1;
        }
        Ok(())
    }
}

fn cut_short() -> Failure {
    Failure::new("the server sent elements that are cut short")
}

/// Takes the header of an element in the global window.
fn header<'a>(input: &mut &'a [u8]) -> Result<&'a [u8; HEADER_BYTES]> {
    let (header, rest) = input.split_first_chunk::<HEADER_BYTES>().ok_or_else(cut_short)?;
    let windows = header.get(WINDOWS_AT..).and_then(|rest| rest.first_chunk());
    let pane = header.last().copied().unwrap_or(PANE_WITH_INDICES);
    if windows.copied().map(u32::from_be_bytes) != Some(1) || pane >= PANE_WITH_INDICES {
        return Err(Failure::new(
            "the server sent an element that is not in the one pane of the global window",
        ));
    }
    *input = rest;
    Ok(header)
}

/// Takes bytes behind their length.
fn prefixed<'a>(input: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = decode_varint(input).doing("a length that the server sent")?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (bytes, rest) = input.split_at_checked(length).ok_or_else(cut_short)?;
    *input = rest;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use claviger_beam::elements::Elements;
    use claviger_beam::group::GroupByKey;
    use claviger_beam::windowed::{Header, Pane};
    use claviger_beam_proto::pipeline::{Coder, Components, FunctionSpec};

    use super::*;
    use crate::harness::pipeline::{build, urns};

    const SHAPE: Shape = Shape { records: 500, value_bytes: 300, keys: 7 };
    const WIRE: &str = "wire";

    /// The pipeline's own coders, and that of its records on the wire.
    fn components() -> Components {
        let mut components = build(SHAPE, 1, "pool").unwrap().components.unwrap();
        let spec = FunctionSpec { urn: urns::WINDOWED_VALUE.into(), ..FunctionSpec::default() };
        let parts = components.coders.iter().filter_map(|(id, coder)| {
            let record = coder.spec.as_ref()?.urn == urns::KV && coder.component_coder_ids[1] == "bytes";
            record.then(|| id.clone())
        });
        let parts = parts.chain(["global_window".to_owned()]).collect();
        components.coders.insert(WIRE.into(), Coder { spec: Some(spec), component_coder_ids: parts });
        components
    }

    fn template(message_bytes: usize) -> Template {
        let header = Header { timestamp_millis: -5, windows: vec![Bytes::new()], pane: Pane::NO_FIRING };
        let mut input = Vec::new();
        header.write(&mut input).unwrap();
        Template::new(SHAPE, message_bytes, &input).unwrap()
    }

    #[test]
    fn records_are_those_of_the_standard_coders() {
        let pairs = Elements::key_values(WIRE, &components()).unwrap();
        let template = template(4096);
        let message = template.message(100..1000);
        let mut number = 100;
        pairs
            .for_each(&message, |pair| {
                assert_eq!(pair.header.timestamp_millis(), -5);
                assert_eq!((pair.key[0], &pair.key[1..]), (8, &SHAPE.key(number)[..]));
                assert_eq!(pair.value.len(), 2 + SHAPE.value_bytes);
                assert_eq!(pair.value[2..10], number.to_le_bytes());
                number += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(number - 100, template.capacity());
        assert!(message.len() <= 4096 && message.len() > 3000);
        assert_eq!(template.message(100..102).len() * 6, template.message(100..112).len());
    }

    /// The groups of all records as the runner makes them.
    fn groups() -> Vec<u8> {
        let components = components();
        let group = GroupByKey::new("global", WIRE, &components).unwrap();
        let mut records = Vec::new();
        let message = template(1 << 20).message(0..SHAPE.records);
        group
            .records(&message, &mut |record| {
                records.push((record.key.to_vec(), record.sort.to_vec(), record.value.to_vec()));
                Ok(())
            })
            .unwrap();
        records.sort();
        let mut out = bytes::BytesMut::new();
        for of_key in records.chunk_by(|one, other| one.0 == other.0) {
            let mut keys = group.key(of_key[0].0.clone().into());
            of_key.iter().for_each(|(_, sort, value)| keys.push(sort, value).unwrap());
            keys.finish(None, &mut out).unwrap();
        }
        out.to_vec()
    }

    #[test]
    fn groups_are_counted_to_the_last_record() {
        let mut tally = Tally::default();
        tally.count(SHAPE, &groups()).unwrap();
        assert_eq!(tally, Tally { groups: SHAPE.keys, ..Tally::of_all(SHAPE) });
    }

    #[test]
    fn what_is_changed_or_cut_short_is_refused() {
        let groups = groups();
        for cut in [5, 20, groups.len() - 1] {
            assert!(Tally::default().count(SHAPE, &groups[..cut]).is_err(), "{cut}");
        }
        // Behind header, key, count and length stands the first number; before it the key.
        for changed in [HEADER_BYTES + KEY_BYTES, HEADER_BYTES + 1 + KEY_BYTES + 4 + 2, HEADER_BYTES - 1] {
            let mut groups = groups.clone();
            groups[changed] ^= 0x11;
            assert!(Tally::default().count(SHAPE, &groups).is_err(), "{changed}");
        }
    }
}
