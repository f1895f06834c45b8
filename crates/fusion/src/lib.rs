//! From a Beam pipeline to stages that a worker can run: [`plan`] checks the graph, expands what a
//! runner must expand (combiners, splittable DoFns), fuses what may run in one bundle, and describes
//! each stage for the Fn API.
//!
//! Invariant: pure and deterministic. The same pipeline and options give the same plan, byte for byte;
//! a pipeline that we cannot run is refused here, with the name of the step that is to blame, before
//! anything starts. What crosses the edge of a stage has a coder that the runner can walk without the
//! SDK: everything unknown is wrapped in a length prefix.
//!
//! In the order of the work: `environments` (resolve and merge), `leaves` (composites to leaves),
//! `expand` (combiners, splittable DoFns), `graph` (who makes and who reads, in topological order),
//! `coders` (length prefixes), `fuse` (who shares a stage), `stage` (the stages in Fn API terms).

mod coders;
mod display;
mod environments;
mod expand;
mod fuse;
mod graph;
mod leaves;
mod plan;
mod stage;

use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::Result;

pub use plan::{
    Access, Consumer, Node, PCollectionUse, Plan, Role, SideInput, Splittable, Stage, StageInput,
    StageOutput, StateKind, Step, TimeDomain, TimerFamily, UserState,
};

/// The most transforms of a pipeline, composites included.
pub const MAX_TRANSFORMS: usize = 200_000;

/// The most entries of each other table of a pipeline: PCollections, coders, windowing strategies.
pub const MAX_COMPONENTS: usize = 1_000_000;

/// How deep coders may be nested.
pub const MAX_CODER_DEPTH: usize = 64;

/// How [`plan`] treats a pipeline.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Combine before the shuffle where the trigger allows it.
    pub lift_combiners: bool,
    /// Let splittable DoFns truncate what is left to do.
    pub drain: bool,
    /// Which of the alternatives of an any-of environment to take: the first URN of this list that is there.
    pub environments: Vec<String>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            lift_combiners: true,
            drain: false,
            environments: [urn::environment::EXTERNAL, urn::environment::PROCESS, urn::environment::DOCKER]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Turns a pipeline into stages.
///
/// # Errors
/// `InvalidArgument` for a graph that is broken: missing references, cycles, payloads that do not parse.
/// `Unimplemented` for one that is sound but beyond this runner: an unknown requirement, streaming sources.
/// Both name the step by its unique name.
pub fn plan(pipeline: &pipeline::Pipeline, options: &PlanOptions) -> Result<Plan> {
    leaves::check(pipeline)?;
    let mut components = pipeline.components.clone().unwrap_or_default();
    environments::settle(&mut components, options)?;
    let ops = leaves::collect(pipeline, &components, options)?;
    let mut draft = expand::Draft::new(components);
    let ops = expand::expand(&mut draft, ops, options)?;
    let graph = graph::Graph::new(&mut draft, ops)?;
    let groups = fuse::fuse(&mut draft, graph)?;
    stage::build(draft, groups)
}
