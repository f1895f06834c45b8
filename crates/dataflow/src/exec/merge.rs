//! Asks the SDK to merge the windows of keys, for window functions that only the SDK knows.
//!
//! Invariant: each key that was asked about has one answer, or all are refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use claviger_beam::merge::{MergeCoders, Merged, answers, put_question};
use claviger_beam::urn;
use claviger_beam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use claviger_beam_proto::pipeline::{
    self, Components, FunctionSpec, PCollection, PTransform, WindowingStrategy, trigger,
};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::BundleSpec;
use prost::Message as _;

use super::limits::{CHUNK_BYTES, WORKER_RETRIES};
use super::side::SideInputs;
use super::state::BundleState;
use super::workers::Workers;

const READ: &str = "read";
const MERGE: &str = "merge";
const WRITE: &str = "write";

/// Merges windows of one strategy.
pub(super) struct Merger {
    workers: Arc<Workers>,
    environment: String,
    components: Components,
    coders: MergeCoders,
    descriptor: Arc<ProcessBundleDescriptor>,
}

/// Tells the descriptors of one process apart: a worker knows them by id.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Merger {
    /// For the strategy of this id, whose windows are in the coder `window_coder` on the wire.
    pub(super) fn new(
        workers: &Arc<Workers>,
        components: &Components,
        strategy: &str,
        window_coder: &str,
        spec: &FunctionSpec,
        default_environment: &str,
    ) -> Self {
        let environment = components
            .windowing_strategies
            .get(strategy)
            .map(|strategy| strategy.environment_id.as_str())
            .filter(|id| components.environments.contains_key(*id))
            .unwrap_or(default_environment);
        let mut own = Components {
            coders: components.coders.clone(),
            environments: components.environments.clone(),
            ..Components::default()
        };
        let coders = MergeCoders::add(&mut own, window_coder);
        Self {
            workers: workers.clone(),
            environment: environment.to_owned(),
            descriptor: Arc::new(descriptor(&own, &coders, environment, spec)),
            coders,
            components: own,
        }
    }

    /// Merges the windows of some keys, each for itself.
    pub(super) async fn merge(&self, keys: &[Vec<Bytes>]) -> Result<Vec<Vec<Merged>>> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.ask(keys).await {
                // The workers count their losses and say when it is enough.
                Err(error) if error.kind() == ErrorKind::Unavailable && attempts < WORKER_RETRIES => {}
                result => return result,
            }
        }
    }

    async fn ask(&self, keys: &[Vec<Bytes>]) -> Result<Vec<Vec<Merged>>> {
        let worker = self.workers.get(&self.environment).await?;
        let bundle = worker
            .process(BundleSpec {
                descriptor: self.descriptor.clone(),
                state: BundleState::without_user_state(Arc::new(SideInputs::default())),
                cache_tokens: Vec::new(),
            })
            .await?;
        let send = async {
            let mut question = BytesMut::new();
            for (index, windows) in keys.iter().enumerate() {
                put_question(&(index as u64).to_be_bytes(), windows, &mut question)?;
                if question.len() >= CHUNK_BYTES {
                    bundle.send(READ, question.split().freeze()).await?;
                }
            }
            bundle.send(READ, question.freeze()).await?;
            bundle.close_inputs().await
        };
        let mut merged: Vec<Option<Vec<Merged>>> = vec![None; keys.len()];
        let receive = async {
            while let Some(output) = bundle.next().await? {
                answers(&self.coders.output_wire, &self.components, &output.data, &mut |nonce, windows| {
                    let index = nonce.try_into().map(u64::from_be_bytes).ok();
                    let place = index.and_then(|index| merged.get_mut(usize::try_from(index).ok()?));
                    *place.ok_or_else(unasked)? = Some(windows);
                    Ok(())
                })?;
            }
            Ok(())
        };
        futures::try_join!(send, receive)?;
        bundle.result().await?;
        merged.into_iter().map(|windows| windows.ok_or_else(unasked)).collect()
    }
}

fn unasked() -> Error {
    Error::invalid("A worker did not answer what it was asked about windows to merge.")
}

/// Elements of a nonce and windows in, elements of a nonce and merged windows out.
fn descriptor(
    components: &Components,
    coders: &MergeCoders,
    environment: &str,
    spec: &FunctionSpec,
) -> ProcessBundleDescriptor {
    let strategy = "global";
    let global_windows = WindowingStrategy {
        window_fn: Some(FunctionSpec { urn: urn::window_fn::GLOBAL.to_owned(), payload: Bytes::new() }),
        window_coder_id: components
            .coders
            .get(&coders.input_wire)
            .and_then(|coder| coder.component_coder_ids.get(1))
            .cloned()
            .unwrap_or_default(),
        merge_status: pipeline::merge_status::Enum::NonMerging.into(),
        trigger: Some(pipeline::Trigger { trigger: Some(trigger::Trigger::Default(trigger::Default {})) }),
        accumulation_mode: pipeline::accumulation_mode::Enum::Discarding.into(),
        output_time: pipeline::output_time::Enum::EndOfWindow.into(),
        closing_behavior: pipeline::closing_behavior::Enum::EmitIfNonempty.into(),
        on_time_behavior: pipeline::on_time_behavior::Enum::FireAlways.into(),
        environment_id: environment.to_owned(),
        ..WindowingStrategy::default()
    };
    let collection = |coder: &str| PCollection {
        unique_name: coder.to_owned(),
        coder_id: coder.to_owned(),
        is_bounded: pipeline::is_bounded::Enum::Bounded.into(),
        windowing_strategy_id: strategy.to_owned(),
        ..PCollection::default()
    };
    let port = |coder: &str| {
        Bytes::from(
            RemoteGrpcPort { api_service_descriptor: None, coder_id: coder.to_owned() }.encode_to_vec(),
        )
    };
    let transform = |name: &str, urn: &str, payload: Bytes, input: Option<&str>, output: Option<&str>| {
        let local = |id: Option<&str>| id.map(|id| ("0".to_owned(), id.to_owned())).into_iter().collect();
        PTransform {
            unique_name: format!("MergeWindows/{name}"),
            spec: Some(FunctionSpec { urn: urn.to_owned(), payload }),
            inputs: local(input),
            outputs: local(output),
            environment_id: environment.to_owned(),
            ..PTransform::default()
        }
    };
    let read =
        transform("Read", urn::transform::DATA_SOURCE, port(&coders.input_wire), None, Some("windows"));
    let payload = Bytes::from(spec.encode_to_vec());
    let merge = transform("Merge", urn::transform::MERGE_WINDOWS, payload, Some("windows"), Some("merged"));
    let write =
        transform("Write", urn::transform::DATA_SINK, port(&coders.output_wire), Some("merged"), None);
    ProcessBundleDescriptor {
        id: format!("merge-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        transforms: BTreeMap::from([
            (READ.to_owned(), read),
            (MERGE.to_owned(), merge),
            (WRITE.to_owned(), write),
        ]),
        pcollections: BTreeMap::from([
            ("windows".to_owned(), collection(&coders.input)),
            ("merged".to_owned(), collection(&coders.output)),
        ]),
        windowing_strategies: BTreeMap::from([(strategy.to_owned(), global_windows)]),
        coders: components.coders.clone(),
        environments: components.environments.clone(),
        ..ProcessBundleDescriptor::default()
    }
}
