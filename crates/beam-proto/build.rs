//! Compiles `proto/org` to Rust, with cargo alone, and writes its descriptors beside for the tests.
//!
//! Invariant: maps become `BTreeMap`s. The same message has the same bytes each time, so a graph's hash holds.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PACKAGE: &str = ".org.apache.beam.model";

/// Messages that hold elements, keys or option values; `src/redact.rs` writes their `Debug`.
const REDACTED: [&str; 29] = [
    "fn_execution.v1.BundleApplication",
    "fn_execution.v1.Elements.Data",
    "fn_execution.v1.Elements.Timers",
    "fn_execution.v1.ProvisionInfo",
    "fn_execution.v1.SampledElement",
    "fn_execution.v1.StartWorkerRequest",
    "fn_execution.v1.StateAppendRequest",
    "fn_execution.v1.StateGetRequest",
    "fn_execution.v1.StateGetResponse",
    "fn_execution.v1.StateKey.BagUserState",
    "fn_execution.v1.StateKey.MultimapEntriesUserState",
    "fn_execution.v1.StateKey.MultimapKeysUserState",
    "fn_execution.v1.StateKey.MultimapSideInput",
    "fn_execution.v1.StateKey.MultimapUserState",
    "fn_execution.v1.StateKey.OrderedListUserState",
    "fn_execution.v1.StateKey.Runner",
    "job_management.v1.GetArtifactResponse",
    "job_management.v1.JobInfo",
    "job_management.v1.PrepareJobRequest",
    "pipeline.v1.ArtifactInformation",
    "pipeline.v1.DeferredArtifactPayload",
    "pipeline.v1.DisplayData",
    "pipeline.v1.EmbeddedFilePayload",
    "pipeline.v1.Environment",
    "pipeline.v1.ExternalPayload",
    "pipeline.v1.FunctionSpec",
    "pipeline.v1.MonitoringInfo",
    "pipeline.v1.ProcessPayload",
    "pipeline.v1.TestStreamPayload.TimestampedElement",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.join("org").display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    find(&root.join("org"), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("beam.binpb"), compiler.encode_file_descriptor_set())?;

    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(REDACTED.map(|name| format!("{PACKAGE}.{name}")))
        .include_file("api.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// Adds all `.proto` files under a folder.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
