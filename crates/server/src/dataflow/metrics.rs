//! `google.dataflow.v1beta3.MetricsV1Beta3`: what Beam measures, in the names and forms of Dataflow.
//!
//! Invariant: each metric is there twice, committed and tentative, since clients look both up.

use std::collections::{BTreeMap, HashMap};

use claviger_beam_proto::pipeline::MonitoringInfo;
use claviger_core::{Error, Result, Timestamp};
use claviger_dataflow::exec::MetricsSnapshot;
use claviger_dataflow::{JobState, Measure, StageInfo, StageLife};
use claviger_proto::google::dataflow::v1beta3 as pb;
use pb::metrics_v1_beta3_server::MetricsV1Beta3;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::{Request, Response, Status};

use super::{DataflowApi, convert};
use crate::operations::timestamp;
use crate::status::status;

const USER: &str = "user";
const SERVICE: &str = "dataflow/v1b3";
const USER_URNS: &str = "beam:metric:user:";
const ELEMENT_COUNT: &str = "beam:metric:element_count:v1";
const BYTE_SIZE: &str = "beam:metric:sampled_byte_size:v1";
/// Stages of a page.
const PAGE: usize = 1_000;

/// A metric's origin, name and context.
type Name = (&'static str, String, BTreeMap<&'static str, String>);

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

/// What a metric is called; none for one that Dataflow does not show.
fn name(info: &MonitoringInfo) -> Option<Name> {
    let label = |label: &str| info.labels.get(label).cloned();
    if info.urn.starts_with(USER_URNS) {
        let context = BTreeMap::from([("namespace", label("NAMESPACE")?), ("step", label("PTRANSFORM")?)]);
        return Some((USER, label("NAME")?, context));
    }
    let short = match info.urn.as_str() {
        ELEMENT_COUNT => "ElementCount",
        BYTE_SIZE => "MeanByteCount",
        _ => return None,
    };
    let collection = label("PCOLLECTION")?;
    let context = BTreeMap::from([
        ("original_name", format!("{collection}-{short}")),
        ("output_user_name", collection),
    ]);
    Some((SERVICE, short.to_owned(), context))
}

fn update(name: &Name, info: Option<&MonitoringInfo>, tentative: bool, now: Timestamp) -> pb::MetricUpdate {
    let (origin, short, context) = name;
    let mut context: HashMap<String, String> =
        context.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    if tentative {
        context.insert("tentative".to_owned(), "true".to_owned());
    }
    let mut update = pb::MetricUpdate {
        name: Some(pb::MetricStructuredName { origin: (*origin).to_owned(), name: short.clone(), context }),
        cumulative: true,
        update_time: Some(timestamp(now)),
        ..pb::MetricUpdate::default()
    };
    let measure = info.and_then(Measure::of);
    let gauge = info.is_some_and(|info| info.r#type.contains("latest"));
    match measure {
        None => {}
        // Of bytes the service tells the mean.
        Some(Measure::Distribution { count, sum, .. }) if *origin == SERVICE => {
            "Mean".clone_into(&mut update.kind);
            update.scalar = Some(number(if count > 0 { sum / count as f64 } else { 0.0 }));
        }
        Some(Measure::Distribution { count, sum, min, max }) => {
            "Distribution".clone_into(&mut update.kind);
            let fields = [("count", count as f64), ("sum", sum), ("min", min), ("max", max)];
            let fields = fields.map(|(name, value)| (name.to_owned(), number(value))).into();
            update.distribution = Some(Value { kind: Some(Kind::StructValue(Struct { fields })) });
        }
        Some(Measure::Number(value)) if gauge => {
            "Gauge".clone_into(&mut update.kind);
            let fields = [("value".to_owned(), number(value))].into();
            update.gauge = Some(Value { kind: Some(Kind::StructValue(Struct { fields })) });
        }
        Some(Measure::Number(value)) => {
            "Sum".clone_into(&mut update.kind);
            update.scalar = Some(number(value));
        }
        Some(Measure::Strings(texts)) => {
            "Set".clone_into(&mut update.kind);
            let values =
                texts.into_iter().map(|text| Value { kind: Some(Kind::StringValue(text)) }).collect();
            update.set = Some(Value { kind: Some(Kind::ListValue(ListValue { values })) });
        }
    }
    update
}

/// All metrics of a job.
fn updates(snapshot: &MetricsSnapshot, now: Timestamp) -> Vec<pb::MetricUpdate> {
    let mut all: BTreeMap<Name, (Option<&MonitoringInfo>, Option<&MonitoringInfo>)> = BTreeMap::new();
    for info in &snapshot.committed {
        if let Some(name) = name(info) {
            all.entry(name).or_default().0 = Some(info);
        }
    }
    for info in &snapshot.attempted {
        if let Some(name) = name(info) {
            all.entry(name).or_default().1 = Some(info);
        }
    }
    all.iter()
        .flat_map(|(name, (committed, attempted))| {
            [update(name, *committed, false, now), update(name, *attempted, true, now)]
        })
        .collect()
}

fn stage(stage: &StageInfo, job: JobState) -> pb::StageSummary {
    let state = match (stage.life(), job) {
        (StageLife::Done, _) | (_, JobState::Done) => pb::ExecutionState::Succeeded,
        (StageLife::Running, JobState::Failed) => pb::ExecutionState::Failed,
        (StageLife::Running, JobState::Cancelled) => pb::ExecutionState::Cancelled,
        (StageLife::Running, _) => pb::ExecutionState::Running,
        (StageLife::Waiting, JobState::Failed | JobState::Cancelled) => pb::ExecutionState::Cancelled,
        (StageLife::Waiting, _) => pb::ExecutionState::NotStarted,
    };
    let done = state == pb::ExecutionState::Succeeded;
    pb::StageSummary {
        stage_id: convert::stage_id(stage),
        state: state.into(),
        start_time: stage.started().map(timestamp),
        end_time: stage.changed().filter(|_| done).map(timestamp),
        progress: done.then(|| pb::ProgressTimeseries { current_progress: 1.0, data_points: Vec::new() }),
        ..pb::StageSummary::default()
    }
}

impl DataflowApi {
    async fn job_metrics(&self, request: pb::GetJobMetricsRequest) -> Result<pb::JobMetrics> {
        let job = self.find(&request.project_id, &request.location, &request.job_id)?;
        let now = self.clock.now();
        let metrics = updates(&job.metrics().await?, now);
        Ok(pb::JobMetrics { metric_time: Some(timestamp(now)), metrics })
    }

    async fn job_stages(
        &self,
        request: pb::GetJobExecutionDetailsRequest,
    ) -> Result<pb::JobExecutionDetails> {
        let job = self.find(&request.project_id, &request.location, &request.job_id)?;
        let size = usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(PAGE);
        let from: usize = match request.page_token.as_str() {
            "" => 0,
            token => {
                token.parse().map_err(|_| Error::invalid_field("page_token", "is not one of this list"))?
            }
        };
        let state = job.state();
        let (stages, more) = job
            .story(|story| {
                let page = story.stages.iter().skip(from).take(size).map(|found| stage(found, state));
                (page.collect(), story.stages.len() > from.saturating_add(size))
            })
            .await?;
        let next_page_token = if more { (from + size).to_string() } else { String::new() };
        Ok(pb::JobExecutionDetails { stages, next_page_token })
    }

    async fn one_stage(
        &self,
        request: pb::GetStageExecutionDetailsRequest,
    ) -> Result<pb::StageExecutionDetails> {
        let job = self.find(&request.project_id, &request.location, &request.job_id)?;
        let known =
            job.story(|story| story.stages.iter().any(|stage| convert::stage_id(stage) == request.stage_id));
        if !known.await? {
            return Err(Error::not_found(format!("The job {} has no such stage.", job.id())));
        }
        // One worker runs all bundles; nothing is told of single ones.
        Ok(pb::StageExecutionDetails::default())
    }
}

#[tonic::async_trait]
impl MetricsV1Beta3 for DataflowApi {
    async fn get_job_metrics(
        &self,
        request: Request<pb::GetJobMetricsRequest>,
    ) -> Result<Response<pb::JobMetrics>, Status> {
        self.job_metrics(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_job_execution_details(
        &self,
        request: Request<pb::GetJobExecutionDetailsRequest>,
    ) -> Result<Response<pb::JobExecutionDetails>, Status> {
        self.job_stages(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_stage_execution_details(
        &self,
        request: Request<pb::GetStageExecutionDetailsRequest>,
    ) -> Result<Response<pb::StageExecutionDetails>, Status> {
        self.one_stage(request.into_inner()).await.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(value: u8) -> MonitoringInfo {
        let labels = [("PTRANSFORM", "Map"), ("NAMESPACE", "ns"), ("NAME", "n")];
        MonitoringInfo {
            urn: "beam:metric:user:sum_int64:v1".into(),
            r#type: "beam:metrics:sum_int64:v1".into(),
            payload: vec![value].into(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            start_time: None,
        }
    }

    #[test]
    fn a_counter_is_told_committed_and_tentative() {
        let snapshot = MetricsSnapshot { attempted: vec![counter(9)], committed: vec![counter(7)] };
        let updates = updates(&snapshot, Timestamp(5));
        let [committed, tentative] = updates.as_slice() else { panic!("two: {updates:?}") };
        assert_eq!((&committed.scalar, &tentative.scalar), (&Some(number(7.0)), &Some(number(9.0))));
        let name = tentative.name.clone().unwrap();
        assert_eq!((name.origin.as_str(), name.name.as_str()), ("user", "n"));
        assert_eq!(name.context.get("step").map(String::as_str), Some("Map"));
        assert_eq!(name.context.get("tentative").map(String::as_str), Some("true"));
        assert!(!committed.name.clone().unwrap().context.contains_key("tentative"));
    }

    #[test]
    fn a_metric_of_attempts_only_has_a_committed_twin_without_a_value() {
        let snapshot = MetricsSnapshot { attempted: vec![counter(9)], committed: Vec::new() };
        let updates = updates(&snapshot, Timestamp(5));
        assert_eq!(updates.len(), 2);
        assert_eq!(updates[0].scalar, None);
    }
}
