//! The server: configuration, the adapters between wire formats and services, and what puts them
//! together.
//!
//! Invariant: this is the only crate that names gRPC's status or HTTP. Adapters translate and decide
//! nothing.

mod api;
mod auth;
mod bigtable;
pub mod config;
mod http;
mod kms;
mod metrics;
mod operations;
mod projects;
pub mod rest;
mod run;
pub mod status;

pub use config::ServeConfig;
pub use run::serve;
