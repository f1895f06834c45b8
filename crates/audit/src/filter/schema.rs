//! The fields of a log entry that a filter may name.
//!
//! Invariant: the names are those of the public API's LogEntry in JSON. What a payload or a label map holds is not
//! known here.

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A time of the entry.
    Time,
    Severity,
    /// A text, number or truth value that every entry has, if only as an empty one.
    Plain,
    /// Something of a payload or a map of labels: it may be missing.
    Open,
    /// A message or a map, which has no value of its own.
    Group,
}

/// The severities, in rising order.
const SEVERITIES: [(&str, i32); 9] = [
    ("DEFAULT", 0),
    ("DEBUG", 100),
    ("INFO", 200),
    ("NOTICE", 300),
    ("WARNING", 400),
    ("ERROR", 500),
    ("CRITICAL", 600),
    ("ALERT", 700),
    ("EMERGENCY", 800),
];

/// The fields of messages in an entry.
const MESSAGES: [(&str, &[&str]); 4] = [
    (
        "httpRequest",
        &[
            "cacheFillBytes",
            "cacheHit",
            "cacheLookup",
            "cacheValidatedWithOriginServer",
            "latency",
            "protocol",
            "referer",
            "remoteIp",
            "requestMethod",
            "requestSize",
            "requestUrl",
            "responseSize",
            "serverIp",
            "status",
            "userAgent",
        ],
    ),
    ("operation", &["first", "id", "last", "producer"]),
    ("sourceLocation", &["file", "function", "line"]),
    ("split", &["index", "totalSplits", "uid"]),
];

/// What a path names, or none when no entry has such a field.
pub(super) fn kind(path: &[String]) -> Option<Kind> {
    let mut parts = path.iter().map(String::as_str);
    let first = parts.next()?;
    let rest: Vec<&str> = parts.collect();
    match (first, rest.as_slice()) {
        ("timestamp" | "receiveTimestamp", []) => Some(Kind::Time),
        ("severity", []) => Some(Kind::Severity),
        ("insertId" | "logName" | "spanId" | "textPayload" | "trace" | "traceSampled", []) => {
            Some(Kind::Plain)
        }
        ("resource", ["type"]) => Some(Kind::Plain),
        ("resource", [] | ["labels"]) | ("jsonPayload" | "labels" | "protoPayload", []) => Some(Kind::Group),
        ("resource", ["labels", ..]) | ("jsonPayload" | "labels" | "protoPayload", _) => Some(Kind::Open),
        (message, fields) => {
            let (_, known) = MESSAGES.iter().find(|(name, _)| *name == message)?;
            match fields {
                [] => Some(Kind::Group),
                [field] if known.contains(field) => Some(Kind::Plain),
                _ => None,
            }
        }
    }
}

/// The number of a severity, by its name in any case or by its number.
pub(super) fn severity(text: &str) -> Option<i32> {
    let named = SEVERITIES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map(|(_, number)| *number).or_else(|| text.parse().ok())
}

/// The name of a severity.
pub(super) fn severity_name(number: i32) -> Option<&'static str> {
    SEVERITIES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}
