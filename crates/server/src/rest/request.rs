//! The request message of a call, put together from the path, the query and the JSON body.
//!
//! Invariant: any bytes give a message or an `InvalidArgument` that names the field, never a panic. What the
//! path binds stands above what query and body say of the same field.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use claviger_core::{Error, Result};
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::routes::{BodyTarget, Route};
use super::template::{Decode, decode};

/// How the reply is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Enums as numbers in place of names.
    pub(super) enum_numbers: bool,
}

/// What the query of a request says.
pub(super) struct Query {
    pub(super) style: Style,
    /// Names and values that are fields of the request.
    fields: Vec<(String, String)>,
}

/// Names in a query that are about the call and not fields of the request. They are taken and ignored.
const SYSTEM: [&str; 16] = [
    "key",
    "fields",
    "prettyPrint",
    "quotaUser",
    "userIp",
    "callback",
    "access_token",
    "oauth_token",
    "uploadType",
    "upload_protocol",
    "trace",
    "$fields",
    "$prettyPrint",
    "$.xgafv",
    "$key",
    "$quotaUser",
];

impl Query {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// `InvalidArgument`: not percent-encoded UTF-8, or a form of reply that is not offered.
    pub(super) fn parse(query: &str) -> Result<Self> {
        let mut parsed = Self { style: Style::default(), fields: Vec::new() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name, Decode::Query), decode(value, Decode::Query))
            else {
                return Err(Error::invalid("The query is not percent-encoded UTF-8."));
            };
            match name.as_str() {
                "alt" | "$alt" => parsed.alt(&value)?,
                name if SYSTEM.contains(&name) => {}
                _ => parsed.fields.push((name, value)),
            }
        }
        Ok(parsed)
    }

    /// Reads the form of the reply, as `json;enum-encoding=int`.
    fn alt(&mut self, value: &str) -> Result<()> {
        let mut parts = value.split(';');
        let form = parts.next().unwrap_or_default();
        if !form.eq_ignore_ascii_case("json") && !form.is_empty() {
            return Err(Error::invalid_field("alt", format!("only json is offered, not {form}.")));
        }
        for part in parts {
            match part {
                "enum-encoding=int" => self.style.enum_numbers = true,
                "enum-encoding=string" | "" => {}
                other => return Err(Error::invalid_field("alt", format!("{other} is not offered."))),
            }
        }
        Ok(())
    }
}

/// Puts the request message together.
///
/// # Errors
/// `InvalidArgument`, with the field where it is known.
pub(super) fn build(route: &Route, texts: Vec<String>, query: &Query, body: &[u8]) -> Result<DynamicMessage> {
    let mut request = match &route.body {
        BodyTarget::Nothing => {
            // Clients send `{}` along with verbs that take nothing.
            parse(&route.input, body, "").ok().filter(|sent| sent.fields().next().is_none()).ok_or_else(
                || Error::invalid("This method takes no body: its arguments go into the path and the query."),
            )?
        }
        BodyTarget::Whole => parse(&route.input, body, "")?,
        BodyTarget::Field(field, message) => {
            let mut request = DynamicMessage::new(route.input.clone());
            if !body.iter().all(u8::is_ascii_whitespace) {
                let sent = parse(message, body, field.json_name())?;
                request.set_field(field, Value::Message(sent));
            }
            request
        }
    };
    for (name, value) in &query.fields {
        set_by_name(&mut request, name, value)?;
    }
    for (way, text) in route.bound.iter().zip(texts) {
        if let Some((last, owners)) = way.split_last() {
            let slot = owners
                .iter()
                .try_fold(&mut request, |message, owner| message.get_field_mut(owner).as_message_mut());
            if let Some(slot) = slot {
                slot.set_field(last, Value::String(text));
            }
        }
    }
    Ok(request)
}

/// Reads a message in JSON. Nothing at all is an empty message.
fn parse(message: &MessageDescriptor, body: &[u8], within: &str) -> Result<DynamicMessage> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(DynamicMessage::new(message.clone()));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let parsed =
        DynamicMessage::deserialize_with_options(message.clone(), tracked, &DeserializeOptions::new());
    parsed.and_then(|parsed| json.end().map(|()| parsed)).map_err(|why| {
        let why = why.to_string();
        let path = place(&track.path());
        // The path of a name that is not known ends at its owner; the name itself is in the error only.
        let name = why.strip_prefix("unrecognized field name '").and_then(|rest| rest.split('\'').next());
        let parts = [Some(within), Some(path.as_str()), name];
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let why = format!("Invalid JSON payload: {why}.");
        if parts.is_empty() { Error::invalid(why) } else { Error::invalid_field(parts.join("."), why) }
    })
}

/// A place in JSON as the path of a field, as far as it is known: `mutations[1].setCell`.
fn place(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut place = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => place.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if !place.is_empty() {
                    place.push('.');
                }
                place.push_str(name);
            }
            Segment::Unknown => break,
        }
    }
    place
}

/// Sets a field by its path in a query, as `options.requestedPolicyVersion`.
fn set_by_name(request: &mut DynamicMessage, name: &str, text: &str) -> Result<()> {
    let unknown = || Error::invalid_field(name, "Unknown name: there is no such field to bind the query to.");
    let mut owner = request;
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let message = owner_descriptor(owner);
        let field = message
            .get_field_by_json_name(part)
            .or_else(|| message.get_field_by_name(part))
            .filter(|field| !field.is_map())
            .ok_or_else(unknown)?;
        if parts.peek().is_none() {
            let value = scalar(&field.kind(), text).map_err(|why| Error::invalid_field(name, why))?;
            return set(owner, &field, value);
        }
        if field.is_list() {
            return Err(unknown());
        }
        owner = match field.kind() {
            Kind::Message(_) => owner.get_field_mut(&field).as_message_mut().ok_or_else(unknown)?,
            _ => return Err(unknown()),
        };
    }
    Err(unknown())
}

/// The type of a message.
fn owner_descriptor(message: &DynamicMessage) -> MessageDescriptor {
    use prost_reflect::ReflectMessage;
    message.descriptor()
}

/// Sets a field, or adds to it when it is repeated.
fn set(owner: &mut DynamicMessage, field: &FieldDescriptor, value: Value) -> Result<()> {
    if field.is_list() {
        if let Some(list) = owner.get_field_mut(field).as_list_mut() {
            list.push(value);
        }
        return Ok(());
    }
    owner
        .try_set_field(field, value)
        .map_err(|_| Error::invalid_field(field.json_name(), "The value does not fit the field."))
}

/// Reads a value as it stands in a query.
fn scalar(kind: &Kind, text: &str) -> std::result::Result<Value, String> {
    let wrong = |what: &str| format!("Invalid value: it is to be {what}.");
    Ok(match kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => match text {
            "true" | "True" | "1" => Value::Bool(true),
            "false" | "False" | "0" => Value::Bool(false),
            _ => return Err(wrong("true or false")),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(text.parse().map_err(|_| wrong("a 32-bit integer"))?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(text.parse().map_err(|_| wrong("a 64-bit integer"))?)
        }
        Kind::Uint32 | Kind::Fixed32 => {
            Value::U32(text.parse().map_err(|_| wrong("a 32-bit unsigned integer"))?)
        }
        Kind::Uint64 | Kind::Fixed64 => {
            Value::U64(text.parse().map_err(|_| wrong("a 64-bit unsigned integer"))?)
        }
        Kind::Float => Value::F32(text.parse().map_err(|_| wrong("a number"))?),
        Kind::Double => Value::F64(text.parse().map_err(|_| wrong("a number"))?),
        Kind::Bytes => Value::Bytes(base64(text).ok_or_else(|| wrong("base64"))?.into()),
        Kind::Enum(names) => {
            let number = match names.get_value_by_name(text) {
                Some(value) => value.number(),
                None => {
                    text.parse().map_err(|_| wrong(&format!("a name or a number of {}", names.name())))?
                }
            };
            Value::EnumNumber(number)
        }
        Kind::Message(message) => Value::Message(well_known(message, text)?),
    })
}

/// Reads a message that has a form as one word: a timestamp, a duration, a mask or a wrapper.
fn well_known(message: &MessageDescriptor, text: &str) -> std::result::Result<DynamicMessage, String> {
    match message.full_name() {
        "google.protobuf.FieldMask" => {
            let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
            let mut mask = DynamicMessage::new(message.clone());
            mask.try_set_field_by_name(
                "paths",
                Value::List(paths.map(|path| Value::String(snake(path))).collect()),
            )
            .map_err(|_| "Invalid value: it is to be a field mask.".to_owned())?;
            Ok(mask)
        }
        "google.protobuf.Timestamp" | "google.protobuf.Duration" => {
            let word = serde_json::Value::String(text.to_owned());
            DynamicMessage::deserialize(message.clone(), word).map_err(|why| format!("Invalid value: {why}."))
        }
        name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
            let field = message
                .get_field_by_name("value")
                .ok_or_else(|| format!("A {name} has no form in a query: send it in the body."))?;
            let mut wrapper = DynamicMessage::new(message.clone());
            wrapper
                .try_set_field(&field, scalar(&field.kind(), text)?)
                .map_err(|_| "Invalid value: it does not fit the field.".to_owned())?;
            Ok(wrapper)
        }
        name => Err(format!("It is a message, {name}: name its fields, as in a.b=c.")),
    }
}

/// The proto name of a path of JSON names: `rotationPeriod` becomes `rotation_period`.
fn snake(path: &str) -> String {
    let mut snake = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Decodes base64 in either alphabet, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    // A plus that was not percent-encoded has become a blank on its way.
    let text = text.replace(' ', "+");
    STANDARD.decode(&text).or_else(|_| URL_SAFE.decode(&text)).ok()
}

#[cfg(test)]
mod tests;
