//! The operations as a graph: who makes each PCollection, in an order in which all comes after what it needs.
//!
//! Invariant: each PCollection that is read has one maker; each operation has the inputs that its kind wants;
//! the coders around a group by key agree byte for byte.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use claviger_beam::urn;
use claviger_core::error::{Error, Result};

use crate::coders;
use crate::expand::Draft;
use crate::leaves::{Kind, Op, at_step};

/// Operations in topological order.
#[derive(Debug)]
pub(crate) struct Graph {
    /// The operations.
    pub(crate) ops: Vec<Op>,
    /// The maker of each PCollection.
    pub(crate) producer: BTreeMap<String, usize>,
}

impl Graph {
    /// Checks and sorts.
    pub(crate) fn new(draft: &mut Draft, ops: Vec<Op>) -> Result<Self> {
        for op in &ops {
            check(draft, op)?;
        }
        let ops = sort(ops)?;
        let mut producer = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            for output in op.outputs() {
                producer.insert(output.to_owned(), at);
            }
        }
        let mut graph = Self { ops, producer };
        graph.keep_truncation_together();
        graph.settle_windows(draft)?;
        graph.settle_groups(draft)?;
        Ok(graph)
    }

    /// A pipeline that was expanded by its SDK may hold a truncation: then that is the edge of the stage.
    fn keep_truncation_together(&mut self) {
        for at in 0..self.ops.len() {
            let Some(op) = self.ops.get(at) else { continue };
            let follows = op.urn() == urn::transform::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
                && op.main_inputs().any(|(_, input)| {
                    let maker = self.producer.get(input).and_then(|maker| self.ops.get(*maker));
                    maker.is_some_and(|maker| maker.urn() == urn::transform::SDF_TRUNCATE_SIZED_RESTRICTIONS)
                });
            if let Some(op) = self.ops.get_mut(at)
                && follows
            {
                op.root = false;
            }
        }
    }

    /// Each strategy in use gets a window coder that the runner can walk. SDKs take the coder of keys and
    /// windows in state requests from there, and thus we read what they write.
    fn settle_windows(&self, draft: &mut Draft) -> Result<()> {
        for op in &self.ops {
            for id in op.inputs().map(|(_, id)| id).chain(op.outputs()) {
                let strategy_id = draft.pcollection(id)?.windowing_strategy_id.clone();
                let Draft { components, coders, .. } = draft;
                let Some(strategy) = components.windowing_strategies.get_mut(&strategy_id) else {
                    return Err(Error::invalid(format!(
                        "Step {:?}: PCollection {id:?} has windowing strategy {strategy_id:?}, which is not \
                         in the pipeline.",
                        op.name()
                    )));
                };
                strategy.window_coder_id = coders
                    .window(&mut components.coders, &strategy.window_coder_id)
                    .map_err(|e| at_step(op.name(), &e))?;
            }
        }
        Ok(())
    }

    /// The runner must see keys, and hands keys and values on as they came.
    fn settle_groups(&self, draft: &mut Draft) -> Result<()> {
        for op in self.ops.iter().filter(|op| op.kind == Kind::GroupByKey) {
            let (Some((_, input)), Some(output)) = (op.inputs().next(), op.outputs().next()) else {
                continue;
            };
            let wire = draft.wire_pcollection(input).map_err(|e| at_step(op.name(), &e))?;
            let Some((key, value)) = coders::kv(&draft.components.coders, &wire) else {
                return Err(Error::invalid(format!(
                    "Step {:?} groups by key, but the coder of its input is not one of key and value.",
                    op.name()
                )));
            };
            let values = draft.coder("grouped_values", urn::coder::ITERABLE, vec![value]);
            let grouped = draft.coder("grouped", urn::coder::KV, vec![key, values]);
            let window = |id: &str| {
                let strategy_id = &draft.components.pcollections.get(id)?.windowing_strategy_id;
                draft.components.windowing_strategies.get(strategy_id)
            };
            if let (Some(before), Some(after)) = (window(input), window(output))
                && before.window_coder_id != after.window_coder_id
            {
                return Err(Error::invalid(format!(
                    "Step {:?} groups by key, but its windows have one coder before and another after.",
                    op.name()
                )));
            }
            if let Some(collection) = draft.components.pcollections.get_mut(output) {
                collection.coder_id = grouped;
            }
        }
        Ok(())
    }
}

/// Are the operation's references there, and its inputs of the right number.
fn check(draft: &Draft, op: &Op) -> Result<()> {
    for id in op.inputs().map(|(_, id)| id).chain(op.outputs()) {
        draft.pcollection(id).map_err(|e| at_step(op.name(), &e))?;
    }
    if let Some(payload) = &op.par_do
        && let Some(tag) = payload.side_inputs.keys().find(|tag| !op.proto.inputs.contains_key(*tag))
    {
        return Err(Error::invalid(format!(
            "Step {:?} has side input {tag:?}, but no input of that name.",
            op.name()
        )));
    }
    let (inputs, outputs) = (op.main_inputs().count(), op.proto.outputs.len());
    let right = match op.kind {
        Kind::Impulse => inputs == 0 && outputs == 1,
        Kind::GroupByKey => inputs == 1 && outputs == 1,
        Kind::Identity { .. } => outputs == 1,
        Kind::Sdk => inputs == 1,
    };
    if right {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Step {:?} ({}) has {inputs} main inputs and {outputs} outputs.",
        op.name(),
        op.urn()
    )))
}

/// Topological order, and otherwise the order of the pipeline.
fn sort(ops: Vec<Op>) -> Result<Vec<Op>> {
    let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        for output in op.outputs() {
            if let Some(other) = producer.insert(output, at)
                && other != at
            {
                let first = ops.get(other).map_or("", Op::name);
                return Err(Error::invalid(format!(
                    "PCollection {output:?} is made by step {first:?} and by step {:?}.",
                    op.name()
                )));
            }
        }
    }
    let mut waits = vec![0_usize; ops.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); ops.len()];
    for (at, op) in ops.iter().enumerate() {
        for (_, input) in op.inputs() {
            let Some(maker) = producer.get(input) else {
                return Err(Error::invalid(format!(
                    "Step {:?} reads PCollection {input:?}, which no step makes.",
                    op.name()
                )));
            };
            if let (Some(list), Some(count)) = (followers.get_mut(*maker), waits.get_mut(at)) {
                list.push(at);
                *count += 1;
            }
        }
    }
    drop(producer);
    let order = order(&mut waits, &followers);
    if order.len() < ops.len() {
        let stuck = waits.iter().position(|count| *count > 0).and_then(|at| ops.get(at));
        return Err(Error::invalid(format!(
            "Step {:?} waits for its own output: the graph has a cycle.",
            stuck.map_or("", Op::name)
        )));
    }
    let mut slots: Vec<Option<Op>> = ops.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| slots.get_mut(at).and_then(Option::take)).collect())
}

/// Kahn's algorithm; of those that are free, the first comes first. What is in a cycle is left out.
pub(crate) fn order(waits: &mut [usize], followers: &[Vec<usize>]) -> Vec<usize> {
    let mut free: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    free.extend(waits.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| Reverse(at)));
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(at)) = free.pop() {
        order.push(at);
        for next in followers.get(at).into_iter().flatten() {
            if let Some(count) = waits.get_mut(*next) {
                *count -= 1;
                if *count == 0 {
                    free.push(Reverse(*next));
                }
            }
        }
    }
    order
}
