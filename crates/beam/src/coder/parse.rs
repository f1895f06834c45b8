//! From a pipeline's components to coders.
//!
//! Invariant: the message may name coders in any way, cycles included; what comes out is within the limits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};
use pipeline::field_type::TypeInfo;
use prost::Message;

use super::{Coder, Field, Kind, MAX_DEPTH, MAX_NODES, Row};
use crate::urn::{coder as urns, logical_type};
use crate::windowed::HeaderRef;

pub(super) struct Parser<'a> {
    components: &'a pipeline::Components,
    done: BTreeMap<&'a str, Arc<Coder>>,
    open: BTreeSet<&'a str>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(components: &'a pipeline::Components) -> Self {
        Self { components, done: BTreeMap::new(), open: BTreeSet::new() }
    }

    pub(super) fn coder(&mut self, id: &str) -> Result<Arc<Coder>> {
        if let Some(coder) = self.done.get(id) {
            return Ok(Arc::clone(coder));
        }
        let (id, message) =
            self.components.coders.get_key_value(id).ok_or_else(|| {
                Error::invalid(format!("coder {id} is not among the pipeline's components"))
            })?;
        if self.open.len() >= MAX_DEPTH || !self.open.insert(id) {
            return Err(Error::invalid(format!("coder {id} is inside itself or nested too deeply")));
        }
        let spec = message.spec.as_ref();
        let urn = spec.map_or("", |spec| spec.urn.as_str());
        let parts = Parts { id, urn, ids: &message.component_coder_ids };
        let kind = self.kind(&parts, spec.map(|spec| &spec.payload))?;
        let coder =
            Coder::new(kind).ok_or_else(|| Error::invalid(format!("coder {id} has too many components")))?;
        self.open.remove(id.as_str());
        self.done.insert(id, Arc::clone(&coder));
        Ok(coder)
    }

    fn kind(&mut self, parts: &Parts<'_>, payload: Option<&bytes::Bytes>) -> Result<Kind> {
        Ok(match parts.urn {
            urns::BYTES => Kind::Bytes,
            urns::STRING_UTF8 => Kind::StringUtf8,
            urns::BOOL => Kind::Bool,
            urns::VARINT => Kind::VarInt,
            urns::DOUBLE => Kind::Double,
            urns::INTERVAL_WINDOW => Kind::IntervalWindow,
            urns::GLOBAL_WINDOW => Kind::GlobalWindow,
            urns::ITERABLE => Kind::Iterable(self.one(parts)?),
            urns::STATE_BACKED_ITERABLE => Kind::StateBackedIterable(self.one(parts)?),
            urns::LENGTH_PREFIX => Kind::LengthPrefix(self.one(parts)?),
            urns::CUSTOM_WINDOW => Kind::CustomWindow(self.one(parts)?),
            urns::SHARDED_KEY => Kind::ShardedKey(self.one(parts)?),
            urns::NULLABLE => Kind::Nullable(self.one(parts)?),
            urns::KV => {
                let (key, value) = self.two(parts)?;
                Kind::Kv(key, value)
            }
            urns::TIMER => {
                let (key, window) = self.two(parts)?;
                Kind::Timer { key, window }
            }
            urns::WINDOWED_VALUE => {
                let (value, window) = self.two(parts)?;
                Kind::WindowedValue { value, window }
            }
            urns::PARAM_WINDOWED_VALUE => {
                let (value, window) = self.two(parts)?;
                let header = payload.cloned().unwrap_or_default();
                HeaderRef::read(&window, &mut header.as_ref()).map_err(|error| {
                    parts.error("has a payload that is not time, windows and pane").because(error)
                })?;
                Kind::ParamWindowedValue { value, window, header }
            }
            urns::ROW => {
                let schema = payload.map_or(&[][..], |payload| payload.as_ref());
                let schema = pipeline::Schema::decode(schema)
                    .map_err(|error| parts.error("has a payload that is not a schema").because(error))?;
                Kind::Row(row(&schema, 0)?)
            }
            urn => Kind::Opaque { urn: urn.to_owned() },
        })
    }

    fn one(&mut self, parts: &Parts<'_>) -> Result<Arc<Coder>> {
        let [component] = parts.ids else { return Err(parts.error("has not one component")) };
        self.coder(component)
    }

    fn two(&mut self, parts: &Parts<'_>) -> Result<(Arc<Coder>, Arc<Coder>)> {
        let [first, second] = parts.ids else { return Err(parts.error("has not two components")) };
        Ok((self.coder(first)?, self.coder(second)?))
    }
}

/// A coder's message, as errors and components need it.
struct Parts<'a> {
    id: &'a str,
    urn: &'a str,
    ids: &'a [String],
}

impl Parts<'_> {
    fn error(&self, what: &str) -> Error {
        Error::invalid(format!("coder {} ({}) {what}", self.id, self.urn))
    }
}

fn row(schema: &pipeline::Schema, depth: usize) -> Result<Row> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid("a schema is nested too deeply"));
    }
    let mut fields = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let missing = || Error::invalid(format!("field {} of a schema has no type", field.name));
        let kind = field.r#type.as_ref().ok_or_else(missing)?;
        fields.push(Field {
            name: field.name.clone(),
            nullable: kind.nullable,
            coder: present(kind, depth + 1)?,
        });
    }
    let mut order: Vec<usize> = (0..fields.len()).collect();
    if schema.encoding_positions_set {
        let place = |&index: &usize| schema.fields.get(index).map(|field| field.encoding_position);
        order.sort_by_key(place);
        if order.windows(2).any(|pair| matches!(pair, [a, b] if place(a) == place(b))) {
            return Err(Error::invalid("two fields of a schema have the same encoding position"));
        }
    }
    Ok(Row { fields, order })
}

/// The coder of a field's type, a null being said elsewhere.
fn present(kind: &pipeline::FieldType, depth: usize) -> Result<Arc<Coder>> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid("a schema is nested too deeply"));
    }
    let unknown = || Error::invalid("a schema has a field of an unknown type");
    let element = |kind: Option<&pipeline::FieldType>| nullable(kind.ok_or_else(unknown)?, depth + 1);
    let kind = match kind.type_info.as_ref().ok_or_else(unknown)? {
        TypeInfo::AtomicType(atomic) => {
            match pipeline::AtomicType::try_from(*atomic).map_err(|_| unknown())? {
                pipeline::AtomicType::Unspecified => return Err(unknown()),
                pipeline::AtomicType::Byte => Kind::Byte,
                pipeline::AtomicType::Int16 => Kind::Int16,
                pipeline::AtomicType::Int32 => Kind::VarInt32,
                pipeline::AtomicType::Int64 => Kind::VarInt,
                pipeline::AtomicType::Float => Kind::Float,
                pipeline::AtomicType::Double => Kind::Double,
                pipeline::AtomicType::String => Kind::StringUtf8,
                pipeline::AtomicType::Boolean => Kind::Bool,
                pipeline::AtomicType::Bytes => Kind::Bytes,
            }
        }
        TypeInfo::ArrayType(array) => Kind::Iterable(element(array.element_type.as_deref())?),
        TypeInfo::IterableType(array) => Kind::Iterable(element(array.element_type.as_deref())?),
        TypeInfo::MapType(map) => {
            Kind::Map(element(map.key_type.as_deref())?, element(map.value_type.as_deref())?)
        }
        TypeInfo::RowType(inner) => Kind::Row(row(inner.schema.as_ref().ok_or_else(unknown)?, depth + 1)?),
        TypeInfo::LogicalType(logical) => match logical.urn.as_str() {
            logical_type::MILLIS_INSTANT => Kind::Instant,
            logical_type::DECIMAL => Kind::Decimal,
            logical_type::MICROS_INSTANT
            | logical_type::TIMESTAMP
            | logical_type::DATE
            | logical_type::FIXED_BYTES
            | logical_type::VAR_BYTES
            | logical_type::FIXED_CHAR
            | logical_type::VAR_CHAR
            | logical_type::PYTHON_CALLABLE => return element(logical.representation.as_deref()),
            // An SDK may encode its own types as it likes.
            urn => Kind::Opaque { urn: urn.to_owned() },
        },
    };
    Coder::new(kind).ok_or_else(|| Error::invalid("a schema has too many fields"))
}

fn nullable(kind: &pipeline::FieldType, depth: usize) -> Result<Arc<Coder>> {
    let coder = present(kind, depth)?;
    if !kind.nullable {
        return Ok(coder);
    }
    Coder::new(Kind::Nullable(coder)).ok_or_else(|| Error::invalid("a schema has too many fields"))
}

impl Coder {
    /// `None`: past a limit.
    pub(crate) fn new(kind: Kind) -> Option<Arc<Self>> {
        let (mut depth, mut nodes) = (0, 1usize);
        kind.components(&mut |part| {
            depth = depth.max(part.depth);
            nodes = nodes.saturating_add(part.nodes);
        });
        if depth >= MAX_DEPTH || nodes > MAX_NODES {
            return None;
        }
        let (width, walkable) = (kind.width(), kind.walkable());
        Some(Arc::new(Self { kind, width, walkable, depth: depth + 1, nodes }))
    }
}

impl Kind {
    fn components(&self, visit: &mut dyn FnMut(&Coder)) {
        match self {
            Self::Kv(first, second)
            | Self::Map(first, second)
            | Self::Timer { key: first, window: second }
            | Self::WindowedValue { value: first, window: second }
            | Self::ParamWindowedValue { value: first, window: second, .. } => {
                visit(first);
                visit(second);
            }
            Self::Iterable(inner)
            | Self::StateBackedIterable(inner)
            | Self::CustomWindow(inner)
            | Self::LengthPrefix(inner)
            | Self::ShardedKey(inner)
            | Self::Nullable(inner) => visit(inner),
            Self::Row(row) => row.fields.iter().for_each(|field| visit(&field.coder)),
            _ => {}
        }
    }

    fn width(&self) -> Option<usize> {
        match self {
            Self::Bool | Self::Byte => Some(1),
            Self::Int16 => Some(2),
            Self::Float => Some(4),
            Self::Double | Self::Instant => Some(8),
            Self::GlobalWindow => Some(0),
            Self::Kv(key, value) => key.width?.checked_add(value.width?),
            Self::CustomWindow(window) => window.width?.checked_add(8),
            Self::ParamWindowedValue { value, .. } => value.width,
            _ => None,
        }
    }

    fn walkable(&self) -> bool {
        match self {
            Self::Opaque { .. } => false,
            Self::LengthPrefix(_) => true,
            Self::Row(row) => row.walkable(),
            _ => {
                let mut walkable = true;
                self.components(&mut |part| walkable &= part.walkable);
                walkable
            }
        }
    }
}
