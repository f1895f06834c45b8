//! Our `.proto` files say the same as the official ones, in all that they say.
//!
//! The official descriptors come from the packages that `clients/python/descriptors/requirements.txt` pins:
//! `dump.py` there writes them to a file, and `CLAVIGER_OFFICIAL_DESCRIPTORS` names it. Each name, number,
//! type, label, enum value, method and HTTP rule of ours is looked up there. What ours leave out is no
//! difference, but a field left out of a message that we have must be in [`LEFT_OUT`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use claviger_proto::{FILE_DESCRIPTOR_SET, pool};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

/// Fields that our messages do without, each with the reason.
const LEFT_OUT: [(&str, &str); 3] = [
    ("google.rpc.BadRequest.FieldViolation.localized_message", "messages are in English"),
    ("google.cloud.kms.v1.CryptoKeyVersion.attestation", "sent for hardware keys only"),
    ("google.bigtable.admin.v2.Table.restore_info", "sent for restored tables only"),
];

/// HTTP rules that the public API has and the packages do not show.
const ELSEWHERE: [(&str, &str); 2] = [
    // In the discovery document of bigtableadmin v2; gcloud lists zones with them.
    ("google.cloud.location.Locations.ListLocations", "get /v2/{name=projects/*}/locations"),
    ("google.cloud.location.Locations.GetLocation", "get /v2/{name=projects/*/locations/*}"),
];

/// All that a descriptor set says: a thing's kind and full name, and what is said of it.
#[derive(Default)]
struct Facts {
    said: BTreeMap<String, String>,
    fields: BTreeMap<String, BTreeSet<String>>,
    rules: BTreeMap<String, BTreeSet<String>>,
}

impl Facts {
    fn read(encoded: &[u8]) -> Self {
        let set = pool().get_message_by_name("google.protobuf.FileDescriptorSet").expect("in the pool");
        let set = DynamicMessage::decode(set, encoded).expect("an encoded FileDescriptorSet");
        let mut facts = Self::default();
        for file in messages(&set, "file") {
            let package = string(&file, "package");
            if package == "google.protobuf" {
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

/// Every way in which `ours` differs from `official`, as sentences.
fn differences(ours: &Facts, official: &Facts) -> Vec<String> {
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
            if !fields.contains(field) && !LEFT_OUT.iter().any(|(left_out, _)| *left_out == name) {
                found.push(format!("{name}: ours leaves it out, and LEFT_OUT does not say why"));
            }
        }
    }
    for (method, rules) in &ours.rules {
        let public = official.rules.get(method).cloned().unwrap_or_default();
        for rule in rules {
            if !public.contains(rule) && !ELSEWHERE.contains(&(method.as_str(), rule.as_str())) {
                found.push(format!("{method}: the official API has no rule `{rule}`, but {public:?}"));
            }
        }
        if rules.is_empty() && !public.is_empty() {
            found.push(format!("{method}: ours has no HTTP rule, the official has {public:?}"));
        }
    }
    found
}

#[test]
#[ignore = "needs the official descriptors: `cargo xtask test` fetches them"]
fn ours_say_the_same_as_the_official_descriptors() {
    let path = std::env::var("CLAVIGER_OFFICIAL_DESCRIPTORS")
        .expect("set CLAVIGER_OFFICIAL_DESCRIPTORS to what clients/python/descriptors/dump.py wrote");
    let official = Facts::read(&fs::read(&path).expect("a readable file"));
    let ours = Facts::read(FILE_DESCRIPTOR_SET);
    assert!(ours.said.len() > 1000 && official.said.len() > ours.said.len(), "one of the sets is not whole");
    let found = differences(&ours, &official);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_changed_word_is_named() {
    let official = Facts::read(FILE_DESCRIPTOR_SET);
    assert!(differences(&Facts::read(FILE_DESCRIPTOR_SET), &official).is_empty());
    let cases = [
        ("field google.bigtable.v2.Mutation.SetCell.value", "number 4", "number 5"),
        ("field google.bigtable.v2.Mutation.SetCell.value", "type 12", "type 9"),
        ("field google.bigtable.v2.Row.families", "label 3", "label 1"),
        ("field google.bigtable.v2.RowFilter.sink", "oneof filter", "oneof -"),
        ("value google.cloud.kms.v1.CryptoKeyVersion.CryptoKeyVersionState.DISABLED", "number 2", "number 3"),
        ("method google.bigtable.v2.Bigtable.ReadRows", "(stream true)", "(stream false)"),
    ];
    for (thing, word, other) in cases {
        let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
        let said = broken.said.get_mut(thing).unwrap_or_else(|| panic!("{thing} is not there"));
        assert!(said.contains(word), "{thing}: {said}");
        *said = said.replace(word, other);
        let found = differences(&broken, &official);
        assert!(found.len() == 1 && found[0].starts_with(thing), "{found:?}");
    }
}

#[test]
fn a_changed_rule_and_a_lost_field_are_named() {
    let official = Facts::read(FILE_DESCRIPTOR_SET);
    let method = "google.cloud.kms.v1.KeyManagementService.Encrypt";
    let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
    broken.rules.insert(method.into(), BTreeSet::from(["post /v1/{name=**}:encrypt body *".into()]));
    let found = differences(&broken, &official);
    assert!(found.len() == 1 && found[0].starts_with(method), "{found:?}");

    let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
    broken.fields.get_mut("google.iam.v1.Policy").expect("there").remove("etag");
    let found = differences(&broken, &official);
    assert!(found.len() == 1 && found[0].starts_with("google.iam.v1.Policy.etag"), "{found:?}");
}
