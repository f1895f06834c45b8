//! Workers that do not keep to the Fn API.

use bytes::Bytes;
use claviger_beam_proto::fn_execution::{FinalizeBundleResponse, instruction_response as told};
use claviger_core::{Error, ErrorKind};
use claviger_harness::limits::MESSAGE_BYTES;
use tokio::sync::mpsc;

use crate::support::{World, process, receiving, stateless};

#[tokio::test]
async fn words_about_bundles_that_are_not_are_dropped() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    sdk.done("i77").await;
    sdk.send("i77", "out", b"x", false).await;
    let over = process(&worker, stateless()).await.expect("a bundle");
    let over_id = sdk.bundle().await;
    drop(over);
    sdk.send(&over_id, "out", b"late", true).await;
    sdk.done(&over_id).await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    sdk.close(&id).await;
    sdk.done(&id).await;
    assert_eq!(bundle.next().await.expect("the end"), None);
    bundle.result().await.expect("an answer");
}

#[tokio::test]
async fn elements_for_a_port_that_is_none_fail_their_bundle_alone() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bad = process(&worker, stateless()).await.expect("a bundle");
    let bad_id = sdk.bundle().await;
    let good = process(&worker, stateless()).await.expect("a bundle");
    let good_id = sdk.bundle().await;
    sdk.send(&bad_id, "in", b"x", false).await;
    let error = bad.next().await.expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("'in'"), "{error}");
    sdk.send(&good_id, "out", b"y", false).await;
    assert_eq!(&good.next().await.expect("an output").expect("an output").data[..], b"y");
}

#[tokio::test]
async fn elements_after_the_last_fail_their_bundle() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    sdk.send(&id, "out", b"last", true).await;
    sdk.send(&id, "out", b"more", false).await;
    bundle.next().await.expect("an output").expect("an output");
    let error = bundle.next().await.expect_err("failed");
    assert!(error.message().contains("after it had closed"), "{error}");
}

#[tokio::test]
async fn an_answer_of_another_kind_is_none() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    sdk.answer(&id, told::Response::FinalizeBundle(FinalizeBundleResponse {})).await;
    assert_eq!(bundle.result().await.expect_err("failed").kind(), ErrorKind::InvalidArgument);
    let (progress, ()) = tokio::join!(bundle.progress(), async {
        let (call, _) = sdk.request().await;
        sdk.answer(&call, told::Response::FinalizeBundle(FinalizeBundleResponse {})).await;
    });
    assert_eq!(progress.expect_err("failed").kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn only_an_expected_worker_connects_and_each_stream_once() {
    let world = World::new();
    let (_worker, sdk) = world.start().await;
    let kind = |error: Option<Error>| error.map(|error| error.kind());
    for id in ["", "job", "job-00000000000000000000000000000000"] {
        let control = world.harnesses.control(id, receiving(mpsc::channel(1).1));
        assert_eq!(kind(control.err()), Some(ErrorKind::PermissionDenied));
        let data = world.harnesses.data(id, receiving(mpsc::channel(1).1));
        assert_eq!(kind(data.err()), Some(ErrorKind::PermissionDenied));
        let state = world.harnesses.state(id, receiving(mpsc::channel(1).1));
        assert_eq!(kind(state.err()), Some(ErrorKind::PermissionDenied));
        assert!(world.harnesses.logging(id, receiving(mpsc::channel(1).1)).is_err());
        assert!(world.harnesses.provision_info(id).await.is_err());
        assert!(world.harnesses.artifacts(id).is_err());
    }
    let again = world.harnesses.control(&sdk.id, receiving(mpsc::channel(1).1));
    assert_eq!(kind(again.err()), Some(ErrorKind::AlreadyExists));
    let again = world.harnesses.data(&sdk.id, receiving(mpsc::channel(1).1));
    assert_eq!(kind(again.err()), Some(ErrorKind::AlreadyExists));
}

#[tokio::test]
async fn a_message_that_is_too_large_says_so_and_is_not_worth_a_retry() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    let too_large = Error::new(ErrorKind::ResourceExhausted, "a message of 600 MB");
    sdk.outgoing.send(Err(too_large)).await.expect("sent");
    let error = bundle.result().await.expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("600 MB"), "{error}");
    drop(worker);

    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    sdk.bundle().await;
    // Zeros that the system gives without writing them.
    let huge = Bytes::from(vec![0; MESSAGE_BYTES]);
    let error = bundle.send("in", huge).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    bundle.send("in", Bytes::from_static(b"small")).await.expect("the bundle goes on");
}

#[tokio::test]
async fn a_long_error_is_cut_and_keeps_its_end() {
    let world = World::new();
    let (worker, mut sdk) = world.start().await;
    let bundle = process(&worker, stateless()).await.expect("a bundle");
    let id = sdk.bundle().await;
    sdk.fail(&id, &format!("{}ValueError: the reason", "frame\n".repeat(1_000_000))).await;
    let error = bundle.result().await.expect_err("failed");
    assert!(error.message().len() < 100_000 && error.message().ends_with("the reason"));
}
