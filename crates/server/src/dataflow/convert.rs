//! Jobs as the Dataflow API shows them, and requests for jobs as the service takes them.
//!
//! Invariant: a summary needs no key.

use std::collections::HashMap;
use std::sync::Arc;

use claviger_core::{Error, Result, Timestamp};
use claviger_dataflow::{
    Description, Graph, Head, JobSpec, JobState, Options, Origin, Sdk, StageInfo, StageLife, StepInfo, Work,
};
use claviger_proto::google::dataflow::v1beta3 as pb;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};

use crate::operations::timestamp;

/// Under which name a job's page shows why it ended or why it cannot be shown.
const REASON: &str = "state_reason";
const LOCKED: &str = "not_readable_because";

pub(super) fn state(state: JobState) -> pb::JobState {
    match state {
        JobState::Stopped => pb::JobState::Stopped,
        JobState::Pending => pb::JobState::Pending,
        JobState::Running => pb::JobState::Running,
        JobState::Cancelling => pb::JobState::Cancelling,
        JobState::Done => pb::JobState::Done,
        JobState::Failed => pb::JobState::Failed,
        JobState::Cancelled => pb::JobState::Cancelled,
    }
}

fn kind(work: Work) -> pb::KindType {
    match work {
        Work::Unknown => pb::KindType::UnknownKind,
        Work::ParDo => pb::KindType::ParDoKind,
        Work::GroupByKey => pb::KindType::GroupByKeyKind,
        Work::Flatten => pb::KindType::FlattenKind,
        Work::Read => pb::KindType::ReadKind,
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// What is known of a job without its key.
pub(super) fn summary(head: &Head) -> pb::Job {
    let version = pb::SdkVersion {
        version: head.sdk.version.clone(),
        version_display_name: head.sdk.name.clone(),
        sdk_support_status: pb::sdk_version::SdkSupportStatus::Supported.into(),
        bugs: Vec::new(),
    };
    let mut shown = HashMap::new();
    if let Some(reason) = &head.reason {
        shown.insert(REASON.to_owned(), reason.text.clone());
    }
    let user_agent = Struct {
        fields: [("name".to_owned(), text(&head.sdk.name)), ("version".to_owned(), text(&head.sdk.version))]
            .into(),
    };
    let environment = pb::Environment {
        service_kms_key_name: head.kms_key.as_ref().map(ToString::to_string).unwrap_or_default(),
        user_agent: (!head.sdk.name.is_empty()).then_some(user_agent),
        ..pb::Environment::default()
    };
    pb::Job {
        id: head.id.to_string(),
        project_id: head.project.clone(),
        name: head.name.clone(),
        r#type: pb::JobType::Batch.into(),
        environment: Some(environment),
        current_state: state(head.state()).into(),
        current_state_time: Some(timestamp(head.now().time)),
        create_time: Some(timestamp(head.created)),
        start_time: Some(timestamp(head.started.unwrap_or(head.created))),
        client_request_id: head.client_request_id.clone(),
        location: head.location.clone(),
        job_metadata: Some(pb::JobMetadata {
            sdk_version: (!head.sdk.version.is_empty()).then_some(version),
            user_display_properties: shown,
            ..pb::JobMetadata::default()
        }),
        ..pb::Job::default()
    }
}

/// Says why the rest of a job is not shown.
pub(super) fn not_readable(job: &mut pb::Job, error: &Error) {
    let metadata = job.job_metadata.get_or_insert_default();
    metadata.user_display_properties.insert(LOCKED.to_owned(), error.message().to_owned());
}

/// Adds what the job was submitted with. The options only where all was asked for.
pub(super) fn describe(job: &mut pb::Job, description: &Arc<Description>, all: bool) {
    let request = pb::Job::decode(description.request.clone()).unwrap_or_default();
    job.labels = request.labels;
    let known = job.environment.take().unwrap_or_default();
    let mut environment = request.environment.unwrap_or_default();
    environment.service_kms_key_name = known.service_kms_key_name;
    environment.user_agent = environment.user_agent.or(known.user_agent);
    if !all {
        environment.sdk_pipeline_options = None;
    } else if environment.sdk_pipeline_options.is_none() {
        environment.sdk_pipeline_options = description.options.clone();
    }
    job.environment = Some(environment);
}

/// The name of a stage in this API.
pub(super) fn stage_id(stage: &StageInfo) -> String {
    format!("F{}", stage.number)
}

/// Adds steps and stages.
pub(super) fn outline(job: &mut pb::Job, steps: &[StepInfo], stages: &[StageInfo]) {
    let step = |step: &StepInfo| pb::TransformSummary {
        kind: kind(step.work()).into(),
        id: step.id.clone(),
        name: step.name.clone(),
        display_data: Vec::new(),
        output_collection_name: step.outputs.clone(),
        input_collection_name: step.inputs.clone(),
    };
    let source = |name: &String| pb::execution_stage_summary::StageSource {
        user_name: name.clone(),
        name: name.clone(),
        original_transform_or_collection: name.clone(),
        size_bytes: 0,
    };
    let stage = |stage: &StageInfo| pb::ExecutionStageSummary {
        name: stage_id(stage),
        id: stage_id(stage),
        kind: kind(stage.work()).into(),
        input_source: stage.inputs.iter().map(source).collect(),
        output_source: stage.outputs.iter().map(source).collect(),
        component_transform: stage
            .steps
            .iter()
            .map(|name| pb::execution_stage_summary::ComponentTransform {
                user_name: name.clone(),
                name: name.clone(),
                original_transform: name.clone(),
            })
            .collect(),
        ..pb::ExecutionStageSummary::default()
    };
    job.pipeline_description = Some(pb::PipelineDescription {
        original_pipeline_transform: steps.iter().map(step).collect(),
        execution_pipeline_stage: stages.iter().map(stage).collect(),
        ..pb::PipelineDescription::default()
    });
    let end = job.current_state;
    let over = [pb::JobState::Failed, pb::JobState::Cancelled].iter().any(|state| end == i32::from(*state));
    let done = i32::from(pb::JobState::Done);
    let life = |stage: &StageInfo| match stage.life() {
        // What the server does itself is told of by the job's end alone.
        _ if end == done => done,
        StageLife::Done => done,
        StageLife::Running if over => end,
        StageLife::Running => pb::JobState::Running.into(),
        StageLife::Waiting if over => pb::JobState::Cancelled.into(),
        StageLife::Waiting => pb::JobState::Pending.into(),
    };
    job.stage_states = stages
        .iter()
        .map(|stage| pb::ExecutionStageState {
            execution_stage_name: stage_id(stage),
            execution_stage_state: life(stage),
            current_state_time: stage.changed().map(timestamp),
        })
        .collect();
}

/// Reads a request for a new job.
pub(super) fn spec(project: String, region: String, mut job: pb::Job) -> Result<JobSpec> {
    if !job.replace_job_id.is_empty() || !job.transform_name_mapping.is_empty() {
        return Err(Error::unimplemented(
            "Replacing a running job by another (update) is for streaming jobs, which are not built yet.",
        ));
    }
    if !job.created_from_snapshot_id.is_empty() {
        return Err(Error::unimplemented("Jobs from snapshots are not built yet."));
    }
    let streaming =
        || Error::unimplemented("Streaming jobs are not built yet: this server runs batch pipelines.");
    if job.r#type() == pb::JobType::Streaming {
        return Err(streaming());
    }
    let environment = job.environment.clone().unwrap_or_default();
    let field = |fields: &Option<Struct>, name: &str| {
        let value = fields.as_ref().and_then(|fields| fields.fields.get(name));
        match value.and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        }
    };
    if field(&environment.version, "job_type").ends_with("STREAMING") {
        return Err(streaming());
    }
    let options = Options::new(environment.sdk_pipeline_options.clone().unwrap_or_default());
    let own = |name: &str| options.text(name).map(str::to_owned);
    let url = own("pipelineUrl").ok_or_else(|| {
        Error::invalid_field(
            "job.environment.sdk_pipeline_options",
            "options.pipelineUrl does not name a portable pipeline; jobs for the old worker, made of steps, are not run",
        )
    })?;
    let told = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let sdk = Sdk {
        name: field(&environment.user_agent, "name"),
        version: field(&environment.user_agent, "version"),
    };
    let spec = JobSpec {
        name: job.name.clone(),
        project,
        region,
        kms_key: told(&environment.service_kms_key_name).or_else(|| own("dataflow_kms_key")),
        temp_location: told(&environment.temp_storage_prefix).or_else(|| own("temp_location")),
        sdk,
        origin: Origin::Dataflow {
            graph: Graph { url, sha256: own("pipelineProtoHash").unwrap_or_default() },
            client_request_id: job.client_request_id.clone(),
            request: {
                // The options are kept once.
                if let Some(environment) = &mut job.environment {
                    environment.sdk_pipeline_options = None;
                }
                job.encode_to_vec().into()
            },
        },
        options,
    };
    Ok(spec)
}

/// A time of a request.
pub(super) fn time(time: prost_types::Timestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::Job {
        let options = Struct {
            fields: [
                ("pipelineUrl".to_owned(), text("gs://temp/s/pipeline.pb")),
                ("pipelineProtoHash".to_owned(), text("abc")),
            ]
            .into(),
        };
        let options = Value { kind: Some(Kind::StructValue(options)) };
        pb::Job {
            name: "wc".into(),
            client_request_id: "1".into(),
            environment: Some(pb::Environment {
                temp_storage_prefix: "storage.googleapis.com/temp/t".into(),
                service_kms_key_name: "projects/p/locations/l/keyRings/r/cryptoKeys/k".into(),
                sdk_pipeline_options: Some(Struct { fields: [("options".to_owned(), options)].into() }),
                ..pb::Environment::default()
            }),
            ..pb::Job::default()
        }
    }

    #[test]
    fn a_request_of_dataflow_runner_is_read() {
        let spec = spec("p".into(), "l".into(), request()).unwrap();
        assert_eq!(spec.kms_key.as_deref(), Some("projects/p/locations/l/keyRings/r/cryptoKeys/k"));
        assert_eq!(spec.temp_location.as_deref(), Some("storage.googleapis.com/temp/t"));
        let Origin::Dataflow { graph, request, .. } = spec.origin else { panic!("of this API") };
        assert_eq!(graph, Graph { url: "gs://temp/s/pipeline.pb".into(), sha256: "abc".into() });
        assert_eq!(pb::Job::decode(request).unwrap().environment.unwrap().sdk_pipeline_options, None);
    }

    #[test]
    fn what_is_not_built_is_refused_with_a_sentence() {
        let version = Struct { fields: [("job_type".to_owned(), text("FNAPI_STREAMING"))].into() };
        let environment = |version| pb::Environment { version, ..request().environment.unwrap() };
        for job in [
            pb::Job { replace_job_id: "x".into(), ..request() },
            pb::Job { created_from_snapshot_id: "x".into(), ..request() },
            pb::Job { r#type: pb::JobType::Streaming.into(), ..request() },
            pb::Job { environment: Some(environment(Some(version))), ..request() },
        ] {
            let error = spec("p".into(), "l".into(), job).unwrap_err();
            assert_eq!(error.kind(), claviger_core::ErrorKind::Unimplemented);
        }
        let old = pb::Job { environment: None, ..request() };
        assert!(spec("p".into(), "l".into(), old).unwrap_err().message().contains("pipelineUrl"));
    }
}
