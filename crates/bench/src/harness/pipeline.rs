//! The pipeline of the null harness: sources that make records, one grouping, one end.
//!
//! ```text
//! Impulse -> generate --.
//! Impulse -> generate ---+-> Flatten -> GroupByKey -> drain
//! Impulse -> generate --'
//! ```
//!
//! Invariant: standard coders all the way, so that the runner wraps nothing in a length of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::pipeline::{
    self, ApiServiceDescriptor, Coder, Components, Environment, ExternalPayload, FunctionSpec, PCollection,
    PTransform, ParDoPayload, Pipeline, Trigger, WindowingStrategy, trigger,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::elements::Shape;
use crate::failure::{Doing, Result};

/// Names of Beam's coders.
pub(super) use urn::coder as urns;

/// The function that makes records; its payload is a [`Part`] as JSON.
pub(super) const GENERATE: &str = "claviger:bench:generate:v1";
/// The function that counts groups.
pub(super) const DRAIN: &str = "claviger:bench:drain:v1";

const BYTES: &str = "bytes";
const GLOBAL_WINDOW: &str = "global_window";
const VALUES: &str = "values";
const RECORDS: &str = "records";
const GROUPS: &str = "groups";
const WINDOWING: &str = "global";
const ENVIRONMENT: &str = "null-harness";

/// The records of one source, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The pipeline, whose worker the pool at `url` starts.
///
/// # Errors
/// When a payload cannot be encoded.
pub(super) fn build(shape: Shape, sources: u64, url: &str) -> Result<Pipeline> {
    let mut graph = Graph::new(url);
    let mut parts = Vec::new();
    for source in 0..sources {
        let part =
            Part { start: source * shape.records / sources, end: (source + 1) * shape.records / sources };
        let impulse = graph.add(&format!("impulse-{source}"), urn::transform::IMPULSE, &[], Some(BYTES));
        let payload = serde_json::to_vec(&part).doing("cannot encode a source")?;
        parts.push(graph.par_do(&format!("generate-{source}"), GENERATE, payload, &impulse, Some(RECORDS)));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let records = graph.add("flatten", urn::transform::FLATTEN, &parts, Some(RECORDS));
    let groups = graph.add("group", urn::transform::GROUP_BY_KEY, &[&records], Some(GROUPS));
    graph.par_do("drain", DRAIN, Vec::new(), &groups, None);
    Ok(graph.pipeline())
}

/// A graph that grows.
struct Graph {
    components: Components,
    roots: Vec<String>,
}

fn spec(urn: &str, payload: impl Into<Bytes>) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

impl Graph {
    fn new(url: &str) -> Self {
        let mut components = Components::default();
        let coders: [(&str, &str, &[&str]); 5] = [
            (BYTES, urns::BYTES, &[]),
            (GLOBAL_WINDOW, urns::GLOBAL_WINDOW, &[]),
            (VALUES, urns::ITERABLE, &[BYTES]),
            (RECORDS, urns::KV, &[BYTES, BYTES]),
            (GROUPS, urns::KV, &[BYTES, VALUES]),
        ];
        for (id, urn, parts) in coders {
            let component_coder_ids = parts.iter().map(|&part| part.to_owned()).collect();
            let coder = Coder { spec: spec(urn, Bytes::new()), component_coder_ids };
            components.coders.insert(id.to_owned(), coder);
        }
        components.windowing_strategies.insert(WINDOWING.to_owned(), windowing());
        let endpoint = ApiServiceDescriptor { url: url.to_owned(), ..ApiServiceDescriptor::default() };
        let external = ExternalPayload { endpoint: Some(endpoint), ..ExternalPayload::default() };
        let environment = Environment {
            urn: urn::environment::EXTERNAL.to_owned(),
            payload: external.encode_to_vec().into(),
            ..Environment::default()
        };
        components.environments.insert(ENVIRONMENT.to_owned(), environment);
        Self { components, roots: Vec::new() }
    }

    /// A function of ours over a PCollection; its output, where it has one.
    fn par_do(
        &mut self,
        name: &str,
        function: &str,
        payload: Vec<u8>,
        input: &str,
        coder: Option<&str>,
    ) -> String {
        let output = self.add(name, urn::transform::PAR_DO, &[input], coder);
        let par_do = ParDoPayload { do_fn: spec(function, payload), ..ParDoPayload::default() };
        if let Some(transform) = self.components.transforms.get_mut(name) {
            transform.environment_id = ENVIRONMENT.to_owned();
            transform.spec = spec(urn::transform::PAR_DO, par_do.encode_to_vec());
        }
        output
    }

    /// A transform; its output, which is empty for one without.
    fn add(&mut self, name: &str, urn: &str, inputs: &[&str], coder: Option<&str>) -> String {
        let mut outputs = BTreeMap::new();
        if let Some(coder) = coder {
            let id = format!("{name}.out");
            let collection = PCollection {
                unique_name: id.clone(),
                coder_id: coder.to_owned(),
                is_bounded: pipeline::is_bounded::Enum::Bounded.into(),
                windowing_strategy_id: WINDOWING.to_owned(),
                ..PCollection::default()
            };
            self.components.pcollections.insert(id.clone(), collection);
            outputs.insert("out".to_owned(), id);
        }
        let output = outputs.values().next().cloned().unwrap_or_default();
        let inputs = inputs.iter().enumerate().map(|(index, &input)| (index.to_string(), input.to_owned()));
        let transform = PTransform {
            unique_name: name.to_owned(),
            spec: spec(urn, Bytes::new()),
            inputs: inputs.collect(),
            outputs,
            ..PTransform::default()
        };
        self.components.transforms.insert(name.to_owned(), transform);
        self.roots.push(name.to_owned());
        output
    }

    fn pipeline(self) -> Pipeline {
        Pipeline { components: Some(self.components), root_transform_ids: self.roots, ..Pipeline::default() }
    }
}

/// All in one window, which fires once.
fn windowing() -> WindowingStrategy {
    WindowingStrategy {
        window_fn: spec(urn::window_fn::GLOBAL, Bytes::new()),
        window_coder_id: GLOBAL_WINDOW.to_owned(),
        merge_status: pipeline::merge_status::Enum::NonMerging.into(),
        trigger: Some(Trigger { trigger: Some(trigger::Trigger::Default(trigger::Default {})) }),
        accumulation_mode: pipeline::accumulation_mode::Enum::Discarding.into(),
        output_time: pipeline::output_time::Enum::EndOfWindow.into(),
        closing_behavior: pipeline::closing_behavior::Enum::EmitIfNonempty.into(),
        on_time_behavior: pipeline::on_time_behavior::Enum::FireIfNonempty.into(),
        environment_id: ENVIRONMENT.to_owned(),
        ..WindowingStrategy::default()
    }
}
