//! How fast elements become records and records become groups, on one core and without a shuffle between.
//! `cargo run --release -p claviger-beam --example group_speed`

#![expect(clippy::disallowed_methods, reason = "it measures the real time")]
#![expect(clippy::print_stdout, reason = "it is a program of the command line")]

use std::time::Instant;

use bytes::Bytes;
use claviger_beam::group::{CHUNK_BYTES, GroupByKey};
use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::Result;

const ELEMENTS: u32 = 5_000_000;
const PER_CHUNK: u32 = 10_000;
const PER_KEY: u32 = 5;

fn components() -> pipeline::Components {
    let mut components = pipeline::Components::default();
    for (id, urn, parts) in [
        ("own", "own", &[][..]),
        ("prefixed", urn::coder::LENGTH_PREFIX, &["own"]),
        ("int", urn::coder::VARINT, &[]),
        ("kv", urn::coder::KV, &["prefixed", "int"]),
        ("global", urn::coder::GLOBAL_WINDOW, &[]),
        ("wire", urn::coder::WINDOWED_VALUE, &["kv", "global"]),
    ] {
        let spec = pipeline::FunctionSpec { urn: urn.to_owned(), payload: Bytes::new() };
        let component_coder_ids = parts.iter().map(|part| (*part).to_owned()).collect();
        components.coders.insert(id.to_owned(), pipeline::Coder { spec: Some(spec), component_coder_ids });
    }
    let spec = pipeline::FunctionSpec { urn: urn::window_fn::GLOBAL.to_owned(), payload: Bytes::new() };
    let strategy = pipeline::WindowingStrategy { window_fn: Some(spec), ..Default::default() };
    components.windowing_strategies.insert("global".to_owned(), strategy);
    components
}

fn chunk() -> Vec<u8> {
    let header = [&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x0f][..], &[5]].concat();
    (0..PER_CHUNK)
        .flat_map(|n| {
            let value = (n % 128) as u8;
            [&header[..], b"k", &n.to_be_bytes(), &[value]].concat()
        })
        .collect()
}

fn main() -> Result<()> {
    let group = GroupByKey::new("global", "wire", &components())?;
    let chunk = chunk();
    let (mut bytes, started) = (0, Instant::now());
    for _ in 0..ELEMENTS / PER_CHUNK {
        group.records(&chunk, &mut |record| {
            bytes += record.key.len() + record.sort.len() + record.value.len();
            Ok(())
        })?;
    }
    report("elements to records", started, bytes);

    let (mut bytes, started) = (0, Instant::now());
    let value = Bytes::from_static(&[7]);
    let mut keyed = group.key(Bytes::new());
    for n in 0..ELEMENTS / PER_KEY {
        keyed.begin(Bytes::copy_from_slice(&n.to_be_bytes()));
        for _ in 0..PER_KEY {
            keyed.push(&[], &value)?;
        }
        keyed.end(None)?;
        if keyed.ready() >= CHUNK_BYTES {
            bytes += keyed.take().len();
        }
    }
    report("records to groups", started, bytes);
    Ok(())
}

fn report(what: &str, started: Instant, bytes: usize) {
    let nanos = started.elapsed().as_nanos() / u128::from(ELEMENTS);
    println!("{what}: {nanos} ns each, {bytes} bytes");
}
