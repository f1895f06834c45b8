//! Buckets and objects as JSON, and what users set on them from JSON.
//!
//! Invariant: a field that is written is one that Cloud Storage documents, with its type: 64-bit numbers
//! are strings.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_buckets::checksums::{Expected, encode_crc32c, encode_md5};
use claviger_buckets::model::{Bucket, BucketConfig, Object, ObjectMetadata, Retention};
use claviger_core::{Error, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::query::key_name;

/// What of a name is encoded in a path.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const DEFAULT_TYPE: &str = "application/octet-stream";

pub(super) fn encode_name(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}

/// RFC 3339 with milliseconds, as Cloud Storage writes times.
pub(super) fn time(time: Timestamp) -> String {
    let (seconds, nanos) = time.seconds_and_nanos();
    let text = prost_types::Timestamp { seconds, nanos: 0 }.to_string();
    format!("{}.{:03}Z", text.trim_end_matches('Z'), nanos / 1_000_000)
}

fn read_time(text: &str) -> Result<Timestamp, Failure> {
    let time: prost_types::Timestamp =
        text.parse().map_err(|_| Error::invalid(format!("Invalid value for a time: '{text}'")))?;
    let micros = time.seconds.checked_mul(1_000_000).map(|micros| micros + i64::from(time.nanos) / 1000);
    micros.map(Timestamp).ok_or_else(|| Error::invalid("A time is out of range.").into())
}

/// An entity tag: the same bytes as Cloud Storage's, which are a message with one number.
pub(super) fn etag(numbers: &[u64]) -> String {
    let mut bytes = Vec::new();
    for (field, number) in numbers.iter().enumerate() {
        bytes.push(u8::try_from(field * 8 + 8).unwrap_or(u8::MAX));
        let mut rest = *number;
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    STANDARD.encode(bytes)
}

pub(super) fn object_etag(object: &Object) -> String {
    etag(&[u64::try_from(object.generation).unwrap_or_default(), object.metageneration])
}

fn set(map: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value.into());
    }
}

/// A bucket.
pub(super) fn bucket(bucket: &Bucket, origin: &str) -> Value {
    let config = &bucket.config;
    let self_link = format!("{origin}/storage/v1/b/{}", encode_name(&bucket.name));
    let prevention = config.public_access_prevention.as_deref().unwrap_or("inherited");
    let mut value = json!({
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "selfLink": self_link,
        "projectNumber": bucket.project_number.to_string(),
        "location": bucket.location.as_str(),
        "locationType": bucket.location.kind(),
        "storageClass": config.storage_class,
        "etag": etag(&[bucket.metageneration]),
        "timeCreated": time(bucket.created),
        "updated": time(bucket.updated),
        "generation": bucket.created.micros().to_string(),
        "metageneration": bucket.metageneration.to_string(),
        "iamConfiguration": {
            "bucketPolicyOnly": {"enabled": true},
            "uniformBucketLevelAccess": {"enabled": true},
            "publicAccessPrevention": prevention,
        },
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
    });
    let Some(map) = value.as_object_mut() else { return value };
    if !config.labels.is_empty() {
        map.insert("labels".into(), json!(config.labels));
    }
    if config.versioning {
        map.insert("versioning".into(), json!({"enabled": true}));
    }
    if bucket.location.kind() != "region" {
        map.insert("rpo".into(), "DEFAULT".into());
    }
    set(map, "lifecycle", config.lifecycle.clone());
    set(map, "cors", config.cors.clone());
    set(map, "website", config.website.clone());
    set(map, "logging", config.logging.clone());
    set(map, "defaultEventBasedHold", config.default_event_based_hold.then_some(true));
    let retention = config.retention.as_ref().map(|retention| {
        let mut value = json!({
            "retentionPeriod": retention.period_seconds.to_string(),
            "effectiveTime": time(retention.effective),
        });
        if let (true, Some(value)) = (retention.locked, value.as_object_mut()) {
            value.insert("isLocked".into(), true.into());
        }
        value
    });
    set(map, "retentionPolicy", retention);
    let key = config.kms_key.as_ref().map(|key| json!({"defaultKmsKeyName": key.as_str()}));
    set(map, "encryption", key);
    value
}

/// An object. `key_versions` are those of its bucket.
pub(super) fn object(
    object: &Object,
    bucket: &Bucket,
    key_versions: &BTreeMap<String, String>,
    origin: &str,
) -> Value {
    let (bucket_path, name) = (encode_name(&bucket.name), encode_name(&object.name));
    let generation = object.generation;
    let metadata = &object.metadata;
    let mut value = json!({
        "kind": "storage#object",
        "id": format!("{}/{}/{generation}", bucket.name, object.name),
        "selfLink": format!("{origin}/storage/v1/b/{bucket_path}/o/{name}"),
        "mediaLink": format!(
            "{origin}/download/storage/v1/b/{bucket_path}/o/{name}?generation={generation}&alt=media"
        ),
        "name": object.name,
        "bucket": bucket.name,
        "generation": generation.to_string(),
        "metageneration": object.metageneration.to_string(),
        "storageClass": metadata.storage_class.as_deref().unwrap_or(&bucket.config.storage_class),
        "size": object.size.to_string(),
        "crc32c": encode_crc32c(object.crc32c),
        "etag": object_etag(object),
        "timeCreated": time(object.created),
        "timeFinalized": time(object.created),
        "updated": time(object.updated),
        "timeStorageClassUpdated": time(object.created),
    });
    let Some(map) = value.as_object_mut() else { return value };
    set(map, "md5Hash", object.md5.as_ref().map(encode_md5));
    set(map, "componentCount", object.component_count);
    set(map, "kmsKeyName", key_versions.get(object.vault()).cloned());
    set(map, "timeDeleted", object.deleted.map(time));
    set(map, "contentType", metadata.content_type.clone());
    set(map, "contentEncoding", metadata.content_encoding.clone());
    set(map, "contentDisposition", metadata.content_disposition.clone());
    set(map, "contentLanguage", metadata.content_language.clone());
    set(map, "cacheControl", metadata.cache_control.clone());
    set(map, "customTime", metadata.custom_time.map(time));
    set(map, "temporaryHold", metadata.temporary_hold.then_some(true));
    set(map, "eventBasedHold", metadata.event_based_hold);
    set(map, "retentionExpirationTime", bucket.retention_end(object.created).map(time));
    if !metadata.metadata.is_empty() {
        map.insert("metadata".into(), json!(metadata.metadata));
    }
    value
}

fn wrong(field: &str) -> Failure {
    Error::invalid(format!("Invalid value for field: {field}")).into()
}

fn text(field: &str, value: &Value) -> Result<Option<String>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(wrong(field)),
    }
}

fn flag(field: &str, value: &Value) -> Result<bool, Failure> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if text == "true" || text == "false" => Ok(text == "true"),
        _ => Err(wrong(field)),
    }
}

/// Changes free pairs as a patch says: a null removes one, or all.
fn pairs(field: &str, value: &Value, pairs: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    match value {
        Value::Null => pairs.clear(),
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::Null => drop(pairs.remove(name)),
                    Value::String(value) => drop(pairs.insert(name.clone(), value.clone())),
                    Value::Number(value) => drop(pairs.insert(name.clone(), value.to_string())),
                    Value::Bool(value) => drop(pairs.insert(name.clone(), value.to_string())),
                    _ => return Err(wrong(field)),
                }
            }
        }
        _ => return Err(wrong(field)),
    }
    Ok(())
}

/// Changes what users set on an object, as a patch says.
pub(super) fn patch_object(metadata: &mut ObjectMetadata, patch: &Map<String, Value>) -> Result<(), Failure> {
    for (field, value) in patch {
        match field.as_str() {
            "contentType" => metadata.content_type = text(field, value)?,
            "contentEncoding" => metadata.content_encoding = text(field, value)?,
            "contentDisposition" => metadata.content_disposition = text(field, value)?,
            "contentLanguage" => metadata.content_language = text(field, value)?,
            "cacheControl" => metadata.cache_control = text(field, value)?,
            "storageClass" => metadata.storage_class = text(field, value)?,
            "customTime" => {
                metadata.custom_time = text(field, value)?.map(|text| read_time(&text)).transpose()?;
            }
            "temporaryHold" => metadata.temporary_hold = flag(field, value)?,
            "eventBasedHold" => metadata.event_based_hold = Some(flag(field, value)?),
            "metadata" => pairs(field, value, &mut metadata.metadata)?,
            "retention" if !value.is_null() => {
                return Err(Error::unimplemented(
                    "Retention of single objects is not built: set it on the bucket.",
                )
                .into());
            }
            // What the server sets, and access control lists, which uniform access has none of.
            _ => {}
        }
    }
    Ok(())
}

/// What users set on a new object, its name and its sums.
pub(super) fn new_object(
    body: &Map<String, Value>,
) -> Result<(Option<String>, ObjectMetadata, Expected), Failure> {
    let mut metadata = ObjectMetadata::default();
    patch_object(&mut metadata, body)?;
    let field = |name: &str| body.get(name).map_or(Ok(None), |value| text(name, value));
    let expected = Expected { crc32c: field("crc32c")?, md5: field("md5Hash")? };
    Ok((field("name")?, metadata, expected))
}

/// The key that a new object's JSON names. What another object's JSON says has a version at its end.
pub(super) fn key_of(
    body: &Map<String, Value>,
) -> Result<Option<claviger_core::names::CryptoKeyName>, Failure> {
    let named = body.get("kmsKeyName").and_then(Value::as_str).filter(|name| !name.is_empty());
    named.map(|name| key_name(name.split("/cryptoKeyVersions/").next().unwrap_or(name))).transpose()
}

/// The media type of an object for which none was given.
pub(super) fn default_type() -> String {
    DEFAULT_TYPE.to_owned()
}

/// Changes what users set on a bucket, as a patch says.
pub(super) fn patch_bucket(
    config: &mut BucketConfig,
    patch: &Map<String, Value>,
    now: Timestamp,
) -> Result<(), Failure> {
    for (field, value) in patch {
        let given = (!value.is_null()).then(|| value.clone());
        match field.as_str() {
            "storageClass" => {
                config.storage_class = text(field, value)?.unwrap_or_else(|| "STANDARD".to_owned());
            }
            "labels" => pairs(field, value, &mut config.labels)?,
            "versioning" => {
                config.versioning = value.get("enabled").map_or(Ok(false), |on| flag(field, on))?;
            }
            "lifecycle" => config.lifecycle = given.filter(|rules| rules.get("rule").is_some()),
            "cors" => {
                config.cors = given.filter(|rules| rules.as_array().is_none_or(|rules| !rules.is_empty()))
            }
            "website" => config.website = given,
            "logging" => config.logging = given,
            "defaultEventBasedHold" => config.default_event_based_hold = flag(field, value)?,
            "iamConfiguration" => {
                if let Some(prevention) = value.get("publicAccessPrevention") {
                    config.public_access_prevention = text(field, prevention)?;
                }
            }
            "encryption" => {
                let key = value.get("defaultKmsKeyName").map_or(Ok(None), |key| text(field, key))?;
                config.kms_key = key.filter(|key| !key.is_empty()).map(|key| key_name(&key)).transpose()?;
            }
            "retentionPolicy" => config.retention = retention(config.retention.as_ref(), value, now)?,
            "billing" if is_on(value, "requesterPays") => return Err(unbuilt("Requester pays")),
            "autoclass" if is_on(value, "enabled") => return Err(unbuilt("Autoclass")),
            "hierarchicalNamespace" if is_on(value, "enabled") => {
                return Err(unbuilt("A hierarchical namespace"));
            }
            "objectRetention" if is_on(value, "enabled") => {
                return Err(unbuilt("Retention of single objects"));
            }
            "softDeletePolicy" => {
                let seconds = value.get("retentionDurationSeconds").map(number).unwrap_or(Some(0));
                if seconds != Some(0) {
                    return Err(unbuilt("Soft delete"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_on(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}

fn unbuilt(what: &str) -> Failure {
    Error::unimplemented(format!("{what} is not built in this server.")).into()
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

fn retention(
    before: Option<&Retention>,
    value: &Value,
    now: Timestamp,
) -> Result<Option<Retention>, Failure> {
    let Some(period) = value.get("retentionPeriod").filter(|period| !period.is_null()) else {
        return Ok(None);
    };
    let period_seconds = number(period).filter(|seconds| (1..=3_155_760_000).contains(seconds));
    let period_seconds = period_seconds.ok_or_else(|| wrong("retentionPolicy.retentionPeriod"))?;
    let effective = before.map_or(now, |before| before.effective);
    Ok(Some(Retention { period_seconds, effective, locked: before.is_some_and(|before| before.locked) }))
}
