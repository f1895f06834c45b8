//! The body of a frame: the rows of one or more batches.
//!
//! ```text
//! row:
//!   flags    1 byte   bits 0-1: 0 a value, 1 an operand of a merge, 2 a deletion
//!                     bit 2: the sequence is another one than that of the row before
//!                     bits 3-4: time of creation: 0 none, 1 that of the row before that has one, 2 follows
//!                     bits 5-6: time of expiry, in the same way
//!   sequence varint   if bit 2: how much greater it is than that of the row before (0 before the first)
//!   creation varint   if it follows: zigzag, difference to the last one (0 at first)
//!   expiry   varint   if it follows: as above
//!   key      varint   length, then that many bytes
//!   value    varint   length, then that many bytes; not for a deletion
//! ```
//!
//! Varints are LEB128 of at most 64 bits, without needless bytes. The rows of a batch have one sequence, those
//! of a later batch a greater one.
//!
//! Invariant: decoding takes any bytes, copies none of them, takes memory of a small multiple of their number,
//! and gives only what encodes to the same bytes again.

use bytes::Bytes;
use slatedb::{RowEntry, ValueDeletable};

use crate::varint::{put_varint, take, take_varint};

const KIND: u8 = 0b0000_0011;
const VALUE: u8 = 0;
const MERGE: u8 = 1;
const DELETION: u8 = 2;
const SEQUENCE: u8 = 0b0000_0100;
const CREATED: u8 = 3;
const EXPIRES: u8 = 5;
const UNUSED: u8 = 0b1000_0000;
/// Values of the two bits of a time.
const NONE: u8 = 0;
const SAME: u8 = 1;
const FOLLOWS: u8 = 2;

/// What the next row is written in relation to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    sequence: u64,
    created: i64,
    expires: i64,
}

fn put_zigzag(bytes: &mut Vec<u8>, value: i64) {
    put_varint(bytes, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn take_zigzag(input: &mut &[u8]) -> Option<i64> {
    let value = take_varint(input)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Whether a time is the same as the last one, and what to note of it.
fn relation(time: Option<i64>, last: i64) -> u8 {
    match time {
        None => NONE,
        Some(time) if time == last => SAME,
        Some(_) => FOLLOWS,
    }
}

/// Appends rows to a body. Their sequences do not get smaller.
pub fn encode(rows: &[RowEntry], before: &mut Before, body: &mut Vec<u8>) {
    for row in rows {
        let (kind, value) = match &row.value {
            ValueDeletable::Value(value) => (VALUE, Some(value)),
            ValueDeletable::Merge(value) => (MERGE, Some(value)),
            ValueDeletable::Tombstone => (DELETION, None),
        };
        let step = row.seq.wrapping_sub(before.sequence);
        let created = relation(row.create_ts, before.created);
        let expires = relation(row.expire_ts, before.expires);
        let other = if step == 0 { 0 } else { SEQUENCE };
        body.push(kind | other | created << CREATED | expires << EXPIRES);
        if step != 0 {
            put_varint(body, step);
            before.sequence = row.seq;
        }
        for (state, time, last) in
            [(created, row.create_ts, &mut before.created), (expires, row.expire_ts, &mut before.expires)]
        {
            if let (FOLLOWS, Some(time)) = (state, time) {
                put_zigzag(body, time.wrapping_sub(*last));
                *last = time;
            }
        }
        put_varint(body, row.key.len() as u64);
        body.extend_from_slice(&row.key);
        if let Some(value) = value {
            put_varint(body, value.len() as u64);
            body.extend_from_slice(value);
        }
    }
}

fn take_time(input: &mut &[u8], state: u8, last: &mut i64) -> Option<Option<i64>> {
    match state {
        NONE => Some(None),
        SAME => Some(Some(*last)),
        FOLLOWS => {
            let time = last.wrapping_add(take_zigzag(input)?);
            if time == *last {
                return None;
            }
            *last = time;
            Some(Some(time))
        }
        _ => None,
    }
}

fn take_bytes(input: &mut &[u8], body: &Bytes) -> Option<Bytes> {
    let len = usize::try_from(take_varint(input)?).ok()?;
    Some(body.slice_ref(take(input, len)?))
}

/// The rows of a body; none when the bytes are not one.
#[must_use]
pub fn decode(body: &Bytes) -> Option<Vec<RowEntry>> {
    let mut input: &[u8] = body;
    let mut before = Before::default();
    let mut rows = Vec::new();
    while !input.is_empty() {
        let flags = *take(&mut input, 1)?.first()?;
        if flags & UNUSED != 0 {
            return None;
        }
        if flags & SEQUENCE != 0 {
            let step = take_varint(&mut input)?;
            before.sequence = before.sequence.checked_add(step).filter(|_| step != 0)?;
        }
        let create_ts = take_time(&mut input, flags >> CREATED & 3, &mut before.created)?;
        let expire_ts = take_time(&mut input, flags >> EXPIRES & 3, &mut before.expires)?;
        let key = take_bytes(&mut input, body)?;
        let value = match flags & KIND {
            VALUE => ValueDeletable::Value(take_bytes(&mut input, body)?),
            MERGE => ValueDeletable::Merge(take_bytes(&mut input, body)?),
            DELETION => ValueDeletable::Tombstone,
            _ => return None,
        };
        rows.push(RowEntry { key, value, seq: before.sequence, create_ts, expire_ts });
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        key: &str,
        value: ValueDeletable,
        seq: u64,
        created: Option<i64>,
        expires: Option<i64>,
    ) -> RowEntry {
        RowEntry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value,
            seq,
            create_ts: created,
            expire_ts: expires,
        }
    }

    fn sample() -> Vec<RowEntry> {
        let value = |text: &'static str| ValueDeletable::Value(Bytes::from_static(text.as_bytes()));
        let merge = |text: &'static str| ValueDeletable::Merge(Bytes::from_static(text.as_bytes()));
        vec![
            row("a", value("1"), 7, Some(1_700_000_000_000), None),
            row("b", merge("two"), 7, Some(1_700_000_000_000), None),
            row("", ValueDeletable::Tombstone, 8, Some(1_700_000_000_001), None),
            row("c", value(""), 9, None, Some(-5)),
            row("d", merge(""), 300, Some(i64::MIN), Some(i64::MAX)),
            row("e", value("x"), u64::MAX, Some(0), Some(0)),
        ]
    }

    fn encoded(rows: &[RowEntry]) -> Bytes {
        let mut body = Vec::new();
        encode(rows, &mut Before::default(), &mut body);
        body.into()
    }

    #[test]
    fn rows_read_back_in_one_piece_or_appended_batch_by_batch() {
        let whole = encoded(&sample());
        assert_eq!(decode(&whole).unwrap(), sample());
        let (mut body, mut before) = (Vec::new(), Before::default());
        for row in sample() {
            encode(&[row], &mut before, &mut body);
        }
        assert_eq!(body, whole);
        assert_eq!(decode(&Bytes::new()), Some(Vec::new()));
    }

    #[test]
    fn a_cut_body_is_none_or_whole_rows() {
        let body = encoded(&sample());
        for len in 0..body.len() {
            if let Some(rows) = decode(&body.slice(..len)) {
                assert_eq!(rows, sample()[..rows.len()], "cut at {len}");
            }
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes_whatever_was_changed() {
        let body = encoded(&sample());
        for position in 0..body.len() {
            for bit in 0..8 {
                let mut changed = body.to_vec();
                changed[position] ^= 1 << bit;
                let changed = Bytes::from(changed);
                if let Some(rows) = decode(&changed) {
                    assert_eq!(encoded(&rows), changed, "byte {position}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_body_of_version_1_decodes_and_is_written_the_same() {
        // flags, sequence 5, creation 3 (zigzag 6), "key", "value"; then a deletion of the same batch; then an
        // operand of batch 6 that expires at -1.
        let golden = b"\x14\x05\x06\x03key\x05value\x0a\x03old\x45\x01\x01\x01k\x02op";
        let rows = vec![
            row("key", ValueDeletable::Value(Bytes::from_static(b"value")), 5, Some(3), None),
            row("old", ValueDeletable::Tombstone, 5, Some(3), None),
            row("k", ValueDeletable::Merge(Bytes::from_static(b"op")), 6, None, Some(-1)),
        ];
        assert_eq!(decode(&Bytes::from_static(golden)).unwrap(), rows);
        assert_eq!(encoded(&rows), &golden[..]);
    }
}
