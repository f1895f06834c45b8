//! Expansion: one leaf of the user becomes the parts that the runner schedules.
//!
//! Invariant: what goes in and out of an expanded leaf is what went in and out of the leaf; only new
//! PCollections are between the parts.

pub(crate) mod combine;
mod splittable;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::{Error, Result};

use crate::PlanOptions;
use crate::coders::{Coders, fresh};
use crate::leaves::{Kind, Leaf, Op};
use crate::plan::Step;

/// The plan in the making.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The components, which grow.
    pub(crate) components: pipeline::Components,
    /// The wire coders.
    pub(crate) coders: Coders,
    /// The user's leaves.
    pub(crate) steps: Vec<Step>,
    ids: BTreeSet<String>,
    /// The last number given to a name that comes again.
    numbers: BTreeMap<String, u64>,
}

impl Draft {
    /// From the pipeline's components.
    pub(crate) fn new(components: pipeline::Components) -> Self {
        let coders = Coders::new(&components);
        Self { components, coders, steps: Vec::new(), ids: BTreeSet::new(), numbers: BTreeMap::new() }
    }

    /// A new id for an operation or a port, made of its name.
    pub(crate) fn id(&mut self, name: &str) -> String {
        let mut id = name.to_owned();
        while !self.ids.insert(id.clone()) {
            let number = self.numbers.entry(name.to_owned()).or_insert(1);
            *number += 1;
            id = format!("{name}_{number}");
        }
        id
    }

    /// The PCollection of this id.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none.
    pub(crate) fn pcollection(&self, id: &str) -> Result<&pipeline::PCollection> {
        self.components
            .pcollections
            .get(id)
            .ok_or_else(|| Error::invalid(format!("PCollection {id:?} is named, but not in the pipeline.")))
    }

    /// A new PCollection like another, but with another coder.
    pub(crate) fn like(&mut self, id: &str, suffix: &str, coder_id: String) -> Result<String> {
        let mut copy = self.pcollection(id)?.clone();
        let made = fresh(&format!("{id}{suffix}"), |name| self.components.pcollections.contains_key(name));
        copy.unique_name = format!("{}{suffix}", copy.unique_name);
        copy.coder_id = coder_id;
        copy.display_data.clear();
        self.components.pcollections.insert(made.clone(), copy);
        Ok(made)
    }

    /// The id of a coder of a URN without payload, made when there is none.
    pub(crate) fn coder(&mut self, base: &str, urn: &str, parts: Vec<String>) -> String {
        self.coders.add(&mut self.components.coders, base, urn, parts)
    }

    /// The wire coder of a coder.
    pub(crate) fn wire(&mut self, id: &str) -> Result<String> {
        self.coders.wire(&mut self.components.coders, id)
    }

    /// Makes the coder of a PCollection walkable, and gives its id.
    pub(crate) fn wire_pcollection(&mut self, id: &str) -> Result<String> {
        let coder_id = self.pcollection(id)?.coder_id.clone();
        let wire = self.wire(&coder_id)?;
        if let Some(collection) = self.components.pcollections.get_mut(id) {
            collection.coder_id.clone_from(&wire);
        }
        Ok(wire)
    }

    /// An operation that is a part of a leaf.
    fn part(&mut self, leaf: &Leaf, step: usize, suffix: &str, kind: Kind, urn: &str) -> Op {
        let mut proto = leaf.proto.clone();
        proto.unique_name.push_str(suffix);
        let payload = match kind {
            Kind::Sdk => leaf.proto.spec.clone().unwrap_or_default().payload,
            _ => Bytes::new(),
        };
        proto.spec = Some(pipeline::FunctionSpec { urn: urn.to_owned(), payload });
        if kind != Kind::Sdk {
            proto.environment_id.clear();
        }
        let id = self.id(&proto.unique_name);
        Op { id, step, kind, proto, par_do: leaf.par_do.clone(), root: false }
    }
}

/// Expands all leaves.
pub(crate) fn expand(draft: &mut Draft, leaves: Vec<Leaf>, options: &PlanOptions) -> Result<Vec<Op>> {
    let mut ops = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        let step = draft.steps.len();
        draft.steps.push(Step {
            transform_id: leaf.id.clone(),
            unique_name: leaf.proto.unique_name.clone(),
            nodes: Vec::new(),
            inputs: leaf.proto.inputs.values().cloned().collect(),
            outputs: leaf.proto.outputs.values().cloned().collect(),
        });
        let urn = leaf.proto.spec.as_ref().map_or("", |spec| spec.urn.as_str());
        let splits = leaf.par_do.as_ref().is_some_and(|p| !p.restriction_coder_id.is_empty());
        if urn == urn::transform::COMBINE_PER_KEY {
            combine::expand(draft, &leaf, step, &mut ops)?;
        } else if urn == urn::transform::PAR_DO && splits {
            splittable::expand(draft, &leaf, step, options, &mut ops)?;
        } else {
            ops.push(simple(draft, leaf, step)?);
        }
    }
    Ok(ops)
}

/// A leaf that is run as it is.
fn simple(draft: &mut Draft, leaf: Leaf, step: usize) -> Result<Op> {
    let id = draft.id(&leaf.proto.unique_name);
    let mut op = Op { id, step, kind: leaf.kind, proto: leaf.proto, par_do: leaf.par_do, root: false };
    if let Some(payload) = &op.par_do {
        if !payload.on_window_expiration_timer_family_spec.is_empty() {
            return Err(Error::unimplemented(format!(
                "Step {:?} wants to hear of the end of windows, which this runner does not offer.",
                op.name()
            )));
        }
        op.root = op.is_keyed()
            || payload.requires_stable_input
            || payload.requires_time_sorted_input
            || matches!(
                op.urn(),
                urn::transform::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
                    | urn::transform::SDF_TRUNCATE_SIZED_RESTRICTIONS
            );
    }
    Ok(op)
}
