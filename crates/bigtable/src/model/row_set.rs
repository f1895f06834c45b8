//! Which rows a request reads: keys and ranges, brought into order.
//!
//! Invariant: the spans of a [`RowSet`] are sorted, none is empty, and none overlaps another, so a scan
//! through them meets each row once and in the order of keys, or backwards in the opposite order.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use claviger_core::{Error, Result};

use super::mutation::check_row_key;

/// A range of row keys as a client gives it. An empty bound is no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower bound.
    pub start: Bound<Bytes>,
    /// The upper bound.
    pub end: Bound<Bytes>,
}

/// One row, or the rows of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// The row of that key.
    Key(Bytes),
    /// Rows from a key on, up to and without another; without a limit if there is none.
    Range {
        /// The first key that may be within.
        start: Bytes,
        /// The first key past it.
        end: Option<Bytes>,
    },
}

impl Span {
    /// The first key that may be within.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) => key,
            Self::Range { start, .. } => start,
        }
    }

    /// Whether the key lies within.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Range { start, end } => start <= key && end.as_ref().is_none_or(|end| key < end),
        }
    }

    /// Whether all of it lies before the key.
    fn is_before(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own < key,
            Self::Range { end, .. } => end.as_ref().is_some_and(|end| end <= key),
        }
    }
}

/// The rows that a request reads, sorted and without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSet {
    spans: Vec<Span>,
}

impl RowSet {
    /// All rows of a table.
    #[must_use]
    pub fn all() -> Self {
        Self { spans: vec![Span::Range { start: Bytes::new(), end: None }] }
    }

    /// One row.
    #[must_use]
    pub fn key(key: Bytes) -> Self {
        Self { spans: vec![Span::Key(key)] }
    }

    /// The rows of the keys and the ranges together; of neither: all rows.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty or oversized key, and a range that no key can be in by its bounds:
    /// an end before the start, or the same key on both sides unless both include it.
    pub fn new(keys: Vec<Bytes>, ranges: Vec<KeyRange>) -> Result<Self> {
        if keys.is_empty() && ranges.is_empty() {
            return Ok(Self::all());
        }
        let mut spans = Vec::with_capacity(keys.len() + ranges.len());
        for (index, key) in keys.into_iter().enumerate() {
            check_row_key(&key).map_err(|error| at("row_keys", index, &error))?;
            spans.push(Span::Key(key));
        }
        for (index, range) in ranges.into_iter().enumerate() {
            spans.push(span(range).map_err(|error| at("row_ranges", index, &error))?);
        }
        Ok(Self { spans: joined(spans) })
    }

    /// Whether it is the whole table.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(&*self.spans, [Span::Range { start, end: None }] if start.is_empty())
    }

    /// The spans in the order of keys; turn it round for a reverse scan.
    pub fn spans(&self) -> std::slice::Iter<'_, Span> {
        self.spans.iter()
    }

    /// The spans in the order of keys, or backwards.
    pub fn into_spans(mut self, reversed: bool) -> std::vec::IntoIter<Span> {
        if reversed {
            self.spans.reverse();
        }
        self.spans.into_iter()
    }

    /// Whether the row of that key is read.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        let index = self.spans.partition_point(|span| span.is_before(key));
        self.spans.get(index).is_some_and(|span| span.contains(key))
    }
}

fn at(field: &str, index: usize, error: &Error) -> Error {
    Error::invalid(format!("Error in field '{field}' : Error in element #{index} : {error}"))
}

/// The least key greater than `key`.
#[must_use]
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn span(range: KeyRange) -> Result<Span> {
    let unbounded = |bound: Bound<Bytes>| match bound {
        Bound::Included(key) | Bound::Excluded(key) if key.is_empty() => Bound::Unbounded,
        other => other,
    };
    let (start, end) = (unbounded(range.start), unbounded(range.end));
    for bound in [&start, &end] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            check_row_key(key)?;
        }
    }
    match (&start, &end) {
        (Bound::Included(start), Bound::Included(end)) if start == end => {
            return Ok(Span::Key(start.clone()));
        }
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end))
            if start >= end =>
        {
            return Err(Error::invalid("start_key must be less than end_key"));
        }
        _ => {}
    }
    let start = match start {
        Bound::Included(key) => key,
        Bound::Excluded(key) => successor(&key),
        Bound::Unbounded => Bytes::new(),
    };
    let end = match end {
        Bound::Included(key) => Some(successor(&key)),
        Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    };
    Ok(Span::Range { start, end })
}

/// Sorts the spans, drops the empty ones and joins those that overlap or touch.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    // From "after a" to "before a\0" lies no key, though neither bound is wrong.
    spans.retain(|span| !matches!(span, Span::Range { start, end: Some(end) } if start >= end));
    spans.sort_by(|a, b| a.start().cmp(b.start()));
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match (joined.last_mut(), span) {
            (Some(last), Span::Key(key)) if last.contains(&key) => {}
            // A key, and a range that starts with it.
            (Some(last @ Span::Key(_)), range @ Span::Range { .. }) if last.start() == range.start() => {
                *last = range
            }
            (Some(Span::Range { end: None, .. }), _) => {}
            (Some(Span::Range { end: Some(last), .. }), Span::Range { start, end }) if start <= *last => {
                match end {
                    Some(end) if end <= *last => {}
                    Some(end) => *last = end,
                    None => {
                        if let Some(Span::Range { end, .. }) = joined.last_mut() {
                            *end = None;
                        }
                    }
                }
            }
            (_, span) => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use Bound::{Excluded, Included, Unbounded};

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn range(start: Bound<&'static str>, end: Bound<&'static str>) -> KeyRange {
        KeyRange { start: start.map(bytes), end: end.map(bytes) }
    }

    fn set(keys: &[&'static str], ranges: &[KeyRange]) -> RowSet {
        RowSet::new(keys.iter().copied().map(bytes).collect(), ranges.to_vec()).unwrap()
    }

    fn within(start: &'static str, end: Option<&'static str>) -> Span {
        Span::Range { start: bytes(start), end: end.map(bytes) }
    }

    #[test]
    fn neither_keys_nor_ranges_is_every_row() {
        assert!(set(&[], &[]).is_all());
        assert!(set(&[], &[range(Unbounded, Unbounded)]).is_all());
        assert!(set(&["k"], &[range(Included(""), Excluded(""))]).is_all());
        assert!(!set(&["k"], &[]).is_all());
    }

    #[test]
    fn keys_and_ranges_are_sorted_and_joined() {
        let got = set(
            &["b", "x", "b", "f", "h"],
            &[
                range(Included("e"), Excluded("g")),
                range(Included("a"), Excluded("c")),
                range(Included("f"), Excluded("h")),
                range(Included("x"), Included("x")),
            ],
        );
        let want =
            [within("a", Some("c")), within("e", Some("h")), Span::Key(bytes("h")), Span::Key(bytes("x"))];
        assert_eq!(got.spans().cloned().collect::<Vec<_>>(), want);
        assert_eq!(got.into_spans(true).collect::<Vec<_>>(), want.iter().rev().cloned().collect::<Vec<_>>());
        let got = set(&["k", "z"], &[range(Included("k"), Excluded("m")), range(Excluded("l"), Unbounded)]);
        assert_eq!(got.spans().cloned().collect::<Vec<_>>(), [within("k", None)]);
    }

    #[test]
    fn open_and_closed_bounds_hold_what_they_say() {
        let got = set(&[], &[range(Excluded("a"), Included("c"))]);
        for (key, inside) in [("a", false), ("a\0", true), ("b", true), ("c", true), ("c\0", false)] {
            assert_eq!(got.contains(key.as_bytes()), inside, "{key:?}");
        }
        let got = set(&["q"], &[range(Excluded("a"), Excluded("a\0"))]);
        assert_eq!(got.spans().cloned().collect::<Vec<_>>(), [Span::Key(bytes("q"))]);
        let none = set(&[], &[range(Excluded("a"), Excluded("a\0"))]);
        assert_eq!(none.spans().count(), 0, "a set that holds no key is not the whole table");
    }

    #[test]
    fn ranges_that_are_empty_by_their_bounds_and_wrong_keys_are_refused() {
        for range in [
            range(Included("b"), Included("a")),
            range(Included("a"), Excluded("a")),
            range(Excluded("a"), Included("a")),
            range(Excluded("a"), Excluded("a")),
        ] {
            let error = RowSet::new(vec![], vec![self::range(Unbounded, Unbounded), range]).unwrap_err();
            let want =
                "Error in field 'row_ranges' : Error in element #1 : start_key must be less than end_key";
            assert_eq!(error.message(), want);
        }
        let long = Bytes::from(vec![b'k'; claviger_core::limits::ROW_KEY_BYTES + 1]);
        assert!(RowSet::new(vec![Bytes::new()], vec![]).unwrap_err().message().contains("non-empty"));
        assert!(RowSet::new(vec![long.clone()], vec![]).is_err());
        assert!(RowSet::new(vec![], vec![KeyRange { start: Included(long), end: Unbounded }]).is_err());
    }

    #[test]
    fn any_set_holds_what_its_parts_hold_in_order() {
        use rand::{Rng, SeedableRng};
        const KEYS: [&str; 10] = ["a", "a\0", "a\0\0", "ab", "b", "b\0", "c", "ca", "d", "e"];
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        for _ in 0..20_000 {
            let bound = |rng: &mut rand::rngs::StdRng| match rng.random_range(0..9) {
                0 => Unbounded,
                1..5 => Included(KEYS[rng.random_range(0..KEYS.len())]),
                _ => Excluded(KEYS[rng.random_range(0..KEYS.len())]),
            };
            let keys: Vec<_> =
                (0..rng.random_range(0..3)).map(|_| KEYS[rng.random_range(0..KEYS.len())]).collect();
            let ranges: Vec<_> =
                (0..rng.random_range(0..4)).map(|_| range(bound(&mut rng), bound(&mut rng))).collect();
            let ranges: Vec<_> = ranges.into_iter().filter(|r| span(r.clone()).is_ok()).collect();
            let got = set(&keys, &ranges);
            for key in KEYS {
                use std::ops::RangeBounds;
                let holds = |r: &KeyRange| (r.start.clone(), r.end.clone()).contains(&bytes(key));
                let want =
                    (keys.is_empty() && ranges.is_empty()) || keys.contains(&key) || ranges.iter().any(holds);
                assert_eq!(got.contains(key.as_bytes()), want, "{key:?} in {keys:?} {ranges:?}: {got:?}");
                assert!(got.spans().filter(|span| span.contains(key.as_bytes())).count() <= 1);
            }
            assert!(got.spans().is_sorted_by(|a, b| a.start() < b.start()));
        }
    }
}
