//! Wire coders: for each coder of the pipeline, one that the runner can walk without the SDK, and that
//! the SDK understands as the same type.
//!
//! Invariant: what [`Coders::wire`] gives is made of coders that both sides know, and length prefixes;
//! asking again for a wire coder gives itself. Equal coders get one id, so that ids can be compared.

use std::collections::BTreeMap;

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::{Error, Result};

use crate::MAX_CODER_DEPTH;

type Table = BTreeMap<String, pipeline::Coder>;

/// Coders that each SDK must know, whatever it says.
const REQUIRED: [&str; 11] = [
    urn::coder::WINDOWED_VALUE,
    urn::coder::BYTES,
    urn::coder::GLOBAL_WINDOW,
    urn::coder::KV,
    urn::coder::ITERABLE,
    urn::coder::DOUBLE,
    urn::coder::TIMER,
    urn::coder::LENGTH_PREFIX,
    urn::coder::CUSTOM_WINDOW,
    urn::coder::INTERVAL_WINDOW,
    urn::coder::PARAM_WINDOWED_VALUE,
];

/// Coders that the runner walks, where all environments of the pipeline say that they know them. Rows are
/// not here: a length prefix is walked faster than a schema.
const COMMON: [&str; 5] = [
    urn::coder::STRING_UTF8,
    urn::coder::BOOL,
    urn::coder::VARINT,
    urn::coder::NULLABLE,
    urn::coder::SHARDED_KEY,
];

/// The wire coders found so far.
#[derive(Debug)]
pub(crate) struct Coders {
    known: Vec<&'static str>,
    by_content: BTreeMap<(String, Bytes, Vec<String>), String>,
    wires: BTreeMap<String, String>,
    windows: BTreeMap<String, String>,
}

impl Coders {
    /// For a pipeline's coders and environments.
    pub(crate) fn new(components: &pipeline::Components) -> Self {
        let mut known = REQUIRED.to_vec();
        known.extend(COMMON.iter().filter(|urn| {
            components
                .environments
                .values()
                .all(|environment| environment.capabilities.iter().any(|has| has == **urn))
        }));
        let mut by_content = BTreeMap::new();
        for (id, coder) in &components.coders {
            by_content.entry(content(coder)).or_insert_with(|| id.clone());
        }
        Self { known, by_content, wires: BTreeMap::new(), windows: BTreeMap::new() }
    }

    /// The id of a coder, which is added when there is none like it.
    pub(crate) fn add(
        &mut self,
        table: &mut Table,
        base: &str,
        urn: &str,
        components: Vec<String>,
    ) -> String {
        self.intern(table, base, with_spec(urn, Bytes::new(), components))
    }

    /// The wire coder of a coder, which may be itself.
    ///
    /// # Errors
    /// `InvalidArgument` for a coder that is missing, malformed, nested too deep or within itself.
    pub(crate) fn wire(&mut self, table: &mut Table, id: &str) -> Result<String> {
        self.wire_at(table, id, 0)
    }

    /// The wire coder of a window coder: the maximum timestamp can be read from each window.
    ///
    /// # Errors
    /// As for [`Self::wire`].
    pub(crate) fn window(&mut self, table: &mut Table, id: &str) -> Result<String> {
        self.window_at(table, id, 0)
    }

    fn wire_at(&mut self, table: &mut Table, id: &str, depth: usize) -> Result<String> {
        if let Some(done) = self.wires.get(id) {
            return Ok(done.clone());
        }
        if depth > MAX_CODER_DEPTH {
            return Err(Error::invalid(format!(
                "Coder {id:?} is nested more than {MAX_CODER_DEPTH} deep, or in itself."
            )));
        }
        let coder = find(table, id)?;
        let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str()).to_owned();
        let wire = if urn == urn::coder::LENGTH_PREFIX {
            arity(id, &coder, 1)?;
            self.canonical(coder, id)
        } else if self.known.contains(&urn.as_str()) {
            if let Some(count) = expected_arity(&urn) {
                arity(id, &coder, count)?;
            }
            let windowed = matches!(
                urn.as_str(),
                urn::coder::TIMER | urn::coder::WINDOWED_VALUE | urn::coder::PARAM_WINDOWED_VALUE
            );
            let mut parts = Vec::with_capacity(coder.component_coder_ids.len());
            for (at, part) in coder.component_coder_ids.iter().enumerate() {
                parts.push(if windowed && at == 1 {
                    self.window_at(table, part, depth + 1)?
                } else {
                    self.wire_at(table, part, depth + 1)?
                });
            }
            if parts == coder.component_coder_ids {
                self.canonical(coder, id)
            } else {
                let wired = pipeline::Coder { spec: coder.spec, component_coder_ids: parts };
                self.intern(table, &format!("{id}_wire"), wired)
            }
        } else {
            self.add(table, &format!("{id}_wire"), urn::coder::LENGTH_PREFIX, vec![id.to_owned()])
        };
        self.wires.insert(wire.clone(), wire.clone());
        self.wires.insert(id.to_owned(), wire.clone());
        Ok(wire)
    }

    fn window_at(&mut self, table: &mut Table, id: &str, depth: usize) -> Result<String> {
        if let Some(done) = self.windows.get(id) {
            return Ok(done.clone());
        }
        let coder = find(table, id)?;
        let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str()).to_owned();
        let window = match urn.as_str() {
            urn::coder::GLOBAL_WINDOW | urn::coder::INTERVAL_WINDOW => self.canonical(coder, id),
            urn::coder::CUSTOM_WINDOW => self.wire_at(table, id, depth)?,
            _ => {
                let inner = self.wire_at(table, id, depth)?;
                self.add(table, &format!("{id}_window"), urn::coder::CUSTOM_WINDOW, vec![inner])
            }
        };
        self.windows.insert(window.clone(), window.clone());
        self.windows.insert(id.to_owned(), window.clone());
        Ok(window)
    }

    /// The first id of this content: the pipeline may hold a coder twice.
    fn canonical(&mut self, coder: pipeline::Coder, id: &str) -> String {
        self.by_content.entry(content(&coder)).or_insert_with(|| id.to_owned()).clone()
    }

    fn intern(&mut self, table: &mut Table, base: &str, coder: pipeline::Coder) -> String {
        if let Some(id) = self.by_content.get(&content(&coder)) {
            return id.clone();
        }
        let id = fresh(base, |candidate| table.contains_key(candidate));
        self.by_content.insert(content(&coder), id.clone());
        table.insert(id.clone(), coder);
        id
    }
}

/// The components of a `KV` coder.
pub(crate) fn kv(table: &Table, id: &str) -> Option<(String, String)> {
    let coder = table.get(id)?;
    if coder.spec.as_ref()?.urn != urn::coder::KV {
        return None;
    }
    match coder.component_coder_ids.as_slice() {
        [key, value] => Some((key.clone(), value.clone())),
        _ => None,
    }
}

/// The URN of a coder, empty when there is none.
pub(crate) fn urn_of<'a>(table: &'a Table, id: &str) -> &'a str {
    table.get(id).and_then(|coder| coder.spec.as_ref()).map_or("", |spec| spec.urn.as_str())
}

/// `base`, or `base_2` and so on: the first that is not taken.
pub(crate) fn fresh(base: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(base) {
        return base.to_owned();
    }
    let mut number = 2_u64;
    loop {
        let candidate = format!("{base}_{number}");
        if !taken(&candidate) {
            return candidate;
        }
        number += 1;
    }
}

fn with_spec(urn: &str, payload: Bytes, components: Vec<String>) -> pipeline::Coder {
    pipeline::Coder {
        spec: Some(pipeline::FunctionSpec { urn: urn.to_owned(), payload }),
        component_coder_ids: components,
    }
}

fn content(coder: &pipeline::Coder) -> (String, Bytes, Vec<String>) {
    let spec = coder.spec.clone().unwrap_or_default();
    (spec.urn, spec.payload, coder.component_coder_ids.clone())
}

fn find(table: &Table, id: &str) -> Result<pipeline::Coder> {
    table
        .get(id)
        .cloned()
        .ok_or_else(|| Error::invalid(format!("Coder {id:?} is named, but not in the pipeline.")))
}

fn arity(id: &str, coder: &pipeline::Coder, count: usize) -> Result<()> {
    let have = coder.component_coder_ids.len();
    if have == count {
        return Ok(());
    }
    let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str());
    Err(Error::invalid(format!("Coder {id:?} ({urn}) has {have} components, not {count}.")))
}

fn expected_arity(urn: &str) -> Option<usize> {
    Some(match urn {
        urn::coder::KV
        | urn::coder::TIMER
        | urn::coder::WINDOWED_VALUE
        | urn::coder::PARAM_WINDOWED_VALUE => 2,
        urn::coder::ITERABLE | urn::coder::NULLABLE | urn::coder::SHARDED_KEY | urn::coder::CUSTOM_WINDOW => {
            1
        }
        urn::coder::BYTES
        | urn::coder::STRING_UTF8
        | urn::coder::BOOL
        | urn::coder::VARINT
        | urn::coder::DOUBLE
        | urn::coder::GLOBAL_WINDOW
        | urn::coder::INTERVAL_WINDOW => 0,
        _ => return None,
    })
}
