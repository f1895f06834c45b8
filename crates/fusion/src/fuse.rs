//! Fusion: which operations share a stage.
//!
//! Operations are placed in topological order. One that may run in a bundle joins the stage that makes its
//! main input, or else one that reads the same input, when both are in the same environment. It does not
//! join when one of its side inputs is made by what comes after that stage, or in it: then the stage would
//! wait for itself.
//!
//! Invariant: the groups never form a cycle. An operation with one input adds no way into a stage that was
//! not there; for one with side inputs the ways are searched. The search has a limit
//! ([`SEARCH_LIMIT`]): past it, operations are no longer joined, which costs time but is never wrong.

use std::collections::{BTreeMap, BTreeSet};

use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::{Error, Result};

use crate::expand::Draft;
use crate::graph::{self, Graph};
use crate::leaves::{Kind, Op, at_step};

/// The steps of all searches for cycles together.
const SEARCH_LIMIT: u64 = 50_000_000;

/// How many stages that read the same input are tried.
const SIBLINGS_TRIED: usize = 8;

/// Operations that are run together.
#[derive(Debug)]
pub(crate) struct Group {
    /// Places in `Fused::ops`, in topological order; one only when the runner does it.
    pub(crate) ops: Vec<usize>,
    /// Run by an SDK: where and from what. `None` when the runner does it.
    pub(crate) stage: Option<Edge>,
    /// Environment of what comes before, for operations that name none.
    hint: Option<String>,
    /// The groups that must be done before.
    needs: BTreeSet<usize>,
}

/// Where a stage runs and what it reads.
#[derive(Debug)]
pub(crate) struct Edge {
    /// The environment.
    pub(crate) environment: String,
    /// The PCollection at its edge.
    pub(crate) input: String,
    /// Its first operation must be alone at the edge.
    alone: bool,
}

/// Operations in groups, which are in topological order.
#[derive(Debug)]
pub(crate) struct Fused {
    /// The operations.
    pub(crate) ops: Vec<Op>,
    /// Who runs with whom, and in which order.
    pub(crate) groups: Vec<Group>,
    /// The operation that makes each PCollection.
    pub(crate) producer: BTreeMap<String, usize>,
    /// The operations that read each PCollection.
    pub(crate) consumers: BTreeMap<String, Vec<usize>>,
    /// The group of each operation.
    pub(crate) group_of: Vec<usize>,
}

/// Places all operations.
pub(crate) fn fuse(draft: &mut Draft, graph: Graph) -> Result<Fused> {
    let mut fuser = Fuser {
        group_of: vec![None; graph.ops.len()],
        ops: graph.ops,
        producer: graph.producer,
        groups: Vec::new(),
        readers: BTreeMap::new(),
        visited: Vec::new(),
        searches: 0,
        steps_left: SEARCH_LIMIT,
    };
    for at in 0..fuser.ops.len() {
        fuser.place(draft, at)?;
    }
    fuser.finish()
}

struct Fuser {
    ops: Vec<Op>,
    producer: BTreeMap<String, usize>,
    group_of: Vec<Option<usize>>,
    groups: Vec<Group>,
    /// The stages at whose edge a PCollection is.
    readers: BTreeMap<String, Vec<usize>>,
    visited: Vec<u64>,
    searches: u64,
    steps_left: u64,
}

impl Fuser {
    fn place(&mut self, draft: &mut Draft, at: usize) -> Result<()> {
        let Some(op) = self.ops.get(at) else { return Ok(()) };
        match op.kind {
            Kind::Impulse | Kind::GroupByKey => {
                let needs = self.makers(op.inputs().map(|(_, id)| id));
                self.runner(at, needs);
                Ok(())
            }
            Kind::Identity { barrier } => self.place_identity(draft, at, barrier),
            Kind::Sdk => self.place_sdk(draft, at),
        }
    }

    /// A flatten is done by the SDK when all that it reads is made in one stage, else by the runner.
    fn place_identity(&mut self, draft: &mut Draft, at: usize, barrier: bool) -> Result<()> {
        let Some(op) = self.ops.get(at) else { return Ok(()) };
        let needs = self.makers(op.inputs().map(|(_, id)| id));
        let only = needs.first().copied().filter(|_| needs.len() == 1 && !barrier);
        if let Some(group) = only
            && let Some(environment) = self.environment_of(group).map(str::to_owned)
        {
            if let Some(op) = self.ops.get_mut(at) {
                op.proto.spec = Some(pipeline::FunctionSpec {
                    urn: urn::transform::FLATTEN.to_owned(),
                    ..pipeline::FunctionSpec::default()
                });
                op.proto.environment_id = environment;
            }
            self.join(group, at, BTreeSet::new());
            return Ok(());
        }
        self.transcode(draft, at)?;
        let Some(op) = self.ops.get(at) else { return Ok(()) };
        let needs = self.makers(op.inputs().map(|(_, id)| id));
        self.runner(at, needs);
        Ok(())
    }

    /// The runner hands bytes on, so an input with another encoding than the output goes through the SDK:
    /// a flatten of one input, whose port has the output's coder.
    fn transcode(&mut self, draft: &mut Draft, at: usize) -> Result<()> {
        let Some(mut like) = self.ops.get(at).cloned() else { return Ok(()) };
        let Some(output) = like.outputs().next().map(str::to_owned) else { return Ok(()) };
        let name = like.name().to_owned();
        let named = |e: Error| at_step(&name, &e);
        let inputs = std::mem::take(&mut like.proto.inputs);
        like.kind = Kind::Sdk;
        like.proto.spec = Some(pipeline::FunctionSpec {
            urn: urn::transform::FLATTEN.to_owned(),
            ..pipeline::FunctionSpec::default()
        });
        let wanted = draft.wire_pcollection(&output).map_err(named)?;
        let mut done: BTreeMap<&str, String> = BTreeMap::new();
        for (tag, input) in &inputs {
            if let Some(recoded) = done.get(input.as_str()) {
                self.rename_input(at, tag, recoded.clone());
                continue;
            }
            if draft.wire_pcollection(input).map_err(named)? == wanted {
                continue;
            }
            let recoded = draft.like(&output, &format!("/Transcoded/{tag}"), wanted.clone())?;
            let mut part = like.clone();
            part.proto.unique_name = format!("{name}/Transcode/{tag}");
            part.proto.inputs = [("in".to_owned(), input.clone())].into();
            part.proto.outputs = [("out".to_owned(), recoded.clone())].into();
            part.proto.environment_id =
                self.maker(input).and_then(|maker| self.groups.get(maker)?.hint.clone()).unwrap_or_default();
            part.id = draft.id(&part.proto.unique_name);
            let place = self.ops.len();
            self.producer.insert(recoded.clone(), place);
            self.ops.push(part);
            self.group_of.push(None);
            self.place_sdk(draft, place)?;
            self.rename_input(at, tag, recoded.clone());
            done.insert(input, recoded);
        }
        Ok(())
    }

    fn rename_input(&mut self, at: usize, tag: &str, pcollection: String) {
        if let Some(op) = self.ops.get_mut(at) {
            op.proto.inputs.insert(tag.to_owned(), pcollection);
        }
    }

    fn place_sdk(&mut self, draft: &Draft, at: usize) -> Result<()> {
        let Some(op) = self.ops.get(at) else { return Ok(()) };
        let Some((_, input)) = op.main_inputs().next() else { return Ok(()) };
        let (root, input) = (op.root, input.to_owned());
        let maker = self.maker(&input);
        let environment = self.settle_environment(draft, op, maker)?;
        let sides = self.makers(op.side_inputs().map(|(_, id)| id));
        if let Some(op) = self.ops.get_mut(at) {
            op.proto.environment_id.clone_from(&environment);
        }
        if !root {
            let siblings = self.readers.get(&input).into_iter().flatten().copied();
            let siblings = siblings.filter(|group| !self.is_alone(*group)).take(SIBLINGS_TRIED);
            let candidates: Vec<usize> = maker
                .into_iter()
                .chain(siblings)
                .filter(|group| self.environment_of(*group) == Some(&environment))
                .collect();
            for group in candidates {
                if !self.reaches(group, &sides) {
                    self.join(group, at, sides);
                    return Ok(());
                }
            }
        }
        let mut needs = sides;
        needs.extend(maker);
        self.readers.entry(input.clone()).or_default().push(self.groups.len());
        let edge = Edge { environment: environment.clone(), input, alone: root };
        self.add(Group { ops: vec![at], stage: Some(edge), hint: Some(environment), needs });
        Ok(())
    }

    /// Its own environment, that of what makes its input, or the only one.
    fn settle_environment(&self, draft: &Draft, op: &Op, maker: Option<usize>) -> Result<String> {
        if !op.proto.environment_id.is_empty() {
            return Ok(op.proto.environment_id.clone());
        }
        let before = maker.and_then(|group| self.groups.get(group)?.hint.clone());
        let first = || draft.components.environments.keys().next().cloned();
        before.or_else(first).ok_or_else(|| {
            Error::invalid(format!("Step {:?} ({}) has no environment to run in.", op.name(), op.urn()))
        })
    }

    /// Is `target` one of `from`, or before one of them. Also true when the search got too long.
    fn reaches(&mut self, target: usize, from: &BTreeSet<usize>) -> bool {
        if from.is_empty() {
            return false;
        }
        self.visited.resize(self.groups.len(), 0);
        self.searches += 1;
        let mut todo: Vec<usize> = from.iter().copied().collect();
        while let Some(group) = todo.pop() {
            if group == target || self.steps_left == 0 {
                return true;
            }
            let Some(mark) = self.visited.get_mut(group) else { continue };
            if *mark == self.searches {
                continue;
            }
            *mark = self.searches;
            if let Some(group) = self.groups.get(group) {
                self.steps_left = self.steps_left.saturating_sub(1 + group.needs.len() as u64);
                todo.extend(group.needs.iter().copied());
            }
        }
        false
    }

    fn runner(&mut self, at: usize, needs: BTreeSet<usize>) {
        let hint = needs.iter().find_map(|group| self.groups.get(*group)?.hint.clone());
        self.add(Group { ops: vec![at], stage: None, hint, needs });
    }

    fn add(&mut self, group: Group) {
        for op in &group.ops {
            if let Some(place) = self.group_of.get_mut(*op) {
                *place = Some(self.groups.len());
            }
        }
        self.groups.push(group);
    }

    fn join(&mut self, group: usize, at: usize, needs: BTreeSet<usize>) {
        if let Some(place) = self.group_of.get_mut(at) {
            *place = Some(group);
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.ops.push(at);
            group.needs.extend(needs);
        }
    }

    fn maker(&self, pcollection: &str) -> Option<usize> {
        self.group_of.get(*self.producer.get(pcollection)?).copied().flatten()
    }

    fn makers<'a>(&self, pcollections: impl Iterator<Item = &'a str>) -> BTreeSet<usize> {
        pcollections.filter_map(|id| self.maker(id)).collect()
    }

    fn environment_of(&self, group: usize) -> Option<&str> {
        Some(&self.groups.get(group)?.stage.as_ref()?.environment)
    }

    fn is_alone(&self, group: usize) -> bool {
        let edge = self.groups.get(group).and_then(|group| group.stage.as_ref());
        edge.is_none_or(|edge| edge.alone)
    }

    /// Sorts the groups.
    fn finish(self) -> Result<Fused> {
        let mut waits = vec![0_usize; self.groups.len()];
        let mut followers = vec![Vec::new(); self.groups.len()];
        for (at, group) in self.groups.iter().enumerate() {
            for need in &group.needs {
                if let (Some(list), Some(count)) = (followers.get_mut(*need), waits.get_mut(at)) {
                    list.push(at);
                    *count += 1;
                }
            }
        }
        let order = graph::order(&mut waits, &followers);
        if order.len() < self.groups.len() {
            return Err(Error::internal("Fusion made a stage that waits for itself."));
        }
        let mut place = vec![0_usize; self.groups.len()];
        for (new, old) in order.iter().enumerate() {
            if let Some(slot) = place.get_mut(*old) {
                *slot = new;
            }
        }
        let mut slots: Vec<Option<Group>> = self.groups.into_iter().map(Some).collect();
        let groups: Vec<Group> = order.into_iter().filter_map(|at| slots.get_mut(at)?.take()).collect();
        let group_of: Vec<usize> = self
            .group_of
            .iter()
            .map(|old| old.and_then(|old| place.get(old).copied()).unwrap_or_default())
            .collect();
        let mut consumers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, op) in self.ops.iter().enumerate() {
            for (_, input) in op.inputs() {
                consumers.entry(input.to_owned()).or_default().push(at);
            }
        }
        Ok(Fused { ops: self.ops, groups, producer: self.producer, consumers, group_of })
    }
}
