//! `Debug` for messages that carry elements, keys, files, code or option values: sizes, never contents.
//!
//! Invariant: every message that `build.rs` lists as redacted has its `Debug` here.

use std::fmt;

use crate::{fn_execution, job_management, pipeline};

/// Writes a `Debug` that shows some fields as they are and of others only how long they are.
macro_rules! sizes_only {
    ($($message:path { $($shown:ident),* ; $($hidden:ident),+ })+) => { $(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let path = stringify!($message);
                f.debug_struct(path.rsplit(' ').next().unwrap_or(path).rsplit(':').next().unwrap_or(path))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(concat!(stringify!($hidden), "_len"), &self.$hidden.len()))+
                    .finish_non_exhaustive()
            }
        }
    )+ };
}

sizes_only! {
    fn_execution::elements::Data { instruction_id, transform_id, is_last; data }
    fn_execution::elements::Timers { instruction_id, transform_id, timer_family_id, is_last; timers }
    fn_execution::BundleApplication { transform_id, input_id, output_watermarks, is_bounded; element }
    fn_execution::SampledElement { sample_timestamp; element }
    fn_execution::StateAppendRequest { ; data }
    fn_execution::StateGetResponse { ; continuation_token, data }
    fn_execution::StateGetRequest { ; continuation_token }
    fn_execution::state_key::Runner { ; key }
    fn_execution::state_key::MultimapSideInput { transform_id, side_input_id; window, key }
    fn_execution::state_key::BagUserState { transform_id, user_state_id; window, key }
    fn_execution::state_key::MultimapKeysUserState { transform_id, user_state_id; window, key }
    fn_execution::state_key::MultimapEntriesUserState { transform_id, user_state_id; window, key }
    fn_execution::state_key::MultimapUserState { transform_id, user_state_id; window, key, map_key }
    fn_execution::state_key::OrderedListUserState { transform_id, user_state_id, range; window, key }
    fn_execution::StartWorkerRequest { worker_id, control_endpoint; params }
    pipeline::test_stream_payload::TimestampedElement { timestamp; encoded_element }
    pipeline::FunctionSpec { urn; payload }
    pipeline::DisplayData { urn; payload }
    pipeline::Environment { urn, capabilities, dependencies; payload }
    pipeline::ProcessPayload { os, arch, command; env }
    pipeline::ExternalPayload { endpoint; params }
    pipeline::ArtifactInformation { type_urn, role_urn; type_payload, role_payload }
    pipeline::EmbeddedFilePayload { ; data }
    pipeline::DeferredArtifactPayload { ; key, data }
    pipeline::MonitoringInfo { urn, r#type, labels; payload }
    job_management::GetArtifactResponse { ; data }
}

impl fmt::Debug for fn_execution::ProvisionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvisionInfo")
            .field("pipeline_options_len", &options(self.pipeline_options.as_ref()))
            .field("control_endpoint", &self.control_endpoint)
            .field("dependencies", &self.dependencies)
            .field("runner_capabilities", &self.runner_capabilities)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for job_management::PrepareJobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrepareJobRequest")
            .field("job_name", &self.job_name)
            .field("pipeline_options_len", &options(self.pipeline_options.as_ref()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for job_management::JobInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobInfo")
            .field("job_id", &self.job_id)
            .field("job_name", &self.job_name)
            .field("state", &self.state)
            .field("pipeline_options_len", &options(self.pipeline_options.as_ref()))
            .finish_non_exhaustive()
    }
}

fn options(options: Option<&prost_types::Struct>) -> usize {
    options.map_or(0, |options| options.fields.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    const SECRET: &str = "hunter2";

    #[test]
    fn debug_shows_sizes_and_no_contents() {
        let secret = || Bytes::from_static(SECRET.as_bytes());
        let value = Value { kind: Some(Kind::StringValue(SECRET.into())) };
        let options = || Some(Struct { fields: [("password".to_owned(), value.clone())].into() });
        let elements = fn_execution::Elements {
            data: vec![fn_execution::elements::Data {
                instruction_id: "b1".into(),
                data: secret(),
                ..Default::default()
            }],
            timers: vec![fn_execution::elements::Timers { timers: secret(), ..Default::default() }],
        };
        let state = fn_execution::StateKey {
            r#type: Some(fn_execution::state_key::Type::MultimapUserState(
                fn_execution::state_key::MultimapUserState {
                    window: secret(),
                    key: secret(),
                    map_key: secret(),
                    ..Default::default()
                },
            )),
        };
        let environment = pipeline::Environment { payload: secret(), ..Default::default() };
        let spec = pipeline::FunctionSpec { urn: "beam:transform:impulse:v1".into(), payload: secret() };
        let prepare = job_management::PrepareJobRequest { pipeline_options: options(), ..Default::default() };
        let provision = fn_execution::ProvisionInfo { pipeline_options: options(), ..Default::default() };
        let all = format!("{elements:?} {state:?} {environment:?} {spec:?} {prepare:?} {provision:?}");
        assert!(all.contains("Data { instruction_id: \"b1\""), "{all}");
        assert!(all.contains("data_len: 7") && all.contains("map_key_len: 7"), "{all}");
        assert!(all.contains("pipeline_options_len: 1"), "{all}");
        assert!(!all.contains(SECRET) && !all.contains("104"), "{all}");
    }
}
