//! The options that this server reads of a pipeline, so that SDKs which do not have them take them.
//!
//! Invariant: an option is here if and only if something in the server looks at it.

use claviger_beam_proto::job_management::pipeline_option_type::Enum as Type;
use claviger_beam_proto::job_management::{DescribePipelineOptionsResponse, PipelineOptionDescriptor};

const GROUP: &str = "claviger";

/// Name, type and meaning.
const OPTIONS: [(&str, Type, &str); 6] = [
    ("job_name", Type::String, "The name of the job."),
    ("project", Type::String, "The project that the job belongs to."),
    ("region", Type::String, "The region of the job; the default is that of its key."),
    (
        "dataflow_kms_key",
        Type::String,
        "The Cloud KMS key that protects all that the job has at rest: projects/P/locations/REGION/keyRings/R/cryptoKeys/K.",
    ),
    ("temp_location", Type::String, "Where temporary files go: gs://BUCKET/PREFIX."),
    ("number_of_worker_harness_threads", Type::Integer, "Bundles that a worker processes at the same time."),
];

/// All of them.
pub(super) fn known() -> DescribePipelineOptionsResponse {
    let options = OPTIONS.map(|(name, kind, description)| PipelineOptionDescriptor {
        name: name.to_owned(),
        r#type: kind.into(),
        description: description.to_owned(),
        default_value: String::new(),
        group: GROUP.to_owned(),
    });
    DescribePipelineOptionsResponse { options: options.into() }
}
