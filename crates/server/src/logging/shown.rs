//! An entry of the audit log as Cloud Logging shows the use or the change of a key.
//!
//! Invariant: what a filter sees and what a client gets are the same fields: both are made from one [`Shown`].

use std::collections::HashMap;

use claviger_audit::{Entry, Fields, Value};
use claviger_proto::google::api::MonitoredResource;
use claviger_proto::google::cloud::audit::{AuditLog, AuthenticationInfo};
use claviger_proto::google::logging::r#type::LogSeverity;
use claviger_proto::google::logging::v2::{LogEntry, log_entry};
use claviger_proto::google::rpc;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Timestamp};
use tonic::Code;

/// The label of entries, and of callers' contexts, with the id of the job that a key was used for.
const JOB: &str = "job_id";
/// Where the metadata hold the reason of a key access justification.
const JUSTIFICATION: &str = "justification";
/// The collections of a key's name and the labels that carry their ids.
const LABELS: [(&str, &str); 5] = [
    ("projects", "project_id"),
    ("locations", "location"),
    ("keyRings", "key_ring_id"),
    ("cryptoKeys", "crypto_key_id"),
    ("cryptoKeyVersions", "crypto_key_version_id"),
];

/// The logs of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// Changes of keys.
    Activity,
    /// Uses of keys.
    DataAccess,
}

impl Log {
    pub(super) const ALL: [Self; 2] = [Self::Activity, Self::DataAccess];

    /// The log that an entry belongs to.
    pub(super) fn of(entry: &Entry) -> Self {
        if matches!(entry.method.as_str(), "Encrypt" | "Decrypt") { Self::DataAccess } else { Self::Activity }
    }

    /// Its full name.
    pub(super) fn name(self, project: &str) -> String {
        let id = match self {
            Self::Activity => "activity",
            Self::DataAccess => "data_access",
        };
        format!("projects/{project}/logs/cloudaudit.googleapis.com%2F{id}")
    }
}

/// The project whose logs an entry is in: that of the key.
pub(super) fn project(entry: &Entry) -> Option<&str> {
    let mut parts = entry.resource.split('/');
    (parts.next() == Some("projects")).then(|| parts.next()).flatten()
}

/// An entry with all its fields; the audit log's part is not packed yet.
#[derive(Debug)]
pub(super) struct Shown {
    entry: LogEntry,
    resource: MonitoredResource,
    audit: AuditLog,
    who: AuthenticationInfo,
    status: rpc::Status,
    metadata: Vec<(String, String)>,
    micros: i64,
}

impl Shown {
    /// Shows an entry of the audit log by its number.
    pub(super) fn new(number: u64, entry: &Entry) -> Self {
        let (seconds, nanos) = entry.time.seconds_and_nanos();
        let time = Timestamp { seconds, nanos };
        let severity = match (entry.is_ok(), Log::of(entry)) {
            (false, _) => LogSeverity::Error,
            (true, Log::Activity) => LogSeverity::Notice,
            (true, Log::DataAccess) => LogSeverity::Info,
        };
        let mut metadata: Vec<_> =
            entry.context.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        metadata.extend(entry.justification.iter().map(|reason| (JUSTIFICATION.to_owned(), reason.clone())));
        let subject = &entry.principal;
        let email = subject.split_once(':').map_or(subject.as_str(), |(_, email)| email);
        Self {
            entry: LogEntry {
                log_name: Log::of(entry).name(project(entry).unwrap_or_default()),
                timestamp: Some(time),
                receive_timestamp: Some(time),
                severity: severity.into(),
                insert_id: format!("{number:020}"),
                labels: entry.context.get(JOB).map(|job| (JOB.to_owned(), job.clone())).into_iter().collect(),
                ..LogEntry::default()
            },
            resource: resource(entry),
            audit: AuditLog {
                service_name: entry.service.clone(),
                method_name: entry.method.clone(),
                resource_name: entry.resource.clone(),
                ..AuditLog::default()
            },
            who: AuthenticationInfo { principal_email: email.to_owned(), principal_subject: subject.clone() },
            status: rpc::Status {
                code: code(entry) as i32,
                message: entry.message.clone(),
                details: Vec::new(),
            },
            metadata,
            micros: entry.time.micros(),
        }
    }

    /// The entry as clients get it.
    pub(super) fn into_entry(self) -> LogEntry {
        let text = |value| prost_types::Value { kind: Some(Kind::StringValue(value)) };
        let fields = self.metadata.into_iter().map(|(key, value)| (key, text(value))).collect();
        let audit = AuditLog {
            status: Some(self.status),
            authentication_info: Some(self.who),
            metadata: Some(Struct { fields }),
            ..self.audit
        };
        LogEntry {
            resource: Some(self.resource),
            payload: Any::from_msg(&audit).ok().map(log_entry::Payload::ProtoPayload),
            ..self.entry
        }
    }
}

impl Fields for Shown {
    fn visit(&self, see: &mut dyn FnMut(&[&str], Value<'_>)) {
        let time = Value::Time(claviger_core::Timestamp(self.micros));
        let mut text = |path: &[&str], value: &str| {
            // JSON has no field for what is empty.
            if !value.is_empty() {
                see(path, Value::Text(value));
            }
        };
        text(&["logName"], &self.entry.log_name);
        text(&["insertId"], &self.entry.insert_id);
        text(&["resource", "type"], &self.resource.r#type);
        self.resource.labels.iter().for_each(|(key, value)| text(&["resource", "labels", key], value));
        self.entry.labels.iter().for_each(|(key, value)| text(&["labels", key], value));
        text(&["protoPayload", "serviceName"], &self.audit.service_name);
        text(&["protoPayload", "methodName"], &self.audit.method_name);
        text(&["protoPayload", "resourceName"], &self.audit.resource_name);
        let who = ["protoPayload", "authenticationInfo"];
        text(&[who[0], who[1], "principalEmail"], &self.who.principal_email);
        text(&[who[0], who[1], "principalSubject"], &self.who.principal_subject);
        self.metadata.iter().for_each(|(key, value)| text(&["protoPayload", "metadata", key], value));
        text(&["protoPayload", "status", "message"], &self.status.message);
        see(&["protoPayload", "status", "code"], Value::Number(self.status.code.into()));
        see(&["severity"], Value::Severity(self.entry.severity));
        see(&["timestamp"], time);
        see(&["receiveTimestamp"], time);
    }
}

/// What an entry is about. A use of a key is about the key, and says which version was used.
fn resource(entry: &Entry) -> MonitoredResource {
    let version = entry.key_version.as_deref().filter(|version| version.starts_with(&entry.resource));
    let name = version.unwrap_or(&entry.resource);
    let mut parts = name.split('/');
    let mut labels = HashMap::new();
    while let (Some(collection), Some(id)) = (parts.next(), parts.next()) {
        let label = LABELS.iter().find(|(known, _)| *known == collection);
        labels.extend(label.map(|(_, label)| ((*label).to_owned(), id.to_owned())));
    }
    let kind = if entry.resource.contains("/cryptoKeyVersions/") {
        "cloudkms_cryptokeyversion"
    } else if entry.resource.contains("/cryptoKeys/") {
        "cloudkms_cryptokey"
    } else {
        "cloudkms_keyring"
    };
    MonitoredResource { r#type: kind.to_owned(), labels }
}

/// The code that a call ended with. Kinds of errors have the names of gRPC's codes.
fn code(entry: &Entry) -> Code {
    if entry.is_ok() {
        return Code::Ok;
    }
    (0..=16).map(Code::from).find(|code| format!("{code:?}") == entry.code).unwrap_or(Code::Unknown)
}

#[cfg(test)]
mod tests {
    use claviger_core::{Caller, Error, ErrorKind};
    use prost_reflect::DynamicMessage;
    use serde_json::{Value as Json, json};

    use super::*;

    const KEY: &str = "projects/birds/locations/us-east1/keyRings/r/cryptoKeys/k";

    fn used() -> Entry {
        let agent =
            Caller::new("serviceAccount:agent@example.com").with(JOB, "j1").with("resource", "job j1");
        let mut entry = Entry::new("cloudkms.googleapis.com", "Decrypt", KEY, &agent)
            .with_key_version(format!("{KEY}/cryptoKeyVersions/3"));
        entry.time = claviger_core::Timestamp(1_700_000_000_250_000);
        entry
    }

    fn json(entry: LogEntry) -> Json {
        let descriptor = claviger_proto::pool().get_message_by_name("google.logging.v2.LogEntry").unwrap();
        let mut message = DynamicMessage::new(descriptor);
        prost::Message::merge(&mut message, prost::Message::encode_to_vec(&entry).as_slice()).unwrap();
        serde_json::to_value(&message).unwrap()
    }

    #[test]
    fn a_use_of_a_key_has_the_shape_of_a_data_access_entry() {
        let mut entry = used();
        entry.justification = Some("CUSTOMER_INITIATED_ACCESS".into());
        assert_eq!(
            json(Shown::new(17, &entry).into_entry()),
            json!({
                "logName": "projects/birds/logs/cloudaudit.googleapis.com%2Fdata_access",
                "resource": {"type": "cloudkms_cryptokey", "labels": {
                    "project_id": "birds", "location": "us-east1", "key_ring_id": "r", "crypto_key_id": "k",
                    "crypto_key_version_id": "3",
                }},
                "protoPayload": {
                    "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                    "serviceName": "cloudkms.googleapis.com",
                    "methodName": "Decrypt",
                    "resourceName": KEY,
                    "status": {},
                    "authenticationInfo": {
                        "principalEmail": "agent@example.com",
                        "principalSubject": "serviceAccount:agent@example.com",
                    },
                    "metadata": {
                        "job_id": "j1", "resource": "job j1", "justification": "CUSTOMER_INITIATED_ACCESS",
                    },
                },
                "timestamp": "2023-11-14T22:13:20.250Z",
                "receiveTimestamp": "2023-11-14T22:13:20.250Z",
                "severity": "INFO",
                "insertId": "00000000000000000017",
                "labels": {"job_id": "j1"},
            })
        );
    }

    #[test]
    fn changes_and_refusals_say_so() {
        let admin = Caller::local_admin();
        let version = format!("{KEY}/cryptoKeyVersions/1");
        let changed = Entry::new("s", "DestroyCryptoKeyVersion", &version, &admin).with_key_version(&version);
        let shown = Shown::new(1, &changed).into_entry();
        assert!(shown.log_name.ends_with("%2Factivity") && shown.severity() == LogSeverity::Notice);
        assert_eq!(shown.resource.unwrap().r#type, "cloudkms_cryptokeyversion");
        let ring = KEY.split("/cryptoKeys").next().unwrap();
        let made = Shown::new(2, &Entry::new("s", "CreateKeyRing", ring, &admin)).into_entry();
        let resource = made.resource.unwrap();
        assert_eq!((resource.r#type.as_str(), resource.labels.len()), ("cloudkms_keyring", 3));
        assert!(made.labels.is_empty());
        let refused = Shown::new(3, &used().refused(&Error::precondition("it is disabled")));
        assert_eq!((refused.status.code, refused.status.message.as_str()), (9, "it is disabled"));
        assert_eq!(refused.into_entry().severity(), LogSeverity::Error);
    }

    #[test]
    fn every_kind_of_error_has_its_code() {
        use ErrorKind::{
            Aborted, AlreadyExists, DataLoss, DeadlineExceeded, FailedPrecondition, Internal,
            InvalidArgument, NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated,
            Unavailable, Unimplemented,
        };
        for kind in [
            Aborted,
            AlreadyExists,
            DataLoss,
            DeadlineExceeded,
            FailedPrecondition,
            Internal,
            InvalidArgument,
            NotFound,
            OutOfRange,
            PermissionDenied,
            ResourceExhausted,
            Unauthenticated,
            Unavailable,
            Unimplemented,
        ] {
            assert_eq!(code(&used().refused(&Error::new(kind, ""))), crate::status::code(kind));
        }
    }

    #[test]
    fn a_filter_sees_what_a_client_gets() {
        fn flatten(path: &str, value: &Json, all: &mut Vec<(String, String)>) {
            match value {
                Json::Object(fields) => {
                    for (key, value) in fields.iter().filter(|(key, _)| *key != "@type") {
                        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                        flatten(&path, value, all);
                    }
                }
                Json::String(text) => all.push((path.to_owned(), text.clone())),
                other => all.push((path.to_owned(), other.to_string())),
            }
        }
        let entry = used().refused(&Error::permission_denied("no"));
        let shown = Shown::new(9, &entry);
        let mut seen = Vec::new();
        shown.visit(&mut |path, value| {
            let value = match value {
                Value::Text(text) => text.to_owned(),
                Value::Number(number) => number.to_string(),
                Value::Severity(number) => LogSeverity::try_from(number).unwrap().as_str_name().to_owned(),
                Value::Time(_) => "2023-11-14T22:13:20.250Z".to_owned(),
            };
            seen.push((path.join("."), value));
        });
        let mut got = Vec::new();
        flatten("", &json(shown.into_entry()), &mut got);
        seen.sort();
        got.sort();
        assert_eq!(seen, got);
    }
}
