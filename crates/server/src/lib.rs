//! The server: configuration, the adapters between wire formats and services, and what puts them
//! together.
//!
//! Invariant: this is the only crate that names gRPC's status or HTTP. Adapters translate and decide
//! nothing.

mod api;
mod auth;
mod beam;
mod bigtable;
pub mod config;
mod data_servers;
mod dataflow;
mod ekm;
mod elsewhere;
mod evidence;
mod http;
mod keys;
mod kms;
mod logging;
mod metrics;
mod operations;
mod orgpolicy;
mod projects;
pub mod rest;
mod run;
mod seal;
mod secrets;
pub mod status;
mod storage;

/// The contract of `claviger_cmek` with a KMS, which `elsewhere::tests` runs over one elsewhere.
#[cfg(test)]
#[path = "../../cmek/tests/common/mod.rs"]
mod common;

pub use config::{HsmTokenConfig, KmsElsewhere, RootKms, RootToken, ServeConfig, TlsFiles};
pub use run::serve;
