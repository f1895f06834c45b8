//! What the tests of several modules need: components written shortly.

use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::pipeline;

use crate::coder::Coder;

/// Components with coders `(id, urn, components)`.
pub(crate) fn components(coders: &[(&str, &str, &[&str])]) -> pipeline::Components {
    let mut components = pipeline::Components::default();
    for (id, urn, parts) in coders {
        put_coder(&mut components, id, urn, parts, Bytes::new());
    }
    components
}

/// Adds a coder with a payload.
pub(crate) fn put_coder(
    components: &mut pipeline::Components,
    id: &str,
    urn: &str,
    parts: &[&str],
    payload: Bytes,
) {
    let coder = pipeline::Coder {
        spec: Some(pipeline::FunctionSpec { urn: (*urn).to_owned(), payload }),
        component_coder_ids: parts.iter().map(|part| (*part).to_owned()).collect(),
    };
    components.coders.insert((*id).to_owned(), coder);
}

/// The coder of an id.
pub(crate) fn coder(id: &str, components: &pipeline::Components) -> Arc<Coder> {
    Coder::from_components(id, components).expect("a coder")
}
