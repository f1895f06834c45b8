//! What planning gives: the nodes of the executable graph.
//!
//! Invariant: nodes stand in topological order, side inputs counted: all that a node reads is made by
//! nodes before it. A PCollection that is named by a node is materialised, and the coder of its entry in
//! `components` is walkable; others live within one stage.

use std::collections::BTreeMap;

use claviger_beam_proto::{fn_execution, pipeline};

/// A pipeline that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pipeline's components, with the coders and PCollections that planning made; equal environments
    /// are one, and the window coder of each strategy is one that the runner can walk.
    pub components: pipeline::Components,
    /// What to run, in topological order.
    pub nodes: Vec<Node>,
    /// The materialised PCollections: who makes and who reads each.
    pub pcollections: BTreeMap<String, PCollectionUse>,
    /// The leaves of the user's graph, in the pipeline's order.
    pub steps: Vec<Step>,
}

/// One thing to run.
#[derive(Clone, Debug)]
pub enum Node {
    /// One empty element in the global window.
    Impulse {
        /// The step's unique name.
        name: String,
        /// The PCollection that it makes.
        output: String,
    },
    /// Groups by key and window; done by the runner.
    GroupByKey {
        /// The step's unique name.
        name: String,
        /// The PCollection of windowed `KV<K, V>`.
        input: String,
        /// The PCollection of windowed `KV<K, Iterable<V>>`.
        output: String,
        /// The windowing strategy of the input, which rules the grouping.
        strategy_id: String,
        /// The coder of the input's elements, windowed.
        input_wire_coder: String,
        /// The coder of the output's elements, windowed; its key and values have the input's encodings.
        output_wire_coder: String,
    },
    /// The output is all inputs, one after the other, byte for byte: the wire coders are the same. An input
    /// may be there twice; with no input the output is empty. A reshuffle is one of these.
    Flatten {
        /// The step's unique name.
        name: String,
        /// The PCollections to read.
        inputs: Vec<String>,
        /// The PCollection that it makes.
        output: String,
    },
    /// Runs in an SDK worker.
    Stage(Box<Stage>),
}

/// Transforms that share a bundle.
#[derive(Clone, Debug)]
pub struct Stage {
    /// For people: the names of its steps; unique in the plan.
    pub name: String,
    /// Where it runs.
    pub environment_id: String,
    /// What it reads.
    pub input: StageInput,
    /// What it writes; none for a stage that only has side effects.
    pub outputs: Vec<StageOutput>,
    /// What its transforms look up; complete before the stage starts.
    pub side_inputs: Vec<SideInput>,
    /// The state cells of its transforms.
    pub states: Vec<UserState>,
    /// The timer families of its transforms.
    pub timers: Vec<TimerFamily>,
    /// The splittable transform at its input.
    pub splittable: Option<Splittable>,
    /// Some transform wants to hear that its bundle is committed.
    pub requires_finalization: bool,
    /// Some transform wants its input to be the same on a retry; a stage's input always is.
    pub stable_input: bool,
    /// Its transforms: the id in the descriptor, which metrics and errors of the SDK carry, and the unique
    /// name of the user's step.
    pub transforms: Vec<(String, String)>,
    /// The stage for the Fn API; the ports, state and timers have no endpoint yet. Its id is unique in the plan.
    pub descriptor: fn_execution::ProcessBundleDescriptor,
}

/// The one main input of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageInput {
    /// The transform of the descriptor to address elements to.
    pub port_transform_id: String,
    /// What to read.
    pub pcollection: String,
    /// The coder of the elements, windowed.
    pub wire_coder_id: String,
    /// All elements of a key must pass one bundle at a time (state, timers): the coder is a windowed
    /// `KV<K, V>`, and the encoded key is the one in state requests and timers.
    pub keyed: bool,
    /// The elements of a key must come in the order of their timestamps.
    pub time_sorted: bool,
}

/// One output of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOutput {
    /// The transform of the descriptor that elements come from.
    pub port_transform_id: String,
    /// What it writes.
    pub pcollection: String,
    /// The coder of the elements, windowed.
    pub wire_coder_id: String,
}

/// How a side input is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All elements of a window.
    Iterable,
    /// The values of a key in a window; the elements are `KV<K, V>`.
    Multimap,
}

/// One side input of one transform.
#[derive(Clone, Debug)]
pub struct SideInput {
    /// The transform of the descriptor; state requests name it.
    pub transform_id: String,
    /// The input's local name; state requests name it as the side input's id.
    pub tag: String,
    /// What to look up.
    pub pcollection: String,
    /// How.
    pub access: Access,
    /// The coder of the elements, windowed; keys and values have these encodings in state requests and replies.
    pub wire_coder_id: String,
    /// From the window of the main input to the window of the side input. SDKs ask for side windows, so the
    /// runner need not map.
    pub window_mapping: pipeline::FunctionSpec,
    /// The coder of the main input's windows.
    pub consumer_window_coder_id: String,
}

/// The protocol of a state cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Append, get all, clear.
    Bag,
    /// The same for each map key, with a list of keys.
    Multimap,
    /// Elements in the order of sort keys, by range.
    OrderedList,
}

/// A state cell of one transform.
#[derive(Clone, Debug)]
pub struct UserState {
    /// The transform of the descriptor.
    pub transform_id: String,
    /// The cell's name; state requests name it as the user state's id.
    pub name: String,
    /// Its protocol.
    pub kind: StateKind,
    /// The coder of the key.
    pub key_coder_id: String,
    /// The coder of the window.
    pub window_coder_id: String,
}

/// Which clock a timer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeDomain {
    /// The input's watermark.
    EventTime,
    /// The time of day.
    ProcessingTime,
}

/// A timer family of one transform. Its timers go both ways on the data plane, by transform and family.
#[derive(Clone, Debug)]
pub struct TimerFamily {
    /// The transform of the descriptor.
    pub transform_id: String,
    /// The family's name.
    pub family: String,
    /// Which clock.
    pub time_domain: TimeDomain,
    /// A walkable coder of `beam:coder:timer:v1`: of the key and of the window.
    pub timer_coder_id: String,
}

/// A stage that processes restrictions: what is left of a split goes back to the stage's own input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splittable {
    /// The transform of the descriptor that may be split.
    pub transform_id: String,
    /// The local name of its main input; residuals name it.
    pub input_tag: String,
}

/// Who makes and who reads a materialised PCollection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PCollectionUse {
    /// The index of the node that makes it.
    pub producer: usize,
    /// All that read it; it can go when each is done.
    pub consumers: Vec<Consumer>,
}

/// One reader of a PCollection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The index of the node.
    pub node: usize,
    /// In which part.
    pub role: Role,
}

/// What a PCollection is to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The main input of a stage.
    Main,
    /// A side input of a stage, by its place in `side_inputs`.
    Side(usize),
    /// The input of a group by key.
    Group,
    /// One input of a flatten.
    Flatten,
}

/// A leaf of the user's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The transform's id in the pipeline.
    pub transform_id: String,
    /// Its unique name.
    pub unique_name: String,
    /// The nodes that run it: a lifted combiner has three.
    pub nodes: Vec<usize>,
    /// The PCollections that it reads, by their ids in the pipeline; side inputs included.
    pub inputs: Vec<String>,
    /// The PCollections that it makes.
    pub outputs: Vec<String>,
}

impl Node {
    /// The name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Impulse { name, .. } | Self::GroupByKey { name, .. } | Self::Flatten { name, .. } => name,
            Self::Stage(stage) => &stage.name,
        }
    }

    /// The PCollections that it makes.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            Self::Impulse { output, .. } | Self::GroupByKey { output, .. } | Self::Flatten { output, .. } => {
                (Some(output.as_str()), &[][..])
            }
            Self::Stage(stage) => (None, stage.outputs.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|output| output.pcollection.as_str()))
    }

    /// The PCollections that it reads, each with its part.
    #[must_use]
    pub fn inputs(&self) -> Vec<(&str, Role)> {
        match self {
            Self::Impulse { .. } => Vec::new(),
            Self::GroupByKey { input, .. } => vec![(input, Role::Group)],
            Self::Flatten { inputs, .. } => {
                inputs.iter().map(|input| (input.as_str(), Role::Flatten)).collect()
            }
            Self::Stage(stage) => {
                let main = std::iter::once((stage.input.pcollection.as_str(), Role::Main));
                let sides = stage.side_inputs.iter().enumerate();
                main.chain(sides.map(|(at, side)| (side.pcollection.as_str(), Role::Side(at)))).collect()
            }
        }
    }
}

impl Plan {
    /// The nodes that must be done before this one starts, ascending.
    #[must_use]
    pub fn dependencies(&self, node: usize) -> Vec<usize> {
        let inputs = self.nodes.get(node).map(Node::inputs).unwrap_or_default();
        let mut found: Vec<usize> = inputs
            .iter()
            .filter_map(|(pcollection, _)| self.pcollections.get(*pcollection))
            .map(|used| used.producer)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The stages, with their places among the nodes.
    pub fn stages(&self) -> impl Iterator<Item = (usize, &Stage)> {
        self.nodes.iter().enumerate().filter_map(|(at, node)| match node {
            Node::Stage(stage) => Some((at, stage.as_ref())),
            _ => None,
        })
    }

    /// The environments that stages run in, each once.
    #[must_use]
    pub fn environments(&self) -> std::collections::BTreeSet<&str> {
        self.stages().map(|(_, stage)| stage.environment_id.as_str()).collect()
    }
}
