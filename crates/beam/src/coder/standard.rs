//! Beam's own vectors, `standard_coders.yaml` of its Python package, where `CLAVIGER_STANDARD_CODERS` names that
//! file. Each example counts once for each context that it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::pipeline;
use yaml_rust2::{Yaml, YamlLoader};

use super::value::{Timer, Value, Windowed, decode, encode};
use super::{Coder, Kind};
use crate::testing::put_coder;
use crate::window::IntervalWindow;
use crate::windowed::{Pane, Timing};

/// The examples of the file in Beam 2.77.0; a later one may have more.
const CASES_OF_2_77: usize = 227;

#[test]
fn standard_coders_read_and_write_as_beams_do() {
    let Some(path) = std::env::var_os("CLAVIGER_STANDARD_CODERS") else {
        eprintln!("skipped: CLAVIGER_STANDARD_CODERS does not name Beam's standard_coders.yaml");
        return;
    };
    let text = std::fs::read_to_string(path).expect("the file");
    let (mut passed, mut not_decoded) = (0, BTreeSet::new());
    for section in YamlLoader::load_from_str(&text).expect("YAML") {
        let mut components = pipeline::Components::default();
        let id = put(&mut components, &section["coder"]);
        let coder = Coder::from_components(&id, &components).expect("a coder");
        if let Kind::Opaque { urn } = coder.kind() {
            not_decoded.insert(urn.clone());
            continue;
        }
        let contexts = section["nested"].as_bool().map_or(vec![false, true], |nested| vec![nested]);
        let decode_only =
            [&section, &section["coder"]].iter().any(|at| at["non_deterministic"].as_bool() == Some(true));
        let state = state(&section["coder"]["state"], &section["state"]);
        for (bytes, expected) in section["examples"].as_hash().expect("examples") {
            let bytes = latin1(bytes.as_str().expect("bytes"));
            let expected = value(&coder, expected);
            for &nested in &contexts {
                passed += 1;
                let mut input = bytes.as_slice();
                let mut decoded = decode(&coder, &mut input, nested).expect("decoded");
                assert!(input.is_empty());
                if nested && coder.is_walkable() {
                    assert_eq!(coder.take(&mut bytes.as_slice()).expect("skipped"), bytes);
                }
                let mut again = Vec::new();
                encode(&coder, &decoded, nested, &mut again).expect("encoded");
                resolve(&coder, &mut decoded, &state);
                assert_eq!(
                    format!("{decoded:?}"),
                    format!("{expected:?}"),
                    "{}",
                    section["coder"]["urn"].as_str().unwrap_or("")
                );
                if !decode_only {
                    assert_eq!(again, bytes, "{expected:?}");
                    again.clear();
                    encode(&coder, &expected, nested, &mut again).expect("encoded");
                    assert_eq!(again, bytes, "{expected:?}");
                }
            }
        }
    }
    eprintln!("standard coders: {passed} cases passed; coders not decoded: {not_decoded:?}");
    assert!(not_decoded.is_empty(), "{not_decoded:?}");
    assert!(passed >= CASES_OF_2_77, "only {passed} cases");
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

fn put(components: &mut pipeline::Components, spec: &Yaml) -> String {
    let parts: Vec<_> =
        spec["components"].as_vec().into_iter().flatten().map(|part| put(components, part)).collect();
    let id = format!("c{}", components.coders.len());
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    let payload = latin1(spec["payload"].as_str().unwrap_or(""));
    put_coder(components, &id, spec["urn"].as_str().expect("a URN"), &parts, payload.into());
    id
}

fn state(first: &Yaml, second: &Yaml) -> BTreeMap<Vec<u8>, Vec<u8>> {
    [first, second]
        .into_iter()
        .filter_map(Yaml::as_hash)
        .flatten()
        .map(|(token, rest)| {
            (latin1(token.as_str().expect("a token")), latin1(rest.as_str().expect("bytes")))
        })
        .collect()
}

/// Puts what is behind a token in its place.
fn resolve(coder: &Arc<Coder>, value: &mut Value, state: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let (Value::Iterable(values, token), Kind::StateBackedIterable(element)) = (value, coder.kind()) else {
        return;
    };
    if let Some(rest) = token.take().and_then(|token| state.get(token.as_ref())) {
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            values.push(decode(element, &mut rest, true).expect("an element"));
        }
    }
}

fn number(yaml: &Yaml) -> f64 {
    match yaml {
        Yaml::String(text) => text.parse().expect("a number"),
        Yaml::Integer(number) => *number as f64,
        _ => yaml.as_f64().expect("a number"),
    }
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().expect("text").to_owned()
}

fn integer(yaml: &Yaml) -> i64 {
    yaml.as_i64().expect("an integer")
}

fn values(coder: &Coder, yaml: &Yaml) -> Vec<Value> {
    yaml.as_vec().expect("a list").iter().map(|yaml| value(coder, yaml)).collect()
}

fn pane(yaml: &Yaml) -> Pane {
    let timing = match yaml["timing"].as_str().expect("a timing") {
        "EARLY" => Timing::Early,
        "ON_TIME" => Timing::OnTime,
        "LATE" => Timing::Late,
        _ => Timing::Unknown,
    };
    Pane {
        first: yaml["is_first"].as_bool().expect("a boolean"),
        last: yaml["is_last"].as_bool().expect("a boolean"),
        timing,
        index: integer(&yaml["index"]),
        nonspeculative_index: integer(&yaml["on_time_index"]),
    }
}

/// A decimal's text as its digits and their scale.
fn decimal(text: &str) -> Value {
    let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let digits: i64 = text.replace('.', "").parse().expect("digits");
    let bytes = digits.to_be_bytes();
    let spare = (0..7).take_while(|&at| {
        let sign = if digits < 0 { 0xff } else { 0 };
        bytes[at] == sign && (bytes[at + 1] ^ sign) < 0x80
    });
    let unscaled = Bytes::copy_from_slice(&bytes[spare.count()..]);
    Value::Decimal { scale: i64::try_from(scale).expect("short"), unscaled }
}

fn value(coder: &Coder, yaml: &Yaml) -> Value {
    let boxed = |coder: &Coder, yaml: &Yaml| Box::new(value(coder, yaml));
    match coder.kind() {
        Kind::Bytes => Value::Bytes(text(yaml).into_bytes().into()),
        Kind::StringUtf8 => Value::String(text(yaml)),
        Kind::Bool => Value::Bool(yaml.as_bool().expect("a boolean")),
        Kind::VarInt | Kind::VarInt32 | Kind::Int16 | Kind::Byte => Value::Int(integer(yaml)),
        Kind::Double => Value::Double(number(yaml)),
        Kind::Float => Value::Float(number(yaml) as f32),
        // The file has the eight bytes as a number.
        Kind::Instant => Value::Instant(integer(yaml) ^ i64::MIN),
        Kind::Decimal => decimal(&text(yaml)),
        Kind::Kv(key, inner) => Value::Kv(boxed(key, &yaml["key"]), boxed(inner, &yaml["value"])),
        Kind::Iterable(element) | Kind::StateBackedIterable(element) => {
            Value::Iterable(values(element, yaml), None)
        }
        Kind::Map(key, inner) => {
            let entries = yaml.as_hash().expect("a map").iter();
            Value::Map(entries.map(|(k, v)| (value(key, k), value(inner, v))).collect())
        }
        Kind::IntervalWindow => {
            let end = integer(&yaml["end"]);
            Value::IntervalWindow(IntervalWindow { start: end.wrapping_sub(integer(&yaml["span"])), end })
        }
        Kind::GlobalWindow => Value::GlobalWindow,
        Kind::CustomWindow(window) => {
            let window = value(window, &yaml["window"]);
            let Value::IntervalWindow(interval) = window else { panic!("an interval") };
            Value::CustomWindow(interval.max_timestamp(), Box::new(window))
        }
        Kind::WindowedValue { value: inner, window }
        | Kind::ParamWindowedValue { value: inner, window, .. } => Value::Windowed(Box::new(Windowed {
            timestamp_millis: integer(&yaml["timestamp"]),
            windows: values(window, &yaml["windows"]),
            pane: pane(&yaml["pane"]),
            value: value(inner, &yaml["value"]),
        })),
        Kind::Timer { key, window } => {
            let set = (yaml["clearBit"].as_bool() == Some(false)).then(|| {
                (integer(&yaml["fireTimestamp"]), integer(&yaml["holdTimestamp"]), pane(&yaml["pane"]))
            });
            Value::Timer(Box::new(Timer {
                key: value(key, &yaml["userKey"]),
                tag: text(&yaml["dynamicTimerTag"]),
                windows: values(window, &yaml["windows"]),
                set,
            }))
        }
        Kind::Row(row) => Value::Row(
            row.fields
                .iter()
                .map(|field| match &yaml[field.name.as_str()] {
                    Yaml::Null => Value::Null,
                    present => value(&field.coder, present),
                })
                .collect(),
        ),
        Kind::ShardedKey(key) => {
            Value::ShardedKey(text(&yaml["shardId"]).into_bytes().into(), boxed(key, &yaml["key"]))
        }
        Kind::Nullable(_) if yaml.is_null() => Value::Null,
        Kind::Nullable(inner) => value(inner, yaml),
        Kind::LengthPrefix(inner) => value(inner, yaml),
        Kind::Opaque { urn } => panic!("{urn}"),
    }
}
