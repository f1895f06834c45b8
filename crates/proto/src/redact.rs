//! `Debug` for messages that carry plaintext or the options of a pipeline: sizes, never contents.
//!
//! Invariant: every message that `build.rs` lists as redacted has its `Debug` here.

use std::fmt;

use crate::google::cloud::kms::v1::{DecryptResponse, EncryptRequest};
use crate::google::dataflow::v1beta3::{
    CreateJobFromTemplateRequest, Environment, LaunchFlexTemplateParameter, LaunchTemplateParameters, Step,
};

impl fmt::Debug for EncryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptRequest")
            .field("name", &self.name)
            .field("plaintext_bytes", &self.plaintext.len())
            .field("additional_authenticated_data_bytes", &self.additional_authenticated_data.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DecryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptResponse")
            .field("plaintext_bytes", &self.plaintext.len())
            .field("used_primary", &self.used_primary)
            .field("protection_level", &self.protection_level)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.sdk_pipeline_options.as_ref().map_or(0, |options| options.fields.len());
        f.debug_struct("Environment")
            .field("service_kms_key_name", &self.service_kms_key_name)
            .field("temp_storage_prefix", &self.temp_storage_prefix)
            .field("worker_pools", &self.worker_pools.len())
            .field("sdk_pipeline_options", &options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties = self.properties.as_ref().map_or(0, |properties| properties.fields.len());
        f.debug_struct("Step")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("properties", &properties)
            .finish()
    }
}

impl fmt::Debug for CreateJobFromTemplateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJobFromTemplateRequest")
            .field("project_id", &self.project_id)
            .field("location", &self.location)
            .field("job_name", &self.job_name)
            .field("parameters", &self.parameters.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LaunchTemplateParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchTemplateParameters")
            .field("job_name", &self.job_name)
            .field("parameters", &self.parameters.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LaunchFlexTemplateParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchFlexTemplateParameter")
            .field("job_name", &self.job_name)
            .field("parameters", &self.parameters.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_sizes_and_no_plaintext() {
        let request = EncryptRequest { name: "k".into(), plaintext: "hunter2".into(), ..Default::default() };
        let reply = DecryptResponse { plaintext: "hunter2".into(), ..Default::default() };
        for shown in [format!("{request:?}"), format!("{reply:?}")] {
            assert!(shown.contains("plaintext_bytes: 7"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        }
    }

    #[test]
    fn debug_of_a_job_shows_its_key_and_none_of_its_options() {
        use crate::google::dataflow::v1beta3::Job;
        use prost_types::{Struct, Value, value::Kind};

        let secret = Value { kind: Some(Kind::StringValue("hunter2".into())) };
        let fields = Struct { fields: [("password".to_owned(), secret)].into() };
        let environment = Environment {
            service_kms_key_name: "k".into(),
            sdk_pipeline_options: Some(fields.clone()),
            ..Default::default()
        };
        let steps = vec![Step { name: "s1".into(), properties: Some(fields), ..Default::default() }];
        let shown = format!("{:?}", Job { environment: Some(environment), steps, ..Default::default() });
        assert!(shown.contains("service_kms_key_name: \"k\"") && shown.contains("s1"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("password"), "{shown}");
    }
}
