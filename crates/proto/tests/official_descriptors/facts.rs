//! What a descriptor set says, as sentences that can be compared with another's.
//!
//! Invariant: what is not understood is not taken for equal: each field, value, method and rule is one sentence
//! in full.

use std::collections::{BTreeMap, BTreeSet};

use claviger_proto::pool;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

/// All that a descriptor set says: a thing's kind and full name, and what is said of it.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) said: BTreeMap<String, String>,
    pub(crate) fields: BTreeMap<String, BTreeSet<String>>,
    pub(crate) rules: BTreeMap<String, BTreeSet<String>>,
}

impl Facts {
    pub(crate) fn read(encoded: &[u8]) -> Self {
        let set = pool().get_message_by_name("google.protobuf.FileDescriptorSet").expect("in the pool");
        let set = DynamicMessage::decode(set, encoded).expect("an encoded FileDescriptorSet");
        let mut facts = Self::default();
        for file in messages(&set, "file") {
            let package = string(&file, "package");
            // Those that are ours alone have no official shape.
            if package == "google.protobuf" || package.starts_with("claviger.") {
                continue;
            }
            for message in messages(&file, "message_type") {
                facts.message(&package, &message);
            }
            for enumeration in messages(&file, "enum_type") {
                facts.enumeration(&package, &enumeration);
            }
            for service in messages(&file, "service") {
                facts.service(&package, &service);
            }
        }
        facts
    }

    fn message(&mut self, scope: &str, message: &DynamicMessage) {
        let name = format!("{scope}.{}", string(message, "name"));
        self.said.insert(format!("message {name}"), "there".into());
        let oneofs: Vec<String> =
            messages(message, "oneof_decl").map(|oneof| string(&oneof, "name")).collect();
        let fields = self.fields.entry(name.clone()).or_default();
        for field in messages(message, "field") {
            let field_name = string(&field, "name");
            fields.insert(field_name.clone());
            let optional = boolean(&field, "proto3_optional");
            let oneof = match (field.has_field_by_name("oneof_index"), optional) {
                (true, false) => usize::try_from(number(&field, "oneof_index"))
                    .ok()
                    .and_then(|index| oneofs.get(index))
                    .cloned()
                    .unwrap_or_default(),
                _ => "-".into(),
            };
            self.said.insert(
                format!("field {name}.{field_name}"),
                format!(
                    "number {}, type {} {}, label {}, oneof {oneof}, optional {optional}",
                    number(&field, "number"),
                    number(&field, "type"),
                    string(&field, "type_name"),
                    number(&field, "label"),
                ),
            );
        }
        for nested in messages(message, "nested_type") {
            self.message(&name, &nested);
        }
        for enumeration in messages(message, "enum_type") {
            self.enumeration(&name, &enumeration);
        }
    }

    fn enumeration(&mut self, scope: &str, enumeration: &DynamicMessage) {
        let name = format!("{scope}.{}", string(enumeration, "name"));
        self.said.insert(format!("enum {name}"), "there".into());
        let values = self.fields.entry(name.clone()).or_default();
        for value in messages(enumeration, "value") {
            values.insert(string(&value, "name"));
            self.said.insert(
                format!("value {name}.{}", string(&value, "name")),
                format!("number {}", number(&value, "number")),
            );
        }
    }

    fn service(&mut self, scope: &str, service: &DynamicMessage) {
        let name = format!("{scope}.{}", string(service, "name"));
        self.said.insert(format!("service {name}"), "there".into());
        for method in messages(service, "method") {
            let name = format!("{name}.{}", string(&method, "name"));
            self.said.insert(
                format!("method {name}"),
                format!(
                    "takes {} (stream {}), gives {} (stream {})",
                    string(&method, "input_type"),
                    boolean(&method, "client_streaming"),
                    string(&method, "output_type"),
                    boolean(&method, "server_streaming"),
                ),
            );
            let rules = self.rules.entry(name).or_default();
            let http = pool().get_extension_by_name("google.api.http").expect("in the pool");
            if let Some(options) = message_of(&method, "options")
                && options.has_extension(&http)
                && let Some(rule) = options.get_extension(&http).as_message()
            {
                rules.extend(binding(rule));
                rules.extend(messages(rule, "additional_bindings").filter_map(|rule| binding(&rule)));
            }
        }
    }
}

/// One HTTP rule on a line, as `post /v1/{name=**}:verb body *`.
fn binding(rule: &DynamicMessage) -> Option<String> {
    let verb =
        ["get", "put", "post", "delete", "patch"].into_iter().find(|verb| rule.has_field_by_name(verb))?;
    let body = match string(rule, "body") {
        body if body.is_empty() => String::new(),
        body => format!(" body {body}"),
    };
    Some(format!("{verb} {}{body}", string(rule, verb)))
}

fn value(message: &DynamicMessage, field: &str) -> Value {
    message
        .get_field_by_name(field)
        .unwrap_or_else(|| panic!("{} has no {field}", message.descriptor().full_name()))
        .into_owned()
}

fn string(message: &DynamicMessage, field: &str) -> String {
    value(message, field).as_str().unwrap_or_default().to_owned()
}

fn boolean(message: &DynamicMessage, field: &str) -> bool {
    value(message, field).as_bool().unwrap_or_default()
}

fn number(message: &DynamicMessage, field: &str) -> i32 {
    let value = value(message, field);
    value.as_i32().or_else(|| value.as_enum_number()).unwrap_or_default()
}

fn message_of(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    value(message, field).as_message().cloned()
}

fn messages(message: &DynamicMessage, field: &str) -> impl Iterator<Item = DynamicMessage> {
    let Value::List(items) = value(message, field) else { panic!("{field} is no list") };
    items.into_iter().filter_map(|item| item.as_message().cloned())
}

/// Every way in which `ours` differs from `official`, as sentences. Fields that `left_out` names may be missing
/// from ours, and rules that `elsewhere` names from the official ones; both come with a reason or a method.
pub(crate) fn differences(
    ours: &Facts,
    official: &Facts,
    left_out: &[(&str, &str)],
    elsewhere: &[(&str, &str)],
) -> Vec<String> {
    let mut found = Vec::new();
    for (thing, said) in &ours.said {
        match official.said.get(thing) {
            None => found.push(format!("{thing}: the official API does not have it")),
            Some(other) if other != said => {
                found.push(format!("{thing}: ours says {said}; official: {other}"))
            }
            Some(_) => {}
        }
    }
    for (owner, fields) in &ours.fields {
        for field in official.fields.get(owner).into_iter().flatten() {
            let name = format!("{owner}.{field}");
            if !fields.contains(field) && !left_out.iter().any(|(known, _)| *known == name) {
                found.push(format!("{name}: ours leaves it out, and LEFT_OUT does not say why"));
            }
        }
    }
    for (method, rules) in &ours.rules {
        let public = official.rules.get(method).cloned().unwrap_or_default();
        for rule in rules {
            if !public.contains(rule) && !elsewhere.contains(&(method.as_str(), rule.as_str())) {
                found.push(format!("{method}: the official API has no rule `{rule}`, but {public:?}"));
            }
        }
        if rules.is_empty() && !public.is_empty() {
            found.push(format!("{method}: ours has no HTTP rule, the official has {public:?}"));
        }
    }
    found
}
