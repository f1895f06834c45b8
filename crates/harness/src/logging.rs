//! What workers write to their log.
//!
//! Invariant: an entry's texts are bounded before anyone keeps them. They may hold elements, so this
//! crate hands them to the job's sink and to nothing else.

use claviger_beam_proto::fn_execution::{self as fnapi, log_entry::severity::Enum as Severity};
use claviger_core::Timestamp;

use crate::limits;

/// One entry of a worker's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// The worker that wrote it.
    pub worker_id: String,
    /// How grave it is.
    pub severity: Severity,
    /// When, by the worker's clock.
    pub timestamp: Timestamp,
    /// The text.
    pub message: String,
    /// The stack, where one came with it.
    pub trace: String,
    /// The bundle under way, where there was one.
    pub instruction_id: String,
    /// The transform at work in the bundle's descriptor, where there was one.
    pub transform_id: String,
    /// The place in the code.
    pub location: String,
}

/// Takes the log of a job's workers.
pub trait LogSink: Send + Sync {
    /// Takes an entry. Called on the path of the worker's messages: it must not wait.
    fn log(&self, entry: LogEntry);
}

impl LogEntry {
    pub(crate) fn new(worker_id: &str, entry: fnapi::LogEntry) -> Self {
        let severity = entry.severity();
        let time = entry.timestamp.unwrap_or_default();
        let micros = time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000);
        Self {
            worker_id: worker_id.to_owned(),
            severity,
            timestamp: Timestamp(micros),
            message: cut(entry.message, limits::LOG_BYTES),
            trace: cut(entry.trace, limits::LOG_BYTES),
            instruction_id: cut(entry.instruction_id, 1024),
            transform_id: cut(entry.transform_id, 1024),
            location: cut(entry.log_location, 1024),
        }
    }

    /// A line that a process wrote to its output.
    pub(crate) fn line(worker_id: &str, timestamp: Timestamp, message: String) -> Self {
        Self {
            worker_id: worker_id.to_owned(),
            severity: Severity::Info,
            timestamp,
            message,
            trace: String::new(),
            instruction_id: String::new(),
            transform_id: String::new(),
            location: String::new(),
        }
    }
}

/// At most about so many bytes of a text: its beginning and, since errors end with what matters, its end.
pub(crate) fn cut(text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    let head = text.floor_char_boundary(bytes / 4);
    let tail = text.ceil_char_boundary(text.len() - (bytes - bytes / 4));
    let parts = (text.get(..head).unwrap_or_default(), text.get(tail..).unwrap_or_default());
    format!("{}\n... {} bytes left out ...\n{}", parts.0, tail - head, parts.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let text = format!("first{}last", "é".repeat(10_000));
        let short = cut(text, 1000);
        assert!(short.len() < 1100, "{}", short.len());
        assert!(short.starts_with("first") && short.ends_with("last"));
        assert_eq!(cut("short".into(), 5), "short");
    }

    #[test]
    fn an_entry_without_a_time_or_a_known_severity_passes() {
        let entry = fnapi::LogEntry { severity: 99, message: "m".into(), ..fnapi::LogEntry::default() };
        let entry = LogEntry::new("w", entry);
        assert_eq!((entry.severity, entry.timestamp), (Severity::Unspecified, Timestamp(0)));
    }
}
