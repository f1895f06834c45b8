//! A job as Beam's `DataflowRunner` sends it over REST is read whole.

use claviger_proto::google::dataflow::v1beta3::{Job, JobType};
use claviger_proto::pool;
use prost_reflect::{DeserializeOptions, DynamicMessage};

/// The body of Beam's Python SDK 2.77.0, shortened: enums are numbers, 64-bit integers are strings, and fields
/// that were not set are there with their zeros.
const BODY: &str = r#"{
  "name": "wc", "type": 1, "id": "", "projectId": "", "steps": [], "stepsLocation": "", "currentState": 0,
  "requestedState": 0, "replaceJobId": "", "transformNameMapping": {}, "clientRequestId": "20261123-1",
  "replacedByJobId": "", "tempFiles": [], "labels": {"a": "b"}, "location": "", "stageStates": [],
  "createdFromSnapshotId": "", "satisfiesPzs": false,
  "environment": {
    "tempStoragePrefix": "storage.googleapis.com/temp/t/wc.1",
    "clusterManagerApiService": "compute.googleapis.com",
    "experiments": ["use_runner_v2"],
    "workerPools": [{
      "kind": "harness",
      "taskrunnerSettings": {
        "parallelWorkerSettings": {"baseUrl": "https://dataflow.googleapis.com", "reportingEnabled": false},
        "logToSerialconsole": false, "alsologtostderr": false, "oauthScopes": []
      },
      "autoscalingSettings": {"algorithm": 0, "maxNumWorkers": 0},
      "workerHarnessContainerImage": "apache/beam_python3.11_sdk:2.77.0",
      "sdkHarnessContainerImages": [{
        "containerImage": "apache/beam_python3.11_sdk:2.77.0", "useSingleCorePerContainer": true,
        "environmentId": "ref_Environment_default_environment_1", "capabilities": []
      }],
      "packages": [{"name": "pipeline.pb", "location": "storage.googleapis.com/temp/s/pipeline.pb", "sha256": ""}],
      "defaultPackageSet": 0, "teardownPolicy": 0, "diskSizeGb": 0, "diskProvisionedIops": "0",
      "metadata": {}, "ipConfiguration": 0, "numThreadsPerWorker": 0
    }],
    "userAgent": {"name": "Apache Beam Python 3.11 SDK", "version": "2.77.0"},
    "version": {"job_type": "FNAPI_BATCH", "major": "8"},
    "dataset": "bigquery.googleapis.com/cloud_dataflow",
    "sdkPipelineOptions": {
      "options": {"pipelineUrl": "gs://temp/s/pipeline.pb", "direct_num_workers": 1.0, "labels": ["a=b"]},
      "display_data": [{"type": "BOOLEAN", "value": true, "key": "no_auth"}]
    },
    "serviceKmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
    "serviceOptions": [], "flexResourceSchedulingGoal": 0, "workerRegion": "", "shuffleMode": 0,
    "useStreamingEngineResourceBasedBilling": false, "streamingMode": 0
  }
}"#;

#[test]
fn a_job_as_beam_sends_it_is_read_with_no_field_unknown() {
    let job = pool().get_message_by_name("google.dataflow.v1beta3.Job").expect("in the pool");
    let mut body = serde_json::Deserializer::from_str(BODY);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let job =
        DynamicMessage::deserialize_with_options(job, &mut body, &options).expect("every field is known");
    let job: Job = job.transcode_to().expect("the same message");
    assert_eq!((job.name.as_str(), job.r#type()), ("wc", JobType::Batch));
    assert_eq!(job.client_request_id, "20261123-1");
    let environment = job.environment.expect("an environment");
    assert_eq!(environment.service_kms_key_name, "projects/p/locations/l/keyRings/r/cryptoKeys/k");
    let pool = environment.worker_pools.first().expect("a pool");
    let image = pool.sdk_harness_container_images.first().expect("an image");
    assert_eq!(image.environment_id, "ref_Environment_default_environment_1");
    assert_eq!(pool.packages.first().map(|package| package.name.as_str()), Some("pipeline.pb"));
    let options = environment.sdk_pipeline_options.expect("options");
    assert!(options.fields.contains_key("options") && options.fields.contains_key("display_data"));
}
