//! Where each collection's elements go: which are kept in a log, which go straight into a shuffle, who reads
//! them, and when they can be dropped.
//!
//! Invariant: each store is written by the nodes before its readers, and deleted after the last of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use claviger_beam::Coder;
use claviger_beam::elements::{Elements, KeyValues};
use claviger_beam::group::GroupByKey;
use claviger_core::{Error, Result};
use claviger_fusion::{Node, Plan};
use claviger_shuffle::{Log, Shuffle, Space};

use super::limits::{SHUFFLE_PARTITIONS, TARGETS_PER_OUTPUT};

/// Elements in order, read by stages and as side inputs.
pub(super) struct LogStore {
    pub(super) log: Arc<Log>,
    pub(super) elements: Elements,
    pub(super) coder: Arc<Coder>,
    readers: AtomicUsize,
}

/// Elements by key.
pub(super) struct ShuffleStore {
    pub(super) shuffle: Arc<Shuffle>,
    pub(super) kind: ShuffleKind,
    readers: AtomicUsize,
}

/// What a shuffle's records are.
pub(super) enum ShuffleKind {
    /// Values by key and window, for a group by key.
    Groups { group: Arc<GroupByKey>, strategy: String, window_coder: String, output: Arc<Coder> },
    /// Whole elements by key, for a stateful stage; by time within a key if it asks for that.
    Keyed { pairs: KeyValues, by_time: bool },
}

/// Where elements of an output are written to.
#[derive(Clone)]
pub(super) enum Target {
    Log(Arc<LogStore>),
    Shuffle(Arc<ShuffleStore>),
}

/// Where a stage's elements come from.
#[derive(Clone)]
pub(super) enum Input {
    Log(Arc<LogStore>),
    /// The groups of a shuffle, made while they are read.
    Groups(Arc<ShuffleStore>),
    /// Whole elements, key by key.
    Keyed(Arc<ShuffleStore>),
}

/// What running a node means.
pub(super) enum Task {
    /// Writes the one element of an impulse.
    Impulse { targets: Vec<Target> },
    /// The groups are made by their readers.
    Nothing,
    /// Writes groups where they are needed as a collection.
    Copy { from: Arc<ShuffleStore>, targets: Vec<Target> },
    /// Sends the input to workers.
    Stage { input: Input, sides: Vec<Arc<LogStore>>, outputs: HashMap<String, Vec<Target>> },
}

/// One node, ready to be scheduled.
pub(super) struct Step {
    pub(super) task: Task,
    /// The nodes that must be over before this one.
    pub(super) after: Vec<usize>,
    /// A shuffle whose writers are all over when this node begins.
    pub(super) completes: Option<Arc<ShuffleStore>>,
}

impl LogStore {
    /// One reader less; the last one deletes.
    pub(super) async fn release(&self) -> Result<()> {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 { self.log.delete().await } else { Ok(()) }
    }
}

impl ShuffleStore {
    /// One reader less; the last one deletes.
    pub(super) async fn release(&self) -> Result<()> {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 { self.shuffle.delete().await } else { Ok(()) }
    }
}

impl Input {
    pub(super) async fn release(&self) -> Result<()> {
        match self {
            Self::Log(store) => store.release().await,
            Self::Groups(store) | Self::Keyed(store) => store.release().await,
        }
    }
}

/// Who reads a collection, by node.
#[derive(Clone, Copy)]
enum Reader {
    Plain,
    Keyed(usize),
    Side,
    Group(usize),
    Flatten(usize),
}

/// Lays the plan out over logs and shuffles.
pub(super) fn steps(plan: &Plan, space: &Arc<Space>) -> Result<Vec<Step>> {
    let mut builder = Builder::new(plan, space)?;
    plan.nodes.iter().enumerate().map(|(index, node)| builder.step(index, node)).collect()
}

struct Builder<'a> {
    plan: &'a Plan,
    space: &'a Arc<Space>,
    readers: HashMap<&'a str, Vec<Reader>>,
    producers: HashMap<&'a str, usize>,
    /// Shuffles by the node that reads them.
    shuffles: HashMap<usize, Arc<ShuffleStore>>,
    /// Grouped collections that nobody keeps, by name: the node of the group by key.
    lazy: HashMap<&'a str, usize>,
    logs: HashMap<&'a str, Arc<LogStore>>,
}

impl<'a> Builder<'a> {
    fn new(plan: &'a Plan, space: &'a Arc<Space>) -> Result<Self> {
        let mut readers: HashMap<&str, Vec<Reader>> = HashMap::new();
        let mut producers = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            match node {
                Node::Impulse { output, .. } => {
                    producers.insert(output.as_str(), index);
                }
                Node::GroupByKey { input, output, .. } => {
                    readers.entry(input).or_default().push(Reader::Group(index));
                    producers.insert(output, index);
                }
                Node::Flatten { inputs, output, .. } => {
                    for input in inputs {
                        readers.entry(input).or_default().push(Reader::Flatten(index));
                    }
                    producers.insert(output, index);
                }
                Node::Stage(stage) => {
                    let reader = if stage.input.keyed { Reader::Keyed(index) } else { Reader::Plain };
                    readers.entry(&stage.input.pcollection).or_default().push(reader);
                    for side in &stage.side_inputs {
                        readers.entry(&side.pcollection).or_default().push(Reader::Side);
                    }
                    for output in &stage.outputs {
                        producers.insert(&output.pcollection, index);
                    }
                }
            }
        }
        let mut builder = Self {
            plan,
            space,
            readers,
            producers,
            shuffles: HashMap::new(),
            lazy: HashMap::new(),
            logs: HashMap::new(),
        };
        builder.open_shuffles()?;
        builder.open_logs()?;
        Ok(builder)
    }

    fn open_shuffles(&mut self) -> Result<()> {
        for (index, node) in self.plan.nodes.iter().enumerate() {
            let (kind, readers) = match node {
                Node::GroupByKey { output, strategy_id, input_wire_coder, output_wire_coder, .. } => {
                    let components = &self.plan.components;
                    let group = GroupByKey::new(strategy_id, input_wire_coder, components)?;
                    // The second part of a windowed value's coder is that of its windows.
                    let wire = components.coders.get(input_wire_coder);
                    let window_coder = wire.and_then(|coder| coder.component_coder_ids.get(1));
                    let readers = self.readers.get(output.as_str()).map_or(&[][..], Vec::as_slice);
                    // Groups that only stages read are made again by each of them, and never stored.
                    let lazy = readers.iter().all(|reader| matches!(reader, Reader::Plain));
                    if lazy {
                        self.lazy.insert(output, index);
                    }
                    let kind = ShuffleKind::Groups {
                        group: Arc::new(group),
                        strategy: strategy_id.clone(),
                        window_coder: window_coder.cloned().unwrap_or_default(),
                        output: Coder::from_components(output_wire_coder, components)?,
                    };
                    // Without a reader the node itself drops what was written.
                    (kind, if lazy { readers.len().max(1) } else { 1 })
                }
                Node::Stage(stage) if stage.input.keyed => {
                    let pairs = Elements::key_values(&stage.input.wire_coder_id, &self.plan.components)?;
                    (ShuffleKind::Keyed { pairs, by_time: stage.input.time_sorted }, 1)
                }
                _ => continue,
            };
            // Names at rest are numbers: those of the pipeline are the customer's.
            let shuffle = self.space.shuffle(&format!("s{index}"), SHUFFLE_PARTITIONS);
            let store = ShuffleStore { shuffle, kind, readers: AtomicUsize::new(readers) };
            self.shuffles.insert(index, Arc::new(store));
        }
        Ok(())
    }

    fn open_logs(&mut self) -> Result<()> {
        for node in &self.plan.nodes {
            let Node::Stage(stage) = node else { continue };
            if !stage.input.keyed && !self.lazy.contains_key(stage.input.pcollection.as_str()) {
                self.open_log(&stage.input.pcollection, &stage.input.wire_coder_id)?;
            }
            for side in &stage.side_inputs {
                self.open_log(&side.pcollection, &side.wire_coder_id)?;
            }
        }
        Ok(())
    }

    fn open_log(&mut self, collection: &'a str, coder: &str) -> Result<()> {
        if self.logs.contains_key(collection) {
            return Ok(());
        }
        let readers = self.readers.get(collection).map_or(&[][..], Vec::as_slice);
        let readers = readers.iter().filter(|reader| matches!(reader, Reader::Plain | Reader::Side)).count();
        let store = LogStore {
            log: self.space.log(&format!("l{}", self.logs.len())),
            elements: Elements::new(coder, &self.plan.components)?,
            coder: Coder::from_components(coder, &self.plan.components)?,
            readers: AtomicUsize::new(readers),
        };
        self.logs.insert(collection, Arc::new(store));
        Ok(())
    }

    fn step(&mut self, index: usize, node: &'a Node) -> Result<Step> {
        let mut completes = None;
        let mut inputs: Vec<&str> = Vec::new();
        let task = match node {
            Node::Impulse { output, .. } => Task::Impulse { targets: self.targets(output)? },
            Node::Flatten { inputs: flattened, .. } => {
                inputs.extend(flattened.iter().map(String::as_str));
                Task::Nothing
            }
            Node::GroupByKey { input, output, .. } => {
                inputs.push(input);
                let from = self.shuffle(index)?;
                completes = Some(from.clone());
                let unread = self.readers.get(output.as_str()).is_none_or(Vec::is_empty);
                if self.lazy.contains_key(output.as_str()) && !unread {
                    Task::Nothing
                } else {
                    Task::Copy { from, targets: self.targets(output)? }
                }
            }
            Node::Stage(stage) => {
                inputs.push(&stage.input.pcollection);
                inputs.extend(stage.side_inputs.iter().map(|side| side.pcollection.as_str()));
                let input = if stage.input.keyed {
                    let store = self.shuffle(index)?;
                    completes = Some(store.clone());
                    Input::Keyed(store)
                } else if let Some(group) = self.lazy.get(stage.input.pcollection.as_str()) {
                    Input::Groups(self.shuffle(*group)?)
                } else {
                    Input::Log(self.log(&stage.input.pcollection)?)
                };
                let sides = stage.side_inputs.iter().map(|side| self.log(&side.pcollection));
                let sides = sides.collect::<Result<_>>()?;
                let mut outputs = HashMap::new();
                for output in &stage.outputs {
                    outputs.insert(output.port_transform_id.clone(), self.targets(&output.pcollection)?);
                }
                Task::Stage { input, sides, outputs }
            }
        };
        let mut after = Vec::new();
        for input in inputs {
            let producer = *self.producers.get(input).ok_or_else(|| {
                Error::invalid(format!(
                    "Nothing in the pipeline makes the collection {input} that a step reads."
                ))
            })?;
            if producer >= index {
                return Err(Error::internal("The plan's nodes are not in order."));
            }
            if !after.contains(&producer) {
                after.push(producer);
            }
        }
        Ok(Step { task, after, completes })
    }

    fn shuffle(&self, index: usize) -> Result<Arc<ShuffleStore>> {
        self.shuffles.get(&index).cloned().ok_or_else(|| Error::internal("A node lost its shuffle."))
    }

    fn log(&self, collection: &str) -> Result<Arc<LogStore>> {
        self.logs.get(collection).cloned().ok_or_else(|| Error::internal("A collection lost its log."))
    }

    /// All places that an output goes to, through flattens; one that is flattened twice is there twice.
    fn targets(&self, collection: &str) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        let mut open = vec![collection];
        while let Some(collection) = open.pop() {
            if let Some(log) = self.logs.get(collection) {
                targets.push(Target::Log(log.clone()));
            }
            for reader in self.readers.get(collection).into_iter().flatten() {
                match reader {
                    Reader::Group(index) | Reader::Keyed(index) => {
                        targets.push(Target::Shuffle(self.shuffle(*index)?));
                    }
                    Reader::Flatten(index) => {
                        if let Some(Node::Flatten { output, .. }) = self.plan.nodes.get(*index) {
                            open.push(output);
                        }
                    }
                    Reader::Plain | Reader::Side => {}
                }
            }
            if targets.len() + open.len() > TARGETS_PER_OUTPUT {
                return Err(Error::invalid(format!(
                    "The collection {collection} goes to more than {TARGETS_PER_OUTPUT} places through flattens.",
                )));
            }
        }
        Ok(targets)
    }
}
