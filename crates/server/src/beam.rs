//! Apache Beam's own services, as its SDKs and their workers call them.
//!
//! Invariant: adapters only; what a job is and how it runs is `claviger_dataflow`'s.

pub(crate) mod fn_api;
pub(crate) mod jobs;
