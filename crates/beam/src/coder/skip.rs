//! Moving past elements without looking at what they say.
//!
//! Invariant: nothing is allocated, and each step either consumes bytes or takes constant time, so that no input
//! makes this run longer than it is long.

use claviger_core::{Error, Result};

use super::{Coder, Kind, Row};
use crate::windowed::{HeaderRef, Pane};
use crate::wire;

pub(super) fn skip(coder: &Coder, input: &mut &[u8]) -> Result<()> {
    if let Some(width) = coder.width {
        return wire::take(input, width).map(drop);
    }
    match &coder.kind {
        Kind::Bytes | Kind::StringUtf8 | Kind::LengthPrefix(_) => wire::prefixed(input).map(drop),
        Kind::VarInt | Kind::VarInt32 => wire::varint(input).map(drop),
        Kind::Kv(key, value) => {
            skip(key, input)?;
            skip(value, input)
        }
        Kind::Map(key, value) => entries(key, value, input),
        Kind::Iterable(element) => iterable(element, false, input),
        Kind::StateBackedIterable(element) => iterable(element, true, input),
        Kind::IntervalWindow => {
            wire::take(input, 8)?;
            wire::varint(input).map(drop)
        }
        Kind::CustomWindow(window) => {
            wire::take(input, 8)?;
            skip(window, input)
        }
        Kind::WindowedValue { value, window } => {
            HeaderRef::read(window, input)?;
            skip(value, input)
        }
        Kind::ParamWindowedValue { value, .. } => skip(value, input),
        Kind::Timer { key, window } => timer(key, window, input),
        Kind::Row(fields) => row(fields, input),
        Kind::ShardedKey(key) => {
            wire::prefixed(input)?;
            skip(key, input)
        }
        Kind::Nullable(value) => {
            if wire::bool(input)? {
                skip(value, input)?;
            }
            Ok(())
        }
        Kind::Decimal => {
            wire::varint(input)?;
            wire::prefixed(input).map(drop)
        }
        Kind::Opaque { urn } => Err(opaque(urn)),
        Kind::Bool
        | Kind::Byte
        | Kind::Int16
        | Kind::Float
        | Kind::Double
        | Kind::Instant
        | Kind::GlobalWindow => Err(Error::internal("a coder of fixed width has no width")),
    }
}

#[cold]
pub(super) fn opaque(urn: &str) -> Error {
    Error::invalid(format!(
        "coder {urn} is not known to the runner, and stands where no length tells its end"
    ))
}

fn many(element: &Coder, count: u64, input: &mut &[u8]) -> Result<()> {
    if let Some(width) = element.width {
        let count = usize::try_from(count).map_err(|_| wire::cut_short())?;
        let bytes = count.checked_mul(width).ok_or_else(wire::cut_short)?;
        return wire::take(input, bytes).map(drop);
    }
    // An element of no fixed width has at least one byte.
    if count > input.len() as u64 {
        return Err(wire::cut_short());
    }
    (0..count).try_for_each(|_| skip(element, input))
}

fn iterable(element: &Coder, state_backed: bool, input: &mut &[u8]) -> Result<()> {
    match wire::int32(input)? {
        -1 => loop {
            match wire::varint(input)?.cast_signed() {
                0 => return Ok(()),
                -1 if state_backed => return wire::prefixed(input).map(drop),
                count => {
                    let count = u64::try_from(count).map_err(|_| negative())?;
                    many(element, count, input)?;
                }
            }
        },
        count => many(element, u64::try_from(count).map_err(|_| negative())?, input),
    }
}

#[cold]
pub(super) fn negative() -> Error {
    wire::malformed("a count is negative")
}

fn entries(key: &Coder, value: &Coder, input: &mut &[u8]) -> Result<()> {
    let count = usize::try_from(wire::int32(input)?).map_err(|_| negative())?;
    if let (Some(key), Some(value)) = (key.width, value.width) {
        let bytes =
            key.checked_add(value).and_then(|entry| entry.checked_mul(count)).ok_or_else(wire::cut_short)?;
        return wire::take(input, bytes).map(drop);
    }
    if count > input.len() {
        return Err(wire::cut_short());
    }
    (0..count).try_for_each(|_| {
        skip(key, input)?;
        skip(value, input)
    })
}

fn timer(key: &Coder, window: &Coder, input: &mut &[u8]) -> Result<()> {
    skip(key, input)?;
    wire::prefixed(input)?;
    iterable(window, false, input)?;
    if !wire::bool(input)? {
        wire::take(input, 16)?;
        Pane::read(input)?;
    }
    Ok(())
}

fn row(row: &Row, input: &mut &[u8]) -> Result<()> {
    let count = wire::varint(input)?;
    let absent = wire::prefixed(input)?;
    // An older schema has fewer fields; one with more cannot be walked.
    if count > row.fields.len() as u64 {
        return Err(wire::malformed("a row has more fields than its schema"));
    }
    for &index in row.order.iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let Some(field) = row.fields.get(index) else { continue };
        if !is_absent(absent, index) {
            skip(&field.coder, input)?;
        }
    }
    Ok(())
}

pub(super) fn is_absent(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}
