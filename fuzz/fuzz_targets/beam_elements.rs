//! Reading any bytes as elements of a Beam pipeline, by coders that the first bytes choose: never a panic. What
//! decodes is skipped to the same place, and what is grouped comes out as elements again.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use claviger_beam::coder::value::decode;
use claviger_beam::elements::Elements;
use claviger_beam::side::SideInput;
use claviger_beam::timer::TimerCoder;
use claviger_beam::urn::{coder, side_input, window_fn};
use claviger_beam::{Coder, GroupByKey};
use claviger_beam_proto::pipeline;
use libfuzzer_sys::fuzz_target;

const CODERS: [(&str, &str, &[&str]); 24] = [
    ("bytes", coder::BYTES, &[]),
    ("text", coder::STRING_UTF8, &[]),
    ("bool", coder::BOOL, &[]),
    ("int", coder::VARINT, &[]),
    ("double", coder::DOUBLE, &[]),
    ("global", coder::GLOBAL_WINDOW, &[]),
    ("interval", coder::INTERVAL_WINDOW, &[]),
    ("own", "own", &[]),
    ("prefixed", coder::LENGTH_PREFIX, &["own"]),
    ("kv", coder::KV, &["bytes", "prefixed"]),
    ("ints", coder::ITERABLE, &["int"]),
    ("globals", coder::ITERABLE, &["global"]),
    ("backed", coder::STATE_BACKED_ITERABLE, &["ints"]),
    ("timer", coder::TIMER, &["text", "interval"]),
    ("custom", coder::CUSTOM_WINDOW, &["prefixed"]),
    ("sharded", coder::SHARDED_KEY, &["text"]),
    ("nullable", coder::NULLABLE, &["double"]),
    ("grouped", coder::KV, &["bytes", "prefixeds"]),
    ("prefixeds", coder::ITERABLE, &["prefixed"]),
    ("wire_global", coder::WINDOWED_VALUE, &["kv", "global"]),
    ("wire_interval", coder::WINDOWED_VALUE, &["kv", "interval"]),
    ("out_global", coder::WINDOWED_VALUE, &["grouped", "global"]),
    ("out_interval", coder::WINDOWED_VALUE, &["grouped", "interval"]),
    ("deep", coder::KV, &["timer", "wire_interval"]),
];

static COMPONENTS: LazyLock<pipeline::Components> = LazyLock::new(|| {
    let mut components = pipeline::Components::default();
    let spec = |urn: &str, payload: &'static [u8]| {
        Some(pipeline::FunctionSpec { urn: urn.to_owned(), payload: Bytes::from_static(payload) })
    };
    for (id, urn, parts) in CODERS {
        let component_coder_ids = parts.iter().map(|part| (*part).to_owned()).collect();
        components
            .coders
            .insert(id.to_owned(), pipeline::Coder { spec: spec(urn, &[]), component_coder_ids });
    }
    // A second, as the sessions' gap and the windows' size.
    let second: &[u8] = &[0x0a, 0x02, 0x08, 0x01];
    for (id, urn, payload) in [
        ("global", window_fn::GLOBAL, &[][..]),
        ("interval", window_fn::FIXED, second),
        ("sessions", window_fn::SESSIONS, second),
    ] {
        let mut strategy =
            pipeline::WindowingStrategy { window_fn: spec(urn, payload), ..Default::default() };
        strategy.set_output_time(pipeline::output_time::Enum::LatestInPane);
        components.windowing_strategies.insert(id.to_owned(), strategy);
    }
    components
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let components = &*COMPONENTS;
    let (id, _, _) = CODERS[usize::from(choice) % CODERS.len()];
    let coder = Coder::from_components(id, components).expect("a coder of ours");
    let (mut skipped, mut read) = (data, data);
    let skip = coder.skip(&mut skipped);
    if decode(&coder, &mut read, true).is_ok() {
        assert!(skip.is_ok());
        assert_eq!(skipped, read);
    }
    let _ = decode(&coder, &mut { data }, false);
    let _ = TimerCoder::new("timer", components).expect("a coder of ours").read(&mut { data });
    for access in [side_input::ITERABLE, side_input::MULTIMAP] {
        let side = SideInput::new(access, "wire_interval", components).expect("a side input of ours");
        let _ = side.for_each(data, &mut |_| Ok(()));
    }
    for (strategy, window) in [("global", "global"), ("interval", "interval"), ("sessions", "interval")] {
        group(strategy, window, components, data);
    }
});

fn group(strategy: &str, window: &str, components: &pipeline::Components, data: &[u8]) {
    let group = GroupByKey::new(strategy, &format!("wire_{window}"), components).expect("a strategy of ours");
    let mut records = Vec::new();
    let elements = group.records(data, &mut |record| {
        records.push((record.key.to_vec(), record.sort.to_vec(), record.value.to_vec()));
        Ok(())
    });
    if elements.is_err() {
        return;
    }
    records.sort();
    let count = records.len() as u64;
    let mut keyed = group.key(Bytes::new());
    let mut last: Option<Vec<u8>> = None;
    for (key, sort, value) in records {
        if last.as_ref() != Some(&key) {
            keyed.end(None).expect("small groups");
            keyed.begin(key.clone().into());
            last = Some(key);
        }
        keyed.push(&sort, &value).expect("sort bytes of ours");
    }
    keyed.end(None).expect("small groups");
    let out = Elements::new(&format!("out_{window}"), components).expect("a coder of ours");
    let groups = out.count(&keyed.take()).expect("whole elements");
    assert!(groups <= count && (count == 0 || groups > 0));
}
