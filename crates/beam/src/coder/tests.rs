//! Coders against bytes of our own, and against bytes of no one's.

use bytes::Bytes;
use claviger_beam_proto::pipeline;
use pipeline::field_type::TypeInfo;
use prost::Message;

use super::value::{Value, decode, encode};
use super::*;
use crate::testing::{coder, components, put_coder};
use crate::urn::{coder as urns, logical_type};

fn field(name: &str, type_info: TypeInfo, nullable: bool, position: i32) -> pipeline::Field {
    let kind = pipeline::FieldType { nullable, type_info: Some(type_info) };
    pipeline::Field {
        name: name.to_owned(),
        r#type: Some(kind),
        encoding_position: position,
        ..Default::default()
    }
}

fn atomic(kind: pipeline::AtomicType) -> TypeInfo {
    TypeInfo::AtomicType(kind.into())
}

fn schema(fields: Vec<pipeline::Field>, encoding_positions_set: bool) -> Bytes {
    pipeline::Schema { fields, encoding_positions_set, ..Default::default() }.encode_to_vec().into()
}

/// All the coders that we know, by name.
fn all() -> pipeline::Components {
    let mut all = components(&[
        ("bytes", urns::BYTES, &[]),
        ("text", urns::STRING_UTF8, &[]),
        ("bool", urns::BOOL, &[]),
        ("int", urns::VARINT, &[]),
        ("double", urns::DOUBLE, &[]),
        ("global", urns::GLOBAL_WINDOW, &[]),
        ("interval", urns::INTERVAL_WINDOW, &[]),
        ("own", "beam:coder:pickled_python:v1", &[]),
        ("prefixed", urns::LENGTH_PREFIX, &["own"]),
        ("prefixed_kv", urns::LENGTH_PREFIX, &["kv"]),
        ("kv", urns::KV, &["bytes", "double"]),
        ("ints", urns::ITERABLE, &["int"]),
        ("globals", urns::ITERABLE, &["global"]),
        ("doubles", urns::STATE_BACKED_ITERABLE, &["double"]),
        ("timer", urns::TIMER, &["text", "interval"]),
        ("custom", urns::CUSTOM_WINDOW, &["prefixed"]),
        ("windowed", urns::WINDOWED_VALUE, &["kv", "custom"]),
        ("sharded", urns::SHARDED_KEY, &["text"]),
        ("nullable", urns::NULLABLE, &["bool"]),
        ("deep", urns::KV, &["timer", "windowed"]),
    ]);
    let fields = vec![
        field("a", atomic(pipeline::AtomicType::String), true, 0),
        field("b", atomic(pipeline::AtomicType::Int16), false, 1),
        field("c", atomic(pipeline::AtomicType::Bytes), true, 2),
    ];
    put_coder(&mut all, "row", urns::ROW, &[], schema(fields, false));
    all
}

#[test]
fn elements_end_where_their_coders_say() {
    let all = all();
    let cases: [(&str, &[u8]); 17] = [
        ("bytes", b"\x03abc"),
        ("text", b"\x02\xc3\xbf"),
        ("bool", b"\x01"),
        ("int", b"\xc8\x01"),
        ("double", b"12345678"),
        ("global", b""),
        ("prefixed", b"\x02??"),
        ("kv", b"\x01k12345678"),
        ("ints", b"\0\0\0\x02\x01\xc8\x01"),
        ("ints", b"\xff\xff\xff\xff\x01\x07\x02\x01\x02\0"),
        ("globals", b"\0\0\xff\xff"),
        ("doubles", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02!!"),
        ("custom", b"12345678\x01w"),
        ("sharded", b"\x01s\x03key"),
        ("nullable", b"\0"),
        ("nullable", b"\x01\x01"),
        ("row", b"\x03\x01\x01\x01\x02\x01c"),
    ];
    for (id, bytes) in cases {
        let coder = coder(id, &all);
        assert!(coder.is_walkable(), "{id}");
        let mut input = [bytes, b"rest"].concat();
        assert_eq!(coder.take(&mut input.as_slice()).expect("an element"), bytes, "{id}");
        input.truncate(bytes.len().saturating_sub(1));
        if !bytes.is_empty() {
            assert!(coder.skip(&mut input.as_slice()).is_err(), "{id} cut short");
        }
    }
}

#[test]
fn what_the_runner_does_not_know_is_walkable_only_behind_a_length() {
    let all = all();
    assert!(!coder("own", &all).is_walkable());
    assert!(coder("own", &all).skip(&mut &b"abc"[..]).is_err());
    assert!(coder("prefixed", &all).is_walkable() && coder("windowed", &all).is_walkable());
    let mut inside = components(&[
        ("own", "beam:coder:pickled_python:v1", &[]),
        ("list", urns::ITERABLE, &["own"]),
        ("maybe", urns::NULLABLE, &["list"]),
    ]);
    assert!(!coder("maybe", &inside).is_walkable());
    // A logical type of a user's own, and null bits whose order SDKs do not agree on.
    let own = pipeline::LogicalType { urn: "own".to_owned(), ..Default::default() };
    let fields = vec![field("a", TypeInfo::LogicalType(Box::new(own)), false, 0)];
    put_coder(&mut inside, "own_row", urns::ROW, &[], schema(fields, false));
    assert!(!coder("own_row", &inside).is_walkable());
    for (nullable, walkable) in [(true, false), (false, true)] {
        let fields = vec![
            field("a", atomic(pipeline::AtomicType::Int64), nullable, 1),
            field("b", atomic(pipeline::AtomicType::Int64), false, 0),
        ];
        put_coder(&mut inside, "turned", urns::ROW, &[], schema(fields, true));
        assert_eq!(coder("turned", &inside).is_walkable(), walkable);
    }
}

#[test]
fn components_that_make_no_sense_are_refused_by_name() {
    let mut bad = components(&[
        ("a", urns::KV, &["b", "b"]),
        ("b", urns::ITERABLE, &["a"]),
        ("missing", urns::ITERABLE, &["nowhere"]),
        ("three", urns::KV, &["int", "int", "int"]),
        ("int", urns::VARINT, &[]),
        ("d0", urns::VARINT, &[]),
        ("w0", urns::BOOL, &[]),
    ]);
    // Deep, and wide: each of 40 coders names the one before twice.
    for depth in 1..=100 {
        let before = format!("d{}", depth - 1);
        put_coder(&mut bad, &format!("d{depth}"), urns::ITERABLE, &[&before], Bytes::new());
    }
    for depth in 1..=40 {
        let before = format!("w{}", depth - 1);
        put_coder(&mut bad, &format!("w{depth}"), urns::KV, &[&before, &before], Bytes::new());
    }
    put_coder(&mut bad, "row", urns::ROW, &[], Bytes::from_static(&[0xff]));
    let twice = vec![
        field("a", atomic(pipeline::AtomicType::Int64), false, 1),
        field("b", atomic(pipeline::AtomicType::Int64), false, 1),
    ];
    put_coder(&mut bad, "twice", urns::ROW, &[], schema(twice, true));
    for id in ["a", "b", "missing", "three", "nowhere", "d100", "w40", "row", "twice"] {
        let error = Coder::from_components(id, &bad).expect_err(id);
        assert_eq!(error.kind(), claviger_core::ErrorKind::InvalidArgument, "{id}");
    }
    assert!(coder("d50", &bad).is_walkable());
    assert_eq!(coder("w10", &bad).width(), Some(1 << 10));
}

#[test]
fn counts_without_bytes_cost_nothing() {
    let mut all = all();
    put_coder(&mut all, "lists", urns::ITERABLE, &["globals"], Bytes::new());
    // Two thousand million elements of no bytes, in an instant; decoding them is refused.
    let globals = coder("globals", &all);
    let bytes = b"\x7f\xff\xff\xff";
    assert_eq!(globals.take(&mut &bytes[..]).expect("skipped"), bytes);
    assert!(decode(&globals, &mut &bytes[..], true).is_err());
    for hostile in [
        &b"\x7f\xff\xff\xff\0"[..],
        b"\xff\xff\xff\xfe",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        assert!(coder("lists", &all).skip(&mut { hostile }).is_err());
        assert!(coder("doubles", &all).skip(&mut { hostile }).is_err());
        assert!(decode(&coder("doubles", &all), &mut { hostile }, true).is_err());
    }
}

#[test]
fn rows_of_every_type_come_back() {
    let of = |type_info| Some(Box::new(pipeline::FieldType { nullable: true, type_info: Some(type_info) }));
    let logical = |urn: &str, representation| {
        let logical = pipeline::LogicalType { urn: urn.to_owned(), representation, ..Default::default() };
        TypeInfo::LogicalType(Box::new(logical))
    };
    let text = || atomic(pipeline::AtomicType::String);
    let array = pipeline::ArrayType { element_type: of(text()) };
    let iterable = pipeline::IterableType { element_type: of(atomic(pipeline::AtomicType::Int32)) };
    let map = pipeline::MapType { key_type: of(text()), value_type: of(atomic(pipeline::AtomicType::Float)) };
    let inner = pipeline::Schema {
        fields: vec![field("x", atomic(pipeline::AtomicType::Byte), false, 0)],
        ..Default::default()
    };
    let fields = vec![
        field("array", TypeInfo::ArrayType(Box::new(array)), false, 0),
        field("iterable", TypeInfo::IterableType(Box::new(iterable)), false, 0),
        field("map", TypeInfo::MapType(Box::new(map)), false, 0),
        field("row", TypeInfo::RowType(pipeline::RowType { schema: Some(inner) }), true, 0),
        field("instant", logical(logical_type::MILLIS_INSTANT, None), false, 0),
        field("decimal", logical(logical_type::DECIMAL, None), false, 0),
        field("chars", logical(logical_type::VAR_CHAR, of(text())), false, 0),
        field("absent", atomic(pipeline::AtomicType::Boolean), true, 0),
        field("int32", atomic(pipeline::AtomicType::Int32), false, 0),
    ];
    let mut all = all();
    put_coder(&mut all, "wide", urns::ROW, &[], schema(fields, false));
    let coder = coder("wide", &all);
    let string = |text: &str| Value::String(text.to_owned());
    let value = Value::Row(vec![
        Value::Iterable(vec![string("a"), Value::Null], None),
        Value::Iterable(vec![Value::Int(-1)], None),
        Value::Map(vec![(string("k"), Value::Float(0.5))]),
        Value::Row(vec![Value::Int(-128)]),
        Value::Instant(-5),
        Value::Decimal { scale: 2, unscaled: Bytes::from_static(&[0xff]) },
        string("vc"),
        Value::Null,
        Value::Int(-7),
    ]);
    let mut bytes = Vec::new();
    encode(&coder, &value, true, &mut bytes).expect("encoded");
    assert_eq!(coder.take(&mut bytes.as_slice()).expect("skipped"), bytes);
    assert_eq!(decode(&coder, &mut bytes.as_slice(), true).expect("decoded"), value);
    let Kind::Row(row) = coder.kind() else { panic!("a row") };
    assert_eq!(row.names().last(), Some("int32"));
}

/// A generator of numbers that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn no_bytes_make_a_coder_panic_and_what_decodes_skips() {
    let all = all();
    let coders: Vec<_> = all.coders.keys().map(|id| (id, coder(id, &all))).collect();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut decoded, mut rounds) = (0, 0);
    while rounds < 200_000 {
        rounds += 1;
        let (id, coder) = &coders[usize::try_from(numbers.next()).expect("64 bits") % coders.len()];
        // Small numbers, so that counts and lengths often make sense.
        let bytes: Vec<u8> = (0..numbers.next() % 40)
            .map(|_| [0, 0, 0, 1, 2, 0xff, (numbers.next() >> 9) as u8][(numbers.next() % 7) as usize])
            .collect();
        let (mut skipped, mut read) = (bytes.as_slice(), bytes.as_slice());
        let skip = coder.skip(&mut skipped);
        if let Ok(value) = decode(coder, &mut read, true) {
            decoded += 1;
            assert!(skip.is_ok(), "{id}: {value:?}");
            assert_eq!(skipped, read, "{id}: {value:?}");
            let mut again = Vec::new();
            if encode(coder, &value, true, &mut again).is_err() {
                // An older row lacks fields that are not nullable now.
                assert!(format!("{value:?}").contains("Null"), "{id}: {value:?}");
                continue;
            }
            let back = decode(coder, &mut again.as_slice(), true).expect("what was encoded");
            assert_eq!(format!("{back:?}"), format!("{value:?}"), "{id}");
        }
    }
    assert!(decoded > 20_000, "only {decoded} of {rounds} made sense");
}
