//! The pipeline as its author's SDK sent it: checks of the whole, and the way from composites down to what
//! is run.
//!
//! Invariant: a leaf is something that the runner does itself, or that an SDK does; anything else is refused
//! here by its name. Depth costs no stack.

use std::collections::BTreeSet;

use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::{Error, Result};
use prost::Message;

use crate::expand::combine;
use crate::{MAX_COMPONENTS, MAX_TRANSFORMS, PlanOptions};

const PUBSUB_READ: &str = "beam:transform:pubsub_read:v1";
const PUBSUB_WRITE: &str = "beam:transform:pubsub_write:v1";
const PUBSUB_WRITE_2: &str = "beam:transform:pubsub_write:v2";
/// What another runner's optimizer leaves.
const EXECUTABLE_STAGE: &str = "beam:runner:executable_stage:v1";
/// What Python calls a composite without a meaning of its own.
const GENERIC_COMPOSITE: &str = "beam:transform:generic_composite:v1";

/// Who does a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The runner makes one empty element.
    Impulse,
    /// The runner groups.
    GroupByKey,
    /// The outputs are the inputs: flatten, and with `barrier` a redistribution.
    Identity {
        /// What follows may not share a bundle with what came before.
        barrier: bool,
    },
    /// An SDK worker does it.
    Sdk,
}

/// A leaf of the graph, or a part of an expanded leaf.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// The id in descriptors; unique among operations.
    pub(crate) id: String,
    /// The user's step that it is a part of.
    pub(crate) step: usize,
    /// Who does it.
    pub(crate) kind: Kind,
    /// What the SDK gets.
    pub(crate) proto: pipeline::PTransform,
    /// The payload, for those that have one of this type.
    pub(crate) par_do: Option<Box<pipeline::ParDoPayload>>,
    /// It must read at the edge of its stage.
    pub(crate) root: bool,
}

impl Op {
    /// The URN.
    pub(crate) fn urn(&self) -> &str {
        urn_of(&self.proto)
    }

    /// The unique name, for errors and stages.
    pub(crate) fn name(&self) -> &str {
        &self.proto.unique_name
    }

    /// Is this local name one of a side input.
    pub(crate) fn is_side(&self, tag: &str) -> bool {
        self.par_do.as_ref().is_some_and(|payload| payload.side_inputs.contains_key(tag))
    }

    /// The inputs that are not side inputs.
    pub(crate) fn main_inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs().filter(|(tag, _)| !self.is_side(tag))
    }

    /// The side inputs.
    pub(crate) fn side_inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs().filter(|(tag, _)| self.is_side(tag))
    }

    /// Local names and PCollections of all inputs.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.proto.inputs.iter().map(|(tag, id)| (tag.as_str(), id.as_str()))
    }

    /// The PCollections that it makes.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &str> {
        self.proto.outputs.values().map(String::as_str)
    }

    /// Has it state or timers, so that each key must be in one place.
    pub(crate) fn is_keyed(&self) -> bool {
        self.par_do
            .as_ref()
            .is_some_and(|payload| !payload.state_specs.is_empty() || !payload.timer_family_specs.is_empty())
    }
}

/// A leaf as it stands in the pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// The transform's id.
    pub(crate) id: String,
    /// Who does it.
    pub(crate) kind: Kind,
    /// The transform without its parts.
    pub(crate) proto: pipeline::PTransform,
    /// The payload, for those that have one of this type.
    pub(crate) par_do: Option<Box<pipeline::ParDoPayload>>,
}

/// Checks sizes and requirements.
pub(crate) fn check(pipeline: &pipeline::Pipeline) -> Result<()> {
    let empty = pipeline::Components::default();
    let components = pipeline.components.as_ref().unwrap_or(&empty);
    let sizes = [
        ("transforms", components.transforms.len(), MAX_TRANSFORMS),
        ("PCollections", components.pcollections.len(), MAX_COMPONENTS),
        ("coders", components.coders.len(), MAX_COMPONENTS),
        ("windowing strategies", components.windowing_strategies.len(), MAX_COMPONENTS),
        ("environments", components.environments.len(), MAX_COMPONENTS),
    ];
    for (what, have, most) in sizes {
        if have > most {
            return Err(Error::invalid(format!("The pipeline has {have} {what}; {most} are the most.")));
        }
    }
    for requirement in &pipeline.requirements {
        let met = matches!(
            requirement.as_str(),
            urn::requirement::STATEFUL
                | urn::requirement::FINALIZATION
                | urn::requirement::STABLE_INPUT
                | urn::requirement::TIME_SORTED_INPUT
                | urn::requirement::SPLITTABLE_DOFN
        );
        if !met {
            return Err(Error::unimplemented(format!(
                "The pipeline requires {requirement:?}, which this runner does not offer."
            )));
        }
    }
    if pipeline.root_transform_ids.is_empty() && !components.transforms.is_empty() {
        return Err(Error::invalid("The pipeline has transforms, but names no root."));
    }
    Ok(())
}

/// The leaves, in the order of the pipeline.
pub(crate) fn collect(
    pipeline: &pipeline::Pipeline,
    components: &pipeline::Components,
    options: &PlanOptions,
) -> Result<Vec<Leaf>> {
    let mut leaves = Vec::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<&str> = pipeline.root_transform_ids.iter().rev().map(String::as_str).collect();
    while let Some(id) = todo.pop() {
        let Some(transform) = components.transforms.get(id) else {
            return Err(Error::invalid(format!("Transform {id:?} is named, but not in the pipeline.")));
        };
        if !seen.insert(id) {
            return Err(Error::invalid(format!(
                "Step {:?} is a part of two composites, or of itself.",
                name_of(id, transform)
            )));
        }
        match classify(id, transform, components, options)? {
            Class::Leaf(kind) => leaves.push(leaf(id, transform, kind)?),
            Class::Parts => todo.extend(transform.subtransforms.iter().rev().map(String::as_str)),
            Class::Nothing => {}
        }
    }
    Ok(leaves)
}

enum Class {
    Leaf(Kind),
    Parts,
    Nothing,
}

fn classify(
    id: &str,
    transform: &pipeline::PTransform,
    components: &pipeline::Components,
    options: &PlanOptions,
) -> Result<Class> {
    let urn = urn_of(transform);
    let composite = !transform.subtransforms.is_empty();
    let name = name_of(id, transform);
    let refused = |why: &str| Err(Error::unimplemented(format!("Step {name:?}: {why}")));
    Ok(match urn {
        urn::transform::IMPULSE => Class::Leaf(Kind::Impulse),
        urn::transform::GROUP_BY_KEY => Class::Leaf(Kind::GroupByKey),
        urn::transform::FLATTEN => Class::Leaf(Kind::Identity { barrier: false }),
        urn::transform::TEST_STREAM => return refused("test streams come with streaming."),
        EXECUTABLE_STAGE => {
            return refused("stages that are fused already are not run; send the pipeline as it is.");
        }
        urn if is_par_do(urn) => Class::Leaf(Kind::Sdk),
        urn if is_redistribution(urn) && keeps_windows(transform, components) => {
            Class::Leaf(Kind::Identity { barrier: true })
        }
        urn::transform::COMBINE_PER_KEY
            if options.lift_combiners && combine::can_lift(&name, transform, components)? =>
        {
            Class::Leaf(Kind::Sdk)
        }
        _ if composite => Class::Parts,
        _ if makes_nothing(transform) => Class::Nothing,
        urn::transform::READ => return refused("a source of the old kind; read it with a splittable DoFn."),
        PUBSUB_READ | PUBSUB_WRITE | PUBSUB_WRITE_2 => {
            return refused("Pub/Sub comes with streaming.");
        }
        urn::transform::COMBINE_PER_KEY => return refused("a combiner without parts that cannot be lifted."),
        urn::transform::ASSIGN_WINDOWS => Class::Leaf(Kind::Sdk),
        urn if is_combine(urn) => Class::Leaf(Kind::Sdk),
        "" | GENERIC_COMPOSITE => {
            return Err(Error::invalid(format!(
                "Step {name:?} has outputs, but neither parts nor something to run."
            )));
        }
        _ if !transform.environment_id.is_empty() => Class::Leaf(Kind::Sdk),
        urn => {
            return Err(Error::invalid(format!(
                "Step {name:?} is an unknown transform ({urn}), and has no environment that would run it."
            )));
        }
    })
}

fn leaf(id: &str, transform: &pipeline::PTransform, kind: Kind) -> Result<Leaf> {
    let mut proto = transform.clone();
    proto.subtransforms.clear();
    proto.display_data.clear();
    proto.unique_name = name_of(id, transform);
    let par_do = match &proto.spec {
        Some(spec) if is_par_do(&spec.urn) => {
            let payload = pipeline::ParDoPayload::decode(spec.payload.clone()).map_err(|e| {
                Error::invalid(format!("Step {:?}: its payload does not parse.", proto.unique_name))
                    .because(e)
            })?;
            Some(Box::new(payload))
        }
        _ => None,
    };
    Ok(Leaf { id: id.to_owned(), kind, proto, par_do })
}

/// Has it one input and one output with the same windows, so that its parts need not be run.
fn keeps_windows(transform: &pipeline::PTransform, components: &pipeline::Components) -> bool {
    if transform.inputs.len() != 1 || transform.outputs.len() != 1 {
        return false;
    }
    let strategy = |id: &String| {
        let collection = components.pcollections.get(id)?;
        components.windowing_strategies.get(&collection.windowing_strategy_id)
    };
    let before = transform.inputs.values().next().and_then(strategy);
    let after = transform.outputs.values().next().and_then(strategy);
    match (before, after) {
        (Some(before), Some(after)) => before.window_coder_id == after.window_coder_id,
        _ => false,
    }
}

/// Gives it back only what it was given; SDKs leave such shells in the graph.
fn makes_nothing(transform: &pipeline::PTransform) -> bool {
    transform.outputs.values().all(|id| transform.inputs.values().any(|input| input == id))
}

/// The name for people.
pub(crate) fn name_of(id: &str, transform: &pipeline::PTransform) -> String {
    if transform.unique_name.is_empty() { id.to_owned() } else { transform.unique_name.clone() }
}

/// The URN, empty when there is no spec.
pub(crate) fn urn_of(transform: &pipeline::PTransform) -> &str {
    transform.spec.as_ref().map_or("", |spec| spec.urn.as_str())
}

/// The same error, with the step in front.
pub(crate) fn at_step(name: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("Step {name:?}: {}", error.message()))
}

/// Is the payload a `ParDoPayload`.
pub(crate) fn is_par_do(urn: &str) -> bool {
    matches!(
        urn,
        urn::transform::PAR_DO
            | urn::transform::SDF_PAIR_WITH_RESTRICTION
            | urn::transform::SDF_SPLIT_AND_SIZE_RESTRICTIONS
            | urn::transform::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
            | urn::transform::SDF_TRUNCATE_SIZED_RESTRICTIONS
    )
}

/// Is the payload a `CombinePayload`.
pub(crate) fn is_combine(urn: &str) -> bool {
    matches!(
        urn,
        urn::transform::COMBINE_PER_KEY
            | urn::transform::COMBINE_PER_KEY_PRECOMBINE
            | urn::transform::COMBINE_PER_KEY_MERGE_ACCUMULATORS
            | urn::transform::COMBINE_PER_KEY_EXTRACT_OUTPUTS
            | urn::transform::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS
            | urn::transform::COMBINE_GROUPED_VALUES
    )
}

/// Does the composite only redistribute: the same elements come out.
fn is_redistribution(urn: &str) -> bool {
    matches!(
        urn,
        urn::transform::RESHUFFLE
            | urn::transform::REDISTRIBUTE_BY_KEY
            | urn::transform::REDISTRIBUTE_ARBITRARILY
    )
}
