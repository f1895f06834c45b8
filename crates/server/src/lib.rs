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
mod dataflow;
mod ekm;
mod evidence;
mod http;
mod kms;
mod logging;
mod metrics;
mod operations;
mod orgpolicy;
mod projects;
pub mod rest;
mod run;
mod seal;
pub mod status;
mod storage;

pub use config::{HsmTokenConfig, RootKms, RootToken, ServeConfig};
pub use run::serve;
