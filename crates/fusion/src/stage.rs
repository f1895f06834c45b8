//! Groups of operations as nodes: ports at the edges, and the descriptor that an SDK worker gets.
//!
//! Invariant: a descriptor holds all that its transforms refer to and nothing of other stages; the coder of
//! each port is the windowed wire coder of the PCollection that passes it.

mod descriptor;
mod name;

use std::collections::BTreeMap;

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::{fn_execution, pipeline};
use claviger_core::error::{Error, Result};
use prost::Message;

use crate::coders;
use crate::expand::Draft;
use crate::fuse::{Edge, Fused, Group};
use crate::leaves::{Kind, Op, at_step};
use crate::plan::{
    Access, Consumer, Node, PCollectionUse, Plan, SideInput, Splittable, Stage, StageInput, StageOutput,
    StateKind, TimeDomain, TimerFamily, UserState,
};

/// Makes the plan of the groups.
pub(crate) fn build(mut draft: Draft, mut fused: Fused) -> Result<Plan> {
    wire_edges(&mut draft, &fused)?;
    settle_timers(&mut draft, &mut fused)?;
    let mut nodes = Vec::with_capacity(fused.groups.len());
    for (at, group) in fused.groups.iter().enumerate() {
        let node = match &group.stage {
            Some(edge) => Node::Stage(Box::new(stage(&mut draft, &fused, at, group, edge)?)),
            None => runner_node(&mut draft, &fused, group)?,
        };
        nodes.push(node);
        for op in group.ops.iter().filter_map(|op| fused.ops.get(*op)) {
            if let Some(step) = draft.steps.get_mut(op.step)
                && step.nodes.last() != Some(&at)
            {
                step.nodes.push(at);
            }
        }
    }
    for step in &mut draft.steps {
        step.nodes.sort_unstable();
        step.nodes.dedup();
    }
    let pcollections = uses(&nodes)?;
    Ok(Plan { components: draft.components, nodes, pcollections, steps: draft.steps })
}

/// What leaves its group gets a wire coder.
fn wire_edges(draft: &mut Draft, fused: &Fused) -> Result<()> {
    for (at, op) in fused.ops.iter().enumerate() {
        let named = |e: Error| at_step(op.name(), &e);
        let group = fused.group_of.get(at);
        for output in op.outputs() {
            let leaves = fused
                .consumers
                .get(output)
                .is_some_and(|readers| readers.iter().any(|r| fused.group_of.get(*r) != group));
            if leaves || op.kind != Kind::Sdk {
                draft.wire_pcollection(output).map_err(named)?;
            }
        }
    }
    Ok(())
}

/// Timers pass the runner too: their coders become walkable, and of the same key and window as the main
/// input. SDKs may name another coder of the key there (Python does where it makes a key deterministic for
/// its state), and then a timer's key would not be that of its state.
fn settle_timers(draft: &mut Draft, fused: &mut Fused) -> Result<()> {
    for op in &mut fused.ops {
        let main = op.main_inputs().next().map(|(_, id)| id.to_owned());
        let Some(payload) = op.par_do.as_mut().filter(|p| !p.timer_family_specs.is_empty()) else {
            continue;
        };
        let name = &op.proto.unique_name;
        let main = draft.pcollection(main.as_deref().unwrap_or_default())?;
        let strategy = draft.components.windowing_strategies.get(&main.windowing_strategy_id);
        let window = strategy.map(|s| s.window_coder_id.clone()).unwrap_or_default();
        let key = coders::kv(&draft.components.coders, &main.coder_id).map(|(key, _)| key);
        let Some(key) = key else { return Err(needs_keys(name)) };
        for (family, spec) in &mut payload.timer_family_specs {
            let wire = draft.wire(&spec.timer_family_coder_id).map_err(|e| at_step(name, &e))?;
            if coders::urn_of(&draft.components.coders, &wire) != urn::coder::TIMER {
                return Err(Error::invalid(format!(
                    "Step {name:?}: the coder of timer family {family:?} is not one of timers."
                )));
            }
            spec.timer_family_coder_id =
                draft.coder("timer", urn::coder::TIMER, vec![key.clone(), window.clone()]);
        }
        let bytes = Bytes::from(payload.encode_to_vec());
        if let Some(spec) = op.proto.spec.as_mut() {
            spec.payload = bytes;
        }
    }
    Ok(())
}

fn needs_keys(name: &str) -> Error {
    Error::invalid(format!(
        "Step {name:?} works by key (state, timers, order), but the coder of its input is not one of key and \
         value."
    ))
}

fn runner_node(draft: &mut Draft, fused: &Fused, group: &Group) -> Result<Node> {
    let broken = || Error::internal("A runner's node is not what was checked.");
    let op = group.ops.first().and_then(|op| fused.ops.get(*op)).ok_or_else(broken)?;
    let name = op.name().to_owned();
    let output = op.outputs().next().ok_or_else(broken)?.to_owned();
    Ok(match op.kind {
        Kind::Impulse => {
            windowed(draft, &output)?;
            Node::Impulse { name, output }
        }
        Kind::GroupByKey => {
            let (_, input) = op.inputs().next().ok_or_else(broken)?;
            Node::GroupByKey {
                name,
                input: input.to_owned(),
                strategy_id: draft.pcollection(input)?.windowing_strategy_id.clone(),
                input_wire_coder: windowed(draft, input)?,
                output_wire_coder: windowed(draft, &output)?,
                output,
            }
        }
        Kind::Identity { .. } => {
            let inputs = op.inputs().map(|(_, input)| input.to_owned()).collect();
            Node::Flatten { name, inputs, output }
        }
        Kind::Sdk => return Err(broken()),
    })
}

/// The id of the windowed coder of a PCollection whose own coder is a wire coder.
fn windowed(draft: &mut Draft, id: &str) -> Result<String> {
    let collection = draft.pcollection(id)?;
    let coder = collection.coder_id.clone();
    let window = draft
        .components
        .windowing_strategies
        .get(&collection.windowing_strategy_id)
        .map(|strategy| strategy.window_coder_id.clone())
        .unwrap_or_default();
    Ok(draft.coder(&format!("{coder}_windowed"), urn::coder::WINDOWED_VALUE, vec![coder, window]))
}

fn stage(draft: &mut Draft, fused: &Fused, at: usize, group: &Group, edge: &Edge) -> Result<Stage> {
    let ops: Vec<&Op> = group.ops.iter().filter_map(|op| fused.ops.get(*op)).collect();
    let first = *ops.first().ok_or_else(|| Error::internal("A stage without operations."))?;
    let sorted = first.par_do.as_ref().is_some_and(|p| p.requires_time_sorted_input);
    let input = StageInput {
        port_transform_id: draft.id(&format!("{}/Read", edge.input)),
        pcollection: edge.input.clone(),
        wire_coder_id: windowed(draft, &edge.input)?,
        keyed: first.is_keyed() || sorted,
        time_sorted: sorted,
    };
    if input.keyed {
        let coder = &draft.pcollection(&edge.input)?.coder_id;
        if coders::kv(&draft.components.coders, coder).is_none() {
            return Err(needs_keys(first.name()));
        }
    }
    let mut outputs = Vec::new();
    for output in ops.iter().flat_map(|op| op.outputs()) {
        let readers = fused.consumers.get(output).into_iter().flatten();
        let leaves = readers.into_iter().any(|reader| fused.group_of.get(*reader) != Some(&at));
        if leaves {
            outputs.push(StageOutput {
                port_transform_id: draft.id(&format!("{output}/Write")),
                pcollection: output.to_owned(),
                wire_coder_id: windowed(draft, output)?,
            });
        }
    }
    let mut stage = Stage {
        name: name::of_stage(fused, at, &ops, edge),
        environment_id: edge.environment.clone(),
        input,
        outputs,
        side_inputs: Vec::new(),
        states: Vec::new(),
        timers: Vec::new(),
        splittable: None,
        requires_finalization: false,
        stable_input: false,
        transforms: Vec::with_capacity(ops.len()),
        descriptor: fn_execution::ProcessBundleDescriptor::default(),
    };
    for op in &ops {
        let step = draft.steps.get(op.step).map_or_else(String::new, |s| s.unique_name.clone());
        stage.transforms.push((op.id.clone(), step));
        if let Some(payload) = &op.par_do {
            describe(draft, op, payload, &mut stage)?;
        }
    }
    stage.descriptor = descriptor::of_stage(draft, at, &ops, &stage)?;
    Ok(stage)
}

/// Adds what the runner must do for a ParDo: side inputs, state, timers, splits.
fn describe(draft: &mut Draft, op: &Op, payload: &pipeline::ParDoPayload, stage: &mut Stage) -> Result<()> {
    stage.requires_finalization |= payload.requests_finalization;
    stage.stable_input |= payload.requires_stable_input;
    let mains: Vec<(String, String)> =
        op.main_inputs().map(|(tag, id)| (tag.to_owned(), id.to_owned())).collect();
    let Some((main_tag, main)) = mains.into_iter().next() else { return Ok(()) };
    let strategy_id = draft.pcollection(&main)?.windowing_strategy_id.clone();
    let strategy = draft.components.windowing_strategies.get(&strategy_id);
    let window = strategy.map(|s| s.window_coder_id.clone()).unwrap_or_default();

    for (tag, side) in &payload.side_inputs {
        let Some(id) = op.proto.inputs.get(tag) else { continue };
        let pattern = side.access_pattern.as_ref().map_or("", |spec| spec.urn.as_str());
        let wire = windowed(draft, id)?;
        let access = match pattern {
            urn::side_input::ITERABLE => Access::Iterable,
            urn::side_input::MULTIMAP => Access::Multimap,
            other => {
                return Err(Error::unimplemented(format!(
                    "Step {:?}: side input {tag:?} has the unknown access pattern {other:?}.",
                    op.name()
                )));
            }
        };
        let coder = &draft.pcollection(id)?.coder_id;
        if access == Access::Multimap && coders::kv(&draft.components.coders, coder).is_none() {
            return Err(Error::invalid(format!(
                "Step {:?}: side input {tag:?} is looked up by key, but its coder is not one of key and value.",
                op.name()
            )));
        }
        stage.side_inputs.push(SideInput {
            transform_id: op.id.clone(),
            tag: tag.clone(),
            pcollection: id.clone(),
            access,
            wire_coder_id: wire,
            window_mapping: side.window_mapping_fn.clone().unwrap_or_default(),
            consumer_window_coder_id: window.clone(),
        });
    }

    if op.is_keyed() {
        let coder = draft.pcollection(&main)?.coder_id.clone();
        let key = coders::kv(&draft.components.coders, &coder).map(|(key, _)| key);
        for (name, spec) in &payload.state_specs {
            stage.states.push(UserState {
                transform_id: op.id.clone(),
                name: name.clone(),
                kind: state_kind(op, name, spec)?,
                key_coder_id: key.clone().unwrap_or_default(),
                window_coder_id: window.clone(),
            });
        }
        for (family, spec) in &payload.timer_family_specs {
            let time_domain = match spec.time_domain() {
                pipeline::time_domain::Enum::EventTime => TimeDomain::EventTime,
                pipeline::time_domain::Enum::ProcessingTime => TimeDomain::ProcessingTime,
                pipeline::time_domain::Enum::Unspecified => {
                    return Err(Error::invalid(format!(
                        "Step {:?}: timer family {family:?} is of no known time domain.",
                        op.name()
                    )));
                }
            };
            stage.timers.push(TimerFamily {
                transform_id: op.id.clone(),
                family: family.clone(),
                time_domain,
                timer_coder_id: spec.timer_family_coder_id.clone(),
            });
        }
    }

    if op.urn() == urn::transform::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS {
        stage.splittable = Some(Splittable { transform_id: op.id.clone(), input_tag: main_tag });
    }
    Ok(())
}

/// The protocol that a cell names; old SDKs leave it to the kind of the cell.
fn state_kind(op: &Op, name: &str, spec: &pipeline::StateSpec) -> Result<StateKind> {
    use pipeline::state_spec::Spec;
    let protocol = spec.protocol.as_ref().map_or("", |spec| spec.urn.as_str());
    match (protocol, &spec.spec) {
        (urn::user_state::BAG, _) => Ok(StateKind::Bag),
        (urn::user_state::MULTIMAP, _) => Ok(StateKind::Multimap),
        (urn::user_state::ORDERED_LIST, _) => Ok(StateKind::OrderedList),
        ("", Some(Spec::OrderedListSpec(_))) => Ok(StateKind::OrderedList),
        ("", Some(Spec::MultimapSpec(_) | Spec::MapSpec(_))) => Ok(StateKind::Multimap),
        ("", Some(_)) => Ok(StateKind::Bag),
        (other, _) => Err(Error::unimplemented(format!(
            "Step {:?}: state {name:?} has the unknown protocol {other:?}.",
            op.name()
        ))),
    }
}

/// Who makes and who reads what passes between nodes.
fn uses(nodes: &[Node]) -> Result<BTreeMap<String, PCollectionUse>> {
    let mut uses: BTreeMap<String, PCollectionUse> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for output in node.outputs() {
            uses.insert(output.to_owned(), PCollectionUse { producer: at, consumers: Vec::new() });
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        for (input, role) in node.inputs() {
            let used = uses.get_mut(input).ok_or_else(|| {
                Error::internal(format!("PCollection {input:?} passes between stages unseen."))
            })?;
            used.consumers.push(Consumer { node: at, role });
        }
    }
    Ok(uses)
}
