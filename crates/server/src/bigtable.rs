//! The Bigtable services over gRPC: they read requests, call the store and write replies.
//!
//! Invariant: no decision about data is taken here.

mod convert;
mod data;
mod instances;
mod mask;
mod tables;

pub(crate) use data::DataApi;
pub(crate) use instances::InstanceAdminApi;
pub(crate) use tables::TableAdminApi;
