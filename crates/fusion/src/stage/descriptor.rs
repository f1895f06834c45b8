//! The process bundle descriptor of a stage.
//!
//! Invariant: complete and small: what its transforms refer to, found through payloads that we can read. A
//! transform with another payload gets all coders, since we cannot know which it means.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::{fn_execution, pipeline};
use claviger_core::error::{Error, Result};
use prost::Message;

use crate::expand::Draft;
use crate::leaves::{Op, at_step, is_combine};
use crate::plan::Stage;

/// The descriptor of a stage whose ports are settled.
pub(super) fn of_stage(
    draft: &mut Draft,
    at: usize,
    ops: &[&Op],
    stage: &Stage,
) -> Result<fn_execution::ProcessBundleDescriptor> {
    let mut transforms = BTreeMap::new();
    transforms.insert(
        stage.input.port_transform_id.clone(),
        port(
            urn::transform::DATA_SOURCE,
            &stage.input.port_transform_id,
            &stage.input.wire_coder_id,
            |port| {
                port.outputs.insert("out".to_owned(), stage.input.pcollection.clone());
            },
        ),
    );
    let mut inside: BTreeSet<&str> = ops.iter().flat_map(|op| op.outputs()).collect();
    inside.insert(&stage.input.pcollection);
    for op in ops {
        let mut proto = op.proto.clone();
        // The SDK tells side inputs from main inputs in plain ParDos only. In the parts of a splittable one
        // it would feed the elements of the stage's input to a side input of the same PCollection.
        if op.urn() != urn::transform::PAR_DO {
            for (tag, id) in op.side_inputs().filter(|(_, id)| inside.contains(id)) {
                let coder = draft.pcollection(id)?.coder_id.clone();
                let copy = draft.like(id, "/Side", coder)?;
                proto.inputs.insert(tag.to_owned(), copy);
            }
        }
        transforms.insert(op.id.clone(), proto);
    }
    for output in &stage.outputs {
        transforms.insert(
            output.port_transform_id.clone(),
            port(urn::transform::DATA_SINK, &output.port_transform_id, &output.wire_coder_id, |port| {
                port.inputs.insert("in".to_owned(), output.pcollection.clone());
            }),
        );
    }

    let components = &draft.components;
    let mut coders: BTreeSet<String> = BTreeSet::new();
    coders.insert(stage.input.wire_coder_id.clone());
    coders.extend(stage.outputs.iter().map(|output| output.wire_coder_id.clone()));
    let mut all_coders = false;
    for op in ops {
        all_coders |= !named_coders(op, &mut coders).map_err(|e| at_step(op.name(), &e))?;
    }
    let mut pcollections = BTreeMap::new();
    let mut strategies = BTreeMap::new();
    for id in transforms.values().flat_map(|t| t.inputs.values().chain(t.outputs.values())) {
        let collection = draft.pcollection(id)?;
        coders.insert(collection.coder_id.clone());
        let strategy_id = &collection.windowing_strategy_id;
        if let Some(strategy) = components.windowing_strategies.get(strategy_id) {
            coders.insert(strategy.window_coder_id.clone());
            strategies.insert(strategy_id.clone(), strategy.clone());
        }
        let mut collection = collection.clone();
        collection.display_data.clear();
        pcollections.insert(id.clone(), collection);
    }
    let coders = if all_coders { components.coders.clone() } else { closure(components, coders) };
    let mut environments = BTreeMap::new();
    if let Some(environment) = components.environments.get(&stage.environment_id) {
        environments.insert(stage.environment_id.clone(), environment.clone());
    }
    Ok(fn_execution::ProcessBundleDescriptor {
        id: format!("stage-{at}"),
        transforms,
        pcollections,
        windowing_strategies: strategies,
        coders,
        environments,
        ..fn_execution::ProcessBundleDescriptor::default()
    })
}

fn port(
    urn: &str,
    id: &str,
    coder_id: &str,
    connect: impl FnOnce(&mut pipeline::PTransform),
) -> pipeline::PTransform {
    let payload = fn_execution::RemoteGrpcPort {
        coder_id: coder_id.to_owned(),
        ..fn_execution::RemoteGrpcPort::default()
    };
    let mut port = pipeline::PTransform {
        unique_name: id.to_owned(),
        spec: Some(pipeline::FunctionSpec {
            urn: urn.to_owned(),
            payload: Bytes::from(payload.encode_to_vec()),
        }),
        ..pipeline::PTransform::default()
    };
    connect(&mut port);
    port
}

/// Adds the coders that a payload names; false when the payload is one that we cannot read.
fn named_coders(op: &Op, coders: &mut BTreeSet<String>) -> Result<bool> {
    let spec = op.proto.spec.clone().unwrap_or_default();
    let broken = |e: prost::DecodeError| Error::invalid("its payload does not parse.").because(e);
    if let Some(payload) = &op.par_do {
        coders.insert(payload.restriction_coder_id.clone());
        for timer in payload.timer_family_specs.values() {
            coders.insert(timer.timer_family_coder_id.clone());
        }
        coders.extend(payload.state_specs.values().flat_map(state_coders));
    } else if is_combine(&spec.urn) {
        let payload = pipeline::CombinePayload::decode(spec.payload).map_err(broken)?;
        coders.insert(payload.accumulator_coder_id);
    } else if spec.urn == urn::transform::ASSIGN_WINDOWS {
        // Python sends the whole strategy, others the window function alone: no coder is in that one.
        if let Ok(strategy) = pipeline::WindowingStrategy::decode(spec.payload) {
            coders.insert(strategy.window_coder_id);
        }
    } else if spec.urn != urn::transform::FLATTEN {
        return Ok(false);
    }
    Ok(true)
}

fn state_coders(spec: &pipeline::StateSpec) -> Vec<String> {
    use pipeline::state_spec::Spec;
    match &spec.spec {
        None => Vec::new(),
        Some(Spec::ReadModifyWriteSpec(spec)) => vec![spec.coder_id.clone()],
        Some(Spec::BagSpec(spec)) => vec![spec.element_coder_id.clone()],
        Some(Spec::CombiningSpec(spec)) => vec![spec.accumulator_coder_id.clone()],
        Some(Spec::MapSpec(spec)) => {
            vec![spec.key_coder_id.clone(), spec.value_coder_id.clone()]
        }
        Some(Spec::SetSpec(spec)) => vec![spec.element_coder_id.clone()],
        Some(Spec::OrderedListSpec(spec)) => vec![spec.element_coder_id.clone()],
        Some(Spec::MultimapSpec(spec)) => {
            vec![spec.key_coder_id.clone(), spec.value_coder_id.clone()]
        }
    }
}

/// The coders of these ids and all that they are made of.
fn closure(components: &pipeline::Components, ids: BTreeSet<String>) -> BTreeMap<String, pipeline::Coder> {
    let mut found = BTreeMap::new();
    let mut todo: Vec<String> = ids.into_iter().collect();
    while let Some(id) = todo.pop() {
        if found.contains_key(&id) {
            continue;
        }
        if let Some(coder) = components.coders.get(&id) {
            todo.extend(coder.component_coder_ids.iter().cloned());
            found.insert(id, coder.clone());
        }
    }
    found
}
