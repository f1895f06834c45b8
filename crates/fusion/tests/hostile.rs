//! Pipelines that are broken or beyond us: each ends in an error that names the step, none in a panic, and
//! size costs time in proportion.

use std::collections::BTreeMap;

use claviger_beam_proto::pipeline::{
    self, Coder, Components, Environment, FunctionSpec, PCollection, PTransform, ParDoPayload, Pipeline,
    SideInput, WindowingStrategy,
};
use claviger_core::error::ErrorKind;
use claviger_fusion::{Node, PlanOptions, plan};
use prost::Message;

const PAR_DO: &str = "beam:transform:pardo:v1";
const GROUP: &str = "beam:transform:group_by_key:v1";
const FLATTEN: &str = "beam:transform:flatten:v1";

fn spec(urn: &str) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), ..FunctionSpec::default() })
}

fn coder(urn: &str, parts: &[&str]) -> Coder {
    Coder { spec: spec(urn), component_coder_ids: parts.iter().map(|part| (*part).to_owned()).collect() }
}

/// A pipeline of impulses, ParDos and whatever else a test adds.
struct Sketch(Pipeline);

impl Sketch {
    fn new() -> Self {
        let mut components = Components::default();
        let capabilities = ["string_utf8", "varint", "bool", "nullable", "sharded_key"];
        let environment = Environment {
            urn: "beam:env:external:v1".to_owned(),
            capabilities: capabilities.map(|name| format!("beam:coder:{name}:v1")).to_vec(),
            ..Environment::default()
        };
        components.environments.insert("python".to_owned(), environment);
        for (id, coder) in [
            ("bytes", coder("beam:coder:bytes:v1", &[])),
            ("varint", coder("beam:coder:varint:v1", &[])),
            ("own", coder("pickled", &[])),
            ("global", coder("beam:coder:global_window:v1", &[])),
            ("pair", coder("beam:coder:kv:v1", &["own", "varint"])),
            ("group", coder("beam:coder:kv:v1", &["own", "many"])),
            ("many", coder("beam:coder:iterable:v1", &["varint"])),
        ] {
            components.coders.insert(id.to_owned(), coder);
        }
        let strategy = WindowingStrategy {
            window_fn: spec("beam:window_fn:global_windows:v1"),
            window_coder_id: "global".to_owned(),
            ..WindowingStrategy::default()
        };
        components.windowing_strategies.insert("all".to_owned(), strategy);
        Self(Pipeline { components: Some(components), ..Pipeline::default() })
    }

    fn components(&mut self) -> &mut Components {
        self.0.components.as_mut().expect("components")
    }

    fn transform(&mut self, id: &str) -> &mut PTransform {
        self.components().transforms.get_mut(id).expect("a transform")
    }

    /// Adds a root transform that makes a PCollection of its own name.
    fn add(&mut self, id: &str, urn: &str, inputs: &[&str], coder_id: &str) -> &mut PTransform {
        let transform = PTransform {
            unique_name: format!("step {id}"),
            spec: spec(urn),
            inputs: inputs.iter().map(|i| (format!("in {i}"), (*i).to_owned())).collect(),
            outputs: [("out".to_owned(), id.to_owned())].into(),
            environment_id: if urn == PAR_DO { "python" } else { "" }.to_owned(),
            ..PTransform::default()
        };
        let collection = PCollection {
            unique_name: id.to_owned(),
            coder_id: coder_id.to_owned(),
            windowing_strategy_id: "all".to_owned(),
            ..PCollection::default()
        };
        self.0.root_transform_ids.push(id.to_owned());
        self.components().pcollections.insert(id.to_owned(), collection);
        self.components().transforms.insert(id.to_owned(), transform);
        self.transform(id)
    }

    fn payload(&mut self, id: &str, payload: &ParDoPayload) {
        let spec = self.transform(id).spec.as_mut().expect("a spec");
        spec.payload = payload.encode_to_vec().into();
    }

    /// Makes an input of a ParDo a side input.
    fn side(&mut self, id: &str, input: &str) {
        let side = SideInput { access_pattern: spec("beam:side_input:iterable:v1"), ..SideInput::default() };
        let tag = format!("in {input}");
        self.transform(id).inputs.insert(tag.clone(), input.to_owned());
        let payload = self.transform(id).spec.as_ref().expect("a spec").payload.clone();
        let mut payload = ParDoPayload::decode(payload).expect("a payload");
        payload.side_inputs.insert(tag, side);
        self.payload(id, &payload);
    }

    fn text(&self) -> String {
        plan(&self.0, &PlanOptions::default()).expect("a plan").to_string()
    }

    /// Planning fails with this kind, and the message has these words.
    fn refused(&self, kind: ErrorKind, words: &[&str]) {
        let error = plan(&self.0, &PlanOptions::default()).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.message().contains(word), "{error} lacks {word}");
        }
    }
}

/// Impulse and two ParDos in a line.
fn line() -> Sketch {
    let mut sketch = Sketch::new();
    sketch.add("start", "beam:transform:impulse:v1", &[], "bytes");
    sketch.add("a", PAR_DO, &["start"], "own");
    sketch.add("b", PAR_DO, &["a"], "pair");
    sketch
}

#[test]
fn a_line_of_pardos_is_one_stage() {
    assert_eq!(
        line().text(),
        "impulse step start: -> start\nstage step a+step b @python\n  in start windowed_value(bytes, \
         global_window)\n"
    );
}

#[test]
fn nothing_is_planned_for_an_empty_pipeline() {
    assert!(plan(&Pipeline::default(), &PlanOptions::default()).expect("a plan").nodes.is_empty());
}

#[test]
fn unknown_requirements_are_refused() {
    let mut sketch = line();
    sketch.0.requirements.push("beam:requirement:magic:v1".to_owned());
    sketch.refused(ErrorKind::Unimplemented, &["beam:requirement:magic:v1"]);
}

#[test]
fn unknown_transforms_without_environment_are_refused_by_name() {
    let mut sketch = line();
    sketch.add("c", "beam:transform:magic:v1", &["b"], "own");
    sketch.refused(ErrorKind::InvalidArgument, &["step c", "beam:transform:magic:v1"]);
    sketch.transform("c").environment_id = "python".to_owned();
    assert!(sketch.text().contains("step a+step b+step c"));
}

#[test]
fn streaming_sources_are_refused_by_name() {
    for urn in ["beam:transform:teststream:v1", "beam:transform:pubsub_read:v1"] {
        let mut sketch = line();
        sketch.add("source", urn, &[], "own").environment_id = "python".to_owned();
        sketch.refused(ErrorKind::Unimplemented, &["step source", "streaming"]);
    }
}

#[test]
fn missing_references_are_named() {
    type Break = fn(&mut Sketch);
    let broken: [(&str, Break); 9] = [
        ("gone", |s| s.0.root_transform_ids.push("gone".to_owned())),
        ("step a", |s| drop(s.transform("a").inputs.insert("in start".to_owned(), "x".to_owned()))),
        ("step a", |s| drop(s.transform("a").outputs.insert("more".to_owned(), "x".to_owned()))),
        ("step a", |s| s.transform("a").environment_id = "nowhere".to_owned()),
        ("step start", |s| {
            s.components().pcollections.get_mut("start").expect("it").windowing_strategy_id =
                "none".to_owned();
        }),
        ("none", |s| s.components().pcollections.get_mut("start").expect("it").coder_id = "none".to_owned()),
        ("none", |s| {
            s.components().windowing_strategies.get_mut("all").expect("it").window_coder_id =
                "none".to_owned();
        }),
        ("step a", |s| {
            let spec = s.transform("a").spec.as_mut().expect("a spec");
            spec.payload = vec![0xff, 0xff].into();
        }),
        ("step b", |s| {
            s.side("b", "start");
            s.transform("b").inputs.remove("in start");
        }),
    ];
    for (word, break_it) in broken {
        let mut sketch = line();
        break_it(&mut sketch);
        sketch.refused(ErrorKind::InvalidArgument, &[word]);
    }
}

#[test]
fn a_pcollection_has_one_maker() {
    let mut sketch = line();
    sketch.add("c", PAR_DO, &["start"], "own").outputs = [("out".to_owned(), "a".to_owned())].into();
    sketch.refused(ErrorKind::InvalidArgument, &["step a", "step c"]);
    let mut sketch = line();
    sketch.0.root_transform_ids.retain(|id| id != "a");
    sketch.refused(ErrorKind::InvalidArgument, &["step b", "which no step makes"]);
}

#[test]
fn cycles_of_data_and_of_composites_are_refused() {
    let mut sketch = line();
    sketch.side("a", "b");
    sketch.refused(ErrorKind::InvalidArgument, &["cycle"]);

    let mut sketch = line();
    let composite = PTransform {
        unique_name: "whole".to_owned(),
        subtransforms: vec!["whole".to_owned()],
        ..PTransform::default()
    };
    sketch.components().transforms.insert("whole".to_owned(), composite);
    sketch.0.root_transform_ids.push("whole".to_owned());
    sketch.refused(ErrorKind::InvalidArgument, &["whole", "of itself"]);
}

#[test]
fn coders_within_themselves_are_refused() {
    for parts in [&["loop", "loop"][..], &["varint", "loop"]] {
        let mut sketch = line();
        sketch.components().coders.insert("loop".to_owned(), coder("beam:coder:kv:v1", parts));
        sketch.add("c", GROUP, &["b"], "group");
        sketch.components().pcollections.get_mut("b").expect("b").coder_id = "loop".to_owned();
        sketch.refused(ErrorKind::InvalidArgument, &["step c", "in itself"]);
    }
    let mut sketch = line();
    sketch.components().coders.insert("window".to_owned(), coder("beam:coder:custom_window:v1", &["window"]));
    sketch.components().windowing_strategies.get_mut("all").expect("all").window_coder_id =
        "window".to_owned();
    sketch.refused(ErrorKind::InvalidArgument, &["in itself"]);
}

#[test]
fn coders_that_share_their_parts_cost_time_in_proportion() {
    let mut sketch = line();
    sketch.components().coders.insert("c0".to_owned(), coder("beam:coder:kv:v1", &["own", "own"]));
    for at in 1..50 {
        let below = format!("c{}", at - 1);
        let both = coder("beam:coder:kv:v1", &[&below, &below]);
        sketch.components().coders.insert(format!("c{at}"), both);
    }
    sketch.components().pcollections.get_mut("b").expect("b").coder_id = "c49".to_owned();
    sketch.add("c", GROUP, &["b"], "group");
    assert!(sketch.text().len() < 4_000);
}

#[test]
fn coders_with_the_wrong_number_of_parts_are_refused() {
    let mut sketch = line();
    sketch.components().coders.insert("pair".to_owned(), coder("beam:coder:kv:v1", &["own"]));
    sketch.add("c", GROUP, &["b"], "group");
    sketch.refused(ErrorKind::InvalidArgument, &["step c", "1 components, not 2"]);
}

#[test]
fn a_group_needs_keys() {
    let mut sketch = line();
    sketch.add("c", GROUP, &["a"], "group");
    sketch.refused(ErrorKind::InvalidArgument, &["step c", "key and value"]);
}

#[test]
fn a_group_hands_on_the_encodings_of_its_input() {
    let mut sketch = line();
    // The SDK says another coder after the group than before it.
    sketch.components().coders.insert("many".to_owned(), coder("beam:coder:iterable:v1", &["own"]));
    sketch.add("c", GROUP, &["b"], "group");
    sketch.add("d", PAR_DO, &["c"], "own");
    let text = sketch.text();
    let wanted = "in c windowed_value(kv(length_prefix(?), iterable(varint)), global_window)";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn stages_do_not_cross_environments() {
    let mut sketch = line();
    let java = Environment { urn: "beam:env:docker:v1".to_owned(), ..Environment::default() };
    sketch.components().environments.insert("java".to_owned(), java);
    sketch.add("c", PAR_DO, &["b"], "own").environment_id = "java".to_owned();
    let text = sketch.text();
    assert!(text.contains("stage step c @java"), "{text}");
    // Java did not say that it knows variable-length integers.
    assert!(text.contains("out b windowed_value(kv(length_prefix(?), length_prefix(?))"), "{text}");
}

#[test]
fn equal_environments_are_one_and_hints_do_not_count() {
    let mut sketch = line();
    let mut twin = sketch.components().environments["python"].clone();
    twin.resource_hints.insert("memory".to_owned(), b"1".to_vec().into());
    sketch.components().environments.insert("twin".to_owned(), twin);
    sketch.transform("b").environment_id = "twin".to_owned();
    assert!(sketch.text().contains("step a+step b @python"));
}

#[test]
fn the_preferred_alternative_of_an_environment_is_taken() {
    let mut sketch = line();
    let environments = ["beam:env:docker:v1", "beam:env:process:v1"]
        .map(|urn| Environment { urn: urn.to_owned(), ..Environment::default() });
    let payload = pipeline::AnyOfEnvironmentPayload { environments: environments.to_vec() };
    let any = Environment {
        urn: "beam:env:anyof:v1".to_owned(),
        payload: payload.encode_to_vec().into(),
        ..Environment::default()
    };
    sketch.components().environments.insert("python".to_owned(), any);
    let planned = plan(&sketch.0, &PlanOptions::default()).expect("a plan");
    assert_eq!(planned.components.environments["python"].urn, "beam:env:process:v1");
    let docker =
        PlanOptions { environments: vec!["beam:env:docker:v1".to_owned()], ..PlanOptions::default() };
    let planned = plan(&sketch.0, &docker).expect("a plan");
    assert_eq!(planned.components.environments["python"].urn, "beam:env:docker:v1");
}

#[test]
fn crossed_side_inputs_do_not_make_stages_wait_for_each_other() {
    let mut sketch = Sketch::new();
    for (root, plain, reader) in [("s", "a", "b"), ("t", "c", "d")] {
        sketch.add(root, "beam:transform:impulse:v1", &[], "bytes");
        sketch.add(plain, PAR_DO, &[root], "own");
        sketch.add(reader, PAR_DO, &[root], "own");
    }
    sketch.side("b", "c");
    sketch.side("d", "a");
    let text = sketch.text();
    let stages = text.lines().filter(|line| line.starts_with("stage")).count();
    assert_eq!(stages, 3, "one pair may share a stage, not both:\n{text}");
}

#[test]
fn a_main_input_waits_for_a_side_input_rather_than_being_stored() {
    let mut sketch = line();
    sketch.add("g", GROUP, &["b"], "group");
    sketch.add("side", PAR_DO, &["g"], "own");
    sketch.add("other", "beam:transform:impulse:v1", &[], "bytes");
    sketch.add("large", PAR_DO, &["other"], "own");
    sketch.add("looks up", PAR_DO, &["large"], "own");
    sketch.side("looks up", "side");
    let text = sketch.text();
    assert!(text.contains("stage step large+step looks up @python"), "{text}");
}

#[test]
fn a_flatten_reads_an_input_as_often_as_it_is_named() {
    let mut sketch = line();
    sketch.add("f", FLATTEN, &["a", "start"], "own").inputs =
        [("0".to_owned(), "start".to_owned()), ("1".to_owned(), "start".to_owned())].into();
    sketch.components().pcollections.get_mut("f").expect("f").coder_id = "bytes".to_owned();
    sketch.add("c", PAR_DO, &["f"], "own");
    let text = sketch.text();
    assert!(text.contains("flatten step f: start, start -> f\n"), "{text}");
}

#[test]
fn duplicate_names_get_ids_of_their_own() {
    let mut sketch = line();
    sketch.transform("b").unique_name = "step a".to_owned();
    let planned = plan(&sketch.0, &PlanOptions::default()).expect("a plan");
    let (_, stage) = planned.stages().next().expect("a stage");
    let ids: Vec<&str> = stage.transforms.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["step a", "step a_2"]);
}

#[test]
fn long_pipelines_are_planned_in_time() {
    let mut sketch = line();
    let count = 10_000;
    for at in 0..count {
        let before = if at == 0 { "b".to_owned() } else { format!("t{}", at - 1) };
        sketch.add(&format!("t{at}"), PAR_DO, &[&before], "pair");
    }
    let planned = plan(&sketch.0, &PlanOptions::default()).expect("a plan");
    let stages: Vec<_> = planned.stages().collect();
    assert_eq!(stages.len(), 1);
    assert_eq!(stages[0].1.transforms.len(), count + 2);
    assert!(stages[0].1.name.len() < 200, "{}", stages[0].1.name);
}

#[test]
fn many_groups_and_side_inputs_are_planned_in_time() {
    let mut sketch = line();
    let mut before = "b".to_owned();
    for at in 0..1_000 {
        let (group, after) = (format!("g{at}"), format!("t{at}"));
        sketch.add(&group, GROUP, &[&before], "group");
        sketch.add(&after, PAR_DO, &[&group], "pair");
        sketch.add(&format!("s{at}"), PAR_DO, &[&after], "pair");
        sketch.side(&format!("s{at}"), "a");
        before = after;
    }
    let planned = plan(&sketch.0, &PlanOptions::default()).expect("a plan");
    assert_eq!(planned.stages().count(), 1_001);
    assert_eq!(planned.nodes.iter().filter(|n| matches!(n, Node::GroupByKey { .. })).count(), 1_000);
}

#[test]
fn deep_composites_cost_no_stack() {
    let mut sketch = line();
    let depth = 50_000;
    let mut composites = BTreeMap::new();
    for at in 0..depth {
        let below = if at + 1 == depth { "a".to_owned() } else { format!("deep{}", at + 1) };
        let composite = PTransform { subtransforms: vec![below], ..PTransform::default() };
        composites.insert(format!("deep{at}"), composite);
    }
    sketch.components().transforms.extend(composites);
    sketch.0.root_transform_ids.retain(|id| id != "a");
    sketch.0.root_transform_ids.push("deep0".to_owned());
    assert!(sketch.text().contains("step a+step b"));
}

#[test]
fn wide_flattens_and_repeated_names_are_planned_in_time() {
    let mut sketch = line();
    let count = 3_000;
    let names: Vec<String> = (0..count).map(|at| format!("t{at}")).collect();
    for name in &names {
        sketch.add(name, PAR_DO, &["start"], "pair").unique_name = "one name".to_owned();
    }
    let inputs: Vec<&str> = names.iter().map(String::as_str).chain(["g"]).collect();
    sketch.add("g", GROUP, &["b"], "group");
    sketch.add("f", FLATTEN, &inputs, "own");
    sketch.add("z", PAR_DO, &["f"], "own");
    let planned = plan(&sketch.0, &PlanOptions::default()).expect("a plan");
    let (_, stage) = planned.stages().next().expect("a stage");
    assert_eq!(stage.outputs.len(), count + 1);
    let Some(Node::Flatten { inputs, .. }) =
        planned.nodes.iter().find(|node| matches!(node, Node::Flatten { .. }))
    else {
        panic!("no flatten");
    };
    assert_eq!(inputs.len(), count + 1);
}
