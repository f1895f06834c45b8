//! Results on standard output: a table, or the canonical JSON of the messages, or the same as YAML.
//!
//! Invariant: JSON and YAML say all that the server said, in the names of the public API; a table is for
//! people and may leave things out. Sentences about what was done go to standard error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::failure::Failure;

mod table;

pub(crate) use table::{Cell, Column, at, plain};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Plain comments: help lists the three names on one line then.
    // The API's messages.
    Json,
    // The same as YAML.
    Yaml,
    // Columns for people.
    #[default]
    Table,
}

/// Writes results in the format that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// A list: a table with these columns, or an array of the messages.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn list<M: Message + Name>(&self, items: &[M], columns: &[Column]) -> Result<(), Failure> {
        let values = items.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        self.values(values, columns)
    }

    /// A list of values that were made from messages.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn values(&self, values: Vec<Value>, columns: &[Column]) -> Result<(), Failure> {
        match self.format {
            Format::Json => write_text(&json(&Value::Array(values))),
            Format::Yaml => write_text(&yaml(&Value::Array(values))?),
            Format::Table if values.is_empty() => {
                say("Listed 0 items.");
                Ok(())
            }
            Format::Table => write_text(&table::render(&values, columns)),
        }
    }

    /// One thing, with all its fields.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn one<M: Message + Name>(&self, item: &M) -> Result<(), Failure> {
        self.one_value(&value(item)?)
    }

    /// One thing that came as JSON.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn one_value(&self, value: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Json => write_text(&json(value)),
            Format::Yaml => write_text(&yaml(value)?),
            Format::Table => write_text(&table::fields(value)),
        }
    }

    /// What a command did: a sentence for people, the changed thing for programs.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn done<M: Message + Name>(&self, item: &M, sentence: &str) -> Result<(), Failure> {
        say(sentence);
        if self.format == Format::Table { Ok(()) } else { self.one(item) }
    }

    /// As [`Output::done`], of a thing that came as JSON.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn done_value(&self, value: &Value, sentence: &str) -> Result<(), Failure> {
        say(sentence);
        if self.format == Format::Table { Ok(()) } else { self.one_value(value) }
    }
}

/// The canonical JSON of a message.
///
/// # Errors
/// When the message is not in the pool, which is a fault of the build.
pub(crate) fn value<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    let name = M::full_name();
    let fault = |why: String| Failure::local(format!("cannot write {name} as JSON: {why}"));
    let descriptor = claviger_proto::pool()
        .get_message_by_name(&name)
        .ok_or_else(|| fault("its descriptor is missing".into()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| fault(error.to_string()))?;
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| fault(error.to_string()))
}

/// JSON for people and programs: indented, with a line's end.
pub(crate) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// YAML with its line's end.
///
/// # Errors
/// When the value has a shape that YAML cannot have; JSON's values all have one that it can.
pub(crate) fn yaml(value: &Value) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value).map_err(|error| Failure::local(format!("cannot write YAML: {error}")))
}

/// Writes to standard output.
///
/// # Errors
/// When it cannot be written; a reader that has gone is [`Failure::ReaderGone`].
pub(crate) fn write_text(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

/// Writes bytes to standard output, as they are.
///
/// # Errors
/// As [`write_text`].
pub(crate) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::local(format!("cannot write to standard output: {error}")),
    })
}

/// A sentence on standard error.
pub(crate) fn say(sentence: &str) {
    say_raw(&format!("{sentence}\n"));
}

/// Text on standard error, as it is. That nobody can read it is no reason to fail.
pub(crate) fn say_raw(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Asks for a yes when someone can answer; without a terminal the command stands as it was given.
///
/// # Errors
/// When the answer is no.
pub(crate) fn confirm(quiet: bool, question: &str) -> Result<(), Failure> {
    if quiet || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    say_raw(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::local("not done: the answer was not yes"))
}

#[cfg(test)]
mod tests {
    use claviger_proto::google::bigtable::admin::v2::{Cluster, Instance};
    use claviger_proto::google::longrunning::{Operation, operation};
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_become_canonical_json() {
        let cluster = Cluster {
            name: "projects/p/instances/i/clusters/c".into(),
            serve_nodes: 3,
            default_storage_type: 1,
            ..Default::default()
        };
        assert_eq!(
            value(&cluster).unwrap(),
            json!({"name": "projects/p/instances/i/clusters/c", "serveNodes": 3, "defaultStorageType": "SSD"})
        );
    }

    #[test]
    fn a_message_inside_any_is_opened() {
        let instance = Instance { display_name: "Birds".into(), ..Default::default() };
        let any = prost_types::Any { type_url: Instance::type_url(), value: instance.encode_to_vec() };
        let operation = Operation {
            name: "operations/1".into(),
            result: Some(operation::Result::Response(any)),
            ..Default::default()
        };
        let shown = value(&operation).unwrap();
        assert_eq!(shown["response"]["displayName"], "Birds");
        assert_eq!(shown["response"]["@type"], "type.googleapis.com/google.bigtable.admin.v2.Instance");
    }

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!({"name": "a", "labels": {"k": "v"}, "list": [1, "2"]});
        let back: Value = serde_yaml_ng::from_str(&yaml(&value).unwrap()).unwrap();
        assert_eq!(back, value);
        assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
    }
}
