//! Chunks of elements, as they come from a worker: one windowed value after another.
//!
//! Invariant: a chunk holds whole elements; what is left over at its end is an error.

use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};

use crate::coder::{Coder, Kind};
use crate::windowed::HeaderRef;

/// The elements of a PCollection, by its coder on the wire.
#[derive(Debug)]
pub struct Elements {
    coder: Arc<Coder>,
    value: Arc<Coder>,
    window: Arc<Coder>,
    /// The header of all, where it is in the coder.
    constant: Option<Bytes>,
}

impl Elements {
    /// By the id of a wire coder: one of windowed values.
    ///
    /// # Errors
    /// `InvalidArgument`: another coder, or one that cannot be walked.
    pub fn new(wire_coder_id: &str, components: &pipeline::Components) -> Result<Self> {
        let coder = Coder::from_components(wire_coder_id, components)?;
        if !coder.is_walkable() {
            return Err(Error::invalid(format!("coder {wire_coder_id} does not tell where elements end")));
        }
        let (value, window, constant) = match coder.kind() {
            Kind::WindowedValue { value, window } => (value, window, None),
            Kind::ParamWindowedValue { value, window, header } => (value, window, Some(header.clone())),
            _ => return Err(Error::invalid(format!("coder {wire_coder_id} is not one of windowed values"))),
        };
        Ok(Self { value: Arc::clone(value), window: Arc::clone(window), constant, coder })
    }

    /// As [`Elements::new`], for elements that are keys and values.
    ///
    /// # Errors
    /// As there, and other elements.
    pub fn key_values(wire_coder_id: &str, components: &pipeline::Components) -> Result<KeyValues> {
        let elements = Self::new(wire_coder_id, components)?;
        let (key, value) = elements
            .value
            .key_value()
            .filter(|_| matches!(elements.value.kind(), Kind::Kv(..)))
            .map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
            .ok_or_else(|| Error::invalid(format!("coder {wire_coder_id} is not one of keys and values")))?;
        Ok(KeyValues { elements, key, value })
    }

    /// The windows' coder.
    #[must_use]
    pub fn window(&self) -> &Arc<Coder> {
        &self.window
    }

    /// The values' coder.
    #[must_use]
    pub fn value(&self) -> &Arc<Coder> {
        &self.value
    }

    /// Takes time, windows and pane off the front.
    #[inline]
    pub(crate) fn header<'a>(&'a self, input: &mut &'a [u8]) -> Result<HeaderRef<'a>> {
        match &self.constant {
            None => HeaderRef::read(&self.window, input),
            Some(constant) => HeaderRef::read(&self.window, &mut constant.as_ref()),
        }
    }

    /// Gives each element to `visit`; how many there were.
    ///
    /// # Errors
    /// The bytes are not elements; what `visit` returns.
    pub fn for_each<'a>(
        &self,
        mut chunk: &'a [u8],
        visit: &mut dyn FnMut(&'a [u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut elements = 0;
        while !chunk.is_empty() {
            visit(self.coder.take(&mut chunk)?)?;
            elements += 1;
        }
        Ok(elements)
    }

    /// How many elements a chunk holds.
    ///
    /// # Errors
    /// The bytes are not elements.
    pub fn count(&self, chunk: &[u8]) -> Result<u64> {
        self.for_each(chunk, &mut |_| Ok(()))
    }

    /// Cuts a chunk after the element that reaches `bytes`, and at its end at the latest.
    ///
    /// # Errors
    /// The bytes are not elements.
    pub fn split(&self, chunk: &mut Bytes, bytes: usize) -> Result<(Bytes, u64)> {
        let (mut rest, mut elements) = (chunk.as_ref(), 0);
        while !rest.is_empty() && chunk.len() - rest.len() < bytes {
            self.coder.skip(&mut rest)?;
            elements += 1;
        }
        let at = chunk.len() - rest.len();
        Ok((chunk.split_to(at), elements))
    }
}

/// Elements that are keys and values.
#[derive(Debug)]
pub struct KeyValues {
    elements: Elements,
    key: Arc<Coder>,
    value: Arc<Coder>,
}

/// One of them, where it stands.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'a> {
    /// Time, windows and pane.
    pub header: HeaderRef<'a>,
    /// The key, as its coder wrote it in the nested context.
    pub key: &'a [u8],
    /// The value, likewise.
    pub value: &'a [u8],
    /// All of the element.
    pub element: &'a [u8],
}

impl KeyValues {
    /// The elements.
    #[must_use]
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Gives each element to `visit`; how many there were.
    ///
    /// # Errors
    /// The bytes are not such elements; what `visit` returns.
    #[inline]
    pub fn for_each<'a>(
        &'a self,
        mut chunk: &'a [u8],
        mut visit: impl FnMut(KeyValue<'a>) -> Result<()>,
    ) -> Result<u64> {
        let mut elements = 0;
        while !chunk.is_empty() {
            let start = chunk;
            let header = self.elements.header(&mut chunk)?;
            let key = self.key.take(&mut chunk)?;
            let value = self.value.take(&mut chunk)?;
            let element = start.get(..start.len() - chunk.len()).unwrap_or_default();
            visit(KeyValue { header, key, value, element })?;
            elements += 1;
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{coder, components, put_coder};
    use crate::urn::coder as urns;

    const ELEMENT: [u8; 16] = [0x80, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0x0f, 1, b'k', 7];

    fn words() -> pipeline::Components {
        components(&[
            ("bytes", urns::BYTES, &[]),
            ("int", urns::VARINT, &[]),
            ("own", "beam:coder:pickled_python:v1", &[]),
            ("global", urns::GLOBAL_WINDOW, &[]),
            ("kv", urns::KV, &["bytes", "int"]),
            ("wire", urns::WINDOWED_VALUE, &["kv", "global"]),
            ("plain", urns::WINDOWED_VALUE, &["int", "global"]),
            ("unwalkable", urns::WINDOWED_VALUE, &["own", "global"]),
        ])
    }

    #[test]
    fn elements_are_counted_and_cut_between_one_another() {
        let elements = Elements::new("wire", &words()).expect("elements");
        let mut chunk = Bytes::from(ELEMENT.repeat(5));
        assert_eq!(elements.count(&chunk).expect("count"), 5);
        let (head, count) = elements.split(&mut chunk, 17).expect("split");
        assert_eq!((head.len(), count, chunk.len()), (32, 2, 48));
        let (rest, count) = elements.split(&mut chunk, 1000).expect("split");
        assert_eq!((rest.len(), count, chunk.len()), (48, 3, 0));
        assert!(elements.count(&ELEMENT[..15]).is_err());
    }

    #[test]
    fn keys_and_values_are_found_where_they_stand() {
        let pairs = Elements::key_values("wire", &words()).expect("pairs");
        let chunk = ELEMENT.repeat(2);
        let mut seen = Vec::new();
        let count = pairs.for_each(&chunk, |pair| {
            assert_eq!((pair.header.timestamp_millis(), pair.element), (9, &ELEMENT[..]));
            seen.push((pair.key.to_vec(), pair.value.to_vec()));
            Ok(())
        });
        assert_eq!(count.expect("read"), 2);
        assert_eq!(seen, vec![(vec![1, b'k'], vec![7]); 2]);
    }

    #[test]
    fn what_is_not_known_to_end_or_not_a_pair_is_refused_by_name() {
        let words = words();
        assert!(Elements::new("unwalkable", &words).expect_err("refused").message().contains("unwalkable"));
        assert!(Elements::new("kv", &words).is_err());
        assert!(Elements::key_values("plain", &words).is_err());
    }

    #[test]
    fn a_header_in_the_coder_stands_for_all_elements() {
        let mut words = words();
        put_coder(
            &mut words,
            "param",
            urns::PARAM_WINDOWED_VALUE,
            &["kv", "global"],
            Bytes::from_static(&ELEMENT[..13]),
        );
        let pairs = Elements::key_values("param", &words).expect("pairs");
        let count = pairs.for_each(&[1, b'k', 7, 0, 8], |pair| {
            assert_eq!(pair.header.timestamp_millis(), 9);
            assert_eq!(pair.header.only_window(), Some(&[][..]));
            Ok(())
        });
        assert_eq!(count.expect("read"), 2);
        put_coder(
            &mut words,
            "bad",
            urns::PARAM_WINDOWED_VALUE,
            &["kv", "global"],
            Bytes::from_static(b"bad"),
        );
        assert!(Coder::from_components("bad", &words).is_err());
        assert_eq!(coder("kv", &words).width(), None);
    }
}
