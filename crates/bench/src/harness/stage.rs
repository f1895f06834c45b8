//! The stages that the runner makes of the pipeline, as the worker finds them in their descriptors.
//!
//! Invariant: a stage whose elements are not encoded as [`super::elements`] writes and reads them is refused with its
//! coder's name, before a byte is sent.

use std::collections::BTreeMap;

use claviger_beam::urn;
use claviger_beam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use claviger_beam_proto::pipeline::{Coder, MonitoringInfo, PTransform, ParDoPayload};
use prost::Message as _;
use prost::encoding::encode_varint;

use super::pipeline::{DRAIN, GENERATE, Part, urns};
use crate::failure::{Doing, Failure, Result};

/// The metric that counts records made.
pub(super) const MADE: &str = "made";
/// The metric that counts records that came back.
pub(super) const DRAINED: &str = "drained";
const NAMESPACE: &str = "null-harness";

/// How deep coders are looked into.
const CODER_DEPTH: usize = 8;

/// What a bundle of a stage does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Makes records for each element of its input.
    Generate { step: Step, sink: String, part: Part },
    /// Counts groups.
    Drain { step: Step },
}

/// The step that a stage is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    transform: String,
    /// The PCollection whose elements are counted.
    collection: String,
}

impl Step {
    /// What the step counted: for its author by `name`, and as the elements of its PCollection.
    pub(super) fn counted(&self, name: &str, records: u64, elements: u64) -> Vec<MonitoringInfo> {
        let user = [
            (urn::label::TRANSFORM, self.transform.as_str()),
            (urn::label::NAMESPACE, NAMESPACE),
            (urn::label::NAME, name),
        ];
        let collection = [(urn::label::PCOLLECTION, self.collection.as_str())];
        vec![
            sum(urn::metric::USER_SUM_INT64, &user, records),
            sum(urn::metric::ELEMENT_COUNT, &collection, elements),
        ]
    }
}

fn sum(urn: &str, labels: &[(&str, &str)], value: u64) -> MonitoringInfo {
    let mut payload = Vec::new();
    encode_varint(value, &mut payload);
    MonitoringInfo {
        urn: urn.to_owned(),
        r#type: urn::metric_type::SUM_INT64.to_owned(),
        payload: payload.into(),
        labels: labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..MonitoringInfo::default()
    }
}

impl Stage {
    /// Finds out what a descriptor asks for.
    ///
    /// # Errors
    /// When it holds something that this pipeline does not have.
    pub(super) fn read(descriptor: &ProcessBundleDescriptor) -> Result<Self> {
        let kv = |value: &str| {
            format!("{}({}({},{value}),{})", urns::WINDOWED_VALUE, urns::KV, urns::BYTES, urns::GLOBAL_WINDOW)
        };
        let (id, step) = only(descriptor, urn::transform::PAR_DO)?;
        let par_do = ParDoPayload::decode(payload(step)).doing("the payload of a step")?;
        let function = par_do.do_fn.unwrap_or_default();
        let first = |collections: &BTreeMap<String, String>| {
            let collection = collections.values().next().cloned().unwrap_or_default();
            Step { transform: id.to_owned(), collection }
        };
        match function.urn.as_str() {
            GENERATE => {
                let part = serde_json::from_slice(&function.payload).doing("the payload of a source")?;
                let sink = port(descriptor, urn::transform::DATA_SINK, &kv(urns::BYTES))?;
                Ok(Self::Generate { step: first(&step.outputs), sink, part })
            }
            DRAIN => {
                let values = format!("{}({})", urns::ITERABLE, urns::BYTES);
                port(descriptor, urn::transform::DATA_SOURCE, &kv(&values))?;
                Ok(Self::Drain { step: first(&step.inputs) })
            }
            other => Err(Failure::new(format!("the server asks for the function '{other}'"))),
        }
    }
}

fn payload(transform: &PTransform) -> bytes::Bytes {
    transform.spec.as_ref().map(|spec| spec.payload.clone()).unwrap_or_default()
}

/// The one transform of this kind.
fn only<'a>(descriptor: &'a ProcessBundleDescriptor, urn: &str) -> Result<(&'a str, &'a PTransform)> {
    let is_kind = |transform: &PTransform| transform.spec.as_ref().is_some_and(|spec| spec.urn == urn);
    let mut found = descriptor.transforms.iter().filter(|(_, transform)| is_kind(transform));
    match (found.next(), found.next()) {
        (Some((id, transform)), None) => Ok((id, transform)),
        _ => Err(Failure::new(format!("the stage {} does not have one transform {urn}", descriptor.id))),
    }
}

/// The one port of this kind, whose elements have the coder that is expected.
fn port(descriptor: &ProcessBundleDescriptor, urn: &str, expected: &str) -> Result<String> {
    let (id, transform) = only(descriptor, urn)?;
    let port = RemoteGrpcPort::decode(payload(transform)).doing("the payload of a port")?;
    let found = spell(&port.coder_id, &descriptor.coders, CODER_DEPTH);
    if found != expected {
        return Err(Failure::new(format!("the elements at {id} have the coder {found}, not {expected}")));
    }
    Ok(id.to_owned())
}

/// A coder and its parts, by their URNs.
fn spell(id: &str, coders: &BTreeMap<String, Coder>, depth: usize) -> String {
    let Some(coder) = coders.get(id).filter(|_| depth > 0) else { return format!("?{id}") };
    let urn = coder.spec.as_ref().map(|spec| spec.urn.clone()).unwrap_or_default();
    if coder.component_coder_ids.is_empty() {
        return urn;
    }
    let parts: Vec<String> =
        coder.component_coder_ids.iter().map(|part| spell(part, coders, depth - 1)).collect();
    format!("{urn}({})", parts.join(","))
}

#[cfg(test)]
mod tests {
    use claviger_fusion::{Node, PlanOptions, plan};

    use super::super::elements::Shape;
    use super::super::pipeline::build;
    use super::*;

    fn descriptors(shape: Shape, sources: u64) -> Vec<ProcessBundleDescriptor> {
        let plan = plan(&build(shape, sources, "pool").unwrap(), &PlanOptions::default()).unwrap();
        let stages = plan.nodes.into_iter().filter_map(|node| match node {
            Node::Stage(stage) => Some(stage.descriptor),
            _ => None,
        });
        stages.collect()
    }

    #[test]
    fn the_runners_stages_are_those_of_the_pipeline_and_make_each_record_once() {
        let shape = Shape { records: 1000, value_bytes: 10, keys: 3 };
        let (mut parts, mut drains) = (Vec::new(), 0);
        for descriptor in descriptors(shape, 7) {
            match Stage::read(&descriptor).unwrap() {
                Stage::Generate { part, .. } => parts.push(part),
                Stage::Drain { .. } => drains += 1,
            }
        }
        parts.sort_by_key(|part| part.start);
        assert_eq!((parts.len(), drains), (7, 1));
        assert_eq!((parts[0].start, parts[6].end), (0, 1000));
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn elements_of_another_coder_are_refused_by_its_name() {
        let mut descriptors = descriptors(Shape { records: 1, value_bytes: 8, keys: 1 }, 1);
        for descriptor in &mut descriptors {
            for coder in descriptor.coders.values_mut() {
                let spec = coder.spec.as_mut().unwrap();
                spec.urn = spec.urn.replace("bytes", "string_utf8");
            }
            let refused = Stage::read(descriptor).unwrap_err().to_string();
            assert!(refused.contains("string_utf8"), "{refused}");
        }
    }
}
