//! Plans of pipelines that Beam's Python SDK wrote (`clients/python/beam/make_fixtures.py`).
//!
//! Invariant: `tests/plans` holds the plan of each fixture as text. A change of a plan is a change of that
//! file, which `CLAVIGER_BLESS=1` writes anew; read the difference before you commit it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use claviger_beam::coder::Coder;
use claviger_beam_proto::{fn_execution, pipeline};
use claviger_fusion::{Node, Plan, PlanOptions, Stage, plan};
use prost::Message;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn fixture(name: &str) -> pipeline::Pipeline {
    let bytes = std::fs::read(folder("fixtures").join(format!("{name}.pb"))).expect("a fixture");
    pipeline::Pipeline::decode(bytes.as_slice()).expect("a pipeline")
}

fn fixtures() -> Vec<(String, pipeline::Pipeline)> {
    let files = std::fs::read_dir(folder("fixtures")).expect("the fixtures");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() > 20, "fixtures are missing");
    names.into_iter().map(|name| (name.clone(), fixture(&name))).collect()
}

fn planned(name: &str) -> Plan {
    plan(&fixture(name), &PlanOptions::default()).expect("a plan")
}

fn stage<'a>(plan: &'a Plan, name: &str) -> &'a Stage {
    plan.stages()
        .map(|(_, stage)| stage)
        .find(|stage| stage.name.contains(name))
        .unwrap_or_else(|| panic!("no stage with {name} in:\n{plan}"))
}

#[test]
fn each_fixture_has_the_plan_that_was_agreed_on() {
    let mut wrong = String::new();
    for (name, pipeline) in fixtures() {
        let text = plan(&pipeline, &PlanOptions::default())
            .map_or_else(|error| format!("error {error}\n"), |plan| plan.to_string());
        let path = folder("plans").join(format!("{name}.txt"));
        if std::env::var_os("CLAVIGER_BLESS").is_some() {
            std::fs::write(&path, &text).expect("a plan to write");
        }
        let agreed = std::fs::read_to_string(&path).unwrap_or_default();
        if agreed != text {
            wrong.push_str(&format!("== {name}\n-- agreed\n{agreed}-- now\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_same_pipeline_gives_the_same_plan() {
    for (name, pipeline) in fixtures() {
        let once = format!("{:?}", plan(&pipeline, &PlanOptions::default()));
        let again = format!("{:?}", plan(&pipeline, &PlanOptions::default()));
        assert_eq!(once, again, "{name}");
    }
}

#[test]
fn all_coders_at_edges_can_be_walked_without_the_sdk() {
    for (name, pipeline) in fixtures() {
        for drain in [false, true] {
            let options = PlanOptions { drain, ..PlanOptions::default() };
            let plan = plan(&pipeline, &options).expect("a plan");
            let mut coders: BTreeSet<&str> = BTreeSet::new();
            for node in &plan.nodes {
                match node {
                    Node::GroupByKey { input_wire_coder, output_wire_coder, .. } => {
                        coders.extend([input_wire_coder.as_str(), output_wire_coder]);
                    }
                    Node::Stage(stage) => {
                        coders.insert(&stage.input.wire_coder_id);
                        coders.extend(stage.outputs.iter().map(|o| o.wire_coder_id.as_str()));
                        coders.extend(stage.side_inputs.iter().map(|s| s.wire_coder_id.as_str()));
                        coders.extend(stage.timers.iter().map(|t| t.timer_coder_id.as_str()));
                        coders.extend(stage.states.iter().map(|s| s.key_coder_id.as_str()));
                        coders.extend(stage.states.iter().map(|s| s.window_coder_id.as_str()));
                    }
                    Node::Impulse { .. } | Node::Flatten { .. } => {}
                }
            }
            for id in coders {
                let coder = Coder::from_components(id, &plan.components).expect("a coder");
                assert!(coder.is_walkable(), "{name}: {}", plan.coder(id));
            }
        }
    }
}

#[test]
fn nodes_come_after_what_they_read_and_writers_agree_with_readers() {
    for (name, pipeline) in fixtures() {
        let plan = plan(&pipeline, &PlanOptions::default()).expect("a plan");
        let mut wires: BTreeMap<&str, &str> = BTreeMap::new();
        for (at, node) in plan.nodes.iter().enumerate() {
            for need in plan.dependencies(at) {
                assert!(need < at, "{name}: {} before what it reads", node.name());
            }
            let mut check = |id, wire| {
                let agreed: &mut &str = wires.entry(id).or_insert(wire);
                assert_eq!(*agreed, wire, "{name}: {id} has two coders");
            };
            match node {
                Node::GroupByKey { input, output, input_wire_coder, output_wire_coder, .. } => {
                    check(input, input_wire_coder);
                    check(output, output_wire_coder);
                }
                Node::Stage(stage) => {
                    check(&stage.input.pcollection, &stage.input.wire_coder_id);
                    for output in &stage.outputs {
                        check(&output.pcollection, &output.wire_coder_id);
                    }
                    for side in &stage.side_inputs {
                        check(&side.pcollection, &side.wire_coder_id);
                    }
                }
                Node::Impulse { .. } | Node::Flatten { .. } => {}
            }
        }
        for node in &plan.nodes {
            if let Node::Flatten { inputs, output, name: flatten } = node {
                let coder = |id: &String| &plan.components.pcollections[id].coder_id;
                for input in inputs {
                    assert_eq!(coder(input), coder(output), "{name}: {flatten}");
                }
            }
        }
    }
}

#[test]
fn descriptors_hold_all_that_they_refer_to_and_their_ports() {
    for (name, pipeline) in fixtures() {
        let plan = plan(&pipeline, &PlanOptions::default()).expect("a plan");
        let mut ids = BTreeSet::new();
        for (_, stage) in plan.stages() {
            let descriptor = &stage.descriptor;
            assert!(ids.insert(&descriptor.id), "{name}: two stages with one id");
            for transform in descriptor.transforms.values() {
                assert!(transform.subtransforms.is_empty());
                for id in transform.inputs.values().chain(transform.outputs.values()) {
                    let collection = &descriptor.pcollections[id];
                    let strategy = &descriptor.windowing_strategies[&collection.windowing_strategy_id];
                    assert!(descriptor.coders.contains_key(&collection.coder_id));
                    assert!(descriptor.coders.contains_key(&strategy.window_coder_id));
                }
            }
            for coder in descriptor.coders.values() {
                for part in &coder.component_coder_ids {
                    assert!(descriptor.coders.contains_key(part), "{name}: {part}");
                }
            }
            let mut ports = vec![(&stage.input.port_transform_id, &stage.input.wire_coder_id)];
            ports.extend(stage.outputs.iter().map(|o| (&o.port_transform_id, &o.wire_coder_id)));
            assert_eq!(descriptor.transforms.len(), ports.len() + stage.transforms.len(), "{name}");
            for (port, coder) in ports {
                let payload = descriptor.transforms[port].spec.clone().expect("a spec").payload;
                let port = fn_execution::RemoteGrpcPort::decode(payload).expect("a port");
                assert_eq!(&port.coder_id, coder);
                assert!(descriptor.coders.contains_key(coder));
            }
            assert!(descriptor.environments.contains_key(&stage.environment_id));
        }
    }
}

#[test]
fn timers_use_a_coder_that_both_sides_know() {
    let plan = planned("stateful_any_key");
    let stage = stage(&plan, "Remember");
    assert!(stage.input.keyed);
    let timer = &stage.timers[0];
    assert_eq!(plan.coder(&timer.timer_coder_id), "timer(length_prefix(?), global_window)");
    let spec = stage.descriptor.transforms[&timer.transform_id].spec.clone().expect("a spec");
    let payload = pipeline::ParDoPayload::decode(spec.payload).expect("a payload");
    assert_eq!(payload.timer_family_specs[&timer.family].timer_family_coder_id, timer.timer_coder_id);
    let key = &plan.components.coders[&timer.timer_coder_id].component_coder_ids[0];
    assert!(stage.states.iter().all(|state| &state.key_coder_id == key), "one encoding of the key");
}

#[test]
fn windows_of_a_users_type_carry_their_last_time() {
    let plan = planned("custom_windows");
    let Some(Node::GroupByKey { strategy_id, output_wire_coder, .. }) =
        plan.nodes.iter().find(|node| matches!(node, Node::GroupByKey { .. }))
    else {
        panic!("no group in:\n{plan}");
    };
    let window = &plan.components.windowing_strategies[strategy_id].window_coder_id;
    assert_eq!(plan.coder(window), "custom_window(length_prefix(?))");
    let parts = &plan.components.coders[output_wire_coder].component_coder_ids;
    assert_eq!(&parts[1], window);
    let stage = stage(&plan, "Sum");
    assert_eq!(&stage.descriptor.windowing_strategies[strategy_id].window_coder_id, window);
}

#[test]
fn a_counting_trigger_forbids_to_combine_before_the_shuffle() {
    let plan = planned("counted_trigger");
    assert!(!plan.to_string().contains("Precombine"), "{plan}");
    assert!(planned("word_count").to_string().contains("Precombine"));
}

#[test]
fn lifting_can_be_turned_off() {
    let options = PlanOptions { lift_combiners: false, ..PlanOptions::default() };
    let plan = plan(&fixture("word_count"), &options).expect("a plan");
    assert!(!plan.to_string().contains("Precombine"), "{plan}");
}

#[test]
fn a_drain_truncates_at_the_edge_and_processes_behind_it() {
    let options = PlanOptions { drain: true, ..PlanOptions::default() };
    let plan = plan(&fixture("splittable"), &options).expect("a plan");
    let stage = stage(&plan, "Truncate");
    assert!(stage.name.contains("Expand/Process"), "{plan}");
    let splittable = stage.splittable.as_ref().expect("it splits");
    assert_eq!(splittable.transform_id, "Expand/Process");
    assert!(stage.input.pcollection.ends_with("/Split"), "{plan}");
}

#[test]
fn steps_tell_which_nodes_run_them() {
    let plan = planned("word_count");
    let step = plan.steps.iter().find(|step| step.unique_name == "Count").expect("the step");
    let names: Vec<&str> = step.nodes.iter().map(|node| plan.nodes[*node].name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[0].contains("Count/Precombine"));
    assert_eq!(names[1], "Count/Group");
    assert!(names[2].contains("Count/ExtractOutputs"));
}

#[test]
fn each_step_is_run_and_each_transform_names_its_step() {
    for (name, pipeline) in fixtures() {
        let plan = plan(&pipeline, &PlanOptions::default()).expect("a plan");
        let steps: BTreeSet<&str> = plan.steps.iter().map(|step| step.unique_name.as_str()).collect();
        for step in &plan.steps {
            assert!(!step.nodes.is_empty(), "{name}: {} is not run", step.unique_name);
        }
        for (_, stage) in plan.stages() {
            for (_, step) in &stage.transforms {
                assert!(steps.contains(step.as_str()), "{name}: {step}");
            }
        }
    }
}

#[test]
fn readers_are_counted_for_each_pcollection() {
    let plan = planned("flatten_mixed");
    let flattened = plan.pcollections.values().filter(|used| used.consumers.is_empty()).count();
    assert_eq!(flattened, 0, "all that is written is read:\n{plan}");
    let readers: usize = plan.pcollections.values().map(|used| used.consumers.len()).sum();
    let inputs: usize = plan.nodes.iter().map(|node| node.inputs().len()).sum();
    assert_eq!(readers, inputs);
}

#[test]
fn damaged_pipelines_are_refused_or_planned_but_never_panic() {
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let (mut refused, mut planned) = (0, 0);
    for (_, pipeline) in fixtures() {
        for _ in 0..40 {
            let mut pipeline = pipeline.clone();
            let components = pipeline.components.as_mut().expect("components");
            // A reference is bent to another id of the pipeline, or to none.
            let ids: Vec<String> = components
                .pcollections
                .keys()
                .chain(components.coders.keys())
                .chain(components.transforms.keys())
                .cloned()
                .chain(std::iter::once("nothing".to_owned()))
                .collect();
            let id = ids[next(ids.len())].clone();
            let at = next(components.transforms.len());
            let transform = components.transforms.values_mut().nth(at).expect("a transform");
            match next(5) {
                0 => transform.inputs.values_mut().for_each(|input| input.clone_from(&id)),
                1 => transform.outputs.values_mut().for_each(|output| output.clone_from(&id)),
                2 => transform.subtransforms.push(id),
                3 => {
                    let at = next(components.coders.len());
                    let coder = components.coders.values_mut().nth(at).expect("a coder");
                    coder.component_coder_ids.iter_mut().for_each(|part| part.clone_from(&id));
                }
                _ => {
                    if let Some(spec) = transform.spec.as_mut() {
                        let mut payload = spec.payload.to_vec();
                        if !payload.is_empty() {
                            let at = next(payload.len());
                            payload[at] ^= 1 << next(8);
                        }
                        spec.payload = payload.into();
                    }
                }
            }
            match plan(&pipeline, &PlanOptions::default()) {
                Ok(plan) => {
                    assert!(!plan.to_string().is_empty());
                    planned += 1;
                }
                Err(error) => {
                    assert!(!error.message().is_empty());
                    assert_ne!(error.kind(), claviger_core::error::ErrorKind::Internal, "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 50 && planned > 50, "{refused} refused, {planned} planned");
}
