//! How elements flow: groups, flattens, side inputs, splits, splittable steps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use claviger_beam_proto::pipeline::SideInput;

use super::Job;
use super::pipe::{BYTES, PAIRS, Pipe, spec};

#[tokio::test]
async fn groups_of_an_exploded_impulse_are_whole() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let many = pipe.step("Explode", &start, "test:explode", "10000 25", PAIRS);
    let groups = pipe.group("Group", &many);
    let counts = pipe.step("Count", &groups, "test:count", "", PAIRS);
    pipe.step("Collect", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    let expected: Vec<String> = (0..25).map(|key| format!("k{key:03}=400")).collect();
    assert_eq!(job.world.collected("Collect"), expected);
    assert_eq!(job.calls(), 1 + 25 + 25);
    assert_eq!(job.world.starts.load(Ordering::SeqCst), 1);
    let stages = job.events.stages.lock().unwrap();
    assert!(stages.iter().any(|stage| stage.elements == 10_000 && stage.bundles == 1), "{stages:?}");
}

#[tokio::test]
async fn little_memory_spills_and_gives_the_same() {
    let job = Job::with_memory(100_000);
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let many = pipe.step("Explode", &start, "test:explode", "60000 40", PAIRS);
    let groups = pipe.group("Group", &many);
    let counts = pipe.step("Count", &groups, "test:count", "", PAIRS);
    pipe.step("Collect", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    let expected: Vec<String> = (0..40).map(|key| format!("k{key:03}=1500")).collect();
    assert_eq!(job.world.collected("Collect"), expected);
    assert!(job.space.stats().files_written > 0);
}

#[tokio::test]
async fn a_flatten_has_all_its_inputs_as_often_as_it_names_them() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let a = pipe.step("A", &start, "test:pairs", "a=1 a=2", PAIRS);
    let b = pipe.step("B", &start, "test:pairs", "b=3", PAIRS);
    let grouped = pipe.group("Group", &a);
    let counted = pipe.step("Count", &grouped, "test:count", "", PAIRS);
    let flat = pipe.flatten("Flatten", &[&a, &b, &a, &counted]);
    pipe.step("Collect", &flat, "test:collect", "", PAIRS);
    let groups = pipe.group("Regroup", &flat);
    let counts = pipe.step("Recount", &groups, "test:count", "", PAIRS);
    pipe.step("Collect counts", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.collected("Collect"), ["a=1", "a=1", "a=2", "a=2", "a=2", "b=3"]);
    assert_eq!(job.world.collected("Collect counts"), ["a=5", "b=1"]);
}

#[tokio::test]
async fn groups_that_are_read_twice_or_grouped_again_are_whole_each_time() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let pairs = pipe.step("Pairs", &start, "test:pairs", "a=1 b=2 a=3", PAIRS);
    let groups = pipe.group("Group", &pairs);
    for name in ["One", "Two"] {
        let counts = pipe.step(name, &groups, "test:count", "", PAIRS);
        pipe.step(&format!("Collect {name}"), &counts, "test:collect", "", PAIRS);
    }
    let flat = pipe.flatten("Flatten", &[&groups, &groups]);
    let counts = pipe.step("Three", &flat, "test:count", "", PAIRS);
    pipe.step("Collect Three", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.collected("Collect One"), ["a=2", "b=1"]);
    assert_eq!(job.world.collected("Collect Two"), ["a=2", "b=1"]);
    assert_eq!(job.world.collected("Collect Three"), ["a=2", "a=2", "b=1", "b=1"]);
}

fn with_side(pipe: &mut Pipe, name: &str, main: &str, side: &str, function: &str, access: &str, coder: &str) {
    let out = pipe.step_with(name, main, function, "", coder, |par_do, transform| {
        transform.inputs.insert("side".into(), side.to_owned());
        let side = SideInput {
            access_pattern: spec(access, ""),
            view_fn: spec("test:view", ""),
            window_mapping_fn: spec("test:mapping", ""),
        };
        par_do.side_inputs = BTreeMap::from([("side".to_owned(), side)]);
    });
    pipe.step(&format!("Collect {name}"), &out, "test:collect", "", coder);
}

#[tokio::test]
async fn side_inputs_are_complete_and_found_by_key() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let side = pipe.step("Side", &start, "test:explode", "1000 10", PAIRS);
    let main = pipe.step("Main", &start, "test:pairs", "k003=x none=y", PAIRS);
    with_side(&mut pipe, "All", &main, &side, "test:side", "beam:side_input:iterable:v1", BYTES);
    with_side(&mut pipe, "Lookup", &main, &side, "test:lookup", "beam:side_input:multimap:v1", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.collected("Collect All"), ["saw 1000", "saw 1000"]);
    let found = job.world.collected("Collect Lookup");
    assert_eq!((found.len(), found[1].as_str()), (2, "none="));
    assert_eq!(found[0].matches('+').count(), 99, "{}", found[0]);
}

#[tokio::test]
async fn a_side_input_that_does_not_fit_is_read_in_pages_or_refused() {
    for (function, access) in
        [("test:side", "beam:side_input:iterable:v1"), ("test:lookup", "beam:side_input:multimap:v1")]
    {
        let mut job = Job::new();
        job.limits.side_input_bytes = 1000;
        let mut pipe = Pipe::new();
        let start = pipe.impulse("Start");
        let side = pipe.step("Side", &start, "test:explode", "200000 10", PAIRS);
        let main = pipe.step("Main", &start, "test:pairs", "k003=x none=y", PAIRS);
        let coder = if function == "test:side" { BYTES } else { PAIRS };
        with_side(&mut pipe, "Read", &main, &side, function, access, coder);
        let result = job.run(pipe.build()).await;
        if function == "test:side" {
            result.unwrap();
            assert_eq!(job.world.collected("Collect Read"), ["saw 200000", "saw 200000"]);
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), claviger_core::ErrorKind::ResourceExhausted);
        }
    }
}

#[tokio::test]
async fn a_slow_bundle_gives_work_away_and_nothing_is_done_twice() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let many = pipe.step("Explode", &start, "test:explode", "20 20", PAIRS);
    let both = pipe.reshuffle("Barrier", &many);
    let slow = pipe.step("Slow", &both, "test:gate", "", PAIRS);
    pipe.step("Collect", &slow, "test:collect", "", PAIRS);
    let (ended, ()) = tokio::join!(job.run(pipe.build()), async {
        job.world.wait_at_gate(1).await;
        // Once the bundle is slow, a second one takes the rest.
        while job.world.at_gate.load(Ordering::SeqCst) < 2 {
            job.clock.advance(Duration::from_millis(600));
            tokio::task::yield_now().await;
        }
        job.world.gate.add_permits(20);
    });
    ended.unwrap();
    let mut all: Vec<String> = (0..20).map(|i| format!("k{i:03}={i}")).collect();
    all.sort();
    assert_eq!(job.world.collected("Collect"), all);
    assert!(job.world.bundles.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn a_splittable_step_goes_on_where_it_stopped_and_waits_when_it_asks_to() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let made = pipe.step_with("Split", &start, "test:restrictions", "", BYTES, |par_do, _| {
        par_do.restriction_coder_id = BYTES.into();
    });
    pipe.step("Collect", &made, "test:collect", "", BYTES);
    let (ended, ()) = tokio::join!(job.run(pipe.build()), async {
        while job.world.collected("Collect").len() < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        // The last step asked for a minute.
        assert_eq!(job.world.collected("Collect"), ["2", "3"]);
        job.clock.advance(Duration::from_secs(60));
    });
    ended.unwrap();
    assert_eq!(job.world.collected("Collect"), ["1", "2", "3"]);
}

#[tokio::test]
async fn windows_of_the_users_own_are_merged_by_the_sdk() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let pairs = pipe.step("Pairs", &start, "test:pairs", "a=1 a=5 a=400 a=2000 b=3000 b=3100", PAIRS);
    let windowed = pipe.step("Window", &pairs, "test:window", "", PAIRS);
    let groups = pipe.group("Group", &windowed);
    let counts = pipe.step("Count", &groups, "test:count", "", PAIRS);
    pipe.step("Collect", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.collected("Collect"), ["a=1", "a=3", "b=1", "b=1"]);
}
