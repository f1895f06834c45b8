//! Merging windows of a user's own type: only the SDK can, and this is how it is asked.
//!
//! The SDK's `merge_windows` transform takes elements `(nonce, windows)` and puts out
//! `(nonce, (windows that stay, (result, windows merged into it)...))`, in the global window. The nonce is ours: it
//! tells the answers for many keys in one bundle apart.
//!
//! Invariant: windows pass as the window coder wrote them, so they compare as bytes.

use bytes::{Bytes, BytesMut};
use claviger_beam_proto::pipeline;
use claviger_core::Result;

use crate::coder::{Coder, Kind};
use crate::elements::Elements;
use crate::window::put_windows;
use crate::windowed::{Pane, walk};
use crate::{time, urn, wire};

/// The windows that became one, and the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// What they became.
    pub result: Bytes,
    /// What became it.
    pub originals: Vec<Bytes>,
}

/// The coders of a bundle that merges windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeCoders {
    /// Of the input PCollection's elements.
    pub input: String,
    /// Of the output PCollection's elements.
    pub output: String,
    /// Of the input on the wire.
    pub input_wire: String,
    /// Of the output on the wire.
    pub output_wire: String,
}

impl MergeCoders {
    /// Adds the coders, and what they consist of, to components that hold the window coder. The same again adds
    /// nothing.
    pub fn add(components: &mut pipeline::Components, window_coder_id: &str) -> Self {
        let id = |name: &str| format!("merge_windows_{name}_{window_coder_id}");
        let mut put = |name: &str, urn: &str, parts: &[&str]| {
            let spec = pipeline::FunctionSpec { urn: urn.to_owned(), payload: Bytes::new() };
            let component_coder_ids = parts.iter().map(|part| (*part).to_owned()).collect();
            components.coders.insert(id(name), pipeline::Coder { spec: Some(spec), component_coder_ids });
            id(name)
        };
        let bytes = put("nonce", urn::coder::BYTES, &[]);
        let global = put("global", urn::coder::GLOBAL_WINDOW, &[]);
        let windows = put("windows", urn::coder::ITERABLE, &[window_coder_id]);
        let input = put("input", urn::coder::KV, &[&bytes, &windows]);
        let merged = put("merged", urn::coder::KV, &[window_coder_id, &windows]);
        let merges = put("merges", urn::coder::ITERABLE, &[&merged]);
        let answer = put("answer", urn::coder::KV, &[&windows, &merges]);
        let output = put("output", urn::coder::KV, &[&bytes, &answer]);
        let input_wire = put("input_wire", urn::coder::WINDOWED_VALUE, &[&input, &global]);
        let output_wire = put("output_wire", urn::coder::WINDOWED_VALUE, &[&output, &global]);
        Self { input, output, input_wire, output_wire }
    }
}

/// Appends a question to a bundle's input.
///
/// # Errors
/// 2^31 windows and more.
pub fn put_question(nonce: &[u8], windows: &[Bytes], out: &mut BytesMut) -> Result<()> {
    time::put(out, time::MIN_TIMESTAMP_MILLIS);
    put_windows(out, std::iter::once(&[][..]))?;
    Pane::NO_FIRING.write(out);
    wire::put_prefixed(out, nonce);
    put_windows(out, windows.iter().map(AsRef::as_ref))
}

/// Takes a nonce, and what was merged.
pub type Answered<'a> = dyn FnMut(&[u8], Vec<Merged>) -> Result<()> + 'a;

/// Gives each answer of a chunk, nonce and merges, to `visit`.
///
/// # Errors
/// The bytes are not answers; what `visit` returns.
pub fn answers(
    output_wire_coder_id: &str,
    components: &pipeline::Components,
    chunk: &[u8],
    visit: &mut Answered<'_>,
) -> Result<()> {
    let elements = Elements::new(output_wire_coder_id, components)?;
    let Some((stay, merges)) = elements.value().key_value().and_then(|(_, answer)| answer.key_value()) else {
        return Err(wire::malformed("a coder that is not one of merged windows"));
    };
    let Kind::Iterable(merge) = merges.kind() else {
        return Err(wire::malformed("a coder that is not one of merged windows"));
    };
    let mut chunk = chunk;
    while !chunk.is_empty() {
        elements.header(&mut chunk)?;
        let nonce = wire::prefixed(&mut chunk)?;
        stay.skip(&mut chunk)?;
        let mut merged = Vec::new();
        let count = wire::int32(&mut chunk)?;
        walk(merge, count, &mut chunk, &mut |bytes| {
            merged.push(read_merge(merge, bytes)?);
            Ok(())
        })?;
        visit(nonce, merged)?;
    }
    Ok(())
}

fn read_merge(merge: &Coder, mut bytes: &[u8]) -> Result<Merged> {
    let Some((window, _)) = merge.key_value() else {
        return Err(wire::malformed("a coder that is not one of merged windows"));
    };
    let result = Bytes::copy_from_slice(window.take(&mut bytes)?);
    let count = wire::int32(&mut bytes)?;
    let mut originals = Vec::new();
    walk(window, count, &mut bytes, &mut |window| {
        originals.push(Bytes::copy_from_slice(window));
        Ok(())
    })?;
    Ok(Merged { result, originals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::components;
    use crate::window::IntervalWindow;

    #[test]
    fn questions_and_answers_carry_windows_as_bytes() {
        let mut components = components(&[("w", urn::coder::INTERVAL_WINDOW, &[])]);
        let coders = MergeCoders::add(&mut components, "w");
        assert_eq!(MergeCoders::add(&mut components, "w"), coders);
        let [a, b, c] =
            [(0, 10), (5, 15), (20, 30)].map(|(start, end)| IntervalWindow { start, end }.encode());
        let whole = IntervalWindow { start: 0, end: 15 }.encode();

        let mut question = BytesMut::new();
        put_question(b"key", &[a.clone(), b.clone(), c.clone()], &mut question).expect("question");
        let asked = Elements::key_values(&coders.input_wire, &components).expect("coder");
        let count = asked.for_each(&question, |pair| {
            assert_eq!(pair.key, b"\x03key");
            assert_eq!(pair.value, [&[0, 0, 0, 3], &a[..], &b, &c].concat());
            Ok(())
        });
        assert_eq!(count.expect("read"), 1);

        // In blocks, as a Python set of unknown length is written.
        let mut answer = question[..13].to_vec();
        answer.extend(b"\x03key\0\0\0\x01");
        answer.extend(&c);
        answer.extend([0xff, 0xff, 0xff, 0xff, 1]);
        answer.extend(&whole);
        answer.extend([0, 0, 0, 2]);
        answer.extend([&a[..], &b].concat());
        answer.push(0);
        let mut seen = Vec::new();
        answers(&coders.output_wire, &components, &answer, &mut |nonce, merged| {
            seen.push((nonce.to_vec(), merged));
            Ok(())
        })
        .expect("answers");
        assert_eq!(seen, [(b"key".to_vec(), vec![Merged { result: whole, originals: vec![a, b] }])]);
        answer.pop();
        assert!(answers(&coders.output_wire, &components, &answer, &mut |_, _| Ok(())).is_err());
    }
}
