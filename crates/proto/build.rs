//! Compiles `proto/` to Rust and to a descriptor set, with cargo alone.
//!
//! Invariant: the descriptor set is what protox encodes, not what prost re-encodes. Only the former keeps
//! the `google.api.http` options, from which the REST layer is made.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Messages whose `Debug` would show key material, plaintext or a pipeline's options; `src/redact.rs` writes theirs.
const REDACTED: [&str; 7] = [
    ".google.cloud.kms.v1.EncryptRequest",
    ".google.cloud.kms.v1.DecryptResponse",
    ".google.dataflow.v1beta3.CreateJobFromTemplateRequest",
    ".google.dataflow.v1beta3.Environment",
    ".google.dataflow.v1beta3.LaunchFlexTemplateParameter",
    ".google.dataflow.v1beta3.LaunchTemplateParameters",
    ".google.dataflow.v1beta3.Step",
];

/// Wrapper types and the Rust types that stand for them.
const WELL_KNOWN: [(&str, &str); 11] = [
    (".google.protobuf", "::prost_types"),
    (".google.protobuf.BoolValue", "bool"),
    // Not prost's `Vec<u8>`: a qualifier that is already shared goes on the wire without a copy.
    (".google.protobuf.BytesValue", "::prost::bytes::Bytes"),
    (".google.protobuf.DoubleValue", "f64"),
    (".google.protobuf.Empty", "()"),
    (".google.protobuf.FloatValue", "f32"),
    (".google.protobuf.Int32Value", "i32"),
    (".google.protobuf.Int64Value", "i64"),
    (".google.protobuf.StringValue", "::prost::alloc::string::String"),
    (".google.protobuf.UInt32Value", "u32"),
    (".google.protobuf.UInt64Value", "u64"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    for folder in ["google", "claviger"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        find(&root.join(folder), &mut files)?;
    }
    files.sort();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut plain = protox::Compiler::new([&root])?;
    plain.include_imports(true).include_source_info(false).open_files(&files)?;
    fs::write(out.join("claviger.binpb"), plain.encode_file_descriptor_set())?;

    let mut commented = protox::Compiler::new([&root])?;
    commented.include_imports(true).include_source_info(true).open_files(&files)?;
    let mut builder = tonic_prost_build::configure()
        .bytes(".")
        .compile_well_known_types(true)
        .skip_debug(REDACTED)
        .include_file("api.rs");
    for (proto, rust) in WELL_KNOWN {
        builder = builder.extern_path(proto, rust);
    }
    // With the domain, `Any::from_msg` writes the type URLs that Google's clients expect.
    let mut config = prost_build::Config::new();
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    builder.compile_fds_with_config(commented.file_descriptor_set(), config)?;
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
