//! What goes wrong: user code, workers, keys, cancellation. Each ends the job clearly and leaves nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use claviger_core::{Error, ErrorKind};

use super::pipe::{PAIRS, Pipe};
use super::{Job, Level};

#[tokio::test]
async fn a_function_that_raises_fails_the_job_at_once_with_its_step() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let one = pipe.step("Innocent", &start, "test:pairs", "a=1", PAIRS);
    let two = pipe.step("Guilty", &one, "test:raise", "", PAIRS);
    pipe.step("Collect", &two, "test:collect", "", PAIRS);
    let error = job.run(pipe.build()).await.unwrap_err();
    assert!(error.message().starts_with("The step Guilty failed: Traceback\nValueError: boom"), "{error}");
    assert!(!error.message().contains("Innocent"));
    assert_eq!(job.world.bundles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lost_worker_is_replaced_and_its_bundle_counts_once() {
    let job = Job::new();
    job.world.deaths.store(2, Ordering::SeqCst);
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let many = pipe.step("Explode", &start, "test:explode", "100 4", PAIRS);
    let mortal = pipe.step("Mortal", &many, "test:die", "", PAIRS);
    let groups = pipe.group("Group", &mortal);
    let counts = pipe.step("Count", &groups, "test:count", "", PAIRS);
    pipe.step("Collect", &counts, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.collected("Collect"), ["k000=25", "k001=25", "k002=25", "k003=25"]);
    assert_eq!(job.world.starts.load(Ordering::SeqCst), 3);
    assert_eq!(job.calls(), 1 + 100 + 4 + 4);
    let messages = job.events.messages.lock().unwrap();
    assert_eq!(messages.iter().filter(|(level, _)| *level == Level::Warning).count(), 2);
}

#[tokio::test]
async fn workers_that_are_lost_again_and_again_fail_the_job() {
    let job = Job::new();
    job.world.deaths.store(i64::MAX, Ordering::SeqCst);
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    pipe.step("Mortal", &start, "test:die", "", PAIRS);
    let error = job.run(pipe.build()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("lost 4 times"), "{error}");
    assert_eq!(job.world.starts.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_worker_that_never_connects_fails_the_job_in_time() {
    let job = Job::new();
    job.world.is_silent.store(true, Ordering::SeqCst);
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    pipe.step("Same", &start, "test:same", "", PAIRS);
    let (ended, ()) = tokio::join!(job.run(pipe.build()), async {
        while job.world.starts.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        job.clock.advance(Duration::from_secs(121));
    });
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.message().contains("did not connect"), "{error}");
}

#[tokio::test]
async fn a_cancelled_job_ends_with_the_reason_while_a_bundle_is_stuck() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let stuck = pipe.step("Stuck", &start, "test:gate", "", PAIRS);
    pipe.step("Collect", &stuck, "test:collect", "", PAIRS);
    let (ended, ()) = tokio::join!(job.run(pipe.build()), async {
        job.world.wait_at_gate(1).await;
        job.stop.send_replace(Some(Error::new(ErrorKind::Aborted, "The job was cancelled.")));
    });
    let error = ended.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Aborted, "The job was cancelled."));
    assert!(job.world.collected("Collect").is_empty());
}

#[tokio::test]
async fn nothing_is_committed_after_the_key_is_locked() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let stuck = pipe.step("Stuck", &start, "test:gate", "", PAIRS);
    let pairs = pipe.step("Pairs", &stuck, "test:pairs", "a=1", PAIRS);
    let groups = pipe.group("Group", &pairs);
    let counts = pipe.step("Count", &groups, "test:count", "", PAIRS);
    pipe.step("Collect", &counts, "test:collect", "", PAIRS);
    let (ended, ()) = tokio::join!(job.run(pipe.build()), async {
        job.world.wait_at_gate(1).await;
        job.is_locked.store(true, Ordering::SeqCst);
        job.world.gate.add_permits(1);
    });
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.violations()[0].kind, "KEY_DISABLED");
    assert_eq!(job.world.bundles.load(Ordering::SeqCst), 1);
    assert!(job.events.metrics.lock().unwrap().committed.is_empty());
}

#[tokio::test]
async fn a_step_that_nobody_can_run_is_named() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    pipe.step("Odd", &start, "test:same", "", PAIRS);
    let mut pipeline = pipe.build();
    let transform = pipeline.components.as_mut().unwrap().transforms.get_mut("Odd").unwrap();
    transform.environment_id.clear();
    transform.spec.as_mut().unwrap().urn = "beam:transform:odd:v9".into();
    let error = job.run(pipeline).await.unwrap_err();
    assert!(error.message().contains("Odd") && error.message().contains("beam:transform:odd:v9"), "{error}");
}

#[tokio::test]
async fn a_bundle_that_asks_for_it_is_finalized_after_its_commit() {
    let job = Job::new();
    let mut pipe = Pipe::new();
    let start = pipe.impulse("Start");
    let made = pipe.step_with("Finalize", &start, "test:finalize", "", PAIRS, |par_do, _| {
        par_do.requests_finalization = true;
    });
    pipe.step("Collect", &made, "test:collect", "", PAIRS);
    job.run(pipe.build()).await.unwrap();
    assert_eq!(job.world.finalized.load(Ordering::SeqCst), 1);
}
