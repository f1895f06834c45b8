//! Coders: how far an element reaches, and, for tests and tools, what it says.
//!
//! A runner moves elements as bytes. What it must know is where one ends and the next begins; that is
//! [`Coder::skip`]. Coders of the SDK's own are [`Kind::Opaque`]: they cannot be walked, so pipelines put them
//! behind a length.
//!
//! Invariant: a coder is a tree of bounded depth and size, whatever the message says, and skipping costs no more
//! than the bytes skipped times that depth.

mod parse;
mod skip;
#[cfg(test)]
mod standard;
#[cfg(test)]
mod tests;
pub mod value;

use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::pipeline;
use claviger_core::Result;

/// How deep coders may nest.
pub const MAX_DEPTH: usize = 64;
/// How many coders one may consist of, each counted where it is used.
pub const MAX_NODES: usize = 1 << 14;

/// A coder of a pipeline.
#[derive(Debug)]
pub struct Coder {
    kind: Kind,
    width: Option<usize>,
    walkable: bool,
    depth: usize,
    nodes: usize,
}

/// What a coder encodes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Bytes.
    Bytes,
    /// Text.
    StringUtf8,
    /// A truth value.
    Bool,
    /// A 64-bit integer of variable length.
    VarInt,
    /// A 32-bit integer of variable length, inside rows.
    VarInt32,
    /// A 64-bit floating-point number.
    Double,
    /// A 32-bit floating-point number, inside rows.
    Float,
    /// A 16-bit integer, inside rows.
    Int16,
    /// An 8-bit integer, inside rows.
    Byte,
    /// A time in milliseconds, inside rows.
    Instant,
    /// A decimal number, inside rows.
    Decimal,
    /// A key and a value.
    Kv(Arc<Coder>, Arc<Coder>),
    /// Any number of elements.
    Iterable(Arc<Coder>),
    /// Any number of elements, the rest perhaps behind a token.
    StateBackedIterable(Arc<Coder>),
    /// Keys and values, inside rows.
    Map(Arc<Coder>, Arc<Coder>),
    /// A timer.
    Timer {
        /// Of the user's key.
        key: Arc<Coder>,
        /// Of the windows.
        window: Arc<Coder>,
    },
    /// A window with a start and an end.
    IntervalWindow,
    /// The window without an end.
    GlobalWindow,
    /// A window of a user's type behind its last time.
    CustomWindow(Arc<Coder>),
    /// A length, then the element in the outer context.
    LengthPrefix(Arc<Coder>),
    /// A value with time, windows and pane.
    WindowedValue {
        /// Of the value.
        value: Arc<Coder>,
        /// Of the windows.
        window: Arc<Coder>,
    },
    /// A value whose time, windows and pane are always the same.
    ParamWindowedValue {
        /// Of the value.
        value: Arc<Coder>,
        /// Of the windows.
        window: Arc<Coder>,
        /// An encoded [`crate::windowed::Header`].
        header: Bytes,
    },
    /// A row.
    Row(Row),
    /// A key with a shard.
    ShardedKey(Arc<Coder>),
    /// A value or none.
    Nullable(Arc<Coder>),
    /// A coder that only the SDK knows.
    Opaque {
        /// Its name.
        urn: String,
    },
}

/// The fields of a schema.
#[derive(Debug)]
pub struct Row {
    /// In the schema's order.
    fields: Vec<Field>,
    /// Positions in `fields`, in the order of the encoding.
    order: Vec<usize>,
}

/// A field of a schema.
#[derive(Debug)]
struct Field {
    name: String,
    nullable: bool,
    coder: Arc<Coder>,
}

impl Row {
    /// The fields' names, in the schema's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    fn walkable(&self) -> bool {
        // SDKs do not agree whether the bits of absent fields follow the schema's order or the encoding's.
        let in_order = self.order.iter().copied().eq(0..self.fields.len());
        let nullable = self.fields.iter().any(|field| field.nullable);
        (in_order || !nullable) && self.fields.iter().all(|field| field.coder.walkable)
    }
}

impl Coder {
    /// The coder of an id.
    ///
    /// # Errors
    /// `InvalidArgument`: an id that is not there, a wrong number of components, a payload that cannot be read, a
    /// coder inside itself, or more than [`MAX_DEPTH`] or [`MAX_NODES`].
    pub fn from_components(id: &str, components: &pipeline::Components) -> Result<Arc<Self>> {
        parse::Parser::new(components).coder(id)
    }

    /// What it encodes.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The number of bytes of each element, where that is always the same.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether elements in the nested context delimit themselves: no opaque coder outside of a length.
    #[must_use]
    pub fn is_walkable(&self) -> bool {
        self.walkable
    }

    /// Moves past one element in the nested context.
    ///
    /// # Errors
    /// `InvalidArgument`: the bytes are not such an element, or the coder is not walkable. Where `input` stands
    /// then is not said.
    #[inline]
    pub fn skip(&self, input: &mut &[u8]) -> Result<()> {
        skip::skip(self, input)
    }

    /// Takes the bytes of one element in the nested context.
    ///
    /// # Errors
    /// As [`Coder::skip`].
    #[inline]
    pub fn take<'a>(&self, input: &mut &'a [u8]) -> Result<&'a [u8]> {
        let whole = *input;
        self.skip(input)?;
        Ok(whole.split_at_checked(whole.len() - input.len()).map_or(whole, |(element, _)| element))
    }

    /// A key's and a value's coders, behind time and windows or bare.
    #[must_use]
    pub fn key_value(&self) -> Option<(&Arc<Self>, &Arc<Self>)> {
        match &self.kind {
            Kind::Kv(key, value) => Some((key, value)),
            Kind::WindowedValue { value, .. } | Kind::ParamWindowedValue { value, .. } => value.key_value(),
            _ => None,
        }
    }
}
