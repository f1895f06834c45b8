//! Builds small pipelines for the tests' SDK. Elements are bytes, or pairs of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use claviger_beam_proto::pipeline::{
    self, Coder, Components, Environment, ExternalPayload, FunctionSpec, PCollection, PTransform,
    ParDoPayload, Pipeline, Trigger, WindowingStrategy, trigger,
};
use prost::Message as _;

pub(super) const BYTES: &str = "bytes";
pub(super) const PAIRS: &str = "pairs";
pub(super) const GROUPS: &str = "groups";
pub(super) const GLOBAL: &str = "global";
pub(super) const CUSTOM: &str = "custom";

/// A pipeline that grows.
pub(super) struct Pipe {
    pub(super) components: Components,
    roots: Vec<String>,
    requirements: Vec<String>,
}

pub(super) fn spec(urn: &str, payload: impl Into<Bytes>) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

impl Pipe {
    pub(super) fn new() -> Self {
        let mut components = Components::default();
        let external = ExternalPayload {
            endpoint: Some(pipeline::ApiServiceDescriptor { url: "pool".into(), authentication: None }),
            params: BTreeMap::new(),
        };
        components.environments.insert(
            "env".into(),
            Environment {
                urn: "beam:env:external:v1".into(),
                payload: external.encode_to_vec().into(),
                ..Environment::default()
            },
        );
        let coders: [(&str, &str, &[&str]); 7] = [
            (BYTES, "beam:coder:bytes:v1", &[]),
            ("global_window", "beam:coder:global_window:v1", &[]),
            ("interval", "beam:coder:interval_window:v1", &[]),
            ("iterable", "beam:coder:iterable:v1", &[BYTES]),
            (PAIRS, "beam:coder:kv:v1", &[BYTES, BYTES]),
            (GROUPS, "beam:coder:kv:v1", &[BYTES, "iterable"]),
            ("timer", "beam:coder:timer:v1", &[BYTES, "global_window"]),
        ];
        for (id, urn, parts) in coders {
            let component_coder_ids = parts.iter().map(|part| (*part).to_owned()).collect();
            components.coders.insert(id.into(), Coder { spec: spec(urn, ""), component_coder_ids });
        }
        let global = WindowingStrategy {
            window_fn: spec("beam:window_fn:global_windows:v1", ""),
            window_coder_id: "global_window".into(),
            merge_status: pipeline::merge_status::Enum::NonMerging.into(),
            trigger: Some(Trigger { trigger: Some(trigger::Trigger::Default(trigger::Default {})) }),
            accumulation_mode: pipeline::accumulation_mode::Enum::Discarding.into(),
            output_time: pipeline::output_time::Enum::EndOfWindow.into(),
            closing_behavior: pipeline::closing_behavior::Enum::EmitIfNonempty.into(),
            on_time_behavior: pipeline::on_time_behavior::Enum::FireIfNonempty.into(),
            environment_id: "env".into(),
            ..WindowingStrategy::default()
        };
        let custom = WindowingStrategy {
            window_fn: spec("test:windows", "payload"),
            window_coder_id: "interval".into(),
            merge_status: pipeline::merge_status::Enum::NeedsMerge.into(),
            ..global.clone()
        };
        components.windowing_strategies.insert(GLOBAL.into(), global);
        components.windowing_strategies.insert(CUSTOM.into(), custom);
        Self { components, roots: Vec::new(), requirements: Vec::new() }
    }

    fn collection(&mut self, id: &str, coder: &str, strategy: &str) -> String {
        let collection = PCollection {
            unique_name: id.to_owned(),
            coder_id: coder.to_owned(),
            is_bounded: pipeline::is_bounded::Enum::Bounded.into(),
            windowing_strategy_id: strategy.to_owned(),
            ..PCollection::default()
        };
        self.components.pcollections.insert(id.to_owned(), collection);
        id.to_owned()
    }

    fn strategy_of(&self, collection: &str) -> String {
        self.components.pcollections[collection].windowing_strategy_id.clone()
    }

    fn add(&mut self, name: &str, transform: PTransform) {
        self.roots.push(name.to_owned());
        self.components
            .transforms
            .insert(name.to_owned(), PTransform { unique_name: name.to_owned(), ..transform });
    }

    pub(super) fn impulse(&mut self, name: &str) -> String {
        let output = self.collection(&format!("{name}.out"), BYTES, GLOBAL);
        let outputs = BTreeMap::from([("out".to_owned(), output.clone())]);
        self.add(
            name,
            PTransform { spec: spec("beam:transform:impulse:v1", ""), outputs, ..PTransform::default() },
        );
        output
    }

    /// A step of the tests' SDK.
    pub(super) fn step(
        &mut self,
        name: &str,
        input: &str,
        function: &str,
        payload: &str,
        coder: &str,
    ) -> String {
        self.step_with(name, input, function, payload, coder, |_, _| {})
    }

    pub(super) fn step_with(
        &mut self,
        name: &str,
        input: &str,
        function: &str,
        payload: &str,
        coder: &str,
        more: impl FnOnce(&mut ParDoPayload, &mut PTransform),
    ) -> String {
        let strategy = if function == "test:window" { CUSTOM.to_owned() } else { self.strategy_of(input) };
        let output = self.collection(&format!("{name}.out"), coder, &strategy);
        let mut par_do =
            ParDoPayload { do_fn: spec(function, payload.to_owned()), ..ParDoPayload::default() };
        let mut transform = PTransform {
            inputs: BTreeMap::from([("in".to_owned(), input.to_owned())]),
            outputs: BTreeMap::from([("out".to_owned(), output.clone())]),
            environment_id: "env".into(),
            ..PTransform::default()
        };
        more(&mut par_do, &mut transform);
        if !par_do.state_specs.is_empty() || !par_do.timer_family_specs.is_empty() {
            self.requirements.push("beam:requirement:pardo:stateful:v1".into());
        }
        if !par_do.restriction_coder_id.is_empty() {
            self.requirements.push("beam:requirement:pardo:splittable_dofn:v1".into());
        }
        if par_do.requests_finalization {
            self.requirements.push("beam:requirement:pardo:finalization:v1".into());
        }
        transform.spec = spec("beam:transform:pardo:v1", par_do.encode_to_vec());
        self.add(name, transform);
        output
    }

    pub(super) fn group(&mut self, name: &str, input: &str) -> String {
        let strategy = self.strategy_of(input);
        let output = self.collection(&format!("{name}.out"), GROUPS, &strategy);
        self.add(
            name,
            PTransform {
                spec: spec("beam:transform:group_by_key:v1", ""),
                inputs: BTreeMap::from([("in".to_owned(), input.to_owned())]),
                outputs: BTreeMap::from([("out".to_owned(), output.clone())]),
                ..PTransform::default()
            },
        );
        output
    }

    pub(super) fn flatten(&mut self, name: &str, inputs: &[&str]) -> String {
        let first = &self.components.pcollections[inputs[0]];
        let (coder, strategy) = (first.coder_id.clone(), first.windowing_strategy_id.clone());
        let output = self.collection(&format!("{name}.out"), &coder, &strategy);
        let inputs = inputs.iter().enumerate().map(|(index, input)| (index.to_string(), (*input).to_owned()));
        self.add(
            name,
            PTransform {
                spec: spec("beam:transform:flatten:v1", ""),
                inputs: inputs.collect(),
                outputs: BTreeMap::from([("out".to_owned(), output.clone())]),
                ..PTransform::default()
            },
        );
        output
    }

    /// What follows does not share a bundle with what came before.
    pub(super) fn reshuffle(&mut self, name: &str, input: &str) -> String {
        let first = &self.components.pcollections[input];
        let (coder, strategy) = (first.coder_id.clone(), first.windowing_strategy_id.clone());
        let output = self.collection(&format!("{name}.out"), &coder, &strategy);
        self.add(
            name,
            PTransform {
                spec: spec("beam:transform:reshuffle:v1", ""),
                inputs: BTreeMap::from([("in".to_owned(), input.to_owned())]),
                outputs: BTreeMap::from([("out".to_owned(), output.clone())]),
                ..PTransform::default()
            },
        );
        output
    }

    pub(super) fn build(self) -> Pipeline {
        Pipeline {
            components: Some(self.components),
            root_transform_ids: self.roots,
            requirements: self.requirements,
            ..Pipeline::default()
        }
    }
}
