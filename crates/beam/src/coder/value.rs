//! What an element says: for tests, samples and tools; the runner itself does not decode.
//!
//! Invariant: memory grows with the bytes read, never with a count that they claim.

use bytes::{BufMut, Bytes};
use claviger_core::{Error, Result};

use super::skip::{is_absent, negative, opaque};
use super::{Coder, Kind, Row};
use crate::window::IntervalWindow;
use crate::windowed::Pane;
use crate::{time, wire};

/// The most elements without bytes in one iterable.
const MAX_EMPTY_ELEMENTS: u64 = 1024;

/// A decoded element.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Of `bytes`, and of an opaque coder behind a length.
    Bytes(Bytes),
    /// Of `string_utf8`.
    String(String),
    /// Of `bool`.
    Bool(bool),
    /// Of the integers.
    Int(i64),
    /// Of `double`.
    Double(f64),
    /// Of a row's 32-bit number.
    Float(f32),
    /// Of a row's decimal: `unscaled` (two's complement, big-endian) times ten to the power of `-scale`.
    Decimal {
        /// Digits after the point.
        scale: i64,
        /// The digits.
        unscaled: Bytes,
    },
    /// Of a row's time in milliseconds.
    Instant(i64),
    /// Of `kv`.
    Kv(Box<Value>, Box<Value>),
    /// Of the iterables; the token of one whose rest is behind the state API.
    Iterable(Vec<Value>, Option<Bytes>),
    /// Of a row's map.
    Map(Vec<(Value, Value)>),
    /// Of `interval_window`.
    IntervalWindow(IntervalWindow),
    /// Of `global_window`.
    GlobalWindow,
    /// Of `custom_window`: the window and its last time.
    CustomWindow(i64, Box<Value>),
    /// Of the windowed values.
    Windowed(Box<Windowed>),
    /// Of `timer`.
    Timer(Box<Timer>),
    /// Of `row`, in the schema's order.
    Row(Vec<Value>),
    /// Of `sharded_key`: shard and key.
    ShardedKey(Bytes, Box<Value>),
    /// None, of `nullable` and of a row's field.
    Null,
}

/// A decoded windowed value.
#[derive(Clone, Debug, PartialEq)]
pub struct Windowed {
    /// Its time.
    pub timestamp_millis: i64,
    /// Its windows.
    pub windows: Vec<Value>,
    /// Its pane.
    pub pane: Pane,
    /// The value.
    pub value: Value,
}

/// A decoded timer.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// The user's key.
    pub key: Value,
    /// Tells the timers of a family apart.
    pub tag: String,
    /// The windows.
    pub windows: Vec<Value>,
    /// Fire time, hold time and pane; none when the timer is cleared.
    pub set: Option<(i64, i64, Pane)>,
}

/// Decodes one element off the front; outside of the nested context it is all that is there.
///
/// # Errors
/// `InvalidArgument`: the bytes are not such an element.
pub fn decode(coder: &Coder, input: &mut &[u8], nested: bool) -> Result<Value> {
    let boxed = |coder: &Coder, input: &mut &[u8], nested| decode(coder, input, nested).map(Box::new);
    Ok(match &coder.kind {
        Kind::Bytes => Value::Bytes(Bytes::copy_from_slice(delimited(input, nested)?)),
        Kind::StringUtf8 => Value::String(text(delimited(input, nested)?)?),
        Kind::Bool => Value::Bool(wire::bool(input)?),
        Kind::VarInt => Value::Int(wire::varint(input)?.cast_signed()),
        Kind::VarInt32 => Value::Int(i64::from((wire::varint(input)? as u32).cast_signed())),
        Kind::Int16 => Value::Int(i64::from(i16::from_be_bytes(*wire::array(input)?))),
        Kind::Byte => Value::Int(i64::from(wire::byte(input)?.cast_signed())),
        Kind::Double => Value::Double(f64::from_be_bytes(*wire::array(input)?)),
        Kind::Float => Value::Float(f32::from_be_bytes(*wire::array(input)?)),
        Kind::Instant => Value::Instant(time::read(input)?),
        Kind::Decimal => Value::Decimal {
            scale: wire::varint(input)?.cast_signed(),
            unscaled: Bytes::copy_from_slice(delimited(input, nested)?),
        },
        Kind::Kv(key, value) => Value::Kv(boxed(key, input, true)?, boxed(value, input, nested)?),
        Kind::Iterable(element) => iterable(element, false, input)?,
        Kind::StateBackedIterable(element) => iterable(element, true, input)?,
        Kind::Map(key, value) => map(key, value, input)?,
        Kind::IntervalWindow => Value::IntervalWindow(IntervalWindow::read(input)?),
        Kind::GlobalWindow => Value::GlobalWindow,
        Kind::CustomWindow(window) => Value::CustomWindow(time::read(input)?, boxed(window, input, nested)?),
        Kind::LengthPrefix(inner) => {
            let mut element = wire::prefixed(input)?;
            let value = decode(inner, &mut element, false)?;
            if !element.is_empty() {
                return Err(wire::malformed("bytes are left behind an element"));
            }
            value
        }
        Kind::WindowedValue { value, window } => windowed(value, window, None, input, nested)?,
        Kind::ParamWindowedValue { value, window, header } => {
            windowed(value, window, Some(header), input, nested)?
        }
        Kind::Timer { key, window } => timer(key, window, input)?,
        Kind::Row(fields) => row(fields, input)?,
        Kind::ShardedKey(key) => {
            Value::ShardedKey(Bytes::copy_from_slice(wire::prefixed(input)?), boxed(key, input, true)?)
        }
        Kind::Nullable(value) if wire::bool(input)? => decode(value, input, nested)?,
        Kind::Nullable(_) => Value::Null,
        Kind::Opaque { urn } if nested => return Err(opaque(urn)),
        Kind::Opaque { .. } => Value::Bytes(Bytes::copy_from_slice(delimited(input, false)?)),
    })
}

fn delimited<'a>(input: &mut &'a [u8], nested: bool) -> Result<&'a [u8]> {
    if nested { wire::prefixed(input) } else { wire::take(input, input.len()) }
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| wire::malformed("text is not UTF-8"))
}

fn many(element: &Coder, count: u64, input: &mut &[u8], out: &mut Vec<Value>) -> Result<()> {
    let most = if element.width == Some(0) { MAX_EMPTY_ELEMENTS } else { input.len() as u64 };
    if count > most {
        return Err(wire::cut_short());
    }
    for _ in 0..count {
        out.push(decode(element, input, true)?);
    }
    Ok(())
}

fn elements(element: &Coder, state_backed: bool, input: &mut &[u8]) -> Result<(Vec<Value>, Option<Bytes>)> {
    let mut out = Vec::new();
    let count = wire::int32(input)?;
    if count != -1 {
        many(element, u64::try_from(count).map_err(|_| negative())?, input, &mut out)?;
        return Ok((out, None));
    }
    loop {
        match wire::varint(input)?.cast_signed() {
            0 => return Ok((out, None)),
            -1 if state_backed => return Ok((out, Some(Bytes::copy_from_slice(wire::prefixed(input)?)))),
            count => {
                if element.width == Some(0) && out.len() as u64 >= MAX_EMPTY_ELEMENTS {
                    return Err(wire::malformed("too many elements without bytes"));
                }
                many(element, u64::try_from(count).map_err(|_| negative())?, input, &mut out)?;
            }
        }
    }
}

fn iterable(element: &Coder, state_backed: bool, input: &mut &[u8]) -> Result<Value> {
    let (out, token) = elements(element, state_backed, input)?;
    Ok(Value::Iterable(out, token))
}

fn map(key: &Coder, value: &Coder, input: &mut &[u8]) -> Result<Value> {
    let count = u64::try_from(wire::int32(input)?).map_err(|_| negative())?;
    if count > (input.len() as u64).max(MAX_EMPTY_ELEMENTS) {
        return Err(wire::cut_short());
    }
    let entries = (0..count).map(|_| Ok((decode(key, input, true)?, decode(value, input, true)?)));
    Ok(Value::Map(entries.collect::<Result<_>>()?))
}

fn windowed(
    value: &Coder,
    window: &Coder,
    constant: Option<&Bytes>,
    input: &mut &[u8],
    nested: bool,
) -> Result<Value> {
    let header = |input: &mut &[u8]| -> Result<_> {
        Ok((time::read(input)?, elements(window, false, input)?.0, Pane::read(input)?))
    };
    let (timestamp_millis, windows, pane) = match constant {
        Some(constant) => header(&mut constant.as_ref())?,
        None => header(input)?,
    };
    let value = decode(value, input, nested)?;
    Ok(Value::Windowed(Box::new(Windowed { timestamp_millis, windows, pane, value })))
}

fn timer(key: &Coder, window: &Coder, input: &mut &[u8]) -> Result<Value> {
    let key = decode(key, input, true)?;
    let tag = text(wire::prefixed(input)?)?;
    let (windows, _) = elements(window, false, input)?;
    let set = match wire::bool(input)? {
        true => None,
        false => Some((time::read(input)?, time::read(input)?, Pane::read(input)?)),
    };
    Ok(Value::Timer(Box::new(Timer { key, tag, windows, set })))
}

fn row(row: &Row, input: &mut &[u8]) -> Result<Value> {
    let count = wire::varint(input)?;
    let absent = wire::prefixed(input)?;
    if count > row.fields.len() as u64 {
        return Err(wire::malformed("a row has more fields than its schema"));
    }
    let mut values = vec![Value::Null; row.fields.len()];
    for &index in row.order.iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if let (Some(field), Some(place), false) =
            (row.fields.get(index), values.get_mut(index), is_absent(absent, index))
        {
            *place = decode(&field.coder, input, true)?;
        }
    }
    Ok(Value::Row(values))
}

/// Appends an element.
///
/// # Errors
/// `InvalidArgument`: the value is not one of the coder's.
pub fn encode(coder: &Coder, value: &Value, nested: bool, out: &mut Vec<u8>) -> Result<()> {
    match (&coder.kind, value) {
        (Kind::Bytes, Value::Bytes(bytes)) => put_delimited(out, bytes, nested),
        (Kind::StringUtf8, Value::String(text)) => put_delimited(out, text.as_bytes(), nested),
        (Kind::Bool, Value::Bool(value)) => out.put_u8(u8::from(*value)),
        (Kind::VarInt, Value::Int(value)) => wire::put_varint(out, value.cast_unsigned()),
        (Kind::VarInt32, Value::Int(value)) => {
            wire::put_varint(out, i32::try_from(*value).map_err(|_| misfit())?.cast_unsigned().into());
        }
        (Kind::Int16, Value::Int(value)) => out.put_i16(i16::try_from(*value).map_err(|_| misfit())?),
        (Kind::Byte, Value::Int(value)) => out.put_i8(i8::try_from(*value).map_err(|_| misfit())?),
        (Kind::Double, Value::Double(value)) => out.put_f64(*value),
        (Kind::Float, Value::Float(value)) => out.put_f32(*value),
        (Kind::Instant, Value::Instant(millis)) => time::put(out, *millis),
        (Kind::Decimal, Value::Decimal { scale, unscaled }) => {
            wire::put_varint(out, scale.cast_unsigned());
            put_delimited(out, unscaled, nested);
        }
        (Kind::Kv(key_coder, value_coder), Value::Kv(key, value)) => {
            encode(key_coder, key, true, out)?;
            encode(value_coder, value, nested, out)?;
        }
        (Kind::Iterable(element), Value::Iterable(values, None)) => put_elements(element, values, out)?,
        (Kind::StateBackedIterable(element), Value::Iterable(values, None)) => {
            put_elements(element, values, out)?
        }
        (Kind::StateBackedIterable(element), Value::Iterable(values, Some(token))) => {
            out.put_i32(-1);
            if !values.is_empty() {
                wire::put_varint(out, values.len() as u64);
                values.iter().try_for_each(|value| encode(element, value, true, out))?;
            }
            wire::put_varint(out, u64::MAX);
            wire::put_prefixed(out, token);
        }
        (Kind::Map(key_coder, value_coder), Value::Map(entries)) => {
            out.put_i32(wire::count(entries.len())?);
            for (key, value) in entries {
                encode(key_coder, key, true, out)?;
                encode(value_coder, value, true, out)?;
            }
        }
        (Kind::IntervalWindow, Value::IntervalWindow(window)) => out.put_slice(&window.encode()),
        (Kind::GlobalWindow, Value::GlobalWindow) => {}
        (Kind::CustomWindow(window), Value::CustomWindow(last, value)) => {
            time::put(out, *last);
            encode(window, value, nested, out)?;
        }
        (Kind::LengthPrefix(inner), value) => {
            let mut element = Vec::new();
            encode(inner, value, false, &mut element)?;
            wire::put_prefixed(out, &element);
        }
        (Kind::WindowedValue { value: value_coder, window }, Value::Windowed(windowed)) => {
            time::put(out, windowed.timestamp_millis);
            put_elements(window, &windowed.windows, out)?;
            windowed.pane.write(out);
            encode(value_coder, &windowed.value, nested, out)?;
        }
        (Kind::ParamWindowedValue { value: value_coder, .. }, Value::Windowed(windowed)) => {
            encode(value_coder, &windowed.value, nested, out)?;
        }
        (Kind::Timer { key, window }, Value::Timer(timer)) => {
            encode(key, &timer.key, true, out)?;
            wire::put_prefixed(out, timer.tag.as_bytes());
            put_elements(window, &timer.windows, out)?;
            out.put_u8(u8::from(timer.set.is_none()));
            if let Some((fire, hold, pane)) = &timer.set {
                time::put(out, *fire);
                time::put(out, *hold);
                pane.write(out);
            }
        }
        (Kind::Row(fields), Value::Row(values)) => put_row(fields, values, out)?,
        (Kind::ShardedKey(key_coder), Value::ShardedKey(shard, key)) => {
            wire::put_prefixed(out, shard);
            encode(key_coder, key, true, out)?;
        }
        (Kind::Nullable(_), Value::Null) => out.put_u8(0),
        (Kind::Nullable(inner), value) => {
            out.put_u8(1);
            encode(inner, value, nested, out)?;
        }
        (Kind::Opaque { .. }, Value::Bytes(bytes)) if !nested => out.put_slice(bytes),
        _ => return Err(misfit()),
    }
    Ok(())
}

fn misfit() -> Error {
    Error::invalid("a value does not fit its coder")
}

fn put_delimited(out: &mut Vec<u8>, bytes: &[u8], nested: bool) {
    if nested {
        wire::put_prefixed(out, bytes);
    } else {
        out.put_slice(bytes);
    }
}

fn put_elements(element: &Coder, values: &[Value], out: &mut Vec<u8>) -> Result<()> {
    out.put_i32(wire::count(values.len())?);
    values.iter().try_for_each(|value| encode(element, value, true, out))
}

fn put_row(row: &Row, values: &[Value], out: &mut Vec<u8>) -> Result<()> {
    if values.len() != row.fields.len() {
        return Err(misfit());
    }
    wire::put_varint(out, values.len() as u64);
    let mut absent = vec![0u8; values.len().div_ceil(8)];
    for (index, value) in values.iter().enumerate() {
        if let (Value::Null, Some(byte)) = (value, absent.get_mut(index / 8)) {
            *byte |= 1 << (index % 8);
        }
    }
    let any = absent.iter().any(|&byte| byte != 0);
    wire::put_prefixed(out, if any { &absent } else { &[] });
    for &index in &row.order {
        match (row.fields.get(index), values.get(index)) {
            (Some(field), Some(Value::Null)) if field.nullable => {}
            (Some(field), Some(value)) => encode(&field.coder, value, true, out)?,
            _ => return Err(misfit()),
        }
    }
    Ok(())
}
