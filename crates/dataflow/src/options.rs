//! The options of a pipeline, by name, in the forms in which SDKs send them.
//!
//! Invariant: a look-up changes nothing; the options go to workers as they came.

use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// The options of a pipeline. Beam's Job API writes `beam:option:NAME:v1`, the Dataflow API an object
/// `options` with plain names.
#[derive(Clone, Default, PartialEq)]
pub struct Options(Struct);

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({})", self.0.fields.len())
    }
}

impl Options {
    /// The options in the form in which they came.
    #[must_use]
    pub fn new(options: Struct) -> Self {
        Self(options)
    }

    /// As they came.
    #[must_use]
    pub fn inner(&self) -> &Struct {
        &self.0
    }

    /// As workers get them. Numbers of JSON are floating point there; whole ones go as texts, as SDKs send them
    /// themselves by Beam's own API, since a worker does not take `3.0` for a number of threads.
    #[must_use]
    pub fn for_workers(&self) -> Struct {
        let mut options = self.0.clone();
        if let Some(Value { kind: Some(Kind::StructValue(inner)) }) = options.fields.get_mut("options") {
            inner.fields.values_mut().for_each(whole_as_text);
        }
        options
    }

    fn get(&self, name: &str) -> Option<&Kind> {
        if let Some(Value { kind: Some(Kind::StructValue(inner)) }) = self.0.fields.get("options") {
            let value = inner.fields.get(name).or_else(|| inner.fields.get(&camel(name)));
            return value.and_then(|value| value.kind.as_ref());
        }
        self.0.fields.get(&format!("beam:option:{name}:v1")).and_then(|value| value.kind.as_ref())
    }

    /// An option that is a text, unless it is empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// An option that is a number; Python writes them as texts.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Kind::StringValue(text) => text.trim().parse().ok(),
            Kind::NumberValue(number) if *number >= 0.0 && *number < 9.0e15 => Some(number.trunc() as u64),
            _ => None,
        }
    }

    /// An option that is a switch.
    #[must_use]
    pub fn switch(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Kind::BoolValue(on)) => *on,
            Some(Kind::StringValue(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

fn whole_as_text(value: &mut Value) {
    match &mut value.kind {
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
            value.kind = Some(Kind::StringValue(format!("{number:.0}")));
        }
        Some(Kind::ListValue(list)) => list.values.iter_mut().for_each(whole_as_text),
        _ => {}
    }
}

/// `dataflow_kms_key` as Java writes it: `dataflowKmsKey`.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    #[test]
    fn options_are_found_in_the_forms_of_both_apis() {
        let portable = Options::new(Struct {
            fields: [
                ("beam:option:dataflow_kms_key:v1".to_owned(), text("k")),
                ("beam:option:number_of_worker_harness_threads:v1".to_owned(), text("7")),
                ("beam:option:streaming:v1".to_owned(), Value { kind: Some(Kind::BoolValue(true)) }),
            ]
            .into(),
        });
        assert_eq!(portable.text("dataflow_kms_key"), Some("k"));
        assert_eq!(portable.number("number_of_worker_harness_threads"), Some(7));
        assert!(portable.switch("streaming") && !portable.switch("other"));
        let inner = Struct {
            fields: [
                ("dataflowKmsKey".to_owned(), text("k")),
                ("max_num_workers".to_owned(), Value { kind: Some(Kind::NumberValue(3.0)) }),
                ("empty".to_owned(), text("")),
            ]
            .into(),
        };
        let options = Value { kind: Some(Kind::StructValue(inner)) };
        let dataflow = Options::new(Struct { fields: [("options".to_owned(), options)].into() });
        assert_eq!(dataflow.text("dataflow_kms_key"), Some("k"));
        assert_eq!(dataflow.number("max_num_workers"), Some(3));
        assert_eq!(dataflow.text("empty"), None);
    }

    #[test]
    fn whole_numbers_reach_workers_as_texts() {
        let number = |number| Value { kind: Some(Kind::NumberValue(number)) };
        let fields = [("threads".to_owned(), number(3.0)), ("rate".to_owned(), number(0.5))].into();
        let options = Value { kind: Some(Kind::StructValue(Struct { fields })) };
        let options = Options::new(Struct { fields: [("options".to_owned(), options)].into() });
        let sent = Options::new(options.for_workers());
        assert_eq!((sent.text("threads"), sent.number("threads")), (Some("3"), Some(3)));
        assert_eq!(sent.get("rate"), Some(&Kind::NumberValue(0.5)));
    }
}
