//! The runner's side of the Fn API against a worker whose every word is scripted.

mod hostile;
mod processes;
mod spares;
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use claviger_beam_proto::fn_execution::{
    Elements, FinalizeBundleResponse, HarnessMonitoringInfosResponse, LogEntry,
    ProcessBundleProgressResponse, ProcessBundleResponse, ProcessBundleSplitResponse, StateRequest,
    StateResponse, elements, instruction_request as ask, instruction_response as told, log_entry,
};
use claviger_core::{Error, ErrorKind, ManualClock, Result, Timestamp};
use claviger_harness::{BundleOutput, Limits};
use futures::{FutureExt as _, StreamExt as _};
use support::{Answering, Sdk, World, external, process, receiving, settle, stateless};
use tokio::sync::mpsc;

#[tokio::test]
async fn elements_pass_in_order_and_the_answer_ends_the_bundle() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let (_, ask::Request::Register(register)) = sdk.request().await else { panic!("no registration") };
    let port = &register.process_bundle_descriptor[0];
    assert_eq!(port.state_api_service_descriptor.as_ref().expect("an address").url, "server.example:9");
    let id = sdk.bundle().await;
    assert_eq!(id, bundle.id());
    bundle.send("in", Bytes::from_static(b"one")).await.expect("sent");
    bundle.send("in", Bytes::from_static(b"two")).await.expect("sent");
    bundle.send_timers("do", "family", Bytes::from_static(b"tick")).await.expect("sent");
    bundle.close_inputs().await.expect("closed");
    // Small elements come together; timers in a later message, since a worker may read them first.
    let first = sdk.incoming.next().await.expect("elements");
    let texts: Vec<&[u8]> = first.data.iter().map(|data| &data.data[..]).collect();
    assert_eq!((texts, first.timers.len()), (vec![&b"one"[..], b"two"], 0));
    let second = sdk.incoming.next().await.expect("timers");
    assert_eq!((second.data.len(), &second.timers[0].timers[..]), (0, &b"tick"[..]));
    let last = sdk.incoming.next().await.expect("the end");
    assert!(last.data.iter().all(|data| data.is_last && data.data.is_empty() && data.transform_id == "in"));
    assert!(last.timers.iter().all(|timers| timers.is_last && timers.timer_family_id == "family"));
    assert_eq!((last.data.len(), last.timers.len()), (1, 1));

    sdk.send(&id, "out", b"three", false).await;
    sdk.send(&id, "out", b"four", false).await;
    sdk.done(&id).await;
    let output = |data: &'static [u8]| BundleOutput {
        transform_id: "out".into(),
        timer_family: None,
        data: Bytes::from_static(data),
    };
    assert_eq!(bundle.next().await.expect("an output"), Some(output(b"three")));
    assert_eq!(bundle.next().await.expect("an output"), Some(output(b"four")));
    bundle.result().await.expect("an answer");
    assert!(bundle.next().now_or_never().is_none(), "the ports are still open");
    sdk.close(&id).await;
    assert_eq!(bundle.next().await.expect("the end"), None);

    let _second = process(&worker, stateless()).await.expect("a bundle");
    let (_, request) = sdk.request().await;
    assert!(matches!(request, ask::Request::ProcessBundle(_)), "the stage is registered once: {request:?}");
}

#[tokio::test]
async fn elements_within_the_answer_count_as_outputs() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    let timers = elements::Timers {
        instruction_id: id.clone(),
        transform_id: "do".into(),
        timer_family_id: "family".into(),
        timers: Bytes::from_static(b"t"),
        is_last: true,
    };
    let mut elements = support::data_message(&id, "out", b"e", true);
    elements.timers.push(timers);
    let response = ProcessBundleResponse { elements: Some(elements), ..ProcessBundleResponse::default() };
    sdk.answer(&id, told::Response::ProcessBundle(response)).await;
    let mut seen = Vec::new();
    while let Some(output) = bundle.next().await.expect("an output") {
        seen.push((output.transform_id, output.timer_family, output.data));
    }
    let timer = ("do".to_owned(), Some("family".to_owned()), Bytes::from_static(b"t"));
    assert_eq!(seen, [timer, ("out".to_owned(), None, Bytes::from_static(b"e"))]);
}

#[tokio::test]
async fn a_full_buffer_stops_the_stream_until_its_bundle_takes() {
    let limits = Limits { bundle_bytes: 1000, ..Limits::default() };
    let world = World::with(limits, Arc::new(ManualClock::at(Timestamp(0))));
    let (worker, mut sdk) = world.start().await;
    let slow = process(&worker, stateless()).await.expect("a bundle");
    let slow_id = sdk.bundle().await;
    let quick = process(&worker, stateless()).await.expect("a bundle");
    let quick_id = sdk.bundle().await;
    let mut sent = 0;
    let piece = [0; 300];
    loop {
        settle().await;
        let Ok(slot) = sdk.outgoing.try_reserve() else { break };
        slot.send(Ok(support::data_message(&slow_id, "out", &piece, false)));
        sent += 1;
        assert!(sent < 20, "the stream goes on although nobody takes");
    }
    // Two in the buffer, one in the reader's hand, one in the channel.
    assert_eq!(sent, 4);
    for _ in 0..2 {
        slow.next().await.expect("an output").expect("an output");
    }
    settle().await;
    sdk.send(&quick_id, "out", b"quick", false).await;
    let output = quick.next().await.expect("an output").expect("an output");
    assert_eq!(&output.data[..], b"quick");
    // One element larger than the whole buffer passes alone.
    for _ in 0..2 {
        slow.next().await.expect("an output").expect("an output");
    }
    sdk.send(&slow_id, "out", &[1; 5000], false).await;
    assert_eq!(slow.next().await.expect("an output").expect("an output").data.len(), 5000);
    // A bundle that nobody wants any more does not hold up the others.
    sdk.send(&slow_id, "out", &[1; 5000], false).await;
    sdk.send(&slow_id, "out", &[1; 5000], false).await;
    settle().await;
    drop(slow);
    sdk.send(&quick_id, "out", b"again", false).await;
    assert_eq!(&quick.next().await.expect("an output").expect("an output").data[..], b"again");
}

#[tokio::test]
async fn sends_wait_for_a_worker_that_does_not_read_and_end_with_the_bundle() {
    let limits = Limits { send_bytes: 10, send_messages: 2, ..Limits::default() };
    let world = World::with(limits, Arc::new(ManualClock::at(Timestamp(0))));
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    let element = Bytes::from_static(b"more than ten bytes");
    for _ in 0..2 {
        bundle.send("in", element.clone()).await.expect("sent");
    }
    {
        let mut waiting = std::pin::pin!(bundle.send("in", element.clone()));
        assert!(waiting.as_mut().now_or_never().is_none(), "there is no room");
        sdk.incoming.next().await.expect("elements");
        waiting.await.expect("sent, now that there is room");
    }
    let (sent, ()) = tokio::join!(bundle.send("in", element), async {
        settle().await;
        bundle.fail(Error::precondition("the key is disabled"));
    });
    assert_eq!(sent.expect_err("failed").kind(), ErrorKind::FailedPrecondition);
    assert_eq!(bundle.result().await.expect_err("failed").message(), "the key is disabled");
}

#[tokio::test]
async fn the_end_of_a_worker_fails_all_that_waits_for_it() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    let mut alive = worker.alive();
    let id = sdk.id.clone();
    let waiting = async {
        tokio::join!(bundle.next(), bundle.result(), bundle.progress(), worker.harness_monitoring_infos())
    };
    let ((next, result, progress, infos), ()) = tokio::join!(waiting, async {
        settle().await;
        drop(sdk);
    });
    let errors = [next.err(), result.err(), progress.err(), infos.err(), bundle.flush().await.err()];
    for error in errors.into_iter().take(4).map(|error| error.expect("failed")) {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(&id), "{error}");
    }
    alive.wait_for(|alive| !alive).await.expect("told");
    let error = process(&worker, stateless()).await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        world.harnesses.control(&id, receiving(mpsc::channel(1).1)).err().map(|e| e.kind()),
        Some(ErrorKind::PermissionDenied)
    );
}

#[tokio::test]
async fn outputs_that_never_come_fail_an_answered_bundle_when_its_worker_ends() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    sdk.done(&id).await;
    bundle.result().await.expect("an answer");
    let (next, ()) = tokio::join!(bundle.next(), async {
        settle().await;
        drop(sdk);
    });
    assert_eq!(next.expect_err("lost").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_error_of_user_code_fails_its_bundle_alone() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bad = process(&worker, stateless()).await.expect("a bundle");
    let bad_id = sdk.bundle().await;
    let good = process(&worker, stateless()).await.expect("a bundle");
    let good_id = sdk.bundle().await;
    sdk.fail(&bad_id, "Traceback ... ValueError: no such luck").await;
    let error = bad.next().await.expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().ends_with("no such luck"));
    sdk.done(&good_id).await;
    good.result().await.expect("an answer");
}

#[tokio::test]
async fn progress_splits_and_finalization_go_to_the_bundle_that_they_name() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    let script = async {
        let (call, ask::Request::ProcessBundleProgress(request)) = sdk.request().await else { panic!() };
        assert_eq!(request.instruction_id, id);
        let progress =
            ProcessBundleProgressResponse { consuming_received_data: Some(true), ..Default::default() };
        sdk.answer(&call, told::Response::ProcessBundleProgress(progress)).await;
        let (call, ask::Request::ProcessBundleSplit(request)) = sdk.request().await else { panic!() };
        assert_eq!(request.instruction_id, id);
        assert_eq!(request.desired_splits["in"].estimated_input_elements, 7);
        sdk.answer(&call, told::Response::ProcessBundleSplit(ProcessBundleSplitResponse::default())).await;
        let (call, ask::Request::FinalizeBundle(request)) = sdk.request().await else { panic!() };
        assert_eq!(request.instruction_id, id);
        sdk.answer(&call, told::Response::FinalizeBundle(FinalizeBundleResponse {})).await;
        let (call, ask::Request::HarnessMonitoringInfos(_)) = sdk.request().await else { panic!() };
        let infos = HarnessMonitoringInfosResponse { monitoring_data: [("a".into(), Bytes::new())].into() };
        sdk.answer(&call, told::Response::HarnessMonitoringInfos(infos)).await;
    };
    let asking = async {
        assert_eq!(bundle.progress().await.expect("progress").consuming_received_data, Some(true));
        let desired = claviger_beam_proto::fn_execution::process_bundle_split_request::DesiredSplit {
            estimated_input_elements: 7,
            ..Default::default()
        };
        bundle.split([("in".to_owned(), desired)].into()).await.expect("a split");
        bundle.finalize().await.expect("finalized");
        assert_eq!(worker.harness_monitoring_infos().await.expect("metrics").monitoring_data.len(), 1);
    };
    tokio::join!(script, asking);
}

fn state(id: &str, instruction: &str) -> Result<StateRequest> {
    Ok(StateRequest { id: id.into(), instruction_id: instruction.into(), ..StateRequest::default() })
}

#[tokio::test]
async fn state_is_answered_in_each_bundles_order_and_for_bundles_under_way_alone() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        Arc::new(Answering(move |request: &StateRequest| {
            seen.lock().expect("a list").push(request.id.clone());
            Ok(StateResponse::default())
        }))
    };
    let bundle = process(&worker, handler).await.expect("a bundle");
    let id = sdk.bundle().await;
    let (sender, receiver) = mpsc::channel(100);
    let mut answers = world.harnesses.state(&sdk.id, receiving(receiver)).expect("state");
    for number in 0..20 {
        sender.send(state(&format!("r{number}"), &id)).await.expect("sent");
    }
    let names: Vec<String> = (0..20).map(|number| format!("r{number}")).collect();
    for name in &names {
        let answer = answers.next().await.expect("an answer");
        assert_eq!((&answer.id, answer.error.as_str()), (name, ""));
    }
    assert_eq!(*seen.lock().expect("a list"), names);
    sender.send(state("lost", "i999")).await.expect("sent");
    let answer = answers.next().await.expect("an answer");
    assert!(answer.id == "lost" && answer.error.contains("i999"), "{answer:?}");
    drop(bundle);
    sender.send(state("late", &id)).await.expect("sent");
    assert!(!answers.next().await.expect("an answer").error.is_empty());
}

#[tokio::test]
async fn the_error_of_the_state_is_the_error_of_the_bundle_that_fails_of_it() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let locked = |_: &StateRequest| Err(Error::precondition("the key is disabled"));
    let bundle = process(&worker, Arc::new(Answering(locked))).await.expect("a bundle");
    let id = sdk.bundle().await;
    let (sender, receiver) = mpsc::channel(1);
    let mut answers = world.harnesses.state(&sdk.id, receiving(receiver)).expect("state");
    sender.send(state("r", &id)).await.expect("sent");
    assert_eq!(answers.next().await.expect("an answer").error, "the key is disabled");
    sdk.fail(&id, "Traceback ... RuntimeError: the key is disabled").await;
    let error = bundle.result().await.expect_err("failed");
    assert_eq!((error.kind(), error.message()), (ErrorKind::FailedPrecondition, "the key is disabled"));
}

#[tokio::test]
async fn the_log_reaches_the_jobs_sink() {
    let world = World::new();
    let (_worker, sdk) = world.start().await;
    let entry = LogEntry {
        message: "said".into(),
        transform_id: "do".into(),
        severity: log_entry::severity::Enum::Warn.into(),
        ..LogEntry::default()
    };
    let list = log_entry::List { log_entries: vec![entry] };
    let lists = futures::stream::iter([Ok(list)]).boxed();
    world.harnesses.logging(&sdk.id, lists).expect("a log").await;
    let log = world.log.0.lock().expect("the log");
    assert_eq!((log[0].message.as_str(), log[0].transform_id.as_str()), ("said", "do"));
    assert_eq!((&log[0].worker_id, log[0].severity), (&sdk.id, log_entry::severity::Enum::Warn));
}

#[tokio::test]
async fn a_worker_that_never_connects_is_given_up_by_the_clock_and_may_not_come_later() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let world = World::with(Limits::default(), clock.clone());
    let script = async {
        let id = world.asked_for().await;
        settle().await;
        clock.advance(Duration::from_secs(59));
        settle().await;
        clock.advance(Duration::from_secs(1));
        id
    };
    let (started, id) = tokio::join!(world.harnesses.start(world.spec(external())), script);
    let error = started.expect_err("given up");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.message().contains(support::POOL) && error.message().contains("60s"), "{error}");
    let late = world.harnesses.control(&id, receiving(mpsc::channel(1).1));
    assert_eq!(late.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
    settle().await;
    assert_eq!(*world.pool.stopped.lock().expect("a list"), [id]);
}

#[tokio::test]
async fn a_stopped_worker_is_told_by_the_end_of_its_streams() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    worker.stop().await;
    assert!(sdk.requests.next().await.is_none());
    assert!(sdk.incoming.next().await.is_none());
    assert_eq!(bundle.result().await.expect_err("stopped").kind(), ErrorKind::Aborted);
    assert_eq!(*world.pool.stopped.lock().expect("a list"), [sdk.id]);
}

#[tokio::test]
async fn a_worker_that_is_dropped_ends_as_well() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    drop(worker);
    assert!(sdk.requests.next().await.is_none());
    settle().await;
    assert_eq!(*world.pool.stopped.lock().expect("a list"), [sdk.id]);
}

#[tokio::test]
async fn a_stage_is_shown_to_its_worker_and_to_no_other() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let (_other, stranger): (_, Sdk) = world.start().await;
    let _bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    assert_eq!(world.harnesses.descriptor(&sdk.id, "stage").expect("a stage").id, "stage");
    let error = world.harnesses.descriptor(&stranger.id, "stage").expect_err("not its stage");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(world.harnesses.descriptor(&sdk.id, "other").is_err());
}

#[tokio::test]
async fn a_worker_is_told_where_all_is_and_what_the_runner_understands() {
    let world = World::new();
    let (_worker, sdk) = world.start().await;
    let info = world.harnesses.provision_info(&sdk.id).await.expect("the facts");
    for endpoint in [&info.control_endpoint, &info.artifact_endpoint, &info.logging_endpoint] {
        assert_eq!(endpoint.as_ref().expect("an address").url, "server.example:9");
    }
    let short_ids = "beam:protocol:monitoring_info_short_ids:v1";
    assert!(info.runner_capabilities.iter().any(|capability| capability == short_ids));
    assert!(info.pipeline_options.is_some() && info.dependencies.is_empty());
}

#[tokio::test]
async fn many_small_elements_make_few_messages() {
    let limits = Limits { send_bytes: 10_000, ..Limits::default() };
    let world = World::with(limits, Arc::new(ManualClock::at(Timestamp(0))));
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    let sending = async {
        for _ in 0..1000 {
            bundle.send("in", Bytes::from_static(&[7; 36])).await.expect("sent");
        }
        bundle.close_inputs().await.expect("closed");
    };
    let taking = async {
        let mut messages: Vec<Elements> = Vec::new();
        while !messages.last().is_some_and(|last| last.data.iter().any(|data| data.is_last)) {
            messages.push(sdk.incoming.next().await.expect("elements"));
        }
        messages
    };
    let ((), messages) = tokio::join!(sending, taking);
    let bytes: usize = messages.iter().flat_map(|m| &m.data).map(|data| data.data.len()).sum();
    assert_eq!((bytes, messages.len()), (36_000, 11));
}
