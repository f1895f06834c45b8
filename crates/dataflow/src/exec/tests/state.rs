//! User state and timers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use claviger_beam_proto::pipeline::{BagStateSpec, StateSpec, TimerFamilySpec, state_spec, time_domain};
use claviger_core::ErrorKind;

use super::Job;
use super::pipe::{BYTES, PAIRS, Pipe, spec};

fn with_state(pipe: &mut Pipe, name: &str, input: &str) -> String {
    pipe.step_with(name, input, "test:bag", "", PAIRS, |par_do, _| {
        let bag = BagStateSpec { element_coder_id: BYTES.into() };
        let state = StateSpec {
            spec: Some(state_spec::Spec::BagSpec(bag)),
            protocol: spec("beam:user_state:bag:v1", ""),
        };
        par_do.state_specs = BTreeMap::from([("bag".to_owned(), state)]);
    })
}

fn with_timers(pipe: &mut Pipe, name: &str, input: &str) -> String {
    pipe.step_with(name, input, "test:timer", "", PAIRS, |par_do, _| {
        let family = TimerFamilySpec {
            time_domain: time_domain::Enum::EventTime.into(),
            timer_family_coder_id: "timer".into(),
        };
        par_do.timer_family_specs = BTreeMap::from([("timer".to_owned(), family)]);
    })
}

#[tokio::test]
async fn each_key_sees_its_own_state_in_order() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let pairs = pipe.step("Pairs", &start, "test:pairs", "a=1 b=9 a=2 a=3 a=4 b=8", PAIRS);
    let bags = with_state(&mut pipe, "Bags", &pairs);
    pipe.step("Collect", &bags, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    // Three are cleared.
    assert_eq!(job.world.collected("Collect"), ["a=1", "a=1+2", "a=1+2+3", "a=4", "b=9", "b=9+8"]);
}

#[tokio::test]
async fn state_changed_by_a_bundle_that_was_lost_is_as_before() {
    let mut job = Job::new();
    job.limits.keyed_batch_keys = 3;
    job.world.deaths.store(2, Ordering::SeqCst);
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let pairs = pipe.step("Pairs", &start, "test:explode", "40 20", PAIRS);
    let bags = with_state(&mut pipe, "Bags", &pairs);
    let mortal = pipe.step("Mortal", &bags, "test:die", "", PAIRS);
    let kept = pipe.reshuffle("Barrier", &mortal);
    pipe.step("Collect", &kept, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    let mut expected: Vec<String> =
        (0..20).flat_map(|i| [format!("k{i:03}={i}"), format!("k{i:03}={i}+{}", i + 20)]).collect();
    expected.sort();
    assert_eq!(job.world.collected("Collect"), expected);
    // Another token for each batch, and for each batch that was tried again.
    assert!(job.world.user_tokens.lock().unwrap().len() >= 9);
}

#[tokio::test]
async fn more_state_than_the_limit_is_refused_clearly() {
    let mut job = Job::new();
    job.limits.state_bytes = 100;
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let pairs = pipe.step("Pairs", &start, "test:explode", "2000 1000", PAIRS);
    with_state(&mut pipe, "Bags", &pairs);
    let error = job.run(pipe.build()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("Bags") && error.message().contains("user state"), "{error}");
}

#[tokio::test]
async fn timers_fire_once_in_order_and_those_set_by_timers_too() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    // The tag x is set twice, y is cleared, and the one at ten sets another at fifteen.
    let pairs = "a=x:99 a=x:20 a=y:5 a=y:- a=z:10 b=q:7";
    let pairs = pipe.step("Pairs", &start, "test:pairs", pairs, PAIRS);
    let fired = with_timers(&mut pipe, "Timers", &pairs);
    pipe.step("Collect", &fired, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    let fired = job.world.collected("Collect");
    let fired: Vec<(&str, &str)> =
        fired.iter().map(|text| (&text[..1], text.split_once(' ').unwrap().1)).collect();
    assert_eq!(fired, [("a", "z 10"), ("a", "more 15"), ("a", "x 20"), ("b", "q 7")]);
}
