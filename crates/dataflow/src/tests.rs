//! The life of jobs, played on services in memory.

use std::time::Duration;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind};
use prost::Message as _;

use crate::exec::{Level, MetricsSnapshot};
use crate::files::BucketInfo;
use crate::testing::{REGION, Stand, all, dataflow, pipeline, portable};
use crate::{Graph, Importance, JobState, Origin};

#[tokio::test]
async fn a_job_goes_from_prepared_to_done_and_its_story_survives_a_crash() {
    let stand = Stand::new().await;
    let job = stand.prepared("wc").await;
    assert_eq!(job.state(), JobState::Stopped);
    job.run().await.unwrap();
    let play = stand.play().await;
    assert_eq!(play.context.options.fields.len(), 1);
    play.context.events.message(Level::Basic, "half way".into());
    let info = claviger_beam_proto::pipeline::MonitoringInfo { urn: "m".into(), ..Default::default() };
    let metrics = MetricsSnapshot { attempted: vec![info.clone()], committed: vec![info] };
    play.context.events.metrics(metrics.clone());
    play.end(Ok(()));
    assert_eq!(stand.told(&job).await, ["Stopped", "Pending", "Running", "half way", "Done"]);
    assert!(stand.on_disk("/work/").await.is_empty());

    let stand = stand.crash().await;
    let job = stand.dataflow.job(job.id().as_str()).unwrap();
    assert_eq!(stand.told(&job).await, ["Stopped", "Pending", "Running", "half way", "Done"]);
    assert_eq!(job.metrics().await.unwrap(), metrics);
    let description = job.description().await.unwrap();
    assert_eq!(description.pipeline, Some(pipeline()));
    assert!(description.options.as_ref().unwrap().fields.contains_key("beam:option:secret:v1"));
}

#[tokio::test]
async fn what_user_code_raised_is_a_message_and_the_job_has_failed() {
    let stand = Stand::new().await;
    let job = stand.prepared("wc").await;
    job.run().await.unwrap();
    stand.play().await.end(Err(Error::invalid("Traceback: boom [while running 'Map']")));
    let told = stand.told(&job).await;
    assert_eq!(told[3..], ["Traceback: boom [while running 'Map']", "Failed"]);
    let errors = job.messages(0, 9, |message| message.importance() == Importance::Error).await.unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(job.head().reason, None, "a text of user code is not in the head");
}

#[tokio::test]
async fn a_cancelled_job_is_cancelled_whether_it_ran_or_not() {
    let stand = Stand::new().await;
    let job = stand.prepared("wc").await;
    job.cancel().await.unwrap();
    assert_eq!(job.state(), JobState::Cancelled);
    job.run().await.unwrap();
    assert_eq!(job.state(), JobState::Cancelled);

    let job = stand.prepared("wc").await;
    job.run().await.unwrap();
    let play = stand.play().await;
    job.cancel().await.unwrap();
    job.cancel().await.unwrap();
    let told = stand.told(&job).await;
    assert_eq!(told[3..], ["Cancelling", "The job was cancelled.", "Cancelled"]);
    drop(play);
}

#[tokio::test]
async fn a_disabled_key_stops_the_job_and_only_its_reason_can_be_read() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let job = stand.dataflow.create(portable("wc", Some(&key))).await.unwrap();
    job.run().await.unwrap();
    let play = stand.play().await;
    play.context.events.message(Level::Basic, "secret".into());
    stand.set_enabled(&key, false).await;
    assert_eq!(stand.end_of(&job).await, JobState::Failed);
    assert!((play.context.guard)().is_err());
    let messages = job.messages(0, 9, all).await.unwrap();
    let [reason] = messages.as_slice() else { panic!("one message: {messages:?}") };
    let version = key.version_name(1);
    assert!(reason.text.contains(version.as_str()) && reason.text.contains("is disabled"), "{}", reason.text);
    assert_eq!(job.description().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(stand.on_disk("/work/").await.is_empty());
    assert_eq!(job.head().kms_key, Some(key.clone()));

    stand.set_enabled(&key, true).await;
    assert_eq!(job.description().await.unwrap().pipeline, Some(pipeline()));
    assert_eq!(job.state(), JobState::Failed, "it does not come back by itself");
}

#[tokio::test]
async fn a_prepared_job_fails_when_its_key_is_disabled() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let job = stand.dataflow.create(portable("wc", Some(&key))).await.unwrap();
    stand.set_enabled(&key, false).await;
    assert_eq!(stand.end_of(&job).await, JobState::Failed);
    let messages = job.messages(0, 9, all).await.unwrap();
    assert!(messages.iter().any(|message| message.text.contains("is disabled")), "{messages:?}");
}

#[tokio::test]
async fn a_finished_job_is_closed_while_its_key_is_disabled() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let job = stand.dataflow.create(portable("wc", Some(&key))).await.unwrap();
    job.run().await.unwrap();
    stand.play().await.end(Ok(()));
    stand.end_of(&job).await;
    stand.set_enabled(&key, false).await;
    for error in [job.metrics().await.unwrap_err(), job.messages(0, 9, all).await.unwrap_err()] {
        assert!(error.message().contains("disabled"), "{error}");
    }
    stand.set_enabled(&key, true).await;
    assert!(job.metrics().await.is_ok());
}

#[tokio::test]
async fn a_key_without_a_grant_makes_a_job_that_has_failed() {
    let stand = Stand::new().await;
    let key = stand.key("k", false).await;
    let job = stand.dataflow.create(dataflow("wc", "1", Some(&key))).await.unwrap();
    assert_eq!(job.state(), JobState::Failed);
    let told = stand.told(&job).await;
    let [_, reason, _] = told.as_slice() else { panic!("{told:?}") };
    assert!(reason.starts_with("Workflow failed. Causes: Cloud KMS key projects/p/"), "{reason}");
    assert!(reason.contains("'cloudkms.cryptoKeyVersions.useToEncrypt' denied"), "{reason}");
    assert!(stand.on_disk("").await.is_empty());
    let stand = stand.crash().await;
    let job = stand.dataflow.job(job.id().as_str()).unwrap();
    assert_eq!((job.state(), job.messages(0, 9, all).await.unwrap().len()), (JobState::Failed, 1));
}

#[tokio::test]
async fn requests_that_are_wrong_make_no_job() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let good = || dataflow("wc", "1", Some(&key));
    let mut streaming = good();
    let switch = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
    let fields = [("beam:option:streaming:v1".to_owned(), switch)].into();
    streaming.options = crate::Options::new(prost_types::Struct { fields });
    let cases = [
        (crate::JobSpec { name: "Wc".into(), ..good() }, ErrorKind::InvalidArgument),
        (crate::JobSpec { kms_key: Some("k".into()), ..good() }, ErrorKind::InvalidArgument),
        (crate::JobSpec { region: "us-east4".into(), ..good() }, ErrorKind::InvalidArgument),
        (crate::JobSpec { temp_location: None, ..good() }, ErrorKind::InvalidArgument),
        (crate::JobSpec { project: String::new(), ..good() }, ErrorKind::InvalidArgument),
        (streaming, ErrorKind::Unimplemented),
    ];
    for (spec, kind) in cases {
        assert_eq!(stand.dataflow.create(spec).await.unwrap_err().kind(), kind);
    }
    assert!(stand.dataflow.jobs().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_listed_can_be_read_at_every_moment_of_its_making() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let (dataflow, request) = (stand.dataflow.clone(), portable("wc", Some(&key)));
    let making = tokio::spawn(async move { dataflow.create(request).await });
    let (mut looks, mut failed) = (0, 0);
    while !making.is_finished() {
        looks += 1;
        for job in stand.dataflow.jobs() {
            failed += usize::from(job.messages(0, 9, all).await.is_err());
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(failed, 0, "in {looks} looks");
    assert_eq!(stand.dataflow.jobs().len(), 1);
}

#[tokio::test]
async fn the_same_request_is_the_same_job_and_the_same_name_is_refused() {
    let stand = Stand::new().await;
    let job = stand.dataflow.create(dataflow("wc", "1", None)).await.unwrap();
    let again = stand.dataflow.create(dataflow("wc", "1", None)).await.unwrap();
    assert_eq!(job.id(), again.id());
    let other = stand.dataflow.create(dataflow("wc", "2", None)).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
    assert!(other.message().contains("There is already an active job named wc"), "{other}");
    job.cancel().await.unwrap();
    assert!(stand.dataflow.create(dataflow("wc", "3", None)).await.is_ok());
}

#[tokio::test]
async fn a_graph_in_a_bucket_is_fetched_checked_and_run() {
    let stand = Stand::new().await;
    let bytes = Bytes::from(pipeline().encode_to_vec());
    stand.files.files.lock().unwrap().insert(("temp".into(), "pipeline.pb".into()), bytes);
    let bucket = BucketInfo { location: REGION.into(), kms_key: None };
    stand.files.buckets.lock().unwrap().insert("temp".into(), bucket);
    let job = stand.dataflow.create(dataflow("wc", "1", None)).await.unwrap();
    job.run().await.unwrap();
    let play = stand.play().await;
    assert_eq!(play.context.pipeline, pipeline());
    play.end(Ok(()));
    assert_eq!(stand.end_of(&job).await, JobState::Done);
    let description = job.description().await.unwrap();
    assert_eq!((&description.request[..], &description.pipeline), (&b"request"[..], &Some(pipeline())));

    let mut wrong = dataflow("wc2", "2", None);
    if let Origin::Dataflow { graph, .. } = &mut wrong.origin {
        *graph = Graph { sha256: "0".repeat(64), ..graph.clone() };
    }
    let job = stand.dataflow.create(wrong).await.unwrap();
    job.run().await.unwrap();
    let told = stand.told(&job).await.join("\n");
    assert!(
        told.contains("Workflow failed. Causes: The pipeline gs://temp/pipeline.pb is corrupt"),
        "{told}"
    );
}

#[tokio::test]
async fn a_missing_bucket_and_one_under_another_regions_key_fail_the_job() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let job = stand.dataflow.create(dataflow("a", "1", Some(&key))).await.unwrap();
    job.run().await.unwrap();
    let told = stand.told(&job).await.join("\n");
    assert!(told.contains("the bucket gs://temp does not exist"), "{told}");
    let elsewhere = claviger_core::names::CryptoKeyName::new("p", "europe-west4", "r", "k").unwrap();
    let bucket = BucketInfo { location: "europe-west4".into(), kms_key: Some(elsewhere) };
    stand.files.buckets.lock().unwrap().insert("temp".into(), bucket);
    let job = stand.dataflow.create(dataflow("b", "2", Some(&key))).await.unwrap();
    job.run().await.unwrap();
    let told = stand.told(&job).await.join("\n");
    assert!(told.contains("can't protect resources for a job in us-east1"), "{told}");
}

#[tokio::test]
async fn a_job_that_ran_at_a_crash_has_failed_and_keeps_what_it_said() {
    let stand = Stand::new().await;
    let running = stand.dataflow.create(portable("running", None)).await.unwrap();
    let prepared = stand.prepared("prepared").await;
    running.run().await.unwrap();
    let play = stand.play().await;
    play.context.space.put_blob("x", Bytes::from_static(b"data")).await.unwrap();
    play.context.events.message(Level::Basic, "so far".into());
    // The story is written now and then.
    while stand.on_disk("/kept/k/blob/story").await.is_empty() {
        stand.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert!(!stand.on_disk("/work/").await.is_empty());
    let stand = stand.crash().await;
    assert!(stand.on_disk("/work/").await.is_empty());
    assert!(stand.dataflow.job(prepared.id().as_str()).is_err());
    let job = stand.dataflow.job(running.id().as_str()).unwrap();
    let told = stand.told(&job).await;
    assert_eq!(told.last().map(String::as_str), Some("Failed"));
    assert!(told.contains(&"so far".to_owned()), "{told:?}");
    assert!(told.contains(&"The server restarted while the job ran.".to_owned()), "{told:?}");
    drop(play);
}

#[tokio::test]
async fn a_stop_of_the_server_ends_what_runs_with_a_reason() {
    let stand = Stand::new().await;
    let job = stand.prepared("wc").await;
    job.run().await.unwrap();
    let play = stand.play().await;
    stand.dataflow.close().await;
    assert_eq!(job.state(), JobState::Failed);
    assert_eq!(job.head().reason.unwrap().text, "The server was stopped while the job ran.");
    drop(play);
}

#[tokio::test]
async fn each_use_of_the_key_carries_the_jobs_id() {
    let stand = Stand::new().await;
    let key = stand.key("k", true).await;
    let job = stand.dataflow.create(portable("wc", Some(&key))).await.unwrap();
    let entries = stand.kms.audit_log().read(None, 1000).await.unwrap();
    let uses: Vec<_> = entries
        .into_iter()
        .map(|(_, entry)| entry)
        .filter(|entry| {
            entry.resource.starts_with(key.as_str()) && matches!(entry.method.as_str(), "Encrypt" | "Decrypt")
        })
        .collect();
    assert!(uses.len() >= 2, "one to wrap, one to see that it can be unwrapped");
    for entry in uses {
        assert_eq!(entry.context.get("job_id").map(String::as_str), Some(job.id().as_str()));
        assert!(entry.principal.ends_with("@dataflow-service-producer-prod.iam.gserviceaccount.com"));
        assert!(entry.context.get("resource").unwrap().ends_with(job.id().as_str()));
    }
}

#[tokio::test]
async fn a_panic_of_the_run_ends_the_job_and_not_the_server() {
    let stand = Stand::new().await;
    let job = stand.prepared("wc").await;
    // Without an input the run has nothing to stand on, as after a fault of our own.
    crate::lock(&job.input).take();
    job.run().await.unwrap();
    assert_eq!(stand.end_of(&job).await, JobState::Failed);
    assert!(stand.prepared("other").await.state() == JobState::Stopped);
}
