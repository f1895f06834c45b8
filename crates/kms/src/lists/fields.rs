//! The fields of what is listed, by their names in the API's JSON.
//!
//! Invariant: a field that is in a schema can be asked of each thing of its kind; one that is not set is missing.

use std::time::Duration;

use claviger_core::Timestamp;

use crate::external::EkmConnection;
use crate::model::{CryptoKeyVersion, ImportJob, KeyRing, KeyView};

/// What kind of values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The full name of a resource.
    Name,
    /// Text, or a value of an enumeration by its name.
    Text,
    /// A point in time; its number is in microseconds.
    Time,
    /// A length of time; its number is in microseconds.
    Span,
    /// True or false; its number is 1 or 0.
    Flag,
    /// Texts by their keys.
    Map,
}

/// The fields of a kind of things.
pub(crate) type Fields = &'static [(&'static str, Kind)];

/// The value of a field. What is missing comes before all else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// Not set.
    Missing,
    /// A text.
    Text(String),
    /// A number; see [`Kind`].
    Number(i128),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Number(i128::from(flag))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Number(i128::from(time.micros()))
    }
}

impl From<Duration> for Value {
    fn from(span: Duration) -> Self {
        Self::Number(i128::try_from(span.as_micros()).unwrap_or(i128::MAX))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// Something with fields.
pub(crate) trait Listed {
    /// Its fields.
    const FIELDS: Fields;

    /// The value of one of its fields; with a key for a field that is a map.
    fn field(&self, name: &str, key: &str) -> Value;
}

/// A field, and the key in it when it is a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldName {
    name: &'static str,
    pub(super) kind: Kind,
    key: String,
}

impl FieldName {
    /// The field of a name as users write it: `create_time` is `createTime`.
    pub(super) fn find(text: &str, fields: Fields) -> Option<Self> {
        fields.iter().find_map(|(name, kind)| {
            if *kind == Kind::Map {
                let key = text.strip_prefix(name)?.strip_prefix('.')?;
                return (!key.is_empty()).then(|| Self { name, kind: *kind, key: key.to_owned() });
            }
            (camel_case(text) == *name).then(|| Self { name, kind: *kind, key: String::new() })
        })
    }

    /// Whether this is the name that lists are ordered by anyway.
    pub(super) fn is_name(&self) -> bool {
        self.name == "name"
    }

    pub(super) fn of(&self, thing: &impl Listed) -> Value {
        thing.field(self.name, &self.key)
    }
}

fn camel_case(text: &str) -> String {
    let mut camel = String::with_capacity(text.len());
    let mut raise = false;
    for c in text.chars() {
        match c {
            '_' => raise = true,
            c if raise => {
                camel.push(c.to_ascii_uppercase());
                raise = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

const SOFTWARE: &str = "SOFTWARE";

impl Listed for KeyRing {
    const FIELDS: Fields = &[("name", Kind::Name), ("createTime", Kind::Time)];

    fn field(&self, name: &str, _: &str) -> Value {
        match name {
            "name" => self.name.as_str().into(),
            "createTime" => self.create_time.into(),
            _ => Value::Missing,
        }
    }
}

impl Listed for KeyView {
    const FIELDS: Fields = &[
        ("name", Kind::Name),
        ("purpose", Kind::Text),
        ("createTime", Kind::Time),
        ("nextRotationTime", Kind::Time),
        ("rotationPeriod", Kind::Span),
        ("versionTemplate.protectionLevel", Kind::Text),
        ("versionTemplate.algorithm", Kind::Text),
        ("labels", Kind::Map),
        ("importOnly", Kind::Flag),
        ("destroyScheduledDuration", Kind::Span),
        ("primary.name", Kind::Name),
        ("primary.state", Kind::Text),
        ("primary.protectionLevel", Kind::Text),
        ("primary.algorithm", Kind::Text),
        ("primary.createTime", Kind::Time),
        ("primary.generateTime", Kind::Time),
        ("primary.destroyTime", Kind::Time),
        ("primary.destroyEventTime", Kind::Time),
        ("primary.importJob", Kind::Name),
        ("primary.importTime", Kind::Time),
        ("primary.importFailureReason", Kind::Text),
        ("primary.reimportEligible", Kind::Flag),
    ];

    fn field(&self, name: &str, key: &str) -> Value {
        match name {
            "name" => self.key.name.as_str().into(),
            "purpose" => "ENCRYPT_DECRYPT".into(),
            "createTime" => self.key.create_time.into(),
            "nextRotationTime" => self.key.next_rotation_time.into(),
            "rotationPeriod" => self.key.rotation_period.into(),
            "versionTemplate.protectionLevel" => self.key.protection.as_str().into(),
            "versionTemplate.algorithm" => self.key.algorithm().as_str().into(),
            "labels" => self.key.labels.get(key).map(String::as_str).into(),
            "importOnly" => self.key.import_only.into(),
            "destroyScheduledDuration" => self.key.destroy_scheduled_duration.into(),
            _ => match (&self.primary, name.strip_prefix("primary.")) {
                (Some(primary), Some(name)) => primary.field(name, key),
                _ => Value::Missing,
            },
        }
    }
}

impl Listed for CryptoKeyVersion {
    const FIELDS: Fields = &[
        ("name", Kind::Name),
        ("state", Kind::Text),
        ("protectionLevel", Kind::Text),
        ("algorithm", Kind::Text),
        ("createTime", Kind::Time),
        ("generateTime", Kind::Time),
        ("destroyTime", Kind::Time),
        ("destroyEventTime", Kind::Time),
        ("importJob", Kind::Name),
        ("importTime", Kind::Time),
        ("importFailureReason", Kind::Text),
        ("reimportEligible", Kind::Flag),
    ];

    fn field(&self, name: &str, _: &str) -> Value {
        let import = self.import.as_ref();
        match name {
            "name" => self.name.as_str().into(),
            "state" => self.state.as_str().into(),
            "protectionLevel" => self.protection().as_str().into(),
            "algorithm" => self.algorithm().as_str().into(),
            "createTime" => self.create_time.into(),
            "generateTime" => import.is_none().then_some(self.create_time).into(),
            "destroyTime" => self.destroy_time.into(),
            "destroyEventTime" => self.destroy_event_time.into(),
            "importJob" => import.map(|import| import.job.as_str()).into(),
            "importTime" => import.and_then(|import| import.time).into(),
            "importFailureReason" => import.and_then(|import| import.failure.as_deref()).into(),
            "reimportEligible" => self.reimport_eligible().into(),
            _ => Value::Missing,
        }
    }
}

impl Listed for EkmConnection {
    const FIELDS: Fields = &[("name", Kind::Name), ("createTime", Kind::Time), ("etag", Kind::Text)];

    fn field(&self, name: &str, _: &str) -> Value {
        match name {
            "name" => self.name.as_str().into(),
            "createTime" => self.create_time.into(),
            "etag" => self.etag.as_str().into(),
            _ => Value::Missing,
        }
    }
}

impl Listed for ImportJob {
    const FIELDS: Fields = &[
        ("name", Kind::Name),
        ("importMethod", Kind::Text),
        ("protectionLevel", Kind::Text),
        ("createTime", Kind::Time),
        ("generateTime", Kind::Time),
        ("expireTime", Kind::Time),
        ("expireEventTime", Kind::Time),
        ("state", Kind::Text),
    ];

    fn field(&self, name: &str, _: &str) -> Value {
        match name {
            "name" => self.name.as_str().into(),
            "importMethod" => self.method.as_str().into(),
            "protectionLevel" => SOFTWARE.into(),
            "createTime" => self.create_time.into(),
            "generateTime" => self.generate_time.into(),
            "expireTime" => self.expire_time.into(),
            "expireEventTime" => self.expire_event_time.into(),
            "state" => self.state.as_str().into(),
            _ => Value::Missing,
        }
    }
}
